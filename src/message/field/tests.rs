use super::*;

/// The twin with every hyphen replaced; `None` if the name has none.
fn twin(name: &str) -> Option<String> {
    name.contains('-').then(|| name.replace('-', "_"))
}

fn names() -> impl Iterator<Item = (Known, &'static str)> {
    ROWS.iter().map(|(known, name)| (*known, std::str::from_utf8(name).unwrap()))
}

#[test]
fn every_name_is_found_in_any_case_and_no_other_is() {
    for (known, name) in names() {
        assert_eq!(Known::of(name.as_bytes()), Some(known), "{name}");
        assert_eq!(Known::of(name.to_ascii_uppercase().as_bytes()), Some(known), "{name}");
        // Any other character in any place is another name, or a twin.
        for place in 0..name.len() {
            for byte in (0..=255_u8).filter(|byte| is_token_byte(*byte)) {
                let mut other = name.as_bytes().to_vec();
                other[place] = byte;
                let is_own = other.eq_ignore_ascii_case(name.as_bytes());
                let found = find(&other);
                let text = String::from_utf8_lossy(&other).into_owned();
                match found {
                    Some((found, Spelling::Own)) if found == known => assert!(is_own, "{text}"),
                    Some((found, Spelling::Twin)) if found == known => {
                        assert!(is_same(&other, name.as_bytes()) && !is_own, "{text}");
                    }
                    _ => assert!(!is_own, "{text}"),
                }
            }
        }
    }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[test]
fn no_name_is_there_twice() {
    let all: std::collections::BTreeSet<_> = names().map(|(_, name)| name).collect();
    assert_eq!(all.len(), ROWS.len());
    assert!(ROW_COUNT >= 2 * ROWS.len());
    for (known, name) in names() {
        assert_eq!(row(name.as_bytes()), Some(known.index()));
        let of_twin = twin(name).map(|twin| row(twin.as_bytes()));
        assert!(of_twin.is_none_or(|row| row == Some(Known::COUNT + known.index())), "{name}");
    }
    assert_eq!(row(b"x-anything"), None);
}

#[test]
fn twins_of_what_does_not_pass_do_not_pass_requests() {
    for (known, name) in names() {
        let Some(twin) = twin(name) else { continue };
        let passes = known.in_request() == InRequest::Passes;
        let expected = match known {
            Known::Rehearse => Some(Known::SeawallOther),
            _ => (!passes).then_some(Known::Twin),
        };
        assert_eq!(Known::of(twin.as_bytes()), expected, "{twin}");
        // One hyphen is enough.
        let mixed = name.replacen('-', "_", 1);
        assert_eq!(Known::of(mixed.as_bytes()), expected, "{mixed}");
        // Responses go to clients, which tell the two apart.
        assert!(!Known::Twin.stays_behind());
    }
    for name in ["Content_Length", "TRANSFER_ENCODING", "X_Forwarded-For", "client_cert"] {
        assert_eq!(Known::of(name.as_bytes()), Some(Known::Twin), "{name}");
    }
    // Some apps tell the two apart, and these are harmless.
    for name in ["content_type", "max_forwards", "x_accel_buffering", "x_anything", "user_agent"] {
        assert_eq!(Known::of(name.as_bytes()), None, "{name}");
    }
}

#[test]
fn no_spelling_of_seawalls_own_fields_passes_in_either_direction() {
    for name in ["seawall-rehearse", "Seawall_Rehearse", "SEAWALL_SESSION", "seawall-x_y"] {
        let known = Known::of(name.as_bytes()).unwrap();
        assert!(known.stays_behind(), "{name}");
        assert_ne!(known.in_request(), InRequest::Passes, "{name}");
        assert!(!may_be_trailer(name.as_bytes()), "{name}");
    }
}

#[test]
fn heads_are_filtered_by_direction() {
    use InRequest::{Hop, Identity, Ours, Passes, Routing, Told};
    for (name, request, stays_behind) in [
        ("Accept", Passes, false),
        ("Connection", Hop, true),
        ("Content-Length", Hop, true),
        ("Cookie", Hop, false),
        ("Forwarded", Ours, false),
        ("HTTP2-Settings", Hop, true),
        ("Keep-Alive", Hop, true),
        ("Proxy-Authenticate", Hop, true),
        ("Proxy-Authorization", Hop, true),
        ("Proxy-Connection", Hop, true),
        ("TE", Hop, true),
        ("Transfer-Encoding", Hop, true),
        ("Upgrade", Hop, true),
        ("Via", Ours, false),
        ("X-Request-Id", Ours, true),
        ("X-Forwarded-For", Ours, false),
        ("X-Forwarded-Host", Told, false),
        ("X-Forwarded-Proto", Told, false),
        ("X-Forwarded-Port", Identity, false),
        ("X-Forwarded-Anything", Identity, false),
        ("X_Forwarded_Prefix", Identity, false),
        ("X-Real-IP", Ours, false),
        ("True-Client-IP", Identity, false),
        ("CF-Connecting-IPv6", Identity, false),
        ("X-SSL-Client-S-DN", Identity, false),
        ("SSL_CLIENT_CERT", Identity, false),
        ("X-Amzn-Mtls-Clientcert-Leaf", Identity, false),
        ("Proxy", Routing, false),
        ("X-Original-URL", Routing, false),
        ("X-Rewrite-URL", Routing, false),
        ("Seawall-Rehearse", Ours, true),
        ("Seawall-Anything", Hop, true),
        ("Seawall_Anything", Hop, true),
    ] {
        let known = Known::of(name.as_bytes()).unwrap();
        assert_eq!((known.in_request(), known.stays_behind()), (request, stays_behind), "{name}");
    }
    for name in [
        "user-agent",
        "authorization",
        "set-cookie",
        "x-http-method-override",
        "x-forwarde",
        "proxy-status",
        "seawal",
        "seawalled",
        "xmforwarded-for",
        "x-powered-by",
        "sec-fetch-mode",
        "traceparent",
        "x-csrf-token",
        "",
        "-",
        "x",
    ] {
        assert_eq!(Known::of(name.as_bytes()), None, "{name}");
    }
}

#[test]
fn what_a_head_alone_may_say_is_no_trailer_and_neither_is_its_twin() {
    let table = names().map(|(_, name)| name).chain(HEAD_ONLY.iter().copied());
    let families = ["x-forwarded-anything", "x-ssl-client-verify", "seawall-session"];
    for name in table.chain(families) {
        assert!(!may_be_trailer(name.as_bytes()), "{name}");
        assert!(!may_be_trailer(name.to_ascii_uppercase().as_bytes()), "{name}");
        let twin = twin(name);
        assert!(twin.is_none_or(|twin| !may_be_trailer(twin.as_bytes())), "{name}");
    }
    for name in [
        "grpc-status",
        "Grpc-Message",
        "grpc-status-details-bin",
        "Server-Timing",
        "Digest",
        "Content-Digest",
        "Repr-Digest",
        "ETag",
        "X-Checksum",
        "x-anything",
        "x_anything",
        "Authentication-Info",
        "Content-MD5",
        "x-amz-checksum-crc32",
    ] {
        assert!(may_be_trailer(name.as_bytes()), "{name}");
    }
}

#[test]
fn trailers_that_connection_lists_are_removed() {
    let mut trailers = HeaderMap::new();
    for name in ["x-one", "x-two", "grpc-status", "set-cookie", "x_real_ip"] {
        let name = HeaderName::from_static(name);
        trailers.append(name.clone(), http::HeaderValue::from_static("1"));
        trailers.append(name, http::HeaderValue::from_static("2"));
    }
    clean_trailers(&mut trailers, &Listed::new(vec!["X-One"]));
    let names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["x-two", "grpc-status"]);
}

#[test]
fn a_head_over_http_2_loses_what_is_not_for_the_client() {
    let mut fields = HeaderMap::new();
    for name in ["content-length", "x-request-id", "proxy-authenticate", "seawall-x", "x-a"] {
        fields.append(HeaderName::from_static(name), http::HeaderValue::from_static("1"));
    }
    clean_head(&mut fields);
    let names: Vec<_> = fields.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["content-length", "x-a"]);
}

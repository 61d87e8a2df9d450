//! Whether a request has one meaning, and whose host it names (RFC 9110 §7.2, RFC 9112 §3.2).
//!
//! Before: a parsed head. After: `route`, which finds the route of the host. What only the bytes of a
//! head show is refused before, by `listen::http1`.

use http::{Method, Version};

use super::head::{Head, Known};
use super::peer::Peer;
use crate::failure::ClientFailure;

/// Refuses what another parser could read differently, as far as the parsed head shows it. Gives
/// the host that the request is for (RFC 9110 §7.2): `:authority`, the authority of an absolute-form target, or the one Host field.
///
/// # Errors
/// - A Transfer-Encoding other than `chunked` alone: the content of any other cannot be passed on as
///   it is, and lists are read in more than one way (RFC 9112 §6.1).
/// - A target that is in none of the forms of RFC 9112 §3.2 that are served.
/// - An HTTP/1.1 request without exactly one Host (§3.2), an HTTP/2 request whose Host contradicts
///   `:authority` (RFC 9113 §8.3.1), a host that is none.
pub fn check<'r>(head: &'r Head, peer: &Peer) -> Result<&'r str, ClientFailure> {
    if let Some(coding) = head.fields.first(Known::TransferEncoding)
        && (head.fields.is_repeated(Known::TransferEncoding)
            || !coding.eq_ignore_ascii_case(b"chunked"))
    {
        return Err(ClientFailure::BadRequest);
    }
    if !is_served_form(head) {
        return Err(ClientFailure::BadRequest);
    }
    let host = host(head)?;
    let is_good = peer.repeated.knows(host) || is_host(host);
    if is_good { Ok(host) } else { Err(ClientFailure::BadRequest) }
}

pub(super) fn host(head: &Head) -> Result<&str, ClientFailure> {
    let field = head.fields.first(Known::Host).map(std::str::from_utf8).transpose();
    let field = field.map_err(|_| ClientFailure::BadRequest)?;
    if head.fields.is_repeated(Known::Host) {
        return Err(ClientFailure::BadRequest);
    }
    match (head.uri.authority(), field, head.version) {
        (Some(authority), Some(field), Version::HTTP_2)
            if !authority.as_str().eq_ignore_ascii_case(field) =>
        {
            Err(ClientFailure::BadRequest)
        }
        (_, None, Version::HTTP_11) => Err(ClientFailure::BadRequest),
        // RFC 9112 §3.2.2: the target wins, and the Host that is forwarded says the same.
        (Some(authority), ..) => Ok(authority.as_str()),
        (None, Some(field), _) => Ok(field),
        (None, None, Version::HTTP_10) => Ok(""),
        (None, None, _) => Err(ClientFailure::BadRequest),
    }
}

/// Origin-form, absolute-form of our own schemes, or `*` of OPTIONS (RFC 9112 §3.2). CONNECT is
/// judged elsewhere.
fn is_served_form(head: &Head) -> bool {
    let uri = &head.uri;
    let scheme = uri.scheme_str();
    if head.method == Method::CONNECT {
        return true;
    }
    scheme.is_none_or(|scheme| matches!(scheme, "http" | "https"))
        && match uri.path() {
            "*" => head.method == Method::OPTIONS && uri.query().is_none(),
            // Authority-form: no path at all.
            _ if scheme.is_none() && uri.authority().is_some() => false,
            path => path.is_empty() || path.starts_with('/'),
        }
}

/// A name or an address, and a port (RFC 3986 §3.2.2), without what no host in use has: userinfo,
/// percent-encoding, commas and other delimiters. Empty where there is none.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("", port.strip_prefix(':').or(port.is_empty().then_some("")))
        }
        None => host.split_once(':').map_or((host, Some("")), |(name, port)| (name, Some(port))),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    (host.is_empty() || !name.is_empty() || host.starts_with('['))
        && name.bytes().all(plain)
        && port.is_some_and(is_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::head::tests::both;
    use http::request::Builder;

    fn hosts(request: Builder) -> Result<String, ClientFailure> {
        let peer = Peer::new([10, 0, 0, 9].into(), "http", false);
        let [map, lines] = both(request);
        assert_eq!(check(&map, &peer), check(&lines, &peer));
        check(&map, &peer).map(str::to_owned)
    }

    #[test]
    fn exactly_one_host_is_needed() {
        let get = http::Request::get;
        assert_eq!(hosts(get("/").header("host", "a.test")).as_deref(), Ok("a.test"));
        assert_eq!(
            hosts(get("http://real.test/x").header("host", "other")).as_deref(),
            Ok("real.test")
        );
        for bad in [
            get("/"),
            get("/").header("host", "a").header("host", "b"),
            get("/").header("host", "b\u{e4}"),
            get("http://real.test/x"),
            get("http://me@real.test/x").header("host", "real.test"),
        ] {
            assert_eq!(hosts(bad), Err(ClientFailure::BadRequest));
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_a_port() {
        for host in ["", "a", "a.b-c_d.test", "a:80", "a:", "[::1]", "[::1]:80", "10.0.0.1:8080"] {
            assert!(is_host(host), "{host}");
        }
        for none in [
            "a b", "a,b", "a/b", "me@a", "a:80:80", "a:x", "a:123456", "[::1", "[x]", "[::1]80",
            ":80", "a%2fb", "a?b", "a#b", "\"a\"", "[]",
        ] {
            assert!(!is_host(none), "{none}");
        }
    }
}

//! Whether a request has one meaning, and whose host it names (RFC 9110 §7.2, RFC 9112 §3.2).
//!
//! Before: a parsed head. After: `route`, which finds the route of the host. What only the bytes of a
//! head show is refused before, by `listen::http1`.

use http::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, HeaderMap, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{Method, Version, request};

use super::peer::Peer;
use crate::failure::ClientFailure;

/// Which of the fields that every request is asked for it has, found in one walk over its names: each
/// question to the map itself is a hash of the name, and most requests have none of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present(u16);

impl Present {
    /// Accept.
    pub const ACCEPT: Present = Present(1);
    /// Connection.
    pub const CONNECTION: Present = Present(1 << 1);
    /// Content-Length.
    pub const CONTENT_LENGTH: Present = Present(1 << 2);
    /// Content-Type.
    pub const CONTENT_TYPE: Present = Present(1 << 3);
    /// Cookie.
    pub const COOKIE: Present = Present(1 << 4);
    /// Expect.
    pub const EXPECT: Present = Present(1 << 5);
    /// TE.
    pub const TE: Present = Present(1 << 6);
    /// Transfer-Encoding.
    pub const TRANSFER_ENCODING: Present = Present(1 << 7);
    /// Upgrade.
    pub const UPGRADE: Present = Present(1 << 8);
    /// Via.
    pub const VIA: Present = Present(1 << 9);

    /// Those among these fields.
    #[must_use]
    pub fn of(fields: &HeaderMap) -> Self {
        let mut found = 0;
        for name in fields.keys() {
            let Present(bit) = match name.as_str().len() {
                2 if *name == TE => Present::TE,
                3 if *name == VIA => Present::VIA,
                6 if *name == ACCEPT => Present::ACCEPT,
                6 if *name == COOKIE => Present::COOKIE,
                6 if *name == EXPECT => Present::EXPECT,
                7 if *name == UPGRADE => Present::UPGRADE,
                10 if *name == CONNECTION => Present::CONNECTION,
                12 if *name == CONTENT_TYPE => Present::CONTENT_TYPE,
                14 if *name == CONTENT_LENGTH => Present::CONTENT_LENGTH,
                17 if *name == TRANSFER_ENCODING => Present::TRANSFER_ENCODING,
                _ => continue,
            };
            found |= bit;
        }
        Present(found)
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn has(self, field: Present) -> bool {
        self.0 & field.0 != 0
    }
}

/// Refuses what another parser could read differently, as far as the parsed head shows it. Gives the host that the request is for
/// (RFC 9110 §7.2): `:authority`, the authority of an absolute-form target, or the one Host field.
///
/// # Errors
/// - A Transfer-Encoding other than `chunked` alone: the content of any other cannot be passed on as
///   it is, and lists are read in more than one way (RFC 9112 §6.1).
/// - A target that is in none of the forms of RFC 9112 §3.2 that are served.
/// - An HTTP/1.1 request without exactly one Host (§3.2), an HTTP/2 request whose Host contradicts
///   `:authority` (RFC 9113 §8.3.1), a host that is none.
pub fn check<'r>(
    parts: &'r request::Parts,
    present: Present,
    peer: &Peer,
) -> Result<&'r str, ClientFailure> {
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    if present.has(Present::TRANSFER_ENCODING)
        && let Some(coding) = codings.next()
        && (codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(ClientFailure::BadRequest);
    }
    if !is_served_form(parts) {
        return Err(ClientFailure::BadRequest);
    }
    let host = host(parts)?;
    let is_good = peer.repeated.knows(host) || is_host(host);
    if is_good { Ok(host) } else { Err(ClientFailure::BadRequest) }
}

pub(super) fn host(parts: &request::Parts) -> Result<&str, ClientFailure> {
    let mut lines = parts.headers.get_all(HOST).iter();
    let field = match (lines.next(), lines.next()) {
        (Some(host), None) => Some(host.to_str().map_err(|_| ClientFailure::BadRequest)?),
        (None, _) => None,
        (Some(_), Some(_)) => return Err(ClientFailure::BadRequest),
    };
    match (parts.uri.authority(), field, parts.version) {
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
fn is_served_form(parts: &request::Parts) -> bool {
    let uri = &parts.uri;
    let scheme = uri.scheme_str();
    match uri.path() {
        _ if parts.method == Method::CONNECT => true,
        "*" => parts.method == Method::OPTIONS,
        // Authority-form: no path at all.
        _ if scheme.is_none() && uri.authority().is_some() => false,
        path => {
            scheme.is_none_or(|scheme| matches!(scheme, "http" | "https"))
                && (path.is_empty() || path.starts_with('/'))
        }
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

/// Whether the request has been here before: its Via names us (RFC 9110 §7.6.3).
pub fn is_loop(fields: &HeaderMap, name: &str) -> bool {
    fields.get_all(VIA).iter().any(|line| {
        line.as_bytes().split(|byte| *byte == b',').any(|member| {
            let mut words =
                member.split(|byte| byte.is_ascii_whitespace()).filter(|w| !w.is_empty());
            words.nth(1).is_some_and(|by| by.eq_ignore_ascii_case(name.as_bytes()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn parts(request: http::request::Builder) -> request::Parts {
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn exactly_one_host_is_needed() {
        let none = parts(http::Request::get("/"));
        let two = parts(http::Request::get("/").header("host", "a").header("host", "b"));
        let absolute = parts(http::Request::get("http://real.test/x").header("host", "other"));
        let userinfo =
            parts(http::Request::get("http://me@real.test/x").header("host", "real.test"));
        assert_eq!(host(&none), Err(ClientFailure::BadRequest));
        assert_eq!(host(&two), Err(ClientFailure::BadRequest));
        assert_eq!(host(&absolute), Ok("real.test"));
        let missing = parts(http::Request::get("http://real.test/x"));
        let peer = Peer::new([10, 0, 0, 9].into(), "http", false);
        assert_eq!(
            check(&missing, Present::of(&missing.headers), &peer),
            Err(ClientFailure::BadRequest)
        );
        assert_eq!(
            check(&userinfo, Present::of(&userinfo.headers), &peer),
            Err(ClientFailure::BadRequest)
        );
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

    #[test]
    fn a_loop_is_a_via_that_names_us() {
        let fields = |lines: &[&'static str]| {
            lines.iter().map(|line| (VIA, HeaderValue::from_static(line))).collect::<HeaderMap>()
        };
        assert!(is_loop(&fields(&["1.1 other", "1.0 fred,  2.0\tSeawall-1 (x)"]), "seawall-1"));
        assert!(!is_loop(
            &fields(&["1.1 seawall-2, 1.1 seawall (seawall-1)", "seawall-1"]),
            "seawall-1"
        ));
    }
}

//! The request, written again for the upstream (RFC 9110 §7.6, RFC 9112 §3).
//!
//! Before: a parsed request, HTTP/1.1 or HTTP/2. After: a head in one normal form, as the
//! bytes of HTTP/1.1 or as the fields of HTTP/2. Fields of the client's connection stay behind, those
//! that tell the app about the client are replaced, or appended to if the client is a trusted proxy.

use bytes::BytesMut;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName,
    HeaderValue, TE, VIA,
};
use http::{Method, Version, request};

use super::check::Present;
use super::peer::Peer;
use crate::failure::{ClientFailure, rehearsal};
use crate::telemetry::request_id;
use crate::telemetry::spans::Recording;
use crate::telemetry::spans::context::TRACEPARENT;
use crate::upstream::exchange::Framing;
use crate::upstream::http1::head::is_hop_by_hop;
use crate::upstream::http1::upload::extend_field;

/// `X-Request-Id`: what ties the answer, the log and the journal together.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The id that this request will be known by: the client's own if it is trusted with it.
pub fn trusted_id<'r>(parts: &'r request::Parts, peer: &Peer) -> Option<&'r str> {
    if !peer.trusted.get() {
        return None;
    }
    let id = parts.headers.get(X_REQUEST_ID)?.to_str().ok()?;
    request_id::is_acceptable(id).then_some(id)
}

/// The client's address as a trusted proxy tells it: what it has appended is whom it saw (RFC 7239
/// §5.2, X-Forwarded-For).
pub fn told_address<'r>(fields: &'r HeaderMap, peer: &Peer) -> Option<&'r [u8]> {
    if !peer.trusted.get() {
        return None;
    }
    let told = fields.get_all(&X_FORWARDED_FOR).iter().next_back()?;
    told.as_bytes().rsplit(|byte| *byte == b',').next().map(<[u8]>::trim_ascii)
}

/// How the request's content will be framed towards the upstream.
pub fn framing(parts: &request::Parts, exact: Option<u64>) -> Framing {
    match exact {
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
        None if parts.method == Method::CONNECT => Framing::Empty,
        None => Framing::Chunked,
    }
}

/// What else goes into the head.
#[derive(Debug)]
pub struct Extra<'r> {
    /// Which fields need to be asked for.
    pub present: Present,
    /// The client's side.
    pub peer: &'r Peer,
    /// What [`check`](super::check::check) found.
    pub host: &'r str,
    /// Our name in Via.
    pub via: &'r str,
    /// Fields that only we may set.
    pub reserved: &'r [HeaderName],
    /// The request's id.
    pub request_id: &'r [u8],
    /// How the content is framed.
    pub framing: Framing,
    /// The request's place in its trace, if there is tracing.
    pub recording: Option<&'r Recording>,
    /// Ask for a WebSocket (RFC 6455 §4.1).
    pub upgrade: bool,
    /// The key to ask with, where the client's handshake has none: an extended CONNECT (RFC 8441)
    /// becomes a GET.
    pub websocket_key: Option<&'r str>,
}

/// Where fields are written to: each upstream protocol has its own form of the same fields.
trait Fields {
    /// A field of the client's that passes as it is.
    fn copy(&mut self, name: &HeaderName, value: &HeaderValue);
    /// A field of ours.
    fn write(&mut self, name: &HeaderName, value: impl FnOnce(&mut BytesMut));
    /// By which ways the request comes, and for whom.
    fn ways(&mut self, parts: &request::Parts, extra: &Extra<'_>);
}

/// HTTP/1.1: bytes, one line after the other.
impl Fields for BytesMut {
    fn copy(&mut self, name: &HeaderName, value: &HeaderValue) {
        extend_field(self, name.as_str().as_bytes(), value.as_bytes());
    }

    fn write(&mut self, name: &HeaderName, value: impl FnOnce(&mut BytesMut)) {
        self.extend_from_slice(name.as_str().as_bytes());
        self.extend_from_slice(b": ");
        value(self);
        self.extend_from_slice(b"\r\n");
    }

    fn ways(&mut self, parts: &request::Parts, extra: &Extra<'_>) {
        let write = |out: &mut BytesMut| {
            via(out, parts, extra);
            forwarding(out, parts, extra);
        };
        // What proxies before us have said may be another thing each time.
        if extra.peer.trusted.get() || extra.present.has(Present::VIA) {
            return write(self);
        }
        extra.peer.repeated.copy_to(self, parts.version, extra, write);
    }
}

/// HTTP/2: a map, which the connection compresses.
struct Map {
    fields: HeaderMap,
    scratch: BytesMut,
}

impl Fields for Map {
    fn copy(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.fields.append(name.clone(), value.clone());
    }

    fn write(&mut self, name: &HeaderName, value: impl FnOnce(&mut BytesMut)) {
        value(&mut self.scratch);
        let value = HeaderValue::from_maybe_shared(self.scratch.split().freeze());
        // Everything written here comes from valid values.
        if let Ok(value) = value {
            self.fields.append(name.clone(), value);
        }
    }

    fn ways(&mut self, parts: &request::Parts, extra: &Extra<'_>) {
        via(self, parts, extra);
        forwarding(self, parts, extra);
    }
}

/// Writes the head for an HTTP/1.1 upstream (RFC 9112 §3).
pub fn http1(parts: &request::Parts, extra: &Extra<'_>) -> BytesMut {
    let mut out = BytesMut::with_capacity(1024);
    let method = if extra.websocket_key.is_some() { &Method::GET } else { &parts.method };
    out.extend_from_slice(method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    // An absolute-form target may have no path (RFC 9112 §3.2.1).
    if target.is_empty() || target.starts_with('?') {
        out.extend_from_slice(b"/");
    }
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    extend_field(&mut out, b"host", extra.host.as_bytes());
    end_to_end(&mut out, parts, extra);
    connection(&mut out, parts, extra);
    out.extend_from_slice(match extra.framing {
        Framing::Chunked => b"transfer-encoding: chunked\r\n",
        Framing::Empty | Framing::Length(_) | Framing::Close => b"",
    });
    out.extend_from_slice(b"\r\n");
    out
}

/// The head for an HTTP/2 upstream (RFC 9113 §8.3.1).
///
/// # Errors
/// If host and target make no URI: the client's fault.
pub fn http2(
    parts: &request::Parts,
    extra: &Extra<'_>,
    scheme: &str,
) -> Result<http::Request<()>, ClientFailure> {
    let mut map = Map {
        fields: HeaderMap::with_capacity(parts.headers.len() + 8),
        scratch: BytesMut::with_capacity(256),
    };
    end_to_end(&mut map, parts, extra);
    if extra.present.has(Present::TE) && wants_trailers(&parts.headers) {
        map.fields.insert(TE, HeaderValue::from_static("trailers"));
    }
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    // An HTTP/1.0 client need not name a host, an :authority may not be empty.
    let authority = if extra.host.is_empty() { "localhost" } else { extra.host };
    let uri = http::Uri::builder().scheme(scheme).authority(authority).path_and_query(target);
    let mut request = http::Request::new(());
    *request.method_mut() = parts.method.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri.build().map_err(|_| ClientFailure::BadRequest)?;
    *request.headers_mut() = map.fields;
    Ok(request)
}

/// The fields that are the same in every version.
fn end_to_end(out: &mut impl Fields, parts: &request::Parts, extra: &Extra<'_>) {
    let listed = match extra.present.has(Present::CONNECTION) {
        true => connection_options(&parts.headers),
        false => Vec::new(),
    };
    for (name, value) in &parts.headers {
        if is_rewritten(name, extra.peer.trusted.get())
            || listed.contains(name)
            || extra.reserved.iter().any(|reserved| is_like(name, reserved))
            || extra.recording.is_some_and(|recording| recording.replaces(name))
        {
            continue;
        }
        out.copy(name, value);
    }
    if let Some((name, value)) = &extra.peer.identity {
        out.copy(name, value);
    }
    if extra.present.has(Present::COOKIE) {
        cookies(out, &parts.headers);
    }
    content(out, parts, extra);
    out.ways(parts, extra);
    out.write(&X_REQUEST_ID, |out| out.extend_from_slice(extra.request_id));
    if let Some(recording) = extra.recording {
        out.write(&TRACEPARENT, |out| out.extend_from_slice(&recording.traceparent()));
    }
}

/// Whether an app may take one name for the other: CGI and its descendants (WSGI, Rack, PHP) know no
/// difference between `-` and `_` (RFC 3875 §4.1.18).
fn is_like(name: &HeaderName, reserved: &HeaderName) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte };
    let (name, reserved) = (name.as_str(), reserved.as_str());
    name.len() == reserved.len() && name.bytes().map(plain).eq(reserved.bytes().map(plain))
}

/// Fields that this file writes itself, or that stay behind.
fn is_rewritten(name: &HeaderName, trusted: bool) -> bool {
    is_hop_by_hop(name)
        || *name == HOST
        || *name == CONTENT_LENGTH
        || *name == COOKIE
        || *name == VIA
        || *name == X_REQUEST_ID
        || *name == X_FORWARDED_FOR
        || *name == rehearsal::FIELD
        || *name == FORWARDED
        // A trusted proxy has seen the client's own scheme and host: they are kept.
        || (!trusted && (*name == X_FORWARDED_PROTO || *name == X_FORWARDED_HOST))
}

/// RFC 9110 §7.6.1: every field that any Connection line lists is for this hop only. `get` would
/// give the first line alone.
fn connection_options(fields: &HeaderMap) -> Vec<HeaderName> {
    let mut listed = Vec::new();
    for line in fields.get_all(CONNECTION) {
        for option in line.as_bytes().split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            // End-to-end fields that the message cannot do without are not up for removal.
            if let Ok(name) = HeaderName::from_bytes(option)
                && name != HOST
                && name != CONTENT_LENGTH
                && name.as_str() != "close"
            {
                listed.push(name);
            }
        }
    }
    listed
}

/// RFC 9113 §8.2.3: HTTP/2 clients may split the cookie; HTTP/1.1 knows one line.
fn cookies(out: &mut impl Fields, fields: &HeaderMap) {
    let mut lines = fields.get_all(COOKIE).iter();
    let Some(first) = lines.next() else { return };
    out.write(&COOKIE, |out| {
        out.extend_from_slice(first.as_bytes());
        for line in lines {
            out.extend_from_slice(b"; ");
            out.extend_from_slice(line.as_bytes());
        }
    });
}

fn connection(out: &mut BytesMut, parts: &request::Parts, extra: &Extra<'_>) {
    if extra.upgrade {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        if let Some(key) = extra.websocket_key {
            extend_field(out, b"sec-websocket-key", key.as_bytes());
        }
    } else if extra.present.has(Present::TE) && wants_trailers(&parts.headers) {
        out.extend_from_slice(b"connection: te\r\nte: trailers\r\n");
    }
}

/// RFC 9110 §10.1.4: TE is for this hop; trailers can be promised again, because they pass.
fn wants_trailers(fields: &HeaderMap) -> bool {
    fields.get_all(TE).iter().any(|line| {
        line.as_bytes()
            .split(|byte| *byte == b',')
            .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

fn content(out: &mut impl Fields, parts: &request::Parts, extra: &Extra<'_>) {
    match extra.framing {
        Framing::Length(length) => {
            out.write(&CONTENT_LENGTH, |out| {
                use std::fmt::Write as _;
                // Writing to a buffer that grows cannot fail.
                let _ = write!(out, "{length}");
            });
        }
        Framing::Chunked => {}
        // RFC 9110 §8.6: methods that expect content say that there is none.
        Framing::Empty | Framing::Close => {
            let expected = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
            if expected || extra.present.has(Present::CONTENT_LENGTH) {
                out.copy(&CONTENT_LENGTH, &HeaderValue::from_static("0"));
            }
        }
    }
}

/// The version in Via (RFC 9110 §7.6.3) of a message received over `version`.
fn via_version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2.0 ",
        Version::HTTP_10 => "1.0 ",
        _ => "1.1 ",
    }
}

fn via(out: &mut impl Fields, parts: &request::Parts, extra: &Extra<'_>) {
    out.write(&VIA, |out| {
        if extra.present.has(Present::VIA) {
            for line in parts.headers.get_all(VIA) {
                out.extend_from_slice(line.as_bytes());
                out.extend_from_slice(b", ");
            }
        }
        out.extend_from_slice(via_version(parts.version).as_bytes());
        out.extend_from_slice(extra.via.as_bytes());
    });
}

/// RFC 7239 and its older relatives.
fn forwarding(out: &mut impl Fields, parts: &request::Parts, extra: &Extra<'_>) {
    let peer = extra.peer;
    let text = &*peer.text;
    out.write(&X_FORWARDED_FOR, |out| {
        append_trusted(out, parts, peer, &X_FORWARDED_FOR);
        out.extend_from_slice(text.as_bytes());
    });
    if !(peer.trusted.get() && parts.headers.contains_key(X_FORWARDED_PROTO)) {
        out.write(&X_FORWARDED_PROTO, |out| out.extend_from_slice(peer.scheme.as_bytes()));
    }
    let host_is_told = peer.trusted.get() && parts.headers.contains_key(X_FORWARDED_HOST);
    if !host_is_told && !extra.host.is_empty() {
        out.write(&X_FORWARDED_HOST, |out| out.extend_from_slice(extra.host.as_bytes()));
    }
    out.write(&FORWARDED, |out| {
        append_trusted(out, parts, peer, &FORWARDED);
        // RFC 7239 §6: an IPv6 address is bracketed and quoted.
        let (open, close): (&[u8], &[u8]) =
            if peer.address.is_ipv6() { (b"for=\"[", b"]\"") } else { (b"for=", b"") };
        out.extend_from_slice(open);
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(close);
        if !extra.host.is_empty() && !extra.host.contains(['"', '\\']) {
            out.extend_from_slice(b";host=\"");
            out.extend_from_slice(extra.host.as_bytes());
            out.extend_from_slice(b"\"");
        }
        out.extend_from_slice(b";proto=");
        out.extend_from_slice(peer.scheme.as_bytes());
    });
}

fn append_trusted(out: &mut BytesMut, parts: &request::Parts, peer: &Peer, name: &HeaderName) {
    if !peer.trusted.get() {
        return;
    }
    for line in parts.headers.get_all(name) {
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b", ");
    }
}

/// Whether the client waits for a 100 before it sends content (RFC 9110 §10.1.1).
pub fn expects_continue(parts: &request::Parts) -> bool {
    parts.version == Version::HTTP_11
        && parts
            .headers
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    fn parts(request: http::request::Builder) -> request::Parts {
        request.body(()).unwrap().into_parts().0
    }

    fn write(parts: &request::Parts, trusted: bool, framing: Framing) -> String {
        let peer = Peer::new([10, 0, 0, 9].into(), "http", trusted);
        let extra = Extra {
            present: Present::of(&parts.headers),
            peer: &peer,
            host: check::host(parts).unwrap(),
            via: "seawall",
            reserved: &[],
            request_id: b"id-1",
            framing,
            recording: None,
            upgrade: false,
            websocket_key: None,
        };
        String::from_utf8(http1(parts, &extra).to_vec()).unwrap()
    }

    #[test]
    fn a_plain_request_gets_the_proxys_fields() {
        let parts = parts(http::Request::get("/a?b=c").header("host", "h.test").header("x", "1"));
        assert_eq!(
            write(&parts, false, Framing::Empty),
            "GET /a?b=c HTTP/1.1\r\nhost: h.test\r\nx: 1\r\nvia: 1.1 seawall\r\n\
             x-forwarded-for: 10.0.0.9\r\nx-forwarded-proto: http\r\nx-forwarded-host: h.test\r\n\
             forwarded: for=10.0.0.9;host=\"h.test\";proto=http\r\nx-request-id: id-1\r\n\r\n"
        );
    }

    #[test]
    fn an_http_2_head_has_the_same_fields_without_those_of_a_connection() {
        let parts = parts(
            http::Request::post("/a?b=c")
                .header("host", "h.test")
                .header("x", "1")
                .header("te", "trailers")
                .header("connection", "x-one")
                .header("x-one", "1")
                .header("cookie", "a=1")
                .header("cookie", "b=2"),
        );
        let peer = Peer::new([10, 0, 0, 9].into(), "http", false);
        let extra = Extra {
            present: Present::of(&parts.headers),
            peer: &peer,
            host: "h.test",
            via: "seawall",
            reserved: &[],
            request_id: b"id-1",
            framing: Framing::Length(5),
            recording: None,
            upgrade: false,
            websocket_key: None,
        };
        let head = http2(&parts, &extra, "https").unwrap();
        assert_eq!(head.uri(), "https://h.test/a?b=c");
        let field = |name: &str| head.headers().get(name).map(|value| value.to_str().unwrap());
        for (name, value) in [
            ("x", "1"),
            ("te", "trailers"),
            ("cookie", "a=1; b=2"),
            ("content-length", "5"),
            ("via", "1.1 seawall"),
            ("x-forwarded-for", "10.0.0.9"),
            ("forwarded", "for=10.0.0.9;host=\"h.test\";proto=http"),
            ("x-request-id", "id-1"),
        ] {
            assert_eq!(field(name), Some(value), "{name}");
        }
        for name in ["host", "connection", "x-one", "transfer-encoding"] {
            assert_eq!(field(name), None, "{name}");
        }
    }

    #[test]
    fn forwarding_fields_are_replaced_unless_the_client_is_trusted() {
        let parts = parts(
            http::Request::get("/")
                .header("host", "h.test")
                .header("x-forwarded-for", "6.6.6.6")
                .header("x-forwarded-proto", "https")
                .header("x-forwarded-host", "evil.test")
                .header("forwarded", "for=6.6.6.6"),
        );
        let replaced = write(&parts, false, Framing::Empty);
        assert!(!replaced.contains("6.6.6.6") && !replaced.contains("evil"), "{replaced}");
        let appended = write(&parts, true, Framing::Empty);
        for expected in [
            "x-forwarded-for: 6.6.6.6, 10.0.0.9\r\n",
            "x-forwarded-proto: https\r\n",
            "x-forwarded-host: evil.test\r\n",
            "forwarded: for=6.6.6.6, for=10.0.0.9;host=\"h.test\";proto=http\r\n",
        ] {
            assert!(appended.contains(expected), "{expected} in {appended}");
        }
    }

    #[test]
    fn fields_of_every_connection_line_stay_behind() {
        let parts = parts(
            http::Request::get("/")
                .header("host", "h.test")
                .header("connection", "x-one, close")
                .header("connection", "X-Two, host")
                .header("x-one", "1")
                .header("x-two", "2")
                .header("keep-alive", "5")
                .header("te", "trailers, deflate")
                .header("upgrade", "h2c")
                .header("proxy-connection", "keep-alive")
                .header("cookie", "a=1")
                .header("cookie", "b=2"),
        );
        let written = write(&parts, false, Framing::Chunked);
        for gone in ["x-one", "x-two", "keep-alive", "deflate", "h2c", "close"] {
            assert!(!written.contains(gone), "{gone} in {written}");
        }
        for kept in ["host: h.test\r\n", "te: trailers\r\n", "cookie: a=1; b=2\r\n", "chunked"] {
            assert!(written.contains(kept), "{kept} in {written}");
        }
    }

    #[test]
    fn ipv6_clients_are_quoted_in_forwarded() {
        let parts = parts(http::Request::get("/").header("host", "h"));
        let peer = Peer::new("2001:db8::1".parse().unwrap(), "https", false);
        let extra = Extra {
            present: Present::of(&parts.headers),
            peer: &peer,
            host: "h",
            via: "seawall",
            reserved: &[],
            request_id: b"i",
            framing: Framing::Empty,
            recording: None,
            upgrade: false,
            websocket_key: None,
        };
        let written = String::from_utf8(http1(&parts, &extra).to_vec()).unwrap();
        assert!(written.contains("forwarded: for=\"[2001:db8::1]\";host=\"h\";proto=https\r\n"));
    }
}

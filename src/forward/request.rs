//! The request, written again for the upstream (RFC 9110 §7.6, RFC 9112 §3).
//!
//! Before: a parsed request, HTTP/1.1 or HTTP/2. After: a head in one normal form, as the
//! bytes of HTTP/1.1 or as the fields of HTTP/2. Fields of the client's connection stay behind, those
//! that tell the app about the client are replaced, or appended to if the client is a trusted proxy.

use bytes::BytesMut;
use http::header::{
    COOKIE, FORWARDED, HeaderMap, HeaderName, HeaderValue, MAX_FORWARDS, SEC_WEBSOCKET_KEY, TE, VIA,
};
use http::{Method, Version};

use super::forwarded::Forwarded;
use super::head::{Fields, Head, Known};
use super::peer::Peer;
use crate::failure::ClientFailure;
use crate::message::field::InRequest;
pub use crate::message::field::X_REQUEST_ID;
use crate::message::listed::{self, Listed};
use crate::message::via;
use crate::telemetry::request_id;
use crate::telemetry::spans::Recording;
use crate::telemetry::spans::context::TRACEPARENT;
use crate::upstream::framing::{Absence, Announced, Framing};
use crate::upstream::http1::lines::Run;
use crate::upstream::http1::upload::{extend_decimal, extend_field};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The id that this request will be known by: the client's own if it is trusted with it.
pub fn trusted_id<'r>(head: &'r Head, peer: &Peer) -> Option<&'r str> {
    if !peer.trusted.get() {
        return None;
    }
    let id = std::str::from_utf8(head.fields.first(Known::XRequestId)?).ok()?;
    request_id::is_acceptable(id).then_some(id)
}

/// The client's address as a trusted proxy tells it: what it has appended is whom it saw (RFC 7239
/// §5.2, X-Forwarded-For).
pub fn told_address<'r>(fields: &'r Fields, peer: &Peer) -> Option<&'r [u8]> {
    if !peer.trusted.get() {
        return None;
    }
    let told = fields.all(Known::XForwardedFor).last()?;
    told.rsplit(|byte| *byte == b',').next().map(<[u8]>::trim_ascii)
}

/// How the request's content will be framed towards the upstream.
pub fn framing(head: &Head, exact: Option<u64>) -> Framing {
    match exact {
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
        None if head.method == Method::CONNECT => Framing::Empty,
        None => Framing::Chunked,
    }
}

/// What else goes into the head.
#[derive(Debug)]
pub struct Extra<'r> {
    /// The client's side.
    pub peer: &'r Peer,
    /// What [`check`](super::check::check) found.
    pub host: &'r str,
    /// Our name in Via.
    pub via: &'r str,
    /// What the app is told about a client, and by whom.
    pub forwarded: &'r Forwarded,
    /// What is left of Max-Forwards, where it counts.
    pub max_forwards: Option<u64>,
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
trait Output {
    /// The fields of the client's that pass as they are: all but those that stay behind.
    fn pass(&mut self, fields: &Fields, stays: impl Fn(Option<Known>, &[u8]) -> bool);
    /// A field that is the same for every request.
    fn copy(&mut self, name: &HeaderName, value: &HeaderValue);
    /// A field of ours.
    fn write(&mut self, name: &HeaderName, value: impl FnOnce(&mut BytesMut));
    /// The request's id.
    fn request_id(&mut self, id: &[u8]) {
        self.write(&X_REQUEST_ID, |out| out.extend_from_slice(id));
    }
    /// By which ways the request comes, and for whom.
    fn ways(&mut self, head: &Head, extra: &Extra<'_>);
}

/// HTTP/1.1: bytes, one line after the other.
impl Output for BytesMut {
    fn pass(&mut self, fields: &Fields, stays: impl Fn(Option<Known>, &[u8]) -> bool) {
        let Some((head, lines)) = fields.as_lines() else {
            for field in fields.iter().filter(|field| !stays(field.known, field.name)) {
                extend_field(self, field.name, field.value);
            }
            return;
        };
        let mut run = Run::default();
        for line in lines {
            if !stays(line.known, line.name(head)) {
                run.pass(line, head, self);
            }
        }
        run.end(head, self);
    }

    fn copy(&mut self, name: &HeaderName, value: &HeaderValue) {
        extend_field(self, name.as_str().as_bytes(), value.as_bytes());
    }

    fn write(&mut self, name: &HeaderName, value: impl FnOnce(&mut BytesMut)) {
        self.extend_from_slice(name.as_str().as_bytes());
        self.extend_from_slice(b": ");
        value(self);
        self.extend_from_slice(b"\r\n");
    }

    // The same as a line in one piece.
    fn request_id(&mut self, id: &[u8]) {
        self.extend_from_slice(b"x-request-id: ");
        self.extend_from_slice(id);
        self.extend_from_slice(b"\r\n");
    }

    fn ways(&mut self, head: &Head, extra: &Extra<'_>) {
        let write = |out: &mut BytesMut| {
            via(out, head, extra);
            forwarding(out, head, extra);
        };
        // What proxies before us have said may be another thing each time.
        if extra.peer.trusted.get() || head.fields.has(Known::Via) {
            return write(self);
        }
        extra.peer.repeated.copy_to(self, head.version, extra, write);
    }
}

/// HTTP/2: a map, which the connection compresses.
struct Map {
    fields: HeaderMap,
    scratch: BytesMut,
}

impl Output for Map {
    fn pass(&mut self, fields: &Fields, stays: impl Fn(Option<Known>, &[u8]) -> bool) {
        let passing = fields.iter().filter(|field| !stays(field.known, field.name));
        for (name, value) in passing.filter_map(|field| field.to_entry()) {
            self.fields.append(name, value);
        }
    }

    fn copy(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.fields.append(name.clone(), value.clone());
    }

    fn write(&mut self, name: &HeaderName, value: impl FnOnce(&mut BytesMut)) {
        value(&mut self.scratch);
        let value = HeaderValue::from_maybe_shared(self.scratch.split().freeze());
        // Everything written here comes from valid values.
        if let Ok(mut value) = value {
            // What is said once would only displace in HPACK's tables what is said again.
            value.set_sensitive(*name == X_REQUEST_ID || *name == TRACEPARENT);
            self.fields.append(name.clone(), value);
        }
    }

    fn ways(&mut self, head: &Head, extra: &Extra<'_>) {
        via(self, head, extra);
        forwarding(self, head, extra);
    }
}

/// Room for what we write ourselves, and for small content behind it: it leaves in the same write.
const OURS: usize = 768;

/// Writes the head for an HTTP/1.1 upstream (RFC 9112 §3).
pub fn http1(head: &Head, extra: &Extra<'_>) -> Announced<BytesMut> {
    let given = head.fields.as_lines().map_or(0, |(head, _)| head.len());
    // The allocator likes powers of two best (benches/README.md).
    let mut out = BytesMut::with_capacity((given + OURS).next_power_of_two());
    let method = if extra.websocket_key.is_some() { &Method::GET } else { &head.method };
    out.extend_from_slice(method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    // An absolute-form target may have no path (RFC 9112 §3.2.1).
    if target.is_empty() || target.starts_with('?') {
        out.extend_from_slice(b"/");
    }
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(extra.host.as_bytes());
    out.extend_from_slice(b"\r\n");
    end_to_end(&mut out, head, extra);
    let mut announced = Announced::lines(out, extra.framing, absence(head));
    announced.push_with(|out| {
        ours(out, head, extra);
        connection(out, head, extra);
        out.extend_from_slice(b"\r\n");
    });
    announced
}

/// The head for an HTTP/2 upstream (RFC 9113 §8.3.1).
///
/// # Errors
/// If host and target make no URI: the client's fault.
pub fn http2(
    head: &Head,
    extra: &Extra<'_>,
    scheme: &str,
) -> Result<Announced<http::Request<()>>, ClientFailure> {
    let mut map = Map {
        fields: HeaderMap::with_capacity(head.fields.len() + 8),
        scratch: BytesMut::with_capacity(256),
    };
    end_to_end(&mut map, head, extra);
    ours(&mut map, head, extra);
    if wants_trailers(&head.fields) {
        map.fields.insert(TE, HeaderValue::from_static("trailers"));
    }
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    // An HTTP/1.0 client need not name a host, an :authority may not be empty.
    let authority = if extra.host.is_empty() { "localhost" } else { extra.host };
    let uri = http::Uri::builder().scheme(scheme).authority(authority).path_and_query(target);
    let mut request = http::Request::new(());
    *request.method_mut() = head.method.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri.build().map_err(|_| ClientFailure::BadRequest)?;
    *request.headers_mut() = map.fields;
    Ok(Announced::request(request, extra.framing, absence(head)))
}

/// Writes the client's fields that are the same in every version.
fn end_to_end(out: &mut impl Output, head: &Head, extra: &Extra<'_>) {
    let listed = connection_options(&head.fields);
    let peer = extra.peer;
    out.pass(&head.fields, |known, name| {
        extra.forwarded.stays_behind(known, name, peer)
            // What a trusted proxy has said of the client cannot be removed by a client's option.
            || (listed.contains(name) && !known.is_some_and(is_told))
            || (known == Some(Known::MaxForwards) && extra.max_forwards.is_some())
            // RFC 8441 §5: over HTTP/2 a key means nothing, and the app shall have one.
            || (extra.websocket_key.is_some() && name == SEC_WEBSOCKET_KEY.as_str().as_bytes())
            || extra.recording.is_some_and(|recording| recording.replaces(name))
    });
    if let Some(left) = extra.max_forwards {
        out.write(&MAX_FORWARDS, |out| extend_decimal(out, left));
    }
    if let Some((name, value)) = &extra.peer.identity {
        out.copy(name, value);
    }
    cookies(out, &head.fields);
}

/// Writes what we say of the request, which is the same in every version.
fn ours(out: &mut impl Output, head: &Head, extra: &Extra<'_>) {
    out.ways(head, extra);
    out.request_id(extra.request_id);
    if let Some(recording) = extra.recording {
        out.write(&TRACEPARENT, |out| out.extend_from_slice(&recording.traceparent()));
    }
}

/// Returns `true` if a proxy in front of us says it in our place.
fn is_told(known: Known) -> bool {
    known.in_request() == InRequest::Told
}

/// RFC 9110 §7.6.1: every field that any Connection line lists is for this hop only. `get` would
/// give the first line alone.
pub fn connection_options(fields: &Fields) -> Listed<&[u8]> {
    if !fields.has(Known::Connection) {
        return Listed::default();
    }
    listed::options(fields.all(Known::Connection))
}

/// RFC 9113 §8.2.3: HTTP/2 clients may split the cookie; HTTP/1.1 knows one line.
fn cookies(out: &mut impl Output, fields: &Fields) {
    let mut lines = fields.all(Known::Cookie);
    let Some(first) = lines.next() else { return };
    out.write(&COOKIE, |out| {
        out.extend_from_slice(first);
        for line in lines {
            out.extend_from_slice(b"; ");
            out.extend_from_slice(line);
        }
    });
}

fn connection(out: &mut BytesMut, head: &Head, extra: &Extra<'_>) {
    if extra.upgrade {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        if let Some(key) = extra.websocket_key {
            extend_field(out, b"sec-websocket-key", key.as_bytes());
        }
    } else if wants_trailers(&head.fields) {
        out.extend_from_slice(b"connection: te\r\nte: trailers\r\n");
    }
}

/// RFC 9110 §10.1.4: TE is for this hop; trailers can be promised again, because they pass.
fn wants_trailers(fields: &Fields) -> bool {
    fields.all(Known::Te).any(|line| {
        line.split(|byte| *byte == b',')
            .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

/// Tells what the head says if no content follows. RFC 9110 §8.6: methods that expect content say
/// that there is none.
fn absence(head: &Head) -> Absence {
    let expected = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    match expected || head.fields.has(Known::ContentLength) {
        true => Absence::Said,
        false => Absence::Understood,
    }
}

/// RFC 9110 §7.6.3. The ways that came before stay: others find loops by them. Of what strangers say,
/// only what has the form of a way stays.
fn via(out: &mut impl Output, head: &Head, extra: &Extra<'_>) {
    out.write(&VIA, |out| {
        if extra.peer.trusted.get() {
            append(out, head, Known::Via);
        } else {
            for member in head.fields.all(Known::Via).flat_map(via::members) {
                out.extend_from_slice(member.text);
                out.extend_from_slice(b", ");
            }
        }
        out.extend_from_slice(via::protocol(head.version).as_bytes());
        out.extend_from_slice(extra.via.as_bytes());
    });
}

/// RFC 7239 and its older relatives.
fn forwarding(out: &mut impl Output, head: &Head, extra: &Extra<'_>) {
    let peer = extra.peer;
    let text = &*peer.text;
    out.write(&X_FORWARDED_FOR, |out| {
        append_trusted(out, head, peer, Known::XForwardedFor);
        out.extend_from_slice(text.as_bytes());
    });
    out.write(&X_REAL_IP, |out| match extra.forwarded.client_address(&head.fields, peer) {
        address if address == peer.address => out.extend_from_slice(text.as_bytes()),
        address => out.extend_from_slice(address.to_string().as_bytes()),
    });
    if !(peer.trusted.get() && head.fields.has(Known::XForwardedProto)) {
        out.write(&X_FORWARDED_PROTO, |out| out.extend_from_slice(peer.scheme.as_bytes()));
    }
    let host_is_told = peer.trusted.get() && head.fields.has(Known::XForwardedHost);
    if !host_is_told && !extra.host.is_empty() {
        out.write(&X_FORWARDED_HOST, |out| out.extend_from_slice(extra.host.as_bytes()));
    }
    out.write(&FORWARDED, |out| {
        append_trusted(out, head, peer, Known::Forwarded);
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

fn append_trusted(out: &mut BytesMut, head: &Head, peer: &Peer, field: Known) {
    if peer.trusted.get() {
        append(out, head, field);
    }
}

/// What the client says there: our own part follows.
fn append(out: &mut BytesMut, head: &Head, field: Known) {
    for line in head.fields.all(field) {
        out.extend_from_slice(line);
        out.extend_from_slice(b", ");
    }
}

/// Whether the client waits for a 100 before it sends content (RFC 9110 §10.1.1).
pub fn expects_continue(head: &Head) -> bool {
    head.version != Version::HTTP_10 && head.fields.all(Known::Expect).any(asks_for_continue)
}

/// Returns `true` if this Expect line asks for a 100, among whatever else.
pub fn asks_for_continue(line: &[u8]) -> bool {
    let mut expectations = line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    expectations.any(|expectation| expectation.eq_ignore_ascii_case(b"100-continue"))
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::super::head::tests::{both, read};
    use super::*;

    fn extra<'r>(
        rules: &'r Forwarded,
        peer: &'r Peer,
        host: &'r str,
        framing: Framing,
    ) -> Extra<'r> {
        Extra {
            peer,
            host,
            via: "seawall",
            forwarded: rules,
            max_forwards: None,
            request_id: b"id-1",
            framing,
            recording: None,
            upgrade: false,
            websocket_key: None,
        }
    }

    fn rules() -> Forwarded {
        Forwarded::of(&["10.0.0.0/8"], &["x-client-ip"], &["x-user"])
    }

    /// What becomes of these fields, in whatever form they come.
    fn write(heads: &[Head; 2], trusted: bool, framing: Framing) -> String {
        let peer = Peer::new([10, 0, 0, 9].into(), "http", trusted);
        let rules = rules();
        let [map, lines] = heads.each_ref().map(|head| {
            let extra = extra(&rules, &peer, check::host(head).unwrap(), framing);
            String::from_utf8(http1(head, &extra).head().to_vec()).unwrap()
        });
        assert_eq!(map, lines);
        map
    }

    #[test]
    fn a_plain_request_gets_the_proxys_fields() {
        let heads = both(http::Request::get("/a?b=c").header("host", "h.test").header("x", "1"));
        assert_eq!(
            write(&heads, false, Framing::Empty),
            "GET /a?b=c HTTP/1.1\r\nhost: h.test\r\nx: 1\r\nvia: 1.1 seawall\r\n\
             x-forwarded-for: 10.0.0.9\r\nx-real-ip: 10.0.0.9\r\nx-forwarded-proto: http\r\n\
             x-forwarded-host: h.test\r\nforwarded: for=10.0.0.9;host=\"h.test\";proto=http\r\nx-request-id: id-1\r\n\r\n"
        );
    }

    #[test]
    fn an_http_2_head_has_the_same_fields_without_those_of_a_connection() {
        let heads = both(
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
        let rules = rules();
        let extra = extra(&rules, &peer, "h.test", Framing::Length(5));
        let [map, lines] = heads.map(|head| http2(&head, &extra, "https").unwrap().into_parts().0);
        assert_eq!((map.uri(), map.headers()), (lines.uri(), lines.headers()));
        assert_eq!(map.uri(), "https://h.test/a?b=c");
        let field = |name: &str| map.headers().get(name).map(|value| value.to_str().unwrap());
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
        let heads = both(
            http::Request::get("/")
                .header("host", "h.test")
                .header("x-forwarded-for", "6.6.6.6")
                .header("x-forwarded-proto", "https")
                .header("x-forwarded-host", "evil.test")
                .header("forwarded", "for=6.6.6.6"),
        );
        let replaced = write(&heads, false, Framing::Empty);
        assert!(!replaced.contains("6.6.6.6") && !replaced.contains("evil"), "{replaced}");
        let appended = write(&heads, true, Framing::Empty);
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
        let heads = both(
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
        let written = write(&heads, false, Framing::Chunked);
        for gone in ["x-one", "x-two", "keep-alive", "deflate", "h2c", "close"] {
            assert!(!written.contains(gone), "{gone} in {written}");
        }
        for kept in ["host: h.test\r\n", "te: trailers\r\n", "cookie: a=1; b=2\r\n", "chunked"] {
            assert!(written.contains(kept), "{kept} in {written}");
        }
    }

    #[test]
    fn ipv6_clients_are_quoted_in_forwarded() {
        let [head, _] = both(http::Request::get("/").header("host", "h"));
        let peer = Peer::new("2001:db8::1".parse().unwrap(), "https", false);
        let rules = rules();
        let extra = extra(&rules, &peer, "h", Framing::Empty);
        let written = String::from_utf8(http1(&head, &extra).head().to_vec()).unwrap();
        assert!(written.contains("forwarded: for=\"[2001:db8::1]\";host=\"h\";proto=https\r\n"));
    }

    #[test]
    fn what_passes_is_copied_as_it_came() {
        let text = b"GET / HTTP/1.1\r\nhOST: h\r\nX-Some-Thing: A b\r\nX:1\r\nX_User: root\r\nX-Empty:\r\n\r\n";
        let fields = read(text.to_vec());
        let head = Head { version: Version::HTTP_11, fields, ..Head::default() };
        let peer = Peer::new([10, 0, 0, 9].into(), "http", false);
        let rules = rules();
        let written = http1(&head, &extra(&rules, &peer, "h", Framing::Empty)).into_parts().0;
        let expected =
            b"GET / HTTP/1.1\r\nhost: h\r\nX-Some-Thing: A b\r\nX: 1\r\nX-Empty: \r\nvia:";
        assert!(written.starts_with(expected), "{written:?}");
    }
}

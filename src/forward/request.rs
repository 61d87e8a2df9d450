//! The request, written again for the upstream (RFC 9110 §7.6, RFC 9112 §3).
//!
//! Before: a parsed request, HTTP/1.1 or HTTP/2. After: a head in one normal form, as the
//! bytes of HTTP/1.1 or as the fields of HTTP/2. Fields of the client's connection stay behind, those
//! that tell the app about the client are replaced, or appended to if the client is a trusted proxy.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;

use bytes::BytesMut;
use http::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap,
    HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{Method, Version, request};

use super::entrance::Entrance;
use crate::failure::{ClientFailure, rehearsal};
use crate::telemetry::request_id;
use crate::telemetry::spans::Recording;
use crate::telemetry::spans::context::TRACEPARENT;
use crate::upstream::exchange::Framing;
use crate::upstream::http1::head::is_hop_by_hop;
use crate::upstream::http1::upload::extend_field;
use crate::upstream::proxy_protocol::Told;

/// `X-Request-Id`: what ties the answer, the log and the journal together.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The client's side of a connection, as far as the app shall know it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address of whoever is connected.
    pub address: IpAddr,
    /// The same as text: every request of the connection says it twice.
    pub text: Box<str>,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// A proxy whose forwarding fields and request ids are believed.
    pub trusted: Cell<bool>,
    /// What the listener does with every request.
    pub entrance: Rc<Entrance>,
    /// The field that tells the upstream whom the client has shown to be by its certificate.
    pub identity: Option<(HeaderName, HeaderValue)>,
    /// What PROXY protocol headers say, if an upstream wants one.
    pub told: Option<Rc<Told>>,
    /// What its requests repeat.
    pub repeated: Repeated,
}

/// The address as text. Each connection needs it once, and `Display` takes ten times as long for IPv4.
fn text_of(address: IpAddr) -> Box<str> {
    let IpAddr::V4(address) = address else { return address.to_string().into() };
    let mut text = String::with_capacity("255.255.255.255".len());
    for (place, octet) in address.octets().into_iter().enumerate() {
        if place > 0 {
            text.push('.');
        }
        if octet >= 100 {
            text.push(char::from(b'0' + octet / 100));
        }
        if octet >= 10 {
            text.push(char::from(b'0' + octet / 10 % 10));
        }
        text.push(char::from(b'0' + octet % 10));
    }
    text.into()
}

/// The lines that one request of a connection after the other says to HTTP/1.1 upstreams: who asks,
/// whom, and on which way. They are written once and copied.
#[derive(Clone, Debug, Default)]
pub struct Repeated {
    /// There was a request: connections that have no other one shall not pay for what is kept.
    again: Cell<bool>,
    kept: RefCell<Option<Box<Kept>>>,
}

#[derive(Clone, Debug)]
struct Kept {
    host: Box<str>,
    version: Version,
    via: Box<str>,
    lines: Box<[u8]>,
}

impl Repeated {
    /// Whether a request with this host was found to be in order.
    fn knows(&self, host: &str) -> bool {
        self.kept.borrow().as_ref().is_some_and(|kept| *kept.host == *host)
    }

    /// Appends the lines that `write` gives; what it wrote for the same host is copied.
    fn copy_to(
        &self,
        out: &mut BytesMut,
        version: Version,
        extra: &Extra<'_>,
        write: impl FnOnce(&mut BytesMut),
    ) {
        if !self.again.replace(true) {
            return write(out);
        }
        let mut kept = self.kept.borrow_mut();
        match &*kept {
            Some(kept)
                if kept.version == version
                    && *kept.host == *extra.host
                    && *kept.via == *extra.via =>
            {
                out.extend_from_slice(&kept.lines);
            }
            _ => {
                let start = out.len();
                write(out);
                let lines = out.get(start..).unwrap_or_default().into();
                let (host, via) = (extra.host.into(), extra.via.into());
                *kept = Some(Box::new(Kept { host, version, via, lines }));
            }
        }
    }
}

impl Peer {
    /// Whoever is connected from this address.
    #[must_use]
    pub fn new(address: IpAddr, scheme: &'static str, trusted: bool) -> Self {
        Peer {
            address,
            text: text_of(address),
            scheme,
            trusted: Cell::new(trusted),
            entrance: Rc::default(),
            identity: None,
            told: None,
            repeated: Repeated::default(),
        }
    }
}

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

/// Refuses what another parser could read differently, as far as the parsed head shows it; what only
/// the bytes show is refused by `listen::http1`. Gives the host that the request is for
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

fn host(parts: &request::Parts) -> Result<&str, ClientFailure> {
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
    /// What [`check`] found.
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
    use super::*;

    fn parts(request: http::request::Builder) -> request::Parts {
        request.body(()).unwrap().into_parts().0
    }

    fn write(parts: &request::Parts, trusted: bool, framing: Framing) -> String {
        let peer = Peer::new([10, 0, 0, 9].into(), "http", trusted);
        let extra = Extra {
            present: Present::of(&parts.headers),
            peer: &peer,
            host: host(parts).unwrap(),
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
    fn addresses_are_written_as_everywhere() {
        for octet in 0..=255 {
            let address = IpAddr::from([octet, 255, octet, 0]);
            assert_eq!(*text_of(address), *address.to_string());
        }
        assert_eq!(&*text_of("2001:db8::1".parse().unwrap()), "2001:db8::1");
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

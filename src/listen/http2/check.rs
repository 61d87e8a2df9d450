//! Whether a field section of a client is well-formed (RFC 9113 §8.1.1, §8.2, §8.3), and within the
//! limits, which are those of HTTP/1.1: a section counts as the lines that it would be there.

use http::Method;
use http::uri::{Authority, PathAndQuery, Scheme};

use crate::config::model::Clients;
use crate::failure::ClientFailure;
use crate::upstream::http1::head::parse_length;
use crate::upstream::http2::hpack::Field;

/// What a line has beside name and value: a colon, a space and its end.
const REST_OF_A_LINE: usize = 4;
/// What a request line has beside method and target, and the empty line.
const REST_OF_A_HEAD: usize = " ".len() + " HTTP/1.1\r\n".len() + "\r\n".len();
/// Bytes of a trailer section, as over HTTP/1.1.
const TRAILER_BYTES: usize = 16 * 1024;
/// The longest target that an `Uri` can hold.
const LONGEST_TARGET: usize = 65_534;

/// The limits of field sections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    head_bytes: usize,
    target_bytes: usize,
    fields: usize,
}

impl From<&Clients> for Limits {
    fn from(clients: &Clients) -> Self {
        let Clients { head_bytes, target_bytes, fields, .. } = *clients;
        Limits { head_bytes, target_bytes, fields }
    }
}

impl Limits {
    /// The most bytes of one field block, as it comes and unpacked. A head that is only over
    /// `clients.head` is answered; what is larger than this ends the connection.
    pub fn block_size(&self) -> usize {
        const LEAST: usize = 1024 * 1024;
        self.head_bytes.saturating_mul(4).max(LEAST)
    }

    /// The size of the largest head as HTTP/2 counts it (RFC 9113 §6.5.2).
    pub fn list_size(&self) -> u32 {
        let overhead = self.fields.saturating_add(5).saturating_mul(32);
        u32::try_from(self.head_bytes.saturating_add(overhead)).unwrap_or(u32::MAX)
    }
}

/// What a field section is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    Head,
    Trailers,
}

/// The check of one section, field by field.
#[derive(Debug)]
pub struct Check {
    section: Section,
    limits: Limits,
    method: Option<Method>,
    path: Option<Box<[u8]>>,
    has_scheme: bool,
    has_authority: bool,
    has_protocol: bool,
    /// A field that is no pseudo-header field has come.
    in_fields: bool,
    length: Option<u64>,
    has_cookie: bool,
    fields: usize,
    bytes: usize,
    failure: Option<ClientFailure>,
}

/// A head that is refused.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub failure: ClientFailure,
    /// Its method, if it has one.
    pub method: Option<Method>,
    /// Its target, if that can be one.
    pub path: Option<Box<[u8]>>,
}

impl Check {
    /// Begins with nothing.
    pub fn new(section: Section, limits: Limits) -> Self {
        Check {
            section,
            limits,
            method: None,
            path: None,
            has_scheme: false,
            has_authority: false,
            has_protocol: false,
            in_fields: false,
            length: None,
            has_cookie: false,
            fields: 0,
            bytes: if section == Section::Head { REST_OF_A_HEAD } else { 2 },
            failure: None,
        }
    }

    /// Looks at the next field. Returns it as it may be passed on; `None` from the first failure on.
    pub fn field<'f>(&mut self, field: Field<'f>) -> Option<Field<'f>> {
        // A head that is refused has a method and a path all the same, for the log.
        if self.failure.is_some() && (self.in_fields || !field.name.starts_with(b":")) {
            return None;
        }
        let field = match field.name.first() {
            Some(b':') => {
                let bad = self.pseudo(field.name, field.value);
                self.fail(bad);
                field
            }
            _ => {
                // The space around a value is not part of it (RFC 9110 §5.5).
                let field = Field { value: field.value.trim_ascii(), ..field };
                let bad = self.regular(field.name, field.value);
                self.fail(bad);
                field
            }
        };
        if self.bytes > self.limit() {
            self.fail(Err(ClientFailure::FieldsTooLarge));
        }
        self.failure.is_none().then_some(field)
    }

    fn fail(&mut self, checked: Result<(), ClientFailure>) {
        if let Err(failure) = checked {
            self.failure.get_or_insert(failure);
        }
    }

    fn limit(&self) -> usize {
        match self.section {
            Section::Head => self.limits.head_bytes,
            Section::Trailers => TRAILER_BYTES.min(self.limits.head_bytes),
        }
    }

    fn count(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), ClientFailure> {
        const BAD: Result<(), ClientFailure> = Err(ClientFailure::BadRequest);
        if self.section == Section::Trailers || self.in_fields {
            return BAD;
        }
        self.count(value.len());
        let is_twice = match name {
            b":method" => {
                let method = Method::from_bytes(value).ok();
                let is_twice = self.method.is_some() || method.is_none();
                self.method = self.method.take().or(method);
                is_twice
            }
            b":path" => {
                if value.len() > self.limits.target_bytes.min(LONGEST_TARGET) {
                    return Err(ClientFailure::UriTooLong);
                }
                if !is_target(value) {
                    return BAD;
                }
                self.path.replace(value.into()).is_some()
            }
            b":scheme" => {
                std::mem::replace(&mut self.has_scheme, true) || Scheme::try_from(value).is_err()
            }
            b":authority" => {
                // It would be a Host.
                self.count("host".len() + REST_OF_A_LINE);
                self.fields += 1;
                std::mem::replace(&mut self.has_authority, true) || !is_authority(value)
            }
            b":protocol" => {
                std::mem::replace(&mut self.has_protocol, true)
                    || value.is_empty()
                    || !value.iter().all(|byte| byte.is_ascii_graphic())
            }
            _ => true,
        };
        if is_twice { BAD } else { Ok(()) }
    }

    fn regular(&mut self, name: &[u8], value: &[u8]) -> Result<(), ClientFailure> {
        self.in_fields = true;
        self.count(name.len() + value.len() + REST_OF_A_LINE);
        // The pairs of a Cookie may come apart (RFC 9113 §8.2.3): they are one line.
        let is_crumb = name == b"cookie" && std::mem::replace(&mut self.has_cookie, true);
        if !is_crumb {
            self.fields += 1;
        }
        if self.fields > self.limits.fields {
            return Err(ClientFailure::FieldsTooLarge);
        }
        let is_good = !name.is_empty()
            && name.iter().all(|byte| is_name(*byte))
            && value.iter().all(|byte| is_value(*byte))
            && !is_of_connections(name, value);
        if !is_good {
            return Err(ClientFailure::BadRequest);
        }
        if name == b"content-length" && self.section == Section::Head {
            let length = parse_length(value).map_err(|_| ClientFailure::BadRequest)?;
            if self.length.replace(length).is_some_and(|known| known != length) {
                return Err(ClientFailure::BadRequest);
            }
        }
        Ok(())
    }

    /// Judges the whole section.
    ///
    /// # Errors
    /// What is refused, and why.
    pub fn finish(mut self, ends_stream: bool) -> Result<(), Refused> {
        let is_whole = match self.section {
            // RFC 9113 §8.1: trailers end the stream.
            Section::Trailers => ends_stream,
            Section::Head => {
                let is_connect = self.method == Some(Method::CONNECT);
                let is_target = match (is_connect, self.has_protocol) {
                    // RFC 9113 §8.5: the authority alone.
                    (true, false) => self.has_authority && !self.has_scheme && self.path.is_none(),
                    (false, true) => false,
                    // RFC 8441 §4.
                    (true, true) => self.has_authority && self.has_scheme && self.path.is_some(),
                    (false, false) => self.has_scheme && self.path.is_some(),
                };
                let is_empty = ends_stream && self.length.is_some_and(|length| length > 0);
                self.method.is_some() && is_target && !is_empty
            }
        };
        if !is_whole {
            self.fail(Err(ClientFailure::BadRequest));
        }
        match self.failure {
            None => Ok(()),
            Some(failure) => Err(Refused { failure, method: self.method, path: self.path }),
        }
    }
}

/// Returns `true` for what a name over HTTP/2 consists of: a token without upper case
/// (RFC 9113 §8.2.1, RFC 9110 §5.6.2).
fn is_name(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.'
        | b'^'..=b'`' | b'|' | b'~')
}

/// Returns `true` for what a value consists of (RFC 9110 §5.5).
fn is_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

fn is_of_connections(name: &[u8], value: &[u8]) -> bool {
    match name {
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
            true
        }
        b"te" => value != b"trailers",
        _ => false,
    }
}

/// Returns `true` for a target that HTTP/1.1 could have, and that is whole as an `Uri`: a fragment
/// would be cut off (RFC 9110 §7.1).
fn is_target(value: &[u8]) -> bool {
    // Nearly all consist of these, and are parsed once, by h2.
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._~?=&%+,:;@".contains(byte);
    let is_plain = value.first() == Some(&b'/') && value.iter().all(is_plain);
    is_plain
        || value == b"*"
        || (value.first() == Some(&b'/')
            && value.iter().all(|byte| *byte > b' ' && !matches!(byte, b'#' | 0x7f))
            && PathAndQuery::try_from(value).is_ok())
}

fn is_authority(value: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.".contains(byte);
    let name = value.split(|byte| *byte == b':').next().unwrap_or_default();
    let port = value.get(name.len()..).unwrap_or_default();
    let is_plain = !name.is_empty()
        && name.iter().all(is_plain)
        && (port.is_empty() || port.iter().skip(1).all(u8::is_ascii_digit) && port.len() > 1);
    is_plain || Authority::try_from(value).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { head_bytes: 300, target_bytes: 100, fields: 5 };
    const GET: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];

    fn judged(section: Section, ends: bool, fields: &[(&[u8], &[u8])]) -> Option<u16> {
        let mut check = Check::new(section, LIMITS);
        for (name, value) in fields {
            check.field(Field { name, value, never_indexed: false });
        }
        check.finish(ends).err().and_then(|refused| refused.failure.status())
    }

    fn head(fields: &[(&str, &str)]) -> Option<u16> {
        let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
        judged(Section::Head, false, &fields)
    }

    #[test]
    fn judges_heads() {
        let with = |more: &[(&'static str, &'static str)]| [&GET[..], more].concat();
        let path = |path: &'static str| [&GET[..3], &[(":path", path)]].concat();
        let connect = [(":method", "CONNECT"), (":authority", "a:1")];
        let extended = [(":protocol", "websocket"), (":scheme", "http"), (":path", "/")];
        let good = [
            with(&[]),
            with(&[("a", "b"), ("te", "trailers"), ("cookie", "a"), ("cookie", "b")]),
            with(&[("cookie", "a"); 20]),
            with(&[("a", " b\t"), ("a", "\u{e9}")]),
            with(&[("content-length", "5"), ("content-length", "5")]),
            [&GET[..2], &GET[3..]].concat(),
            path("/a?b=`{}|^[]\\'"),
            path("/a%20b;c=d,e?f=g&h=i"),
            path("*"),
            connect.to_vec(),
            [&connect[..], &extended].concat(),
        ];
        for fields in good {
            assert_eq!(head(&fields), None, "{fields:?}");
        }
        let bad = [
            GET[1..].to_vec(),
            GET[..3].to_vec(),
            [&GET[..1], &GET[2..]].concat(),
            with(&[("a", "b"), (":path", "/")]),
            with(&[(":path", "/")]),
            with(&[(":status", "200")]),
            with(&[(":protocol", "websocket")]),
            with(&[(":unknown", "x")]),
            with(&[("A", "b")]),
            with(&[("", "b")]),
            with(&[("a b", "c")]),
            with(&[("a", "b\r\nc: d")]),
            with(&[("a", "b\0")]),
            with(&[("connection", "close")]),
            with(&[("upgrade", "h2c")]),
            with(&[("te", "gzip")]),
            with(&[("content-length", "5"), ("content-length", "6")]),
            with(&[("content-length", "-5")]),
            path(""),
            path("a"),
            path("/a b"),
            path("/a\"<>`"),
            path("/a#b"),
            [&GET[1..], &[(":method", "G T")]].concat(),
            [&GET[..1], &[(":scheme", "h t")], &GET[2..]].concat(),
            [&GET[..2], &[(":authority", "a:b:c")], &GET[3..]].concat(),
            [&GET[..2], &[(":authority", "\u{e9}")], &GET[3..]].concat(),
            connect[..1].to_vec(),
            [&connect[..], &extended[1..]].concat(),
            [&connect[..], &extended[..2]].concat(),
        ];
        for fields in bad {
            assert_eq!(head(&fields), Some(400), "{fields:?}");
        }
        assert_eq!(judged(Section::Head, true, &[(b"a", b"b")]), Some(400));
        let latin1: [(&[u8], &[u8]); 3] =
            [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/caf\xe9")];
        assert_eq!(judged(Section::Head, true, &latin1), Some(400));
        assert_eq!(head(&with(&[("a", "b"); 5])), Some(431));
        let long = "x".repeat(101);
        assert_eq!(head(&[(":path", &long)]), Some(414));
        assert_eq!(
            head(&[&GET[..], &[("a", &*long), ("b", &long), ("c", &long)]].concat()),
            Some(431)
        );
    }

    #[test]
    fn a_request_without_content_has_no_length_of_some() {
        let with = |length: &'static [u8]| {
            let fields: Vec<(&[u8], &[u8])> =
                GET.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
            [&fields[..], &[(b"content-length", length)]].concat()
        };
        assert_eq!(judged(Section::Head, true, &with(b"5")), Some(400));
        assert_eq!(judged(Section::Head, true, &with(b"0")), None);
    }

    #[test]
    fn judges_trailers() {
        let long = vec![b'x'; 300];
        for (ends, fields, expected) in [
            (true, &[(&b"a"[..], &b"b"[..])][..], None),
            (true, &[], None),
            (false, &[(b"a", b"b")], Some(400)),
            (true, &[(b":path", b"/")], Some(400)),
            (true, &[(b"A", b"b")], Some(400)),
            (true, &[(b"a", &long)], Some(431)),
            (true, &[(&b"a"[..], &b"b"[..]); 6], Some(431)),
        ] {
            assert_eq!(judged(Section::Trailers, ends, fields), expected, "{fields:?}");
        }
    }
}

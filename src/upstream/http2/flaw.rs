//! What can be wrong with a field section of a response, and the check of it.
//!
//! A malformed message is an error of its stream and of no other (RFC 9113 §8.1.1), and so is one
//! beyond a limit. The limits count as over HTTP/1.1: a field is its name, `: ` and its value, a
//! head has a status line, and each line ends with CRLF.

use http::StatusCode;

use super::hpack::Field;
use crate::config::model::UpstreamLimits;
use crate::failure::Kind;

/// The status line of HTTP/1.1 without a reason, and the empty line.
const LINES_OF_A_HEAD: usize = "HTTP/1.1 200 \r\n\r\n".len();
/// The rest of a field line of HTTP/1.1.
const REST_OF_A_LINE: usize = ": ".len();
const CRLF: usize = 2;

/// Why a field section is not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A name in upper case, or with a character that no name has (RFC 9113 §8.2.1).
    Name,
    /// A value with a character that no value has (RFC 9113 §8.2.1).
    Value,
    /// A field of HTTP/1.1 connections (RFC 9113 §8.2.2).
    OfConnections,
    /// A pseudo-header field that no response has, or for a second time, or behind other fields
    /// (RFC 9113 §8.3).
    Pseudo,
    /// No status, or none that is one (RFC 9113 §8.3.2).
    Status,
    /// A 101 (RFC 9113 §8.6).
    Switching,
    /// An interim response that ends the stream (RFC 9113 §8.1).
    LastInterim,
    /// Trailers that do not end the stream (RFC 9113 §8.1).
    Trailers,
    /// A frame that may not come on a stream like this, or not in this form.
    Frame,
    /// Content where there is none (RFC 9113 §8.1.1).
    Content,
    /// A head over `limits.head`.
    HeadTooLarge,
    /// More fields than `limits.fields`.
    TooManyFields,
    /// A field over `limits.field`.
    FieldTooLarge,
    /// Trailers over `limits.trailers`, or with more fields than `limits.fields`.
    TrailersTooLarge,
}

impl Flaw {
    /// The kind of failure that this is.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Flaw::HeadTooLarge | Flaw::TooManyFields => Kind::HttpResponseHeaderSectionSize,
            Flaw::FieldTooLarge => Kind::HttpResponseHeaderSize,
            Flaw::TrailersTooLarge => Kind::HttpResponseTrailerSectionSize,
            Flaw::Name
            | Flaw::Value
            | Flaw::OfConnections
            | Flaw::Pseudo
            | Flaw::Status
            | Flaw::Switching
            | Flaw::LastInterim
            | Flaw::Trailers
            | Flaw::Frame
            | Flaw::Content => Kind::HttpProtocolError,
        }
    }
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Flaw::Name => "a field name has a character that it may not have, or is in upper case",
            Flaw::Value => "a field value has a character that it may not have",
            Flaw::OfConnections => "a field of HTTP/1.1 connections came over HTTP/2",
            Flaw::Pseudo => "a pseudo-header field is unknown, comes twice, or comes too late",
            Flaw::Status => "the status code is none",
            Flaw::Switching => "a 101 over HTTP/2",
            Flaw::LastInterim => "the stream ends with an interim response",
            Flaw::Trailers => "trailers that do not end the stream, or have a pseudo-header field",
            Flaw::Frame => "a frame has a form that HTTP/2 does not allow",
            Flaw::Content => "a response that has no content came with content",
            Flaw::HeadTooLarge => "the response head is larger than the limit",
            Flaw::TooManyFields => "the response has too many fields",
            Flaw::FieldTooLarge => "a field of the response is too large",
            Flaw::TrailersTooLarge => "the trailers are over the limit",
        })
    }
}

impl std::error::Error for Flaw {}

/// What a field section is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The head of an interim or a final response.
    Head,
    /// The trailers.
    Trailers,
}

/// The limits of field sections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    head_bytes: usize,
    field_bytes: usize,
    fields: usize,
    trailer_bytes: usize,
}

impl From<&UpstreamLimits> for Limits {
    fn from(limits: &UpstreamLimits) -> Self {
        let UpstreamLimits { head_bytes, field_bytes, fields, trailer_bytes, .. } = *limits;
        Limits { head_bytes, field_bytes, fields, trailer_bytes }
    }
}

impl Limits {
    /// The size of the largest section as HTTP/2 counts it, with 32 bytes for each field and the
    /// status among them (RFC 9113 §6.5.2).
    #[must_use]
    pub fn list_size(&self) -> u32 {
        let fields = self.fields.saturating_add(1).saturating_mul(32);
        let size = self.head_bytes.max(self.trailer_bytes).saturating_add(fields);
        u32::try_from(size).unwrap_or(u32::MAX)
    }
}

/// The check of one section, field by field.
#[derive(Debug)]
pub struct Check {
    section: Section,
    status: Option<u16>,
    fields: usize,
    bytes: usize,
    flaw: Option<Flaw>,
}

impl Check {
    /// Begins with nothing.
    #[must_use]
    pub fn new(section: Section) -> Self {
        let bytes = match section {
            Section::Head => LINES_OF_A_HEAD,
            Section::Trailers => CRLF,
        };
        Check { section, status: None, fields: 0, bytes, flaw: None }
    }

    /// Looks at the next field. Returns it as it may be passed on: the space around a value is not
    /// part of it (RFC 9110 §5.5). Returns `None` once a flaw is found.
    pub fn field<'f>(&mut self, field: Field<'f>, limits: &Limits) -> Option<Field<'f>> {
        if self.flaw.is_some() {
            return None;
        }
        if field.name.starts_with(b":") {
            self.flaw = self.pseudo(field);
            return self.flaw.is_none().then_some(field);
        }
        let field = Field { value: trimmed(field.value), ..field };
        self.flaw = self.regular(field, limits);
        self.flaw.is_none().then_some(field)
    }

    fn pseudo(&mut self, field: Field<'_>) -> Option<Flaw> {
        let is_first = self.fields == 0 && self.status.is_none();
        if self.section == Section::Trailers {
            return Some(Flaw::Trailers);
        }
        if field.name != b":status" || !is_first {
            return Some(Flaw::Pseudo);
        }
        let Ok(status) = StatusCode::from_bytes(field.value) else { return Some(Flaw::Status) };
        self.status = Some(status.as_u16());
        (status == StatusCode::SWITCHING_PROTOCOLS).then_some(Flaw::Switching)
    }

    fn regular(&mut self, field: Field<'_>, limits: &Limits) -> Option<Flaw> {
        self.fields += 1;
        let line = field.name.len() + REST_OF_A_LINE + field.value.len();
        self.bytes = self.bytes.saturating_add(line + CRLF);
        let too_large = match self.section {
            Section::Head if line > limits.field_bytes => Some(Flaw::FieldTooLarge),
            Section::Head if self.fields > limits.fields => Some(Flaw::TooManyFields),
            Section::Head => (self.bytes > limits.head_bytes).then_some(Flaw::HeadTooLarge),
            Section::Trailers => (self.bytes > limits.trailer_bytes || self.fields > limits.fields)
                .then_some(Flaw::TrailersTooLarge),
        };
        if too_large.is_some() {
            return too_large;
        }
        if field.name.is_empty() || !field.name.iter().all(|byte| is_name(*byte)) {
            return Some(Flaw::Name);
        }
        if !field.value.iter().all(|byte| is_value(*byte)) {
            return Some(Flaw::Value);
        }
        is_of_connections(field.name, field.value).then_some(Flaw::OfConnections)
    }

    /// Judges the whole section. Gives its status; trailers have none.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn finish(self, ends_stream: bool) -> Result<Option<u16>, Flaw> {
        match (self.flaw, self.section, self.status) {
            (Some(flaw), ..) => Err(flaw),
            (None, Section::Trailers, _) if !ends_stream => Err(Flaw::Trailers),
            (None, Section::Head, None) => Err(Flaw::Status),
            (None, Section::Head, Some(100..=199)) if ends_stream => Err(Flaw::LastInterim),
            (None, _, status) => Ok(status),
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

fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
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

#[cfg(test)]
mod tests {
    use super::*;

    type Fields = [(&'static str, &'static str)];
    type Judged = Result<Option<u16>, Flaw>;

    const LIMITS: Limits =
        Limits { head_bytes: 200, field_bytes: 60, fields: 3, trailer_bytes: 100 };

    fn judged(section: Section, ends: bool, fields: &[(&str, &str)]) -> Judged {
        let mut check = Check::new(section);
        for (name, value) in fields {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            check.field(Field { name, value, never_indexed: false }, &LIMITS);
        }
        check.finish(ends)
    }

    #[test]
    fn heads_are_judged() {
        let ok = (":status", "200");
        let [v55, v56]: [&str; 2] = [55, 58].map(|length| "v".repeat(length).leak() as &str);
        let rows: &[(&Fields, Judged)] = &[
            (&[ok], Ok(Some(200))),
            (&[(":status", "999"), ("a", "\u{e9}\t b")], Ok(Some(999))),
            (&[ok, ("a", " b "), ("te", "trailers")], Ok(Some(200))),
            (&[], Err(Flaw::Status)),
            (&[("a", "b")], Err(Flaw::Status)),
            (&[(":status", "")], Err(Flaw::Status)),
            (&[(":status", "99")], Err(Flaw::Status)),
            (&[(":status", "099")], Err(Flaw::Status)),
            (&[(":status", "abc")], Err(Flaw::Status)),
            (&[(":status", "2000")], Err(Flaw::Status)),
            (&[(":status", "101")], Err(Flaw::Switching)),
            (&[ok, ok], Err(Flaw::Pseudo)),
            (&[ok, (":path", "/")], Err(Flaw::Pseudo)),
            (&[(":", ""), ok], Err(Flaw::Pseudo)),
            (&[("a", "b"), ok], Err(Flaw::Pseudo)),
            (&[ok, ("A", "b")], Err(Flaw::Name)),
            (&[ok, ("", "b")], Err(Flaw::Name)),
            (&[ok, ("a b", "c")], Err(Flaw::Name)),
            (&[ok, ("a:", "c")], Err(Flaw::Name)),
            (&[ok, ("\u{e9}", "c")], Err(Flaw::Name)),
            (&[ok, ("a", "b\u{1}")], Err(Flaw::Value)),
            (&[ok, ("a", "b\r\nc: d")], Err(Flaw::Value)),
            (&[ok, ("a", "b\0c")], Err(Flaw::Value)),
            (&[ok, ("a", "\u{7f}")], Err(Flaw::Value)),
            (&[ok, ("connection", "close")], Err(Flaw::OfConnections)),
            (&[ok, ("transfer-encoding", "chunked")], Err(Flaw::OfConnections)),
            (&[ok, ("te", "gzip")], Err(Flaw::OfConnections)),
            (&[ok, ("a", ""), ("a", ""), ("a", "")], Ok(Some(200))),
            (&[ok, ("a", ""), ("a", ""), ("a", ""), ("a", "")], Err(Flaw::TooManyFields)),
            (&[ok, ("abc", v55)], Ok(Some(200))),
            (&[ok, ("abc", v56)], Err(Flaw::FieldTooLarge)),
            (&[ok, ("abc", v55), ("abc", v55), ("abc", v55)], Err(Flaw::HeadTooLarge)),
        ];
        for (fields, expected) in rows {
            assert_eq!(judged(Section::Head, false, fields), *expected, "{fields:?}");
        }
        assert_eq!(judged(Section::Head, true, &[(":status", "103")]), Err(Flaw::LastInterim));
    }

    #[test]
    fn trailers_are_judged() {
        let long: &str = "v".repeat(100).leak();
        let rows: &[(bool, &Fields, Judged)] = &[
            (true, &[("a", "b")], Ok(None)),
            (true, &[], Ok(None)),
            (false, &[("a", "b")], Err(Flaw::Trailers)),
            (true, &[("a", "b"), (":status", "200")], Err(Flaw::Trailers)),
            (true, &[(":status", "200")], Err(Flaw::Trailers)),
            (true, &[("a", long)], Err(Flaw::TrailersTooLarge)),
            (true, &[("a", ""), ("a", ""), ("a", ""), ("a", "")], Err(Flaw::TrailersTooLarge)),
        ];
        for (ends, fields, expected) in rows {
            assert_eq!(judged(Section::Trailers, *ends, fields), *expected, "{fields:?}");
        }
    }
}

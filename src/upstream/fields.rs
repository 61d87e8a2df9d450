//! The fields of a response on their way to the client.
//!
//! Most responses come over HTTP/1.1 and leave over HTTP/1.1, and nobody asks for more than two of
//! their fields. They pass as the lines that they came as: no map is built, no name hashed, and the
//! few fields that are asked for are noted when they pass. Whoever needs more gets the map.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{BufMut, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode, Version};

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Room for the fields of an answer of ours, and for its content.
const ROOM: usize = 1024;

/// End-to-end fields, and what we add to them.
#[derive(Debug)]
pub enum Fields {
    /// As a map.
    Map(HeaderMap),
    /// As lines.
    Lines(Lines),
}

/// A status line, and field lines, each of them valid and with its CRLF: the beginning of an HTTP/1.1
/// response as it is sent.
#[derive(Debug, Default)]
pub struct Lines {
    text: BytesMut,
    /// Where the fields begin.
    start: usize,
    /// Where the first Content-Type's value lies; empty if there is none.
    content_type: Range<usize>,
    /// `X-Accel-Buffering: no`.
    unbuffered: bool,
    date: bool,
    length: bool,
    request_id: bool,
}

impl Lines {
    /// None yet, with room for so many bytes of them.
    #[must_use]
    pub fn new(status: StatusCode, room: usize) -> Self {
        const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";
        let reason = status.canonical_reason().unwrap_or_default();
        let mut text = BytesMut::with_capacity(OK.len() + reason.len() + room);
        match status {
            StatusCode::OK => text.put_slice(OK),
            _ => {
                text.put_slice(b"HTTP/1.1 ");
                text.put_slice(status.as_str().as_bytes());
                text.put_slice(b" ");
                text.put_slice(reason.as_bytes());
                text.put_slice(b"\r\n");
            }
        }
        Lines { start: text.len(), text, ..Lines::default() }
    }

    /// Appends a line. Both parts are valid: a parser or a `HeaderValue` has seen them.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let text = &mut self.text;
        text.reserve(name.len() + value.len() + 4);
        text.put_slice(name);
        text.put_slice(b": ");
        text.put_slice(value);
        text.put_slice(b"\r\n");
        self.note(name, value);
    }

    /// Appends a line that was parsed from this head; in one copy, if it stands there in the form
    /// that is written here.
    pub fn pass(&mut self, head: &[u8], name: &[u8], value: &[u8]) {
        match line_of(head, name, value) {
            Some(line) => {
                self.text.extend_from_slice(line);
                self.note(name, value);
            }
            None => self.push(name, value),
        }
    }

    /// Notes the line that was just appended, if somebody will ask for it.
    fn note(&mut self, name: &[u8], value: &[u8]) {
        let end = self.text.len() - b"\r\n".len();
        let start = end - value.len();
        // Few lines have names as long as these.
        match name.len() {
            4 => self.date |= is(name, &DATE),
            14 => self.length |= is(name, &CONTENT_LENGTH),
            12 if self.content_type.is_empty() && is(name, &CONTENT_TYPE) => {
                self.content_type = start..end;
            }
            12 => self.request_id |= is(name, &X_REQUEST_ID),
            17 => self.unbuffered |= value == b"no" && is(name, &X_ACCEL_BUFFERING),
            _ => {}
        }
    }

    /// Removes every Content-Length: the content itself will say it.
    pub fn forget_length(&mut self) {
        if self.length {
            self.remove(&CONTENT_LENGTH);
        }
    }

    /// The lines as they are sent.
    #[must_use]
    pub fn into_text(self) -> BytesMut {
        self.text
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let fields = self.text.get(self.start..).unwrap_or_default();
        fields.split_inclusive(|byte| *byte == b'\n').filter_map(|line| {
            let colon = memchr::memchr(b':', line)?;
            let (name, value) = line.split_at_checked(colon)?;
            Some((name, value.strip_prefix(b": ")?.strip_suffix(b"\r\n")?))
        })
    }

    fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(16);
        for (name, value) in self.iter() {
            // Both have been valid all along.
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            {
                map.append(name, value);
            }
        }
        map
    }

    fn remove(&mut self, unwanted: &HeaderName) {
        let mut kept = Lines {
            text: BytesMut::with_capacity(self.text.capacity()),
            start: self.start,
            ..Lines::default()
        };
        kept.text.put_slice(self.text.get(..self.start).unwrap_or_default());
        for (name, value) in self.iter().filter(|(name, _)| !is(name, unwanted)) {
            kept.push(name, value);
        }
        *self = kept;
    }
}

/// The whole line of the head in which this name and this value stand, if there is nothing else in it
/// but `: ` between them and CRLF behind.
#[must_use]
pub fn line_of<'h>(head: &'h [u8], name: &[u8], value: &[u8]) -> Option<&'h [u8]> {
    let offset = |part: &[u8]| (part.as_ptr() as usize).checked_sub(head.as_ptr() as usize);
    let (start, value_start) = (offset(name)?, offset(value)?);
    let end = value_start.checked_add(value.len())?;
    let line = head.get(start..end.checked_add(2)?)?;
    let between = line.get(name.len()..value_start.checked_sub(start)?)?;
    (between == b": " && line.ends_with(b"\r\n")).then_some(line)
}

fn is(name: &[u8], known: &HeaderName) -> bool {
    name.eq_ignore_ascii_case(known.as_str().as_bytes())
}

impl From<HeaderMap> for Fields {
    fn from(map: HeaderMap) -> Self {
        Fields::Map(map)
    }
}

impl Fields {
    /// None yet, in the form that a client of this version is sent.
    #[must_use]
    pub fn new(status: StatusCode, version: Version) -> Self {
        match version {
            Version::HTTP_2 => Fields::Map(HeaderMap::new()),
            _ => Fields::Lines(Lines::new(status, ROOM)),
        }
    }

    /// As a map, for whoever asks for more than is noted.
    #[must_use]
    pub fn map(&self) -> Cow<'_, HeaderMap> {
        match self {
            Fields::Map(map) => Cow::Borrowed(map),
            Fields::Lines(lines) => Cow::Owned(lines.to_map()),
        }
    }

    /// As a map.
    #[must_use]
    pub fn into_map(self) -> HeaderMap {
        match self {
            Fields::Map(map) => map,
            Fields::Lines(lines) => lines.to_map(),
        }
    }

    /// Appends a field.
    pub fn append(&mut self, name: &HeaderName, value: &HeaderValue) {
        match self {
            Fields::Map(map) => {
                map.append(name, value.clone());
            }
            Fields::Lines(lines) => lines.push(name.as_str().as_bytes(), value.as_bytes()),
        }
    }

    /// Sets the request id: whatever the app has said there, it is ours.
    pub fn set_request_id(&mut self, id: &[u8]) {
        match self {
            Fields::Map(map) => {
                if let Ok(mut id) = HeaderValue::from_bytes(id) {
                    // Said once: in HPACK's tables it would only displace what is said again.
                    id.set_sensitive(true);
                    map.insert(X_REQUEST_ID, id);
                }
            }
            Fields::Lines(lines) => {
                if lines.request_id {
                    lines.remove(&X_REQUEST_ID);
                }
                lines.push(X_REQUEST_ID.as_str().as_bytes(), id);
            }
        }
    }

    /// Removes every line of this name.
    pub fn remove(&mut self, name: &HeaderName) {
        match self {
            Fields::Map(map) => {
                map.remove(name);
            }
            Fields::Lines(lines) => lines.remove(name),
        }
    }

    /// Whether there is a field of this name.
    #[must_use]
    pub fn contains(&self, name: &HeaderName) -> bool {
        match self {
            Fields::Map(map) => map.contains_key(name),
            Fields::Lines(lines) => lines.iter().any(|(given, _)| is(given, name)),
        }
    }

    /// Whether there is a Date.
    #[must_use]
    pub fn has_date(&self) -> bool {
        match self {
            Fields::Map(map) => map.contains_key(DATE),
            Fields::Lines(lines) => lines.date,
        }
    }

    /// The first Content-Type.
    #[must_use]
    pub fn content_type(&self) -> Option<&[u8]> {
        match self {
            Fields::Map(map) => map.get(CONTENT_TYPE).map(HeaderValue::as_bytes),
            Fields::Lines(lines) if lines.content_type.is_empty() => None,
            Fields::Lines(lines) => lines.text.get(lines.content_type.clone()),
        }
    }

    /// Whether the app asks for the content to be passed on as it comes (`X-Accel-Buffering: no`).
    #[must_use]
    pub fn is_unbuffered(&self) -> bool {
        match self {
            Fields::Map(map) => {
                map.get(X_ACCEL_BUFFERING).is_some_and(|value| value.as_bytes() == b"no")
            }
            Fields::Lines(lines) => lines.unbuffered,
        }
    }

    /// Every field, as bytes.
    pub fn for_each(&self, mut take: impl FnMut(&[u8], &[u8])) {
        match self {
            Fields::Map(map) => map
                .iter()
                .for_each(|(name, value)| take(name.as_str().as_bytes(), value.as_bytes())),
            Fields::Lines(lines) => lines.iter().for_each(|(name, value)| take(name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: [(&str, &str); 6] = [
        ("Content-Type", "text/html"),
        ("X-Request-ID", "theirs"),
        ("content-type", "text/plain"),
        ("Set-Cookie", "a=1: 2"),
        ("X-Empty", ""),
        ("set-cookie", "b"),
    ];

    /// The same fields in both forms.
    fn both() -> [Fields; 2] {
        let (mut map, mut lines) = (HeaderMap::new(), Lines::new(StatusCode::NOT_FOUND, 0));
        for (name, value) in GIVEN {
            map.append(HeaderName::try_from(name).unwrap(), value.parse().unwrap());
            lines.push(name.as_bytes(), value.as_bytes());
        }
        [Fields::Map(map), Fields::Lines(lines)]
    }

    #[test]
    fn both_forms_say_the_same() {
        let [map, lines] = both();
        for fields in [&map, &lines] {
            assert_eq!(fields.content_type(), Some(&b"text/html"[..]));
            assert!(!fields.has_date() && !fields.is_unbuffered());
            assert!(fields.contains(&HeaderName::from_static("x-empty")));
            assert!(!fields.contains(&HeaderName::from_static("x-emptier")));
        }
        let mut count = 0;
        lines.for_each(|_, _| count += 1);
        assert_eq!(count, GIVEN.len());
        assert_eq!(map.into_map(), lines.into_map());
    }

    #[test]
    fn both_forms_are_changed_alike() {
        let mut forms = both();
        for fields in &mut forms {
            fields.set_request_id(b"ours");
            fields.remove(&HeaderName::from_static("set-cookie"));
            fields.append(&DATE, &HeaderValue::from_static("now"));
            fields.append(&X_ACCEL_BUFFERING, &HeaderValue::from_static("no"));
            assert!(fields.has_date() && fields.is_unbuffered());
            assert_eq!(fields.content_type(), Some(&b"text/html"[..]));
        }
        let [map, lines] = forms;
        assert_eq!(lines.map()["x-request-id"], "ours");
        assert_eq!(map.into_map(), lines.into_map());
    }

    #[test]
    fn a_line_in_another_form_is_brought_into_ours() {
        let head = b"A: 1\r\nB:2\r\nC:\t3\r\nD: 4 \r\nE: \r\nF: 6\r\n";
        let mut lines = Lines::new(StatusCode::OK, 0);
        for (name, value) in
            [(0..1, 3..4), (6..7, 8..9), (11..12, 14..15), (17..18, 20..21), (29..30, 32..33)]
        {
            lines.pass(head, &head[name], &head[value]);
        }
        lines.pass(head, b"A", b"1");
        lines.pass(head, &head[24..25], b"");
        let expected = "HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\nF: 6\r\nA: 1\r\nE: \r\n";
        assert_eq!(lines.into_text(), expected);
    }

    #[test]
    fn lines_are_sent_as_they_came() {
        let [_, Fields::Lines(lines)] = both() else { panic!("lines") };
        let text = lines.into_text();
        assert!(text.starts_with(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nX-"));
        assert!(text.ends_with(b"X-Empty: \r\nset-cookie: b\r\n"));
    }
}

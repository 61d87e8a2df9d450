//! The fields of a response on their way to the client.
//!
//! Most responses come over HTTP/1.1 and leave over HTTP/1.1, and nobody asks for more than two of
//! their fields. They pass as the lines that they came as: no map is built, no name hashed, and the
//! few fields that are asked for are noted when they pass. Whoever needs more gets the map.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{BufMut, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, HeaderValue, VIA};
use http::{HeaderMap, StatusCode, Version};

use super::http1::lines::{Line, Run};
use super::http1::upload::extend_field;
pub use crate::message::field::{Known, X_REQUEST_ID};
use crate::message::listed::Listed;

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Room for the fields of an answer of ours, and for its content.
const ROOM: usize = 1024;

/// End-to-end fields, and what we add to them.
#[derive(Debug)]
pub enum Fields {
    /// As a map. Boxed: it is twice as large as lines, and moved as often.
    Map(Box<HeaderMap>),
    /// As lines.
    Lines(Lines),
}

/// A status line, and field lines, each of them valid and with its CRLF: the beginning of an HTTP/1.1
/// response as it is sent.
#[derive(Debug, Default)]
pub struct Lines {
    text: BytesMut,
    /// Where the fields begin.
    start: u16,
    /// Where the first Content-Type's value lies; empty if there is none.
    content_type: (u32, u32),
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
        // The allocator likes powers of two best (benches/README.md).
        let mut text =
            BytesMut::with_capacity((OK.len() + reason.len() + room).next_power_of_two());
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
        // No reason is as long as that.
        let start = u16::try_from(text.len()).unwrap_or(u16::MAX);
        Lines { start, text, ..Lines::default() }
    }

    /// Appends a line. Both parts are valid: a reader or a `HeaderValue` has seen them.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        extend_field(&mut self.text, name, value);
        if let Some(known) = Known::of(name) {
            let end = self.text.len() - b"\r\n".len();
            self.note(known, value, end - value.len()..end);
        }
    }

    /// Appends the lines of this head but those that `is_hop`.
    ///
    /// # Errors
    /// Those of `is_hop`.
    pub fn pass<E>(
        &mut self,
        head: &[u8],
        lines: &[Line<Known>],
        mut is_hop: impl FnMut(&Line<Known>) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut run = Run::default();
        for line in lines {
            if is_hop(line)? {
                continue;
            }
            run.pass(line, head, &mut self.text);
            if let Some(known) = line.known {
                self.note(known, line.value(head), run.value_range(line, &self.text));
            }
        }
        run.end(head, &mut self.text);
        Ok(())
    }

    /// Notes a line whose value stands there in the text, if somebody will ask for it.
    fn note(&mut self, known: Known, value: &[u8], place: Range<usize>) {
        match known {
            Known::Date => self.date = true,
            Known::ContentLength => self.length = true,
            Known::ContentType if self.content_type == (0, 0) => {
                // No head is as long as that.
                if let (Ok(start), Ok(end)) = (place.start.try_into(), place.end.try_into()) {
                    self.content_type = (start, end);
                }
            }
            Known::XRequestId => self.request_id = true,
            Known::XAccelBuffering => self.unbuffered |= value == b"no",
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
        let fields = self.text.get(self.start.into()..).unwrap_or_default();
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
        self.keep(|name| !is(name, unwanted));
    }

    fn keep(&mut self, stays: impl Fn(&[u8]) -> bool) {
        let mut kept = Lines {
            text: BytesMut::with_capacity(self.text.capacity()),
            start: self.start,
            ..Lines::default()
        };
        kept.text.put_slice(self.text.get(..self.start.into()).unwrap_or_default());
        for (name, value) in self.iter().filter(|(name, _)| stays(name)) {
            kept.push(name, value);
        }
        *self = kept;
    }
}

fn is(name: &[u8], known: &HeaderName) -> bool {
    name.eq_ignore_ascii_case(known.as_str().as_bytes())
}

impl From<HeaderMap> for Fields {
    fn from(map: HeaderMap) -> Self {
        Fields::Map(Box::new(map))
    }
}

impl Fields {
    /// None, and no room for any.
    #[must_use]
    pub fn none() -> Self {
        Fields::Lines(Lines::default())
    }

    /// None yet, in the form that a client of this version is sent.
    #[must_use]
    pub fn new(status: StatusCode, version: Version) -> Self {
        match version {
            Version::HTTP_2 => Fields::from(HeaderMap::new()),
            _ => Fields::Lines(Lines::new(status, ROOM)),
        }
    }

    /// As a map, for whoever asks for more than is noted.
    #[must_use]
    pub fn map(&self) -> Cow<'_, HeaderMap> {
        match self {
            Fields::Map(map) => Cow::Borrowed(&**map),
            Fields::Lines(lines) => Cow::Owned(lines.to_map()),
        }
    }

    /// As a map.
    #[must_use]
    pub fn into_map(self) -> HeaderMap {
        match self {
            Fields::Map(map) => *map,
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

    /// Adds the two fields that every response has through us: how it came (RFC 9110 §7.6.3), behind
    /// what proxies before us have said, and the request id.
    pub fn add_ours(&mut self, via: &HeaderValue, id: &[u8]) {
        match self {
            Fields::Map(map) => {
                map.append(VIA, via.clone());
            }
            Fields::Lines(lines) => {
                lines.text.extend_from_slice(b"via: ");
                lines.text.extend_from_slice(via.as_bytes());
                lines.text.extend_from_slice(b"\r\n");
            }
        }
        self.set_request_id(id);
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
                lines.request_id = true;
                lines.text.extend_from_slice(b"x-request-id: ");
                lines.text.extend_from_slice(id);
                lines.text.extend_from_slice(b"\r\n");
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

    /// Removes every line whose name is listed, all of them in one pass.
    pub fn remove_listed(&mut self, listed: &Listed<HeaderName>) {
        match self {
            Fields::Map(map) => listed.iter().for_each(|name| {
                map.remove(name);
            }),
            Fields::Lines(lines) => lines.keep(|name| !listed.contains(name)),
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
            Fields::Lines(lines) => match lines.content_type {
                (0, 0) => None,
                (start, end) => lines.text.get(start as usize..end as usize),
            },
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
        [Fields::from(map), Fields::Lines(lines)]
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
            fields.add_ours(&HeaderValue::from_static("1.1 us"), b"ours");
            fields.remove(&HeaderName::from_static("set-cookie"));
            fields.append(&DATE, &HeaderValue::from_static("now"));
            fields.append(&X_ACCEL_BUFFERING, &HeaderValue::from_static("no"));
            assert!(fields.has_date() && fields.is_unbuffered());
            assert_eq!(fields.content_type(), Some(&b"text/html"[..]));
        }
        let [map, lines] = forms;
        assert_eq!(lines.map()["x-request-id"], "ours");
        assert_eq!(lines.map()["via"], "1.1 us");
        assert_eq!(map.into_map(), lines.into_map());
    }

    #[test]
    fn a_line_in_another_form_is_brought_into_ours_wherever_it_stands() {
        let lines = [
            ("A: 1", "A: 1"),
            ("te: x", ""),
            ("B:2", "B: 2"),
            ("Content-Type:\ta/b ", "Content-Type: a/b"),
            ("D: ", "D: "),
            ("Date: now", "Date: now"),
            ("F:", "F: "),
        ];
        let limits = (&crate::config::model::UpstreamLimits::default()).into();
        // Every order of neighbours: each line is the first, and each follows each.
        for first in 0..lines.len() {
            for step in 1..lines.len() {
                let order = (0..lines.len()).map(|at| lines[(first + at * step) % lines.len()]);
                let (mut head, mut expected) = ("x\r\n".to_owned(), String::new());
                for (given, written) in order {
                    head.extend([given, "\r\n"]);
                    expected.extend([written, if written.is_empty() { "" } else { "\r\n" }]);
                }
                head.push_str("\r\n");
                let mut reader = crate::upstream::http1::head::Reader::default();
                reader.read(head.as_bytes(), &limits, Known::of).unwrap().unwrap();
                let mut passed = Lines::new(StatusCode::OK, 0);
                let is_hop =
                    |line: &Line<Known>| Ok::<_, ()>(line.known.is_some_and(Known::stays_behind));
                passed.pass(head.as_bytes(), reader.lines(), is_hop).unwrap();
                let fields = Fields::Lines(passed);
                assert_eq!(fields.content_type(), Some(&b"a/b"[..]));
                assert!(fields.has_date());
                let Fields::Lines(passed) = fields else { panic!("lines") };
                let text = passed.into_text();
                assert_eq!(text, format!("HTTP/1.1 200 OK\r\n{expected}"));
            }
        }
    }

    #[test]
    fn lines_are_sent_as_they_came() {
        let [_, Fields::Lines(lines)] = both() else { panic!("lines") };
        let text = lines.into_text();
        assert!(text.starts_with(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nX-"));
        assert!(text.ends_with(b"X-Empty: \r\nset-cookie: b\r\n"));
    }
}

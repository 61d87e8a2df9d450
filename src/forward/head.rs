//! A request head, as it came: over HTTP/1.1 as lines, over HTTP/2 as a map.
//!
//! Nearly all of a request's fields pass unseen. Those of HTTP/1.1 stay the lines that they came as:
//! no name is hashed, no value counted as shared, and a line that passes is copied in one piece. What
//! somebody will ask for is recognised once, when the head is read ([`Known`]).

use std::borrow::Cow;
use std::slice;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header, request};

use crate::upstream::fields::line_of;
use crate::upstream::http1::head::is_hop_by_hop;

/// A request head.
#[derive(Debug, Default)]
pub struct Head {
    /// The method.
    pub method: Method,
    /// The target; with scheme and authority where the client has sent them.
    pub uri: Uri,
    /// What the client speaks.
    pub version: Version,
    /// The fields, those of the connection included.
    pub fields: Fields,
    /// What an extended CONNECT asks for (RFC 8441 §4).
    pub extended: Option<Extended>,
}

/// The protocol that an extended CONNECT asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extended {
    /// `websocket`.
    WebSocket,
    /// Any other.
    Other,
}

impl From<request::Parts> for Head {
    fn from(parts: request::Parts) -> Self {
        let protocol = parts.extensions.get::<hyper::ext::Protocol>();
        Head {
            method: parts.method,
            uri: parts.uri,
            version: parts.version,
            fields: Fields::from(parts.headers),
            extended: protocol.map(|protocol| match protocol.as_str() {
                "websocket" => Extended::WebSocket,
                _ => Extended::Other,
            }),
        }
    }
}

/// A field that every request is asked for, or that no request passes on as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Accept.
    Accept,
    /// Connection.
    Connection,
    /// Content-Length.
    ContentLength,
    /// Content-Type.
    ContentType,
    /// Cookie.
    Cookie,
    /// Expect.
    Expect,
    /// Forwarded (RFC 7239).
    Forwarded,
    /// Another one that describes the connection (RFC 9110 §7.6.1).
    HopByHop,
    /// Host.
    Host,
    /// `Seawall-Rehearse`.
    Rehearse,
    /// TE.
    Te,
    /// Transfer-Encoding.
    TransferEncoding,
    /// Upgrade.
    Upgrade,
    /// Via.
    Via,
    /// X-Forwarded-For.
    XForwardedFor,
    /// X-Forwarded-Host.
    XForwardedHost,
    /// X-Forwarded-Proto.
    XForwardedProto,
    /// X-Request-Id.
    XRequestId,
}

impl Known {
    /// Which one has this name, in whatever case.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        // By length first: most fields are told apart by it without a comparison.
        Some(match name.len() {
            2 if is("te") => Known::Te,
            3 if is("via") => Known::Via,
            4 if is("host") => Known::Host,
            6 if is("accept") => Known::Accept,
            6 if is("cookie") => Known::Cookie,
            6 if is("expect") => Known::Expect,
            7 if is("upgrade") => Known::Upgrade,
            9 if is("forwarded") => Known::Forwarded,
            10 if is("connection") => Known::Connection,
            12 if is("content-type") => Known::ContentType,
            12 if is("x-request-id") => Known::XRequestId,
            14 if is("content-length") => Known::ContentLength,
            15 if is("x-forwarded-for") => Known::XForwardedFor,
            16 if is("x-forwarded-host") => Known::XForwardedHost,
            16 if is("seawall-rehearse") => Known::Rehearse,
            17 if is("transfer-encoding") => Known::TransferEncoding,
            17 if is("x-forwarded-proto") => Known::XForwardedProto,
            _ => return is_hop_by_hop(name).then_some(Known::HopByHop),
        })
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Field lines, in the order in which they came.
#[derive(Debug, Default)]
pub struct Fields {
    form: Form,
    /// Which of the known ones are there.
    present: u32,
}

#[derive(Debug)]
enum Form {
    /// Boxed: it is larger than all else of a head together.
    Map(Box<HeaderMap>),
    /// A head, and where in it the lines are.
    Lines(Bytes, Vec<Line>),
}

impl Default for Form {
    fn default() -> Self {
        Form::Lines(Bytes::new(), Vec::new())
    }
}

#[derive(Clone, Copy, Debug)]
struct Line {
    known: Option<Known>,
    name_length: u16,
    name: u32,
    value: u32,
    value_length: u32,
}

impl Line {
    fn of(head: &[u8], known: Option<Known>, name: &[u8], value: &[u8]) -> Option<Self> {
        let at = place(head, name)?;
        Some(Line {
            known,
            name: at,
            name_length: name.len().try_into().ok()?,
            // What is empty is nowhere.
            value: if value.is_empty() { at } else { place(head, value)? },
            value_length: value.len().try_into().ok()?,
        })
    }
}

/// A field line.
#[derive(Clone, Copy, Debug)]
pub struct Field<'f> {
    /// Which one it is, if it is a known one.
    pub known: Option<Known>,
    /// The name, in the case in which it came.
    pub name: &'f [u8],
    /// The value, without whitespace around it.
    pub value: &'f [u8],
    origin: Origin<'f>,
}

#[derive(Clone, Copy, Debug)]
enum Origin<'f> {
    Map(&'f HeaderName, &'f HeaderValue),
    Line(&'f Bytes),
}

impl<'f> Field<'f> {
    /// The whole line as it came, with its CRLF, if it has the form in which we write lines.
    #[must_use]
    pub fn line(&self) -> Option<&'f [u8]> {
        match self.origin {
            Origin::Map(..) => None,
            Origin::Line(head) => line_of(head, self.name, self.value),
        }
    }

    /// As an entry of a map, which shares the value. `None` if it can be none: heads have been
    /// checked when they were read.
    #[must_use]
    pub fn to_entry(&self) -> Option<(HeaderName, HeaderValue)> {
        match self.origin {
            Origin::Map(name, value) => Some((name.clone(), value.clone())),
            Origin::Line(_) => Some((HeaderName::from_bytes(self.name).ok()?, self.to_value()?)),
        }
    }

    /// The value, shared.
    #[must_use]
    pub fn to_value(&self) -> Option<HeaderValue> {
        match self.origin {
            Origin::Map(_, value) => Some(value.clone()),
            Origin::Line(_) if self.value.is_empty() => Some(HeaderValue::from_static("")),
            Origin::Line(head) => HeaderValue::from_maybe_shared(head.slice_ref(self.value)).ok(),
        }
    }
}

impl Fields {
    /// None yet of the lines of this head, and room for so many.
    #[must_use]
    pub fn lines(head: Bytes, count: usize) -> Self {
        Fields { form: Form::Lines(head, Vec::with_capacity(count)), present: 0 }
    }

    /// Adds a line of the head that these are the [`Fields::lines`] of; a parser has found both parts
    /// valid. False if they are no part of it, or if no name may be so long.
    #[must_use]
    pub fn push(&mut self, known: Option<Known>, name: &[u8], value: &[u8]) -> bool {
        let Form::Lines(head, lines) = &mut self.form else { return false };
        let Some(line) = Line::of(head, known, name, value) else { return false };
        self.present |= known.map_or(0, Known::bit);
        lines.push(line);
        true
    }

    /// Whether there is one of these.
    #[must_use]
    pub fn has(&self, known: Known) -> bool {
        self.present & known.bit() != 0
    }

    /// The first value of this field.
    #[must_use]
    pub fn first(&self, known: Known) -> Option<&[u8]> {
        self.all(known).next()
    }

    /// Every value of this field.
    pub fn all(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        let fields = self.has(known).then(|| Iter { only: Some(known), ..self.iter() });
        fields.into_iter().flatten().map(|field| field.value)
    }

    /// Every line of this name, known or not.
    pub fn named(&self, name: &HeaderName) -> impl Iterator<Item = Field<'_>> {
        self.iter().filter(|field| field.name.eq_ignore_ascii_case(name.as_str().as_bytes()))
    }

    /// How many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.form {
            Form::Map(map) => map.len(),
            Form::Lines(_, lines) => lines.len(),
        }
    }

    /// Whether there is no line.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every line.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        let lines = match &self.form {
            Form::Map(map) => Lines::Map(map.iter()),
            Form::Lines(head, lines) => Lines::Lines(head, lines.iter()),
        };
        Iter { lines, only: None }
    }

    /// As a map, for whoever asks for more than is known.
    #[must_use]
    pub fn map(&self) -> Cow<'_, HeaderMap> {
        if let Form::Map(map) = &self.form {
            return Cow::Borrowed(map);
        }
        let mut map = HeaderMap::with_capacity(self.len());
        for (name, value) in self.iter().filter_map(|field| field.to_entry()) {
            map.append(name, value);
        }
        Cow::Owned(map)
    }
}

impl From<HeaderMap> for Fields {
    fn from(map: HeaderMap) -> Self {
        let known = map.keys().filter_map(|name| Known::of(name.as_str().as_bytes()));
        let present = known.fold(0, |present, known| present | known.bit());
        Fields { form: Form::Map(Box::new(map)), present }
    }
}

impl<'f> IntoIterator for &'f Fields {
    type Item = Field<'f>;
    type IntoIter = Iter<'f>;

    fn into_iter(self) -> Iter<'f> {
        self.iter()
    }
}

/// The lines of a head, one after the other.
#[derive(Debug)]
pub struct Iter<'f> {
    lines: Lines<'f>,
    /// Others are passed over.
    only: Option<Known>,
}

#[derive(Debug)]
enum Lines<'f> {
    Map(header::Iter<'f, HeaderValue>),
    Lines(&'f Bytes, slice::Iter<'f, Line>),
}

impl<'f> Iterator for Iter<'f> {
    type Item = Field<'f>;

    #[inline]
    fn next(&mut self) -> Option<Field<'f>> {
        let only = self.only;
        match &mut self.lines {
            Lines::Map(entries) => {
                let mut fields = entries.map(|(name, value)| {
                    let (origin, name) = (Origin::Map(name, value), name.as_str().as_bytes());
                    Field { known: Known::of(name), name, value: value.as_bytes(), origin }
                });
                fields.find(|field| only.is_none() || field.known == only)
            }
            Lines::Lines(head, lines) => {
                let line = lines.find(|line| only.is_none() || line.known == only)?;
                let part = |at: u32, length: u32| {
                    head.get(at as usize..at as usize + length as usize).unwrap_or_default()
                };
                Some(Field {
                    known: line.known,
                    name: part(line.name, line.name_length.into()),
                    value: part(line.value, line.value_length),
                    origin: Origin::Line(head),
                })
            }
        }
    }
}

/// Where in the head this part of it begins.
fn place(head: &[u8], part: &[u8]) -> Option<u32> {
    let at = (part.as_ptr() as usize).checked_sub(head.as_ptr() as usize)?;
    head.get(at..at.checked_add(part.len())?)?;
    at.try_into().ok()
}

#[cfg(test)]
/// Heads for the tests of others.
pub mod tests {
    use super::*;
    use http::header::{ACCEPT_LANGUAGE, COOKIE};

    /// The same head in both forms.
    pub fn both(request: request::Builder) -> [Head; 2] {
        let parts = request.body(()).unwrap().into_parts().0;
        let mut text = Vec::new();
        for (name, value) in &parts.headers {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        let text = Bytes::from(text);
        let mut fields = Fields::lines(text.clone(), 0);
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let colon = line.iter().position(|byte| *byte == b':').unwrap();
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            assert!(fields.push(Known::of(name), name, value));
        }
        let lines = Head {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            fields,
            extended: None,
        };
        [Head::from(parts), lines]
    }

    #[test]
    fn both_forms_say_the_same() {
        let request = http::Request::get("/a")
            .header("host", "h.test")
            .header("cookie", "a=1")
            .header("Accept-Language", "en")
            .header("cookie", "b=2")
            .header("x-empty", "");
        for head in both(request) {
            let fields = &head.fields;
            assert!(fields.has(Known::Host) && fields.has(Known::Cookie));
            assert!(!fields.has(Known::Accept) && fields.first(Known::Accept).is_none());
            assert_eq!(fields.first(Known::Host), Some(&b"h.test"[..]));
            assert_eq!(fields.all(Known::Cookie).collect::<Vec<_>>(), [b"a=1", b"b=2"]);
            assert_eq!(fields.named(&COOKIE).count(), 2);
            let language = fields.named(&ACCEPT_LANGUAGE).next().unwrap();
            assert_eq!(language.to_entry().unwrap(), (ACCEPT_LANGUAGE, "en".parse().unwrap()));
            assert_eq!((fields.len(), fields.is_empty()), (5, false));
            let map = fields.map();
            assert_eq!((map.len(), &map["x-empty"]), (5, &HeaderValue::from_static("")));
        }
    }

    #[test]
    fn names_are_known_in_whatever_case() {
        for (name, known) in [
            ("TE", Known::Te),
            ("hOST", Known::Host),
            ("Seawall-Rehearse", Known::Rehearse),
            ("x-forwarded-PROTO", Known::XForwardedProto),
            ("Proxy-Authorization", Known::HopByHop),
        ] {
            assert_eq!(Known::of(name.as_bytes()), Some(known), "{name}");
        }
        for name in ["", "user-agent", "x-forwarded-fox", "hosts"] {
            assert_eq!(Known::of(name.as_bytes()), None, "{name}");
        }
        assert!(Known::of(crate::failure::rehearsal::FIELD.as_str().as_bytes()).is_some());
    }

    #[test]
    fn a_part_of_something_else_is_no_line() {
        let mut fields = Fields::lines(Bytes::from_static(b"a: 1\r\n"), 1);
        assert!(!fields.push(None, b"a", b""));
        assert!(fields.is_empty());
    }
}

//! A request head, as it came: over HTTP/1.1 as lines, over HTTP/2 as a map.
//!
//! Nearly all of a request's fields pass unseen. Those of HTTP/1.1 stay the lines that they came as:
//! no name is hashed, no value counted as shared, and a line that passes is copied in one piece. What
//! somebody will ask for is recognised once, when the head is read ([`Known`]).

use std::borrow::Cow;
use std::slice;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header, request};

pub use crate::message::field::Known;
use crate::upstream::http1::lines::Line;

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
        let protocol = parts.extensions.get::<h2::ext::Protocol>();
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

/// The bit of a known field in a set of them. Those that nobody asks for share one.
const fn bit(known: Known) -> u32 {
    1 << if known.index() < ASKED { known.index() } else { ASKED }
}

/// How many of the table's first fields are asked for.
const ASKED: usize = 31;

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
    Lines(Bytes, Vec<Line<Known>>),
}

impl Default for Form {
    fn default() -> Self {
        Form::Lines(Bytes::new(), Vec::new())
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
    /// The lines of this head, which a reader has found there.
    #[must_use]
    pub fn lines(head: Bytes, lines: Vec<Line<Known>>) -> Self {
        let known = lines.iter().filter_map(|line| line.known);
        let present = known.fold(0, |present, known| present | bit(known));
        Fields { form: Form::Lines(head, lines), present }
    }

    /// Whether there is one of these.
    #[must_use]
    pub fn has(&self, known: Known) -> bool {
        debug_assert!(known.index() < ASKED, "{known:?} has no bit of its own");
        self.present & bit(known) != 0
    }

    /// The first value of this field.
    #[must_use]
    pub fn first(&self, known: Known) -> Option<&[u8]> {
        if !self.has(known) {
            return None;
        }
        match &self.form {
            Form::Map(_) => self.all(known).next(),
            Form::Lines(head, lines) => {
                lines.iter().find(|line| line.known == Some(known)).map(|line| line.value(head))
            }
        }
    }

    /// Whether there is more than one line of this field.
    #[must_use]
    pub fn is_repeated(&self, known: Known) -> bool {
        match &self.form {
            Form::Map(_) => self.all(known).nth(1).is_some(),
            Form::Lines(_, lines) => {
                lines.iter().filter(|line| line.known == Some(known)).nth(1).is_some()
            }
        }
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

    /// The head and the lines in it, if they came so.
    #[must_use]
    pub fn as_lines(&self) -> Option<(&Bytes, &[Line<Known>])> {
        match &self.form {
            Form::Map(_) => None,
            Form::Lines(head, lines) => Some((head, lines)),
        }
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
        let present = known.fold(0, |present, known| present | bit(known));
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
    Lines(&'f Bytes, slice::Iter<'f, Line<Known>>),
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
                Some(Field {
                    known: line.known,
                    name: line.name(head),
                    value: line.value(head),
                    origin: Origin::Line(head),
                })
            }
        }
    }
}

#[cfg(test)]
/// Heads for the tests of others.
pub mod tests {
    use super::*;
    use crate::upstream::http1::lines::Reader;
    use http::header::{ACCEPT_LANGUAGE, COOKIE};

    /// The fields of this head as lines.
    pub fn read(head: Vec<u8>) -> Fields {
        let limits = (&crate::config::model::UpstreamLimits::default()).into();
        let mut reader = Reader::default();
        reader.read(&head, &limits, Known::of).unwrap().unwrap();
        Fields::lines(head.into(), reader.take())
    }

    /// The same head in both forms.
    pub fn both(request: request::Builder) -> [Head; 2] {
        let parts = request.body(()).unwrap().into_parts().0;
        let mut text = b"GET / HTTP/1.1\r\n".to_vec();
        for (name, value) in &parts.headers {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"\r\n");
        let fields = read(text);
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
            ("Proxy-Authorization", Known::ProxyAuthorization),
        ] {
            assert_eq!(Known::of(name.as_bytes()), Some(known), "{name}");
        }
        for name in ["", "user-agent", "hosts"] {
            assert_eq!(Known::of(name.as_bytes()), None, "{name}");
        }
        assert!(Known::of(crate::failure::rehearsal::FIELD.as_str().as_bytes()).is_some());
    }
}

//! Which of our three media types a client prefers (RFC 9110 §12.5.1).
//!
//! The work is bounded on hostile input: one pass, no allocation, and of a long field only the
//! first 4 KiB count. Nothing in an `Accept` field is an error; an element that is not a media
//! range is skipped. Parameters other than `q` do not restrict a range, because a client that asks
//! for `application/json; charset=utf-8` means JSON.

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MediaType {
    /// `application/problem+json` (RFC 9457): for programs, and for everyone who does not say.
    Problem,
    /// `text/html`: for people at a browser.
    Html,
    /// `text/plain`: for people at a terminal, and when nothing that we have is acceptable.
    Plain,
}

/// Bytes of an `Accept` field that are looked at.
const LIMIT: usize = 4096;

/// How exactly a media range named a type; a more exact range wins (RFC 9110 §12.5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Exactness {
    #[default]
    Unnamed,
    Anything,
    Family,
    Related,
    Exact,
}

/// What the field says about one of our types: by which range, and with which weight (0–1000).
#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    exactness: Exactness,
    weight: u16,
}

impl Wish {
    fn hear(&mut self, exactness: Exactness, weight: u16) {
        // Of two equally exact ranges the more willing one counts.
        if exactness > self.exactness {
            *self = Wish { exactness, weight };
        } else if exactness == self.exactness {
            self.weight = self.weight.max(weight);
        }
    }
}

/// The media type for a client that sent this `Accept` field value, or none.
#[must_use]
pub fn choose(accept: Option<&[u8]>) -> MediaType {
    let Some(field) = accept else { return MediaType::Problem };
    let (field, cut) = match field.get(..LIMIT) {
        Some(prefix) if field.len() > LIMIT => (prefix, true),
        _ => (field, false),
    };
    let mut problem = Wish::default();
    let mut html = Wish::default();
    let mut plain = Wish::default();
    let mut heard = false;

    let mut elements = Split { rest: Some(field), at: b',' }.peekable();
    while let Some(element) = elements.next() {
        if cut && elements.peek().is_none() {
            break; // the element that the limit cut through
        }
        let Some((range, weight)) = parse(element) else { continue };
        heard = true;
        if range == b"*/*" {
            for wish in [&mut problem, &mut html, &mut plain] {
                wish.hear(Exactness::Anything, weight);
            }
        } else if range.eq_ignore_ascii_case(b"application/problem+json") {
            problem.hear(Exactness::Exact, weight);
        } else if range.eq_ignore_ascii_case(b"application/json") {
            // Who reads JSON reads a problem document: RFC 9457 §3 makes it plain JSON.
            problem.hear(Exactness::Related, weight);
        } else if range.eq_ignore_ascii_case(b"application/*") {
            problem.hear(Exactness::Family, weight);
        } else if range.eq_ignore_ascii_case(b"text/html") {
            html.hear(Exactness::Exact, weight);
        } else if range.eq_ignore_ascii_case(b"text/plain") {
            plain.hear(Exactness::Exact, weight);
        } else if range.eq_ignore_ascii_case(b"text/*") {
            html.hear(Exactness::Family, weight);
            plain.hear(Exactness::Family, weight);
        }
    }
    if !heard {
        return MediaType::Problem; // empty or unreadable: as if absent
    }

    // Weight first; then being named beats being covered by a wildcard; then our own preference.
    // HTML is for who asked for HTML: covered only by a wildcard, it comes last.
    let named = |wish: Wish| wish.exactness >= Exactness::Related;
    let (html_rank, plain_rank) = if named(html) { (1, 0) } else { (0, 1) };
    let ranked = [
        (problem.weight, named(problem), 2, MediaType::Problem),
        (html.weight, named(html), html_rank, MediaType::Html),
        (plain.weight, named(plain), plain_rank, MediaType::Plain),
    ];
    let best = ranked.iter().max_by_key(|(weight, named, rank, _)| (*weight, *named, *rank));
    match best {
        Some((weight, _, _, media_type)) if *weight > 0 => *media_type,
        _ => MediaType::Plain,
    }
}

/// A list element as its media range and weight; `None` if it is not one.
fn parse(element: &[u8]) -> Option<(&[u8], u16)> {
    let mut parts = Split { rest: Some(element), at: b';' };
    let range = parts.next()?.trim_ascii();
    let slash = memchr::memchr(b'/', range)?;
    if slash == 0 || slash + 1 == range.len() {
        return None;
    }
    let mut weight = 1000;
    for parameter in parts {
        let parameter = parameter.trim_ascii();
        if let Some(value) = parameter.strip_prefix(b"q=").or(parameter.strip_prefix(b"Q=")) {
            weight = qvalue(value)?;
        }
    }
    Some((range, weight))
}

/// `qvalue` in thousandths (RFC 9110 §12.4.2); further digits are ignored.
fn qvalue(text: &[u8]) -> Option<u16> {
    let (whole, fraction) = match memchr::memchr(b'.', text) {
        Some(dot) => (text.get(..dot)?, text.get(dot + 1..)?),
        None => (text, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let thousandths = fraction
        .iter()
        .chain(b"000")
        .take(3)
        .fold(0u16, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    match whole {
        b"0" => Some(thousandths),
        b"1" => Some(1000),
        _ => None,
    }
}

/// Splits at a delimiter outside quoted strings (RFC 9110 §5.6.4).
struct Split<'a> {
    rest: Option<&'a [u8]>,
    at: u8,
}

impl<'a> Iterator for Split<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest.take()?;
        let mut quoted = false;
        let mut escaped = false;
        for (index, byte) in rest.iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if *byte == self.at && !quoted => {
                    let (item, tail) = rest.split_at(index);
                    self.rest = tail.get(1..);
                    return Some(item);
                }
                _ => {}
            }
        }
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::MediaType::{Html, Plain, Problem};
    use super::*;

    #[test]
    fn the_client_gets_the_type_it_prefers() {
        let firefox = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        let chrome = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,\
                      image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7";
        let table: &[(&str, MediaType)] = &[
            // What real clients send.
            ("*/*", Problem),
            (firefox, Html),
            (chrome, Html),
            ("application/json, text/plain, */*", Problem),
            ("text/html, */*; q=0.01", Html),
            ("application/json", Problem),
            ("application/json; charset=utf-8", Problem),
            ("image/avif,image/webp,*/*;q=0.8", Problem),
            ("text/plain", Plain),
            ("text/html, text/plain, text/sgml, */*;q=0.01", Html),
            ("text/event-stream", Plain),
            ("image/png", Plain),
            // Nothing said.
            ("", Problem),
            (" , ,, ", Problem),
            (";;;", Problem),
            ("html", Problem),
            ("/", Problem),
            // Weights.
            ("text/html;q=0.5, application/problem+json;q=0.6", Problem),
            ("text/html;q=0.7, application/problem+json;q=0.6", Html),
            ("text/html ; q=0.700 , text/plain ; Q=0.701", Plain),
            ("text/html, application/json", Problem),
            ("TEXT/HTML", Html),
            // q=0 excludes.
            ("*/*;q=0", Plain),
            ("text/html;q=0, */*", Problem),
            ("application/json;q=0, */*", Plain),
            ("application/problem+json;q=0, application/json", Plain),
            ("application/json;q=0.000, text/plain;q=0, */*;q=0.1", Html),
            // Families.
            ("application/*", Problem),
            ("text/*", Plain),
            ("text/*, text/plain;q=0.1", Html),
            ("application/*;q=0.2, text/html;q=0.1", Problem),
            // An exact range wins over a wider one, whatever comes first.
            ("*/*, text/html;q=0.1, application/json;q=0.2", Plain),
            // Quoted strings hide delimiters.
            ("text/html;title=\"a,b;q=0\\\"\";q=0.9, text/plain;q=0.1", Html),
            ("text/html;title=\"never closed, application/json", Html),
            // Broken weights remove the element, not the field.
            ("text/html;q=2, text/plain;q=0.1", Plain),
            ("text/html;q=, text/plain;q=0.1", Plain),
            ("text/html;q=-1, text/plain", Plain),
            ("text/html;q=0.99999, text/plain;q=0.998", Html),
        ];
        for (accept, wanted) in table {
            assert_eq!(choose(Some(accept.as_bytes())), *wanted, "Accept: {accept}");
        }
        assert_eq!(choose(None), Problem);
    }

    #[test]
    fn a_hostile_field_is_cut_at_the_limit() {
        let mut long = b"text/plain;q=0.1,".repeat(10_000);
        long.extend_from_slice(b"text/html");
        assert_eq!(choose(Some(&long)), Plain);
        assert_eq!(choose(Some(&b"text/html;x=\"".repeat(100_000))), Problem);
        assert_eq!(choose(Some(&b",".repeat(1 << 20))), Problem);
        assert_eq!(choose(Some(&[0xff; 100])), Problem);
    }
}

//! The text that a person would see in a body: JSON escapes and HTML markup taken off.
//!
//! A stack trace inside JSON has `\n` as two characters, one inside HTML has `<br>` and `&nbsp;`.
//! Taking both off first lets one set of patterns serve all. This is no parser: it never fails,
//! never grows its input, makes one pass per layer, and what it does not know stays as it is
//! (`<anonymous>`, `<module>` and `<init>` belong to traces, not to HTML).

use std::borrow::Cow;

/// The text of a body: also of HTML in JSON, and of JSON in HTML.
pub(super) fn plain(body: &[u8]) -> Cow<'_, [u8]> {
    let text = unescaped(Cow::Borrowed(body));
    match memchr::memchr2(b'<', b'&', &text) {
        Some(_) => unescaped(Cow::Owned(unmark(&text))),
        None => text,
    }
}

fn unescaped(text: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    match memchr::memchr(b'\\', &text) {
        Some(_) => Cow::Owned(unescape(&text)),
        None => text,
    }
}

/// Takes off the escapes of JSON strings, at any depth of JSON in JSON: a run of backslashes
/// counts as one. A Windows path may lose its `\n` or `\t` to this; the patterns allow for it.
fn unescape(mut rest: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(rest.len());
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let (before, escape) = rest.split_at(at);
        text.extend_from_slice(before);
        let run = escape.iter().take_while(|byte| **byte == b'\\').count();
        let after = escape.get(run..).unwrap_or_default();
        let (byte, length) = match after {
            [b'n' | b'r', ..] => (b'\n', 1),
            [b't', ..] => (b'\t', 1),
            [byte @ (b'"' | b'\'' | b'/'), ..] => (*byte, 1),
            [b'u', b'0', b'0', high, low, ..] => match hex(*high, *low) {
                Some(byte) => (byte, 5),
                None => (b'\\', 0),
            },
            _ => (b'\\', 0),
        };
        text.push(byte);
        rest = after.get(length..).unwrap_or_default();
    }
    text.extend_from_slice(rest);
    text
}

/// An ASCII character from two hexadecimal digits.
fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = u8::try_from(digit(high)? * 16 + digit(low)?).ok()?;
    byte.is_ascii().then_some(byte)
}

/// Tags that begin a new line for the reader.
const BLOCKS: &[&[u8]] = &[
    b"br",
    b"p",
    b"div",
    b"li",
    b"ul",
    b"ol",
    b"tr",
    b"td",
    b"th",
    b"table",
    b"pre",
    b"h1",
    b"h2",
    b"h3",
    b"h4",
    b"h5",
    b"title",
    b"body",
    b"html",
    b"head",
    b"header",
    b"section",
    b"blockquote",
    b"textarea",
];

/// Tags within a line.
const INLINES: &[&[u8]] = &[
    b"a", b"b", b"i", b"u", b"em", b"strong", b"span", b"code", b"tt", b"font", b"small", b"mark",
    b"abbr", b"kbd", b"samp", b"cite", b"label", b"wbr",
];

const ENTITIES: &[(&[u8], u8)] = &[
    (b"&nbsp;", b' '),
    (b"&#160;", b' '),
    (b"&lt;", b'<'),
    (b"&#60;", b'<'),
    (b"&gt;", b'>'),
    (b"&#62;", b'>'),
    (b"&quot;", b'"'),
    (b"&#34;", b'"'),
    (b"&#x22;", b'"'),
    (b"&#39;", b'\''),
    (b"&#039;", b'\''),
    (b"&#x27;", b'\''),
    (b"&apos;", b'\''),
    (b"&#x60;", b'`'),
    (b"&#96;", b'`'),
    (b"&#47;", b'/'),
    (b"&#x2f;", b'/'),
    (b"&#x2F;", b'/'),
    (b"&#x2B;", b'+'),
    (b"&amp;", b'&'),
];

/// Takes off known HTML tags and entities.
fn unmark(mut rest: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(rest.len());
    // Bounds the search for tag ends: after the last `>` no `<` begins a tag.
    let last_end = memchr::memrchr(b'>', rest).map(|at| rest.len() - at);
    while let Some(at) = memchr::memchr2(b'<', b'&', rest) {
        let (before, mark) = rest.split_at(at);
        text.extend_from_slice(before);
        let (byte, length) = if mark.first() == Some(&b'&') {
            match ENTITIES.iter().find(|(entity, _)| mark.starts_with(entity)) {
                Some((entity, byte)) => (Some(*byte), entity.len()),
                None => (Some(b'&'), 1),
            }
        } else if last_end.is_some_and(|end| mark.len() >= end) {
            tag(mark).unwrap_or((Some(b'<'), 1))
        } else {
            (Some(b'<'), 1)
        };
        text.extend(byte);
        rest = mark.get(length..).unwrap_or_default();
    }
    text.extend_from_slice(rest);
    text
}

/// What a known tag at the start of `mark` is replaced by, and its length.
fn tag(mark: &[u8]) -> Option<(Option<u8>, usize)> {
    let inner = mark.strip_prefix(b"</").or(mark.strip_prefix(b"<"))?;
    let name = inner.get(..inner.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count())?;
    let is = |known: &&[u8]| known.eq_ignore_ascii_case(name);
    let byte = if BLOCKS.iter().any(is) {
        Some(b'\n')
    } else if INLINES.iter().any(is) {
        None
    } else {
        return None;
    };
    Some((byte, memchr::memchr(b'>', mark)? + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn markup_and_escapes_come_off() {
        let table: &[(&str, &str)] = &[
            ("nothing to do", "nothing to do"),
            (r#"{"stack":"Error: a\n    at b"}"#, "{\"stack\":\"Error: a\n    at b\"}"),
            (r"a\\nb\\\\nc", "a\nb\nc"),
            (r#"say \"x\" \u003cinit\u003e \u0027"#, "say \"x\" <init> '"),
            (r"\/var\/www App\\Http\u12", r"/var/www App\Http\u12"),
            ("end\\", "end\\"),
            ("a<br>b<br />c<BR/>d", "a\nb\nc\nd"),
            ("<b>Fatal error</b>: x", "Fatal error: x"),
            ("&lt;module&gt; &amp;lt; &unknown; &", "<module> &lt; &unknown; &"),
            ("at Object.<anonymous> (x)", "at Object.<anonymous> (x)"),
            ("<span class=\"a\">x</span> <init>", "x <init>"),
            ("<b unclosed", "<b unclosed"),
            ("a < b > c", "a < b > c"),
            ("<!-- comment -->", "<!-- comment -->"),
        ];
        for (body, text) in table {
            assert_eq!(String::from_utf8_lossy(&plain(body.as_bytes())), *text, "{body}");
        }
    }

    #[test]
    fn hostile_markup_takes_one_pass() {
        // Quadratic work on these would be billions of steps.
        for piece in ["<b", "<", "&", "\\", "\\u00", "<b <", "&#x2"] {
            let body = piece.repeat(1 << 17);
            assert!(plain(body.as_bytes()).len() <= body.len());
        }
        let mut body = "<b".repeat(1 << 17);
        body.push('>');
        assert!(plain(body.as_bytes()).len() <= body.len());
    }

    proptest! {
        #[test]
        fn text_never_grows(body in "[<>&\\\\a-z;/\"#0-9\n]{0,200}") {
            prop_assert!(plain(body.as_bytes()).len() <= body.len());
        }

        #[test]
        fn any_bytes_are_fine(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(plain(&body).len() <= body.len());
        }
    }
}

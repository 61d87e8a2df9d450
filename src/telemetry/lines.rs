//! Log lines as JSON: `timestamp`, `level`, `message`, the event's fields, `target`.
//!
//! tracing-subscriber's own formatter makes the same lines and costs four times as much: a failing
//! upstream writes one for each request. A line is made in one piece and written in one call, so that
//! lines of several workers never mix.

use std::cell::RefCell;
use std::fmt::{self, Debug, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{self, FormatTime as _};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// What most lines need; a longer one grows.
const USUAL: usize = 768;

/// Writes events as JSON lines.
#[derive(Clone, Copy, Debug)]
pub struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut line = Line { text: String::with_capacity(USUAL), from: None };
        line.text.push_str("{\"timestamp\":\"");
        push_time(&mut line.text)?;
        line.text.push_str("\",\"level\":\"");
        line.text.push_str(metadata.level().as_str());
        line.text.push('"');
        event.record(&mut line);
        let Line { mut text, from } = line;
        text.push_str(",\"target\":");
        push_text(&mut text, from.as_deref().unwrap_or(metadata.target()));
        text.push_str("}\n");
        writer.write_str(&text)
    }
}

/// A line in the making.
struct Line {
    text: String,
    /// Where an event of the `log` crate came from: it says so in a field.
    from: Option<String>,
}

impl Line {
    /// The name of a field; false if it is none for a reader.
    fn name(&mut self, field: &Field) -> bool {
        // What the bridge from the `log` crate adds.
        if field.name().starts_with("log.") {
            return false;
        }
        // Names are written in the program, where nobody writes one that needs to be escaped.
        let name = field.name();
        debug_assert_eq!(find_special(name.as_bytes()), None, "{name}");
        self.text.reserve(name.len() + 4);
        self.text.push_str(",\"");
        self.text.push_str(name);
        self.text.push_str("\":");
        true
    }

    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        if self.name(field) {
            // Writing to a string cannot fail.
            let _ = write!(self.text, "{value}");
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            self.from = Some(value.to_owned());
        } else if self.name(field) {
            push_text(&mut self.text, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.name(field) {
            self.text.push('"');
            let _ = write!(Escaped(&mut self.text), "{value:?}");
            self.text.push('"');
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON knows no infinity (RFC 8259 §6).
        if value.is_finite() {
            self.plain(field, value);
        } else {
            self.record_debug(field, &value);
        }
    }
}

/// The second of the line before, and its time as far as it is the same for the whole second.
#[derive(Default)]
struct Second {
    number: u64,
    text: String,
}

thread_local! {
    static SECOND: RefCell<Second> = RefCell::default();
}

/// Appends the time in UTC, to the microsecond (RFC 3339).
///
/// The calendar is asked once a second: it was a third of what a line costs.
fn push_time(line: &mut String) -> fmt::Result {
    let since = |now: SystemTime| now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let now = since(SystemTime::now());
    SECOND.with_borrow_mut(|second| {
        if second.number != now.as_secs() || second.text.is_empty() {
            let mut text = String::new();
            time::SystemTime.format_time(&mut Writer::new(&mut text))?;
            // The formatter has looked at the clock itself, perhaps in the next second.
            if since(SystemTime::now()).as_secs() != now.as_secs() {
                line.push_str(&text);
                return Ok(());
            }
            text.truncate(text.find('.').unwrap_or(text.len()));
            *second = Second { number: now.as_secs(), text };
        }
        line.push_str(&second.text);
        line.push('.');
        let mut place = 100_000;
        while place > 0 {
            let digit = char::from_digit(now.subsec_micros() / place % 10, 10);
            line.push(digit.unwrap_or('0'));
            place /= 10;
        }
        line.push('Z');
        Ok(())
    })
}

fn push_text(line: &mut String, text: &str) {
    line.push('"');
    push_escaped(line, text);
    line.push('"');
}

/// Whether this byte may have to be escaped.
fn may_be_special(byte: u8) -> bool {
    // A C1 control is two bytes, of which this is the first one; so it is of some letters.
    const C1: u8 = 0xc2;
    byte < 0x20 || matches!(byte, b'"' | b'\\' | 0x7f | C1)
}

/// Where the first byte is that may have to be escaped. A line has hundreds of bytes, nearly all of
/// them plain, and a failing upstream has many lines: eight of them are looked at as a word.
fn find_special(text: &[u8]) -> Option<usize> {
    // The last word may have bytes that have been looked at.
    let last = text.len().checked_sub(size_of::<u64>());
    let mut at = 0;
    while let Some(word) = text.get(at..).and_then(<[u8]>::first_chunk) {
        if may_have_special(u64::from_ne_bytes(*word)) {
            break;
        }
        at = match last {
            Some(last) if at < last => last.min(at + size_of::<u64>()),
            _ => return None,
        };
    }
    let rest = text.get(at..).unwrap_or_default();
    Some(at + rest.iter().position(|byte| may_be_special(*byte))?)
}

/// Whether one of these bytes may have to be escaped, or is not ASCII.
fn may_have_special(word: u64) -> bool {
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let has = |byte: u8| (word ^ each(byte)).wrapping_sub(each(1));
    let control = word.wrapping_sub(each(b' '));
    (word | control | has(b'"') | has(b'\\') | has(0x7f)) & each(0x80) != 0
}

/// Escapes what JSON demands (RFC 8259 §7), and DEL and the C1 controls, which a terminal might obey.
fn push_escaped(line: &mut String, text: &str) {
    let mut rest = text;
    while let Some((plain, special)) =
        find_special(rest.as_bytes()).and_then(|at| rest.split_at_checked(at))
    {
        line.push_str(plain);
        let mut characters = special.chars();
        match characters.next() {
            Some('\n') => line.push_str("\\n"),
            Some('\r') => line.push_str("\\r"),
            Some('\t') => line.push_str("\\t"),
            Some(c @ ('"' | '\\')) => line.extend(['\\', c]),
            Some(c) if c.is_control() => {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            other => line.extend(other),
        }
        rest = characters.as_str();
    }
    line.push_str(rest);
}

/// Escapes what is written to it.
struct Escaped<'l>(&'l mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        push_escaped(self.0, text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that this logs, as text.
    fn logged(log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::fmt()
            .event_format(Lines)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_special_byte_is_found_wherever_it_stands() {
        for length in 0..40 {
            for plain in [b'a', 0xe4] {
                let mut text = vec![plain; length];
                assert_eq!(find_special(&text), None);
                for at in 0..length {
                    for byte in 0..=u8::MAX {
                        text[at] = byte;
                        let found = may_be_special(byte).then_some(at);
                        assert_eq!(find_special(&text), found, "{byte} at {at} of {length}");
                    }
                    text[at] = plain;
                }
            }
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let (mut before, mut ours, mut after) = Default::default();
        let calendar =
            |text: &mut String| time::SystemTime.format_time(&mut Writer::new(text)).unwrap();
        // The second time, what was written first is used again.
        for _ in 0..2 {
            for text in [&mut before, &mut ours, &mut after] {
                String::clear(text);
            }
            calendar(&mut before);
            push_time(&mut ours).unwrap();
            calendar(&mut after);
            assert!(before <= ours && ours <= after, "{before} {ours} {after}");
            assert_eq!(ours.len(), "2026-11-24T02:15:00.000000Z".len());
        }
    }

    #[test]
    fn a_line_has_its_fields_in_order_and_is_json() {
        let text = logged(|| {
            let none: Option<u16> = None;
            tracing::warn!(
                id = "a",
                status = 500_u16,
                none,
                negative = -3_i64,
                yes = true,
                seconds = 0.25,
                never = f64::NAN,
                version = ?http::Version::HTTP_11,
                "it \"broke\""
            );
        });
        let (line, rest) = text.split_once('\n').unwrap();
        assert_eq!(rest, "");
        let (timestamp, fields) = line.split_once("\",\"level\"").unwrap();
        assert!(timestamp.starts_with("{\"timestamp\":\"20") && timestamp.ends_with('Z'));
        assert_eq!(
            fields,
            ":\"WARN\",\"message\":\"it \\\"broke\\\"\",\"id\":\"a\",\"status\":500,\
             \"negative\":-3,\"yes\":true,\"seconds\":0.25,\"never\":\"NaN\",\
             \"version\":\"HTTP/1.1\",\"target\":\"seawall::telemetry::lines::tests\"}"
        );
    }

    #[test]
    fn whatever_an_app_says_stays_one_line_and_comes_back_as_it_was() {
        let said = "\u{1b}[31mred\n{\"a\":\"b\\c\"}\r\n\t\0\u{7f}\u{9b}ä£©€\u{1f480}";
        let text = logged(|| tracing::info!(said, debugged = ?said, "x"));
        assert_eq!(text.matches('\n').count(), 1);
        assert!(!text.trim_end().chars().any(char::is_control), "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["said"], said);
        assert_eq!(line["debugged"], format!("{said:?}"));
    }
}

//! The hold (P2): a response that fits and that nobody reads as a stream is not committed before
//! it is whole, so that an upstream that dies in the middle of it costs the client a 500 and never
//! half a 200.
//!
//! Before: `response` has the head. After: the response is whole, or it is committed with what was
//! held so far and flows on through `content`. A healthy small response is whole at its first poll:
//! holding costs it nothing.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use super::replay::Reader;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use tokio::time::{Instant, sleep_until};

use crate::config::model::Hold;
use crate::upstream::exchange::{Broken, Exchange, Piece};
use crate::upstream::exchange::{Framing, ResponseHead};
use crate::upstream::fields::Fields;
use crate::upstream::pieces::Pieces;

/// How long a response of unknown length is held that may be read as a stream. Long enough for an
/// app that writes its answer in two pieces, too short for anybody to see.
const UNKNOWN_LENGTH: Duration = Duration::from_millis(10);

/// How long, and how much of, a response is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    bytes: usize,
    time: Duration,
}

impl Terms {
    /// Nothing is held.
    #[must_use]
    pub fn none() -> Self {
        Terms { bytes: 0, time: Duration::ZERO }
    }

    /// The terms for this response.
    #[must_use]
    pub fn of(head: &ResponseHead, hold: &Hold) -> Self {
        let none = Terms::none();
        if hold.bytes == 0 || is_stream(&head.fields) {
            return none;
        }
        match head.framing {
            // Nothing to hold.
            Framing::Empty => Terms { bytes: hold.bytes, time: hold.time },
            Framing::Length(length) if length > hold.bytes as u64 => none,
            Framing::Length(_) => Terms { bytes: hold.bytes, time: hold.time },
            Framing::Chunked | Framing::Close if is_useless_in_part(&head.fields, hold) => {
                Terms { bytes: hold.bytes, time: hold.time }
            }
            Framing::Chunked | Framing::Close => {
                Terms { bytes: hold.bytes, time: UNKNOWN_LENGTH.min(hold.time) }
            }
        }
    }

    /// Holds at least so much for so long: an app's error answer is looked at before it is sent.
    #[must_use]
    pub fn at_least(self, bytes: usize, time: Duration) -> Self {
        Terms { bytes: self.bytes.max(bytes), time: self.time.max(time) }
    }
}

/// What came of holding.
#[derive(Debug, Default)]
pub struct Held {
    /// The content so far.
    pub pieces: Pieces,
    /// Its trailers, if it is whole and has any.
    pub trailers: Option<Box<HeaderMap>>,
    /// Nothing follows.
    pub whole: bool,
    /// It was not all there with its head.
    pub waited: bool,
}

/// Holds the response until it is whole, too large, or time is up.
///
/// # Errors
/// When either side fails before that: nothing has been committed.
pub async fn hold(exchange: &mut Exchange<Reader>, terms: Terms) -> Result<Held, Broken> {
    let mut held = Held::default();
    let mut size = 0;
    // The timer is made only for a response that is not whole at once.
    let mut timer = None;
    if terms.bytes == 0 {
        held.whole = exchange.is_whole();
        return Ok(held);
    }
    loop {
        let piece = poll_fn(|cx| {
            if let Poll::Ready(piece) = exchange.poll_content(cx) {
                return Poll::Ready(Some(piece));
            }
            held.waited = true;
            let timer =
                timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + terms.time)));
            timer.as_mut().poll(cx).map(|()| None)
        })
        .await;
        match piece {
            // Time is up.
            None => return Ok(held),
            Some(None) => {
                held.whole = true;
                return Ok(held);
            }
            Some(Some(Err(broken))) => return Err(broken),
            Some(Some(Ok(Piece::Trailers(trailers)))) => {
                held.trailers = Some(Box::new(trailers));
                held.whole = true;
                return Ok(held);
            }
            Some(Some(Ok(Piece::Data(data)))) => {
                size += data.len();
                held.pieces.keep(data);
                if size > terms.bytes {
                    return Ok(held);
                }
            }
        }
    }
}

/// Responses that are read while they arrive.
fn is_stream(fields: &Fields) -> bool {
    if fields.is_unbuffered() {
        return true;
    }
    let media_type = media_type(fields);
    let is = |stream: &[u8]| media_type.eq_ignore_ascii_case(stream);
    let is_stream = match media_type.len() {
        17 => is(b"text/event-stream") || is(b"application/jsonl"),
        18 => is(b"application/ndjson"),
        20 => is(b"application/x-ndjson") || is(b"application/json-seq"),
        _ => false,
    };
    is_stream
        || starts_with_ignore_case(media_type, b"multipart/")
        || starts_with_ignore_case(media_type, b"application/grpc")
}

/// Media types of which half is worth nothing.
fn is_useless_in_part(fields: &Fields, hold: &Hold) -> bool {
    let media_type = media_type(fields);
    hold.types.iter().any(|pattern| pattern.matches(media_type))
}

fn media_type(fields: &Fields) -> &[u8] {
    let value = fields.content_type().unwrap_or_default();
    let end = memchr::memchr(b';', value).unwrap_or(value.len());
    value.get(..end).unwrap_or_default().trim_ascii()
}

fn starts_with_ignore_case(value: &[u8], prefix: &[u8]) -> bool {
    value.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// The bytes still due to the client when the response has a Content-Length.
pub fn length(head: &ResponseHead) -> Option<u64> {
    match head.framing {
        Framing::Length(length) => Some(length),
        Framing::Empty => Some(0),
        Framing::Chunked | Framing::Close => {
            debug_assert!(!head.fields.contains(&CONTENT_LENGTH), "framing came from it");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::CONTENT_TYPE;
    use http::{HeaderName, HeaderValue};

    fn head(framing: Framing, media_type: &'static str) -> ResponseHead {
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        ResponseHead { fields: fields.into(), framing, ..ResponseHead::awaited() }
    }

    #[test]
    fn what_is_held_and_for_how_long() {
        let hold = Hold::default();
        let full = Terms { bytes: hold.bytes, time: hold.time };
        let brief = Terms { bytes: hold.bytes, time: UNKNOWN_LENGTH };
        let none = Terms { bytes: 0, time: Duration::ZERO };
        let rows = [
            (Framing::Length(65_536), "text/html", full),
            (Framing::Length(65_537), "text/html", none),
            (Framing::Chunked, "application/json; charset=utf-8", full),
            (Framing::Close, "application/problem+JSON", full),
            (Framing::Chunked, "image/svg+xml", full),
            (Framing::Chunked, "text/html", brief),
            (Framing::Length(5), "text/event-stream", none),
            (Framing::Chunked, "application/x-ndjson", none),
            (Framing::Chunked, "Application/NDJSON", none),
            (Framing::Chunked, "application/jsonl", none),
            (Framing::Chunked, "application/json-seq", none),
            (Framing::Chunked, "multipart/x-mixed-replace", none),
            (Framing::Chunked, "application/grpc+proto", none),
        ];
        for (framing, media_type, expected) in rows {
            assert_eq!(Terms::of(&head(framing, media_type), &hold), expected, "{media_type}");
        }
        let mut unbuffered = head(Framing::Length(5), "text/html");
        let name = HeaderName::from_static("x-accel-buffering");
        unbuffered.fields.append(&name, &HeaderValue::from_static("no"));
        assert_eq!(Terms::of(&unbuffered, &hold), none);
    }
}

//! The framing of a message's content: one value, from which follow both what is written and what is
//! awaited (RFC 9112 §6).
//!
//! A head that announces content which is not sent, or less than is sent, makes the next head on the
//! connection a part of that content: somebody else's request would be read as this one's. So a head
//! with its framing is one value, [`Announced`], and the line that tells the framing is written where
//! that value is made.

use bytes::BytesMut;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Request};

use super::http1::upload::extend_decimal;

/// How the content of a message is delimited (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no content.
    Empty,
    /// Exactly so many bytes.
    Length(u64),
    /// Until its own end mark, with trailers: chunks in HTTP/1.1, END_STREAM in HTTP/2.
    Chunked,
    /// Until the connection ends.
    Close,
}

/// A head that announces its content, and how.
#[derive(Debug)]
pub struct Announced<H> {
    head: H,
    framing: Framing,
}

/// What a head says that has no content behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// `content-length: 0` (RFC 9110 §8.6).
    Said,
    /// Nothing: the method or the status says it, or the head describes what a GET would get.
    Understood,
}

impl<H> Announced<H> {
    /// Returns the head.
    pub fn head(&self) -> &H {
        &self.head
    }

    /// Returns how the content is framed.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Returns the head and how its content is framed, for the sender of both.
    pub fn into_parts(self) -> (H, Framing) {
        (self.head, self.framing)
    }
}

impl Announced<BytesMut> {
    /// Returns a head of HTTP/1.1 whose lines so far are `head`, with the line that tells the framing
    /// behind them.
    pub fn lines(mut head: BytesMut, framing: Framing, absence: Absence) -> Self {
        match (framing, absence) {
            (Framing::Length(length), _) => {
                head.extend_from_slice(b"content-length: ");
                extend_decimal(&mut head, length);
                head.extend_from_slice(b"\r\n");
            }
            (Framing::Chunked, _) => head.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            (Framing::Empty, Absence::Said) => head.extend_from_slice(b"content-length: 0\r\n"),
            (Framing::Empty, Absence::Understood) | (Framing::Close, _) => {}
        }
        Announced { head, framing }
    }

    /// Appends lines that say nothing of the content, or the empty line that ends the head.
    pub fn push(&mut self, lines: &[u8]) {
        self.head.extend_from_slice(lines);
    }

    /// Puts what has to leave first before the head.
    pub fn put_before(&mut self, earlier: BytesMut) {
        if !earlier.is_empty() {
            let head = std::mem::replace(&mut self.head, earlier);
            self.head.unsplit(head);
        }
    }

    /// Appends with this function, which says nothing of the content.
    pub fn push_with(&mut self, write: impl FnOnce(&mut BytesMut)) {
        write(&mut self.head);
    }
}

impl Announced<Request<()>> {
    /// Returns a request of HTTP/2 that tells the framing of its content (RFC 9113 §8.1.1).
    pub fn request(mut head: Request<()>, framing: Framing, absence: Absence) -> Self {
        let length = match (framing, absence) {
            (Framing::Length(length), _) => Some(HeaderValue::from(length)),
            (Framing::Empty, Absence::Said) => Some(HeaderValue::from_static("0")),
            (Framing::Empty, Absence::Understood) | (Framing::Chunked | Framing::Close, _) => None,
        };
        head.headers_mut().remove(CONTENT_LENGTH);
        if let Some(length) = length {
            head.headers_mut().insert(CONTENT_LENGTH, length);
        }
        Announced { head, framing }
    }
}

//! A request on its way to an upstream: its head, then its content, framed again (RFC 9112 §6).
//!
//! The head and the first content leave in one write. Small content is copied behind what is
//! already waiting, large content is written from where it lies. The upload never runs ahead of
//! the socket: content is taken from the client only when everything before it was accepted, which
//! is the back-pressure of P6.
//!
//! `listen::http1` sends responses in the same way. What is called the upstream here is the client
//! then, and what is called the client is the response's content.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
use tokio::io::AsyncWrite;

use crate::failure::Source;
use crate::upstream::exchange::Framing;
use crate::upstream::upload::{ContentLimit, Meter, UploadError, Waiting};

/// Content up to this size is copied behind the head; more is a second entry of a vectored write,
/// which at 16 KiB takes 7 % less CPU (benches/README.md).
const COPY_LIMIT: usize = 4 * 1024;

const CRLF: &[u8] = b"\r\n";

/// One request being sent.
#[derive(Debug)]
pub struct Upload<B> {
    out: BytesMut,
    large: Bytes,
    chunk_end_due: bool,
    body: Option<B>,
    framing: Framing,
    may_send_content: bool,
    meter: Meter,
    /// The writer has not taken all that it was given.
    blocked: bool,
    sent: u64,
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Source>,
{
    /// An upload of this head and this content.
    ///
    /// `expects_continue` holds the content back until [`Upload::proceed`]. More than
    /// the `content_limit`'s bytes of content are refused as the client's failure.
    pub fn new(
        head: BytesMut,
        body: Option<B>,
        framing: Framing,
        expects_continue: bool,
        content_limit: ContentLimit,
    ) -> Self {
        let body = body.filter(|_| framing != Framing::Empty);
        Upload {
            out: head,
            large: Bytes::new(),
            chunk_end_due: false,
            body,
            framing,
            may_send_content: !expects_continue,
            blocked: false,
            meter: Meter::new(content_limit, framing),
            sent: 0,
        }
    }

    /// The upstream said 100, or has been waited for long enough: send the content.
    pub fn proceed(&mut self) {
        self.may_send_content = true;
    }

    /// Bytes that the kernel has accepted: 0 means that nothing reached the upstream.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends as much as can be sent now. Tells what it waits for; the task is woken when that may
    /// have changed. Cancel-safe: it is a poll.
    ///
    /// # Errors
    /// When either side fails. The upload is over then.
    pub fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Result<Waiting, UploadError> {
        loop {
            let waiting = if self.blocked { None } else { self.gather(cx)? };
            match self.poll_write_out(stream, cx) {
                Poll::Ready(Ok(())) => self.blocked = false,
                Poll::Ready(Err(error)) => return Err(UploadError::Upstream(error)),
                Poll::Pending => {
                    self.blocked = true;
                    return Ok(Waiting::Upstream);
                }
            }
            if let Some(waiting) = waiting {
                return Ok(waiting);
            }
        }
    }

    /// Takes content until there is enough for a write: `None`, or why there is no more now.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<Option<Waiting>, UploadError> {
        while self.large.is_empty() && self.out.len() < COPY_LIMIT {
            let Some(body) = self.body.as_mut() else { return Ok(Some(Waiting::Done)) };
            if !self.may_send_content {
                return Ok(Some(Waiting::Continue));
            }
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => {
                    self.meter.waits();
                    return Ok(Some(Waiting::Client));
                }
                Poll::Ready(Some(Ok(frame))) => self.enqueue(frame)?,
                Poll::Ready(Some(Err(error))) => {
                    return Err(UploadError::content(error.into()));
                }
                Poll::Ready(None) => self.finish(None)?,
            }
        }
        Ok(None)
    }

    fn enqueue(&mut self, frame: http_body::Frame<Bytes>) -> Result<(), UploadError> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.finish(frame.into_trailers().ok()),
        };
        if data.is_empty() {
            return Ok(());
        }
        self.meter.take(data.len())?;
        let chunked = self.framing == Framing::Chunked;
        if chunked {
            extend_hex(&mut self.out, data.len());
        }
        if data.len() > COPY_LIMIT {
            self.large = data;
            self.chunk_end_due = chunked;
            return Ok(());
        }
        self.out.extend_from_slice(&data);
        if chunked {
            self.out.extend_from_slice(CRLF);
        }
        Ok(())
    }

    fn finish(&mut self, trailers: Option<http::HeaderMap>) -> Result<(), UploadError> {
        self.body = None;
        if self.framing == Framing::Chunked {
            self.out.extend_from_slice(b"0\r\n");
            for (name, value) in trailers.iter().flatten() {
                if !super::head::is_hop_by_hop(name.as_str().as_bytes()) {
                    extend_field(&mut self.out, name.as_str().as_bytes(), value.as_bytes());
                }
            }
            self.out.extend_from_slice(b"\r\n");
        }
        self.meter.finish(self.framing)
    }

    /// Forgets `count` bytes that the kernel has accepted.
    fn consume(&mut self, count: usize) {
        let from_out = count.min(self.out.len());
        self.out.advance(from_out);
        let from_large = (count - from_out).min(self.large.len());
        self.large.advance(from_large);
        if self.chunk_end_due && self.large.is_empty() {
            self.chunk_end_due = false;
            let written = count - from_out - from_large;
            self.out.extend_from_slice(CRLF.get(written..).unwrap_or_default());
        }
    }

    fn poll_write_out<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !(self.out.is_empty() && self.large.is_empty()) {
            let stream = Pin::new(&mut *stream);
            let polled = if self.large.is_empty() {
                stream.poll_write(cx, &self.out)
            } else {
                let end = if self.chunk_end_due { CRLF } else { b"" };
                let pieces =
                    [IoSlice::new(&self.out), IoSlice::new(&self.large), IoSlice::new(end)];
                // A writer that takes one piece a call takes the first that is not empty.
                let from = usize::from(self.out.is_empty());
                stream.poll_write_vectored(cx, pieces.get(from..).unwrap_or(&pieces))
            };
            let count = match polled {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            };
            self.sent += count as u64;
            self.consume(count);
        }
        Pin::new(stream).poll_flush(cx)
    }
}

/// Appends `name: value CRLF`.
pub fn extend_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a chunk-size line.
fn extend_hex(out: &mut BytesMut, size: usize) {
    let mut digits = [0_u8; 16];
    let mut from = digits.len();
    let mut left = size;
    for (place, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b"0123456789abcdef".get(left & 15).copied().unwrap_or(b'0');
        left >>= 4;
        from = place;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(from..).unwrap_or_default());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_hexadecimal() {
        for size in [0, 1, 9, 10, 15, 16, 255, 4096, 0x00de_adbe, usize::MAX] {
            let mut out = BytesMut::new();
            extend_hex(&mut out, size);
            assert_eq!(out, format!("{size:x}\r\n").as_bytes());
        }
    }
}

//! What waits to be written to one side.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::websocket::frame::Header;

/// Bytes that a side did not take at once. While there are any, the other side is not read: so
/// there are never more than one read, one control frame of ours and one Close.
#[derive(Debug, Default)]
pub struct Pending {
    bytes: Vec<u8>,
    written: usize,
    unflushed: bool,
    blocked_since: Option<Instant>,
}

impl Pending {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.unflushed
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Pending::default();
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Adds a frame header.
    pub fn push_header(&mut self, header: &Header) {
        header.write(&mut self.bytes);
    }

    /// Since when the side has taken nothing.
    pub fn blocked_since(&self) -> Option<Instant> {
        self.blocked_since
    }

    /// Whether the side has taken nothing for so long.
    pub fn is_blocked_for(&self, limit: Duration, now: Instant) -> bool {
        self.blocked_since.is_some_and(|since| now >= since + limit)
    }

    /// Writes `data` behind what waits, at once as far as possible.
    ///
    /// # Errors
    /// If the side fails.
    pub fn send<W: AsyncWrite + Unpin>(
        &mut self,
        io: &mut W,
        mut data: &[u8],
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        if self.bytes.is_empty() {
            while !data.is_empty() {
                match Pin::new(&mut *io).poll_write(cx, data) {
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(count)) => {
                        self.progressed();
                        data = data.get(count..).unwrap_or_default();
                    }
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => break,
                }
            }
        }
        self.push(data);
        match self.poll_flush(io, cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    /// Writes what waits.
    pub fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        io: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.written < self.bytes.len() {
            let rest = self.bytes.get(self.written..).unwrap_or_default();
            match Pin::new(&mut *io).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    self.progressed();
                    self.written += count;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return self.blocked(),
            }
        }
        if self.written > 0 {
            // An idle WebSocket holds no buffer.
            self.bytes = Vec::new();
            self.written = 0;
        }
        if self.unflushed {
            match Pin::new(io).poll_flush(cx) {
                Poll::Ready(result) => {
                    result?;
                    self.unflushed = false;
                    self.blocked_since = None;
                }
                Poll::Pending => return self.blocked(),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn progressed(&mut self) {
        self.unflushed = true;
        self.blocked_since = None;
    }

    fn blocked(&mut self) -> Poll<io::Result<()>> {
        self.blocked_since.get_or_insert_with(Instant::now);
        Poll::Pending
    }
}

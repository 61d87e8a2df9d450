//! An upstream's stream that breaks on demand: after so many messages, between two frames.
//!
//! What comes behind the last of them is never seen; then reading fails with [`Rehearsed`], which
//! classification knows. Writing goes on as it was. See [`crate::failure::rehearsal`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::{Header, MAX_HEADER};
use crate::failure::rehearsal::Rehearsed;

/// A stream that breaks.
#[derive(Debug)]
pub struct Rehearsing<'s, S> {
    inner: &'s mut S,
    /// What had come before.
    early: Bytes,
    counter: Counter,
    rehearsed: Rehearsed,
}

/// Counts messages as their bytes pass.
#[derive(Debug)]
struct Counter {
    /// Messages still to come.
    left: u64,
    header: [u8; MAX_HEADER],
    filled: usize,
    /// Payload of the current frame still to come.
    payload: u64,
    /// The current frame ends a message.
    last: bool,
}

impl<'s, S> Rehearsing<'s, S> {
    /// Breaks after `messages` messages; `early` was read from `inner` before.
    pub fn new(inner: &'s mut S, early: Bytes, messages: u64, rehearsed: Rehearsed) -> Self {
        let counter =
            Counter { left: messages, header: [0; MAX_HEADER], filled: 0, payload: 0, last: false };
        Rehearsing { inner, early, counter, rehearsed }
    }
}

impl Counter {
    /// How many of these bytes may pass.
    fn count(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while self.left > 0 {
            let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else { break };
            if self.payload > 0 {
                let taken = rest.len().min(usize::try_from(self.payload).unwrap_or(usize::MAX));
                self.payload -= taken as u64;
                at += taken;
            } else {
                at += 1;
                if let (Some(slot), Some(byte)) = (self.header.get_mut(self.filled), rest.first()) {
                    *slot = *byte;
                    self.filled += 1;
                }
                let known = self.header.get(..self.filled).unwrap_or_default();
                let Ok(Some(header)) = Header::parse(known) else { continue };
                self.filled = 0;
                self.payload = header.length;
                self.last = header.fin && !header.is_control();
            }
            if self.payload == 0 && self.filled == 0 && std::mem::take(&mut self.last) {
                self.left -= 1;
            }
        }
        at
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rehearsing<'_, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.counter.left == 0 {
            return Poll::Ready(Err(io::Error::other(this.rehearsed)));
        }
        let before = buf.filled().len();
        if this.early.is_empty() {
            std::task::ready!(Pin::new(&mut *this.inner).poll_read(cx, buf))?;
        } else {
            let count = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early.split_to(count));
        }
        let count = this.counter.count(buf.filled().get(before..).unwrap_or_default());
        buf.set_filled(before + count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rehearsing<'_, S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    /// Two messages, the second in two fragments with a ping between, and the beginning of a third.
    const FRAMES: &[u8] =
        b"\x81\x03one\x01\x02tw\x89\x00\x80\x01o\x82\x7e\x01\x00xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

    #[tokio::test]
    async fn it_breaks_behind_the_last_message_wherever_reads_are_cut() {
        for (messages, end) in [(0, 0), (1, 5), (2, 14)] {
            for early in 0..FRAMES.len() {
                let (mut inner, mut other) = duplex(1024);
                other.write_all(&FRAMES[early..]).await.unwrap();
                let early = Bytes::copy_from_slice(&FRAMES[..early]);
                let rehearsed = Rehearsed(Kind::ConnectionTerminated);
                let mut stream = Rehearsing::new(&mut inner, early, messages, rehearsed);
                let mut read = Vec::new();
                let error = stream.read_to_end(&mut read).await.unwrap_err();
                assert_eq!(read, &FRAMES[..end], "{messages} messages");
                assert!(error.get_ref().unwrap().is::<Rehearsed>());
            }
        }
    }
}

//! Where in the sequence of TLS records the bytes from an upstream stand (RFC 8446 §5.1, RFC 5246
//! §6.2).
//!
//! A session that has read a part of a record has something unread, and says so to nobody: the rest
//! may be a response that no request asked for. So the record headers are walked here, five bytes
//! each. The payloads are skipped, nothing is held back and nothing is changed.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Content type, version and length.
const HEADER: usize = 5;

/// A stream of TLS records, below the session that reads them.
#[derive(Debug)]
pub struct Records<S> {
    inner: S,
    walker: Walker,
}

impl<S> Records<S> {
    /// Returns the stream, of which no byte has been read.
    pub fn new(inner: S) -> Self {
        Records { inner, walker: Walker::default() }
    }

    /// Returns the stream below.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns `true` if no part of a record has been read whose rest is due.
    pub fn is_between_records(&self) -> bool {
        self.walker.is_between_records()
    }
}

/// The place in the sequence of records.
#[derive(Debug, Default)]
struct Walker {
    /// The bytes of a header that have come.
    header: [u8; HEADER],
    filled: usize,
    /// Bytes of payload that are due.
    due: usize,
}

impl Walker {
    fn is_between_records(&self) -> bool {
        self.filled == 0 && self.due == 0
    }

    fn walk(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.due > 0 {
                let skipped = self.due.min(bytes.len());
                self.due -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            for slot in self.header.iter_mut().skip(self.filled) {
                let Some((first, rest)) = bytes.split_first() else { break };
                *slot = *first;
                bytes = rest;
                self.filled += 1;
            }
            if self.filled == HEADER {
                let [_, _, _, high, low] = self.header;
                (self.filled, self.due) = (0, usize::from(u16::from_be_bytes([high, low])));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Records<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        this.walker.walk(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Records<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_ends_of_records_wherever_the_reads_are_cut() {
        let record = |length: usize| {
            let header = [&[23, 3, 3][..], &u16::try_from(length).unwrap().to_be_bytes()].concat();
            [header, vec![23; length]].concat()
        };
        let lengths = [0, 1, 4, 5, 6, 300];
        let records: Vec<_> = lengths.iter().map(|length| record(*length)).collect();
        let ends: Vec<usize> = (0..=records.len())
            .map(|count| records.iter().take(count).map(Vec::len).sum())
            .collect();
        let bytes = records.concat();
        for first in 0..=bytes.len() {
            for second in [first, (first + 1).min(bytes.len()), (first + 7).min(bytes.len())] {
                let mut walker = Walker::default();
                walker.walk(&bytes[..first]);
                walker.walk(&bytes[first..second]);
                assert_eq!(walker.is_between_records(), ends.contains(&second), "{first} {second}");
            }
        }
    }
}

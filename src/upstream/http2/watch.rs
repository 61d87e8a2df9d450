//! What an HTTP/2 upstream says about its connection as a whole, read from the bytes as they pass.
//!
//! The h2 library tells a stream that its connection is going away, and not whether the upstream
//! has processed it. RFC 9113 §6.8 answers that with one number, the last stream identifier of the
//! GOAWAY frame, and on it depends whether a POST may be sent again (P8). So the frame headers are
//! walked here: nine bytes each, the payloads skipped, nothing held back and nothing changed.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Length, type, flags and stream identifier (RFC 9113 §4.1).
const HEADER: usize = 9;
/// The type of a GOAWAY frame (RFC 9113 §6.8).
const GOAWAY: u8 = 7;
/// What of a GOAWAY's payload matters: the last stream identifier.
const LAST_STREAM: usize = 4;

/// What is known about a connection.
#[derive(Debug, Default)]
pub struct Watch {
    last_stream: Cell<Option<u32>>,
}

impl Watch {
    /// Whether the upstream has announced that it goes away: no new stream may be opened.
    #[must_use]
    pub fn goes_away(&self) -> bool {
        self.last_stream.get().is_some()
    }

    /// Whether the upstream has said that it will not process this stream.
    #[must_use]
    pub fn disclaims(&self, stream: u32) -> bool {
        self.last_stream.get().is_some_and(|last| stream > last)
    }
}

/// A stream whose incoming frames are watched.
#[derive(Debug)]
pub struct Watched<S> {
    inner: S,
    walker: Walker,
    watch: Rc<Watch>,
}

impl<S> Watched<S> {
    /// Watches what is read from `inner`.
    pub fn new(inner: S, watch: Rc<Watch>) -> Self {
        Watched { inner, walker: Walker::default(), watch }
    }
}

/// Where in the sequence of frames the bytes are.
#[derive(Debug, Default)]
struct Walker {
    /// A frame header, or the identifier in a GOAWAY, as far as it has come.
    part: [u8; HEADER],
    filled: usize,
    /// Bytes of payload that nobody looks at.
    skip: usize,
    /// Payload behind the identifier of a GOAWAY whose identifier is being read.
    goaway: Option<usize>,
}

impl Walker {
    /// Walks over bytes; gives the last stream identifier of the last GOAWAY that they complete.
    fn walk(&mut self, mut bytes: &[u8]) -> Option<u32> {
        let mut last = None;
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let size = if self.goaway.is_some() { LAST_STREAM } else { HEADER };
            // Nearly always all of it is there.
            for slot in self.part.iter_mut().take(size).skip(self.filled) {
                let Some((first, rest)) = bytes.split_first() else { break };
                *slot = *first;
                bytes = rest;
                self.filled += 1;
            }
            if self.filled == size {
                self.filled = 0;
                last = self.complete().or(last);
            }
        }
        last
    }

    fn complete(&mut self) -> Option<u32> {
        let [a, b, c, d, ..] = self.part;
        if let Some(rest) = self.goaway.take() {
            self.skip = rest;
            // The highest bit is reserved.
            return Some(u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff);
        }
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        match length.checked_sub(LAST_STREAM) {
            Some(rest) if d == GOAWAY => self.goaway = Some(rest),
            _ => self.skip = length,
        }
        None
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        let fresh = buf.filled().get(before..).unwrap_or_default();
        if let Some(last) = this.walker.walk(fresh) {
            this.watch.last_stream.set(Some(last));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
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
    use proptest::prelude::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 0], payload].concat()
    }

    fn goaway(last: u32, debug: &[u8]) -> Vec<u8> {
        frame(GOAWAY, &[&last.to_be_bytes()[..], &[0; 4], debug].concat())
    }

    #[test]
    fn a_goaway_is_found_wherever_the_reads_are_cut() {
        let bytes =
            [frame(4, &[]), frame(0, &[7; 300]), goaway(5, b"bye"), frame(6, &[0; 8])].concat();
        for cut in 0..=bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let mut walker = Walker::default();
            let found = [walker.walk(first), walker.walk(second)];
            assert_eq!(found.iter().flatten().collect::<Vec<_>>(), [&5], "cut at {cut}");
        }
    }

    #[test]
    fn the_last_goaway_counts_and_its_reserved_bit_does_not() {
        let bytes = [goaway(0x7fff_ffff, b""), goaway(0x8000_0003, b"")].concat();
        assert_eq!(Walker::default().walk(&bytes), Some(3));
        let watch = Watch::default();
        assert!(!watch.disclaims(5) && !watch.goes_away());
        watch.last_stream.set(Some(3));
        assert!(watch.goes_away() && watch.disclaims(5) && !watch.disclaims(3));
    }

    #[test]
    fn data_that_looks_like_a_goaway_is_none() {
        let bytes = frame(0, &goaway(5, b""));
        assert_eq!(Walker::default().walk(&bytes), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            Walker::default().walk(&bytes);
        }
    }
}

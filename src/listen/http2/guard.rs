//! The socket below h2: what is wrong with one request stays with its stream (RFC 9113 §5.4.2).
//!
//! h2 ends the connection for a field that it cannot hold, for a head that is far too large, and for
//! a few frames that concern one stream only; it answers a large head itself, uncounted. So the
//! frames that a client sends are walked here:
//!
//! | frame | what becomes of it |
//! | --- | --- |
//! | HEADERS, CONTINUATION | decoded, checked, and encoded again without a table |
//! | … of a request that is refused | replaced by a [`stand-in`](super::stand_in), which is answered |
//! | … of trailers that are refused | replaced by some for which h2 resets the stream |
//! | WINDOW_UPDATE by 0 on a stream | resets the stream |
//! | DATA | passes; behind the end of its stream it resets the stream; an empty one that ends nothing is left out: h2 counts them over the life of a connection; small ones that nobody takes are gathered ([`backlog`](crate::upstream::http2::backlog)) |
//! | PRIORITY | left out: it means nothing any more (RFC 9113 §5.3.2) |
//! | all others | pass, to be judged by h2 |
//!
//! So there is one table of HPACK, the one here, and that of h2 is always empty. Nothing is held back
//! but field blocks, parts of frame headers, and small content that nobody takes.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::check::Limits;
use super::walk::Walk;
use crate::listen::io::ClientIo;
use crate::upstream::http2::backlog::Backlog;

/// A client's socket below h2.
#[derive(Debug)]
pub struct Guarded {
    io: ClientIo,
    walk: Walk,
    /// Bytes read and written so far.
    moved: Rc<Cell<u64>>,
}

impl Guarded {
    /// Guards this socket, from which the preface will be read.
    pub fn new(io: ClientIo, limits: Limits) -> Self {
        Guarded { io, walk: Walk::new(limits), moved: Rc::default() }
    }

    /// How many bytes were read and written: counted on.
    pub fn moved(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.moved)
    }

    /// What waits of the content of its streams.
    pub fn backlog(&self) -> Rc<Backlog> {
        Rc::clone(&self.walk.backlog)
    }

    fn count(&self, bytes: usize) {
        self.moved.set(self.moved.get().wrapping_add(bytes as u64));
    }

    fn counted(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = polled {
            self.count(bytes);
        }
        polled
    }
}

/// Moves as much of `from` as there is room for.
fn give(from: &mut BytesMut, buf: &mut ReadBuf<'_>) {
    let count = from.len().min(buf.remaining());
    buf.put_slice(from.get(..count).unwrap_or_default());
    from.advance(count);
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.walk.out.is_empty() {
                give(&mut this.walk.out, buf);
                return Poll::Ready(Ok(()));
            }
            if this.walk.is_over() || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            this.walk.backlog.wakes(cx);
            this.walk.let_go_due();
            if !this.walk.out.is_empty() {
                continue;
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            let fresh = buf.filled().get(before..).unwrap_or_default();
            this.count(fresh.len());
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let passed = this.walk.over(fresh);
            buf.set_filled(before + passed);
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
            // Nothing to give: more of what is held back has to come. A read of nothing would be the end.
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        this.counted(polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.counted(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

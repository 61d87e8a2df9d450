//! A stream that is read as scripted and keeps what it is written.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How a scripted stream goes on when its reads are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// A FIN.
    Fin,
    /// A RST.
    Reset,
    /// Nothing, for ever.
    Silence,
}

/// See the module.
#[derive(Debug)]
pub struct Scripted {
    reads: VecDeque<Vec<u8>>,
    then: Then,
    /// What was written.
    pub written: Vec<u8>,
    /// How much more may be written.
    pub room: usize,
}

impl Scripted {
    /// Gives these reads, one by one.
    pub fn new(reads: impl IntoIterator<Item = Vec<u8>>, then: Then) -> Self {
        let reads = reads.into_iter().filter(|read| !read.is_empty()).collect();
        Scripted { reads, then, written: Vec::new(), room: usize::MAX }
    }

    /// Says nothing.
    pub fn silent() -> Self {
        Scripted::new([], Then::Silence)
    }
}

impl AsyncRead for Scripted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut read) = self.reads.pop_front() else {
            return match self.then {
                Then::Fin => Poll::Ready(Ok(())),
                Then::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Then::Silence => Poll::Pending,
            };
        };
        let rest = read.split_off(read.len().min(buf.remaining()));
        buf.put_slice(&read);
        if !rest.is_empty() {
            self.reads.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = buf.len().min(self.room);
        if count == 0 {
            return Poll::Pending;
        }
        self.room -= count;
        self.written.extend_from_slice(&buf[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

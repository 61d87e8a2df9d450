//! Reading into a connection's buffer: at first as much as the message before it was, then more at a
//! time while there is more. While there is nothing to read, a connection holds no buffer.

use std::future::Future as _;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::buffers::{self, LARGEST, SMALLEST};

/// Reads grow up to this while they fill the buffer: it saved a quarter of the CPU of a 1 MiB
/// response against 16 KiB.
const LARGEST_READ: usize = 256 * 1024;

/// A stream that can tell that there is nothing to read.
pub trait Readable: AsyncRead {
    /// Pending if nothing has come since a read has found less than it had room for; the task is woken
    /// when something has. What cannot tell is ready.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()>;
}

/// How much the next read shall bring.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    /// The last read has found less than it had room for, and nothing has been asked since. A hint:
    /// the stream itself says whether to wait, and then has the waker.
    drained: bool,
    size: usize,
    /// Bytes of this message so far.
    message: usize,
}

impl Default for Fill {
    fn default() -> Self {
        Fill { drained: false, size: SMALLEST, message: 0 }
    }
}

impl Fill {
    /// Reads once; gives the number of bytes, 0 at the end of the stream. An empty buffer is exchanged
    /// for one that is large enough, and given away while nothing comes.
    ///
    /// # Errors
    /// If reading fails.
    pub fn poll<R: Readable + Unpin>(
        &mut self,
        from: &mut R,
        buf: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        // Most often the next thing that comes is still on its way: no buffer is needed to see that.
        if std::mem::take(&mut self.drained) && from.poll_readable(cx).is_pending() {
            Self::let_go(buf);
            return Poll::Pending;
        }
        if buf.capacity() == 0 {
            *buf = buffers::take(self.size);
        } else if buf.capacity() - buf.len() < self.size / 2 {
            buf.reserve(self.size);
        }
        let room = buf.capacity() - buf.len();
        match pin!(from.read_buf(buf)).poll(cx) {
            Poll::Ready(Ok(0)) => {
                Self::let_go(buf);
                Poll::Ready(Ok(0))
            }
            Poll::Ready(Ok(count)) => {
                self.message += count;
                self.drained = count < room;
                if count == room {
                    self.size = (self.size * 4).min(LARGEST_READ);
                }
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                Self::let_go(buf);
                Poll::Pending
            }
        }
    }

    fn let_go(buf: &mut BytesMut) {
        if buf.is_empty() {
            buffers::give_back(buf);
        }
    }

    /// A message is over: the next one may well be as large.
    pub fn next_message(&mut self) {
        let size = self.message.clamp(SMALLEST, LARGEST).next_power_of_two();
        *self = Fill { size, message: 0, ..*self };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    impl Readable for &[u8] {
        fn poll_readable(&self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }
    }

    impl Readable for tokio::io::DuplexStream {
        fn poll_readable(&self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }
    }

    /// How many reads a message of so many bytes takes.
    fn reads(fill: &mut Fill, bytes: usize) -> usize {
        let (message, mut buf) = (vec![b'x'; bytes], BytesMut::new());
        let (mut from, mut count) = (&message[..], 0);
        while buf.len() < bytes {
            let read = fill.poll(&mut from, &mut buf, &mut Context::from_waker(Waker::noop()));
            assert!(matches!(read, Poll::Ready(Ok(1..))));
            count += 1;
        }
        fill.next_message();
        count
    }

    #[test]
    fn the_next_message_is_read_as_the_one_before_it_was_large() {
        let mut fill = Fill::default();
        assert_eq!(reads(&mut fill, 100), 1);
        assert_eq!(reads(&mut fill, 16_500), 2);
        assert_eq!(reads(&mut fill, 16_500), 1);
        assert_eq!(reads(&mut fill, 100), 1);
        assert_eq!(reads(&mut fill, 16_500), 2);
        assert_eq!(reads(&mut fill, 1_000_000), 5);
        assert_eq!(reads(&mut fill, 60_000), 1);
    }

    #[test]
    fn nothing_is_held_while_nothing_comes() {
        let (mut near, _far) = tokio::io::duplex(64);
        let mut buf = BytesMut::new();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Fill::default().poll(&mut near, &mut buf, &mut cx).is_pending());
        assert_eq!(buf.capacity(), 0);
        buf.extend_from_slice(b"GET ");
        assert!(Fill::default().poll(&mut near, &mut buf, &mut cx).is_pending());
        assert_eq!(buf, "GET ");
        let (mut buf, mut end) = (BytesMut::new(), &b""[..]);
        assert!(Fill::default().poll(&mut end, &mut buf, &mut cx).is_ready());
        assert_eq!(buf.capacity(), 0, "nothing will come");
    }
}

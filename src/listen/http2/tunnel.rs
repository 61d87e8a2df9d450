//! The stream of an extended CONNECT (RFC 8441 §5) as a socket: what is read and written are the
//! contents of its DATA frames, and END_STREAM is its end.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::upstream::http2::backlog::{Backlog, Taker};

/// A stream that has become a socket.
#[derive(Debug)]
pub struct Tunnel {
    receive: RecvStream,
    taker: Taker,
    send: SendStream<Bytes>,
    /// Read and not taken yet.
    rest: Bytes,
    /// END_STREAM is sent.
    is_shut: bool,
}

impl Tunnel {
    /// Both directions of one stream.
    pub fn new(receive: RecvStream, backlog: &Rc<Backlog>, send: SendStream<Bytes>) -> Self {
        let taker = backlog.open(receive.stream_id().as_u32());
        Tunnel { receive, taker, send, rest: Bytes::new(), is_shut: false }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.rest.is_empty() {
            match ready!(this.receive.poll_data(cx)) {
                Some(Ok(data)) => {
                    this.taker.took(data.len());
                    this.rest = data;
                }
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => {
                    return Poll::Ready(match error.reason() {
                        Some(Reason::NO_ERROR | Reason::CANCEL) => Ok(()),
                        _ => Err(io::Error::new(io::ErrorKind::ConnectionReset, error)),
                    });
                }
            }
        }
        let count = this.rest.len().min(buf.remaining());
        buf.put_slice(this.rest.get(..count).unwrap_or_default());
        this.rest.advance(count);
        let _ = this.receive.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        if this.is_shut {
            return Poll::Ready(Err(broken()));
        }
        let mut room = this.send.capacity();
        if room == 0 {
            this.send.reserve_capacity(buf.len());
            room = this.send.capacity();
        }
        while room == 0 {
            match ready!(this.send.poll_capacity(cx)) {
                Some(Ok(more)) => room = more,
                Some(Err(error)) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, error)));
                }
                None => return Poll::Ready(Err(broken())),
            }
        }
        let count = room.min(buf.len());
        let part = Bytes::copy_from_slice(buf.get(..count).unwrap_or_default());
        let sent = this.send.send_data(part, false);
        Poll::Ready(
            sent.map(|()| count).map_err(|error| io::Error::new(io::ErrorKind::BrokenPipe, error)),
        )
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task writes.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.is_shut, true) {
            // A stream that is over already is shut.
            let _ = this.send.send_data(Bytes::new(), true);
        }
        Poll::Ready(Ok(()))
    }
}

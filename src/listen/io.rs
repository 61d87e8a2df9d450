//! The client's socket as HTTP and the relay use it: TCP or TLS, with the bytes that were read to
//! tell HTTP/1.1 from HTTP/2, and a limit of how long a client may refuse to read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::net::TcpStream;
use crate::upstream::deadline::Deadline;
use crate::upstream::http1::fill::Readable;

/// The transport below HTTP.
#[derive(Debug)]
pub enum Transport {
    /// Plain text.
    Tcp(TcpStream),
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    fn tcp(&self) -> &TcpStream {
        match self {
            Transport::Tcp(tcp) => tcp,
            Transport::Tls(tls) => tls.get_ref().0,
        }
    }
}

macro_rules! delegate {
    ($self:expr, $method:ident($($argument:expr),*)) => {
        match $self {
            Transport::Tcp(tcp) => Pin::new(tcp).$method($($argument),*),
            Transport::Tls(tls) => Pin::new(tls).$method($($argument),*),
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), poll_read(cx, buf))
    }
}

/// A client's socket.
#[derive(Debug)]
pub struct ClientIo {
    transport: Transport,
    /// Read before the protocol was known.
    early: Bytes,
    write_limit: Duration,
    blocked: Option<Deadline>,
    is_blocked: bool,
}

impl ClientIo {
    /// A socket whose client may refuse to read for so long.
    #[must_use]
    pub fn new(transport: Transport, write_limit: Duration) -> Self {
        ClientIo { transport, early: Bytes::new(), write_limit, blocked: None, is_blocked: false }
    }

    /// Takes back what was read from it: the next reader gets it first.
    pub fn unread(&mut self, early: Bytes) {
        self.early = match self.early.is_empty() {
            true => early,
            false => [&*early, &*self.early].concat().into(),
        };
    }

    /// Returns the protocol that TLS agreed on (RFC 7301), if it did on one.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.transport {
            Transport::Tcp(_) => None,
            Transport::Tls(tls) => tls.get_ref().1.alpn_protocol(),
        }
    }

    /// Whether closing the socket says all: there is no TLS session to end.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        matches!(self.transport, Transport::Tcp(_))
    }

    /// Makes the coming close a reset: the other side shall not believe in an orderly end.
    pub fn reset(&self) {
        let _ = self.transport.tcp().set_zero_linger();
    }

    /// Bounds how long the client may refuse to read.
    fn limited<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.is_blocked = false;
            return polled;
        }
        // Made only for the few that are ever blocked.
        let blocked = self.blocked.get_or_insert_with(Deadline::new);
        if !std::mem::replace(&mut self.is_blocked, true) {
            blocked.set(self.write_limit);
        }
        ready!(blocked.poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Readable for ClientIo {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.transport {
            // An error is for the read to tell.
            Transport::Tcp(tcp) if self.early.is_empty() => tcp.poll_read_ready(cx).map(drop),
            // There may be something in the session.
            Transport::Tcp(_) | Transport::Tls(_) => Poll::Ready(()),
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.early.is_empty() {
            let count = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early.split_to(count));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.transport).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = delegate!(&mut this.transport, poll_write(cx, buf));
        this.limited(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = delegate!(&mut this.transport, poll_write_vectored(cx, bufs));
        this.limited(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Tcp(tcp) => tcp.is_write_vectored(),
            Transport::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = delegate!(&mut this.transport, poll_flush(cx));
        this.limited(cx, polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(&mut self.get_mut().transport, poll_shutdown(cx))
    }
}

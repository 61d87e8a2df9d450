//! The byte stream to an upstream: TCP, or TLS over TCP.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::http1::fill::Readable;
use crate::net::TcpStream;

/// A connected stream to an endpoint.
#[derive(Debug)]
pub enum Stream {
    /// Plain text.
    Tcp(TcpStream),
    /// TLS; boxed because a session is a thousand times the size of a socket.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Tcp(tcp) => tcp,
            Stream::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Whether ALPN agreed on this protocol; `None` without TLS.
    #[must_use]
    pub fn alpn_agreed_on(&self, protocol: &[u8]) -> Option<bool> {
        match self {
            Stream::Tcp(_) => None,
            Stream::Tls(tls) => Some(tls.get_ref().1.alpn_protocol() == Some(protocol)),
        }
    }

    /// Makes the coming close a TCP reset, so that the app stops working for nobody.
    pub fn abort(&self) {
        // Failing to set the option only means that the close is a FIN.
        let _ = self.tcp().set_zero_linger();
    }

    /// Whether an idle connection can carry another request: still open, with nothing to read.
    ///
    /// Costs no system call unless the reactor has seen an event on the socket: tokio knows from
    /// the last short read that it was drained.
    pub fn is_quiet(&self, cx: &mut Context<'_>) -> bool {
        let tcp = self.tcp();
        match tcp.poll_read_ready(cx) {
            Poll::Pending => true,
            Poll::Ready(Err(_)) => false,
            Poll::Ready(Ok(())) => {
                let mut probe = [0_u8; 1];
                // Bytes, or an end, between two responses: neither belongs to a request of ours.
                // (For TLS this may be a ticket; dropping such a connection costs a handshake,
                // guessing wrong costs a request.)
                matches!(tcp.try_read(&mut probe), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
            }
        }
    }
}

impl Readable for Stream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            // An error is for the read to tell.
            Stream::Tcp(tcp) => tcp.poll_read_ready(cx).map(drop),
            // There may be something in the session.
            Stream::Tls(_) => Poll::Ready(()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Stream::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(tcp) => tcp.is_write_vectored(),
            Stream::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

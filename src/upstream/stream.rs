//! The byte stream to an upstream: TCP, or TLS over TCP.

use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::unconstrained;
use tokio_rustls::client::TlsStream;

use super::http1::fill::Readable;
use super::records::Records;
use crate::net::TcpStream;

/// A connected stream to an endpoint.
#[derive(Debug)]
pub enum Stream {
    /// Plain text.
    Tcp(TcpStream),
    /// TLS; boxed because a session is a thousand times the size of a socket.
    Tls(Box<TlsStream<Records<TcpStream>>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Tcp(tcp) => tcp,
            Stream::Tls(tls) => tls.get_ref().0.get_ref(),
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

    /// Returns `true` if the stream is open and has nothing unread at any layer: no byte in the
    /// kernel, no part of a TLS record, no plaintext that the session has decrypted. What there is
    /// between two responses belongs to no request (RFC 9112 §9.2).
    ///
    /// Costs no system call unless the reactor has seen an event on the socket, or the last read
    /// has found as much as it had room for. Nobody may be waiting for the stream: for TLS the
    /// waker that is registered with it is replaced.
    pub fn is_quiet(&mut self) -> bool {
        match self {
            // Not a poll: this one knows no budget of the scheduler's, behind which it would find
            // nothing where there is something.
            Stream::Tcp(tcp) => {
                let read = tcp.try_read(&mut [0_u8; 1]);
                matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Stream::Tls(tls) => {
                // Reads what is the session's own (a ticket, a new key) and finds what is not.
                let mut byte = [0_u8; 1];
                let mut buf = ReadBuf::new(&mut byte);
                let read = poll_fn(|cx| Pin::new(&mut **tls).poll_read(cx, &mut buf));
                let mut cx = Context::from_waker(Waker::noop());
                pin!(unconstrained(read)).poll(&mut cx).is_pending()
                    && tls.get_ref().0.is_between_records()
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

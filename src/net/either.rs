//! For unit tests: a socket of the kernel's, or one in memory, behind the methods of both.
//!
//! Tests of what reads and waits run over memory, whose readiness is the reactor's to the letter and
//! costs no time; the others keep their sockets.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::memory;

/// A connection's end.
#[derive(Debug)]
pub enum TcpStream {
    /// The kernel's.
    Kernel(tokio::net::TcpStream),
    /// In memory.
    Memory(memory::TcpStream),
}

macro_rules! delegate {
    ($self:expr, $tcp:ident => $call:expr) => {
        match $self {
            TcpStream::Kernel($tcp) => $call,
            TcpStream::Memory($tcp) => $call,
        }
    };
}

impl TcpStream {
    /// Connects through the kernel.
    ///
    /// # Errors
    /// As the kernel's.
    pub async fn connect(address: impl tokio::net::ToSocketAddrs) -> io::Result<Self> {
        tokio::net::TcpStream::connect(address).await.map(TcpStream::Kernel)
    }

    /// Sends small writes at once.
    ///
    /// # Errors
    /// As the kernel's.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        delegate!(self, tcp => tcp.set_nodelay(nodelay))
    }

    /// Makes the coming close a reset.
    ///
    /// # Errors
    /// As the kernel's.
    pub fn set_zero_linger(&self) -> io::Result<()> {
        delegate!(self, tcp => tcp.set_zero_linger())
    }

    /// Returns this end's address.
    ///
    /// # Errors
    /// As the kernel's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        delegate!(self, tcp => tcp.local_addr())
    }

    /// Returns the other end's address.
    ///
    /// # Errors
    /// As the kernel's.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        delegate!(self, tcp => tcp.peer_addr())
    }

    /// Is ready when there may be something to read.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, tcp => tcp.poll_read_ready(cx))
    }

    /// Waits until there may be something to read.
    ///
    /// # Errors
    /// As the kernel's.
    pub async fn readable(&self) -> io::Result<()> {
        delegate!(self, tcp => tcp.readable().await)
    }

    /// Reads without taking.
    ///
    /// # Errors
    /// As the kernel's.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        delegate!(self, tcp => tcp.peek(buf).await)
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        delegate!(self, tcp => tcp.try_read(buf))
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), tcp => Pin::new(tcp).poll_read(cx, buf))
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self.get_mut(), tcp => Pin::new(tcp).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self.get_mut(), tcp => Pin::new(tcp).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        delegate!(self, tcp => tcp.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), tcp => Pin::new(tcp).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), tcp => Pin::new(tcp).poll_shutdown(cx))
    }
}

/// A listening socket of the kernel's.
#[derive(Debug)]
pub struct TcpListener(tokio::net::TcpListener);

impl TcpListener {
    /// Adopts a socket.
    ///
    /// # Errors
    /// As the kernel's.
    pub fn from_std(socket: std::net::TcpListener) -> io::Result<Self> {
        tokio::net::TcpListener::from_std(socket).map(TcpListener)
    }

    /// Waits for the next connection. Cancel-safe.
    ///
    /// # Errors
    /// As the kernel's.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (tcp, address) = self.0.accept().await?;
        Ok((TcpStream::Kernel(tcp), address))
    }
}

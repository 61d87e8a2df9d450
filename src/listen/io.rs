//! The client's socket as hyper and the relay use it: TCP or TLS, with the bytes that were read to
//! tell HTTP/1.1 from HTTP/2, interim responses between hyper's writes, and two limits: how long a
//! client may refuse to read, and how long the head of its next request may take.
//!
//! hyper can limit the head as well, but makes a new timer for every request; here one timer per
//! connection moves its deadline lazily.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::ambiguity::Watch;
use crate::forward::client::Client;
use crate::net::TcpStream;
use crate::upstream::deadline::Deadline;

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
    /// Read before the protocol was known, or by hyper before it gave the socket back.
    early: Bytes,
    client: Rc<Client>,
    limits: Limits,
    blocked: Deadline,
    is_blocked: bool,
    head: Deadline,
    awaits_head: bool,
    watch: Option<Watch>,
    refused: bool,
}

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// To read what it is sent.
    pub write: Duration,
    /// For the head of its next request, idle time included; `None` where HTTP/2 looks after
    /// itself.
    pub head: Option<Duration>,
}

impl ClientIo {
    /// A socket from which `early` was read already.
    #[must_use]
    pub fn new(transport: Transport, early: Bytes, client: Rc<Client>, limits: Limits) -> Self {
        ClientIo {
            transport,
            early,
            client,
            limits,
            blocked: Deadline::new(),
            is_blocked: false,
            head: Deadline::new(),
            awaits_head: false,
            watch: limits.head.map(|_| Watch::default()),
            refused: false,
        }
    }

    /// From now on the bytes are not HTTP: no head is waited for.
    pub fn upgrade(&mut self) {
        self.limits.head = None;
        self.head = Deadline::new();
        self.watch = None;
    }

    /// Bounds how long the head of a request may take, from the end of the last response on.
    fn poll_head_limit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(limit) = self.limits.head else { return Poll::Pending };
        // While a request is served, or its response waits for the client to read, hyper reads
        // only to see the client leave.
        if self.client.busy.get() || self.is_blocked {
            self.awaits_head = false;
            return Poll::Pending;
        }
        if !self.awaits_head {
            self.awaits_head = true;
            self.head.set(limit);
        }
        ready!(self.head.poll(cx));
        self.client.late.set(true);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Lets through what was read, up to a head that can be read in two ways.
    fn watch(
        &mut self,
        cx: &Context<'_>,
        buf: &mut ReadBuf<'_>,
        known: usize,
    ) -> Poll<io::Result<()>> {
        let Some(watch) = &mut self.watch else { return Poll::Ready(Ok(())) };
        let read = buf.filled().get(known..).unwrap_or_default();
        let Err(ambiguous) = watch.follow(read) else { return Poll::Ready(Ok(())) };
        self.watch = None;
        self.client.ambiguous.set(true);
        buf.set_filled(known + ambiguous.before);
        if ambiguous.before == 0 { self.refuse_head(cx) } else { Poll::Ready(Ok(())) }
    }

    /// Ends the connection, when the requests before the ambiguous one are answered. The
    /// end of their last one wakes hyper.
    fn refuse_head(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.client.busy.get() || self.is_blocked {
            self.client.waiting.replace(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        self.refused = true;
        Poll::Ready(Err(io::ErrorKind::InvalidData.into()))
    }

    /// Whether an ambiguous head has ended the connection, and not an answer before it that was cut off:
    /// behind that nothing may be written.
    #[must_use]
    pub fn has_refused(&self) -> bool {
        self.refused
    }

    /// Makes the coming close a reset: the other side shall not believe in an orderly end.
    pub fn reset(&self) {
        let _ = self.transport.tcp().set_zero_linger();
    }

    /// Writes interim responses that wait. hyper calls this, by way of a flush, only when it has
    /// nothing of its own buffered, so that they never land inside another response.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut interim = self.client.interim.borrow_mut();
            if interim.waiting().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let transport = &mut self.transport;
            let count = ready!(delegate!(transport, poll_write(cx, interim.waiting())))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            interim.advance(count);
        }
    }

    /// An interim response that has begun to leave is completed before anything else.
    fn poll_before_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.client.interim.borrow().has_begun() {
            self.poll_interim(cx)
        } else {
            Poll::Ready(Ok(()))
        }
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
        if !self.is_blocked {
            self.is_blocked = true;
            self.blocked.set(self.limits.write);
        }
        ready!(self.blocked.poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.client.ambiguous.get() {
            return this.refuse_head(cx);
        }
        let known = buf.filled().len();
        if !this.early.is_empty() {
            let count = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early.split_to(count));
            return this.watch(cx, buf, known);
        }
        match Pin::new(&mut this.transport).poll_read(cx, buf) {
            Poll::Pending => this.poll_head_limit(cx),
            Poll::Ready(Ok(())) => this.watch(cx, buf, known),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match this.poll_before_write(cx) {
            Poll::Ready(Ok(())) => delegate!(&mut this.transport, poll_write(cx, buf)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        this.limited(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match this.poll_before_write(cx) {
            Poll::Ready(Ok(())) => delegate!(&mut this.transport, poll_write_vectored(cx, bufs)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
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
        ready!(this.poll_interim(cx))?;
        ready!(delegate!(&mut this.transport, poll_flush(cx)))?;
        // hyper, having seen during the request that there is nothing to read, does not ask again behind
        // the response: the time of the next head begins here. When it is over, hyper is woken and reads.
        if !this.awaits_head {
            let _ = this.poll_head_limit(cx);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper's own shutdown after an abort: the reset flag decides how the socket ends.
        if this.client.reset.get() {
            this.reset();
            return Poll::Ready(Ok(()));
        }
        delegate!(&mut this.transport, poll_shutdown(cx))
    }
}

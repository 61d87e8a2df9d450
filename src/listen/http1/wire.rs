//! A client's HTTP/1.1 connection: what was read and not taken yet, and the framing of the request
//! content that is due on it.
//!
//! Three read from it, by turns and all in the connection's one task: the connection itself waits
//! for a head, the request's content is read by whoever uploads it ([`Content`]), and while neither
//! has anything to read, one look ahead notices that the client leaves. Nobody reads what nobody
//! asks for, which is the back-pressure of P6: at most one read lies here.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::request::{self, Request};
use crate::failure::ClientFailure;
use crate::forward::client::Client;
use crate::listen::detect::{self, Spoken};
use crate::listen::io::ClientIo;
use crate::upstream::deadline::Deadline;
use crate::upstream::exchange::Framing;
use crate::upstream::http1::MessageLimits;
use crate::upstream::http1::buffers;
use crate::upstream::http1::content::{Decoder, Step};
use crate::upstream::http1::fill::Fill;

/// A client's connection.
#[derive(Debug)]
pub struct Wire {
    io: ClientIo,
    buf: BytesMut,
    fill: Fill,
    /// The client has begun to speak, and it is HTTP/1.1.
    is_http1: bool,
    reader: request::Reader,
    limits: MessageLimits,
    decoder: Decoder,
    client: Rc<Client>,
    /// The content waits for a 100 that has not been said.
    expects_continue: bool,
    /// Whoever reads the content waits for more of it, and so is woken when the client leaves.
    content_waits: bool,
    head: Option<Deadline>,
    waits_for_head: bool,
}

/// What comes after a response.
#[derive(Debug)]
pub enum Next {
    /// Another request.
    Request(Request),
    /// HTTP/2 (RFC 9113 §3.3), instead of the first one.
    Http2,
    /// Nothing.
    Nothing,
    /// Something that is refused.
    Refused(ClientFailure),
}

impl Wire {
    /// A connection from which nothing was read.
    pub fn new(io: ClientIo, client: Rc<Client>, limits: MessageLimits) -> Self {
        // What TLS agreed on is not guessed at (RFC 7301 §3.2).
        let is_http1 = io.alpn().is_some();
        Wire {
            io,
            buf: BytesMut::new(),
            fill: Fill::default(),
            is_http1,
            reader: request::Reader::default(),
            limits,
            decoder: Decoder::new(Framing::Empty),
            client,
            expects_continue: false,
            content_waits: false,
            head: None,
            waits_for_head: false,
        }
    }

    /// The socket, and what was read from it and not taken.
    pub fn into_parts(mut self) -> (ClientIo, Bytes) {
        if self.buf.is_empty() {
            buffers::give_back(&mut self.buf);
            return (self.io, Bytes::new());
        }
        (self.io, self.buf.freeze())
    }

    /// The next head, which may take so long; `leaving` says that nothing needs to come.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        limit: Duration,
        mut leaving: impl FnMut(&mut Context<'_>) -> bool,
    ) -> Poll<Next> {
        loop {
            if let Some(next) = self.next_head() {
                return Poll::Ready(next);
            }
            match self.fill.poll(&mut self.io, &mut self.buf, cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::Nothing),
                Poll::Pending => {
                    if self.buf.is_empty() && leaving(cx) {
                        return Poll::Ready(Next::Nothing);
                    }
                    ready!(self.poll_late(cx, limit));
                    return Poll::Ready(match self.buf.is_empty() {
                        true => Next::Nothing,
                        false => Next::Refused(ClientFailure::RequestTimeout),
                    });
                }
            }
        }
    }

    /// What has come already.
    fn next_head(&mut self) -> Option<Next> {
        if !self.is_http1 {
            match detect::spoken(&self.buf)? {
                Spoken::Http1 => self.is_http1 = true,
                Spoken::Http2 => return Some(Next::Http2),
            }
        }
        match request::take(&mut self.reader, &mut self.buf, &self.limits) {
            Ok(None) => None,
            Ok(Some(request)) => {
                self.waits_for_head = false;
                self.decoder = Decoder::new(request.framing);
                self.expects_continue = request.expects_continue;
                Some(Next::Request(request))
            }
            Err(failure) => Some(Next::Refused(failure)),
        }
    }

    /// Ready when a head has been waited for too long.
    fn poll_late(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let deadline = self.head.get_or_insert_with(Deadline::new);
        if !std::mem::replace(&mut self.waits_for_head, true) {
            let now = self.client.served.take().unwrap_or_else(Instant::now);
            return deadline.start(now, limit, cx);
        }
        deadline.poll(cx)
    }

    /// While a request is served: writes interim responses, and is ready when the client has left.
    pub fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(self.poll_interim(cx), Poll::Ready(Err(_))) {
            return Poll::Ready(());
        }
        // What lies here is more than was asked for.
        if std::mem::take(&mut self.content_waits) || !self.buf.is_empty() {
            return Poll::Pending;
        }
        match self.fill.poll(&mut self.io, &mut self.buf, cx) {
            Poll::Ready(Ok(1..)) | Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(()),
        }
    }

    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut interim = self.client.interim.borrow_mut();
            if interim.waiting().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, interim.waiting()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            interim.advance(count);
            if interim.waiting().is_empty() {
                return Pin::new(&mut self.io).poll_flush(cx);
            }
        }
    }

    /// The final response begins: no 100 can come any more. Whether the client still waits for it, so
    /// that nobody knows if its content will come (RFC 9110 §10.1.1).
    pub fn begin_response(&mut self) -> bool {
        std::mem::take(&mut self.expects_continue)
    }

    /// The response is whole. Whether a next request can be found behind this one: its content is
    /// complete, or the rest of it is here.
    pub fn end_request(&mut self) -> bool {
        while !self.decoder.is_done() {
            match self.decoder.decode(&mut self.buf, &self.limits) {
                Ok(Step::Data(_) | Step::Trailers(_) | Step::Done) => {}
                Ok(Step::More) | Err(_) => return false,
            }
        }
        self.fill.next_message();
        true
    }

    /// Reads what is left of the content of the request that is over, up to `left` bytes. Ready with
    /// `true` when a next request can be found behind it.
    pub fn poll_rest(&mut self, left: &mut usize, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            match ready!(self.poll_content(cx)) {
                None => break,
                Some(Err(_)) => return Poll::Ready(false),
                Some(Ok(frame)) => {
                    let read = frame.data_ref().map_or(0, Bytes::len);
                    let Some(rest) = left.checked_sub(read) else { return Poll::Ready(false) };
                    *left = rest;
                }
            }
        }
        self.content_waits = false;
        self.fill.next_message();
        Poll::Ready(true)
    }

    /// Whether the client has sent something behind the request that is over.
    pub fn has_more(&self) -> bool {
        !self.buf.is_empty()
    }

    /// The next piece of the content. An empty one says that something of its framing has come: who
    /// waits for the client hears that it is there.
    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let mut has_read = false;
        loop {
            match self.decoder.decode(&mut self.buf, &self.limits) {
                Ok(Step::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Step::Trailers(fields)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(fields))));
                }
                Ok(Step::Done) => return Poll::Ready(None),
                Ok(Step::More) if has_read => {
                    return Poll::Ready(Some(Ok(Frame::data(Bytes::new()))));
                }
                Ok(Step::More) => {}
                Err(error) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, error);
                    return Poll::Ready(Some(Err(error)));
                }
            }
            if std::mem::take(&mut self.expects_continue) {
                self.client.interim.borrow_mut().push_continue();
            }
            match self.fill.poll(&mut self.io, &mut self.buf, cx) {
                Poll::Ready(Ok(1..)) => has_read = true,
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Pending => {
                    self.content_waits = true;
                    return Poll::Pending;
                }
            }
        }
    }
}

/// The content of the request that is being served.
#[derive(Debug)]
pub struct Content(pub Rc<RefCell<Wire>>);

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.borrow_mut().poll_content(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.borrow().decoder.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.borrow().decoder.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The way to the client. It borrows the connection for each write alone: what is written may be an
/// answer to content that is still read from it.
#[derive(Debug)]
pub struct Writer<'w>(pub &'w RefCell<Wire>);

impl AsyncWrite for Writer<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::peer::Peer;
    use crate::listen::io::Transport;
    use crate::net::{TcpStream, memory};
    use std::future::{Future as _, poll_fn};
    use std::pin::pin;
    use tokio::io::AsyncWriteExt as _;

    const LIMITS: MessageLimits = MessageLimits {
        head_bytes: 1_000,
        field_bytes: 1_000,
        fields: 10,
        trailer_bytes: 1_000,
        body_bytes: None,
    };

    /// A connection whose client has sent this head.
    async fn wire(head: &str) -> (Wire, memory::TcpStream) {
        let (near, mut far) = memory::pair();
        let transport = Transport::Tcp(TcpStream::Memory(near));
        let io = ClientIo::new(transport, Duration::from_secs(60));
        let client = Rc::new(Client::new(Peer::new([127, 0, 0, 1].into(), "http", false)));
        let mut wire = Wire::new(io, client, LIMITS);
        far.write_all(head.as_bytes()).await.unwrap();
        let limit = Duration::from_secs(30);
        let next = poll_fn(|cx| wire.poll_head(cx, limit, |_| false)).await;
        assert!(matches!(next, Next::Request(_)), "{next:?}");
        (wire, far)
    }

    #[tokio::test(start_paused = true)]
    async fn each_byte_of_framing_is_told_as_a_sign_of_life() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (mut wire, mut far) = wire(head).await;
        let (mut content, mut signs) = (Vec::new(), 0);
        let sent = b"5;name=value\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n";
        for byte in sent {
            far.write_all(&[*byte]).await.unwrap();
            let frame = poll_fn(|cx| wire.poll_content(cx)).await.unwrap().unwrap();
            match frame.data_ref() {
                Some(data) if data.is_empty() => signs += 1,
                Some(data) => content.extend_from_slice(data),
                None => assert!(frame.is_trailers()),
            }
        }
        assert_eq!(content, b"hello");
        assert_eq!(signs, sent.len() - b"hello".len() - 1, "all but content and the last byte");
        assert!(poll_fn(|cx| wire.poll_content(cx)).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn unread_content_is_read_away_up_to_a_limit() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello";
        for (limit, found) in [(10, true), (9, false)] {
            let (mut wire, mut far) = wire(head).await;
            let mut left = limit;
            let mut rest = pin!(poll_fn(|cx| wire.poll_rest(&mut left, cx)));
            assert!(poll_fn(|cx| Poll::Ready(rest.as_mut().poll(cx).is_pending())).await);
            far.write_all(b"worldGET /").await.unwrap();
            assert_eq!(rest.await, found, "{limit}");
            assert!(wire.has_more(), "what follows stays");
        }
        let (mut wire, far) = wire(head).await;
        drop(far);
        let mut left = 10;
        assert!(!poll_fn(|cx| wire.poll_rest(&mut left, cx)).await, "the client has left");
    }
}

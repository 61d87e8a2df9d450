//! The client's connection, as its requests see it: who is there, and what a
//! request may want of the connection itself.
//!
//! `listen` owns the socket. What a response has no way to say goes through here: an interim
//! response before it, a reset instead of a close, a lingering close, and the WebSocket that takes
//! the connection over.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::BytesMut;
use http::Version;
use tokio::time::Instant;

use super::Worker;
use super::peer::Peer;
use super::websocket::Upgraded;
use crate::upstream::exchange::ResponseHead;
use crate::upstream::http1::upload::extend_field;

/// Most bytes of interim responses that wait for the socket; what exceeds them is dropped, which
/// costs the client nothing but a hint.
const MAX_INTERIM: usize = 64 * 1024;

/// Sends interim responses of a stream that can carry them at any time before the final one.
pub trait Early: std::fmt::Debug {
    /// Sends this one, if the final response has not begun.
    fn send(&self, head: &ResponseHead);
}

/// A client's connection; over HTTP/2, one stream of it.
#[derive(Debug)]
pub struct Client {
    /// Who is connected.
    pub peer: Rc<Peer>,
    /// Closing must be a TCP reset: a FIN would make a cut-off response look complete (P1).
    pub reset: Rc<Cell<bool>>,
    /// The client may still be sending: its answer must not be destroyed by a reset.
    pub linger: Cell<bool>,
    /// When the last response was whole, if that was now.
    pub served: Cell<Option<Instant>>,
    /// How many requests there were.
    pub requests: Cell<u64>,
    /// The generation of configuration that the connection was last seen by.
    pub generation: Cell<u64>,
    /// Set by a 101: what the connection becomes.
    pub upgraded: RefCell<Option<Upgraded>>,
    /// Interim responses on their way.
    pub interim: RefCell<Interim>,
    /// The way for interim responses over HTTP/2.
    pub early: Option<Rc<dyn Early>>,
}

/// Interim responses between a request and its final response over HTTP/1.1.
#[derive(Debug, Default)]
pub struct Interim {
    waiting: BytesMut,
    begun: bool,
}

impl Client {
    /// A new connection.
    #[must_use]
    pub fn new(peer: impl Into<Rc<Peer>>) -> Self {
        Client {
            peer: peer.into(),
            reset: Rc::default(),
            linger: Cell::new(false),
            served: Cell::new(None),
            requests: Cell::new(0),
            generation: Cell::new(u64::MAX),
            upgraded: RefCell::default(),
            interim: RefCell::default(),
            early: None,
        }
    }

    /// One stream of this connection: it has its own answer, and may become a WebSocket alone.
    #[must_use]
    pub fn stream(&self, early: Rc<dyn Early>) -> Self {
        let stream = Client { early: Some(early), ..Client::new(Rc::clone(&self.peer)) };
        stream.generation.set(self.generation.get());
        stream
    }

    /// Passes an interim response on (RFC 9110 §15.2: a proxy forwards 1xx responses).
    pub async fn pass_interim(&self, head: &ResponseHead, version: Version) {
        if let Some(early) = &self.early {
            return early.send(head);
        }
        if version != Version::HTTP_11 {
            // RFC 9110 §15.2: never to an HTTP/1.0 client.
            return;
        }
        self.interim.borrow_mut().push(head);
        // The connection writes after it has polled the request: this poll must end for the interim
        // response to leave before the final one.
        tokio::task::yield_now().await;
    }

    /// After a reload: whether the client is trusted may have changed.
    pub fn follow(&self, worker: &Worker) {
        if self.generation.replace(worker.generation) != worker.generation {
            self.peer.trusted.set(worker.trusts(self.peer.address));
        }
    }

    /// Takes back what has not begun to leave: the final response comes now.
    pub fn withdraw_interim(&self) {
        let mut interim = self.interim.borrow_mut();
        if !interim.begun {
            interim.waiting.clear();
        }
    }
}

impl Interim {
    /// The client may send its content (RFC 9110 §10.1.1).
    pub fn push_continue(&mut self) {
        self.waiting.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    /// Gives away what has begun to leave: it comes before the final response. The rest is late.
    pub fn take_begun(&mut self) -> BytesMut {
        let waiting = std::mem::take(&mut self.waiting);
        if std::mem::take(&mut self.begun) { waiting } else { BytesMut::new() }
    }

    fn push(&mut self, head: &ResponseHead) {
        let status = head.status;
        let reason = status.canonical_reason().unwrap_or_default();
        let line = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16());
        let mut size = 0;
        head.fields.for_each(|name, value| size += name.len() + value.len() + 4);
        if self.waiting.len() + line.len() + size > MAX_INTERIM {
            return;
        }
        self.waiting.extend_from_slice(line.as_bytes());
        head.fields.for_each(|name, value| extend_field(&mut self.waiting, name, value));
        self.waiting.extend_from_slice(b"\r\n");
    }

    /// What has to be written next.
    #[must_use]
    pub fn waiting(&self) -> &[u8] {
        &self.waiting
    }

    /// Whether a part of an interim response has left: the rest must follow before anything else.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// So many bytes were written.
    pub fn advance(&mut self, count: usize) {
        let count = count.min(self.waiting.len());
        bytes::Buf::advance(&mut self.waiting, count);
        self.begun = !self.waiting.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, StatusCode};

    fn client() -> Client {
        Client::new(Peer::new([127, 0, 0, 1].into(), "http", false))
    }

    fn early_hints() -> ResponseHead {
        let mut fields = HeaderMap::new();
        fields.insert("link", http::HeaderValue::from_static("</a.css>"));
        let status = StatusCode::EARLY_HINTS;
        ResponseHead { status, fields: fields.into(), ..ResponseHead::awaited() }
    }

    #[tokio::test]
    async fn an_interim_response_is_taken_back_only_before_it_has_begun_to_leave() {
        let client = client();
        client.pass_interim(&early_hints(), Version::HTTP_11).await;
        let expected = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
        assert_eq!(client.interim.borrow().waiting(), expected);
        client.interim.borrow_mut().advance(5);
        client.withdraw_interim();
        assert_eq!(client.interim.borrow().waiting(), &expected[5..]);
        client.interim.borrow_mut().advance(expected.len() - 5);
        client.pass_interim(&early_hints(), Version::HTTP_11).await;
        client.withdraw_interim();
        assert!(client.interim.borrow().waiting().is_empty());
    }

    #[tokio::test]
    async fn http_1_0_clients_get_no_interim_response() {
        let client = client();
        client.pass_interim(&early_hints(), Version::HTTP_10).await;
        assert!(client.interim.borrow().waiting().is_empty());
    }
}

//! The way back to the client of one stream: interim responses, then one final response.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::header::{CONNECTION, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, Response, StatusCode};

use crate::forward::client::Early;
use crate::upstream::exchange::ResponseHead;

/// Bytes of interim responses of one request; what exceeds them is dropped, which costs the client
/// nothing but a hint. They wait in memory for a client that does not read.
const MAX_INTERIM: usize = 64 * 1024;

/// The fields that an HTTP/2 message may not have (RFC 9113 §8.2.2).
const OF_CONNECTIONS: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
    TE,
];

/// The way back to the client.
pub struct Answer {
    respond: RefCell<SendResponse<Bytes>>,
    /// The client waits for a 100 before it sends content (RFC 9110 §10.1.1).
    expects_continue: Cell<bool>,
    /// The final response has begun: no interim response may follow.
    is_final: Cell<bool>,
    /// Bytes of interim responses so far.
    interim: Cell<usize>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("is_final", &self.is_final).finish_non_exhaustive()
    }
}

impl Answer {
    /// The answer to a request that has just come.
    pub fn new(respond: SendResponse<Bytes>, expects_continue: bool) -> Self {
        Answer {
            respond: RefCell::new(respond),
            expects_continue: Cell::new(expects_continue),
            is_final: Cell::new(false),
            interim: Cell::new(0),
        }
    }

    /// Notes that the client has not waited for a 100, or has got it.
    pub fn content_came(&self) {
        self.expects_continue.set(false);
    }

    /// Says 100 to a client that waits for it: content is wanted, and none is here.
    pub fn content_is_asked_for(&self) {
        if self.expects_continue.take() {
            self.send_interim(StatusCode::CONTINUE, HeaderMap::new());
        }
    }

    fn send_interim(&self, status: StatusCode, fields: HeaderMap) {
        if self.is_final.get() {
            return;
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = fields;
        // A stream that is over needs no hint.
        let _ = self.respond.borrow_mut().send_informational(response);
    }

    /// Begins the final response.
    ///
    /// # Errors
    /// When the stream is over.
    pub fn begin(
        &self,
        status: StatusCode,
        fields: HeaderMap,
        is_whole: bool,
    ) -> Result<SendStream<Bytes>, h2::Error> {
        self.is_final.set(true);
        self.expects_continue.set(false);
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = fields;
        strip(response.headers_mut());
        self.respond.borrow_mut().send_response(response, is_whole)
    }

    /// Ready when the client has reset the stream, or the connection is over. Before the final
    /// response only.
    pub fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.respond.borrow_mut().poll_reset(cx).map(|_| ())
    }

    /// Resets the stream.
    pub fn reset(&self, reason: Reason) {
        self.respond.borrow_mut().send_reset(reason);
    }
}

impl Early for Answer {
    fn send(&self, head: &ResponseHead) {
        let mut fields = HeaderMap::clone(&head.fields.map());
        strip(&mut fields);
        let size = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        let sent = self.interim.get().saturating_add(size).saturating_add(32);
        if sent <= MAX_INTERIM {
            self.interim.set(sent);
            self.send_interim(head.status, fields);
        }
    }
}

/// Removes what belongs to a connection (RFC 9113 §8.2.2).
fn strip(fields: &mut HeaderMap) {
    for name in &OF_CONNECTIONS {
        fields.remove(name);
    }
}

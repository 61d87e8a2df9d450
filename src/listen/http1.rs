//! An HTTP/1.1 connection: one request after the other, each with one response (RFC 9112 §9).
//!
//! Before: `accept` has a transport. A request is served in the
//! connection's own task, and its content and its response flow on it without a channel between.
//!
//! ```text
//! ┌► request::take ─► forward::handle ─► response::write ─► content ─┐
//! │       │                │                   │               │     │
//! │       ▼                ▼ the client left   ▼ 101           ▼     │
//! │    refused           close              WebSocket       cut off  │
//! └──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! | how it ends | the connection |
//! | --- | --- |
//! | the preface of HTTP/2 instead of a request | is `http2`'s |
//! | a 101 that `forward` prepared | becomes a WebSocket |
//! | a response cut off that a FIN would complete | is reset |
//! | a head that is refused, or comes too slowly | answer, FIN, read away |
//! | request content that nobody has read | answer; the rest of it is read away, and the next request served; where that is too much or takes too long: FIN, read away |
//! | anything else | is closed |
//!
//! hyper's server did this before, beside a watch over the bytes for heads that its parser lets pass.
//! Without the two, and with response fields that stay lines, a small request costs a third less
//! (benches/README.md).

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::drain::Drain;
use super::io::ClientIo;
use crate::config::model::Clients;
use crate::failure::ClientFailure;
use crate::forward::client::Client;
use crate::forward::current::Current;
use crate::forward::handle;
use crate::forward::incoming::Incoming;
use crate::forward::reply::Reply;
use crate::forward::websocket::{self, Upgraded};
use crate::upstream::exchange::Framing;
use crate::upstream::http1::MessageLimits;
use crate::upstream::http1::upload::Upload;
use crate::upstream::upload::{ContentLimit, UploadError, Waiting};

mod refusal;
pub mod request;
mod response;
mod wire;

use request::Request;
use response::Asked;
use wire::{Content, Next, Wire, Writer};

/// How long a client may go on sending after its answer.
const LINGER: Duration = Duration::from_secs(5);

/// How much of a client's content is read away for the sake of its next request.
const UNREAD_BYTES: usize = 1024 * 1024;

/// Bytes of a trailer section of request content.
const TRAILER_BYTES: usize = 16 * 1024;

/// How a connection's last request ended.
enum End {
    /// In another protocol.
    Switched(Box<Upgraded>),
    /// Before the first one: the client speaks HTTP/2.
    Http2,
    /// The client may still be sending.
    Linger,
    /// With nothing left to say.
    Close,
    /// A FIN would make what was cut off look complete (P1).
    Reset,
    /// With something that was not served.
    Refused(ClientFailure),
}

/// What a connection has become.
#[derive(Debug)]
pub enum Became {
    /// A WebSocket.
    WebSocket(Switched),
    /// HTTP/2 from its first byte.
    Http2(ClientIo),
}

/// Serves the connection to its end, or until it has become something else.
pub async fn serve(
    current: &Rc<Current>,
    io: ClientIo,
    client: Rc<Client>,
    drain: Drain,
) -> Option<Became> {
    // The connection outlives configurations: it keeps none of them alive.
    let limits = message_limits(&current.get().clients);
    let wire = Rc::new(RefCell::new(Wire::new(io, Rc::clone(&client), limits)));
    let end = requests(current, &wire, &client, &drain).await;
    // Requests and responses that knew it are gone.
    let (mut io, early) = Rc::try_unwrap(wire).ok()?.into_inner().into_parts();
    match end {
        End::Switched(upgraded) => {
            return Some(Became::WebSocket(Switched { upgraded, io, early }));
        }
        End::Http2 => {
            io.unread(early);
            return Some(Became::Http2(io));
        }
        End::Reset => io.reset(),
        End::Close => close(io, client.linger.get()).await,
        End::Linger => close(io, true).await,
        End::Refused(failure) => {
            let worker = current.get();
            let answer = refusal::answer(&mut io, &worker, &client, &early, failure);
            let _ = timeout(LINGER, answer).await;
            close(io, true).await;
        }
    }
    None
}

fn message_limits(clients: &Clients) -> MessageLimits {
    MessageLimits {
        head_bytes: clients.head_bytes,
        field_bytes: clients.head_bytes,
        fields: clients.fields,
        trailer_bytes: TRAILER_BYTES,
        // Each route has its own.
        body_bytes: None,
    }
}

/// Serves one request after the other.
async fn requests(
    current: &Rc<Current>,
    wire: &Rc<RefCell<Wire>>,
    client: &Rc<Client>,
    drain: &Drain,
) -> End {
    let mut begun = pin!(drain.clone().begun());
    let mut draining = false;
    loop {
        let limit = current.get().clients.head_timeout;
        let next = poll_fn(|cx| {
            wire.borrow_mut().poll_head(cx, limit, |cx| {
                draining = draining || begun.as_mut().poll(cx).is_ready();
                draining
            })
        });
        let request = match next.await {
            Next::Request(request) => request,
            Next::Http2 => return End::Http2,
            Next::Nothing => return End::Close,
            Next::Refused(failure) => return End::Refused(failure),
        };
        if let Some(end) = serve_one(current, wire, client, drain, request).await {
            return end;
        }
    }
}

/// Serves one request; `None`, if another one may follow.
///
/// Cancel-safe: whoever drops this future drops the request, and with it its exchange.
async fn serve_one(
    current: &Rc<Current>,
    wire: &Rc<RefCell<Wire>>,
    client: &Rc<Client>,
    drain: &Drain,
    request: Request,
) -> Option<End> {
    let Request { head, framing, keep_alive, .. } = request;
    let asked = (head.version, head.method == Method::HEAD, keep_alive);
    let content = match framing {
        Framing::Empty => Incoming::empty(),
        Framing::Length(_) | Framing::Chunked | Framing::Close => {
            Incoming::http1(Content(Rc::clone(wire)))
        }
    };
    let worker = current.get();
    let requests = client.requests.get() + 1;
    client.requests.set(requests);
    // What was known of an earlier response is not of now any more.
    client.served.set(None);
    let is_last = requests >= worker.clients.requests_per_connection;
    let reply = {
        let mut answer = pin!(handle(worker, Rc::clone(client), head, content));
        poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(reply) => Poll::Ready(Some(reply)),
            Poll::Pending => wire.borrow_mut().poll_client(cx).map(|()| None),
        })
        .await
    };
    // The client has left.
    let Some(mut reply) = reply else { return Some(End::Close) };
    client.peer.entrance.complete(&mut reply);
    let Reply { status, fields, content, close } = reply;
    // An interim response that has begun to leave is completed first.
    let earlier = client.interim.borrow_mut().take_begun();
    let (version, is_head, keep_alive) = asked;
    let is_unsure = wire.borrow_mut().begin_response();
    let keep_alive = keep_alive && !close && !is_unsure && !is_last && !drain.is_leaving();
    let asked = Asked { version, head: is_head, keep_alive };
    let (head, keep_alive) =
        response::write(earlier, status, fields, content.size_hint().exact(), asked);
    let mut sending = Upload::new(head, Some(content), false, ContentLimit::default());
    let sent = poll_fn(|cx| match sending.poll(&mut Writer(wire), cx) {
        Ok(Waiting::Done) => Poll::Ready(Ok(())),
        Ok(Waiting::Upstream | Waiting::Client | Waiting::Continue) => {
            client.served.set(None);
            wire.borrow_mut().poll_client(cx).map(|()| Err(()))
        }
        // The client takes no more, or the response was cut off.
        Err(UploadError::Upstream(_) | UploadError::Client(..)) => Poll::Ready(Err(())),
    })
    .await;
    if client.reset.get() {
        return Some(End::Reset);
    }
    if sent.is_err() {
        return Some(End::Close);
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Some(client.upgraded.take().map_or(End::Close, |it| End::Switched(Box::new(it))));
    }
    let is_ended = wire.borrow_mut().end_request();
    match (is_ended, keep_alive) {
        (true, true) => None,
        // It may have asked for more before it has read that there is no more.
        (true, false) if !wire.borrow().has_more() => Some(End::Close),
        (true, false) | (false, false) => Some(End::Linger),
        // Boxed: most content is read before it is answered.
        (false, true) => match Box::pin(read_rest(wire)).await {
            true => None,
            false => Some(End::Linger),
        },
    }
}

/// Reads the content away that was answered before it was whole: the client has not been told that
/// nothing follows, and its next request comes behind it. Returns `true` if the end was found, soon
/// enough.
///
/// Cancel-safe: whoever drops this future closes the connection.
async fn read_rest(wire: &RefCell<Wire>) -> bool {
    let mut left = UNREAD_BYTES;
    let rest = poll_fn(|cx| wire.borrow_mut().poll_rest(&mut left, cx));
    timeout(LINGER, rest).await.unwrap_or(false)
}

/// A connection that has left HTTP.
#[derive(Debug)]
pub struct Switched {
    upgraded: Box<Upgraded>,
    io: ClientIo,
    early: Bytes,
}

/// Relays the WebSocket to its end.
pub async fn relay(mut switched: Box<Switched>, drain: Drain) {
    let Switched { upgraded, io, early } = &mut *switched;
    websocket::run(upgraded, io, std::mem::take(early), drain).await;
}

/// Ends the connection. A client that is still sending is read from for a while: closing over
/// unread bytes makes the kernel send a reset, which destroys an answer that is on its way.
async fn close(mut io: ClientIo, linger: bool) {
    if !linger && io.is_plain() {
        // Dropping it sends the FIN.
        return;
    }
    let _ = timeout(LINGER, async {
        io.shutdown().await?;
        if linger { read_away(&mut io).await } else { Ok(()) }
    })
    .await;
}

/// Reads until the other side closes.
pub async fn read_away<R: AsyncRead + Unpin>(io: &mut R) -> std::io::Result<()> {
    let mut sink = vec![0_u8; 16 * 1024];
    while io.read(&mut sink).await? > 0 {}
    Ok(())
}

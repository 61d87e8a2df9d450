//! One stream of an HTTP/2 connection: a request, its answer, and what becomes of both.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body::Body as _;

use super::answer::Answer;
use super::content::Content;
use super::sending::{End, Sending};
use super::stand_in::{self, StandIn};
use super::tunnel::Tunnel;
use super::{Open, Streams};
use crate::failure::ClientFailure;
use crate::forward::client::Client;
use crate::forward::current::Current;
use crate::forward::head::{Head, Known};
use crate::forward::incoming::Incoming;
use crate::forward::reply::Reply;
use crate::forward::request::expects_continue;
use crate::forward::unrouted::{self, Unrouted};
use crate::forward::{Worker, handle, websocket};
use crate::listen::date;
use crate::listen::drain::Drain;
use crate::message::field::X_REQUEST_ID;
use crate::upstream::http1::head::parse_length;
use crate::upstream::http2::backlog::Backlog;

/// What the streams of a connection share.
#[derive(Debug)]
pub struct Shared {
    current: Rc<Current>,
    client: Rc<Client>,
    drain: Drain,
    streams: Streams,
    backlog: Rc<Backlog>,
    cancelled: Cell<u32>,
    /// The client was told that it cancels too much.
    pub is_calmed: Cell<bool>,
}

impl Shared {
    /// A connection without streams.
    pub fn new(
        current: Rc<Current>,
        client: Rc<Client>,
        drain: Drain,
        backlog: Rc<Backlog>,
    ) -> Self {
        let (streams, cancelled) = (Streams::default(), Cell::new(0));
        let is_calmed = Cell::new(false);
        Shared { current, client, drain, streams, backlog, cancelled, is_calmed }
    }

    /// What the next request is served with.
    pub fn worker(&self) -> Rc<Worker> {
        self.current.get()
    }

    /// Counts a stream until the guard is dropped.
    pub fn one_more(&self) -> Open {
        self.streams.one_more()
    }

    /// Returns `true` if no stream is open.
    pub fn has_no_streams(&self) -> bool {
        self.streams.are_none()
    }

    /// How many requests there were.
    pub fn requests(&self) -> u64 {
        self.client.requests.get()
    }

    /// How many more streams the client has reset than it has let end.
    pub fn cancelled(&self) -> u32 {
        self.cancelled.get()
    }

    fn ended(&self, is_cancelled: bool) {
        let cancelled = self.cancelled.get();
        self.cancelled.set(match is_cancelled {
            true => cancelled.saturating_add(1),
            false => cancelled.saturating_sub(1),
        });
    }
}

/// Serves one stream to its end.
pub async fn serve(
    shared: Rc<Shared>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    open: Open,
) {
    let worker = shared.worker();
    let (parts, receive) = request.into_parts();
    let head = Rc::new(Head::from(parts));
    let before = shared.client.requests.replace(shared.client.requests.get() + 1);
    let is_left = poll_fn(|cx| Poll::Ready(respond.poll_reset(cx).is_ready())).await;
    if is_left {
        // Cancelled in the same breath: no upstream has to hear of it.
        shared.ended(true);
        return unrouted::gone(&worker, Unrouted::of(&head));
    }
    let stand_in = stand_in::read(&head);
    let answer = Rc::new(Answer::new(respond, expects_continue(&head)));
    let client = Rc::new(shared.client.stream(Rc::clone(&answer) as _));
    let length = head.fields.first(Known::ContentLength).and_then(|it| parse_length(it).ok());
    let (receive, reply) = match (&head.method, length) {
        _ if stand_in.is_some() => (None, stand_in.map(|it| refused(&worker, &head, &it))),
        // What follows belongs to the tunnel (RFC 9113 §8.5): it has no length.
        (&Method::CONNECT, Some(1..)) => {
            let (request, failure) = (Unrouted::of(&head), ClientFailure::BadRequest);
            (None, Some(unrouted::refuse_unread(&worker, request, failure)))
        }
        (&Method::CONNECT, _) => {
            let reply = served(&worker, &client, &head, Incoming::empty(), &answer).await;
            (Some(receive), reply)
        }
        _ => {
            let content = Content::new(receive, &shared.backlog, length, Rc::clone(&answer));
            (None, served(&worker, &client, &head, Incoming::http2(content), &answer).await)
        }
    };
    shared.client.generation.set(client.generation.get());
    // Dropping what was asked for has settled it.
    let Some(mut reply) = reply else { return shared.ended(true) };
    client.peer.entrance.complete(&mut reply);
    let Reply { status, fields, content, .. } = reply;
    let mut fields = fields.into_map();
    complete(&mut fields, &content, before == 0);
    let upgraded = client.upgraded.take();
    let is_whole = content.is_end_stream() && upgraded.is_none();
    let stream = match answer.begin(status, fields, is_whole) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "HTTP/2 stream ended before its response");
            answer.reset(Reason::INTERNAL_ERROR);
            return shared.ended(true);
        }
    };
    if let Some(upgraded) = upgraded
        && let Some(receive) = receive
    {
        let mut upgraded = Box::new(upgraded);
        let mut tunnel = Tunnel::new(receive, &shared.backlog, stream);
        drop((answer, client, worker, head));
        websocket::run(&mut upgraded, &mut tunnel, Bytes::new(), shared.drain.clone()).await;
    } else if is_whole {
        shared.ended(false);
    } else {
        send(&shared, &worker, stream, content).await;
    }
    drop(open);
}

/// The answer to a head that was refused before it came here.
fn refused(worker: &Worker, head: &Head, stand_in: &StandIn) -> Reply {
    let mut request = Unrouted::unread(head.version);
    if let Some(method) = &stand_in.method {
        request.method = method.as_str();
    }
    if stand_in.has_path {
        request.path = head.uri.path();
    }
    unrouted::refuse_unread(worker, request, stand_in.failure)
}

/// The answer; `None` if the client has left before.
async fn served(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    head: &Rc<Head>,
    content: Incoming,
    answer: &Answer,
) -> Option<Reply> {
    let handled = handle(Rc::clone(worker), Rc::clone(client), Rc::clone(head), content);
    let mut handled = pin!(handled);
    poll_fn(|cx| match handled.as_mut().poll(cx) {
        Poll::Ready(reply) => Poll::Ready(Some(reply)),
        Poll::Pending => answer.poll_left(cx).map(|()| None),
    })
    .await
}

/// Sends the content, and settles how that ended.
async fn send(
    shared: &Shared,
    worker: &Worker,
    stream: SendStream<Bytes>,
    content: crate::forward::content::Content,
) {
    let mut sending = Sending::new(stream, content, worker.clients.write_timeout);
    let end = poll_fn(|cx| sending.poll(cx)).await;
    shared.ended(end == End::Left);
    match end {
        End::Whole | End::Aborted => {}
        End::Left => drop(sending),
        End::StoodStill => {
            sending.reset(Reason::CANCEL);
            if !sending.into_content().forsake(ClientFailure::Gone) {
                worker.metrics.client(ClientFailure::Gone);
            }
        }
    }
}

/// Adds what every response has (RFC 9110 §6.6.1, §8.6).
fn complete(fields: &mut HeaderMap, content: &crate::forward::content::Content, is_first: bool) {
    if !content.is_end_stream()
        && let Some(length) = content.size_hint().exact()
        && !fields.contains_key(CONTENT_LENGTH)
    {
        fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if !fields.contains_key(DATE) {
        fields.insert(DATE, date::with(HeaderValue::clone));
    }
    // The first one leaves its name in HPACK's table, for those that come later.
    if is_first && let Some(id) = fields.get_mut(X_REQUEST_ID) {
        id.set_sensitive(false);
    }
}

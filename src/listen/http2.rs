//! An HTTP/2 connection: hyper's server. A response that is cut off becomes RST_STREAM, the other
//! streams go on.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;

use super::drain::Drain;
use super::io::ClientIo;
use crate::failure::{ClientFailure, classify};
use crate::forward::client::Client;
use crate::forward::content;
use crate::forward::current::Current;
use crate::forward::head::Head;
use crate::forward::incoming::Incoming;
use crate::forward::{Worker, handle, websocket};
use crate::message::field::X_REQUEST_ID;
use crate::upstream::deadline::Deadline;

/// Streams that the client has reset before we looked at them; one more is an attack.
const PENDING_RESETS: usize = 20;
/// Streams that we had to reset because the client broke the protocol; one more is an attack.
const LOCAL_RESETS: usize = 1024;

/// Runs a connection's streams on the connection's own thread, and ends those whose client does not
/// take what it is sent for longer than this.
#[derive(Clone, Debug)]
struct Here {
    limit: Duration,
    open: Streams,
}

impl<F> Executor<F> for Here
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        let (limit, stream) = (self.limit, self.open.one_more());
        tokio::task::spawn_local(async move {
            let future = pin!(future);
            taken(future, limit).await;
            drop(stream);
        });
    }
}

/// How many streams of a connection are open, WebSockets among them.
#[derive(Clone, Debug, Default)]
struct Streams(Rc<Cell<usize>>);

/// One of them.
struct Stream(Streams);

impl Streams {
    fn one_more(&self) -> Stream {
        self.0.set(self.0.get() + 1);
        Stream(self.clone())
    }

    fn are_none(&self) -> bool {
        self.0.get() == 0
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Stream(Streams(count)) = self;
        count.set(count.get().saturating_sub(1));
    }
}

/// Runs a stream to its end, or until its client has not opened its window (RFC 9113 §5.2) for so long.
/// Then it is dropped, which resets it: hyper would wait for ever, and with it the upstream.
async fn taken<F: Future>(mut stream: Pin<&mut F>, limit: Duration) {
    let mut blocked = Deadline::new();
    poll_fn(|cx| {
        content::last();
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match content::last() {
            Some(content::Last::Gave) => blocked.set(limit),
            Some(content::Last::Waits) => blocked.clear(),
            // Nothing could be taken from it.
            None => {}
        }
        blocked.poll(cx)
    })
    .await;
}

/// The stream of an extended CONNECT (RFC 8441), until it is known whether it becomes a WebSocket.
struct Tunnel {
    stream: OnUpgrade,
    client: Rc<Client>,
    worker: Rc<Worker>,
    drain: Drain,
    open: Stream,
}

impl Tunnel {
    /// Relays the WebSocket that the answer has opened, if it has.
    fn open(self) {
        let Some(upgraded) = self.client.upgraded.take() else { return };
        tokio::task::spawn_local(async move {
            let limit = self.worker.clients.handshake_timeout;
            match timeout(limit, self.stream).await {
                Ok(Ok(stream)) => {
                    let mut stream = TokioIo::new(stream);
                    let mut upgraded = Box::new(upgraded);
                    websocket::run(&mut upgraded, &mut stream, Bytes::new(), self.drain).await;
                }
                // The client reset the stream while its answer was on the way.
                Ok(Err(_)) | Err(_) => self.worker.metrics.client(ClientFailure::Gone),
            }
            drop(self.open);
        });
    }
}

/// Serves the connection to its end.
pub async fn serve(current: &Rc<Current>, io: ClientIo, client: Rc<Client>, drain: Drain) {
    let worker = current.get();
    let limits = &worker.clients;
    let (service_current, service_drain) = (Rc::clone(current), drain.clone());
    let (counted, requests) = (Rc::clone(&client), Rc::clone(&client));
    let most = limits.requests_per_connection;
    let (open, idle_time) = (Streams::default(), limits.head_timeout);
    let tunnels = open.clone();
    let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
        let before = counted.requests.replace(counted.requests.get() + 1);
        let worker = service_current.get();
        let tunnel = (request.method() == Method::CONNECT).then(|| Tunnel {
            stream: hyper::upgrade::on(&mut request),
            // A WebSocket takes its own stream over, not the connection.
            client: Rc::new(Client::new(client.peer.clone())),
            worker: Rc::clone(&worker),
            drain: service_drain.clone(),
            open: tunnels.one_more(),
        });
        let client = Rc::clone(tunnel.as_ref().map_or(&client, |tunnel| &tunnel.client));
        let entrance = Rc::clone(&client.peer.entrance);
        let (parts, content) = request.into_parts();
        let head = Rc::new(Head::from(parts));
        // Boxed: hyper and the runtime move what serves a stream a dozen times before it begins.
        let answer = Box::pin(handle(worker, client, head, Incoming::http2(content)));
        async move {
            let mut reply = answer.await;
            entrance.complete(&mut reply);
            if let Some(tunnel) = tunnel {
                tunnel.open();
            }
            let mut response = Response::new(reply.content);
            *response.status_mut() = reply.status;
            let mut fields = reply.fields.into_map();
            // The first one leaves its name in HPACK's table, for those that come later.
            if before == 0
                && let Some(id) = fields.get_mut(X_REQUEST_ID)
            {
                id.set_sensitive(false);
            }
            *response.headers_mut() = fields;
            Ok::<_, Infallible>(response)
        }
    });
    let here = Here { limit: limits.write_timeout, open: open.clone() };
    let mut builder = http2::Builder::new(here);
    builder
        .enable_connect_protocol()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        // Streams that are reset faster than they are served end the connection (CVE-2023-44487), as do
        // those that we have to reset (CVE-2025-8671).
        .max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .max_local_error_reset_streams(Some(LOCAL_RESETS))
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        // A client that is gone without a FIN is noticed by its silence.
        .keep_alive_interval(limits.head_timeout)
        .keep_alive_timeout(limits.handshake_timeout);
    let connection = builder.serve_connection(TokioIo::new(io), service);
    // The connection outlives configurations: it keeps none of them alive.
    drop(worker);
    tokio::pin!(connection);
    // GOAWAY loses no request (RFC 9113 §6.8): it need not wait for the drain to begin.
    let leaving = drain.leaving();
    tokio::pin!(leaving);
    let mut draining = false;
    let (mut idle, mut idles) = (Deadline::new(), false);
    let ended = poll_fn(|cx| {
        if !draining && leaving.as_mut().poll(cx).is_ready() {
            draining = true;
            Pin::as_mut(&mut connection).graceful_shutdown();
        }
        let polled = connection.as_mut().poll(cx);
        if draining || polled.is_ready() {
            return polled;
        }
        // hyper keeps a connection without streams for as long as its client answers pings.
        match (open.are_none(), idles) {
            (true, false) => idle.set(idle_time),
            (false, true) => idle.clear(),
            (true, true) | (false, false) => {}
        }
        idles = open.are_none();
        let is_idle = idles && idle.poll(cx).is_ready();
        if requests.requests.get() < most && !is_idle {
            return polled;
        }
        // GOAWAY (RFC 9113 §6.8): what is open is answered, what comes later goes elsewhere.
        draining = true;
        connection.as_mut().graceful_shutdown();
        connection.as_mut().poll(cx)
    })
    .await;
    if let Err(error) = ended {
        if let Some(failure) = classify::client_http2(&error) {
            current.get().metrics.client(failure);
        }
        tracing::debug!(%error, "HTTP/2 connection ended with an error");
    }
}

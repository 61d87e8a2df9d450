//! An HTTP/2 connection: hyper's server. A response that is cut off becomes RST_STREAM, the other
//! streams go on.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::drain::Drain;
use super::io::{ClientIo, Limits, Transport};
use crate::forward::client::Client;
use crate::forward::request::Peer;
use crate::forward::{Worker, handle};

/// Runs a connection's streams on the connection's own thread.
#[derive(Clone, Copy, Debug)]
struct Here;

impl<F> Executor<F> for Here
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// Serves the connection to its end.
pub async fn serve(
    worker: &Rc<Worker>,
    transport: Transport,
    early: Bytes,
    peer: Peer,
    drain: Drain,
) {
    let client = Rc::new(Client::new(peer));
    let limits = &worker.clients;
    let io = ClientIo::new(
        transport,
        early,
        Rc::clone(&client),
        Limits { write: limits.write_timeout, head: None },
    );
    let service_worker = Rc::clone(worker);
    let service = service_fn(move |request| {
        let answer = handle(Rc::clone(&service_worker), Rc::clone(&client), request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = http2::Builder::new(Here);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        // A client that is gone without a FIN is noticed by its silence.
        .keep_alive_interval(limits.head_timeout)
        .keep_alive_timeout(limits.handshake_timeout);
    let connection = builder.serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    let begun = drain.begun();
    tokio::pin!(begun);
    let mut draining = false;
    let ended = std::future::poll_fn(|cx| {
        if !draining && begun.as_mut().poll(cx).is_ready() {
            draining = true;
            Pin::as_mut(&mut connection).graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP/2 connection ended with an error");
    }
}

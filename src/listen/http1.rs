//! An HTTP/1.1 connection: hyper's server, and the end that hyper leaves to us.
//!
//! | hyper ends with | the connection |
//! | --- | --- |
//! | a 101 that `forward` prepared | becomes a WebSocket |
//! | a response cut off that a FIN would complete | is reset |
//! | unread request content, or a request it could not parse | lingers: answer, FIN, read away |
//! | a head that came too slowly | gets a 408 |
//! | a head that can be read in two ways | gets a 400 |
//! | anything else | is closed |

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::drain::Drain;
use super::io::{ClientIo, Limits, Transport};
use crate::failure::{ClientFailure, classify};
use crate::forward::client::Client;
use crate::forward::current::Current;
use crate::forward::handle;
use crate::forward::request::Peer;
use crate::forward::websocket::{self, Upgraded};

/// How long a client may go on sending after its answer.
const LINGER: Duration = Duration::from_secs(5);

/// hyper's own limit of fields, which costs no allocation for every head.
const UNALLOCATED_FIELDS: usize = 100;

/// RFC 9110 §15.5.9.
const TOO_SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// RFC 9112 §6.1: what is ambiguous is refused, and the connection closed.
const REFUSED: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Serves the connection to its end.
pub async fn serve(
    current: &Rc<Current>,
    transport: Transport,
    early: Bytes,
    peer: Peer,
    drain: Drain,
) -> Option<Switched> {
    let client = Rc::new(Client::new(peer));
    let worker = current.get();
    let limits = &worker.clients;
    let io = ClientIo::new(
        transport,
        early,
        Rc::clone(&client),
        Limits { write: limits.write_timeout, head: Some(limits.head_timeout) },
    );
    let most = limits.requests_per_connection;
    let leaving = &drain;
    let service = service_fn(|request| {
        let requests = client.requests.get() + 1;
        client.requests.set(requests);
        // hyper reads on before it polls the request for the first time.
        client.busy.set(true);
        let is_last = requests >= most;
        let (worker, client) = (current.get(), Rc::clone(&client));
        let entrance = Rc::clone(&client.peer.entrance);
        // Boxed because hyper takes a connection apart only if its requests can be moved. The
        // request's future is made inside: it is large, and this one would hold it twice.
        Box::pin(async move {
            let mut response = handle(worker, client, request).await;
            entrance.complete(&mut response);
            let is_last = is_last || leaving.is_leaving();
            if is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        })
    });
    let mut builder = http1::Builder::new();
    builder.max_buf_size(limits.head_bytes.max(8 * 1024));
    if limits.fields != UNALLOCATED_FIELDS {
        builder.max_headers(limits.fields);
    }
    let mut connection = builder.serve_connection(TokioIo::new(io), service);
    // The connection outlives configurations: it keeps none of them alive.
    drop(worker);

    let begun = drain.clone().begun();
    tokio::pin!(begun);
    let mut draining = false;
    let ended = std::future::poll_fn(|cx| {
        if !draining && begun.as_mut().poll(cx).is_ready() {
            draining = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        connection.poll_without_shutdown(cx)
    })
    .await;
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner();

    if client.reset.get() {
        io.reset();
        return None;
    }
    let upgraded = client.upgraded.take();
    if io.has_refused() && upgraded.is_none() {
        current.get().metrics.client(ClientFailure::BadRequest);
        let _ = timeout(LINGER, io.write_all(REFUSED)).await;
        close(io, true).await;
        return None;
    }
    match (ended, upgraded) {
        (Ok(()), Some(upgraded)) => {
            io.upgrade();
            return Some(Switched { upgraded, io, early: parts.read_buf });
        }
        (Ok(()), None) => close(io, client.linger.get()).await,
        (Err(error), _) => {
            let late = client.late.get() && !parts.read_buf.is_empty();
            let failure =
                if late { Some(ClientFailure::RequestTimeout) } else { classify::client(&error) };
            if let Some(failure) = failure {
                current.get().metrics.client(failure);
            }
            if failure == Some(ClientFailure::RequestTimeout) {
                let _ = timeout(LINGER, io.write_all(TOO_SLOW)).await;
            }
            close(io, failure.is_some() || client.linger.get()).await;
        }
    }
    None
}

/// A connection that has left HTTP.
#[derive(Debug)]
pub struct Switched {
    upgraded: Upgraded,
    io: ClientIo,
    early: Bytes,
}

/// Relays the WebSocket to its end.
pub async fn relay(mut switched: Box<Switched>, drain: Drain) {
    let Switched { upgraded, io, early } = &mut *switched;
    websocket::run(upgraded, io, std::mem::take(early), drain.begun()).await;
}

/// Ends the connection. A client that is still sending is read from for a while: closing over
/// unread bytes makes the kernel send a reset, which destroys an answer that is on its way.
async fn close(mut io: ClientIo, linger: bool) {
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

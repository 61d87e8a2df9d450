//! An HTTP/2 connection (RFC 9113): the h2 crate keeps its frames, windows and tables; what happens
//! on each stream is decided here.
//!
//! ```text
//! accept ─► preface ─► guard ─► h2 ─► stream ─► forward::handle ─► sending ─► h2 ─► the client
//!             │          │                │                           │
//!             ▼          ▼                ▼ an extended CONNECT       ▼
//!          GOAWAY    a bad head        tunnel                    RST_STREAM
//! ```
//!
//! Each stream is a task of its own on the connection's thread: one that is cut off, stands still or
//! fails is reset, and the others go on. The connection's task reads, writes, and ends it.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::Reason;
use h2::server::{Builder, Connection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::drain::Drain;
use super::http1::read_away;
use super::io::ClientIo;
use crate::config::model::Clients;
use crate::failure::{ClientFailure, classify};
use crate::forward::client::Client;
use crate::forward::current::Current;
use crate::upstream::deadline::Deadline;

mod answer;
mod check;
mod content;
mod guard;
mod keep_alive;
mod sending;
mod stand_in;
mod stream;
mod tunnel;
mod walk;

use check::Limits;
use guard::Guarded;
use keep_alive::KeepAlive;
use stream::Shared;

/// RFC 9113 §3.4.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Streams that the client has reset before we looked at them; one more is an attack
/// (CVE-2023-44487). A browser that leaves a page resets as many as it had opened, in one write.
const PENDING_RESETS: usize = 256;
/// Streams that we had to reset because the client broke the protocol; one more is an attack
/// (CVE-2025-8671).
const LOCAL_RESETS: usize = 1024;
/// How many more streams a client may reset than it lets end. One that asks for much and waits for
/// nothing makes upstreams work for nobody.
const CANCELLED: u32 = 1024;

/// What answers bytes that are no preface: SETTINGS without parameters, which must come first
/// (RFC 9113 §3.4), and GOAWAY with PROTOCOL_ERROR.
const NO_PREFACE: &[u8] = b"\0\0\0\x04\0\0\0\0\0\
    \0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01";

/// Serves the connection to its end.
pub async fn serve(current: &Rc<Current>, mut io: ClientIo, client: Rc<Client>, drain: Drain) {
    let limits = {
        // The connection outlives configurations: it keeps none of them alive.
        current.get().clients.clone()
    };
    match timeout(limits.head_timeout, read_preface(&mut io)).await {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => {
            current.get().metrics.client(ClientFailure::Http2);
            let _ = timeout(limits.handshake_timeout, refuse(io)).await;
            return;
        }
        // The client has left, or says nothing: there is nothing to guess.
        Ok(Err(_)) | Err(_) => {
            let _ = timeout(limits.handshake_timeout, io.shutdown()).await;
            return;
        }
    }
    let io = Guarded::new(io, Limits::from(&limits));
    let (moved, backlog) = (io.moved(), io.backlog());
    let handshake = builder(&limits).handshake(io);
    let mut connection = match timeout(limits.handshake_timeout, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(_)) | Err(_) => return,
    };
    let Some(pings) = connection.ping_pong() else { return };
    // A client that is gone without a FIN is noticed by its silence.
    let keep_alive = KeepAlive::new(pings, moved, limits.head_timeout, limits.handshake_timeout);
    let shared = Rc::new(Shared::new(Rc::clone(current), client, drain.clone(), backlog));
    let running = Running { shared: &shared, limits: &limits, keep_alive };
    match running.run(&mut connection, drain).await {
        Ok(()) => {}
        Err(error) => {
            if let Some(failure) = classify::client_http2(&error) {
                current.get().metrics.client(failure);
            }
            tracing::debug!(%error, "HTTP/2 connection ended with an error");
        }
    }
}

fn builder(limits: &Clients) -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_connect_protocol()
        .max_concurrent_streams(limits.streams)
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window())
        .max_send_buffer_size(limits.stream_buffer)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(LOCAL_RESETS))
        .max_header_list_size(Limits::from(limits).list_size());
    builder
}

/// Reads the preface, and leaves it to be read again. Returns `false` if something else came.
async fn read_preface(io: &mut ClientIo) -> io::Result<bool> {
    let mut read = [0; PREFACE.len()];
    let mut length = 0;
    while length < PREFACE.len() {
        let room = read.get_mut(length..).unwrap_or_default();
        match io.read(room).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => length += count,
        }
        if read.get(..length) != PREFACE.get(..length) {
            return Ok(false);
        }
    }
    io.unread(Bytes::from_static(PREFACE));
    Ok(true)
}

/// Ends a connection that has not begun with the preface: nothing is guessed after ALPN.
async fn refuse(mut io: ClientIo) -> io::Result<()> {
    io.write_all(NO_PREFACE).await?;
    io.shutdown().await?;
    read_away(&mut io).await
}

/// A connection that is served.
struct Running<'r> {
    shared: &'r Rc<Shared>,
    limits: &'r Clients,
    keep_alive: KeepAlive,
}

impl Running<'_> {
    /// Runs until the connection is over.
    async fn run(
        mut self,
        connection: &mut Connection<Guarded, Bytes>,
        drain: Drain,
    ) -> Result<(), h2::Error> {
        // GOAWAY loses no request (RFC 9113 §6.8): it need not wait for the drain to begin.
        let mut leaving = pin!(drain.leaving());
        let mut draining = false;
        let (mut idle, mut idles) = (Deadline::new(), false);
        poll_fn(|cx| {
            loop {
                if !draining && leaving.as_mut().poll(cx).is_ready() {
                    draining = true;
                    connection.graceful_shutdown();
                }
                if let Poll::Ready(ended) = self.poll_accept(connection, cx) {
                    return Poll::Ready(ended);
                }
                if self.shared.cancelled() > CANCELLED && !self.shared.is_calmed.replace(true) {
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    continue;
                }
                if self.keep_alive.poll(cx).is_ready() {
                    connection.abrupt_shutdown(Reason::NO_ERROR);
                    continue;
                }
                if draining {
                    return Poll::Pending;
                }
                let is_idle = self.shared.has_no_streams();
                match (is_idle, std::mem::replace(&mut idles, is_idle)) {
                    (true, false) => idle.set(self.limits.head_timeout),
                    (false, true) => idle.clear(),
                    (true, true) | (false, false) => {}
                }
                let is_over = is_idle && idle.poll(cx).is_ready();
                if self.shared.requests() < self.limits.requests_per_connection && !is_over {
                    return Poll::Pending;
                }
                // GOAWAY (RFC 9113 §6.8): what is open is answered, what comes later goes elsewhere.
                draining = true;
                connection.graceful_shutdown();
            }
        })
        .await
    }

    /// Reads and writes; begins the streams that have come. Ready when the connection is over.
    fn poll_accept(
        &self,
        connection: &mut Connection<Guarded, Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), h2::Error>> {
        loop {
            match std::task::ready!(connection.poll_accept(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                Some(Ok((request, respond))) => {
                    let open = self.shared.one_more();
                    let shared = Rc::clone(self.shared);
                    // Boxed: the runtime moves what serves a stream a dozen times before it begins.
                    let stream = Box::pin(stream::serve(shared, request, respond, open));
                    tokio::task::spawn_local(stream);
                }
            }
        }
    }
}

/// How many streams of a connection are open, WebSockets among them.
#[derive(Clone, Debug, Default)]
pub struct Streams(Rc<Cell<usize>>);

/// One of them.
#[derive(Debug)]
pub struct Open(Streams);

impl Streams {
    fn one_more(&self) -> Open {
        self.0.set(self.0.get() + 1);
        Open(self.clone())
    }

    fn are_none(&self) -> bool {
        self.0.get() == 0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Open(Streams(count)) = self;
        count.set(count.get().saturating_sub(1));
    }
}

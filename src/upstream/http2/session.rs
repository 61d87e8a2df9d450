//! Connections that many requests share, and the set of them that a worker keeps per endpoint.
//!
//! | a session | new requests | ends when |
//! | --- | --- | --- |
//! | is open | as many as the upstream and `limits.streams` allow | it was idle for too long |
//! | goes away (GOAWAY) or is retired (a request timed out on it) | none | its last request has ended |
//! | is closed | none | at once |
//!
//! One connection is opened at a time: who finds none with room waits for the one that is on its
//! way, and shares its failure, so that a crowd of requests becomes neither a crowd of connections
//! nor a queue of timeouts.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::watch as channel;
use tokio::time::Instant;

use super::watch::{Watch, Watched};
use crate::config::model::UpstreamLimits;
use crate::failure::classify::{self, Facts};
use crate::failure::{Failure, Kind, Phase};
use crate::upstream::pool::Ticket;
use crate::upstream::stream::Stream;

/// Most bytes of a request that wait in memory for the upstream's window.
const SEND_BUFFER: usize = 64 * 1024;

/// An open connection.
#[derive(Debug)]
pub struct Session {
    send: SendRequest<Bytes>,
    watch: Rc<Watch>,
    closed: Rc<Cell<bool>>,
    retired: Cell<bool>,
    streams: Cell<usize>,
    served: Cell<bool>,
    idle_since: Cell<Instant>,
    ticket: RefCell<Ticket>,
    limit: usize,
}

impl Session {
    /// Starts HTTP/2 with prior knowledge or after ALPN (RFC 9113 §3.3, §3.2) on `stream`. The
    /// connection runs in a task of its own until the session and its last stream are gone.
    ///
    /// # Errors
    /// If the connection preface cannot be sent.
    pub async fn open(
        stream: Stream,
        ticket: Ticket,
        limits: &UpstreamLimits,
    ) -> Result<Rc<Self>, Failure> {
        let watch = Rc::new(Watch::default());
        let io = Watched::new(stream, Rc::clone(&watch));
        let streams = u32::try_from(limits.streams).unwrap_or(u32::MAX);
        // One window for all streams together, so that clients that do not read cannot stop the
        // others of the same connection.
        let shared = u64::from(limits.window).saturating_mul(u64::from(streams)).min(0x7fff_ffff);
        let handshake = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(limits.window)
            .initial_connection_window_size(u32::try_from(shared).unwrap_or(limits.window))
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER)
            .handshake::<_, Bytes>(io)
            .await;
        let facts = Facts::in_phase(Phase::Connect);
        let (send, connection) = handshake.map_err(|error| classify::http2(&facts, error))?;
        let closed = Rc::new(Cell::new(false));
        let is_closed = Rc::clone(&closed);
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                // Every request on it gets its own failure.
                tracing::debug!(%error, "an HTTP/2 connection to an upstream ended");
            }
            is_closed.set(true);
        });
        Ok(Rc::new(Session {
            send,
            watch,
            closed,
            retired: Cell::new(false),
            streams: Cell::new(0),
            served: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
            ticket: RefCell::new(ticket),
            limit: limits.streams,
        }))
    }

    /// No new request is sent on this connection.
    pub fn retire(&self) {
        self.retired.set(true);
    }

    fn is_open(&self) -> bool {
        !(self.closed.get() || self.retired.get() || self.watch.goes_away())
    }

    fn has_room(&self) -> bool {
        self.streams.get() < self.limit.min(self.send.current_max_send_streams())
    }

    fn is_idle_since(&self, age: Duration) -> bool {
        self.streams.get() == 0 && self.idle_since.get().elapsed() >= age
    }

    fn lease(self: &Rc<Self>) -> Lease {
        if self.streams.replace(self.streams.get() + 1) == 0 {
            self.ticket.borrow_mut().set_idle(false);
        }
        Lease { reused: self.served.replace(true), session: Rc::clone(self) }
    }
}

/// A place for one request on a session.
#[derive(Debug)]
pub struct Lease {
    session: Rc<Session>,
    reused: bool,
}

impl Lease {
    /// The session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// A handle to open the stream with.
    #[must_use]
    pub fn send(&self) -> SendRequest<Bytes> {
        self.session.send.clone()
    }

    /// Whether the session has carried a request before: it may have been closed in the meantime.
    #[must_use]
    pub fn reused(&self) -> bool {
        self.reused
    }

    /// Whether the upstream has said that it will not process this stream (RFC 9113 §6.8).
    #[must_use]
    pub fn disclaimed(&self, stream: u32) -> bool {
        self.session.watch.disclaims(stream)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let left = self.session.streams.get().saturating_sub(1);
        self.session.streams.set(left);
        if left == 0 {
            self.session.idle_since.set(Instant::now());
            self.session.ticket.borrow_mut().set_idle(true);
        }
    }
}

/// The sessions of one endpoint on one worker.
#[derive(Debug)]
pub struct Sessions {
    open: RefCell<Vec<Rc<Session>>>,
    opening: RefCell<Option<channel::Receiver<Progress>>>,
    keep_alive: Duration,
}

/// How far the connection is that everybody waits for. A sender that is dropped has given up.
#[derive(Clone, Copy, Debug)]
enum Progress {
    Opening,
    Open,
    Failed(Kind, Phase),
}

impl Sessions {
    /// Sessions that are closed when they were idle for `keep_alive`.
    #[must_use]
    pub fn new(keep_alive: Duration) -> Self {
        Sessions { open: RefCell::default(), opening: RefCell::default(), keep_alive }
    }

    /// A place on an open session, if one has room.
    #[must_use]
    pub fn take(&self) -> Option<Lease> {
        let mut open = self.open.borrow_mut();
        open.retain(|session| session.is_open());
        open.iter().find(|session| session.has_room()).map(Session::lease)
    }

    /// A place on a session: an open one, the one that is on its way, or the one that `connect`
    /// opens. `None` if `connect` found that the endpoint does not speak HTTP/2; it has kept the
    /// connection then.
    ///
    /// # Errors
    /// The failure to connect, also somebody else's if this request waited for it.
    pub async fn lease<F>(&self, connect: F) -> Result<Option<Lease>, Failure>
    where
        F: Future<Output = Result<Option<Rc<Session>>, Failure>>,
    {
        loop {
            if let Some(lease) = self.take() {
                return Ok(Some(lease));
            }
            let waiting = self.opening.borrow().clone();
            let Some(mut progress) = waiting else { break };
            let outcome = progress.wait_for(|now| !matches!(now, Progress::Opening)).await;
            if let Ok(Progress::Failed(kind, phase)) = outcome.map(|now| *now) {
                return Err(Failure::new(kind, phase).with_source(Shared));
            }
        }
        let (tell, progress) = channel::channel(Progress::Opening);
        self.opening.replace(Some(progress));
        let guard = Opening(self);
        let connected = connect.await;
        drop(guard);
        match connected {
            Ok(Some(session)) => {
                let lease = session.lease();
                self.open.borrow_mut().push(session);
                tell.send_replace(Progress::Open);
                Ok(Some(lease))
            }
            Ok(None) => {
                tell.send_replace(Progress::Open);
                Ok(None)
            }
            Err(failure) => {
                tell.send_replace(Progress::Failed(failure.kind(), failure.phase()));
                Err(failure)
            }
        }
    }

    /// Forgets sessions that are over or were idle for too long.
    pub fn sweep(&self) {
        let age = self.keep_alive;
        self.open.borrow_mut().retain(|session| session.is_open() && !session.is_idle_since(age));
    }

    /// Forgets all sessions: each closes when its last request has ended.
    pub fn clear(&self) {
        self.open.borrow_mut().clear();
    }
}

/// Whoever opens the connection may be dropped with its client: then somebody else does it.
struct Opening<'s>(&'s Sessions);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.replace(None);
    }
}

/// The connection that a request waited for was opened for another one.
#[derive(Debug)]
struct Shared;

impl std::fmt::Display for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection that this request waited for failed; see the request before it")
    }
}

impl std::error::Error for Shared {}

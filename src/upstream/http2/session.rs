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
//! nor a queue of timeouts. When there are as many connections as may be, who finds none with room
//! waits in the upstream's queue (`pending`), and a stream that ends wakes the first that waits for
//! this endpoint.

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
use crate::upstream::pending::{Line, Pending};
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
    /// Gone when the connection was closed to make room for another.
    ticket: RefCell<Option<Ticket>>,
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
            ticket: RefCell::new(Some(ticket)),
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

    fn set_idle(&self, idle: bool) {
        self.ticket.borrow_mut().iter_mut().for_each(|ticket| ticket.set_idle(idle));
    }
}

/// A place for one request on a session.
#[derive(Debug)]
pub struct Lease {
    session: Rc<Session>,
    sessions: Rc<Sessions>,
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
            self.session.set_idle(true);
        }
        self.sessions.returned(&self.session);
    }
}

/// The sessions of one endpoint on one worker.
#[derive(Debug)]
pub struct Sessions {
    open: RefCell<Vec<Rc<Session>>>,
    opening: RefCell<Option<channel::Receiver<Progress>>>,
    keep_alive: Duration,
    line: Line,
    pending: Option<Rc<Pending>>,
}

/// How far the connection is that everybody waits for. A sender that is dropped has given up.
#[derive(Clone, Copy, Debug)]
enum Progress {
    Opening,
    Open,
    Failed(Kind, Phase),
}

impl Sessions {
    /// Sessions that are closed when they were idle for `keep_alive`; `pending` is the queue for
    /// those that find no room.
    #[must_use]
    pub fn new(keep_alive: Duration, pending: Option<Rc<Pending>>) -> Self {
        let (open, opening) = (RefCell::default(), RefCell::default());
        Sessions { open, opening, keep_alive, line: Line::default(), pending }
    }

    /// Those that wait for a stream.
    #[must_use]
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// A place on an open session, if one has room.
    #[must_use]
    pub fn take(self: &Rc<Self>) -> Option<Lease> {
        let mut open = self.open.borrow_mut();
        open.retain(|session| session.is_open());
        open.iter().find(|session| session.has_room()).map(|session| self.lease(session))
    }

    fn lease(self: &Rc<Self>, session: &Rc<Session>) -> Lease {
        if session.streams.replace(session.streams.get() + 1) == 0 {
            session.set_idle(false);
        }
        let (reused, session) = (session.served.replace(true), Rc::clone(session));
        Lease { reused, session, sessions: Rc::clone(self) }
    }

    /// A place has become free on this session.
    fn returned(&self, session: &Rc<Session>) {
        if !self.line.is_empty() {
            self.line.returned();
            return;
        }
        let Some(pending) = self.pending.as_ref().filter(|_| session.streams.get() == 0) else {
            return;
        };
        if pending.is_for_others() {
            // Closed, so that a request on another worker can open a connection.
            self.open.borrow_mut().retain(|known| !Rc::ptr_eq(known, session));
        } else {
            pending.returned();
        }
    }

    /// Wakes the next that waits, if there is room for it: more than one place can become free at
    /// a time.
    pub fn pass_on(&self) {
        if !self.line.is_empty() && self.open.borrow().iter().any(|session| session.has_room()) {
            self.line.returned();
        }
    }

    /// Whether a connection is on its way.
    #[must_use]
    pub fn is_opening(&self) -> bool {
        self.opening.borrow().is_some()
    }

    /// Waits until the connection that is on its way has come, if there is one.
    ///
    /// # Errors
    /// Its failure.
    pub async fn opened(&self) -> Result<(), Failure> {
        let waiting = self.opening.borrow().clone();
        let Some(mut progress) = waiting else { return Ok(()) };
        let outcome = progress.wait_for(|now| !matches!(now, Progress::Opening)).await;
        match outcome.map(|now| *now) {
            Ok(Progress::Failed(kind, phase)) => Err(Failure::new(kind, phase).with_source(Shared)),
            // Whoever opened it may also have given up: then there is none.
            Ok(Progress::Opening | Progress::Open) | Err(_) => Ok(()),
        }
    }

    /// A place on the session that `connect` opens; others may wait for it meanwhile. `None` if
    /// `connect` found that the endpoint does not speak HTTP/2; it has kept the connection then.
    ///
    /// # Errors
    /// The failure to connect.
    pub async fn open<F>(self: &Rc<Self>, connect: F) -> Result<Option<Lease>, Failure>
    where
        F: Future<Output = Result<Option<Rc<Session>>, Failure>>,
    {
        let (tell, progress) = channel::channel(Progress::Opening);
        self.opening.replace(Some(progress));
        let guard = Opening(self);
        let connected = connect.await;
        drop(guard);
        match connected {
            Ok(Some(session)) => {
                let lease = self.lease(&session);
                self.open.borrow_mut().push(session);
                tell.send_replace(Progress::Open);
                self.pass_on();
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

    /// Whether a connection carries no request.
    pub fn has_idle(&self) -> bool {
        self.open.borrow().iter().any(|session| session.streams.get() == 0)
    }

    /// Closes a connection that carries no request, and gives its place away.
    pub fn evict(&self) -> Option<Ticket> {
        let mut open = self.open.borrow_mut();
        let idle = open.iter().position(|session| session.streams.get() == 0)?;
        let mut ticket = open.swap_remove(idle).ticket.take()?;
        ticket.set_idle(false);
        Some(ticket)
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

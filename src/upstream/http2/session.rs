//! Connections that many requests share, and the set of them that a worker keeps per endpoint.
//!
//! | a session | new requests | ends when |
//! | --- | --- | --- |
//! | has no SETTINGS of the upstream yet | one; after `timeouts.connect` as if it were open | |
//! | is open | as many as the upstream, what it has refused, and `limits.streams` allow | it was idle for too long |
//! | is barred: the upstream allows no stream, or has refused the only one just now | none, and no other connection is opened for them | |
//! | is in doubt: a request timed out on it | none before something comes on it | it is dead: see `keeper` |
//! | goes away (GOAWAY), is retired or dead | none | its last request has ended |
//! | is closed | none | at once |
//!
//! One connection is opened at a time: who finds none with room waits for the one that is on its
//! way, until it is known how many requests it can take, and shares its failure, so that a crowd of
//! requests becomes neither a crowd of connections nor a queue of timeouts. When there are as many
//! connections as may be, who finds none with room waits in the upstream's queue (`pending`), and a
//! stream that ends wakes the first that waits for this endpoint.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::{Notify, watch as channel};
use tokio::time::{Instant, sleep, timeout};

use super::flaw::Limits;
use super::keeper::{Doubt, Keeper};
use super::sieve::Sieved;
use super::watch::{Open, Watch};
use crate::config::model::{Timeouts, Upstream, UpstreamLimits};
use crate::failure::classify::{self, Facts};
use crate::failure::{Failure, Kind, Phase};
use crate::upstream::pending::{Line, Pending};
use crate::upstream::pool::Ticket;
use crate::upstream::stream::Stream;

/// Most bytes of a request that wait in memory for the upstream's window.
const SEND_BUFFER: usize = 64 * 1024;

/// Requests on a connection before the upstream has said how many it takes.
const UNTOLD_STREAMS: usize = 1;

/// The limit of h2 before the upstream's SETTINGS: no upstream can have said it.
const UNTOLD: usize = usize::MAX - 1;

/// How long a connection is left alone whose only stream was refused: the upstream has no room for
/// anybody at the moment.
const BREATH: Duration = Duration::from_millis(100);

/// An open connection.
#[derive(Debug)]
pub struct Session {
    send: SendRequest<Bytes>,
    watch: Rc<Watch>,
    doubt: Rc<Doubt>,
    closed: Rc<Cell<bool>>,
    retired: Cell<bool>,
    /// The upstream's SETTINGS have been waited for long enough.
    waited: Cell<bool>,
    /// The upstream has said something new, or the connection has ended.
    news: Rc<Notify>,
    /// Requests at a time that the upstream takes, as far as its refusals tell, and how many have
    /// ended since the last of these.
    believed: Cell<usize>,
    ended: Cell<usize>,
    breathes: Cell<bool>,
    /// A request has been told that the connection has ended.
    lost: Cell<bool>,
    /// A request that comes after so long a silence brings a ping along.
    silence: Duration,
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
        settings: &Upstream,
        sessions: &Rc<Sessions>,
    ) -> Result<Rc<Self>, Failure> {
        let Upstream { limits, timeouts, .. } = settings;
        let watch = Rc::new(Watch::default());
        let io = Sieved::new(stream, Rc::clone(&watch), Limits::from(limits));
        let handshake = builder(limits).handshake::<_, Bytes>(io).await;
        let facts = Facts::in_phase(Phase::Connect);
        let (send, connection) = handshake.map_err(|error| classify::http2(&facts, error))?;
        let (closed, news, doubt) = (Rc::default(), Rc::default(), Rc::default());
        let run = Run {
            connection,
            watch: Rc::clone(&watch),
            doubt: Rc::clone(&doubt),
            closed: Rc::clone(&closed),
            news: Rc::clone(&news),
            sessions: Rc::downgrade(sessions),
        };
        tokio::task::spawn_local(run.until_end(timeouts));
        Ok(Rc::new(Session {
            send,
            watch,
            doubt,
            closed,
            retired: Cell::new(false),
            waited: Cell::new(false),
            news,
            believed: Cell::new(usize::MAX),
            ended: Cell::new(0),
            breathes: Cell::new(false),
            lost: Cell::new(false),
            silence: timeouts.ping,
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

    /// A request has been waited for in vain. If the connection is dead, nobody else shall wait on
    /// it: no new request is sent before something comes.
    pub fn doubt(&self) {
        self.doubt.raise(&self.watch);
    }

    /// Takes note that a request has learned of the end of the connection. Returns `true` for the
    /// first one: it is one event, for all of them.
    #[must_use]
    pub fn lose(&self) -> bool {
        self.retire();
        !self.lost.replace(true)
    }

    fn is_open(&self) -> bool {
        let is_over = self.closed.get() || self.retired.get() || self.doubt.is_confirmed();
        !(is_over || self.watch.goes_away())
    }

    /// How many requests at a time the upstream allows, as far as it has said.
    fn told(&self) -> usize {
        match self.send.current_max_send_streams() {
            UNTOLD if self.waited.get() => usize::MAX,
            UNTOLD => UNTOLD_STREAMS,
            told => told,
        }
    }

    fn has_room(&self) -> bool {
        !self.breathes.get()
            && !self.doubt.is_open(&self.watch)
            && self.streams.get() < self.limit.min(self.believed.get()).min(self.told())
    }

    /// Returns `true` if the upstream wants no stream at all at the moment.
    fn is_barred(&self) -> bool {
        self.breathes.get() || self.told() == 0
    }

    /// Waits until the upstream has said how many requests it takes, for so long at most.
    async fn settle(&self, time: Duration) {
        let told = async {
            while !self.closed.get() && self.send.current_max_send_streams() == UNTOLD {
                self.news.notified().await;
            }
        };
        if timeout(time, told).await.is_err() {
            self.waited.set(true);
        }
    }

    /// The upstream has refused one of the requests on it: it takes as many as are left. That is
    /// believed until as many again have ended, and then one more is tried.
    fn refused(&self) {
        let others = self.streams.get().saturating_sub(1).max(1);
        self.believed.set(self.believed.get().min(others));
        self.ended.set(0);
    }

    fn ended(&self) {
        let (believed, ended) = (self.believed.get(), self.ended.get() + 1);
        if believed != usize::MAX {
            let more = ended > believed;
            self.believed.set(believed + usize::from(more));
            self.ended.set(if more { 0 } else { ended });
        }
    }

    fn is_idle_since(&self, age: Duration) -> bool {
        self.streams.get() == 0 && self.idle_since.get().elapsed() >= age
    }

    fn set_idle(&self, idle: bool) {
        self.ticket.borrow_mut().iter_mut().for_each(|ticket| ticket.set_idle(idle));
    }
}

/// How HTTP/2 is spoken.
fn builder(limits: &UpstreamLimits) -> h2::client::Builder {
    let streams = u32::try_from(limits.streams).unwrap_or(u32::MAX);
    // One window for all streams together, so that clients that do not read cannot stop the
    // others of the same connection.
    let shared = u64::from(limits.window).saturating_mul(u64::from(streams)).min(0x7fff_ffff);
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_max_send_streams(UNTOLD)
        .initial_window_size(limits.window)
        .initial_connection_window_size(u32::try_from(shared).unwrap_or(limits.window))
        .max_header_list_size(Limits::from(limits).list_size())
        // A malformed response costs its own stream, however many there were before.
        .max_local_error_reset_streams(None)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

/// A connection that runs.
struct Run {
    connection: h2::client::Connection<Sieved<Stream>, Bytes>,
    watch: Rc<Watch>,
    doubt: Rc<Doubt>,
    closed: Rc<Cell<bool>>,
    news: Rc<Notify>,
    sessions: Weak<Sessions>,
}

impl Run {
    /// Runs the connection, and passes on what the upstream says of all of it.
    fn until_end(self, timeouts: &Timeouts) -> impl Future<Output = ()> + use<> {
        let Run { mut connection, watch, doubt, closed, news, sessions } = self;
        let pings = connection.ping_pong();
        let mut keeper = Keeper::new(pings, watch, doubt, timeouts.ping_interval, timeouts.ping);
        let mut told = UNTOLD;
        async move {
            let ended = poll_fn(|cx| {
                let ended = Pin::new(&mut connection).poll(cx);
                keeper.poll(cx);
                if told != connection.max_concurrent_send_streams() {
                    told = connection.max_concurrent_send_streams();
                    news.notify_waiters();
                    sessions.upgrade().iter().for_each(|sessions| sessions.pass_on());
                }
                ended
            });
            if let Err(error) = ended.await {
                // Every request on it gets its own failure.
                tracing::debug!(%error, "an HTTP/2 connection to an upstream ended");
            }
            closed.set(true);
            news.notify_waiters();
        }
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

    /// Watches a stream that has been opened on the session.
    #[must_use]
    pub fn watch(&self, stream: u32) -> Open {
        self.session.watch.open(stream)
    }

    /// The upstream has refused the stream. It is not asked again before a stream has ended, or, if
    /// there is none, before it has had a moment.
    pub fn refused(&self) {
        self.session.refused();
        if self.session.streams.get() > 1 || self.session.breathes.replace(true) {
            return;
        }
        let (session, sessions) = (Rc::downgrade(&self.session), Rc::downgrade(&self.sessions));
        tokio::task::spawn_local(async move {
            sleep(BREATH).await;
            session.upgrade().iter().for_each(|session| session.breathes.set(false));
            sessions.upgrade().iter().for_each(|sessions| sessions.pass_on());
        });
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
        self.session.ended();
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
            if session.served.get() && session.watch.last_read().elapsed() >= session.silence {
                session.doubt.ask();
            }
        }
        let (reused, session) = (session.served.replace(true), Rc::clone(session));
        Lease { reused, session, sessions: Rc::clone(self) }
    }

    /// A place has become free on this session.
    fn returned(&self, session: &Rc<Session>) {
        let Some(pending) = &self.pending else { return };
        let is_idle = session.streams.get() == 0;
        if pending.is_starved() || (is_idle && pending.is_for_others()) {
            // Closed, as soon as it is idle, so that a request on another worker can open one.
            self.open.borrow_mut().retain(|known| !Rc::ptr_eq(known, session));
        } else if !self.line.is_empty() {
            self.line.returned();
        } else if is_idle {
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

    /// Returns `true` if the upstream wants no stream at all at the moment: another connection would
    /// not be welcome either.
    #[must_use]
    pub fn is_barred(&self) -> bool {
        self.open.borrow().iter().any(|session| session.is_open() && session.is_barred())
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
            Ok(Progress::Failed(kind, phase)) => {
                Err(Failure::new(kind, phase).with_source(Shared).blameless())
            }
            // Whoever opened it may also have given up: then there is none.
            Ok(Progress::Opening | Progress::Open) | Err(_) => Ok(()),
        }
    }

    /// A place on the session that `connect` opens; others may wait for it meanwhile, and until the
    /// upstream has said how many requests it takes, for `time` at most. `None` if `connect` found
    /// that the endpoint does not speak HTTP/2; it has kept the connection then.
    ///
    /// # Errors
    /// The failure to connect.
    pub async fn open<F>(
        self: &Rc<Self>,
        time: Duration,
        connect: F,
    ) -> Result<Option<Lease>, Failure>
    where
        F: Future<Output = Result<Option<Rc<Session>>, Failure>>,
    {
        let (tell, progress) = channel::channel(Progress::Opening);
        self.opening.replace(Some(progress));
        let guard = Opening(Rc::clone(self));
        let connected = connect.await;
        if let Ok(Some(session)) = connected {
            let lease = self.lease(&session);
            self.open.borrow_mut().push(Rc::clone(&session));
            tokio::task::spawn_local(async move {
                session.settle(time).await;
                drop(session);
                let sessions = guard.over();
                tell.send_replace(Progress::Open);
                sessions.pass_on();
            });
            return Ok(Some(lease));
        }
        drop(guard);
        match connected {
            Ok(_) => {
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
struct Opening(Rc<Sessions>);

impl Opening {
    fn over(self) -> Rc<Sessions> {
        Rc::clone(&self.0)
    }
}

impl Drop for Opening {
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

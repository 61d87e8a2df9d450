//! Connections: counted while they are open, kept while they are idle.
//!
//! One pool per worker and endpoint, last in first out, so that the hot connections stay hot and
//! the others grow old enough to be closed. Nothing here is shared between workers but two counts.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::deadline::Deadline;
use super::http1::buffers;
use super::http1::content::AllRead;
use super::http1::fill::Fill;
use super::http1::head;
use super::http1::upload::AllSent;
use super::pending::Share;
use super::room::ConnectionPlace;
use super::stream::Stream;
use crate::telemetry::metrics::ConnectionGauges;

/// A connection to an endpoint, with what is re-used from request to request. Boxed for life: it goes
/// from hand to hand with each request.
#[derive(Debug)]
pub struct Connection {
    /// The bytes go through here.
    pub stream: Stream,
    /// What was read and not yet consumed: empty between two exchanges.
    pub buf: BytesMut,
    /// How far the head has been read that is coming.
    pub head: head::Reader,
    /// How much is read at a time.
    pub fill: Fill,
    /// The timer of whatever is being waited for.
    pub deadline: Deadline,
    /// It has carried a request before: it may have been closed in the meantime.
    pub reused: bool,
    ticket: Ticket,
}

impl Connection {
    /// A new connection that occupies `ticket`.
    #[must_use]
    pub fn new(stream: Stream, ticket: Ticket) -> Box<Self> {
        Box::new(Connection {
            stream,
            buf: BytesMut::new(),
            head: head::Reader::default(),
            fill: Fill::default(),
            deadline: Deadline::new(),
            reused: false,
            ticket,
        })
    }

    /// The connection has become a WebSocket: these have a limit of their own.
    pub fn became_websocket(&mut self) {
        self.ticket.leave();
    }
}

/// A connection that can carry another request (RFC 9112 §9.3): only such a one goes to a pool.
///
/// It is made of evidence: all that the request announced was sent, all that the response announced
/// was read, and nothing is unread, neither here nor at any layer below.
#[derive(Debug)]
pub struct Reusable(Box<Connection>);

impl Reusable {
    /// Returns the connection if nothing behind the response has come on it.
    #[must_use]
    pub fn new(mut connection: Box<Connection>, _sent: AllSent, _read: AllRead) -> Option<Self> {
        let is_quiet = connection.buf.is_empty() && connection.stream.is_quiet();
        is_quiet.then_some(Reusable(connection))
    }
}

/// The open connections of one upstream over all workers, and who waits for one.
#[derive(Debug, Default)]
pub struct OpenCount {
    open: AtomicUsize,
    waiting: AtomicUsize,
    /// Workers on which requests wait, and which have no connection at all.
    starving: AtomicUsize,
    closed: Notify,
    wanted: Notify,
}

// One thread frees a place and then looks who waits; another one waits and then looks for a place.
// Sequential consistency makes sure that one of them sees the other.
impl OpenCount {
    /// One more request waits until a connection is closed.
    pub fn wait_more(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        // An idle connection of a worker on which nothing happens would be kept from it.
        self.wanted.notify_waiters();
    }

    /// How many requests wait, on all workers.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Wakes every worker when one more request waits.
    #[must_use]
    pub fn wanted(&self) -> &Notify {
        &self.wanted
    }

    /// One less.
    pub fn wait_less(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether a request waits, on any worker.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// One more worker has requests that wait and no connection, or one less.
    pub fn set_starving(&self, starving: bool) {
        match starving {
            true => self.starving.fetch_add(1, Ordering::SeqCst),
            false => self.starving.fetch_sub(1, Ordering::SeqCst),
        };
    }

    /// Whether there is such a worker: those that have connections give some away.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        self.starving.load(Ordering::SeqCst) > 0
    }

    /// Whether there is a place for one more connection.
    #[must_use]
    pub fn is_below(&self, limit: usize) -> bool {
        self.open.load(Ordering::SeqCst) < limit
    }

    /// Wakes a request for each connection that is closed.
    #[must_use]
    pub fn closed(&self) -> &Notify {
        &self.closed
    }

    /// A place has become free.
    pub fn one_closed(&self) {
        if self.is_waited_for() {
            self.closed.notify_one();
        }
    }
}

/// One place among the open connections of an upstream; given back when dropped.
#[derive(Debug)]
pub struct Ticket {
    open: Arc<OpenCount>,
    share: Option<Rc<Share>>,
    /// Its place among those of its endpoint, if these are limited.
    place: Option<ConnectionPlace>,
    gauges: ConnectionGauges,
    idle: bool,
    left: bool,
}

impl Ticket {
    /// A place for this worker, if fewer than `limit` are taken.
    #[must_use]
    pub fn take(share: &Rc<Share>, limit: usize, gauges: &ConnectionGauges) -> Option<Self> {
        let open = share.open();
        let more = |count| (count < limit).then_some(count + 1);
        open.open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        gauges.active.inc();
        share.holds_more();
        let (open, share) = (Arc::clone(open), Some(Rc::clone(share)));
        Some(Ticket { open, share, place: None, gauges: gauges.clone(), idle: false, left: false })
    }

    /// The same for a connection to the endpoint that this is a place of.
    #[must_use]
    pub fn at(mut self, place: Option<ConnectionPlace>) -> Self {
        self.place = place;
        self
    }

    /// A connection that no limit counts: a health check's.
    #[must_use]
    pub fn beside(gauges: &ConnectionGauges) -> Self {
        gauges.active.inc();
        let (open, share) = (Arc::default(), None);
        Ticket { open, share, place: None, gauges: gauges.clone(), idle: false, left: true }
    }

    /// Gives the place back early: the connection has become something that is counted elsewhere.
    fn leave(&mut self) {
        if !std::mem::replace(&mut self.left, true) {
            self.open.open.fetch_sub(1, Ordering::SeqCst);
            self.share.take().iter().for_each(|share| share.holds_less());
            match self.place.take().map(drop) {
                // Not everybody can use it.
                Some(()) => self.open.closed.notify_waiters(),
                None => self.open.one_closed(),
            }
        }
    }

    /// Counts the connection as idle or as active.
    pub fn set_idle(&mut self, idle: bool) {
        if self.idle == idle {
            return;
        }
        self.idle = idle;
        let (from, to) = if idle {
            (&self.gauges.active, &self.gauges.idle)
        } else {
            (&self.gauges.idle, &self.gauges.active)
        };
        from.dec();
        to.inc();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.leave();
        if self.idle { &self.gauges.idle } else { &self.gauges.active }.dec();
    }
}

/// The idle connections of one endpoint on one worker.
#[derive(Debug)]
pub struct Pool {
    idle: RefCell<VecDeque<Idle>>,
    capacity: usize,
    keep_alive: Duration,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

impl Pool {
    /// A pool of at most `capacity` connections, each kept idle for at most `keep_alive`.
    #[must_use]
    pub fn new(capacity: usize, keep_alive: Duration) -> Self {
        Pool { idle: RefCell::new(VecDeque::new()), capacity, keep_alive }
    }

    /// Takes the connection used last, if one is idle, open and has nothing unread. Like all times
    /// here, `now` is the caller's: a request reads the clock as seldom as it can.
    pub fn take(&self, now: Instant) -> Option<Box<Connection>> {
        loop {
            let Idle { mut connection, since } = self.idle.borrow_mut().pop_back()?;
            if now.saturating_duration_since(since) < self.keep_alive
                && connection.stream.is_quiet()
            {
                connection.ticket.set_idle(false);
                connection.reused = true;
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next request. Returns `false` if there was no room for it.
    pub fn put(&self, Reusable(mut connection): Reusable, now: Instant) -> bool {
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= self.capacity {
            return false;
        }
        connection.ticket.set_idle(true);
        connection.deadline.clear();
        // An idle connection holds no buffer.
        buffers::give_back(&mut connection.buf);
        connection.buf = BytesMut::new();
        connection.fill.next_message();
        idle.push_back(Idle { connection, since: now });
        true
    }

    /// Closes the connection that was idle for longest, and gives its place away.
    pub fn evict(&self) -> Option<Ticket> {
        let Connection { mut ticket, .. } = *self.idle.borrow_mut().pop_front()?.connection;
        ticket.set_idle(false);
        Some(ticket)
    }

    /// Whether no connection is idle.
    pub fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty()
    }

    /// Closes what is too old or was closed by the upstream. Called by the worker's sweep.
    pub fn sweep(&self) {
        self.idle.borrow_mut().retain_mut(|idle| {
            idle.since.elapsed() < self.keep_alive && idle.connection.stream.is_quiet()
        });
    }

    /// Closes everything.
    pub fn clear(&self) {
        self.idle.borrow_mut().clear();
    }
}

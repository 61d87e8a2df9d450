//! Requests that wait for a connection, or for a stream on one, while an upstream has as many as it
//! may.
//!
//! One queue per worker, first come, first served, bounded in length and in time: a burst is served
//! a moment later instead of being refused, and an overload is refused instead of being piled up.
//! A request that finds room does not come here, and whoever gives a connection back only looks at
//! one number to see that nobody waits.
//!
//! | what becomes free | who is woken |
//! | --- | --- |
//! | a connection that stays open | the first of this worker; if none waits here, it is closed: |
//! | a connection that closes | the first of any worker |
//! | a stream of an HTTP/2 connection | the first of this worker that waits for this endpoint ([`Line`]) |
//!
//! Where endpoints have limits of their own (`limits.endpoint_connections`), not everybody can use what
//! becomes free: all are woken, and nobody overtakes those who wait for the same endpoint.
//!
//! A worker that is never idle would keep its connections for ever. So, while requests wait on a
//! worker that has none at all ([`Share`]), the others close what comes back, and the place goes to
//! whoever has waited for longest. A worker on which nothing comes back has idle connections only: it
//! is told of each request that begins to wait ([`OpenCount::wanted`]), and closes one for it.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntGauge;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::pool::OpenCount;
use crate::config::model::UpstreamLimits;
use crate::failure::{Failure, Kind, Phase};

/// One worker's queue.
#[derive(Debug)]
pub struct Pending {
    most: usize,
    time: Duration,
    /// Endpoints have limits of their own.
    by_endpoint: bool,
    gauge: IntGauge,
    returned: Notify,
    share: Rc<Share>,
    /// Those that need a connection of their own.
    connections: Line,
}

/// One worker's part of an upstream's connections.
#[derive(Debug)]
pub struct Share {
    held: Cell<usize>,
    waiting: Cell<usize>,
    starves: Cell<bool>,
    open: Arc<OpenCount>,
}

impl Share {
    fn new(open: Arc<OpenCount>) -> Self {
        let (held, waiting) = (Cell::new(0), Cell::new(0));
        Share { held, waiting, starves: Cell::new(false), open }
    }

    /// The connections of all workers.
    #[must_use]
    pub fn open(&self) -> &Arc<OpenCount> {
        &self.open
    }

    /// This worker has one more connection.
    pub fn holds_more(&self) {
        self.held.set(self.held.get() + 1);
        self.update();
    }

    /// This worker has one less.
    pub fn holds_less(&self) {
        self.held.set(self.held.get().saturating_sub(1));
        self.update();
    }

    fn waits_more(&self) {
        self.waiting.set(self.waiting.get() + 1);
        self.open.wait_more();
        self.update();
    }

    fn waits_less(&self) {
        self.waiting.set(self.waiting.get().saturating_sub(1));
        self.open.wait_less();
        self.update();
    }

    fn update(&self) {
        let starves = self.waiting.get() > 0 && self.held.get() == 0;
        if self.starves.replace(starves) != starves {
            self.open.set_starving(starves);
        }
    }
}

/// Who in the queue can use what one endpoint alone has: its HTTP/2 streams.
#[derive(Debug, Default)]
pub struct Line {
    waiting: Cell<usize>,
    returned: Notify,
}

impl Line {
    /// Whether nobody waits: whoever comes now does not overtake anybody.
    pub fn is_empty(&self) -> bool {
        self.waiting.get() == 0
    }

    /// There is room for one more.
    pub fn returned(&self) {
        if !self.is_empty() {
            self.returned.notify_one();
        }
    }
}

/// A place in the queue.
struct Place<'p>(&'p Pending, &'p Line);

impl<'p> Place<'p> {
    fn take(pending: &'p Pending, line: &'p Line) -> Self {
        line.waiting.set(line.waiting.get() + 1);
        pending.share.waits_more();
        pending.gauge.inc();
        Place(pending, line)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Place(pending, line) = self;
        line.waiting.set(line.waiting.get().saturating_sub(1));
        pending.share.waits_less();
        pending.gauge.dec();
    }
}

impl Pending {
    /// A queue within these limits; `gauge` shows who waits.
    #[must_use]
    pub fn new(limits: &UpstreamLimits, open: Arc<OpenCount>, gauge: IntGauge) -> Self {
        Pending {
            most: limits.pending,
            time: limits.pending_time,
            by_endpoint: limits.endpoint_connections > 0,
            gauge,
            returned: Notify::new(),
            share: Rc::new(Share::new(open)),
            connections: Line::default(),
        }
    }

    /// This worker's part of the connections.
    #[must_use]
    pub fn share(&self) -> &Rc<Share> {
        &self.share
    }

    /// Whether nobody waits on this worker.
    pub fn is_empty(&self) -> bool {
        self.share.waiting.get() == 0
    }

    /// Whether whoever comes now, for the endpoint with this line, does not overtake anybody.
    pub fn is_free_to_try(&self, line: &Line) -> bool {
        if self.by_endpoint { line.is_empty() } else { self.is_empty() }
    }

    /// Whether what has come back is for another worker: somebody waits there and nobody here, or
    /// somebody waits where there is no connection at all.
    pub fn is_for_others(&self) -> bool {
        match self.is_empty() {
            true => self.share.open.is_waited_for(),
            false => self.is_starved(),
        }
    }

    /// Whether there is another worker on which requests wait and which has no connection at all.
    pub fn is_starved(&self) -> bool {
        !self.share.starves.get() && self.share.open.is_starved()
    }

    /// An idle connection has come back.
    pub fn returned(&self) {
        if self.is_empty() {
            return;
        }
        if self.by_endpoint {
            self.returned.notify_waiters();
        } else {
            self.returned.notify_one();
        }
    }

    /// Waits until `take` finds room for the endpoint with this line: at once, if nobody waits.
    ///
    /// # Errors
    /// The limit is reached: too many wait, or the time is over.
    pub async fn wait<T>(&self, line: &Line, take: impl Fn() -> Option<T>) -> Result<T, Failure> {
        let line = if self.by_endpoint { line } else { &self.connections };
        self.wait_in(line, &mut None, take).await
    }

    /// The same for who can use a stream of an endpoint too. Who comes back to the queue brings its
    /// deadline, so that all its waits together take no longer than one may.
    ///
    /// # Errors
    /// The limit is reached: too many wait, or the time is over.
    pub async fn wait_in<T>(
        &self,
        line: &Line,
        deadline: &mut Option<Instant>,
        take: impl Fn() -> Option<T>,
    ) -> Result<T, Failure> {
        let full = || Failure::new(Kind::ConnectionLimitReached, Phase::Connect);
        let mut may_try = self.is_free_to_try(line);
        if may_try && let Some(found) = take() {
            return Ok(found);
        }
        if self.share.waiting.get() >= self.most {
            return Err(full());
        }
        let _place = Place::take(self, line);
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.time);
        loop {
            let mut returned = pin!(self.returned.notified());
            let mut closed = pin!(self.share.open.closed().notified());
            let mut stream = pin!(line.returned.notified());
            // In line before looking again: what becomes free from now on wakes this request.
            returned.as_mut().enable();
            closed.as_mut().enable();
            stream.as_mut().enable();
            if may_try && let Some(found) = take() {
                return Ok(found);
            }
            tokio::select! {
                biased;
                () = returned => {}
                () = closed => {}
                () = stream => {}
                () = sleep_until(deadline) => return Err(full()),
            }
            may_try = true;
        }
    }
}

#[cfg(test)]
mod tests;

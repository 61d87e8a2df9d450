//! How many requests an upstream, and each endpoint of it, has at a time.
//!
//! | configured | what it bounds | a request that finds no room |
//! | --- | --- | --- |
//! | `limits.requests` | requests at the upstream | waits |
//! | `limits.endpoint_requests` | requests at one endpoint | goes to another endpoint; waits if all are full |
//! | `limits.endpoint_connections` | open connections to one endpoint | waits for one of them (`pending`) |
//!
//! A request takes its room together with its endpoint, before it asks for a connection, and has it
//! until its answer has ended or has become a WebSocket: those have limits of their own. Who waits is
//! served in the order of arrival over all workers, bounded in number and time as the queue for
//! connections is. Where nothing of this is configured there is no [`Room`], and a request asks once.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use prometheus::IntGauge;
use tokio::sync::{Notify, Semaphore};

use crate::config::model::UpstreamLimits;

/// The limits of one upstream, shared by all workers, and what is used of them.
///
/// One thread frees room and then looks who waits; another one waits and then looks for room.
/// Sequential consistency makes sure that one of them sees the other.
#[derive(Debug)]
pub struct Room {
    most: Option<usize>,
    each: Option<usize>,
    each_connections: Option<usize>,
    taken: AtomicUsize,
    most_waiting: usize,
    time: Duration,
    /// Those who can use whatever becomes free, and those who want one endpoint less.
    waiting: AtomicUsize,
    choosy: AtomicUsize,
    /// One permit: who has it is the first.
    queue: Semaphore,
    freed: Notify,
    freed_for_choosy: Notify,
    pending: IntGauge,
    endpoints: Mutex<HashMap<Arc<str>, Weak<Used>>>,
}

/// What is used of one endpoint's limits.
#[derive(Debug, Default)]
pub struct Used {
    requests: AtomicUsize,
    connections: AtomicUsize,
}

/// A request's room at an upstream and at one of its endpoints, until it is dropped.
#[derive(Debug)]
pub struct Place {
    room: Arc<Room>,
    used: Arc<Used>,
}

/// A connection's room at an endpoint, until it is dropped.
#[derive(Debug)]
pub struct ConnectionPlace(Arc<Used>);

/// No room, and none became free in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("as many requests as `limits` allows are under way")
    }
}

impl std::error::Error for Full {}

/// Which room somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Whatever becomes free.
    Any,
    /// Not all of it: another one may be served first.
    Choosy,
}

/// Takes one more if there are fewer than `most`.
fn take(count: &AtomicUsize, most: Option<usize>) -> bool {
    let more = |taken| most.is_none_or(|most| taken < most).then_some(taken + 1);
    count.fetch_update(SeqCst, SeqCst, more).is_ok()
}

fn is_below(count: &AtomicUsize, most: Option<usize>) -> bool {
    most.is_none_or(|most| count.load(SeqCst) < most)
}

impl Room {
    /// The room of an upstream with these limits, if it has any that are kept here. `pending` shows
    /// who waits.
    #[must_use]
    pub fn of(limits: &UpstreamLimits, pending: &IntGauge) -> Option<Self> {
        let some = |limit: usize| (limit > 0).then_some(limit);
        let most = some(limits.requests);
        let each = some(limits.endpoint_requests);
        let each_connections = some(limits.endpoint_connections);
        most.or(each).or(each_connections)?;
        Some(Room {
            most,
            each,
            each_connections,
            taken: AtomicUsize::new(0),
            most_waiting: limits.pending,
            time: limits.pending_time,
            waiting: AtomicUsize::new(0),
            choosy: AtomicUsize::new(0),
            queue: Semaphore::new(1),
            freed: Notify::new(),
            freed_for_choosy: Notify::new(),
            pending: pending.clone(),
            endpoints: Mutex::default(),
        })
    }

    /// Whether these limits are the same.
    #[must_use]
    pub fn is_of(&self, limits: &UpstreamLimits) -> bool {
        let of = |limit: Option<usize>| limit.unwrap_or(0);
        of(self.most) == limits.requests
            && of(self.each) == limits.endpoint_requests
            && of(self.each_connections) == limits.endpoint_connections
            && (self.most_waiting, self.time) == (limits.pending, limits.pending_time)
    }

    /// What is used of this endpoint, also by requests that began before a reload.
    #[must_use]
    pub fn endpoint(&self, label: &Arc<str>) -> Arc<Used> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = endpoints.get(label).and_then(Weak::upgrade) {
            return known;
        }
        endpoints.retain(|_, used| used.strong_count() > 0);
        let used = Arc::default();
        endpoints.insert(Arc::clone(label), Arc::downgrade(&used));
        used
    }

    /// Whether the endpoint can take one more request.
    #[must_use]
    pub fn has_room_at(&self, used: &Used) -> bool {
        is_below(&used.requests, self.each)
    }

    /// Whether the endpoint can take one more connection.
    #[must_use]
    pub fn has_connection_at(&self, used: &Used) -> bool {
        is_below(&used.connections, self.each_connections)
    }

    /// Whether nobody waits: whoever comes now does not overtake anybody.
    #[must_use]
    pub fn is_free_to_try(&self) -> bool {
        self.waiting.load(SeqCst) == 0
    }

    /// Room for a request at this endpoint.
    #[must_use]
    pub fn enter(self: &Arc<Self>, used: &Arc<Used>) -> Option<Place> {
        // Asked first: only who loses a race takes something to give it back, and wakes somebody.
        if !self.has_room_at(used) || !take(&self.taken, self.most) {
            return None;
        }
        if !take(&used.requests, self.each) {
            self.taken.fetch_sub(1, SeqCst);
            // Somebody may have found the upstream full because of this one.
            self.one_freed();
            return None;
        }
        Some(Place { room: Arc::clone(self), used: Arc::clone(used) })
    }

    /// Room for a connection to this endpoint.
    #[must_use]
    pub fn connection(&self, used: &Arc<Used>) -> Option<ConnectionPlace> {
        take(&used.connections, self.each_connections).then(|| ConnectionPlace(Arc::clone(used)))
    }

    /// Waits until `take` finds room: at once, if nobody waits.
    ///
    /// # Errors
    /// Too many wait, or the time is over.
    pub async fn wait<T>(&self, wish: Wish, take: impl Fn() -> Option<T>) -> Result<T, Full> {
        let may_try = wish == Wish::Choosy || self.is_free_to_try();
        if may_try && let Some(found) = take() {
            return Ok(found);
        }
        if self.waiting.load(SeqCst) + self.choosy.load(SeqCst) >= self.most_waiting {
            return Err(Full);
        }
        let (count, freed) = match wish {
            Wish::Any => (&self.waiting, &self.freed),
            Wish::Choosy => (&self.choosy, &self.freed_for_choosy),
        };
        let _waits = Waits::begin(count, &self.pending);
        let found = tokio::time::timeout(self.time, async {
            // Only the first in the queue looks for room, so that nobody is overtaken.
            let _first = match wish {
                Wish::Any => self.queue.acquire().await.ok(),
                Wish::Choosy => None,
            };
            loop {
                let mut freed = pin!(freed.notified());
                // Before looking again: what becomes free from now on wakes this request.
                freed.as_mut().enable();
                if let Some(found) = take() {
                    return found;
                }
                freed.await;
            }
        });
        found.await.map_err(|_| Full)
    }

    fn one_freed(&self) {
        if self.waiting.load(SeqCst) > 0 {
            self.freed.notify_one();
        }
        if self.choosy.load(SeqCst) > 0 {
            self.freed_for_choosy.notify_waiters();
        }
    }
}

/// One who waits, as long as it does.
struct Waits<'r>(&'r AtomicUsize, &'r IntGauge);

impl<'r> Waits<'r> {
    fn begin(count: &'r AtomicUsize, pending: &'r IntGauge) -> Self {
        count.fetch_add(1, SeqCst);
        pending.inc();
        Waits(count, pending)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
        self.1.dec();
    }
}

impl Place {
    /// Moves to another endpoint, if there is room.
    pub fn move_to(&mut self, used: &Arc<Used>) -> bool {
        if !take(&used.requests, self.room.each) {
            return false;
        }
        let left = std::mem::replace(&mut self.used, Arc::clone(used));
        left.requests.fetch_sub(1, SeqCst);
        self.room.one_freed();
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.used.requests.fetch_sub(1, SeqCst);
        self.room.taken.fetch_sub(1, SeqCst);
        self.room.one_freed();
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests;

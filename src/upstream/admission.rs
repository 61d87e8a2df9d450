//! How many WebSockets an upstream may have, and how fast new ones may come.
//!
//! When an app comes back after a crash, all its clients come back with it. A limit on handshakes
//! spreads them: the surplus is told when to try again, each client at a time of its own. Both
//! limits count over all workers and cost two atomic operations a handshake.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

pub use crate::telemetry::metrics::Refusal;

/// Seconds that a client is asked to wait at least, and at most as many again.
const WAIT: u64 = 5;

/// The limits of one upstream and what is used of them.
#[derive(Debug)]
pub struct Admission {
    most: usize,
    open: AtomicUsize,
    rate: Option<Rate>,
}

/// A place among the open WebSockets; given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<Admission>);

/// A handshake that has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which limit is reached.
    pub why: Refusal,
    /// When the client shall try again: different for each, so that they do not come back together.
    pub retry_after_secs: u64,
}

impl Admission {
    /// At most `most` open WebSockets and `per_second` handshakes a second; 0 is no limit on those.
    #[must_use]
    pub fn new(most: usize, per_second: u32) -> Self {
        Admission { most, open: AtomicUsize::new(0), rate: Rate::new(per_second) }
    }

    /// Takes a place.
    ///
    /// # Errors
    /// If a limit is reached.
    pub fn enter(self: &Arc<Self>) -> Result<Place, Refused> {
        let refused = |why| Refused { why, retry_after_secs: WAIT + spread() };
        if self.rate.as_ref().is_some_and(|rate| !rate.admits()) {
            return Err(refused(Refusal::Rate));
        }
        let more = |open| (open < self.most).then_some(open + 1);
        match self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Place(Arc::clone(self))),
            Err(_) => Err(refused(Refusal::Sessions)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Seconds, from none to [`WAIT`], that differ from call to call: for clients that shall not come
/// back together.
pub(super) fn spread() -> u64 {
    jitter() % (WAIT + 1)
}

/// A number that differs from call to call: each `RandomState` has keys of its own.
fn jitter() -> u64 {
    RandomState::new().hash_one(())
}

/// So many events a second, at most a second's worth of them at once (the generic cell rate
/// algorithm: one number says when the budget will be full again).
#[derive(Debug)]
struct Rate {
    start: Instant,
    interval_nanos: u64,
    full_at_nanos: AtomicU64,
}

impl Rate {
    fn new(per_second: u32) -> Option<Self> {
        let interval_nanos = 1_000_000_000_u64.checked_div(u64::from(per_second))?;
        Some(Rate { start: Instant::now(), interval_nanos, full_at_nanos: AtomicU64::new(0) })
    }

    fn admits(&self) -> bool {
        let second = Duration::from_secs(1).as_nanos();
        let now = self.start.elapsed().as_nanos();
        let admit = |full_at: u64| {
            let next = u128::from(full_at).max(now) + u128::from(self.interval_nanos);
            (next <= now + second).then(|| u64::try_from(next).ok()).flatten()
        };
        self.full_at_nanos.fetch_update(Ordering::Relaxed, Ordering::Relaxed, admit).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[test]
    fn a_place_is_given_back_when_its_websocket_ends() {
        let admission = Arc::new(Admission::new(2, 0));
        let (one, two) = (admission.enter().unwrap(), admission.enter());
        let refused = admission.enter().unwrap_err();
        assert_eq!(refused.why, Refusal::Sessions);
        drop(one);
        assert!(admission.enter().is_ok());
        drop(two);
    }

    #[test]
    fn threads_that_come_and_go_at_once_are_never_too_many_and_leave_nothing_behind() {
        let admission = Arc::new(Admission::new(3, 1));
        // The rate is one number too: over all threads it lets through a second's worth at once.
        let let_through = AtomicUsize::new(0);
        let places = Arc::new(Admission::new(3, 0));
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        if let Ok(place) = places.enter() {
                            assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                            inside.fetch_sub(1, Ordering::SeqCst);
                            drop(place);
                        }
                    }
                    let_through.fetch_add(usize::from(admission.enter().is_ok()), Ordering::SeqCst);
                });
            }
        });
        assert_eq!(places.open.load(Ordering::SeqCst), 0);
        // One more for every second that this has taken.
        let seconds = admission.rate.as_ref().unwrap().start.elapsed().as_secs();
        let let_through = let_through.load(Ordering::SeqCst) as u64;
        assert!((1..=1 + seconds).contains(&let_through), "{let_through}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_surplus_of_a_second_waits() {
        let admission = Arc::new(Admission::new(1000, 10));
        let admitted = || (0..100).filter(|_| admission.enter().is_ok()).count();
        assert_eq!(admitted(), 10, "a second's worth at once");
        assert_eq!(admission.enter().unwrap_err().why, Refusal::Rate);
        advance(Duration::from_millis(300)).await;
        assert_eq!(admitted(), 3);
        advance(Duration::from_secs(3600)).await;
        assert_eq!(admitted(), 10, "what was not used is not saved up");
    }

    #[test]
    fn clients_are_not_told_to_come_back_together() {
        let admission = Arc::new(Admission::new(0, 0));
        let waits: std::collections::BTreeSet<_> =
            (0..200).map(|_| admission.enter().unwrap_err().retry_after_secs).collect();
        assert!(waits.iter().all(|wait| (WAIT..=2 * WAIT).contains(wait)), "{waits:?}");
        assert_eq!(waits.len(), 6, "{waits:?}");
    }
}

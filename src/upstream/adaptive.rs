//! How many requests an upstream can take at a time, found out by asking: additive increase,
//! multiplicative decrease (AIMD), as TCP does it.
//!
//! A request counts from when it is about to be sent until its response head has come: that is when
//! the app works on it, and content that streams to a slow client is no load that less of it would
//! cure. Over windows of at least `WINDOW` and at least `LEAST` heads:
//!
//! | of the heads | the limit was used | the limit becomes |
//! | --- | --- | --- |
//! | more than a tenth took longer than `target` | – | nine tenths of itself, or of the most that were in flight if that is less |
//! | a tenth at most | at least to half | a hundredth of `max` more, at least 1 |
//! | a tenth at most | less | what it is: nobody knows whether more would go well |
//!
//! It begins at `max`, as if there was none, and stays between `min` and `max`. What counts is how long
//! the upstream alone was waited for (`patience`): a client that uploads slowly makes no app slow. A wait
//! that brought no head, since a limit ended it, the connection broke or the client left, took longer
//! than `target` or says nothing: crashes are fast. Requests that were sent before the last decrease say
//! nothing about it either: without that, one slow second would be answered by ten decreases.
//!
//! Shared by all workers, and atomics only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::model::Concurrency;
use crate::telemetry::metrics::ConcurrencyMetrics;

/// How long a window is at least.
const WINDOW: Duration = Duration::from_millis(250);
/// How many heads a window has at least.
const LEAST: u32 = 10;

/// The limit of one upstream and what is used of it.
#[derive(Debug)]
pub struct Adaptive {
    settings: Concurrency,
    metrics: ConcurrencyMetrics,
    start: Instant,
    limit: AtomicUsize,
    in_flight: AtomicUsize,
    /// The most that were in flight in this window.
    peak: AtomicUsize,
    /// Heads of this window, and how many of them were slow: two halves of one word.
    heads: AtomicU64,
    /// When this window ends, in nanoseconds since the start.
    window_end: AtomicU64,
    /// When the limit fell last.
    fell_at: AtomicU64,
}

/// A request that waits for its response head.
#[derive(Debug)]
pub struct Slot {
    adaptive: Arc<Adaptive>,
    since: Instant,
}

/// The limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("as many requests as the upstream can take wait for their response heads")
    }
}

impl std::error::Error for Full {}

impl Adaptive {
    /// A limit at its most.
    #[must_use]
    pub fn new(settings: Concurrency, metrics: ConcurrencyMetrics) -> Self {
        metrics.set_limit(settings.max);
        Adaptive {
            metrics,
            start: Instant::now(),
            limit: AtomicUsize::new(settings.max),
            in_flight: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            heads: AtomicU64::new(0),
            window_end: AtomicU64::new(nanos(WINDOW)),
            fell_at: AtomicU64::new(0),
            settings,
        }
    }

    /// Takes a place.
    ///
    /// # Errors
    /// If as many are taken as may be. Counted.
    pub fn enter(self: &Arc<Self>) -> Result<Slot, Full> {
        let limit = self.limit.load(Relaxed);
        let more = |taken| (taken < limit).then_some(taken + 1);
        match self.in_flight.fetch_update(Relaxed, Relaxed, more) {
            Ok(before) => {
                self.peak.fetch_max(before + 1, Relaxed);
                Ok(Slot { adaptive: Arc::clone(self), since: Instant::now() })
            }
            Err(_) => {
                self.metrics.refused();
                Err(Full)
            }
        }
    }

    /// How many may be in flight now.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    fn nanos_at(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.start))
    }

    /// A head that was asked for at `since` has come, after so long or too late.
    fn observe(&self, since: Instant, slow: bool) {
        if self.nanos_at(since) < self.fell_at.load(Relaxed) {
            return;
        }
        self.heads.fetch_add((1 << 32) | u64::from(slow), Relaxed);
        let now = self.nanos_at(Instant::now());
        let end = self.window_end.load(Relaxed);
        if now < end || self.heads.load(Relaxed) >> 32 < u64::from(LEAST) {
            return;
        }
        // Whoever moves the end of the window on judges it.
        let next = now.saturating_add(nanos(WINDOW));
        if self.window_end.compare_exchange(end, next, Relaxed, Relaxed).is_ok() {
            self.judge(now);
        }
    }

    fn judge(&self, now: u64) {
        let heads = self.heads.swap(0, Relaxed);
        let (all, slow) = (heads >> 32, heads & 0xffff_ffff);
        let peak = self.peak.swap(self.in_flight.load(Relaxed), Relaxed);
        let limit = self.limit.load(Relaxed);
        let Concurrency { min, max, .. } = self.settings;
        let next = if slow * 10 > all {
            self.fell_at.store(now, Relaxed);
            (limit.min(peak) * 9 / 10).max(min)
        } else if peak * 2 >= limit {
            limit.saturating_add((max / 100).max(1)).min(max)
        } else {
            return;
        };
        self.limit.store(next, Relaxed);
        self.metrics.set_limit(next);
    }
}

impl Slot {
    /// The head has come after the upstream alone was waited for so long.
    pub fn answered(self, waited: Duration) {
        self.adaptive.observe(self.since, waited > self.adaptive.settings.target);
    }

    /// No head has come after the upstream alone was waited for so long: the attempt failed, or the client
    /// has left.
    pub fn unanswered(self, waited: Duration) {
        if waited > self.adaptive.settings.target {
            self.adaptive.observe(self.since, true);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.adaptive.in_flight.fetch_sub(1, Relaxed);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

//! How many requests there were lately and how many of them failed: what circuits and ejections judge
//! by. Atomics only, for all workers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How many requests there were lately, and how many of them failed: a ring of counters, each for
/// its share of the time, and each one word: which share it counts, failures, requests.
#[derive(Debug)]
pub struct Window {
    share: u64,
    counts: [AtomicU64; Window::SHARES],
}

impl Default for Window {
    fn default() -> Self {
        Window::new(Duration::from_secs(10))
    }
}

impl Window {
    const SHARES: usize = 10;
    /// The most that one counter counts. More would say the same.
    const MOST: u64 = (1 << 20) - 1;

    /// One that reaches so far back.
    #[must_use]
    pub fn new(length: Duration) -> Self {
        let share =
            (u64::try_from(length.as_millis()).unwrap_or(u64::MAX) / Window::SHARES as u64).max(1);
        Window { share, counts: [const { AtomicU64::new(0) }; Window::SHARES] }
    }

    /// Which share of the time this is: 24 bits of its number, never 0.
    fn epoch(&self, now: u64) -> u64 {
        ((now / self.share) & 0xff_ffff).max(1)
    }

    /// One more request has ended, `now` milliseconds after whatever all times count from.
    pub fn count(&self, now: u64, failed: bool) {
        let epoch = self.epoch(now);
        let place = usize::try_from(now / self.share).unwrap_or_default() % Window::SHARES;
        let Some(counter) = self.counts.get(place) else { return };
        let _ = counter.fetch_update(Relaxed, Relaxed, |word| {
            let (all, failures) = match word >> 40 == epoch {
                true => (word & Window::MOST, (word >> 20) & Window::MOST),
                false => (0, 0),
            };
            (all < Window::MOST)
                .then(|| (epoch << 40) | ((failures + u64::from(failed)) << 20) | (all + 1))
        });
    }

    /// Requests, and failures among them.
    #[must_use]
    pub fn sum(&self, now: u64) -> (u64, u64) {
        let epochs: [u64; Window::SHARES] =
            std::array::from_fn(|ago| self.epoch(now.saturating_sub(ago as u64 * self.share)));
        let words = self.counts.iter().map(|counter| counter.load(Relaxed));
        words.filter(|word| epochs.contains(&(word >> 40))).fold((0, 0), |(all, failed), word| {
            (all + (word & Window::MOST), failed + ((word >> 20) & Window::MOST))
        })
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.counts.iter().for_each(|counter| counter.store(0, Relaxed));
    }

    /// Whether at least `percent` of what it counts failed; it says nothing of fewer than `least`
    /// requests, and with 0 percent.
    #[must_use]
    pub fn has_failed(&self, now: u64, percent: u32, least: u32) -> bool {
        if percent == 0 {
            return false;
        }
        let (all, failed) = self.sum(now);
        all >= u64::from(least) && failed * 100 >= all * u64::from(percent)
    }
}

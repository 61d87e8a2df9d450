//! Who among an upstream's endpoints gets requests: those that fail again and again are left out
//! for a while, those that fail their health checks until they pass.
//!
//! Shared by all workers, and atomics only: a request reads two or three numbers for each endpoint,
//! and looks at the clock only while something is wrong with one of them.
//!
//! ```text
//! in ── so many failures in a row ──► out for base ── time is over ──► in again, share grows
//!                                      ▲                                 │ │
//!                                      └── fails at once: twice as long ─┘ └─ well for as long: forgotten
//! ```
//!
//! "Fails again and again" is so many failures in a row or, if that is configured, so many percent of
//! the requests of the last while.
//!
//! If more would be out than may be, all are tried: those that are well get most of the requests,
//! the others enough to notice that they are back.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::balance::FULL;
use super::tenure::Tenure;
use super::window::Window;
use crate::config::model::{Ejection, Upstream};

/// The least share of an endpoint that comes back, and of one that is tried although it is out.
const LEAST: u32 = FULL / 10;

/// All endpoints of an upstream.
#[derive(Debug)]
pub struct Roster {
    settings: Ejection,
    slow_start: Duration,
    most_out: usize,
    start: Instant,
    endpoints: Vec<Arc<Standing>>,
}

/// What is known of one endpoint. Times are nanoseconds since the roster's start, never 0.
#[derive(Debug, Default)]
pub struct Standing {
    /// Failures in a row.
    failures: AtomicU32,
    /// Requests lately; nothing is counted unless a percentage is configured.
    window: Window,
    /// Ejections in a row.
    ejections: AtomicU32,
    /// When its ejection ends, or ended; 0 if it had none lately.
    until: AtomicU64,
    /// When its health checks brought it back; 0 if that is long ago.
    back_since: AtomicU64,
    /// It fails its health checks.
    down: AtomicBool,
    /// The last attempt to connect to it failed.
    unreachable: AtomicBool,
    /// No check of the current kind has come to a result.
    unchecked: AtomicBool,
    /// An operator may have taken it out.
    tenure: Arc<Tenure>,
}

/// The endpoints as they stand at one moment.
#[derive(Debug)]
pub struct View<'r> {
    roster: &'r Roster,
    /// `None` if nothing is wrong with any of them.
    now: Option<u64>,
    panic: Panic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Panic {
    No,
    /// Too many are out: these are tried too.
    Some,
    /// All are out: they are tried like others.
    All,
}

impl Roster {
    /// Endpoints of this upstream that stand so. Their times count from `start`, the same for every
    /// roster that they are in.
    #[must_use]
    pub fn new(upstream: &Upstream, endpoints: Vec<Arc<Standing>>, start: Instant) -> Self {
        let count = endpoints.len();
        let percent = usize::try_from(upstream.ejection.max_percent).unwrap_or_default();
        let most_out = match percent {
            0 => 0,
            percent => (count * percent / 100).max(1),
        };
        Roster {
            settings: upstream.ejection.clone(),
            slow_start: upstream.slow_start,
            // Who has no other cannot be left out.
            most_out: if count > 1 { most_out } else { 0 },
            start,
            endpoints,
        }
    }

    fn now(&self) -> u64 {
        nanos(self.start.elapsed()).saturating_add(1)
    }

    /// The endpoints as they stand now.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        let mut view = View { roster: self, now: None, panic: Panic::No };
        if self.endpoints.iter().all(|standing| standing.is_quiet()) {
            return view;
        }
        let now = self.now();
        let (mut drained, mut down, mut ejected) = (0, 0, 0);
        for standing in &self.endpoints {
            match () {
                () if standing.is_drained() => drained += 1,
                () if standing.down.load(Relaxed) => down += 1,
                () if standing.is_ejected(now) => ejected += 1,
                () => {}
            }
        }
        view.now = Some(now);
        if ejected > 0 && down + ejected > self.most_out {
            let none_left = drained + down + ejected == self.endpoints.len();
            view.panic = if none_left { Panic::All } else { Panic::Some };
        }
        view
    }

    /// The endpoint failed. For how long it is ejected, if that is the consequence.
    pub fn failed(&self, endpoint: usize) -> Option<Duration> {
        let standing = self.endpoints.get(endpoint)?;
        let failures = standing.failures.fetch_add(1, Relaxed).saturating_add(1);
        let Ejection { consecutive_failures: limit, failure_percent, min_requests, .. } =
            self.settings;
        let now = self.now();
        if failure_percent != 0 {
            standing.window.count(millis(now), true);
        }
        let too_many = (limit != 0 && failures >= limit)
            || standing.window.has_failed(millis(now), failure_percent, min_requests);
        if !too_many || self.most_out == 0 {
            return None;
        }
        let until = standing.until.load(Relaxed);
        if until > now {
            // A straggler: it was sent before.
            return None;
        }
        let time = self.time_out(standing.ejections.load(Relaxed));
        let time = time + jitter(time / 10);
        let end = now.saturating_add(nanos(time));
        // One worker ejects it, whoever else sees it fail at the same moment.
        standing.until.compare_exchange(until, end, Relaxed, Relaxed).ok()?;
        standing.ejections.fetch_add(1, Relaxed);
        // What it failed with before is paid for.
        standing.window.clear();
        Some(time)
    }

    fn time_out(&self, ejections_before: u32) -> Duration {
        let factor = 1_u32.checked_shl(ejections_before).unwrap_or(u32::MAX);
        self.settings.base.saturating_mul(factor).min(self.settings.max)
    }

    /// The endpoint served a request.
    pub fn succeeded(&self, endpoint: usize) {
        let Some(standing) = self.endpoints.get(endpoint) else { return };
        if standing.failures.load(Relaxed) != 0 {
            standing.failures.store(0, Relaxed);
        }
        if self.settings.failure_percent != 0 {
            standing.window.count(millis(self.now()), false);
        }
        // In a panic it was tried although it is out, and it is well.
        if standing.until.load(Relaxed) != 0 {
            let now = self.now();
            if standing.is_ejected(now) && self.view().panic != Panic::No {
                standing.until.store(now, Relaxed);
            }
        }
    }

    /// An attempt to connect to the endpoint has ended.
    pub fn connected(&self, endpoint: usize, ok: bool) {
        if let Some(standing) = self.endpoints.get(endpoint) {
            standing.unreachable.store(!ok, Relaxed);
        }
    }

    /// The endpoint's health checks fail, or pass again.
    pub fn set_down(&self, endpoint: usize, down: bool) {
        let Some(standing) = self.endpoints.get(endpoint) else { return };
        let was_down = standing.down.swap(down, Relaxed);
        if was_down && !down {
            // What it failed with before is over.
            standing.failures.store(0, Relaxed);
            standing.window.clear();
            standing.ejections.store(0, Relaxed);
            standing.until.store(0, Relaxed);
            standing.unreachable.store(false, Relaxed);
            standing.back_since.store(self.now(), Relaxed);
        }
    }

    /// What keeps the endpoint from its requests, in a word: `drained`, `unhealthy`, `ejected`,
    /// `unreachable`; or `up`.
    #[must_use]
    pub fn state(&self, endpoint: usize) -> &'static str {
        match self.endpoints.get(endpoint) {
            Some(standing) if standing.is_drained() => "drained",
            Some(standing) if standing.is_down() => "unhealthy",
            Some(standing) if standing.is_ejected(self.now()) => "ejected",
            Some(standing) if standing.unreachable.load(Relaxed) => "unreachable",
            _ => "up",
        }
    }

    /// Whether the endpoint gets its requests, as far as is known.
    #[must_use]
    pub fn is_up(&self, endpoint: usize) -> bool {
        self.endpoints.get(endpoint).is_some_and(|standing| {
            let out = standing.is_out() || standing.unreachable.load(Relaxed);
            let until = standing.until.load(Relaxed);
            !out && (until == 0 || until <= self.now())
        })
    }

    /// Forgets ejections that are long over. Called once a second, not by requests.
    pub fn tidy(&self) {
        let now = self.now();
        for standing in &self.endpoints {
            let since = standing.back_since.load(Relaxed);
            if since != 0 && now > since.saturating_add(nanos(self.slow_start)) {
                let _ = standing.back_since.compare_exchange(since, 0, Relaxed, Relaxed);
            }
            let until = standing.until.load(Relaxed);
            if until == 0 || standing.failures.load(Relaxed) != 0 {
                continue;
            }
            let last = self.time_out(standing.ejections.load(Relaxed).saturating_sub(1));
            if now > until.saturating_add(nanos(last.max(self.slow_start)))
                && standing.until.compare_exchange(until, 0, Relaxed, Relaxed).is_ok()
            {
                standing.ejections.store(0, Relaxed);
            }
        }
    }
}

impl Standing {
    /// Returns that of an endpoint of which nothing is known: in, unless health checks say otherwise.
    #[must_use]
    pub fn new(upstream: &Upstream, tenure: Arc<Tenure>) -> Self {
        let down = upstream.health.as_ref().is_some_and(|health| !health.initially_up);
        Standing::that_is(down, upstream, tenure)
    }

    fn that_is(down: bool, upstream: &Upstream, tenure: Arc<Tenure>) -> Self {
        Standing {
            down: AtomicBool::new(down),
            window: Window::new(upstream.ejection.window),
            unchecked: AtomicBool::new(true),
            tenure,
            ..Standing::default()
        }
    }

    /// Returns how the endpoint stands when a reload has changed its upstream from `before` to
    /// `after`.
    ///
    /// Ejections and failures are kept if they were counted by the same rules over the same way. An
    /// endpoint that fails its checks stays out until it passes one; if the checks or the way are
    /// other ones, the first that it passes is enough. One that had its requests keeps them.
    #[must_use]
    pub fn after_reload(self: &Arc<Self>, before: &Upstream, after: &Upstream) -> Arc<Self> {
        let down = self.is_down() && before.health.is_some() && after.health.is_some();
        let probe =
            |upstream: &Upstream| upstream.health.as_ref().map(|health| health.probe.clone());
        if !before.same_way(after) || before.ejection != after.ejection {
            return Arc::new(Standing::that_is(down, after, Arc::clone(&self.tenure)));
        }
        self.down.store(down, Relaxed);
        if probe(before) != probe(after) {
            self.unchecked.store(true, Relaxed);
        }
        Arc::clone(self)
    }

    /// Returns what outlives this.
    #[must_use]
    pub fn tenure(&self) -> &Arc<Tenure> {
        &self.tenure
    }

    /// Returns `true` if an operator has taken it out.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.tenure.is_drained()
    }

    /// Notes that a check has come to a result. Returns `true` if it was the first.
    pub fn first_check(&self) -> bool {
        self.unchecked.swap(false, Relaxed)
    }

    /// Whether it fails its health checks.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.down.load(Relaxed)
    }

    /// No request goes there, whatever happens to the others.
    fn is_out(&self) -> bool {
        self.is_down() || self.is_drained()
    }

    fn is_quiet(&self) -> bool {
        self.until.load(Relaxed) == 0 && self.back_since.load(Relaxed) == 0 && !self.is_out()
    }

    fn is_ejected(&self, now: u64) -> bool {
        self.until.load(Relaxed) > now
    }
}

impl View<'_> {
    /// The endpoint's share of the requests: 0 to [`FULL`].
    #[must_use]
    pub fn share(&self, endpoint: usize) -> u32 {
        let (Some(now), Some(standing)) = (self.now, self.roster.endpoints.get(endpoint)) else {
            return FULL;
        };
        if standing.is_out() {
            return 0;
        }
        let until = standing.until.load(Relaxed);
        match (until > now, self.panic) {
            (true, Panic::No) => return 0,
            (true, Panic::Some) => return LEAST,
            (_, Panic::All) | (false, Panic::Some) => return FULL,
            (false, Panic::No) => {}
        }
        let back = until.max(standing.back_since.load(Relaxed));
        let slow_start = nanos(self.roster.slow_start);
        if back == 0 || slow_start == 0 {
            return FULL;
        }
        let elapsed = now.saturating_sub(back).min(slow_start);
        let share = u128::from(FULL) * u128::from(elapsed) / u128::from(slow_start);
        u32::try_from(share).unwrap_or(FULL).max(LEAST)
    }

    /// The endpoint that is most likely well, among those that `fits` says yes to, but for this one
    /// and for those that are out; in doubt the next one.
    #[must_use]
    pub fn other_than(&self, endpoint: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let count = self.roster.endpoints.len();
        let others = (1..count).map(|step| (endpoint + step) % count).filter(|at| fits(*at));
        let known = others.filter_map(|other| Some((other, self.roster.endpoints.get(other)?)));
        let possible = known.filter(|(_, standing)| !standing.is_out());
        let doubt = |standing: &Standing| {
            let ejected = self.now.is_some_and(|now| standing.is_ejected(now));
            (ejected, standing.failures.load(Relaxed))
        };
        possible.min_by_key(|(_, standing)| doubt(standing)).map(|(other, _)| other)
    }
}

/// Milliseconds, of nanoseconds.
fn millis(nanos: u64) -> u64 {
    nanos / 1_000_000
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Something between nothing and `most`, so that endpoints do not come back all together.
pub fn jitter(most: Duration) -> Duration {
    let random = RandomState::new().hash_one(());
    Duration::from_nanos(random % nanos(most).max(1))
}

#[cfg(test)]
mod tests;

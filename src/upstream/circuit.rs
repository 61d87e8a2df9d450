//! The circuit of an upstream: when request after request fails, it is left alone for a while, and
//! clients are answered at once instead of after a timeout.
//!
//! ```text
//! closed ── too many failed ──► open for `open` ── time is over ──► half-open: a few probes
//!   ▲                            ▲                                   │           │
//!   │                            └── one fails: twice as long ───────┘           │
//!   └───────────────────────── all are served ─────────────────────────────────────┘
//! ```
//!
//! What counts is a request as its client sees it: one that a retry or another endpoint served is
//! no failure, so that a single dead endpoint opens no circuit. Too many is so many in a row, or so
//! many percent of a window's.
//!
//! What must stay true:
//!
//! - All workers see the same circuit, without a lock: its state is one word (`State`), and each
//!   transition is one compare-and-exchange, which exactly one of them wins.
//! - A request counts only in the state it was admitted in: whatever was under way when the circuit
//!   opened, and fails later, says nothing about the upstream that has come back.
//! - A probe that is neither served nor failed (its client left) makes room for another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::admission::spread;
use super::blame::{self, Verdict};
use super::window::Window;
use super::{Outcome, ejection};
use crate::config::model;
use crate::telemetry::metrics::{CircuitMetrics, CircuitState};

/// The circuit of one upstream.
#[derive(Debug)]
pub struct Circuit {
    settings: model::Circuit,
    metrics: CircuitMetrics,
    upstream: Arc<str>,
    start: Instant,
    state: AtomicU64,
    /// Failed requests in a row.
    failures: AtomicU32,
    window: Window,
    /// How often it opened without having been well in between.
    openings: AtomicU32,
    /// When it closed last, in milliseconds; 0 if it never did.
    closed_at: AtomicU64,
}

/// What a request that was let through says about the upstream, once it is known.
#[derive(Debug)]
#[must_use = "a request that is let through is settled, or counts as neither"]
pub struct Passage {
    circuit: Arc<Circuit>,
    generation: u8,
    probe: bool,
}

/// The circuit is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// When the client shall try again, in seconds: different for each.
    pub retry_after_secs: u64,
}

impl std::fmt::Display for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the circuit is open: too many requests have failed")
    }
}

impl std::error::Error for Open {}

impl Circuit {
    /// A closed circuit.
    #[must_use]
    pub fn new(settings: model::Circuit, upstream: Arc<str>, metrics: CircuitMetrics) -> Self {
        metrics.set(CircuitState::Closed);
        Circuit {
            window: Window::new(settings.window),
            settings,
            metrics,
            upstream,
            start: Instant::now(),
            state: AtomicU64::new(State::default().pack()),
            failures: AtomicU32::new(0),
            openings: AtomicU32::new(0),
            closed_at: AtomicU64::new(0),
        }
    }

    /// Milliseconds since the start, never 0.
    fn now(&self) -> u64 {
        millis(self.start.elapsed()).saturating_add(1)
    }

    /// Lets a request through, or a probe.
    ///
    /// # Errors
    /// If the circuit is open, or half-open with all its probes under way.
    pub fn enter(self: &Arc<Self>) -> Result<Passage, Open> {
        let state = State::unpack(self.state.load(Relaxed));
        let generation = state.generation;
        if state.is_closed() {
            return Ok(Passage { circuit: Arc::clone(self), generation, probe: false });
        }
        let now = self.now();
        let probes = self.probes();
        let admitted = self.change(|state| {
            let may = state.until <= now && state.in_flight.saturating_add(state.served) < probes;
            // Closed in the meantime: a request like any other.
            let more = if state.is_closed() { 0 } else { 1 };
            (may || state.is_closed())
                .then_some(State { in_flight: state.in_flight.saturating_add(more), ..state })
        });
        match admitted {
            Ok(before) => {
                let probe = !before.is_closed();
                if probe && before.in_flight == 0 && before.served == 0 {
                    self.metrics.set(CircuitState::HalfOpen);
                }
                let generation = before.generation;
                Ok(Passage { circuit: Arc::clone(self), generation, probe })
            }
            Err(now_open) => {
                self.metrics.refused();
                let left = Duration::from_millis(now_open.until.saturating_sub(now));
                let whole = left.as_secs() + u64::from(left.subsec_nanos() > 0);
                Err(Open { retry_after_secs: whole.max(1) + spread() })
            }
        }
    }

    fn probes(&self) -> u8 {
        u8::try_from(self.settings.probes).unwrap_or(u8::MAX)
    }

    /// Changes the state; gives it as it was before, or as it is if it shall stay.
    fn change(&self, change: impl Fn(State) -> Option<State>) -> Result<State, State> {
        let packed = |word| change(State::unpack(word)).map(State::pack);
        let result = self.state.fetch_update(Relaxed, Relaxed, packed);
        result.map(State::unpack).map_err(State::unpack)
    }

    /// A request was served.
    fn served(&self, passage: &Passage) {
        if !passage.probe {
            if self.generation() == passage.generation {
                if self.failures.load(Relaxed) != 0 {
                    self.failures.store(0, Relaxed);
                }
                self.window.count(self.now(), false);
            }
            return;
        }
        let probes = self.probes();
        let before = self.change(|state| {
            passage.is_of(state).then(|| {
                let served = state.served.saturating_add(1);
                match served >= probes {
                    true => state.next(0),
                    false => {
                        State { in_flight: state.in_flight.saturating_sub(1), served, ..state }
                    }
                }
            })
        });
        if before.is_ok_and(|before| before.served.saturating_add(1) >= probes) {
            self.failures.store(0, Relaxed);
            self.window.clear();
            self.closed_at.store(self.now(), Relaxed);
            self.metrics.set(CircuitState::Closed);
            tracing::info!(upstream = &*self.upstream, "the circuit of an upstream is closed");
        }
    }

    /// A request failed.
    fn failed(&self, passage: &Passage) {
        if !passage.probe {
            if self.generation() != passage.generation {
                return;
            }
            let now = self.now();
            let in_a_row = self.failures.fetch_add(1, Relaxed).saturating_add(1);
            self.window.count(now, true);
            let limit = self.settings.consecutive_failures;
            if !((limit != 0 && in_a_row >= limit) || self.too_many_failed(now)) {
                return;
            }
        }
        // Both a closed circuit and a half-open one open like this.
        let (time, openings) = self.next_time();
        let until = self.now().saturating_add(millis(time).max(1));
        if self.change(|state| passage.is_of(state).then(|| state.next(until))).is_ok() {
            self.openings.store(openings, Relaxed);
            self.metrics.opened();
            let upstream = &*self.upstream;
            tracing::warn!(upstream, ?time, "the circuit of an upstream is open");
        }
    }

    fn too_many_failed(&self, now: u64) -> bool {
        let model::Circuit { failure_percent, min_requests, .. } = self.settings;
        self.window.has_failed(now, failure_percent, min_requests)
    }

    /// For how long it opens next, and the how manieth time in a row that is.
    fn next_time(&self) -> (Duration, u32) {
        let before = self.openings.load(Relaxed);
        let closed_at = self.closed_at.load(Relaxed);
        let was_well = State::unpack(self.state.load(Relaxed)).is_closed()
            && self.now().saturating_sub(closed_at) > millis(self.time(before));
        let openings = if was_well { 1 } else { before.saturating_add(1) };
        let time = self.time(openings);
        (time + ejection::jitter(time / 10), openings)
    }

    fn time(&self, openings: u32) -> Duration {
        let factor = 1_u32.checked_shl(openings.saturating_sub(1)).unwrap_or(u32::MAX);
        self.settings.open.saturating_mul(factor).min(self.settings.max)
    }

    fn generation(&self) -> u8 {
        State::unpack(self.state.load(Relaxed)).generation
    }

    /// Brings the gauge up to date. Called once a second: time alone makes an open circuit
    /// half-open.
    pub fn tidy(&self) {
        let state = State::unpack(self.state.load(Relaxed));
        self.metrics.set(match state.until {
            0 => CircuitState::Closed,
            until if until <= self.now() => CircuitState::HalfOpen,
            _ => CircuitState::Open,
        });
    }
}

impl Passage {
    /// What became of the request, as far as it speaks for or against the upstream.
    pub fn settle(mut self, outcome: Outcome<'_>) {
        match blame::judge(outcome, self.circuit.settings.count_app_errors) {
            Verdict::Failed => self.circuit.failed(&self),
            Verdict::Well => self.circuit.served(&self),
            Verdict::Nothing => return,
        }
        // It is counted.
        self.probe = false;
    }

    /// The response has begun and may last: a probe has seen enough. Given back if not settled.
    #[must_use]
    pub fn begun(self, outcome: Outcome<'_>) -> Option<Self> {
        if self.probe {
            self.settle(outcome);
            return None;
        }
        Some(self)
    }

    fn is_of(&self, state: State) -> bool {
        state.generation == self.generation
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if self.probe {
            let _ = self.circuit.change(|state| {
                let in_flight = state.in_flight.saturating_sub(1);
                self.is_of(state).then_some(State { in_flight, ..state })
            });
        }
    }
}

/// The state of a circuit: closed if `until` is 0, else open until then and half-open after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    /// Milliseconds since the circuit's start.
    until: u64,
    /// Changes whenever the circuit opens or closes.
    generation: u8,
    /// Probes under way.
    in_flight: u8,
    /// Probes that were served.
    served: u8,
}

impl State {
    /// `until` has 40 bits: 34 years.
    const UNTIL: u64 = (1 << 40) - 1;

    fn is_closed(self) -> bool {
        self.until == 0
    }

    /// The circuit opens until then, or closes if that is 0.
    fn next(self, until: u64) -> Self {
        State { until, generation: self.generation.wrapping_add(1), in_flight: 0, served: 0 }
    }

    fn pack(self) -> u64 {
        let [_, _, _, a, b, c, d, e] = self.until.min(Self::UNTIL).to_be_bytes();
        u64::from_be_bytes([a, b, c, d, e, self.generation, self.in_flight, self.served])
    }

    fn unpack(word: u64) -> Self {
        let [a, b, c, d, e, generation, in_flight, served] = word.to_be_bytes();
        let until = u64::from_be_bytes([0, 0, 0, a, b, c, d, e]);
        State { until, generation, in_flight, served }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

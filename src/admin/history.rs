//! The last quarter of an hour, so that a page that was just opened has a past.
//!
//! Every [`STEP`] the counters are read and what was added to them is kept, for [`STEPS`] steps. The
//! labels of a failure come from the configuration and from closed lists, so a step is bounded as
//! the metrics are; a step without failures is 32 bytes. The step that has not ended yet is told
//! too: who looks sees a failure at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::telemetry::metrics::reading::{Reading, Series};

/// The length of a step.
pub const STEP: Duration = Duration::from_secs(5);
/// Ended steps that are kept: fifteen minutes.
pub const STEPS: usize = 180;
/// Ended steps that "now" reaches back: a minute.
const NOW: usize = 12;

/// What was counted in each of the last steps.
#[derive(Debug)]
pub struct History {
    last: Reading,
    began: Instant,
    steps: VecDeque<Step>,
}

#[derive(Clone, Debug, Default)]
struct Step {
    failures: BTreeMap<Series, u64>,
    requests: u64,
}

impl History {
    /// A history that begins now.
    #[must_use]
    pub fn new() -> Self {
        History { last: Reading::default(), began: Instant::now(), steps: VecDeque::new() }
    }

    /// A step has ended with this reading.
    pub fn end_step(&mut self, reading: Reading) {
        let step = self.since_last(&reading);
        if self.steps.len() >= STEPS {
            self.steps.pop_front();
        }
        self.steps.push_back(step);
        self.last = reading;
        self.began = Instant::now();
    }

    fn since_last(&self, reading: &Reading) -> Step {
        let grown = |(series, count): (&Series, &u64)| {
            let before = self.last.failures.get(series).copied().unwrap_or_default();
            // What counts from 0 again was gone with one reload and came back with another.
            let more = count.checked_sub(before).unwrap_or(*count);
            (more > 0).then(|| (series.clone(), more))
        };
        Step {
            failures: reading.failures.iter().filter_map(grown).collect(),
            requests: reading.requests.saturating_sub(self.last.requests),
        }
    }

    /// The history up to this reading, as `/status.json` tells it: oldest step first, and the one
    /// that has not ended last.
    #[must_use]
    pub fn describe(&self, reading: &Reading) -> Value {
        let current = self.since_last(reading);
        let steps: Vec<_> = self.steps.iter().chain([&current]).collect();
        let all: BTreeSet<_> = steps.iter().flat_map(|step| step.failures.keys()).collect();
        let series = all.into_iter().map(|series| {
            let count = |step: &&Step| step.failures.get(series).copied().unwrap_or_default();
            json!({
                "upstream": series.upstream,
                "kind": series.kind,
                "outcome": series.outcome,
                "counts": steps.iter().map(count).collect::<Vec<_>>(),
            })
        });
        json!({
            "step_ms": millis(STEP),
            "steps": STEPS,
            "current_ms": millis(self.began.elapsed()),
            "requests": steps.iter().map(|step| step.requests).collect::<Vec<_>>(),
            "failures": series.collect::<Vec<_>>(),
        })
    }

    /// What clients saw in the last minute, up to this reading.
    #[must_use]
    pub fn now(&self, reading: &Reading) -> Value {
        let current = self.since_last(reading);
        let (mut seen, mut passed, mut recovered, mut requests) = (0, 0, 0, 0);
        for step in self.steps.iter().rev().take(NOW).chain([&current]) {
            requests += step.requests;
            for (series, count) in &step.failures {
                match &*series.outcome {
                    "recovered" => recovered += count,
                    "passed" => passed += count,
                    _ => seen += count,
                }
            }
        }
        json!({
            "seconds": STEP.as_secs() * NOW as u64,
            "requests": requests,
            "failures": seen,
            "passed": passed,
            "recovered": recovered,
        })
    }
}

impl Default for History {
    fn default() -> Self {
        History::new()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(requests: u64, failures: &[(&str, &str, u64)]) -> Reading {
        let series = |kind: &str, outcome: &str| Series {
            upstream: "app".into(),
            kind: kind.into(),
            outcome: outcome.into(),
        };
        let failures = failures.iter().map(|(kind, outcome, n)| (series(kind, outcome), *n));
        Reading { failures: failures.collect(), requests }
    }

    #[test]
    fn a_step_has_what_was_added_in_it_and_the_current_one_is_told() {
        let mut history = History::new();
        history.end_step(reading(10, &[("dns_error", "normalized", 2)]));
        history.end_step(reading(30, &[("dns_error", "normalized", 2)]));
        let told = history.describe(&reading(31, &[("dns_error", "normalized", 5)]));
        assert_eq!(told["requests"], json!([10, 20, 1]));
        assert_eq!(told["failures"][0]["counts"], json!([2, 0, 3]));
        assert_eq!(told["failures"][0]["kind"], "dns_error");
    }

    #[test]
    fn it_never_has_more_than_its_steps() {
        let mut history = History::new();
        for at in 0..1000 {
            history.end_step(reading(at, &[("dns_error", "normalized", at)]));
        }
        let told = history.describe(&reading(1000, &[]));
        assert_eq!(told["requests"].as_array().map(Vec::len), Some(STEPS + 1));
    }

    #[test]
    fn a_series_that_begins_anew_after_reloads_loses_nothing() {
        let mut history = History::new();
        history.end_step(reading(9, &[("dns_error", "normalized", 9)]));
        let told = history.describe(&reading(2, &[("dns_error", "normalized", 2)]));
        assert_eq!(told["failures"][0]["counts"], json!([9, 2]));
    }

    #[test]
    fn what_clients_did_not_see_hurts_nobody_now() {
        let mut history = History::new();
        history.end_step(reading(5, &[("dns_error", "normalized", 4)]));
        for _ in 0..NOW {
            history.end_step(reading(5, &[("dns_error", "normalized", 4)]));
        }
        let end = [
            ("dns_error", "aborted", 1),
            ("dns_error", "normalized", 4),
            ("dns_error", "passed", 2),
            ("dns_error", "recovered", 3),
        ];
        let now = history.now(&reading(11, &end));
        let expected = json!({
            "seconds": 60, "requests": 6, "failures": 1, "passed": 2, "recovered": 3,
        });
        assert_eq!(now, expected, "what is older than a minute is over");
    }
}

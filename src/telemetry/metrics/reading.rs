//! What the admin page reads of the metrics: sums over labels that it does not show.
//!
//! Nobody counts through here, and nothing here is on a request's path: it is asked every few
//! seconds, while somebody looks or a step of the history ends.

use std::collections::BTreeMap;

use prometheus::core::Collector;
use prometheus::proto::Metric;

use super::Metrics;

/// Which failures are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    /// The upstream's name.
    pub upstream: String,
    /// The kind's name.
    pub kind: String,
    /// The outcome's name.
    pub outcome: String,
}

/// Everything that was counted up to one moment.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Failures since the start; series without any are left out.
    pub failures: BTreeMap<Series, u64>,
    /// Requests that have ended since the start.
    pub requests: u64,
}

impl Metrics {
    /// The counters as they are now.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let mut failures = BTreeMap::new();
        each(&self.failures, |metric| {
            let count = whole(metric.get_counter().get_value());
            if count > 0 {
                let text = |name| label(metric, name).to_owned();
                let (upstream, kind) = (text("upstream"), text("kind"));
                let series = Series { upstream, kind, outcome: text("outcome") };
                *failures.entry(series).or_default() += count;
            }
        });
        let mut requests = 0;
        each(&self.requests, |metric| requests += whole(metric.get_counter().get_value()));
        Reading { failures, requests }
    }

    /// Open WebSockets by upstream.
    #[must_use]
    pub fn websockets_open(&self) -> BTreeMap<String, u64> {
        let mut open = BTreeMap::new();
        each(&self.websocket_sessions, |metric| {
            open.insert(
                label(metric, "upstream").to_owned(),
                whole(metric.get_gauge().get_value()),
            );
        });
        open
    }

    /// The state of each upstream's circuit: 0 closed, 1 half-open, 2 open.
    #[must_use]
    pub fn circuits(&self) -> BTreeMap<String, u64> {
        let mut states = BTreeMap::new();
        each(&self.circuit_state, |metric| {
            states.insert(
                label(metric, "upstream").to_owned(),
                whole(metric.get_gauge().get_value()),
            );
        });
        states
    }
}

fn each(family: &impl Collector, mut read: impl FnMut(&Metric)) {
    for family in family.collect() {
        family.get_metric().iter().for_each(&mut read);
    }
}

fn label<'m>(metric: &'m Metric, name: &str) -> &'m str {
    let labels = metric.get_label();
    labels.iter().find(|label| label.name() == name).map_or("", |label| label.value())
}

/// A count, which the library tells as a float; never negative.
fn whole(value: f64) -> u64 {
    value as u64
}

//! Floor 2: what operators see. Metrics, the log, the failure journal, spans, and the request id that
//! ties them together.
//!
//! Nothing here is global but the log: each server has its own metrics and journal, handed to
//! whoever counts through handles that were resolved when the configuration was loaded.

pub mod journal;
mod lines;
pub mod log;
pub mod metrics;
pub mod request_id;
pub mod spans;
pub mod stderr;

use std::sync::Arc;

/// Whom a worker tells what happens.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// The metrics.
    pub metrics: Arc<metrics::Metrics>,
    /// The failure journal.
    pub journal: Arc<journal::Journal>,
    /// The way to an OpenTelemetry collector, if there is one.
    pub tracer: Option<Arc<spans::Tracer>>,
}

//! Floor 2: what operators see. Metrics, the log, the failure journal, and the request id that ties
//! them together.
//!
//! Nothing here is global but the log: each server has its own metrics and journal, handed to
//! whoever counts through handles that were resolved when the configuration was loaded.

pub mod journal;
mod lines;
pub mod log;
pub mod metrics;
pub mod request_id;
pub mod stderr;

//! What is told about failures beside the metrics: log, journal and spans.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use rustls_pki_types::CertificateDer;

/// What the log looks like.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// JSON lines or human lines. Default JSON.
    pub format: LogFormat,
    /// A `tracing` filter such as `info` or `seawall=debug`. Default `info`.
    pub filter: String,
    /// One line per request. Default off.
    pub access: bool,
}

impl Default for Log {
    fn default() -> Self {
        Log { format: LogFormat::Json, filter: "info".into(), access: false }
    }
}

/// The shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people at a terminal.
    Human,
}

/// The failure journal.
#[derive(Clone, Debug, PartialEq)]
pub struct Journal {
    /// How many failures are remembered. Default 1000.
    pub entries: usize,
    /// The file they are written to; `None` is none (the default).
    pub file: Option<PathBuf>,
    /// Bytes of a file. Default 16 MiB.
    pub file_bytes: u64,
    /// Files in all, rotated ones included. Default 4.
    pub files: usize,
}

impl Default for Journal {
    fn default() -> Self {
        Journal { entries: 1000, file: None, file_bytes: 16 * 1024 * 1024, files: 4 }
    }
}

/// Spans of requests, for an OpenTelemetry collector.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// Where they are sent: OTLP/HTTP, the path included.
    pub url: Box<str>,
    /// `service.name` of all spans. Default `seawall`.
    pub service: Box<str>,
    /// How many traces in a hundred are recorded where nobody has decided before. Default 100.
    pub sample_percent: f64,
    /// What requests to the collector bring, such as a key; never printed.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// Trusted roots; `None` is the system's.
    pub roots: Option<Arc<Vec<CertificateDer<'static>>>>,
    /// Requests that may wait to be sent. Default 2048.
    pub queue: usize,
    /// Most requests that are sent together. Default 512.
    pub batch: usize,
    /// How long a batch waits to become full. Default 1 s.
    pub interval: Duration,
    /// How long a batch may take to be sent, again if need be. Default 10 s.
    pub timeout: Duration,
}

impl Tracing {
    /// All the defaults, towards this collector.
    #[must_use]
    pub fn to(url: &str) -> Self {
        Tracing {
            url: url.into(),
            service: "seawall".into(),
            sample_percent: 100.0,
            fields: Vec::new(),
            roots: None,
            queue: 2048,
            batch: 512,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
        }
    }
}

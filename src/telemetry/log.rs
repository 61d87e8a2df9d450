//! The log: one line per failure, one per WebSocket close, and on demand one per request.
//!
//! Lines go to stderr. One that is closed, full, or that nobody reads costs lines, never a request:
//! see [`super::stderr`].

use std::borrow::Cow;
use std::io::{self, IsTerminal};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Method;
use tracing_subscriber::EnvFilter;

use super::lines::Lines;
use super::spans::context::TraceId;
use super::stderr::Stderr;
use crate::config::model::{Log, LogFormat};
use crate::failure::{Failure, Kind, Outcome, Protocol};

/// Where the lines of this process go.
static OUT: OnceLock<Stderr> = OnceLock::new();

/// Waits for the last lines, for a second at most. Called when the process ends.
pub fn finish() {
    if let Some(out) = OUT.get() {
        out.finish();
    }
}

/// Begins to log for the whole process. A second call changes nothing.
pub fn init(settings: &Log) {
    let filter = EnvFilter::try_new(&settings.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let stderr = OUT.get_or_init(Stderr::open).clone();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    // Colours are for people who look, not for files.
    let colours = io::stderr().is_terminal();
    let _ = match settings.format {
        LogFormat::Json => builder.event_format(Lines).try_init(),
        LogFormat::Human => builder.with_target(false).with_ansi(colours).try_init(),
    };
}

/// One failure, as the log tells it.
#[derive(Debug)]
pub struct FailureLine<'a> {
    /// The id that the client was given.
    pub request_id: &'a str,
    /// What happened.
    pub failure: &'a Failure,
    /// What became of it.
    pub outcome: Outcome,
    /// What the client speaks.
    pub protocol: Protocol,
    /// The route's name.
    pub route: &'a Arc<str>,
    /// The request's method.
    pub method: &'a Method,
    /// The request's path, without its query, which may hold secrets.
    pub path: &'a str,
    /// The status that the client got, if it got one.
    pub status: Option<u16>,
    /// The close code that the client got, if it got one.
    pub close_code: Option<u16>,
    /// The trace that the request belongs to, if there is tracing.
    pub trace_id: Option<TraceId>,
}

impl FailureLine<'_> {
    /// The upstream that failed.
    #[must_use]
    pub fn upstream(&self) -> &str {
        self.failure.upstream().map_or("", |name| name)
    }

    /// Writes the line: a warning, or an error if the fault is ours. `chain` are the errors beneath,
    /// outermost first.
    pub fn emit(&self, chain: &[String]) {
        let failure = self.failure;
        let error = match chain {
            [] => None,
            [error] => Some(Cow::from(error)),
            errors => Some(Cow::from(errors.join(": "))),
        };
        let evidence = failure.evidence().map(|bytes| String::from_utf8_lossy(bytes));
        macro_rules! emit {
            ($level:ident) => {
                tracing::$level!(
                    request_id = self.request_id,
                    kind = failure.kind().name(),
                    phase = failure.phase().name(),
                    outcome = self.outcome.name(),
                    protocol = self.protocol.name(),
                    route = &**self.route,
                    upstream = self.upstream(),
                    endpoint = failure.endpoint().map(|label| &**label),
                    dependency = failure.dependency().map(|name| &**name),
                    received_status = failure.received_status(),
                    status = self.status,
                    close_code = self.close_code,
                    trace_id = self.trace_id.map(display),
                    method = self.method.as_str(),
                    path = self.path,
                    error = error.as_deref(),
                    trace = failure.trace(),
                    evidence = evidence.as_deref(),
                    "upstream failure"
                )
            };
        }
        match failure.kind() {
            Kind::ProxyInternalError => emit!(error),
            _ => emit!(warn),
        }
    }
}

/// One request, as the access log tells it.
#[derive(Debug)]
pub struct AccessLine<'a> {
    /// The request's id.
    pub request_id: &'a str,
    /// Its method.
    pub method: &'a str,
    /// Its path, without its query.
    pub path: &'a str,
    /// The version that the client speaks.
    pub version: http::Version,
    /// The status that the client got; 499 if it left before.
    pub status: u16,
    /// The route's name.
    pub route: &'a str,
    /// The upstream's name.
    pub upstream: &'a str,
    /// From the request's head to the end of its response.
    pub elapsed: Duration,
    /// The trace that the request belongs to, if there is tracing.
    pub trace_id: Option<TraceId>,
}

impl AccessLine<'_> {
    /// Writes the line.
    pub fn emit(&self) {
        tracing::info!(
            target: "seawall::access",
            request_id = self.request_id,
            method = self.method,
            path = self.path,
            version = ?self.version,
            status = self.status,
            route = self.route,
            upstream = self.upstream,
            seconds = self.elapsed.as_secs_f64(),
            trace_id = self.trace_id.map(display),
            "request"
        );
    }
}

/// The end of a WebSocket, as the log tells it.
#[derive(Debug)]
pub struct WebsocketLine<'a> {
    /// The id of the request that opened it.
    pub request_id: &'a str,
    /// The upstream's name.
    pub upstream: &'a str,
    /// The request's path.
    pub path: &'a str,
    /// How it ended and what it carried.
    pub summary: &'a super::metrics::SessionSummary,
    /// From the 101 to the end.
    pub elapsed: Duration,
    /// The trace that the request belongs to, if there is tracing.
    pub trace_id: Option<TraceId>,
}

impl WebsocketLine<'_> {
    /// Writes the line.
    pub fn emit(&self) {
        let summary = self.summary;
        tracing::info!(
            request_id = self.request_id,
            upstream = self.upstream,
            path = self.path,
            code = summary.code,
            initiator = summary.initiator,
            messages_to_client = summary.to_client.messages,
            bytes_to_client = summary.to_client.bytes,
            cut_to_client = summary.to_client.cut,
            messages_to_upstream = summary.to_upstream.messages,
            bytes_to_upstream = summary.to_upstream.bytes,
            cut_to_upstream = summary.to_upstream.cut,
            seconds = self.elapsed.as_secs_f64(),
            trace_id = self.trace_id.map(display),
            "websocket closed"
        );
    }
}

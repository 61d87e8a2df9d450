//! Metrics, resolved to handles when the configuration is loaded.
//!
//! A request counts through [`RouteMetrics`] and [`UpstreamMetrics`]: an increment is one atomic
//! add, and nothing is looked up by text. The cells of every plausible failure exist from the
//! start, so that the first failure is a step from 0 and `increase()` sees it; an implausible one is
//! made when it happens, and never lost.

pub mod family;
pub mod reading;
mod upstream;
mod websocket;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::failure::{ClientFailure, Kind};
use crate::message::field;
use crate::telemetry::journal::file;
use crate::telemetry::spans::export;
use crate::telemetry::stderr;
use family::Family;

pub use upstream::{
    CircuitMetrics, CircuitState, ConcurrencyMetrics, ConnectionGauges, EndpointMetrics,
    RetryResult, UpstreamMetrics,
};
pub use websocket::{Direction, Refusal, SessionSummary, Traffic, WebsocketMetrics};

/// Upper bounds of request times, in seconds: half a millisecond to a minute.
const REQUEST_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
];

/// Upper bounds of WebSocket session times, in seconds: a second to a day.
const SESSION_BUCKETS: &[f64] =
    &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0];

/// Statuses that most routes answer: their cells exist from the start.
const USUAL_STATUSES: &[u16] = &[200, 201, 204, 206, 301, 302, 304, 400, 401, 403, 404, 499, 500];

/// The metrics of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    failures: IntCounterVec,
    dependency_failures: IntCounterVec,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    upstream_head_seconds: HistogramVec,
    requests_in_flight: IntGaugeVec,
    retries: IntCounterVec,
    client_failures: IntCounterVec,
    connections_refused: IntCounterVec,
    rehearsals: IntCounterVec,
    clients: Vec<IntCounter>,
    unrouted: Vec<IntCounter>,
    scrubbed_responses: IntCounterVec,
    websocket_sessions: IntGaugeVec,
    websocket_closes: IntCounterVec,
    websocket_refused: IntCounterVec,
    websocket_messages: IntCounterVec,
    websocket_bytes: IntCounterVec,
    websocket_cut_messages: IntCounterVec,
    websocket_session_seconds: HistogramVec,
    upstream_connections: IntGaugeVec,
    upstream_pending: IntGaugeVec,
    connects: IntCounterVec,
    endpoint_up: IntGaugeVec,
    endpoint_ejections: IntCounterVec,
    health_checks: IntCounterVec,
    dns_lookups: IntCounterVec,
    circuit_state: IntGaugeVec,
    circuit_openings: IntCounterVec,
    circuit_refused: IntCounterVec,
    concurrency_limit: IntGaugeVec,
    concurrency_refused: IntCounterVec,
    client_connections: IntGauge,
    config_reloads: IntCounterVec,
    journal_dropped: IntCounterVec,
    spans: IntCounterVec,
    accept_failures: IntCounter,
    worker_restarts: IntCounter,
    redirects: IntCounter,
    certificate_reloads: IntCounterVec,
    certificate_expiry: IntGaugeVec,
    config_loaded: IntGauge,
    /// Which fields of clients have been removed before: each one's first removal is logged.
    removals: Box<[AtomicBool]>,
}

/// Makes and registers families. A name that is taken, or a label that is not valid, would be a
/// mistake in `family`, which the tests of this module make impossible to miss: the metric would
/// not be in the output.
struct Maker<'r>(&'r Registry);

impl Maker<'_> {
    fn register<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        let _ = self.0.register(Box::new(collector.clone()));
        collector
    }

    fn counter(&self, family: &Family) -> Result<IntCounterVec, prometheus::Error> {
        IntCounterVec::new(Opts::new(family.name, family.help), family.labels)
            .map(|made| self.register(made))
    }

    fn gauge(&self, family: &Family) -> Result<IntGaugeVec, prometheus::Error> {
        IntGaugeVec::new(Opts::new(family.name, family.help), family.labels)
            .map(|made| self.register(made))
    }

    fn histogram(
        &self,
        family: &Family,
        buckets: &[f64],
    ) -> Result<HistogramVec, prometheus::Error> {
        let options = HistogramOpts::new(family.name, family.help).buckets(buckets.to_vec());
        HistogramVec::new(options, family.labels).map(|made| self.register(made))
    }
}

impl Metrics {
    /// Metrics of a new server.
    ///
    /// # Errors
    /// If a declaration in `family` is not valid; a test makes sure that none is.
    pub fn new() -> Result<Arc<Self>, prometheus::Error> {
        let registry = Registry::new();
        let make = Maker(&registry);
        let client_failures = make.counter(&family::CLIENT_FAILURES)?;
        let clients = ClientFailure::ALL
            .iter()
            .map(|failure| client_failures.with_label_values(&[failure.name()]))
            .collect();
        let requests = make.counter(&family::REQUESTS)?;
        let unrouted = UNROUTED
            .iter()
            .map(|status| requests.with_label_values(&[NO_ROUTE, NO_ROUTE, &status.to_string()]))
            .collect();
        let build_info = make.gauge(&family::BUILD_INFO)?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let client_connections = make.gauge(&family::CLIENT_CONNECTIONS)?;
        let config_reloads = make.counter(&family::CONFIG_RELOADS)?;
        let config_loaded = make.gauge(&family::CONFIG_LAST_SUCCESS)?.with_label_values(NO_LABELS);
        config_loaded.set(unix_seconds());
        for result in ["ok", "failed"] {
            config_reloads.with_label_values(&[result]);
        }
        let journal_dropped = make.counter(&family::JOURNAL_DROPPED)?;
        for reason in ["queue", "write"] {
            journal_dropped.with_label_values(&[reason]);
        }
        let spans = make.counter(&family::SPANS)?;
        for result in ["exported", "dropped", "failed", "rejected"] {
            spans.with_label_values(&[result]);
        }
        let connections_refused = make.counter(&family::CLIENT_CONNECTIONS_REFUSED)?;
        for limit in ["connections", "per_address"] {
            connections_refused.with_label_values(&[limit]);
        }
        if let Some(dropped) = &*stderr::DROPPED {
            make.register(dropped.clone());
        }
        let metrics = Metrics {
            failures: make.counter(&family::FAILURES)?,
            dependency_failures: make.counter(&family::DEPENDENCY_FAILURES)?,
            requests,
            unrouted,
            request_seconds: make.histogram(&family::REQUEST_SECONDS, REQUEST_BUCKETS)?,
            upstream_head_seconds: make
                .histogram(&family::UPSTREAM_HEAD_SECONDS, REQUEST_BUCKETS)?,
            requests_in_flight: make.gauge(&family::REQUESTS_IN_FLIGHT)?,
            retries: make.counter(&family::RETRIES)?,
            client_failures,
            connections_refused,
            rehearsals: make.counter(&family::REHEARSALS)?,
            clients,
            scrubbed_responses: make.counter(&family::SCRUBBED_RESPONSES)?,
            websocket_sessions: make.gauge(&family::WEBSOCKET_SESSIONS)?,
            websocket_closes: make.counter(&family::WEBSOCKET_CLOSES)?,
            websocket_refused: make.counter(&family::WEBSOCKET_REFUSED)?,
            websocket_messages: make.counter(&family::WEBSOCKET_MESSAGES)?,
            websocket_bytes: make.counter(&family::WEBSOCKET_BYTES)?,
            websocket_cut_messages: make.counter(&family::WEBSOCKET_CUT_MESSAGES)?,
            websocket_session_seconds: make
                .histogram(&family::WEBSOCKET_SESSION_SECONDS, SESSION_BUCKETS)?,
            upstream_connections: make.gauge(&family::UPSTREAM_CONNECTIONS)?,
            upstream_pending: make.gauge(&family::UPSTREAM_PENDING)?,
            connects: make.counter(&family::CONNECTS)?,
            endpoint_up: make.gauge(&family::ENDPOINT_UP)?,
            health_checks: make.counter(&family::HEALTH_CHECKS)?,
            endpoint_ejections: make.counter(&family::ENDPOINT_EJECTIONS)?,
            dns_lookups: make.counter(&family::DNS_LOOKUPS)?,
            circuit_state: make.gauge(&family::CIRCUIT_STATE)?,
            circuit_openings: make.counter(&family::CIRCUIT_OPENINGS)?,
            circuit_refused: make.counter(&family::CIRCUIT_REFUSED)?,
            concurrency_limit: make.gauge(&family::CONCURRENCY_LIMIT)?,
            concurrency_refused: make.counter(&family::CONCURRENCY_REFUSED)?,
            client_connections: client_connections.with_label_values(NO_LABELS),
            config_reloads,
            journal_dropped,
            spans,
            accept_failures: make.counter(&family::ACCEPT_FAILURES)?.with_label_values(NO_LABELS),
            worker_restarts: make.counter(&family::WORKER_RESTARTS)?.with_label_values(NO_LABELS),
            redirects: make.counter(&family::REDIRECTS)?.with_label_values(NO_LABELS),
            certificate_reloads: make.counter(&family::CERTIFICATE_RELOADS)?,
            certificate_expiry: make.gauge(&family::CERTIFICATE_EXPIRY)?,
            config_loaded,
            removals: (0..field::ROW_COUNT).map(|_| AtomicBool::new(false)).collect(),
            registry: registry.clone(),
        };
        let process = prometheus::process_collector::ProcessCollector::for_self();
        let _ = registry.register(Box::new(process));
        Ok(Arc::new(metrics))
    }

    /// The handles of a route.
    #[must_use]
    pub fn route(&self, route: &str, upstream: &str) -> RouteMetrics {
        let statuses = (100..600).map(|_| OnceLock::new()).collect();
        let handles = RouteMetrics(Arc::new(RouteHandles {
            requests: self.requests.clone(),
            labels: [route.to_owned(), upstream.to_owned()],
            statuses,
            seconds: self.request_seconds.with_label_values(&[route]),
            in_flight: self.requests_in_flight.with_label_values(&[route]),
        }));
        for status in USUAL_STATUSES {
            handles.status(*status);
        }
        handles
    }

    /// Creates the cells of a route on which clients may ask for failures.
    pub fn rehearses(&self, route: &str) {
        for kind in Kind::ALL {
            self.rehearsals.with_label_values(&[route, kind.name()]);
        }
    }

    /// Counts a failure that a client asked for.
    pub fn rehearsed(&self, route: &str, kind: Kind) {
        self.rehearsals.with_label_values(&[route, kind.name()]).inc();
    }

    /// Creates the cells of an upstream's dependencies.
    pub fn dependencies(&self, upstream: &str, dependencies: &[Arc<str>]) {
        for dependency in dependencies {
            self.dependency_failures.with_label_values(&[upstream, dependency]);
        }
    }

    /// Counts a failure of a client.
    pub fn client(&self, failure: ClientFailure) {
        let place = ClientFailure::ALL.iter().position(|known| *known == failure);
        match place.and_then(|place| self.clients.get(place)) {
            Some(counter) => counter.inc(),
            None => self.client_failures.with_label_values(&[failure.name()]).inc(),
        }
    }

    /// Counts a request without a route that was answered with this status.
    pub fn unrouted(&self, status: u16) {
        match UNROUTED.iter().position(|known| *known == status) {
            Some(place) => {
                if let Some(counter) = self.unrouted.get(place) {
                    counter.inc();
                }
            }
            None => self.unrouted_with(status).inc(),
        }
    }

    fn unrouted_with(&self, status: u16) -> IntCounter {
        self.requests.with_label_values(&[NO_ROUTE, NO_ROUTE, &status.to_string()])
    }

    /// Counts a client's connection until the guard is dropped.
    #[must_use]
    pub fn client_connected(&self) -> ClientConnection {
        self.client_connections.inc();
        ClientConnection(self.client_connections.clone())
    }

    /// Counts a client's connection that was refused because of this limit.
    pub fn connection_refused(&self, limit: &'static str) {
        self.connections_refused.with_label_values(&[limit]).inc();
    }

    /// Counts a connection that could not be accepted.
    pub fn accept_failed(&self) {
        self.accept_failures.inc();
    }

    /// Counts a worker that ended early.
    pub fn worker_lost(&self) {
        self.worker_restarts.inc();
    }

    /// Counts what the journal's file lacks.
    #[must_use]
    pub fn journal_dropped(&self) -> file::Dropped {
        let reason = |reason| self.journal_dropped.with_label_values(&[reason]);
        file::Dropped { queue: reason("queue"), write: reason("write") }
    }

    /// Counts what becomes of spans.
    #[must_use]
    pub fn spans(&self) -> export::Results {
        let result = |result| self.spans.with_label_values(&[result]);
        export::Results {
            exported: result("exported"),
            dropped: result("dropped"),
            failed: result("failed"),
            rejected: result("rejected"),
        }
    }

    /// Counts a configuration that was loaded, or could not be.
    pub fn reloaded(&self, ok: bool) {
        self.config_reloads.with_label_values(&[if ok { "ok" } else { "failed" }]).inc();
        if ok {
            self.config_loaded.set(unix_seconds());
        }
    }

    /// Counts a request that was sent on to `https`.
    pub fn redirected(&self) {
        self.redirects.inc();
    }

    /// The handles of the certificates of one listener.
    #[must_use]
    pub fn certificates(&self, listener: &str) -> CertificateMetrics {
        let reloads = |result| self.certificate_reloads.with_label_values(&[listener, result]);
        CertificateMetrics {
            listener: listener.to_owned(),
            reloaded: reloads("ok"),
            failed: reloads("failed"),
            expiry: self.certificate_expiry.clone(),
        }
    }

    /// Returns `true` at the first call for this row of the table of fields.
    pub fn is_first_removal(&self, row: usize) -> bool {
        let cell = self.removals.get(row);
        cell.is_some_and(|seen| !seen.swap(true, Ordering::Relaxed))
    }

    /// Everything in the text format 0.0.4.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(64 * 1024);
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be written");
        }
        text
    }
}

const NO_LABELS: &[&str] = &[];

/// What stands for the names of a route and an upstream where a request has none.
pub const NO_ROUTE: &str = "-";

/// The statuses of requests that have no route.
const UNROUTED: &[u16] = &[308, 400, 404, 408, 414, 421, 431, 499, 501, 503];

/// The handles of the certificates of one listener.
#[derive(Clone, Debug)]
pub struct CertificateMetrics {
    listener: String,
    reloaded: IntCounter,
    failed: IntCounter,
    expiry: IntGaugeVec,
}

impl CertificateMetrics {
    /// Counts files that have changed: whether they are in use now.
    pub fn reloaded(&self, ok: bool) {
        if ok { &self.reloaded } else { &self.failed }.inc();
    }

    /// The certificate of this name is not shown any more.
    pub fn forget(&self, certificate: &str) {
        // It is not there if its end could not be read.
        let _ = self.expiry.remove_label_values(&[&*self.listener, certificate]);
    }

    /// When the certificate of this name ends, in seconds since 1970.
    pub fn expires(&self, certificate: &str, end: i64) {
        self.expiry.with_label_values(&[&*self.listener, certificate]).set(end);
    }
}

fn unix_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// An open connection of a client.
#[derive(Debug)]
pub struct ClientConnection(IntGauge);

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The handles of one route.
#[derive(Clone, Debug)]
pub struct RouteMetrics(Arc<RouteHandles>);

#[derive(Debug)]
struct RouteHandles {
    requests: IntCounterVec,
    labels: [String; 2],
    statuses: Box<[OnceLock<IntCounter>]>,
    seconds: Histogram,
    in_flight: IntGauge,
}

impl RouteMetrics {
    /// A request has begun.
    pub fn began(&self) {
        self.0.in_flight.inc();
    }

    /// A request has ended with this status after so long. It is in flight until all of it is
    /// counted, so that no scrape finds it nowhere.
    pub fn ended(&self, status: u16, elapsed: Duration) {
        self.0.seconds.observe(elapsed.as_secs_f64());
        self.status(status).inc();
        self.0.in_flight.dec();
    }

    fn status(&self, status: u16) -> IntCounter {
        let make = || {
            let [route, upstream] = &self.0.labels;
            self.0.requests.with_label_values(&[route, upstream, &status.to_string()])
        };
        match self.0.statuses.get(usize::from(status).wrapping_sub(100)) {
            Some(cell) => cell.get_or_init(make).clone(),
            // 600 to 999 are legal three-digit codes that nobody uses.
            None => make(),
        }
    }
}

#[cfg(test)]
mod tests;

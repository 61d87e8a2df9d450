//! Metrics, resolved to handles when the configuration is loaded.
//!
//! A request counts through [`RouteMetrics`] and [`UpstreamMetrics`]: an increment is one atomic
//! add, and nothing is looked up by text. The cells of every plausible failure exist from the
//! start, so that the first failure is a step from 0 and `increase()` sees it; an implausible one is
//! made when it happens, and never lost.

pub mod family;
pub mod reading;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::failure::{ClientFailure, Failure, Kind, Outcome, Phase, Protocol, app};
use family::Family;

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
    scrubbed_responses: IntCounterVec,
    websocket_sessions: IntGaugeVec,
    websocket_closes: IntCounterVec,
    websocket_refused: IntCounterVec,
    websocket_messages: IntCounterVec,
    websocket_bytes: IntCounterVec,
    websocket_cut_messages: IntCounterVec,
    websocket_session_seconds: HistogramVec,
    upstream_connections: IntGaugeVec,
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
    redirects: IntCounter,
    certificate_reloads: IntCounterVec,
    certificate_expiry: IntGaugeVec,
    config_loaded: IntGauge,
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
        let build_info = make.gauge(&family::BUILD_INFO)?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let client_connections = make.gauge(&family::CLIENT_CONNECTIONS)?;
        let config_reloads = make.counter(&family::CONFIG_RELOADS)?;
        let config_loaded = make.gauge(&family::CONFIG_LAST_SUCCESS)?.with_label_values(NO_LABELS);
        config_loaded.set(unix_seconds());
        for result in ["ok", "failed"] {
            config_reloads.with_label_values(&[result]);
        }
        let connections_refused = make.counter(&family::CLIENT_CONNECTIONS_REFUSED)?;
        for limit in ["connections", "per_address"] {
            connections_refused.with_label_values(&[limit]);
        }
        let metrics = Metrics {
            failures: make.counter(&family::FAILURES)?,
            dependency_failures: make.counter(&family::DEPENDENCY_FAILURES)?,
            requests: make.counter(&family::REQUESTS)?,
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
            redirects: make.counter(&family::REDIRECTS)?.with_label_values(NO_LABELS),
            certificate_reloads: make.counter(&family::CERTIFICATE_RELOADS)?,
            certificate_expiry: make.gauge(&family::CERTIFICATE_EXPIRY)?,
            config_loaded,
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

    /// The handles of an upstream, and the cells of failures in these protocols.
    #[must_use]
    pub fn upstream(
        &self,
        name: &str,
        dependencies: &[Arc<str>],
        protocols: &[Protocol],
    ) -> UpstreamMetrics {
        self.dependencies(name, dependencies);
        for trace in app::trace::TRACES {
            self.scrubbed_responses.with_label_values(&[name, trace]);
        }
        let connection = |state| self.upstream_connections.with_label_values(&[name, state]);
        let retry = |result: RetryResult| self.retries.with_label_values(&[name, result.name()]);
        UpstreamMetrics(Arc::new(UpstreamHandles {
            name: name.to_owned(),
            endpoints: EndpointFamilies {
                connects: self.connects.clone(),
                up: self.endpoint_up.clone(),
                ejections: self.endpoint_ejections.clone(),
                checks: self.health_checks.clone(),
            },
            failures: FailureCells::new(&self.failures, name, protocols),
            dependency_failures: self.dependency_failures.clone(),
            scrubbed_responses: self.scrubbed_responses.clone(),
            head_seconds: self.upstream_head_seconds.with_label_values(&[name]),
            connections: ConnectionGauges {
                active: connection("active"),
                idle: connection("idle"),
            },
            retries: RetryResult::ALL.map(retry),
            dns_lookups: ["ok", "failed"]
                .map(|result| self.dns_lookups.with_label_values(&[name, result])),
            circuit: CircuitMetrics {
                state: self.circuit_state.with_label_values(&[name]),
                openings: self.circuit_openings.with_label_values(&[name]),
                refused: self.circuit_refused.with_label_values(&[name]),
            },
            concurrency: ConcurrencyMetrics {
                limit: self.concurrency_limit.with_label_values(&[name]),
                refused: self.concurrency_refused.with_label_values(&[name]),
            },
            websocket: self.websocket(name),
        }))
    }

    /// Creates the cells of an upstream's dependencies.
    pub fn dependencies(&self, upstream: &str, dependencies: &[Arc<str>]) {
        for dependency in dependencies {
            self.dependency_failures.with_label_values(&[upstream, dependency]);
        }
    }

    fn websocket(&self, upstream: &str) -> WebsocketMetrics {
        let traffic = |direction: Direction| TrafficHandles {
            messages: self.websocket_messages.with_label_values(&[upstream, direction.name()]),
            bytes: self.websocket_bytes.with_label_values(&[upstream, direction.name()]),
            cut: self.websocket_cut_messages.with_label_values(&[upstream, direction.name()]),
        };
        for (code, initiator) in [("1011", "upstream"), ("1012", "seawall"), ("1000", "client")] {
            self.websocket_closes.with_label_values(&[upstream, code, initiator]);
        }
        WebsocketMetrics {
            name: upstream.into(),
            sessions: self.websocket_sessions.with_label_values(&[upstream]),
            seconds: self.websocket_session_seconds.with_label_values(&[upstream]),
            closes: self.websocket_closes.clone(),
            refused: Refusal::ALL
                .map(|why| self.websocket_refused.with_label_values(&[upstream, why.name()])),
            to_client: traffic(Direction::ToClient),
            to_upstream: traffic(Direction::ToUpstream),
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

    /// A request has ended with this status after so long.
    pub fn ended(&self, status: u16, elapsed: Duration) {
        self.0.in_flight.dec();
        self.0.seconds.observe(elapsed.as_secs_f64());
        self.status(status).inc();
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

/// What became of a request that was sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryResult {
    /// An idle connection was closed; the request went out on a new one.
    Stale,
    /// Another attempt answered.
    Recovered,
    /// It failed as well.
    Failed,
    /// The retry budget was spent: it was not sent again.
    OverBudget,
}

impl RetryResult {
    const ALL: [RetryResult; 4] =
        [RetryResult::Stale, RetryResult::Recovered, RetryResult::Failed, RetryResult::OverBudget];

    fn name(self) -> &'static str {
        match self {
            RetryResult::Stale => "stale",
            RetryResult::Recovered => "recovered",
            RetryResult::Failed => "failed",
            RetryResult::OverBudget => "over_budget",
        }
    }
}

/// The handles of one upstream.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics(Arc<UpstreamHandles>);

#[derive(Debug)]
struct UpstreamHandles {
    name: String,
    endpoints: EndpointFamilies,
    failures: FailureCells,
    dependency_failures: IntCounterVec,
    scrubbed_responses: IntCounterVec,
    head_seconds: Histogram,
    connections: ConnectionGauges,
    retries: [IntCounter; 4],
    dns_lookups: [IntCounter; 2],
    circuit: CircuitMetrics,
    concurrency: ConcurrencyMetrics,
    websocket: WebsocketMetrics,
}

/// The families with a label for the endpoint.
#[derive(Clone, Debug)]
struct EndpointFamilies {
    connects: IntCounterVec,
    up: IntGaugeVec,
    ejections: IntCounterVec,
    checks: IntCounterVec,
}

/// The handles of one endpoint.
#[derive(Debug)]
pub struct EndpointMetrics {
    families: EndpointFamilies,
    labels: [String; 2],
    connected: IntCounter,
    failed: IntCounter,
    up: IntGauge,
    ejections: IntCounter,
    passed_check: IntCounter,
    failed_check: IntCounter,
}

impl EndpointMetrics {
    /// A connection attempt has ended.
    pub fn connected(&self, ok: bool) {
        if ok { &self.connected } else { &self.failed }.inc();
    }

    /// Whether it gets its requests.
    pub fn set_up(&self, up: bool) {
        self.up.set(i64::from(up));
    }

    /// A health check has ended.
    pub fn checked(&self, ok: bool) {
        if ok { &self.passed_check } else { &self.failed_check }.inc();
    }

    /// It is left out for a while.
    pub fn ejected(&self) {
        self.ejections.inc();
    }

    /// It is gone: its series end, so that names that come and go do not pile up.
    pub fn forget(&self) {
        let [upstream, endpoint] = &self.labels;
        let EndpointFamilies { connects, up, ejections, checks } = &self.families;
        // What is not there need not be removed.
        let _ = up.remove_label_values(&[upstream, endpoint]);
        let _ = ejections.remove_label_values(&[upstream, endpoint]);
        for result in ["ok", "failed"] {
            let _ = connects.remove_label_values(&[&**upstream, endpoint, result]);
            let _ = checks.remove_label_values(&[&**upstream, endpoint, result]);
        }
    }
}

/// Open connections to an upstream.
#[derive(Clone, Debug)]
pub struct ConnectionGauges {
    /// Those that carry a request or a WebSocket.
    pub active: IntGauge,
    /// Those that wait in a pool.
    pub idle: IntGauge,
}

impl UpstreamMetrics {
    /// Counts one failure: its kind, its dependency, and what was scrubbed.
    pub fn failed(&self, failure: &Failure, protocol: Protocol, outcome: Outcome) {
        let handles = &self.0;
        handles.failures.inc(protocol, failure.kind(), failure.phase(), outcome);
        if let Some(dependency) = failure.dependency() {
            handles.dependency_failures.with_label_values(&[&*handles.name, dependency]).inc();
        }
        if let Some(trace) = failure.trace() {
            handles.scrubbed_responses.with_label_values(&[&*handles.name, trace]).inc();
        }
    }

    /// DNS was asked for its endpoints.
    pub fn looked_up(&self, ok: bool) {
        let [answered, failed] = &self.0.dns_lookups;
        if ok { answered } else { failed }.inc();
    }

    /// The handles of one of its endpoints.
    #[must_use]
    pub fn endpoint(&self, endpoint: &str) -> EndpointMetrics {
        let UpstreamHandles { name, endpoints: families, .. } = &*self.0;
        let connect = |result| families.connects.with_label_values(&[&**name, endpoint, result]);
        let check = |result| families.checks.with_label_values(&[&**name, endpoint, result]);
        let up = families.up.with_label_values(&[&**name, endpoint]);
        up.set(1);
        EndpointMetrics {
            labels: [name.clone(), endpoint.to_owned()],
            connected: connect("ok"),
            failed: connect("failed"),
            up,
            ejections: families.ejections.with_label_values(&[&**name, endpoint]),
            passed_check: check("ok"),
            failed_check: check("failed"),
            families: families.clone(),
        }
    }

    /// The head of a response has come after so long.
    pub fn head_received(&self, elapsed: Duration) {
        self.0.head_seconds.observe(elapsed.as_secs_f64());
    }

    /// A request was sent again.
    pub fn retried(&self, result: RetryResult) {
        let place = RetryResult::ALL.iter().position(|known| *known == result);
        if let Some(counter) = place.and_then(|place| self.0.retries.get(place)) {
            counter.inc();
        }
    }

    /// The gauges of open connections.
    #[must_use]
    pub fn connections(&self) -> &ConnectionGauges {
        &self.0.connections
    }

    /// The handles of the circuit.
    #[must_use]
    pub fn circuit(&self) -> &CircuitMetrics {
        &self.0.circuit
    }

    /// The handles of the limit that adapts.
    #[must_use]
    pub fn concurrency(&self) -> &ConcurrencyMetrics {
        &self.0.concurrency
    }

    /// The handles of WebSockets.
    #[must_use]
    pub fn websocket(&self) -> &WebsocketMetrics {
        &self.0.websocket
    }
}

/// What a circuit is: its value in the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitState {
    /// All requests are let through.
    Closed = 0,
    /// A few are.
    HalfOpen = 1,
    /// None is.
    Open = 2,
}

/// The handles of one upstream's circuit.
#[derive(Clone, Debug)]
pub struct CircuitMetrics {
    state: IntGauge,
    openings: IntCounter,
    refused: IntCounter,
}

impl CircuitMetrics {
    /// What the circuit is now.
    pub fn set(&self, state: CircuitState) {
        self.state.set(state as i64);
    }

    /// It has opened.
    pub fn opened(&self) {
        self.openings.inc();
        self.set(CircuitState::Open);
    }

    /// A request was answered at once.
    pub fn refused(&self) {
        self.refused.inc();
    }
}

/// The handles of one upstream's limit that adapts.
#[derive(Clone, Debug)]
pub struct ConcurrencyMetrics {
    limit: IntGauge,
    refused: IntCounter,
}

impl ConcurrencyMetrics {
    /// The limit is this now.
    pub fn set_limit(&self, limit: usize) {
        self.limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// An attempt was refused.
    pub fn refused(&self) {
        self.refused.inc();
    }
}

/// The cells of `seawall_failures_total` for one upstream.
#[derive(Debug)]
struct FailureCells {
    family: IntCounterVec,
    upstream: String,
    cells: Box<[OnceLock<IntCounter>]>,
}

impl FailureCells {
    fn new(family: &IntCounterVec, upstream: &str, protocols: &[Protocol]) -> Self {
        let count = Protocol::ALL.len() * Kind::COUNT * Phase::ALL.len() * Outcome::ALL.len();
        let cells = FailureCells {
            family: family.clone(),
            upstream: upstream.to_owned(),
            cells: (0..count).map(|_| OnceLock::new()).collect(),
        };
        for kind in Kind::ALL {
            for phase in kind.phases() {
                for (protocol, outcome) in plausible(*kind, *phase) {
                    if !protocols.contains(&protocol) {
                        continue;
                    }
                    cells.cell(protocol, *kind, *phase, outcome);
                }
            }
        }
        cells
    }

    fn inc(&self, protocol: Protocol, kind: Kind, phase: Phase, outcome: Outcome) {
        self.cell(protocol, kind, phase, outcome).inc();
    }

    fn cell(&self, protocol: Protocol, kind: Kind, phase: Phase, outcome: Outcome) -> IntCounter {
        let place = ((protocol as usize * Kind::COUNT + kind.index()) * Phase::ALL.len()
            + phase as usize)
            * Outcome::ALL.len()
            + outcome as usize;
        let make = || {
            self.family.with_label_values(&[
                &*self.upstream,
                protocol.name(),
                kind.name(),
                phase.name(),
                outcome.name(),
            ])
        };
        self.cells.get(place).map_or_else(make, |cell| cell.get_or_init(make).clone())
    }
}

/// How a failure of this kind in this phase can end.
fn plausible(kind: Kind, phase: Phase) -> Vec<(Protocol, Outcome)> {
    use Outcome::{Aborted, Normalized, Passed, Recovered};
    use Protocol::{Grpc, Http, Websocket};
    let mut found = Vec::new();
    match phase {
        Phase::Websocket => found.push((Websocket, Normalized)),
        Phase::Upgrade => found.extend([(Websocket, Normalized), (Websocket, Recovered)]),
        Phase::Body => found.extend([(Http, Normalized), (Http, Recovered), (Http, Aborted)]),
        Phase::Head | Phase::Send => found.extend([(Http, Normalized), (Http, Recovered)]),
        Phase::Resolve | Phase::Connect | Phase::Tls => {
            for protocol in [Http, Websocket, Grpc] {
                found.extend([(protocol, Normalized), (protocol, Recovered)]);
            }
        }
    }
    if matches!(phase, Phase::Send | Phase::Head | Phase::Body) {
        found.push((Grpc, Normalized));
    }
    if matches!(kind, Kind::ApplicationError | Kind::DependencyFailure) && phase == Phase::Head {
        found.push((Http, Passed));
    }
    found
}

/// Which way a WebSocket message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the upstream.
    ToClient,
    /// From the client.
    ToUpstream,
}

impl Direction {
    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Direction::ToClient => "to_client",
            Direction::ToUpstream => "to_upstream",
        }
    }
}

/// Why a WebSocket handshake is answered 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `limits.websockets` are open.
    Sessions,
    /// More than `limits.handshakes` in a second.
    Rate,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Refusal; 2] = [Refusal::Sessions, Refusal::Rate];

    /// The name in the metric.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Refusal::Sessions => "sessions",
            Refusal::Rate => "rate",
        }
    }
}

/// The handles of one upstream's WebSockets.
#[derive(Clone, Debug)]
pub struct WebsocketMetrics {
    name: Box<str>,
    sessions: IntGauge,
    seconds: Histogram,
    closes: IntCounterVec,
    refused: [IntCounter; 2],
    to_client: TrafficHandles,
    to_upstream: TrafficHandles,
}

#[derive(Clone, Debug)]
struct TrafficHandles {
    messages: IntCounter,
    bytes: IntCounter,
    cut: IntCounter,
}

/// What one direction of a WebSocket carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Whole messages.
    pub messages: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// The last message was cut when its sender failed.
    pub cut: bool,
}

/// How a WebSocket ended and what it carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSummary {
    /// The close code that the client got; 1005 for a Close without one, 1006 for none at all.
    pub code: u16,
    /// `client`, `upstream` or `seawall`.
    pub initiator: &'static str,
    /// From the upstream.
    pub to_client: Traffic,
    /// From the client.
    pub to_upstream: Traffic,
}

impl WebsocketMetrics {
    /// A WebSocket has begun.
    pub fn opened(&self) {
        self.sessions.inc();
    }

    /// A handshake was answered 503.
    pub fn refused(&self, why: Refusal) {
        let [sessions, rate] = &self.refused;
        match why {
            Refusal::Sessions => sessions.inc(),
            Refusal::Rate => rate.inc(),
        }
    }

    /// So many messages and payload bytes have passed.
    pub fn relayed(&self, direction: Direction, messages: u64, bytes: u64) {
        let handles = match direction {
            Direction::ToClient => &self.to_client,
            Direction::ToUpstream => &self.to_upstream,
        };
        handles.messages.inc_by(messages);
        handles.bytes.inc_by(bytes);
    }

    /// A WebSocket has ended.
    pub fn closed(&self, summary: &SessionSummary, elapsed: Duration) {
        self.sessions.dec();
        self.seconds.observe(elapsed.as_secs_f64());
        // Codes 3000 to 4999 belong to applications: one cell each would be without bound.
        let code = match summary.code {
            3000..=3999 => "3xxx".to_owned(),
            4000..=4999 => "4xxx".to_owned(),
            code => code.to_string(),
        };
        self.closes.with_label_values(&[&*self.name, &code, summary.initiator]).inc();
        if summary.to_client.cut {
            self.to_client.cut.inc();
        }
        if summary.to_upstream.cut {
            self.to_upstream.cut.inc();
        }
    }
}

#[cfg(test)]
mod tests;

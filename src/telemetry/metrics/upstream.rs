//! The handles of an upstream and of its endpoints.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{Metrics, WebsocketMetrics};
use crate::failure::{Failure, Kind, Outcome, Phase, Protocol, app};

impl Metrics {
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
            pending: self.upstream_pending.with_label_values(&[name]),
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
}

/// What became of a request that was sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryResult {
    /// An idle connection was closed; the request went out on a new one.
    Stale,
    /// The upstream had not processed it (REFUSED_STREAM, GOAWAY); it waited for its turn.
    Refused,
    /// Another attempt answered.
    Recovered,
    /// It failed as well.
    Failed,
    /// The retry budget was spent: it was not sent again.
    OverBudget,
}

impl RetryResult {
    pub(super) const ALL: [RetryResult; 5] = [
        RetryResult::Stale,
        RetryResult::Refused,
        RetryResult::Recovered,
        RetryResult::Failed,
        RetryResult::OverBudget,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            RetryResult::Stale => "stale",
            RetryResult::Refused => "refused",
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
    pending: IntGauge,
    retries: [IntCounter; 5],
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

    /// Questions to DNS that were answered, and those that failed.
    #[must_use]
    pub fn dns_lookups(&self) -> &[IntCounter; 2] {
        &self.0.dns_lookups
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

    /// The gauge of requests that wait for room.
    #[must_use]
    pub fn pending(&self) -> &IntGauge {
        &self.0.pending
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
        // A loop is a client's failure, and counted there.
        for kind in Kind::ALL.iter().filter(|kind| **kind != Kind::ProxyLoopDetected) {
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

//! Floor 3: everything between a request that is ready to be sent and the bytes that come back.
//!
//! [`Shared`] is what all workers know about an upstream; [`Upstream`] is one worker's view of it,
//! with its own connections. A request gets a [`Link`] to an endpoint, a connection of its own or a
//! place on a shared one, runs an [`exchange::Exchange`] on it and gives it back. Every error that
//! leaves this floor is a [`Failure`].

pub mod admission;
pub mod balance;
pub mod budget;
pub mod connect;
pub mod deadline;
pub mod ejection;
pub mod exchange;
pub mod health;
pub mod http1;
pub mod http2;
pub mod pending;
pub mod pool;
pub mod stream;
pub mod tls;
pub mod upload;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use admission::{Admission, Place, Refused};
use balance::{Picker, Plan};
use budget::Budget;
use connect::Target;
use ejection::Roster;
use http2::session::{Lease, Session, Sessions};
use pending::Pending;
use pool::{Connection, OpenCount, Pool, Ticket};
use stream::Stream;
use tls::{Purpose, Tls, TlsSettingsError};

use crate::config::model;
use crate::failure::{Failure, Kind, Phase};
use crate::telemetry::metrics::UpstreamMetrics;

/// What all workers share about an upstream.
#[derive(Debug)]
pub struct Shared {
    /// As configured.
    pub settings: Arc<model::Upstream>,
    /// Resolved metric handles.
    pub metrics: UpstreamMetrics,
    targets: Vec<Target>,
    plan: Plan,
    roster: Roster,
    open: Arc<OpenCount>,
    admission: Arc<Admission>,
}

impl Shared {
    /// Prepares an upstream for use. After a reload that has changed it, `previous` is what it was
    /// before: connections and WebSockets that are still open there count here as well.
    ///
    /// # Errors
    /// If its TLS settings cannot be used.
    pub fn new(
        settings: Arc<model::Upstream>,
        metrics: UpstreamMetrics,
        previous: Option<&Shared>,
    ) -> Result<Self, TlsSettingsError> {
        let targets = targets(&settings)?;
        let limits = &settings.limits;
        let limited = |limits: &model::UpstreamLimits| (limits.websockets, limits.handshakes);
        let admission = previous
            .filter(|previous| limited(&previous.settings.limits) == limited(limits))
            .map(|previous| Arc::clone(&previous.admission))
            .unwrap_or_else(|| Arc::new(Admission::new(limits.websockets, limits.handshakes)));
        let plan = Plan::new(&settings.balance, &settings.endpoints);
        let roster = Roster::new(&settings);
        let open = previous.map(|previous| Arc::clone(&previous.open)).unwrap_or_default();
        let shared = Shared { settings, metrics, targets, plan, roster, open, admission };
        (0..shared.targets.len()).for_each(|endpoint| shared.tell_whether_up(endpoint));
        Ok(shared)
    }

    /// Whether an upstream can be prepared for use, without a trace of it.
    ///
    /// # Errors
    /// If its TLS settings cannot be used.
    pub fn check(settings: &model::Upstream) -> Result<(), TlsSettingsError> {
        targets(settings).map(drop)
    }

    /// Brings the gauge of the endpoint up to date.
    fn tell_whether_up(&self, endpoint: usize) {
        self.metrics.set_up(endpoint, self.roster.is_up(endpoint));
    }

    fn ejected(&self, endpoint: usize, time: Duration) {
        self.metrics.ejected(endpoint);
        self.tell_whether_up(endpoint);
        let (upstream, endpoint) = (&*self.settings.name, self.label(endpoint));
        tracing::warn!(upstream, endpoint, ?time, "an endpoint is ejected");
    }

    /// The endpoint's health checks have come to a result.
    fn checked(&self, endpoint: usize, up: bool, why: Option<health::Unwell>) {
        self.roster.set_down(endpoint, !up);
        self.tell_whether_up(endpoint);
        let (upstream, label) = (&*self.settings.name, self.label(endpoint));
        match why {
            None => tracing::info!(upstream, endpoint = label, "an endpoint passes its checks"),
            Some(why) => {
                tracing::warn!(upstream, endpoint = label, %why, "an endpoint fails its checks");
            }
        }
    }

    /// Forgets what is long over, and brings the gauges up to date.
    pub fn sweep(&self) {
        self.roster.tidy();
        (0..self.targets.len()).for_each(|endpoint| self.tell_whether_up(endpoint));
    }

    fn label(&self, endpoint: usize) -> &str {
        self.targets.get(endpoint).map_or("", |target| &*target.endpoint.label)
    }
}

fn targets(settings: &model::Upstream) -> Result<Vec<Target>, TlsSettingsError> {
    let tls = Tls::of(settings)?;
    let targets = settings.endpoints.iter().map(|endpoint| {
        let session = match (&tls, endpoint.scheme) {
            (Some(tls), model::Scheme::Https) => {
                Some((tls.clone(), tls::server_name(settings, endpoint)?))
            }
            _ => None,
        };
        Ok(Target::new(endpoint.clone(), session))
    });
    targets.collect()
}

/// One worker's view of an upstream.
#[derive(Debug)]
pub struct Upstream {
    shared: Arc<Shared>,
    endpoints: Vec<Endpoint>,
    picker: Picker,
    budget: Budget,
    pending: Pending,
}

/// One worker's connections to an endpoint.
#[derive(Debug)]
struct Endpoint {
    pool: Pool,
    sessions: Sessions,
    /// What it spoke last: with `protocol: auto` that is known only after a handshake.
    speaks: Cell<Speaks>,
    in_flight: Rc<Cell<usize>>,
}

/// A request or a WebSocket in flight at an endpoint, until it is dropped.
#[derive(Debug)]
pub struct InFlight(Rc<Cell<usize>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// What became of a request, as far as it speaks for or against the endpoint.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'f> {
    /// It was served.
    Served,
    /// The app said that it failed.
    AppFailed,
    /// It broke. Only failures of connection and protocol speak against the endpoint.
    Broken(&'f Failure),
}

/// What a request finds that needs a connection of its own.
enum Room {
    /// An idle connection.
    Taken(Connection),
    /// A place for a new one.
    Free(Ticket),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Unknown,
    Http1,
    Http2,
}

/// Which endpoint of an upstream: its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointIndex(usize);

/// What a request travels on.
#[derive(Debug)]
pub enum Link {
    /// An HTTP/1.1 connection of its own.
    Http1(Connection),
    /// A place on a shared HTTP/2 connection.
    Http2(Lease),
}

/// What a request needs of its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// An open one if there is one.
    Any,
    /// A new one: the last one was stale.
    Fresh,
    /// A new HTTP/1.1 connection, to be upgraded.
    Upgrade,
}

/// Checks the health of every endpoint, on this worker, until the guard is dropped.
#[must_use]
pub fn watch_health(upstreams: &[Arc<Shared>]) -> Watching {
    let checked = upstreams.iter().filter(|shared| shared.settings.health.is_some());
    let tasks = checked.flat_map(|shared| {
        (0..shared.targets.len())
            .map(|endpoint| tokio::task::spawn_local(health::watch(Arc::clone(shared), endpoint)))
    });
    Watching(tasks.collect())
}

/// The health checks of a worker; they end when this is dropped.
#[derive(Debug)]
pub struct Watching(Vec<tokio::task::JoinHandle<()>>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Upstream {
    /// A view for the worker with this number; workers start their rounds at different endpoints.
    #[must_use]
    pub fn new(shared: Arc<Shared>, worker: usize) -> Self {
        let limits = &shared.settings.limits;
        let keep_alive = shared.settings.timeouts.keep_alive;
        let endpoint = |target: &Target| Endpoint {
            pool: Pool::new(limits.idle_connections, keep_alive),
            sessions: Sessions::new(keep_alive),
            speaks: Cell::new(match (shared.settings.protocol, target.tls.is_some()) {
                (model::UpstreamProtocol::Http2, _) => Speaks::Http2,
                (model::UpstreamProtocol::Auto, true) => Speaks::Unknown,
                (model::UpstreamProtocol::Auto | model::UpstreamProtocol::Http1, _) => {
                    Speaks::Http1
                }
            }),
            in_flight: Rc::default(),
        };
        let endpoints = shared.targets.iter().map(endpoint).collect();
        let budget = Budget::new(shared.settings.retry.budget_percent);
        let open = Arc::clone(&shared.open);
        let pending = Pending::new(limits.pending, limits.pending_time, open);
        Upstream { shared, endpoints, picker: Picker::new(worker), budget, pending }
    }

    /// Whether this is a view of these.
    #[must_use]
    pub fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &Arc<model::Upstream> {
        &self.shared.settings
    }

    /// The metric handles.
    #[must_use]
    pub fn metrics(&self) -> &UpstreamMetrics {
        &self.shared.metrics
    }

    /// The endpoint for a request with this key, if it has one.
    ///
    /// # Errors
    /// If all endpoints fail their health checks.
    pub fn pick(&self, key: Option<u64>) -> Result<EndpointIndex, Failure> {
        let Shared { plan, roster, settings, .. } = &*self.shared;
        let view = roster.view();
        let load =
            |at: usize| self.endpoints.get(at).map_or(0, |endpoint| endpoint.in_flight.get());
        let picked = self.picker.pick(plan, key, |endpoint| view.share(endpoint), load);
        picked.map(EndpointIndex).ok_or_else(|| {
            Failure::new(Kind::DestinationUnavailable, Phase::Connect).at_upstream(&settings.name)
        })
    }

    /// The endpoint to try after this one, if there is another.
    #[must_use]
    pub fn after(&self, endpoint: EndpointIndex) -> Option<EndpointIndex> {
        self.shared.roster.view().other_than(endpoint.0).map(EndpointIndex)
    }

    /// Counts one more request at the endpoint as in flight.
    #[must_use]
    pub fn begin(&self, endpoint: EndpointIndex) -> Option<InFlight> {
        let in_flight = &self.endpoints.get(endpoint.0)?.in_flight;
        in_flight.set(in_flight.get() + 1);
        Some(InFlight(Rc::clone(in_flight)))
    }

    /// Takes note of what became of a request at the endpoint.
    pub fn report(&self, endpoint: EndpointIndex, outcome: Outcome<'_>) {
        let Shared { roster, settings, .. } = &*self.shared;
        let failed = match outcome {
            Outcome::Served => false,
            Outcome::AppFailed => settings.ejection.count_app_errors,
            Outcome::Broken(failure) if ejection::blames_endpoint(failure) => true,
            Outcome::Broken(_) => return,
        };
        if !failed {
            roster.succeeded(endpoint.0);
        } else if let Some(time) = roster.failed(endpoint.0) {
            self.shared.ejected(endpoint.0, time);
        }
    }

    /// What may be spent on retries.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// `http` or `https`: the scheme of an endpoint.
    #[must_use]
    pub fn scheme(&self, endpoint: EndpointIndex) -> &'static str {
        match self.shared.targets.get(endpoint.0) {
            Some(target) if target.tls.is_some() => "https",
            _ => "http",
        }
    }

    /// A link to the endpoint.
    ///
    /// # Errors
    /// The failure, complete with upstream and endpoint names. No byte of the request has been
    /// sent then.
    pub async fn link(&self, index: EndpointIndex, need: Need) -> Result<Link, Failure> {
        let Some(endpoint) = self.endpoints.get(index.0) else {
            // Indices come from pick(): there is an endpoint unless the upstream has none at all.
            return Err(Failure::new(Kind::DestinationUnavailable, Phase::Connect));
        };
        if need == Need::Any
            && self.pending.is_empty()
            && endpoint.speaks.get() != Speaks::Http2
            && let Some(connection) = endpoint.pool.take()
        {
            return Ok(Link::Http1(connection));
        }
        // Boxed, because a request on an idle connection shall not carry the room for a handshake.
        let link = Box::pin(async {
            match (need, endpoint.speaks.get()) {
                (Need::Upgrade, _) => self.open_http1(index, Purpose::Upgrade, None).await,
                (Need::Any, Speaks::Http1) => {
                    self.open_http1(index, Purpose::Requests, Some(&endpoint.pool)).await
                }
                (Need::Fresh, Speaks::Http1) => {
                    self.open_http1(index, Purpose::Requests, None).await
                }
                (Need::Any | Need::Fresh, Speaks::Http2 | Speaks::Unknown) => {
                    self.join(index, endpoint).await
                }
            }
        });
        link.await.map_err(|failure| self.place(index, failure))
    }

    /// A new connection, or an idle one of this pool that comes back while there is no room.
    async fn open_http1(
        &self,
        index: EndpointIndex,
        purpose: Purpose,
        pool: Option<&Pool>,
    ) -> Result<Link, Failure> {
        let room = self.pending.wait(|| match pool.and_then(Pool::take) {
            Some(connection) => Some(Room::Taken(connection)),
            None => self.make_room().map(Room::Free),
        });
        let ticket = match room.await? {
            Room::Taken(connection) => return Ok(Link::Http1(connection)),
            Room::Free(ticket) => ticket,
        };
        let stream = self.connect(index, purpose).await?;
        Ok(Link::Http1(Connection::new(stream, ticket)))
    }

    /// A place for a connection: a free one, or that of an idle connection to whatever endpoint.
    fn make_room(&self) -> Option<Ticket> {
        let Shared { settings, metrics, open, .. } = &*self.shared;
        Ticket::take(open, settings.limits.connections, metrics.connections())
            .or_else(|| self.endpoints.iter().find_map(|endpoint| endpoint.pool.evict()))
    }

    /// A place on a shared connection, if the endpoint turns out to speak HTTP/2.
    async fn join(&self, index: EndpointIndex, endpoint: &Endpoint) -> Result<Link, Failure> {
        loop {
            let mut plain = None;
            let lease = endpoint.sessions.lease(async {
                let (stream, ticket) = self.open(index, Purpose::Requests).await?;
                let agreed = stream.alpn_agreed_on(tls::HTTP_2);
                let strict = self.shared.settings.protocol == model::UpstreamProtocol::Http2;
                if agreed == Some(false) {
                    if strict {
                        let failure = Failure::new(Kind::TlsProtocolError, Phase::Tls);
                        return Err(failure.with_source("the endpoint did not agree on h2 by ALPN"));
                    }
                    endpoint.speaks.set(Speaks::Http1);
                    plain = Some(Connection::new(stream, ticket));
                    return Ok(None);
                }
                endpoint.speaks.set(Speaks::Http2);
                Session::open(stream, ticket, &self.shared.settings.limits).await.map(Some)
            });
            if let Some(lease) = lease.await? {
                return Ok(Link::Http2(lease));
            }
            if let Some(connection) = plain {
                return Ok(Link::Http1(connection));
            }
        }
    }

    /// A new connection. It does not wait for room: on a shared connection many requests have
    /// their places, and these come back without it.
    async fn open(
        &self,
        index: EndpointIndex,
        purpose: Purpose,
    ) -> Result<(Stream, Ticket), Failure> {
        let Some(ticket) = self.make_room() else {
            return Err(Failure::new(Kind::ConnectionLimitReached, Phase::Connect));
        };
        Ok((self.connect(index, purpose).await?, ticket))
    }

    async fn connect(&self, index: EndpointIndex, purpose: Purpose) -> Result<Stream, Failure> {
        let Shared { settings, metrics, roster, targets, .. } = &*self.shared;
        let Some(target) = targets.get(index.0) else {
            return Err(Failure::new(Kind::DestinationUnavailable, Phase::Connect));
        };
        let result = target.connect(&settings.timeouts, purpose).await;
        metrics.connected(index.0, result.is_ok());
        roster.connected(index.0, result.is_ok());
        self.shared.tell_whether_up(index.0);
        result
    }

    /// A place for one more WebSocket.
    ///
    /// # Errors
    /// If there is none, or if too many ask at once. Counted.
    pub fn admit(&self) -> Result<Place, Refused> {
        self.shared
            .admission
            .enter()
            .inspect_err(|refused| self.metrics().websocket().refused(refused.why))
    }

    /// Keeps a connection for the next request.
    pub fn give_back(&self, endpoint: EndpointIndex, connection: Connection) {
        if self.pending.is_for_others() {
            // Closed, so that the request on another worker can open one.
            return;
        }
        if let Some(endpoint) = self.endpoints.get(endpoint.0)
            && endpoint.pool.put(connection)
        {
            self.pending.returned();
        }
    }

    /// Completes a failure with the names of this upstream and the endpoint.
    pub fn place(&self, endpoint: EndpointIndex, failure: Failure) -> Failure {
        let failure = failure.at_upstream(&self.shared.settings.name);
        match self.shared.targets.get(endpoint.0) {
            Some(target) => failure.at_endpoint(&target.endpoint.label),
            None => failure,
        }
    }

    /// Closes idle connections that are too old or were closed by the upstream.
    pub fn sweep(&self) {
        self.shared.sweep();
        for endpoint in &self.endpoints {
            endpoint.pool.sweep();
            endpoint.sessions.sweep();
        }
    }

    /// Closes all idle connections.
    pub fn clear(&self) {
        for endpoint in &self.endpoints {
            endpoint.pool.clear();
            endpoint.sessions.clear();
        }
    }
}

//! Floor 3: everything between a request that is ready to be sent and the bytes that come back.
//!
//! [`Shared`] is what all workers know about an upstream; [`Upstream`] is one worker's view of it,
//! with its own connection pools. A request takes a [`pool::Connection`] to an endpoint, runs an
//! [`http1::exchange::Exchange`] on it and gives it back. Every error that leaves this floor is a
//! [`Failure`].

pub mod admission;
pub mod connect;
pub mod deadline;
pub mod http1;
pub mod pool;
pub mod stream;
pub mod tls;

use std::cell::Cell;
use std::sync::Arc;

use admission::{Admission, Place, Refused};
use connect::Target;
use pool::{Connection, OpenCount, Pool, Ticket};
use tls::{Tls, TlsSettingsError};

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
    open: Arc<OpenCount>,
    admission: Arc<Admission>,
}

impl Shared {
    /// Prepares an upstream for use.
    ///
    /// # Errors
    /// If its TLS settings cannot be used.
    pub fn new(
        settings: Arc<model::Upstream>,
        metrics: UpstreamMetrics,
    ) -> Result<Self, TlsSettingsError> {
        let tls = Tls::of(&settings)?;
        let targets = settings.endpoints.iter().map(|endpoint| {
            let session = match (&tls, endpoint.scheme) {
                (Some(tls), model::Scheme::Https) => {
                    Some((tls.clone(), tls::server_name(&settings, endpoint)?))
                }
                _ => None,
            };
            Ok(Target::new(endpoint.clone(), session))
        });
        let targets = targets.collect::<Result<_, TlsSettingsError>>()?;
        let limits = &settings.limits;
        let admission = Arc::new(Admission::new(limits.websockets, limits.handshakes));
        Ok(Shared { settings, metrics, targets, open: Arc::default(), admission })
    }
}

/// One worker's view of an upstream.
#[derive(Debug)]
pub struct Upstream {
    shared: Arc<Shared>,
    pools: Vec<Pool>,
    turn: Cell<usize>,
}

/// Which endpoint of an upstream: its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointIndex(usize);

/// Whether an idle connection may carry the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// An idle one if there is one.
    Allowed,
    /// A new one: the last one was stale, or the connection will be upgraded.
    Never,
}

impl Upstream {
    /// A view for the worker with this number; workers start their rounds at different endpoints.
    #[must_use]
    pub fn new(shared: Arc<Shared>, worker: usize) -> Self {
        let limits = &shared.settings.limits;
        let keep_alive = shared.settings.timeouts.keep_alive;
        let pools =
            shared.targets.iter().map(|_| Pool::new(limits.idle_connections, keep_alive)).collect();
        Upstream { shared, pools, turn: Cell::new(worker) }
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

    /// The endpoint whose turn it is.
    #[must_use]
    pub fn pick(&self) -> EndpointIndex {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        EndpointIndex(turn % self.pools.len().max(1))
    }

    /// The endpoint to try after this one, if there is another.
    #[must_use]
    pub fn after(&self, endpoint: EndpointIndex) -> Option<EndpointIndex> {
        let next = (endpoint.0 + 1) % self.pools.len().max(1);
        (next != endpoint.0).then_some(EndpointIndex(next))
    }

    /// A connection to the endpoint: idle or new.
    ///
    /// # Errors
    /// The failure, complete with upstream and endpoint names. No byte of the request has been
    /// sent then.
    pub async fn connection(
        &self,
        endpoint: EndpointIndex,
        reuse: Reuse,
    ) -> Result<Connection, Failure> {
        if reuse == Reuse::Allowed
            && let Some(connection) = self.pools.get(endpoint.0).and_then(Pool::take)
        {
            return Ok(connection);
        }
        // Boxed, because a request on an idle connection shall not carry the room for a handshake.
        Box::pin(self.open(endpoint)).await.map_err(|failure| self.place(endpoint, failure))
    }

    async fn open(&self, endpoint: EndpointIndex) -> Result<Connection, Failure> {
        let settings = &self.shared.settings;
        let metrics = &self.shared.metrics;
        let Some(target) = self.shared.targets.get(endpoint.0) else {
            // Indices come from pick(): there is a target unless the upstream has none at all.
            return Err(Failure::new(Kind::DestinationUnavailable, Phase::Connect));
        };
        let limit = settings.limits.connections;
        let Some(ticket) = Ticket::take(&self.shared.open, limit, metrics.connections()) else {
            return Err(Failure::new(Kind::ConnectionLimitReached, Phase::Connect));
        };
        let result = target.connect(&settings.timeouts).await;
        metrics.connected(endpoint.0, result.is_ok());
        Ok(Connection::new(result?, ticket))
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
        if let Some(pool) = self.pools.get(endpoint.0) {
            pool.put(connection);
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
        self.pools.iter().for_each(Pool::sweep);
    }

    /// Closes all idle connections.
    pub fn clear(&self) {
        self.pools.iter().for_each(Pool::clear);
    }
}

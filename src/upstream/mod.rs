//! Floor 3: everything between a request that is ready to be sent and the bytes that come back.
//!
//! [`Shared`] is what all workers know about an upstream; [`Upstream`] is one worker's view of it,
//! with its own connections. A request gets a [`Link`] to an endpoint, a connection of its own or a
//! place on a shared one, runs an [`exchange::Exchange`] on it and gives it back. Every error that
//! leaves this floor is a [`Failure`].

pub mod adaptive;
pub mod admission;
pub mod balance;
pub mod budget;
pub mod circuit;
pub mod connect;
pub mod deadline;
pub mod dns;
pub mod ejection;
pub mod exchange;
pub mod health;
pub mod http1;
pub mod http2;
pub mod pending;
pub mod pool;
pub mod proxy_protocol;
pub mod set;
mod shared;
pub mod stream;
pub mod tls;
pub mod upload;
mod view;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use adaptive::Slot;
use admission::{Place, Refused};
use balance::Picker;
use budget::Budget;
use circuit::Passage;
use http2::session::{Lease, Session};
use pending::Pending;
use pool::{Connection, Pool, Ticket};
use proxy_protocol::Told;
use set::Member;
pub use shared::Shared;
use shared::{FAILED, FOUND, UNKNOWN};
use stream::Stream;
use tls::Purpose;
pub use view::{Choice, InFlight};
use view::{Endpoint, Speaks, View};

use crate::config::model;
use crate::failure::{Failure, Kind, Phase};
use crate::telemetry::metrics::UpstreamMetrics;

/// One worker's view of an upstream.
#[derive(Debug)]
pub struct Upstream {
    shared: Arc<Shared>,
    view: RefCell<Rc<View>>,
    picker: Picker,
    budget: Budget,
    pending: Rc<Pending>,
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

/// What a request finds that can share a connection.
enum Way {
    /// A place on one.
    Lease(Lease),
    /// One that is on its way.
    Coming,
    /// A place for a new one.
    New(Ticket),
}

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

/// Checks the health of every endpoint and follows DNS, on this worker, until the guard is dropped.
#[must_use]
pub fn watch(upstreams: &[Arc<Shared>]) -> Watching {
    let checked = upstreams.iter().filter(|shared| shared.settings.health.is_some());
    let checks =
        checked.map(|shared| tokio::task::spawn_local(health::watch_all(Arc::clone(shared))));
    let found = upstreams.iter().filter(|shared| shared.settings.dns.is_some());
    let finds = found.map(|shared| tokio::task::spawn_local(dns::follow(Arc::clone(shared))));
    Watching(checks.chain(finds).collect())
}

/// Tasks of a worker that end when this is dropped.
#[derive(Debug, Default)]
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
        let open = Arc::clone(&shared.open);
        let pending = Rc::new(Pending::new(limits.pending, limits.pending_time, open));
        let view = RefCell::new(Rc::new(View::of(&shared, None, &pending)));
        let budget = Budget::new(shared.settings.retry.budget_percent);
        Upstream { shared, view, picker: Picker::new(worker), budget, pending }
    }

    /// The endpoints as they are now.
    fn view(&self) -> Rc<View> {
        let view = self.view.borrow();
        if view.generation == self.shared.generation.load(Ordering::Acquire) {
            return Rc::clone(&view);
        }
        drop(view);
        self.renew()
    }

    #[cold]
    fn renew(&self) -> Rc<View> {
        let mut current = self.view.borrow_mut();
        let next = Rc::new(View::of(&self.shared, Some(&**current), &self.pending));
        let last = std::mem::replace(&mut *current, Rc::clone(&next));
        drop(current);
        // Requests that have begun still know those that are gone, and need no idle connections.
        for endpoint in last.endpoints.iter().filter(|endpoint| !endpoint.member.is_kept()) {
            endpoint.clear();
        }
        next
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

    /// Lets a request through, if the upstream has a circuit and it is not open.
    ///
    /// # Errors
    /// The circuit is open.
    pub fn enter(&self) -> Result<Option<Passage>, Failure> {
        let Some(circuit) = &self.shared.circuit else { return Ok(None) };
        circuit.enter().map(Some).map_err(|open| {
            Failure::new(Kind::DestinationUnavailable, Phase::Connect)
                .at_upstream(&self.shared.settings.name)
                .with_retry_after(open.retry_after_secs.to_string().into())
                .with_source(open)
        })
    }

    /// A place among the requests that wait for their response heads, if those are limited.
    ///
    /// # Errors
    /// As many wait as the upstream can take.
    pub fn slot(&self) -> Result<Option<Slot>, Failure> {
        let Some(adaptive) = &self.shared.adaptive else { return Ok(None) };
        adaptive.enter().map(Some).map_err(|full| {
            Failure::new(Kind::ConnectionLimitReached, Phase::Connect)
                .at_upstream(&self.shared.settings.name)
                .with_source(full)
        })
    }

    /// Whether DNS has not been heard of yet, so that there is nothing to pick from.
    #[must_use]
    pub fn is_unresolved(&self) -> bool {
        self.shared.settings.dns.is_some()
            && self.shared.discovery.outcome.load(Ordering::Acquire) == UNKNOWN
    }

    /// Waits for the first word of DNS, not longer than it may take.
    pub async fn first_resolved(&self) {
        let limit = self.shared.settings.timeouts.resolve;
        let known = &self.shared.discovery.known;
        let _ = tokio::time::timeout(limit, async {
            loop {
                let mut heard = std::pin::pin!(known.notified());
                heard.as_mut().enable();
                if !self.is_unresolved() {
                    return;
                }
                heard.await;
            }
        })
        .await;
    }

    /// The endpoint for a request with this key, if it has one.
    ///
    /// # Errors
    /// If all endpoints fail their health checks or are drained, or DNS has named none.
    pub fn pick(&self, key: Option<u64>) -> Result<Choice, Failure> {
        let view = self.view();
        let standing = view.set.roster.view();
        let load =
            |at: usize| view.endpoints.get(at).map_or(0, |endpoint| endpoint.in_flight.get());
        let plan = &view.set.plan;
        let picked = self.picker.pick(plan, key, |endpoint| standing.share(endpoint), load);
        picked.and_then(|at| Choice::of(&view, at)).ok_or_else(|| self.nowhere())
    }

    #[cold]
    fn nowhere(&self) -> Failure {
        let Shared { settings, discovery, .. } = &*self.shared;
        let outcome = discovery.outcome.load(Ordering::Acquire);
        let failure = match outcome {
            _ if settings.dns.is_none() || outcome == FOUND => {
                Failure::new(Kind::DestinationUnavailable, Phase::Connect)
            }
            FAILED => Failure::new(Kind::DnsError, Phase::Resolve),
            _ => Failure::new(Kind::DnsTimeout, Phase::Resolve),
        };
        failure.at_upstream(&settings.name)
    }

    /// The endpoint to try after this one, if there is another.
    #[must_use]
    pub fn after(&self, choice: &Choice) -> Option<Choice> {
        let other = choice.view.set.roster.view().other_than(choice.at)?;
        Choice::of(&choice.view, other)
    }

    /// Counts one more request at the endpoint as in flight.
    #[must_use]
    pub fn begin(&self, choice: &Choice) -> InFlight {
        let in_flight = &choice.endpoint.in_flight;
        in_flight.set(in_flight.get() + 1);
        InFlight(Rc::clone(in_flight))
    }

    /// Takes note of what became of a request at the endpoint.
    pub fn report(&self, choice: &Choice, outcome: Outcome<'_>) {
        let settings = &self.shared.settings;
        let set = &choice.view.set;
        let failed = match outcome {
            Outcome::Served => false,
            Outcome::AppFailed => settings.ejection.count_app_errors,
            Outcome::Broken(failure) if ejection::blames_endpoint(failure) => true,
            Outcome::Broken(_) => return,
        };
        if !failed {
            set.roster.succeeded(choice.at);
        } else if let Some(time) = set.roster.failed(choice.at) {
            set.ejected(&settings.name, choice.at, time);
        }
    }

    /// What may be spent on retries.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// `http` or `https`: the scheme of an endpoint.
    #[must_use]
    pub fn scheme(&self, choice: &Choice) -> &'static str {
        if choice.endpoint.member.target.tls.is_some() { "https" } else { "http" }
    }

    /// A link to the endpoint, for the client that `told` names to upstreams that want to know.
    ///
    /// # Errors
    /// The failure, complete with upstream and endpoint names. No byte of the request has been
    /// sent then.
    pub async fn link(
        &self,
        choice: &Choice,
        need: Need,
        told: Option<&Told>,
    ) -> Result<Link, Failure> {
        let need = match need {
            // A connection that has told one client's address serves no other one.
            Need::Any if self.shared.settings.proxy_protocol.is_some() => Need::Fresh,
            need => need,
        };
        let endpoint = &*choice.endpoint;
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
                (Need::Upgrade, _) => self.open_http1(choice, Purpose::Upgrade, told, None).await,
                (Need::Any, Speaks::Http1) => {
                    self.open_http1(choice, Purpose::Requests, told, Some(&endpoint.pool)).await
                }
                (Need::Fresh, Speaks::Http1) => {
                    self.open_http1(choice, Purpose::Requests, told, None).await
                }
                (Need::Any | Need::Fresh, Speaks::Http2 | Speaks::Unknown) => {
                    self.join(choice).await
                }
            }
        });
        link.await.map_err(|failure| self.place(choice, failure))
    }

    /// A new connection, or an idle one of this pool that comes back while there is no room.
    async fn open_http1(
        &self,
        choice: &Choice,
        purpose: Purpose,
        told: Option<&Told>,
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
        let stream = self.connect(choice, purpose, told).await?;
        Ok(Link::Http1(Connection::new(stream, ticket)))
    }

    /// A place for a connection: a free one, or that of an idle connection to whatever endpoint.
    fn make_room(&self) -> Option<Ticket> {
        let Shared { settings, metrics, .. } = &*self.shared;
        let (share, most) = (self.pending.share(), settings.limits.connections);
        Ticket::take(share, most, metrics.connections()).or_else(|| {
            let view = self.view();
            view.endpoints.iter().find_map(|at| at.pool.evict().or_else(|| at.sessions.evict()))
        })
    }

    /// A place on a shared connection, if the endpoint turns out to speak HTTP/2.
    async fn join(&self, choice: &Choice) -> Result<Link, Failure> {
        let sessions = &choice.endpoint.sessions;
        // What nobody but this endpoint's requests can use.
        let own = || match sessions.take() {
            Some(lease) => Some(Way::Lease(lease)),
            None => sessions.is_opening().then_some(Way::Coming),
        };
        let mut deadline = None;
        loop {
            let way = match sessions.line().is_empty().then(own).flatten() {
                Some(way) => way,
                None => {
                    let take = || own().or_else(|| self.make_room().map(Way::New));
                    self.pending.wait_in(sessions.line(), &mut deadline, take).await?
                }
            };
            if !(matches!(way, Way::New(_)) || self.pending.is_empty()) {
                self.pass_on();
            }
            match way {
                Way::Lease(lease) => {
                    sessions.pass_on();
                    return Ok(Link::Http2(lease));
                }
                Way::Coming => sessions.opened().await?,
                Way::New(ticket) => {
                    if let Some(link) = self.open_http2(choice, ticket).await? {
                        return Ok(link);
                    }
                }
            }
        }
    }

    /// Wakes whoever can use what a request was woken for and did not need.
    fn pass_on(&self) {
        let Shared { settings, open, .. } = &*self.shared;
        let is_idle =
            |endpoint: &Rc<Endpoint>| !endpoint.pool.is_empty() || endpoint.sessions.has_idle();
        if open.is_below(settings.limits.connections) {
            open.one_closed();
        } else if self.view().endpoints.iter().any(is_idle) {
            self.pending.returned();
        }
    }

    /// A place on a new connection, or all of it if it turns out to speak HTTP/1.1.
    async fn open_http2(&self, choice: &Choice, ticket: Ticket) -> Result<Option<Link>, Failure> {
        let endpoint = &choice.endpoint;
        let mut plain = None;
        let lease = endpoint.sessions.open(async {
            // Many clients share it: it can be for none of them (the configuration sees to that).
            let stream = self.connect(choice, Purpose::Requests, None).await?;
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
        let lease = lease.await?;
        Ok(lease.map(Link::Http2).or(plain.map(Link::Http1)))
    }

    async fn connect(
        &self,
        choice: &Choice,
        purpose: Purpose,
        told: Option<&Told>,
    ) -> Result<Stream, Failure> {
        let Member { target, metrics, .. } = &*choice.endpoint.member;
        let result = target.connect(&self.shared.settings, purpose, told).await;
        metrics.connected(result.is_ok());
        let set = &choice.view.set;
        set.roster.connected(choice.at, result.is_ok());
        set.tell_whether_up(choice.at);
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
    pub fn give_back(&self, choice: &Choice, connection: Connection) {
        // Closed, so that the request on another worker can open one, or because nobody will ask, or
        // because it was for one client.
        if self.shared.settings.proxy_protocol.is_some()
            || self.pending.is_for_others()
            || !choice.endpoint.member.is_kept()
        {
            return;
        }
        if choice.endpoint.pool.put(connection) {
            self.pending.returned();
        }
    }

    /// Completes a failure with the names of this upstream and the endpoint.
    pub fn place(&self, choice: &Choice, failure: Failure) -> Failure {
        let failure = failure.at_upstream(&self.shared.settings.name);
        failure.at_endpoint(choice.endpoint.member.label())
    }

    /// Closes idle connections that are too old, were closed by the upstream, or lead where no request
    /// goes any more.
    pub fn sweep(&self) {
        self.shared.sweep();
        self.view().endpoints.iter().for_each(|endpoint| endpoint.sweep());
    }

    /// Closes all idle connections.
    pub fn clear(&self) {
        self.view().endpoints.iter().for_each(|endpoint| endpoint.clear());
    }
}

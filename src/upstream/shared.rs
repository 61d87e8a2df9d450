//! What all workers share about an upstream: its endpoints as they are now, and what is counted over
//! all of them.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::adaptive::Adaptive;
use super::admission::Admission;
use super::circuit::Circuit;
use super::connect::Target;
use super::ejection::Standing;
use super::health;
use super::pool::OpenCount;
use super::room::Room;
use super::set::{Member, Set};
use super::tls::{self, Tls, TlsSettingsError};
use crate::config::model;
use crate::failure::Kind;
use crate::telemetry::metrics::UpstreamMetrics;

/// What all workers share about an upstream.
#[derive(Debug)]
pub struct Shared {
    /// As configured.
    pub settings: Arc<model::Upstream>,
    /// Resolved metric handles.
    pub metrics: UpstreamMetrics,
    pub(super) tls: Option<Tls>,
    /// The number of the current set.
    pub(super) generation: AtomicU64,
    pub(super) current: Mutex<Arc<Set>>,
    /// Another set is current.
    pub(super) changed: Notify,
    pub(super) start: Instant,
    pub(super) discovery: Discovery,
    pub(super) open: Arc<OpenCount>,
    pub(super) admission: Arc<Admission>,
    pub(super) circuit: Option<Arc<Circuit>>,
    pub(super) adaptive: Option<Arc<Adaptive>>,
    pub(super) room: Option<Arc<Room>>,
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
        let tls = Tls::of(&settings)?;
        let limits = &settings.limits;
        let limited = |limits: &model::UpstreamLimits| (limits.websockets, limits.handshakes);
        let admission = previous
            .filter(|previous| limited(&previous.settings.limits) == limited(limits))
            .map(|previous| Arc::clone(&previous.admission))
            .unwrap_or_else(|| Arc::new(Admission::new(limits.websockets, limits.handshakes)));
        let circuit = settings.circuit.clone().map(|circuit| {
            Arc::new(Circuit::new(circuit, Arc::clone(&settings.name), metrics.circuit().clone()))
        });
        let adaptive = settings
            .concurrency
            .clone()
            .map(|concurrency| Arc::new(Adaptive::new(concurrency, metrics.concurrency().clone())));
        let room = previous
            .and_then(|previous| previous.room.clone())
            .filter(|room| room.is_of(limits))
            .or_else(|| Room::of(limits, metrics.pending()).map(Arc::new));
        let start = Instant::now();
        let shared = Shared {
            current: Mutex::new(Arc::new(Set::new(&settings, Vec::new(), Vec::new(), start))),
            generation: AtomicU64::new(0),
            changed: Notify::new(),
            open: previous.map(|previous| Arc::clone(&previous.open)).unwrap_or_default(),
            settings,
            metrics,
            tls,
            start,
            discovery: Discovery::default(),
            admission,
            circuit,
            adaptive,
            room,
        };
        shared.replace(shared.settings.endpoints.clone())?;
        Ok(shared)
    }

    /// Whether an upstream can be prepared for use, without a trace of it.
    ///
    /// # Errors
    /// If its TLS settings cannot be used.
    pub fn check(settings: &model::Upstream) -> Result<(), TlsSettingsError> {
        let tls = Tls::of(settings)?;
        let secured = settings.endpoints.iter().filter(|one| one.scheme == model::Scheme::Https);
        for endpoint in secured.filter(|_| tls.is_some()) {
            tls::server_name(settings, endpoint)?;
        }
        Ok(())
    }

    /// It is not configured any more, or differently: the series of its endpoints end, but for those
    /// that are among the next one's as well.
    pub fn retire(&self, next: Option<&Shared>) {
        let next = next.map(Shared::current);
        for member in &self.current().members {
            if next.as_ref().is_none_or(|next| next.find(member.label()).is_none()) {
                member.metrics.forget();
            }
        }
    }

    /// The endpoints as they are now.
    #[must_use]
    pub fn current(&self) -> Arc<Set> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on these are the endpoints. Those that were among them before stay what they are,
    /// those that are not any more are drained. Whether that changed anything.
    ///
    /// # Errors
    /// If an endpoint has a name that no certificate can have; nothing changes then.
    pub fn replace(&self, endpoints: Vec<model::Endpoint>) -> Result<bool, TlsSettingsError> {
        let old = self.current();
        if old.is_of(&endpoints) {
            return Ok(false);
        }
        let members = endpoints.iter().map(|endpoint| match old.find(&endpoint.label) {
            Some(known) => Ok(Arc::clone(known)),
            None => self.member(endpoint.clone()).map(Arc::new),
        });
        let members = members.collect::<Result<Vec<_>, _>>()?;
        let set = Arc::new(Set::new(&self.settings, endpoints, members, self.start));
        for member in &old.members {
            if set.find(member.label()).is_none() {
                member.go();
            }
        }
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = set;
        self.generation.fetch_add(1, Ordering::Release);
        self.changed.notify_waiters();
        Ok(true)
    }

    fn member(&self, endpoint: model::Endpoint) -> Result<Member, TlsSettingsError> {
        let session = match (&self.tls, endpoint.scheme) {
            (Some(tls), model::Scheme::Https) => {
                Some((tls.clone(), tls::server_name(&self.settings, &endpoint)?))
            }
            _ => None,
        };
        let metrics = self.metrics.endpoint(&endpoint.label);
        let used = self.room.as_ref().map(|room| room.endpoint(&endpoint.label));
        let (target, standing) = (Target::new(endpoint, session), Standing::new(&self.settings));
        Ok(Member::new(target, standing, metrics, used.unwrap_or_default()))
    }

    /// Drains the endpoint with this name, or takes it back; its state then, if there is such a one.
    pub fn set_drained(&self, label: &str, drained: bool) -> Option<&'static str> {
        let set = self.current();
        let at = set.members.iter().position(|member| &**member.label() == label)?;
        let member = set.members.get(at)?;
        if member.standing.is_drained() != drained {
            let (upstream, endpoint) = (&*self.settings.name, label);
            if drained {
                tracing::info!(upstream, endpoint, "an operator drains an endpoint");
            } else {
                tracing::info!(upstream, endpoint, "an operator takes an endpoint back");
            }
        }
        member.set_drained(drained);
        set.tell_whether_up(at);
        Some(set.roster.state(at))
    }

    /// DNS has answered.
    pub(super) fn resolved(&self) {
        self.discovery.outcome.store(FOUND, Ordering::Release);
        self.discovery.known.notify_waiters();
    }

    /// DNS has not answered: `dns_error` or `dns_timeout`.
    pub(super) fn unresolved(&self, kind: Kind) {
        let outcome = if kind == Kind::DnsTimeout { TIMED_OUT } else { FAILED };
        // What was found once is kept.
        let unless_found = |known| (known != FOUND).then_some(outcome);
        let order = (Ordering::AcqRel, Ordering::Acquire);
        let _ = self.discovery.outcome.fetch_update(order.0, order.1, unless_found);
        self.discovery.known.notify_waiters();
    }

    /// The endpoint's health checks have come to a result.
    pub(super) fn checked(&self, member: &Arc<Member>, up: bool, why: Option<health::Unwell>) {
        let set = self.current();
        let Some(at) = set.members.iter().position(|known| Arc::ptr_eq(known, member)) else {
            return;
        };
        set.roster.set_down(at, !up);
        set.tell_whether_up(at);
        let (upstream, endpoint) = (&*self.settings.name, &**member.label());
        match why {
            None => tracing::info!(upstream, endpoint, "an endpoint passes its checks"),
            Some(why) => {
                tracing::warn!(upstream, endpoint, %why, "an endpoint fails its checks");
            }
        }
    }

    /// Forgets what is long over, and brings the gauges up to date.
    pub fn sweep(&self) {
        let set = self.current();
        set.roster.tidy();
        set.tell();
        self.circuit.iter().for_each(|circuit| circuit.tidy());
    }
}

/// Whether DNS has answered once.
#[derive(Debug, Default)]
pub(super) struct Discovery {
    pub(super) outcome: AtomicU8,
    pub(super) known: Notify,
}

pub(super) const UNKNOWN: u8 = 0;
pub(super) const FOUND: u8 = 1;
pub(super) const FAILED: u8 = 2;
pub(super) const TIMED_OUT: u8 = 3;

//! What all workers share about an upstream: its endpoints as they are now, and what is counted over
//! all of them.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
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
use super::tenure::Tenures;
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
    tenures: Arc<Tenures>,
    /// Another configuration of it is current.
    retired: AtomicBool,
    pub(super) open: Arc<OpenCount>,
    pub(super) admission: Arc<Admission>,
    pub(super) circuit: Option<Arc<Circuit>>,
    pub(super) adaptive: Option<Arc<Adaptive>>,
    pub(super) room: Option<Arc<Room>>,
}

impl Shared {
    /// Prepares an upstream for use. After a reload that has changed it, `previous` is what it was
    /// before. Of that stays what the change does not concern:
    ///
    /// | stays | if this is unchanged |
    /// | --- | --- |
    /// | what an operator has drained | the endpoint is still listed, or DNS finds endpoints |
    /// | an endpoint's ejection and failures | `ejection`, and the way to it: `protocol`, `tls`, `proxy_protocol` |
    /// | that an endpoint fails its checks | there still are checks |
    /// | the circuit | `circuit`, endpoints and the way to them |
    /// | the limit that was found | `concurrency` |
    /// | what DNS has found | what is asked of it |
    /// | connections, requests and WebSockets that count | the limits on them |
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
        let known = previous.filter(|previous| {
            previous.settings.circuit == settings.circuit
                && previous.settings.same_endpoints(&settings)
        });
        let circuit = known.and_then(|previous| previous.circuit.clone()).or_else(|| {
            let (name, metrics) = (Arc::clone(&settings.name), metrics.circuit().clone());
            settings.circuit.clone().map(|circuit| Arc::new(Circuit::new(circuit, name, metrics)))
        });
        let known =
            previous.filter(|previous| previous.settings.concurrency == settings.concurrency);
        let adaptive = known.and_then(|previous| previous.adaptive.clone()).or_else(|| {
            let metrics = metrics.concurrency().clone();
            settings.concurrency.clone().map(|limits| Arc::new(Adaptive::new(limits, metrics)))
        });
        let room = previous
            .and_then(|previous| previous.room.clone())
            .filter(|room| room.is_of(limits))
            .or_else(|| Room::of(limits, metrics.pending()).map(Arc::new));
        // Times in standings count from it.
        let start = previous.map_or_else(Instant::now, |previous| previous.start);
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
            tenures: previous.map(|previous| Arc::clone(&previous.tenures)).unwrap_or_default(),
            retired: AtomicBool::new(false),
            admission,
            circuit,
            adaptive,
            room,
        };
        let found = previous.and_then(|previous| previous.found_for(&shared.settings));
        if found.is_some() {
            shared.resolved();
        }
        let endpoints = found.unwrap_or_else(|| shared.settings.endpoints.clone());
        shared.replace_after(previous, endpoints)?;
        Ok(shared)
    }

    /// Whether an upstream can be prepared for use, without a trace of it.
    ///
    /// # Errors
    /// If its TLS settings cannot be used.
    pub fn check(settings: &model::Upstream) -> Result<(), TlsSettingsError> {
        let tls = Tls::of(settings)?;
        let listed = settings.endpoints.iter().map(|endpoint| (endpoint.scheme, &endpoint.name));
        let found = settings.dns.iter().map(|dns| (dns.scheme, &dns.identity));
        for (scheme, name) in listed.chain(found) {
            if tls.is_some() && scheme == model::Scheme::Https {
                tls::server_name(settings, name)?;
            }
        }
        Ok(())
    }

    /// It is not configured any more, or differently: the series of its endpoints end, but for those
    /// that are among the next one's as well.
    pub fn retire(&self, next: Option<&Shared>) {
        self.retired.store(true, Ordering::Relaxed);
        if let Some(next) = next {
            let is_listed = |label| next.settings.endpoints.iter().any(|one| one.label == label);
            let listed = self.settings.endpoints.iter().map(|endpoint| Arc::clone(&endpoint.label));
            // Whoever removes it from the configuration has the last word on it.
            listed.filter(|label| !is_listed(Arc::clone(label))).for_each(|label| {
                self.tenures.forget(&label);
            });
        }
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
        self.replace_after(None, endpoints)
    }

    /// The same; what was known of the endpoints before a reload is in `previous`.
    fn replace_after(
        &self,
        previous: Option<&Shared>,
        endpoints: Vec<model::Endpoint>,
    ) -> Result<bool, TlsSettingsError> {
        let old = self.current();
        if old.is_of(&endpoints) {
            return Ok(false);
        }
        let members = endpoints.iter().map(|endpoint| match old.find(&endpoint.label) {
            Some(known) => Ok(Arc::clone(known)),
            None => self.member(endpoint.clone(), previous).map(Arc::new),
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
        self.tenures.tidy();
        Ok(true)
    }

    /// Returns what DNS has found here, if it is what these settings ask for.
    fn found_for(&self, settings: &model::Upstream) -> Option<Vec<model::Endpoint>> {
        let (before, after) = (self.settings.dns.as_ref()?, settings.dns.as_ref()?);
        let known = self.discovery.outcome.load(Ordering::Acquire) == FOUND;
        (known && before.finds_the_same(after)).then(|| self.current().endpoints().to_vec())
    }

    fn member(
        &self,
        endpoint: model::Endpoint,
        previous: Option<&Shared>,
    ) -> Result<Member, TlsSettingsError> {
        let session = match (&self.tls, endpoint.scheme) {
            (Some(tls), model::Scheme::Https) => {
                Some((tls.clone(), tls::server_name(&self.settings, &endpoint.name)?))
            }
            _ => None,
        };
        let metrics = self.metrics.endpoint(&endpoint.label);
        let used = self.room.as_ref().map(|room| room.endpoint(&endpoint.label));
        let known = previous.and_then(|previous| {
            let member = Arc::clone(previous.current().find(&endpoint.label)?);
            Some(member.standing.after_reload(&previous.settings, &self.settings))
        });
        let standing = known.unwrap_or_else(|| {
            let tenure = self.tenures.of(&endpoint.label);
            // It may have been here before.
            tenure.stay();
            Arc::new(Standing::new(&self.settings, tenure))
        });
        let target = Target::new(endpoint, session, &self.settings, self.metrics.dns_lookups());
        Ok(Member::new(target, standing, metrics, used.unwrap_or_default()))
    }

    /// Drains the endpoint with this name, or takes it back. Returns its state then, if there is such
    /// a one: among those that get requests, or drained and not found by DNS at the moment.
    pub fn set_drained(&self, label: &str, drained: bool) -> Option<&'static str> {
        let set = self.current();
        let at = set.members.iter().position(|member| &**member.label() == label);
        let tenure = match at.and_then(|at| set.members.get(at)) {
            Some(member) => Arc::clone(member.standing.tenure()),
            None => self.tenures.find(label).filter(|tenure| tenure.is_drained())?,
        };
        if tenure.is_drained() != drained {
            let (upstream, endpoint) = (&*self.settings.name, label);
            if drained {
                tracing::info!(upstream, endpoint, "an operator drains an endpoint");
            } else {
                tracing::info!(upstream, endpoint, "an operator takes an endpoint back");
            }
        }
        tenure.set_drained(drained);
        let Some(at) = at else { return Some(if drained { "drained" } else { "gone" }) };
        set.tell_whether_up(at);
        Some(set.roster.state(at))
    }

    /// Drains the endpoint with this label, as the process before this one did. Returns `true` if it
    /// can be one of this upstream: DNS may name it later.
    pub fn inherit_drain(&self, label: &Arc<str>) -> bool {
        let set = self.current();
        let can_be = self.settings.dns.is_some() || set.find(label).is_some();
        if can_be {
            self.tenures.of(label).set_drained(true);
            set.tell();
        }
        can_be
    }

    /// Returns the labels of all endpoints that an operator has drained, those included that are not
    /// there at the moment.
    #[must_use]
    pub fn drained(&self) -> Vec<Arc<str>> {
        self.tenures.drained()
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
        // Another configuration tells how the same endpoints are.
        if self.retired.load(Ordering::Relaxed) {
            return;
        }
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

#[cfg(test)]
mod tests;

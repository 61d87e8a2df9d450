//! The endpoints of an upstream, as they are at one time.
//!
//! A [`Set`] never changes: when an endpoint comes or goes, another set takes its place. Each worker
//! asks for the number of the current set when a request begins, one atomic load, and a request keeps
//! to the set that it began with. An endpoint that is in the next set as well is the same [`Member`]
//! there: what is known of it, and its connections, stay. What outlives that is its [`Tenure`].
//!
//! ```text
//! in ── drained by an operator ──► leaving: no new requests, WebSockets get 1012 ── restored ──► in
//!  └─── not in the next set ─────► gone: the same, for good
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::balance::Plan;
use super::connect::Target;
use super::ejection::{Roster, Standing};
use super::room::Used;
use super::tenure::Tenure;
use crate::config::model;
use crate::drain::Drain;
use crate::telemetry::metrics::EndpointMetrics;

/// An endpoint, for as long as anybody uses it. All workers share it.
#[derive(Debug)]
pub struct Member {
    /// How to reach it.
    pub target: Target,
    /// What is known of it.
    pub standing: Arc<Standing>,
    /// Its metric handles.
    pub metrics: EndpointMetrics,
    /// What is used of its limits, if it has any.
    pub used: Arc<Used>,
    gone: AtomicBool,
    tenure: Arc<Tenure>,
}

impl Member {
    /// An endpoint that stands like this.
    #[must_use]
    pub fn new(
        target: Target,
        standing: Arc<Standing>,
        metrics: EndpointMetrics,
        used: Arc<Used>,
    ) -> Self {
        let tenure = Arc::clone(standing.tenure());
        Member { used, target, standing, metrics, gone: AtomicBool::new(false), tenure }
    }

    /// Its name in metrics and logs.
    #[must_use]
    pub fn label(&self) -> &Arc<str> {
        &self.target.endpoint.label
    }

    /// Resolves when those who stay long have to leave: it is drained, or gone.
    #[must_use]
    pub fn leaving(&self) -> Drain {
        self.tenure.leaving()
    }

    /// Whether connections to it are worth keeping.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        !self.gone.load(Relaxed) && !self.standing.is_drained()
    }

    /// It is not in the next set.
    pub fn go(&self) {
        self.gone.store(true, Relaxed);
        self.tenure.leave();
        self.metrics.forget();
    }
}

/// Endpoints, in an order that numbers them.
#[derive(Debug)]
pub struct Set {
    /// The endpoints.
    pub members: Vec<Arc<Member>>,
    /// How requests are spread over them.
    pub plan: Plan,
    /// Who of them gets requests.
    pub roster: Roster,
    endpoints: Vec<model::Endpoint>,
}

impl Set {
    /// A set of these endpoints. `members` are in the order of `endpoints`, which know the weights.
    /// Times in standings count from `start`.
    #[must_use]
    pub fn new(
        settings: &model::Upstream,
        endpoints: Vec<model::Endpoint>,
        members: Vec<Arc<Member>>,
        start: Instant,
    ) -> Self {
        let standings = members.iter().map(|member| Arc::clone(&member.standing)).collect();
        let set = Set {
            plan: Plan::new(&settings.balance, &endpoints),
            roster: Roster::new(settings, standings, start),
            members,
            endpoints,
        };
        set.tell();
        set
    }

    /// The endpoint with this name.
    #[must_use]
    pub fn find(&self, label: &str) -> Option<&Arc<Member>> {
        self.members.iter().find(|member| &**member.label() == label)
    }

    /// The endpoints as they were told.
    #[must_use]
    pub fn endpoints(&self) -> &[model::Endpoint] {
        &self.endpoints
    }

    /// Whether these are the same endpoints with the same weights.
    #[must_use]
    pub fn is_of(&self, endpoints: &[model::Endpoint]) -> bool {
        let same = |(a, b): (&model::Endpoint, &model::Endpoint)| {
            a.label == b.label && a.weight == b.weight
        };
        self.endpoints.len() == endpoints.len() && self.endpoints.iter().zip(endpoints).all(same)
    }

    /// Brings all gauges up to date.
    pub fn tell(&self) {
        (0..self.members.len()).for_each(|at| self.tell_whether_up(at));
    }

    /// Brings the gauge of one endpoint up to date.
    pub fn tell_whether_up(&self, at: usize) {
        if let Some(member) = self.members.get(at) {
            member.metrics.set_up(self.roster.is_up(at));
        }
    }

    /// An endpoint is left out for a while.
    pub fn ejected(&self, upstream: &str, at: usize, time: Duration) {
        let Some(member) = self.members.get(at) else { return };
        member.metrics.ejected();
        self.tell_whether_up(at);
        tracing::warn!(upstream, endpoint = &**member.label(), ?time, "an endpoint is ejected");
    }
}

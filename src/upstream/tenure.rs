//! What lasts longer than the settings of an upstream and than an answer of DNS: what an operator has
//! decided about an endpoint, and the signal to the WebSockets that are there.
//!
//! An endpoint is known by the name of its upstream and its own label. A reload that changes the
//! upstream makes other members of the same endpoints, and DNS may lose an endpoint and find it
//! again: all of these are one tenure. A drain therefore lasts until an operator takes it back, or
//! until a configuration no longer lists the endpoint; and it reaches the WebSockets that began
//! under an earlier configuration.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::drain::{Drain, Drainer};

/// One endpoint's.
#[derive(Debug)]
pub struct Tenure {
    drained: AtomicBool,
    leaving: Mutex<(Drainer, Drain)>,
}

impl Default for Tenure {
    fn default() -> Self {
        Tenure { drained: AtomicBool::new(false), leaving: Mutex::new(Drainer::new()) }
    }
}

impl Tenure {
    /// Returns `true` if an operator has taken the endpoint out.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drained.load(Relaxed)
    }

    /// Takes the endpoint out, or in again.
    pub fn set_drained(&self, drained: bool) {
        self.drained.store(drained, Relaxed);
        if drained { self.leave() } else { self.stay() }
    }

    /// Resolves when those who stay long have to leave.
    #[must_use]
    pub fn leaving(&self) -> Drain {
        self.lock().1.clone()
    }

    /// Tells them.
    pub fn leave(&self) {
        self.lock().0.begin();
    }

    /// Tells those who come from now on nothing, unless the endpoint is drained.
    pub fn stay(&self) {
        let mut leaving = self.lock();
        if leaving.1.has_begun() && !self.is_drained() {
            *leaving = Drainer::new();
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Drainer, Drain)> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those of all endpoints of an upstream, whatever its settings become.
#[derive(Debug, Default)]
pub struct Tenures(Mutex<HashMap<Arc<str>, Arc<Tenure>>>);

impl Tenures {
    /// Returns the tenure of the endpoint with this label.
    #[must_use]
    pub fn of(&self, label: &Arc<str>) -> Arc<Tenure> {
        Arc::clone(self.lock().entry(Arc::clone(label)).or_default())
    }

    /// Returns the tenure of this endpoint if it is known.
    #[must_use]
    pub fn find(&self, label: &str) -> Option<Arc<Tenure>> {
        self.lock().get(label).map(Arc::clone)
    }

    /// Returns the labels of all endpoints that are drained, in order.
    #[must_use]
    pub fn drained(&self) -> Vec<Arc<str>> {
        let tenures = self.lock();
        let drained = tenures.iter().filter(|(_, tenure)| tenure.is_drained());
        let mut labels: Vec<_> = drained.map(|(label, _)| Arc::clone(label)).collect();
        labels.sort();
        labels
    }

    /// Forgets this endpoint: it is not configured any more. Those who know it keep it.
    pub fn forget(&self, label: &str) {
        self.lock().remove(label);
    }

    /// Forgets endpoints that nobody uses and no operator has drained.
    pub fn tidy(&self) {
        self.lock().retain(|_, tenure| tenure.is_drained() || Arc::strong_count(tenure) > 1);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Tenure>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drain_outlives_the_members_and_nothing_else_does() {
        let tenures = Tenures::default();
        let (one, two): (Arc<str>, Arc<str>) = ("http://a:80".into(), "http://b:80".into());
        tenures.of(&one).set_drained(true);
        let held = tenures.of(&two);
        tenures.tidy();
        assert!(tenures.find(&two).is_some_and(|tenure| Arc::ptr_eq(&tenure, &held)));
        drop(held);
        tenures.tidy();
        assert!(tenures.find(&two).is_none());
        assert!(tenures.of(&one).is_drained());
        assert_eq!(tenures.drained(), [Arc::clone(&one)]);
        tenures.forget(&one);
        assert!(!tenures.of(&one).is_drained());
    }

    #[test]
    fn endpoint_that_comes_back_tells_newcomers_nothing() {
        let tenure = Tenure::default();
        let first = tenure.leaving();
        tenure.leave();
        assert!(first.has_begun() && tenure.leaving().has_begun());
        tenure.stay();
        assert!(first.has_begun() && !tenure.leaving().has_begun());
        tenure.set_drained(true);
        tenure.stay();
        assert!(tenure.leaving().has_begun(), "drained stays drained");
        tenure.set_drained(false);
        assert!(!tenure.leaving().has_begun());
    }
}

//! Kind to decision: which status, which close code. Resolved when the configuration is loaded,
//! then one table look-up per failure.

use std::sync::Arc;

use http::HeaderName;

use super::pattern::Pattern;
use super::render::cors::Cors;
use super::render::template::Templates;
use super::{Failure, Kind};

/// What a client gets for one kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The HTTP status, 400 to 599.
    pub status: u16,
    /// The WebSocket close code (RFC 6455 §7.4).
    pub close_code: u16,
}

/// The two ready-made mappings from kind to status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// 500 for every kind: a client can retry at once.
    #[default]
    Internal,
    /// 502, 503 and 504 as gateways traditionally answer.
    Gateway,
}

/// What happens to an app's own 500.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppErrors {
    /// Every 500 of the app is replaced by ours.
    Replace,
    /// A 500 that shows a stack trace or a debug page, or that is empty, is replaced; a deliberate
    /// answer passes.
    #[default]
    Scrub,
    /// The app's 5xx answers pass as they are.
    Pass,
}

/// A configured rule that recognises a failed dependency behind the app. All conditions that are
/// given must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DependencyRule {
    /// The dependency's name: becomes a metric label.
    pub name: Arc<str>,
    /// The statuses it applies to; empty means every 5xx. Only here can a status below 500 become
    /// a failure.
    pub status: Vec<u16>,
    /// A response field and the pattern its value must match.
    pub field: Option<(HeaderName, Pattern)>,
    /// A pattern in the first 8 KiB of the content.
    pub body: Option<Pattern>,
}

/// How failures are answered: per route, resolved at load.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    profile: Profile,
    decisions: [Decision; Kind::COUNT],
    fixed: [bool; Kind::COUNT],
    app_errors: AppErrors,
    dependencies: Arc<[DependencyRule]>,
    judges_below_500: bool,
    templates: Arc<Templates>,
    cors: Option<Arc<Cors>>,
}

impl Policy {
    /// A policy with the profile's answer to every kind.
    #[must_use]
    pub fn new(
        profile: Profile,
        app_errors: AppErrors,
        dependencies: Arc<[DependencyRule]>,
    ) -> Self {
        let mut decisions = [Decision { status: 500, close_code: 1011 }; Kind::COUNT];
        if profile == Profile::Gateway {
            for kind in Kind::ALL {
                decisions[kind.index()].status = kind.gateway_status();
            }
        }
        let judges_below_500 =
            dependencies.iter().flat_map(|rule| &rule.status).any(|status| *status < 500);
        Policy {
            profile,
            decisions,
            fixed: [false; Kind::COUNT],
            app_errors,
            dependencies,
            judges_below_500,
            templates: Arc::default(),
            cors: None,
        }
    }

    /// The bodies of its answers, and which scripts may read them.
    #[must_use]
    pub fn answering(mut self, templates: Arc<Templates>, cors: Option<Arc<Cors>>) -> Self {
        self.templates = templates;
        self.cors = cors;
        self
    }

    /// The bodies of answers.
    #[must_use]
    pub fn templates(&self) -> &Templates {
        &self.templates
    }

    /// Which scripts may read answers; `None` says nothing about it.
    #[must_use]
    pub fn cors(&self) -> Option<&Cors> {
        self.cors.as_deref()
    }

    /// Maps one kind to a status by name, whatever the profile says.
    pub fn map(&mut self, kind: Kind, status: u16) {
        self.decisions[kind.index()].status = status;
        self.fixed[kind.index()] = true;
    }

    /// What the client gets for this failure.
    #[must_use]
    pub fn decide(&self, failure: &Failure) -> Decision {
        let index = failure.kind().index();
        let mut decision = self.decisions[index];
        if self.profile == Profile::Gateway && !self.fixed[index] {
            decision.status = failure.kind().gateway_status_for(failure.received_status());
        }
        decision
    }

    /// What happens to an app's own 500.
    #[must_use]
    pub fn app_errors(&self) -> AppErrors {
        self.app_errors
    }

    /// The rules that name a failed dependency.
    #[must_use]
    pub fn dependencies(&self) -> &[DependencyRule] {
        &self.dependencies
    }

    /// Does a rule list a status below 500? If none does, healthy answers are not looked at.
    #[must_use]
    pub fn judges_below_500(&self) -> bool {
        self.judges_below_500
    }
}

impl Default for Policy {
    fn default() -> Self {
        Policy::new(Profile::default(), AppErrors::default(), Arc::new([]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Phase;

    fn failure(kind: Kind) -> Failure {
        Failure::new(kind, kind.phases()[0])
    }

    #[test]
    fn the_default_answers_500_and_1011_to_every_kind() {
        let policy = Policy::default();
        for kind in Kind::ALL {
            let decision = policy.decide(&failure(*kind));
            assert_eq!(decision, Decision { status: 500, close_code: 1011 }, "{kind}");
        }
    }

    #[test]
    fn gateway_keeps_the_status_a_dependency_failure_was_told_with() {
        let policy = Policy::new(Profile::Gateway, AppErrors::Scrub, Arc::new([]));
        let told = Failure::new(Kind::DependencyFailure, Phase::Head).with_received_status(504);
        assert_eq!(policy.decide(&told).status, 504);
        assert_eq!(policy.decide(&failure(Kind::ConnectionRefused)).status, 502);
    }

    #[test]
    fn a_mapped_kind_wins_over_the_profile() {
        let mut policy = Policy::new(Profile::Gateway, AppErrors::Scrub, Arc::new([]));
        policy.map(Kind::DependencyFailure, 599);
        let told = Failure::new(Kind::DependencyFailure, Phase::Head).with_received_status(504);
        assert_eq!(policy.decide(&told).status, 599);
    }
}

//! The heart: one value per failure, classified once, settled once, rendered per protocol.
//!
//! - **P1** A [`Failure`] is turned into exactly one answer, or into an abort.
//! - **P3** `render::websocket` gives every kind its close code.
//! - **P4** What a renderer emits comes from the kind and the request id; the source error, the
//!   endpoint and the evidence are for the log and the journal only.
//! - **P5** `Failure` is neither `Clone` nor droppable in silence: `forward::settle` consumes it,
//!   counts it, logs it, journals it.
//!
//! This floor imports nothing of ours and does no I/O: everything in it is a pure function.
#![deny(clippy::wildcard_enum_match_arm)]

pub mod app;
pub mod classify;
pub mod client;
mod kind;
pub mod pattern;
mod phase;
pub mod policy;
pub mod rehearsal;
pub mod render;

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub use client::ClientFailure;
pub use kind::Kind;
pub use phase::Phase;

/// The source error of a failure: for the log only.
pub type Source = Box<dyn Error + Send + Sync + 'static>;

/// One failure of an upstream. Made where the I/O returns, consumed by settling.
#[must_use = "a failure that is not settled is neither counted nor answered"]
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    phase: Phase,
    // Boxed: the error side of every `Result` on the request path stays two words.
    detail: Box<Detail>,
}

/// What the log and the journal know beyond kind and phase.
#[derive(Debug, Default)]
struct Detail {
    upstream: Option<Arc<str>>,
    endpoint: Option<Arc<str>>,
    dependency: Option<Arc<str>>,
    received_status: Option<u16>,
    retry_after: Option<Bytes>,
    trace: Option<&'static str>,
    evidence: Option<Bytes>,
    source: Option<Source>,
    unprocessed: bool,
    blameless: bool,
}

impl Failure {
    /// A failure of this kind in this phase.
    pub fn new(kind: Kind, phase: Phase) -> Self {
        Failure { kind, phase, detail: Box::default() }
    }

    /// A wait that ran out: its kind follows from the phase.
    pub fn timeout(phase: Phase) -> Self {
        Self::new(phase.timeout_kind(), phase)
    }

    /// The error that this failure was classified from.
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.detail.source = Some(source.into());
        self
    }

    /// Which configured upstream failed.
    pub fn at_upstream(mut self, upstream: &Arc<str>) -> Self {
        self.detail.upstream = Some(Arc::clone(upstream));
        self
    }

    /// Which endpoint of the upstream failed.
    pub fn at_endpoint(mut self, endpoint: &Arc<str>) -> Self {
        self.detail.endpoint = Some(Arc::clone(endpoint));
        self
    }

    /// Which dependency behind the app failed, as a configured rule names it.
    pub fn with_dependency(mut self, dependency: Arc<str>) -> Self {
        self.detail.dependency = Some(dependency);
        self
    }

    /// The status that the app itself answered (`received-status` of RFC 9209 §2.1.4).
    pub fn with_received_status(mut self, status: u16) -> Self {
        self.detail.received_status = Some(status);
        self
    }

    /// The app's own `Retry-After`, the one field of a replaced answer that survives; or ours, where it
    /// is known when to try again.
    pub fn with_retry_after(mut self, value: Bytes) -> Self {
        self.detail.retry_after = Some(value);
        self
    }

    /// The language or framework whose stack trace was recognised in the app's answer.
    pub fn with_trace(mut self, trace: &'static str) -> Self {
        self.detail.trace = Some(trace);
        self
    }

    /// The first bytes of what was replaced, for the log and the journal.
    pub fn with_evidence(mut self, evidence: Bytes) -> Self {
        self.detail.evidence = Some(evidence);
        self
    }

    /// The upstream has certainly not processed the request.
    pub fn unprocessed(mut self) -> Self {
        self.detail.unprocessed = true;
        self
    }

    /// It speaks against no endpoint: another failure has told the event behind it, or the upstream
    /// has declined the request in order.
    pub fn blameless(mut self) -> Self {
        self.detail.blameless = true;
        self
    }

    /// Returns `true` if it speaks against no endpoint, whatever its kind.
    #[must_use]
    pub fn is_blameless(&self) -> bool {
        self.detail.blameless
    }

    /// Whether the upstream has certainly not processed the request: there was no connection, or
    /// it was refused.
    #[must_use]
    pub fn is_unprocessed(&self) -> bool {
        self.detail.unprocessed
            || matches!(self.phase, Phase::Resolve | Phase::Connect | Phase::Tls)
    }

    /// Whether somebody asked for this failure: it has not happened.
    #[must_use]
    pub fn is_rehearsed(&self) -> bool {
        let source = self.detail.source.as_deref();
        source.is_some_and(|source| classify::rehearsed(source).is_some())
    }

    /// What happened.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where on its way the request was.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The configured name of the upstream, if the failure has reached one.
    #[must_use]
    pub fn upstream(&self) -> Option<&Arc<str>> {
        self.detail.upstream.as_ref()
    }

    /// The endpoint, for the log only (P4).
    #[must_use]
    pub fn endpoint(&self) -> Option<&Arc<str>> {
        self.detail.endpoint.as_ref()
    }

    /// The dependency that a rule named.
    #[must_use]
    pub fn dependency(&self) -> Option<&Arc<str>> {
        self.detail.dependency.as_ref()
    }

    /// The status that the app answered, if it answered.
    #[must_use]
    pub fn received_status(&self) -> Option<u16> {
        self.detail.received_status
    }

    /// The app's own `Retry-After` value, or when to try again if that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<&Bytes> {
        self.detail.retry_after.as_ref()
    }

    /// The language whose stack trace was found in the app's answer.
    #[must_use]
    pub fn trace(&self) -> Option<&'static str> {
        self.detail.trace
    }

    /// The first bytes of what was replaced.
    #[must_use]
    pub fn evidence(&self) -> Option<&Bytes> {
        self.detail.evidence.as_ref()
    }

    /// The source error and its causes, outermost first: for the log only (P4).
    #[must_use]
    pub fn chain(&self) -> Vec<String> {
        let mut chain = Vec::new();
        let mut next: Option<&(dyn Error + 'static)> =
            self.detail.source.as_deref().map(|source| source as &(dyn Error + 'static));
        while let Some(error) = next {
            chain.push(error.to_string());
            next = error.source();
        }
        chain
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in phase {}", self.kind, self.phase)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.detail.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

/// What became of a failure: the `outcome` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The client got our 500 or our Close 1011.
    Normalized,
    /// Response bytes were already committed: the client's response was cut off unmistakably.
    Aborted,
    /// A retry or another endpoint answered: the client saw nothing.
    Recovered,
    /// Policy let the app's own answer through.
    Passed,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: &'static [Outcome] =
        &[Outcome::Normalized, Outcome::Aborted, Outcome::Recovered, Outcome::Passed];

    /// The name in the metric, the log and the journal.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Normalized => "normalized",
            Outcome::Aborted => "aborted",
            Outcome::Recovered => "recovered",
            Outcome::Passed => "passed",
        }
    }
}

/// What the client speaks: the `protocol` label of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Plain HTTP, any version.
    Http,
    /// A WebSocket, from its handshake on.
    Websocket,
    /// gRPC or gRPC-Web, over any version of HTTP.
    Grpc,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: &'static [Protocol] = &[Protocol::Http, Protocol::Websocket, Protocol::Grpc];

    /// The name in the metric, the log and the journal.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Websocket => "websocket",
            Protocol::Grpc => "grpc",
        }
    }
}

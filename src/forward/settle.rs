//! Settling: the one place where a failure is counted, logged, journalled and answered.
//!
//! The commit point is a type (P1). A request that has been routed is [`Held`]: it can be answered,
//! or committed to the response that is about to be sent. What is [`Committed`] can only be
//! finished or aborted. Both consume themselves, so a second answer does not compile, and both
//! notice when they are dropped instead: then the client went away.
//!
//! | from | event | to | counted as |
//! | --- | --- | --- | --- |
//! | `Held` | `answer(failure)` | our answer | `normalized` |
//! | `Held` | `refuse(failure)`, `looped` | our answer | a client's failure |
//! | `Held` | `conclude_here` | our answer | – |
//! | `Held` | `recovered(failure)` | `Held` | `recovered` |
//! | `Held` | `passed(failure)` | `Held` | `passed` |
//! | `Held` | `commit(status)` | `Committed` | – |
//! | `Held`, `Committed` | dropped | – | `client_gone` |
//! | `Committed` | `finish` | – | – |
//! | `Committed` | `abort(failure)` | cut off | `aborted` |
//! | `Committed` | `abort_with_event(failure)` | a last event, cut off | `aborted` |
//! | `Committed` | `conclude(failure)` | trailers that tell it | `normalized` |
//!
//! A response has one failure (P5): one that was `passed` and is cut off later has been counted. What
//! clients make is counted as theirs, and nowhere else: a loop, and a rehearsal.

use std::cell::Cell;
use std::rc::Rc;

use http::header::ORIGIN;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use tokio::time::Instant;

use super::head::{Head, Known};
use super::max_forwards;
use super::reply::Reply;
use super::spans::owner;
use super::{Route, Worker};
use crate::failure::policy::{Decision, Policy};
use crate::failure::rehearsal::Rehearsal;
use crate::failure::render::{self, Answer, CloseFrame};
use crate::failure::{ClientFailure, Failure, Kind, Outcome, Phase, Protocol};
use crate::telemetry::journal::Entry;
use crate::telemetry::log::{AccessLine, FailureLine};
use crate::telemetry::metrics::SessionSummary;
use crate::telemetry::request_id::RequestId;
use crate::telemetry::spans::Recording;
use crate::telemetry::spans::context::TraceId;

/// What settling has to know about a request.
#[derive(Debug)]
pub struct Subject {
    /// Who serves it.
    pub worker: Rc<Worker>,
    /// Where it is routed to.
    pub route: Rc<Route>,
    /// Its id.
    pub id: RequestId,
    /// What the client has sent.
    pub head: Rc<Head>,
    /// When its head was complete.
    pub started: Instant,
    /// What the client speaks.
    pub protocol: Protocol,
    /// The Content-Type of a gRPC call. Boxed, so that the whole is a power of two, which the allocator
    /// likes best (benches/README.md).
    pub grpc: Option<Box<HeaderValue>>,
    /// A failure that the client asked for, in the middle of its response.
    pub rehearsal: Option<Rehearsal>,
    /// Its place in its trace, if there is tracing.
    pub recording: Option<Box<Recording>>,
}

impl Subject {
    /// The trace that it belongs to, if there is tracing.
    pub fn trace_id(&self) -> Option<TraceId> {
        self.recording.as_ref().map(|recording| recording.trace())
    }
}

/// A request whose response has not been committed.
#[derive(Debug)]
#[must_use = "a request is answered or committed exactly once"]
pub struct Held {
    subject: Option<Box<Subject>>,
    /// Its failure has been told.
    told: Cell<bool>,
}

/// A request whose response head is on its way to the client.
#[derive(Debug)]
#[must_use = "a committed response is finished or aborted exactly once"]
pub struct Committed {
    subject: Option<Box<Subject>>,
    status: u16,
    /// Its failure has been told.
    told: bool,
}

/// What goes into the log and the journal beside the failure itself.
struct Sent {
    status: Option<u16>,
    close_code: Option<u16>,
}

impl Held {
    /// A request that shall be answered.
    pub fn new(subject: Subject) -> Self {
        subject.route.metrics.began();
        Held { subject: Some(Box::new(subject)), told: Cell::new(false) }
    }

    /// The request. Present until `self` is consumed.
    pub fn subject(&self) -> Option<&Subject> {
        self.subject.as_deref()
    }

    /// Answers with the failure.
    pub fn answer(mut self, failure: Failure) -> Reply {
        let Some(subject) = self.subject.take() else { return nothing() };
        let answer = answer(&subject, &failure);
        let sent = Sent { status: Some(answer.status.as_u16()), close_code: None };
        settle(&subject, failure, Outcome::Normalized, &sent);
        reply(&subject, answer)
    }

    /// Answers a failure of the client.
    pub fn refuse(mut self, failure: ClientFailure) -> Reply {
        let Some(subject) = self.subject.take() else { return nothing() };
        blame_client(&subject, failure);
        let answer = render::client(failure, subject.id.as_str(), accept(&subject));
        reply(&subject, answer)
    }

    /// Answers a request that has come past this seawall too often. The client, or what the client has
    /// asked, made the loop: no upstream has failed.
    pub fn looped(mut self) -> Reply {
        let Some(subject) = self.subject.take() else { return nothing() };
        blame_client(&subject, ClientFailure::Loop);
        let answer = answer(&subject, &Failure::new(Kind::ProxyLoopDetected, Phase::Send));
        reply(&subject, answer)
    }

    /// Answers a request that goes no further, because its Max-Forwards is 0, as its last recipient.
    pub fn conclude_here(mut self) -> Reply {
        let Some(subject) = self.subject.take() else { return nothing() };
        let answer = max_forwards::answer(&subject.head, subject.id.as_str());
        let status = answer.status.as_u16();
        let response = Reply::of(answer, subject.head.version, false);
        ended(&subject, status);
        response
    }

    /// There is no room for this request now: 503, nobody's failure but ours.
    pub fn overloaded(mut self, retry_after_secs: u64) -> Reply {
        let Some(subject) = self.subject.take() else { return nothing() };
        let accept = accept(&subject);
        let answer = render::overload(subject.id.as_str(), accept, retry_after_secs);
        reply(&subject, answer)
    }

    /// An attempt failed and a later one succeeded: the client sees nothing of it.
    pub fn recovered(&self, failure: Failure) {
        if let Some(subject) = self.subject() {
            settle(subject, failure, Outcome::Recovered, &Sent { status: None, close_code: None });
        }
    }

    /// The policy lets the app's own answer through, and it is a failure all the same.
    pub fn passed(&self, failure: Failure) {
        if let Some(subject) = self.subject() {
            let sent = Sent { status: failure.received_status(), close_code: None };
            settle(subject, failure, Outcome::Passed, &sent);
            self.told.set(true);
        }
    }

    /// From here on a failure can only cut the response off.
    pub fn commit(mut self, status: u16) -> Committed {
        Committed { subject: self.subject.take(), status, told: self.told.get() }
    }
}

impl Committed {
    /// The response is whole, `now`.
    pub fn finish(mut self, now: Instant) {
        if let Some(subject) = self.subject.take() {
            ended_at(&subject, self.status, now);
        }
    }

    /// The response is cut off.
    pub fn abort(mut self, failure: Failure) {
        if let Some(subject) = self.subject.take() {
            self.cut_off(&subject, failure, Outcome::Aborted);
        }
    }

    /// Settles what ends a response whose head is on its way, unless its failure has been told.
    fn cut_off(&self, subject: &Subject, failure: Failure, outcome: Outcome) {
        if self.told {
            let (id, chain) = (subject.id.as_str(), failure.chain());
            tracing::info!(request_id = id, %failure, ?chain, "a failure that was passed is cut off");
        } else {
            let sent = Sent { status: Some(self.status), close_code: None };
            settle(subject, failure, outcome, &sent);
        }
        ended(subject, self.status);
    }

    /// The event stream is cut off behind a last event that tells the failure.
    pub fn abort_with_event(mut self, failure: Failure) -> Option<bytes::Bytes> {
        let subject = self.subject.take()?;
        let decision = policy(&subject).decide(&failure);
        let event = render::sse(&failure, decision, subject.id.as_str());
        self.cut_off(&subject, failure, Outcome::Aborted);
        Some(event)
    }

    /// The response ends with this failure, told in trailers: how a gRPC call ends (P1).
    pub fn conclude(mut self, failure: Failure) -> Option<HeaderMap> {
        let subject = self.subject.take()?;
        let trailers = render::grpc_trailers(&failure);
        self.cut_off(&subject, failure, Outcome::Normalized);
        Some(trailers)
    }

    /// The client broke its side: the response is cut off, and it is not the upstream's failure.
    pub fn forsake(mut self, failure: ClientFailure) {
        if let Some(subject) = self.subject.take() {
            blame_client(&subject, failure);
            ended(&subject, self.status);
        }
    }

    /// The WebSocket that this 101 opens: its request is over, the session begins.
    pub fn upgrade(mut self) -> Option<Session> {
        let mut subject = self.subject.take()?;
        ended(&subject, self.status);
        // A session is long, and slices of the request's head keep the buffer that it was read into.
        let uri = Uri::try_from(subject.head.uri.path().to_owned()).unwrap_or_default();
        let (method, version) = (subject.head.method.clone(), subject.head.version);
        subject.head = Rc::new(Head { method, uri, version, ..Head::default() });
        if let Some(recording) = &mut subject.recording {
            recording.upgraded(&mut subject.worker.ids.borrow_mut());
        }
        Some(Session { subject })
    }
}

/// A WebSocket after its 101.
#[derive(Debug)]
pub struct Session {
    subject: Box<Subject>,
}

impl Session {
    /// The request that opened it.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The session is over.
    pub fn ended(&self, summary: &SessionSummary) {
        let Subject { worker, recording, .. } = &*self.subject;
        if let (Some(tracer), Some(recording)) = (&worker.tracer, recording) {
            recording
                .closed(summary, &owner(&self.subject))
                .into_iter()
                .for_each(|span| tracer.send(span));
        }
    }

    /// Settles the failure that ends the session; gives the Close frame for the client.
    pub fn close(&self, failure: Failure) -> CloseFrame {
        let decision: Decision = policy(&self.subject).decide(&failure);
        let frame = render::websocket(&failure, decision, self.subject.id.as_str());
        let sent = Sent { status: None, close_code: Some(frame.code) };
        settle(&self.subject, failure, Outcome::Normalized, &sent);
        frame
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(subject) = self.subject.take() {
            gone(&subject, None);
        }
    }
}

impl Drop for Committed {
    fn drop(&mut self) {
        if let Some(subject) = self.subject.take() {
            gone(&subject, Some(self.status));
        }
    }
}

fn policy(subject: &Subject) -> &Policy {
    &subject.route.settings.policy
}

/// The answer that says this failure, in the words of the client's protocol.
fn answer(subject: &Subject, failure: &Failure) -> Answer {
    let id = subject.id.as_str();
    match &subject.grpc {
        Some(content_type) => render::grpc(failure, id, content_type),
        None => {
            let decision = policy(subject).decide(failure);
            let (templates, accept) = (policy(subject).templates(), accept(subject));
            render::http_from(templates, failure, decision, id, accept)
        }
    }
}

fn accept(subject: &Subject) -> Option<&[u8]> {
    subject.head.fields.first(Known::Accept)
}

fn blame_client(subject: &Subject, failure: ClientFailure) {
    subject.worker.metrics.client(failure);
    if let Some(recording) = &subject.recording {
        recording.refused(failure.name());
    }
}

/// The client closed before its response was complete. 499 is what operators know it as; nobody
/// was sent it.
fn gone(subject: &Subject, committed: Option<u16>) {
    blame_client(subject, ClientFailure::Gone);
    ended(subject, committed.unwrap_or(499));
}

/// What is left to say of a request that has been answered already: the types rule it out.
fn nothing() -> Reply {
    Reply::empty(StatusCode::INTERNAL_SERVER_ERROR, Version::HTTP_11)
}

fn reply(subject: &Subject, mut answer: Answer) -> Reply {
    if let Some(cors) = policy(subject).cors() {
        let origin = subject.head.fields.named(&ORIGIN).next().and_then(|field| field.to_value());
        cors.allow(&mut answer, origin.as_ref());
    }
    let status = answer.status.as_u16();
    let is_head = subject.head.method == Method::HEAD;
    let response = Reply::of(answer, subject.head.version, is_head);
    ended(subject, status);
    response
}

/// The end of every request, whatever became of it.
fn ended(subject: &Subject, status: u16) {
    ended_at(subject, status, Instant::now());
}

fn ended_at(subject: &Subject, status: u16, now: Instant) {
    let elapsed = now.saturating_duration_since(subject.started);
    if subject.worker.access_log {
        AccessLine {
            request_id: subject.id.as_str(),
            method: subject.head.method.as_str(),
            path: subject.head.uri.path(),
            version: subject.head.version,
            status,
            route: &subject.route.settings.name,
            upstream: &subject.route.settings.upstream.name,
            elapsed,
            trace_id: subject.trace_id(),
        }
        .emit();
    }
    if let (Some(tracer), Some(recording)) = (&subject.worker.tracer, &subject.recording) {
        recording.ended(status, &owner(subject)).into_iter().for_each(|span| tracer.send(span));
    }
    // Last: what is no longer in flight has been told in full.
    subject.route.metrics.ended(status, elapsed);
}

/// Counts, logs and journals one failure, once.
fn settle(subject: &Subject, failure: Failure, outcome: Outcome, sent: &Sent) {
    if let Some(recording) = &subject.recording {
        recording.failed(&failure, outcome);
    }
    if failure.is_rehearsed() {
        let route = &subject.route.settings.name;
        subject.worker.metrics.rehearsed(route, failure.kind());
        tracing::info!(request_id = subject.id.as_str(), kind = %failure.kind(), route = &**route, "a rehearsed failure");
        return;
    }
    subject.route.upstream.metrics().failed(&failure, subject.protocol, outcome);
    let chain = failure.chain();
    let line = FailureLine {
        request_id: subject.id.as_str(),
        failure: &failure,
        outcome,
        protocol: subject.protocol,
        route: &subject.route.settings.name,
        method: &subject.head.method,
        path: subject.head.uri.path(),
        status: sent.status,
        close_code: sent.close_code,
        trace_id: subject.trace_id(),
    };
    line.emit(&chain);
    subject.worker.journal.push(Entry::new(&line, chain));
}

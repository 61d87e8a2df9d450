//! Spans: what an OpenTelemetry collector is told of a request, if `tracing` is configured.
//!
//! ```text
//! a request ─► Recording ─(over)─► Span ─► queue ─► thread: protobuf, POST ─► collector
//!              an attempt each                      (export)
//! ```
//!
//! A request is a span of kind SERVER, each attempt to send it to an endpoint one of kind CLIENT, and
//! a WebSocket, from its 101 to its end, one of kind INTERNAL: its request's span would else be told
//! hours late. The app continues the trace from the attempt's span. What failed is an error with the
//! kind as its description. Attributes have the names of OpenTelemetry's semantic conventions, and
//! `seawall.*` where there is none.
//!
//! No request waits for a collector: what finds the queue full is dropped and counted. A query may
//! hold secrets and is told nobody.

pub mod context;
pub mod export;
mod otlp;
mod proto;

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderName, Method, Version};
use tokio::time::Instant;

use self::context::{Context, SpanId, TRACEPARENT, TRACESTATE, TraceId};
use super::metrics::SessionSummary;
use super::request_id::{RequestId, RequestIds};
use crate::failure::{Failure, Kind, Outcome};

pub use self::export::Tracer;

/// Most bytes of any text in a span.
pub const TEXT: usize = 1024;

/// A request's place in its trace and, if the trace is sampled, what happens to it.
#[derive(Debug)]
pub struct Recording {
    context: Context,
    /// The span of the attempt that is under way: the app's parent.
    attempt: Cell<SpanId>,
    record: RefCell<Option<Box<Record>>>,
}

/// What is known of a request's beginning.
#[derive(Debug)]
pub struct Begun {
    /// The method.
    pub method: Method,
    /// The path, without the query.
    pub path: Box<str>,
    /// The version that the client speaks.
    pub version: Version,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Whom the request is for.
    pub host: Box<str>,
    /// Who is connected.
    pub peer: IpAddr,
    /// The client, as a trusted proxy tells it, or else who is connected.
    pub client: Box<str>,
    /// What the client calls itself.
    pub user_agent: Option<Box<str>>,
    /// What vendors have added to the trace.
    pub state: Option<Box<str>>,
}

/// What happens to a request, or to a WebSocket.
#[derive(Debug)]
struct Record {
    began: SystemTime,
    started: Instant,
    failed: Option<Failed>,
    what: What,
}

#[derive(Debug)]
enum What {
    Request(Box<Exchange>),
    WebSocket(Option<SessionSummary>),
}

/// A request with its attempts.
#[derive(Debug)]
struct Exchange {
    begun: Begun,
    status: u16,
    /// What the client did wrong.
    refused: Option<&'static str>,
    recovered: Option<Kind>,
    attempts: Vec<Attempt>,
}

/// A failure, as a span tells it.
#[derive(Clone, Debug)]
struct Failed {
    kind: Kind,
    phase: &'static str,
    outcome: &'static str,
    dependency: Option<Arc<str>>,
    rehearsed: bool,
}

/// Sending the request to an endpoint, once.
#[derive(Debug)]
struct Attempt {
    span: SpanId,
    endpoint: Arc<str>,
    began: SystemTime,
    /// Until the end of the request if not set.
    ended: Option<SystemTime>,
    version: Option<Version>,
    status: Option<u16>,
    failed: Option<Kind>,
}

/// A span that is over, with those below it.
#[derive(Debug)]
pub struct Span {
    context: Context,
    record: Box<Record>,
    elapsed: Duration,
    request_id: RequestId,
    route: Arc<str>,
    upstream: Arc<str>,
}

/// Whose request it was.
#[derive(Debug)]
pub struct Owner<'o> {
    /// The request's id.
    pub request_id: &'o RequestId,
    /// The route's name.
    pub route: &'o Arc<str>,
    /// The upstream's name.
    pub upstream: &'o Arc<str>,
}

impl Recording {
    /// Of a request that begins now; `begun` is asked only if the trace is sampled.
    pub fn new(context: Context, begun: impl FnOnce() -> Begun) -> Self {
        let record = context.sampled.then(|| {
            let exchange = Exchange {
                begun: begun(),
                status: 0,
                refused: None,
                recovered: None,
                attempts: Vec::new(),
            };
            Box::new(Record::new(What::Request(Box::new(exchange))))
        });
        Recording { attempt: Cell::new(context.span), context, record: RefCell::new(record) }
    }

    /// The trace.
    #[must_use]
    pub fn trace(&self) -> TraceId {
        self.context.trace
    }

    /// Whether this field of the client's is replaced, or has no meaning any more.
    #[must_use]
    pub fn replaces(&self, name: &[u8]) -> bool {
        let is = |known: &HeaderName| name.eq_ignore_ascii_case(known.as_str().as_bytes());
        // Without a parent the state is of no trace that goes on (§4.3).
        is(&TRACEPARENT) || (is(&TRACESTATE) && self.context.parent.is_none())
    }

    /// `traceparent` of the attempt that is under way.
    #[must_use]
    pub fn traceparent(&self) -> [u8; 55] {
        self.context.traceparent(self.attempt.get())
    }

    /// The request is about to be sent to this endpoint.
    pub fn attempt(&self, endpoint: &Arc<str>, ids: &mut RequestIds) {
        let span = SpanId::new(ids);
        self.attempt.set(span);
        self.change(|record, now| {
            if let What::Request(exchange) = &mut record.what {
                exchange.attempts.push(Attempt {
                    span,
                    endpoint: Arc::clone(endpoint),
                    began: now,
                    ended: None,
                    version: None,
                    status: None,
                    failed: None,
                });
            }
        });
    }

    /// The endpoint has answered, or has not.
    pub fn attempted(&self, result: Result<(u16, Version), Kind>) {
        self.change(|record, now| {
            let Some(attempt) = record.last_attempt() else { return };
            match result {
                Ok((status, version)) => {
                    attempt.status = Some(status);
                    attempt.version = Some(version);
                }
                Err(kind) => {
                    attempt.failed = Some(kind);
                    attempt.ended = Some(now);
                }
            }
        });
    }

    /// The request's failure is settled.
    pub fn failed(&self, failure: &Failure, outcome: Outcome) {
        let kind = failure.kind();
        self.change(|record, _| {
            if outcome == Outcome::Recovered {
                if let What::Request(exchange) = &mut record.what {
                    exchange.recovered = Some(kind);
                }
                return;
            }
            if let Some(attempt) = record.last_attempt() {
                attempt.failed.get_or_insert(kind);
            }
            record.failed = Some(Failed {
                kind,
                phase: failure.phase().name(),
                outcome: outcome.name(),
                dependency: failure.dependency().cloned(),
                rehearsed: failure.is_rehearsed(),
            });
        });
    }

    /// The client did something wrong.
    pub fn refused(&self, why: &'static str) {
        self.change(|record, _| {
            if let What::Request(exchange) = &mut record.what {
                exchange.refused = Some(why);
            }
        });
    }

    /// The request is over.
    #[must_use]
    pub fn ended(&self, status: u16, owner: &Owner<'_>) -> Option<Span> {
        let mut record = self.record.borrow_mut().take()?;
        if let What::Request(exchange) = &mut record.what {
            exchange.status = status;
        }
        Some(self.span(record, owner))
    }

    /// The request is over and its WebSocket begins, as a span below the request's.
    pub fn upgraded(&mut self, ids: &mut RequestIds) {
        if self.context.sampled {
            self.context.parent = Some(self.context.span);
            self.context.span = SpanId::new(ids);
            self.record = RefCell::new(Some(Box::new(Record::new(What::WebSocket(None)))));
        }
    }

    /// The WebSocket is over.
    #[must_use]
    pub fn closed(&self, summary: &SessionSummary, owner: &Owner<'_>) -> Option<Span> {
        let mut record = self.record.borrow_mut().take()?;
        record.what = What::WebSocket(Some(summary.clone()));
        Some(self.span(record, owner))
    }

    fn span(&self, record: Box<Record>, owner: &Owner<'_>) -> Span {
        Span {
            context: self.context.clone(),
            elapsed: record.started.elapsed(),
            record,
            request_id: owner.request_id.clone(),
            route: Arc::clone(owner.route),
            upstream: Arc::clone(owner.upstream),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Record, SystemTime)) {
        if let Some(record) = self.record.borrow_mut().as_deref_mut() {
            // The wall clock may be set; spans of a request stay in order.
            let now = record.began + record.started.elapsed();
            change(record, now);
        }
    }
}

impl Record {
    fn new(what: What) -> Self {
        Record { began: SystemTime::now(), started: Instant::now(), failed: None, what }
    }

    fn last_attempt(&mut self) -> Option<&mut Attempt> {
        match &mut self.what {
            What::Request(exchange) => exchange.attempts.last_mut(),
            What::WebSocket(_) => None,
        }
    }
}

impl Span {
    /// How many spans there are in this one, itself included.
    #[must_use]
    pub fn count(&self) -> u64 {
        match &self.record.what {
            What::Request(exchange) => 1 + exchange.attempts.len() as u64,
            What::WebSocket(_) => 1,
        }
    }
}

/// The text, or as much of it as a span keeps.
#[must_use]
pub fn text(text: &str) -> Box<str> {
    super::journal::cut(text, TEXT).into()
}

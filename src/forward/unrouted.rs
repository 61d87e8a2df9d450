//! Requests that no route has: refused before one was found, sent on to `https`, or never read as
//! requests at all. Each is one line in the access log and one count, as those of routes are.

use http::{Method, Version};
use tokio::time::Instant;

use super::Worker;
use super::head::{Head, Known};
use super::reply::Reply;
use crate::failure::{ClientFailure, render};
use crate::telemetry::log::AccessLine;
use crate::telemetry::metrics::NO_ROUTE as NONE;
use crate::telemetry::request_id::RequestId;

/// A request without a route, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct Unrouted<'r> {
    /// Its method.
    pub method: &'r str,
    /// Its path, without its query.
    pub path: &'r str,
    /// The version that the client speaks.
    pub version: Version,
    /// When it began.
    pub started: Instant,
}

impl<'r> Unrouted<'r> {
    /// A request of which nothing is known but its version.
    #[must_use]
    pub fn unread(version: Version) -> Self {
        Unrouted { method: NONE, path: NONE, version, started: Instant::now() }
    }

    /// A request whose head was read, just now.
    #[must_use]
    pub fn of(head: &'r Head) -> Self {
        Unrouted {
            method: head.method.as_str(),
            path: head.uri.path(),
            version: head.version,
            started: Instant::now(),
        }
    }

    /// Counts and logs the end of the request.
    pub fn ended(&self, worker: &Worker, id: &str, status: u16) {
        worker.metrics.unrouted(status);
        if worker.access_log {
            AccessLine {
                request_id: id,
                method: self.method,
                path: self.path,
                version: self.version,
                status,
                route: NONE,
                upstream: NONE,
                elapsed: self.started.elapsed(),
                trace_id: None,
            }
            .emit();
        }
    }
}

/// Settles a failure of a client whose request has no route: counts it, logs it, answers it.
pub fn refuse(
    worker: &Worker,
    request: Unrouted<'_>,
    accept: Option<&[u8]>,
    failure: ClientFailure,
    id: &RequestId,
) -> Reply {
    worker.metrics.client(failure);
    let answer = render::client(failure, id.as_str(), accept);
    request.ended(worker, id.as_str(), answer.status.as_u16());
    Reply::of(answer, request.version, request.method == Method::HEAD.as_str())
}

/// Settles a failure of a client that has sent something which is no request that can be served.
/// The request gets an id of its own.
pub fn refuse_unread(worker: &Worker, request: Unrouted<'_>, failure: ClientFailure) -> Reply {
    let id = worker.ids.borrow_mut().next_id();
    refuse(worker, request, None, failure, &id)
}

/// Settles a request that its client has given up before it was looked at.
pub fn gone(worker: &Worker, request: Unrouted<'_>) {
    let id = worker.ids.borrow_mut().next_id();
    worker.metrics.client(ClientFailure::Gone);
    // As for the requests of routes: nobody was sent it.
    request.ended(worker, id.as_str(), 499);
}

/// Settles a connection that is answered 503 unread, because there are too many. Returns the id of
/// its answer.
pub fn overloaded(worker: &Worker) -> RequestId {
    let id = worker.ids.borrow_mut().next_id();
    Unrouted::unread(Version::HTTP_11).ended(worker, id.as_str(), 503);
    id
}

/// Settles a head that was read and is refused.
pub(super) fn refuse_head(
    worker: &Worker,
    head: &Head,
    failure: ClientFailure,
    id: &RequestId,
) -> Reply {
    refuse(worker, Unrouted::of(head), head.fields.first(Known::Accept), failure, id)
}

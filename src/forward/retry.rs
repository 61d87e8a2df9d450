//! Sending a request, and sending it again where that is allowed (P8).
//!
//! A request is sent again only if no byte of it has reached an upstream (RFC 9110 §9.2.2 leaves
//! that to the proxy), or if it is idempotent and its idle connection turned out to be closed
//! (RFC 9112 §9.3.1: the upstream closed it before it saw the request). Its content must still be
//! with the client then.
//!
//! Before: `request` has written the head. After: `response` has the upstream's head.

use http::{Method, request};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::client::Client;
use super::request::{self as rewrite, Extra};
use super::settle::Held;
use super::{Route, Worker};
use crate::failure::{ClientFailure, Failure, Kind};
use crate::telemetry::metrics::RetryResult;
use crate::upstream::http1::exchange::{Broken, Exchange, Head, Request};
use crate::upstream::http1::head::{Asked, Framing, ResponseHead};
use crate::upstream::http1::upload::Rest;
use crate::upstream::{EndpointIndex, Reuse};

/// A request whose final response head has come.
#[derive(Debug)]
pub struct Answered {
    /// The exchange, at the start of the content.
    pub exchange: Exchange<Incoming>,
    /// The head.
    pub head: ResponseHead,
    /// Who answered.
    pub endpoint: EndpointIndex,
}

/// A request without a response head.
#[derive(Debug)]
pub enum Unanswered {
    /// The upstream's failure, and what is left of the request content.
    Upstream(Failure, Option<Incoming>),
    /// The client's failure, and what is left of the request content.
    Client(ClientFailure, Option<Incoming>),
}

/// What is sent.
#[derive(Debug)]
pub struct Outgoing<'r> {
    /// The request.
    pub parts: &'r request::Parts,
    /// What else goes into its head.
    pub extra: Extra<'r>,
    /// The content waits for a 100.
    pub expects_continue: bool,
}

/// Sends the request to an endpoint, or to the next one, until one of them answers.
pub async fn send(
    worker: &Worker,
    route: &Route,
    client: &Client,
    held: &Held,
    outgoing: &Outgoing<'_>,
    body: Option<Incoming>,
) -> Result<Answered, Unanswered> {
    let upstream = &route.upstream;
    let upgrade = outgoing.extra.upgrade;
    let mut body = body;
    let mut endpoint = upstream.pick();
    let mut reuse = if upgrade { Reuse::Never } else { Reuse::Allowed };
    let mut attempts_left = upstream.settings().retry.attempts;
    let mut earlier: Option<Failure> = None;
    loop {
        attempts_left = attempts_left.saturating_sub(1);
        let connection = match upstream.connection(endpoint, reuse).await {
            Ok(connection) => connection,
            Err(failure) => {
                let next = upstream.after(endpoint).filter(|_| attempts_left > 0);
                match next.filter(|_| failure.kind() != Kind::ConnectionLimitReached) {
                    Some(next) => {
                        endpoint = next;
                        // Its own outcome is known only when the next attempt's is.
                        supersede(route, earlier.replace(failure));
                        continue;
                    }
                    None => {
                        supersede(route, earlier.take());
                        return Err(Unanswered::Upstream(failure, body));
                    }
                }
            }
        };
        let mut exchange = Exchange::new(
            connection,
            std::sync::Arc::clone(upstream.settings()),
            Request {
                head: rewrite::head(outgoing.parts, &outgoing.extra),
                body: body.take(),
                framing: if upgrade { Framing::Empty } else { outgoing.extra.framing },
                asked: Asked { head: outgoing.parts.method == Method::HEAD, upgrade },
                expects_continue: outgoing.expects_continue,
                content_limit: route.settings.request_body_bytes,
                client_timeout: worker.clients.body_timeout,
            },
        );
        let sent = Instant::now();
        match final_head(&mut exchange, client, outgoing.parts).await {
            Ok(head) => {
                upstream.metrics().head_received(sent.elapsed());
                if let Some(failure) = earlier {
                    upstream.metrics().retried(RetryResult::Recovered);
                    held.recovered(failure);
                }
                return Ok(Answered { exchange, head, endpoint });
            }
            Err(Broken::Client(failure, _)) => {
                supersede(route, earlier.take());
                return Err(Unanswered::Client(failure, rest(exchange.into_body())));
            }
            Err(Broken::Upstream(failure)) => {
                let again = exchange.was_stale()
                    && (exchange.sent() == 0 || is_idempotent(&outgoing.parts.method));
                match exchange.into_body() {
                    Rest::Untouched(untouched) if again => {
                        body = untouched;
                        reuse = Reuse::Never;
                        upstream.metrics().retried(RetryResult::Stale);
                        tracing::debug!(%failure, "the idle connection was closed; sending again");
                    }
                    left => {
                        supersede(route, earlier.take());
                        return Err(Unanswered::Upstream(
                            upstream.place(endpoint, failure),
                            rest(left),
                        ));
                    }
                }
            }
        }
    }
}

async fn final_head(
    exchange: &mut Exchange<Incoming>,
    client: &Client,
    parts: &request::Parts,
) -> Result<ResponseHead, Broken> {
    loop {
        match exchange.head().await? {
            Head::Final(head) => return Ok(head),
            // hyper says 100 itself, when the upload takes the first content.
            Head::Interim(head) if head.status == http::StatusCode::CONTINUE => {}
            Head::Interim(head) => client.pass_interim(&head, parts.version).await,
        }
    }
}

/// An attempt's failure that a later attempt's failure stands for: one answer, one failure (P5).
fn supersede(route: &Route, failure: Option<Failure>) {
    if let Some(failure) = failure {
        route.upstream.metrics().retried(RetryResult::Failed);
        tracing::info!(%failure, chain = ?failure.chain(), "a retry failed as well");
    }
}

/// RFC 9110 §9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

fn rest(rest: Rest<Incoming>) -> Option<Incoming> {
    match rest {
        Rest::Untouched(body) => body,
        Rest::Partly(body) => Some(body),
        Rest::Taken => None,
    }
}

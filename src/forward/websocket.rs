//! A WebSocket: its handshake's answer, and the relay's events turned into settled failures and
//! metrics.
//!
//! Before: `retry` has brought the upstream's answer to the upgrade. After: a 101 to the client and
//! an [`Upgraded`] waiting on the connection, or an ordinary answer. When the 101 is
//! written, `listen` runs [`run`] on it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Route;
use super::client::Client;
use super::content::Content;
use super::reply::Reply;
use super::response;
use super::retry::Answered;
use super::settle::{Held, Session};
use crate::drain::Drain;
use crate::failure::rehearsal::{Rehearsal, Rehearsed};
use crate::failure::render::CloseFrame;
use crate::failure::{ClientFailure, Failure, Kind, Phase};
use crate::telemetry::log::WebsocketLine;
use crate::upstream::admission::Place;
use crate::upstream::deadline::Deadline;
use crate::upstream::pool::Connection;
use crate::upstream::{Choice, InFlight, Outcome};
use crate::websocket::handshake::{self, Agreed, Offer};
use crate::websocket::rehearse::Rehearsing;
use crate::websocket::relay::{self, Direction, Observer, Opening, Terms};

/// A WebSocket whose 101 is on its way to the client.
#[derive(Debug)]
pub struct Upgraded {
    connection: Box<Connection>,
    agreed: Agreed,
    session: Session,
    route: Rc<Route>,
    endpoint: Choice,
    _place: Place,
    _in_flight: Option<InFlight>,
}

/// What the client asked for.
#[derive(Debug)]
pub struct Asked {
    /// Its handshake.
    pub offer: Offer,
    /// Its place among the upstream's WebSockets.
    pub place: Place,
}

/// Answers an upgrade.
pub fn respond(
    held: Held,
    client: &Client,
    answered: Box<Answered>,
    route: &Rc<Route>,
    asked: Asked,
) -> Reply {
    let Asked { offer, place } = asked;
    let status = answered.head.status;
    if status != StatusCode::SWITCHING_PROTOCOLS {
        if status.is_server_error() {
            route.upstream.report(&answered.endpoint, Outcome::AppFailed);
            answered.passage.into_iter().for_each(|passage| passage.settle(Outcome::AppFailed));
            let failure = Failure::new(Kind::HttpUpgradeFailed, Phase::Upgrade)
                .with_received_status(status.as_u16());
            return held.answer(route.upstream.place(&answered.endpoint, failure));
        }
        // RFC 9110 §7.8: an app may refuse or ignore an upgrade.
        return response::respond(held, client, answered, route);
    }
    let Answered { exchange, head, endpoint, mut in_flight, passage, .. } = *answered;
    in_flight.iter_mut().for_each(InFlight::became_websocket);
    let agreed = match handshake::check_answer(&offer, head.status, &head.fields.map()) {
        Ok(agreed) => agreed,
        Err(error) => {
            let is_requests = error.depends_on_offer();
            let failure = Failure::new(Kind::HttpUpgradeFailed, Phase::Upgrade)
                .with_received_status(status.as_u16())
                .with_source(error);
            // An endpoint is not condemned for what a client offers.
            let failure = if is_requests { failure.blameless() } else { failure };
            route.upstream.report(&endpoint, Outcome::Broken(&failure));
            passage.into_iter().for_each(|passage| passage.settle(Outcome::Broken(&failure)));
            return held.answer(route.upstream.place(&endpoint, failure));
        }
    };
    let mut fields = head.fields;
    // RFC 8441 §5: over HTTP/2 the answer is a 200, and there is no key to accept.
    let translated = offer.key.is_some();
    let status = if translated { StatusCode::OK } else { status };
    if translated {
        for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
            fields.remove(&name);
        }
    }
    response::add_fields(&mut fields, head.version, &held);
    route.upstream.report(&endpoint, Outcome::Served);
    passage.into_iter().for_each(|passage| passage.settle(Outcome::Served));
    let connection = exchange.into_upgraded();
    if let Some(session) = held.commit(status.as_u16()).upgrade()
        && let Some(connection) = connection
    {
        client.upgraded.replace(Some(Upgraded {
            connection,
            agreed,
            session,
            route: Rc::clone(route),
            endpoint,
            _place: place,
            _in_flight: in_flight,
        }));
    }
    Reply { status, fields, content: Content::empty(), close: false }
}

/// Relays the WebSocket until it is over. `early` is what the client had sent behind its handshake.
pub async fn run<C>(upgraded: &mut Upgraded, client: &mut C, early: Bytes, drain: Drain)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let Upgraded { connection, agreed, session, route, endpoint, .. } = upgraded;
    let metrics = route.upstream.metrics().websocket();
    metrics.opened();
    let started = Instant::now();
    // Copies, because a slice, even an empty one, keeps the 8 KiB alive that it was read into.
    let opening = Opening {
        from_client: Bytes::copy_from_slice(&early),
        from_upstream: Bytes::copy_from_slice(&std::mem::take(&mut connection.buf)),
    };
    drop(early);
    connection.deadline = Deadline::new();
    let watch = Watch { session, route, endpoint };
    // The process ends, or the endpoint leaves: both give the session time to move. Pinned here, and lent:
    // every session would carry them once more for each hand that they go through.
    let (mut drain, mut leaving) = (pin!(drain.begun()), pin!(endpoint.leaving().begun()));
    let drain = poll_fn(|cx| match drain.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => leaving.as_mut().poll(cx),
    });
    let worker = &session.subject().worker;
    let terms =
        Terms { opening, agreed: *agreed, settings: &worker.websocket, scratch: &worker.scratch };
    let upstream = &mut connection.stream;
    let report = match session.subject().rehearsal {
        Some(Rehearsal { kind, after: Some(messages) }) => {
            let mut terms = terms;
            let early = std::mem::take(&mut terms.opening.from_upstream);
            let mut upstream = Rehearsing::new(upstream, early, messages, Rehearsed(kind));
            // Boxed: it is rare, and every session would carry the room for it.
            Box::pin(relay::relay(client, &mut upstream, terms, &watch, drain)).await
        }
        _ => relay::relay(client, upstream, terms, &watch, drain).await,
    };
    let elapsed = started.elapsed();
    metrics.closed(&report.summary, elapsed);
    session.ended(&report.summary);
    WebsocketLine {
        request_id: session.subject().id.as_str(),
        upstream: &route.settings.upstream.name,
        path: session.subject().head.uri.path(),
        summary: &report.summary,
        elapsed,
        trace_id: session.subject().trace_id(),
    }
    .emit();
    if report.abort_upstream {
        connection.stream.abort();
    }
    let limit = worker.websocket.close_timeout;
    relay::end(client, &mut connection.stream, limit, report.abort_upstream).await;
}

/// Turns the relay's events into settled failures and metrics.
struct Watch<'s> {
    session: &'s Session,
    route: &'s Route,
    endpoint: &'s Choice,
}

impl Observer for Watch<'_> {
    fn relayed(&self, direction: Direction, messages: u64, bytes: u64) {
        self.route.upstream.metrics().websocket().relayed(direction, messages, bytes);
    }

    fn upstream_failed(&self, failure: Failure) -> CloseFrame {
        self.session.close(self.route.upstream.place(self.endpoint, failure))
    }

    fn client_failed(&self, failure: ClientFailure) {
        self.session.subject().worker.metrics.client(failure);
    }
}

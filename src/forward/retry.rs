//! Sending a request, and sending it again where that is allowed (P8).
//!
//! Before: `handle` has found the route. After: `response` has a response of which nothing has been
//! committed, or a failure to answer with. Until then an attempt can be followed by another one:
//!
//! | what became of the request | sent again | where |
//! | --- | --- | --- |
//! | no byte of it was sent: no connection | whatever it is | another endpoint; free of charge |
//! | refused unprocessed (REFUSED_STREAM, GOAWAY) | whatever it is | another endpoint, or the same |
//! | its idle connection was closed | if idempotent, or if no byte was sent | the same; free of charge |
//! | it may have been processed | if idempotent (RFC 9110 §9.2.2) | another endpoint, or the same |
//!
//! Idempotent are the methods that say so and, if configured, requests with an `Idempotency-Key`.
//! All but the stale connection need an attempt and time that are left and the content (`replay`);
//! what makes somebody work twice needs a withdrawal from the budget, which is not filled while
//! nothing succeeds.

use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode, Version};
use tokio::time::Instant;

use super::client::Client;
use super::head::{self, Known};
use super::hold::{self, Terms};
use super::incoming::Incoming;
use super::replay::{Reader, Replay};
use super::request::{self as rewrite, Extra};
use super::settle::Held;
use super::{Route, Worker};
use crate::config::model::{Balance, HashKey};
use crate::failure::app::{self, INSPECT_BYTES, Judgement, Verdict};
use crate::failure::{ClientFailure, Failure, Kind};
use crate::telemetry::metrics::RetryResult;
use crate::upstream::circuit::Passage;
use crate::upstream::exchange::{
    Asked, Broken, Came, Exchange, Fate, Framing, Request, ResponseHead,
};
use crate::upstream::upload::ContentLimit;
use crate::upstream::{Choice, InFlight, Link, Need, Outcome, balance, http1, http2};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A request whose response has come: all of it, or as much as is held.
#[derive(Debug)]
pub struct Answered {
    /// The exchange, behind what is held.
    pub exchange: Exchange<Reader>,
    /// The head.
    pub head: ResponseHead,
    /// What is held of the content.
    pub content: hold::Held,
    /// What the head says about the app, if it is not that all is well. Boxed: it is nearly always.
    pub judgement: Option<Box<Judgement>>,
    /// When it came, if that was now.
    pub now: Option<Instant>,
    /// Who answered.
    pub endpoint: Choice,
    /// The request counts as in flight there until this is dropped.
    pub in_flight: Option<InFlight>,
    /// What the upstream's circuit is to learn from it.
    pub passage: Option<Passage>,
}

/// A request without a response: whose failure, and what is left of the request content.
#[derive(Debug)]
pub enum Unanswered {
    /// The upstream's.
    Upstream(Failure, Option<Incoming>),
    /// The client's.
    Client(ClientFailure, Option<Incoming>),
}

/// What is sent.
#[derive(Debug)]
pub struct Outgoing<'r> {
    /// The request.
    pub head: &'r head::Head,
    /// What else goes into its head.
    pub extra: Extra<'r>,
    /// The content waits for a 100.
    pub expects_continue: bool,
    /// The response may be held: nobody rehearses how it is cut off.
    pub may_hold: bool,
}

/// Why an attempt brought no response.
enum Trouble {
    Upstream(Failure, Fate),
    /// No connection: the attempt has not begun.
    Unreachable(Failure),
    Client(ClientFailure),
}

/// What all attempts of a request share.
struct Attempts<'r> {
    worker: &'r Worker,
    route: &'r Route,
    client: &'r Client,
    outgoing: &'r Outgoing<'r>,
    replay: Replay,
    idempotent: bool,
    begun: u32,
    started: Instant,
}

/// Sends the request to an endpoint, or to the next one, until one of them answers.
pub async fn send(
    worker: &Worker,
    route: &Route,
    client: &Client,
    held: &Held,
    outgoing: &Outgoing<'_>,
    body: Incoming,
) -> Result<Box<Answered>, Unanswered> {
    let upstream = &route.upstream;
    let settings = &upstream.settings().retry;
    let passage = match upstream.enter() {
        Ok(passage) => passage,
        Err(failure) => return Err(Unanswered::Upstream(failure, Some(body))),
    };
    let content = Some(body).filter(|_| outgoing.extra.framing != Framing::Empty);
    let kept = if settings.attempts > 1 { settings.replay_bytes } else { 0 };
    let mut attempts = Attempts {
        worker,
        route,
        client,
        outgoing,
        replay: Replay::new(content, kept),
        idempotent: is_idempotent(outgoing.head, settings.idempotency_key),
        begun: 0,
        started: held.subject().map_or_else(Instant::now, |subject| subject.started),
    };
    upstream.budget().deposit();
    // As long as nothing is waited for, no time passes.
    let mut now = attempts.started;
    if upstream.is_unresolved() {
        Box::pin(upstream.first_resolved()).await;
        now = Instant::now();
    }
    let key = key(route, outgoing);
    let started = match upstream.start(key) {
        Some(started) => started,
        // Boxed: a request that finds room shall not carry what waiting takes.
        None => {
            let started = Box::pin(upstream.start_waiting(key)).await;
            now = Instant::now();
            started
        }
    };
    let (mut endpoint, mut in_flight) = match started {
        Ok(started) => started,
        Err(failure) => {
            return Err(Unanswered::Upstream(failure, attempts.replay.into_rest()));
        }
    };
    let mut need = if outgoing.extra.upgrade { Need::Upgrade } else { Need::Any };
    let mut earlier: Option<Failure> = None;
    loop {
        attempts.begin(&endpoint);
        let trouble = match attempts.run(&endpoint, need, now).await {
            Ok(mut answered) => {
                attempts.answered(&answered);
                upstream.budget().succeeded();
                answered.passage = passage;
                answered.in_flight = Some(in_flight);
                attempts.replay.forget();
                if let Some(failure) = earlier {
                    upstream.metrics().retried(RetryResult::Recovered);
                    held.recovered(failure);
                }
                return Ok(answered);
            }
            Err(trouble) => trouble,
        };
        let (failure, next) = match trouble {
            Trouble::Client(failure) => {
                supersede(route, earlier.take());
                return Err(Unanswered::Client(failure, attempts.replay.into_rest()));
            }
            Trouble::Unreachable(failure) => {
                attempts.failed(&failure);
                upstream.report(&endpoint, Outcome::Broken(&failure));
                let next = attempts.after_unreachable(&endpoint, &mut in_flight, &failure);
                let next = Box::pin(next).await;
                (failure, next)
            }
            Trouble::Upstream(failure, Fate::Stale { unsent })
                if (unsent || attempts.idempotent) && attempts.replay.is_possible() =>
            {
                attempts.failed(&failure);
                // Says nothing of the upstream: it closed a connection that nobody used.
                upstream.metrics().retried(RetryResult::Stale);
                tracing::debug!(%failure, "the idle connection was closed; sending again");
                attempts.begun -= 1;
                need = attempts.need(Need::Fresh);
                now = Instant::now();
                continue;
            }
            Trouble::Upstream(failure, fate) => {
                attempts.failed(&failure);
                upstream.report(&endpoint, Outcome::Broken(&failure));
                let next = attempts.after(&endpoint, &mut in_flight, &failure, fate);
                (upstream.place(&endpoint, failure), next)
            }
        };
        let Some(next) = next else {
            if attempts.begun > 1 {
                upstream.budget().failed_again();
            }
            supersede(route, earlier.take());
            passage.into_iter().for_each(|passage| passage.settle(Outcome::Broken(&failure)));
            return Err(Unanswered::Upstream(failure, attempts.replay.into_rest()));
        };
        client.withdraw_interim();
        endpoint = next;
        need = attempts.need(Need::Any);
        now = Instant::now();
        // Its own outcome is known only when the next attempt's is.
        supersede(route, earlier.replace(failure));
    }
}

impl Attempts<'_> {
    /// Another attempt begins.
    fn begin(&mut self, endpoint: &Choice) {
        self.begun += 1;
        if let Some(recording) = self.outgoing.extra.recording {
            recording.attempt(endpoint.label(), &mut self.worker.ids.borrow_mut());
        }
    }

    /// Tells the attempt's span who answered what.
    fn answered(&self, answered: &Answered) {
        if let Some(recording) = self.outgoing.extra.recording {
            let version = match &answered.exchange {
                Exchange::Http1(_) => Version::HTTP_11,
                Exchange::Http2(_) => Version::HTTP_2,
            };
            recording.attempted(Ok((answered.head.status.as_u16(), version)));
        }
    }

    /// Tells the attempt's span why nobody answered. A client's failure ends it with its request.
    fn failed(&self, failure: &Failure) {
        if let Some(recording) = self.outgoing.extra.recording {
            recording.attempted(Err(failure.kind()));
        }
    }

    /// One attempt at one endpoint, which begins `now`.
    async fn run(
        &self,
        endpoint: &Choice,
        need: Need,
        now: Instant,
    ) -> Result<Box<Answered>, Trouble> {
        let upstream = &self.route.upstream;
        let slot = upstream.slot().map_err(Trouble::Unreachable)?;
        let (link, sent) = match upstream.idle_link(endpoint, need, now) {
            Some(link) => (link, now),
            None => {
                let told = self.outgoing.extra.peer.told.as_deref();
                // Boxed: a request on an idle connection shall not carry the room for a handshake.
                let link = Box::pin(upstream.link(endpoint, need, told)).await;
                (link.map_err(Trouble::Unreachable)?, Instant::now())
            }
        };
        let mut exchange = self.exchange(endpoint, link, sent)?;
        let mut head = ResponseHead::awaited();
        if let Err(broken) = self.final_head(&mut exchange, &mut head).await {
            if let (Some(slot), Broken::Upstream(failure)) = (slot, &broken) {
                slot.failed(failure);
            }
            return Err(trouble(broken, &exchange));
        }
        let elapsed = sent.elapsed();
        upstream.metrics().head_received(elapsed);
        if let Some(slot) = slot {
            slot.answered(elapsed);
        }
        // Boxed: it goes from hand to hand.
        let answered = |exchange, head, content: hold::Held, judgement| {
            Box::new(Answered {
                // As long as nothing has been waited for, no time has passed.
                now: (!content.waited).then(|| sent + elapsed),
                exchange,
                head,
                content,
                judgement,
                endpoint: endpoint.clone(),
                in_flight: None,
                passage: None,
            })
        };
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(answered(exchange, head, hold::Held::default(), None));
        }
        let settings = &self.route.settings;
        let status = head.status.as_u16();
        let judgement = match app::says_nothing(&settings.policy, status) {
            true => None,
            false => match app::judge(&settings.policy, status, &head.fields.map()) {
                Judgement::Known(Verdict::Healthy) => None,
                judgement => Some(Box::new(judgement)),
            },
        };
        let mut terms = match self.outgoing.may_hold {
            true => Terms::of(&head, &settings.hold),
            false => Terms::none(),
        };
        if judgement.is_some() {
            terms = terms.at_least(INSPECT_BYTES, settings.hold.time);
        }
        match hold::hold(&mut exchange, terms).await {
            Ok(content) => Ok(answered(exchange, head, content, judgement)),
            Err(broken) => Err(trouble(broken, &exchange)),
        }
    }

    fn exchange(
        &self,
        endpoint: &Choice,
        link: Link,
        sent: Instant,
    ) -> Result<Exchange<Reader>, Trouble> {
        let upstream = &self.route.upstream;
        let settings = std::sync::Arc::clone(upstream.settings());
        let outgoing = self.outgoing;
        let upgrade = outgoing.extra.upgrade;
        let common = Request {
            head: (),
            body: self.replay.reader(),
            sent,
            asked: Asked {
                head: outgoing.head.method == Method::HEAD,
                upgrade,
                lines: !upgrade && outgoing.head.version != Version::HTTP_2,
            },
            expects_continue: outgoing.expects_continue,
            content_limit: ContentLimit {
                bytes: self.route.settings.request_body_bytes,
                least_rate: self.worker.clients.body_rate,
                grace: self.worker.clients.body_timeout,
            },
            client_timeout: self.worker.clients.body_timeout,
            head_timeout: self.head_timeout(),
        };
        Ok(match link {
            Link::Http1(connection) => {
                let head = rewrite::http1(outgoing.head, &outgoing.extra);
                let request = common.with_head(head);
                let exchange = http1::exchange::Exchange::new(connection, settings, request);
                Exchange::Http1(exchange)
            }
            Link::Http2(lease) => {
                let scheme = upstream.scheme(endpoint);
                let head = rewrite::http2(outgoing.head, &outgoing.extra, scheme);
                let request = common.with_head(head.map_err(Trouble::Client)?);
                let exchange = http2::exchange::Exchange::new(lease, settings, request);
                Exchange::Http2(Box::new(exchange))
            }
        })
    }

    /// An attempt that another one may follow is not waited for longer than configured.
    fn head_timeout(&self) -> Duration {
        let settings = self.route.upstream.settings();
        let (all, retry) = (settings.timeouts.head, &settings.retry);
        let another = self.begun < retry.attempts && self.idempotent;
        if another && !retry.attempt.is_zero() { all.min(retry.attempt) } else { all }
    }

    async fn final_head(
        &self,
        exchange: &mut Exchange<Reader>,
        head: &mut ResponseHead,
    ) -> Result<(), Broken> {
        while exchange.head(head).await? == Came::Interim {
            // The client's connection says 100 itself, when the first content is asked for.
            if head.status != StatusCode::CONTINUE {
                self.client.pass_interim(head, self.outgoing.head.version).await;
            }
        }
        Ok(())
    }

    fn need(&self, usual: Need) -> Need {
        if self.outgoing.extra.upgrade { Need::Upgrade } else { usual }
    }

    /// Where to go after an endpoint that could not be reached.
    async fn after_unreachable(
        &self,
        at: &Choice,
        in_flight: &mut InFlight,
        failure: &Failure,
    ) -> Option<Choice> {
        // The limit is the upstream's, so that another endpoint is behind it too. Without a charge:
        // nobody has more to do because of an endpoint that is not there.
        if failure.kind() == Kind::ConnectionLimitReached || !self.is_more_left() {
            return None;
        }
        self.route.upstream.after_waiting(at, in_flight).await
    }

    /// Where to go after an endpoint that failed with the request.
    fn after(
        &self,
        at: &Choice,
        in_flight: &mut InFlight,
        failure: &Failure,
        fate: Fate,
    ) -> Option<Choice> {
        let allowed = match fate {
            Fate::Unprocessed | Fate::Stale { unsent: true } => true,
            Fate::Stale { unsent: false } | Fate::Unknown => {
                self.idempotent && may_pass(failure.kind())
            }
        };
        let possible = allowed && self.replay.is_possible() && self.is_more_left();
        if !(possible && self.is_affordable()) {
            return None;
        }
        let other = self.route.upstream.after(at, in_flight);
        Some(other.unwrap_or_else(|| at.clone()))
    }

    /// Whether there is an attempt and time left.
    fn is_more_left(&self) -> bool {
        let retry = &self.route.upstream.settings().retry;
        self.begun < retry.attempts && self.started.elapsed() < retry.total
    }

    /// Whether the budget allows one more; it is charged then.
    fn is_affordable(&self) -> bool {
        let upstream = &self.route.upstream;
        let affordable = upstream.budget().withdraw();
        if !affordable {
            upstream.metrics().retried(RetryResult::OverBudget);
        }
        affordable
    }
}

/// What the request has in common with others that go to the same endpoint.
fn key(route: &Route, outgoing: &Outgoing<'_>) -> Option<u64> {
    let Balance::Hash(key) = &route.upstream.settings().balance else { return None };
    let fields = &outgoing.head.fields;
    match key {
        HashKey::Field(name) => fields.named(name).next().map(|field| balance::key(field.value)),
        HashKey::Cookie(name) => {
            let cookies = fields.all(Known::Cookie);
            let mut pairs = cookies.flat_map(|value| value.split(|b| *b == b';'));
            pairs.find_map(|pair| {
                let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
                Some(balance::key(value))
            })
        }
        HashKey::Address => {
            let peer = outgoing.extra.peer;
            match rewrite::told_address(fields, peer) {
                Some(address) => Some(balance::key(address)),
                None => Some(match peer.address {
                    IpAddr::V4(address) => balance::key(&address.octets()),
                    IpAddr::V6(address) => balance::key(&address.octets()),
                }),
            }
        }
    }
}

/// Whether a failure may be gone at the next attempt. A response that is too large, or that is no
/// HTTP, would be the same again.
fn may_pass(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::ConnectionTerminated
            | Kind::ConnectionReadTimeout
            | Kind::ConnectionWriteTimeout
            | Kind::DestinationIpUnroutable
            | Kind::HttpResponseIncomplete
            | Kind::HttpResponseTimeout
            | Kind::TlsAlertReceived
    )
}

fn trouble(broken: Broken, exchange: &Exchange<Reader>) -> Trouble {
    match broken {
        Broken::Upstream(failure) => match exchange.fate() {
            fate @ (Fate::Unprocessed | Fate::Stale { unsent: true }) => {
                Trouble::Upstream(failure.unprocessed(), fate)
            }
            fate => Trouble::Upstream(failure, fate),
        },
        Broken::Client(failure, source) => {
            tracing::debug!(%failure, %source, "the client failed");
            Trouble::Client(failure)
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
fn is_idempotent(head: &head::Head, by_key: bool) -> bool {
    matches!(
        head.method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    ) || (by_key && head.fields.named(&IDEMPOTENCY_KEY).next().is_some())
}

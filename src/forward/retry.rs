//! Sending a request, and sending it again where that is allowed (P8).
//!
//! Before: `handle` has found the route. After: `response` has a response of which nothing has been
//! committed, or a failure to answer with. Until then an attempt can be followed by another one, as
//! [`crate::upstream::attempt`] decides; here that is carried out and paid for.
//!
//! What must stay true:
//!
//! - The time for the head is one for all attempts ([`HeadTime`]), and an attempt that used it up is
//!   the last. Only `retry.attempt` divides it, and only while there is another endpoint to ask.
//! - An endpoint that could not be connected to, or that hangs, is not asked again by this request.
//! - What makes an app work twice takes a retry out of the budget, which is not filled while nothing
//!   succeeds. What was not processed costs nothing, and is bounded by time or by the number of endpoints.
//! - A failure that says nothing of the upstream (a stale connection, a refused stream) is not counted if
//!   the request goes out again.

use std::time::Duration;

use http::{Method, StatusCode, Version};
use tokio::time::Instant;

use super::client::Client;
use super::head;
use super::hold::{self, Terms};
use super::incoming::Incoming;
use super::repeat;
use super::replay::{Reader, Replay};
use super::request::{self as rewrite, Extra};
use super::settle::Held;
use super::{Route, Worker};
use crate::failure::app::{self, INSPECT_BYTES, Judgement, Verdict};
use crate::failure::{ClientFailure, Failure, Kind, Phase};
use crate::telemetry::metrics::RetryResult;
use crate::upstream::adaptive::Slot;
use crate::upstream::attempt::{self, End, Fate, Left, Next};
use crate::upstream::circuit::Passage;
use crate::upstream::exchange::{Asked, Broken, Came, Exchange, Framing, Request, ResponseHead};
use crate::upstream::patience::HeadTime;
use crate::upstream::upload::ContentLimit;
use crate::upstream::{Choice, InFlight, Link, Need, Outcome, http1, http2};

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
    /// The upstream failed, and this became of the request, which was sent then.
    Upstream(Failure, Fate, Instant),
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
    head_time: HeadTime,
    /// It has met a stale connection.
    met_stale: bool,
    /// It has had the retry of a request that was in flight at an endpoint that died.
    mourned: bool,
    /// Endpoints that could not be connected to, or that hang: it does not go there again.
    avoid: Vec<usize>,
    /// How often it was refused unprocessed, and since when.
    refused: u32,
    refused_since: Option<Instant>,
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
    let mut attempts = Attempts {
        worker,
        route,
        client,
        outgoing,
        replay: Replay::new(content, settings.replay_bytes),
        idempotent: repeat::is_idempotent(outgoing.head, settings.idempotency_key),
        begun: 0,
        head_time: HeadTime::new(upstream.settings().timeouts.head),
        met_stale: false,
        mourned: false,
        avoid: Vec::new(),
        refused: 0,
        refused_since: None,
    };
    upstream.budget().deposit();
    // As long as nothing is waited for, no time passes.
    let mut now = held.subject().map_or_else(Instant::now, |subject| subject.started);
    if upstream.is_unresolved() {
        Box::pin(upstream.first_resolved()).await;
        now = Instant::now();
    }
    let key = repeat::key(route, outgoing);
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
        let (failure, fate, sent) = match attempts.run(&endpoint, need, now).await {
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
            Err(Trouble::Upstream(failure, fate, sent)) => (failure, fate, sent),
            Err(Trouble::Client(failure)) => {
                supersede(route, earlier.take());
                return Err(Unanswered::Client(failure, attempts.replay.into_rest()));
            }
        };
        let failure = attempts.judged(&endpoint, failure);
        attempts.failed(&failure);
        let next = attempts.next(&endpoint, &failure, fate, sent);
        // As if the attempt had not been: it says nothing of the upstream.
        let is_forgotten = matches!(next, Next::Fresh | Next::Turn);
        if !is_forgotten {
            upstream.report(&endpoint, Outcome::Broken(&failure));
        }
        // Boxed: a request that is answered at once shall not carry it.
        let onward = Box::pin(attempts.onward(next, &endpoint, &mut in_flight)).await;
        now = Instant::now();
        let Some(onward) = onward else {
            if attempts.begun > 1 {
                upstream.budget().failed_again();
            }
            supersede(route, earlier.take());
            passage.into_iter().for_each(|passage| passage.settle(Outcome::Broken(&failure)));
            let failure = upstream.place(&endpoint, failure);
            return Err(Unanswered::Upstream(failure, attempts.replay.into_rest()));
        };
        if is_forgotten {
            tracing::debug!(%failure, "the request was not processed; sending again");
        } else {
            client.withdraw_interim();
            // Its own outcome is known only when the next attempt's is.
            supersede(route, earlier.replace(upstream.place(&endpoint, failure)));
        }
        (endpoint, need) = onward;
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

    /// Spares an endpoint that serves requests over HTTP/2, and was asked for an upgrade of HTTP/1.1:
    /// that it cannot do this says nothing of it, and any client can ask.
    fn judged(&self, endpoint: &Choice, failure: Failure) -> Failure {
        let is_reached = !matches!(failure.phase(), Phase::Resolve | Phase::Connect);
        let is_other = self.outgoing.extra.upgrade && self.route.upstream.speaks_http2(endpoint);
        if is_reached && is_other { failure.blameless() } else { failure }
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
        let unreachable = |failure| Trouble::Upstream(failure, Fate::Unreachable, now);
        let slot = upstream.slot().map_err(unreachable)?;
        let (link, sent) = match upstream.idle_link(endpoint, need, now) {
            Some(link) => (link, now),
            None => {
                let told = self.outgoing.extra.peer.told.as_deref();
                // Boxed: a request on an idle connection shall not carry the room for a handshake.
                let link = Box::pin(upstream.link(endpoint, need, told, &self.head_time)).await;
                (link.map_err(unreachable)?, Instant::now())
            }
        };
        let mut exchange = self.exchange(endpoint, link, sent)?;
        let mut head = ResponseHead::awaited();
        let mut awaited = Awaited { exchange: &mut exchange, slot };
        let result = awaited.final_head(&mut head, self.client, self.outgoing.head.version).await;
        let now = Instant::now();
        awaited.ended(result.is_ok(), now);
        drop(awaited);
        if let Err(broken) = result {
            return Err(self.trouble(broken, &exchange));
        }
        let elapsed = now.saturating_duration_since(sent);
        upstream.metrics().head_received(elapsed);
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
            Err(broken) => Err(self.trouble(broken, &exchange)),
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
            head_timeout: self.head_timeout(endpoint),
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

    /// Returns how long the head may take: what is left of the time for all attempts, or less if another
    /// endpoint can be asked after that.
    fn head_timeout(&self, endpoint: &Choice) -> Duration {
        let upstream = &self.route.upstream;
        let (left, retry) = (self.head_time.left(), &upstream.settings().retry);
        let divides = !retry.attempt.is_zero()
            && self.begun < retry.attempts
            && self.idempotent
            && self.replay.is_possible()
            && upstream.has_other(endpoint, &self.avoid);
        if divides { left.min(retry.attempt) } else { left }
    }

    fn need(&self, usual: Need) -> Need {
        if self.outgoing.extra.upgrade { Need::Upgrade } else { usual }
    }

    /// Decides what follows an attempt that failed.
    fn next(&self, at: &Choice, failure: &Failure, fate: Fate, sent: Instant) -> Next {
        match failure.kind() {
            // The limit is the upstream's, so that another endpoint is behind it too.
            Kind::ConnectionLimitReached => Next::Fail,
            _ => attempt::next(fate, self.left(at, failure, fate, sent)),
        }
    }

    /// Returns where the request goes, and what it needs there, if it goes anywhere; that is charged then.
    async fn onward(
        &mut self,
        next: Next,
        at: &Choice,
        in_flight: &mut InFlight,
    ) -> Option<(Choice, Need)> {
        let upstream = &self.route.upstream;
        let (else_same, charged) = match next {
            Next::Fail => return None,
            Next::Fresh => {
                self.begun -= 1;
                self.met_stale = true;
                upstream.metrics().retried(RetryResult::Stale);
                return Some((at.clone(), self.need(Need::Fresh)));
            }
            Next::Turn => {
                self.begun -= 1;
                upstream.metrics().retried(RetryResult::Refused);
                return Some((self.turn(at, in_flight).await, self.need(Need::Any)));
            }
            Next::Elsewhere { else_same } => {
                self.avoid.push(at.number());
                if let Some(other) = upstream.after_waiting(at, &self.avoid, in_flight).await {
                    self.begun -= 1;
                    return Some((other, self.need(Need::Any)));
                }
                (else_same, true)
            }
            Next::Attempt { else_same, charged } => {
                if !else_same {
                    self.avoid.push(at.number());
                }
                (else_same, charged)
            }
        };
        let endpoint = match upstream.after(at, &self.avoid, in_flight) {
            Some(other) => other,
            None if else_same => at.clone(),
            None => return None,
        };
        if charged && !self.is_affordable() {
            return None;
        }
        self.mourned |= !charged;
        Some((endpoint, self.need(Need::Any)))
    }

    /// Returns what is left to the request.
    fn left(&self, at: &Choice, failure: &Failure, fate: Fate, sent: Instant) -> Left {
        let settings = self.route.upstream.settings();
        let now = Instant::now();
        let waits = |since: Instant| now.duration_since(since) < settings.limits.pending_time;
        let died = match fate {
            Fate::Lost => at.deaths().took(sent, now, true),
            Fate::Executed if End::of(failure) == End::Closed => at.deaths().took(sent, now, false),
            _ => false,
        };
        Left {
            idempotent: self.idempotent,
            replay: self.replay.is_possible(),
            attempts: settings.retry.attempts.saturating_sub(self.begun),
            retries: settings.retry.attempts > 1,
            time: !self.head_time.left().is_zero(),
            turn: self.refused_since.is_none_or(waits),
            fresh: !self.met_stale,
            bereaved: died && !self.mourned,
            passes: attempt::may_pass(failure.kind()),
        }
    }

    /// Waits for its turn after having been refused unprocessed: at first not at all, since a new stream
    /// waits for what the upstream allows; then longer each time. An endpoint that goes on to refuse
    /// it gives it to another one.
    async fn turn(&mut self, at: &Choice, in_flight: &mut InFlight) -> Choice {
        self.refused_since.get_or_insert_with(Instant::now);
        self.refused += 1;
        if self.refused == 1 {
            return at.clone();
        }
        tokio::time::sleep(Duration::from_millis(1 << self.refused.min(6))).await;
        let other = self.route.upstream.after(at, &self.avoid, in_flight);
        other.unwrap_or_else(|| at.clone())
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

    fn trouble(&self, broken: Broken, exchange: &Exchange<Reader>) -> Trouble {
        let now = Instant::now();
        self.head_time.take_back(exchange.patience(), now);
        match broken {
            Broken::Upstream(failure) => {
                let fate = exchange.seen(&failure, now).fate();
                let failure = if fate.is_unprocessed() { failure.unprocessed() } else { failure };
                let failure = if fate == Fate::Declined { failure.blameless() } else { failure };
                Trouble::Upstream(failure, fate, exchange.patience().sent())
            }
            Broken::Client(failure, source) => {
                tracing::debug!(%failure, %source, "the client failed");
                Trouble::Client(failure)
            }
        }
    }
}

/// An exchange whose head is awaited. How long the upstream was waited for is told to `adaptive`, also if
/// the client leaves and all of it is dropped.
struct Awaited<'e> {
    exchange: &'e mut Exchange<Reader>,
    slot: Option<Slot>,
}

impl Awaited<'_> {
    async fn final_head(
        &mut self,
        head: &mut ResponseHead,
        client: &Client,
        version: Version,
    ) -> Result<(), Broken> {
        while self.exchange.head(head).await? == Came::Interim {
            // The client's connection says 100 itself, when the first content is asked for.
            if head.status != StatusCode::CONTINUE {
                client.pass_interim(head, version).await;
            }
        }
        Ok(())
    }

    /// The head was waited for until `now`.
    fn ended(&mut self, answered: bool, now: Instant) {
        let Some(slot) = self.slot.take() else { return };
        let waited = self.exchange.patience().head_waited(now);
        if answered { slot.answered(waited) } else { slot.unanswered(waited) }
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if self.slot.is_some() {
            self.ended(false, Instant::now());
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

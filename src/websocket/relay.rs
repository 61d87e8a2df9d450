//! The relay: two byte streams, each with its own half of the closing handshake (RFC 6455 §7).
//!
//! One future, one poll: no task of its own, no lock, no buffer while nothing happens. Each side
//! is read into the worker's scratch buffer; what passes is written from there, and only what the
//! other side does not take at once is copied, which is also the back-pressure: while something
//! waits for a side, its source is not read.
//!
//! | event | to the client | to the upstream |
//! | --- | --- | --- |
//! | upstream closes, code may pass | the same Close | the client's reply |
//! | upstream closes with 1011, 1014 or an illegal code | 1011 | the client's reply |
//! | upstream ends, stalls, breaks RFC 6455 | 1011 | – |
//! | client closes | the upstream's reply, or an echo | the same Close |
//! | client ends, stalls | – | 1001 between frames, else a reset |
//! | client breaks RFC 6455 | 1002, or 1009 for size | 1001 between frames, else a reset |
//! | drain, at this WebSocket's turn | 1012 | 1001 between frames, else a reset |
//! | no message for `idle_timeout` | 1001 | 1001 between frames, else a reset |
//!
//! After a Close nothing else goes to that side. The relay is over when both sides are done: Close
//! sent and received, or the stream ended, or `close_timeout` passed. Then [`end`] shuts both down
//! and reads away what they still send, so that no reset destroys a Close on its way.

mod clock;
mod closing;
mod ending;
mod pending;
mod side;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::close::Close;
use super::handshake::Agreed;
use super::walk::{FromClient, FromUpstream, Step};
use crate::config::model::WebSocket as Settings;
use crate::failure::render::CloseFrame;
use crate::failure::{ClientFailure, Failure, Kind};
pub use ending::end;
use pending::Pending;
use side::Side;

pub use crate::telemetry::metrics::{Direction, SessionSummary, Traffic};

/// Incomplete frames up to this size are carried in front of the next read; larger ones are read
/// in place, so that a frame that comes in drops is not copied again and again.
const CARRY: usize = 16 * 1024;
/// Rounds of one poll, after which others get their turn.
const ROUNDS: usize = 8;

/// The read buffer of one worker, borrowed only inside a poll.
#[derive(Clone, Debug)]
pub struct Scratch(Rc<RefCell<Vec<u8>>>);

impl Scratch {
    /// A buffer for all relays of a worker, for `read` bytes at a time.
    #[must_use]
    pub fn new(read: usize) -> Self {
        Scratch(Rc::new(RefCell::new(vec![0; read + CARRY])))
    }
}

/// What was read behind the handshake.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    /// From the client.
    pub from_client: Bytes,
    /// From the upstream.
    pub from_upstream: Bytes,
}

/// Who is told what happens.
pub trait Observer {
    /// So many messages became complete, and so many payload bytes passed.
    fn relayed(&self, direction: Direction, messages: u64, bytes: u64);

    /// The upstream failed: settles it and gives the Close for the client. Called once at most.
    fn upstream_failed(&self, failure: Failure) -> CloseFrame;

    /// The client failed. Called once at most.
    fn client_failed(&self, failure: ClientFailure);
}

/// How a relay ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Codes, initiator, traffic.
    pub summary: SessionSummary,
    /// The upstream's stream must end in a reset: it stands inside a frame that nobody completes.
    pub abort_upstream: bool,
}

/// What the relay is called with.
#[derive(Debug)]
pub struct Terms<'t> {
    /// What was read already.
    pub opening: Opening,
    /// What the handshake agreed on.
    pub agreed: Agreed,
    /// Waits and limits.
    pub settings: &'t Settings,
    /// The worker's buffer.
    pub scratch: &'t Scratch,
}

/// Relays until both sides are done; [`end`] then ends the two streams. Cancel-safe in that dropping it ends the WebSocket.
pub async fn relay<C, U, O>(
    client: &mut C,
    upstream: &mut U,
    terms: Terms<'_>,
    observer: &O,
    drain: impl Future<Output = ()>,
) -> Report
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
    O: Observer,
{
    let mut drain = pin!(drain);
    let mut relay = Relay::new(client, upstream, terms, observer);
    poll_fn(|cx| relay.poll(cx, drain.as_mut())).await;
    relay.report()
}

struct Relay<'r, C, U, O> {
    client: &'r mut C,
    upstream: &'r mut U,
    settings: &'r Settings,
    scratch: &'r Scratch,
    observer: &'r O,
    opening: Opening,

    from_upstream: FromUpstream,
    from_client: FromClient,
    to_client: Pending,
    to_upstream: Pending,
    client_side: Side,
    upstream_side: Side,

    timer: Pin<Box<Sleep>>,
    /// The timer knows whom to wake.
    timer_is_set: bool,
    /// The time, if something was read in this poll.
    clock: Option<Instant>,
    last_message: Instant,
    /// Draining, and when it is this WebSocket's turn.
    drain_at: Option<Instant>,
    /// A Close for the client that waits for its turn.
    later: Option<Box<closing::Later>>,
    closing_since: Option<Instant>,
    gave_up: bool,
    rng: u64,
    drained: bool,
    abort_upstream: bool,
    outcome: Outcome,
}

/// What is known of how it ends.
#[derive(Debug, Default)]
struct Outcome {
    initiator: Option<&'static str>,
    code: Option<u16>,
    /// What the client asked to close with, in case the upstream never answers it.
    asked: Option<Close>,
    to_client: Traffic,
    to_upstream: Traffic,
}

impl<'r, C, U, O> Relay<'r, C, U, O>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
    O: Observer,
{
    fn new(client: &'r mut C, upstream: &'r mut U, terms: Terms<'r>, observer: &'r O) -> Self {
        let Terms { opening, agreed, settings, scratch } = terms;
        let now = Instant::now();
        Relay {
            client,
            upstream,
            settings,
            scratch,
            observer,
            opening,
            from_upstream: FromUpstream::new(agreed.rsv, settings.max_frame, settings.hold),
            from_client: FromClient::new(agreed.rsv, settings.max_frame),
            to_client: Pending::default(),
            to_upstream: Pending::default(),
            client_side: Side::new(now),
            upstream_side: Side::new(now),
            timer: Box::pin(sleep_until(now + first_check(settings))),
            timer_is_set: false,
            clock: None,
            last_message: now,
            drain_at: None,
            later: None,
            closing_since: None,
            gave_up: false,
            rng: seed(),
            drained: false,
            abort_upstream: false,
            outcome: Outcome::default(),
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        drain: Pin<&mut impl Future<Output = ()>>,
    ) -> Poll<()> {
        self.clock = None;
        if !self.drained && drain.poll(cx).is_ready() {
            self.drained = true;
            self.begin_drain();
        }
        // Most polls bring one message of one side. A source that had nothing is not asked again,
        // unless something waits for its target.
        let (mut from_upstream, mut from_client) = (true, true);
        for _ in 0..ROUNDS {
            from_upstream =
                (from_upstream || !self.to_client.is_empty()) && self.poll_from_upstream(cx);
            from_client =
                (from_client || !self.to_upstream.is_empty()) && self.poll_from_client(cx);
            self.shut(cx);
            if self.is_over() {
                return Poll::Ready(());
            }
            if !(from_upstream || from_client) {
                if self.poll_timer(cx).is_pending() {
                    return Poll::Pending;
                }
                if self.is_over() {
                    return Poll::Ready(());
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_over(&self) -> bool {
        self.client_side.is_done(&self.to_client) && self.upstream_side.is_done(&self.to_upstream)
    }

    /// Lets a side go as soon as it is done: a client does not wait for an upstream that owes us its
    /// Close, nor the other way round.
    fn shut(&mut self, cx: &mut Context<'_>) {
        if !self.client_side.shut && self.client_side.is_done(&self.to_client) {
            self.client_side.shut = Pin::new(&mut *self.client).poll_shutdown(cx).is_ready();
        }
        let done = self.upstream_side.is_done(&self.to_upstream) && !self.abort_upstream;
        if !self.upstream_side.shut && done {
            self.upstream_side.shut = Pin::new(&mut *self.upstream).poll_shutdown(cx).is_ready();
        }
    }

    fn upstream_spoke(&mut self) -> Instant {
        let now = Instant::now();
        self.upstream_side.seen(now);
        self.clock = Some(now);
        now
    }

    /// One round towards the client; whether anything moved.
    fn poll_from_upstream(&mut self, cx: &mut Context<'_>) -> bool {
        if !(self.to_client.is_empty() || self.flush_client(cx)) || self.upstream_side.is_silent() {
            return false;
        }
        if !self.opening.from_upstream.is_empty() {
            let now = Instant::now();
            let early = std::mem::take(&mut self.opening.from_upstream);
            let keep = self.take_from_upstream(&early, now, cx);
            self.upstream_side.carry(early.get(keep..).unwrap_or_default());
            return true;
        }
        let scratch = Rc::clone(&self.scratch.0);
        let mut scratch = scratch.borrow_mut();
        match self.upstream_side.poll_read(self.upstream, &mut scratch, cx) {
            Poll::Pending => false,
            Poll::Ready(Err(error)) => {
                self.upstream_ended(Some(error));
                true
            }
            Poll::Ready(Ok(side::Read::Ended)) => {
                self.upstream_ended(None);
                true
            }
            Poll::Ready(Ok(side::Read::InPlace)) => {
                let now = self.upstream_spoke();
                let data = self.upstream_side.take_partial();
                let keep = self.take_from_upstream(&data, now, cx);
                self.upstream_side.keep_partial(data, keep);
                true
            }
            Poll::Ready(Ok(side::Read::Scratch(count))) => {
                let now = self.upstream_spoke();
                let data = scratch.get(..count).unwrap_or_default();
                let keep = self.take_from_upstream(data, now, cx);
                self.upstream_side.carry(data.get(keep..).unwrap_or_default());
                true
            }
        }
    }

    /// Walks what has come from the upstream; gives how much of it is dealt with.
    fn take_from_upstream(&mut self, data: &[u8], now: Instant, cx: &mut Context<'_>) -> usize {
        // `run..at` passes as it is and has not been written yet.
        let (mut run, mut at) = (0, 0);
        // After a Close nothing passes any more, but the upstream's own Close is still awaited.
        let muted = self.client_side.close_sent;
        loop {
            if self.upstream_side.close_received || (self.client_side.close_sent && !muted) {
                at = data.len();
                run = at;
                break;
            }
            if muted {
                run = at;
            }
            let rest = data.get(at..).unwrap_or_default();
            let run_bytes = data.get(run..at).unwrap_or_default();
            match self.from_upstream.step(rest, self.upstream_side.ping) {
                Step::Pass(count) => at += count,
                Step::Swallow(count) => {
                    self.to_client.push(run_bytes);
                    self.upstream_side.ping = None;
                    at += count;
                    run = at;
                }
                Step::Skip(count) => {
                    self.to_client.push(run_bytes);
                    at += count;
                    run = at;
                }
                Step::Fragment(skip, header, count) => {
                    self.to_client.push(run_bytes);
                    if !muted {
                        self.to_client.push_header(&header);
                    }
                    run = at + skip;
                    at = run + count;
                }
                Step::Close(count, close) => {
                    self.to_client.push(run_bytes);
                    at += count;
                    run = at;
                    self.upstream_closed(close);
                }
                Step::Broken(violation) => {
                    self.to_client.push(run_bytes);
                    self.upstream_failed(Kind::WebsocketProtocolError, Some(Box::new(violation)));
                    // What follows cannot be understood, also if there is nobody to be told, or not yet:
                    // the walker would say the same of it for ever.
                    at = data.len();
                    run = at;
                    break;
                }
                Step::More(size) => {
                    self.upstream_side.needs = size;
                    break;
                }
            }
        }
        let (messages, bytes) = self.from_upstream.count();
        if !muted && (messages > 0 || bytes > 0) {
            self.last_message = now;
            self.outcome.to_client.messages += messages;
            self.outcome.to_client.bytes += bytes;
            self.observer.relayed(Direction::ToClient, messages, bytes);
        }
        self.send_to_client(data.get(run..at).unwrap_or_default(), cx);
        at
    }

    /// Writes what passes; keeps what the client does not take.
    fn send_to_client(&mut self, data: &[u8], cx: &mut Context<'_>) {
        if self.to_client.send(self.client, data, cx).is_err() {
            self.client_gone();
        }
    }

    /// Whether everything for the client has left.
    fn flush_client(&mut self, cx: &mut Context<'_>) -> bool {
        match self.to_client.poll_flush(self.client, cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                self.client_gone();
                true
            }
            Poll::Pending => false,
        }
    }

    /// One round towards the upstream; whether anything moved.
    fn poll_from_client(&mut self, cx: &mut Context<'_>) -> bool {
        if !(self.to_upstream.is_empty() || self.flush_upstream(cx)) || self.client_side.is_silent()
        {
            return false;
        }
        if !self.opening.from_client.is_empty() {
            let now = Instant::now();
            let early = std::mem::take(&mut self.opening.from_client);
            let keep = self.take_from_client(&early, now, cx);
            self.client_side.carry(early.get(keep..).unwrap_or_default());
            return true;
        }
        let scratch = Rc::clone(&self.scratch.0);
        let mut scratch = scratch.borrow_mut();
        match self.client_side.poll_read(self.client, &mut scratch, cx) {
            Poll::Pending => false,
            Poll::Ready(Err(_) | Ok(side::Read::Ended)) => {
                self.client_gone();
                true
            }
            // A client's incomplete frames are headers and control frames: never so large.
            Poll::Ready(Ok(side::Read::InPlace)) => true,
            Poll::Ready(Ok(side::Read::Scratch(count))) => {
                let now = Instant::now();
                self.client_side.seen(now);
                self.clock = Some(now);
                let data = scratch.get(..count).unwrap_or_default();
                let keep = self.take_from_client(data, now, cx);
                self.client_side.carry(data.get(keep..).unwrap_or_default());
                true
            }
        }
    }

    /// Walks what has come from the client; gives how much of it is dealt with.
    fn take_from_client(&mut self, data: &[u8], now: Instant, cx: &mut Context<'_>) -> usize {
        let (mut run, mut at) = (0, 0);
        let muted = self.upstream_side.close_sent;
        loop {
            if self.client_side.close_received {
                at = data.len();
                run = at;
                break;
            }
            if muted {
                run = at;
            }
            let rest = data.get(at..).unwrap_or_default();
            let run_bytes = data.get(run..at).unwrap_or_default();
            match self.from_client.step(rest, self.client_side.ping) {
                Step::Pass(count) => at += count,
                Step::Swallow(count) => {
                    self.to_upstream.push(run_bytes);
                    self.client_side.ping = None;
                    at += count;
                    run = at;
                }
                // A client's frames are never cut.
                Step::Fragment(skip, _, count) => at += skip + count,
                Step::Skip(count) => at += count,
                Step::Close(count, close) => {
                    self.to_upstream.push(run_bytes);
                    let whole = data.get(at..at + count).unwrap_or_default();
                    at += count;
                    run = at;
                    self.client_closed(&close, whole);
                }
                Step::Broken(violation) => {
                    self.to_upstream.push(run_bytes);
                    at = data.len();
                    run = at;
                    self.client_broke(violation);
                    break;
                }
                Step::More(size) => {
                    self.client_side.needs = size;
                    break;
                }
            }
        }
        let (messages, bytes) = self.from_client.count();
        if !muted && (messages > 0 || bytes > 0) {
            self.last_message = now;
            self.outcome.to_upstream.messages += messages;
            self.outcome.to_upstream.bytes += bytes;
            self.observer.relayed(Direction::ToUpstream, messages, bytes);
        }
        let data = data.get(run..at).unwrap_or_default();
        if !self.upstream_side.is_over && self.to_upstream.send(self.upstream, data, cx).is_err() {
            // It may have said why before it left: reading tells.
            self.to_upstream.clear();
        }
        at
    }

    fn flush_upstream(&mut self, cx: &mut Context<'_>) -> bool {
        if self.upstream_side.is_over {
            self.to_upstream.clear();
            return true;
        }
        match self.to_upstream.poll_flush(self.upstream, cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                self.to_upstream.clear();
                true
            }
            Poll::Pending => false,
        }
    }
}

impl<C, U, O> Relay<'_, C, U, O> {
    fn random(&mut self) -> u64 {
        // xorshift64*: keys need to be unlike what the client chose, not secret (RFC 6455 §10.3).
        self.rng ^= self.rng >> 12;
        self.rng ^= self.rng << 25;
        self.rng ^= self.rng >> 27;
        self.rng.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn report(&self) -> Report {
        Report {
            summary: SessionSummary {
                code: self.outcome.code.unwrap_or(1006),
                initiator: self.outcome.initiator.unwrap_or("seawall"),
                to_client: self.outcome.to_client,
                to_upstream: self.outcome.to_upstream,
            },
            abort_upstream: self.abort_upstream,
        }
    }
}

/// When something may have to be done first.
fn first_check(settings: &Settings) -> Duration {
    if settings.idle_timeout.is_zero() {
        settings.ping_interval
    } else {
        settings.ping_interval.min(settings.idle_timeout)
    }
}

fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() | 1
}

#[cfg(test)]
mod tests;

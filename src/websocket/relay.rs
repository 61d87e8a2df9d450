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
//! | drain | 1012 | 1001 between frames, else a reset |
//!
//! After a Close nothing else goes to that side. The relay is over when both sides are done: Close
//! sent and received, or the stream ended, or `close_timeout` passed. Then [`end`] shuts both down
//! and reads away what they still send, so that no reset destroys a Close on its way.

mod ending;
mod pending;
mod side;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::close::{self, Close};
use super::frame::{self, CLOSE, PING};
use super::handshake::Agreed;
use super::walk::{FromClient, FromUpstream, Step, Violation};
use crate::config::model::WebSocket as Settings;
use crate::failure::render::CloseFrame;
use crate::failure::{ClientFailure, Failure, Kind, Phase, Source};
pub use ending::end;
use pending::Pending;
use side::{Liveness, Side};

pub use crate::telemetry::metrics::{Direction, SessionSummary, Traffic};

/// Bytes read at a time: with 64 KiB a relay that walks every header costs what a blind tunnel
/// costs, with 8 KiB twice as much.
const READ: usize = 64 * 1024;
/// Incomplete frames up to this size are carried in front of the next read; larger ones are read
/// in place, so that a frame that comes in drops is not copied again and again.
const CARRY: usize = 16 * 1024;
/// Rounds of one poll, after which others get their turn.
const ROUNDS: usize = 8;

/// The read buffer of one worker, borrowed only inside a poll.
#[derive(Clone, Debug)]
pub struct Scratch(Rc<RefCell<Vec<u8>>>);

impl Scratch {
    /// A buffer for all relays of a worker.
    #[must_use]
    pub fn new() -> Self {
        Scratch(Rc::new(RefCell::new(vec![0; READ + CARRY])))
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
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
            timer: Box::pin(sleep_until(now + settings.ping_interval)),
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
        if !self.drained && drain.poll(cx).is_ready() {
            self.drained = true;
            self.drain();
        }
        for _ in 0..ROUNDS {
            let mut moved = self.poll_from_upstream(cx);
            moved |= self.poll_from_client(cx);
            self.shut(cx);
            if self.is_over() {
                return Poll::Ready(());
            }
            if !moved {
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

    /// One round towards the client; whether anything moved.
    fn poll_from_upstream(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.flush_client(cx) || self.upstream_side.is_silent() {
            return false;
        }
        let now = Instant::now();
        if !self.opening.from_upstream.is_empty() {
            let early = std::mem::take(&mut self.opening.from_upstream);
            let keep = self.take_from_upstream(&early, cx);
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
                self.upstream_side.seen(now);
                let data = self.upstream_side.take_partial();
                let keep = self.take_from_upstream(&data, cx);
                self.upstream_side.keep_partial(data, keep);
                true
            }
            Poll::Ready(Ok(side::Read::Scratch(count))) => {
                self.upstream_side.seen(now);
                let data = scratch.get(..count).unwrap_or_default();
                let keep = self.take_from_upstream(data, cx);
                self.upstream_side.carry(data.get(keep..).unwrap_or_default());
                true
            }
        }
    }

    /// Walks what has come from the upstream; gives how much of it is dealt with.
    fn take_from_upstream(&mut self, data: &[u8], cx: &mut Context<'_>) -> usize {
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
                    run = at;
                    self.upstream_failed(Kind::WebsocketProtocolError, Some(Box::new(violation)));
                }
                Step::More(size) => {
                    self.upstream_side.needs = size;
                    break;
                }
            }
        }
        let (messages, bytes) = self.from_upstream.count();
        if !muted && (messages > 0 || bytes > 0) {
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
        if !self.flush_upstream(cx) || self.client_side.is_silent() {
            return false;
        }
        let now = Instant::now();
        if !self.opening.from_client.is_empty() {
            let early = std::mem::take(&mut self.opening.from_client);
            let keep = self.take_from_client(&early, cx);
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
                self.client_side.seen(now);
                let data = scratch.get(..count).unwrap_or_default();
                let keep = self.take_from_client(data, cx);
                self.client_side.carry(data.get(keep..).unwrap_or_default());
                true
            }
        }
    }

    /// Walks what has come from the client; gives how much of it is dealt with.
    fn take_from_client(&mut self, data: &[u8], cx: &mut Context<'_>) -> usize {
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

    // -- What ends a WebSocket

    fn began(&mut self, initiator: &'static str) {
        self.outcome.initiator.get_or_insert(initiator);
        let since = *self.closing_since.get_or_insert_with(Instant::now);
        // The closing wait is likely shorter than what the timer stood for.
        self.timer.as_mut().reset(since + self.settings.close_timeout);
    }

    /// Says Close to the client, once.
    fn close_client(&mut self, code: u16, frame: &[u8]) {
        if !self.client_side.close_sent && !self.client_side.is_over {
            self.to_client.push(frame);
            self.client_side.close_sent = true;
            self.outcome.code = Some(code);
        }
    }

    /// Says Close to the upstream, once and only between two frames; else it will be reset.
    fn close_upstream(&mut self, code: u16) {
        if self.upstream_side.close_sent || self.upstream_side.is_over {
            return;
        }
        if self.from_client.is_between_frames() {
            let [a, b, c, d, ..] = self.random().to_be_bytes();
            let key = [a, b, c, d];
            let payload = close::payload(code, "");
            self.to_upstream.push(&frame::control(CLOSE, &payload, Some(key)));
            self.upstream_side.close_sent = true;
        } else {
            self.abort_upstream = true;
            self.upstream_side.is_over = true;
        }
    }

    fn upstream_closed(&mut self, close: Close) {
        self.upstream_side.close_received = true;
        let failed = match &close {
            // RFC 6455 §5.5.1: what the client closed with comes back as the answer.
            Close::Code(code, _) if self.asked_for(*code) => None,
            Close::Code(1011, _) => Some(Kind::ApplicationError),
            Close::Code(1014, _) => Some(Kind::DependencyFailure),
            Close::Illegal => Some(Kind::WebsocketProtocolError),
            Close::Empty | Close::Code(..) => None,
        };
        if let Some(kind) = failed {
            let source: Option<Source> = match close {
                Close::Illegal => Some(Box::new(Violation::Close)),
                Close::Code(code, reason) => Some(Box::new(SaidClose { code, reason })),
                Close::Empty => None,
            };
            return self.upstream_failed(kind, source);
        }
        self.began("upstream");
        let (code, payload) = match close {
            Close::Code(code, reason) => (code, close::payload(code, &reason)),
            Close::Empty | Close::Illegal => (1005, Vec::new()),
        };
        self.close_client(code, &frame::control(CLOSE, &payload, None));
    }

    fn asked_for(&self, code: u16) -> bool {
        self.outcome.asked.as_ref().is_some_and(|asked| asked.code() == code)
    }

    fn upstream_ended(&mut self, error: Option<io::Error>) {
        if self.upstream_side.is_over {
            return;
        }
        let expected = self.upstream_side.close_received || self.client_side.close_sent;
        if expected || self.outcome.asked.is_some() || self.client_side.is_over {
            self.upstream_side.is_over = true;
            self.echo();
            return;
        }
        let source: Source = match error {
            Some(error) => Box::new(error),
            None => Box::new(EndedWithoutClose),
        };
        self.upstream_side.is_over = true;
        self.upstream_failed(Kind::ConnectionTerminated, Some(source));
    }

    /// The upstream owes the client the answer to its Close: it gets its own code back.
    fn echo(&mut self) {
        if let Some(asked) = self.outcome.asked.take() {
            let (code, payload) = match &asked {
                Close::Code(code, _) => (*code, close::payload(*code, "")),
                Close::Empty | Close::Illegal => (1005, Vec::new()),
            };
            self.close_client(code, &frame::control(CLOSE, &payload, None));
        }
    }

    fn upstream_failed(&mut self, kind: Kind, source: Option<Source>) {
        self.began("upstream");
        let inside = self.from_upstream.is_inside_message() || self.upstream_side.has_partial();
        self.outcome.to_client.cut |= inside;
        if !self.upstream_side.close_received {
            self.upstream_side.is_over = true;
        }
        if self.client_side.close_sent || self.client_side.is_over {
            return;
        }
        let mut failure = Failure::new(kind, Phase::Websocket);
        if let Some(source) = source {
            failure = failure.with_source(source);
        }
        let close = self.observer.upstream_failed(failure);
        self.close_client(close.code, &close.encode_unmasked());
    }

    fn client_closed(&mut self, close: &Close, whole: &[u8]) {
        self.client_side.close_received = true;
        self.began("client");
        if !self.client_side.close_sent {
            self.outcome.asked = Some(close.clone());
        }
        if self.upstream_side.is_over {
            self.echo();
        } else if !self.upstream_side.close_sent {
            self.to_upstream.push(whole);
            self.upstream_side.close_sent = true;
        }
    }

    fn client_broke(&mut self, violation: Violation) {
        self.began("client");
        self.outcome.to_upstream.cut |= !self.from_client.is_between_messages();
        self.client_side.close_received = true;
        if !self.client_side.close_sent {
            let (failure, code) = match violation {
                Violation::TooLarge => (ClientFailure::WebsocketMessageTooBig, 1009),
                _ => (ClientFailure::WebsocketProtocolError, 1002),
            };
            self.observer.client_failed(failure);
            let payload = close::payload(code, &violation.to_string());
            self.close_client(code, &frame::control(CLOSE, &payload, None));
        }
        self.close_upstream(1001);
    }

    fn client_gone(&mut self) {
        if self.client_side.is_over {
            return;
        }
        self.client_side.is_over = true;
        self.to_client.clear();
        if self.client_side.close_received || self.client_side.close_sent {
            self.close_upstream(1001);
            return;
        }
        self.began("client");
        self.outcome.to_upstream.cut |= !self.from_client.is_between_messages();
        self.observer.client_failed(ClientFailure::Gone);
        self.close_upstream(1001);
    }

    fn drain(&mut self) {
        self.began("seawall");
        let payload = close::payload(1012, "restarting");
        self.close_client(1012, &frame::control(CLOSE, &payload, None));
        self.close_upstream(1001);
    }

    // -- Time

    /// Ready when something was done about the time.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.closing_since.is_none() {
            let blocked = [self.to_client.blocked_since(), self.to_upstream.blocked_since()];
            for since in blocked.into_iter().flatten() {
                let limit = since + self.settings.write_timeout;
                if self.timer.deadline() > limit {
                    self.timer.as_mut().reset(limit);
                }
            }
        }
        std::task::ready!(self.timer.as_mut().poll(cx));
        let now = Instant::now();
        if let Some(since) = self.closing_since {
            if now >= since + self.settings.close_timeout {
                self.give_up(now);
            }
            let since = self.closing_since.unwrap_or(now);
            self.timer.as_mut().reset(since + self.settings.close_timeout);
            return Poll::Ready(());
        }
        // A side whose words nobody takes is not read: its silence means nothing.
        let heard = [self.to_upstream.is_empty(), self.to_client.is_empty()];
        self.check_client(now, heard[0]);
        if self.closing_since.is_none() {
            self.check_upstream(now, heard[1]);
        }
        if self.closing_since.is_none() {
            let next = self.next_check(now);
            self.timer.as_mut().reset(next);
        }
        Poll::Ready(())
    }

    fn check_client(&mut self, now: Instant, heard: bool) {
        if self.to_client.is_blocked_for(self.settings.write_timeout, now) {
            return self.client_gone();
        }
        if !heard {
            return;
        }
        match self.client_side.liveness(now, self.settings) {
            Liveness::Alive => {}
            Liveness::Silent => {
                let token = self.random().to_be_bytes();
                self.to_client.push(&frame::control(PING, &token, None));
                self.client_side.pinged(token, now);
            }
            Liveness::Gone => self.client_gone(),
        }
    }

    fn check_upstream(&mut self, now: Instant, heard: bool) {
        if self.to_upstream.is_blocked_for(self.settings.write_timeout, now) {
            self.upstream_side.is_over = true;
            self.abort_upstream = true;
            return self.upstream_failed(Kind::ConnectionWriteTimeout, None);
        }
        if !heard {
            return;
        }
        match self.upstream_side.liveness(now, self.settings) {
            // Inside a client's frame nothing can be said, and nothing can be expected either.
            Liveness::Silent if self.from_client.is_between_frames() => {
                let token = self.random().to_be_bytes();
                let [a, b, c, d, ..] = self.random().to_be_bytes();
                self.to_upstream.push(&frame::control(PING, &token, Some([a, b, c, d])));
                self.upstream_side.pinged(token, now);
            }
            Liveness::Alive | Liveness::Silent => {}
            Liveness::Gone => {
                self.abort_upstream = true;
                self.upstream_failed(Kind::ConnectionReadTimeout, None);
            }
        }
    }

    /// When something may have to be done next.
    fn next_check(&self, now: Instant) -> Instant {
        let client = self.client_side.next_check(self.settings);
        let upstream = self.upstream_side.next_check(self.settings);
        // What is overdue could not be done now; look again soon, not at once.
        let soon = now + self.settings.ping_interval.min(self.settings.pong_timeout) / 2;
        [client, upstream]
            .into_iter()
            .map(|at| if at <= now { soon } else { at })
            .min()
            .unwrap_or(soon)
    }

    /// A side had its time to close.
    fn give_up(&mut self, now: Instant) {
        if self.gave_up {
            self.abort_upstream |= !self.upstream_side.is_over && !self.to_upstream.is_empty();
            self.client_side.is_over = true;
            self.upstream_side.is_over = true;
            return;
        }
        self.gave_up = true;
        // What is said now has the same time again to leave.
        self.closing_since = Some(now);
        self.upstream_side.is_over |= self.upstream_side.close_sent;
        self.client_side.is_over |= self.client_side.close_sent && !self.client_side.close_received;
        self.echo();
        self.close_upstream(1001);
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

fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() | 1
}

/// The connection ended although the WebSocket was open.
#[derive(Debug)]
struct EndedWithoutClose;

impl std::fmt::Display for EndedWithoutClose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the upstream closed the connection without a close frame")
    }
}

impl std::error::Error for EndedWithoutClose {}

/// What the app closed with, for the log: its reason does not reach the client.
#[derive(Debug)]
struct SaidClose {
    code: u16,
    reason: String,
}

impl std::fmt::Display for SaidClose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the app closed with {} {:?}", self.code, self.reason)
    }
}

impl std::error::Error for SaidClose {}

#[cfg(test)]
mod tests;

//! The content of a response on its way to the client, as the client's connection polls it.
//!
//! Before: `hold` has decided what is committed. Here the rest of an upstream's content flows, with
//! the client's demand as the back-pressure, and a failure becomes an abort: an error that is turned
//! into a closed connection or RST_STREAM, so that what was cut off never looks complete (P1).

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::replay::Reader;
use super::settle::Committed;
use super::sse::Events;
use crate::failure::ClientFailure;
use crate::failure::rehearsal::Rehearsal;
use crate::message::field::clean_trailers;
use crate::message::listed::Listed;
use crate::upstream::circuit::Passage;
use crate::upstream::exchange::{Broken, Exchange, Piece};
use crate::upstream::pieces::Pieces;
use crate::upstream::{Choice, InFlight, Outcome, Upstream};

/// Response content, of any origin.
#[derive(Debug)]
pub struct Content(Inner);

#[derive(Debug)]
enum Inner {
    Whole(Option<Bytes>),
    Held(Box<Held>),
    Relayed(Box<Relayed>),
}

/// Content that is whole, in pieces, with trailers.
#[derive(Debug)]
struct Held {
    pieces: Pieces,
    trailers: Option<HeaderMap>,
    left: u64,
}

/// Content that still flows.
#[derive(Debug)]
pub struct Relayed {
    /// What comes before what the source has: what was held when the response was committed.
    pub held: Pieces,
    /// What comes when `held` is empty and the source is gone.
    pub ending: Ending,
    /// Passes the content event by event.
    pub events: Option<Box<Events>>,
    /// Where the rest comes from.
    pub source: Source,
    /// Who is told how it ends.
    pub committed: Option<Committed>,
    /// Bytes still due, if the response has a Content-Length.
    pub length: Option<u64>,
    /// Set when the end of the connection would make a cut-off response look complete.
    pub reset: Option<Rc<Cell<bool>>>,
    /// The fields that the response's Connection lists: no trailers (RFC 9110 §7.6.1).
    pub listed: Option<Box<Listed<HeaderName>>>,
    /// A gRPC call over HTTP/2: a failure is told in trailers. (gRPC-Web over HTTP/1.1 has its
    /// trailers inside the content, where they could only follow a whole message.)
    pub trailers_tell: bool,
    /// A failure that the client asked for, after so many bytes more.
    pub rehearsal: Option<Rehearsal>,
}

/// How content ends.
#[derive(Debug, Default)]
pub enum Ending {
    /// By itself.
    #[default]
    Whole,
    /// With trailers.
    Trailers(HeaderMap),
    /// Cut off, once what came before has had a chance to leave.
    CutOff,
    /// Cut off now.
    CutOffNow,
}

/// An exchange, and where its connection goes afterwards.
#[derive(Debug)]
pub struct Source {
    /// Gone once the content is whole.
    pub exchange: Option<Exchange<Reader>>,
    /// Whose pool takes the connection back.
    pub upstream: Rc<Upstream>,
    /// Which of its endpoints.
    pub endpoint: Choice,
    /// The request counts as in flight there until its content is whole.
    pub in_flight: Option<InFlight>,
    /// What it says of the endpoint when the content is whole.
    pub outcome: Outcome<'static>,
    /// What the upstream's circuit is to learn from it.
    pub passage: Option<Passage>,
}

impl Source {
    /// Tells endpoint and circuit what became of the request.
    pub fn report(&mut self, outcome: Outcome<'_>) {
        self.upstream.report(&self.endpoint, outcome);
        if let Some(passage) = self.passage.take() {
            passage.settle(outcome);
        }
    }

    /// Gives the connection back, if it can carry another request.
    pub fn finish(&mut self, now: Instant) {
        self.in_flight = None;
        self.report(self.outcome);
        if let Some(connection) = self.exchange.take().and_then(Exchange::into_connection) {
            self.upstream.give_back(&self.endpoint, connection, now);
        }
    }
}

/// The response was cut off. Says nothing of why: the upstream's reason is not the
/// client's.
#[derive(Debug)]
pub struct Abort;

impl std::fmt::Display for Abort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the response was cut off")
    }
}

impl std::error::Error for Abort {}

impl Content {
    /// No content.
    #[must_use]
    pub fn empty() -> Self {
        Content(Inner::Whole(None))
    }

    /// This content.
    #[must_use]
    pub fn full(bytes: Bytes) -> Self {
        Content(Inner::Whole((!bytes.is_empty()).then_some(bytes)))
    }

    /// Content that is whole, in pieces.
    #[must_use]
    pub fn held(mut pieces: Pieces, trailers: Option<Box<HeaderMap>>) -> Self {
        if trailers.is_none() && (pieces.is_empty() || pieces.only().is_some()) {
            return Content(Inner::Whole(pieces.pop()));
        }
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Content(Inner::Held(Box::new(Held { pieces, trailers: trailers.map(|it| *it), left })))
    }

    /// Content that still flows.
    #[must_use]
    pub fn relayed(mut relayed: Relayed) -> Self {
        if let Some(events) = &mut relayed.events {
            let mut held = std::mem::take(&mut relayed.held);
            while let Some(piece) = held.pop() {
                events.pass(piece).into_iter().for_each(|piece| relayed.held.push(piece));
            }
        }
        Content(Inner::Relayed(Box::new(relayed)))
    }

    /// Settles content whose client has failed before it was sent to its end. Returns `false` if the
    /// request was settled before: its response was whole when it was given away.
    #[must_use]
    pub fn forsake(self, failure: ClientFailure) -> bool {
        match self.0 {
            Inner::Relayed(mut relayed) => match relayed.committed.take() {
                Some(committed) => {
                    committed.forsake(failure);
                    true
                }
                None => false,
            },
            Inner::Whole(_) | Inner::Held(_) => false,
        }
    }
}

impl Relayed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Abort>>> {
        loop {
            if let Some(piece) = self.held.pop() {
                return Poll::Ready(Some(Ok(self.pass(piece))));
            }
            let Some(exchange) = self.source.exchange.as_mut() else {
                return Poll::Ready(match std::mem::take(&mut self.ending) {
                    Ending::Whole => None,
                    Ending::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
                    Ending::CutOff => {
                        // A reset drops what was not written yet; it is written when there is
                        // nothing to poll.
                        self.ending = Ending::CutOffNow;
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Ending::CutOffNow => Some(Err(Abort)),
                });
            };
            if let Some(Rehearsal { after: Some(0), .. }) = self.rehearsal {
                self.rehearse();
                continue;
            }
            match std::task::ready!(exchange.poll_content(cx)) {
                Some(Ok(Piece::Data(data))) => {
                    let data = match &mut self.rehearsal {
                        None => data,
                        Some(rehearsal) => cut(data, &mut rehearsal.after),
                    };
                    let data = match &mut self.events {
                        None => data,
                        Some(events) => match events.pass(data) {
                            Some(whole) => whole,
                            None => continue,
                        },
                    };
                    let frame = self.pass(data);
                    // The last byte of a known length: nobody will ask again.
                    if self.source.exchange.as_ref().is_some_and(Exchange::is_whole)
                        && self.length == Some(0)
                    {
                        self.finish(Ending::Whole);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(Ok(Piece::Trailers(trailers))) => {
                    let trailers = without(trailers, self.listed.as_deref());
                    self.finish(trailers.map_or(Ending::Whole, Ending::Trailers));
                }
                None => self.finish(Ending::Whole),
                Some(Err(broken)) => self.abort(broken),
            }
        }
    }

    /// The failure that the client asked for.
    fn rehearse(&mut self) {
        if let Some(rehearsal) = self.rehearsal.take() {
            self.abort(Broken::Upstream(rehearsal.failure()));
        }
    }

    fn pass(&mut self, data: Bytes) -> Frame<Bytes> {
        if let Some(left) = &mut self.length {
            *left = left.saturating_sub(data.len() as u64);
        }
        Frame::data(data)
    }

    fn finish(&mut self, ending: Ending) {
        let now = Instant::now();
        self.source.finish(now);
        self.ending = ending;
        if let Some(rest) = self.events.as_mut().and_then(|events| events.rest()) {
            self.held.push(rest);
        }
        if let Some(committed) = self.committed.take() {
            committed.finish(now);
        }
    }

    /// Ends the response before its end, with a word on why if its protocol has one.
    fn abort(&mut self, broken: Broken) {
        self.source.exchange = None;
        self.source.in_flight = None;
        if let Broken::Upstream(failure) = &broken {
            self.source.report(Outcome::Broken(failure));
        }
        self.ending = Ending::CutOff;
        let Some(committed) = self.committed.take() else { return };
        match broken {
            Broken::Upstream(failure) => {
                let failure = self.source.upstream.place(&self.source.endpoint, failure);
                if self.trailers_tell {
                    if let Some(trailers) = committed.conclude(failure) {
                        self.ending = Ending::Trailers(trailers);
                    }
                    return;
                }
                match self.events.as_ref().filter(|events| events.stands_between_events()) {
                    Some(_) => {
                        let event = committed.abort_with_event(failure);
                        event.into_iter().for_each(|event| self.held.push(event));
                    }
                    None => committed.abort(failure),
                }
            }
            Broken::Client(failure, _) => committed.forsake(failure),
        }
        if let Some(reset) = &self.reset {
            reset.set(true);
        }
    }
}

/// The trailers that are not listed in the Connection of their message; `None` if none is left.
pub fn without(mut trailers: HeaderMap, listed: Option<&Listed<HeaderName>>) -> Option<HeaderMap> {
    if let Some(listed) = listed {
        clean_trailers(&mut trailers, listed);
    }
    (!trailers.is_empty()).then_some(trailers)
}

/// As much of `data` as is still due.
fn cut(mut data: Bytes, due: &mut Option<u64>) -> Bytes {
    if let Some(due) = due {
        data.truncate(usize::try_from(*due).unwrap_or(usize::MAX));
        *due -= data.len() as u64;
    }
    data
}

impl Body for Content {
    type Data = Bytes;
    type Error = Abort;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Abort>>> {
        match &mut self.get_mut().0 {
            Inner::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Inner::Held(held) => Poll::Ready(match held.pieces.pop() {
                Some(piece) => {
                    held.left -= piece.len() as u64;
                    Some(Ok(Frame::data(piece)))
                }
                None => held.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
            }),
            Inner::Relayed(relayed) => relayed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Whole(bytes) => bytes.is_none(),
            Inner::Held(held) => held.pieces.is_empty() && held.trailers.is_none(),
            Inner::Relayed(relayed) => {
                relayed.held.is_empty()
                    && relayed.source.exchange.is_none()
                    && matches!(relayed.ending, Ending::Whole)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            // Trailers need chunked framing, which an exact size would suppress.
            Inner::Held(held) if held.trailers.is_some() => SizeHint::default(),
            Inner::Held(held) => SizeHint::with_exact(held.left),
            Inner::Relayed(relayed) => {
                relayed.length.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}

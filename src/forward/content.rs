//! The content of a response on its way to the client, as hyper polls it.
//!
//! Before: `hold` has decided what is committed. Here the rest of an upstream's content flows, with
//! hyper's demand as the back-pressure, and a failure becomes an abort: an error that hyper turns
//! into a closed connection or RST_STREAM, so that what was cut off never looks complete (P1).

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::client::Busy;
use super::replay::Reader;
use super::settle::Committed;
use crate::upstream::exchange::{Broken, Exchange, Piece};
use crate::upstream::{EndpointIndex, Upstream};

/// Response content, of any origin.
#[derive(Debug)]
pub struct Content(Inner);

#[derive(Debug)]
enum Inner {
    Whole(Option<Bytes>),
    Held(Held),
    Relayed(Box<Relayed>),
}

/// Content that is whole, in pieces, with trailers.
#[derive(Debug)]
struct Held {
    pieces: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    left: u64,
}

/// Content that still flows.
#[derive(Debug)]
pub struct Relayed {
    /// What was held before the response was committed.
    pub held: VecDeque<Bytes>,
    /// Where the rest comes from.
    pub source: Source,
    /// Who is told how it ends.
    pub committed: Option<Committed>,
    /// Bytes still due, if the response has a Content-Length.
    pub length: Option<u64>,
    /// Set when the end of the connection would make a cut-off response look complete.
    pub reset: Option<Rc<Cell<bool>>>,
    /// A gRPC call over HTTP/2: a failure is told in trailers. (gRPC-Web over HTTP/1.1 has its
    /// trailers inside the content, where they could only follow a whole message.)
    pub trailers_tell: bool,
    /// The client's connection is busy until this is dropped.
    pub _busy: Busy,
}

/// An exchange, and where its connection goes afterwards.
#[derive(Debug)]
pub struct Source {
    /// Gone once the content is whole.
    pub exchange: Option<Exchange<Reader>>,
    /// Whose pool takes the connection back.
    pub upstream: Rc<Upstream>,
    /// Which of its endpoints.
    pub endpoint: EndpointIndex,
}

impl Source {
    /// Gives the connection back, if it can carry another request.
    pub fn finish(&mut self) {
        if let Some(connection) = self.exchange.take().and_then(Exchange::into_connection) {
            self.upstream.give_back(self.endpoint, connection);
        }
    }
}

/// The response was cut off. Says nothing of why: hyper looks for an HTTP/2 reason along
/// `source()`, and the upstream's is not the client's.
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
    pub fn held(mut pieces: VecDeque<Bytes>, trailers: Option<HeaderMap>) -> Self {
        if trailers.is_none() && pieces.len() <= 1 {
            return Content(Inner::Whole(pieces.pop_front()));
        }
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Content(Inner::Held(Held { pieces, trailers, left }))
    }

    /// Content that still flows.
    #[must_use]
    pub fn relayed(relayed: Relayed) -> Self {
        Content(Inner::Relayed(Box::new(relayed)))
    }
}

impl Relayed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Abort>>> {
        if let Some(piece) = self.held.pop_front() {
            return Poll::Ready(Some(Ok(self.pass(piece))));
        }
        let Some(exchange) = self.source.exchange.as_mut() else { return Poll::Ready(None) };
        match std::task::ready!(exchange.poll_content(cx)) {
            Some(Ok(Piece::Data(data))) => {
                let frame = self.pass(data);
                // The last byte of a known length: hyper will not ask again.
                if self.source.exchange.as_ref().is_some_and(Exchange::is_whole)
                    && self.length == Some(0)
                {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Ok(Piece::Trailers(trailers))) => {
                self.finish();
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            None => {
                self.finish();
                Poll::Ready(None)
            }
            Some(Err(broken)) => Poll::Ready(Some(match self.abort(broken) {
                Some(trailers) => Ok(Frame::trailers(trailers)),
                None => Err(Abort),
            })),
        }
    }

    fn pass(&mut self, data: Bytes) -> Frame<Bytes> {
        if let Some(left) = &mut self.length {
            *left = left.saturating_sub(data.len() as u64);
        }
        Frame::data(data)
    }

    fn finish(&mut self) {
        self.source.finish();
        if let Some(committed) = self.committed.take() {
            committed.finish();
        }
    }

    /// Ends the response before its end; gives the trailers if they can tell why.
    fn abort(&mut self, broken: Broken) -> Option<HeaderMap> {
        self.source.exchange = None;
        let committed = self.committed.take()?;
        match broken {
            Broken::Upstream(failure) => {
                let failure = self.source.upstream.place(self.source.endpoint, failure);
                if self.trailers_tell {
                    return committed.conclude(failure);
                }
                committed.abort(failure);
            }
            Broken::Client(failure, _) => committed.forsake(failure),
        }
        if let Some(reset) = &self.reset {
            reset.set(true);
        }
        None
    }
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
            Inner::Held(held) => Poll::Ready(match held.pieces.pop_front() {
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
            Inner::Relayed(relayed) => relayed.held.is_empty() && relayed.source.exchange.is_none(),
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

//! Request content that can be sent again.
//!
//! What an attempt takes from the client is kept here, up to a limit, so that the next attempt gets
//! it from the start. Content beyond the limit is not kept: the request can then be sent only once.
//! Large pieces are shared, small ones are joined. The client's body stays here too, whatever becomes of an attempt,
//! because the answer may need it read to its end.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::incoming::Incoming;
use crate::upstream::pieces::Pieces;

/// A request's content, kept for the next attempt.
#[derive(Debug)]
pub struct Replay<B = Incoming>(Option<Rc<RefCell<Tape<B>>>>);

/// One attempt's view of the content.
#[derive(Debug)]
pub struct Reader<B = Incoming> {
    tape: Rc<RefCell<Tape<B>>>,
    /// The kept piece that is read next, and how much of it has been read.
    piece: usize,
    offset: usize,
}

#[derive(Debug)]
struct Tape<B> {
    source: Option<B>,
    pieces: Pieces,
    kept: usize,
    limit: usize,
    trailers: Option<HeaderMap>,
    /// The source has given all it had.
    ended: bool,
    /// Something is gone that the next attempt would need.
    lost: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Replay<B> {
    /// Content of which at most `limit` bytes are kept; `None` is a request without content.
    #[must_use]
    pub fn new(source: Option<B>, limit: usize) -> Self {
        Replay(source.map(|source| {
            Rc::new(RefCell::new(Tape {
                source: Some(source),
                pieces: Pieces::default(),
                kept: 0,
                limit,
                trailers: None,
                ended: false,
                lost: false,
            }))
        }))
    }

    /// Whether another attempt can have all of the content.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        self.0.as_ref().is_none_or(|tape| !tape.borrow().lost)
    }

    /// The content from its start, for one attempt; `None` if there is none.
    #[must_use]
    pub fn reader(&self) -> Option<Reader<B>> {
        self.0.as_ref().map(|tape| Reader { tape: Rc::clone(tape), piece: 0, offset: 0 })
    }

    /// No attempt follows: nothing more is kept.
    pub fn forget(&self) {
        if let Some(tape) = &self.0 {
            let mut tape = tape.borrow_mut();
            tape.limit = 0;
        }
    }

    /// What the client has not sent yet.
    #[must_use]
    pub fn into_rest(self) -> Option<B> {
        self.0.and_then(|tape| tape.borrow_mut().source.take())
    }
}

impl<B> Tape<B> {
    /// Returns what is kept from this place on, up to the end of its piece.
    fn unread(&self, piece: usize, offset: usize) -> Option<Bytes> {
        let piece = self.pieces.get(piece)?;
        (offset < piece.len()).then(|| piece.slice(offset..))
    }

    /// Returns the place behind all that is kept: small content is appended to the last piece.
    fn end(&self) -> (usize, usize) {
        let last = self.pieces.len().saturating_sub(1);
        (last, self.pieces.get(last).map_or(0, Bytes::len))
    }

    fn keep(&mut self, data: &Bytes) {
        if self.lost || data.is_empty() {
            return;
        }
        self.kept += data.len();
        if self.kept <= self.limit {
            self.pieces.keep(data.clone());
        } else {
            self.lost = true;
            self.pieces = Pieces::default();
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Reader<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let mut tape = this.tape.borrow_mut();
        if let Some(unread) = tape.unread(this.piece, this.offset) {
            (this.piece, this.offset) = (this.piece + 1, 0);
            return Poll::Ready(Some(Ok(Frame::data(unread))));
        }
        if tape.ended {
            return Poll::Ready(
                tape.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))),
            );
        }
        let Some(source) = tape.source.as_mut() else { return Poll::Ready(None) };
        match std::task::ready!(Pin::new(source).poll_frame(cx)) {
            None => {
                tape.ended = true;
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                tape.lost = true;
                Poll::Ready(Some(Err(error)))
            }
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    tape.keep(data);
                    (this.piece, this.offset) = tape.end();
                } else if let Some(trailers) = frame.trailers_ref() {
                    tape.trailers = Some(trailers.clone());
                    tape.ended = true;
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let tape = self.tape.borrow();
        if tape.unread(self.piece, self.offset).is_some() || tape.trailers.is_some() {
            return false;
        }
        tape.ended || tape.source.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use std::convert::Infallible;

    /// Gives its frames one by one.
    struct Frames(std::collections::VecDeque<Frame<Bytes>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.get_mut().0.pop_front().map(Ok))
        }
    }

    fn source(pieces: &[&'static str], trailers: Option<HeaderMap>) -> Frames {
        let data = pieces.iter().map(|piece| Frame::data(Bytes::from_static(piece.as_bytes())));
        Frames(data.chain(trailers.map(Frame::trailers)).collect())
    }

    async fn read(reader: Reader<Frames>, most: usize) -> (Vec<u8>, bool) {
        let (mut reader, mut read, mut trailers) = (reader, Vec::new(), false);
        for _ in 0..most {
            match reader.frame().await {
                None => break,
                Some(frame) => match frame.unwrap().into_data() {
                    Ok(data) => read.extend_from_slice(&data),
                    Err(_) => trailers = true,
                },
            }
        }
        (read, trailers)
    }

    #[tokio::test]
    async fn every_attempt_gets_all_of_it_wherever_the_last_one_stopped() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", http::HeaderValue::from_static("1"));
        for stop in 0..5 {
            let source = source(&["one", "two", "three"], Some(trailers.clone()));
            let replay = Replay::new(Some(source), 11);
            let _ = read(replay.reader().unwrap(), stop).await;
            assert!(replay.is_possible());
            let again = read(replay.reader().unwrap(), 9).await;
            assert_eq!(again, (b"onetwothree".to_vec(), true), "stopped after {stop}");
            assert_eq!(read(replay.reader().unwrap(), 9).await, again);
        }
    }

    #[tokio::test]
    async fn what_is_over_the_limit_passes_once() {
        let replay = Replay::new(Some(source(&["one", "two", "three"], None)), 10);
        assert_eq!(read(replay.reader().unwrap(), 9).await.0, b"onetwothree");
        assert!(!replay.is_possible());
    }

    #[tokio::test]
    async fn nothing_is_kept_after_the_last_attempt() {
        let replay = Replay::new(Some(source(&["one", "two"], None)), 10);
        let mut reader = replay.reader().unwrap();
        let _ = reader.frame().await;
        replay.forget();
        let _ = reader.frame().await;
        assert!(replay.0.as_ref().unwrap().borrow().pieces.is_empty());
        assert!(replay.into_rest().is_some());
    }

    #[test]
    fn a_request_without_content_can_always_be_sent_again() {
        let replay: Replay<Frames> = Replay::new(None, 0);
        assert!(replay.is_possible() && replay.reader().is_none() && replay.into_rest().is_none());
    }
}

//! The content of an HTTP/2 request, as it comes on its stream.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame, SizeHint};

use super::answer::Answer;
use crate::upstream::http2::backlog::{Backlog, Taker};

/// The content of one request.
#[derive(Debug)]
pub struct Content {
    stream: RecvStream,
    taker: Taker,
    /// Bytes still due, if the request has a Content-Length.
    left: Option<u64>,
    /// What is left are trailers.
    in_trailers: bool,
    answer: Rc<Answer>,
}

impl Content {
    /// Content of this length, if that is known.
    pub fn new(
        stream: RecvStream,
        backlog: &Rc<Backlog>,
        length: Option<u64>,
        answer: Rc<Answer>,
    ) -> Self {
        let taker = backlog.open(stream.stream_id().as_u32());
        Content { stream, taker, left: length, in_trailers: false, answer }
    }
}

/// Returns the error as `forward` classifies it: a stream that h2 had to reset carries content that
/// is not what it was said to be (RFC 9113 §8.1.1).
fn failed(error: h2::Error) -> io::Error {
    let kind = match error.is_library() && error.is_reset() {
        true => io::ErrorKind::InvalidData,
        false => io::ErrorKind::ConnectionReset,
    };
    io::Error::new(kind, error)
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        while !this.in_trailers {
            match this.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    this.answer.content_came();
                    this.taker.took(data.len());
                    // Taken is taken: from here on the upstream's pace holds the client back.
                    let _ = this.stream.flow_control().release_capacity(data.len());
                    if data.is_empty() {
                        continue;
                    }
                    if let Some(left) = &mut this.left {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(failed(error)))),
                Poll::Ready(None) => this.in_trailers = true,
                Poll::Pending => {
                    this.answer.content_is_asked_for();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(match ready!(this.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(None) => None,
            Err(error) => Some(Err(failed(error))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

//! Request content on its way into a stream, as far as the upstream's window is open.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;
use http_body::Body;

use crate::failure::Source;
use crate::upstream::exchange::Framing;
use crate::upstream::upload::{ContentLimit, Meter, UploadError, Waiting};

/// The content of one request being sent.
#[derive(Debug)]
pub struct Upload<B> {
    stream: SendStream<Bytes>,
    body: Option<B>,
    framing: Framing,
    /// Taken from the client and not yet covered by the window.
    pending: Bytes,
    /// `pending` is the end.
    last: bool,
    may_send_content: bool,
    meter: Meter,
    /// Bytes of content that fitted into the window.
    sent: u64,
    /// Frames that the content has given, empty ones too.
    given: u64,
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Source>,
{
    /// An upload of this content; the arguments as in `Request`.
    pub fn new(
        stream: SendStream<Bytes>,
        body: B,
        framing: Framing,
        expects_continue: bool,
        content_limit: ContentLimit,
    ) -> Self {
        Upload {
            stream,
            body: Some(body),
            framing,
            pending: Bytes::new(),
            last: false,
            may_send_content: !expects_continue,
            meter: Meter::new(content_limit, framing),
            sent: 0,
            given: 0,
        }
    }

    /// The upstream said 100, or has been waited for long enough: send the content.
    pub fn proceed(&mut self) {
        self.may_send_content = true;
    }

    /// Returns what grows whenever a byte moves: from the client, or into the window.
    pub fn moved(&self) -> u64 {
        self.sent + self.given
    }

    /// Sends as much as can be sent now. Cancel-safe: it is a poll.
    ///
    /// # Errors
    /// When either side fails. The upload is over then.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Result<Waiting, UploadError> {
        loop {
            if !self.pending.is_empty() {
                match self.poll_send(cx)? {
                    Poll::Ready(()) => continue,
                    Poll::Pending => return Ok(Waiting::Upstream),
                }
            }
            let Some(body) = self.body.as_mut() else { return Ok(Waiting::Done) };
            if !self.may_send_content {
                return Ok(Waiting::Continue);
            }
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => {
                    self.meter.waits();
                    return Ok(Waiting::Client);
                }
                Poll::Ready(Some(Ok(frame))) => self.enqueue(frame)?,
                Poll::Ready(Some(Err(error))) => {
                    return Err(UploadError::content(error.into()));
                }
                Poll::Ready(None) => self.finish(None)?,
            }
        }
    }

    /// Sends what the window covers.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, UploadError> {
        self.stream.reserve_capacity(self.pending.len());
        let room = match self.stream.poll_capacity(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Some(Ok(room))) => room.min(self.pending.len()),
            Poll::Ready(Some(Err(error))) => return Err(failed(error)),
            Poll::Ready(None) => {
                return Err(UploadError::Upstream(io::ErrorKind::BrokenPipe.into()));
            }
        };
        let part = self.pending.split_to(room);
        self.sent += room as u64;
        let end = self.last && self.pending.is_empty();
        if room > 0 || end {
            self.stream.send_data(part, end).map_err(failed)?;
        }
        Ok(Poll::Ready(()))
    }

    fn enqueue(&mut self, frame: http_body::Frame<Bytes>) -> Result<(), UploadError> {
        self.given += 1;
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.finish(frame.into_trailers().ok()),
        };
        self.meter.take(data.len())?;
        if self.body.as_ref().is_some_and(Body::is_end_stream) && !data.is_empty() {
            // The end leaves with the last content.
            self.meter.finish(self.framing)?;
            self.body = None;
            self.last = true;
        }
        self.pending = data;
        Ok(())
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), UploadError> {
        self.body = None;
        self.meter.finish(self.framing)?;
        match trailers {
            Some(trailers) => self.stream.send_trailers(trailers).map_err(failed),
            None => self.stream.send_data(Bytes::new(), true).map_err(failed),
        }
    }
}

fn failed(error: h2::Error) -> UploadError {
    UploadError::Upstream(io::Error::other(error))
}

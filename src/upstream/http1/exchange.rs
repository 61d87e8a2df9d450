//! One request and its response on one connection.
//!
//! The exchange is polled inside the request's own task: no connection task, no channel, and at
//! each error it is known which byte failed. Upload and response run side by side: an upstream may
//! answer before it has read the request, and may go on reading after it has answered.
//!
//! ```text
//! sending ──────────────┐
//!    │  head() = Interim │ (again)
//!    ▼                   ▼
//! head() = Final ──► content ──► whole ──► into_connection(): back to the pool
//!    │                   │
//!    └── Broken ◄────────┘  the connection is dropped with the exchange
//! ```
//!
//! Every future here is cancel-safe: dropping the exchange closes the connection.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use tokio::time::Instant;

use super::content::{AtEnd, Decoder, Step};
use super::head;
use super::upload::Upload;
use super::{MessageError, MessageLimits};
use crate::config::model::Upstream;
use crate::failure::classify::{self, Facts};
use crate::failure::{ClientFailure, Failure, Phase, Source};
use crate::upstream::attempt::{End, Seen};
use crate::upstream::exchange::{
    Asked, Broken, Came, Framing, Http1Request, Piece, Request, ResponseHead, Stalled,
};
use crate::upstream::patience::{Awaits, Over, Patience};
use crate::upstream::pool::{Connection, Reusable};
use crate::upstream::stream::Stream;
use crate::upstream::upload::{UploadError, Waiting};

/// One request and its response.
#[derive(Debug)]
pub struct Exchange<B> {
    connection: Box<Connection>,
    settings: Arc<Upstream>,
    upload: Upload<B>,
    uploading: bool,
    /// The upstream stopped taking the request. It may have answered all the same.
    send_error: Option<io::Error>,
    write_failed: bool,
    asked: Asked,
    interim: usize,
    /// What the final head has announced, once it is here.
    decoder: Option<Decoder>,
    keep_alive: bool,
    received: u64,
    patience: Patience,
    /// The time, as long as nothing has been waited for.
    now: Option<Instant>,
}

impl<B> Exchange<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Source>,
{
    /// Prepares to send `request` on `connection`; nothing is sent before [`Exchange::poll_head`].
    pub fn new(
        connection: Box<Connection>,
        settings: Arc<Upstream>,
        request: Http1Request<B>,
    ) -> Box<Self> {
        let Request { head, body, sent, asked, .. } = request;
        Box::new(Exchange {
            connection,
            settings,
            upload: Upload::new(head, body, request.expects_continue, request.content_limit),
            uploading: true,
            send_error: None,
            write_failed: false,
            asked,
            interim: 0,
            decoder: None,
            keep_alive: true,
            received: 0,
            patience: Patience::new(sent, request.head_timeout, request.client_timeout),
            now: Some(sent),
        })
    }

    /// Returns what was seen of the request, after this failure.
    pub fn seen(&self, failure: &Failure, now: Instant) -> Seen {
        // A TLS session that fails may have sent records of what it has not accepted.
        let maybe = self.write_failed && matches!(self.connection.stream, Stream::Tls(_));
        // What crosses a request on its way has come before a new connection would have.
        let age = now.saturating_duration_since(self.patience.sent());
        Seen {
            sent: self.upload.sent() > 0 || maybe,
            answered: self.received > 0,
            crossed: self.connection.reused && age <= self.settings.timeouts.connect,
            end: End::of(failure),
        }
    }

    /// Returns its clock.
    pub fn patience(&self) -> &Patience {
        &self.patience
    }

    fn phase(&self, phase: Phase) -> Phase {
        if self.asked.upgrade { Phase::Upgrade } else { phase }
    }

    /// The next head of the response, put into `head`.
    ///
    /// # Errors
    /// When either side fails first.
    pub fn poll_head(
        &mut self,
        head: &mut ResponseHead,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Came, Broken>> {
        loop {
            let waiting = self.poll_upload(cx)?;
            if let Some(came) = self.try_head(head)? {
                return Poll::Ready(Ok(came));
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.ended_before_head())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.read_failed(error))),
                Poll::Pending => match self.poll_patience(Awaits::before_head(waiting), cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                },
            }
        }
    }

    /// Runs the upload. An upstream that stops reading may still answer, so that its error is only
    /// kept; a client that fails ends the exchange.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<Waiting, Broken> {
        if !self.uploading {
            return Ok(Waiting::Done);
        }
        let before = self.upload.moved();
        let waiting = match self.upload.poll(&mut self.connection.stream, cx) {
            Ok(waiting) => waiting,
            Err(UploadError::Client(failure, source)) => {
                return Err(Broken::Client(failure, source));
            }
            Err(UploadError::Upstream(error)) => {
                self.send_error = Some(error);
                self.write_failed = true;
                self.keep_alive = false;
                Waiting::Done
            }
        };
        if self.upload.moved() != before {
            self.patience.moved();
        }
        self.uploading = waiting != Waiting::Done;
        Ok(waiting)
    }

    /// A head, if it is complete.
    fn try_head(&mut self, into: &mut ResponseHead) -> Result<Option<Came>, Broken> {
        if self.connection.buf.is_empty() {
            return Ok(None);
        }
        match self.parse_head(into) {
            Ok(came) => Ok(came),
            Err(error) => Err(self.message_failed(error, Phase::Head)),
        }
    }

    fn parse_head(&mut self, into: &mut ResponseHead) -> Result<Option<Came>, MessageError> {
        let limits = &self.settings.limits;
        let Connection { buf, head: reader, .. } = &mut *self.connection;
        let Some(length) = head::read(reader, buf, &limits.into())? else { return Ok(None) };
        *into = head::take(buf, length, reader, self.asked)?;
        let head = &*into;
        reader.restart();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            if !self.asked.upgrade {
                return Err(MessageError::UnsolicitedUpgrade);
            }
        } else if head.status.is_informational() {
            self.interim += 1;
            if self.interim > limits.interim_responses {
                return Err(MessageError::TooManyInterim);
            }
            self.keep_alive &= head.keep_alive;
            if head.status == StatusCode::CONTINUE {
                self.upload.proceed();
            }
            self.patience.answers();
            return Ok(Some(Came::Interim));
        }
        if let (Framing::Length(length), Some(limit)) = (head.framing, limits.body_bytes)
            && length > limit
        {
            return Err(MessageError::ContentTooLarge);
        }
        self.decoder = Some(Decoder::new(head.framing));
        self.keep_alive &= head.keep_alive;
        // RFC 9112 §9.5: an upstream that refuses and closes will not read the rest. One that
        // answers 2xx and closes may well be an app that reads while it writes.
        if !head.keep_alive && !head.status.is_success() {
            self.uploading = false;
        }
        Ok(Some(Came::Final))
    }

    /// The next piece of the content; `None` when it is whole. After that, [`Exchange::into_connection`].
    pub fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, Broken>>> {
        loop {
            let waiting = match self.poll_upload(cx) {
                Ok(waiting) => waiting,
                Err(broken) => return Poll::Ready(Some(Err(broken))),
            };
            let limits = MessageLimits::from(&self.settings.limits);
            // Without a head there is no content either.
            let Some(decoder) = self.decoder.as_mut() else { return Poll::Ready(None) };
            let step = decoder.decode(&mut self.connection.buf, &limits);
            match step {
                Ok(Step::Data(data)) => return Poll::Ready(Some(Ok(Piece::Data(data)))),
                Ok(Step::Trailers(trailers)) => {
                    return Poll::Ready(Some(Ok(Piece::Trailers(trailers))));
                }
                Ok(Step::Done) => return Poll::Ready(None),
                Ok(Step::More) => {}
                Err(error) => {
                    return Poll::Ready(Some(Err(self.message_failed(error, Phase::Body))));
                }
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(0)) => {
                    self.keep_alive = false;
                    return Poll::Ready(match self.decoder.as_ref().map(Decoder::at_end) {
                        Some(AtEnd::Complete) => None,
                        Some(AtEnd::CutShort) | None => {
                            Some(Err(Broken::Upstream(classify::ended(&self.facts(Phase::Body)))))
                        }
                    });
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    let failure = classify::failure(&self.facts(Phase::Body), error);
                    return Poll::Ready(Some(Err(Broken::Upstream(failure))));
                }
                Poll::Pending => match self.poll_patience(Awaits::behind_head(waiting), cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(broken)) => return Poll::Ready(Some(Err(broken))),
                },
            }
        }
    }

    /// Whether the content is whole already: nothing is left to wait for.
    pub fn is_whole(&self) -> bool {
        self.decoder.as_ref().is_some_and(Decoder::is_done)
    }

    /// Gives the connection back, if it can carry another request.
    pub fn into_connection(self: Box<Self>) -> Option<Reusable> {
        let (sent, read) = (self.upload.all_sent()?, self.decoder.as_ref()?.all_read()?);
        self.keep_alive.then(|| Reusable::new(self.connection, sent, read)).flatten()
    }

    /// Gives the upgraded connection away, with the bytes that came after the 101.
    pub fn into_upgraded(mut self) -> Box<Connection> {
        self.connection.became_websocket();
        self.connection
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Connection { stream, buf, fill, .. } = &mut *self.connection;
        let count = std::task::ready!(fill.poll(stream, buf, cx))?;
        self.received += count as u64;
        self.now = None;
        self.patience.moved();
        Poll::Ready(Ok(count))
    }

    /// Pending while there is time; then the failure, or nothing if waiting was just over.
    fn poll_patience(&mut self, awaits: Awaits, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let (timeouts, now) = (&self.settings.timeouts, self.now.take());
        let deadline = &mut self.connection.deadline;
        let over = self.patience.poll(awaits, timeouts, now, deadline, cx);
        Poll::Ready(match std::task::ready!(over) {
            Over::Upstream(phase) => Err(self.timed_out(phase)),
            Over::Client => Err(Broken::Client(ClientFailure::RequestTimeout, Box::new(Stalled))),
            Over::Proceed => {
                self.upload.proceed();
                Ok(())
            }
        })
    }

    fn timed_out(&self, phase: Phase) -> Broken {
        Broken::Upstream(Failure::timeout(self.phase(phase)))
    }

    fn facts(&self, phase: Phase) -> Facts {
        Facts { phase: self.phase(phase), received: self.received }
    }

    fn ended_before_head(&mut self) -> Broken {
        Broken::Upstream(match self.send_error.take() {
            Some(error) => classify::failure(&self.facts(Phase::Send), error),
            None if self.uploading => classify::ended(&self.facts(Phase::Send)),
            None => classify::ended(&self.facts(Phase::Head)),
        })
    }

    fn read_failed(&mut self, error: io::Error) -> Broken {
        let sending = self.uploading || self.send_error.is_some();
        let phase = if sending && self.received == 0 { Phase::Send } else { Phase::Head };
        Broken::Upstream(classify::failure(&self.facts(phase), error))
    }

    fn message_failed(&self, error: MessageError, phase: Phase) -> Broken {
        Broken::Upstream(Failure::new(error.kind(), self.phase(phase)).with_source(error))
    }
}

#[cfg(test)]
mod tests;

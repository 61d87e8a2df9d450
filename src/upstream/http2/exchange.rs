//! One request and its response on one stream (RFC 9113 §8.1).
//!
//! ```text
//! opening ──► sending ──────────────┐
//!                │  head() = Interim │ (again)
//!                ▼                   ▼
//!           head() = Final ──► content ──► whole
//!                │                   │
//!                └── Broken ◄────────┘  the stream is reset when the exchange is dropped
//! ```
//!
//! Opening waits for a stream that the upstream allows. Content is taken from the client only into
//! the window that the upstream has opened, and the window towards the upstream opens only as the
//! client takes content: back-pressure in both directions (P6).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode};
use http_body::Body;

use super::flaw::Flaw;
use super::session::Lease;
use super::upload::Upload;
use super::watch::Open;
use crate::config::model::Upstream;
use crate::failure::classify::{self, Facts, Http2End};
use crate::failure::{ClientFailure, Failure, Kind, Phase, Source};
use crate::message::field;
use crate::message::listed::Listed;
use crate::upstream::attempt::{End, Seen};
use crate::upstream::deadline::Deadline;
use crate::upstream::exchange::{
    Asked, Broken, Came, Framing, Http2Request, Piece, Request, ResponseHead, Stalled,
};
use crate::upstream::patience::{Awaits, Over, Patience};
use crate::upstream::upload::{ContentLimit, UploadError, Waiting};

/// One request and its response.
#[derive(Debug)]
pub struct Exchange<B> {
    lease: Lease,
    settings: Arc<Upstream>,
    opening: Option<Opening<B>>,
    upload: Option<Upload<B>>,
    response: Option<ResponseFuture>,
    content: Option<RecvStream>,
    /// The stream's identifier, once it is open.
    stream: Option<u32>,
    /// What is known about it from the bytes.
    open: Option<Open>,
    /// How it ended, once it has failed.
    end: Option<End>,
    /// Content is not acceptable (RFC 9110 §6.4.1).
    bodiless: bool,
    asked: Asked,
    interim: usize,
    received: u64,
    whole: bool,
    deadline: Deadline,
    patience: Patience,
}

/// A request that waits for its stream.
struct Opening<B> {
    send: SendRequest<Bytes>,
    head: http::Request<()>,
    body: Option<B>,
    framing: Framing,
    expects_continue: bool,
    content_limit: ContentLimit,
}

impl<B> std::fmt::Debug for Opening<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opening").field("framing", &self.framing).finish_non_exhaustive()
    }
}

impl<B> Exchange<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Source>,
{
    /// Prepares to send `request`; nothing is sent before [`Exchange::poll_head`].
    pub fn new(lease: Lease, settings: Arc<Upstream>, request: Http2Request<B>) -> Self {
        let Request { head, body, asked, expects_continue, content_limit, .. } = request;
        let (head, framing) = head.into_parts();
        let send = lease.send();
        Exchange {
            lease,
            settings,
            opening: Some(Opening { send, head, body, framing, expects_continue, content_limit }),
            upload: None,
            response: None,
            content: None,
            stream: None,
            open: None,
            end: None,
            bodiless: false,
            asked,
            interim: 0,
            received: 0,
            whole: false,
            deadline: Deadline::new(),
            patience: Patience::new(request.sent, request.head_timeout, request.client_timeout),
        }
    }

    /// Returns what was seen of the request, after this failure.
    pub fn seen(&self, failure: &Failure) -> Seen {
        let disclaimed = self.stream.is_some_and(|stream| self.lease.disclaimed(stream));
        Seen {
            sent: self.stream.is_some(),
            answered: self.heard() > 0,
            // Once a stream is open, GOAWAY tells if it was processed (RFC 9113 §6.8).
            crossed: self.stream.is_none() && self.lease.reused(),
            end: match self.end {
                _ if disclaimed => End::Declined,
                Some(end) => end,
                None => End::of(failure),
            },
        }
    }

    /// Returns its clock.
    pub fn patience(&self) -> &Patience {
        &self.patience
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
            let awaits = match self.poll_open(cx) {
                Poll::Pending => Awaits::Head,
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                Poll::Ready(Ok(())) => {
                    let waiting = self.poll_upload(cx)?;
                    if let Poll::Ready(came) = self.poll_response(head, cx) {
                        return Poll::Ready(came);
                    }
                    Awaits::before_head(waiting)
                }
            };
            std::task::ready!(self.poll_patience(awaits, cx))?;
        }
    }

    /// Opens the stream and sends the head, once.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Some(opening) = self.opening.as_mut() else { return Poll::Ready(Ok(())) };
        if let Err(error) = std::task::ready!(opening.send.poll_ready(cx)) {
            return Poll::Ready(Err(self.failed(error, Phase::Send)));
        }
        let Some(Opening { mut send, head, body, framing, expects_continue, content_limit }) =
            self.opening.take()
        else {
            return Poll::Ready(Ok(()));
        };
        let body = body.filter(|_| framing != Framing::Empty);
        match send.send_request(head, body.is_none()) {
            Ok((response, stream)) => {
                let id = stream.stream_id().as_u32();
                self.stream = Some(id);
                self.open = Some(self.lease.watch(id));
                self.response = Some(response);
                self.upload = body.map(|body| {
                    Upload::new(stream, body, framing, expects_continue, content_limit)
                });
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(self.failed(error, Phase::Send))),
        }
    }

    /// Runs the upload. An upstream that stops reading may still answer; a client that fails ends
    /// the exchange.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<Waiting, Broken> {
        let Some(upload) = self.upload.as_mut() else { return Ok(Waiting::Done) };
        let before = upload.moved();
        let waiting = match upload.poll(cx) {
            Ok(waiting) => waiting,
            Err(UploadError::Client(failure, source)) => {
                return Err(Broken::Client(failure, source));
            }
            // The response tells why.
            Err(UploadError::Upstream(_)) => Waiting::Done,
        };
        if upload.moved() != before {
            self.patience.moved();
        }
        if waiting == Waiting::Done {
            self.upload = None;
        }
        Ok(waiting)
    }

    fn poll_response(
        &mut self,
        head: &mut ResponseHead,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Came, Broken>> {
        let Some(response) = self.response.as_mut() else { return Poll::Pending };
        if let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            return Poll::Ready(self.interim(interim, head));
        }
        let phase = if self.upload.is_some() { Phase::Send } else { Phase::Head };
        match std::task::ready!(Pin::new(response).poll(cx)) {
            Ok(response) => Poll::Ready(self.accept(response, head)),
            Err(error) => Poll::Ready(Err(self.failed(error, phase))),
        }
    }

    fn interim(&mut self, response: Response<()>, head: &mut ResponseHead) -> Result<Came, Broken> {
        self.received += 1;
        self.interim += 1;
        self.patience.answers();
        let (parts, ()) = response.into_parts();
        if self.interim > self.settings.limits.interim_responses {
            return Err(self.refuse(
                Kind::HttpProtocolError,
                Phase::Head,
                "too many 1xx responses",
            ));
        }
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            // RFC 9113 §8.6: HTTP/2 has no 101.
            return Err(self.refuse(Kind::HttpProtocolError, Phase::Head, "a 101 over HTTP/2"));
        }
        if parts.status == StatusCode::CONTINUE
            && let Some(upload) = self.upload.as_mut()
        {
            upload.proceed();
        }
        let mut fields = parts.headers;
        field::clean_head(&mut fields);
        *head = ResponseHead {
            status: parts.status,
            fields: fields.into(),
            framing: Framing::Empty,
            ..ResponseHead::over_http2()
        };
        Ok(Came::Interim)
    }

    fn accept(
        &mut self,
        response: Response<RecvStream>,
        head: &mut ResponseHead,
    ) -> Result<Came, Broken> {
        self.received += 1;
        self.patience.moved();
        self.response = None;
        let (parts, content) = response.into_parts();
        let (status, mut fields) = (parts.status, parts.headers);
        let limits = &self.settings.limits;
        // h2 has checked that it is one number, and counts the content against it.
        let length = fields.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let bodiless = self.asked.head
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        self.bodiless = bodiless;
        if status == StatusCode::NO_CONTENT {
            fields.remove(CONTENT_LENGTH);
        }
        let framing = match length {
            _ if bodiless || content.is_end_stream() => Framing::Empty,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        if let (Framing::Length(length), Some(limit)) = (framing, limits.body_bytes)
            && length > limit
        {
            return Err(self.refuse(Kind::HttpResponseBodySize, Phase::Head, "content too large"));
        }
        self.whole = content.is_end_stream();
        self.content = Some(content);
        field::clean_head(&mut fields);
        let fields = fields.into();
        *head = ResponseHead { status, fields, framing, ..ResponseHead::over_http2() };
        Ok(Came::Final)
    }

    /// The next piece of the content; `None` when it is whole.
    pub fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, Broken>>> {
        loop {
            if self.whole {
                return Poll::Ready(None);
            }
            let waiting = match self.poll_upload(cx) {
                Ok(waiting) => waiting,
                Err(broken) => return Poll::Ready(Some(Err(broken))),
            };
            match self.poll_piece(cx) {
                Poll::Ready(Some(Ok(Piece::Data(data)))) if data.is_empty() => continue,
                Poll::Ready(piece) => return Poll::Ready(piece),
                Poll::Pending => {}
            }
            match self.poll_patience(Awaits::behind_head(waiting), cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(broken)) => return Poll::Ready(Some(Err(broken))),
            }
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, Broken>>> {
        let Some(content) = self.content.as_mut() else { return Poll::Ready(None) };
        match std::task::ready!(content.poll_data(cx)) {
            Some(Ok(data)) => {
                self.patience.moved();
                self.open.iter().for_each(|open| open.took(data.len()));
                self.received += data.len() as u64;
                // The window opens again as far as the client takes what has come. It fails only
                // on a stream that is over.
                let _ = content.flow_control().release_capacity(data.len());
                self.whole = content.is_end_stream();
                if self.bodiless && !data.is_empty() {
                    return Poll::Ready(Some(Err(self.flawed(Flaw::Content, Phase::Body))));
                }
                if self.settings.limits.body_bytes.is_some_and(|limit| self.received > limit) {
                    let kind = Kind::HttpResponseBodySize;
                    let broken = self.refuse(kind, Phase::Body, "the content is over the limit");
                    return Poll::Ready(Some(Err(broken)));
                }
                Poll::Ready(Some(Ok(Piece::Data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(self.failed(error, Phase::Body)))),
            None => match std::task::ready!(content.poll_trailers(cx)) {
                Ok(trailers) => {
                    self.whole = true;
                    Poll::Ready(self.trailers(trailers).transpose())
                }
                Err(error) => Poll::Ready(Some(Err(self.failed(error, Phase::Body)))),
            },
        }
    }

    fn trailers(&mut self, trailers: Option<HeaderMap>) -> Result<Option<Piece>, Broken> {
        // The sieve has held them against their limits.
        let Some(mut trailers) = trailers else { return Ok(None) };
        field::clean_trailers(&mut trailers, &Listed::<&[u8]>::default());
        Ok((!trailers.is_empty()).then_some(Piece::Trailers(trailers)))
    }

    /// Whether the content is whole already: nothing is left to wait for.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Pending while there is time; then the failure, or nothing if waiting was just over.
    fn poll_patience(&mut self, awaits: Awaits, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let timeouts = &self.settings.timeouts;
        let over = self.patience.poll(awaits, timeouts, None, &mut self.deadline, cx);
        Poll::Ready(match std::task::ready!(over) {
            Over::Upstream(phase) => {
                // What stands still here may be the connection: the next request takes another one,
                // unless this one gives a sign of life.
                self.lease.session().doubt();
                Err(Broken::Upstream(Failure::timeout(phase)))
            }
            Over::Client => Err(Broken::Client(ClientFailure::RequestTimeout, Box::new(Stalled))),
            Over::Proceed => {
                if let Some(upload) = self.upload.as_mut() {
                    upload.proceed();
                }
                Ok(())
            }
        })
    }

    /// Bytes of an answer that have come, though they may not have come so far as to here.
    fn heard(&self) -> u64 {
        self.received.max(self.open.as_ref().map_or(0, Open::heard))
    }

    fn failed(&mut self, error: h2::Error, phase: Phase) -> Broken {
        self.received = self.heard();
        if let Some(flaw) = self.open.as_ref().and_then(Open::flaw) {
            return self.flawed(flaw, phase);
        }
        let ended = classify::http2_end(&error);
        self.end = Some(match ended {
            Http2End::Refused => End::Declined,
            Http2End::Reset | Http2End::Refuted => End::Broken,
            Http2End::Connection => End::Closed,
        });
        // Our own reset of a stream answers what the upstream has sent on it.
        self.received += u64::from(ended == Http2End::Refuted);
        // What has begun to answer has been processed, whatever it says of itself then.
        if ended == Http2End::Refused && self.received == 0 {
            self.lease.refused();
        }
        let facts = Facts { phase, received: self.received };
        if ended == Http2End::Connection {
            // Nobody else shall run into it before its task has noticed.
            let is_first = self.lease.session().lose();
            let is_culprit = self.open.as_ref().and_then(Open::is_culprit);
            if !is_culprit.unwrap_or(is_first) {
                // Another request has told it: one event, counted once.
                let failure = match error.is_library() {
                    true => classify::collateral(&facts, error),
                    false => classify::http2(&facts, error),
                };
                return Broken::Upstream(failure.blameless());
            }
        }
        Broken::Upstream(classify::http2(&facts, error))
    }

    /// What has come on the stream is not HTTP.
    fn flawed(&self, flaw: Flaw, phase: Phase) -> Broken {
        Broken::Upstream(Failure::new(flaw.kind(), phase).with_source(flaw))
    }

    /// The upstream's message is not acceptable: the stream is reset when this is dropped.
    fn refuse(&self, kind: Kind, phase: Phase, why: &'static str) -> Broken {
        Broken::Upstream(Failure::new(kind, phase).with_source(why))
    }
}

//! Response content on its way to the client of one stream.
//!
//! Content is taken from its source when all before it has left, and never more than the client's
//! windows cover is given to h2: what waits for a client is one piece here, and in h2 at most the
//! send buffer. One clock measures how long a client takes nothing. It runs from the moment when
//! something is there for it, whatever has to move: the stream's window or the connection's.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, SendStream};
use http_body::Body;

use crate::forward::content::Content;
use crate::upstream::deadline::Deadline;

/// What one turn gives to h2. The connection writes it, and other streams have theirs, before the
/// next turn.
const TURN_BYTES: usize = 64 * 1024;

/// A piece smaller than this is copied together with those that follow it at once: in h2 each piece
/// is a frame, and keeps alive the buffer that it was read into.
const SMALL: usize = 4 * 1024;

/// What is gathered of small pieces.
const GATHERED_BYTES: usize = 16 * 1024;

/// How sending ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With the last byte.
    Whole,
    /// Cut off by its source.
    Aborted,
    /// The client reset the stream, or its connection is over.
    Left,
    /// The client took nothing for too long.
    StoodStill,
}

/// Content being sent.
#[derive(Debug)]
pub struct Sending {
    stream: SendStream<Bytes>,
    content: Content,
    /// Taken from the content and not covered by a window yet.
    pending: Bytes,
    /// What the content gave behind `pending`.
    then: Option<Then>,
    limit: Duration,
    blocked: Deadline,
    is_blocked: bool,
}

/// What follows the pending bytes.
#[derive(Debug)]
enum Then {
    Trailers(http::HeaderMap),
    End,
    Abort,
}

impl Sending {
    /// Sends this content; its client may take nothing for so long.
    pub fn new(stream: SendStream<Bytes>, content: Content, limit: Duration) -> Self {
        Sending {
            stream,
            content,
            pending: Bytes::new(),
            then: None,
            limit,
            blocked: Deadline::new(),
            is_blocked: false,
        }
    }

    /// The content, whose owner is told how it ended.
    pub fn into_content(self) -> Content {
        self.content
    }

    /// Resets the stream.
    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    /// Sends as much as can be sent now. Cancel-safe: it is a poll.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.stream.poll_reset(cx).is_ready() {
            return Poll::Ready(End::Left);
        }
        let mut turn = TURN_BYTES;
        loop {
            if !self.pending.is_empty() {
                let room = match self.poll_room(cx) {
                    Poll::Ready(Ok(room)) => room,
                    Poll::Ready(Err(end)) => return Poll::Ready(end),
                    Poll::Pending => return Poll::Pending,
                };
                if turn == 0 {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                let part = self.pending.split_to(room.min(turn).min(self.pending.len()));
                turn -= part.len();
                let is_last = self.pending.is_empty()
                    && match self.then {
                        None => self.content.is_end_stream(),
                        Some(Then::End) => true,
                        Some(Then::Trailers(_) | Then::Abort) => false,
                    };
                if self.stream.send_data(part, is_last).is_err() {
                    return Poll::Ready(End::Left);
                }
                if is_last {
                    return Poll::Ready(End::Whole);
                }
                continue;
            }
            if matches!(self.then, Some(Then::Abort)) && turn < TURN_BYTES {
                // A reset drops what was not written yet: that has a turn of its own.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(then) = self.then.take() {
                return Poll::Ready(self.end(then));
            }
            if self.poll_gather(cx).is_pending() {
                // It is the upstream that is waited for.
                self.moves();
                return Poll::Pending;
            }
        }
    }

    fn end(&mut self, then: Then) -> End {
        let sent = match then {
            Then::Trailers(trailers) => self.stream.send_trailers(trailers),
            Then::End => self.stream.send_data(Bytes::new(), true),
            Then::Abort => {
                self.stream.send_reset(Reason::INTERNAL_ERROR);
                return End::Aborted;
            }
        };
        if sent.is_ok() { End::Whole } else { End::Left }
    }

    /// How many bytes the client's windows and the send buffer have room for; never 0.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, End>> {
        // What was left of an earlier reservation is not told again by `poll_capacity`.
        let mut room = self.stream.capacity();
        if room == 0 {
            self.stream.reserve_capacity(self.pending.len());
            room = self.stream.capacity();
        }
        while room == 0 {
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(more))) => room = more,
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(End::Left)),
                Poll::Pending => {
                    if !std::mem::replace(&mut self.is_blocked, true) {
                        self.blocked.set(self.limit);
                    }
                    return self.blocked.poll(cx).map(|()| Err(End::StoodStill));
                }
            }
        }
        self.moves();
        Poll::Ready(Ok(room))
    }

    fn moves(&mut self) {
        if std::mem::take(&mut self.is_blocked) {
            self.blocked.clear();
        }
    }

    /// Takes content until there is something to send, or its end.
    fn poll_gather(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut gathered: Option<BytesMut> = None;
        loop {
            let frame = match Pin::new(&mut self.content).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => break,
            };
            let data = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(frame) => {
                        self.then = Some(frame.into_trailers().map_or(Then::End, Then::Trailers));
                        break;
                    }
                },
                Some(Err(_)) => {
                    self.then = Some(Then::Abort);
                    break;
                }
                None => {
                    self.then = Some(Then::End);
                    break;
                }
            };
            match &mut gathered {
                // Large enough to be worth a frame of its own.
                None if data.len() >= SMALL => {
                    self.pending = data;
                    return Poll::Ready(());
                }
                None if self.content.is_end_stream() => {
                    self.pending = data;
                    return Poll::Ready(());
                }
                None => gathered = Some(BytesMut::from(data.chunk())),
                Some(gathered) => gathered.extend_from_slice(&data),
            }
            if gathered.as_ref().is_some_and(|gathered| gathered.len() >= GATHERED_BYTES)
                || self.content.is_end_stream()
            {
                break;
            }
        }
        if let Some(gathered) = gathered {
            self.pending = gathered.freeze();
        }
        if self.pending.is_empty() && self.then.is_none() { Poll::Pending } else { Poll::Ready(()) }
    }
}

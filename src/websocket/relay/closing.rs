//! What ends a WebSocket, and what each side is told; the table in [`super`] is this file.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{Observer, Relay};
use crate::failure::classify::{self, Facts};
use crate::failure::{ClientFailure, Failure, Kind, Phase, Source};
use crate::websocket::close::{self, Close};
use crate::websocket::frame::{self, CLOSE};
use crate::websocket::walk::Violation;

impl<C, U, O> Relay<'_, C, U, O>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
    O: Observer,
{
    pub(super) fn began(&mut self, initiator: &'static str) {
        self.outcome.initiator.get_or_insert(initiator);
        let since = *self.closing_since.get_or_insert_with(Instant::now);
        // The closing wait is likely shorter than what the timer stood for.
        self.wake_at(since + self.settings.close_timeout);
    }

    /// Says Close to the client, once.
    pub(super) fn close_client(&mut self, code: u16, frame: &[u8]) {
        if !self.client_side.close_sent && !self.client_side.is_over {
            self.to_client.push(frame);
            self.client_side.close_sent = true;
            self.outcome.code = Some(code);
        }
    }

    /// Says Close to the upstream, once and only between two frames; else it will be reset.
    pub(super) fn close_upstream(&mut self, code: u16) {
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

    pub(super) fn upstream_closed(&mut self, close: Close) {
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

    pub(super) fn asked_for(&self, code: u16) -> bool {
        self.outcome.asked.as_ref().is_some_and(|asked| asked.code() == code)
    }

    pub(super) fn upstream_ended(&mut self, error: Option<io::Error>) {
        if self.upstream_side.is_over {
            return;
        }
        let expected = self.upstream_side.close_received || self.client_side.close_sent;
        if expected || self.outcome.asked.is_some() || self.client_side.is_over {
            self.upstream_side.is_over = true;
            self.echo();
            return;
        }
        let (kind, source): (_, Source) = match error {
            Some(error) => {
                let facts = Facts::in_phase(Phase::Websocket);
                (classify::classify(&facts, &error), Box::new(error))
            }
            None => (Kind::ConnectionTerminated, Box::new(EndedWithoutClose)),
        };
        self.upstream_side.is_over = true;
        self.upstream_failed(kind, Some(source));
    }

    /// The upstream owes the client the answer to its Close: it gets its own code back.
    pub(super) fn echo(&mut self) {
        if let Some(asked) = self.outcome.asked.take() {
            let (code, payload) = match &asked {
                Close::Code(code, _) => (*code, close::payload(*code, "")),
                Close::Empty | Close::Illegal => (1005, Vec::new()),
            };
            self.close_client(code, &frame::control(CLOSE, &payload, None));
        }
    }

    pub(super) fn upstream_failed(&mut self, kind: Kind, source: Option<Source>) {
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
        let (code, frame) = (close.code, close.encode_unmasked());
        let wait = self.share_of(self.settings.loss_spread);
        if wait.is_zero() {
            return self.close_client(code, &frame);
        }
        let at = Instant::now() + wait;
        self.later = Some(Box::new(Later { code, frame }));
        // The client has its time to answer from then on.
        self.closing_since = Some(at);
        self.wake_at(at);
    }

    pub(super) fn client_closed(&mut self, close: &Close, whole: &[u8]) {
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

    pub(super) fn client_broke(&mut self, violation: Violation) {
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

    pub(super) fn client_gone(&mut self) {
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

    /// Clients that are told together come back together: each has a turn of its own.
    pub(super) fn begin_drain(&mut self) {
        let wait = self.share_of(self.settings.drain_spread);
        if wait.is_zero() {
            return self.leave(1012, "restarting");
        }
        let at = Instant::now() + wait;
        self.drain_at = Some(at);
        if self.closing_since.is_none() && at < self.timer.deadline() {
            self.wake_at(at);
        }
    }

    /// Ends the WebSocket for a reason of our own.
    pub(super) fn leave(&mut self, code: u16, reason: &str) {
        self.began("seawall");
        let payload = close::payload(code, reason);
        self.close_client(code, &frame::control(CLOSE, &payload, None));
        self.close_upstream(1001);
    }

    /// A random part of a time.
    fn share_of(&mut self, spread: Duration) -> Duration {
        let thousandths = u32::try_from(self.random() % 1000).unwrap_or(0);
        spread * thousandths / 1000
    }

    /// Says the Close whose turn it is.
    pub(super) fn say_later(&mut self) {
        if let Some(later) = self.later.take() {
            self.close_client(later.code, &later.frame);
        }
    }
}

/// A Close that waits for its turn.
#[derive(Debug)]
pub(super) struct Later {
    code: u16,
    frame: Vec<u8>,
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

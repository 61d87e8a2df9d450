//! One side of a relay: what it has sent, what it still owes, whether it lives.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::time::Instant;

use super::CARRY;
use crate::config::model::WebSocket as Settings;
use crate::websocket::walk::Token;

/// One side of a relay.
#[derive(Debug)]
pub struct Side {
    /// It has been sent a Close: nothing else may follow.
    pub close_sent: bool,
    /// It has sent a Close: it is not read any more.
    pub close_received: bool,
    /// Nothing is expected of it any more.
    pub is_over: bool,
    /// Our half of its stream is closed.
    pub shut: bool,
    /// The payload of a ping of ours that has not been answered.
    pub ping: Option<Token>,
    /// How many bytes its incomplete frame needs.
    pub needs: usize,
    /// An incomplete frame.
    partial: Vec<u8>,
    last_seen: Instant,
    pinged_at: Option<Instant>,
}

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// The end of the stream.
    Ended,
    /// So many bytes in the scratch buffer, the incomplete frame in front.
    Scratch(usize),
    /// More of the incomplete frame, in its own buffer.
    InPlace,
}

/// Whether a side lives.
#[derive(Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It was heard of lately, or has time left to answer a ping.
    Alive,
    /// It is silent and should be pinged.
    Silent,
    /// It did not answer.
    Gone,
}

impl Side {
    /// A side that is open.
    pub fn new(now: Instant) -> Self {
        Side {
            close_sent: false,
            close_received: false,
            is_over: false,
            shut: false,
            ping: None,
            needs: 0,
            partial: Vec::new(),
            last_seen: now,
            pinged_at: None,
        }
    }

    /// Whether it is not read any more.
    pub fn is_silent(&self) -> bool {
        self.is_over || self.close_received
    }

    /// Whether its half of the closing handshake is complete, given what waits for it.
    pub fn is_done(&self, pending: &super::Pending) -> bool {
        self.is_over || (self.close_sent && self.close_received && pending.is_empty())
    }

    /// Whether a part of a frame is here.
    pub fn has_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    /// It was heard of.
    pub fn seen(&mut self, now: Instant) {
        self.last_seen = now;
    }

    /// It was sent a ping.
    pub fn pinged(&mut self, token: Token, now: Instant) {
        self.ping = Some(token);
        self.pinged_at = Some(now);
    }

    /// Whether it lives.
    pub fn liveness(&mut self, now: Instant, settings: &Settings) -> Liveness {
        if let Some(pinged) = self.pinged_at {
            if self.last_seen >= pinged {
                // Any byte is a sign of life; the pong itself may still come.
                self.pinged_at = None;
            } else if now >= pinged + settings.pong_timeout {
                return Liveness::Gone;
            } else {
                return Liveness::Alive;
            }
        }
        if now >= self.last_seen + settings.ping_interval {
            Liveness::Silent
        } else {
            Liveness::Alive
        }
    }

    /// When its liveness may change.
    pub fn next_check(&self, settings: &Settings) -> Instant {
        match self.pinged_at {
            Some(pinged) if self.last_seen < pinged => pinged + settings.pong_timeout,
            _ => self.last_seen + settings.ping_interval,
        }
    }

    /// Reads into the worker's buffer, or into the incomplete frame's own if that is large. While
    /// there is nothing to read, nothing is held.
    pub fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        io: &mut R,
        scratch: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Read>> {
        let held = self.partial.len();
        if held > CARRY {
            let room = self.needs.saturating_sub(held).max(1);
            self.partial.reserve_exact(room);
            let mut target = (&mut self.partial).limit(room);
            let count = {
                let read = pin!(io.read_buf(&mut target));
                ready!(std::future::Future::poll(read, cx))?
            };
            return Poll::Ready(Ok(if count == 0 { Read::Ended } else { Read::InPlace }));
        }
        let Some((front, room)) = scratch.split_at_mut_checked(held) else {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        };
        let mut buf = ReadBuf::new(room);
        ready!(Pin::new(io).poll_read(cx, &mut buf))?;
        let count = buf.filled().len();
        if count == 0 {
            return Poll::Ready(Ok(Read::Ended));
        }
        front.copy_from_slice(&self.partial);
        self.partial.clear();
        Poll::Ready(Ok(Read::Scratch(held + count)))
    }

    /// Keeps the incomplete frame at the end of what was read.
    pub fn carry(&mut self, tail: &[u8]) {
        if tail.is_empty() {
            self.partial = Vec::new();
        } else {
            self.partial.clear();
            self.partial.extend_from_slice(tail);
        }
    }

    /// The incomplete frame, to be walked.
    pub fn take_partial(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.partial)
    }

    /// Puts back what of it is still incomplete.
    pub fn keep_partial(&mut self, mut partial: Vec<u8>, dealt_with: usize) {
        if dealt_with < partial.len() {
            partial.drain(..dealt_with);
            self.partial = partial;
        }
    }
}

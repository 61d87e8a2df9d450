//! What a relay does about the time: pings, and the limits of every wait. One timer, set to the
//! earliest of them.

use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::side::Liveness;
use super::{Observer, Relay};
use crate::failure::Kind;
use crate::websocket::frame::{self, PING};

impl<C, U, O> Relay<'_, C, U, O>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
    O: Observer,
{
    /// Sets the timer.
    pub(super) fn wake_at(&mut self, at: Instant) {
        self.timer.as_mut().reset(at);
        self.timer_is_set = false;
    }

    /// Ready when something was done about the time.
    pub(super) fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.closing_since.is_none() {
            let blocked = [self.to_client.blocked_since(), self.to_upstream.blocked_since()];
            for since in blocked.into_iter().flatten() {
                let limit = since + self.settings.write_timeout;
                if self.timer.deadline() > limit {
                    self.wake_at(limit);
                }
            }
        }
        // A timer that is due wakes us, and is then asked unless a read says that it is not yet time.
        let early = self.clock.is_some_and(|now| now < self.timer.deadline());
        if early && self.timer_is_set {
            return Poll::Pending;
        }
        self.timer_is_set = true;
        std::task::ready!(self.timer.as_mut().poll(cx));
        self.timer_is_set = false;
        let now = Instant::now();
        if let Some(since) = self.closing_since {
            self.say_later();
            if now >= since + self.settings.close_timeout {
                self.give_up(now);
            }
            let since = self.closing_since.unwrap_or(now);
            self.wake_at(since + self.settings.close_timeout);
            return Poll::Ready(());
        }
        if self.drain_at.is_some_and(|at| at <= now) {
            self.leave(1012, "restarting");
            return Poll::Ready(());
        }
        let idle = self.settings.idle_timeout;
        if !idle.is_zero() && now >= self.last_message + idle {
            self.leave(1001, "idle");
            return Poll::Ready(());
        }
        // A side whose words nobody takes is not read: its silence means nothing.
        let heard = [self.to_upstream.is_empty(), self.to_client.is_empty()];
        self.check_client(now, heard[0]);
        if self.closing_since.is_none() {
            self.check_upstream(now, heard[1]);
        }
        if self.closing_since.is_none() {
            let next = self.next_check(now);
            self.wake_at(next);
        }
        Poll::Ready(())
    }

    pub(super) fn check_client(&mut self, now: Instant, heard: bool) {
        if self.to_client.is_blocked_for(self.settings.write_timeout, now) {
            return self.client_gone();
        }
        if !heard {
            return;
        }
        match self.client_side.liveness(now, self.settings) {
            Liveness::Alive => {}
            Liveness::Silent => {
                let token = self.random().to_be_bytes();
                self.to_client.push(&frame::control(PING, &token, None));
                self.client_side.pinged(token, now);
            }
            Liveness::Gone => self.client_gone(),
        }
    }

    pub(super) fn check_upstream(&mut self, now: Instant, heard: bool) {
        if self.to_upstream.is_blocked_for(self.settings.write_timeout, now) {
            self.upstream_side.is_over = true;
            self.abort_upstream = true;
            return self.upstream_failed(Kind::ConnectionWriteTimeout, None);
        }
        if !heard {
            return;
        }
        match self.upstream_side.liveness(now, self.settings) {
            // Inside a client's frame nothing can be said, and nothing can be expected either.
            Liveness::Silent if self.from_client.is_between_frames() => {
                let token = self.random().to_be_bytes();
                let [a, b, c, d, ..] = self.random().to_be_bytes();
                self.to_upstream.push(&frame::control(PING, &token, Some([a, b, c, d])));
                self.upstream_side.pinged(token, now);
            }
            Liveness::Alive | Liveness::Silent => {}
            Liveness::Gone => {
                self.abort_upstream = true;
                self.upstream_failed(Kind::ConnectionReadTimeout, None);
            }
        }
    }

    /// When something may have to be done next.
    pub(super) fn next_check(&self, now: Instant) -> Instant {
        let client = self.client_side.next_check(self.settings);
        let upstream = self.upstream_side.next_check(self.settings);
        // What is overdue could not be done now; look again soon, not at once.
        let soon = now + self.settings.ping_interval.min(self.settings.pong_timeout) / 2;
        let idle = self.settings.idle_timeout;
        let idle = (!idle.is_zero()).then(|| self.last_message + idle);
        [Some(client), Some(upstream), idle, self.drain_at]
            .into_iter()
            .flatten()
            .map(|at| if at <= now { soon } else { at })
            .min()
            .unwrap_or(soon)
    }

    /// A side had its time to close.
    pub(super) fn give_up(&mut self, now: Instant) {
        if self.gave_up {
            self.abort_upstream |= !self.upstream_side.is_over && !self.to_upstream.is_empty();
            self.client_side.is_over = true;
            self.upstream_side.is_over = true;
            return;
        }
        self.gave_up = true;
        // What is said now has the same time again to leave.
        self.closing_since = Some(now);
        self.upstream_side.is_over |= self.upstream_side.close_sent;
        self.client_side.is_over |= self.client_side.close_sent && !self.client_side.close_received;
        self.echo();
        self.close_upstream(1001);
    }
}

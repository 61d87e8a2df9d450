//! The clock of standstill of an exchange: what is waited for, since which byte, and what it means when
//! that takes too long.
//!
//! Both protocols use it, so that the kind of a time-out follows from what is waited for and from
//! nothing else:
//!
//! | waited for | limit | begins anew with | when it is over |
//! | --- | --- | --- | --- |
//! | [`Awaits::Head`]: the upstream, to answer a request that is sent | `timeouts.head`, over all attempts | an interim response | `http_response_timeout` |
//! | [`Awaits::Room`]: the upstream, to take content | `timeouts.idle` | any byte | `connection_write_timeout` |
//! | [`Awaits::Content`]: the upstream, to send content | `timeouts.idle` | any byte | `connection_read_timeout` |
//! | [`Awaits::Client`]: the client, to send content | `clients.body_timeout` | any byte | the client's `request_timeout` |
//! | [`Awaits::Continue`]: the upstream's 100 (RFC 9110 §10.1.1) | `timeouts.expect_continue` | – | the content is sent |
//!
//! Bytes that move in either direction are a sign of life of the exchange. An upload that waits for its
//! client makes the client the one that is waited for, also behind the head of a response: an app
//! that reads while it writes cannot go on without it. Nothing runs while nobody polls: a client that
//! does not take the response is the business of its own connection.
//!
//! The head's clock runs only while the upstream alone is waited for, and is not begun anew by another
//! attempt: [`HeadTime`] is the request's, and lends each attempt what is left.

use std::cell::Cell;
use std::future::Future;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::deadline::Deadline;
use super::upload::Waiting;
use crate::config::model::Timeouts;
use crate::failure::Phase;

/// What an exchange waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaits {
    /// The upstream, to answer.
    Head,
    /// The upstream, to take content.
    Room,
    /// The upstream, to send content.
    Content,
    /// The client, to send content.
    Client,
    /// The upstream's 100.
    Continue,
}

impl Awaits {
    /// Returns what is waited for before the final head, by an upload that waits for this.
    #[must_use]
    pub fn before_head(upload: Waiting) -> Self {
        match upload {
            Waiting::Done => Awaits::Head,
            Waiting::Upstream => Awaits::Room,
            Waiting::Client => Awaits::Client,
            Waiting::Continue => Awaits::Continue,
        }
    }

    /// Returns what is waited for behind the final head. An upstream that neither takes nor gives is
    /// one that does not give.
    #[must_use]
    pub fn behind_head(upload: Waiting) -> Self {
        match upload {
            Waiting::Client => Awaits::Client,
            Waiting::Done | Waiting::Upstream | Waiting::Continue => Awaits::Content,
        }
    }
}

/// What it means that time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The upstream stands still, in this phase.
    Upstream(Phase),
    /// The client stands still.
    Client,
    /// The upstream may not know Expect: the content is sent.
    Proceed,
}

/// How long the response head may take, over all attempts of a request.
#[derive(Debug)]
pub struct HeadTime {
    limit: Duration,
    spent: Cell<Duration>,
}

impl HeadTime {
    /// Begins with nothing spent.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        HeadTime { limit, spent: Cell::new(Duration::ZERO) }
    }

    /// Returns what is left.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.spent.get())
    }

    /// Waits for the upstream alone, not longer than there is time.
    ///
    /// # Errors
    /// The time is over.
    pub async fn within<F: Future>(&self, wait: F) -> Result<F::Output, Spent> {
        let began = Instant::now();
        let result = tokio::time::timeout(self.left(), wait).await;
        self.spend(began.elapsed());
        result.map_err(|_| Spent)
    }

    /// Takes back what an attempt has left.
    pub fn take_back(&self, attempt: &Patience, now: Instant) {
        if attempt.began_anew {
            self.spent.set(Duration::ZERO);
        }
        self.spend(attempt.head_waited(now));
    }

    fn spend(&self, time: Duration) {
        self.spent.set(self.spent.get().saturating_add(time));
    }
}

/// The time for the response head is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent;

impl std::fmt::Display for Spent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the time for the response head (timeouts.head) was over")
    }
}

impl std::error::Error for Spent {}

/// The clock of one exchange.
#[derive(Debug)]
pub struct Patience {
    head: Duration,
    client: Duration,
    awaits: Option<Awaits>,
    /// When the request was sent.
    sent: Instant,
    /// Since when the head is waited for, if it is.
    since: Instant,
    /// The head was waited for so long before that.
    waited: Duration,
    /// An interim response has come.
    began_anew: bool,
}

impl Patience {
    /// A request is sent `now`. Its head may take so long, and its client may let it stand still so long.
    #[must_use]
    pub fn new(now: Instant, head: Duration, client: Duration) -> Self {
        let waited = Duration::ZERO;
        Patience { head, client, awaits: None, sent: now, since: now, waited, began_anew: false }
    }

    /// Returns when the request was sent.
    #[must_use]
    pub fn sent(&self) -> Instant {
        self.sent
    }

    /// A byte has moved. Those of a head, and those of content behind which the head is awaited, are no
    /// answer yet.
    pub fn moved(&mut self) {
        if self.awaits != Some(Awaits::Head) {
            self.awaits = None;
        }
    }

    /// An interim response has come: the head's clock begins anew.
    pub fn answers(&mut self) {
        self.awaits = None;
        self.waited = Duration::ZERO;
        self.began_anew = true;
    }

    /// Returns for how long the head has been waited for, and the upstream alone.
    #[must_use]
    pub fn head_waited(&self, now: Instant) -> Duration {
        match self.awaits {
            Some(Awaits::Head) => self.waited + now.saturating_duration_since(self.since),
            _ => self.waited,
        }
    }

    /// Pending while there is time for this. `now` is the time, if it is known.
    pub fn poll(
        &mut self,
        awaits: Awaits,
        timeouts: &Timeouts,
        now: Option<Instant>,
        deadline: &mut Deadline,
        cx: &mut Context<'_>,
    ) -> Poll<Over> {
        if self.awaits != Some(awaits) {
            let now = now.unwrap_or_else(Instant::now);
            self.waited = self.head_waited(now);
            let limit = match awaits {
                Awaits::Head => {
                    self.since = now;
                    self.head.saturating_sub(self.waited)
                }
                Awaits::Room | Awaits::Content => timeouts.idle,
                Awaits::Client => self.client,
                Awaits::Continue => timeouts.expect_continue,
            };
            self.awaits = Some(awaits);
            deadline.set_from(now, limit);
        }
        std::task::ready!(deadline.poll(cx));
        Poll::Ready(match awaits {
            Awaits::Head => Over::Upstream(Phase::Head),
            Awaits::Room => Over::Upstream(Phase::Send),
            Awaits::Content => Over::Upstream(Phase::Body),
            Awaits::Client => Over::Client,
            Awaits::Continue => {
                self.awaits = None;
                Over::Proceed
            }
        })
    }
}

#[cfg(test)]
mod tests;

//! The end of an attempt: what became of the request, and if it may be sent again (P8).
//!
//! The one place for it, over both protocols. An exchange tells what was [`Seen`] of it; from that
//! follows its [`Fate`]; from the fate and what is left to the request, what is [`Next`]. Evidence
//! beats claims: where a byte of an answer has come, the request was processed, whatever the upstream
//! says of it afterwards.
//!
//! | fate | seen | sent again | where | charged |
//! | --- | --- | --- | --- | --- |
//! | [`Fate::Unreachable`] | no connection | whatever it is | elsewhere, each endpoint once | nothing |
//! | [`Fate::Declined`] | REFUSED_STREAM, or a stream behind the last one of a GOAWAY (RFC 9113 §8.7, §6.8) | whatever it is, for as long as a request may wait for a connection | the same endpoint; the third time on elsewhere | nothing |
//! | [`Fate::Stale`] | its idle connection was closed (RFC 9112 §9.3.1) | if idempotent or unsent, once | the same endpoint, on a new connection | nothing |
//! | [`Fate::Unsent`] | a connection that ended before it took a byte | whatever it is | elsewhere; if there is no other, the same endpoint | nothing; an attempt and the budget |
//! | [`Fate::Lost`] | the connection was closed, no byte of an answer | if idempotent | elsewhere, or the same endpoint | an attempt; the budget, unless the endpoint died |
//! | [`Fate::Silent`] | a time limit ended | if idempotent or unsent | elsewhere only | an attempt and the budget |
//! | [`Fate::Executed`] | a byte of an answer | if idempotent | elsewhere, or the same endpoint | an attempt and the budget |
//! | [`Fate::Unknown`] | anything else | if idempotent | elsewhere, or the same endpoint | an attempt and the budget |
//!
//! All of them need the request's content again, and time that is left for a head. Without a second
//! attempt in the configuration only an unreachable endpoint and a stale connection are made up for:
//! there the request has not begun.
//!
//! An endpoint died when a connection to it is closed under a request, without an answer, for the first
//! time in ten seconds. All idempotent requests that were in flight there at that moment have one retry
//! free of the budget ([`Deaths`]): a restart of an app costs as many of them as it has requests.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::failure::{Failure, Kind};

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The connection was closed or reset.
    Closed,
    /// The upstream says that it has not processed the request.
    Declined,
    /// A time limit was over.
    TimedOut,
    /// The stream was reset, or the answer was not acceptable.
    Broken,
}

impl End {
    /// Returns the end that this failure of a connection of its own tells of.
    #[must_use]
    pub fn of(failure: &Failure) -> Self {
        match failure.kind() {
            Kind::ConnectionTerminated | Kind::HttpResponseIncomplete => End::Closed,
            Kind::HttpResponseTimeout
            | Kind::ConnectionTimeout
            | Kind::ConnectionReadTimeout
            | Kind::ConnectionWriteTimeout => End::TimedOut,
            _ => End::Broken,
        }
    }
}

/// What was seen of an attempt that brought no response.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// A byte of the request may have left.
    pub sent: bool,
    /// A byte of an answer has come: of an interim response, or of what is none.
    pub answered: bool,
    /// It was sent on a connection that had carried another request, and ended so soon that both may
    /// have crossed on their way.
    pub crossed: bool,
    /// How it ended.
    pub end: End,
}

/// What became of a request that has no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// There was no connection.
    Unreachable,
    /// The upstream has not processed it, and says so.
    Declined,
    /// It was sent on an idle connection that turned out to be closed.
    Stale {
        /// Not a byte of it has left.
        unsent: bool,
    },
    /// Not a byte of it has left.
    Unsent {
        /// Because the connection stands still.
        stuck: bool,
    },
    /// Its connection was closed.
    Lost,
    /// The upstream was waited for in vain.
    Silent,
    /// The upstream has begun to answer it.
    Executed,
    /// The upstream may have processed it.
    Unknown,
}

impl Seen {
    /// Returns the request's fate.
    #[must_use]
    pub fn fate(self) -> Fate {
        let unsent = !self.sent;
        match self.end {
            End::TimedOut if self.answered || self.sent => Fate::Silent,
            _ if self.answered => Fate::Executed,
            End::Declined => Fate::Declined,
            End::Closed if self.crossed => Fate::Stale { unsent },
            End::TimedOut => Fate::Unsent { stuck: true },
            End::Closed | End::Broken if unsent => Fate::Unsent { stuck: false },
            End::Closed => Fate::Lost,
            End::Broken => Fate::Unknown,
        }
    }
}

impl Fate {
    /// Returns `true` if the upstream has certainly not processed the request.
    #[must_use]
    pub fn is_unprocessed(self) -> bool {
        match self {
            Fate::Unreachable | Fate::Declined | Fate::Unsent { .. } => true,
            Fate::Stale { unsent } => unsent,
            Fate::Lost | Fate::Silent | Fate::Executed | Fate::Unknown => false,
        }
    }
}

/// What is left to a request whose attempt has failed.
#[derive(Clone, Copy, Debug)]
pub struct Left {
    /// It may be processed twice (RFC 9110 §9.2.2).
    pub idempotent: bool,
    /// Its content can be sent again.
    pub replay: bool,
    /// Attempts that may follow.
    pub attempts: u32,
    /// More than one attempt is configured.
    pub retries: bool,
    /// There is time for a response head.
    pub time: bool,
    /// It may still wait for its turn.
    pub turn: bool,
    /// It has not met a stale connection before.
    pub fresh: bool,
    /// It was in flight at an endpoint that died, for the first time.
    pub bereaved: bool,
    /// The failure may be gone at the next attempt.
    pub passes: bool,
}

/// What follows an attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The request has failed.
    Fail,
    /// It goes out again on a new connection to the same endpoint, as if this attempt had not been.
    Fresh,
    /// It waits for its turn and goes out again, as if this attempt had not been.
    Turn,
    /// It goes to an endpoint that it has not tried, as if this attempt had not been. Where there is no
    /// other, it may be charged for going to the same one again if `else_same`.
    Elsewhere {
        /// The same endpoint will do.
        else_same: bool,
    },
    /// Another attempt.
    Attempt {
        /// The same endpoint will do.
        else_same: bool,
        /// It takes a retry out of the budget.
        charged: bool,
    },
}

/// Decides what follows.
#[must_use]
pub fn next(fate: Fate, left: Left) -> Next {
    if !left.replay || !left.time {
        return Next::Fail;
    }
    let again = left.retries && left.attempts > 0;
    let attempt = |may: bool, else_same, charged| match may && again {
        true => Next::Attempt { else_same, charged },
        false => Next::Fail,
    };
    match fate {
        Fate::Unreachable => Next::Elsewhere { else_same: false },
        Fate::Declined if left.turn && left.retries => Next::Turn,
        Fate::Declined => Next::Fail,
        Fate::Stale { unsent } if left.fresh && (unsent || left.idempotent) => Next::Fresh,
        Fate::Stale { unsent: true } | Fate::Unsent { stuck: false } => {
            Next::Elsewhere { else_same: again }
        }
        Fate::Unsent { stuck: true } => attempt(true, false, true),
        Fate::Stale { unsent: false } | Fate::Lost => {
            attempt(left.idempotent, true, !left.bereaved)
        }
        Fate::Silent => attempt(left.idempotent && left.passes, false, true),
        Fate::Executed | Fate::Unknown => {
            attempt(left.idempotent && left.passes, true, !left.bereaved)
        }
    }
}

/// Returns `true` if a failure may be gone at the next attempt. A response that is too large, or that
/// is not HTTP, would be the same again.
#[must_use]
pub fn may_pass(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::ConnectionTerminated
            | Kind::ConnectionReadTimeout
            | Kind::ConnectionWriteTimeout
            | Kind::DestinationIpUnroutable
            | Kind::HttpResponseIncomplete
            | Kind::HttpResponseTimeout
            | Kind::TlsAlertReceived
    )
}

/// How long after a death the endpoint is not believed to die again.
const MOURNING: Duration = Duration::from_secs(10);

/// When an endpoint died last, as one worker has seen it.
#[derive(Debug, Default)]
pub struct Deaths(Cell<Option<Instant>>);

impl Deaths {
    /// Takes note of an attempt that began at `sent` and lost its connection `now`, without an answer if
    /// `unanswered`. Returns `true` if it was in flight when the endpoint died.
    #[must_use]
    pub fn took(&self, sent: Instant, now: Instant, unanswered: bool) -> bool {
        let last = self.0.get().filter(|last| now.saturating_duration_since(*last) < MOURNING);
        match last {
            Some(last) => sent <= last,
            // One that was answered in part may have met its own end.
            None if unanswered => {
                self.0.set(Some(now));
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests;

//! What uploading a request means in every version: what it can wait for, how it can fail, and
//! how much content a client may send.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::exchange::Framing;
use crate::failure::classify;
use crate::failure::{ClientFailure, Source};

/// What the upload waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Nothing: all of the request has been sent.
    Done,
    /// The upstream, to read.
    Upstream,
    /// The client, to send content.
    Client,
    /// The upstream's 100 (RFC 9110 §10.1.1).
    Continue,
}

/// Why an upload cannot go on: who failed is known by construction.
#[derive(Debug)]
pub enum UploadError {
    /// The upstream does not take it.
    Upstream(io::Error),
    /// The client does not send it.
    Client(ClientFailure, Source),
}

impl UploadError {
    /// The request content ended with this error.
    pub fn content(error: Source) -> Self {
        UploadError::Client(classify::content(&*error), error)
    }
}

/// How much content a client may send, and how slowly.
#[derive(Clone, Copy, Debug, Default)]
pub struct ContentLimit {
    /// Most bytes; `None` is no limit.
    pub bytes: Option<u64>,
    /// Fewest bytes a second, on average over the time that was waited for the client, if the length
    /// is known: what has none may be a stream, whose silence means nothing. 0 is no limit.
    pub least_rate: u64,
    /// How long must have been waited for that to be asked.
    pub grace: Duration,
}

/// Counts the content that was taken from the client, and the time that was waited for it.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    taken: u64,
    limit: ContentLimit,
    waited: Duration,
    waits_since: Option<Instant>,
}

impl Meter {
    /// Counts content that is framed like this.
    #[must_use]
    pub fn new(limit: ContentLimit, framing: Framing) -> Self {
        let least_rate = match framing {
            Framing::Length(_) => limit.least_rate,
            Framing::Empty | Framing::Chunked | Framing::Close => 0,
        };
        let limit = ContentLimit { least_rate, ..limit };
        Meter { taken: 0, limit, waited: Duration::ZERO, waits_since: None }
    }

    /// The client has nothing to give now.
    pub fn waits(&mut self) {
        if self.limit.least_rate > 0 && self.waits_since.is_none() {
            self.waits_since = Some(Instant::now());
        }
    }

    /// So many bytes more.
    ///
    /// # Errors
    /// If that is too much, or comes too slowly.
    pub fn take(&mut self, count: usize) -> Result<(), UploadError> {
        self.taken += count as u64;
        if self.limit.bytes.is_some_and(|limit| self.taken > limit) {
            let error = Box::new(ContentError::OverLimit);
            return Err(UploadError::Client(ClientFailure::ContentTooLarge, error));
        }
        if let Some(since) = self.waits_since.take() {
            self.waited += since.elapsed();
            let due = self.limit.least_rate.saturating_mul(self.waited.as_secs());
            if self.waited > self.limit.grace && self.taken < due {
                let error = Box::new(ContentError::TooSlow);
                return Err(UploadError::Client(ClientFailure::RequestTimeout, error));
            }
        }
        Ok(())
    }

    /// The content is complete.
    ///
    /// # Errors
    /// If it is not as long as it was said to be.
    pub fn finish(self, framing: Framing) -> Result<(), UploadError> {
        match framing {
            Framing::Length(length) if length != self.taken => {
                let error = Box::new(ContentError::WrongLength);
                Err(UploadError::Client(ClientFailure::BadRequest, error))
            }
            Framing::Empty | Framing::Length(_) | Framing::Chunked | Framing::Close => Ok(()),
        }
    }
}

/// What is wrong with the content that a client sends.
#[derive(Debug)]
enum ContentError {
    OverLimit,
    WrongLength,
    TooSlow,
}

impl std::fmt::Display for ContentError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ContentError::OverLimit => "the request content is larger than the route's limit",
            ContentError::TooSlow => "the request content comes more slowly than it may",
            ContentError::WrongLength => {
                "the request content is not as long as content-length says"
            }
        })
    }
}

impl std::error::Error for ContentError {}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const LIMIT: ContentLimit =
        ContentLimit { bytes: None, least_rate: 100, grace: Duration::from_secs(10) };

    /// How many of twenty pieces of this size are taken, of which each lets us wait for a second.
    async fn taken(framing: Framing, size: usize) -> usize {
        let mut meter = Meter::new(LIMIT, framing);
        for count in 0..20 {
            meter.waits();
            advance(Duration::from_secs(1)).await;
            meter.waits();
            match meter.take(size) {
                Ok(()) => {}
                Err(UploadError::Client(ClientFailure::RequestTimeout, _)) => return count,
                Err(other) => panic!("{other:?}"),
            }
            // The upstream's own time is not the client's.
            advance(Duration::from_secs(100)).await;
        }
        20
    }

    #[tokio::test(start_paused = true)]
    async fn content_of_known_length_that_comes_in_drops_is_given_up_after_the_grace() {
        let known = Framing::Length(1 << 20);
        assert_eq!(taken(known, 99).await, 10);
        assert_eq!(taken(known, 100).await, 20);
        assert_eq!(taken(Framing::Chunked, 1).await, 20, "what has no length may be a stream");
    }
}

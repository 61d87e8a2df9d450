//! What uploading a request means in every version: what it can wait for, how it can fail, and
//! how much content a client may send.

use std::io;

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

/// Counts the content that was taken from the client.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    taken: u64,
    limit: u64,
}

impl Meter {
    /// Most bytes of content that the client may send; `None` is no limit.
    #[must_use]
    pub fn new(limit: Option<u64>) -> Self {
        Meter { taken: 0, limit: limit.unwrap_or(u64::MAX) }
    }

    /// So many bytes more.
    ///
    /// # Errors
    /// If that is too much.
    pub fn take(&mut self, count: usize) -> Result<(), UploadError> {
        self.taken += count as u64;
        if self.taken <= self.limit {
            return Ok(());
        }
        let error = Box::new(ContentError::OverLimit);
        Err(UploadError::Client(ClientFailure::ContentTooLarge, error))
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
}

impl std::fmt::Display for ContentError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ContentError::OverLimit => "the request content is larger than the route's limit",
            ContentError::WrongLength => {
                "the request content is not as long as content-length says"
            }
        })
    }
}

impl std::error::Error for ContentError {}

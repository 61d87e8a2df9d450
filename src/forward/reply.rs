//! A response as the client's connection is to send it, whatever version that speaks.

use http::header::CONTENT_LENGTH;
use http::{StatusCode, Version};

use super::content::Content;
use crate::failure::render::Answer;
use crate::upstream::fields::Fields;

/// A response: the upstream's, or ours.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its end-to-end fields. `listen` adds those of the connection.
    pub fields: Fields,
    /// Its content.
    pub content: Content,
    /// No other request is served on this connection (HTTP/1.1; an HTTP/2 connection goes on).
    pub close: bool,
}

impl Reply {
    /// One without fields and content.
    #[must_use]
    pub fn empty(status: StatusCode, version: Version) -> Self {
        Reply {
            status,
            fields: Fields::new(status, version),
            content: Content::empty(),
            close: false,
        }
    }

    /// An answer of ours, to a request of this version. HEAD gets the fields of the answer without its
    /// content (RFC 9110 §9.3.2).
    #[must_use]
    pub fn of(answer: Answer, version: Version, is_head: bool) -> Self {
        let mut reply = Reply::empty(answer.status, version);
        for (name, value) in &answer.fields {
            // HTTP/1.1 says it with the content.
            if is_head || version == Version::HTTP_2 || *name != CONTENT_LENGTH {
                reply.fields.append(name, value);
            }
        }
        if !is_head {
            reply.content = Content::full(answer.body);
        }
        reply
    }
}

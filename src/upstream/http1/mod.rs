//! Our own HTTP/1.1 exchange with an upstream (RFC 9112).
//!
//! It exists because knowing exactly which byte failed in which phase is the product, and because
//! it costs about half of a general client. [`lines`] reads heads, [`head`] what those of responses say, [`content`] undoes
//! their framing, [`upload`] sends the request, and [`exchange`] joins the three on one connection.
//! What is ambiguous here is an error, never a guess: a response that two readers could frame
//! differently is `http_protocol_error`.
//!
//! Requests and responses have the same lines, content and framing (RFC 9112 §2): `listen::http1`
//! reads and writes them with the same parts.

pub mod buffers;
pub mod content;
pub mod exchange;
pub mod fill;
pub mod head;
pub mod lines;
pub mod upload;

use crate::config::model::UpstreamLimits;
use crate::failure::Kind;

/// How large a message may be.
#[derive(Clone, Copy, Debug)]
pub struct MessageLimits {
    /// Bytes of the head.
    pub head_bytes: usize,
    /// Bytes of one of its lines.
    pub field_bytes: usize,
    /// Field lines of the head, and of the trailer section.
    pub fields: usize,
    /// Bytes of the trailer section.
    pub trailer_bytes: usize,
    /// Bytes of the content; `None` is no limit.
    pub body_bytes: Option<u64>,
}

impl From<&UpstreamLimits> for MessageLimits {
    fn from(limits: &UpstreamLimits) -> Self {
        let &UpstreamLimits { head_bytes, field_bytes, fields, trailer_bytes, body_bytes, .. } =
            limits;
        MessageLimits { head_bytes, field_bytes, fields, trailer_bytes, body_bytes }
    }
}

/// How an upstream broke HTTP/1.1. Each variant knows its kind by construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// The first bytes are not an HTTP/1.x status line.
    NotHttp,
    /// The head is not what RFC 9112 §2 to §5 allow.
    Malformed(Malformed),
    /// A line of the head ends in a bare LF (RFC 9112 §2.2).
    BareLineFeed,
    /// The head is larger than the limit.
    HeadTooLarge,
    /// The head has more field lines than the limit.
    TooManyFields,
    /// One field line is larger than the limit.
    FieldTooLarge,
    /// Content-Length is not a number, or not one number (RFC 9112 §6.3).
    ContentLength,
    /// Content-Length and Transfer-Encoding together (RFC 9112 §6.1).
    ConflictingFraming,
    /// A Transfer-Encoding other than `chunked`, or in an HTTP/1.0 response.
    TransferEncoding,
    /// A 101 that nobody asked for (RFC 9110 §15.2.2).
    UnsolicitedUpgrade,
    /// More interim responses than the limit.
    TooManyInterim,
    /// A chunk size or chunk end that is malformed (RFC 9112 §7.1).
    Chunk,
    /// The trailer section is malformed.
    Trailers,
    /// The trailer section is larger than the limit.
    TrailersTooLarge,
    /// The content is larger than the limit.
    ContentTooLarge,
}

/// What of a head is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The status line, or the request line (RFC 9112 §3, §4).
    FirstLine,
    /// The status code.
    Status,
    /// The name of a field, or what should be one (RFC 9112 §5).
    Name,
    /// The value of a field.
    Value,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Malformed::FirstLine => "the first line is malformed",
            Malformed::Status => "the status code is none",
            Malformed::Name => "a field line does not begin with a name and a colon",
            Malformed::Value => "a field value has a character that it may not have",
        })
    }
}

impl std::error::Error for Malformed {}

impl MessageError {
    /// The kind of failure that this is.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            MessageError::NotHttp
            | MessageError::Malformed(_)
            | MessageError::BareLineFeed
            | MessageError::ContentLength
            | MessageError::ConflictingFraming
            | MessageError::UnsolicitedUpgrade
            | MessageError::TooManyInterim
            | MessageError::Trailers => Kind::HttpProtocolError,
            MessageError::HeadTooLarge | MessageError::TooManyFields => {
                Kind::HttpResponseHeaderSectionSize
            }
            MessageError::FieldTooLarge => Kind::HttpResponseHeaderSize,
            MessageError::TransferEncoding | MessageError::Chunk => {
                Kind::HttpResponseTransferCoding
            }
            MessageError::TrailersTooLarge => Kind::HttpResponseTrailerSectionSize,
            MessageError::ContentTooLarge => Kind::HttpResponseBodySize,
        }
    }
}

impl std::fmt::Display for MessageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            MessageError::NotHttp => "the first bytes are not an HTTP/1.x status line",
            MessageError::Malformed(_) => "the response head is malformed",
            MessageError::BareLineFeed => "a line of the response head ends in a bare line feed",
            MessageError::HeadTooLarge => "the response head is larger than limits.head",
            MessageError::TooManyFields => "the response has more fields than limits.fields",
            MessageError::FieldTooLarge => "a response field is larger than limits.field",
            MessageError::ContentLength => "content-length is not one non-negative number",
            MessageError::ConflictingFraming => {
                "the response has both content-length and transfer-encoding"
            }
            MessageError::TransferEncoding => "the transfer-encoding is not understood",
            MessageError::UnsolicitedUpgrade => "101 (switching protocols) without an upgrade",
            MessageError::TooManyInterim => "more interim responses than limits.interim_responses",
            MessageError::Chunk => "a chunk of the content is malformed",
            MessageError::Trailers => "the trailer section is malformed",
            MessageError::TrailersTooLarge => "the trailer section is larger than limits.trailers",
            MessageError::ContentTooLarge => "the content is larger than limits.body",
        })
    }
}

impl std::error::Error for MessageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            MessageError::Malformed(source) => Some(source),
            _ => None,
        }
    }
}

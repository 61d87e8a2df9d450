//! From a failure to what the client reads: one function per protocol, no I/O, no clock.
//!
//! What must stay true, whatever the upstream did:
//!
//! - **P1** An [`Answer`] is complete: its `Content-Length` is the length of its body, its status
//!   is a final error status, and its fields are valid. A [`CloseFrame`] is a legal Close frame of
//!   at most 125 bytes of payload.
//! - **P4** Only the kind's public name, a fixed sentence, the status and the request id are ever
//!   written. The endpoint, the source error, the evidence and the names of upstreams and
//!   dependencies are not even looked at. Of the app's own answer two facts survive: its status
//!   (`received-status`, RFC 9209 §2.1.4) and a `Retry-After` that is one.
//! - **P5** The kind's name is the same in the body and in `Proxy-Status`.
//!
//! Before this station a policy has made the [`Decision`](super::policy::Decision); after it the
//! caller writes the answer, and for HEAD drops its body but keeps its fields. What depends on
//! chance (the jitter of `Retry-After`) is derived from the request id, so that the same failure
//! renders to the same bytes.

pub mod accept;
mod content;
pub mod cors;
mod grpc;
mod http;
mod sse;
pub mod template;
mod websocket;

pub use self::http::{Answer, client, http, http_from, overload};
pub use grpc::{grpc, grpc_trailers, is_grpc};
pub use sse::sse;
pub use websocket::{CloseFrame, websocket};

/// A small number that differs from request to request: FNV-1a of the request id.
fn jitter(request_id: &str) -> u64 {
    request_id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

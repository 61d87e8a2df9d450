//! seawall between scripted upstreams and raw clients: exact bytes on both sides, no library that
//! could be lenient where a promise is strict.
//!
//! One module per promise or per part of it; `support` has the scripted upstream, the clients that
//! report what they saw, and a seawall whose metrics, log and journal can be asked.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod admin;
mod again;
mod alpn;
mod answers;
mod attempts;
mod blame;
mod circuit;
mod dns;
mod drain;
mod extended_connect;
mod faults;
mod fields;
mod grpc;
mod health;
mod healthy;
mod http2_clients;
mod http2_content;
mod http2_streams;
mod http2_upstream;
mod limits;
mod loops;
mod refusals;
mod rehearsal;
mod reload;
mod reuse;
mod room;
mod smuggling;
mod sse;
mod streams;
mod support;
mod survive;
mod tcp;
mod websocket;

//! HTTP/2 towards upstreams (RFC 9113): many requests at a time on one connection.
//!
//! The protocol itself is the h2 library's, the one below hyper; hyper's client on top of it would
//! hide the stream identifier, take the request content away and hand back one error for all. Here
//! an [`exchange::Exchange`] is polled like its HTTP/1.1 relative, and a [`session::Session`] is a
//! shared connection. [`watch`] reads the one thing that h2 keeps to itself.

pub mod exchange;
pub mod session;
mod upload;
pub mod watch;

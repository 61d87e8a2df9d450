//! HTTP/2 towards upstreams (RFC 9113): many requests at a time on one connection.
//!
//! The protocol itself is the h2 library's, the one below hyper; hyper's client on top of it would
//! hide the stream identifier, take the request content away and hand back one error for all. Here
//! an [`exchange::Exchange`] is polled like its HTTP/1.1 relative, and a [`session::Session`] is a
//! shared connection. `sieve` reads the
//! bytes before h2 does and keeps an error of one stream from becoming one of all; what it has seen is
//! in [`watch`]. Small frames that nobody takes are gathered in [`backlog`]. `keeper` finds out if a silent connection is dead.

pub mod backlog;
pub mod exchange;
pub mod flaw;
pub mod hpack;
mod huffman;
mod keeper;
pub mod session;
mod sieve;
mod upload;
pub mod watch;

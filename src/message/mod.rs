//! Floor 0: HTTP messages, whoever sends them (RFC 9110).
//!
//! It imports nothing of the crate: the configuration's check asks the same table that the request
//! path does.

pub mod field;
pub mod listed;
pub mod via;

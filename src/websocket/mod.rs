//! Floor 3: WebSockets between a client and an upstream, understood frame by frame.
//!
//! Two byte streams, no sockets: [`handshake`] checks both halves of the upgrade, [`relay`] moves
//! the frames. The relay reads frame *headers* and never changes payloads, so that any extension
//! and any size passes; what reaches the client is whole frames, or fragments that can be followed
//! by a Close at any moment (RFC 6455 §5.4). That is how 1011 can always be said (P3).

pub mod close;
pub mod frame;
pub mod handshake;
pub mod rehearse;
pub mod relay;
mod utf8;
pub mod walk;

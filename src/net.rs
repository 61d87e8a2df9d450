//! The sockets below everything: tokio's. And how clients are counted by their addresses.
//!
//! Built with `--cfg fuzzing` they are pipes in memory with the same methods, so that the fuzz targets
//! (`tests/fuzz`) drive the whole path from the accept loop to the upstream in paused time: what is
//! written is there at once, a wait costs nothing, and the same input always does the same. Unit tests
//! have both.

mod network;
pub mod resolve;
mod watched;

pub use network::Network;
pub use watched::Watched;

#[cfg(not(any(test, fuzzing)))]
pub use tokio::net::{TcpListener, TcpStream};

#[cfg(all(test, not(fuzzing)))]
mod either;
#[cfg(any(test, fuzzing))]
pub mod memory;
#[cfg(all(test, not(fuzzing)))]
pub use either::{TcpListener, TcpStream};
#[cfg(fuzzing)]
pub use memory::{TcpListener, TcpStream};

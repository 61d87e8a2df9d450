//! Floor 5: the demonstration behind `seawall demo`.
//!
//! One process: a small app that fails in every way there is, seawall in front of it, and a table
//! of what a client sees of each fault without seawall and with it. `--once` ends there, with an
//! exit code that says whether every row is right; otherwise it keeps running, for curl and for a
//! page that has a button for each fault.
//!
//! What must stay true: everything listens on loopback; the faults have one list
//! ([`story::FAULTS`]); what judges seawall (the probes, the frame reader) shares no code with it.

pub mod app;
pub mod fault;
mod frame;
pub mod probe;
pub mod story;
pub mod table;
pub mod view;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A port at which nobody listens, kept from being given to anybody else.
#[derive(Debug)]
pub struct Nobody {
    // Bound and never listening: the kernel refuses every connection.
    _socket: Socket,
    address: SocketAddr,
}

impl Nobody {
    /// Takes a loopback port.
    ///
    /// # Errors
    /// When there is none.
    pub fn bind() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Nobody { _socket: socket, address })
    }

    /// Where nobody listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Options of the demonstration.
#[derive(Debug, Default)]
pub struct Options {
    /// Exit after the table.
    pub once: bool,
}

/// Runs the demonstration.
#[must_use]
pub fn run(_: Options) -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}

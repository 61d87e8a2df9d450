//! The stage of the demonstration: the app, a port at which nobody listens, and seawall in front
//! of both, configured by `demo.yaml` as any user would.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use socket2::{Domain, Socket, Type};

use super::Options;
use super::app::App;
use super::fault::NO_NAME;
use super::table::Targets;
use crate::config::{self, Diagnostics, model};
use crate::server::{Running, Server, StartError};
use crate::telemetry::log;

/// Where the demo is found if nobody else is there.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9900);

/// Everything that runs. Dropping it ends all of it.
#[derive(Debug)]
pub struct Stage {
    seawall: Running,
    log: model::Log,
    targets: Targets,
    _app: App,
    _nobody: Nobody,
}

/// Why there is no demonstration.
#[derive(Debug)]
pub enum Trouble {
    /// A socket, a thread or the terminal.
    Io(io::Error),
    /// The configuration: a mistake of ours.
    Config(Diagnostics),
    /// seawall does not start.
    Start(StartError),
    /// seawall has started without a listener.
    NoListener,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Io(error) => error.fmt(f),
            Trouble::Config(diagnostics) => diagnostics.fmt(f),
            Trouble::Start(error) => error.fmt(f),
            Trouble::NoListener => f.write_str("seawall has started without a listener"),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Io(error)
    }
}

impl Stage {
    /// Starts everything.
    ///
    /// # Errors
    /// When a part cannot be started; nothing is left running then.
    pub fn set(options: &Options) -> Result<Self, Trouble> {
        let app = App::start()?;
        let nobody = Nobody::bind()?;
        let listen = options.listen.unwrap_or_else(|| usual(LISTEN, options.once));
        let admin = options.admin.unwrap_or_else(|| usual(ADMIN, options.once));
        let text = include_str!("demo.yaml")
            .replace("{{LISTEN}}", &listen.to_string())
            .replace("{{ADMIN}}", &admin.to_string())
            .replace("{{APP}}", &app.address().to_string())
            .replace("{{NOBODY}}", &nobody.address().to_string())
            .replace("{{NO_NAME}}", NO_NAME);
        let config = config::parse("demo.yaml", &text, Path::new(".")).map_err(Trouble::Config)?;
        let log = config.log.clone();
        let seawall = Server::start(config).map_err(Trouble::Start)?;
        let listening = seawall.addresses().first().copied().zip(seawall.admin_address());
        let (address, admin) = listening.ok_or(Trouble::NoListener)?;
        app.set_admin(admin);
        let targets =
            Targets { app: app.address(), nobody: nobody.address(), seawall: address, admin };
        Ok(Stage { seawall, log, targets, _app: app, _nobody: nobody })
    }

    /// Where everything is.
    #[must_use]
    pub fn targets(&self) -> Targets {
        self.targets
    }

    /// From here on failures are logged to the terminal.
    pub fn log(&self) {
        log::init(&self.log);
    }

    /// Drains seawall and ends the rest.
    pub fn clear(self) {
        self.seawall.join();
        log::finish();
    }
}

/// The usual address, or any port if it is taken or if nobody will look for it.
fn usual(address: SocketAddr, any: bool) -> SocketAddr {
    if any || TcpListener::bind(address).is_err() {
        SocketAddr::new(address.ip(), 0)
    } else {
        address
    }
}

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

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;
    use crate::demo::fault::Transport;
    use crate::demo::story::FAULTS;
    use crate::demo::table;

    /// The rows of one transport that are wrong.
    fn wrong_rows(transport: Transport) -> Vec<String> {
        let stage = match Stage::set(&Options { once: true, ..Options::default() }) {
            Ok(stage) => stage,
            Err(trouble) => panic!("{trouble}"),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let faults = FAULTS.iter().filter(|fault| fault.transport == transport);
        let mut wrong = Vec::new();
        LocalSet::new().block_on(
            &runtime,
            table::measure(stage.targets(), faults, |row| {
                if let Some(why) = &row.wrong {
                    wrong.push(format!("{}: {}: {why}", row.fault.path(), row.with));
                }
            }),
        );
        stage.clear();
        wrong
    }

    #[test]
    fn every_http_row_is_right() {
        assert_eq!(wrong_rows(Transport::Http), Vec::<String>::new());
    }

    #[test]
    fn every_websocket_row_is_right() {
        assert_eq!(wrong_rows(Transport::WebSocket), Vec::<String>::new());
    }

    #[test]
    fn a_port_that_is_taken_is_left_to_its_owner() {
        let owner = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = owner.local_addr().unwrap();
        assert_eq!(usual(taken, true).port(), 0);
        assert_eq!(usual(taken, false).port(), 0);
    }
}

//! From an endpoint's name to a connected stream: resolve, TCP, whom it is for, TLS, each within its time.
//!
//! The error of each step becomes a [`Failure`] right where it returns; what is past this file
//! never sees a raw connect error.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};

use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

use super::proxy_protocol::{self, Told};
use super::stream::Stream;
use super::tls::{Purpose, Tls};
use crate::config::model::{Endpoint, Timeouts, Upstream};
use crate::failure::classify::{self, Facts};
use crate::failure::{Failure, Phase};

/// How to reach an endpoint.
#[derive(Debug)]
pub struct Target {
    /// The endpoint as configured.
    pub endpoint: Endpoint,
    /// TLS settings and the name to verify, for `https` endpoints.
    pub tls: Option<(Tls, ServerName<'static>)>,
    address: Option<IpAddr>,
}

impl Target {
    /// A target for this endpoint.
    #[must_use]
    pub fn new(endpoint: Endpoint, tls: Option<(Tls, ServerName<'static>)>) -> Self {
        let address = endpoint.host.parse().ok();
        Target { endpoint, tls, address }
    }

    /// Opens a connection, for the client that `told` names, or for ourselves.
    ///
    /// # Errors
    /// The classified failure of the step that failed, without upstream and endpoint names.
    pub async fn connect(
        &self,
        settings: &Upstream,
        purpose: Purpose,
        told: Option<&Told>,
    ) -> Result<Stream, Failure> {
        let timeouts = &settings.timeouts;
        let addresses = self.resolve(timeouts).await?;
        let deadline = Instant::now() + timeouts.connect;
        let mut tcp = within(deadline, Phase::Connect, connect_any(&addresses)).await?;
        // Small writes are whole messages here; Nagle would only delay them.
        tcp.set_nodelay(true)
            .map_err(|error| classify::failure(&Facts::in_phase(Phase::Connect), error))?;
        if let Some(version) = settings.proxy_protocol {
            let header = proxy_protocol::header(version, told.copied());
            within(deadline, Phase::Connect, tcp.write_all(&header)).await?;
        }
        let Some((tls, name)) = &self.tls else { return Ok(Stream::Tcp(tcp)) };
        let handshake = tls.connector(purpose).connect(name.clone(), tcp);
        let session = within(deadline, Phase::Tls, handshake).await?;
        Ok(Stream::Tls(Box::new(session)))
    }

    async fn resolve(&self, timeouts: &Timeouts) -> Result<Vec<SocketAddr>, Failure> {
        let port = self.endpoint.port;
        if let Some(address) = self.address {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let lookup = timeout(timeouts.resolve, lookup_host((&*self.endpoint.host, port))).await;
        let facts = Facts::in_phase(Phase::Resolve);
        match lookup {
            Err(_) => Err(Failure::timeout(Phase::Resolve)),
            Ok(Err(error)) => Err(classify::failure(&facts, error)),
            Ok(Ok(addresses)) => {
                let addresses: Vec<_> = addresses.collect();
                if addresses.is_empty() {
                    let empty = io::Error::other("the name has no addresses");
                    return Err(classify::failure(&facts, empty));
                }
                Ok(addresses)
            }
        }
    }
}

/// Tries each address in turn; the last error counts.
async fn connect_any(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn within<T>(
    deadline: Instant,
    phase: Phase,
    step: impl Future<Output = io::Result<T>>,
) -> Result<T, Failure> {
    match timeout_at(deadline, step).await {
        Err(_) => Err(Failure::timeout(phase)),
        Ok(Err(error)) => Err(classify::failure(&Facts::in_phase(phase), error)),
        Ok(Ok(value)) => Ok(value),
    }
}

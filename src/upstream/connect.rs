//! From an endpoint's name to a connected stream: resolve, TCP, whom it is for, TLS, each within its time.
//!
//! The error of each step becomes a [`Failure`] right where it returns; what is past this file
//! never sees a raw connect error.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use prometheus::IntCounter;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::deadline::Deadline;
use super::proxy_protocol::{self, Told};
use super::records::Records;
use super::stream::Stream;
use super::tls::{Purpose, Tls};
use crate::config::model::{Endpoint, Upstream};
use crate::failure::classify::{self, Facts};
use crate::failure::{Failure, Kind, Phase};
use crate::net::resolve::name::{Name, Unresolved};
use crate::net::resolve::{self, Resolver};
use crate::net::{TcpStream, Watched};

/// How to reach an endpoint.
#[derive(Debug)]
pub struct Target {
    /// The endpoint as configured.
    pub endpoint: Endpoint,
    /// TLS settings and the name to verify, for `https` endpoints.
    pub tls: Option<(Tls, ServerName<'static>)>,
    host: Host,
}

/// Where an endpoint is.
#[derive(Debug)]
enum Host {
    Address(IpAddr),
    Name(Arc<Name>),
}

impl Target {
    /// A target for this endpoint. `lookups` count the questions for its name, answered and failed.
    #[must_use]
    pub fn new(
        endpoint: Endpoint,
        tls: Option<(Tls, ServerName<'static>)>,
        settings: &Upstream,
        lookups: &[IntCounter; 2],
    ) -> Self {
        let host = &*endpoint.host;
        let address = host.parse().ok().or_else(|| resolve::ipv4_of(host).map(IpAddr::from));
        let host = match address {
            Some(address) => Host::Address(address),
            None => {
                let resolver = Resolver::of(&settings.resolver.servers);
                let (limit, bounds) = (settings.timeouts.resolve, settings.resolver.bounds);
                Host::Name(Name::new(host, resolver, limit, bounds, Some(lookups.clone())))
            }
        };
        Target { endpoint, tls, host }
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
        let addresses = self.resolve().await?;
        let deadline = Instant::now() + settings.timeouts.connect;
        let connected = within(deadline, Phase::Connect, connect_any(&addresses)).await;
        let mut tcp = connected.inspect_err(|_| self.doubt())?;
        // Small writes are whole messages here; Nagle would only delay them.
        tcp.set_nodelay(true)
            .and_then(|()| tcp.watch_over(settings.tcp.user_timeout, settings.tcp.keepalive))
            .map_err(|error| classify::failure(&Facts::in_phase(Phase::Connect), error))?;
        if let Some(version) = settings.proxy_protocol {
            let header = proxy_protocol::header(version, told.copied());
            within(deadline, Phase::Connect, tcp.write_all(&header)).await?;
        }
        let Some((tls, name)) = &self.tls else { return Ok(Stream::Tcp(tcp)) };
        let handshake = tls.connector(purpose).connect(name.clone(), Records::new(tcp));
        // Boxed: a connection without TLS shall not carry the room for a handshake.
        let session = Box::pin(within(deadline, Phase::Tls, handshake)).await;
        // The address may be another one's by now, who has no such certificate.
        let session = session.inspect_err(|_| self.doubt())?;
        Ok(Stream::Tls(Box::new(session)))
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, Failure> {
        let port = self.endpoint.port;
        let name = match &self.host {
            Host::Address(address) => return Ok(vec![SocketAddr::new(*address, port)]),
            Host::Name(name) => name,
        };
        // Boxed: it is rare, and every connection would carry the room for it.
        match Box::pin(name.addresses()).await {
            Ok(addresses) => {
                Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
            }
            Err(Unresolved { silence, repeated }) => {
                let kind = if silence.is_late() { Kind::DnsTimeout } else { Kind::DnsError };
                let failure = Failure::new(kind, Phase::Resolve).with_source(silence);
                Err(if repeated { failure.blameless() } else { failure })
            }
        }
    }

    /// Takes note that the addresses of its name do not lead there, or not any more.
    fn doubt(&self) {
        if let Host::Name(name) = &self.host {
            name.doubt();
        }
    }
}

/// How long an address has to itself before the next one is tried beside it (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);

/// Tries the addresses, the families by turns, each a moment after the one before or as soon as that
/// has failed; the first connection wins (RFC 8305, "Happy Eyeballs"). The error that says most counts,
/// of those the last.
async fn connect_any(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    if let [only] = addresses {
        return TcpStream::connect(only).await;
    }
    let mut waiting = by_turns(addresses).into_iter();
    let mut running = JoinSet::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match waiting.next() {
            Some(address) => _ = running.spawn(TcpStream::connect(address)),
            None if running.is_empty() => return Err(last),
            None => {}
        }
        let joined = tokio::select! {
            biased;
            joined = running.join_next() => joined,
            () = sleep(STAGGER), if waiting.len() > 0 => continue,
        };
        match joined {
            // Dropping the set ends the others.
            Some(Ok(Ok(tcp))) => return Ok(tcp),
            Some(Ok(Err(error))) if weight(&error) >= weight(&last) => last = error,
            Some(Ok(Err(_))) => {}
            Some(Err(error)) => last = io::Error::other(error),
            None => {}
        }
    }
}

/// How much an error says of the endpoint: an address that this machine has no way to, as one of IPv6
/// where there is none, says less than one that refuses.
fn weight(error: &io::Error) -> u8 {
    match classify::classify(&Facts::in_phase(Phase::Connect), error) {
        Kind::ProxyInternalError => 0,
        Kind::DestinationIpUnroutable => 1,
        _ => 2,
    }
}

/// The addresses in their order, but the families by turns, beginning with that of the first.
fn by_turns(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (one, other): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut turns = Vec::with_capacity(addresses.len());
    while turns.len() < addresses.len() {
        turns.extend(one.next());
        turns.extend(other.next());
    }
    turns
}

async fn within<T>(
    deadline: Instant,
    phase: Phase,
    step: impl Future<Output = io::Result<T>>,
) -> Result<T, Failure> {
    let (mut step, mut timer) = (pin!(step), Deadline::new());
    timer.set_at(deadline);
    let done = poll_fn(|cx| match step.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => timer.poll(cx).map(|()| None),
    });
    match done.await {
        None => Err(Failure::timeout(phase)),
        Some(Err(error)) => Err(classify::failure(&Facts::in_phase(phase), error)),
        Some(Ok(value)) => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let [a, b, c]: [SocketAddr; 3] =
            ["[::1]:1", "[::2]:1", "[::3]:1"].map(|text| text.parse().unwrap());
        let [x, y]: [SocketAddr; 2] = ["1.0.0.1:1", "1.0.0.2:1"].map(|text| text.parse().unwrap());
        assert_eq!(by_turns(&[a, b, c, x, y]), [a, x, b, y, c]);
        assert_eq!(by_turns(&[x, y, a]), [x, a, y]);
        assert_eq!(by_turns(&[]), []);
    }

    #[tokio::test]
    async fn the_first_address_that_answers_is_connected_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let up = listener.local_addr().unwrap();
        // Nobody listens there, for as long as the socket lives.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let down = socket.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(connect_any(&[down, up]).await.unwrap().peer_addr().unwrap(), up);
        assert_eq!(connect_any(&[up, down]).await.unwrap().peer_addr().unwrap(), up);
        let refused = connect_any(&[down, down]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(connect_any(&[]).await.is_err());
    }
}

//! Where requests go: an upstream, its endpoints, and how long and how much each may take.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;

use super::Identity;
use super::survive::{Balance, Circuit, Concurrency, Ejection, Health};
use crate::net::resolve::name::Bounds;

/// A named group of endpoints that serve the same thing.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// The name in configuration, metrics and logs.
    pub name: Arc<str>,
    /// At least one, unless they are found by `dns`.
    pub endpoints: Vec<Endpoint>,
    /// Where else endpoints are found.
    pub dns: Option<Dns>,
    /// How names in `endpoints` are resolved.
    pub resolver: NameResolver,
    /// What is spoken to them.
    pub protocol: UpstreamProtocol,
    /// How long each wait may take.
    pub timeouts: Timeouts,
    /// How connections are watched over by the kernel.
    pub tcp: Tcp,
    /// How much may be open, and how large an answer may be.
    pub limits: UpstreamLimits,
    /// When a request is sent again.
    pub retry: Retry,
    /// How requests are spread over the endpoints.
    pub balance: Balance,
    /// When an endpoint that fails is left out for a while.
    pub ejection: Ejection,
    /// When all of it is left alone for a while; `None` is never.
    pub circuit: Option<Circuit>,
    /// A limit on requests at a time that adapts; `None` is none.
    pub concurrency: Option<Concurrency>,
    /// How long an endpoint that comes back takes to get its full share; zero is at once.
    /// Default 10 s.
    pub slow_start: Duration,
    /// How endpoints are checked; `None` is not at all.
    pub health: Option<Health>,
    /// TLS towards `https` endpoints.
    pub tls: UpstreamTls,
    /// Connections begin with the address of the client they are for.
    pub proxy_protocol: Option<ProxyVersion>,
}

/// The form of a PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl Upstream {
    /// The default of [`Upstream::slow_start`].
    pub const SLOW_START: Duration = Duration::from_secs(10);

    /// Returns `true` if an endpoint of both is reached in the same way: what is known of it under
    /// the one holds under the other.
    #[must_use]
    pub fn same_way(&self, other: &Upstream) -> bool {
        self.protocol == other.protocol
            && self.tls == other.tls
            && self.proxy_protocol == other.proxy_protocol
    }

    /// Returns `true` if both have the same endpoints, and reach them in the same way.
    #[must_use]
    pub fn same_endpoints(&self, other: &Upstream) -> bool {
        self.same_way(other) && self.endpoints == other.endpoints && self.dns == other.dns
    }
}

impl Dns {
    /// Returns `true` if the endpoints that one finds are those that the other would find.
    #[must_use]
    pub fn finds_the_same(&self, other: &Dns) -> bool {
        (&self.name, self.scheme, self.port, self.records)
            == (&other.name, other.scheme, other.port, other.records)
    }
}

/// One address of an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// `scheme://host:port`: the `endpoint` label.
    pub label: Arc<str>,
    /// `https` endpoints are connected to over TLS.
    pub scheme: Scheme,
    /// A name or an IP address without brackets: where to connect.
    pub host: Arc<str>,
    /// The TCP port.
    pub port: u16,
    /// The name in its certificate and in the Host of a health check: always one that is configured,
    /// never one that DNS has answered with (RFC 9525 §6.1).
    pub name: Arc<str>,
    /// Its share of the requests beside those of the others. Default 1.
    pub weight: u32,
}

impl Endpoint {
    /// `host:port`, without the port if it is the scheme's own (RFC 9110 §7.2).
    #[must_use]
    pub fn authority(&self) -> String {
        let usual = match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        };
        let colons = self.name.contains(':');
        let host = if colons { format!("[{}]", self.name) } else { self.name.to_string() };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

/// Endpoints that are found by asking DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The name to ask for.
    pub name: Arc<str>,
    /// The [`Endpoint::name`] of every endpoint that is found: the name to ask for, without the
    /// `_service._proto` labels of SRV.
    pub identity: Arc<str>,
    /// How the endpoints are spoken to.
    pub scheme: Scheme,
    /// Their port; SRV records have ports of their own.
    pub port: u16,
    /// Which records list them.
    pub records: Records,
    /// Whom to ask; the system's resolvers if empty.
    pub servers: Vec<SocketAddr>,
    /// An answer is used at least so long, whatever its TTL. Default 1 s.
    pub least: Duration,
    /// And at most so long. Default 60 s.
    pub most: Duration,
}

impl Dns {
    /// Returns the name that endpoints found by this question are known as: what is left of an SRV
    /// name without its service labels is the source domain (RFC 9525 §6.1.2, RFC 2782).
    #[must_use]
    pub fn identity_of(name: &str, records: Records) -> &str {
        let name = name.strip_suffix('.').unwrap_or(name);
        if records == Records::Addresses {
            return name;
        }
        let mut rest = name;
        for _ in 0..2 {
            match rest.strip_prefix('_').and_then(|service| service.split_once('.')) {
                Some((_, domain)) if !domain.is_empty() => rest = domain,
                _ => break,
            }
        }
        rest
    }

    /// The default of [`Dns::least`].
    pub const LEAST: Duration = Duration::from_secs(1);
    /// The default of [`Dns::most`].
    pub const MOST: Duration = Duration::from_secs(60);
}

/// How names in `endpoints` are resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameResolver {
    /// The servers to ask; if empty, the system's, with its `hosts` and its search list.
    pub servers: Vec<SocketAddr>,
    /// How long answers are used. Default 1 s to 10 s, and 1 h while there is no other one.
    pub bounds: Bounds,
}

/// Which DNS records list endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// A and AAAA: each address is an endpoint (RFC 1035, RFC 3596).
    Addresses,
    /// SRV: targets, ports and weights; only those of the best priority (RFC 2782).
    Services,
}

/// The scheme of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS.
    Https,
}

/// What is spoken to an upstream. WebSockets are HTTP/1.1 upgrades whatever this says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: with prior knowledge to `http` endpoints, by ALPN to `https` ones.
    Http2,
    /// What ALPN agrees on with `https` endpoints; HTTP/1.1 to `http` ones.
    Auto,
}

/// How long each wait for an upstream may take.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// Resolving a name. Default 2 s.
    pub resolve: Duration,
    /// TCP and TLS handshake together. Default 1 s.
    pub connect: Duration,
    /// For the complete response head in all, over all attempts, connecting included. Default 30 s.
    pub head: Duration,
    /// How long content may stand still, in either direction. Default 30 s.
    pub idle: Duration,
    /// How long request content waits for the upstream's 100 (continue). Default 1 s.
    pub expect_continue: Duration,
    /// How long an unused connection is kept. Default 60 s.
    pub keep_alive: Duration,
    /// How long an endpoint that has refused a connection is taken at its word. Default 5 ms.
    pub refusal: Duration,
    /// An HTTP/2 connection on which nothing has come for so long is pinged; zero is never. Default
    /// 5 min: no less is what gRPC servers put up with while nothing else is to be said.
    pub ping_interval: Duration,
    /// How long such a ping waits for anything at all before the connection gets no more requests.
    /// Default 10 s.
    pub ping: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            resolve: Duration::from_secs(2),
            connect: Duration::from_secs(1),
            head: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            expect_continue: Duration::from_secs(1),
            keep_alive: Duration::from_secs(60),
            refusal: Duration::from_millis(5),
            ping_interval: Duration::from_secs(300),
            ping: Duration::from_secs(10),
        }
    }
}

/// How the kernel watches over connections to an upstream. Zero leaves it to the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// How long sent data may stay unacknowledged, or unsent because the endpoint's window is closed
    /// (`TCP_USER_TIMEOUT`, RFC 5482; on Linux). Default 60 s.
    pub user_timeout: Duration,
    /// How long a connection is quiet before the endpoint's kernel is asked for a sign of life.
    /// Default 60 s.
    pub keepalive: Duration,
}

impl Default for Tcp {
    fn default() -> Self {
        // As long as nginx waits for an upstream that takes nothing; shorter would end the sessions of
        // apps that block for half a minute, since Linux counts a closed window as well.
        Tcp { user_timeout: Duration::from_secs(60), keepalive: Duration::from_secs(60) }
    }
}

/// How much may be open to an upstream, and how large its answers may be.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamLimits {
    /// Open connections over all workers, WebSockets not among them. Default 1024.
    pub connections: usize,
    /// Open connections to one endpoint over all workers, WebSockets not among them; 0 is no limit
    /// (the default).
    pub endpoint_connections: usize,
    /// Requests under way over all workers; 0 is no limit (the default).
    pub requests: usize,
    /// Requests under way at one endpoint over all workers; 0 is no limit (the default).
    pub endpoint_requests: usize,
    /// Requests of one worker that wait for a connection, or for a stream on one, when there are as
    /// many as may be; and of all workers that wait while as many as may be are under way. Default
    /// 1024.
    pub pending: usize,
    /// How long such a request waits. Default 1 s.
    pub pending_time: Duration,
    /// Idle connections kept per worker and endpoint. Default 128.
    pub idle_connections: usize,
    /// Bytes of a response head, status line and fields together. Default 64 KiB.
    pub head_bytes: usize,
    /// Bytes of one field line. Default 32 KiB.
    pub field_bytes: usize,
    /// Field lines of a response head. Default 128.
    pub fields: usize,
    /// Bytes of response content; `None` is no limit (the default: content is streamed).
    pub body_bytes: Option<u64>,
    /// Bytes of a trailer section. Default 16 KiB.
    pub trailer_bytes: usize,
    /// Interim (1xx) responses before the final one. Default 32.
    pub interim_responses: usize,
    /// Open WebSockets over all workers. Default 65,536.
    pub websockets: usize,
    /// WebSocket handshakes a second over all workers; 0 is no limit (the default).
    pub handshakes: u32,
    /// Requests at a time on one HTTP/2 connection, if the upstream allows as many. Default 100.
    pub streams: usize,
    /// Bytes of one HTTP/2 response that may wait for its client. Default 128 KiB.
    pub window: u32,
}

impl Default for UpstreamLimits {
    fn default() -> Self {
        UpstreamLimits {
            connections: 1024,
            endpoint_connections: 0,
            requests: 0,
            endpoint_requests: 0,
            pending: 1024,
            pending_time: Duration::from_secs(1),
            idle_connections: 128,
            head_bytes: 64 * 1024,
            field_bytes: 32 * 1024,
            fields: 128,
            body_bytes: None,
            trailer_bytes: 16 * 1024,
            interim_responses: 32,
            websockets: 65_536,
            handshakes: 0,
            streams: 100,
            window: 128 * 1024,
        }
    }
}

/// When a request is sent again (P8).
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Attempts in all, the first included; 1 is no retry. Default 2.
    pub attempts: u32,
    /// Retries in percent of requests, over time. Default 20.
    pub budget_percent: u32,
    /// How long an attempt may take to its response head while another endpoint can be asked after it;
    /// zero is as long as `timeouts.head` (the default).
    pub attempt: Duration,
    /// Bytes of request content that are kept to be sent again. Default 64 KiB.
    pub replay_bytes: usize,
    /// A request with an `Idempotency-Key` field is sent again like an idempotent one. Default off.
    pub idempotency_key: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            attempts: 2,
            budget_percent: 20,
            attempt: Duration::ZERO,
            replay_bytes: 64 * 1024,
            idempotency_key: false,
        }
    }
}

/// TLS towards `https` endpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpstreamTls {
    /// Trusted roots; `None` is the system's.
    pub roots: Option<Arc<Vec<CertificateDer<'static>>>>,
    /// The certificate that seawall presents.
    pub identity: Option<Arc<Identity>>,
    /// The name to ask for and to verify; `None` is [`Endpoint::name`].
    pub server_name: Option<Arc<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_the_configured_name_without_service_labels() {
        for (name, addresses, services) in [
            ("app.test", "app.test", "app.test"),
            ("app.test.", "app.test", "app.test"),
            ("_https._tcp.app.test", "_https._tcp.app.test", "app.test"),
            ("_https._tcp.app.test.", "_https._tcp.app.test", "app.test"),
            ("_a._b._c.test", "_a._b._c.test", "_c.test"),
            ("app.service.consul", "app.service.consul", "app.service.consul"),
            ("_https", "_https", "_https"),
            ("_https.", "_https", "_https"),
        ] {
            assert_eq!(Dns::identity_of(name, Records::Addresses), addresses, "{name}");
            assert_eq!(Dns::identity_of(name, Records::Services), services, "{name}");
        }
    }
}

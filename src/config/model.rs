//! What runs: parsed units, resolved references, no `Option` that means "default".
//!
//! Only `super::check` builds these types from a file, and `Config::for_upstream` from a URL.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

mod entrance;
mod reload;
mod route;
mod survive;
mod telemetry;
mod upstream;
pub use entrance::{
    Certificate, ClientCertificates, Listener, ListenerTls, ProxyProtocol, ToldIdentity,
};
pub use reload::Reload;
pub use route::{Hold, HostPattern, MediaPattern, PathPattern, Route};
pub use survive::{Balance, Circuit, Concurrency, Ejection, HashKey, Health, Probe};
pub use telemetry::{Journal, Log, LogFormat, Tracing};
pub use upstream::{
    Dns, Endpoint, NameResolver, ProxyVersion, Records, Retry, Scheme, Tcp, Timeouts, Upstream,
    UpstreamLimits, UpstreamProtocol, UpstreamTls,
};

/// A complete, valid configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// How many workers, each a thread with its own runtime: at least 1.
    pub workers: usize,
    /// Where clients connect: at least one.
    pub listeners: Vec<Listener>,
    /// Where operators connect.
    pub admin: Admin,
    /// Every upstream, in the file's order.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Every route, in the file's order; the router decides which one matches.
    pub routes: Vec<Arc<Route>>,
    /// How WebSockets are relayed.
    pub websocket: WebSocket,
    /// Limits towards clients.
    pub clients: Clients,
    /// Who may set forwarding fields.
    pub forwarded: Forwarded,
    /// What the log looks like.
    pub log: Log,
    /// The failure journal.
    pub journal: Journal,
    /// Spans for OpenTelemetry; `None` is none.
    pub tracing: Option<Tracing>,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// When the file is read again.
    pub reload: Reload,
}

/// A certificate chain with its private key.
#[derive(Debug, PartialEq)]
pub struct Identity {
    /// The chain, end entity first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the end entity.
    pub key: PrivateKeyDer<'static>,
}

/// The operators' listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Where it listens; `None` is off.
    pub address: Option<SocketAddr>,
    /// What a request must know, but for the probes.
    pub token: Option<Secret>,
    /// Names under which it is asked, beside those that it has anyway. Lower case, no dot at the end.
    pub hosts: Vec<Box<str>>,
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Arc<str>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// How WebSockets are relayed.
#[derive(Clone, Debug, PartialEq)]
pub struct WebSocket {
    /// A side that is silent for so long is pinged. Default 20 s.
    pub ping_interval: Duration,
    /// How long a pong may take. Default 10 s.
    pub pong_timeout: Duration,
    /// How long each side has to answer a Close. Default 5 s.
    pub close_timeout: Duration,
    /// How long a side may refuse to read what it is sent. Default 30 s.
    pub write_timeout: Duration,
    /// The largest frame payload in bytes, either direction. Default 16 MiB.
    pub max_frame: u64,
    /// Frames up to this many payload bytes reach the client whole; longer ones as a series of
    /// fragments. Default 64 KiB.
    pub hold: usize,
    /// Bytes read at a time, into one buffer per worker; also the most that waits for a side that
    /// does not read. Default 256 KiB: with 64 KiB a stream of 16 KiB messages costs a third more.
    pub read: usize,
    /// A WebSocket that carries no message for so long is closed; zero is never (the default).
    pub idle_timeout: Duration,
    /// When an upstream fails, the Closes of its WebSockets are spread over this time. Default 0.
    pub loss_spread: Duration,
    /// When seawall drains, its Closes are spread over this time. Default: four fifths of the drain
    /// time, so that the last client has time to answer.
    pub drain_spread: Duration,
}

impl Default for WebSocket {
    fn default() -> Self {
        WebSocket {
            ping_interval: Duration::from_secs(20),
            pong_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(30),
            max_frame: 16 * 1024 * 1024,
            hold: 64 * 1024,
            read: 256 * 1024,
            idle_timeout: Duration::ZERO,
            loss_spread: Duration::ZERO,
            drain_spread: Duration::ZERO,
        }
    }
}

/// Limits towards clients.
#[derive(Clone, Debug, PartialEq)]
pub struct Clients {
    /// A TLS handshake, and a PROXY protocol header before it. Default 10 s.
    pub handshake_timeout: Duration,
    /// The complete request head, from its first byte; also how long an idle connection is kept.
    /// Default 30 s.
    pub head_timeout: Duration,
    /// How long request content may stand still. Default 30 s.
    pub body_timeout: Duration,
    /// Fewest bytes a second of request content of known length, on average over the time that was
    /// waited for it, once that is longer than `body_timeout`; 0 is no limit. Default 240.
    pub body_rate: u64,
    /// How long a client may refuse to read its response. Default 60 s.
    pub write_timeout: Duration,
    /// Bytes of a request head. Default 64 KiB.
    pub head_bytes: usize,
    /// Bytes of a request target. Default 16 KiB.
    pub target_bytes: usize,
    /// Field lines of a request head. Default 100.
    pub fields: usize,
    /// Connections per worker. Default 16384.
    pub connections: usize,
    /// Connections of one address, with IPv6 of one /64, per worker; trusted proxies may have any
    /// number. Default 16384.
    pub per_address: usize,
    /// Requests of one connection. Default 10000.
    pub requests_per_connection: u64,
    /// Concurrent streams of an HTTP/2 connection. Default 128.
    pub streams: u32,
    /// Bytes of request content that may wait here for an upstream, for each stream of an HTTP/2
    /// connection. Default 256 KiB.
    pub stream_window: u32,
    /// Bytes of a response that may wait here for a client, for each stream of an HTTP/2 connection.
    /// Default 64 KiB.
    pub stream_buffer: usize,
}

impl Clients {
    /// The window of a whole HTTP/2 connection (RFC 9113 §6.9.1): as large as those of all its streams
    /// together, so that uploads which stand still take nothing from the others.
    #[must_use]
    pub fn connection_window(&self) -> u32 {
        const LARGEST: u32 = (1 << 31) - 1;
        self.stream_window.saturating_mul(self.streams).min(LARGEST)
    }
}

impl Default for Clients {
    fn default() -> Self {
        Clients {
            handshake_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            body_rate: 240,
            write_timeout: Duration::from_secs(60),
            head_bytes: 64 * 1024,
            target_bytes: 16 * 1024,
            fields: 100,
            connections: 16_384,
            per_address: 16_384,
            requests_per_connection: 10_000,
            streams: 128,
            stream_window: 256 * 1024,
            stream_buffer: 64 * 1024,
        }
    }
}

/// What upstreams are told about a client, and by whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Forwarded {
    /// Requests from these addresses keep, and are appended to, their `X-Forwarded-*`,
    /// `Forwarded`, `X-Real-IP` and `X-Request-Id`; from all others these fields are replaced.
    pub trusted: Vec<IpNet>,
    /// What seawall calls itself in Via (RFC 9110 §7.6.3); a request that has come past this name
    /// already is a loop. `None`: a name made at start.
    pub name: Option<Box<str>>,
    /// Fields of other proxies that pass, whoever sends them.
    pub keep: Vec<HeaderName>,
    /// How often a request may have come past this name. Default 10.
    pub max_passes: usize,
}

impl Default for Forwarded {
    fn default() -> Self {
        Forwarded { trusted: Vec::new(), name: None, keep: Vec::new(), max_passes: 10 }
    }
}

/// How the process ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Shutdown {
    /// How long requests and WebSockets have to finish. Default 30 s.
    pub drain: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { drain: Duration::from_secs(30) }
    }
}

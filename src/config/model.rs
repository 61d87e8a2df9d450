//! What runs: parsed units, resolved references, no `Option` that means "default".
//!
//! Only `super::check` builds these types from a file, and `Config::for_upstream` from a URL.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::failure::policy::Policy;

mod entrance;
mod reload;
mod survive;
pub use entrance::{
    Certificate, ClientCertificates, Listener, ListenerTls, ProxyProtocol, ToldIdentity,
};
pub use reload::Reload;
pub use survive::{Balance, Circuit, Concurrency, Ejection, HashKey, Health, Probe};

/// A complete, valid configuration.
#[derive(Clone, Debug)]
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
#[derive(Debug)]
pub struct Identity {
    /// The chain, end entity first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the end entity.
    pub key: PrivateKeyDer<'static>,
}

/// The operators' listener.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where it listens; `None` is off.
    pub address: Option<SocketAddr>,
    /// What a request must know, but for the probes.
    pub token: Option<Secret>,
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Arc<str>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// A named group of endpoints that serve the same thing.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The name in configuration, metrics and logs.
    pub name: Arc<str>,
    /// At least one, unless they are found by `dns`.
    pub endpoints: Vec<Endpoint>,
    /// Where else endpoints are found.
    pub dns: Option<Dns>,
    /// What is spoken to them.
    pub protocol: UpstreamProtocol,
    /// How long each wait may take.
    pub timeouts: Timeouts,
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
}

/// One address of an upstream.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `scheme://host:port`: the `endpoint` label.
    pub label: Arc<str>,
    /// `https` endpoints are connected to over TLS.
    pub scheme: Scheme,
    /// A name or an IP address without brackets: where to connect.
    pub host: Arc<str>,
    /// The TCP port.
    pub port: u16,
    /// Whom to ask for there, in a certificate and in a health check: the host, or the name that it
    /// was found by.
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
    /// The default of [`Dns::least`].
    pub const LEAST: Duration = Duration::from_secs(1);
    /// The default of [`Dns::most`].
    pub const MOST: Duration = Duration::from_secs(60);
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
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// Resolving a name. Default 2 s.
    pub resolve: Duration,
    /// TCP and TLS handshake together. Default 1 s.
    pub connect: Duration,
    /// From the request sent to the complete response head. Default 30 s.
    pub head: Duration,
    /// How long content may stand still, in either direction. Default 30 s.
    pub idle: Duration,
    /// How long request content waits for the upstream's 100 (continue). Default 1 s.
    pub expect_continue: Duration,
    /// How long an unused connection is kept. Default 60 s.
    pub keep_alive: Duration,
    /// How long an endpoint that has refused a connection is taken at its word. Default 5 ms.
    pub refusal: Duration,
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
        }
    }
}

/// How much may be open to an upstream, and how large its answers may be.
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
pub struct Retry {
    /// Attempts in all, the first included; 1 is no retry. Default 2.
    pub attempts: u32,
    /// Retries in percent of requests, over time. Default 20.
    pub budget_percent: u32,
    /// How long an attempt may take to its response head while another one may follow; zero is as
    /// long as `timeouts.head` (the default).
    pub attempt: Duration,
    /// No attempt begins later than this after the first. Default 30 s.
    pub total: Duration,
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
            total: Duration::from_secs(30),
            replay_bytes: 64 * 1024,
            idempotency_key: false,
        }
    }
}

/// TLS towards `https` endpoints.
#[derive(Clone, Debug, Default)]
pub struct UpstreamTls {
    /// Trusted roots; `None` is the system's.
    pub roots: Option<Arc<Vec<CertificateDer<'static>>>>,
    /// The certificate that seawall presents.
    pub identity: Option<Arc<Identity>>,
    /// The name to ask for and to verify; `None` is the endpoint's host.
    pub server_name: Option<Arc<str>>,
}

/// A rule from host and path to an upstream.
#[derive(Clone, Debug)]
pub struct Route {
    /// The `route` label: `host` and `path` as written, or the given name.
    pub name: Arc<str>,
    /// Which hosts.
    pub host: HostPattern,
    /// Which paths.
    pub path: PathPattern,
    /// Where to.
    pub upstream: Arc<Upstream>,
    /// How failures are answered.
    pub policy: Arc<Policy>,
    /// Which responses are held until they are whole.
    pub hold: Hold,
    /// Event streams pass event by event, and end with an `error` event when the upstream fails.
    /// Default off.
    pub sse_event: bool,
    /// The secret with which clients may ask for failures; `None` is off.
    pub rehearsal: Option<Arc<str>>,
    /// Bytes of request content; `None` is no limit.
    pub request_body_bytes: Option<u64>,
}

/// Hosts that a route serves. Lower case, without port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// Every host.
    Any,
    /// This host.
    Exact(Arc<str>),
    /// `*.example.com`, stored as `.example.com`: every host below it.
    Below(Arc<str>),
}

/// Paths that a route serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    /// Every path.
    Any,
    /// `/v1/users`: this path.
    Exact(Arc<str>),
    /// `/v1/*`, stored as `/v1`: this path and all below it, at segment boundaries.
    Below(Arc<str>),
}

/// The hold (P2).
#[derive(Clone, Debug)]
pub struct Hold {
    /// Responses that may still fit are held; 0 is off. Default 64 KiB.
    pub bytes: usize,
    /// How long a response is held at most. Default 1 s.
    pub time: Duration,
    /// Media types that are useless in part: they are held for `time` although their length is not
    /// known.
    pub types: Arc<[MediaPattern]>,
}

impl Hold {
    /// The default of [`Hold::types`], as it is written in a file.
    pub const TYPES: &'static [&'static str] = &["application/json", "*+json", "*+xml"];
}

impl Default for Hold {
    fn default() -> Self {
        Hold {
            bytes: 64 * 1024,
            time: Duration::from_secs(1),
            types: Self::TYPES.iter().filter_map(|text| MediaPattern::parse(text)).collect(),
        }
    }
}

/// Media types: one, all that end like `*+json`, or all that begin like `text/*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaPattern {
    /// This one. Lower case, as all of these.
    Exact(Box<str>),
    /// All that end like this.
    Suffix(Box<str>),
    /// All that begin like this.
    Prefix(Box<str>),
}

impl MediaPattern {
    /// Reads `application/json`, `*+json` or `text/*`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let plain = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"/+.-_!#$&^".contains(&b))
        };
        if let Some(suffix) = text.strip_prefix('*') {
            (suffix.starts_with('+') && plain(suffix)).then(|| Self::Suffix(suffix.into()))
        } else if let Some(prefix) = text.strip_suffix('*') {
            (prefix.ends_with('/') && plain(prefix)).then(|| Self::Prefix(prefix.into()))
        } else {
            (text.contains('/') && plain(&text)).then(|| Self::Exact(text.into()))
        }
    }

    /// Whether a media type without parameters is one of these.
    #[must_use]
    pub fn matches(&self, media_type: &[u8]) -> bool {
        let part = |from: Option<&[u8]>, wanted: &str| {
            from.is_some_and(|part| part.eq_ignore_ascii_case(wanted.as_bytes()))
        };
        match self {
            Self::Exact(wanted) => part(Some(media_type), wanted),
            Self::Prefix(wanted) => part(media_type.get(..wanted.len()), wanted),
            Self::Suffix(wanted) => {
                let from = media_type.len().checked_sub(wanted.len());
                part(from.and_then(|from| media_type.get(from..)), wanted)
            }
        }
    }
}

impl std::fmt::Display for MediaPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(whole) => f.write_str(whole),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// How WebSockets are relayed.
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
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
    /// Connections of one address per worker; trusted proxies may have any number. Default 16384.
    pub per_address: usize,
    /// Requests of one connection. Default 10000.
    pub requests_per_connection: u64,
    /// Concurrent streams of an HTTP/2 connection. Default 128.
    pub streams: u32,
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
        }
    }
}

/// Who may set forwarding fields and request ids.
#[derive(Clone, Debug, Default)]
pub struct Forwarded {
    /// Requests from these addresses keep, and are appended to, their `X-Forwarded-*`,
    /// `Forwarded` and `X-Request-Id`; from all others these fields are replaced.
    pub trusted: Vec<IpNet>,
    /// What seawall calls itself in Via (RFC 9110 §7.6.3); a request that has come past this name
    /// already is a loop. `None`: a name made at start.
    pub name: Option<Box<str>>,
}

/// What the log looks like.
#[derive(Clone, Debug)]
pub struct Log {
    /// JSON lines or human lines. Default JSON.
    pub format: LogFormat,
    /// A `tracing` filter such as `info` or `seawall=debug`. Default `info`.
    pub filter: String,
    /// One line per request. Default off.
    pub access: bool,
}

impl Default for Log {
    fn default() -> Self {
        Log { format: LogFormat::Json, filter: "info".into(), access: false }
    }
}

/// The shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people at a terminal.
    Human,
}

/// The failure journal.
#[derive(Clone, Debug)]
pub struct Journal {
    /// How many failures are remembered. Default 1000.
    pub entries: usize,
    /// The file they are written to; `None` is none (the default).
    pub file: Option<PathBuf>,
    /// Bytes of a file. Default 16 MiB.
    pub file_bytes: u64,
    /// Files in all, rotated ones included. Default 4.
    pub files: usize,
}

impl Default for Journal {
    fn default() -> Self {
        Journal { entries: 1000, file: None, file_bytes: 16 * 1024 * 1024, files: 4 }
    }
}

/// Spans of requests, for an OpenTelemetry collector.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// Where they are sent: OTLP/HTTP, the path included.
    pub url: Box<str>,
    /// `service.name` of all spans. Default `seawall`.
    pub service: Box<str>,
    /// How many traces in a hundred are recorded where nobody has decided before. Default 100.
    pub sample_percent: f64,
    /// What requests to the collector bring, such as a key; never printed.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// Trusted roots; `None` is the system's.
    pub roots: Option<Arc<Vec<CertificateDer<'static>>>>,
    /// Requests that may wait to be sent. Default 2048.
    pub queue: usize,
    /// Most requests that are sent together. Default 512.
    pub batch: usize,
    /// How long a batch waits to become full. Default 1 s.
    pub interval: Duration,
    /// How long a batch may take to be sent, again if need be. Default 10 s.
    pub timeout: Duration,
}

impl Tracing {
    /// All the defaults, towards this collector.
    #[must_use]
    pub fn to(url: &str) -> Self {
        Tracing {
            url: url.into(),
            service: "seawall".into(),
            sample_percent: 100.0,
            fields: Vec::new(),
            roots: None,
            queue: 2048,
            batch: 512,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
        }
    }
}

/// How the process ends.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// How long requests and WebSockets have to finish. Default 30 s.
    pub drain: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { drain: Duration::from_secs(30) }
    }
}

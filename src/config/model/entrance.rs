//! How clients come in: listeners, what TLS asks and tells, and who speaks before the client does.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use rustls_pki_types::CertificateDer;

use super::Identity;

/// A listening socket for clients.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// The address; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// TLS with these identities; `None` is plain text.
    pub tls: Option<ListenerTls>,
    /// The port of `https` to which every request is sent on; `None` serves them.
    pub redirect: Option<u16>,
    /// Whose connections begin with the address of the client they are for.
    pub proxy_protocol: ProxyProtocol,
}

/// Whose connections begin with a PROXY protocol header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Nobody's.
    #[default]
    Never,
    /// Those of trusted proxies, always; nobody else's.
    Trusted,
    /// Everybody's.
    Always,
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTls {
    /// The first is the default. At least one.
    pub certificates: Vec<Certificate>,
    /// How often the files are read again; zero is never. Default 10 s.
    pub reload: Duration,
    /// Whether TLS 1.2 is refused. Default off.
    pub only_tls13: bool,
    /// Certificates that clients are asked for.
    pub clients: Option<ClientCertificates>,
    /// `Strict-Transport-Security` (RFC 6797) of every answer.
    pub hsts: Option<HeaderValue>,
}

impl ListenerTls {
    /// The default of [`ListenerTls::reload`].
    pub const RELOAD: Duration = Duration::from_secs(10);
}

/// A certificate of a listener, and the files that it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    /// The chain's file as it is written in the configuration: the `certificate` label.
    pub name: Arc<str>,
    /// The chain's file.
    pub chain_file: PathBuf,
    /// The key's file.
    pub key_file: PathBuf,
    /// The file of an OCSP response to staple.
    pub ocsp_file: Option<PathBuf>,
    /// What the files held.
    pub identity: Arc<Identity>,
    /// What that file held: DER.
    pub ocsp: Option<Arc<[u8]>>,
}

/// Certificates that clients are asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientCertificates {
    /// The roots' file.
    pub roots_file: PathBuf,
    /// What it held.
    pub roots: Arc<Vec<CertificateDer<'static>>>,
    /// Whether a client without one is refused. Default on.
    pub required: bool,
    /// The field that tells the upstream.
    pub field: HeaderName,
    /// What it tells.
    pub told: ToldIdentity,
}

impl ClientCertificates {
    /// The default of [`ClientCertificates::field`]: RFC 9440 §2.2.
    pub const FIELD: &'static str = "Client-Cert";
}

/// What an upstream is told of a client's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToldIdentity {
    /// The certificate itself, as RFC 9440 writes it.
    Certificate,
    /// Its subject's distinguished name (RFC 4514).
    Subject,
}

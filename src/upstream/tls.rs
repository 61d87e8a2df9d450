//! TLS towards upstreams: which roots are trusted, which certificate is shown, which name is
//! verified (RFC 9110 §4.3.4).

use std::sync::Arc;

use rustls::client::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::{RootCertStore, crypto};

use crate::config::model::{Scheme, Upstream, UpstreamProtocol};

/// HTTP/1.1 as ALPN names it.
const HTTP_1: &[u8] = b"http/1.1";
/// HTTP/2 over TLS as ALPN names it (RFC 9113 §3.2).
pub const HTTP_2: &[u8] = b"h2";

/// TLS settings of an upstream, ready for use by all workers.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Offers what requests may be sent in.
    requests: Arc<ClientConfig>,
    /// Offers HTTP/1.1 alone: what a WebSocket needs.
    upgrades: Arc<ClientConfig>,
}

/// What a connection is for: it decides what ALPN offers (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Requests, in any version that the upstream's settings allow.
    Requests,
    /// A WebSocket: HTTP/1.1.
    Upgrade,
}

/// Why an upstream's TLS settings cannot be used.
#[derive(Debug)]
pub enum TlsSettingsError {
    /// The system has no usable roots.
    NoSystemRoots,
    /// A configured root, certificate or key is not usable.
    Rustls(rustls::Error),
    /// The endpoint's host is neither a name nor an address.
    ServerName(String),
}

impl std::fmt::Display for TlsSettingsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TlsSettingsError::NoSystemRoots => f.write_str(
                "the system has no trusted roots; install ca-certificates or set tls.roots",
            ),
            TlsSettingsError::Rustls(_) => f.write_str("a root, certificate or key is not usable"),
            TlsSettingsError::ServerName(name) => {
                write!(f, "{name:?} is not a name that a certificate can have; set tls.server_name")
            }
        }
    }
}

impl std::error::Error for TlsSettingsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TlsSettingsError::Rustls(error) => Some(error),
            TlsSettingsError::NoSystemRoots | TlsSettingsError::ServerName(_) => None,
        }
    }
}

impl Tls {
    /// The TLS settings of an upstream; `None` if none of its endpoints needs them.
    ///
    /// # Errors
    /// If roots, certificate or key cannot be used.
    pub fn of(upstream: &Upstream) -> Result<Option<Self>, TlsSettingsError> {
        let found = upstream.dns.iter().map(|dns| dns.scheme);
        let mut schemes = upstream.endpoints.iter().map(|endpoint| endpoint.scheme).chain(found);
        if schemes.all(|scheme| scheme == Scheme::Http) {
            return Ok(None);
        }
        let mut roots = RootCertStore::empty();
        if let Some(private) = &upstream.tls.roots {
            for root in private.iter() {
                roots.add(root.clone()).map_err(TlsSettingsError::Rustls)?;
            }
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(TlsSettingsError::NoSystemRoots);
            }
        }
        let builder =
            ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(TlsSettingsError::Rustls)?
                .with_root_certificates(roots);
        let mut config = match &upstream.tls.identity {
            Some(identity) => builder
                .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
                .map_err(TlsSettingsError::Rustls)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![HTTP_1.to_vec()];
        let upgrades = Arc::new(config.clone());
        config.alpn_protocols = match upstream.protocol {
            UpstreamProtocol::Http1 => vec![HTTP_1.to_vec()],
            UpstreamProtocol::Http2 => vec![HTTP_2.to_vec()],
            UpstreamProtocol::Auto => vec![HTTP_2.to_vec(), HTTP_1.to_vec()],
        };
        Ok(Some(Tls { requests: Arc::new(config), upgrades }))
    }

    /// The client half of a handshake.
    #[must_use]
    pub fn connector(&self, purpose: Purpose) -> tokio_rustls::TlsConnector {
        tokio_rustls::TlsConnector::from(Arc::clone(match purpose {
            Purpose::Requests => &self.requests,
            Purpose::Upgrade => &self.upgrades,
        }))
    }
}

/// Returns the name that an endpoint's certificate must have: the one that is set for it, or `name`,
/// by which the endpoint is configured.
///
/// # Errors
/// If it is neither a DNS name nor an address.
pub fn server_name(
    upstream: &Upstream,
    name: &str,
) -> Result<ServerName<'static>, TlsSettingsError> {
    let name = upstream.tls.server_name.as_deref().unwrap_or(name);
    ServerName::try_from(name.to_owned()).map_err(|_| TlsSettingsError::ServerName(name.to_owned()))
}

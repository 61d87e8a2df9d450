//! TLS towards clients: ALPN for HTTP/2 and HTTP/1.1, and the certificate that fits the name that
//! the client asks for (RFC 6066 §3).

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::config::model::ListenerTls;

/// The server half of a handshake.
///
/// # Errors
/// If a key does not fit its certificate, or is of a kind that is not supported.
pub fn acceptor(settings: &ListenerTls) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let keys = settings
        .certificates
        .iter()
        .map(|identity| {
            CertifiedKey::from_der(identity.chain.clone(), identity.key.clone_key(), &provider)
                .map(Arc::new)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut config =
        config(provider)?.with_no_client_auth().with_cert_resolver(Arc::new(ByName { keys }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn config(
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, rustls::Error> {
    ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
}

/// The first certificate that is valid for the name; the first of all for any other.
#[derive(Debug)]
struct ByName {
    keys: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fitting = hello.server_name().and_then(|name| {
            let name = ServerName::try_from(name).ok()?;
            self.keys.iter().find(|key| is_valid_for(key, &name))
        });
        fitting.or(self.keys.first()).cloned()
    }
}

fn is_valid_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    key.end_entity_cert()
        .ok()
        .and_then(|certificate| webpki::EndEntityCert::try_from(certificate).ok())
        .is_some_and(|certificate| certificate.verify_is_valid_for_subject_name(name).is_ok())
}

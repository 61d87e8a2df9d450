//! TLS towards clients, as a value that can be swapped while connections are open.
//!
//! A [`Store`] is what a listener's workers share: each handshake takes what is current at its
//! beginning, so that a connection never notices a change. The key that seals session tickets
//! (RFC 5077, RFC 8446 §4.6.1) is the same on all workers and survives a change of certificates; a
//! change of what is asked of clients makes a new one, so that no session goes on that would not
//! begin.
//!
//! | the client's name (RFC 6066 §3) | the certificate |
//! | --- | --- |
//! | is a DNS name of one | that one, the first of several |
//! | is below a wildcard of one | that one |
//! | is anything else, or is not told | the first of all |

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use http::{HeaderName, HeaderValue};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::server::{
    ClientHello, ProducesTickets, ResolvesServerCert, ServerConfig, ServerConnection,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use tokio_rustls::TlsAcceptor;

use super::x509;
use crate::config::model::{Certificate, ClientCertificates, ListenerTls, ToldIdentity};

/// HTTP/2 over TLS, as ALPN names it (RFC 9113 §3.2).
pub const ALPN_HTTP2: &[u8] = b"h2";

/// Why TLS settings cannot be used.
#[derive(Debug)]
pub enum TlsError {
    /// A certificate or key.
    Certificate(Arc<str>, rustls::Error),
    /// The roots of clients.
    Roots(Box<dyn std::error::Error + Send + Sync>),
    /// Anything else that rustls refuses.
    Rustls(rustls::Error),
}

impl std::fmt::Display for TlsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TlsError::Certificate(name, _) => write!(f, "{name} and its key cannot be used"),
            TlsError::Roots(_) => f.write_str("the roots of clients cannot be used"),
            TlsError::Rustls(_) => f.write_str("the TLS settings cannot be used"),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TlsError::Certificate(_, error) | TlsError::Rustls(error) => Some(error),
            TlsError::Roots(error) => Some(&**error),
        }
    }
}

/// TLS of one listener, shared by all workers.
#[derive(Debug)]
pub struct Store(RwLock<Current>);

#[derive(Clone, Debug)]
struct Current {
    settings: Arc<ListenerTls>,
    config: Arc<ServerConfig>,
}

impl Store {
    /// TLS with these settings.
    ///
    /// # Errors
    /// If they cannot be used.
    pub fn new(settings: ListenerTls) -> Result<Self, TlsError> {
        let tickets = ring::Ticketer::new().map_err(TlsError::Rustls)?;
        let config = Arc::new(server_config(&settings, tickets)?);
        Ok(Store(RwLock::new(Current { settings: Arc::new(settings), config })))
    }

    /// What the next handshake begins with. A lock for reading, once a handshake.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current().config)
    }

    /// What is in use.
    #[must_use]
    pub fn settings(&self) -> Arc<ListenerTls> {
        self.current().settings
    }

    /// Uses other settings from the next handshake on.
    ///
    /// # Errors
    /// If they cannot be used; nothing has changed then.
    pub fn replace(&self, settings: ListenerTls) -> Result<(), TlsError> {
        let next = self.current().followed_by(settings)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// Another store, with other settings, under which sessions of this one go on where they may:
    /// for a whole configuration that is tried before it is used.
    ///
    /// # Errors
    /// If they cannot be used.
    pub fn renewed(&self, settings: ListenerTls) -> Result<Self, TlsError> {
        self.current().followed_by(settings).map(|next| Store(RwLock::new(next)))
    }

    fn current(&self) -> Current {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Current {
    fn followed_by(&self, settings: ListenerTls) -> Result<Self, TlsError> {
        let tickets = if asks_the_same(&settings, &self.settings) {
            Arc::clone(&self.config.ticketer)
        } else {
            ring::Ticketer::new().map_err(TlsError::Rustls)?
        };
        let config = Arc::new(server_config(&settings, tickets)?);
        Ok(Current { settings: Arc::new(settings), config })
    }
}

/// Whether a session of one would also begin under the other.
fn asks_the_same(one: &ListenerTls, other: &ListenerTls) -> bool {
    let asked = |tls: &ListenerTls| {
        let clients = tls.clients.as_ref();
        (tls.only_tls13, clients.map(|clients| (Arc::clone(&clients.roots), clients.required)))
    };
    asked(one) == asked(other)
}

fn server_config(
    settings: &ListenerTls,
    tickets: Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let names = Names::new(&settings.certificates)?;
    let versions: &[_] = if settings.only_tls13 { &[&TLS13] } else { &[&TLS13, &TLS12] };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(TlsError::Rustls)?;
    let builder = match &settings.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let roots = Arc::new(roots(clients)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier =
                if clients.required { verifier } else { verifier.allow_unauthenticated() };
            let verifier = verifier.build().map_err(|error| TlsError::Roots(error.into()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(names));
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), b"http/1.1".to_vec()];
    config.ticketer = tickets;
    Ok(config)
}

fn roots(clients: &ClientCertificates) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in clients.roots.iter() {
        roots.add(root.clone()).map_err(|error| TlsError::Roots(error.into()))?;
    }
    Ok(roots)
}

/// The field that tells an upstream whom the client of this session has shown to be.
#[must_use]
pub fn identity(
    settings: &ListenerTls,
    session: &ServerConnection,
) -> Option<(HeaderName, HeaderValue)> {
    let clients = settings.clients.as_ref()?;
    let certificate = session.peer_certificates()?.first()?;
    let value = match clients.told {
        // RFC 9440 §2.2: a byte sequence.
        ToldIdentity::Certificate => {
            sfv::ItemSerializer::new().bare_item(certificate.as_ref()).finish()
        }
        ToldIdentity::Subject => x509::subject(certificate)?,
    };
    Some((clients.field.clone(), HeaderValue::try_from(value).ok()?))
}

/// Certificates by the names that they are for.
#[derive(Debug)]
struct Names {
    first: Option<Arc<CertifiedKey>>,
    exact: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// By what follows the star: `.example.com`.
    below: HashMap<Box<str>, Arc<CertifiedKey>>,
}

impl Names {
    fn new(certificates: &[Certificate]) -> Result<Self, TlsError> {
        let provider = ring::default_provider();
        let mut names = Names { first: None, exact: HashMap::new(), below: HashMap::new() };
        for certificate in certificates {
            let identity = &certificate.identity;
            let (chain, key) = (identity.chain.clone(), identity.key.clone_key());
            let mut key = CertifiedKey::from_der(chain, key, &provider)
                .map_err(|error| TlsError::Certificate(Arc::clone(&certificate.name), error))?;
            key.ocsp = certificate.ocsp.as_deref().map(<[u8]>::to_vec);
            names.add(&Arc::new(key));
        }
        Ok(names)
    }

    fn add(&mut self, key: &Arc<CertifiedKey>) {
        let _ = self.first.get_or_insert_with(|| Arc::clone(key));
        let Ok(end_entity) = key.end_entity_cert() else { return };
        let Ok(parsed) = webpki::EndEntityCert::try_from(end_entity) else { return };
        for name in parsed.valid_dns_names() {
            let name = name.to_ascii_lowercase();
            let (known, name) = match name.strip_prefix('*') {
                Some(below) => (&mut self.below, below),
                None => (&mut self.exact, &*name),
            };
            known.entry(name.into()).or_insert_with(|| Arc::clone(key));
        }
    }

    fn find(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let name = name.map(str::to_ascii_lowercase).unwrap_or_default();
        // RFC 9525 §6.3: a star stands for one label.
        let below = || self.below.get(name.get(name.find('.')?..)?);
        self.exact.get(&*name).or_else(below).or(self.first.as_ref())
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Identity;
    use rcgen::{CertificateParams, KeyPair};
    use rustls_pki_types::PrivateKeyDer;

    fn certificate(names: &[&str]) -> Certificate {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let made = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Certificate {
            name: "chain.pem".into(),
            chain_file: "chain.pem".into(),
            key_file: "key.pem".into(),
            ocsp_file: None,
            identity: Arc::new(Identity { chain: vec![made.der().clone()], key }),
            ocsp: None,
        }
    }

    fn settings(certificates: &[Certificate]) -> ListenerTls {
        ListenerTls {
            certificates: certificates.to_vec(),
            reload: ListenerTls::RELOAD,
            only_tls13: false,
            clients: None,
            hsts: None,
        }
    }

    #[test]
    fn an_exact_name_goes_before_a_wildcard_and_a_stranger_gets_the_first() {
        let known = [
            certificate(&["first.example"]),
            certificate(&["*.example.com", "other.example"]),
            certificate(&["shop.example.com"]),
        ];
        let names = Names::new(&known).unwrap();
        let found = |name| {
            let key = names.find(name).unwrap();
            known.iter().position(|one| one.identity.chain == key.cert).unwrap()
        };
        for (name, expected) in [
            (Some("shop.example.com"), 2),
            (Some("SHOP.example.COM"), 2),
            (Some("a.example.com"), 1),
            (Some("other.example"), 1),
            (Some("first.example"), 0),
            // A star is one label, and not none.
            (Some("a.b.example.com"), 0),
            (Some("example.com"), 0),
            (Some("nobody.example"), 0),
            (Some("localhost"), 0),
            (Some(""), 0),
            (None, 0),
        ] {
            assert_eq!(found(name), expected, "{name:?}");
        }
    }

    #[test]
    fn new_certificates_keep_the_tickets_and_new_demands_on_clients_do_not() {
        let store = Store::new(settings(&[certificate(&["a.example"])])).unwrap();
        let ticket = |text: &[u8]| store.current().config.ticketer.encrypt(text).unwrap();
        let read = |ticket: &[u8]| store.current().config.ticketer.decrypt(ticket);
        let sealed = ticket(b"session");
        let next = settings(&[certificate(&["b.example"])]);
        store.replace(next.clone()).unwrap();
        assert_eq!(
            store.settings().certificates[0].identity.chain,
            next.certificates[0].identity.chain
        );
        assert_eq!(read(&sealed).as_deref(), Some(&b"session"[..]));
        let other = store.renewed(settings(&[certificate(&["c.example"])])).unwrap();
        let config = other.current().config;
        assert_eq!(config.ticketer.decrypt(&sealed).as_deref(), Some(&b"session"[..]));
        assert!(!Arc::ptr_eq(&other.settings(), &store.settings()));
        let root = next.certificates[0].identity.chain[0].clone();
        let clients = ClientCertificates {
            roots_file: "roots.pem".into(),
            roots: Arc::new(vec![root]),
            required: true,
            field: http::HeaderName::from_static("client-cert"),
            told: crate::config::model::ToldIdentity::Certificate,
        };
        store.replace(ListenerTls { clients: Some(clients), ..next }).unwrap();
        assert_eq!(read(&sealed), None);
    }

    #[test]
    fn what_cannot_be_used_changes_nothing() {
        let store = Store::new(settings(&[certificate(&["a.example"])])).unwrap();
        let (one, other) = (certificate(&["b.example"]), certificate(&["b.example"]));
        let mixed =
            Identity { chain: one.identity.chain.clone(), key: other.identity.key.clone_key() };
        let before = store.settings();
        let wrong = settings(&[Certificate { identity: Arc::new(mixed), ..one }]);
        let error = store.replace(wrong).unwrap_err();
        assert_eq!(error.to_string(), "chain.pem and its key cannot be used");
        assert!(Arc::ptr_eq(&before, &store.settings()));
    }
}

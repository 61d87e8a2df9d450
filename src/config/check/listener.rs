//! Listeners and their TLS, and what else is read from PEM files.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::super::diagnostic::Problem;
use super::super::model::{Identity, Listener};
use super::super::pem;
use super::super::scope::{Found, Scope};
use super::{Base, entrance, wrong};

/// The form of a listening address.
pub(super) const ADDRESS: &str = "address and port, such as 0.0.0.0:8080 or [::]:8080";

pub(super) fn listeners(root: &Scope<'_>, base: Base<'_>) -> Vec<Listener> {
    let mut listeners = Vec::new();
    for section in root.sections("listeners", true, "Where clients connect.") {
        let meaning = "The listening address; :8080 is every address, port 0 any free port.";
        let found = section.required_text("address", ADDRESS, meaning);
        let address = found.as_ref().and_then(|found| address(&section, "address", found));
        let tls = section.optional_section("tls", "TLS with HTTP/2 and HTTP/1.1 by ALPN.");
        let tls = tls.map(|tls| entrance::listener_tls(tls, base));
        let redirect = entrance::redirect(&section, tls.is_some());
        let proxy_protocol = entrance::proxy_protocol(&section);
        if let (Some(address), Some(found)) = (address, found) {
            let taken = listeners.iter().any(|known: &Listener| known.address == address);
            if taken && address.port() != 0 {
                let message = format!("a listener on {address} is there already");
                section.problem(Problem::new(found.span, &message));
            }
            listeners.push(Listener { address, tls, redirect, proxy_protocol });
        }
        section.finish();
    }
    listeners
}

pub(super) fn address(scope: &Scope<'_>, key: &str, found: &Found<String>) -> Option<SocketAddr> {
    match parse_address(&found.value) {
        Ok(address) => Some(address),
        Err(remedy) => {
            wrong(scope, key, found, &remedy);
            None
        }
    }
}

/// Reads `0.0.0.0:8080`, `[::]:8080`, `localhost:8080` and `:8080`.
pub(in crate::config) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix(':').and_then(|port| port.parse().ok()) {
        return Ok((Ipv4Addr::UNSPECIFIED, port).into());
    }
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    text.parse().map_err(|_| match text.parse::<u16>() {
        Ok(port) => {
            format!("write :{port} for every address, or 127.0.0.1:{port} for this machine")
        }
        Err(_) => "write an address with its port: 0.0.0.0:8080, [::]:8080 or :8080".to_owned(),
    })
}

pub(super) fn identity(section: &Scope<'_>, base: Base<'_>) -> Option<Arc<Identity>> {
    let chain =
        section.required_text("chain", "PEM file", "The certificate chain, own certificate first.");
    let key = section.required_text("key", "PEM file", "The private key.");
    let (chain, key) = (chain?, key?);
    identity_of(section, &chain, &key, base)
}

/// A chain and a key that belong together.
pub(super) fn identity_of(
    section: &Scope<'_>,
    chain: &Found<String>,
    key_file: &Found<String>,
    base: Base<'_>,
) -> Option<Arc<Identity>> {
    let chain = certificates(section, "chain", chain, base);
    let key = private_key(section, key_file, base);
    let (chain, key) = (chain?, key?);
    let provider = ring::default_provider();
    if let Err(error) = CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider) {
        wrong(section, "key", key_file, &format!("it does not fit the chain: {error}"));
        return None;
    }
    Some(Arc::new(Identity { chain, key }))
}

pub(super) fn certificates(
    section: &Scope<'_>,
    key: &str,
    found: &Found<String>,
    base: Base<'_>,
) -> Option<Vec<CertificateDer<'static>>> {
    let bytes = read(section, found, base)?;
    pem::certificates(&bytes).inspect_err(|remedy| wrong(section, key, found, remedy)).ok()
}

fn private_key(
    section: &Scope<'_>,
    found: &Found<String>,
    base: Base<'_>,
) -> Option<PrivateKeyDer<'static>> {
    let bytes = read(section, found, base)?;
    pem::private_key(&bytes).inspect_err(|remedy| wrong(section, "key", found, remedy)).ok()
}

pub(super) fn read(section: &Scope<'_>, found: &Found<String>, base: Base<'_>) -> Option<Vec<u8>> {
    let path = base.0.join(&found.value);
    match fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            let message = format!("cannot read {}: {error}", path.display());
            let remedy = "paths are relative to the configuration file";
            section.problem(Problem::new(found.span, &message).remedy(remedy));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_their_usual_forms() {
        for (text, expected) in [
            ("0.0.0.0:8080", "0.0.0.0:8080"),
            (":8080", "0.0.0.0:8080"),
            ("localhost:1", "127.0.0.1:1"),
            ("[::]:8080", "[::]:8080"),
        ] {
            assert_eq!(parse_address(text), Ok(expected.parse().unwrap()), "{text}");
        }
        for text in ["8080", "example.com:80", "0.0.0.0", ":99999", "", ":"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
        assert!(parse_address("8080").unwrap_err().contains(":8080"));
    }
}

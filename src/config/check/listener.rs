//! Listeners and their TLS, and what else is read from PEM files.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::super::diagnostic::Problem;
use super::super::model::{Identity, Listener, ListenerTls};
use super::super::scope::{Found, Scope};
use super::{Base, wrong};

/// The form of a listening address.
pub(super) const ADDRESS: &str = "address and port, such as 0.0.0.0:8080 or [::]:8080";

pub(super) fn listeners(root: &Scope<'_>, base: Base<'_>) -> Vec<Listener> {
    let mut listeners = Vec::new();
    for section in root.sections("listeners", true, "Where clients connect.") {
        let meaning = "The listening address; :8080 is every address, port 0 any free port.";
        let found = section.required_text("address", ADDRESS, meaning);
        let address = found.as_ref().and_then(|found| address(&section, "address", found));
        let tls = section.optional_section("tls", "TLS with HTTP/2 and HTTP/1.1 by ALPN.");
        let tls = tls.map(|tls| listener_tls(tls, base));
        if let (Some(address), Some(found)) = (address, found) {
            let taken = listeners.iter().any(|known: &Listener| known.address == address);
            if taken && address.port() != 0 {
                let message = format!("a listener on {address} is there already");
                section.problem(Problem::new(found.span, &message));
            }
            listeners.push(Listener { address, tls });
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

fn listener_tls(section: Scope<'_>, base: Base<'_>) -> ListenerTls {
    let meaning =
        "Certificates with their keys; the one that fits the client's name, else the first.";
    let mut certificates = Vec::new();
    for certificate in section.sections("certificates", true, meaning) {
        certificates.extend(identity(&certificate, base));
        certificate.finish();
    }
    section.finish();
    ListenerTls { certificates }
}

pub(super) fn identity(section: &Scope<'_>, base: Base<'_>) -> Option<Arc<Identity>> {
    let chain =
        section.required_text("chain", "PEM file", "The certificate chain, own certificate first.");
    let key = section.required_text("key", "PEM file", "The private key.");
    let chain = chain.and_then(|found| certificates(section, "chain", &found, base));
    let key = key.and_then(|found| private_key(section, &found, base));
    Some(Arc::new(Identity { chain: chain?, key: key? }))
}

pub(super) fn certificates(
    section: &Scope<'_>,
    key: &str,
    found: &Found<String>,
    base: Base<'_>,
) -> Option<Vec<CertificateDer<'static>>> {
    let bytes = read(section, found, base)?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match parsed {
        Ok(certificates) if !certificates.is_empty() => Some(certificates),
        _ => {
            wrong(section, key, found, "the file must hold certificates in PEM form");
            None
        }
    }
}

fn private_key(
    section: &Scope<'_>,
    found: &Found<String>,
    base: Base<'_>,
) -> Option<PrivateKeyDer<'static>> {
    let bytes = read(section, found, base)?;
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Some(key),
        Err(_) => {
            wrong(
                section,
                "key",
                found,
                "the file must hold an unencrypted private key in PEM form",
            );
            None
        }
    }
}

fn read(section: &Scope<'_>, found: &Found<String>, base: Base<'_>) -> Option<Vec<u8>> {
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

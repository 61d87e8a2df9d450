//! How clients come in: TLS, the way to it, the PROXY protocol, and the operators' token.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::super::diagnostic::Problem;
use super::super::model::{
    Certificate, ClientCertificates, Forwarded, Listener, ListenerTls, ProxyProtocol, ProxyVersion,
    Secret, ToldIdentity, UpstreamProtocol,
};
use super::super::raw::Span;
use super::super::scope::Scope;
use super::{Base, failures, listener, wrong};
use crate::message::field;

/// Fewer characters can be guessed.
const LEAST_TOKEN: usize = 16;
/// More are no token but a mistake, and would not fit into a field.
const MOST_TOKEN: usize = 1024;

/// The longest host name (RFC 1035 §2.3.4).
const MOST_HOST: usize = 253;

pub(super) fn listener_tls(section: Scope<'_>, base: Base<'_>) -> ListenerTls {
    let meaning =
        "Certificates with their keys; the one that fits the client's name, else the first.";
    let mut certificates = Vec::new();
    for entry in section.sections("certificates", true, meaning) {
        certificates.extend(certificate(&entry, base));
        entry.finish();
    }
    let tls = ListenerTls {
        certificates,
        reload: section.duration(
            "reload",
            ListenerTls::RELOAD,
            "How often the files are read again; what has changed is used for new connections. 0s is never.",
        ),
        only_tls13: section.word(
            "min_version",
            &["1.2", "1.3"],
            0,
            "The oldest version of TLS that is spoken.",
        ) == 1,
        clients: client_certificates(&section, base),
        hsts: hsts(&section),
    };
    section.finish();
    tls
}

fn certificate(section: &Scope<'_>, base: Base<'_>) -> Option<Certificate> {
    let chain =
        section.required_text("chain", "PEM file", "The certificate chain, own certificate first.");
    let key = section.required_text("key", "PEM file", "The private key.");
    let meaning = "An OCSP response to staple; a file that something else keeps fresh.";
    let ocsp = section.text("ocsp", "DER file", None, meaning);
    let ocsp_file = ocsp.as_ref().map(|found| base.0.join(&found.value));
    let ocsp = ocsp.and_then(|found| listener::read(section, &found, base));
    let (chain, key) = (chain?, key?);
    let identity = listener::identity_of(section, &chain, &key, base)?;
    Some(Certificate {
        name: chain.value.as_str().into(),
        chain_file: base.0.join(&chain.value),
        key_file: base.0.join(&key.value),
        ocsp_file,
        identity,
        ocsp: ocsp.map(Into::into),
    })
}

fn client_certificates(tls: &Scope<'_>, base: Base<'_>) -> Option<ClientCertificates> {
    let meaning = "Asks clients for certificates (mTLS). None if not set.";
    let section = tls.optional_section("clients", meaning)?;
    let meaning = "Who signs the certificates of clients.";
    let roots = section.required_text("roots", "PEM file", meaning);
    let roots_file = roots.as_ref().map(|found| base.0.join(&found.value));
    let read = roots.and_then(|found| listener::certificates(&section, "roots", &found, base));
    let meaning = "Whether a client without a certificate is refused.";
    let required = section.word("mode", &["required", "optional"], 0, meaning) == 0;
    let meaning =
        "What the upstream is told: the certificate (RFC 9440), or its subject (RFC 4514).";
    let told = match section.word("tell", &["certificate", "subject"], 0, meaning) {
        0 => ToldIdentity::Certificate,
        _ => ToldIdentity::Subject,
    };
    let meaning = "The field that tells it. Whatever a client sends under this name is removed, on every listener.";
    let field = section.text("field", "field name", Some(ClientCertificates::FIELD), meaning);
    let field = match field {
        None => Some(HeaderName::from_static("client-cert")),
        Some(found) => failures::field_name(&section, &found).filter(|name| {
            let name = name.as_str().as_bytes();
            let free = field::is_keepable(name).unwrap_or_else(|| field::may_be_trailer(name));
            if !free {
                wrong(&section, "field", &found, "write a name of its own, such as X-Client-Cert");
            }
            free
        }),
    };
    section.finish();
    Some(ClientCertificates {
        roots_file: roots_file?,
        roots: Arc::new(read?),
        required,
        field: field?,
        told,
    })
}

/// RFC 6797 §6.1.
fn hsts(tls: &Scope<'_>) -> Option<HeaderValue> {
    let meaning =
        "Strict-Transport-Security on every answer that has none of its own. None if not set.";
    let section = tls.optional_section("hsts", meaning)?;
    let year = Duration::from_secs(365 * 24 * 3600);
    let meaning = "How long clients use TLS alone; 0s takes it back.";
    let mut value = format!("max-age={}", section.duration("max_age", year, meaning).as_secs());
    if section.bool("subdomains", false, "Also for every host below this one.") {
        value.push_str("; includeSubDomains");
    }
    if section.bool("preload", false, "Ask browsers to know it from the start.") {
        value.push_str("; preload");
    }
    section.finish();
    HeaderValue::try_from(value).ok()
}

/// The port of `https` that a listener sends everything on to.
pub(super) fn redirect(listener: &Scope<'_>, has_tls: bool) -> Option<u16> {
    let meaning = "Answers every request 308 with the same address under https. None if not set.";
    let section = listener.optional_section("redirect", meaning)?;
    let meaning = "The port of https, as clients see it.";
    let port = section.integer("port", 443, (1, 65_535), meaning);
    if has_tls && !section.is_describing() {
        let message = "a listener with `tls` cannot send clients on to https: they are there";
        let remedy = "give the plain listener, such as :80, the redirect";
        section.problem(Problem::new(section.span(), message).remedy(remedy));
    }
    section.finish();
    u16::try_from(port).ok()
}

pub(super) fn proxy_protocol(listener: &Scope<'_>) -> ProxyProtocol {
    let meaning = "Whose connections begin with a PROXY protocol header, v1 or v2: nobody's, always those of `forwarded.trusted` and of nobody else, or everybody's.";
    match listener.word("proxy_protocol", &["never", "trusted", "always"], 0, meaning) {
        0 => ProxyProtocol::Never,
        1 => ProxyProtocol::Trusted,
        _ => ProxyProtocol::Always,
    }
}

/// A listener that waits for trusted proxies, where nobody is trusted, would wait for ever.
pub(super) fn trust(root: &Scope<'_>, listeners: &[Listener], forwarded: &Forwarded) {
    let waits = |listener: &Listener| listener.proxy_protocol == ProxyProtocol::Trusted;
    if forwarded.trusted.is_empty() && listeners.iter().any(waits) {
        let message =
            "`proxy_protocol: trusted` means those of `forwarded.trusted`, and it lists nobody";
        let remedy = "list the proxies there, or write proxy_protocol: always";
        root.problem(Problem::new(Span::default(), message).remedy(remedy));
    }
}

/// What connections to an upstream begin with.
pub(super) fn proxy_version(
    upstream: &Scope<'_>,
    protocol: UpstreamProtocol,
) -> Option<ProxyVersion> {
    let meaning = "Begins each connection with a PROXY protocol header that tells the client's address; a connection serves one request then.";
    let version = match upstream.word("proxy_protocol", &["never", "v1", "v2"], 0, meaning) {
        0 => return None,
        1 => ProxyVersion::V1,
        _ => ProxyVersion::V2,
    };
    if protocol != UpstreamProtocol::Http1 {
        let message = "`proxy_protocol` tells one client's address for a whole connection, and HTTP/2 shares connections";
        let remedy = "write protocol: http1, or remove `proxy_protocol`";
        upstream.problem(Problem::new(upstream.span(), message).remedy(remedy));
    }
    Some(version)
}

/// The operators' token. Outside of loopback there must be one.
pub(super) fn token(
    admin: &Scope<'_>,
    address: Option<SocketAddr>,
    base: Base<'_>,
) -> Option<Secret> {
    let meaning = "The file whose first line is what a request must bring (Authorization: Bearer …), 16 characters or more; /livez and /readyz need none. Required unless the address is loopback.";
    let file = admin.text("token_file", "file", None, meaning);
    let outside = address.is_some_and(|address| !address.ip().to_canonical().is_loopback());
    let Some(file) = file else {
        if outside && !admin.is_describing() {
            let message = "the admin listener is open to others than this machine and has no token";
            let remedy = "set admin.token_file, or an address such as 127.0.0.1:9900";
            admin.problem(Problem::new(admin.span(), message).remedy(remedy));
        }
        return None;
    };
    match fs::read_to_string(base.0.join(&file.value)) {
        Ok(text) => {
            let token = text.lines().next().unwrap_or_default().trim();
            let usable = (LEAST_TOKEN..=MOST_TOKEN).contains(&token.len())
                && token.bytes().all(|byte| byte.is_ascii_graphic());
            if !usable {
                let remedy =
                    "put 16 to 1024 characters of plain ASCII, without spaces, into its first line";
                wrong(admin, "token_file", &file, remedy);
            }
            usable.then(|| Secret(token.into()))
        }
        Err(error) => {
            wrong(admin, "token_file", &file, &format!("the file cannot be read: {error}"));
            None
        }
    }
}

/// The names under which operators ask.
pub(super) fn hosts(admin: &Scope<'_>) -> Vec<Box<str>> {
    let meaning = "Host names under which the admin listener answers without a token, beside localhost, the machine's own name and any IP address. With `token_file` it answers under every name.";
    let found = admin.texts("hosts", "host names without port", false, meaning);
    let usable = found.iter().filter_map(|found| {
        let name = found.value.strip_suffix('.').unwrap_or(&found.value);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let label = |label: &str| !label.is_empty() && label.bytes().all(plain);
        let valid = name.len() <= MOST_HOST && name.split('.').all(label);
        if !valid {
            wrong(admin, "hosts", found, "write a host name such as seawall.internal, no port");
        }
        valid.then(|| name.to_ascii_lowercase().into())
    });
    usable.collect()
}

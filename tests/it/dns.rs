//! Names: whom they may name, who is asked for them, and what becomes of requests meanwhile.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::support::client::{Client, Request, Seen, Version};
use crate::support::dns::Dns;
use crate::support::script::Gate;
use crate::support::seawall::Seawall;

fn get(seawall: &Seawall) -> Seen {
    let mut client = Client::connect(Version::Http1, seawall.address());
    client.exchange(&Request::get(), &Gate::default())
}

/// An app behind TLS whose certificate, its own root, is for this name.
struct Secured {
    address: SocketAddr,
    roots: PathBuf,
    /// What the handshakes asked for, and the heads that came.
    heard: Arc<Mutex<Vec<(Option<String>, String)>>>,
}

impl Secured {
    fn known_as(name: &str) -> Self {
        let signed = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![signed.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let file = format!("seawall-it-dns-{}-{}.pem", std::process::id(), address.port());
        let roots = std::env::temp_dir().join(file);
        std::fs::write(&roots, signed.cert.pem()).unwrap();
        let heard = Arc::<Mutex<Vec<_>>>::default();
        let keep = Arc::clone(&heard);
        std::thread::spawn(move || {
            while let Ok((mut tcp, _)) = listener.accept() {
                let mut session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = rustls::Stream::new(&mut session, &mut tcp);
                let mut head = Vec::new();
                let mut part = [0; 1024];
                while let Ok(count @ 1..) = stream.read(&mut part) {
                    head.extend_from_slice(&part[..count]);
                    if head.ends_with(b"\r\n\r\n") {
                        break;
                    }
                }
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
                session.send_close_notify();
                let _ = session.write_tls(&mut tcp);
                let name = session.server_name().map(str::to_owned);
                let head = String::from_utf8_lossy(&head).into_owned();
                keep.lock().unwrap().push((name, head));
            }
        });
        Secured { address, roots, heard }
    }

    /// What the app has seen: the names of handshakes, and heads.
    fn heard(&self) -> Vec<(Option<String>, String)> {
        self.heard.lock().unwrap().clone()
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.roots);
    }
}

/// Seawall in front of the endpoints that the name has.
fn found_by(dns: &Dns, name: &str, records: &str, more: &str) -> Seawall {
    Seawall::configured(&format!(
        "upstreams:\n  app:\n    dns: {{ name: '{name}', records: {records}, servers: ['{}'] }}\n    \
         retry: {{ attempts: 1 }}\n{more}\nroutes: [{{ upstream: app }}]\n",
        dns.address()
    ))
}

#[test]
fn verifies_the_configured_name_whatever_dns_answers() {
    let service = "_https._tcp.app.test";
    for (certificate, target, is_good) in [
        // RFC 9525 section 6.1: DNS is not asked for the name that is verified.
        ("evil.test", "evil.test", false),
        ("app.test", "evil.test", true),
        ("app.test", "app.test", true),
        ("_https._tcp.app.test", "evil.test", false),
    ] {
        let (app, dns) = (Secured::known_as(certificate), Dns::start());
        dns.set_service(service, target, app.address.port());
        dns.set_addresses(target, 60, &["127.0.0.1"]);
        let more = format!("    tls: {{ roots: '{}' }}", app.roots.display());
        let seawall = found_by(&dns, &format!("https://{service}"), "srv", &more);
        let mut client = Client::connect(Version::Http1, seawall.address());
        let request = Request::get().field("Authorization", "Bearer hunter2");
        let seen = client.exchange(&request, &Gate::default());
        let heard = app.heard();
        let names: Vec<_> = heard.iter().map(|(name, _)| name.as_deref()).collect();
        if is_good {
            assert_eq!(seen.status, 204, "{certificate} {target}: {seen:?}");
            assert_eq!(names, [Some("app.test")]);
        } else {
            assert_eq!(seen.status, 500, "{certificate} {target}: {seen:?}");
            assert!(seen.field("proxy-status").unwrap().contains("tls_certificate_error"));
            assert!(heard.iter().all(|(_, head)| head.is_empty()), "{heard:?}");
        }
    }
}

#[test]
fn verifies_the_configured_name_behind_an_alias() {
    for (certificate, is_good) in [("app.test", true), ("evil.test", false)] {
        let (app, dns) = (Secured::known_as(certificate), Dns::start());
        dns.set_alias("app.test", "evil.test");
        dns.set_addresses("evil.test", 60, &["127.0.0.1"]);
        let more = format!("    tls: {{ roots: '{}' }}", app.roots.display());
        let name = format!("https://app.test:{}", app.address.port());
        let seawall = found_by(&dns, &name, "addresses", &more);
        assert_eq!(get(&seawall).status, if is_good { 204 } else { 500 }, "{certificate}");
    }
}

#[test]
fn verifies_the_name_that_is_set_before_any_other() {
    let (app, dns) = (Secured::known_as("set.test"), Dns::start());
    dns.set_service("_https._tcp.app.test", "evil.test", app.address.port());
    dns.set_addresses("evil.test", 60, &["127.0.0.1"]);
    let more = format!("    tls: {{ roots: '{}', server_name: set.test }}", app.roots.display());
    let seawall = found_by(&dns, "https://_https._tcp.app.test", "srv", &more);
    assert_eq!(get(&seawall).status, 204);
    assert_eq!(app.heard()[0].0.as_deref(), Some("set.test"));
}

#[test]
fn checks_ask_for_the_configured_name_and_never_for_a_target() {
    for (probe, begins) in [("path: /healthz", "GET /healthz"), ("websocket: /chat", "GET /chat")] {
        let (app, dns) = (Secured::known_as("app.test"), Dns::start());
        dns.set_service("_https._tcp.app.test", "evil.test", app.address.port());
        dns.set_addresses("evil.test", 60, &["127.0.0.1"]);
        let more = format!(
            "    tls: {{ roots: '{}' }}\n    health: {{ {probe}, interval: 50ms, timeout: 5s }}",
            app.roots.display()
        );
        let seawall = found_by(&dns, "https://_https._tcp.app.test", "srv", &more);
        let (name, head) = seawall.until("a check has come", |_| app.heard().into_iter().next());
        assert_eq!(name.as_deref(), Some("app.test"), "{probe}");
        assert!(head.starts_with(begins), "{head}");
        let host = format!("Host: app.test:{}\r\n", app.address.port());
        assert!(head.contains(&host), "{head}");
    }
}

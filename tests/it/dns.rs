//! Names: whom they may name, who is asked for them, and what becomes of requests meanwhile.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::time::Instant;

use crate::support::PATIENCE;
use crate::support::client::{Client, Request, Seen, Version};
use crate::support::dns::{Dns, Mood};
use crate::support::script::{Gate, Upstream};
use crate::support::seawall::Seawall;

fn get(seawall: &Seawall) -> Seen {
    let mut client = Client::connect(Version::Http1, seawall.address());
    client.exchange(&Request::get(), &Gate::default())
}

/// The name in a handshake, and the head of a request.
type Heard = (Option<String>, String);

/// An app behind TLS whose certificate, its own root, is for this name.
struct Secured {
    address: SocketAddr,
    roots: PathBuf,
    heard: Arc<Mutex<Vec<Heard>>>,
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
                // Before the answer: whoever has that may ask what was heard.
                let name = stream.conn.server_name().map(str::to_owned);
                let head = String::from_utf8_lossy(&head).into_owned();
                keep.lock().unwrap().push((name, head));
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
                session.send_close_notify();
                let _ = session.write_tls(&mut tcp);
            }
        });
        Secured { address, roots, heard }
    }

    /// What the app has seen: the names of handshakes, and heads.
    fn heard(&self) -> Vec<Heard> {
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

/// Seawall in front of an endpoint that has a name. Each request opens a connection.
fn named(dns: &Dns, port: u16, more: &str) -> Seawall {
    let resolver = format!("resolver: {{ servers: ['{}'], max_ttl: 1s }}", dns.address());
    let settings = format!("limits: {{ idle_connections: 0 }}, {resolver}{more}");
    Seawall::at(&format!("http://app.test:{port}"), &settings)
}

fn error_of(seen: &Seen) -> String {
    let status = seen.field("proxy-status").unwrap_or_default();
    status.split("error=").nth(1).unwrap_or_default().split(';').next().unwrap_or_default().into()
}

#[test]
fn connects_to_whichever_address_of_a_name_answers() {
    let (app, dns) = (Upstream::healthy(), Dns::start());
    // Nobody listens at the others, and the way to one of them does not exist.
    dns.set_addresses("app.test", 60, &["127.0.0.9", "::1", "127.0.0.1", "127.0.0.8"]);
    let seawall = named(&dns, app.address().port(), "");
    for _ in 0..8 {
        assert_eq!(get(&seawall).status, 200);
    }
    dns.set_addresses("app.test", 60, &["127.0.0.9", "::1"]);
    let seawall = named(&dns, app.address().port(), "");
    assert_eq!(error_of(&get(&seawall)), "connection_refused");
}

#[test]
fn asks_for_a_name_again_when_its_ttl_is_over() {
    let (second, dns) = (TcpListener::bind("127.0.0.2:0").unwrap(), Dns::start());
    let port = second.local_addr().unwrap().port();
    dns.set_addresses("app.test", 1, &["127.0.0.2"]);
    let seawall = named(&dns, port, "");
    let accepted = std::thread::spawn(move || {
        let (mut stream, _) = second.accept().unwrap();
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).unwrap();
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    });
    assert_eq!(get(&seawall).status, 204);
    accepted.join().unwrap();
    dns.set_addresses("app.test", 1, &["127.0.0.3"]);
    let third = TcpListener::bind(("127.0.0.3", port)).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = third.accept() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    seawall.until("the new address is used", |seawall| (get(seawall).status == 200).then_some(()));
}

#[test]
fn recovers_when_a_resolver_does() {
    for (mood, error) in [
        (Mood::Fails(ResponseCode::ServFail), "dns_error"),
        (Mood::Fails(ResponseCode::Refused), "dns_error"),
        (Mood::Fails(ResponseCode::NXDomain), "dns_error"),
        (Mood::Silent, "dns_timeout"),
    ] {
        let (app, dns) = (Upstream::healthy(), Dns::start());
        dns.set_addresses("app.test", 0, &["127.0.0.1"]);
        dns.set_mood(mood);
        // Only who stays silent shall be given up soon.
        let resolve = if matches!(mood, Mood::Silent) { "2s" } else { "60s" };
        let resolve = format!(", timeouts: {{ resolve: {resolve} }}");
        let seawall = named(&dns, app.address().port(), &resolve);
        assert_eq!(error_of(&get(&seawall)), error, "{mood:?}");
        assert_eq!(seawall.cells("seawall_dns_lookups_total").len(), 1, "{mood:?}");
        dns.set_mood(Mood::Answers);
        seawall.until("it recovers", |seawall| (get(seawall).status == 200).then_some(()));
        // From now on the last good answer serves.
        dns.set_mood(mood);
        let asked = dns.asked("app.test", RecordType::A);
        seawall.until("it was asked again", |seawall| {
            assert_eq!(get(seawall).status, 200, "{mood:?}");
            (dns.asked("app.test", RecordType::A) > asked + 1).then_some(())
        });
    }
}

#[test]
fn a_name_that_does_not_resolve_blames_its_endpoint_once() {
    let (app, dns) = (Upstream::healthy(), Dns::start());
    dns.set_addresses("app.test", 0, &["127.0.0.1"]);
    dns.set_mood(Mood::Silent);
    let ejection = ", timeouts: { resolve: 4s }, ejection: { consecutive_failures: 2 }";
    let seawall = named(&dns, app.address().port(), ejection);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..20).map(|_| scope.spawn(|| get(&seawall))).collect();
        for client in clients {
            assert_eq!(error_of(&client.join().unwrap()), "dns_timeout");
        }
    });
    assert_eq!(seawall.cells("seawall_endpoint_ejections_total"), Vec::<String>::new());
    let lookups = seawall.cells("seawall_dns_lookups_total");
    assert_eq!(lookups, ["{result=\"failed\",upstream=\"app\"} 1"]);
}

/// A seawall process of its own.
struct Process {
    child: Child,
    address: SocketAddr,
    config: PathBuf,
}

impl Process {
    fn start(name: &str, config: &str) -> Self {
        let file = format!("seawall-it-{name}-{}.yaml", std::process::id());
        let path = std::env::temp_dir().join(file);
        std::fs::write(&path, config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_seawall"))
            .arg("--config")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let listening = lines.by_ref().map(Result::unwrap).find(|line| line.contains("listening"));
        let line: serde_json::Value = serde_json::from_str(&listening.unwrap()).unwrap();
        let address = line["address"].as_str().unwrap().parse().unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        Process { child, address, config: path }
    }

    fn threads(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Threads:")).unwrap();
        line.trim().parse().unwrap()
    }

    /// Sends SIGTERM and returns how long it takes to end.
    fn terminate(&mut self) -> Duration {
        let begun = Instant::now();
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        begun.elapsed()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.config);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_silent_resolver_takes_no_thread_and_delays_no_exit() {
    let dns = Dns::start();
    dns.set_mood(Mood::Silent);
    let mut seawall = Process::start(
        "silent-resolver",
        &format!(
            "workers: 2\nlisteners: [{{ address: '127.0.0.1:0' }}]\nadmin: {{ address: off }}\n\
             shutdown: {{ drain: 100ms }}\n\
             upstreams:\n  app:\n    endpoints: ['http://app.test:80']\n    \
             resolver: {{ servers: ['{}'] }}\n    timeouts: {{ resolve: 60s }}\n\
             routes: [{{ upstream: app }}]\n",
            dns.address()
        ),
    );
    let before = seawall.threads();
    let mut clients = Vec::new();
    for _ in 0..300 {
        let mut client = TcpStream::connect(seawall.address).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        clients.push(client);
    }
    let begun = Instant::now();
    while dns.asked("app.test", RecordType::A) == 0 {
        assert!(begun.elapsed() < PATIENCE, "nobody asks");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert_eq!(seawall.threads(), before);
    let asked = dns.asked("app.test", RecordType::A);
    assert!(asked < 10, "each of 300 requests would have asked: {asked}");
    // The drain takes a tenth of a second; the question would take a minute.
    let took = seawall.terminate();
    assert!(took < Duration::from_secs(10), "{took:?}");
}

//! The operators' listener, over real sockets: who may ask, and that a probe is always answered.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use crate::support::PATIENCE;
use crate::support::script::Upstream;
use crate::support::seawall::Seawall;

/// More than the admin listener keeps.
const CROWD: usize = 100;

/// A seawall with an admin listener, and these settings of `admin` besides.
fn config(app: &Upstream, settings: &str) -> String {
    format!(
        "admin: {{ address: '127.0.0.1:0', {settings} }}\n\
        upstreams: {{ app: {{ endpoints: ['http://{}'] }} }}\nroutes: [{{ upstream: app }}]\n",
        app.address()
    )
}

fn operated(app: &Upstream, settings: &str) -> (Seawall, SocketAddr) {
    let mut seawall = Seawall::configured(&config(app, settings));
    let address = seawall.running().admin_address().unwrap();
    (seawall, address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The whole answer to these bytes; the connection ends with it.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of an answer to a request with this first line and these field lines.
fn status(address: SocketAddr, line: &str, fields: &[&str]) -> u16 {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let answer = ask(address, &format!("{line}\r\n{fields}Connection: close\r\n\r\n"));
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line")
}

/// Returns `true` if the other side has ended the connection.
fn is_ended(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    match stream.read(&mut [0; 1024]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// A probe as Kubernetes sends it: by address, on a connection of its own.
fn probe(address: SocketAddr) {
    let host = format!("Host: {address}");
    for path in ["/livez", "/readyz"] {
        assert_eq!(status(address, &format!("GET {path} HTTP/1.1"), &[&host]), 200, "{path}");
    }
}

#[test]
fn answers_its_own_names_only() {
    let app = Upstream::healthy();
    let (_seawall, address) = operated(&app, "hosts: [seawall.internal]");
    let get = |path: &str, host: &str| {
        status(address, &format!("GET {path} HTTP/1.1"), &[&format!("Host: {host}")])
    };
    for path in ["/", "/metrics", "/failures", "/config", "/endpoints", "/status.json"] {
        assert_eq!(get(path, "evil.test:9900"), 421, "{path}");
        for host in ["localhost:9900", "127.0.0.1", "[::1]:1", "SEAWALL.internal.:9900"] {
            assert_eq!(get(path, host), 200, "{path} {host}");
        }
    }
    assert_eq!(get("/metrics", "user@localhost"), 400);
    assert_eq!(status(address, "GET /metrics HTTP/1.1", &[]), 400);
    assert_eq!(status(address, "GET /metrics HTTP/1.0", &[]), 200);
    let two = ["Host: localhost", "Host: evil.test"];
    assert_eq!(status(address, "GET /metrics HTTP/1.1", &two), 400);
    let absolute = "GET http://evil.test/metrics HTTP/1.1";
    assert_eq!(status(address, absolute, &["Host: localhost"]), 421);
    assert_eq!(get("/livez", "evil.test"), 200, "a probe says nothing");
}

#[test]
fn endpoint_is_drained_by_operators_only() {
    let app = Upstream::healthy();
    let (mut seawall, address) = operated(&app, "");
    let endpoint = format!("http://{}", app.address());
    let drain = format!("POST /endpoints/drain?upstream=app&endpoint={endpoint} HTTP/1.1");
    let simple = ["Host: 127.0.0.1", "Content-Type: text/plain", "Content-Length: 0"];
    assert_eq!(status(address, &drain, &simple), 403, "an app that was made to send it");
    let foreign = ["Host: 127.0.0.1", "Seawall-Admin: 1", "Origin: http://evil.test"];
    assert_eq!(status(address, &drain, &foreign), 403);
    let rebound = ["Host: evil.test", "Sec-Fetch-Site: same-origin", "Seawall-Admin: 1"];
    assert_eq!(status(address, &drain, &rebound), 421);
    let is_drained = |seawall: &mut Seawall| {
        let set = seawall.running().upstreams()[0].current();
        set.roster.state(0) == "drained"
    };
    assert!(!is_drained(&mut seawall));
    assert_eq!(status(address, &drain, &["Host: 127.0.0.1", "Seawall-Admin: 1"]), 200);
    assert!(is_drained(&mut seawall));
    let restore = drain.replace("drain", "restore");
    let page = ["Host: localhost:9900", "Sec-Fetch-Site: same-origin"];
    assert_eq!(status(address, &restore, &page), 200);
    assert!(!is_drained(&mut seawall));
}

#[test]
fn changed_token_is_used_after_reload() {
    let app = Upstream::healthy();
    let file: PathBuf = std::env::temp_dir().join(format!("seawall-it-{}", std::process::id()));
    std::fs::write(&file, "first-first-first").unwrap();
    let settings = format!("token_file: '{}'", file.display());
    let (mut seawall, address) = operated(&app, &settings);
    let get = |token: &str| {
        let token = format!("Authorization: Bearer {token}");
        status(address, "GET /metrics HTTP/1.1", &["Host: seawall:9900", &token])
    };
    assert_eq!((get("first-first-first"), get("second-second-second")), (200, 401));
    std::fs::write(&file, "second-second-second").unwrap();
    let diff = seawall.reload(&config(&app, &settings)).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(diff.sections, ["admin.token_file"]);
    assert_eq!((get("first-first-first"), get("second-second-second")), (401, 200));
}

#[test]
fn probes_are_answered_beside_any_crowd() {
    let app = Upstream::healthy();
    let (seawall, address) = operated(&app, "");
    let greedy = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n").repeat(200);
    let crowds: [(&str, &str); 4] = [
        ("idle", ""),
        ("half a head", "GET /metrics HTTP/1.1\r\nHost: a"),
        ("half a line", "GE"),
        ("readers that do not read", &greedy),
    ];
    let mut all = Vec::new();
    for (crowd, bytes) in crowds {
        for _ in 0..CROWD {
            let mut stream = connect(address);
            // Those that have been closed already refuse it.
            let _ = stream.set_nonblocking(true);
            let _ = stream.write(bytes.as_bytes());
            let _ = stream.set_nonblocking(false);
            all.push(stream);
        }
        println!("beside {CROWD} times {crowd}");
        probe(address);
        let metrics = ["Host: 127.0.0.1"];
        assert_eq!(status(address, "GET /metrics HTTP/1.1", &metrics), 200, "{crowd}");
    }
    seawall.until("the surplus is closed", |_| all.iter_mut().any(is_ended).then_some(()));
}

#[test]
fn idle_connection_outlives_newcomers_that_leave() {
    let app = Upstream::healthy();
    let (_seawall, address) = operated(&app, "");
    let mut scraper = connect(address);
    for _ in 0..CROWD {
        probe(address);
    }
    let request = format!("GET /livez HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    scraper.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    scraper.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

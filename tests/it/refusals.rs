//! Whatever refuses a request: one line in the access log, one count, one answer with an id.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::client::{End, Http1, Seen};
use crate::support::script::{Gate, Upstream};
use crate::support::seawall::Seawall;
use crate::support::{PATIENCE, log};

fn seawall(upstream: &Upstream) -> Seawall {
    Seawall::configured(&format!(
        "clients: {{ head_timeout: 300ms }}\n\
        log: {{ access: true }}\n\
        upstreams: {{ app: {{ endpoints: [http://{}] }} }}\n\
        routes: [{{ upstream: app, host: a, path: /app/* }}]\n",
        upstream.address()
    ))
}

/// Asserts that the answer has one line and one count.
fn told_once(name: &str, seawall: &Seawall, seen: &Seen) {
    let id = seen.field("x-request-id").unwrap_or_else(|| panic!("{name}: {seen:?}"));
    assert_eq!(seen.field("cache-control"), Some("no-store"), "{name}");
    let status = seen.status.to_string();
    log::wait_for(id, name, |lines| {
        let of_requests = lines.iter().filter(|line| line.get("status") == Some(&status)).count();
        assert!(of_requests <= 1, "{name}: {lines:?}");
        (of_requests == 1).then_some(())
    });
    let cell = format!("{{route=\"-\",status=\"{status}\",upstream=\"-\"}} 1");
    assert_eq!(seawall.cells("seawall_requests_total"), [cell], "{name}");
}

#[test]
fn each_refusal_over_http_1_is_counted_and_logged_once() {
    let upstream = Upstream::healthy();
    let long = "x".repeat(70_000);
    for (name, bytes, status) in [
        ("not HTTP", "\u{1}\u{2}\r\n\r\n".to_owned(), 400),
        ("a bad line", "GET / HTTP/1.1\r\nA : b\r\n\r\n".to_owned(), 400),
        ("a version", "GET / HTTP/3.0\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("no host", "GET /app/ HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("a late head", "GET /app/ HTTP/1.1\r\nHo".to_owned(), 408),
        ("an unknown path", "GET /other HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 404),
        ("an unknown host", "GET /app/ HTTP/1.1\r\nHost: b\r\n\r\n".to_owned(), 421),
        ("a long target", format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        ("a large field", format!("GET /app/ HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), 431),
        (
            "many fields",
            format!("GET /app/ HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(1700)),
            431,
        ),
    ] {
        let seawall = seawall(&upstream);
        let mut client = Http1::connect(seawall.address());
        // One that is refused before its end is not read to its end.
        let _ = client.stream().write_all(bytes.as_bytes());
        let seen = client.read(false, &Gate::default());
        assert_eq!(seen.status, status, "{name}");
        told_once(name, &seawall, &seen);
    }
    assert!(upstream.requests().is_empty());
}

#[test]
fn each_refusal_over_http_2_is_counted_and_logged_once() {
    let upstream = Upstream::healthy();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let long = "x".repeat(70_000);
    for (name, uri, fields, status) in [
        ("an unknown path", "http://a/other".to_owned(), 0, 404),
        ("an unknown host", "http://b/app/".to_owned(), 0, 421),
        ("a long target", format!("http://a/{}", &long[..20_000]), 0, 414),
        ("many fields", "http://a/app/".to_owned(), 150, 431),
    ] {
        let seawall = seawall(&upstream);
        let seen = runtime.block_on(async {
            let tcp = tokio::net::TcpStream::connect(seawall.address()).await.unwrap();
            let (mut requests, connection) = h2::client::handshake(tcp).await.unwrap();
            tokio::spawn(connection);
            let request = (0..fields).fold(http::Request::get(uri), |request, count| {
                request.header(format!("x-{count}"), "v")
            });
            let (response, _) = requests.send_request(request.body(()).unwrap(), true).unwrap();
            tokio::time::timeout(PATIENCE, response).await.unwrap().unwrap()
        });
        assert_eq!(seen.status(), status, "{name}");
        let id = seen.headers()["x-request-id"].to_str().unwrap().to_owned();
        let seen = Seen {
            interim: Vec::new(),
            status: seen.status().as_u16(),
            fields: vec![
                ("x-request-id".to_owned(), id),
                (
                    "cache-control".to_owned(),
                    seen.headers()["cache-control"].to_str().unwrap().to_owned(),
                ),
            ],
            body: Vec::new(),
            trailers: Vec::new(),
            end: End::Complete,
        };
        told_once(name, &seawall, &seen);
    }
    assert!(upstream.requests().is_empty());
}

#[test]
fn a_refusal_tells_what_could_be_read_of_the_request() {
    let upstream = Upstream::healthy();
    let seawall = seawall(&upstream);
    let mut client = TcpStream::connect(seawall.address()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"HEAD /app/x?secret HTTP/1.1\r\nA : b\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    let (head, content) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}");
    assert!(head.contains("\r\nconnection: close"), "{head}");
    assert_eq!(content, "", "HEAD has no content");
    let id = head.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
    let line = log::wait_for(id, "the line", |lines| lines.first().cloned());
    assert_eq!((&*line["method"], &*line["path"]), ("HEAD", "/app/x"));
}

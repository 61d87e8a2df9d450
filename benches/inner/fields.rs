//! Heads: a request as it is read from a client and rewritten for an upstream, and a response as it
//! is read from one.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::rc::Rc;

use bytes::BytesMut;
use divan::Bencher;
use seawall::config::model::UpstreamLimits;
use seawall::forward::check;
use seawall::forward::forwarded::Forwarded;
use seawall::forward::head::Head;
use seawall::forward::peer::Peer;
use seawall::forward::request::{self, Extra};
use seawall::listen::http1::request as listen;
use seawall::telemetry::metrics::Metrics;
use seawall::upstream::exchange::{Asked, Framing};
use seawall::upstream::http1::MessageLimits;
use seawall::upstream::http1::head;

/// What a load generator sends, and what a browser does.
const REQUESTS: [&str; 2] = ["small", "browser"];

const BROWSER: &str = "Connection: keep-alive\r\nCache-Control: max-age=0\r\n\
    Sec-CH-UA: \"Chromium\";v=\"130\", \"Not?A_Brand\";v=\"99\"\r\nSec-CH-UA-Mobile: ?0\r\n\
    Sec-CH-UA-Platform: \"Linux\"\r\nUpgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/130.0.0.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\n\
    Sec-Fetch-Dest: document\r\nReferer: https://www.example.com/articles\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n";

fn text(name: &str) -> BytesMut {
    let mut text = BytesMut::from("GET /articles/42?page=2 HTTP/1.1\r\nHost: www.example.com\r\n");
    if name == "browser" {
        text.extend_from_slice(BROWSER.as_bytes());
    }
    text.extend_from_slice(b"\r\n");
    text
}

fn take(text: &mut BytesMut) -> Rc<Head> {
    let limits = MessageLimits::from(&UpstreamLimits::default());
    listen::take(&mut listen::Reader::default(), text, &limits).unwrap().unwrap().head
}

/// As it comes over HTTP/1.1.
fn head(name: &str) -> Rc<Head> {
    take(&mut text(name))
}

fn rules() -> Forwarded {
    let yaml = "{ upstreams: { app: { endpoints: ['http://127.0.0.1:3000'] } }, \
        routes: [{ upstream: app }], listeners: [{ address: '127.0.0.1:0' }] }";
    let config = seawall::config::parse("bench.yaml", yaml, Path::new(".")).unwrap();
    Forwarded::new(&config, Metrics::new().unwrap())
}

fn extra<'r>(rules: &'r Forwarded, peer: &'r Peer) -> Extra<'r> {
    Extra {
        peer,
        host: "www.example.com",
        via: "1.1 seawall-0123456789ab",
        forwarded: rules,
        max_forwards: None,
        request_id: b"e34479e161338332867c1683a120022e",
        framing: Framing::Empty,
        recording: None,
        upgrade: false,
        websocket_key: None,
    }
}

fn peer() -> Peer {
    Peer::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), "https", false)
}

/// Found and parsed, and the fields that somebody will ask for recognised.
#[divan::bench(args = REQUESTS)]
fn request_from_http1(bencher: Bencher<'_, '_>, name: &str) {
    bencher.with_inputs(|| text(name)).bench_refs(take);
}

/// What another parser could read differently is refused.
#[divan::bench(args = REQUESTS)]
fn request_check(bencher: Bencher<'_, '_>, name: &str) {
    let (head, peer) = (head(name), peer());
    bencher.bench_local(|| check::check(black_box(&head), &peer).is_ok());
}

#[divan::bench(args = REQUESTS)]
fn request_to_http1(bencher: Bencher<'_, '_>, name: &str) {
    let (head, peer, rules) = (head(name), peer(), rules());
    let extra = extra(&rules, &peer);
    bencher.bench_local(|| request::http1(black_box(&head), black_box(&extra)));
}

#[divan::bench(args = REQUESTS)]
fn request_to_http2(bencher: Bencher<'_, '_>, name: &str) {
    let (head, peer, rules) = (head(name), peer(), rules());
    let extra = extra(&rules, &peer);
    bencher.bench_local(|| request::http2(black_box(&head), black_box(&extra), "http").unwrap());
}

const SMALL: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 22\r\n\r\n";
const APP: &str = "HTTP/1.1 200 OK\r\nServer: app\r\nDate: Mon, 23 Nov 2026 03:02:09 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\
    Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nVary: Accept-Encoding\r\n\
    Cache-Control: private, max-age=0\r\nETag: W/\"5f2b-18c\"\r\n\
    Set-Cookie: session=0123456789abcdef; Path=/; HttpOnly; Secure; SameSite=Lax\r\n\
    Set-Cookie: theme=dark; Path=/\r\nStrict-Transport-Security: max-age=63072000\r\n\
    X-Content-Type-Options: nosniff\r\nReferrer-Policy: same-origin\r\n\r\n";

/// Found, parsed, and freed of the fields that speak to this hop only.
#[divan::bench(args = ["small", "app"])]
fn response_from_http1(bencher: Bencher<'_, '_>, name: &str) {
    let text = if name == "app" { APP } else { SMALL };
    let limits = MessageLimits::from(&UpstreamLimits::default());
    bencher.with_inputs(|| BytesMut::from(text)).bench_refs(|bytes| {
        let mut reader = head::Reader::default();
        let length = head::read(&mut reader, bytes, &limits).unwrap().unwrap();
        head::take(bytes, length, &reader, Asked { lines: true, ..Asked::default() }).unwrap()
    });
}

//! Health checks that speak what the app speaks: the gRPC health protocol, a WebSocket handshake.

use std::net::SocketAddr;

use crate::support::client::{Client, Request, Version};
use crate::support::http2::{END_STREAM, data, head, head_of, reset, trailers};
use crate::support::script::{Script, Upstream};
use crate::support::seawall::Seawall;
use crate::support::websocket;

/// Short checks, so that the tests are short; one is enough.
const CHECKS: &str = "interval: 50ms, timeout: 60s, healthy: 1, unhealthy: 1, initial: unhealthy";

const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// The value of the cell of this metric for the endpoint.
fn cell(seawall: &Seawall, name: &str, endpoint: SocketAddr, more: &str) -> u64 {
    let metrics = seawall.metrics();
    let endpoint = format!("endpoint=\"http://{endpoint}\"");
    let fits = |line: &&str| {
        line.starts_with(&format!("{name}{{")) && line.contains(&endpoint) && line.contains(more)
    };
    let line = metrics.lines().find(fits).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn until_up(seawall: &Seawall, upstream: &Upstream, up: u64) {
    seawall.until(if up == 1 { "it is in" } else { "it is out" }, |seawall| {
        let now = cell(seawall, "seawall_endpoint_up", upstream.address(), "");
        (now == up).then_some(())
    });
}

fn checks(seawall: &Seawall, upstream: &Upstream, result: &str) -> u64 {
    let result = format!("result=\"{result}\"");
    cell(seawall, "seawall_health_checks_total", upstream.address(), &result)
}

/// A gRPC answer: this message, and this status in the trailers.
fn answer(message: &[u8], status: &str) -> Script {
    let parts = [head(200, &[GRPC]), data(message), trailers(&[("grpc-status", status)])];
    Script::http2_request().write(parts.concat()).fin()
}

fn serving() -> Script {
    answer(b"\0\0\0\0\x02\x08\x01", "0")
}

#[test]
fn a_grpc_server_is_in_exactly_while_it_says_that_it_serves() {
    let at_once = |status: &'static str| {
        let fields = [GRPC, ("grpc-status", status)];
        Script::http2_request().write(head_of(1, END_STREAM, 200, &fields)).fin()
    };
    for (name, unwell) in [
        ("NOT_SERVING", answer(b"\0\0\0\0\x02\x08\x02", "0")),
        ("UNKNOWN", answer(b"\0\0\0\0\0", "0")),
        ("no message", answer(b"", "0")),
        ("garbage", answer(b"garbage", "0")),
        ("a message, and an error", answer(b"\0\0\0\0\x02\x08\x01", "13")),
        ("NOT_FOUND: it knows no such service", at_once("5")),
        ("UNIMPLEMENTED: it has no health protocol", at_once("12")),
        ("no status", Script::http2_request().write(head_of(1, END_STREAM, 200, &[GRPC])).fin()),
        ("503", Script::http2_request().write(head_of(1, END_STREAM, 503, &[])).fin()),
        ("RST_STREAM", Script::http2_request().write(reset(2)).fin()),
        ("a crash", Script::http2_request().reset()),
        ("HTTP/1.1", Script::default().write("HTTP/1.1 400 Bad Request\r\n\r\n").fin()),
    ] {
        let scripts = [serving(), unwell].into_iter().chain((0..200).map(|_| serving()));
        let upstream = Upstream::playing(scripts);
        let settings =
            format!("protocol: http2, health: {{ grpc: true, {CHECKS} }}, slow_start: 0s");
        let seawall = Seawall::before_with(&upstream, &settings);
        seawall.until(name, |seawall| (checks(seawall, &upstream, "failed") == 1).then_some(()));
        seawall.until("it serves again", |seawall| {
            (checks(seawall, &upstream, "ok") >= 2).then_some(())
        });
        until_up(&seawall, &upstream, 1);
        assert_eq!(checks(&seawall, &upstream, "failed"), 1, "{name}");
        assert_eq!(upstream.requests()[0], "HTTP/2 stream 1, 5 bytes");
    }
}

#[test]
fn a_grpc_service_is_asked_for_by_its_name_and_gets_no_calls_while_it_does_not_serve() {
    let not_serving = || answer(b"\0\0\0\0\x02\x08\x02", "0");
    let upstream = Upstream::playing((0..1000).map(|_| not_serving()));
    let settings =
        format!("protocol: http2, health: {{ grpc: true, service: shop.v1.Cart, {CHECKS} }}");
    let seawall = Seawall::before_with(&upstream, &settings);
    seawall
        .until("it is asked", |seawall| (checks(seawall, &upstream, "failed") >= 1).then_some(()));
    // Five bytes of the gRPC frame, two of the field, the name.
    assert_eq!(upstream.requests()[0], "HTTP/2 stream 1, 19 bytes");
    let mut client = Client::connect(Version::Http2, seawall.address());
    let seen = client.exchange(&Request::get(), upstream.gate());
    assert_eq!(seen.field("proxy-status"), Some("seawall;error=destination_unavailable"));
}

#[test]
fn an_app_is_in_exactly_while_it_accepts_websockets() {
    let refuses = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
    let ignores = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let wrong = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    for (name, unwell) in [
        ("a 503", Script::read_head().write(refuses).fin()),
        ("no upgrade", Script::read_head().write(ignores).fin()),
        ("the accept of another key", Script::read_head().write(wrong).fin()),
        (
            "an extension",
            Script::read_head().write_accepting("Sec-WebSocket-Extensions: x\r\n").fin(),
        ),
        ("a crash", Script::read_head().reset()),
    ] {
        let well = (0..2000).map(|_| websocket::open().hang());
        let upstream = Upstream::playing([unwell].into_iter().chain(well));
        let settings = format!("health: {{ websocket: /live?x=1, {CHECKS} }}, slow_start: 0s");
        let seawall = Seawall::before_with(&upstream, &settings);
        until_up(&seawall, &upstream, 1);
        assert_eq!(checks(&seawall, &upstream, "failed"), 1, "{name}");
        let asked = upstream.requests()[0].to_ascii_lowercase();
        assert!(asked.starts_with("get /live?x=1 http/1.1\r\n"), "{asked}");
    }
}

#[test]
fn the_session_of_a_check_is_closed_in_order() {
    let upstream = Upstream::playing([websocket::open().record()]);
    let settings = format!("health: {{ websocket: /live, {CHECKS} }}");
    let seawall = Seawall::before_with(&upstream, &settings);
    let record = upstream.record();
    assert!(!record.reset, "{record:?}");
    let [0x88, 0x82, a, b, _, _, high, low] = record.bytes[..] else { panic!("{record:?}") };
    assert_eq!(u16::from_be_bytes([high ^ a, low ^ b]), 1000);
    drop(seawall);
}

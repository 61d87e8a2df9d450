//! An operator takes an endpoint out and in again: nobody loses anything by it.

use crate::support::client::{Client, Http1, Request, Version};
use crate::support::script::{Gate, Script, Upstream, WELL};
use crate::support::seawall::Seawall;
use crate::support::websocket::{self, close, open, read_to_end};

const SETTINGS: &str = "slow_start: 0s";

fn before(upstreams: &[&Upstream]) -> Seawall {
    let urls: Vec<_> = upstreams.iter().map(|at| format!("'http://{}'", at.address())).collect();
    Seawall::at(&urls.join(", "), SETTINGS)
}

fn url(upstream: &Upstream) -> String {
    format!("http://{}", upstream.address())
}

#[test]
fn a_request_that_runs_finishes_and_the_next_ones_go_elsewhere() {
    let half = Script::read_head()
        .write("HTTP/1.1 200 OK\r\nContent-Length: 65538\r\n\r\n1")
        .until_client_saw_head()
        .write(vec![b'2'; 65_537]);
    let (leaves, stays) = (Upstream::playing([half]), Upstream::healthy());
    let seawall = before(&[&leaves, &stays]);
    let mut client = Http1::connect(seawall.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    // The upstream waits at this gate, not at ours: its response stands still half-way.
    let seen = client.read(true, &Gate::default());
    assert_eq!(seen.status, 200);
    assert_eq!(seawall.drain(&url(&leaves), true), Some("drained"));
    leaves.gate().open();
    let rest = client.take(65_538 - seen.body.len()).unwrap();
    assert!(rest.ends_with(b"22"), "whole");
    for _ in 0..6 {
        let mut client = Client::connect(Version::Http1, seawall.address());
        assert_eq!(client.exchange(&Request::get(), stays.gate()).text(), WELL);
    }
    assert_eq!((leaves.requests().len(), stays.requests().len()), (1, 6));
    assert!(seawall.cells("seawall_failures_total").is_empty());
    assert_eq!(seawall.drain(&url(&leaves), false), Some("up"));
    for _ in 0..4 {
        let mut client = Client::connect(Version::Http1, seawall.address());
        assert_eq!(client.exchange(&Request::get(), stays.gate()).text(), WELL);
    }
    assert_eq!(leaves.requests().len(), 3, "its half again");
}

#[test]
fn a_websocket_is_asked_to_come_back_and_finds_another_endpoint() {
    let leaves = Upstream::playing([open().hang(), open().hang()]);
    let seawall = before(&[&leaves]);
    let (mut first, _) = websocket::connect(seawall.address(), "");
    let (mut second, _) = websocket::connect(seawall.address(), "");
    assert_eq!(seawall.drain(&url(&leaves), true), Some("drained"));
    for client in [&mut first, &mut second] {
        assert_eq!(read_to_end(client).unwrap().code, 1012);
    }
    assert!(seawall.cells("seawall_failures_total").is_empty());
    let (_client, seen) = websocket::handshake(seawall.address(), "");
    assert_eq!(seen.field("proxy-status"), Some("seawall;error=destination_unavailable"));
}

#[test]
fn a_websocket_that_opens_after_the_endpoint_is_back_stays() {
    let upstream = Upstream::playing([open().hang(), open().write(close(4000, "")).record()]);
    let seawall = before(&[&upstream]);
    let (mut first, _) = websocket::connect(seawall.address(), "");
    assert_eq!(seawall.drain(&url(&upstream), true), Some("drained"));
    assert_eq!(read_to_end(&mut first).unwrap().code, 1012);
    assert_eq!(seawall.drain(&url(&upstream), false), Some("up"));
    let (mut second, _) = websocket::connect(seawall.address(), "");
    assert_eq!(read_to_end(&mut second).unwrap().code, 4000, "the app's own Close");
}

#[test]
fn idle_connections_of_a_drained_endpoint_are_closed() {
    let (leaves, stays) = (Upstream::healthy(), Upstream::healthy());
    let seawall = before(&[&leaves, &stays]);
    for _ in 0..2 {
        let mut client = Client::connect(Version::Http1, seawall.address());
        assert_eq!(client.exchange(&Request::get(), leaves.gate()).text(), WELL);
    }
    let until_idle = |what, count| {
        let idle = "seawall_upstream_connections{state=\"idle\",upstream=\"app\"}";
        seawall.until(what, |now| (now.value(idle) == count).then_some(()));
    };
    until_idle("both are idle", 2);
    assert_eq!(seawall.drain(&url(&leaves), true), Some("drained"));
    until_idle("one is closed", 1);
}

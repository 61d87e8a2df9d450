//! P7: what is full is said to be full, at once, and counted.

use crate::support::client::{Client, End, Request, Version};
use crate::support::script::{Script, Upstream, WELL};
use crate::support::seawall::Seawall;
use crate::support::websocket::{self, close, masked, open, read_to_end};

#[test]
fn a_full_upstream_is_a_failure_of_its_own_kind() {
    let held = Script::read_head().until_client_saw_head();
    let upstream = Upstream::playing([held]);
    let seawall = Seawall::before_with(&upstream, "limits: { connections: 1 }");
    let mut occupant = crate::support::client::Http1::connect(seawall.address());
    occupant.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    seawall.until("the only connection is in use", |_| {
        (!upstream.requests().is_empty()).then_some(())
    });
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(&Request::get(), upstream.gate());
    assert_eq!((seen.status, seen.end), (500, End::Complete));
    assert_eq!(seen.field("proxy-status"), Some("seawall;error=connection_limit_reached"));
}

#[test]
fn a_websocket_has_left_the_limit_of_connections() {
    let upstream = Upstream::playing([open().hang()]);
    let seawall = Seawall::before_with(&upstream, "limits: { connections: 1 }");
    let (_session, _) = websocket::connect(seawall.address(), "");
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(&Request::get(), upstream.gate());
    assert_eq!((seen.status, seen.text()), (200, WELL.to_owned()));
}

#[test]
fn one_websocket_too_many_is_asked_to_come_back() {
    let ends = || open().write(close(1000, "")).record();
    let upstream = Upstream::playing([open().hang(), ends()]);
    let seawall = Seawall::before_with(&upstream, "limits: { websockets: 1 }");
    let (first, _) = websocket::connect(seawall.address(), "");
    let (mut client, seen) = websocket::handshake(seawall.address(), "");
    assert_eq!((seen.status, seen.end), (503, End::Complete));
    let wait: u64 = seen.field("retry-after").unwrap().parse().unwrap();
    assert!((5..=10).contains(&wait), "{wait}");
    assert_eq!(seen.field("proxy-status"), None, "it is nobody's failure");
    assert!(seawall.cells("seawall_failures_total").is_empty());
    let refused = seawall.cells("seawall_websocket_handshakes_refused_total");
    assert_eq!(refused, ["{reason=\"sessions\",upstream=\"app\"} 1"]);
    drop(first);
    seawall.until("the place is free again", |seawall| {
        seawall.metrics().contains("seawall_websocket_sessions{upstream=\"app\"} 0").then_some(())
    });
    // The gauge falls a moment before the place is given back.
    let seen = seawall.until("there is room", |_| {
        let (mut next, seen) = websocket::handshake(seawall.address(), "");
        (seen.status == 101).then(|| read_to_end(&mut next).unwrap())
    });
    assert_eq!(seen.code, 1000);
    client.send(masked(&close(1000, "")));
}

#[test]
fn more_handshakes_than_the_app_can_take_are_spread() {
    let upstream = Upstream::playing((0..20).map(|_| open().hang()));
    let seawall = Seawall::before_with(&upstream, "limits: { handshakes: 5 }");
    let mut statuses = Vec::new();
    let mut open = Vec::new();
    for _ in 0..15 {
        let (client, seen) = websocket::handshake(seawall.address(), "");
        statuses.push(seen.status);
        open.push(client);
    }
    let opened = statuses.iter().filter(|status| **status == 101).count();
    // Five at once, and one more for every 200 ms that this took.
    assert!(statuses.starts_with(&[101; 5]), "{statuses:?}");
    let refused = seawall.cells("seawall_websocket_handshakes_refused_total");
    let expected = format!("{{reason=\"rate\",upstream=\"app\"}} {}", 15 - opened);
    assert_eq!(refused, [expected]);
}

//! HTTP/2 upstreams that are full: requests wait for a stream as others wait for a connection, in
//! order, and no longer than they may.

use std::thread;
use std::time::Duration;

use crate::support::client::{Client, End, Http1, Request, Version};
use crate::support::http2::{END_STREAM, head_of};
use crate::support::script::{Script, Step, Upstream, WELL};
use crate::support::seawall::Seawall;
use crate::support::websocket;

/// Answers its first request when the gate opens, with 204, and the others at once.
fn held(settings: &[(u16, u32)]) -> Script {
    Script::http2(settings)
        .then(Step::Http2Request)
        .until_client_saw_head()
        .then_well_http2(head_of(1, END_STREAM, 204, &[]))
}

/// A POST of so many bytes that seawall has, and that is not answered yet.
fn asking(seawall: &Seawall, length: usize) -> Http1 {
    seawall.with_one_more(|| {
        let mut client = Http1::connect(seawall.address());
        let content = "x".repeat(length);
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{content}"
        ));
        client
    })
}

#[test]
fn who_finds_no_stream_waits_for_one_and_one_too_many_is_refused() {
    // The limit is ours, or the upstream's own (SETTINGS_MAX_CONCURRENT_STREAMS).
    for (ours, settings) in [("streams: 1", &[][..]), ("streams: 100", &[(3, 1)])] {
        let upstream = Upstream::playing([held(settings)]);
        let limits = format!("{ours}, connections: 1, pending: 2, pending_time: 300s");
        let seawall =
            Seawall::before_with(&upstream, &format!("protocol: http2, limits: {{ {limits} }}"));
        let first = asking(&seawall, 1);
        upstream.until_asked(1);
        let waiting = [2, 3].map(|length| asking(&seawall, length));
        seawall.until("both wait", |now| (now.pending() == 2).then_some(()));
        let mut refused = Client::connect(Version::Http1, seawall.address());
        let seen = refused.exchange(&Request::get(), &Default::default());
        assert_eq!((seen.status, seen.end), (500, End::Complete), "{ours}");
        assert_eq!(seen.field("proxy-status"), Some("seawall;error=connection_limit_reached"));
        upstream.gate().open();
        let mut statuses = Vec::new();
        for mut client in [first].into_iter().chain(waiting) {
            statuses.push(client.read(false, upstream.gate()).status);
        }
        assert_eq!(statuses, [204, 200, 200]);
        let order = ["stream 1, 1", "stream 3, 2", "stream 5, 3"];
        assert_eq!(upstream.requests(), order.map(|what| format!("HTTP/2 {what} bytes")));
        assert_eq!(seawall.cells("seawall_failures_total").len(), 1);
    }
}

#[test]
fn who_waits_for_a_stream_for_too_long_is_refused() {
    let upstream = Upstream::playing([held(&[])]);
    let limits = "limits: { streams: 1, connections: 1, pending_time: 200ms }";
    let seawall = Seawall::before_with(&upstream, &format!("protocol: http2, {limits}"));
    let mut first = asking(&seawall, 1);
    upstream.until_asked(1);
    let asked = tokio::time::Instant::now();
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(&Request::get(), &Default::default());
    assert_eq!(seen.field("proxy-status"), Some("seawall;error=connection_limit_reached"));
    assert!(asked.elapsed() >= Duration::from_millis(200));
    upstream.gate().open();
    // Its stream is free then; the next request would wait for it no longer than the one before.
    assert_eq!(first.read(false, upstream.gate()).status, 204);
    let seen = client.exchange(&Request::get(), upstream.gate());
    assert_eq!((seen.status, &*seen.text()), (200, WELL), "the queue is in order behind it");
}

#[test]
fn a_full_endpoint_does_not_stop_requests_to_another() {
    // A request stands still at each, so that no connection is idle; one allows no second request.
    let deaf_once = Script::http2_request().then(Step::BeWellHttp2);
    let (full, free) = (Upstream::playing([held(&[(3, 1)])]), Upstream::playing([deaf_once]));
    let endpoints = format!("'http://{}', 'http://{}'", full.address(), free.address());
    let settings = "protocol: http2, limits: { streams: 2, connections: 2, pending_time: 300s }";
    let seawall = Seawall::at(&endpoints, settings);
    // In turn.
    let [mut first, _deaf] = [&full, &free].map(|upstream| {
        let client = asking(&seawall, 1);
        upstream.until_asked(1);
        client
    });
    let mut waiting = Vec::new();
    let mut client = Client::connect(Version::Http1, seawall.address());
    for round in 0..5 {
        waiting.push(asking(&seawall, 10));
        let seen = client.exchange(&Request::get(), free.gate());
        assert_eq!((seen.status, &*seen.text()), (200, WELL), "{round}");
    }
    assert_eq!((full.requests().len(), free.requests().len()), (1, 6));
    full.gate().open();
    assert_eq!(first.read(false, full.gate()).status, 204);
    for mut client in waiting {
        assert_eq!(client.read(false, full.gate()).status, 200);
    }
}

#[test]
fn an_idle_http2_connection_to_one_endpoint_makes_room_for_another() {
    let upstreams = [Upstream::healthy(), Upstream::healthy()];
    let urls = upstreams.each_ref().map(|upstream| format!("'http://{}'", upstream.address()));
    let settings = "protocol: http2, limits: { connections: 1, pending: 0 }";
    let seawall = Seawall::at(&urls.join(", "), settings);
    let mut client = Client::connect(Version::Http1, seawall.address());
    for _ in 0..6 {
        assert_eq!(client.exchange(&Request::get(), upstreams[0].gate()).status, 200);
    }
    assert_eq!(upstreams.each_ref().map(|upstream| upstream.requests().len()), [3, 3]);
}

#[test]
fn a_websocket_gets_the_place_of_an_idle_http2_connection() {
    let upstream =
        Upstream::playing([Script::http2(&[]).then(Step::BeWellHttp2), websocket::open().hang()]);
    let settings = "protocol: http2, limits: { connections: 1, pending: 0 }";
    let seawall = Seawall::before_with(&upstream, settings);
    let mut client = Client::connect(Version::Http1, seawall.address());
    assert_eq!(client.exchange(&Request::get(), upstream.gate()).status, 200);
    let (_session, seen) = websocket::connect(seawall.address(), "");
    assert_eq!(seen.status, 101);
}

/// Many clients in front of few streams: whoever is not woken when it should be fails.
#[test]
fn nobody_is_forgotten_in_the_queue() {
    for (endpoints, limits) in [
        (1, "streams: 1, connections: 1"),
        (1, "streams: 3, connections: 2"),
        (2, "streams: 1, connections: 1"),
        (3, "streams: 2, connections: 2"),
    ] {
        let upstreams: Vec<_> = (0..endpoints).map(|_| Upstream::healthy()).collect();
        let urls: Vec<_> =
            upstreams.iter().map(|upstream| format!("'http://{}'", upstream.address())).collect();
        let settings =
            format!("protocol: http2, limits: {{ {limits}, pending: 100, pending_time: 300s }}");
        let seawall = Seawall::at(&urls.join(", "), &settings);
        let address = seawall.address();
        let clients: Vec<_> = (0..20)
            .map(|_| {
                thread::spawn(move || {
                    let mut client = Client::connect(Version::Http1, address);
                    for _ in 0..20 {
                        let seen = client.exchange(&Request::get(), &Default::default());
                        assert_eq!((seen.status, &*seen.text()), (200, WELL));
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        let served: usize = upstreams.iter().map(|upstream| upstream.requests().len()).sum();
        assert_eq!(served, 400, "{limits}");
        assert!(seawall.cells("seawall_failures_total").is_empty());
    }
}

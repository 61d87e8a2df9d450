//! An upstream that keeps failing is left alone, and gets no more than it can take: what is refused
//! is refused at once, and says when to come back.

use std::time::Duration;

use crate::support::client::{Client, End, Http1, Request, Seen, Version};
use crate::support::script::{Script, Upstream, WELL};
use crate::support::seawall::Seawall;
use crate::support::websocket;

/// Opens after three failures for half a second; one probe is enough.
const QUICK: &str = "circuit: { consecutive_failures: 3, open: 500ms, probes: 1 }";

fn crashes(times: usize) -> impl Iterator<Item = Script> {
    (0..times).map(|_| Script::read_head().reset())
}

fn get(seawall: &Seawall, upstream: &Upstream) -> Seen {
    let mut client = Client::connect(Version::Http1, seawall.address());
    client.exchange(&Request::get(), upstream.gate())
}

fn error(seen: &Seen) -> Option<&str> {
    seen.field("proxy-status").and_then(|value| value.strip_prefix("seawall;error="))
}

/// The only cell of this metric.
fn cell(seawall: &Seawall, name: &str) -> u64 {
    seawall.value(&format!("{name}{{upstream=\"app\"}}"))
}

fn until_cell(seawall: &Seawall, name: &str, value: u64) {
    let line = format!("{name}{{upstream=\"app\"}}");
    seawall.until(name, |now| (now.value(&line) == value).then_some(()));
}

#[test]
fn an_upstream_that_keeps_failing_is_left_alone_until_a_probe_is_served() {
    let upstream = Upstream::playing(crashes(4));
    let seawall = Seawall::before_with(&upstream, QUICK);
    for _ in 0..3 {
        assert_eq!(error(&get(&seawall, &upstream)), Some("connection_terminated"));
    }
    assert_eq!(cell(&seawall, "seawall_circuit_openings_total"), 1);
    // Half-open: the fourth crash is that of the probe, which opens it for twice as long.
    let mut refused = Vec::new();
    seawall.until("the probe fails", |seawall| {
        let asked = tokio::time::Instant::now();
        let seen = get(seawall, &upstream);
        assert_eq!((seen.status, seen.end), (500, End::Complete));
        match error(&seen) {
            Some("connection_terminated") => return Some(()),
            other => assert_eq!(other, Some("destination_unavailable")),
        }
        refused.push(asked.elapsed());
        let wait: u64 = seen.field("retry-after").unwrap().parse().unwrap();
        assert!((1..=6).contains(&wait), "{wait}");
        None
    });
    // Less than any wait that there is.
    let quickest = refused.iter().min();
    assert!(quickest.is_none_or(|it| *it < Duration::from_millis(250)), "{refused:?}");
    assert_eq!(upstream.requests().len(), 4, "nobody asked it in between");
    assert_eq!(cell(&seawall, "seawall_circuit_openings_total"), 2);
    let mut count = refused.len() as u64;
    seawall.until("the next probe is served", |seawall| {
        let seen = get(seawall, &upstream);
        count += u64::from(seen.status == 500);
        (seen.status == 200).then_some(())
    });
    assert_eq!(cell(&seawall, "seawall_circuit_refused_total"), count);
    assert_eq!(cell(&seawall, "seawall_circuit_state"), 0);
    for _ in 0..10 {
        let seen = get(&seawall, &upstream);
        assert_eq!((seen.status, &*seen.text()), (200, WELL));
    }
}

#[test]
fn while_it_is_open_websockets_and_uploads_are_answered_at_once_too() {
    let upstream = Upstream::playing(crashes(3));
    let settings = "circuit: { consecutive_failures: 3, open: 300s, max: 300s }";
    let seawall = Seawall::before_with(&upstream, settings);
    (0..3).for_each(|_| drop(get(&seawall, &upstream)));
    let (_, seen) = websocket::handshake(seawall.address(), "");
    assert_eq!((seen.status, error(&seen)), (500, Some("destination_unavailable")));
    for version in [Version::Http1, Version::Http2] {
        let mut client = Client::connect(version, seawall.address());
        let seen = client.exchange(&Request::post(100_000), upstream.gate());
        assert_eq!((seen.status, error(&seen)), (500, Some("destination_unavailable")));
        let wait: u64 = seen.field("retry-after").unwrap().parse().unwrap();
        assert!((300..=336).contains(&wait), "it is known how long it stays open: {wait}");
    }
    assert_eq!(upstream.requests().len(), 3);
}

#[test]
fn a_request_that_a_retry_serves_opens_nothing() {
    let upstream = Upstream::playing(crashes(20));
    let well = Upstream::healthy();
    let endpoints = format!("'http://{}', 'http://{}'", upstream.address(), well.address());
    let settings = "retry: { attempts: 2, budget_percent: 100 }, \
        ejection: { consecutive_failures: 0 }, circuit: { consecutive_failures: 1 }";
    let seawall = Seawall::at(&endpoints, settings);
    for _ in 0..20 {
        assert_eq!(get(&seawall, &well).status, 200);
    }
    assert!(upstream.requests().len() >= 10);
    assert_eq!(cell(&seawall, "seawall_circuit_openings_total"), 0);
}

#[test]
fn responses_that_are_cut_short_count_and_those_that_the_app_meant_do_not() {
    let cut =
        || Script::read_head().write("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nx").fin();
    let upstream = Upstream::playing([cut(), cut(), cut()]);
    let seawall = Seawall::before_with(&upstream, QUICK);
    for _ in 0..3 {
        get(&seawall, &upstream);
    }
    assert_eq!(cell(&seawall, "seawall_circuit_openings_total"), 1);

    for (counts, expected) in [("false", 0), ("true", 1)] {
        let sick = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nnope";
        let upstream = Upstream::playing((0..3).map(|_| Script::read_head().write(sick).fin()));
        let settings =
            format!("circuit: {{ consecutive_failures: 3, count_app_errors: {counts} }}");
        let seawall = Seawall::before_with(&upstream, &settings);
        for _ in 0..3 {
            let seen = get(&seawall, &upstream);
            assert!(error(&seen).unwrap().starts_with("dependency_failure"));
        }
        assert_eq!(cell(&seawall, "seawall_circuit_openings_total"), expected, "{counts}");
    }
}

#[test]
fn there_is_no_circuit_unless_it_is_configured() {
    let upstream = Upstream::playing(crashes(40));
    let seawall = Seawall::before(&upstream);
    for _ in 0..40 {
        assert_eq!(error(&get(&seawall, &upstream)), Some("connection_terminated"));
    }
    assert_eq!(cell(&seawall, "seawall_circuit_state"), 0);
}

#[test]
fn one_request_more_than_the_upstream_can_take_is_refused_at_once() {
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun";
    let silent = Script::read_head().until_client_saw_head().write(begun).hang();
    let upstream = Upstream::playing([silent]);
    let seawall = Seawall::before_with(&upstream, "concurrency: { min: 1, max: 1 }");
    assert_eq!(cell(&seawall, "seawall_concurrency_limit"), 1);
    let mut first = Http1::connect(seawall.address());
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream.until_asked(1);
    let mut client = Client::connect(Version::Http1, seawall.address());
    let mut fastest = Duration::MAX;
    for round in 1..=10 {
        let asked = tokio::time::Instant::now();
        let seen = client.exchange(&Request::get(), &Default::default());
        fastest = fastest.min(asked.elapsed());
        assert_eq!((seen.status, error(&seen)), (500, Some("connection_limit_reached")));
        assert!(seen.field("retry-after").is_some());
        until_cell(&seawall, "seawall_concurrency_refused_total", round);
    }
    assert!(fastest < Duration::from_millis(500), "{fastest:?}");
    // Its head makes room, although its content is still on the way.
    upstream.gate().open();
    seawall.until("there is room", |seawall| (get(seawall, &upstream).status == 200).then_some(()));
    drop(first);
}

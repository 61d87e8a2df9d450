//! The best failure is the one that no client sees: endpoints that fail are left out, requests are
//! spread with sense, and what is full waits for a moment.

use std::net::SocketAddr;

use crate::support::client::{Client, End, Request, Seen, Version};
use crate::support::script::{Nobody, Script, Upstream, WELL};
use crate::support::seawall::Seawall;
use crate::support::websocket;

/// Requests are sent again as by default; endpoints that come back get their full share at once, and one
/// that refuses is tried each time.
const AGAIN: &str =
    "retry: { attempts: 2, budget_percent: 100 }, slow_start: 0s, timeouts: { refusal: 0s }";

fn urls(addresses: &[SocketAddr]) -> String {
    let urls: Vec<_> = addresses.iter().map(|address| format!("'http://{address}'")).collect();
    urls.join(", ")
}

fn get(seawall: &Seawall, upstream: &Upstream) -> Seen {
    let mut client = Client::connect(Version::Http1, seawall.address());
    client.exchange(&Request::get(), upstream.gate())
}

/// The value of the only cell of this metric for this endpoint.
fn cell(seawall: &Seawall, name: &str, endpoint: SocketAddr, more: &str) -> u64 {
    let metrics = seawall.metrics();
    let endpoint = format!("endpoint=\"http://{endpoint}\"");
    let fits = |line: &&str| {
        line.starts_with(&format!("{name}{{")) && line.contains(&endpoint) && line.contains(more)
    };
    let line = metrics.lines().find(fits).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn failed_connects(seawall: &Seawall, endpoint: SocketAddr) -> u64 {
    cell(seawall, "seawall_connects_total", endpoint, "result=\"failed\"")
}

#[test]
fn an_endpoint_that_has_refused_a_connection_is_believed_for_a_moment() {
    let nobody = Nobody::new();
    let settings = "timeouts: { refusal: 1h }, ejection: { consecutive_failures: 1 }";
    let seawall = Seawall::at(&urls(&[nobody.address()]), settings);
    let gate = Upstream::healthy();
    for count in 1..=20 {
        let seen = get(&seawall, &gate);
        assert_eq!(seen.status, 500);
        assert_eq!(seen.field("proxy-status"), Some("seawall;error=connection_refused"));
        let metrics = seawall.metrics();
        let refused = |line: &&str| {
            line.starts_with("seawall_failures_total{") && line.contains("\"connection_refused\"")
        };
        let counted = metrics.lines().filter(refused).filter_map(|line| line.rsplit(' ').next());
        assert_eq!(counted.map(|cell| cell.parse::<u64>().unwrap()).sum::<u64>(), count);
        assert_eq!(failed_connects(&seawall, nobody.address()), 1, "nobody tried again");
    }
    // It is there again, and still believed.
    nobody.arise();
    assert_eq!(get(&seawall, &gate).status, 500);
}

#[test]
fn an_endpoint_that_refused_is_tried_again_after_that_moment() {
    let (nobody, upstream) = (Nobody::new(), Upstream::healthy());
    let seawall = Seawall::at(&urls(&[nobody.address()]), "timeouts: { refusal: 100ms }");
    assert_eq!(get(&seawall, &upstream).status, 500);
    seawall.until("it is tried again", |seawall| {
        get(seawall, &upstream);
        (failed_connects(seawall, nobody.address()) >= 3).then_some(())
    });
}

#[test]
fn a_dead_endpoint_is_ejected_after_so_many_failures_and_tried_again_after_its_time() {
    let (nobody, upstream) = (Nobody::new(), Upstream::healthy());
    let settings = format!("{AGAIN}, ejection: {{ consecutive_failures: 3, base: 2s }}");
    let seawall = Seawall::at(&urls(&[nobody.address(), upstream.address()]), &settings);
    for _ in 0..40 {
        let seen = get(&seawall, &upstream);
        assert_eq!((seen.status, &*seen.text()), (200, WELL));
        if cell(&seawall, "seawall_endpoint_ejections_total", nobody.address(), "") > 0 {
            break;
        }
    }
    assert_eq!(failed_connects(&seawall, nobody.address()), 3);
    assert_eq!(cell(&seawall, "seawall_endpoint_up", nobody.address(), ""), 0);
    assert_eq!(cell(&seawall, "seawall_endpoint_up", upstream.address(), ""), 1);
    seawall.until("it is tried again, once", |seawall| {
        assert_eq!(get(seawall, &upstream).status, 200);
        (failed_connects(seawall, nobody.address()) == 4).then_some(())
    });
    let ejections = cell(&seawall, "seawall_endpoint_ejections_total", nobody.address(), "");
    assert_eq!(ejections, 2, "one failure is enough the second time");
    let failures = seawall.cells("seawall_failures_total");
    assert!(failures.iter().all(|cell| cell.contains("outcome=\"recovered\"")), "{failures:?}");
}

#[test]
fn a_single_endpoint_is_tried_however_often_it_fails() {
    let nobody = Nobody::new();
    let upstream = Upstream::healthy();
    let seawall = Seawall::at(
        &urls(&[nobody.address()]),
        "ejection: { consecutive_failures: 1 }, retry: { attempts: 1 }, timeouts: { refusal: 0s }",
    );
    for round in 1..10 {
        let seen = get(&seawall, &upstream);
        assert_eq!(seen.field("proxy-status"), Some("seawall;error=connection_refused"));
        assert_eq!(failed_connects(&seawall, nobody.address()), round);
    }
}

#[test]
fn when_all_are_ejected_all_are_tried_and_the_first_that_is_well_serves() {
    // Each of the three breaks its first two connections; from then on it is well.
    let breaks = || Upstream::playing([Script::read_head().reset(), Script::read_head().reset()]);
    let upstreams = [breaks(), breaks(), breaks()];
    let addresses = upstreams.each_ref().map(Upstream::address);
    let settings = "ejection: { consecutive_failures: 1, base: 300s, max_percent: 34 }, \
                    retry: { attempts: 1 }, slow_start: 0s";
    let seawall = Seawall::at(&urls(&addresses), settings);
    let statuses: Vec<_> = (0..6).map(|_| get(&seawall, &upstreams[0]).status).collect();
    let failed = statuses.iter().filter(|status| **status == 500).count();
    assert!(failed >= 3, "{statuses:?}");
    seawall.until("all are in again", |seawall| {
        get(seawall, &upstreams[0]);
        let up = |address: &&SocketAddr| cell(seawall, "seawall_endpoint_up", **address, "") == 1;
        let up = addresses.iter().filter(up).count();
        // A third may stay out.
        (up >= 2).then_some(())
    });
    let served = (0..10).filter(|_| get(&seawall, &upstreams[0]).status == 200).count();
    assert!(served >= 9, "{served}");
}

#[test]
fn an_apps_own_errors_eject_only_where_that_is_configured() {
    for (count, expected) in [("false", 0), ("true", 1)] {
        let fails = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nnope";
        let scripts = (0..20).map(|_| Script::read_head().write(fails).fin());
        let (sick, well) = (Upstream::playing(scripts), Upstream::healthy());
        let settings = format!(
            "ejection: {{ consecutive_failures: 3, count_app_errors: {count} }}, \
             retry: {{ attempts: 1 }}"
        );
        let seawall = Seawall::at(&urls(&[sick.address(), well.address()]), &settings);
        for _ in 0..12 {
            get(&seawall, &well);
        }
        let ejections = cell(&seawall, "seawall_endpoint_ejections_total", sick.address(), "");
        assert_eq!(ejections, expected, "count_app_errors: {count}");
    }
}

#[test]
fn requests_with_the_same_key_go_to_the_same_endpoint_and_move_only_if_it_is_out() {
    let mut upstreams: Vec<_> = (0..4).map(|_| Upstream::healthy()).collect();
    let addresses: Vec<_> = upstreams.iter().map(Upstream::address).collect();
    let settings = format!(
        "balance: hash, hash: {{ cookie: tenant }}, {AGAIN}, limits: {{ idle_connections: 0 }}, \
         ejection: {{ consecutive_failures: 1, base: 300s }}"
    );
    let seawall = Seawall::at(&urls(&addresses), &settings);
    let homes = |upstreams: &[Upstream]| -> Vec<SocketAddr> {
        let home = |tenant: u32| {
            let count = |upstream: &Upstream| upstream.requests().len();
            let before: Vec<_> = upstreams.iter().map(count).collect();
            let cookie = format!("a=b; tenant={tenant}; c=d").leak();
            let mut client = Client::connect(Version::Http1, seawall.address());
            let request = Request::get().field("cookie", cookie);
            assert_eq!(client.exchange(&request, upstreams[0].gate()).status, 200);
            let mut after = upstreams.iter().zip(before);
            after.find(|(upstream, before)| count(upstream) > *before).unwrap().0.address()
        };
        (0..40).map(home).collect()
    };
    let before = homes(&upstreams);
    assert!(addresses.iter().all(|address| before.contains(address)), "{before:?}");
    assert_eq!(homes(&upstreams), before);
    let gone = upstreams.pop().unwrap().address();
    let after = homes(&upstreams);
    for (before, after) in before.iter().zip(&after) {
        assert!(before == after || *before == gone, "{before} moved to {after}");
    }
    // Refused, or reset if it was just about to go: one of them, and nothing more is sent there.
    assert_eq!(cell(&seawall, "seawall_endpoint_ejections_total", gone, ""), 1);
    let moved: std::collections::BTreeSet<_> =
        before.iter().zip(&after).filter(|(old, _)| **old == gone).map(|(_, new)| new).collect();
    assert!(moved.len() > 1, "its keys are spread over all others");
}

#[test]
fn the_endpoint_that_is_slow_gets_what_it_can_do_and_no_more() {
    let slow = Upstream::playing((0..8).map(|_| {
        Script::read_head()
            .until_client_saw_head()
            .write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow")
            .fin()
    }));
    let fast = Upstream::healthy();
    let settings = "balance: least_request";
    let seawall = Seawall::at(&urls(&[slow.address(), fast.address()]), settings);
    let mut waiting = Vec::new();
    // One request stands still at the slow one; then the fast one always has less in flight.
    while slow.requests().is_empty() {
        let mut client = crate::support::client::Http1::connect(seawall.address());
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        seawall.until("it has arrived somewhere", |_| {
            (slow.requests().len() + fast.requests().len() > waiting.len()).then_some(())
        });
        waiting.push(client);
        assert!(waiting.len() < 100, "never drawn");
    }
    for _ in 0..50 {
        let seen = get(&seawall, &fast);
        assert_eq!((seen.status, seen.end), (200, End::Complete));
    }
    assert_eq!(slow.requests().len(), 1);
    slow.gate().open();
}

#[test]
fn an_open_websocket_counts_as_load() {
    let busy = Upstream::playing([websocket::open().hang()]);
    // Whoever tries it first is sent on to the other one.
    let other = Upstream::playing([Script::default().reset()]);
    let settings = format!("balance: least_request, {AGAIN}");
    let seawall = Seawall::at(&urls(&[busy.address(), other.address()]), &settings);
    let (_session, seen) = websocket::connect(seawall.address(), "");
    assert_eq!(seen.status, 101);
    for _ in 0..20 {
        assert_eq!(get(&seawall, &other).status, 200);
    }
    let (busy, other) = (busy.requests().len(), other.requests().len());
    assert!(busy <= 2 && other >= 19, "{busy} and {other}");
}

#[test]
fn weights_divide_the_requests() {
    let (light, heavy) = (Upstream::healthy(), Upstream::healthy());
    let endpoints =
        format!("'http://{}', {{ url: 'http://{}', weight: 3 }}", light.address(), heavy.address());
    let seawall = Seawall::at(&endpoints, "");
    for _ in 0..40 {
        get(&seawall, &light);
    }
    assert_eq!((light.requests().len(), heavy.requests().len()), (10, 30));
}

/// Short checks, so that the tests are short.
const CHECKS: &str = "interval: 50ms, timeout: 60s, healthy: 2, unhealthy: 2";

fn is_up(seawall: &Seawall, endpoint: SocketAddr) -> bool {
    cell(seawall, "seawall_endpoint_up", endpoint, "") == 1
}

#[test]
fn a_health_check_takes_an_endpoint_out_and_brings_it_back() {
    let sick = |answer: &'static str| Script::read_head().write(answer).fin();
    let unavailable = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
    let other = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother";
    // Unwell in every way a check can find, and then well.
    // The third check waits until we have looked.
    let held = Script::read_head().until_client_saw_head().write("garbage\r\n").fin();
    let scripts = [sick(unavailable), sick(other), held, Script::default().reset()];
    let (first, second) = (Upstream::playing(scripts), Upstream::healthy());
    let settings = format!("health: {{ path: /healthz, body: '^all', {CHECKS} }}, slow_start: 0s");
    let seawall = Seawall::at(&urls(&[first.address(), second.address()]), &settings);
    seawall.until("it is out", |seawall| (!is_up(seawall, first.address())).then_some(()));
    for _ in 0..10 {
        assert_eq!(get(&seawall, &second).status, 200);
    }
    let check = |head: &&String| head.starts_with("GET /healthz HTTP/1.1\r\n");
    let ours = |upstream: &Upstream| upstream.requests().iter().filter(|head| !check(head)).count();
    assert!(first.requests().iter().any(|head| check(&head)));
    assert_eq!((ours(&first), ours(&second)), (0, 10));
    first.gate().open();
    seawall.until("it is in again", |seawall| is_up(seawall, first.address()).then_some(()));
    for _ in 0..10 {
        assert_eq!(get(&seawall, &second).status, 200);
    }
    assert_eq!((ours(&first), ours(&second)), (5, 15));
    let failed =
        cell(&seawall, "seawall_health_checks_total", first.address(), "result=\"failed\"");
    assert_eq!(failed, 4);
    assert!(seawall.cells("seawall_failures_total").is_empty(), "a check is nobody's request");
}

#[test]
fn when_all_fail_their_checks_requests_are_answered_at_once_until_one_passes() {
    let (one, two) = (Nobody::new(), Nobody::new());
    let settings = format!("health: {{ tcp: true, {CHECKS} }}, slow_start: 0s");
    let seawall = Seawall::at(&urls(&[one.address(), two.address()]), &settings);
    let upstream = Upstream::healthy();
    seawall.until("both are out", |seawall| {
        (!is_up(seawall, one.address()) && !is_up(seawall, two.address())).then_some(())
    });
    let connects = seawall.cells("seawall_connects_total");
    let mut client = Client::connect(Version::Http1, seawall.address());
    let mut fastest = std::time::Duration::MAX;
    for _ in 0..20 {
        let asked = tokio::time::Instant::now();
        let seen = client.exchange(&Request::get(), upstream.gate());
        fastest = fastest.min(asked.elapsed());
        assert_eq!((seen.status, seen.end), (500, End::Complete));
        assert_eq!(seen.field("proxy-status"), Some("seawall;error=destination_unavailable"));
        let wait: u64 = seen.field("retry-after").unwrap().parse().unwrap();
        assert!((1..60).contains(&wait), "{wait}");
    }
    // Less than any wait that there is.
    assert!(fastest < std::time::Duration::from_millis(500), "{fastest:?}");
    assert_eq!(seawall.cells("seawall_connects_total"), connects, "nobody was asked");
    one.arise();
    seawall.until("it is in again", |seawall| is_up(seawall, one.address()).then_some(()));
}

#[test]
fn endpoints_get_nothing_before_their_first_check_where_it_says_so() {
    let upstream = Upstream::healthy();
    let settings = format!("health: {{ path: /, initial: unhealthy, {CHECKS} }}, slow_start: 0s");
    let seawall = Seawall::at(&urls(&[upstream.address()]), &settings);
    seawall.until("one check is enough then", |seawall| {
        is_up(seawall, upstream.address()).then_some(())
    });
    assert_eq!(get(&seawall, &upstream).status, 200);
    let checks = cell(&seawall, "seawall_health_checks_total", upstream.address(), "\"ok\"");
    assert!(checks >= 1);
}

#[test]
fn an_http2_upstream_is_checked_over_http2() {
    let upstream = Upstream::healthy();
    let settings =
        format!("protocol: http2, health: {{ path: /, initial: unhealthy, body: well, {CHECKS} }}");
    let seawall = Seawall::at(&urls(&[upstream.address()]), &settings);
    seawall.until("it passes", |seawall| is_up(seawall, upstream.address()).then_some(()));
    assert!(upstream.requests()[0].starts_with("HTTP/2 "), "{:?}", upstream.requests());
}

/// A connection to seawall with a GET on it whose answer is not read yet.
fn asking(seawall: &Seawall, path: &str) -> crate::support::client::Http1 {
    let mut client = crate::support::client::Http1::connect(seawall.address());
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    client
}

#[test]
fn who_finds_no_connection_waits_for_one_to_come_back_and_one_too_many_is_refused() {
    let ok = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{WELL}", WELL.len());
    let script = || {
        Script::read_head()
            .until_client_saw_head()
            .write(&ok)
            .then(crate::support::script::Step::BeWell)
    };
    // Kept open, the connection serves those who wait; closed, another one is opened for them.
    for settings in ["", ", idle_connections: 0"] {
        let upstream = Upstream::playing([script()]);
        let limits =
            format!("limits: {{ connections: 1, pending: 2, pending_time: 300s{settings} }}");
        let seawall = Seawall::before_with(&upstream, &limits);
        let clients =
            ["/1", "/2", "/3"].map(|path| seawall.with_one_more(|| asking(&seawall, path)));
        seawall.until("two wait", |now| (now.pending() == 2).then_some(()));
        let mut refused = Client::connect(Version::Http1, seawall.address());
        let seen = refused.exchange(&Request::get(), &Default::default());
        assert_eq!((seen.status, seen.end), (500, End::Complete));
        assert_eq!(seen.field("proxy-status"), Some("seawall;error=connection_limit_reached"));
        upstream.gate().open();
        for mut client in clients {
            let seen = client.read(false, upstream.gate());
            assert_eq!((seen.status, seen.text()), (200, WELL.to_owned()));
        }
        let paths: Vec<_> = upstream.requests().iter().map(|head| head[4..6].to_owned()).collect();
        assert_eq!(paths, ["/1", "/2", "/3"], "first come, first served");
    }
}

#[test]
fn an_idle_connection_to_one_endpoint_makes_room_for_another() {
    let upstreams = [Upstream::healthy(), Upstream::healthy()];
    let addresses = upstreams.each_ref().map(Upstream::address);
    let seawall = Seawall::at(&urls(&addresses), "limits: { connections: 1, pending: 0 }");
    for _ in 0..6 {
        assert_eq!(get(&seawall, &upstreams[0]).status, 200);
    }
    assert_eq!(upstreams.each_ref().map(|upstream| upstream.requests().len()), [3, 3]);
}

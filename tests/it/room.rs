//! P7: an upstream and each of its endpoints get no more than they can take, and who finds no room
//! goes elsewhere, waits for a moment, or is told at once.

use crate::support::client::{Client, End, Http1, Request, Version};
use crate::support::script::{Nobody, Script, Upstream, WELL};
use crate::support::seawall::Seawall;
use crate::support::websocket::{self, open};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const FULL: Option<&str> = Some("seawall;error=connection_limit_reached");

/// An upstream whose first request is answered when its gate is opened; the others at once.
fn held() -> Upstream {
    Upstream::playing([Script::read_head().until_client_saw_head().write(ANSWER)])
}

fn urls(upstreams: &[&Upstream]) -> String {
    let url = |upstream: &&Upstream| format!("'http://{}'", upstream.address());
    upstreams.iter().map(url).collect::<Vec<_>>().join(", ")
}

/// A client whose request is under way.
fn occupy(seawall: &Seawall, upstream: &Upstream) -> Http1 {
    let mut client = Http1::connect(seawall.address());
    client.send(GET);
    upstream.until_asked(1);
    client
}

/// What one more client gets.
fn text(version: Version, seawall: &Seawall, upstream: &Upstream) -> String {
    let mut client = Client::connect(version, seawall.address());
    client.exchange(&Request::get(), upstream.gate()).text()
}

fn pending(seawall: &Seawall, count: u64) {
    seawall.until("the queue is as long", |now| (now.pending() == count).then_some(()));
}

#[test]
fn one_request_too_many_waits_and_is_served_when_there_is_room() {
    for version in [Version::Http1, Version::Http2] {
        let app = held();
        let seawall = Seawall::before_with(&app, "limits: { requests: 1, pending_time: 300s }");
        let mut first = occupy(&seawall, &app);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| text(version, &seawall, &app));
            pending(&seawall, 1);
            assert_eq!(app.requests().len(), 1, "the app knows nothing of it yet");
            app.gate().open();
            assert_eq!(first.read(false, app.gate()).text(), "ok");
            assert_eq!(second.join().unwrap(), WELL);
        });
        pending(&seawall, 0);
        assert!(seawall.cells("seawall_failures_total").is_empty());
    }
}

#[test]
fn without_a_queue_one_request_too_many_is_told_at_once() {
    let app = held();
    let seawall = Seawall::before_with(&app, "limits: { requests: 1, pending: 0 }");
    let mut first = occupy(&seawall, &app);
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(&Request::get(), app.gate());
    assert_eq!((seen.status, seen.end, seen.field("proxy-status")), (500, End::Complete, FULL));
    assert!(seawall.cells("seawall_failures_total")[0].contains("outcome=\"normalized\""));
    app.gate().open();
    assert_eq!(first.read(false, app.gate()).text(), "ok");
    let seen = client.exchange(&Request::get(), app.gate());
    assert_eq!((seen.status, seen.text()), (200, WELL.to_owned()));
}

#[test]
fn whoever_waits_for_too_long_is_told() {
    let app = held();
    let settings = "limits: { requests: 1, pending_time: 50ms }, retry: { attempts: 1 }";
    let seawall = Seawall::before_with(&app, settings);
    let _first = occupy(&seawall, &app);
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(&Request::get(), app.gate());
    assert_eq!((seen.status, seen.field("proxy-status")), (500, FULL));
    pending(&seawall, 0);
}

#[test]
fn a_full_endpoint_is_passed_over() {
    for limits in ["endpoint_requests: 1", "endpoint_connections: 1"] {
        let (busy, free) = (held(), Upstream::healthy());
        let settings = format!("limits: {{ {limits}, pending: 0 }}");
        let seawall = Seawall::at(&urls(&[&busy, &free]), &settings);
        let mut first = occupy(&seawall, &busy);
        let mut client = Client::connect(Version::Http1, seawall.address());
        for _ in 0..10 {
            let seen = client.exchange(&Request::get(), free.gate());
            assert_eq!((seen.status, seen.text()), (200, WELL.to_owned()), "{limits}");
        }
        assert_eq!(busy.requests().len(), 1, "{limits}");
        busy.gate().open();
        assert_eq!(first.read(false, busy.gate()).text(), "ok", "{limits}");
        // What became free is used again.
        for _ in 0..10 {
            assert_eq!(client.exchange(&Request::get(), free.gate()).status, 200, "{limits}");
        }
        assert!(busy.requests().len() > 1, "{limits}");
        assert!(seawall.cells("seawall_failures_total").is_empty(), "{limits}");
    }
}

#[test]
fn whoever_waits_for_one_endpoint_keeps_nobody_from_another_one() {
    let apps = [held(), held()];
    let settings =
        "limits: { endpoint_connections: 1, pending_time: 300s }, retry: { attempts: 1 }";
    let seawall = Seawall::at(&urls(&[&apps[0], &apps[1]]), settings);
    let mut first = apps.each_ref().map(|app| occupy(&seawall, app));
    std::thread::scope(|scope| {
        // In turn: one waits for each.
        let others = apps.each_ref().map(|app| {
            let other = scope.spawn(|| text(Version::Http1, &seawall, app));
            pending(&seawall, if std::ptr::eq(app, &apps[0]) { 1 } else { 2 });
            other
        });
        for (at, left) in [(1, 1), (0, 0)] {
            apps[at].gate().open();
            assert_eq!(first[at].read(false, apps[at].gate()).text(), "ok");
            pending(&seawall, left);
        }
        assert!(others.into_iter().all(|other| other.join().unwrap() == WELL));
    });
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

#[test]
fn a_websocket_has_left_the_limit_of_requests() {
    let app = Upstream::playing([open().hang()]);
    let settings = "limits: { requests: 1, endpoint_requests: 1, pending: 0 }";
    let seawall = Seawall::before_with(&app, settings);
    let (_session, _) = websocket::connect(seawall.address(), "");
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(&Request::get(), app.gate());
    assert_eq!((seen.status, seen.text()), (200, WELL.to_owned()));
}

#[test]
fn a_request_whose_endpoint_is_dead_waits_for_room_at_the_next_one() {
    let (nobody, app) = (Nobody::new(), held());
    let endpoints = format!("'http://{}', {}", nobody.address(), urls(&[&app]));
    let settings = "limits: { endpoint_requests: 1, pending_time: 300s }, \
                    ejection: { consecutive_failures: 0 }, retry: { attempts: 2 }";
    let seawall = Seawall::at(&endpoints, settings);
    let mut first = occupy(&seawall, &app);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| text(Version::Http1, &seawall, &app));
        pending(&seawall, 1);
        app.gate().open();
        assert_eq!(first.read(false, app.gate()).text(), "ok");
        assert_eq!(second.join().unwrap(), WELL);
    });
    let failures = seawall.cells("seawall_failures_total");
    assert!(failures.iter().all(|cell| cell.contains("outcome=\"recovered\"")), "{failures:?}");
}

#[test]
fn idle_connections_of_one_worker_keep_nobody_waiting_on_another() {
    for limits in ["connections: 1", "endpoint_connections: 1"] {
        let (app, other) = (Upstream::healthy(), Upstream::healthy());
        let seawall = Seawall::configured(&format!(
            "workers: 2\n\
             listeners: [{{ address: '127.0.0.1:0' }}]\n\
             upstreams: {{ app: {{ endpoints: [{}],\n\
             \x20 limits: {{ {limits}, pending_time: 20s }} }} }}\n\
             routes: [{{ upstream: app }}]\n",
            urls(&[&app, &other])
        ));
        // The kernel gives each client to one of the workers: some of them to the other one.
        for number in 0..40 {
            let mut client = Http1::connect(seawall.address());
            client.send(GET);
            let seen = client.read(false, app.gate());
            assert_eq!((seen.status, seen.end), (200, End::Complete), "{limits}, {number}");
        }
        assert!(seawall.cells("seawall_failures_total").is_empty(), "{limits}");
    }
}

//! P8: nothing is done twice, and what can safely be sent again is.

use seawall::failure::{Kind, Outcome, Phase};

use crate::support::client::{Client, End, Request, Version};
use crate::support::script::{Nobody, Script, Step, Upstream, WELL};
use crate::support::seawall::{Seawall, Told};

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell";
const LAST_ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nwell";

#[test]
fn idle_connections_that_the_upstream_closes_cost_no_get() {
    // Each connection answers one request, promises to stay, and goes.
    let scripts = (0..200).map(|_| Script::read_head().write(ANSWER).fin());
    let upstream = Upstream::playing(scripts);
    let seawall = Seawall::before(&upstream);
    let mut client = Client::connect(Version::Http1, seawall.address());
    for number in 0..200 {
        let seen = client.exchange(&Request::get(), upstream.gate());
        assert_eq!((seen.status, seen.end), (200, End::Complete), "request {number}: {seen:?}");
    }
    assert!(seawall.cells("seawall_failures_total").is_empty());
    assert_eq!(upstream.requests().len(), 200, "each was answered once");
}

/// A connection that answers one request and dies while it reads the next.
fn dies_at_the_second() -> Upstream {
    Upstream::playing([Script::read_head().write(ANSWER).then(Step::ReadHead).reset()])
}

#[test]
fn a_get_is_sent_again_when_its_idle_connection_dies() {
    let upstream = dies_at_the_second();
    let seawall = Seawall::before(&upstream);
    let mut client = Client::connect(Version::Http1, seawall.address());
    client.exchange(&Request::get(), upstream.gate());
    let seen = client.exchange(&Request::get(), upstream.gate());
    assert_eq!((seen.status, &*seen.text()), (200, WELL));
    assert_eq!(upstream.requests().len(), 3);
    let retries = seawall.cells("seawall_retries_total");
    assert_eq!(retries.len(), 1, "{retries:?}");
}

#[test]
fn a_post_that_may_have_been_read_is_never_sent_again() {
    let upstream = dies_at_the_second();
    let seawall = Seawall::before(&upstream);
    let mut client = Client::connect(Version::Http1, seawall.address());
    client.exchange(&Request::get(), upstream.gate());
    let seen = client.exchange(&Request::post(10), upstream.gate());
    assert_eq!((seen.status, seen.end), (500, End::Complete));
    assert_eq!(seen.field("proxy-status"), Some("seawall;error=connection_terminated"));
    let posts = upstream.requests().iter().filter(|head| head.starts_with("POST")).count();
    assert_eq!(posts, 1);
}

/// Two attempts, as it is by default.
const AGAIN: &str = "retry: { attempts: 2 }";

/// A response that is cut short before anything of it has reached the client.
fn half() -> Script {
    Script::read_head().write("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf").fin()
}

fn failures(seawall: &Seawall) -> Vec<String> {
    seawall.cells("seawall_failures_total")
}

fn retries(seawall: &Seawall, result: &str) -> bool {
    let wanted = format!("{{result=\"{result}\",upstream=\"app\"}} 1");
    seawall.cells("seawall_retries_total") == [wanted]
}

#[test]
fn a_get_whose_held_response_is_cut_short_is_sent_again_and_its_failure_is_recovered() {
    for version in [Version::Http1, Version::Http2] {
        let upstream = Upstream::playing([half()]);
        let seawall = Seawall::before_with(&upstream, AGAIN);
        let mut client = Client::connect(version, seawall.address());
        let seen = client.exchange(&Request::get(), upstream.gate());
        assert_eq!((seen.status, &*seen.text()), (200, WELL));
        assert_eq!(upstream.requests().len(), 2);
        assert!(retries(&seawall, "recovered"));
        let (kind, phase) = (Kind::HttpResponseIncomplete, Phase::Body);
        let told = Told { kind, phase, outcome: Outcome::Recovered, protocol: "http" };
        seawall.told_once("operators can find it", seen.field("x-request-id").unwrap(), &told);
    }
}

#[test]
fn a_second_failure_is_one_answer_and_counts_once() {
    let upstream = Upstream::playing([half(), half()]);
    let seawall = Seawall::before_with(&upstream, AGAIN);
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(&Request::get(), upstream.gate());
    assert_eq!((seen.status, seen.end), (500, End::Complete));
    assert_eq!(upstream.requests().len(), 2);
    assert_eq!(failures(&seawall).len(), 1);
    assert!(retries(&seawall, "failed"));
}

#[test]
fn a_post_whose_response_is_cut_short_is_never_sent_again() {
    let upstream = Upstream::playing([Script::read_head()
        .then(Step::ReadContent(10))
        .write("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf")
        .fin()]);
    let seawall = Seawall::before_with(&upstream, AGAIN);
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(&Request::post(10), upstream.gate());
    assert_eq!((seen.status, seen.end), (500, End::Complete));
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn an_idempotency_key_makes_a_post_repeatable_only_where_it_is_configured() {
    let keyed = || Request::post(10).field("idempotency-key", "\"8e03978e\"");
    for (settings, status, times) in
        [(AGAIN, 500, 1), ("retry: { attempts: 2, idempotency_key: true }", 200, 2)]
    {
        let upstream = Upstream::playing([Script::read_head().then(Step::ReadContent(10)).fin()]);
        let seawall = Seawall::before_with(&upstream, settings);
        let mut client = Client::connect(Version::Http1, seawall.address());
        let seen = client.exchange(&keyed(), upstream.gate());
        assert_eq!(seen.status, status, "{settings}");
        assert_eq!(upstream.requests().len(), times, "{settings}");
    }
}

#[test]
fn content_is_sent_again_whole_up_to_the_limit_and_not_at_all_beyond_it() {
    for (size, status, times) in [(0, 200, 2), (1, 200, 2), (65_536, 200, 2), (65_537, 500, 1)] {
        let upstream =
            Upstream::playing([Script::read_head().then(Step::ReadContent(size)).reset()]);
        let seawall = Seawall::before_with(&upstream, AGAIN);
        let mut client = Client::connect(Version::Http1, seawall.address());
        // The second connection is well: it answers when it has read all of the content.
        let put = Request { method: "PUT", ..Request::post(size) };
        let seen = client.exchange(&put, upstream.gate());
        assert_eq!((seen.status, seen.end), (status, End::Complete), "{size} bytes");
        assert_eq!(upstream.requests().len(), times, "{size} bytes");
    }
}

#[test]
fn what_has_reached_the_client_is_not_sent_again() {
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n{}", "x".repeat(70_000));
    let upstream =
        Upstream::playing([Script::read_head().write(long).until_client_saw_head().fin()]);
    let seawall = Seawall::before_with(&upstream, AGAIN);
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(&Request::get(), upstream.gate());
    assert_eq!(seen.status, 200);
    assert_ne!(seen.end, End::Complete);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn an_answer_that_would_be_the_same_again_is_not_asked_for_again() {
    let upstream = Upstream::playing([Script::read_head().write("garbage\r\n").fin()]);
    let seawall = Seawall::before_with(&upstream, AGAIN);
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(&Request::get(), upstream.gate());
    assert_eq!(seen.status, 500);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn retries_stop_when_their_budget_is_spent() {
    // The reserve of ten, and nothing more while all of them fail.
    let failing = (0..30 + 10).map(|_| half());
    let well = || Script::read_head().write(LAST_ANSWER).fin();
    let upstream =
        Upstream::playing(failing.chain((0..10).map(|_| well())).chain([half(), well()]));
    let seawall = Seawall::before_with(&upstream, "retry: { attempts: 2, budget_percent: 10 }");
    let mut client = Client::connect(Version::Http1, seawall.address());
    let mut statuses = |count: usize| -> Vec<u16> {
        (0..count).map(|_| client.exchange(&Request::get(), upstream.gate()).status).collect()
    };
    assert_eq!(statuses(30), [500; 30]);
    assert_eq!(upstream.requests().len(), 30 + 10);
    let cells = seawall.cells("seawall_retries_total");
    let over = cells.iter().find(|cell| cell.contains("over_budget")).cloned();
    assert_eq!(over.unwrap(), "{result=\"over_budget\",upstream=\"app\"} 20");
    // Ten requests, each of which puts a tenth in but for the first, pay for the eleventh's.
    assert_eq!(statuses(11), [200; 11]);
    assert_eq!(upstream.requests().len(), 40 + 10 + 2);
}

#[test]
fn a_post_to_an_endpoint_that_refuses_is_served_by_the_next_one() {
    let upstream = Upstream::healthy();
    let nobody = Nobody::new();
    let endpoints = format!("'http://{}', 'http://{}'", nobody.address(), upstream.address());
    let seawall = Seawall::at(&endpoints, AGAIN);
    let mut client = Client::connect(Version::Http1, seawall.address());
    // More than the budget would pay for: an endpoint that is not there costs nobody anything.
    for _ in 0..100 {
        let seen = client.exchange(&Request::post(100), upstream.gate());
        assert_eq!((seen.status, &*seen.text()), (200, WELL));
    }
    assert_eq!(upstream.requests().len(), 100, "each once");
    let cells = seawall.cells("seawall_failures_total");
    assert!(cells.iter().all(|cell| cell.contains("outcome=\"recovered\"")), "{cells:?}");
    assert!(!cells.is_empty(), "round robin has met the one that is down");
}

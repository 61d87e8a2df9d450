//! P8: nothing is done twice, and what can safely be sent again is.

use crate::support::client::{Client, End, Request, Version};
use crate::support::script::{Script, Step, Upstream, WELL};
use crate::support::seawall::Seawall;

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell";

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

#[test]
fn a_get_whose_fresh_connection_dies_after_its_answer_began_is_not_sent_again() {
    let script =
        Script::read_head().write("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf").fin();
    let upstream = Upstream::playing([script]);
    let seawall = Seawall::before(&upstream);
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(&Request::get(), upstream.gate());
    assert_eq!(seen.status, 500);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_post_to_an_endpoint_that_refuses_is_served_by_the_next_one() {
    let upstream = Upstream::healthy();
    let down = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
    down.bind(&any.into()).unwrap();
    let refuses = down.local_addr().unwrap().as_socket().unwrap();
    let endpoints = format!("'http://{refuses}', 'http://{}'", upstream.address());
    let seawall = Seawall::at(&endpoints, "");
    let mut client = Client::connect(Version::Http1, seawall.address());
    for _ in 0..4 {
        let seen = client.exchange(&Request::post(100), upstream.gate());
        assert_eq!((seen.status, &*seen.text()), (200, WELL));
    }
    assert_eq!(upstream.requests().len(), 4, "each once");
    let cells = seawall.cells("seawall_failures_total");
    assert!(cells.iter().all(|cell| cell.contains("outcome=\"recovered\"")), "{cells:?}");
    assert!(!cells.is_empty(), "round robin has met the one that is down");
}

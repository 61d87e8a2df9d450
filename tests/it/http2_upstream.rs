//! HTTP/2 towards upstreams: one connection for many, P6 as over HTTP/1.1, P7 and P8 where streams
//! share a connection.

use std::thread;

use crate::support::client::{Client, End, Http1, Request, Version};
use crate::support::http2::{
    CANCEL, END_STREAM, NO_ERROR, REFUSED_STREAM, data, goaway, head, head_of, last_data, reset,
    settings, trailers,
};
use crate::support::script::{Script, Step, Upstream, WELL};
use crate::support::seawall::Seawall;
use crate::support::websocket;

const HTTP2: &str = "protocol: http2";
const AGAIN: &str = "protocol: http2, retry: { attempts: 2 }";

fn connects(seawall: &Seawall) -> Vec<String> {
    seawall.cells("seawall_connects_total")
}

#[test]
fn many_requests_share_one_connection() {
    let upstream = Upstream::healthy();
    let seawall = Seawall::before_with(&upstream, HTTP2);
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let (address, gate) = (seawall.address(), upstream.gate().clone());
            thread::spawn(move || {
                let mut client = Client::connect(Version::Http1, address);
                for _ in 0..20 {
                    let seen = client.exchange(&Request::get(), &gate);
                    assert_eq!((seen.status, &*seen.text(), seen.end), (200, WELL, End::Complete));
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(upstream.requests().len(), 400);
    let connects = connects(&seawall);
    assert!(connects.len() == 1 && connects[0].ends_with(" 1"), "{connects:?}");
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

#[test]
fn content_trailers_and_interim_responses_pass_in_both_versions() {
    for version in [Version::Http1, Version::Http2] {
        let upstream = Upstream::playing([Script::http2_request().then_well_http2(
            [
                head(103, &[("link", "</a.css>")]),
                head(200, &[("content-type", "text/plain"), ("trailer", "x-sum")]),
                data("one "),
                data("two"),
                trailers(&[("x-sum", "7")]),
            ]
            .concat(),
        )]);
        let seawall = Seawall::before_with(&upstream, HTTP2);
        let mut client = Client::connect(version, seawall.address());
        let asked = Request::post(100_000).field("te", "trailers");
        let seen = client.exchange(&asked, upstream.gate());
        assert_eq!((seen.status, &*seen.text(), &seen.end), (200, "one two", &End::Complete));
        assert_eq!(seen.trailers, [("x-sum".to_owned(), "7".to_owned())], "{version:?}");
        if version == Version::Http1 {
            assert_eq!(seen.interim, [103]);
        }
        assert_eq!(upstream.requests(), ["HTTP/2 stream 1, 100000 bytes"]);
    }
}

#[test]
fn an_upstream_that_allows_one_stream_gets_one_at_a_time_on_each_connection() {
    // SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113 §6.5.2). The first request tells it; the next two
    // come together.
    let one_at_a_time = || Script::http2(&[(3, 1)]).then(Step::BeWellHttp2);
    let upstream = Upstream::playing([one_at_a_time(), one_at_a_time(), one_at_a_time()]);
    let seawall = Seawall::before_with(&upstream, HTTP2);
    let mut client = Client::connect(Version::Http1, seawall.address());
    for _ in 0..50 {
        let seen = client.exchange(&Request::get(), upstream.gate());
        assert_eq!((seen.status, &*seen.text()), (200, WELL));
    }
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

#[test]
fn a_connection_that_goes_away_between_requests_costs_nothing() {
    // Each connection answers one request, and then goes away.
    let goes = || {
        let answer = [head_of(1, END_STREAM, 204, &[]), goaway(1, NO_ERROR)];
        Script::http2_request().write(answer.concat()).fin()
    };
    let upstream = Upstream::playing((0..50).map(|_| goes()));
    let seawall = Seawall::before_with(&upstream, HTTP2);
    let mut client = Client::connect(Version::Http1, seawall.address());
    for number in 0..50 {
        let seen = client.exchange(&Request::post(10), upstream.gate());
        assert_eq!((seen.status, seen.end), (204, End::Complete), "request {number}");
    }
    assert_eq!(upstream.requests().len(), 50, "each once");
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

/// A POST on a connection that does this with it; gives the status and how often it was read.
fn post_answered_by(script: Script) -> (u16, usize) {
    let upstream = Upstream::playing([script]);
    let seawall = Seawall::before_with(&upstream, AGAIN);
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(&Request::post(1000), upstream.gate());
    assert_eq!(seen.end, End::Complete);
    (seen.status, upstream.requests().len())
}

#[test]
fn a_post_is_sent_again_exactly_when_the_upstream_says_that_it_did_not_process_it() {
    let refused = Script::http2_request().then_well_http2(reset(REFUSED_STREAM));
    assert_eq!(post_answered_by(refused), (200, 2), "REFUSED_STREAM");
    let gone = Script::http2_request().write(goaway(0, NO_ERROR)).fin();
    assert_eq!(post_answered_by(gone), (200, 2), "GOAWAY below this stream");
    let half =
        Script::http2_request().write([goaway(0x7fff_ffff, NO_ERROR), goaway(0, 2)].concat());
    assert_eq!(post_answered_by(half.fin()), (200, 2), "two GOAWAYs");
    let processed = Script::http2_request().write(goaway(1, NO_ERROR)).fin();
    assert_eq!(post_answered_by(processed), (500, 1), "GOAWAY that includes this stream");
    let cancelled = Script::http2_request().then_well_http2(reset(CANCEL));
    assert_eq!(post_answered_by(cancelled), (500, 1), "CANCEL");
    assert_eq!(post_answered_by(Script::http2_request().fin()), (500, 1), "FIN");
}

#[test]
fn a_get_is_sent_again_when_its_stream_is_reset() {
    let upstream = Upstream::playing([Script::http2_request().then_well_http2(reset(CANCEL))]);
    let seawall = Seawall::before_with(&upstream, AGAIN);
    let mut client = Client::connect(Version::Http2, seawall.address());
    let seen = client.exchange(&Request::get(), upstream.gate());
    assert_eq!((seen.status, &*seen.text()), (200, WELL));
    assert!(connects(&seawall)[0].ends_with(" 1"), "on the same connection");
}

#[test]
fn an_upstream_that_answers_early_and_resets_the_upload_is_believed() {
    // RFC 9113 §8.1: a complete response, then RST_STREAM with NO_ERROR.
    let early = [head(413, &[("content-length", "3")]), last_data("no!"), reset(NO_ERROR)];
    let script = Script::http2(&[]).then(Step::Http2Frame).then_well_http2(early.concat());
    let upstream = Upstream::playing([script]);
    let seawall = Seawall::before_with(&upstream, HTTP2);
    let mut client = Client::connect(Version::Http2, seawall.address());
    let seen = client.exchange(&Request::post(1_000_000), upstream.gate());
    assert_eq!((seen.status, &*seen.text()), (413, "no!"));
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

#[test]
fn clients_that_do_not_read_do_not_stop_others_of_the_same_connection() {
    let upstream = Upstream::playing([Script::http2(&[])
        .then(Step::FloodHttp2 { requests: 8 })
        .then(Step::BeWellHttp2)]);
    let settings = "protocol: http2, limits: { streams: 20, window: 64KiB }";
    let seawall = Seawall::before_with(&upstream, settings);
    let deaf: Vec<_> = (0..8)
        .map(|_| {
            let mut client = Http1::connect(seawall.address());
            client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n");
            client
        })
        .collect();
    upstream.gate().wait();
    // All eight windows are full, and what left them waits for clients that do not read.
    let mut client = Client::connect(Version::Http1, seawall.address());
    for _ in 0..5 {
        let seen = client.exchange(&Request::get(), upstream.gate());
        assert_eq!((seen.status, &*seen.text()), (200, WELL));
    }
    drop(deaf);
    assert!(connects(&seawall)[0].ends_with(" 1"), "on the same connection");
}

#[test]
fn a_head_request_has_fields_and_no_content() {
    let answer = head_of(1, END_STREAM, 200, &[("content-length", "1234")]);
    let upstream = Upstream::playing([Script::http2_request().then_well_http2(answer)]);
    let seawall = Seawall::before_with(&upstream, HTTP2);
    let mut client = Client::connect(Version::Http1, seawall.address());
    let head = Request { method: "HEAD", ..Request::get() };
    let seen = client.exchange(&head, upstream.gate());
    assert_eq!((seen.status, seen.field("content-length")), (200, Some("1234")));
    let seen = client.exchange(&Request::get(), upstream.gate());
    assert_eq!(&*seen.text(), WELL);
}

#[test]
fn handshakes_that_an_http_2_upstream_cannot_read_shut_it_for_nobody() {
    let wrong = || Script::read_head().write(settings(&[])).fin();
    let upstream = Upstream::playing([wrong(), wrong(), wrong()]);
    let config = "protocol: http2, ejection: { consecutive_failures: 2 }, \
        circuit: { consecutive_failures: 2, min_requests: 100 }";
    let seawall = Seawall::before_with(&upstream, config);
    for _ in 0..3 {
        let mut client = std::net::TcpStream::connect(seawall.address()).unwrap();
        std::io::Write::write_all(
            &mut client,
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade, close\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut client, &mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    }
    let seen = Client::connect(Version::Http1, seawall.address())
        .exchange(&Request::get(), upstream.gate());
    assert_eq!(seen.status, 200, "{seen:?}");
}

#[test]
fn a_websocket_to_an_http_2_upstream_is_an_upgrade_on_a_connection_of_its_own() {
    let upstream = Upstream::playing([websocket::open().fin()]);
    let seawall = Seawall::before_with(&upstream, HTTP2);
    let (mut client, seen) = websocket::connect(seawall.address(), "");
    assert_eq!(seen.status, 101);
    let ended = websocket::read_to_end(&mut client).unwrap();
    assert_eq!(ended.code, 1011);
    assert!(upstream.requests()[0].lines().next().unwrap().ends_with(" HTTP/1.1"));
}

#[test]
fn a_client_that_leaves_resets_its_stream_and_no_other() {
    let begun = [head(200, &[("content-type", "text/event-stream")]), data("data: 1\n\n")];
    let script = Script::http2_request().write(begun.concat()).then(Step::Http2Cancelled);
    let upstream = Upstream::playing([script.then(Step::BeWellHttp2)]);
    let seawall = Seawall::before_with(&upstream, HTTP2);
    let mut leaver = Http1::connect(seawall.address());
    leaver.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n");
    assert_eq!(leaver.read(true, upstream.gate()).status, 200);
    drop(leaver);
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(&Request::get(), upstream.gate());
    assert_eq!((seen.status, &*seen.text()), (200, WELL));
    assert!(connects(&seawall)[0].ends_with(" 1"), "on the same connection");
}

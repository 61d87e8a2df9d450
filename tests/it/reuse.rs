//! A connection to an upstream serves another request only when the one before it has left nothing on
//! it: all that was announced was sent, all that was expected was read, nothing is unread.

use crate::smuggling::{Recorder, stage};
use crate::support::client::{End, Http1};
use crate::support::script::{Gate, Script, Step, Upstream};
use crate::support::seawall::Seawall;

/// The fields of a WebSocket handshake.
const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// What a client would have the app believe to be a request.
const SMUGGLED: &str = "GET /internal/users HTTP/1.1\r\nHost: a\r\n\r\n";

fn paths(recorder: &Recorder) -> Vec<String> {
    let line = |request: &Vec<u8>| {
        let text = String::from_utf8_lossy(request).into_owned();
        text.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    recorder.requests().iter().map(line).collect()
}

#[test]
fn a_handshake_with_content_is_refused_and_desynchronises_nobody() {
    let length = SMUGGLED.len();
    for (framing, content) in [
        (format!("Content-Length: {length}"), String::new()),
        (format!("Content-Length: {length}"), SMUGGLED.to_owned()),
        (format!("Content-Length: {length}"), SMUGGLED[..5].to_owned()),
        ("Transfer-Encoding: chunked".to_owned(), String::new()),
        ("Transfer-Encoding: chunked".to_owned(), "0\r\n\r\n".to_owned()),
        (format!("Expect: 100-continue\r\nContent-Length: {length}"), String::new()),
    ] {
        let (recorder, seawall) = stage();
        let mut first = Http1::connect(seawall.address());
        first.send(format!("GET /ws HTTP/1.1\r\nHost: a\r\n{HANDSHAKE}{framing}\r\n\r\n{content}"));
        let seen = first.read(false, &Gate::default());
        assert_eq!((seen.status, seen.end), (400, End::Complete), "{framing}, {content:?}");
        let mut second = Http1::connect(seawall.address());
        second.send(format!(
            "POST /second HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"
        ));
        let seen = second.read(false, &Gate::default());
        assert_eq!((seen.status, seen.end), (200, End::Complete), "{framing}, {content:?}");
        drop((first, second));
        assert_eq!(paths(&recorder), ["/second"], "{framing}, {content:?}");
        assert_eq!(recorder.broken(), 0, "{framing}, {content:?}");
        assert!(seawall.cells("seawall_failures_total").is_empty(), "{framing}, {content:?}");
    }
}

#[test]
fn an_upgrade_that_is_no_websocket_is_an_ordinary_request_with_all_its_content() {
    let (recorder, seawall) = stage();
    let mut client = Http1::connect(seawall.address());
    for fields in [
        "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket/13\r\n",
    ] {
        client.send(format!(
            "POST /plain HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: 5\r\n\r\nhello"
        ));
        assert_eq!(client.read(false, &Gate::default()).status, 200, "{fields}");
    }
    assert_eq!(paths(&recorder), ["/plain"; 3]);
    assert!(recorder.requests().iter().all(|request| request.ends_with(b"hello")));
}

/// A response of so many bytes in all.
fn response(size: usize) -> String {
    let head = |length: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {length:05}\r\n\r\n");
    let length = size - head(0).len();
    head(length) + &"x".repeat(length)
}

#[test]
fn a_response_that_fills_its_buffer_delays_no_other_one() {
    let sizes = [8_191, 8_192, 8_193, 16_384, 32_768, 40_960];
    for size in sizes {
        let script = Script::read_head().write(response(size)).then(Step::ReadHead);
        // Its head is asked for when the request is there: something is waited for.
        let upstream = Upstream::playing([script.write(response(60)).then(Step::BeWell)]);
        let seawall = Seawall::before_with(&upstream, "timeouts: { head: 5m }");
        let mut client = Http1::connect(seawall.address());
        for answer in [size, 60] {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let seen = client.read(false, upstream.gate());
            assert_eq!((seen.status, seen.end), (200, End::Complete), "{size}");
            assert!(response(answer).ends_with(&seen.text()), "{size}");
        }
        assert_eq!(upstream.requests().len(), 2, "{size}: one connection");
    }
}

#[test]
fn a_204_that_announces_content_is_passed_on_and_its_connection_is_not_used_again() {
    for framing in ["Content-Length: 60", "Transfer-Encoding: chunked"] {
        let broken = format!("HTTP/1.1 204 No Content\r\n{framing}\r\n\r\n");
        let upstream = Upstream::playing([Script::read_head().write(broken).record()]);
        let seawall = Seawall::before(&upstream);
        let mut client = Http1::connect(seawall.address());
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read(false, upstream.gate()).status, 204, "{framing}");
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let seen = client.read(false, upstream.gate());
        assert_eq!((seen.status, seen.text()), (200, "all is well".to_owned()), "{framing}");
        assert!(upstream.record().bytes.is_empty(), "{framing}: nothing more was sent on it");
        assert!(seawall.cells("seawall_failures_total").is_empty(), "{framing}");
    }
}

#[test]
fn an_answer_to_content_that_still_comes_costs_the_next_request_nothing() {
    for (framing, rest) in [
        ("Content-Length: 10", "world"),
        ("Transfer-Encoding: chunked", "\r\n5\r\nworld\r\n0\r\nx-sum: 1\r\n\r\n"),
    ] {
        let answer = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno";
        let upstream = Upstream::playing([Script::read_head().write(answer).hang()]);
        let seawall = Seawall::before(&upstream);
        let mut client = Http1::connect(seawall.address());
        let begun = if framing.starts_with('T') { "5\r\nhello" } else { "hello" };
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{begun}"));
        let seen = client.read(false, upstream.gate());
        assert_eq!((seen.status, seen.field("connection")), (413, None), "{framing}");
        client.send(format!("{rest}GET /next HTTP/1.1\r\nHost: a\r\n\r\n"));
        let seen = client.read(false, upstream.gate());
        assert_eq!((seen.status, seen.end), (200, End::Complete), "{framing}");
        assert!(upstream.requests().iter().any(|head| head.starts_with("GET /next")), "{framing}");
        assert!(seawall.cells("seawall_failures_total").is_empty(), "{framing}");
    }
}

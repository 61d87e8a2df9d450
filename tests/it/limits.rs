//! P7: what is full is said to be full, at once, and counted.

use std::io::Write;

use crate::support::client::{Client, End, Http1, Request, Version};
use crate::support::http2::{self, CONTINUATION, END_STREAM, GOAWAY, HEADERS, Http2};
use crate::support::script::{Gate, Script, Step, Upstream, WELL};
use crate::support::seawall::Seawall;
use crate::support::websocket::{self, close, masked, open, read_to_end};

#[test]
fn a_full_upstream_is_a_failure_of_its_own_kind() {
    let held = Script::read_head().until_client_saw_head();
    let upstream = Upstream::playing([held]);
    let seawall = Seawall::before_with(&upstream, "limits: { connections: 1 }");
    let mut occupant = crate::support::client::Http1::connect(seawall.address());
    occupant.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream.until_asked(1);
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

/// A seawall with these limits towards clients.
fn limited(upstream: &Upstream, clients: &str) -> Seawall {
    Seawall::configured(&format!(
        "clients: {{ {clients} }}\n\
        upstreams: {{ app: {{ endpoints: [http://{}], retry: {{ attempts: 1 }} }} }}\n\
        routes: [{{ upstream: app }}]\n",
        upstream.address()
    ))
}

#[test]
fn a_connection_closes_in_order_after_its_last_request() {
    let upstream = Upstream::healthy();
    let seawall = limited(&upstream, "requests_per_connection: 2");
    let mut client = Http1::connect(seawall.address());
    let first = client.exchange(&Request::get(), upstream.gate());
    assert_eq!((first.status, first.field("connection")), (200, None));
    let last = client.exchange(&Request::get(), upstream.gate());
    assert_eq!((last.status, last.field("connection")), (200, Some("close")));
    assert_eq!(client.rest(), (Vec::new(), End::Fin));

    let mut stream = http2::connect(seawall.address());
    for id in [1, 3] {
        stream.write_all(&http2::request(id, END_STREAM, GET)).unwrap();
    }
    let mut answered = 0;
    let mut told = false;
    while let Some(frame) = Http2.next(&mut stream) {
        answered += usize::from(frame.kind == HEADERS);
        told |= frame.kind == GOAWAY;
    }
    assert_eq!((answered, told), (2, true));
}

#[test]
fn an_idle_connection_is_closed_after_the_head_timeout_whatever_it_was_answered() {
    let upstream = Upstream::healthy();
    let seawall = limited(&upstream, "head_timeout: 2s");
    let down = Seawall::configured(
        "clients: { head_timeout: 2s }\n\
        upstreams: { app: { endpoints: ['http://127.0.0.1:1'], retry: { attempts: 1 } } }\n\
        routes: [{ upstream: app }]\n",
    );
    let closed = |mut client: Http1| assert_eq!(client.rest(), (Vec::new(), End::Fin));
    let begun = |address, status| {
        let mut client = Http1::connect(address);
        let seen = client.exchange(&Request::get(), &Gate::default());
        assert_eq!((seen.status, seen.end), (status, End::Complete));
        client
    };
    // They wait beside each other.
    std::thread::scope(|scope| {
        scope.spawn(|| closed(Http1::connect(seawall.address())));
        scope.spawn(|| closed(begun(seawall.address(), 200)));
        scope.spawn(|| closed(begun(down.address(), 500)));
        scope.spawn(|| {
            let mut slow = begun(seawall.address(), 200);
            // A head that has begun is answered, and bounded all the same.
            slow.send("GET / HT");
            assert_eq!(slow.read(false, &Gate::default()).status, 408);
            closed(slow);
        });
    });
}

#[test]
fn the_head_timeout_begins_with_the_end_of_the_last_response() {
    const SMALL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let crash = Script::read_head().write(SMALL).then(Step::ReadHead).until_client_saw_head().fin();
    let upstream = Upstream::playing([crash, Script::read_head().write(SMALL)]);
    let seawall = limited(&upstream, "head_timeout: 2s");
    let mut client = Http1::connect(seawall.address());
    // The second one waits behind the first, whose end is not the time from which a third is due.
    client.send(
        "GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    );
    assert_eq!(client.read(false, &Gate::default()).text(), "ok");
    assert_eq!(Http1::connect(seawall.address()).rest(), (Vec::new(), End::Fin), "after 2 s");
    upstream.gate().open();
    let second = client.read(false, &Gate::default());
    assert_eq!((second.status, second.end), (500, End::Complete));
    assert_eq!(client.exchange(&Request::get(), &Gate::default()).text(), "ok");
}

#[test]
fn an_http2_connection_without_streams_is_told_to_go_and_one_with_a_stream_is_not() {
    let held = Script::read_head()
        .until_client_saw_head()
        .write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let upstream = Upstream::playing([held]);
    let seawall = limited(&upstream, "head_timeout: 2s");
    let mut busy = http2::connect(seawall.address());
    busy.write_all(&http2::request(1, END_STREAM, GET)).unwrap();
    upstream.until_asked(1);
    // This one has nothing to do, and is gone first although it came later.
    let mut idle = http2::connect(seawall.address());
    let mut told = false;
    while let Some(frame) = Http2.next(&mut idle) {
        told |= frame.kind == GOAWAY;
    }
    assert!(told);
    upstream.gate().open();
    let mut kinds = Vec::new();
    while let Some(frame) = Http2.next(&mut busy) {
        kinds.push(frame.kind);
    }
    let answered = kinds.iter().position(|kind| *kind == HEADERS).unwrap();
    let leaves = kinds.iter().position(|kind| *kind == GOAWAY).unwrap();
    assert!(answered < leaves, "{kinds:?}: it was served, and left when it had been idle");
    let failures = seawall.cells("seawall_client_failures_total");
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn one_address_has_its_share_of_connections() {
    let upstream = Upstream::healthy();
    let seawall = limited(&upstream, "per_address: 2");
    let mut first = Http1::connect(seawall.address());
    assert_eq!(first.exchange(&Request::get(), upstream.gate()).status, 200);
    let mut second = Http1::connect(seawall.address());
    assert_eq!(second.exchange(&Request::get(), upstream.gate()).status, 200);
    let mut third = Http1::connect(seawall.address());
    let seen = third.read(false, &Gate::default());
    assert_eq!((seen.status, seen.end), (503, End::Complete));
    let refused = seawall.cells("seawall_client_connections_refused_total");
    assert_eq!(refused, ["{reason=\"per_address\"} 1"]);
    assert_eq!(first.exchange(&Request::get(), upstream.gate()).status, 200);
    drop((first, second, third));
    seawall.until("there is room again", |seawall| {
        let mut client = Http1::connect(seawall.address());
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        (client.read(false, &Gate::default()).status == 200).then_some(())
    });
}

#[test]
fn one_ipv6_network_has_the_share_of_one_address() {
    let upstream = Upstream::healthy();
    let seawall = Seawall::configured(&format!(
        "upstreams: {{ app: {{ endpoints: ['http://{}'] }} }}\nroutes: [{{ upstream: app }}]\n\
        listeners: [{{ address: '127.0.0.1:0', proxy_protocol: always }}]\n\
        clients: {{ per_address: 2 }}\n",
        upstream.address()
    ));
    let from = |address: &str| {
        let mut client = Http1::connect(seawall.address());
        client.send(format!("PROXY TCP6 {address} 2001:db8:ffff::1 1000 80\r\n"));
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let status = client.read(false, &Gate::default()).status;
        (status, client)
    };
    let of_network: Vec<_> = (1..=3).map(|host| from(&format!("2001:db8:0:1::{host}"))).collect();
    let statuses: Vec<_> = of_network.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 200, 503]);
    assert_eq!(from("2001:db8:0:2::1").0, 200, "the next network");
    let refused = seawall.cells("seawall_client_connections_refused_total");
    assert_eq!(refused, ["{reason=\"per_address\"} 1"]);
}

const GET: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];

/// Sends these frames until the connection is ended, which it has to be; a neighbour is served
/// before and behind.
fn flood(name: &str, upstream: &Upstream, begin: &[u8], again: impl Fn(u32) -> Vec<u8>) {
    let seawall = limited(upstream, "write_timeout: 300ms, head: 8KiB");
    let mut neighbour = Client::connect(Version::Http2, seawall.address());
    assert_eq!(neighbour.exchange(&Request::get(), upstream.gate()).status, 200, "{name}");
    let mut stream = http2::connect(seawall.address());
    // Answers that nobody reads fill a small buffer sooner.
    socket2::SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
    stream.write_all(begin).unwrap();
    let ended = (0..1_000_000).any(|round| stream.write_all(&again(round)).is_err());
    assert!(ended, "{name}: nobody has ended the connection");
    assert_eq!(neighbour.exchange(&Request::get(), upstream.gate()).status, 200, "{name}");
    assert!(seawall.cells("seawall_failures_total").is_empty(), "{name}");
    // Who does not read its answers is not told either, and has only left.
    if !name.ends_with("nobody reads") {
        let counted = seawall.until(name, |seawall| {
            Some(seawall.cells("seawall_client_failures_total")).filter(|cells| !cells.is_empty())
        });
        let flood = "{kind=\"http2_error\"} 1".to_owned();
        assert!(counted.contains(&flood), "{name}: {counted:?}");
    }
}

#[test]
fn floods_over_http_2_end_their_own_connection() {
    let upstream = Upstream::healthy();
    flood("rapid reset", &upstream, b"", |round| {
        let id = round * 2 + 1;
        let reset = http2::frame(http2::RST_STREAM, 0, id, http2::CANCEL.to_be_bytes());
        [http2::request(id, END_STREAM, GET), reset].concat()
    });
    let begin = http2::frame(HEADERS, END_STREAM, 1, http2::field(":method", "GET"));
    let more = http2::field("x", &"x".repeat(1000));
    flood("continuations", &upstream, &begin, |_| http2::frame(CONTINUATION, 0, 1, &more));
    flood("empty continuations", &upstream, &begin, |_| http2::frame(CONTINUATION, 0, 1, b""));
    let pings = http2::frame(http2::PING, 0, 0, [0; 8]).repeat(1000);
    flood("pings whose answers nobody reads", &upstream, b"", |_| pings.clone());
    let settings = http2::settings(&[]).repeat(1000);
    flood("settings whose answers nobody reads", &upstream, b"", |_| settings.clone());
}

#[test]
fn a_list_of_fields_that_grows_when_it_is_unpacked_is_refused() {
    let upstream = Upstream::healthy();
    let seawall = limited(&upstream, "head: 8KiB");
    let mut stream = http2::connect(seawall.address());
    let head: Vec<u8> = GET.iter().flat_map(|(name, value)| http2::field(name, value)).collect();
    // A literal that is indexed (RFC 7541 §6.2.1), then named again by one byte each time.
    let mut bomb = http2::field("x", &"x".repeat(3000));
    bomb[0] = 0x40;
    let block = [head, bomb, vec![0x80 | 62; 5000]].concat();
    let flags = http2::END_HEADERS | END_STREAM;
    stream.write_all(&http2::frame(HEADERS, flags, 1, block)).unwrap();
    let answer = Http2.next(&mut stream);
    let served = answer.as_ref().is_some_and(|frame| {
        frame.kind == HEADERS && frame.payload.starts_with(&http2::status(200))
    });
    assert!(!served, "{answer:?}");
    assert!(upstream.requests().is_empty());
}

#[test]
fn content_that_is_too_large_or_too_slow_is_the_clients_failure() {
    let upstream = Upstream::healthy();
    let seawall = Seawall::configured(&format!(
        "clients: {{ body_timeout: 300ms, body_rate: 1000000000 }}\n\
        upstreams: {{ app: {{ endpoints: [http://{}], retry: {{ attempts: 1 }} }} }}\n\
        routes: [{{ upstream: app, request_body: 1KiB }}]\n",
        upstream.address()
    ));
    let large =
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n{}", "x".repeat(2000));
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n{}\r\n0\r\n\r\n",
        "x".repeat(2000)
    );
    let stalled = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhel".to_owned();
    for (request, status) in [(large, 413), (chunked, 413), (stalled, 408)] {
        let mut client = Http1::connect(seawall.address());
        client.send(request);
        let seen = client.read(false, &Gate::default());
        assert_eq!((seen.status, seen.end), (status, End::Complete));
    }
    // Drop by drop: never still, and yet too slow.
    let mut client = Http1::connect(seawall.address());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
    let mut writer = client.stream().try_clone().unwrap();
    let dripping = std::thread::spawn(move || {
        (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            writer.write_all(b"x").is_err()
        })
    });
    let seen = client.read(false, &Gate::default());
    assert_eq!((seen.status, seen.end), (408, End::Complete));
    client.stream().shutdown(std::net::Shutdown::Both).unwrap();
    assert!(dripping.join().unwrap());
    let counted = seawall.cells("seawall_client_failures_total");
    assert_eq!(counted, ["{kind=\"content_too_large\"} 2", "{kind=\"request_timeout\"} 2"]);
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

#[test]
fn connections_are_limited_in_all() {
    let upstream = Upstream::healthy();
    let seawall = limited(&upstream, "connections: 1");
    let mut first = Http1::connect(seawall.address());
    assert_eq!(first.exchange(&Request::get(), upstream.gate()).status, 200);
    let seen = Http1::connect(seawall.address()).read(false, &Gate::default());
    assert_eq!((seen.status, seen.end), (503, End::Complete));
    assert!(seen.field("retry-after").is_some());
    let refused = seawall.cells("seawall_client_connections_refused_total");
    assert_eq!(refused, ["{reason=\"connections\"} 1"]);
    assert_eq!(first.exchange(&Request::get(), upstream.gate()).status, 200);
}

#[test]
fn a_client_that_does_not_read_is_given_up_and_the_upstream_with_it() {
    let endless = Script::read_head()
        .write("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        .write(vec![b'x'; 50_000_000])
        .record();
    let upstream = Upstream::playing([endless]);
    let seawall = limited(&upstream, "write_timeout: 300ms");
    let mut client = Http1::connect(seawall.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let gone = seawall.until("it is given up", |seawall| {
        Some(seawall.cells("seawall_client_failures_total")).filter(|cells| !cells.is_empty())
    });
    assert_eq!(gone, ["{kind=\"client_gone\"} 1"]);
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

#[test]
fn a_stream_whose_client_takes_nothing_is_reset_and_its_neighbours_go_on() {
    let endless = Script::read_head()
        .write("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        .write(vec![b'x'; 50_000_000])
        .record();
    let upstream = Upstream::playing([
        endless,
        Script::read_head().write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
    ]);
    let seawall = limited(&upstream, "write_timeout: 300ms");
    let mut stream = http2::connect(seawall.address());
    // SETTINGS_INITIAL_WINDOW_SIZE of 0 (RFC 9113 §6.5.2).
    stream.write_all(&http2::settings(&[(4, 0)])).unwrap();
    stream.write_all(&http2::request(1, END_STREAM, GET)).unwrap();
    let reset = std::iter::from_fn(|| Http2.next(&mut stream))
        .find(|frame| frame.stream == 1 && frame.kind == http2::RST_STREAM);
    assert_eq!(reset.expect("a reset").payload, http2::CANCEL.to_be_bytes());
    upstream.record();
    stream
        .write_all(&http2::request(3, END_STREAM, &[&[(":method", "HEAD")], &GET[1..]].concat()))
        .unwrap();
    let answer = std::iter::from_fn(|| Http2.next(&mut stream)).find(|frame| frame.stream == 3);
    let answer = answer.expect("an answer");
    assert!(
        answer.kind == HEADERS && answer.payload.starts_with(&http2::status(200)),
        "{answer:?}"
    );
    let gone = seawall.cells("seawall_client_failures_total");
    assert_eq!(gone, ["{kind=\"client_gone\"} 1"]);
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

#[test]
fn one_stream_too_many_is_refused_before_it_is_processed() {
    let held = || Script::read_head().until_client_saw_head();
    let upstream = Upstream::playing([held(), held()]);
    let seawall = limited(&upstream, "streams: 2");
    let mut stream = http2::connect(seawall.address());
    for id in [1, 3, 5] {
        stream.write_all(&http2::request(id, END_STREAM, GET)).unwrap();
    }
    let refused = std::iter::from_fn(|| Http2.next(&mut stream))
        .find(|frame| frame.kind == http2::RST_STREAM)
        .expect("a refusal");
    // REFUSED_STREAM: safe to send again (RFC 9113 §8.7).
    assert_eq!((refused.stream, &*refused.payload), (5, &http2::REFUSED_STREAM.to_be_bytes()[..]));
    upstream.gate().open();
}

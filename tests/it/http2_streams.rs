//! Streams that share a connection to an upstream: what is wrong with one costs that one, and no
//! more of them are opened than the upstream takes.

use std::thread;

use seawall::failure::Kind;

use crate::support::client::{Client, End, Request, Seen, Version};
use crate::support::http2::{
    self as frames, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, WINDOW_UPDATE, field,
    frame, head_of, status,
};
use crate::support::script::{Gate, Script, Step, Upstream, WELL};
use crate::support::seawall::Seawall;

const HTTP2: &str = "protocol: http2";
/// SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113 §6.5.2).
const MAX_STREAMS: u16 = 3;

fn ask(seawall: &Seawall, gate: &Gate, request: &Request) -> Seen {
    Client::connect(Version::Http1, seawall.address()).exchange(request, gate)
}

/// So many of these requests at a time, each of a client of its own.
fn ask_all(seawall: &Seawall, upstream: &Upstream, count: usize, request: &Request) -> Vec<Seen> {
    let clients: Vec<_> = (0..count)
        .map(|_| {
            let (address, gate) = (seawall.address(), upstream.gate().clone());
            let request = request.clone();
            thread::spawn(move || {
                Client::connect(Version::Http1, address).exchange(&request, &gate)
            })
        })
        .collect();
    clients.into_iter().map(|client| client.join().unwrap()).collect()
}

fn error(seen: &Seen) -> String {
    let status = seen.field("proxy-status").unwrap_or_default();
    let error = status.split("error=").nth(1).unwrap_or(status);
    error.split(';').next().unwrap().trim().to_owned()
}

fn errors(seen: &[Seen]) -> Vec<String> {
    let mut errors: Vec<_> = seen.iter().filter(|seen| seen.status != 200).map(error).collect();
    errors.sort();
    errors
}

fn connects(seawall: &Seawall) -> u32 {
    let cells = seawall.cells("seawall_connects_total");
    cells.iter().map(|cell| cell.rsplit(' ').next().unwrap().parse::<u32>().unwrap()).sum()
}

/// A field block in a HEADERS frame and as many CONTINUATION frames as it takes.
fn section(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    let mut parts = block.chunks(16_000).peekable();
    let mut all = Vec::new();
    let (mut kind, mut flags) = (HEADERS, flags);
    while let Some(part) = parts.next() {
        let end = if parts.peek().is_none() { END_HEADERS } else { 0 };
        all.extend(frame(kind, flags | end, stream, part));
        (kind, flags) = (CONTINUATION, 0);
    }
    all
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

fn well(stream: u32) -> Vec<u8> {
    [head_of(stream, 0, 200, &[]), frame(DATA, END_STREAM, stream, WELL)].concat()
}

/// Three requests on one connection; the first of them gets this answer, the others good ones.
/// What they have got, and what the next one gets.
fn beside_two_others(what: &str, bad: &[u8]) -> Vec<Seen> {
    let script =
        [0; 3].iter().fold(Script::http2(&[]), |script, _| script.then(Step::Http2Request));
    let answers = [well(3), bad.to_vec(), well(5)].concat();
    let upstream = Upstream::playing([script.then_well_http2(answers)]);
    let seawall = Seawall::before_with(&upstream, HTTP2);
    let mut seen = ask_all(&seawall, &upstream, 3, &Request::get());
    let next = ask(&seawall, upstream.gate(), &Request::get());
    assert_eq!((next.status, &*next.text()), (200, WELL));
    assert_eq!(connects(&seawall), 1, "{what}: the connection lives on");
    let whole = seen.iter().filter(|seen| seen.status == 200 && seen.end == End::Complete).count();
    assert!(whole >= 2, "{what}: {seen:?}");
    seen.retain(|seen| !(seen.status == 200 && seen.end == End::Complete && seen.text() == WELL));
    seen
}

#[test]
fn a_malformed_head_costs_its_stream_alone() {
    let with = |name: &str, value: &str| [status(200), field(name, value)].concat();
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("a value with a control character", with("x-a", "a\u{1}b")),
        ("a value with a NUL", with("x-a", "a\0b")),
        ("a value with a CR and a LF", with("x-a", "a\r\nx-b: c")),
        ("a value with a DEL", with("x-a", "a\u{7f}b")),
        ("a name in upper case", with("X-A", "b")),
        ("a name with a space", with("x a", "b")),
        ("a name with a colon", with("x:a", "b")),
        ("a name with a byte beyond ASCII", with("x\u{e9}", "b")),
        ("an empty name", with("", "b")),
        ("no status", block(&[("x-a", "b")])),
        ("nothing but an empty block", vec![0x20]),
        ("two statuses", [status(200), status(200)].concat()),
        ("a status behind a field", block(&[("x-a", "b"), (":status", "200")])),
        ("a status of two digits", block(&[(":status", "99")])),
        ("a status of four digits", block(&[(":status", "2000")])),
        ("a status that is no number", block(&[(":status", "abc")])),
        ("an empty status", block(&[(":status", "")])),
        ("a status 101", block(&[(":status", "101")])),
        ("a pseudo-header field of requests", with(":path", "/")),
        ("an unknown pseudo-header field", with(":foo", "bar")),
        ("a pseudo-header field without a name", with(":", "bar")),
        ("connection", with("connection", "close")),
        ("keep-alive", with("keep-alive", "timeout=5")),
        ("proxy-connection", with("proxy-connection", "close")),
        ("transfer-encoding", with("transfer-encoding", "chunked")),
        ("upgrade", with("upgrade", "h2c")),
        ("te", with("te", "gzip")),
        ("a length that is no number", with("content-length", "7x")),
        ("a negative length", with("content-length", "-1")),
        ("two lengths", [with("content-length", "1"), field("content-length", "2")].concat()),
    ];
    for (what, block) in rows {
        for flags in [0, END_STREAM] {
            let seen = beside_two_others(what, &section(1, flags, &block));
            assert_eq!(errors(&seen), ["http_protocol_error"], "{what}");
        }
    }
}

#[test]
fn a_frame_that_is_wrong_costs_its_stream_alone() {
    let begun = head_of(1, 0, 200, &[]);
    let data = |flags, content: &str| frame(DATA, flags, 1, content);
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("content before a head", data(0, "x")),
        ("a window that opens by nothing", frame(WINDOW_UPDATE, 0, 1, [0; 4])),
        ("content that no frame can carry", frame(DATA, 0, 1, vec![b'x'; 20_000])),
        ("an end instead of a head", data(END_STREAM, "")),
        ("an interim response that is the last", head_of(1, END_STREAM, 103, &[])),
        ("a second head", [begun.clone(), head_of(1, 0, 200, &[])].concat()),
        (
            "less content than was said",
            [head_of(1, 0, 200, &[("content-length", "5")]), data(END_STREAM, "four")].concat(),
        ),
        (
            "more content than was said",
            [head_of(1, 0, 200, &[("content-length", "3")]), data(END_STREAM, "four")].concat(),
        ),
        ("no content where some was said", head_of(1, END_STREAM, 200, &[("content-length", "3")])),
        (
            "trailers that do not end",
            [begun.clone(), section(1, 0, &block(&[("a", "b")]))].concat(),
        ),
        (
            "a status in trailers",
            [begun.clone(), section(1, END_STREAM, &[block(&[("a", "b")]), status(200)].concat())]
                .concat(),
        ),
        (
            "another pseudo-header field in trailers",
            [begun.clone(), section(1, END_STREAM, &block(&[(":path", "/")]))].concat(),
        ),
        (
            "a name in upper case in trailers",
            [begun.clone(), section(1, END_STREAM, &block(&[("A", "b")]))].concat(),
        ),
        (
            "a value with a NUL in trailers",
            [begun.clone(), section(1, END_STREAM, &block(&[("a", "\0")]))].concat(),
        ),
        (
            "transfer-encoding in trailers",
            [begun, section(1, END_STREAM, &block(&[("transfer-encoding", "chunked")]))].concat(),
        ),
    ];
    for (what, bytes) in rows {
        let seen = beside_two_others(what, &bytes);
        assert_eq!(seen.len(), 1, "{what}: {seen:?}");
        assert!(seen[0].status == 500 || seen[0].end != End::Complete, "{what}: {seen:?}");
    }
}

#[test]
fn a_response_that_has_no_content_is_refused_with_some() {
    for status in [204, 304] {
        let bytes = [head_of(1, 0, status, &[]), frame(DATA, END_STREAM, 1, "evil")].concat();
        let seen = beside_two_others(&status.to_string(), &bytes);
        assert_eq!(seen.len(), 1);
        assert!(!seen[0].everything().contains("evil"), "{status}: {seen:?}");
    }
}

#[test]
fn a_bad_field_in_the_table_costs_only_those_who_name_it() {
    // A literal that is put into the table, and its index (RFC 7541 §6.2.1, §6.1).
    let mut bad = [status(200), field("x-a", "a\u{1}b")].concat();
    bad[1] = 0x40;
    let upstream = Upstream::playing([Script::http2(&[])
        .then(Step::Http2Request)
        .write(section(1, END_STREAM, &bad))
        .then(Step::Http2Request)
        .write(section(3, END_STREAM, &[0x88, 0xbe]))
        .then(Step::Http2Request)
        .write(section(5, END_STREAM, &[&[0x88, 0x7e, 1][..], b"z"].concat()))
        .then(Step::BeWellHttp2)]);
    let seawall = Seawall::before_with(&upstream, HTTP2);
    let seen: Vec<_> = (0..4).map(|_| ask(&seawall, upstream.gate(), &Request::get())).collect();
    assert_eq!(seen.iter().map(|seen| seen.status).collect::<Vec<_>>(), [500, 500, 200, 200]);
    assert_eq!(seen[2].field("x-a"), Some("z"));
    assert_eq!(connects(&seawall), 1);
}

#[test]
fn limits_of_heads_and_trailers_cost_their_stream_alone_and_have_their_kind() {
    let long = |length: usize| "h".repeat(length);
    let many = |count: usize, length: usize| -> Vec<u8> {
        (0..count).flat_map(|at| field(&format!("x-{at}"), &long(length))).collect()
    };
    let head = |fields: Vec<u8>| section(1, 0, &[status(200), fields].concat());
    let interim = |fields: Vec<u8>| section(1, 0, &[block(&[(":status", "103")]), fields].concat());
    let size = Kind::HttpResponseHeaderSectionSize.name();
    let field_size = Kind::HttpResponseHeaderSize.name();
    let rows: Vec<(&str, &str, Vec<u8>)> = vec![
        ("70 kB", size, head(many(70, 1000))),
        ("300 kB", size, head(many(100, 3000))),
        ("2 MB", size, head(many(100, 20_000))),
        ("129 fields", size, head(many(129, 1))),
        ("1,700 fields", size, head(many(1700, 1))),
        ("30,000 fields", size, head(many(30_000, 1))),
        ("a field of 33 kB", field_size, head(field("a", &long(33_000)))),
        ("a field of 500 kB", field_size, head(field("a", &long(500_000)))),
        ("an interim head of 70 kB", size, interim(many(70, 1000))),
        ("an interim head of 129 fields", size, interim(many(129, 1))),
    ];
    for (what, kind, bytes) in rows {
        let seen = beside_two_others(what, &bytes);
        assert_eq!(errors(&seen), [kind], "{what}");
    }
    for trailers in [many(17, 1000), many(129, 1), many(100, 20_000)] {
        let begun = [head_of(1, 0, 200, &[]), frame(DATA, 0, 1, "x")].concat();
        let seen =
            beside_two_others("trailers", &[begun, section(1, END_STREAM, &trailers)].concat());
        assert_eq!(seen.len(), 1);
        let kind = Kind::HttpResponseTrailerSectionSize.name();
        let told = errors(&seen) == [kind] || seen[0].end != End::Complete;
        assert!(told, "{seen:?}");
    }
}

#[test]
fn the_largest_head_that_is_allowed_passes() {
    // 128 fields, and 64 KiB as HTTP/1.1 would write them.
    let value = "v".repeat(480);
    let fields: Vec<u8> = (0..128).flat_map(|at| field(&format!("x-{at}"), &value)).collect();
    let head = section(1, END_STREAM, &[status(200), fields].concat());
    let upstream = Upstream::playing([Script::http2_request().then_well_http2(head)]);
    let seawall = Seawall::before_with(&upstream, HTTP2);
    let seen = ask(&seawall, upstream.gate(), &Request::get());
    assert_eq!((seen.status, seen.field("x-127")), (200, Some(&*value)));
}

#[test]
fn posts_on_a_cold_connection_wait_for_their_turn() {
    let ration = || Script::http2(&[(MAX_STREAMS, 50)]).then(Step::RationHttp2 { most: 50 });
    let upstream = Upstream::playing((0..100).map(|_| ration()));
    let seawall = Seawall::before_with(&upstream, HTTP2);
    let seen = ask_all(&seawall, &upstream, 100, &Request::post(10));
    assert!(errors(&seen).is_empty(), "{:?}", errors(&seen));
    assert_eq!((upstream.requests().len(), upstream.refused()), (100, 0), "each once");
    assert!(connects(&seawall) <= 2, "{}", connects(&seawall));
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

#[test]
fn posts_wait_in_line_when_no_more_connections_may_be() {
    let upstream =
        Upstream::playing([Script::http2(&[(MAX_STREAMS, 5)]).then(Step::RationHttp2 { most: 5 })]);
    let settings = "protocol: http2, limits: { connections: 1, pending_time: 10s }";
    let seawall = Seawall::before_with(&upstream, settings);
    let seen = ask_all(&seawall, &upstream, 40, &Request::post(10));
    assert!(errors(&seen).is_empty(), "{:?}", errors(&seen));
    assert_eq!((upstream.requests().len(), upstream.refused()), (40, 0));
}

#[test]
fn an_upstream_that_allows_no_stream_for_a_while_is_waited_for() {
    // The first request goes out before the SETTINGS are known.
    let upstream = Upstream::playing([Script::http2(&[(MAX_STREAMS, 0)])
        .then(Step::Http2Request)
        .write(well(1))
        .then(Step::UntilClientSawHead)
        .write(frames::settings(&[(MAX_STREAMS, 3)]))
        .then(Step::BeWellHttp2)]);
    let settings = "protocol: http2, limits: { pending_time: 10s }";
    let seawall = Seawall::before_with(&upstream, settings);
    let own = Gate::default();
    own.open();
    assert_eq!(ask(&seawall, &own, &Request::post(10)).status, 200);
    let waiting = seawall.address();
    let client = thread::spawn(move || {
        Client::connect(Version::Http1, waiting).exchange(&Request::post(10), &own)
    });
    seawall.until("a request waits", |seawall| {
        seawall.cells("seawall_upstream_pending_requests").first().cloned()
    });
    upstream.gate().open();
    assert_eq!(client.join().unwrap().status, 200);
    assert_eq!(connects(&seawall), 1);
}

#[test]
fn an_upstream_without_settings_is_not_waited_for_endlessly() {
    let upstream = Upstream::playing([Script::read_preface().then(Step::RationHttp2 { most: 20 })]);
    let settings = "protocol: http2, timeouts: { connect: 200ms }";
    let seawall = Seawall::before_with(&upstream, settings);
    let seen = ask_all(&seawall, &upstream, 10, &Request::post(10));
    assert!(errors(&seen).is_empty(), "{:?}", errors(&seen));
    assert_eq!(connects(&seawall), 1);
}

#[test]
fn streams_beside_one_that_ruins_the_connection_are_cut_short_and_sent_again() {
    let bad = frame(HEADERS, END_HEADERS | END_STREAM, 1, [0xff; 9]);
    let rows = [
        ("compression that is broken", bad, Some("http_protocol_error")),
        ("a stream that nobody opened", head_of(99, 0, 200, &[]), None),
        ("a push", frame(5, END_HEADERS, 1, [&[0, 0, 0, 2][..], &status(200)].concat()), None),
        (
            "a window of the connection that opens by nothing",
            frame(WINDOW_UPDATE, 0, 0, [0; 4]),
            None,
        ),
    ];
    for (what, bytes, culprit) in rows {
        // Where no stream is known to be the reason, none of them is answered for it.
        for (again, expected) in [(1, 3), (2, usize::from(culprit.is_some()))] {
            let script =
                [0; 3].iter().fold(Script::http2(&[]), |script, _| script.then(Step::Http2Request));
            let upstream = Upstream::playing([script.write(&bytes).hang()]);
            let settings = format!("{HTTP2}, retry: {{ attempts: {again}, budget_percent: 100 }}");
            let seawall = Seawall::before_with(&upstream, &settings);
            let seen = ask_all(&seawall, &upstream, 3, &Request::get());
            let errors = errors(&seen);
            assert_eq!(errors.len(), expected, "{what}: {errors:?}");
            let protocol = errors.iter().filter(|error| *error == "http_protocol_error").count();
            assert_eq!(protocol, expected.min(1), "{what}, {culprit:?}: {errors:?}");
        }
    }
}

#[test]
fn a_stream_that_has_begun_to_be_answered_is_processed_whatever_is_said_of_it_then() {
    let interim = head_of(1, 0, 103, &[("link", "</a>")]);
    let refused = frames::reset(frames::REFUSED_STREAM);
    let rows = [
        ("an interim response", [interim, refused.clone()].concat()),
        ("a head", [head_of(1, 0, 201, &[]), refused.clone()].concat()),
        ("a head and content", [head_of(1, 0, 201, &[]), frame(DATA, 0, 1, "x"), refused].concat()),
        ("a head and a GOAWAY", [head_of(1, 0, 201, &[]), frames::goaway(0, 0)].concat()),
    ];
    for (what, bytes) in rows {
        let upstream = Upstream::playing([Script::http2_request().write(bytes).fin()]);
        let seawall = Seawall::before_with(&upstream, "protocol: http2, retry: { attempts: 3 }");
        ask(&seawall, upstream.gate(), &Request::post(10));
        assert_eq!(upstream.requests().len(), 1, "{what}");
    }
}

#[test]
fn streams_that_are_refused_wait_for_their_turn() {
    // It takes five at a time, and does not say so.
    let ration = || Script::http2(&[]).then(Step::RationHttp2 { most: 5 });
    let upstream = Upstream::playing([ration()]);
    let settings = "protocol: http2, limits: { connections: 1, pending_time: 10s }, \
        retry: { attempts: 2, budget_percent: 0 }, circuit: {}";
    let seawall = Seawall::before_with(&upstream, settings);
    let seen = ask_all(&seawall, &upstream, 40, &Request::post(10));
    assert!(errors(&seen).is_empty(), "{:?}", errors(&seen));
    assert_eq!(upstream.requests().len(), 40, "each once");
    assert!(upstream.refused() < 200, "no spinning: {}", upstream.refused());
    assert_eq!(connects(&seawall), 1);
}

#[test]
fn a_connection_that_ends_counts_once_against_its_endpoint() {
    let rows: [(&str, Script); 2] = [
        ("a reset", Script::default().reset()),
        ("a breach", Script::default().write(frame(WINDOW_UPDATE, 0, 0, [0; 4])).hang()),
    ];
    for (what, end) in rows {
        let asked = (0..8).fold(Script::http2(&[]), |script, _| script.then(Step::Http2Request));
        let upstream = Upstream::playing([asked.joined(end)]);
        let settings = "protocol: http2, circuit: { consecutive_failures: 3, min_requests: 100 }";
        let seawall = Seawall::before_with(&upstream, settings);
        let seen = ask_all(&seawall, &upstream, 8, &Request::post(10));
        assert_eq!(errors(&seen).len(), 8, "{what}: {seen:?}");
        let next = ask(&seawall, upstream.gate(), &Request::get());
        assert_eq!((next.status, &*next.text()), (200, WELL), "{what}: {:?}", error(&next));
    }
}

//! P3: 1011, never 1006. Bytes on the wire, both sides.
//!
//! Tables: handshakes that fail, sessions that fail, closes that pass, and clients that fail. After
//! each Close the client answers it and must see a FIN: a reset could have destroyed the Close.

use seawall::failure::{Kind, Outcome, Phase};

use crate::support::client::{End, Http1};
use crate::support::script::{Gate, Script, Step, Upstream};
use crate::support::seawall::{IMPATIENT, Seawall, Told};
use crate::support::websocket::{
    self, BINARY, CLOSE, CONTINUATION, FIN, Frame, PING, PONG, RSV1, TEXT, accepted, close, frame,
    header, masked, open, read_frame, read_to_end,
};
use crate::support::{SECRET, every};

/// One failure, counted, logged and journalled under its kind.
fn told(name: &str, seawall: &Seawall, id: &str, kind: Kind, phase: Phase) {
    let told = Told { kind, phase, outcome: Outcome::Normalized, protocol: "websocket" };
    seawall.told_once(name, id, &told);
}

// -- Handshakes

struct Handshake {
    name: &'static str,
    script: Script,
    /// The status that the client gets, and the failure if it is one.
    expected: (u16, Option<Kind>),
}

fn handshakes() -> Vec<Handshake> {
    let row = |name, script, expected| Handshake { name, script, expected };
    let says = |text: &str| Script::read_head().write(text).hang();
    let refuses = |text: &str| Script::read_head().write(text).then(Step::BeWell);
    let failed = (500, Some(Kind::HttpUpgradeFailed));
    let fin = Script::read_head().fin();
    vec![
        row("a FIN", fin, (500, Some(Kind::ConnectionTerminated))),
        row("a RST", Script::read_head().reset(), (500, Some(Kind::ConnectionTerminated))),
        row("silence", Script::read_head().hang(), (500, Some(Kind::HttpResponseTimeout))),
        row(
            "half a 101",
            Script::read_head().write("HTTP/1.1 101 Switching").fin(),
            (500, Some(Kind::HttpResponseIncomplete)),
        ),
        row("garbage", says("hunter2\r\n\r\n"), (500, Some(Kind::HttpProtocolError))),
        row("a 500", says("HTTP/1.1 500 hunter2\r\nContent-Length: 7\r\n\r\nhunter2"), failed),
        row("a 503", says("HTTP/1.1 503 hunter2\r\nContent-Length: 7\r\n\r\nhunter2"), failed),
        row(
            "a 404",
            refuses("HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone"),
            (404, None),
        ),
        row("a 200", refuses("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"), (200, None)),
        row(
            "a wrong accept value",
            says(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Accept: aHVudGVyMmh1bnRlcjJodW50ZXI=\r\n\r\n",
            ),
            failed,
        ),
        row(
            "no accept value",
            says(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                \r\n",
            ),
            failed,
        ),
        row(
            "another protocol",
            says(&accepted("").replace("Upgrade: websocket", "Upgrade: hunter2")),
            failed,
        ),
        row(
            "no Connection field",
            says(&accepted("").replace("Connection: Upgrade\r\n", "")),
            failed,
        ),
        row(
            "a subprotocol that nobody offered",
            says(&accepted("Sec-WebSocket-Protocol: hunter2\r\n")),
            failed,
        ),
        row(
            "an extension that nobody offered",
            says(&accepted("Sec-WebSocket-Extensions: permessage-deflate\r\n")),
            failed,
        ),
    ]
}

#[test]
fn every_bad_handshake_is_answered_with_a_500_and_every_refusal_passes() {
    every(&handshakes(), |row| row.name.to_owned(), check_handshake);
}

fn check_handshake(row: &Handshake) {
    let name = row.name;
    let upstream = Upstream::playing([row.script.clone()]);
    // Only who stays silent shall be given up soon.
    let waits = matches!(row.expected, (_, Some(Kind::HttpResponseTimeout)));
    let seawall = Seawall::before_with(&upstream, if waits { IMPATIENT } else { "" });
    let (mut client, seen) = websocket::handshake(seawall.address(), "");
    let (status, failure) = row.expected;
    assert_eq!((seen.status, seen.end), (status, End::Complete), "{name}: {seen:?}");
    assert!(!seen.everything().contains(SECRET), "{name}: {seen:?}");
    match failure {
        None => {
            assert!(!seawall.metrics().contains("outcome=\"normalized\"} 1"), "{name}");
        }
        Some(kind) => {
            let error = format!("seawall;error={}", kind.name());
            assert!(seen.field("proxy-status").unwrap().starts_with(&error), "{name}: {seen:?}");
            let id = seen.field("x-request-id").unwrap();
            told(name, &seawall, id, kind, Phase::Upgrade);
        }
    }
    // The connection has not become a WebSocket: it goes on with HTTP.
    client.send("GET /next HTTP/1.1\r\nHost: example.com\r\n\r\n");
    let next = client.read(false, &Gate::default());
    assert_eq!((next.status, next.end), (200, End::Complete), "{name}: the next: {next:?}");
}

#[test]
fn a_handshake_to_an_app_that_is_down_is_answered_with_a_500() {
    let seawall = Seawall::at("http://127.0.0.1:1", "");
    let (_client, seen) = websocket::handshake(seawall.address(), "");
    assert_eq!((seen.status, seen.end), (500, End::Complete));
    assert_eq!(seen.field("proxy-status"), Some("seawall;error=connection_refused"));
    let id = seen.field("x-request-id").unwrap();
    told("refused", &seawall, id, Kind::ConnectionRefused, Phase::Connect);
}

// -- Sessions

struct Session {
    name: &'static str,
    /// What the client offers, and what the upstream accepts.
    fields: [&'static str; 2],
    settings: &'static str,
    upstream: Script,
    kind: Kind,
    /// The frames that must arrive before the Close; `None` if they are looked at by the test.
    frames: Vec<Frame>,
}

const HELLO: &[u8] = b"\x81\x05hello";

fn hello() -> Frame {
    Frame { first: FIN | TEXT, payload: b"hello".to_vec() }
}

fn session(name: &'static str, kind: Kind, script: Script, frames: Vec<Frame>) -> Session {
    Session { name, fields: [""; 2], settings: "", upstream: script, kind, frames }
}

/// Rows that end with a FIN and with a RST.
fn cuts() -> Vec<Session> {
    let ended = Kind::ConnectionTerminated;
    let mut rows = Vec::new();
    let mut cut = |fin: &'static str, reset: &'static str, bytes: &[u8], frames: &[Frame]| {
        let script = || open().write(HELLO).write(bytes);
        let frames = [&[hello()], frames].concat();
        rows.push(session(fin, ended, script().fin(), frames.clone()));
        rows.push(session(reset, ended, script().reset(), frames));
    };
    let part = |first, text: &str| Frame { first, payload: text.as_bytes().to_vec() };
    cut("a FIN between messages", "a RST between messages", b"", &[]);
    cut("a FIN in a header", "a RST in a header", b"\x82", &[]);
    cut("a FIN in a length", "a RST in a length", b"\x82\x7E\x01", &[]);
    cut("a FIN in a payload", "a RST in a payload", b"\x82\x09half", &[]);
    cut("a FIN in a ping", "a RST in a ping", b"\x89\x09half", &[]);
    cut(
        "a FIN between fragments",
        "a RST between fragments",
        &[frame(TEXT, "one "), frame(CONTINUATION, "two ")].concat(),
        &[part(TEXT, "one "), part(CONTINUATION, "two ")],
    );
    cut(
        "a FIN in a later fragment",
        "a RST in a later fragment",
        &[frame(TEXT, "one "), b"\x80\x09half".to_vec()].concat(),
        &[part(TEXT, "one ")],
    );
    rows
}

fn violations() -> Vec<Session> {
    let broken = Kind::WebsocketProtocolError;
    let row = |name, bytes: &[u8]| {
        session(name, broken, open().write(HELLO).write(bytes).hang(), vec![hello()])
    };
    let after = |name, before: &[u8], frames: &[Frame], bytes: &[u8]| {
        let script = open().write(HELLO).write(before).write(bytes).hang();
        session(name, broken, script, [&[hello()], frames].concat())
    };
    let begun = [Frame { first: TEXT, payload: b"begun".to_vec() }];
    let mut rows = vec![
        row("the reserved opcode 3", b"\x83\x01x"),
        row("the reserved opcode 7", b"\x87\x01x"),
        row("the reserved opcode 11", b"\x8B\x01x"),
        row("the reserved opcode 15", b"\x8F\x01x"),
        row("RSV1 without an extension", b"\xC1\x01x"),
        row("RSV2", b"\xA1\x01x"),
        row("RSV3", b"\x91\x01x"),
        row("RSV1 on a control frame", b"\xC9\x01x"),
        row("a masked frame", &masked(&frame(FIN | TEXT, "hunter2"))),
        row("a control frame of 126 bytes", &frame(FIN | PING, [b'x'; 126])),
        row("a fragmented control frame", b"\x09\x01x"),
        row("a continuation of nothing", b"\x80\x01x"),
        after("a message in a message", &frame(TEXT, "begun"), &begun, b"\x81\x01x"),
        row("a length of 64 bits with the highest bit", b"\x82\x7F\x80\0\0\0\0\0\0\x01x"),
        row("a length of 16 bits that fits in 7", b"\x82\x7E\x00\x05hello"),
        row("a length of 64 bits that fits in 16", b"\x82\x7F\0\0\0\0\0\0\x01\x00"),
        row("text that is not UTF-8", b"\x81\x04\xF0\x28\x8C\x28"),
        row("text that ends in a character", b"\x81\x03ab\xE2"),
        after(
            "a fragment that breaks a character",
            &frame(TEXT, "begun"),
            &begun,
            &frame(FIN | CONTINUATION, b"\xE2\x28"),
        ),
        row("a Close of one byte", b"\x88\x01\x03"),
        row("a Close whose reason is not UTF-8", b"\x88\x04\x03\xE8\xFF\xFE"),
    ];
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        let name = Box::leak(format!("the close code {code}").into_boxed_str());
        rows.push(row(name, &close(code, "hunter2")));
    }
    rows.push(Session {
        settings: "websocket: { max_frame: 1KiB }",
        ..row("a frame over the limit", &header(FIN | BINARY, 1025))
    });
    rows.push(Session {
        fields: [
            "Sec-WebSocket-Extensions: permessage-deflate\r\n",
            "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        ],
        ..row("RSV1 on a continuation", &[frame(RSV1 | TEXT, "x"), frame(RSV1, "x")].concat())
    });
    rows.last_mut().unwrap().frames.push(Frame { first: RSV1 | TEXT, payload: b"x".to_vec() });
    rows
}

fn said() -> Vec<Session> {
    let row = |name, code, kind| {
        let script = open().write(HELLO).write(close(code, "hunter2 failed")).record();
        session(name, kind, script, vec![hello()])
    };
    vec![
        row("1011 from the app", 1011, Kind::ApplicationError),
        row("1014 from the app", 1014, Kind::DependencyFailure),
    ]
}

fn check_session(row: &Session) {
    let name = row.name;
    let [offered, agreed] = row.fields;
    let mut script = row.upstream.clone();
    if !agreed.is_empty() {
        script = Script::read_head().write(accepted(agreed)).continued(script);
    }
    let upstream = Upstream::playing([script]);
    let seawall = Seawall::configured(&format!(
        "upstreams: {{ app: {{ endpoints: ['http://{}'] }} }}\nroutes: [{{ upstream: app }}]\n{}\n",
        upstream.address(),
        row.settings
    ));
    let (mut client, seen) = websocket::connect(seawall.address(), offered);
    let ended = read_to_end(&mut client).unwrap_or_else(|end| panic!("{name}: 1006: {end:?}"));
    assert_eq!(ended.code, 1011, "{name}: {ended:?}");
    assert_eq!(ended.end, End::Fin, "{name}: {ended:?}");
    assert_eq!(ended.frames, row.frames, "{name}");
    let id = seen.field("x-request-id").unwrap();
    assert!(ended.reason.contains(row.kind.name()), "{name}: {ended:?}");
    assert!(!ended.reason.contains(SECRET), "{name}: {ended:?}");
    told(name, &seawall, id, row.kind, Phase::Websocket);
    let closes = seawall.until(name, |seawall| {
        Some(seawall.cells("seawall_websocket_closes_total")).filter(|cells| !cells.is_empty())
    });
    let expected = "{code=\"1011\",initiator=\"upstream\",upstream=\"app\"} 1";
    assert_eq!(closes, [expected], "{name}");
    let sessions = seawall.metrics();
    assert!(sessions.contains("seawall_websocket_sessions{upstream=\"app\"} 0"), "{name}");
}

#[test]
fn every_upstream_that_is_cut_off_becomes_1011() {
    every(&cuts(), |row| row.name.to_owned(), check_session);
}

#[test]
fn every_violation_of_the_protocol_becomes_1011() {
    every(&violations(), |row| row.name.to_owned(), check_session);
}

#[test]
fn what_the_app_says_of_its_failure_becomes_1011_without_its_words() {
    every(&said(), |row| row.name.to_owned(), check_session);
}

/// A large frame cannot be waited for: it goes on as fragments, so that the Close can follow.
#[test]
fn a_frame_of_10_mb_that_is_cut_arrives_as_fragments_and_1011() {
    let payload: Vec<u8> = (0..6_000_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    for reset in [false, true] {
        let script = open().write(HELLO).write(header(FIN | BINARY, 10_000_000)).write(&payload);
        let upstream = Upstream::playing([if reset { script.reset() } else { script.fin() }]);
        let seawall = Seawall::before(&upstream);
        let (mut client, seen) = websocket::connect(seawall.address(), "");
        let ended = read_to_end(&mut client).unwrap();
        assert_eq!((ended.code, ended.end), (1011, End::Fin));
        let (complete, open) = ended.messages();
        assert_eq!(complete, [b"hello"]);
        let open = open.expect("the first part of the frame");
        assert!(payload.starts_with(&open), "other bytes than the upstream's");
        // What was read is not lost, but for less than a fragment.
        assert!(open.len() > payload.len() - 256 * 1024 || reset, "{} bytes", open.len());
        let id = seen.field("x-request-id").unwrap();
        told("10 MB", &seawall, id, Kind::ConnectionTerminated, Phase::Websocket);
        let cut = seawall.until("cut", |seawall| {
            Some(seawall.cells("seawall_websocket_cut_messages_total"))
                .filter(|cells| !cells.is_empty())
        });
        assert_eq!(cut, ["{direction=\"to_client\",upstream=\"app\"} 1"]);
    }
}

#[test]
fn a_frame_of_10_mb_arrives_byte_by_byte() {
    let payload: Vec<u8> = (0..10_000_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    let script = open()
        .write(header(FIN | BINARY, payload.len()))
        .write(&payload)
        .write(close(1000, "done"))
        .record();
    let upstream = Upstream::playing([script]);
    let seawall = Seawall::before(&upstream);
    let (mut client, _) = websocket::connect(seawall.address(), "");
    let ended = read_to_end(&mut client).unwrap();
    assert_eq!((ended.code, &*ended.reason, ended.end), (1000, "done", End::Fin));
    let (complete, open) = ended.messages();
    assert_eq!(open, None);
    assert!(complete == [payload], "the message is not the same");
}

// -- Closes

#[test]
fn closes_of_the_upstream_pass_with_their_reason_and_are_answered() {
    let codes =
        [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1012, 1013, 3000, 3999, 4000, 4999];
    for code in codes {
        let upstream = Upstream::playing([open().write(close(code, "so long")).record()]);
        let seawall = Seawall::before(&upstream);
        let (mut client, _) = websocket::connect(seawall.address(), "");
        let ended = read_to_end(&mut client).unwrap();
        assert_eq!((ended.code, &*ended.reason, ended.end), (code, "so long", End::Fin));
        // The client's answer reaches the upstream.
        let record = upstream.record();
        assert!(!record.reset, "{code}");
        assert_eq!(record.bytes, masked(&close(code, "so long")), "{code}");
        assert!(seawall.cells("seawall_failures_total").is_empty(), "{code}");
    }
}

#[test]
fn a_close_without_a_code_passes_without_a_code() {
    let upstream = Upstream::playing([open().write([FIN | CLOSE, 0]).record()]);
    let seawall = Seawall::before(&upstream);
    let (mut client, _) = websocket::connect(seawall.address(), "");
    let ended = read_to_end(&mut client).unwrap();
    assert_eq!((ended.code, ended.end), (1005, End::Fin));
    assert_eq!(upstream.record().bytes, masked(&[FIN | CLOSE, 0]));
}

#[test]
fn closes_of_the_client_pass_and_the_upstreams_answer_comes_back() {
    for code in [1000, 1001, 1003, 1008, 1011, 3000, 4001] {
        let answer = close(code, "likewise");
        let length = masked(&close(code, "enough")).len();
        let script = open().then(crate::support::script::Step::ReadContent(length));
        let upstream = Upstream::playing([script.write(answer).fin()]);
        let seawall = Seawall::before(&upstream);
        let (mut client, _) = websocket::connect(seawall.address(), "");
        client.send(masked(&close(code, "enough")));
        let frame = read_frame(&mut client).unwrap();
        assert_eq!(websocket::frame(frame.first, &frame.payload), close(code, "likewise"));
        assert_eq!(client.rest(), (Vec::new(), End::Fin), "{code}");
        assert!(seawall.cells("seawall_failures_total").is_empty(), "{code}");
    }
}

#[test]
fn an_upstream_that_leaves_without_answering_the_clients_close_has_not_failed() {
    let length = masked(&close(1000, "")).len();
    let script = open().then(crate::support::script::Step::ReadContent(length));
    let upstream = Upstream::playing([script.fin()]);
    let seawall = Seawall::before(&upstream);
    let (mut client, _) = websocket::connect(seawall.address(), "");
    client.send(masked(&close(1000, "")));
    let frame = read_frame(&mut client).unwrap();
    assert_eq!((frame.first, &frame.payload[..2]), (FIN | CLOSE, &1000_u16.to_be_bytes()[..]));
    assert_eq!(client.rest().1, End::Fin);
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

// -- Clients that fail

/// An upstream that records and never answers a Close, behind a seawall that does not wait long for
/// that, but for long enough to hear the client's, and a client of it.
fn recorded() -> (Upstream, Seawall, Http1) {
    let upstream = Upstream::playing([open().record()]);
    let seawall = Seawall::configured(&format!(
        "upstreams: {{ app: {{ endpoints: ['http://{}'] }} }}\nroutes: [{{ upstream: app }}]\n\
        websocket: {{ close_timeout: 2s }}\n",
        upstream.address(),
    ));
    let (client, _) = websocket::connect(seawall.address(), "");
    (upstream, seawall, client)
}

/// Unmasks the frames of a client.
fn unmasked(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        assert_eq!(length & 0x80, 0x80, "an unmasked frame for a server");
        let length = usize::from(length & 0x7F);
        assert!(length < 126);
        let (mask, rest) = rest.split_at(4);
        let (payload, rest) = rest.split_at(length);
        let payload = payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b).collect();
        frames.push(Frame { first: *first, payload });
        bytes = rest;
    }
    frames
}

#[test]
fn a_client_that_vanishes_between_frames_leaves_1001_behind() {
    for reset in [false, true] {
        let (upstream, seawall, mut client) = recorded();
        client.send(masked(HELLO));
        if reset {
            socket2::SockRef::from(client.stream())
                .set_linger(Some(std::time::Duration::ZERO))
                .unwrap();
        }
        drop(client);
        let record = upstream.record();
        let frames = unmasked(&record.bytes);
        let gone = Frame { first: FIN | CLOSE, payload: 1001_u16.to_be_bytes().to_vec() };
        // A reset may overtake what the client said last, not what it means.
        assert_eq!(frames.last(), Some(&gone), "reset: {reset}");
        if !reset {
            assert_eq!(frames, [hello(), gone]);
        }
        assert!(!record.reset);
        seawall.until("the client is counted", |seawall| {
            (!seawall.cells("seawall_client_failures_total").is_empty()).then_some(())
        });
        assert!(seawall.cells("seawall_failures_total").is_empty());
    }
}

#[test]
fn a_client_that_vanishes_in_a_frame_leaves_a_reset_behind() {
    let (upstream, seawall, mut client) = recorded();
    client.send(&masked(HELLO)[..8]);
    drop(client);
    assert!(upstream.record().reset, "the app would wait for the rest");
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

#[test]
fn a_client_that_breaks_the_protocol_gets_1002_and_the_upstream_1001() {
    let rows: &[(&str, &[u8])] = &[
        ("an unmasked frame", HELLO),
        ("a reserved opcode", b"\x83\x80\0\0\0\0"),
        ("RSV1 without an extension", b"\xC1\x80\0\0\0\0"),
        ("a continuation of nothing", b"\x80\x80\0\0\0\0"),
        ("a fragmented control frame", b"\x09\x80\0\0\0\0"),
        ("a control frame of 126 bytes", b"\x89\xFE\x00\x7E\0\0\0\0"),
        ("a Close with an illegal code", &masked(&close(1006, ""))),
        ("a Close of one byte", &masked(&frame(FIN | CLOSE, "x"))),
    ];
    every(
        rows,
        |row| row.0.to_owned(),
        |(name, bytes)| {
            let (upstream, seawall, mut client) = recorded();
            client.send(masked(HELLO));
            client.send(bytes);
            let ended = read_to_end(&mut client).unwrap();
            assert_eq!((ended.code, ended.end), (1002, End::Fin), "{name}");
            let record = upstream.record();
            let gone = Frame { first: FIN | CLOSE, payload: 1001_u16.to_be_bytes().to_vec() };
            assert_eq!(unmasked(&record.bytes), [hello(), gone], "{name}");
            assert!(!record.reset, "{name}");
            assert!(seawall.cells("seawall_failures_total").is_empty(), "{name}");
            assert_eq!(seawall.cells("seawall_client_failures_total").len(), 1, "{name}");
        },
    );
}

#[test]
fn a_clients_frame_over_the_limit_is_answered_with_1009() {
    let upstream = Upstream::playing([open().record()]);
    let seawall = Seawall::configured(&format!(
        "upstreams: {{ app: {{ endpoints: ['http://{}'] }} }}\nroutes: [{{ upstream: app }}]\n\
        websocket: {{ max_frame: 1KiB }}\n",
        upstream.address(),
    ));
    let (mut client, _) = websocket::connect(seawall.address(), "");
    client.send(masked(&frame(FIN | BINARY, [0; 2000])));
    let ended = read_to_end(&mut client).unwrap();
    assert_eq!(ended.code, 1009);
}

// -- Both ways

#[test]
fn pings_and_pongs_of_the_two_sides_pass() {
    let ping = masked(&frame(FIN | PING, "are you there"));
    let script = open()
        .write(frame(FIN | PING, "knock"))
        .write(frame(TEXT, "in "))
        .write(frame(FIN | PONG, "unasked"))
        .write(frame(FIN | CONTINUATION, "parts"))
        .then(crate::support::script::Step::ReadContent(ping.len()))
        .write(frame(FIN | PONG, "are you there"))
        .record();
    let upstream = Upstream::playing([script]);
    let seawall = Seawall::before(&upstream);
    let (mut client, _) = websocket::connect(seawall.address(), "");
    client.send(&ping);
    let mut frames = Vec::new();
    for _ in 0..5 {
        frames.push(read_frame(&mut client).unwrap());
    }
    let expected = [
        (FIN | PING, "knock"),
        (TEXT, "in "),
        (FIN | PONG, "unasked"),
        (FIN | CONTINUATION, "parts"),
        (FIN | PONG, "are you there"),
    ];
    let expected = expected.map(|(first, text)| Frame { first, payload: text.into() });
    assert_eq!(frames, expected);
}

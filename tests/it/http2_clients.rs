//! Clients over HTTP/2: what one stream does wrong, or does not do, costs that stream alone.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use seawall::upstream::http2::hpack::Decoder;

use crate::support::PATIENCE;
use crate::support::http2::{
    self, CANCEL, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, Http2, NO_ERROR,
    PROTOCOL_ERROR, RST_STREAM, WINDOW_UPDATE, block, field, frame, raw_field, request, settings,
};
use crate::support::script::{Script, Step, Upstream};
use crate::support::seawall::Seawall;

const GET: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
const POST: &[(&str, &str)] =
    &[(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")];

/// A seawall with these settings of `clients`.
fn limited(upstream: &Upstream, clients: &str) -> Seawall {
    Seawall::configured(&format!(
        "clients: {{ {clients} }}\n\
        upstreams: {{ app: {{ endpoints: [http://{}], retry: {{ attempts: 1 }} }} }}\n\
        routes: [{{ upstream: app }}]\n",
        upstream.address()
    ))
}

/// A connection by hand, whose answers are decoded.
struct Raw {
    stream: TcpStream,
    decoder: Decoder,
    /// The status of the head that was read last.
    status: u16,
}

impl Raw {
    fn connect(seawall: &Seawall) -> Self {
        let stream = http2::connect(seawall.address());
        Raw { stream, decoder: Decoder::default(), status: 0 }
    }

    fn send(&mut self, frames: impl AsRef<[u8]>) {
        self.stream.write_all(frames.as_ref()).unwrap();
    }

    /// The next frame that is not about windows.
    fn next(&mut self) -> Frame {
        let frame = Http2.next(&mut self.stream).expect("the connection goes on");
        if frame.kind == HEADERS {
            self.decoder.begin();
            let mut status = 0;
            let read = self.decoder.decode(&frame.payload, |field| {
                if field.name == b":status" {
                    status = std::str::from_utf8(field.value).unwrap().parse().unwrap();
                }
            });
            assert_eq!(read, Ok(frame.payload.len()));
            self.status = status;
        }
        frame
    }

    /// The next frame that this stream gets.
    fn next_of(&mut self, id: u32) -> Frame {
        loop {
            let frame = self.next();
            assert_ne!(frame.kind, GOAWAY, "{frame:?}");
            if frame.stream == id {
                return frame;
            }
        }
    }

    /// The status of the next response head of this stream.
    fn answer_of(&mut self, id: u32) -> u16 {
        let frame = self.next_of(id);
        assert_eq!(frame.kind, HEADERS, "{frame:?}");
        self.status
    }

    /// The error code of the next reset of this stream.
    fn reset_of(&mut self, id: u32) -> u32 {
        loop {
            let frame = self.next_of(id);
            if frame.kind == RST_STREAM {
                return u32::from_be_bytes(frame.payload.try_into().unwrap());
            }
        }
    }
}

fn client_failures(seawall: &Seawall) -> Vec<String> {
    seawall.cells("seawall_client_failures_total")
}

#[test]
fn resets_every_stream_whose_window_stays_shut_and_serves_on() {
    let upstream = Upstream::healthy();
    let seawall = limited(&upstream, "write_timeout: 300ms");
    let mut client = Raw::connect(&seawall);
    client.send(settings(&[(4, 0)]));
    const STREAMS: u32 = 40;
    let ids: Vec<_> = (0..STREAMS).map(|count| count * 2 + 1).collect();
    for id in &ids {
        client.send(request(*id, END_STREAM, GET));
    }
    let mut reset = Vec::new();
    while reset.len() < ids.len() {
        let frame = client.next();
        match frame.kind {
            RST_STREAM => {
                assert_eq!(frame.payload, CANCEL.to_be_bytes());
                reset.push(frame.stream);
            }
            HEADERS => assert_eq!(client.status, 200, "{frame:?}"),
            _ => panic!("{frame:?}"),
        }
    }
    reset.sort_unstable();
    assert_eq!(reset, ids);
    seawall.until("each is counted as the client's", |seawall| {
        let expected = format!("{{kind=\"client_gone\"}} {STREAMS}");
        (client_failures(seawall) == [expected]).then_some(())
    });
    client.send(request(101, END_STREAM, GET));
    client.send(frame(WINDOW_UPDATE, 0, 101, 1000_u32.to_be_bytes()));
    assert_eq!(client.answer_of(101), 200);
    assert_eq!(client.next_of(101).kind, DATA);
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

#[test]
fn resets_streams_that_the_window_of_the_connection_holds_up() {
    let large = || {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n";
        Script::read_head().write(head).write(vec![b'x'; 200_000]).record()
    };
    let upstream = Upstream::playing([large(), large()]);
    let seawall = limited(&upstream, "write_timeout: 300ms");
    let mut client = Raw::connect(&seawall);
    // Wide windows of streams, and the one of the connection as it is at first: 65,535 bytes.
    client.send(settings(&[(4, 1 << 20)]));
    for id in [1, 3] {
        client.send(request(id, END_STREAM, GET));
    }
    let (mut content, mut reset) = (0, Vec::new());
    while reset.len() < 2 {
        let frame = client.next();
        match frame.kind {
            DATA => content += frame.payload.len(),
            RST_STREAM => reset.push((frame.stream, frame.payload)),
            _ => {}
        }
    }
    reset.sort();
    assert_eq!(reset, [1, 3].map(|id| (id, CANCEL.to_be_bytes().to_vec())));
    assert_eq!(content, 65_535);
    let gone = seawall.until("both are told", |seawall| {
        Some(client_failures(seawall)).filter(|cells| cells == &["{kind=\"client_gone\"} 2"])
    });
    assert_eq!(gone.len(), 1);
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

#[test]
fn a_stream_that_moves_by_single_bytes_is_never_cut() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n";
    let upstream = Upstream::playing([Script::read_head().write(format!("{head}twelve bytes"))]);
    let seawall = limited(&upstream, "write_timeout: 1s");
    let mut client = Raw::connect(&seawall);
    client.send(settings(&[(4, 0)]));
    client.send(request(1, END_STREAM, GET));
    assert_eq!(client.answer_of(1), 200);
    for _ in 0..12 {
        std::thread::park_timeout(Duration::from_millis(150));
        client.send(frame(WINDOW_UPDATE, 0, 1, 1_u32.to_be_bytes()));
        let frame = client.next_of(1);
        assert_eq!((frame.kind, frame.payload.len()), (DATA, 1), "{frame:?}");
    }
    assert!(client_failures(&seawall).is_empty());
}

#[test]
fn uploads_go_on_beside_many_that_stand_still() {
    const STALLED: usize = 7;
    let hang = || Script::read_head().write("").then(Step::UntilClientSawHead);
    let upstream = Upstream::playing((0..STALLED).map(|_| hang()));
    let seawall = limited(&upstream, "streams: 8");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let post = || Request::post("http://a/").body(()).unwrap();
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(seawall.address()).await.unwrap();
        let (requests, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(connection);
        let sent = std::rc::Rc::new(std::cell::Cell::new(0_usize));
        let stall = |requests: h2::client::SendRequest<Bytes>| {
            let sent = std::rc::Rc::clone(&sent);
            async move {
                let mut requests = requests.ready().await.unwrap();
                let (_response, mut sender) = requests.send_request(post(), false).unwrap();
                loop {
                    sender.reserve_capacity(16_384);
                    let room = std::future::poll_fn(|cx| sender.poll_capacity(cx)).await;
                    // Refused, when the test is over.
                    let Some(Ok(room)) = room else { std::future::pending().await };
                    sent.set(sent.get() + room);
                    sender.send_data(Bytes::from(vec![b'x'; room]), false).unwrap();
                }
            }
        };
        let upload = async {
            // All stand still once nothing has moved for a while.
            let mut before = usize::MAX;
            while before != sent.get() || before == 0 {
                before = sent.get();
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            let mut requests = requests.clone().ready().await.unwrap();
            let (response, mut sender) = requests.send_request(post(), false).unwrap();
            let mut left = 700_000_usize;
            while left > 0 {
                sender.reserve_capacity(left);
                let room = std::future::poll_fn(|cx| sender.poll_capacity(cx)).await;
                // An app may answer before it has read all.
                let Some(Ok(room)) = room else { break };
                let part = room.min(left);
                left -= part;
                sender.send_data(Bytes::from(vec![b'x'; part]), left == 0).unwrap();
            }
            response.await.unwrap().status()
        };
        let stalled: Vec<_> = (0..STALLED).map(|_| Box::pin(stall(requests.clone()))).collect();
        let stalled = async {
            let mut stalled = stalled;
            std::future::poll_fn(|cx| {
                for stall in &mut stalled {
                    assert!(stall.as_mut().poll(cx).is_pending());
                }
                std::task::Poll::<()>::Pending
            })
            .await
        };
        let status = tokio::time::timeout(PATIENCE, async {
            tokio::select! { status = upload => status, () = stalled => unreachable!() }
        });
        assert_eq!(status.await.expect("in time"), 200);
    });
    upstream.gate().open();
}

/// Heads that are no requests, and what they are answered.
fn bad_heads() -> Vec<(&'static str, Vec<u8>, u16)> {
    let block = |fields: &[(&str, &str)]| -> Vec<u8> {
        fields.iter().flat_map(|(name, value)| field(name, value)).collect()
    };
    let get = || block(GET);
    let with = |more: Vec<u8>| [get(), more].concat();
    let path = |path: &[u8]| [block(&GET[..3]), raw_field(b":path", path)].concat();
    let many: Vec<_> = (0..1700).flat_map(|count| field(&format!("x-{count}"), "v")).collect();
    // Indexed, so that the tables on both sides have to know it afterwards (RFC 7541 §6.2.1).
    let indexed = |name: &[u8], value: &[u8]| {
        let mut field = raw_field(name, value);
        field[0] = 0x40;
        field
    };
    let large = |bytes: usize| with(field("x", &"v".repeat(bytes)));
    vec![
        ("a Latin-1 path", path(b"/caf\xe9"), 400),
        ("quotes in a path", path(b"/\"<>`"), 400),
        ("a space in a path", path(b"/a b"), 400),
        ("an empty path", path(b""), 400),
        ("a path that is none", path(b"x"), 400),
        ("a long path", path(&[&b"/"[..], &[b'x'; 20_000]].concat()), 414),
        ("an upper-case name", with(field("X-Upper", "v")), 400),
        ("an upper-case name, indexed", with(indexed(b"X-Upper", b"v")), 400),
        ("an empty name", with(field("", "v")), 400),
        ("a name with a space", with(field("a b", "v")), 400),
        ("a value with a control character", with(field("x", "a\u{1}b")), 400),
        ("the same, indexed", with(indexed(b"x", b"a\x01b")), 400),
        ("a value with a line end", with(field("x", "a\r\nb: c")), 400),
        ("Connection", with(field("connection", "close")), 400),
        ("Transfer-Encoding", with(field("transfer-encoding", "chunked")), 400),
        ("TE", with(field("te", "gzip")), 400),
        ("no method", block(&GET[1..]), 400),
        ("a method that is none", [field(":method", "G T"), block(&GET[1..])].concat(), 400),
        ("no scheme", [block(&GET[..1]), block(&GET[2..])].concat(), 400),
        ("no path", block(&GET[..3]), 400),
        ("a path twice", with(field(":path", "/")), 400),
        ("an unknown pseudo-header field", with(field(":unknown", "x")), 400),
        ("a status", with(field(":status", "200")), 400),
        ("a pseudo-header field behind others", [field("x", "y"), get()].concat(), 400),
        (
            "an authority that is none",
            [block(&GET[..2]), field(":authority", "a:b:c"), block(&GET[3..])].concat(),
            400,
        ),
        (
            "two lengths",
            with([field("content-length", "1"), field("content-length", "2")].concat()),
            400,
        ),
        ("a length and no content", with(field("content-length", "5")), 400),
        ("CONNECT with a path", [field(":method", "CONNECT"), block(&GET[1..])].concat(), 400),
        ("1,700 fields", with(many), 431),
        ("a head of 70 kB", large(70_000), 431),
        ("a head of 300 kB", large(300_000), 431),
    ]
}

#[test]
fn a_bad_head_is_answered_and_costs_its_own_stream() {
    let held =
        Script::read_head().then(Step::ReadContent(5)).write("HTTP/1.1 204 No Content\r\n\r\n");
    let upstream = Upstream::playing([held]);
    let seawall = limited(&upstream, "");
    let mut client = Raw::connect(&seawall);
    // A neighbour is in the middle of its upload all the time.
    client.send(request(1, 0, POST));
    let mut id = 1;
    let bad = bad_heads();
    for (name, head, expected) in &bad {
        id += 2;
        client.send(block(id, END_STREAM, head));
        assert_eq!(client.answer_of(id), *expected, "{name}");
    }
    client.send(frame(DATA, END_STREAM, 1, "hello"));
    assert_eq!(client.answer_of(1), 204);
    let count = |code: u16| bad.iter().filter(|(_, _, expected)| *expected == code).count();
    let counted = seawall.cells("seawall_requests_total");
    for code in [400, 414, 431] {
        let cell = format!("{{route=\"-\",status=\"{code}\",upstream=\"-\"}} {}", count(code));
        assert!(counted.contains(&cell), "{counted:?}");
    }
    let failures = client_failures(&seawall);
    for (kind, code) in [("bad_request", 400), ("header_fields_too_large", 431)] {
        let cell = format!("{{kind=\"{kind}\"}} {}", count(code));
        assert!(failures.contains(&cell), "{failures:?}");
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_bad_head_with_content_is_answered_before_the_content_comes() {
    let upstream = Upstream::healthy();
    let seawall = limited(&upstream, "");
    let mut client = Raw::connect(&seawall);
    let head: Vec<u8> = POST.iter().flat_map(|(name, value)| field(name, value)).collect();
    client.send(block(1, 0, &[head, field("A", "b")].concat()));
    assert_eq!(client.answer_of(1), 400);
    assert_eq!(client.reset_of(1), NO_ERROR);
    client.send(request(3, END_STREAM, GET));
    assert_eq!(client.answer_of(3), 200);
}

#[test]
fn bad_trailers_and_empty_window_updates_reset_their_own_stream() {
    let upstream = Upstream::playing([Script::read_head().until_client_saw_head()]);
    let seawall = limited(&upstream, "");
    let trailers = |fields: Vec<u8>, flags: u8| {
        move |id: u32| [frame(DATA, 0, id, "x"), block(id, flags, &fields)].concat()
    };
    let large = (0..40).flat_map(|_| field("x", &"v".repeat(1000))).collect::<Vec<_>>();
    type Bad = Box<dyn Fn(u32) -> Vec<u8>>;
    let rows: Vec<(&str, Bad)> = vec![
        ("an upper-case name", Box::new(trailers(field("A", "b"), END_STREAM))),
        ("a pseudo-header field", Box::new(trailers(field(":path", "/"), END_STREAM))),
        ("trailers that end nothing", Box::new(trailers(field("a", "b"), 0))),
        ("large trailers", Box::new(trailers(large, END_STREAM))),
        ("a window update of 0", Box::new(|id| frame(WINDOW_UPDATE, 0, id, 0_u32.to_be_bytes()))),
    ];
    let mut client = Raw::connect(&seawall);
    client.send(request(1, 0, POST));
    for (count, (name, bad)) in rows.iter().enumerate() {
        let id = u32::try_from(count).unwrap() * 2 + 3;
        client.send([request(id, 0, POST), bad(id)].concat());
        assert_eq!(client.reset_of(id), PROTOCOL_ERROR, "{name}");
    }
    client.send(request(101, END_STREAM, GET));
    assert_eq!(client.answer_of(101), 200);
    assert!(seawall.cells("seawall_failures_total").is_empty());
    upstream.gate().open();
}

#[test]
fn a_broken_compression_ends_the_connection_and_is_counted() {
    let upstream = Upstream::healthy();
    let seawall = limited(&upstream, "");
    let mut client = Raw::connect(&seawall);
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, [0xff, 0xff, 0x7f]));
    while client.next().kind != GOAWAY {}
    seawall.until("it is counted", |seawall| {
        (client_failures(seawall) == ["{kind=\"http2_error\"} 1"]).then_some(())
    });
}

#[test]
fn heads_are_read_in_whatever_pieces_they_come() {
    let upstream = Upstream::healthy();
    let seawall = limited(&upstream, "");
    let mut client = Raw::connect(&seawall);
    let get: Vec<u8> = GET.iter().flat_map(|(name, value)| field(name, value)).collect();
    let (one, two) = get.split_at(7);
    let frames = [
        frame(2, 0, 1, [0, 0, 0, 1, 7]),
        frame(HEADERS, END_STREAM, 1, one),
        frame(http2::CONTINUATION, 0, 1, b""),
        frame(http2::CONTINUATION, END_HEADERS, 1, two),
        // Padded, with a priority that depends on itself.
        frame(
            HEADERS,
            END_STREAM | END_HEADERS | 0x28,
            3,
            [&[2, 0, 0, 0, 3, 16][..], &get, &[0, 0]].concat(),
        ),
    ]
    .concat();
    for byte in frames {
        client.send([byte]);
    }
    let mut answered = Vec::new();
    while answered.len() < 2 {
        let frame = client.next();
        if frame.kind == HEADERS {
            assert_eq!(client.status, 200);
            answered.push(frame.stream);
        }
    }
    answered.sort_unstable();
    assert_eq!(answered, [1, 3]);
}

const EXPECTING: &[(&str, &str)] = &[
    (":method", "PUT"),
    (":scheme", "http"),
    (":authority", "a"),
    (":path", "/"),
    ("content-length", "5"),
    ("expect", "100-continue"),
];

#[test]
fn says_100_once_when_the_content_is_asked_for() {
    let upstream = Upstream::healthy();
    let seawall = limited(&upstream, "");
    let mut client = Raw::connect(&seawall);
    client.send(request(1, 0, EXPECTING));
    assert_eq!(client.answer_of(1), 100);
    client.send(frame(DATA, 0, 1, "he"));
    client.send(frame(DATA, END_STREAM, 1, "llo"));
    assert_eq!(client.answer_of(1), 200, "no second 100");
}

#[test]
fn says_no_100_to_a_client_that_does_not_wait_or_is_refused() {
    let upstream = Upstream::healthy();
    let seawall = limited(&upstream, "");
    let mut client = Raw::connect(&seawall);
    let sent = [request(1, 0, EXPECTING), frame(DATA, END_STREAM, 1, "hello")].concat();
    client.send(&sent);
    assert_eq!(client.answer_of(1), 200);
    let bad = [EXPECTING, &[("upgrade", "x")]].concat();
    client.send(request(3, 0, &bad));
    assert_eq!(client.answer_of(3), 400);
    let empty = [&EXPECTING[..4], &[("expect", "100-continue")]].concat();
    client.send(request(5, END_STREAM, &empty));
    assert_eq!(client.answer_of(5), 200);
}

#[test]
fn passes_early_hints_on() {
    let script = Script::read_head()
        .write("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x\r\n\r\n")
        .write("HTTP/1.1 204 No Content\r\n\r\n");
    let upstream = Upstream::playing([script]);
    let seawall = limited(&upstream, "");
    let mut client = Raw::connect(&seawall);
    client.send(request(1, END_STREAM, GET));
    assert_eq!(client.answer_of(1), 103);
    assert_eq!(client.answer_of(1), 204);
}

#[test]
fn a_browser_may_cancel_a_hundred_requests_in_one_breath() {
    let upstream = Upstream::healthy();
    let seawall = limited(&upstream, "");
    let mut client = Raw::connect(&seawall);
    let burst: Vec<u8> = (0..100)
        .flat_map(|count| {
            let id = count * 2 + 1;
            let cancel = frame(RST_STREAM, 0, id, CANCEL.to_be_bytes());
            [request(id, END_STREAM, GET), cancel].concat()
        })
        .collect();
    client.send(&burst);
    client.send(request(1001, END_STREAM, GET));
    assert_eq!(client.answer_of(1001), 200);
    let cells = seawall.until("each is counted", |seawall| {
        let cells = seawall.cells("seawall_client_failures_total");
        cells.contains(&"{kind=\"client_gone\"} 100".to_owned()).then_some(cells)
    });
    assert_eq!(cells.len(), 1);
}

#[test]
fn an_early_answer_leaves_no_error_behind() {
    let upstream = Upstream::healthy();
    let seawall = Seawall::configured(&format!(
        "upstreams: {{ app: {{ endpoints: [http://{}] }} }}\n\
        routes: [{{ upstream: app, request_body: 1KiB }}]\n",
        upstream.address()
    ));
    let mut client = Raw::connect(&seawall);
    let large = [POST, &[("content-length", "2000")]].concat();
    client.send(request(1, 0, &large));
    assert_eq!(client.answer_of(1), 413);
    assert_eq!(client.reset_of(1), NO_ERROR);
}

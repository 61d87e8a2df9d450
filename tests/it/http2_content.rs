//! Content over HTTP/2 in unusual frames, from clients and from upstreams: it arrives, and costs
//! nobody else a request.

use std::io::Write;
use std::net::TcpStream;

use crate::support::http2::{
    self, DATA, END_STREAM, Frame, GOAWAY, HEADERS, Http2, RST_STREAM, WINDOW_UPDATE, block, field,
    frame, head_of, request, settings,
};
use crate::support::script::{Script, Step, Upstream, WELL};
use crate::support::seawall::Seawall;

const GET: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
const POST: &[(&str, &str)] =
    &[(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
const STALL: &[(&str, &str)] =
    &[(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/stall")];
/// SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 §6.5.2).
const WINDOW: u16 = 4;

fn send(client: &mut TcpStream, frames: impl AsRef<[u8]>) {
    client.write_all(frames.as_ref()).unwrap();
}

fn next(client: &mut TcpStream) -> Frame {
    let frame = Http2.next(client).expect("the connection goes on");
    assert_ne!(frame.kind, GOAWAY, "{frame:?}");
    frame
}

/// Reads until these streams have ended. The content of each; none of one that was reset.
fn contents(client: &mut TcpStream, streams: &[u32]) -> Vec<Option<Vec<u8>>> {
    let mut contents = vec![Some(Vec::new()); streams.len()];
    let mut open = streams.len();
    while open > 0 {
        let frame = next(client);
        let Some(at) = streams.iter().position(|stream| *stream == frame.stream) else { continue };
        match frame.kind {
            DATA => contents[at].as_mut().unwrap().extend_from_slice(&frame.payload),
            RST_STREAM => contents[at] = None,
            _ => {}
        }
        let ends = frame.kind == RST_STREAM
            || (matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0);
        open -= usize::from(ends);
    }
    contents
}

fn content(client: &mut TcpStream, stream: u32) -> Option<Vec<u8>> {
    contents(client, &[stream]).remove(0)
}

fn connects(seawall: &Seawall) -> Vec<String> {
    seawall.cells("seawall_connects_total")
}

/// Content, and the frames of one byte each that carry it.
fn drops(stream: u32, count: usize) -> (Vec<u8>, Vec<u8>) {
    let content: Vec<u8> = (0..count).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let frames = content.iter().flat_map(|byte| frame(DATA, 0, stream, [*byte])).collect();
    (content, frames)
}

#[test]
fn drops_of_content_that_a_client_does_not_take_cost_nobody_else_a_request() {
    let (content_of_it, frames) = drops(1, 40_000);
    let answer = [head_of(1, 0, 200, &[("content-type", "text/event-stream")]), frames].concat();
    let end = frame(DATA, END_STREAM, 1, "");
    let script = Script::http2_request().write(answer).then(Step::Http2Request);
    let well = [head_of(3, 0, 200, &[]), frame(DATA, END_STREAM, 3, WELL), end].concat();
    let upstream = Upstream::playing([script.then_well_http2(well)]);
    let settings_of_it = "protocol: http2, limits: { streams: 2 }, retry: { attempts: 1 }";
    let seawall = Seawall::before_with(&upstream, settings_of_it);
    let mut idler = http2::connect(seawall.address());
    send(&mut idler, [settings(&[(WINDOW, 0)]), request(1, END_STREAM, GET)].concat());
    while next(&mut idler).kind != HEADERS {}
    let mut other = http2::connect(seawall.address());
    send(&mut other, request(1, END_STREAM, GET));
    assert_eq!(content(&mut other, 1).as_deref(), Some(WELL.as_bytes()));
    let opened = [0, 1].map(|of| frame(WINDOW_UPDATE, 0, of, 1_000_000_u32.to_be_bytes()));
    send(&mut idler, opened.concat());
    assert!(content(&mut idler, 1) == Some(content_of_it), "all of it, in its order");
    assert_eq!(connects(&seawall).len(), 1);
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

#[test]
fn drops_of_content_that_an_app_does_not_take_cost_their_client_no_other_request() {
    let stalled = Upstream::playing([Script::http2(&[(WINDOW, 0)]).hang()]);
    let healthy = Upstream::healthy();
    let seawall = Seawall::configured(&format!(
        "clients: {{ streams: 2 }}\n\
        upstreams:\n  stalled: {{ endpoints: [http://{}], protocol: http2 }}\n  \
        healthy: {{ endpoints: [http://{}] }}\n\
        routes: [{{ path: /stall, upstream: stalled }}, {{ upstream: healthy }}]\n",
        stalled.address(),
        healthy.address()
    ));
    let mut client = http2::connect(seawall.address());
    send(&mut client, request(1, 0, STALL));
    send(&mut client, drops(1, 40_000).1);
    send(&mut client, request(3, END_STREAM, GET));
    assert_eq!(content(&mut client, 3).as_deref(), Some(WELL.as_bytes()));
}

#[test]
fn empty_content_is_no_attack() {
    let upstream = Upstream::healthy();
    let seawall = Seawall::before(&upstream);
    let mut client = http2::connect(seawall.address());
    for count in 0..300 {
        let id = count * 2 + 1;
        let parts = [request(id, 0, POST), frame(DATA, 0, id, ""), frame(DATA, END_STREAM, id, "")];
        send(&mut client, parts.concat());
        assert_eq!(content(&mut client, id).as_deref(), Some(WELL.as_bytes()));
    }
}

#[test]
fn what_a_client_sends_behind_the_end_costs_its_stream_alone() {
    let upstream = Upstream::healthy();
    let seawall = Seawall::before(&upstream);
    let mut client = http2::connect(seawall.address());
    let trailers = |id| block(id, END_STREAM, &field("a", "b"));
    let content_of = |id, flags| frame(DATA, flags, id, "x");
    type Bad = Box<dyn Fn(u32) -> Vec<u8>>;
    let rows: [(&str, Bad); 4] = [
        (
            "content behind content",
            Box::new(move |id| [content_of(id, END_STREAM), content_of(id, 0)].concat()),
        ),
        (
            "an end behind the end",
            Box::new(move |id| [content_of(id, END_STREAM), content_of(id, END_STREAM)].concat()),
        ),
        (
            "trailers behind content",
            Box::new(move |id| [content_of(id, END_STREAM), trailers(id)].concat()),
        ),
        ("content behind trailers", Box::new(move |id| [trailers(id), content_of(id, 0)].concat())),
    ];
    for (count, (what, bad)) in rows.iter().enumerate() {
        let id = u32::try_from(count).unwrap() * 4 + 1;
        let beside = request(id + 2, END_STREAM, GET);
        send(&mut client, [request(id, 0, POST), bad(id), beside].concat());
        let seen = contents(&mut client, &[id, id + 2]);
        assert_eq!(seen, [None, Some(WELL.into())], "{what}");
    }
}

#[test]
fn what_an_upstream_sends_behind_the_end_costs_its_stream_alone() {
    let begin = |flags| head_of(1, flags, 200, &[]);
    let content_of = |flags| frame(DATA, flags, 1, "x");
    let trailers = || block(1, END_STREAM, &field("a", "b"));
    let rows = [
        ("content", [begin(0), content_of(END_STREAM), content_of(0)].concat()),
        ("content behind a head alone", [begin(END_STREAM), content_of(0)].concat()),
        ("trailers", [begin(0), content_of(END_STREAM), trailers()].concat()),
        ("content behind trailers", [begin(0), trailers(), content_of(0)].concat()),
        ("content behind a reset", [begin(0), http2::reset(2), content_of(0)].concat()),
    ];
    for (what, bad) in rows {
        // The upload goes on: the stream is still open in that direction.
        let heads = (0..3).fold(Script::http2(&[]), |script, _| script.then(Step::Http2Frame));
        let well = [3, 5].map(|id| [head_of(id, 0, 200, &[]), frame(DATA, END_STREAM, id, WELL)]);
        let upstream = Upstream::playing([heads.write([bad, well.concat().concat()].concat())]);
        let settings_of_it = "protocol: http2, retry: { attempts: 1 }";
        let seawall = Seawall::before_with(&upstream, settings_of_it);
        let mut client = http2::connect(seawall.address());
        send(&mut client, request(1, 0, POST));
        send(&mut client, [request(3, END_STREAM, GET), request(5, END_STREAM, GET)].concat());
        let seen = contents(&mut client, &[3, 5]);
        assert_eq!(seen, [Some(WELL.into()), Some(WELL.into())], "{what}");
    }
}

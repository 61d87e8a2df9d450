//! Server-sent events: they pass as they come, and if asked for, whole and with a last word.

use seawall::failure::{Kind, Outcome, Phase};

use crate::support::client::{Client, End, Request, Seen, Version};
use crate::support::http2::{CANCEL, data, head, reset};
use crate::support::script::{Script, Upstream};
use crate::support::seawall::{Seawall, Told};

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn before(upstream: &Upstream, settings: &str) -> Seawall {
    let address = upstream.address();
    Seawall::configured(&format!(
        "upstreams: {{ app: {{ endpoints: ['http://{address}'], {settings} }} }}\n\
        failures: {{ sse_event: true }}\n\
        routes: [{{ upstream: app }}]\n"
    ))
}

/// The stream without its last event, and that event's data.
fn last_event(seen: &Seen) -> (String, serde_json::Value) {
    let text = seen.text();
    let (before, event) = text.rsplit_once("event: error\ndata: ").expect("no last event");
    let data = event.strip_suffix("\n\n").expect("the last event does not end");
    (before.to_owned(), serde_json::from_str(data).unwrap())
}

fn cut_off(seawall: &Seawall, seen: &Seen) {
    let (kind, phase) = (Kind::HttpResponseIncomplete, Phase::Body);
    let told = Told { kind, phase, outcome: Outcome::Aborted, protocol: "http" };
    seawall.told_once("cut off", seen.field("x-request-id").unwrap(), &told);
}

#[test]
fn a_stream_that_breaks_in_the_middle_of_an_event_ends_with_one_that_says_so() {
    for version in [Version::Http1, Version::Http2] {
        let script = Script::read_head()
            .write(HEAD)
            .write(chunk("id: 1\ndata: one\n\nid: 2\ndata: two\n\n"))
            .write(chunk("id: 3\ndata: hun"))
            .until_client_saw_head()
            .reset();
        let upstream = Upstream::playing([script]);
        let seawall = before(&upstream, "protocol: http1");
        let mut client = Client::connect(version, seawall.address());
        let seen = client.exchange(&Request::get(), upstream.gate());
        assert_eq!(seen.status, 200);
        assert_ne!(seen.end, End::Complete, "P1: cut off all the same");
        let (events, problem) = last_event(&seen);
        assert_eq!(events, "id: 1\ndata: one\n\nid: 2\ndata: two\n\n", "whole events only");
        assert_eq!(problem["type"], "urn:seawall:failure:http_response_incomplete");
        assert_eq!(problem["instance"], seen.field("x-request-id").unwrap());
        cut_off(&seawall, &seen);
    }
}

#[test]
fn an_http_2_upstream_that_resets_its_stream_gets_a_last_event_too() {
    let begun = [head(200, &[("content-type", "text/event-stream")]), data("data: 1\r\n\r\ndat")];
    let script = Script::http2_request()
        .write(begun.concat())
        .until_client_saw_head()
        .then_well_http2(reset(CANCEL));
    let upstream = Upstream::playing([script]);
    let seawall = before(&upstream, "protocol: http2");
    let mut client = Client::connect(Version::Http2, seawall.address());
    let seen = client.exchange(&Request::get(), upstream.gate());
    assert_eq!(last_event(&seen).0, "data: 1\r\n\r\n");
    assert_eq!(seen.end, End::StreamReset(2));
    cut_off(&seawall, &seen);
}

#[test]
fn a_stream_that_ends_well_passes_byte_for_byte() {
    let text = ": hello\n\ndata: 1\n\ndata: 2 has no end";
    let (first, second) = text.split_at(14);
    let script =
        Script::read_head().write([HEAD, &chunk(first), &chunk(second), "0\r\n\r\n"].concat());
    let upstream = Upstream::playing([script]);
    let seawall = before(&upstream, "protocol: http1");
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(&Request::get(), upstream.gate());
    assert_eq!((&*seen.text(), seen.end), (text, End::Complete));
}

#[test]
fn each_event_leaves_as_soon_as_it_is_whole() {
    // The gate opens when the client has the head, so that the first event cannot wait for others.
    let script = Script::read_head()
        .write(HEAD)
        .write(chunk("data: 1\n\n"))
        .until_client_saw_head()
        .write(chunk("data: 2\n\n"))
        .write("0\r\n\r\n");
    let upstream = Upstream::playing([script]);
    let seawall = before(&upstream, "protocol: http1");
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(&Request::get(), upstream.gate());
    assert_eq!((&*seen.text(), seen.end), ("data: 1\n\ndata: 2\n\n", End::Complete));
}

#[test]
fn a_stream_that_nothing_can_be_written_into_is_only_cut_off() {
    for fields in ["Content-Encoding: gzip\r\n", "Content-Length: 99\r\n"] {
        let begun = match fields.starts_with("Content-Length") {
            true => {
                format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{fields}\r\ndata")
            }
            false => HEAD.replace("\r\n\r\n", &format!("\r\n{fields}\r\n")) + &chunk("data"),
        };
        let script = Script::read_head().write(begun).until_client_saw_head().fin();
        let upstream = Upstream::playing([script]);
        let seawall = before(&upstream, "protocol: http1");
        let mut client = Client::connect(Version::Http1, seawall.address());
        let seen = client.exchange(&Request::get(), upstream.gate());
        assert_eq!(&*seen.text(), "data", "{fields}");
        assert_ne!(seen.end, End::Complete, "{fields}");
        cut_off(&seawall, &seen);
    }
}

//! P6: healthy traffic is untouched. What the upstream says is what the client sees, when it is said.

use crate::support::client::{Client, End, Http1, Request, Version};
use crate::support::script::{Gate, Script, Step, Upstream, WELL};
use crate::support::seawall::Seawall;

const BOTH: [Version; 2] = [Version::Http1, Version::Http2];

/// One exchange with an upstream that plays this script, then one more on the same connection.
fn ask(version: Version, script: &Script, request: &Request) -> crate::support::client::Seen {
    let upstream = Upstream::playing([script.clone()]);
    let seawall = Seawall::before(&upstream);
    let mut client = Client::connect(version, seawall.address());
    let seen = client.exchange(request, upstream.gate());
    assert_eq!(seen.end, End::Complete, "{seen:?}");
    let next = client.exchange(&Request::get(), upstream.gate());
    assert_eq!((next.status, next.text()), (200, WELL.to_owned()), "the connection goes on");
    assert!(seawall.cells("seawall_failures_total").is_empty());
    seen
}

fn says(text: &str) -> Script {
    Script::read_head().write(text).then(Step::BeWell)
}

#[test]
fn trailers_pass() {
    let script = says(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
        4\r\nwell\r\n0\r\nX-Sum: 42\r\n\r\n",
    );
    for version in BOTH {
        let seen = ask(version, &script, &Request::get().field("te", "trailers"));
        assert_eq!(seen.text(), "well");
        assert_eq!(seen.trailers, [("x-sum".to_owned(), "42".to_owned())], "{version:?}");
    }
}

#[test]
fn trailers_pass_that_nobody_has_announced() {
    let script = says(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwell\r\n0\r\nX-Sum: 42\r\n\r\n",
    );
    let seen = ask(Version::Http1, &script, &Request::get());
    assert_eq!(seen.trailers, [("x-sum".to_owned(), "42".to_owned())]);
}

#[test]
fn early_hints_pass_over_http_1() {
    let script = says(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n\
        HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell",
    );
    let seen = ask(Version::Http1, &script, &Request::get());
    assert_eq!((seen.interim, seen.status), (vec![103], 200));
}

#[test]
fn an_expectation_is_met_by_the_upstream() {
    let script = Script::read_head()
        .write("HTTP/1.1 100 Continue\r\n\r\n")
        .then(Step::ReadContent(5))
        .write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell");
    let upstream = Upstream::playing([script]);
    let seawall = Seawall::before(&upstream);
    let mut client = Http1::connect(seawall.address());
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.take(25).unwrap(), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello");
    assert_eq!(client.read(false, &Gate::default()).status, 200);
    assert!(upstream.requests()[0].to_lowercase().contains("expect: 100-continue"));
}

#[test]
fn an_expectation_that_is_refused_costs_no_upload() {
    let script = Script::read_head()
        .write("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 4\r\n\r\nno!\n")
        .then(Step::BeWell);
    let upstream = Upstream::playing([script]);
    let seawall = Seawall::before(&upstream);
    let mut client = Http1::connect(seawall.address());
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let seen = client.read(false, &Gate::default());
    assert_eq!((seen.interim.len(), seen.status, seen.end), (0, 417, End::Complete));
}

#[test]
fn answers_without_content_keep_their_fields() {
    let head = says("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nETag: \"a\"\r\n\r\n");
    let none = says("HTTP/1.1 204 No Content\r\nETag: \"a\"\r\n\r\n");
    let same = says("HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\nETag: \"a\"\r\n\r\n");
    for version in BOTH {
        let seen = ask(version, &head, &Request { method: "HEAD", ..Request::get() });
        assert_eq!((seen.status, seen.field("content-length")), (200, Some("1234")));
        let seen = ask(version, &none, &Request::get());
        assert_eq!((seen.status, seen.field("content-length")), (204, None));
        let seen = ask(version, &same, &Request::get());
        assert_eq!((seen.status, seen.field("etag"), seen.body.len()), (304, Some("\"a\""), 0));
    }
}

#[test]
fn a_range_passes() {
    let script = says(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-5/10\r\nContent-Length: 4\r\n\r\n2345",
    );
    for version in BOTH {
        let seen = ask(version, &script, &Request::get().field("range", "bytes=2-5"));
        assert_eq!((seen.status, &*seen.text()), (206, "2345"));
        assert_eq!(seen.field("content-range"), Some("bytes 2-5/10"));
    }
}

#[test]
fn an_event_arrives_before_the_next_one_is_written() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
        Transfer-Encoding: chunked\r\n\r\n";
    let script = Script::read_head()
        .write(head)
        .write("9\r\ndata: 1\n\n\r\n")
        .until_client_saw_head()
        .write("9\r\ndata: 2\n\n\r\n0\r\n\r\n")
        .then(Step::BeWell);
    let upstream = Upstream::playing([script]);
    let seawall = Seawall::before(&upstream);
    let mut client = Http1::connect(seawall.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    // Only when the first event is here does the upstream go on.
    let mut read = Vec::new();
    while !read.ends_with(b"data: 1\n\n\r\n") {
        read.extend(client.take(1).unwrap());
    }
    upstream.gate().open();
    assert_eq!(client.take(19).unwrap(), b"9\r\ndata: 2\n\n\r\n0\r\n\r\n");
}

#[test]
fn a_long_poll_of_unknown_length_is_not_kept_back() {
    let script = Script::read_head()
        .write("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        .write("first")
        .until_client_saw_head()
        .write("second")
        .fin();
    for version in BOTH {
        let upstream = Upstream::playing([script.clone()]);
        let seawall = Seawall::before(&upstream);
        let mut client = Client::connect(version, seawall.address());
        // The head can only come if it is not held until the response is whole.
        let seen = client.exchange(&Request::get(), upstream.gate());
        assert_eq!((seen.text(), seen.end), ("firstsecond".to_owned(), End::Complete));
    }
}

#[test]
fn large_content_passes_byte_by_byte_in_both_directions() {
    let content: String = (0..2_000_000).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
    let script = Script::read_head()
        .then(Step::ReadContent(3_000_000))
        .write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{content}", content.len()))
        .then(Step::BeWell);
    for version in BOTH {
        let seen = ask(version, &script, &Request::post(3_000_000));
        assert!(seen.text() == content, "{version:?}: other content");
    }
}

#[test]
fn requests_may_be_pipelined() {
    let upstream = Upstream::healthy();
    let seawall = Seawall::before(&upstream);
    let mut client = Http1::connect(seawall.address());
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(10));
    for _ in 0..20 {
        assert_eq!(client.read(false, &Gate::default()).text(), WELL);
    }
}

#[test]
fn a_last_answer_arrives_though_more_was_asked_for() {
    let upstream = Upstream::healthy();
    let seawall = Seawall::configured(&format!(
        "clients: {{ requests_per_connection: 1 }}\n\
        upstreams: {{ app: {{ endpoints: [http://{}] }} }}\nroutes: [{{ upstream: app }}]\n",
        upstream.address()
    ));
    let mut client = Http1::connect(seawall.address());
    let put = format!(
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{}",
        "x".repeat(100_000)
    );
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n\r\n{put}"));
    // A close over unread bytes would be a reset, which destroys what is on its way.
    let (bytes, end) = client.rest();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains("\r\nconnection: close\r\n") && text.ends_with(WELL), "{text}");
    assert_eq!((end, text.matches("HTTP/1.1 ").count()), (End::Fin, 1));
}

#[test]
fn a_client_that_leaves_takes_its_request_with_it_whatever_it_had_sent() {
    let post = "POST / HTTP/1.1\r\nHost: a\r\n";
    for (name, request) in [
        ("no content", "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("content behind its head", format!("{post}Content-Length: 5\r\n\r\nhello")),
        ("chunks", format!("{post}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")),
        ("a part of its content", format!("{post}Content-Length: 10\r\n\r\nhello")),
    ] {
        let upstream = Upstream::playing([Script::read_head().record()]);
        let seawall = Seawall::before(&upstream);
        let mut client = Http1::connect(seawall.address());
        client.send(request);
        upstream.until_asked(1);
        drop(client);
        upstream.record();
        let gone = seawall.until(name, |seawall| {
            Some(seawall.cells("seawall_client_failures_total")).filter(|cells| !cells.is_empty())
        });
        assert_eq!(gone, ["{kind=\"client_gone\"} 1"], "{name}");
        assert!(seawall.cells("seawall_failures_total").is_empty(), "{name}");
    }
}

#[test]
fn a_client_of_http_1_0_gets_an_answer_that_it_understands() {
    let script =
        says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwell\r\n0\r\n\r\n");
    let upstream = Upstream::playing([script]);
    let seawall = Seawall::before(&upstream);
    let mut client = Http1::connect(seawall.address());
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    let (bytes, end) = client.rest();
    let text = String::from_utf8(bytes).unwrap().to_lowercase();
    assert_eq!(end, End::Fin);
    assert!(!text.contains("transfer-encoding"), "{text}");
    assert!(text.ends_with("\r\n\r\nwell"), "{text}");
}

#[test]
fn a_truncated_answer_to_http_1_0_is_a_reset() {
    let script = Script::read_head()
        .write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11170\r\n")
        .write("x".repeat(70_000))
        .write("\r\n")
        .until_client_saw_head()
        .fin();
    let upstream = Upstream::playing([script]);
    let seawall = Seawall::before(&upstream);
    let mut client = Http1::connect(seawall.address());
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    client.take(1000).unwrap();
    upstream.gate().open();
    // A FIN would end the content as if it were whole.
    assert_eq!(client.rest().1, End::Reset);
}

#[test]
fn an_early_answer_ends_an_upload() {
    let script = Script::read_head()
        .then(Step::ReadContent(1000))
        .write("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n")
        .hang();
    for version in BOTH {
        let upstream = Upstream::playing([script.clone()]);
        let seawall = Seawall::before(&upstream);
        let mut client = Client::connect(version, seawall.address());
        let seen = client.exchange(&Request::post(10_000_000), upstream.gate());
        assert_eq!((seen.status, &*seen.text(), seen.end), (403, "no\n", End::Complete));
        assert!(seawall.cells("seawall_failures_total").is_empty());
    }
}

#[test]
fn a_client_that_does_not_read_holds_the_upstream_back() {
    let script = Script::read_head()
        .write("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n")
        .then(Step::WriteUntilStuck(vec![b'x'; 65_536]));
    let upstream = Upstream::playing([script]);
    let seawall = Seawall::before(&upstream);
    let mut client = Http1::connect(seawall.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let taken = upstream.taken();
    // The kernel's buffers on both sides, and a little of ours.
    assert!(taken < 24 * 1024 * 1024, "{taken} bytes were taken for a client that reads none");
}

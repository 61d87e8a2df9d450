//! The same over HTTP/2 (RFC 9113 §8.2, §8.3, §10.3): what would be two messages in HTTP/1.1 is none.

use std::io::Write;

use super::stage;
use crate::support::http2::{self, END_STREAM, GOAWAY, HEADERS, Http2, RST_STREAM};

type Fields = &'static [(&'static str, &'static str)];

const WELL: Fields =
    &[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];

/// Heads that are malformed, or that no HTTP/1.1 upstream may get.
const REFUSED: &[(&str, Fields, Fields)] = &[
    ("a CR and LF in a value", WELL, &[("x", "1\r\nhost: b")]),
    ("a LF in a value", WELL, &[("x", "1\n2")]),
    ("a NUL in a value", WELL, &[("x", "1\x002")]),
    ("a capital in a name", WELL, &[("X", "1")]),
    ("a colon in a name", WELL, &[("x:y", "1")]),
    ("a space in a name", WELL, &[("x ", "1")]),
    ("a CR and LF in a name", WELL, &[("x: 1\r\ny", "1")]),
    ("an empty name", WELL, &[("", "1")]),
    ("transfer-encoding", WELL, &[("transfer-encoding", "chunked")]),
    ("connection", WELL, &[("connection", "x")]),
    ("keep-alive", WELL, &[("keep-alive", "1")]),
    ("proxy-connection", WELL, &[("proxy-connection", "close")]),
    ("upgrade", WELL, &[("upgrade", "h2c")]),
    ("a TE that is not trailers", WELL, &[("te", "gzip")]),
    ("a pseudo-field behind a field", WELL, &[("x", "1"), (":path", "/b")]),
    ("a pseudo-field twice", WELL, &[(":path", "/b")]),
    ("an unknown pseudo-field", WELL, &[(":x", "1")]),
    ("a pseudo-field of responses", WELL, &[(":status", "200")]),
    ("a length that is not there", WELL, &[("content-length", "5")]),
    ("two lengths", WELL, &[("content-length", "0"), ("content-length", "5")]),
    ("a signed length", WELL, &[("content-length", "+0")]),
    ("a Host that contradicts :authority", WELL, &[("host", "b")]),
    ("two Hosts", WELL, &[("host", "a"), ("host", "a")]),
    ("no method", &[(":scheme", "http"), (":authority", "a"), (":path", "/")], &[]),
    ("no path", &[(":method", "GET"), (":scheme", "http"), (":authority", "a")], &[]),
    ("no host", &[(":method", "GET"), (":scheme", "http"), (":path", "/")], &[]),
    (
        "an empty path",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "")],
        &[],
    ),
    (
        "a path with a request line in it",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/ HTTP/1.1\r\nhost: b\r\n\r\nGET /admin"),
        ],
        &[],
    ),
    (
        "a path without a slash",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "x")],
        &[],
    ),
    (
        "a star for a GET",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "*")],
        &[],
    ),
    (
        "a method with a request line in it",
        &[
            (":method", "GET / HTTP/1.1\r\n\r\n"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/"),
        ],
        &[],
    ),
    (
        "an authority with userinfo",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "me@a"), (":path", "/")],
        &[],
    ),
    (
        "an authority with a path",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "a/b"), (":path", "/")],
        &[],
    ),
    (
        "another scheme",
        &[(":method", "GET"), (":scheme", "ftp"), (":authority", "a"), (":path", "/")],
        &[],
    ),
];

#[test]
fn malformed_heads_over_http_2_never_reach_the_upstream() {
    let (recorder, seawall) = stage();
    let mut wrong = Vec::new();
    for (name, pseudo, fields) in REFUSED {
        let mut stream = http2::connect(seawall.address());
        let fields = [*pseudo, *fields].concat();
        stream.write_all(&http2::request(1, END_STREAM, &fields)).unwrap();
        let answer = Http2.next(&mut stream);
        let refused = match &answer {
            None => true,
            Some(frame) if frame.kind == HEADERS => !frame.payload.starts_with(&http2::status(200)),
            Some(frame) => matches!(frame.kind, RST_STREAM | GOAWAY),
        };
        if !refused || !recorder.requests().is_empty() {
            wrong.push(format!("{name}: {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seawall.cells("seawall_failures_total").is_empty());

    let mut stream = http2::connect(seawall.address());
    stream.write_all(&http2::request(1, END_STREAM, WELL)).unwrap();
    let frame = Http2.next(&mut stream).unwrap();
    assert!(frame.payload.starts_with(&http2::status(200)), "a good one is served: {frame:?}");
    let expected = "GET / HTTP/1.1\r\nhost: a\r\nvia: 2.0 wall\r\nx-forwarded-for: 127.0.0.1\r\n\
        x-real-ip: 127.0.0.1\r\n\
        x-forwarded-proto: http\r\nx-forwarded-host: a\r\n\
        forwarded: for=127.0.0.1;host=\"a\";proto=http\r\nx-request-id: ID\r\n\r\n";
    assert_eq!(recorder.requests(), [expected.as_bytes()]);
}

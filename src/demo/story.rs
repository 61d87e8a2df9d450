//! The stories: every fault of the demonstration with its bytes, in the order of the table.

use super::fault::{Expected, Fault, Step, Transport, Upstream};
use crate::failure::Kind;

/// The page: not a fault, but served by the same means.
pub const PAGE: &[Step] = &[Step::Page];

/// What the app says at every other path.
pub const NOT_FOUND: &[Step] =
    &[Step::Answer("404 Not Found", "text/plain", "The demo app has nothing here.\n")];

/// What the app says to what is not HTTP.
pub const BAD_REQUEST: &[Step] =
    &[Step::Answer("400 Bad Request", "text/plain", "This port speaks plain HTTP/1.1.\n")];

const PYTHON: &str = "Traceback (most recent call last):\n  \
    File \"/srv/app/orders.py\", line 42, in list_orders\n    \
    rows = db.query(\"SELECT * FROM orders\", password=\"hunter2\")\n  \
    File \"/srv/app/db.py\", line 17, in query\n    return self.pool[shard].run(sql)\n\
    KeyError: 'shard-7'\n";

const DEBUG_PAGE: &str = "<!doctype html>\n<html><head><title>KeyError at /orders</title></head>\n\
    <body><h1>KeyError at /orders</h1>\n<p>You're seeing this error because you have \
    <code>DEBUG = True</code> in your Django settings file.</p>\n\
    <h2>Traceback</h2>\n<pre>Traceback (most recent call last):\n  \
    File \"/srv/app/orders.py\", line 42, in list_orders\n    return cache[key]\n\
    KeyError: 'orders'</pre>\n<table><tr><td>DATABASE_PASSWORD</td><td>hunter2</td></tr></table>\n\
    </body></html>\n";

const POSTGRES: &str = "psycopg2.OperationalError: connection to server at \"10.0.7.3\", port \
    5432 failed: FATAL: password authentication failed for user \"shop\" (tried hunter2)\n";

const HELLO: Step = Step::Send(b"\x81\x05hello");

/// Every fault, in the order of the table.
pub static FAULTS: &[Fault] = &[
    http(
        "healthy",
        "The app is well: its answer passes untouched.",
        &[Step::Answer("200 OK", "text/plain", "All is well.\n")],
        "200 text/plain",
        Expected::Healthy,
        None,
    ),
    http(
        "crash",
        "The app dies before it has sent a byte.",
        &[Step::Reset],
        "connection reset, no answer",
        Expected::Answered,
        Some(Kind::ConnectionTerminated),
    ),
    http(
        "crash-in-head",
        "The app dies in the middle of the response head.",
        &[Step::Send(b"HTTP/1.1 200 OK\r\nContent-Type: text/pl")],
        "cut off in the head",
        Expected::Answered,
        Some(Kind::HttpResponseIncomplete),
    ),
    http(
        "crash-in-body",
        "The app dies after a part of a small body.",
        &[Step::Send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4096\r\n\r\n\
            {\"orders\": [{\"id\": 1, \"state\": \"pa",
        )],
        "200 json, cut off",
        Expected::Answered,
        Some(Kind::HttpResponseIncomplete),
    ),
    http(
        "crash-in-stream",
        "The app dies in a long streamed body: the status has already been sent, so seawall breaks \
        the transfer off where nobody can take it for whole.",
        &[
            Step::Send(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n",
            ),
            Step::Chunks(32),
        ],
        "200 text/plain, cut off",
        Expected::CutOff,
        Some(Kind::HttpResponseIncomplete),
    ),
    http(
        "hang",
        "The app accepts the request and never answers.",
        &[Step::Hang],
        "no answer within 3 s",
        Expected::Answered,
        Some(Kind::HttpResponseTimeout),
    ),
    http(
        "stall",
        "The app stops in the middle of a body and keeps the connection open.",
        &[
            Step::Send(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4096\r\n\r\n\
                {\"orders\": [",
            ),
            Step::Hang,
        ],
        "200 json, then silence",
        Expected::Answered,
        Some(Kind::ConnectionReadTimeout),
    ),
    http(
        "garbage",
        "The app answers with bytes that are not HTTP.",
        &[Step::Send(b"\x00\x01panic: hunter2 at 0xdeadbeef\x02\xff\r\n\r\n")],
        "not HTTP",
        Expected::Answered,
        Some(Kind::HttpProtocolError),
    ),
    http(
        "tls-bytes",
        "The port that should speak plain HTTP answers with a TLS alert.",
        &[Step::Send(b"\x15\x03\x01\x00\x02\x02\x46")],
        "not HTTP",
        Expected::Answered,
        Some(Kind::HttpProtocolError),
    ),
    http(
        "two-lengths",
        "The response has two Content-Lengths that differ: nobody knows where it ends.",
        &[Step::Send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\
            Content-Length: 12\r\n\r\nhello, world",
        )],
        "200 with two lengths",
        Expected::Answered,
        Some(Kind::HttpProtocolError),
    ),
    http(
        "bad-chunk",
        "The chunked response has a chunk whose size is not a number.",
        &[Step::Send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
            4\r\n[1,2\r\nzz\r\n,3]\r\n0\r\n\r\n",
        )],
        "200 json, bad chunk",
        Expected::Answered,
        Some(Kind::HttpResponseTransferCoding),
    ),
    http(
        "big-head",
        "The response head is 98 KiB of fields.",
        &[
            Step::Send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n"),
            Step::Repeat(FIELD, 98),
            Step::Send(b"\r\nok\n"),
        ],
        "200 text/plain, 98 KiB head",
        Expected::Answered,
        Some(Kind::HttpResponseHeaderSectionSize),
    ),
    http(
        "big-field",
        "One field of the response is 40 KiB long: a cookie that grew.",
        &[
            Step::Send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n"),
            Step::Send(b"Set-Cookie: cart="),
            Step::Repeat(b"12345678", 5 * 1024),
            Step::Send(b"\r\n\r\nok\n"),
        ],
        "200 text/plain, 40 KiB head",
        Expected::Answered,
        Some(Kind::HttpResponseHeaderSize),
    ),
    http(
        "stack-trace",
        "The app shows its stack trace, with a password in it.",
        &[Step::Answer("500 Internal Server Error", "text/plain", PYTHON)],
        "500 text/plain, leaks",
        Expected::Answered,
        Some(Kind::ApplicationError),
    ),
    http(
        "debug-page",
        "The app shows its framework's debug page, settings included.",
        &[Step::Answer("500 Internal Server Error", "text/html; charset=utf-8", DEBUG_PAGE)],
        "500 text/html, leaks",
        Expected::Answered,
        Some(Kind::ApplicationError),
    ),
    http(
        "empty-500",
        "The app answers 500 and says nothing.",
        &[Step::Send(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")],
        "500 without content",
        Expected::Answered,
        Some(Kind::ApplicationError),
    ),
    http(
        "json-500",
        "The app answers 500 on purpose, with JSON for its clients: that passes.",
        &[Step::Answer(
            "500 Internal Server Error",
            "application/json",
            "{\"error\": \"order_locked\", \"retry\": false}\n",
        )],
        "500 json",
        Expected::Passed,
        Some(Kind::ApplicationError),
    ),
    http(
        "dependency",
        "The app answers 503 because something behind it is down.",
        &[Step::Answer("503 Service Unavailable", "text/plain", "cache at 10.0.7.9 (hunter2) down\n")],
        "503 text/plain, leaks",
        Expected::Answered,
        Some(Kind::DependencyFailure),
    ),
    Fault {
        dependency: Some("postgres"),
        ..http(
            "postgres",
            "The app answers 500 with a database error; a rule in the configuration recognises it \
            and names the dependency.",
            &[Step::Answer("500 Internal Server Error", "text/plain", POSTGRES)],
            "500 text/plain, leaks",
            Expected::Answered,
            Some(Kind::DependencyFailure),
        )
    },
    Fault {
        upstream: Upstream::Nobody,
        ..http(
            "refused",
            "The app is down: nobody listens on its port.",
            &[],
            "connection refused",
            Expected::Answered,
            Some(Kind::ConnectionRefused),
        )
    },
    Fault {
        upstream: Upstream::NoName,
        ..http(
            "dns",
            "The app's host name does not exist.",
            &[],
            "name not found",
            Expected::Answered,
            Some(Kind::DnsError),
        )
    },
    Fault {
        upstream: Upstream::PlainText,
        ..http(
            "tls",
            "The app speaks plain HTTP where TLS is expected.",
            &[],
            "TLS handshake failed",
            Expected::Answered,
            Some(Kind::TlsProtocolError),
        )
    },
    socket(
        "echo",
        "The app is well: it returns every message and closes when asked to.",
        &[Step::Upgrade, HELLO, Step::Echo],
        "echo, Close 1000",
        Expected::Healthy,
        None,
    ),
    socket(
        "crash",
        "The app dies while the WebSocket is idle.",
        &[Step::Upgrade, HELLO],
        "1 message, 1006 (no Close)",
        Expected::Closed,
        Some(Kind::ConnectionTerminated),
    ),
    socket(
        "crash-in-frame",
        "The app dies in the middle of a frame.",
        &[Step::Upgrade, HELLO, Step::Send(b"\x82\x7e\x04\x00"), Step::Repeat(b"x", 100)],
        "1 message, 1006 in mid-frame",
        Expected::Closed,
        Some(Kind::ConnectionTerminated),
    ),
    socket(
        "crash-in-message",
        "The app dies between two fragments of a message.",
        &[Step::Upgrade, HELLO, Step::Send(b"\x01\x0ahalf of a ")],
        "1 message, 1006 in mid-message",
        Expected::Closed,
        Some(Kind::ConnectionTerminated),
    ),
    socket(
        "crash-in-large-frame",
        "The app dies a quarter into a frame of 1 MiB.",
        &[
            Step::Upgrade,
            HELLO,
            Step::Send(b"\x82\x7f\x00\x00\x00\x00\x00\x10\x00\x00"),
            Step::Repeat(FIELD, 256),
        ],
        "1 message, 1006 in mid-frame",
        Expected::Closed,
        Some(Kind::ConnectionTerminated),
    ),
    socket(
        "freeze",
        "The app stops in its tracks: no message, no pong, no end.",
        &[Step::Upgrade, HELLO, Step::Hang],
        "1 message, then silence",
        Expected::Closed,
        Some(Kind::ConnectionReadTimeout),
    ),
    socket(
        "close-1005",
        "The app closes with 1005, which may not be on the wire.",
        &[Step::Upgrade, HELLO, Step::Close(1005, "")],
        "1 message, illegal Close 1005",
        Expected::Closed,
        Some(Kind::WebsocketProtocolError),
    ),
    socket(
        "close-1006",
        "The app closes with 1006, which may not be on the wire.",
        &[Step::Upgrade, HELLO, Step::Close(1006, "")],
        "1 message, illegal Close 1006",
        Expected::Closed,
        Some(Kind::WebsocketProtocolError),
    ),
    socket(
        "close-1011",
        "The app fails and says why, to everybody: the code passes, the reason does not.",
        &[Step::Upgrade, HELLO, Step::Close(1011, "KeyError in db.py:17, password=hunter2")],
        "1 message, Close 1011, leaks",
        Expected::Closed,
        Some(Kind::ApplicationError),
    ),
    socket(
        "close-1014",
        "The app closes with 1014: something behind it failed.",
        &[Step::Upgrade, HELLO, Step::Close(1014, "cache at 10.0.7.9 is down (hunter2)")],
        "1 message, Close 1014, leaks",
        Expected::Closed,
        Some(Kind::DependencyFailure),
    ),
    socket(
        "reserved-opcode",
        "The app sends a frame with an opcode that does not exist.",
        &[Step::Upgrade, HELLO, Step::Send(b"\x83\x02hm"), Step::Hang],
        "1 message, reserved opcode",
        Expected::Closed,
        Some(Kind::WebsocketProtocolError),
    ),
    socket(
        "masked-frame",
        "The app masks its frame, which only clients may do.",
        &[Step::Upgrade, HELLO, Step::Send(b"\x81\x82\x01\x02\x03\x04hm"), Step::Hang],
        "1 message, masked frame",
        Expected::Closed,
        Some(Kind::WebsocketProtocolError),
    ),
    socket(
        "bad-utf8",
        "The app sends a text message that is not UTF-8.",
        &[Step::Upgrade, HELLO, Step::Send(b"\x81\x04hm\xff\xfe"), Step::Hang],
        "1 message, text not UTF-8",
        Expected::Closed,
        Some(Kind::WebsocketProtocolError),
    ),
    socket(
        "handshake-crash",
        "The app dies before it answers the handshake.",
        &[],
        "connection closed, no answer",
        Expected::Answered,
        Some(Kind::ConnectionTerminated),
    ),
    socket(
        "handshake-500",
        "The app answers the handshake with 500 and a stack trace.",
        &[Step::Answer("500 Internal Server Error", "text/plain", PYTHON)],
        "500 text/plain, leaks",
        Expected::Answered,
        Some(Kind::HttpUpgradeFailed),
    ),
    socket(
        "wrong-accept",
        "The app answers the handshake with a wrong Sec-WebSocket-Accept.",
        &[
            Step::Send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
            ),
            Step::Hang,
        ],
        "101 with a wrong accept value",
        Expected::Answered,
        Some(Kind::HttpUpgradeFailed),
    ),
];

/// One field line of exactly 1 KiB.
const FIELD: &[u8] = &{
    let mut line = [b'x'; 1024];
    let name = *b"X-Filler: ";
    let mut at = 0;
    while at < name.len() {
        line[at] = name[at];
        at += 1;
    }
    line[1022] = b'\r';
    line[1023] = b'\n';
    line
};

const fn http(
    name: &'static str,
    about: &'static str,
    steps: &'static [Step],
    without: &'static str,
    expected: Expected,
    kind: Option<Kind>,
) -> Fault {
    let upstream = Upstream::App(steps);
    let transport = Transport::Http;
    Fault { name, about, transport, upstream, without, expected, kind, dependency: None }
}

const fn socket(
    name: &'static str,
    about: &'static str,
    steps: &'static [Step],
    without: &'static str,
    expected: Expected,
    kind: Option<Kind>,
) -> Fault {
    let upstream = Upstream::App(steps);
    let transport = Transport::WebSocket;
    Fault { name, about, transport, upstream, without, expected, kind, dependency: None }
}

//! The stories of upstreams that speak HTTP/2, told in frames made by hand.

use seawall::failure::{Kind, Phase};

use super::{Fault, Stage, table};
use crate::support::client::Request;
use crate::support::http2::{
    self as frames, CANCEL, DATA, END_STREAM, HEADERS, INTERNAL_ERROR, NO_ERROR, PROTOCOL_ERROR,
    REFUSED_STREAM, data, goaway, head, last_data, reset, trailers,
};
use crate::support::script::{Script, Step};
use crate::support::seawall::IMPATIENT;

const TRACE: &str =
    "Traceback (most recent call last):\n  File \"/srv/app.py\", line 7, in hunter2\n";

/// A row whose upstream plays this script.
fn story(name: &'static str, kind: Kind, phase: Phase, script: Script) -> Fault {
    with(name, kind, phase, "", script)
}

/// A row with settings of the upstream.
fn with(name: &'static str, kind: Kind, phase: Phase, settings: &str, script: Script) -> Fault {
    let settings = match settings {
        "" => "protocol: http2".to_owned(),
        more => format!("protocol: http2, {more}"),
    };
    table::staged(name, kind, phase, move || Stage::playing(script.clone(), &settings))
}

/// The request has been read; these frames answer it, and the connection lives on.
fn answer(frames: impl AsRef<[u8]>) -> Script {
    Script::http2_request().then_well_http2(frames)
}

/// The request has been read; these frames begin an answer.
fn begin(frames: impl AsRef<[u8]>) -> Script {
    Script::http2_request().write(frames)
}

fn json() -> Vec<u8> {
    head(200, &[("content-type", "application/json"), ("server", "hunter2/1.0")])
}

fn sized(length: &str) -> Vec<u8> {
    head(200, &[("content-length", length)])
}

/// Every row.
pub fn faults() -> Vec<Fault> {
    let mut all = before_a_head();
    all.extend(heads());
    all.extend(contents());
    all.extend(silences());
    all.extend(committed());
    all.extend(apps());
    all
}

fn before_a_head() -> Vec<Fault> {
    let crash = |name, script| story(name, Kind::ConnectionTerminated, Phase::Head, script);
    let half_a_head = &head(200, &[("server", "hunter2")])[..15];
    let old = "HTTP/1.1 400 Bad Request\r\nServer: hunter2\r\n\r\n";
    vec![
        crash("HTTP/2: a FIN before a head", Script::http2_request().fin()),
        crash("HTTP/2: a RST before a head", Script::http2_request().reset()),
        crash("HTTP/2: a FIN within a head", begin(half_a_head).fin()),
        crash("HTTP/2: a FIN instead of SETTINGS", Script::read_preface().fin()),
        crash("HTTP/2: RST_STREAM before a head", answer(reset(CANCEL))),
        crash("HTTP/2: RST_STREAM with INTERNAL_ERROR", answer(reset(INTERNAL_ERROR))),
        crash("HTTP/2: RST_STREAM with NO_ERROR", answer(reset(NO_ERROR))),
        crash("HTTP/2: REFUSED_STREAM", answer(reset(REFUSED_STREAM))),
        crash("HTTP/2: GOAWAY for all streams", begin(goaway(0, NO_ERROR)).fin()),
        crash("HTTP/2: GOAWAY with an error", begin(goaway(1, PROTOCOL_ERROR)).fin()),
        crash("HTTP/2: a GOAWAY that promises an answer", begin(goaway(1, NO_ERROR)).fin()),
        story(
            "HTTP/2: an upstream that speaks HTTP/1.1",
            Kind::HttpProtocolError,
            Phase::Head,
            Script::read_preface().write(old).fin(),
        ),
    ]
}

fn heads() -> Vec<Fault> {
    let bad =
        |name, frames: Vec<u8>| story(name, Kind::HttpProtocolError, Phase::Head, answer(frames));
    // RFC 9113 §5.4.1: the whole connection is lost then.
    let fatal = |name, frames: Vec<u8>| {
        story(name, Kind::HttpProtocolError, Phase::Head, begin(frames).hang())
    };
    let over = |name, kind, settings: &str, frames: Vec<u8>| {
        with(name, kind, Phase::Head, settings, answer(frames))
    };
    let no_status = frames::frame(HEADERS, 4 | END_STREAM, 1, frames::field("a", "hunter2"));
    let many: Vec<_> = (0..40).map(|_| ("x-many", "hunter2")).collect();
    let huge = "h".repeat(3000);
    vec![
        bad("HTTP/2: a field name in upper case", head(200, &[("X-Upper", "hunter2")])),
        bad("HTTP/2: a field of a connection", head(200, &[("connection", "close")])),
        bad("HTTP/2: no status", no_status),
        bad("HTTP/2: a 101", head(101, &[])),
        bad("HTTP/2: two lengths", head(200, &[("content-length", "1"), ("content-length", "2")])),
        bad("HTTP/2: a length that is no number", head(200, &[("content-length", "-1")])),
        bad("HTTP/2: endless interim responses", head(103, &[("link", "</hunter2>")]).repeat(100)),
        bad("HTTP/2: content before a head", data("hunter2")),
        fatal("HTTP/2: fields that do not decompress", frames::frame(HEADERS, 4, 1, [0xff; 9])),
        bad("HTTP/2: a frame that is too large", frames::frame(DATA, 0, 1, vec![b'h'; 20_000])),
        over(
            "HTTP/2: too many fields",
            Kind::HttpResponseHeaderSectionSize,
            "limits: { fields: 20 }",
            head(200, &many),
        ),
        over(
            "HTTP/2: a field that is too large",
            Kind::HttpResponseHeaderSize,
            "limits: { field: 1KiB }",
            head(200, &[("x-large", &huge)]),
        ),
        over(
            "HTTP/2: an announced length over the limit",
            Kind::HttpResponseBodySize,
            "limits: { body: 1KiB }",
            sized("2000"),
        ),
    ]
}

fn contents() -> Vec<Fault> {
    let cut = |name, script| story(name, Kind::HttpResponseIncomplete, Phase::Body, script);
    let bad =
        |name, frames: Vec<u8>| story(name, Kind::HttpProtocolError, Phase::Body, answer(frames));
    let half = || [sized("99"), data("hunter2")].concat();
    let some_json = || [json(), data("{\"hunter2\":")].concat();
    let long_trailers = "t".repeat(300);
    vec![
        cut("HTTP/2: a FIN in a small body", begin(half()).fin()),
        // A RST overtakes what still has to be written: the acknowledgement of our SETTINGS.
        cut("HTTP/2: a RST in a small body", begin(half()).then(Step::Http2Settled).reset()),
        cut("HTTP/2: RST_STREAM in a small body", answer([half(), reset(CANCEL)].concat())),
        cut("HTTP/2: RST_STREAM in JSON", answer([some_json(), reset(CANCEL)].concat())),
        cut("HTTP/2: a FIN in JSON of unknown length", begin(some_json()).fin()),
        cut("HTTP/2: GOAWAY in a small body", begin([half(), goaway(1, 2)].concat()).fin()),
        bad("HTTP/2: less content than announced", [sized("99"), last_data("hunter2")].concat()),
        bad("HTTP/2: more content than announced", [sized("3"), last_data("hunter2")].concat()),
        with(
            "HTTP/2: content over the limit",
            Kind::HttpResponseBodySize,
            Phase::Body,
            "limits: { body: 1KiB }",
            answer([json(), last_data("h".repeat(2000))].concat()),
        ),
        with(
            "HTTP/2: trailers over the limit",
            Kind::HttpResponseTrailerSectionSize,
            Phase::Body,
            "limits: { trailers: 100B }",
            answer([json(), data("{}"), trailers(&[("x-large", &long_trailers)])].concat()),
        ),
    ]
}

fn silences() -> Vec<Fault> {
    let hang =
        |name, kind, phase, script: Script| with(name, kind, phase, IMPATIENT, script.hang());
    let no_answer = Kind::HttpResponseTimeout;
    vec![
        hang("HTTP/2: no answer", no_answer, Phase::Head, Script::http2_request()),
        hang("HTTP/2: not even SETTINGS", no_answer, Phase::Head, Script::read_preface()),
        hang(
            "HTTP/2: a small body that stops",
            Kind::ConnectionReadTimeout,
            Phase::Body,
            begin([sized("99"), data("hunter2")].concat()),
        ),
        hang(
            "HTTP/2: a window that never opens",
            Kind::ConnectionWriteTimeout,
            Phase::Send,
            Script::http2(&[]).then(Step::Http2Frame),
        )
        .asked(Request::post(1_000_000)),
    ]
}

fn committed() -> Vec<Fault> {
    let large = [sized("999999"), data(vec![b'x'; 16_000]).repeat(5)].concat();
    let sent = || begin(&large).until_client_saw_head();
    let row = |name, kind, script| story(name, kind, Phase::Body, script).aborted();
    let cut = |name, script| row(name, Kind::HttpResponseIncomplete, script);
    vec![
        cut("HTTP/2: RST_STREAM in a large body", sent().then_well_http2(reset(CANCEL))),
        cut(
            "HTTP/2: REFUSED_STREAM in a large body",
            sent().then_well_http2(reset(REFUSED_STREAM)),
        ),
        cut("HTTP/2: a FIN in a large body", sent().fin()),
        cut("HTTP/2: a RST in a large body", sent().reset()),
        row(
            "HTTP/2: a large body that ends too early",
            Kind::HttpProtocolError,
            sent().then_well_http2(last_data("x")),
        ),
    ]
}

fn apps() -> Vec<Fault> {
    let app = |name, kind, frames: Vec<u8>| story(name, kind, Phase::Head, answer(frames));
    vec![
        app(
            "HTTP/2: a stack trace",
            Kind::ApplicationError,
            [head(500, &[("content-type", "text/plain")]), last_data(TRACE)].concat(),
        ),
        app(
            "HTTP/2: an empty 500",
            Kind::ApplicationError,
            frames::head_of(1, END_STREAM, 500, &[]),
        ),
        app(
            "HTTP/2: a 503 of the app",
            Kind::DependencyFailure,
            [head(503, &[("server", "hunter2")]), last_data("hunter2")].concat(),
        ),
    ]
}

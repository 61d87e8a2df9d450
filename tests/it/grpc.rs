//! gRPC: a call whose upstream fails ends with a status, in the head or in the trailers.
//!
//! The framing of gRPC messages is no concern of seawall's, and so none of these tests': content is
//! content.

use seawall::failure::{Kind, Outcome, Phase};

use crate::support::SECRET;
use crate::support::client::{Client, End, Request, Seen, Version};
use crate::support::http2::{
    CANCEL, END_STREAM, NO_ERROR, REFUSED_STREAM, data, goaway, head, head_of, last_data, reset,
    trailers,
};
use crate::support::script::{Nobody, Script, Upstream};
use crate::support::seawall::{Seawall, Told};

const GRPC: &str = "application/grpc+proto";

fn call() -> Request {
    Request::post(100).field("content-type", GRPC).field("te", "trailers")
}

/// The head of a gRPC response.
fn begun() -> Vec<u8> {
    head(200, &[("content-type", GRPC)])
}

fn trailer<'s>(seen: &'s Seen, name: &str) -> Option<&'s str> {
    seen.trailers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
}

/// A fault, and the call's status that it becomes.
struct Row {
    name: &'static str,
    script: Script,
    kind: Kind,
    phase: Phase,
    status: &'static str,
    /// The client has had a head and some content.
    committed: bool,
}

fn rows() -> Vec<Row> {
    let before = |name, kind, phase, status, script| Row {
        name,
        script,
        kind,
        phase,
        status,
        committed: false,
    };
    let behind = |name, kind, script| Row {
        name,
        script,
        kind,
        phase: Phase::Body,
        status: "13",
        committed: true,
    };
    let messages = || Script::http2_request().write([begun(), data("message hunt")].concat());
    let crash = Kind::ConnectionTerminated;
    let cut = Kind::HttpResponseIncomplete;
    let page = [head(503, &[("content-type", "text/html")]), last_data(SECRET)].concat();
    vec![
        before("a FIN", crash, Phase::Head, "13", Script::http2_request().fin()),
        before("a RST", crash, Phase::Head, "13", Script::http2_request().reset()),
        before(
            "RST_STREAM",
            crash,
            Phase::Head,
            "13",
            Script::http2_request().then_well_http2(reset(CANCEL)),
        ),
        before(
            "REFUSED_STREAM",
            crash,
            Phase::Head,
            "14",
            Script::http2_request().then_well_http2(reset(REFUSED_STREAM)),
        ),
        before(
            "GOAWAY",
            crash,
            Phase::Head,
            "14",
            Script::http2_request().write(goaway(0, NO_ERROR)).fin(),
        ),
        before(
            "a 503 of a proxy in between",
            Kind::DependencyFailure,
            Phase::Head,
            "13",
            Script::http2_request().then_well_http2(page),
        ),
        before(
            "a 500",
            Kind::ApplicationError,
            Phase::Head,
            "13",
            Script::http2_request().then_well_http2(head_of(1, END_STREAM, 500, &[])),
        ),
        behind("a FIN behind messages", cut, messages().until_client_saw_head().fin()),
        behind("a RST behind messages", cut, messages().until_client_saw_head().reset()),
        behind(
            "RST_STREAM behind messages",
            cut,
            messages().until_client_saw_head().then_well_http2(reset(CANCEL)),
        ),
        behind(
            "silence behind messages",
            Kind::ConnectionReadTimeout,
            messages().until_client_saw_head().hang(),
        ),
    ]
}

#[test]
fn every_fault_ends_the_call_with_a_status() {
    for row in rows() {
        let name = row.name;
        let upstream = Upstream::playing([row.script]);
        // Only who stays silent shall be given up soon.
        let settings = match row.kind {
            Kind::ConnectionReadTimeout => "protocol: http2, timeouts: { idle: 2s }",
            _ => "protocol: http2",
        };
        let seawall = Seawall::before_with(&upstream, settings);
        let mut client = Client::connect(Version::Http2, seawall.address());
        let seen = client.exchange(&call(), upstream.gate());
        assert_eq!((seen.status, &seen.end), (200, &End::Complete), "{name}: {seen:?}");
        assert_eq!(seen.field("content-type"), Some(GRPC), "{name}");
        let (status, message) = match row.committed {
            true => (trailer(&seen, "grpc-status"), trailer(&seen, "grpc-message")),
            false => (seen.field("grpc-status"), seen.field("grpc-message")),
        };
        assert_eq!(
            (status, message),
            (Some(row.status), Some(row.kind.name())),
            "{name}: {seen:?}"
        );
        if row.committed {
            assert_eq!(&*seen.text(), "message hunt", "{name}: all that came before");
        } else {
            assert!(seen.body.is_empty() && seen.trailers.is_empty(), "{name}: trailers-only");
        }
        assert!(!seen.everything().contains(SECRET), "{name}: {seen:?}");
        let (kind, phase) = (row.kind, row.phase);
        let told = Told { kind, phase, outcome: Outcome::Normalized, protocol: "grpc" };
        seawall.told_once(name, seen.field("x-request-id").unwrap(), &told);
    }
}

#[test]
fn a_server_that_is_down_is_unavailable() {
    let nobody = Nobody::new();
    let seawall = Seawall::at(&format!("http://{}", nobody.address()), "protocol: http2");
    let upstream = Upstream::healthy();
    for version in [Version::Http1, Version::Http2] {
        let mut client = Client::connect(version, seawall.address());
        let seen = client.exchange(&call(), upstream.gate());
        assert_eq!((seen.status, &seen.end), (200, &End::Complete));
        assert_eq!(seen.field("grpc-status"), Some("14"));
        assert_eq!(seen.field("grpc-message"), Some("connection_refused"));
    }
}

#[test]
fn a_status_of_the_app_is_the_apps_own_in_the_head_and_in_trailers() {
    let only = head_of(
        1,
        END_STREAM,
        200,
        &[("content-type", GRPC), ("grpc-status", "5"), ("grpc-message", "no such thing")],
    );
    let behind =
        [begun(), data("message"), trailers(&[("grpc-status", "13"), ("grpc-message", "mine")])];
    for (answer, in_head) in [(only, true), (behind.concat(), false)] {
        let upstream = Upstream::playing([Script::http2_request().then_well_http2(answer)]);
        let seawall = Seawall::before_with(&upstream, "protocol: http2");
        let mut client = Client::connect(Version::Http2, seawall.address());
        let seen = client.exchange(&call(), upstream.gate());
        let message = match in_head {
            true => seen.field("grpc-message"),
            false => trailer(&seen, "grpc-message"),
        };
        assert_eq!(message, Some(if in_head { "no such thing" } else { "mine" }));
        assert!(seawall.cells("seawall_failures_total").is_empty());
    }
}

#[test]
fn a_committed_grpc_web_answer_over_http_1_is_cut_off_and_never_looks_whole() {
    let script = Script::http2_request()
        .write(
            [head(200, &[("content-type", "application/grpc-web+proto")]), data("mess")].concat(),
        )
        .until_client_saw_head()
        .fin();
    let upstream = Upstream::playing([script]);
    let seawall = Seawall::before_with(&upstream, "protocol: http2");
    let mut client = Client::connect(Version::Http1, seawall.address());
    let asked = Request::post(10).field("content-type", "application/grpc-web+proto");
    let seen = client.exchange(&asked, upstream.gate());
    assert_eq!(seen.status, 200);
    assert_ne!(seen.end, End::Complete);
}

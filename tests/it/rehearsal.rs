//! Failures on demand: any kind, only with the secret, and like a real one.

use seawall::failure::Kind;
use serde_json::Value;

use crate::support::client::{Client, End, Request, Version};
use crate::support::http2::{data, head};
use crate::support::script::{Script, Upstream, WELL};
use crate::support::seawall::Seawall;
use crate::support::websocket;

/// What stands in the file beside the example.
const SECRET: &str = "change-me-before-you-rehearse";

fn before(upstream: &Upstream, route: &str, settings: &str) -> Seawall {
    let address = upstream.address();
    Seawall::configured(&format!(
        "upstreams: {{ app: {{ endpoints: ['http://{address}']{settings} }} }}\n\
        rehearsal: {{ secret_file: config/rehearsal.secret }}\n\
        routes: [{{ upstream: app{route} }}]\n"
    ))
}

/// The field that asks for this. Leaked: requests of these tests have static fields.
fn asking(what: &str) -> &'static str {
    Box::leak(format!("{what};secret=\"{SECRET}\"").into_boxed_str())
}

fn field(what: &str) -> Request {
    Request::get().field("seawall-rehearse", asking(what))
}

#[test]
fn every_kind_can_be_rehearsed_and_looks_like_the_real_one_without_counting_as_one() {
    let upstream = Upstream::healthy();
    let seawall = before(&upstream, ", rehearse: true", "");
    for version in [Version::Http1, Version::Http2] {
        let mut client = Client::connect(version, seawall.address());
        for kind in Kind::ALL {
            let seen = client.exchange(&field(kind.name()), upstream.gate());
            assert_eq!((seen.status, &seen.end), (500, &End::Complete), "{kind}");
            let problem: Value = serde_json::from_slice(&seen.body).unwrap();
            assert_eq!(problem["type"], format!("urn:seawall:failure:{kind}"));
            let status = format!("seawall;error={kind};details=\"rehearsal\"");
            assert_eq!(seen.field("proxy-status"), Some(&*status));
        }
        let seen = client.exchange(&Request::get(), upstream.gate());
        assert_eq!(&*seen.text(), WELL);
    }
    assert_eq!(upstream.requests().len(), 2, "only what was not rehearsed");
    assert!(seawall.cells("seawall_failures_total").is_empty());
    let cells = seawall.cells("seawall_rehearsals_total");
    assert_eq!(cells.len(), Kind::ALL.len());
    assert!(cells.iter().all(|cell| cell.ends_with(" 2")), "{cells:?}");
}

#[test]
fn without_the_secret_or_on_another_route_it_is_as_if_nothing_was_asked() {
    let wrong = Request::get().field("seawall-rehearse", "dns_error;secret=\"change-me\"");
    for (route, request) in [
        (", rehearse: true", Request::get().field("seawall-rehearse", "dns_error")),
        (", rehearse: true", wrong),
        ("", field("dns_error")),
    ] {
        let upstream = Upstream::healthy();
        let seawall = before(&upstream, route, "");
        let mut client = Client::connect(Version::Http1, seawall.address());
        let seen = client.exchange(&request, upstream.gate());
        assert_eq!((seen.status, &*seen.text()), (200, WELL), "{route} {request:?}");
        let head = upstream.requests()[0].to_ascii_lowercase();
        assert!(
            !head.contains("rehearse") && !head.contains("change-me"),
            "no app sees it: {head}"
        );
    }
}

#[test]
fn a_mistake_of_somebody_who_knows_the_secret_is_told() {
    let upstream = Upstream::healthy();
    let seawall = before(&upstream, ", rehearse: true", "");
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(&field("conection_refused"), upstream.gate());
    assert_eq!(seen.status, 400);
}

#[test]
fn a_response_is_cut_off_after_as_many_bytes_as_asked_for() {
    for (version, after) in [(Version::Http1, 0), (Version::Http1, 7), (Version::Http2, 7)] {
        let upstream = Upstream::healthy();
        let seawall = before(&upstream, ", rehearse: true", "");
        let mut client = Client::connect(version, seawall.address());
        let asked = field(&format!("http_response_incomplete;after={after}"));
        let seen = client.exchange(&asked, upstream.gate());
        assert_eq!((seen.status, &*seen.text()), (200, &WELL[..after]));
        assert_ne!(seen.end, End::Complete, "P1 holds in a rehearsal");
        assert!(seawall.cells("seawall_failures_total").is_empty());
    }
}

#[test]
fn a_websocket_ends_with_1011_after_as_many_messages_as_asked_for() {
    let three = [
        websocket::frame(0x81, "one"),
        websocket::frame(0x81, "two"),
        websocket::frame(0x81, "three"),
    ];
    for after in 0..=2 {
        let upstream = Upstream::playing([websocket::open().write(three.concat()).record()]);
        let seawall = before(&upstream, ", rehearse: true", "");
        let asked = asking(&format!("connection_read_timeout;after={after}"));
        let fields = format!("Seawall-Rehearse: {asked}\r\n");
        let (mut client, seen) = websocket::connect(seawall.address(), &fields);
        assert_eq!(seen.status, 101);
        let ended = websocket::read_to_end(&mut client).unwrap();
        assert_eq!((ended.code, &ended.end), (1011, &End::Fin));
        assert!(ended.reason.starts_with("connection_read_timeout"), "{}", ended.reason);
        let messages = ended.messages().0;
        assert_eq!(messages, [&b"one"[..], b"two", b"three"][..after]);
        assert!(seawall.cells("seawall_failures_total").is_empty());
    }
}

#[test]
fn a_websocket_handshake_can_fail_in_rehearsal() {
    let upstream = Upstream::healthy();
    let seawall = before(&upstream, ", rehearse: true", "");
    let fields = format!("Seawall-Rehearse: {}\r\n", asking("http_upgrade_failed"));
    let (_client, seen) = websocket::handshake(seawall.address(), &fields);
    assert_eq!(seen.status, 500);
}

#[test]
fn a_grpc_call_can_fail_before_and_behind_its_messages() {
    let media_type = "application/grpc";
    let answer = [head(200, &[("content-type", media_type)]), data("message")].concat();
    let upstream = Upstream::playing([Script::http2_request().write(answer).hang()]);
    let seawall = before(&upstream, ", rehearse: true", ", protocol: http2");
    let mut client = Client::connect(Version::Http2, seawall.address());
    let call = |what: &str| field(what).field("content-type", media_type);
    let seen = client.exchange(&call("connection_refused"), upstream.gate());
    assert_eq!((seen.status, seen.field("grpc-status")), (200, Some("14")));
    let seen = client.exchange(&call("connection_terminated;after=7"), upstream.gate());
    assert_eq!(&*seen.text(), "message");
    assert!(seen.trailers.contains(&("grpc-status".to_owned(), "13".to_owned())), "{seen:?}");
}

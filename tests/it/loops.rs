//! Requests that come past the same seawall again: by a client's hand, by an app that asks another
//! route, or in a loop. And those that shall go no further (Max-Forwards, RFC 9110 §7.6.2).

use crate::smuggling::{Recorder, stage};
use crate::support::client::{Client, End, Http1, Request, Version};
use crate::support::script::Gate;
use crate::support::seawall::Seawall;

fn via(times: usize) -> String {
    vec!["1.1 wall"; times].join(", ")
}

fn ask(seawall: &Seawall, lines: &str) -> crate::support::client::Seen {
    let mut client = Http1::connect(seawall.address());
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
    client.read(false, &Gate::default())
}

#[test]
fn a_second_pass_is_no_loop() {
    let (recorder, seawall) = stage();
    // The app of one route has asked another one, and handed Via on.
    assert_eq!(ask(&seawall, "Via: 1.1 wall\r\n").status, 200);
    assert_eq!(ask(&seawall, "Via: 1.1 other, 2.0 WALL (x), 1.1 wall\r\n").status, 200);
    assert_eq!(ask(&seawall, &format!("Via: {}\r\n", via(10))).status, 200);
    assert_eq!(recorder.requests().len(), 3);
    let last = String::from_utf8(recorder.requests().remove(2)).unwrap();
    assert!(last.contains(&format!("\r\nvia: {}\r\n", via(11))), "{last}");
    assert!(seawall.cells("seawall_client_failures_total").is_empty());
}

#[test]
fn a_loop_is_a_clients_failure_and_no_upstreams() {
    let (recorder, seawall) = stage();
    let mut ids = Vec::new();
    for lines in [
        format!("Via: {}\r\n", via(11)),
        "Via: 1.1 wall\r\n".repeat(11),
        format!("Via: 1.1 a (x, y), {}\r\n", via(100)),
    ] {
        let seen = ask(&seawall, &lines);
        assert_eq!((seen.status, seen.end), (500, End::Complete));
        assert_eq!(seen.field("proxy-status"), Some("seawall;error=proxy_loop_detected"));
        ids.push(seen.field("x-request-id").unwrap().to_owned());
    }
    assert!(recorder.requests().is_empty());
    let expected = ["{kind=\"proxy_loop_detected\"} 3"];
    assert_eq!(seawall.cells("seawall_client_failures_total"), expected);
    assert!(seawall.cells("seawall_failures_total").is_empty());
    let is_silent =
        seawall.until("the journal", |now| Some(ids.iter().all(|id| now.journal(id).is_empty())));
    assert!(is_silent, "not in the journal");
}

#[test]
fn a_loop_over_http_2_and_with_the_gateway_profile_is_told_alike() {
    let (_, app) = Recorder::start();
    let seawall = Seawall::configured(&format!(
        "forwarded: {{ name: wall, max_passes: 1 }}\nfailures: {{ profile: gateway }}\n\
        upstreams: {{ app: {{ endpoints: [http://{app}] }} }}\nroutes: [{{ upstream: app }}]\n"
    ));
    let mut client = Client::connect(Version::Http2, seawall.address());
    let once = Request::get().field("via", "1.1 wall");
    assert_eq!(client.exchange(&once, &Gate::default()).status, 200);
    let twice = Request::get().field("via", "1.1 wall, 2.0 wall");
    let seen = client.exchange(&twice, &Gate::default());
    assert_eq!(seen.status, 502);
    assert_eq!(seen.field("proxy-status"), Some("seawall;error=proxy_loop_detected"));
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

#[test]
fn a_real_loop_ends() {
    // A seawall whose upstream is itself: it must be started to know its address.
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = probe.local_addr().unwrap();
    drop(probe);
    let seawall = Seawall::configured(&format!(
        "listeners: [{{ address: '{address}' }}]\nforwarded: {{ name: wall }}\n\
        upstreams: {{ app: {{ endpoints: [http://{address}], retry: {{ attempts: 1 }} }} }}\n\
        routes: [{{ upstream: app }}]\n"
    ));
    assert_eq!(ask(&seawall, "").status, 500);
    let cells = seawall.cells("seawall_client_failures_total");
    assert_eq!(cells, ["{kind=\"proxy_loop_detected\"} 1"]);
}

#[test]
fn what_is_like_our_name_is_no_pass() {
    let (recorder, seawall) = stage();
    for member in
        ["1.1 wall-2", "1.1 a-wall", "1.1 wall:80", "1.1 x (1.1 wall)", "1.1 wall.test", "wall"]
    {
        let lines = format!("Via: {}\r\n", vec![member; 50].join(", "));
        assert_eq!(ask(&seawall, &lines).status, 200, "{member}");
    }
    assert_eq!(recorder.requests().len(), 6);
}

fn send(seawall: &Seawall, method: &str, lines: &str) -> crate::support::client::Seen {
    let mut client = Http1::connect(seawall.address());
    client.send(format!("{method} /a HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
    client.read(false, &Gate::default())
}

#[test]
fn max_forwards_is_counted_down_for_trace_and_options() {
    let (recorder, seawall) = stage();
    for (method, given, expected) in [
        ("OPTIONS", "5", "4"),
        ("TRACE", "1", "0"),
        ("OPTIONS", "99999999999999999999999", "18446744073709551614"),
        // Means nothing there.
        ("GET", "0", "0"),
        ("GET", "x", "x"),
    ] {
        let seen = send(&seawall, method, &format!("Max-Forwards: {given}\r\n"));
        assert_eq!(seen.status, 200, "{method} {given}");
        let request = String::from_utf8(recorder.requests().pop().unwrap()).unwrap();
        let lines: Vec<_> = request
            .lines()
            .filter_map(|line| {
                line.to_ascii_lowercase().strip_prefix("max-forwards: ").map(str::to_owned)
            })
            .collect();
        assert_eq!(lines, [expected], "{method} {given}");
    }
}

#[test]
fn a_request_with_no_forwards_left_is_answered_here() {
    let (recorder, seawall) = stage();
    let seen = send(&seawall, "OPTIONS", "Max-Forwards: 0\r\n");
    assert_eq!((seen.status, &*seen.text(), seen.end), (200, "", End::Complete));
    let lines = "Max-Forwards: 0\r\nX: 1\r\nCookie: secret\r\nAuthorization: secret\r\n";
    let seen = send(&seawall, "TRACE", lines);
    assert_eq!((seen.status, seen.field("content-type")), (200, Some("message/http")));
    let text = seen.text();
    assert!(text.starts_with("TRACE /a HTTP/1.1\r\n") && text.contains("X: 1\r\n"), "{text}");
    assert!(!text.contains("secret"), "{text}");
    for line in
        ["Max-Forwards: x\r\n", "Max-Forwards: -1\r\n", "Max-Forwards: 1\r\nMax-Forwards: 2\r\n"]
    {
        assert_eq!(send(&seawall, "OPTIONS", line).status, 400, "{line}");
    }
    assert!(recorder.requests().is_empty());
}

#[test]
fn max_forwards_counts_over_http_2_too() {
    let (recorder, seawall) = stage();
    let mut client = Client::connect(Version::Http2, seawall.address());
    let options = |left: &'static str| Request {
        method: "OPTIONS",
        ..Request::get().field("max-forwards", left)
    };
    assert_eq!(client.exchange(&options("0"), &Gate::default()).status, 200);
    assert!(recorder.requests().is_empty());
    assert_eq!(client.exchange(&options("3"), &Gate::default()).status, 200);
    let request = String::from_utf8(recorder.requests().remove(0)).unwrap();
    assert!(request.contains("\r\nmax-forwards: 2\r\n"), "{request}");
}

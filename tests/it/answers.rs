//! What an answer of seawall's own looks like: in an operator's words, for a script of another
//! origin, to HEAD, and to a conditional request.

use serde_json::Value;

use crate::support::client::{Client, End, Request, Version};
use crate::support::script::{Nobody, Script, Upstream};
use crate::support::seawall::Seawall;
use crate::support::websocket;

const BROWSER: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

fn down() -> (Nobody, String) {
    let nobody = Nobody::new();
    let url = format!("http://{}", nobody.address());
    (nobody, url)
}

fn with(endpoint: &str, failures: &str, routes: &str) -> Seawall {
    Seawall::configured(&format!(
        "upstreams: {{ app: {{ endpoints: ['{endpoint}'], retry: {{ attempts: 1 }} }} }}\n\
        failures: {{ {failures} }}\n\
        routes: [{routes}]\n"
    ))
}

#[test]
fn templates_are_chosen_by_route_kind_and_client() {
    let (_socket, endpoint) = down();
    let seawall = with(
        &endpoint,
        "templates: [{ file: config/errors/unavailable.html, kinds: [dependency_failure] }, \
         { file: config/errors/500.html }]",
        "{ upstream: app }, { path: /api/*, upstream: app, failures: { templates: \
         [{ file: config/errors/api.json }] } }",
    );
    let gate = Upstream::healthy();
    let mut client = Client::connect(Version::Http1, seawall.address());
    let mut ask = |path: &'static str, accept: &'static str| {
        let request = Request { path, ..Request::get().field("accept", accept) };
        client.exchange(&request, gate.gate())
    };
    let page = ask("/", BROWSER);
    let id = page.field("x-request-id").unwrap();
    assert_eq!((page.status, &page.end), (500, &End::Complete));
    assert!(page.text().contains("Something went wrong") && page.text().contains(id));
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(page.field("proxy-status"), Some("seawall;error=connection_refused"));

    let built_in = ask("/", "application/json");
    assert_eq!(built_in.field("content-type"), Some("application/problem+json"));

    let problem = ask("/api/cart", "application/json");
    let body: Value = serde_json::from_slice(&problem.body).unwrap();
    assert_eq!(body["type"], "https://api.example.com/problems/connection-refused");
    assert_eq!(body["instance"], problem.field("x-request-id").unwrap());
    assert_eq!(body["retry"], false);
    let built_in = ask("/api/cart", BROWSER);
    assert!(!built_in.text().contains("Something went wrong"), "a route's list replaces the other");
}

#[test]
fn a_template_is_given_the_kind_it_is_for() {
    let script = Script::read_head().write(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 7\r\n\r\nhunter2",
    );
    let upstream = Upstream::playing([script]);
    let endpoint = format!("http://{}", upstream.address());
    let templates = "templates: [{ file: config/errors/unavailable.html, kinds: \
                     [dependency_failure] }, { file: config/errors/500.html }]";
    let seawall = with(&endpoint, templates, "{ upstream: app }");
    let mut client = Client::connect(Version::Http2, seawall.address());
    let seen = client.exchange(&Request::get().field("accept", BROWSER), upstream.gate());
    assert!(seen.text().contains("Back soon"), "{seen:?}");
    assert_eq!(seen.field("retry-after"), Some("7"));
    assert!(!seen.everything().contains("hunter2"));
}

#[test]
fn a_script_of_a_listed_origin_may_read_every_answer_of_ours_and_no_other_may() {
    let (_socket, endpoint) = down();
    let cors = "cors: { origins: ['https://app.example.com'], credentials: true }";
    let seawall = with(&endpoint, cors, "{ upstream: app, path: /app/*, request_body: 10B }");
    let gate = Upstream::healthy();
    for (origin, allowed) in [
        ("https://app.example.com", Some("https://app.example.com")),
        ("https://evil.example.com", None),
        ("null", None),
    ] {
        for request in
            [Request::get(), Request::post(100), Request { method: "HEAD", ..Request::get() }]
        {
            let mut client = Client::connect(Version::Http1, seawall.address());
            let request = Request { path: "/app/x", ..request.field("origin", origin) };
            let seen = client.exchange(&request, gate.gate());
            assert!(matches!(seen.status, 500 | 413), "{seen:?}");
            assert_eq!(seen.field("access-control-allow-origin"), allowed, "{origin}");
            let credentials = allowed.map(|_| "true");
            assert_eq!(seen.field("access-control-allow-credentials"), credentials);
            assert_eq!(seen.field("vary"), Some("Origin"));
        }
    }
    let mut client = Client::connect(Version::Http2, seawall.address());
    let asked = Request { path: "/app/x", ..Request::get() };
    let seen = client.exchange(&asked.field("origin", "https://app.example.com"), gate.gate());
    let exposed = seen.field("access-control-expose-headers").unwrap();
    assert!(exposed.contains("x-request-id") && exposed.contains("proxy-status"), "{exposed}");
}

#[test]
fn a_route_says_otherwise_who_may_read_and_what_is_written() {
    let (_socket, endpoint) = down();
    let seawall = with(
        &endpoint,
        "cors: { origins: ['https://app.example.com'] }, templates: [{ file: config/errors/500.html }]",
        "{ upstream: app }, \
         { path: /shut/*, upstream: app, failures: { cors: off, templates: [] } }, \
         { path: /open/*, upstream: app, failures: { cors: { origins: ['*'] } } }",
    );
    let gate = Upstream::healthy();
    let mut client = Client::connect(Version::Http1, seawall.address());
    for (path, allowed, own_words) in [
        ("/", Some("https://app.example.com"), true),
        ("/shut/x", None, false),
        ("/open/x", Some("*"), true),
    ] {
        let asked = Request { path, ..Request::get().field("accept", BROWSER) };
        let seen = client.exchange(&asked.field("origin", "https://app.example.com"), gate.gate());
        assert_eq!(seen.field("access-control-allow-origin"), allowed, "{path}");
        assert_eq!(seen.text().contains("Something went wrong"), own_words, "{path}");
    }
}

#[test]
fn a_script_may_read_that_there_is_no_room_and_that_a_handshake_failed() {
    let refuses = Script::read_head().write("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
    let upstream = Upstream::playing([refuses, websocket::open().hang()]);
    let address = upstream.address();
    let seawall = Seawall::configured(&format!(
        "upstreams: {{ app: {{ endpoints: ['http://{address}'], limits: {{ websockets: 1 }} }} }}\n\
        failures: {{ cors: {{ origins: ['https://a.test'] }} }}\n\
        routes: [{{ upstream: app }}]\n"
    ));
    let origin = "Origin: https://a.test\r\n";
    let (_failed, failed) = websocket::handshake(seawall.address(), origin);
    let (_open, _) = websocket::connect(seawall.address(), origin);
    let (_full, full) = websocket::handshake(seawall.address(), origin);
    for (seen, status) in [(failed, 500), (full, 503)] {
        assert_eq!(seen.status, status);
        assert_eq!(seen.field("access-control-allow-origin"), Some("https://a.test"));
    }
}

#[test]
fn healthy_answers_keep_the_apps_own_cors_fields() {
    let answer = "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: https://own.test\r\n\
                  Content-Length: 2\r\n\r\nok";
    let upstream = Upstream::playing([Script::read_head().write(answer)]);
    let endpoint = format!("http://{}", upstream.address());
    let seawall = with(&endpoint, "cors: { origins: ['*'] }", "{ upstream: app }");
    let mut client = Client::connect(Version::Http1, seawall.address());
    let asked = Request::get().field("origin", "https://own.test");
    let seen = client.exchange(&asked, upstream.gate());
    assert_eq!(seen.field("access-control-allow-origin"), Some("https://own.test"));
}

#[test]
fn a_failed_head_has_the_fields_of_the_answer_and_no_content() {
    let (_socket, endpoint) = down();
    let seawall = with(&endpoint, "profile: internal", "{ upstream: app }");
    let gate = Upstream::healthy();
    for version in [Version::Http1, Version::Http2] {
        let mut client = Client::connect(version, seawall.address());
        let get = client.exchange(&Request::get(), gate.gate());
        let head = client.exchange(&Request { method: "HEAD", ..Request::get() }, gate.gate());
        assert_eq!((head.status, &head.end, head.body.len()), (500, &End::Complete, 0));
        for name in ["content-type", "content-length", "proxy-status", "cache-control"] {
            assert_eq!(head.field(name), get.field(name), "{version:?} {name}");
        }
    }
}

#[test]
fn conditional_requests_pass_and_a_failed_one_is_a_whole_500() {
    let passes = [
        ("304 Not Modified\r\nETag: \"a\"\r\n\r\n", 304),
        ("206 Partial Content\r\nContent-Range: bytes 0-1/9\r\nContent-Length: 2\r\n\r\nab", 206),
        ("416 Range Not Satisfiable\r\nContent-Range: bytes */9\r\nContent-Length: 0\r\n\r\n", 416),
        ("412 Precondition Failed\r\nContent-Length: 0\r\n\r\n", 412),
    ];
    let asked = || Request {
        fields: vec![
            ("if-none-match", "\"a\""),
            ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("range", "bytes=0-1"),
            ("if-range", "\"a\""),
        ],
        ..Request::get()
    };
    let cut = "HTTP/1.1 206 Partial Content\r\nETag: \"a\"\r\nContent-Range: bytes 0-8/9\r\n\
               Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nAccept-Ranges: bytes\r\n\
               Content-Length: 9\r\n\r\nab";
    for version in [Version::Http1, Version::Http2] {
        for (answer, status) in passes {
            let script = Script::read_head().write(format!("HTTP/1.1 {answer}"));
            let upstream = Upstream::playing([script]);
            let seawall = Seawall::before(&upstream);
            let mut client = Client::connect(version, seawall.address());
            let seen = client.exchange(&asked(), upstream.gate());
            assert_eq!((seen.status, &seen.end), (status, &End::Complete));
            let head = upstream.requests()[0].clone();
            for (name, value) in asked().fields {
                assert!(head.contains(&format!("{name}: {value}\r\n")), "{name} in {head}");
            }
        }
        let upstream = Upstream::playing([Script::read_head().write(cut).fin()]);
        let seawall = Seawall::before(&upstream);
        let mut client = Client::connect(version, seawall.address());
        let seen = client.exchange(&asked(), upstream.gate());
        assert_eq!((seen.status, &seen.end), (500, &End::Complete));
        for name in ["etag", "content-range", "last-modified", "accept-ranges"] {
            assert_eq!(seen.field(name), None, "{version:?} {name}");
        }
    }
}

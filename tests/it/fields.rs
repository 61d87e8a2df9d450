//! The table of fields, as clients and apps see it: what passes, in heads and in trailers, in each
//! direction, over each protocol. `src/message/field` tests the table itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use crate::smuggling::{Recorder, stage};
use crate::support::client::{Client, End, Http1, Request, Version};
use crate::support::http2::{data, head, trailers};
use crate::support::log;
use crate::support::script::{Gate, Script, Upstream};
use crate::support::seawall::Seawall;

/// Trailers that no message may pass on (RFC 9110 §6.5.1), and twins of theirs.
const FORBIDDEN: &[&str] = &[
    "age",
    "authorization",
    "cache-control",
    "client-cert",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "content_length",
    "cookie",
    "date",
    "expires",
    "forwarded",
    "front-end-https",
    "host",
    "if-match",
    "location",
    "max-forwards",
    "proxy",
    "proxy-authorization",
    "range",
    "retry-after",
    "seawall-anything",
    "seawall-rehearse",
    "set-cookie",
    "set_cookie",
    "trailer",
    "true-client-ip",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-forwarded-anything",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-original-url",
    "x-real-ip",
    "x-request-id",
    "x_forwarded_for",
    "x_request_id",
];

const ALLOWED: &[&str] = &[
    "digest",
    "etag",
    "grpc-message",
    "grpc-status",
    "repr-digest",
    "server-timing",
    "x-any_thing",
];

fn all() -> impl Iterator<Item = &'static str> {
    FORBIDDEN.iter().chain(ALLOWED).copied()
}

/// A request as an HTTP/2 app gets it.
#[derive(Clone, Debug)]
struct Got {
    target: String,
    fields: HeaderMap,
    trailers: Vec<String>,
}

/// An HTTP/2 app that records its requests and answers 204.
fn http2_app() -> (Arc<Mutex<Vec<Got>>>, SocketAddr) {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let recorded = Arc::clone(&requests);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let recorded = Arc::clone(&recorded);
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let recorded = Arc::clone(&recorded);
                        tokio::spawn(async move {
                            let (head, mut content) = request.into_parts();
                            while let Some(Ok(data)) = content.data().await {
                                let _ = content.flow_control().release_capacity(data.len());
                            }
                            let trailers = content.trailers().await.ok().flatten();
                            let names = trailers.unwrap_or_default();
                            let mut names: Vec<_> =
                                names.keys().map(|name| name.as_str().to_owned()).collect();
                            names.sort();
                            recorded.lock().unwrap().push(Got {
                                target: head.uri.path().to_owned(),
                                fields: head.headers,
                                trailers: names,
                            });
                            let answer = Response::builder().status(204).body(()).unwrap();
                            let _ = respond.send_response(answer, true);
                        });
                    }
                });
            }
        });
    });
    (requests, address)
}

/// A seawall called `wall` before this app.
fn before(app: SocketAddr, protocol: &str, settings: &str) -> Seawall {
    Seawall::configured(&format!(
        "forwarded: {{ name: wall{settings} }}\n\
        upstreams: {{ app: {{ endpoints: [http://{app}], protocol: {protocol}, retry: {{ attempts: 1 }} }} }}\n\
        routes: [{{ upstream: app }}]\n"
    ))
}

/// Sends a POST in one chunk with these trailers, over HTTP/1.1.
fn post_1(seawall: &Seawall, fields: &str, names: &[&str]) {
    let trailers: String = names.iter().map(|name| format!("{name}: 1\r\n")).collect();
    let mut client = Http1::connect(seawall.address());
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\n{fields}Transfer-Encoding: chunked\r\n\r\n\
        2\r\nhi\r\n0\r\n{trailers}\r\n"
    ));
    let seen = client.read(false, &Gate::default());
    assert!(matches!(seen.status, 200 | 204), "{seen:?}");
}

/// The same over HTTP/2.
fn post_2(seawall: &Seawall, names: &[&str]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(seawall.address()).await.unwrap();
        let (requests, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let mut requests = requests.ready().await.unwrap();
        let head = http::Request::post("http://a/").body(()).unwrap();
        let (response, mut sender) = requests.send_request(head, false).unwrap();
        sender.send_data(Bytes::from_static(b"hi"), false).unwrap();
        let names = names.iter().map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap());
        let trailers = names.map(|name| (name, HeaderValue::from_static("1"))).collect();
        sender.send_trailers(trailers).unwrap();
        assert!(response.await.unwrap().status().is_success());
    });
}

/// The names of the trailers of a recorded request, in order.
fn trailer_names(request: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(request).into_owned();
    let (_, section) = text.split_once("\r\n0\r\n").unwrap();
    let names = section.lines().filter_map(|line| Some(line.split_once(':')?.0.to_owned()));
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn request_trailers_pass_unless_a_head_alone_may_say_them() {
    let names: Vec<_> = all().collect();
    let (recorder, app) = Recorder::start();
    let seawall = before(app, "http1", "");
    post_1(&seawall, "", &names);
    post_2(&seawall, &names);
    for request in recorder.requests() {
        assert_eq!(trailer_names(&request), ALLOWED);
    }
    assert_eq!(recorder.requests().len(), 2);

    let (requests, app) = http2_app();
    let seawall = before(app, "http2", "");
    post_1(&seawall, "", &names);
    post_2(&seawall, &names);
    let requests = requests.lock().unwrap().clone();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(request.trailers, ALLOWED);
    }
}

#[test]
fn request_trailers_of_which_nothing_passes_end_the_content_all_the_same() {
    let (recorder, app) = Recorder::start();
    let seawall = before(app, "http1", "");
    post_1(&seawall, "", FORBIDDEN);
    post_2(&seawall, FORBIDDEN);
    let (requests, app) = http2_app();
    let seawall = before(app, "http2", "");
    post_1(&seawall, "", FORBIDDEN);
    post_2(&seawall, FORBIDDEN);
    assert_eq!(recorder.requests().len(), 2);
    assert!(recorder.requests().iter().all(|request| request.ends_with(b"hi\r\n0\r\n\r\n")));
    assert_eq!(requests.lock().unwrap().len(), 2);
}

#[test]
fn trusted_proxies_have_no_identities_in_trailers_either() {
    let (recorder, app) = Recorder::start();
    let seawall = before(app, "http1", ", trusted: [127.0.0.1], keep: [true-client-ip]");
    post_1(&seawall, "", &["x-forwarded-for", "true-client-ip", "x-request-id", "x-a"]);
    assert_eq!(trailer_names(&recorder.requests()[0]), ["x-a"]);
}

#[test]
fn trailers_that_connection_lists_are_for_one_hop() {
    let (recorder, app) = Recorder::start();
    let seawall = before(app, "http1", "");
    post_1(&seawall, "Connection: X-One, x-two\r\n", &["x-one", "x-two", "x-three"]);
    assert_eq!(trailer_names(&recorder.requests()[0]), ["x-three"]);
    for version in [Version::Http1, Version::Http2] {
        // Held, and flowing.
        for unbuffered in ["", "X-Accel-Buffering: no\r\n"] {
            let answer = format!(
                "HTTP/1.1 200 OK\r\n{unbuffered}Connection: x-one\r\nTransfer-Encoding: chunked\r\n\
                Connection: X-Two\r\n\r\n2\r\nhi\r\n0\r\nX-One: 1\r\nX-Two: 2\r\nX-Three: 3\r\n\r\n"
            );
            let upstream = Upstream::playing([Script::read_head().write(answer)]);
            let seawall = Seawall::before(&upstream);
            let mut client = Client::connect(version, seawall.address());
            let seen = client.exchange(&Request::get().field("te", "trailers"), upstream.gate());
            assert_eq!((&*seen.text(), seen.end), ("hi", End::Complete));
            assert_eq!(seen.trailers, [("x-three".to_owned(), "3".to_owned())], "{version:?}");
        }
    }
}

#[test]
fn response_trailers_pass_unless_a_head_alone_may_say_them() {
    let lines: String = all().map(|name| format!("{name}: 1\r\n")).collect();
    let pairs: Vec<_> = all().map(|name| (name, "1")).collect();
    for unbuffered in [false, true] {
        for version in [Version::Http1, Version::Http2] {
            let field = if unbuffered { "X-Accel-Buffering: no\r\n" } else { "" };
            let plain = format!(
                "HTTP/1.1 200 OK\r\n{field}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{lines}\r\n"
            );
            let fields: &[_] = if unbuffered { &[("x-accel-buffering", "no")] } else { &[] };
            let frames = [head(200, fields), data("hi"), trailers(&pairs)].concat();
            for (script, settings) in [
                (Script::read_head().write(plain), ""),
                (Script::http2_request().then_well_http2(frames), "protocol: http2"),
            ] {
                let upstream = Upstream::playing([script]);
                let seawall = Seawall::before_with(&upstream, settings);
                let mut client = Client::connect(version, seawall.address());
                let asked = Request::get().field("te", "trailers");
                let seen = client.exchange(&asked, upstream.gate());
                assert_eq!((&*seen.text(), seen.end), ("hi", End::Complete), "{settings}");
                let mut names: Vec<_> = seen.trailers.iter().map(|(name, _)| &**name).collect();
                names.sort_unstable();
                assert_eq!(names, ALLOWED, "{version:?} {settings} unbuffered: {unbuffered}");
            }
        }
    }
}

/// The field lines of the one recorded request, names in lower case.
fn recorded(recorder: &Recorder) -> Vec<(String, String)> {
    let requests = recorder.requests();
    let text = String::from_utf8_lossy(requests.last().unwrap()).into_owned();
    let (head, _) = text.split_once("\r\n\r\n").unwrap();
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect()
}

/// What strangers claim about themselves, and where they would like their request to go.
const CLAIMS: &[&str] = &[
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Ssl",
    "X-Forwarded-Server",
    "X-Forwarded-By",
    "X-Forwarded-Client-Cert",
    "X-Forwarded-User",
    "X-Original-Forwarded-For",
    "Forwarded",
    "X-Real-IP",
    "X-Request-Id",
    "True-Client-IP",
    "CF-Connecting-IP",
    "CF-Connecting-IPv6",
    "Fastly-Client-IP",
    "Fly-Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Azure-ClientIP",
    "X-Envoy-External-Address",
    "X-AppEngine-User-IP",
    "X-ProxyUser-Ip",
    "WL-Proxy-Client-IP",
    "Front-End-Https",
    "Client-Cert",
    "X-SSL-Client-Verify",
    "SSL_CLIENT_S_DN",
    "Remote-User",
    "X-Amzn-Oidc-Identity",
    "X-Goog-IAP-JWT-Assertion",
    "X-Authenticated-Userid",
    "X-Consumer-Username",
    "Tailscale-User-Login",
    "X-Originating-IP",
    "CF-Visitor",
    "X-Host",
    "Proxy",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-Original-Host",
];

#[test]
fn nothing_that_a_stranger_claims_reaches_the_app() {
    let (recorder, seawall) = stage();
    for name in CLAIMS {
        let twins = [(*name).to_owned(), name.replace('-', "_"), name.replacen('-', "_", 1)];
        for name in twins.iter().map(|name| name.to_ascii_uppercase()).chain([(*name).to_owned()]) {
            let mut client = Http1::connect(seawall.address());
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: 6.6.6.6\r\n\r\n"));
            assert_eq!(client.read(false, &Gate::default()).status, 200);
            let fields = recorded(&recorder);
            assert!(fields.iter().all(|(_, value)| value != "6.6.6.6"), "{name}: {fields:?}");
            let expected = [
                "host",
                "via",
                "x-forwarded-for",
                "x-real-ip",
                "x-forwarded-proto",
                "x-forwarded-host",
                "forwarded",
                "x-request-id",
            ];
            let names: Vec<_> = fields.iter().map(|(name, _)| &**name).collect();
            assert_eq!(names, expected, "{name}");
        }
    }
}

#[test]
fn nothing_that_a_stranger_claims_over_http_2_reaches_an_http_2_app() {
    let (requests, app) = http2_app();
    let seawall = before(app, "http2", "");
    let mut client = Client::connect(Version::Http2, seawall.address());
    let names: Vec<String> = CLAIMS
        .iter()
        .flat_map(|name| [name.to_ascii_lowercase(), name.to_ascii_lowercase().replace('-', "_")])
        .collect();
    let mut request = Request::get();
    for name in names {
        request = request.field(name.leak(), "6.6.6.6");
    }
    assert_eq!(client.exchange(&request, &Gate::default()).status, 204);
    let got = requests.lock().unwrap()[0].clone();
    assert!(got.fields.values().all(|value| value != "6.6.6.6"), "{got:?}");
    assert_eq!(got.fields["x-real-ip"], "127.0.0.1");
}

#[test]
fn what_is_like_a_claim_and_is_none_passes() {
    let (recorder, seawall) = stage();
    let names = [
        "x-http-method-override",
        "content_type",
        "user_id",
        "x-client-version",
        "x-forwardedfor",
        "seawalls",
        "authorization",
        "x-proxy",
        "origin",
    ];
    let lines: String = names.iter().map(|name| format!("{name}: 1\r\n")).collect();
    let mut client = Http1::connect(seawall.address());
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
    assert_eq!(client.read(false, &Gate::default()).status, 200);
    let fields = recorded(&recorder);
    for name in names {
        assert!(fields.contains(&(name.to_owned(), "1".to_owned())), "{name}: {fields:?}");
    }
}

#[test]
fn kept_fields_pass_whoever_sends_them() {
    let (recorder, app) = Recorder::start();
    let seawall = before(app, "http1", ", keep: [CF-Connecting-IP, x-original-url]");
    let mut client = Http1::connect(seawall.address());
    client.send(
        "GET / HTTP/1.1\r\nHost: a\r\nCf-Connecting-Ip: 6.6.6.6\r\nX-Original-Url: /x\r\n\
        True-Client-Ip: 6.6.6.6\r\n\r\n",
    );
    assert_eq!(client.read(false, &Gate::default()).status, 200);
    let fields = recorded(&recorder);
    let has = |name: &str, value: &str| fields.contains(&(name.to_owned(), value.to_owned()));
    assert!(has("cf-connecting-ip", "6.6.6.6") && has("x-original-url", "/x"), "{fields:?}");
    assert!(!has("true-client-ip", "6.6.6.6"), "{fields:?}");
}

#[test]
fn trusted_proxies_are_believed_and_twins_and_ways_never() {
    let (recorder, app) = Recorder::start();
    let seawall = before(app, "http1", ", trusted: [127.0.0.0/8]");
    let mut client = Http1::connect(seawall.address());
    client.send(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Port: 443\r\n\
        X-Forwarded-Proto: https\r\nX-Request-Id: 0123456789abcdef0123456789abcdef\r\nTrue-Client-Ip: 6.6.6.6\r\n\
        X_Forwarded_For: 7.7.7.7\r\nTrue_Client_Ip: 7.7.7.7\r\nProxy: http://7.7.7.7\r\n\
        X-Rewrite-Url: /7.7.7.7\r\nConnection: x-forwarded-proto\r\n\r\n",
    );
    assert_eq!(client.read(false, &Gate::default()).status, 200);
    let fields = recorded(&recorder);
    for (name, value) in [
        ("x-forwarded-for", "6.6.6.6, 127.0.0.1"),
        ("x-forwarded-port", "443"),
        ("x-forwarded-proto", "https"),
        ("x-real-ip", "6.6.6.6"),
        ("x-request-id", "ID"),
        ("true-client-ip", "6.6.6.6"),
    ] {
        assert!(fields.contains(&(name.to_owned(), value.to_owned())), "{name}: {fields:?}");
    }
    assert!(!fields.iter().any(|(_, value)| value.contains("7.7.7.7")), "{fields:?}");
}

#[test]
fn the_first_removal_of_a_field_is_logged_with_its_remedy() {
    let (_recorder, seawall) = stage();
    let mut client = Http1::connect(seawall.address());
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Zork: 1\r\n\r\n");
        assert_eq!(client.read(false, &Gate::default()).status, 200);
    }
    let name = "X-Forwarded-Zork";
    let lines = log::wait_for_lines("field", name, "the removal", |lines| {
        Some(lines.to_vec()).filter(|lines| !lines.is_empty())
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0]["remedy"].contains("forwarded.trusted"), "{lines:?}");
    assert!(lines[0]["remedy"].contains("forwarded.keep"), "{lines:?}");
    assert_eq!(lines[0]["client"], "127.0.0.1");
}

#[test]
fn no_seawall_field_of_an_app_reaches_a_client() {
    for version in [Version::Http1, Version::Http2] {
        let fields = [("seawall-session", "s"), ("x-request-id", "theirs"), ("x-a", "1")];
        let plain = "HTTP/1.1 200 OK\r\nSeawall-Session: s\r\nX-Request-Id: theirs\r\nX-A: 1\r\n\
                     Content-Length: 0\r\n\r\n";
        let frames = [head(200, &fields), data("x"), trailers(&[("x-b", "1")])].concat();
        for (script, settings) in [
            (Script::read_head().write(plain), ""),
            (Script::http2_request().then_well_http2(frames), "protocol: http2"),
        ] {
            let upstream = Upstream::playing([script]);
            let seawall = Seawall::before_with(&upstream, settings);
            let mut client = Client::connect(version, seawall.address());
            let seen = client.exchange(&Request::get(), upstream.gate());
            assert_eq!((seen.status, seen.field("x-a")), (200, Some("1")), "{settings}");
            assert_eq!(seen.field("seawall-session"), None, "{version:?} {settings}");
            assert_ne!(seen.field("x-request-id"), Some("theirs"), "{version:?} {settings}");
        }
    }
}

#[test]
fn via_of_a_response_names_the_protocol_that_it_was_received_over() {
    for version in [Version::Http1, Version::Http2] {
        for (script, settings, expected) in [
            ("HTTP/1.1", "", "1.1 "),
            ("HTTP/1.0", "", "1.0 "),
            ("HTTP/2", "protocol: http2", "2.0 "),
        ]
        .map(|(protocol, settings, expected)| {
            let script = match settings {
                "" => Script::read_head().write(format!(
                    "{protocol} 200 OK\r\nVia: 1.1 a\r\nContent-Length: 2\r\n\r\nhi"
                )),
                _ => Script::http2_request().then_well_http2(
                    [head(200, &[("via", "1.1 a")]), crate::support::http2::last_data("hi")]
                        .concat(),
                ),
            };
            (script, settings, expected)
        }) {
            let upstream = Upstream::playing([script]);
            let seawall = Seawall::before_with(&upstream, settings);
            let mut client = Client::connect(version, seawall.address());
            let seen = client.exchange(&Request::get(), upstream.gate());
            let vias: Vec<_> = seen
                .fields
                .iter()
                .filter(|(name, _)| name == "via")
                .map(|(_, via)| &**via)
                .collect();
            assert_eq!((seen.status, vias.len(), vias[0]), (200, 2, "1.1 a"), "{settings}");
            assert!(vias[1].starts_with(expected), "{vias:?} {settings} {version:?}");
        }
    }
}

#[test]
fn options_of_the_server_as_a_whole_is_a_star_over_http_2_too() {
    let (requests, app) = http2_app();
    let seawall = before(app, "http2", "");
    for target in ["*", "http://a", "https://a"] {
        let mut client = Http1::connect(seawall.address());
        client.send(format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.read(false, &Gate::default()).status, 204, "{target}");
    }
    let requests = requests.lock().unwrap();
    assert_eq!(requests.iter().map(|got| &*got.target).collect::<Vec<_>>(), ["*"; 3]);
}

#[test]
fn a_head_full_of_connection_options_is_read_in_one_pass() {
    // Each names a field that is there, or might be.
    let options = (0..9_000).map(|at| format!("x-{at:x}")).collect::<Vec<_>>().join(",");
    let fields: String = (0..90).map(|at| format!("X-{at:x}: 1\r\n")).collect();
    for version in [Version::Http1, Version::Http2] {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nConnection: {options}\r\n{fields}X-Stays: 1\r\nContent-Length: 0\r\n\r\n"
        );
        let upstream = Upstream::playing([Script::read_head().write(answer)]);
        let seawall = Seawall::before_with(&upstream, "limits: { head: 128KiB, field: 128KiB }");
        let mut client = Client::connect(version, seawall.address());
        let seen = client.exchange(&Request::get(), upstream.gate());
        assert_eq!((seen.status, seen.field("x-stays")), (200, Some("1")), "{version:?}");
        assert!(!seen.fields.iter().any(|(name, _)| name == "x-0" || name == "x-59"));
    }
    let (recorder, app) = Recorder::start();
    let seawall = before(app, "http1", "");
    let mut client = Http1::connect(seawall.address());
    client.send(format!(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: {options}\r\n{fields}X-Stays: 1\r\n\r\n"
    ));
    assert_eq!(client.read(false, &Gate::default()).status, 200);
    let fields = recorded(&recorder);
    assert!(fields.contains(&("x-stays".to_owned(), "1".to_owned())));
    assert!(!fields.iter().any(|(name, _)| name == "x-0" || name == "x-59"));
}

//! P8, and how long an attempt is waited for: what an attempt's end means, over both protocols.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::client::{Client, End, Http1, Request, Seen, Version};
use crate::support::http2::{
    CANCEL, END_STREAM, NO_ERROR, REFUSED_STREAM, data, goaway, head, head_of, last_data, reset,
    reset_of,
};
use crate::support::script::{Gate, Script, Step, Upstream, WELL};
use crate::support::seawall::Seawall;

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell";
const HTTP2: &str = "protocol: http2, retry: { attempts: 2 }";

fn send(seawall: &Seawall, upstream: &Upstream, request: &Request) -> Seen {
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(request, upstream.gate());
    assert_eq!(seen.end, End::Complete, "{seen:?}");
    seen
}

fn method(method: &'static str) -> Request {
    Request { method, ..Request::get() }
}

/// How the upstream answers a POST and takes it back; how often it got it.
fn post_taken_back(script: Script, settings: &str) -> (u16, usize) {
    let upstream = Upstream::playing([script]);
    let seawall = Seawall::before_with(&upstream, settings);
    let seen = send(&seawall, &upstream, &Request::post(1000));
    (seen.status, upstream.requests().len())
}

#[test]
fn a_post_that_was_answered_is_never_sent_again_whatever_the_upstream_says() {
    let begun = [head(201, &[("content-type", "text/html")]), data("created")].concat();
    let sized = [head(201, &[("content-length", "99")]), data("created")].concat();
    let answers = [
        ("a head and content", begun),
        ("held content", sized),
        ("a head alone", head(201, &[])),
        ("an interim response", head(103, &[("link", "</a.css>")])),
        ("a 100", head(100, &[])),
        ("content before a head", data("?")),
        ("a head that is malformed", head(201, &[("Upper", "x")])),
    ];
    for (name, answer) in answers {
        for (claim, word) in [("reset", reset(REFUSED_STREAM)), ("goaway", goaway(0, NO_ERROR))] {
            // In one read, and in two.
            let at_once = [answer.clone(), word.clone()].concat();
            for script in [
                Script::http2_request().write(at_once),
                Script::http2_request().write(&answer).then(Step::Http2Settled).write(&word),
            ] {
                let (status, times) = post_taken_back(script.fin(), HTTP2);
                assert_eq!((status, times), (500, 1), "{name}, {claim}");
            }
        }
    }
}

#[test]
fn a_post_is_never_sent_again_behind_a_byte_of_an_answer_on_a_connection_that_was_idle() {
    for answer in ["H", "HTTP/1.1 103 Early Hints\r\n\r\n", "\r\n", "garbage"] {
        for method in ["POST", "PATCH"] {
            let script = Script::read_head().write(ANSWER).then(Step::ReadHead).write(answer);
            let upstream = Upstream::playing([script.fin()]);
            let seawall = Seawall::before_with(&upstream, "retry: { attempts: 3 }");
            send(&seawall, &upstream, &Request::get());
            let post = Request { method, ..Request::get() };
            assert_eq!(send(&seawall, &upstream, &post).status, 500, "{answer:?}");
            assert_eq!(upstream.requests().len(), 2, "{answer:?}");
        }
    }
}

#[test]
fn a_post_whose_content_was_being_read_on_an_idle_connection_is_not_sent_again() {
    let script = Script::read_head().write(ANSWER).then(Step::ReadHead);
    let upstream = Upstream::playing([script.then(Step::ReadContent(10)).reset()]);
    let seawall = Seawall::before_with(&upstream, "retry: { attempts: 3 }");
    send(&seawall, &upstream, &Request::get());
    assert_eq!(send(&seawall, &upstream, &Request::post(60_000)).status, 500);
    assert_eq!(upstream.requests().len(), 2);
}

/// An endpoint whose every connection answers nothing; if `warm`, the first answers one request first.
fn hanging(warm: bool) -> Upstream {
    let first = match warm {
        true => Script::read_head().write(ANSWER).then(Step::ReadHead).hang(),
        false => Script::read_head().hang(),
    };
    Upstream::playing(std::iter::once(first).chain((0..20).map(|_| Script::read_head().hang())))
}

fn timed(seawall: &Seawall, upstream: &Upstream, request: &Request) -> (Seen, Duration) {
    let began = Instant::now();
    let seen = send(seawall, upstream, request);
    (seen, began.elapsed())
}

#[test]
fn a_time_out_is_never_free_and_never_followed_by_an_attempt_at_the_endpoint_that_hangs() {
    for settings in [
        "timeouts: { head: 400ms }, retry: { attempts: 2 }",
        "timeouts: { head: 400ms }, retry: { attempts: 8 }",
        "timeouts: { head: 400ms }, retry: { attempts: 4, attempt: 100ms }",
    ] {
        for request in [Request::get(), method("HEAD"), method("PUT"), method("DELETE")] {
            for warm in [false, true] {
                let upstream = hanging(warm);
                let seawall = Seawall::before_with(&upstream, settings);
                if warm {
                    send(&seawall, &upstream, &Request::get());
                }
                let (seen, took) = timed(&seawall, &upstream, &request);
                assert_eq!(seen.status, 500, "{settings}");
                let error = seen.field("proxy-status");
                assert_eq!(error, Some("seawall;error=http_response_timeout"));
                let executed = upstream.requests().len() - usize::from(warm);
                assert_eq!(executed, 1, "{settings} {} {warm}", request.method);
                assert!(took >= Duration::from_millis(400), "{took:?}");
            }
        }
    }
}

fn urls(upstreams: &[&Upstream]) -> String {
    let url = |upstream: &&Upstream| format!("'http://{}'", upstream.address());
    upstreams.iter().map(url).collect::<Vec<_>>().join(", ")
}

#[test]
fn endpoints_that_all_hang_share_the_time_for_the_head() {
    for (attempt, executions) in [("0s", 1), ("300ms", 2)] {
        let (one, other) = (hanging(false), hanging(false));
        let settings =
            format!("timeouts: {{ head: 1s }}, retry: {{ attempts: 8, attempt: {attempt} }}");
        let seawall = Seawall::at(&urls(&[&one, &other]), &settings);
        let (seen, took) = timed(&seawall, &one, &Request::get());
        assert_eq!(seen.status, 500);
        let executed = one.requests().len() + other.requests().len();
        assert_eq!(executed, executions, "each once at most, attempt: {attempt}");
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(5));
        assert!(least <= took && took < most, "{took:?}");
    }
}

#[test]
fn an_attempt_with_a_time_of_its_own_gives_way_to_another_endpoint() {
    let (hangs, well) = (hanging(false), Upstream::healthy());
    let settings = "retry: { attempts: 2, attempt: 2s }, balance: round_robin";
    let seawall = Seawall::at(&urls(&[&hangs, &well]), settings);
    for _ in 0..2 {
        let seen = send(&seawall, &well, &Request::get());
        assert_eq!((seen.status, &*seen.text()), (200, WELL));
    }
    let cells = seawall.cells("seawall_failures_total");
    assert_eq!(cells.len(), 1, "{cells:?}");
    assert!(cells[0].contains("http_response_timeout"), "{cells:?}");
    assert!(cells[0].contains("recovered"), "{cells:?}");
}

#[test]
fn a_slow_endpoint_without_another_one_has_all_of_the_time() {
    let slow = Script::read_head().then(Step::Pause(300)).write(ANSWER).fin();
    let upstream = Upstream::playing([slow]);
    let seawall = Seawall::before_with(&upstream, "retry: { attempts: 4, attempt: 100ms }");
    assert_eq!(send(&seawall, &upstream, &Request::get()).status, 200);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_connection_that_is_never_accepted_takes_of_the_time_for_the_head() {
    // A listener whose queue is full drops what else wants to connect.
    let (full, _listener, _waiting) = unconnectable();
    let settings = "timeouts: { connect: 30s, head: 400ms }";
    let seawall = Seawall::at(&format!("'http://{full}'"), settings);
    let gate = Upstream::healthy();
    let (seen, took) = timed(&seawall, &gate, &Request::get());
    assert_eq!(seen.field("proxy-status"), Some("seawall;error=connection_timeout"));
    assert!(took < Duration::from_secs(20), "{took:?}");
}

/// An address at which no connection can be made: neither refused nor accepted.
fn unconnectable() -> (SocketAddr, socket2::Socket, Vec<std::net::TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) =
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200))
    {
        waiting.push(stream);
        assert!(waiting.len() < 100, "the queue has no end");
    }
    (address, socket, waiting)
}

#[test]
fn an_interim_response_is_a_sign_of_life() {
    let processing = "HTTP/1.1 102 Processing\r\n\r\n";
    let script = (0..4)
        .fold(Script::read_head(), |script, _| script.then(Step::Pause(500)).write(processing));
    let upstream = Upstream::playing([script.write(ANSWER).fin()]);
    let seawall = Seawall::before_with(&upstream, "timeouts: { head: 1500ms }");
    let seen = send(&seawall, &upstream, &Request::get());
    assert_eq!((seen.status, &*seen.text()), (200, "well"));
}

#[test]
fn a_slow_upload_takes_none_of_the_time_for_the_head() {
    for settings in ["timeouts: { head: 1s }", "timeouts: { head: 1s }, protocol: http2"] {
        let upstream = Upstream::healthy();
        let seawall = Seawall::before_with(&upstream, settings);
        let mut client = Http1::connect(seawall.address());
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n");
        for _ in 0..8 {
            thread::sleep(Duration::from_millis(200));
            client.send("x");
        }
        let seen = client.read(false, &Gate::default());
        assert_eq!((seen.status, &*seen.text()), (200, WELL), "{settings}");
        assert!(seawall.cells("seawall_failures_total").is_empty(), "{settings}");
    }
}

#[test]
fn dead_connections_in_a_row_cost_a_get_one_retry_and_a_post_none() {
    // Three connections become idle together, and all of them die under the next request.
    let dies =
        || Script::read_head().then(Step::UntilClientSawHead).write(ANSWER).then(Step::ReadHead);
    for (request, status) in [(Request::get(), 200), (Request::post(10), 500)] {
        let upstream = Upstream::playing((0..3).map(|_| dies().reset()));
        let seawall = Seawall::before_with(&upstream, "retry: { attempts: 2 }");
        let clients: Vec<_> = (0..3)
            .map(|_| {
                let mut client = Http1::connect(seawall.address());
                client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                client
            })
            .collect();
        upstream.until_asked(3);
        upstream.gate().open();
        for mut client in clients {
            assert_eq!(client.read(false, &Gate::default()).status, 200);
        }
        let seen = send(&seawall, &upstream, &request);
        assert_eq!(seen.status, status);
        let times = 3 + 1 + usize::from(status == 200);
        assert_eq!(upstream.requests().len(), times, "{}", request.method);
    }
}

/// So many requests at the same time, each by a client of its own.
fn together(seawall: &Seawall, count: usize, request: &Request) -> Vec<Seen> {
    let clients: Vec<_> = (0..count)
        .map(|_| {
            let (address, request) = (seawall.address(), request.clone());
            thread::spawn(move || {
                let mut client = Client::connect(Version::Http1, address);
                client.exchange(&request, &Gate::default())
            })
        })
        .collect();
    clients.into_iter().map(|client| client.join().unwrap()).collect()
}

/// Reads so many HTTP/2 requests.
fn requests(count: usize) -> Script {
    (0..count).fold(Script::http2(&[]), |script, _| script.then(Step::Http2Request))
}

#[test]
fn posts_behind_a_goaway_are_served_and_blame_nobody() {
    // All of them in flight on one connection, and none of them processed.
    let script = requests(35).write(goaway(0, NO_ERROR)).fin();
    let upstream = Upstream::playing([script]);
    let settings = "protocol: http2, ejection: { consecutive_failures: 1 }, circuit: {}";
    let seawall = Seawall::before_with(&upstream, &format!("{settings}, retry: {{ attempts: 2 }}"));
    for seen in together(&seawall, 35, &Request::post(10)) {
        assert_eq!((seen.status, &*seen.text()), (200, WELL), "{seen:?}");
    }
    assert!(seawall.cells("seawall_failures_total").is_empty());
    assert!(seawall.cells("seawall_endpoint_ejections_total").is_empty());
    let retries = seawall.cells("seawall_retries_total");
    assert_eq!(retries, ["{result=\"refused\",upstream=\"app\"} 35"]);
}

#[test]
fn a_connection_that_goes_away_behind_every_few_requests_costs_no_post() {
    // As nginx does with keepalive_requests, under load: answers two, goes away with others in flight.
    let script = || {
        let answer = |stream| head_of(stream, END_STREAM, 204, &[]);
        requests(10).write([answer(1), answer(3), goaway(3, NO_ERROR)].concat()).hang()
    };
    let upstream = Upstream::playing((0..4).map(|_| script()));
    let seawall = Seawall::before_with(&upstream, HTTP2);
    let statuses = together(&seawall, 16, &Request::post(10));
    assert!(statuses.iter().all(|seen| matches!(seen.status, 200 | 204)), "{statuses:?}");
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

#[test]
fn streams_that_are_refused_again_and_again_wait_and_are_served() {
    let refusing = |count: u32| {
        (0..count).fold(Script::http2(&[]), |script, number| {
            script.then(Step::Http2Request).write(reset_of(number * 2 + 1, REFUSED_STREAM))
        })
    };
    let upstream = Upstream::playing([refusing(5).then(Step::BeWellHttp2)]);
    let seawall = Seawall::before_with(&upstream, HTTP2);
    let seen = send(&seawall, &upstream, &Request::post(10));
    assert_eq!((seen.status, &*seen.text()), (200, WELL));
    assert_eq!(upstream.requests().len(), 6);
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

#[test]
fn a_stream_that_is_refused_forever_is_given_up_and_blames_nobody() {
    let refusing = (0..1000).fold(Script::http2(&[]), |script, number| {
        script.then(Step::Http2Request).write(reset_of(number * 2 + 1, REFUSED_STREAM))
    });
    let upstream = Upstream::playing([refusing]);
    let other = Upstream::playing([(0..1000).fold(Script::http2(&[]), |script, number| {
        script.then(Step::Http2Request).write(reset_of(number * 2 + 1, REFUSED_STREAM))
    })]);
    let settings = format!(
        "{HTTP2}, limits: {{ pending_time: 300ms }}, ejection: {{ consecutive_failures: 1 }}"
    );
    let seawall = Seawall::at(&urls(&[&upstream, &other]), &settings);
    let seen = send(&seawall, &upstream, &Request::post(10));
    assert_eq!(seen.status, 500);
    let times = upstream.requests().len() + other.requests().len();
    assert!((2..50).contains(&times), "{times}");
    assert!(seawall.cells("seawall_endpoint_ejections_total").is_empty());
}

#[test]
fn gets_in_flight_at_an_endpoint_that_dies_are_served_whatever_their_number() {
    // More than the budget's reserve, on one connection and on many.
    for (settings, scripts) in [
        ("protocol: http2", vec![requests(30).reset()]),
        ("", (0..30).map(|_| Script::read_head().then(Step::UntilClientSawHead).reset()).collect()),
    ] {
        let (dies, well) = (Upstream::playing(scripts), Upstream::healthy());
        let comma = if settings.is_empty() { "" } else { "," };
        let settings = format!("{settings}{comma} balance: hash, hash: {{ field: x-user }}");
        let settings = format!("{settings}, retry: {{ attempts: 2, budget_percent: 1 }}");
        // A value that leads to the endpoint that dies.
        let seawall = Seawall::at(&urls(&[&dies, &well]), &settings);
        let users = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"].into_iter();
        let found = users.filter_map(|user| {
            let others = well.requests().len();
            let mut probe = Http1::connect(seawall.address());
            probe.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n"));
            let is_there = seawall.until("it is somewhere", |_| {
                let now = (dies.requests().len(), well.requests().len());
                (now.0 > 0 || now.1 > others).then_some(now.0 > 0)
            });
            // It stays in flight, as one of the thirty.
            is_there.then_some((user, probe))
        });
        let (user, _probe) = { found }.next().unwrap();
        let get = Request::get().field("x-user", user);
        let gate = dies.gate().clone();
        let seen = thread::scope(|scope| {
            let all = scope.spawn(|| together(&seawall, 29, &get));
            dies.until_asked(30);
            gate.open();
            all.join().unwrap()
        });
        for seen in seen {
            assert_eq!((seen.status, &*seen.text()), (200, WELL), "{settings}: {seen:?}");
        }
    }
}

#[test]
fn each_endpoint_that_refuses_a_connection_is_tried_once_and_costs_no_attempt() {
    let nobody = || {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).unwrap();
        socket
    };
    let url = |socket: &socket2::Socket| {
        format!("'http://{}'", socket.local_addr().unwrap().as_socket().unwrap())
    };
    let (down, well) = ([nobody(), nobody(), nobody(), nobody()], Upstream::healthy());
    let down_urls = down.iter().map(url).collect::<Vec<_>>().join(", ");
    for attempts in [1, 2] {
        let endpoints = format!("{down_urls}, 'http://{}'", well.address());
        let settings = format!("retry: {{ attempts: {attempts} }}, ejection: {{ max_percent: 0 }}");
        let seawall = Seawall::at(&endpoints, &settings);
        for _ in 0..10 {
            let seen = send(&seawall, &well, &Request::post(10));
            assert_eq!((seen.status, &*seen.text()), (200, WELL), "{attempts} attempts");
        }
        // And where all refuse, that is all.
        let seawall = Seawall::at(&down_urls, &format!("{settings}, timeouts: {{ refusal: 0s }}"));
        let seen = send(&seawall, &well, &Request::post(10));
        assert_eq!(seen.field("proxy-status"), Some("seawall;error=connection_refused"));
        let connects = seawall.cells("seawall_connects_total");
        assert_eq!(connects.len(), 4, "{connects:?}");
        assert!(connects.iter().all(|cell| cell.ends_with(" 1")), "{connects:?}");
    }
}

#[test]
fn a_cancelled_stream_is_sent_again_only_if_it_may_be_processed_twice() {
    let answer = || Script::http2_request().then_well_http2(reset(CANCEL));
    assert_eq!(post_taken_back(answer(), HTTP2), (500, 1));
    let whole = [head(200, &[("content-length", "2")]), last_data("ok"), goaway(0, NO_ERROR)];
    let (status, times) =
        post_taken_back(Script::http2_request().write(whole.concat()).fin(), HTTP2);
    assert_eq!((status, times), (200, 1), "a whole answer is an answer");
}

#[test]
fn retry_total_is_told_what_has_taken_its_place() {
    let yaml = "upstreams: { app: { endpoints: ['http://127.0.0.1:1'], retry: { total: 10s } } }\n\
        routes: [{ upstream: app }]\n";
    let problems = seawall::config::parse("test.yaml", yaml, std::path::Path::new("."));
    let told = problems.unwrap_err().to_string();
    assert!(told.contains("has no setting `total` any more"), "{told}");
    assert!(told.contains("timeouts.head bounds all attempts together"), "{told}");
}

//! P5 and P7: what counts, how often, and against what.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crate::support::client::{Client, End, Http1, Request, Seen, Version};
use crate::support::http2::{data, head};
use crate::support::script::{Gate, Script, Step, Upstream, WELL};
use crate::support::seawall::{Now, Seawall};
use crate::support::websocket;

/// So many requests at the same time, each by a client of its own.
fn together(address: SocketAddr, count: usize, request: &Request) -> Vec<Seen> {
    let clients: Vec<_> = (0..count)
        .map(|_| {
            let request = request.clone();
            thread::spawn(move || {
                let mut client = Client::connect(Version::Http1, address);
                client.exchange(&request, &Gate::default())
            })
        })
        .collect();
    clients.into_iter().map(|client| client.join().unwrap()).collect()
}

/// The sum of these cells of a metric.
fn total(cells: &[String]) -> u64 {
    let value = |cell: &String| cell.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    cells.iter().map(value).sum()
}

/// The sum of all cells of this metric, when no request is under way any more.
fn sum(seawall: &Seawall, name: &str) -> u64 {
    total(&seawall.cells(name))
}

fn urls(upstreams: &[&Upstream]) -> String {
    let url = |upstream: &&Upstream| format!("'http://{}'", upstream.address());
    upstreams.iter().map(url).collect::<Vec<_>>().join(", ")
}

/// An address at which a connection is neither refused nor accepted, since the queue is full.
struct Full(
    SocketAddr,
    #[expect(dead_code, reason = "kept open")] socket2::Socket,
    Vec<std::net::TcpStream>,
);

impl Full {
    fn new() -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
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
        Full(address, socket, waiting)
    }
}

#[test]
fn a_connect_that_fails_counts_once_however_many_wait_for_it() {
    let (full, well) = (Full::new(), Upstream::healthy());
    let settings = "protocol: http2, timeouts: { connect: 2s }, retry: { attempts: 2 }, \
        ejection: { consecutive_failures: 5 }";
    let endpoints = format!("'http://{}', 'http://{}'", full.0, well.address());
    let seawall = Seawall::at(&endpoints, settings);
    for seen in together(seawall.address(), 40, &Request::post(10)) {
        assert_eq!((seen.status, &*seen.text()), (200, WELL));
    }
    assert!(sum(&seawall, "seawall_failures_total") >= 10, "each request has its own");
    let failed = seawall.cells("seawall_connects_total");
    assert!(failed.iter().any(|cell| cell.contains("failed")), "{failed:?}");
    assert!(seawall.cells("seawall_endpoint_ejections_total").is_empty());

    // Nor does it open the circuit.
    let settings = "protocol: http2, timeouts: { connect: 2s }, \
        circuit: { consecutive_failures: 5 }";
    let seawall = Seawall::at(&format!("'http://{}'", full.0), settings);
    for seen in together(seawall.address(), 20, &Request::post(10)) {
        assert_eq!(seen.field("proxy-status"), Some("seawall;error=connection_timeout"));
    }
    assert_eq!(sum(&seawall, "seawall_failures_total"), 20);
    assert_eq!(sum(&seawall, "seawall_circuit_openings_total"), 0);
    assert!(!full.2.is_empty());
}

#[test]
fn a_connection_that_is_lost_counts_once_however_many_share_it() {
    let lost = || {
        let read = (0..20).fold(Script::http2(&[]), |script, _| script.then(Step::Http2Request));
        Upstream::playing([read.fin()])
    };
    let settings = "protocol: http2, circuit: { consecutive_failures: 5 }, \
        ejection: { consecutive_failures: 3 }, balance: least_request";
    let (one, other) = (lost(), lost());
    let seawall = Seawall::at(&urls(&[&one, &other]), settings);
    let seen = together(seawall.address(), 40, &Request::post(10));
    let failed = seen.iter().filter(|seen| seen.status == 500).count();
    assert!(failed >= 20, "{failed}");
    assert_eq!(sum(&seawall, "seawall_failures_total"), failed as u64, "each has its own");
    assert!(seawall.cells("seawall_endpoint_ejections_total").is_empty());
    assert_eq!(sum(&seawall, "seawall_circuit_openings_total"), 0);
}

/// In front of these endpoints, with clients that may stand still for a moment only.
fn impatient(endpoints: &str, settings: &str, time: &str) -> Seawall {
    Seawall::configured(&format!(
        "clients: {{ body_timeout: {time} }}\n\
        upstreams: {{ app: {{ endpoints: [{endpoints}], timeouts: {{ idle: {time} }}, \
        ejection: {{ consecutive_failures: 2 }}, circuit: {{ consecutive_failures: 2 }}{settings} }} }}\n\
        routes: [{{ upstream: app }}]\n"
    ))
}

#[test]
fn a_client_that_stops_in_the_middle_of_its_upload_condemns_no_endpoint() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let sized = "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhello";
    let http2 = [head(200, &[]), data("hello")].concat();
    let after = |text: &str| Script::read_head().write(text).hang();
    for (name, settings, script) in [
        ("a stream", "", after(chunked)),
        ("a head alone", "", after("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")),
        ("a held response", "", after(sized)),
        (
            "HTTP/2",
            ", protocol: http2",
            Script::http2(&[]).then(Step::Http2Frame).write(&http2).hang(),
        ),
        (
            "HTTP/2, a head alone",
            ", protocol: http2",
            Script::http2(&[]).then(Step::Http2Frame).write(head(200, &[])).hang(),
        ),
    ] {
        let upstreams = [(); 2].map(|()| Upstream::playing((0..10).map(|_| script.clone())));
        let [one, other] = &upstreams;
        let seawall = impatient(&urls(&[one, other]), settings, "300ms");
        for count in 1..=6 {
            let mut client = Http1::connect(seawall.address());
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome");
            seawall.until("it is the client's", |seawall| {
                let cells = seawall.cells("seawall_client_failures_total");
                let wanted = format!("{{kind=\"request_timeout\"}} {count}");
                cells.contains(&wanted).then_some(())
            });
        }
        assert!(seawall.cells("seawall_failures_total").is_empty(), "{name}");
        assert!(seawall.cells("seawall_endpoint_ejections_total").is_empty(), "{name}");
        assert_eq!(sum(&seawall, "seawall_circuit_openings_total"), 0, "{name}");
    }
}

#[test]
fn an_upstream_that_stops_behind_a_whole_upload_is_to_blame() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let script = Script::read_head().then(Step::ReadContent(10)).write(chunked).hang();
    let upstream = Upstream::playing([script]);
    let seawall = impatient(&urls(&[&upstream]), "", "300ms");
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(&Request::post(10), upstream.gate());
    assert_ne!(seen.end, End::Complete);
    let cells = seawall.cells("seawall_failures_total");
    assert!(cells[0].contains("connection_read_timeout"), "{cells:?}");
}

#[test]
fn bytes_that_move_in_either_direction_keep_an_exchange_alive() {
    // The client says nothing for longer than it may, while the app says a byte now and then.
    let begin = Script::read_head().write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let script = (0..5).fold(begin, |script, _| script.then(Step::Pause(500)).write("1\r\nx\r\n"));
    let upstream = Upstream::playing([script.then(Step::ReadContent(14)).write("0\r\n\r\n").fin()]);
    let seawall = impatient(&urls(&[&upstream]), "", "1500ms");
    let mut client = Http1::connect(seawall.address());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    thread::sleep(Duration::from_millis(2500));
    client.send("4\r\nlast\r\n0\r\n\r\n");
    let seen = client.read(false, &Gate::default());
    assert_eq!((seen.status, &*seen.text(), seen.end), (200, "xxxxx", End::Complete));
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

#[test]
fn loops_that_clients_make_are_theirs() {
    let upstream = Upstream::healthy();
    let seawall = Seawall::configured(&format!(
        "forwarded: {{ name: wall }}\n\
        upstreams: {{ app: {{ endpoints: ['http://{}'], circuit: {{ consecutive_failures: 2 }} }} }}\n\
        routes: [{{ upstream: app }}]\n",
        upstream.address()
    ));
    let mut client = Client::connect(Version::Http1, seawall.address());
    let vias = "1.1 wall, 1.1 wall, 1.1 wall, 1.1 wall, 1.1 wall, 1.1 wall, 1.1 wall, 1.1 wall, \
        1.1 wall, 1.1 wall, 1.1 wall, 1.1 wall, 1.1 wall, 1.1 wall, 1.1 wall, 1.1 wall, 1.1 wall";
    for _ in 0..50 {
        let seen = client.exchange(&Request::get().field("via", vias), upstream.gate());
        assert_eq!(seen.field("proxy-status"), Some("seawall;error=proxy_loop_detected"));
        let id = seen.field("x-request-id").unwrap();
        assert!(seawall.until("it is asked", |now| Some(now.journal(id))).is_empty());
    }
    assert!(seawall.cells("seawall_failures_total").is_empty());
    assert_eq!(
        seawall.cells("seawall_client_failures_total"),
        ["{kind=\"proxy_loop_detected\"} 50"]
    );
    assert_eq!(client.exchange(&Request::get(), upstream.gate()).status, 200);
}

#[test]
fn an_error_of_the_app_that_is_cut_off_is_one_failure() {
    let text = "x".repeat(70_000);
    for fields in ["Content-Length: 999999\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n11170\r\n"]
    {
        let answer =
            format!("HTTP/1.1 500 Oops\r\nContent-Type: application/json\r\n{fields}{text}");
        let script = Script::read_head().write(answer).until_client_saw_head().fin();
        let upstream = Upstream::playing([script]);
        let seawall = Seawall::before_with(&upstream, "");
        let mut client = Client::connect(Version::Http1, seawall.address());
        let seen = client.exchange(&Request::get(), upstream.gate());
        assert_eq!(seen.status, 500);
        assert_ne!(seen.end, End::Complete);
        let cells = seawall.cells("seawall_failures_total");
        assert_eq!(cells.len(), 1, "{cells:?}");
        assert!(cells[0].contains("application_error") && cells[0].ends_with(" 1"), "{cells:?}");
        let id = seen.field("x-request-id").unwrap();
        let entries = seawall.until("it is in the journal", |now| {
            Some(now.journal(id)).filter(|entries| !entries.is_empty())
        });
        assert_eq!(entries.len(), 1);
    }
}

#[test]
fn an_endpoint_that_cannot_upgrade_is_ejected_and_not_for_what_clients_offer() {
    let wrong = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: aHVudGVyMmh1bnRlcjJodW50ZXI=\r\n\r\n";
    let bad_accept = Script::read_head().write(wrong).hang();
    let not_offered =
        Script::read_head().write_accepting("Sec-WebSocket-Protocol: chat\r\n").hang();
    for (script, ejections) in [(bad_accept, 1), (not_offered, 0)] {
        let (one, well) = (Upstream::playing((0..20).map(|_| script.clone())), Upstream::healthy());
        let settings = "ejection: { consecutive_failures: 3 }";
        let seawall = Seawall::at(&urls(&[&one, &well]), settings);
        let failed = (0..10).filter(|_| {
            let (_, seen) = websocket::handshake(seawall.address(), "");
            seen.field("proxy-status").is_some_and(|error| error.contains("http_upgrade_failed"))
        });
        assert_eq!(failed.count(), if ejections == 1 { 3 } else { 5 });
        assert_eq!(sum(&seawall, "seawall_endpoint_ejections_total"), ejections);
    }
}

fn adaptive(upstream: &Upstream) -> Seawall {
    let settings = "concurrency: { target: 1s, min: 1, max: 100 }";
    Seawall::before_with(upstream, settings)
}

fn limit(now: &Now<'_>) -> u64 {
    total(&now.cells("seawall_concurrency_limit"))
}

#[test]
fn clients_that_leave_an_app_that_is_too_slow_teach_adaptive_that_it_is() {
    let upstream = Upstream::playing((0..20).map(|_| Script::read_head().hang()));
    let seawall = adaptive(&upstream);
    let clients: Vec<_> = (0..15)
        .map(|_| {
            let mut client = Http1::connect(seawall.address());
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            client
        })
        .collect();
    upstream.until_asked(15);
    assert_eq!(seawall.until("it is known", |now| Some(limit(now))), 100);
    thread::sleep(Duration::from_millis(1500));
    drop(clients);
    seawall.until("it has learned", |now| (limit(now) < 100).then_some(()));
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

#[test]
fn clients_that_upload_slowly_teach_adaptive_nothing() {
    let upstream = Upstream::healthy();
    let seawall = adaptive(&upstream);
    let mut clients: Vec<_> = (0..15)
        .map(|_| {
            let mut client = Http1::connect(seawall.address());
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n");
            client
        })
        .collect();
    upstream.until_asked(15);
    thread::sleep(Duration::from_millis(1500));
    for client in &mut clients {
        client.send("well");
        assert_eq!(client.read(false, &Gate::default()).status, 200);
    }
    assert_eq!(seawall.until("it is known", |now| Some(limit(now))), 100);
}

//! A reload changes what it says, and nothing else: what the change does not concern notices nothing.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use crate::support::client::{Client, End, Http1, Request, Seen, Version};
use crate::support::script::{Nobody, Script, Step, Upstream, WELL};
use crate::support::seawall::Seawall;
use crate::support::websocket::{self, FIN, TEXT, frame, masked, read_frame, read_to_end};

/// One upstream `app` with these settings, and these routes.
fn config(app: &Upstream, settings: &str, routes: &str) -> String {
    let endpoint = format!("endpoints: ['http://{}'], retry: {{ attempts: 1 }}", app.address());
    format!("upstreams: {{ app: {{ {endpoint}, {settings} }} }}\nroutes: [{routes}]\n")
}

/// Serves any number of requests on its first connection, and fails on any other.
fn one_connection() -> Upstream {
    let resets = (0..50).map(|_| Script::default().reset());
    Upstream::playing(std::iter::once(Script::default().then(Step::BeWell)).chain(resets))
}

fn get(client: &mut Client, path: &'static str, upstream: &Upstream) -> Seen {
    client.exchange(&Request { path, ..Request::get() }, upstream.gate())
}

/// A free port of a loopback address that only this test of this process uses: nobody else can take
/// it before somebody listens there. `test` is 1 to 3; a process id has 22 bits.
fn free(test: u8) -> SocketAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let host = [127, test << 6 | a & 0x3F, b, c];
    TcpListener::bind(SocketAddr::from((host, 0))).unwrap().local_addr().unwrap()
}

fn reloads(seawall: &Seawall) -> Vec<String> {
    seawall.cells("seawall_config_reloads_total")
}

#[test]
fn a_client_that_stays_connected_sees_the_new_routes_at_its_next_request() {
    for version in [Version::Http1, Version::Http2] {
        let app = Upstream::healthy();
        let route = |path: &str| config(&app, "", &format!("{{ path: {path}, upstream: app }}"));
        let mut seawall = Seawall::configured(&route("/old"));
        let mut client = Client::connect(version, seawall.address());
        assert_eq!(get(&mut client, "/old", &app).status, 200);
        assert_eq!(get(&mut client, "/new", &app).status, 404);
        let diff = seawall.reload(&route("/new")).unwrap();
        assert_eq!((diff.routes.added.len(), diff.routes.removed.len()), (1, 1), "{diff:?}");
        assert_eq!(get(&mut client, "/old", &app).status, 404);
        assert_eq!(get(&mut client, "/new", &app).status, 200);
        assert_eq!(reloads(&seawall), ["{result=\"ok\"} 1"]);
    }
}

#[test]
fn upstreams_that_do_not_change_keep_their_connections() {
    let app = one_connection();
    let mut seawall = Seawall::configured(&config(&app, "", "{ upstream: app }"));
    let mut client = Client::connect(Version::Http1, seawall.address());
    assert_eq!(get(&mut client, "/", &app).status, 200);
    for number in 0..20 {
        let route = format!("{{ name: r{number}, upstream: app }}");
        seawall.reload(&config(&app, "", &route)).unwrap();
        let seen = get(&mut client, "/", &app);
        assert_eq!((seen.status, seen.text()), (200, WELL.to_owned()), "{number}");
    }
    let connects = seawall.cells("seawall_connects_total");
    assert_eq!(connects.len(), 1, "{connects:?}");
    assert!(connects[0].ends_with("result=\"ok\",upstream=\"app\"} 1"), "{connects:?}");
}

#[test]
fn an_upstream_that_changes_is_connected_to_anew_and_its_old_connections_close() {
    let app = Upstream::playing([Script::read_head()
        .write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{WELL}", WELL.len()))
        .record()]);
    let mut seawall = Seawall::configured(&config(&app, "", "{ upstream: app }"));
    let mut client = Client::connect(Version::Http1, seawall.address());
    assert_eq!(get(&mut client, "/", &app).status, 200);
    let timeouts = "timeouts: { head: 7s }";
    let diff = seawall.reload(&config(&app, timeouts, "{ upstream: app }")).unwrap();
    assert_eq!(diff.upstreams.changed, ["app"]);
    assert!(diff.routes.changed.is_empty(), "{diff:?}");
    let record = app.record();
    assert!(record.bytes.is_empty(), "{record:?}");
    assert_eq!(get(&mut client, "/", &app).status, 200);
    assert_eq!(app.requests().len(), 2);
}

#[test]
fn ejections_outlive_a_reload_that_does_not_concern_them() {
    let (dead, well) =
        (Upstream::playing((0..9).map(|_| Script::default().reset())), Upstream::healthy());
    let upstream = |routes: &str| {
        format!(
            "upstreams: {{ app: {{ endpoints: ['http://{}', 'http://{}'], ejection: {{ \
            consecutive_failures: 1, base: 300s }} }} }}\nroutes: [{routes}]\n",
            dead.address(),
            well.address()
        )
    };
    let mut seawall = Seawall::configured(&upstream("{ upstream: app }"));
    let mut client = Client::connect(Version::Http1, seawall.address());
    for _ in 0..4 {
        assert_eq!(get(&mut client, "/", &well).status, 200, "tried again elsewhere");
    }
    let ejections = || seawall.cells("seawall_endpoint_ejections_total");
    let before = ejections();
    assert_eq!(before.len(), 1, "{before:?}");
    let connects = seawall.cells("seawall_connects_total");
    seawall.reload(&upstream("{ name: other, upstream: app }")).unwrap();
    for _ in 0..10 {
        assert_eq!(get(&mut client, "/", &well).status, 200);
    }
    assert_eq!(seawall.cells("seawall_endpoint_ejections_total"), before);
    assert_eq!(seawall.cells("seawall_connects_total"), connects);
}

/// An upstream of two endpoints with these settings.
fn pair(one: &Upstream, two: &Upstream, settings: &str) -> String {
    format!(
        "upstreams: {{ app: {{ endpoints: ['http://{}', 'http://{}'], slow_start: 0s, {settings} }} }}\n\
        routes: [{{ upstream: app }}]\n",
        one.address(),
        two.address()
    )
}

#[test]
fn drained_endpoint_stays_drained_when_its_upstream_changes() {
    let (drained, other) = (Upstream::healthy(), Upstream::healthy());
    let mut seawall = Seawall::configured(&pair(&drained, &other, "timeouts: { head: 5s }"));
    let endpoint = format!("http://{}", drained.address());
    assert_eq!(seawall.drain(&endpoint, true), Some("drained"));
    for head in ["6s", "7s"] {
        let settings = format!("timeouts: {{ head: {head} }}");
        let diff = seawall.reload(&pair(&drained, &other, &settings)).unwrap();
        assert_eq!(diff.upstreams.changed, ["app"]);
        for _ in 0..4 {
            let mut client = Client::connect(Version::Http1, seawall.address());
            assert_eq!(get(&mut client, "/", &other).status, 200);
        }
    }
    assert!(drained.requests().is_empty());
    assert_eq!(seawall.drain(&endpoint, false), Some("up"));
    for _ in 0..4 {
        let mut client = Client::connect(Version::Http1, seawall.address());
        assert_eq!(get(&mut client, "/", &other).status, 200);
    }
    assert_eq!(drained.requests().len(), 2, "its half again");
}

#[test]
fn unhealthy_endpoint_gets_no_request_after_a_reload() {
    // The health check finds nobody at the first.
    let well = Upstream::healthy();
    let nobody = Nobody::new();
    let dead = nobody.address();
    let config = |head: &str| {
        format!(
            "upstreams: {{ app: {{ endpoints: ['http://{dead}', 'http://{}'], retry: {{ attempts: 1 }}, \
            timeouts: {{ head: {head} }}, health: {{ tcp: true, interval: 100ms, unhealthy: 1 }} }} }}\n\
            routes: [{{ upstream: app }}]\n",
            well.address()
        )
    };
    let mut seawall = Seawall::configured(&config("5s"));
    let is_out = |seawall: &Seawall| {
        let down = format!("{{endpoint=\"http://{dead}\",upstream=\"app\"}} 0");
        seawall.metrics().contains(&format!("seawall_endpoint_up{down}"))
    };
    let set = |seawall: &mut Seawall| seawall.running().upstreams()[0].current();
    seawall.until("it fails its check", |seawall| (is_out(seawall)).then_some(()));
    assert_eq!(set(&mut seawall).roster.state(0), "unhealthy");
    seawall.reload(&config("6s")).unwrap();
    for _ in 0..8 {
        let mut client = Client::connect(Version::Http1, seawall.address());
        assert_eq!(get(&mut client, "/", &well).status, 200);
    }
    assert!(seawall.cells("seawall_failures_total").is_empty());
}

#[test]
fn an_endpoint_that_is_gone_is_neither_up_nor_down() {
    let (one, two) = (Upstream::healthy(), Upstream::healthy());
    let mut seawall = Seawall::configured(&config(&one, "", "{ upstream: app }"));
    let up = |seawall: &Seawall| seawall.cells("seawall_endpoint_up");
    assert!(up(&seawall)[0].contains(&one.address().to_string()));
    seawall.reload(&config(&two, "", "{ upstream: app }")).unwrap();
    let cells = up(&seawall);
    assert!(cells.len() == 1 && cells[0].contains(&two.address().to_string()), "{cells:?}");
}

#[test]
fn a_websocket_survives_the_removal_of_its_route_and_of_its_upstream() {
    let script = websocket::open().then(Step::UntilClientSawHead).write(frame(FIN | TEXT, "after"));
    let (app, other) = (Upstream::playing([script.record()]), Upstream::healthy());
    // The upstream does not answer the Close.
    let quick = "websocket: { close_timeout: 100ms }\n";
    let yaml = format!("{}{quick}", config(&app, "", "{ upstream: app }"));
    let mut seawall = Seawall::configured(&yaml);
    let (mut client, _) = websocket::connect(seawall.address(), "");
    let path = "{ path: /other, upstream: app }";
    for _ in 0..3 {
        seawall.reload(&config(&other, "", path)).unwrap();
        seawall.reload(&config(&other, "timeouts: { head: 9s }", path)).unwrap();
    }
    app.gate().open();
    assert_eq!(read_frame(&mut client).unwrap().payload, b"after");
    client.send(masked(&frame(FIN | TEXT, "still here")));
    client.send(masked(&websocket::close(1000, "")));
    let record = app.record();
    let arrived = String::from_utf8_lossy(&record.bytes).into_owned();
    assert_eq!(record.bytes.len(), 2 + 4 + "still here".len() + 2 + 4 + 2, "{arrived:?}");
}

#[test]
fn a_request_that_runs_keeps_what_it_began_with() {
    let script = Script::read_head()
        .write("HTTP/1.1 200 OK\r\nContent-Length: 8\r\nX-Accel-Buffering: no\r\n\r\nhalf")
        .then(Step::UntilClientSawHead)
        .write("half");
    let (app, other) = (Upstream::playing([script.hang()]), Upstream::healthy());
    let mut seawall = Seawall::configured(&config(&app, "", "{ upstream: app }"));
    let mut client = Http1::connect(seawall.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    app.until_asked(1);
    seawall.reload(&config(&other, "", "{ path: /other, upstream: app }")).unwrap();
    // Reading the head opens the gate: the second half comes after the reload.
    let seen = client.read(false, app.gate());
    assert_eq!((seen.status, seen.text(), seen.end), (200, "halfhalf".to_owned(), End::Complete));
    let mut client = Client::Http1(client);
    assert_eq!(get(&mut client, "/", &other).status, 404);
    assert_eq!(get(&mut client, "/other", &other).status, 200);
}

#[test]
fn a_listener_that_is_new_is_bound_and_one_that_is_gone_drains() {
    let app = Upstream::playing([websocket::open().hang()]);
    let (kept, gone, new) = (free(2), free(2), free(2));
    let listeners = |addresses: [SocketAddr; 2]| {
        let each = addresses.map(|address| format!("{{ address: '{address}' }}")).join(", ");
        format!("{}listeners: [{each}]\n", config(&app, "", "{ upstream: app }"))
    };
    let mut seawall = Seawall::configured(&listeners([kept, gone]));
    let (mut session, _) = websocket::connect(gone, "");
    let mut stays = Client::connect(Version::Http1, kept);
    let mut leaves = Http1::connect(gone);
    assert_eq!(get(&mut stays, "/", &app).status, 200);
    assert_eq!(leaves.exchange(&Request::get(), app.gate()).status, 200);

    let diff = seawall.reload(&listeners([new, kept])).unwrap();
    assert_eq!(diff.listeners.added, [new.to_string()]);
    assert_eq!(diff.listeners.removed, [gone.to_string()]);
    assert_eq!(seawall.running().addresses(), [new, kept]);
    let mut came = Client::connect(Version::Http1, new);
    assert_eq!(get(&mut came, "/", &app).status, 200);
    assert_eq!(get(&mut stays, "/", &app).status, 200);
    assert_eq!(leaves.rest(), (Vec::new(), End::Fin), "an idle connection has nothing to finish");
    let ended = read_to_end(&mut session).unwrap();
    assert_eq!(ended.code, 1012);
    assert!(std::net::TcpStream::connect(gone).is_err(), "nobody listens any more");
}

#[test]
fn a_listener_can_go_and_come_back_at_once() {
    let app = Upstream::healthy();
    let (stays, comes) = (free(1), free(1));
    let one = format!("listeners: [{{ address: '{stays}' }}]\n");
    let two = format!("listeners: [{{ address: '{stays}' }}, {{ address: '{comes}' }}]\n");
    let yaml = |listeners: &str| format!("{}{listeners}", config(&app, "", "{ upstream: app }"));
    let mut seawall = Seawall::configured(&yaml(&one));
    for _ in 0..50 {
        seawall.reload(&yaml(&two)).unwrap();
        let mut client = Client::connect(Version::Http1, comes);
        assert_eq!(get(&mut client, "/", &app).status, 200);
        seawall.reload(&yaml(&one)).unwrap();
        assert!(std::net::TcpStream::connect(comes).is_err(), "nobody listens any more");
    }
}

#[test]
fn an_address_that_is_taken_changes_nothing() {
    let app = one_connection();
    let mut seawall = Seawall::configured(&config(&app, "", "{ upstream: app }"));
    let mut client = Client::connect(Version::Http1, seawall.address());
    assert_eq!(get(&mut client, "/", &app).status, 200);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("listeners: [{{ address: '{}' }}]\n", taken.local_addr().unwrap());
    let before = seawall.running().config().describe();
    let settings = "timeouts: { head: 7s }";
    let route = "{ path: /new, upstream: app }";
    let refused = seawall.reload(&format!("{}{taken}", config(&app, settings, route)));
    assert!(refused.unwrap_err().to_string().contains("is in use by another process"));
    assert_eq!(seawall.running().config().describe(), before);
    assert_eq!(get(&mut client, "/", &app).status, 200, "over the same connection");
}

#[test]
fn who_is_trusted_changes_for_connections_that_are_open() {
    let app = Upstream::healthy();
    let yaml = |more: &str| format!("{}{more}", config(&app, "", "{ upstream: app }"));
    let mut seawall = Seawall::configured(&yaml(""));
    let mut client = Client::connect(Version::Http1, seawall.address());
    let mut id = || {
        let request = Request::get().field("X-Request-Id", "mine");
        client.exchange(&request, app.gate()).field("x-request-id").map(str::to_owned)
    };
    let _ = id();
    seawall.reload(&yaml("forwarded: { trusted: ['127.0.0.1'] }\n")).unwrap();
    let _ = id();
    seawall.reload(&yaml("")).unwrap();
    let _ = id();
    let told: Vec<_> = app
        .requests()
        .iter()
        .map(|head| head.to_lowercase().contains("x-request-id: mine"))
        .collect();
    assert_eq!(told, [false, true, false]);
}

/// A file that is gone when the test ends.
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_file_with_a_mistake_changes_nothing_and_is_counted() {
    let app = one_connection();
    let good = config(&app, "", "{ path: /new, upstream: app }");
    let good = format!("workers: 1\nlisteners: [{{ address: '127.0.0.1:0' }}]\n{good}");
    let mut seawall = Seawall::configured(&config(&app, "", "{ upstream: app }"));
    let mut client = Client::connect(Version::Http1, seawall.address());
    let name = format!("seawall-reload-{}.yaml", std::process::id());
    let file = File(std::env::temp_dir().join(name));
    for text in [&*good.replace("/new", "new"), "", "routes: [", &*good.replace("app:", "nobody:")]
    {
        std::fs::write(&file.0, text).unwrap();
        assert!(!seawall.running().reload_file(&file.0), "{text}");
        assert_eq!(get(&mut client, "/old", &app).status, 200);
    }
    assert_eq!(reloads(&seawall), ["{result=\"failed\"} 4"]);
    std::fs::write(&file.0, &good).unwrap();
    assert!(seawall.running().reload_file(&file.0));
    assert_eq!(get(&mut client, "/old", &app).status, 404);
    assert_eq!(get(&mut client, "/new", &app).status, 200, "over the same connection");
    std::fs::remove_file(&file.0).unwrap();
    assert!(!seawall.running().reload_file(&file.0), "a file that is gone");
    assert_eq!(get(&mut client, "/new", &app).status, 200);
    assert_eq!(reloads(&seawall), ["{result=\"failed\"} 5", "{result=\"ok\"} 1"]);
}

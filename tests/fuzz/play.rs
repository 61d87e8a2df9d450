//! Plays a story: the real accept loop, server, exchange and relay between two scripts, in paused
//! time. What it gives back is what each side has read, and how it ended.
//!
//! Fails if a panic happens anywhere, or if a connection lives on while nobody has moved a byte for
//! longer than any limit of the configuration.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use seawall::config::{self, model::Config};
use seawall::failure::Protocol;
use seawall::forward::Worker;
use seawall::forward::current::Current;
use seawall::listen::accept::{self, Listener, Way};
use seawall::listen::drain::{Drainer, Open};
use seawall::net::memory::{self, TcpListener, TcpStream};
use seawall::telemetry::Telemetry;
use seawall::telemetry::journal::Journal;
use seawall::telemetry::metrics::Metrics;
use seawall::upstream::{Shared, Upstream};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

use crate::judge;
use crate::story::{Step, Story};

/// Longer than any wait that the configurations allow.
const STILL: Duration = Duration::from_secs(60);
/// Longer than any story.
const LONG: Duration = Duration::from_secs(1_000_000);

/// What one side has seen of its connection.
#[derive(Debug, Default)]
pub struct Seen {
    pub bytes: Vec<u8>,
    pub end: Option<End>,
    /// What was sent: all that the script says, up to where it could.
    pub sent: Vec<u8>,
    /// It has sent a FIN, behind all of `sent`.
    pub finished: bool,
    /// It was not a good partner: it has ended the connection itself, or did not read.
    pub left: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
}

/// What came of a story.
#[derive(Debug)]
pub struct Outcome {
    pub client: Seen,
    pub upstreams: Vec<Seen>,
}

/// What the configurations have in common, and what each has of its own.
const COMMON: &str = "
workers: 1
admin: { address: off }
forwarded: { name: wall }
clients: { head: 8KiB, fields: 32, target: 2KiB, head_timeout: 8s, handshake_timeout: 4s, body_timeout: 5s, body_rate: 1000, write_timeout: 6s }
websocket: { ping_interval: 7s, pong_timeout: 3s, close_timeout: 2s, write_timeout: 5s, max_frame: 16KiB, hold: 1KiB, read: 4KiB }
";
pub const SETTINGS: [(&str, &str, &str); 6] = [
    ("", "retry: { attempts: 1 }", "hold: { bytes: 4KiB }"),
    ("", "retry: { attempts: 3, budget_percent: 100 }", "hold: off"),
    ("", "limits: { body: 16KiB, head: 4KiB }", "profile: gateway, app_errors: replace"),
    ("", "limits: { connections: 1 }", "sse_event: true, hold: { bytes: 1KiB }"),
    ("", "protocol: http2", "app_errors: pass"),
    (", proxy_protocol: always", "proxy_protocol: v1", ""),
];

fn config(number: usize) -> Arc<Config> {
    static ALL: LazyLock<Vec<Arc<Config>>> = LazyLock::new(|| {
        seawall::failure::app::prepare();
        SETTINGS
            .iter()
            .map(|(listener, upstream, failures)| {
                let text = format!(
                    "{COMMON}listeners: [{{ address: '127.0.0.1:0'{listener} }}]\n\
                    upstreams: {{ app: {{ endpoints: ['http://127.0.0.1:1'], \
                    timeouts: {{ connect: 1s, head: 3s, idle: 4s, keep_alive: 20s }}, {upstream} }} }}\n\
                    routes: [{{ upstream: app, host: '*', request_body: 32KiB }}]\n\
                    failures: {{ {failures} }}\n"
                );
                match config::parse("story.yaml", &text, Path::new(".")) {
                    Ok(config) => Arc::new(config),
                    Err(problems) => panic!("{problems}"),
                }
            })
            .collect()
    });
    Arc::clone(&ALL[number % SETTINGS.len()])
}

/// Plays it under this configuration.
pub fn play(number: usize, story: &Story) -> Outcome {
    let config = config(number);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let local = LocalSet::new();
    let outcome = local.block_on(&runtime, act(config, story));
    drop(local);
    outcome
}

async fn act(config: Arc<Config>, story: &Story) -> Outcome {
    static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(|| Metrics::new().expect("metrics"));
    static JOURNAL: LazyLock<Arc<Journal>> = LazyLock::new(|| Arc::new(Journal::new(10)));
    let settings = &config.upstreams[0];
    let handles = METRICS.upstream(&settings.name, &[], Protocol::ALL);
    let shared = Shared::new(Arc::clone(settings), handles, None).expect("an upstream");
    let upstream = Rc::new(Upstream::new(Arc::new(shared), 0));
    let (metrics, journal) = (Arc::clone(&METRICS), Arc::clone(&JOURNAL));
    let telemetry = Telemetry { metrics, journal, tracer: None };
    let worker = Worker::new(&config, &[Rc::clone(&upstream)], telemetry, None);
    let (drainer, drain) = Drainer::new();
    let open = Open::default();
    let socket = TcpListener::default();
    let way = Rc::new(RefCell::new(Rc::new(Way::new(&config.listeners[0], None))));
    let accepting = accept::run(
        Rc::new(Current::new(Rc::new(worker))),
        Listener::new(socket.clone(), way),
        drain,
        open.clone(),
    );
    let accepting = tokio::task::spawn_local(accepting);

    let (mut far, mut upstreams) = (Vec::new(), Vec::new());
    for steps in &story.upstreams {
        let (one, other) = memory::pair();
        far.push(one);
        upstreams.push(Actor::new(other, steps.clone(), Role::Upstream));
    }
    memory::set_upstreams(far);
    let (one, other) = memory::pair();
    let client = Actor::new(other, story.client.clone(), Role::Client);
    socket.push(one);
    let begun = Instant::now();
    let acting = std::iter::once(&client).chain(&upstreams).map(|actor| {
        let (reading, acting) = (Rc::clone(actor), Rc::clone(actor));
        tokio::task::spawn_local(async move { reading.read().await });
        tokio::task::spawn_local(async move { acting.act().await })
    });
    let mut acting = acting.collect::<Vec<_>>();
    acting.remove(0).await.expect("the client");
    ended(|| client.is_over(), begun, "the client's connection").await;
    client.stream.finish();
    ended(|| open.count() == 0, begun, "the client's connection, counted,").await;
    // What nobody has connected to goes; idle connections are closed.
    memory::set_upstreams(Vec::new());
    upstream.clear();
    let is_over = || upstreams.iter().all(|actor| actor.stream.is_left());
    ended(is_over, begun, "an upstream's connection").await;
    drainer.begin();
    accepting.await.expect("the accept loop");
    for acting in acting {
        acting.abort();
    }
    let seen = |actor: &Rc<Actor>| actor.seen.take();
    // Costs more than a story; what is left over stays left over.
    static STORIES: AtomicU64 = AtomicU64::new(0);
    if STORIES.fetch_add(1, Ordering::Relaxed).is_multiple_of(256) {
        judge::gauges(&String::from_utf8_lossy(&METRICS.encode()));
    }
    Outcome { client: seen(&client), upstreams: upstreams.iter().map(seen).collect() }
}

/// Waits for it as long as anything moves.
async fn ended(is_over: impl Fn() -> bool, begun: Instant, what: &str) {
    let (mut moved, mut since) = (memory::moved(), Instant::now());
    while !is_over() {
        sleep(Duration::from_millis(250)).await;
        if memory::moved() != moved {
            (moved, since) = (memory::moved(), Instant::now());
        }
        if since.elapsed() >= STILL {
            panic!("{what} is still open, and nothing has moved")
        }
        assert!(begun.elapsed() < LONG, "{what} is still open");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Upstream,
}

/// One end of a connection, and its script.
struct Actor {
    stream: TcpStream,
    steps: Vec<Step>,
    role: Role,
    seen: RefCell<Seen>,
    deaf: Cell<bool>,
}

impl Actor {
    fn new(stream: TcpStream, steps: Vec<Step>, role: Role) -> Rc<Self> {
        let (seen, deaf) = Default::default();
        Rc::new(Actor { stream, steps, role, seen, deaf })
    }

    fn is_over(&self) -> bool {
        self.seen.borrow().end.is_some() || (self.deaf.get() && self.stream.is_left())
    }

    async fn read(&self) {
        let mut buf = [0; 4096];
        loop {
            while self.deaf.get() {
                sleep(Duration::from_millis(100)).await;
            }
            let _ = self.stream.readable().await;
            let read = self.stream.try_read(&mut buf);
            let mut seen = self.seen.borrow_mut();
            match read {
                Ok(0) => seen.end = Some(End::Fin),
                Ok(count) => seen.bytes.extend_from_slice(&buf[..count]),
                Err(_) => seen.end = Some(End::Reset),
            }
            if seen.end.is_some() {
                return;
            }
        }
    }

    async fn act(&self) {
        if self.role == Role::Upstream {
            self.stream.taken().await;
        }
        let mut known = 0;
        for step in &self.steps {
            match step {
                Step::Send(bytes) => {
                    let sent = self.stream.send(bytes).await;
                    let mut seen = self.seen.borrow_mut();
                    seen.sent.extend_from_slice(&bytes[..sent]);
                    if sent < bytes.len() {
                        seen.left = true;
                        break;
                    }
                }
                Step::Pause(time) => sleep(*time).await,
                Step::Wait => self.wait(&mut known).await,
                Step::Finish => {
                    self.stream.finish();
                    let mut seen = self.seen.borrow_mut();
                    (seen.finished, seen.left) = (true, true);
                    break;
                }
                Step::Reset => {
                    self.stream.reset();
                    self.seen.borrow_mut().left = true;
                    break;
                }
                Step::Turn => {
                    self.deaf.set(!self.deaf.get());
                    self.seen.borrow_mut().left = true;
                }
            }
        }
    }

    /// Waits for the next whole request, or for more of whatever comes.
    async fn wait(&self, known: &mut usize) {
        let begun = Instant::now();
        loop {
            let there = {
                let seen = self.seen.borrow();
                if seen.end.is_some() || self.deaf.get() || begun.elapsed() > STILL / 2 {
                    return;
                }
                match self.role {
                    Role::Client => Some(seen.bytes.len()).filter(|there| there > known),
                    Role::Upstream => judge::next_request(&seen.bytes, *known),
                }
            };
            if let Some(there) = there {
                *known = there;
                return;
            }
            sleep(Duration::from_millis(40)).await;
        }
    }
}

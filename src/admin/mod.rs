//! Floor 5: the operators' listener. Metrics, probes, the journal, the configuration,
//! the endpoints, and a page that shows all of it to people.
//!
//! It runs on a thread of its own, so that a scrape never waits behind traffic and traffic never
//! behind a scrape. Probes are answered on that thread at once: they wait for no lock, and for no
//! other answer, which are made on threads beside it. Who may ask what is in `access`, and how
//! there is always room for one more connection in `connections`.

mod access;
mod answer;
mod connections;
mod endpoints;
mod history;
mod status;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{spawn_blocking, spawn_local, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use access::Access;
use answer::Decided;
use connections::{Connections, Place};
use history::{History, STEP};

use crate::config::model::Config;
use crate::net::Network;
use crate::telemetry::journal::Journal;
use crate::telemetry::metrics::Metrics;
use crate::upstream::Shared;

/// How long the head of a request may take.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How often the log says that accepting fails.
const REMINDER: Duration = Duration::from_secs(10);
/// The most answers that are made at the same time, those to probes not among them: each can be as
/// large as the journal.
const AT_A_TIME: usize = 2;

/// What operators can ask about.
#[derive(Clone, Debug)]
pub struct Admin {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For `/failures`.
    pub journal: Arc<Journal>,
    /// For the probes, `/config` and `/endpoints`.
    pub state: Arc<State>,
}

/// Whether the process serves clients, and what a reload replaces.
#[derive(Debug)]
pub struct State {
    readiness: AtomicU8,
    /// Locked for as long as it takes to copy a reference.
    loaded: Mutex<Arc<Loaded>>,
    /// Operators change nothing any more.
    frozen: Mutex<bool>,
    /// Never locked by the admin thread itself.
    history: Mutex<History>,
}

/// What a reload replaces.
#[derive(Debug)]
struct Loaded {
    /// Secrets are hidden.
    config: Value,
    upstreams: Vec<Arc<Shared>>,
    access: Access,
}

impl Loaded {
    fn new(config: &Config, upstreams: Vec<Arc<Shared>>) -> Arc<Self> {
        let access = Access::new(&config.admin);
        Arc::new(Loaded { config: config.describe(), upstreams, access })
    }
}

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

impl State {
    /// The state of a process that starts with this configuration and these upstreams.
    #[must_use]
    pub fn new(config: &Config, upstreams: Vec<Arc<Shared>>) -> Self {
        State {
            readiness: AtomicU8::new(STARTING),
            loaded: Mutex::new(Loaded::new(config, upstreams)),
            frozen: Mutex::new(false),
            history: Mutex::default(),
        }
    }

    /// Refuses changes from now on, or lets them through again. When this returns, none is under way.
    pub fn set_frozen(&self, frozen: bool) {
        *self.frozen.lock().unwrap_or_else(PoisonError::into_inner) = frozen;
    }

    /// Changes something, unless changes are refused.
    fn change<T>(&self, change: impl FnOnce() -> T) -> Option<T> {
        let frozen = self.frozen.lock().unwrap_or_else(PoisonError::into_inner);
        (!*frozen).then(change)
    }

    /// Answers by this configuration from now on, its token and names included.
    pub fn load(&self, config: &Config, upstreams: Vec<Arc<Shared>>) {
        let loaded = Loaded::new(config, upstreams);
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = loaded;
    }

    fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Clients are served.
    pub fn set_ready(&self) {
        self.readiness.store(READY, Ordering::Relaxed);
    }

    /// No new clients are served.
    pub fn set_draining(&self) {
        self.readiness.store(DRAINING, Ordering::Relaxed);
    }

    /// `starting`, `ready` or `draining`.
    #[must_use]
    pub fn readiness(&self) -> &'static str {
        match self.readiness.load(Ordering::Relaxed) {
            READY => "ready",
            DRAINING => "draining",
            _ => "starting",
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admin {
    /// Serves until `shutdown` resolves. Runs where tasks stay on their thread.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let server = Rc::new(Server { admin: self, making: Semaphore::new(AT_A_TIME) });
        let connections = Connections::default();
        tokio::pin!(shutdown);
        let mut steps = interval(STEP);
        steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once.
        steps.tick().await;
        let mut said = None;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut shutdown => return,
                _ = steps.tick() => {
                    let Admin { metrics, state, .. } = server.admin.clone();
                    spawn_blocking(move || state.history().end_step(metrics.reading()));
                    continue;
                }
            };
            match accepted {
                Ok((tcp, from)) => server.take(&connections, tcp, from).await,
                Err(error) => {
                    if said.is_none_or(|at: Instant| at.elapsed() >= REMINDER) {
                        said = Some(Instant::now());
                        tracing::warn!(%error, "the admin listener cannot accept; trying again");
                    }
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// The admin thread's own.
struct Server {
    admin: Admin,
    making: Semaphore,
}

impl Server {
    async fn take(self: &Rc<Self>, connections: &Connections, tcp: TcpStream, from: SocketAddr) {
        let place = Rc::new(connections.enter(Network::of(from.ip())));
        let server = Rc::clone(self);
        spawn_local(async move {
            tokio::select! {
                () = server.connection(tcp, Rc::clone(&place)) => {}
                () = place.must_go() => {}
            }
        });
        // What it has sent already is read before another one can take its place: a queue full of
        // newcomers is not accepted in one go.
        yield_now().await;
    }

    async fn connection(&self, tcp: TcpStream, place: Rc<Place>) {
        let service = service_fn(|request: Request<hyper::body::Incoming>| {
            place.asked();
            let place = Rc::clone(&place);
            async move {
                let answer = self.answer(&request).await;
                place.answered();
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(16 * 1024)
            .serve_connection(place.watched(TokioIo::new(tcp)), service);
        if let Err(error) = connection.await {
            tracing::debug!(%error, "admin connection ended early");
        }
    }

    async fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let question = match self.admin.decide(request) {
            Decided::Answer(answer) => return answer,
            Decided::Question(question) => question,
        };
        // Nobody closes it; without a place the answer is made all the same.
        let _place = self.making.acquire().await;
        let admin = self.admin.clone();
        let made = spawn_blocking(move || admin.make(question)).await;
        made.unwrap_or_else(|error| {
            tracing::error!(%error, "an answer to an operator could not be made");
            answer::failed()
        })
    }
}

#[cfg(test)]
mod tests;

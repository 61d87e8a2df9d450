//! Floor 6: the process. Sockets, workers, the admin thread, and how all of them end.
//!
//! Each worker is a thread with a single-threaded runtime, its own listening sockets
//! (SO_REUSEPORT) and its own upstream pools; what the workers share is read through handles that
//! are made here, once. Draining goes: stop accepting, tell every connection, wait until the last
//! one is gone or the drain time is over, join the threads.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use crate::admin::Admin;
use crate::config::model::{self, Config};
use crate::failure;
use crate::forward::Worker;
use crate::listen::accept::{self, Listener, Way};
use crate::listen::drain::{Drain, Drainer, Open};
use crate::listen::renewal::{self, Renewal};
use crate::listen::tls::{Store, TlsError};
use crate::telemetry::journal::Journal;
use crate::telemetry::metrics::Metrics;
use crate::upstream::tls::TlsSettingsError;
use crate::upstream::{Shared, Upstream, watch};

/// Connections that the kernel may hold for a worker that has not accepted them yet.
const BACKLOG: i32 = 4096;

/// How often idle upstream connections are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// A seawall that runs.
#[derive(Debug)]
pub struct Running {
    addresses: Vec<SocketAddr>,
    admin_address: Option<SocketAddr>,
    metrics: Arc<Metrics>,
    journal: Arc<Journal>,
    state: Arc<crate::admin::State>,
    drainer: Drainer,
    workers: Vec<JoinHandle<()>>,
    admin: Option<(JoinHandle<()>, Drainer)>,
    /// Held for its end: it stops with us.
    _renewing: renewal::Watching,
}

/// Why a seawall cannot start.
#[derive(Debug)]
pub enum StartError {
    /// A listening socket cannot be opened.
    Listen(SocketAddr, io::Error),
    /// An upstream's TLS settings cannot be used.
    UpstreamTls(Arc<str>, TlsSettingsError),
    /// A listener's TLS settings cannot be used.
    ListenerTls(SocketAddr, TlsError),
    /// A thread or its runtime cannot be made.
    Worker(io::Error),
    /// The metrics cannot be declared.
    Metrics(prometheus::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Listen(address, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "{address} is in use by another process; choose another address or stop it"
                )
            }
            StartError::Listen(address, _) => write!(f, "cannot listen on {address}"),
            StartError::UpstreamTls(name, _) => {
                write!(f, "the TLS settings of upstream {name} cannot be used")
            }
            StartError::ListenerTls(address, _) => {
                write!(f, "the TLS settings of the listener on {address} cannot be used")
            }
            StartError::Worker(_) => f.write_str("cannot start a worker thread"),
            StartError::Metrics(_) => f.write_str("the metrics cannot be declared"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::Listen(_, error) | StartError::Worker(error) => Some(error),
            StartError::UpstreamTls(_, error) => Some(error),
            StartError::ListenerTls(_, error) => Some(error),
            StartError::Metrics(error) => Some(error),
        }
    }
}

/// Starts seawalls.
#[derive(Debug)]
pub struct Server;

/// A socket of one listener for one worker, before the worker's runtime exists.
struct Socketed {
    socket: StdListener,
    listener: Arc<model::Listener>,
    tls: Option<Arc<Store>>,
}

impl Server {
    /// Opens every socket and starts every worker. When this returns, clients can connect.
    ///
    /// # Errors
    /// If a socket, TLS settings or a thread cannot be had; nothing is left running then.
    pub fn start(config: Config) -> Result<Running, StartError> {
        crate::failure::app::prepare();
        let config = Arc::new(config);
        let metrics = Metrics::new().map_err(StartError::Metrics)?;
        let journal = Arc::new(Journal::new(config.journal.entries));
        let upstreams = shared_upstreams(&config, &metrics)?;
        let (addresses, sockets) = listeners(&config)?;
        let renewing = renew(&sockets, &metrics).map_err(StartError::Worker)?;
        let state = Arc::new(crate::admin::State::new(config.describe(), upstreams.clone()));
        let (drainer, drain) = Drainer::new();

        let mut running = Running {
            addresses,
            admin_address: None,
            metrics: Arc::clone(&metrics),
            journal: Arc::clone(&journal),
            state: Arc::clone(&state),
            drainer,
            workers: Vec::new(),
            admin: None,
            _renewing: renewing,
        };
        if let Some(address) = config.admin.address {
            running.start_admin(address, config.admin.token.clone())?;
        }
        for (number, sockets) in sockets.into_iter().enumerate() {
            let seed = WorkerSeed {
                number,
                config: Arc::clone(&config),
                upstreams: upstreams.clone(),
                metrics: Arc::clone(&metrics),
                journal: Arc::clone(&journal),
                sockets,
                drain: drain.clone(),
            };
            let runtime = runtime().map_err(StartError::Worker)?;
            let worker = thread::Builder::new()
                .name(format!("seawall-{number}"))
                .spawn(move || seed.run(&runtime))
                .map_err(StartError::Worker)?;
            running.workers.push(worker);
        }
        state.set_ready();
        Ok(running)
    }
}

impl Running {
    /// Where clients connect, in the configuration's order.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where operators connect.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What all workers know about the upstreams, in the configuration's order.
    #[must_use]
    pub fn upstreams(&self) -> &[Arc<Shared>] {
        self.state.upstreams()
    }

    /// The failure journal.
    #[must_use]
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Begins to drain: no new connections, requests finish, WebSockets get 1012.
    pub fn shutdown(&self) {
        self.state.set_draining();
        self.drainer.begin();
    }

    /// Drains, and waits until everything has ended: the drain time at most.
    pub fn join(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shutdown();
        for worker in self.workers.drain(..) {
            // A worker that panicked has said so on stderr; the others end in order all the same.
            let _ = worker.join();
        }
        // The admin listener goes last, so that the drain can be watched.
        if let Some((admin, drainer)) = self.admin.take() {
            drainer.begin();
            let _ = admin.join();
        }
    }

    fn start_admin(
        &mut self,
        address: SocketAddr,
        token: Option<model::Secret>,
    ) -> Result<(), StartError> {
        let failed = |error| StartError::Listen(address, error);
        let socket = bind(address, Reuse::Exclusive).map_err(failed)?;
        self.admin_address = Some(socket.local_addr().map_err(failed)?);
        let admin = Admin {
            metrics: Arc::clone(&self.metrics),
            journal: Arc::clone(&self.journal),
            state: Arc::clone(&self.state),
            token,
        };
        let (drainer, drain) = Drainer::new();
        let runtime = runtime().map_err(StartError::Worker)?;
        let thread = thread::Builder::new()
            .name("seawall-admin".into())
            .spawn(move || {
                LocalSet::new().block_on(&runtime, async move {
                    match TcpListener::from_std(socket) {
                        Ok(listener) => admin.serve(listener, drain.begun()).await,
                        Err(error) => tracing::error!(%error, "the admin listener cannot run"),
                    }
                });
            })
            .map_err(StartError::Worker)?;
        self.admin = Some((thread, drainer));
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a worker's thread is started with.
struct WorkerSeed {
    number: usize,
    config: Arc<Config>,
    upstreams: Vec<Arc<Shared>>,
    metrics: Arc<Metrics>,
    journal: Arc<Journal>,
    sockets: Vec<Socketed>,
    drain: Drain,
}

impl WorkerSeed {
    fn run(self, runtime: &Runtime) {
        let local = LocalSet::new();
        local.block_on(runtime, self.work());
        // Dropping the set ends the connections that the drain time was too short for.
    }

    async fn work(self) {
        // One worker checks for all of them.
        let watched = if self.number == 0 { &*self.upstreams } else { &[] };
        let watching = watch(watched);
        let upstreams: Vec<_> = self
            .upstreams
            .into_iter()
            .map(|shared| Rc::new(Upstream::new(shared, self.number)))
            .collect();
        let worker = Rc::new(Worker::new(&self.config, &upstreams, self.metrics, self.journal));
        let open = Open::default();
        let mut accepting = Vec::new();
        for Socketed { socket, listener, tls } in self.sockets {
            match TcpListener::from_std(socket) {
                Ok(socket) => accepting.push(tokio::task::spawn_local(accept::run(
                    Rc::clone(&worker),
                    Listener { socket, way: Rc::new(Way::new(&listener, tls)) },
                    self.drain.clone(),
                    open.clone(),
                ))),
                Err(error) => tracing::error!(%error, "a worker cannot use its socket"),
            }
        }
        let sweeping = tokio::task::spawn_local(sweep(upstreams.clone()));
        self.drain.begun().await;
        let drained = timeout(self.config.shutdown.drain, async {
            for task in accepting {
                let _ = task.await;
            }
            open.none().await;
        });
        if drained.await.is_err() {
            tracing::warn!(connections = open.count(), "the drain time is over; closing the rest");
        }
        sweeping.abort();
        drop(watching);
        upstreams.iter().for_each(|upstream| upstream.clear());
    }
}

async fn sweep(upstreams: Vec<Rc<Upstream>>) {
    loop {
        sleep(SWEEP).await;
        upstreams.iter().for_each(|upstream| upstream.sweep());
    }
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn shared_upstreams(
    config: &Config,
    metrics: &Arc<Metrics>,
) -> Result<Vec<Arc<Shared>>, StartError> {
    let shared = config.upstreams.iter().map(|settings| {
        let dependencies = dependencies(config, settings);
        // gRPC needs HTTP/2 on both sides.
        let protocols: &[failure::Protocol] = match settings.protocol {
            model::UpstreamProtocol::Http1 => {
                &[failure::Protocol::Http, failure::Protocol::Websocket]
            }
            model::UpstreamProtocol::Http2 | model::UpstreamProtocol::Auto => {
                failure::Protocol::ALL
            }
        };
        let handles = metrics.upstream(&settings.name, &dependencies, protocols);
        Shared::new(Arc::clone(settings), handles)
            .map(Arc::new)
            .map_err(|error| StartError::UpstreamTls(Arc::clone(&settings.name), error))
    });
    shared.collect()
}

/// The dependencies that rules may name for this upstream.
fn dependencies(config: &Config, upstream: &model::Upstream) -> Vec<Arc<str>> {
    let mut names: Vec<_> = config
        .routes
        .iter()
        .filter(|route| route.upstream.name == upstream.name)
        .flat_map(|route| route.policy.dependencies().iter().map(|rule| Arc::clone(&rule.name)))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// For each worker a socket of each listener, and where they are.
fn listeners(config: &Config) -> Result<(Vec<SocketAddr>, Vec<Vec<Socketed>>), StartError> {
    let mut addresses = Vec::new();
    let mut sockets: Vec<Vec<Socketed>> = (0..config.workers).map(|_| Vec::new()).collect();
    for listener in &config.listeners {
        let failed = |error| StartError::Listen(listener.address, error);
        let tls = listener.tls.clone().map(Store::new).transpose();
        let tls = tls.map_err(|error| StartError::ListenerTls(listener.address, error))?;
        let (tls, listener) = (tls.map(Arc::new), Arc::new(listener.clone()));
        // SO_REUSEPORT would share the port with any other process of ours in silence: a socket
        // without it finds out whether the port is free.
        drop(bind(listener.address, Reuse::Exclusive).map_err(failed)?);
        let mut address = listener.address;
        for worker in &mut sockets {
            let socket = bind(address, Reuse::Shared).map_err(failed)?;
            // Port 0: the first socket decides for all.
            address = socket.local_addr().map_err(failed)?;
            worker.push(Socketed { socket, listener: Arc::clone(&listener), tls: tls.clone() });
        }
        addresses.push(address);
    }
    Ok((addresses, sockets))
}

/// Looks after the certificates of every listener; each worker has the same ones.
fn renew(sockets: &[Vec<Socketed>], metrics: &Arc<Metrics>) -> io::Result<renewal::Watching> {
    let secured = sockets.first().into_iter().flatten().filter_map(|socketed| {
        let store = Arc::clone(socketed.tls.as_ref()?);
        let name = socketed.listener.address.to_string();
        Some(Renewal::new(store, metrics.certificates(&name), name))
    });
    Renewal::watch(secured.collect())
}

/// Whether other sockets may listen on the same port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reuse {
    Exclusive,
    Shared,
}

fn bind(address: SocketAddr, reuse: Reuse) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier process in TIME_WAIT do not keep us from the port.
    socket.set_reuse_address(true)?;
    if reuse == Reuse::Shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

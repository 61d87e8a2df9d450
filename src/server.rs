//! Floor 6: the process. Sockets, workers, the admin thread, reloads, and how all of them end.
//!
//! Each worker is a thread with a single-threaded runtime, its own listening sockets
//! (SO_REUSEPORT) and its own upstream pools; what the workers share is read through handles that
//! are made here, once, and again for what a reload changes. Draining goes: stop accepting, tell
//! every connection, wait until the last one is gone or the drain time is over, join the threads.

mod crew;
pub mod diff;
pub mod notify;
mod reload;
pub mod sockets;
pub mod takeover;
pub mod watch;
mod worker;

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tokio::net::TcpListener;
use tokio::runtime::{LocalOptions, LocalRuntime};

use crate::admin::Admin;
use crate::config::model::{self, Config};
use crate::failure;
use crate::listen::drain::{Drain, Drainer};
use crate::listen::renewal::{self, Renewal};
use crate::listen::tls::{Store, TlsError};
use crate::telemetry::journal::{Journal, file};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::request_id;
use crate::telemetry::spans::Tracer;
use crate::upstream::Shared;
use crate::upstream::tls::TlsSettingsError;
use crew::Crew;
use sockets::{Inherited, Kept, Reuse, Sockets};
use worker::Serve;

/// A seawall that runs.
#[derive(Debug)]
pub struct Running {
    config: Arc<Config>,
    upstreams: Vec<Arc<Shared>>,
    listeners: Vec<Bound>,
    /// How many listeners there have been.
    next_listener: u64,
    addresses: Vec<SocketAddr>,
    admin_address: Option<SocketAddr>,
    metrics: Arc<Metrics>,
    journal: Arc<Journal>,
    tracer: Option<Arc<Tracer>>,
    state: Arc<crate::admin::State>,
    drainer: Drainer,
    drain: Drain,
    crew: Crew,
    admin: Option<AdminThread>,
    renewing: Option<renewal::Watching>,
}

#[derive(Debug)]
struct AdminThread {
    thread: JoinHandle<()>,
    drainer: Drainer,
    /// For the process that takes over.
    socket: StdListener,
}

/// A listener that is accepted from.
#[derive(Debug)]
struct Bound {
    id: u64,
    configured: model::Listener,
    address: SocketAddr,
    tls: Option<Arc<Store>>,
    drain: Drain,
    /// Its connections drain when this is dropped.
    drainer: Drainer,
    /// The workers' sockets once more, for the process that takes over.
    sockets: Kept,
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
    /// The journal's file cannot be read or written.
    Journal(PathBuf, io::Error),
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
            StartError::Journal(file, _) => write!(
                f,
                "{} (journal.file) cannot be used; make its folder, let this user write there, or \
                 remove journal.file",
                file.display()
            ),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::Listen(_, error)
            | StartError::Worker(error)
            | StartError::Journal(_, error) => Some(error),
            StartError::UpstreamTls(_, error) => Some(error),
            StartError::ListenerTls(_, error) => Some(error),
            StartError::Metrics(error) => Some(error),
        }
    }
}

/// Starts seawalls.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Opens every socket and starts every worker. When this returns, clients can connect.
    ///
    /// # Errors
    /// If a socket, TLS settings or a thread cannot be had; nothing is left running then.
    pub fn start(config: Config) -> Result<Running, StartError> {
        Server::start_with(config, Inherited::default())
    }

    /// As [`Server::start`], with sockets that were open when the process began.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with(config: Config, mut inherited: Inherited) -> Result<Running, StartError> {
        crate::failure::app::prepare();
        let config = Arc::new(config);
        let metrics = Metrics::new().map_err(StartError::Metrics)?;
        let journal = Arc::new(journal(&config.journal, &metrics)?);
        let tracer = tracer(&config, &metrics)?;
        let upstreams = config
            .upstreams
            .iter()
            .map(|settings| shared_upstream(&config, settings, &metrics, None))
            .collect::<Result<Vec<_>, _>>()?;
        inherited.drain(&upstreams);
        let mut listeners = Vec::new();
        let mut serve: Vec<Vec<Serve>> = (0..config.workers).map(|_| Vec::new()).collect();
        for (listener, id) in config.listeners.iter().zip(0..) {
            let (bound, sockets) =
                open_listener(listener, id, config.workers, &mut inherited, &HashSet::new())?;
            for (worker, sockets) in serve.iter_mut().zip(sockets) {
                worker.push(bound.serve(sockets));
            }
            listeners.push(bound);
        }
        let state = Arc::new(crate::admin::State::new(&config, upstreams.clone()));
        let (drainer, drain) = Drainer::new();

        let mut running = Running {
            next_listener: listeners.len() as u64,
            addresses: listeners.iter().map(|bound| bound.address).collect(),
            config: Arc::clone(&config),
            upstreams: upstreams.clone(),
            listeners,
            admin_address: None,
            metrics: Arc::clone(&metrics),
            journal: Arc::clone(&journal),
            tracer: tracer.clone(),
            state: Arc::clone(&state),
            drainer,
            drain,
            crew: Crew::new(config.workers),
            admin: None,
            renewing: None,
        };
        running.watch_certificates().map_err(StartError::Worker)?;
        if let Some(address) = config.admin.address {
            running.start_admin(address, &mut inherited)?;
        }
        inherited.close_rest();
        for (number, listeners) in serve.into_iter().enumerate() {
            running.begin_worker(number, listeners)?;
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
        &self.upstreams
    }

    /// The failure journal.
    #[must_use]
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// What runs.
    #[must_use]
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Begins to drain: no new connections, requests finish, WebSockets get 1012.
    pub fn shutdown(&mut self) {
        self.state.set_draining();
        self.drainer.begin();
        for listener in &mut self.listeners {
            listener.drainer.begin();
            // While a copy is open the kernel goes on accepting.
            listener.sockets.clear();
        }
    }

    /// Drains, and waits until everything has ended: the drain time at most. Returns `true` if all
    /// workers ended in order.
    pub fn join(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        self.shutdown();
        let in_order = self.crew.join();
        // The admin listener goes last, so that the drain can be watched.
        if let Some(admin) = self.admin.take() {
            admin.drainer.begin();
            let _ = admin.thread.join();
        }
        // The workers are gone, and their handles with them.
        if let Some(tracer) = self.tracer.take().and_then(Arc::into_inner) {
            tracer.finish();
        }
        self.journal.finish();
        in_order
    }

    /// Looks after the certificates of the listeners that there are now.
    fn watch_certificates(&mut self) -> io::Result<()> {
        // What is not shown any more is forgotten before what is shown is told.
        self.renewing = None;
        let secured = self.listeners.iter().filter_map(|bound| {
            let store = Arc::clone(bound.tls.as_ref()?);
            let name = bound.configured.address.to_string();
            Some(Renewal::new(store, self.metrics.certificates(&name), name))
        });
        self.renewing = Some(Renewal::watch(secured.collect())?);
        Ok(())
    }

    fn start_admin(
        &mut self,
        address: SocketAddr,
        inherited: &mut Inherited,
    ) -> Result<(), StartError> {
        let failed = |error| StartError::Listen(address, error);
        let socket = match inherited.take_one(address).map_err(failed)? {
            Some(socket) => socket,
            None => sockets::bind(address, Reuse::Exclusive).map_err(failed)?,
        };
        let kept = socket.try_clone().map_err(failed)?;
        self.admin_address = Some(socket.local_addr().map_err(failed)?);
        let admin = Admin {
            metrics: Arc::clone(&self.metrics),
            journal: Arc::clone(&self.journal),
            state: Arc::clone(&self.state),
        };
        let (drainer, drain) = Drainer::new();
        let thread = spawn("seawall-admin".into(), move |runtime| {
            runtime.block_on(async move {
                match TcpListener::from_std(socket) {
                    Ok(listener) => admin.serve(listener, drain.begun()).await,
                    Err(error) => tracing::error!(%error, "the admin listener cannot run"),
                }
            });
        })?;
        self.admin = Some(AdminThread { thread, drainer, socket: kept });
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

impl Bound {
    /// What a worker is told of it.
    fn serve(&self, sockets: Vec<StdListener>) -> Serve {
        Serve {
            id: self.id,
            listener: self.configured.clone(),
            tls: self.tls.clone(),
            drain: self.drain.clone(),
            sockets,
        }
    }
}

/// A thread with a runtime whose tasks stay there. (A `LocalSet` in a runtime of tasks that may go
/// elsewhere is a second scheduler in the first one.)
fn spawn(
    name: String,
    work: impl FnOnce(&LocalRuntime) + Send + 'static,
) -> Result<thread::JoinHandle<()>, StartError> {
    // It can be made on its own thread only, and whoever starts it is to hear whether there is one.
    let (tell, told) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name(name).spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let made = builder.enable_all().build_local(LocalOptions::default());
        let (made, error) =
            made.map_or_else(|error| (None, Some(error)), |made| (Some(made), None));
        let _ = tell.send(error);
        if let Some(runtime) = made {
            work(&runtime);
        }
    });
    let thread = thread.map_err(StartError::Worker)?;
    match told.recv() {
        Ok(None) => Ok(thread),
        Ok(Some(error)) => Err(StartError::Worker(error)),
        Err(error) => Err(StartError::Worker(io::Error::other(error))),
    }
}

/// The journal, with its file if it has one.
fn journal(settings: &model::Journal, metrics: &Metrics) -> Result<Journal, StartError> {
    let Some(path) = &settings.file else { return Ok(Journal::new(settings.entries)) };
    let dropped = metrics.journal_dropped();
    let (path, size, files) = (path.clone(), settings.file_bytes, settings.files);
    let failed = |error| StartError::Journal(path.clone(), error);
    let file = file::Settings { path: path.clone(), size, files };
    Journal::with_file(settings.entries, file, dropped).map_err(failed)
}

/// The way to the OpenTelemetry collector, if there is one.
fn tracer(config: &Config, metrics: &Metrics) -> Result<Option<Arc<Tracer>>, StartError> {
    let instance = config.forwarded.name.as_deref().unwrap_or(request_id::pseudonym());
    let settings = config.tracing.as_ref();
    let started = settings.map(|settings| Tracer::start(settings, instance, metrics.spans()));
    started.transpose().map(|tracer| tracer.map(Arc::new)).map_err(StartError::Worker)
}

/// What all workers know of an upstream; `previous` is what it was before a reload.
fn shared_upstream(
    config: &Config,
    settings: &Arc<model::Upstream>,
    metrics: &Arc<Metrics>,
    previous: Option<&Shared>,
) -> Result<Arc<Shared>, StartError> {
    let dependencies = dependencies(config, settings);
    // gRPC needs HTTP/2 on both sides.
    let protocols: &[failure::Protocol] = match settings.protocol {
        model::UpstreamProtocol::Http1 => &[failure::Protocol::Http, failure::Protocol::Websocket],
        model::UpstreamProtocol::Http2 | model::UpstreamProtocol::Auto => failure::Protocol::ALL,
    };
    let handles = metrics.upstream(&settings.name, &dependencies, protocols);
    Shared::new(Arc::clone(settings), handles, previous)
        .map(Arc::new)
        .map_err(|error| StartError::UpstreamTls(Arc::clone(&settings.name), error))
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

/// A listener with its sockets, and those of each worker.
fn open_listener(
    configured: &model::Listener,
    id: u64,
    workers: usize,
    inherited: &mut Inherited,
    ours: &HashSet<u16>,
) -> Result<(Bound, Vec<Vec<StdListener>>), StartError> {
    let tls = store(configured, None)?;
    let sockets = Sockets::open(configured.address, workers, inherited, ours)
        .map_err(|error| StartError::Listen(configured.address, error))?;
    let (drainer, drain) = Drainer::new();
    let bound = Bound {
        id,
        configured: configured.clone(),
        address: sockets.address,
        tls,
        drain,
        drainer,
        sockets: sockets.kept,
    };
    Ok((bound, sockets.of_workers))
}

/// The listener's TLS; `previous` is what it was before a reload.
fn store(
    listener: &model::Listener,
    previous: Option<&Store>,
) -> Result<Option<Arc<Store>>, StartError> {
    let made = listener.tls.clone().map(|settings| match previous {
        Some(previous) => previous.renewed(settings),
        None => Store::new(settings),
    });
    made.transpose()
        .map(|made| made.map(Arc::new))
        .map_err(|error| StartError::ListenerTls(listener.address, error))
}

//! A new configuration for a seawall that runs: all or nothing.
//!
//! First everything that can fail is done, beside what runs: the file is checked, TLS settings are
//! tried, new listeners are bound. Only then the workers are told. What the change does not concern
//! keeps what it has: an upstream its connections, ejections, health and budgets, a listener its
//! sockets and connections. An upstream that has changed opens new connections, and keeps what is
//! known of its endpoints as far as the change does not concern it ([`Shared::new`]), while the
//! requests and WebSockets that use the old one go on with it; a listener that is gone drains.

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use super::diff::{self, Diff};
use super::sockets::Inherited;
use super::worker::{Change, Serve};
use super::{
    Bound, Running, StartError, dependencies, open_listener, shared_upstream, store, tracer,
};
use crate::config::{self, model::Config};
use crate::upstream::Shared;

/// How long the workers have to take a configuration over; they need microseconds.
const PATIENCE: Duration = Duration::from_secs(10);

impl Running {
    /// Reads the file and runs with it from now on, or tells in the log why not. Whether it does.
    pub fn reload_file(&mut self, path: &Path) -> bool {
        let loaded = config::load(path).map_err(|problems| problems.to_string());
        let reloaded = loaded.and_then(|config| {
            self.reload(config).map_err(|error| {
                let cause = std::error::Error::source(&error);
                format!("{error}{}", cause.map(|e| format!(": {e}")).unwrap_or_default())
            })
        });
        match reloaded {
            Ok(diff) => {
                diff.emit();
                true
            }
            Err(error) => {
                self.metrics.reloaded(false);
                let file = path.display();
                tracing::error!(%file, error, "the configuration cannot be used; nothing changes");
                false
            }
        }
    }

    /// Runs with this configuration from now on. When this returns, every request that begins sees
    /// it.
    ///
    /// # Errors
    /// If a socket or TLS settings cannot be had; nothing has changed then.
    pub fn reload(&mut self, config: Config) -> Result<Diff, StartError> {
        let diff = Diff::between(&self.config, &config);
        let config = Arc::new(diff::effective(&self.config, config));
        let fresh = config.upstreams.iter().filter(|settings| self.unchanged(settings).is_none());
        for settings in fresh {
            Shared::check(settings)
                .map_err(|error| StartError::UpstreamTls(Arc::clone(&settings.name), error))?;
        }
        let listeners = self.plan_listeners(&config)?;
        let tracer = match self.config.tracing == config.tracing {
            true => self.tracer.clone(),
            false => tracer(&config, &self.metrics)?,
        };

        // From here on nothing fails: what `Shared::new` may refuse was tried above.
        let upstreams = self.plan_upstreams(&config)?;
        let serve = self.change_listeners(listeners);
        // The old one sends what it has when the last request that uses it is over.
        self.tracer = tracer;
        self.tell_workers(&config, &upstreams, serve);
        if let Err(error) = self.watch_certificates() {
            tracing::error!(%error, "changed certificates will not be noticed");
        }
        let before = std::mem::replace(&mut self.upstreams, upstreams);
        for old in before.iter().filter(|old| !self.has(old)) {
            old.retire(self.named(&old.settings.name).map(|next| &**next));
        }
        for settings in &config.upstreams {
            self.metrics.dependencies(&settings.name, &dependencies(&config, settings));
        }
        self.state.load(&config, self.upstreams.clone());
        self.config = config;
        self.close_unattended();
        self.metrics.reloaded(true);
        Ok(diff)
    }

    /// What all workers know of this upstream, if it has the same settings already.
    fn unchanged(&self, settings: &crate::config::model::Upstream) -> Option<&Arc<Shared>> {
        self.upstreams.iter().find(|known| *known.settings == *settings)
    }

    fn named(&self, name: &str) -> Option<&Arc<Shared>> {
        self.upstreams.iter().find(|known| &*known.settings.name == name)
    }

    fn has(&self, shared: &Arc<Shared>) -> bool {
        self.upstreams.iter().any(|known| Arc::ptr_eq(known, shared))
    }

    fn plan_upstreams(&self, config: &Config) -> Result<Vec<Arc<Shared>>, StartError> {
        let upstreams = config.upstreams.iter().map(|settings| match self.unchanged(settings) {
            Some(known) => Ok(Arc::clone(known)),
            None => {
                let known = self.named(&settings.name);
                shared_upstream(config, settings, &self.metrics, known.map(|known| &**known))
            }
        });
        upstreams.collect()
    }

    /// Binds what is new, and makes the TLS of what has changed.
    fn plan_listeners(&self, config: &Config) -> Result<Vec<Planned>, StartError> {
        // A port of ours is not free, and can be shared all the same: the kernel tells addresses
        // apart, and 127.0.0.1:80 may become 0.0.0.0:80.
        let ours: HashSet<_> = self.listeners.iter().map(|bound| bound.address.port()).collect();
        let mut known: VecDeque<_> = self.listeners.iter().collect();
        let mut next = self.next_listener;
        let planned = config.listeners.iter().map(|configured| {
            let at = known.iter().position(|bound| bound.configured.address == configured.address);
            match at.and_then(|at| known.remove(at)) {
                Some(bound) if bound.configured == *configured => Ok(Planned::Kept(bound.id)),
                Some(bound) => {
                    let tls = store(configured, bound.tls.as_deref())?;
                    Ok(Planned::Changed(bound.id, Box::new(configured.clone()), tls))
                }
                None => {
                    let (id, workers) = (next, self.crew.len());
                    next += 1;
                    let none = &mut Inherited::default();
                    let (bound, sockets) = open_listener(configured, id, workers, none, &ours)?;
                    Ok(Planned::New(Box::new(bound), sockets))
                }
            }
        });
        planned.collect()
    }

    /// Makes the plan what is. What each worker is told of it.
    fn change_listeners(&mut self, planned: Vec<Planned>) -> Vec<Vec<Serve>> {
        let mut serve: Vec<Vec<Serve>> = (0..self.crew.len()).map(|_| Vec::new()).collect();
        let mut before = std::mem::take(&mut self.listeners);
        let mut take = |id| {
            let at = before.iter().position(|bound: &Bound| bound.id == id);
            at.map(|at| before.swap_remove(at))
        };
        for planned in planned {
            let (bound, mut sockets) = match planned {
                Planned::Kept(id) => (take(id), Vec::new()),
                Planned::Changed(id, configured, tls) => {
                    let changed =
                        take(id).map(|bound| Bound { configured: *configured, tls, ..bound });
                    (changed, Vec::new())
                }
                Planned::New(bound, sockets) => {
                    self.next_listener = self.next_listener.max(bound.id + 1);
                    (Some(*bound), sockets)
                }
            };
            // Every id of the plan is one of `before`.
            let Some(bound) = bound else { continue };
            sockets.resize_with(serve.len(), Vec::new);
            for (worker, sockets) in serve.iter_mut().zip(sockets) {
                worker.push(bound.serve(sockets));
            }
            self.listeners.push(bound);
        }
        self.addresses = self.listeners.iter().map(|bound| bound.address).collect();
        // What is left is dropped, and its connections drain.
        serve
    }

    fn tell_workers(
        &self,
        config: &Arc<Config>,
        upstreams: &[Arc<Shared>],
        serve: Vec<Vec<Serve>>,
    ) {
        let (done, all_done) = mpsc::channel();
        let tracer = self.tracer.clone();
        self.crew.tell(serve.into_iter().map(|listeners| Change {
            config: Arc::clone(config),
            upstreams: upstreams.to_vec(),
            listeners,
            tracer: tracer.clone(),
            done: done.clone(),
        }));
        drop(done);
        // One that has ended does not answer.
        for _ in 0..self.crew.len() {
            match all_done.recv_timeout(PATIENCE) {
                Ok(()) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    tracing::error!("a worker does not take the configuration over; it will");
                    break;
                }
            }
        }
    }
}

/// What becomes of a listener.
enum Planned {
    /// As it is, by its id.
    Kept(u64),
    /// The same sockets, other settings.
    Changed(u64, Box<crate::config::model::Listener>, Option<Arc<crate::listen::tls::Store>>),
    /// Bound, with the sockets of each worker.
    New(Box<Bound>, Vec<Vec<std::net::TcpListener>>),
}

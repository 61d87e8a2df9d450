//! One worker: its thread's runtime, its connections, its view of the configuration.
//!
//! A reload comes as a message. The worker makes what is new, keeps what has not changed, and from
//! then on its connections find the new state at their next request; nothing is shared with other
//! workers on the way there.

use std::cell::RefCell;
use std::net::TcpListener as StdListener;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use tokio::runtime::LocalRuntime;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::config::model::{self, Config};
use crate::drain::Drain;
use crate::forward::Worker;
use crate::forward::current::Current;
use crate::listen::accept::{self, CurrentWay, Listener, Way};
use crate::listen::drain::Open;
use crate::listen::tls::Store;
use crate::net::TcpListener;
use crate::telemetry::Telemetry;
use crate::telemetry::journal::Journal;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans::Tracer;
use crate::upstream::deadline::Spares;
use crate::upstream::{Shared, Upstream, Watching, watch};

/// How often idle upstream connections are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// What a worker is told.
pub(super) enum Order {
    /// To go on with this.
    Change(Change),
    /// To end as nothing from a network can make it end.
    #[cfg(test)]
    Break(Break),
}

/// How a worker ends early.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Break {
    /// A panic in its own loop.
    Panic,
    /// Its loop returns.
    Return,
    /// A panic in a loop that accepts or sweeps for it.
    Task,
}

/// What a worker is to do from now on.
pub(super) struct Change {
    pub(super) config: Arc<Config>,
    /// In the configuration's order. Those that the worker knows keep all their connections.
    pub(super) upstreams: Vec<Arc<Shared>>,
    /// All listeners. Those that the worker knows have no sockets here.
    pub(super) listeners: Vec<Serve>,
    pub(super) tracer: Option<Arc<Tracer>>,
    /// Told when it is done, and the sockets of listeners that are gone are closed.
    pub(super) done: Sender<()>,
}

/// A listener, for one worker.
pub(super) struct Serve {
    pub(super) id: u64,
    pub(super) listener: model::Listener,
    pub(super) tls: Option<Arc<Store>>,
    pub(super) drain: Drain,
    pub(super) sockets: Vec<StdListener>,
}

/// What a worker's thread is started with.
pub(super) struct Seed {
    pub(super) number: usize,
    pub(super) metrics: Arc<Metrics>,
    pub(super) journal: Arc<Journal>,
    pub(super) first: Change,
    pub(super) orders: UnboundedReceiver<Order>,
    pub(super) drain: Drain,
}

impl Seed {
    /// Dropping the runtime then ends the connections that the drain time was too short for.
    pub(super) fn run(self, runtime: &LocalRuntime) {
        let _spares = Spares::keep();
        runtime.block_on(self.work());
    }

    async fn work(self) {
        let Seed { number, metrics, journal, first, mut orders, drain } = self;
        let mut workplace = Workplace::new(number, metrics, journal, first);
        let begun = drain.begun();
        tokio::pin!(begun);
        loop {
            let order = tokio::select! {
                biased;
                () = &mut begun => break,
                // Whoever accepts is gone: another worker can begin anew, this one cannot.
                () = workplace.fallen.notified() => return,
                Some(order) = orders.recv() => order,
            };
            match order {
                Order::Change(change) => workplace.apply(change),
                #[cfg(test)]
                Order::Break(Break::Panic) => std::panic::resume_unwind(Box::new("broken")),
                #[cfg(test)]
                Order::Break(Break::Return) => return,
                #[cfg(test)]
                Order::Break(Break::Task) => {
                    let fallen = Rc::clone(&workplace.fallen);
                    let broken = async { std::panic::resume_unwind(Box::new("broken")) };
                    drop(spawn_vital(&fallen, broken));
                }
            }
        }
        workplace.end().await;
    }
}

/// Tells that a task without which a worker is of no use has panicked.
struct Vital(Rc<Notify>);

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.notify_one();
        }
    }
}

/// Lets a task run for as long as the worker does: `fallen` is told if it panics.
fn spawn_vital(fallen: &Rc<Notify>, task: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
    let vital = Vital(Rc::clone(fallen));
    tokio::task::spawn_local(async move {
        let _vital = vital;
        task.await;
    })
}

/// Everything that belongs to one worker.
struct Workplace {
    number: usize,
    telemetry: Telemetry,
    config: Arc<Config>,
    current: Rc<Current>,
    upstreams: Rc<Upstreams>,
    watching: Vec<(Arc<Shared>, Watching)>,
    listeners: Vec<(u64, CurrentWay)>,
    accepting: Vec<(u64, JoinHandle<()>)>,
    sweeping: JoinHandle<()>,
    /// A task without which the worker is of no use has panicked.
    fallen: Rc<Notify>,
    open: Open,
}

/// The worker's upstreams, and those that a reload has replaced or removed while requests and
/// WebSockets were using them.
#[derive(Default)]
struct Upstreams {
    current: RefCell<Vec<Rc<Upstream>>>,
    retired: RefCell<Vec<Weak<Upstream>>>,
}

impl Upstreams {
    async fn sweep(self: Rc<Self>) {
        loop {
            sleep(SWEEP).await;
            self.current.borrow().iter().for_each(|upstream| upstream.sweep());
            self.clear_retired();
        }
    }

    /// Their connections end with the request that is using them.
    fn clear_retired(&self) {
        self.retired.borrow_mut().retain(|upstream| match upstream.upgrade() {
            Some(upstream) => {
                upstream.clear();
                true
            }
            None => false,
        });
    }
}

impl Workplace {
    fn new(number: usize, metrics: Arc<Metrics>, journal: Arc<Journal>, first: Change) -> Self {
        let upstreams = Rc::new(Upstreams::default());
        let telemetry = Telemetry { metrics, journal, tracer: first.tracer };
        let worker = Worker::new(
            &first.config,
            &take_over(&upstreams, number, &first.upstreams),
            telemetry.clone(),
            None,
        );
        let fallen = Rc::<Notify>::default();
        let mut workplace = Workplace {
            number,
            telemetry,
            config: Arc::clone(&first.config),
            current: Rc::new(Current::new(Rc::new(worker))),
            sweeping: spawn_vital(&fallen, Rc::clone(&upstreams).sweep()),
            fallen,
            upstreams,
            watching: Vec::new(),
            listeners: Vec::new(),
            accepting: Vec::new(),
            open: Open::default(),
        };
        workplace.watch(&first.upstreams);
        // At the start no listener is gone.
        drop(workplace.listen(first.listeners));
        workplace
    }

    fn apply(&mut self, change: Change) {
        let upstreams = take_over(&self.upstreams, self.number, &change.upstreams);
        self.telemetry.tracer = change.tracer;
        let (telemetry, previous) = (self.telemetry.clone(), self.current.get());
        let worker = Worker::new(&change.config, &upstreams, telemetry, Some(&previous));
        self.current.replace(Rc::new(worker));
        self.config = change.config;
        self.upstreams.clear_retired();
        self.watch(&change.upstreams);
        let gone = self.listen(change.listeners);
        tokio::task::spawn_local(async move {
            for task in gone {
                let _ = task.await;
            }
            // Whoever waits may have given up.
            let _ = change.done.send(());
        });
    }

    /// One worker checks for all of them.
    fn watch(&mut self, upstreams: &[Arc<Shared>]) {
        if self.number != 0 {
            return;
        }
        self.watching
            .retain(|(known, _)| upstreams.iter().any(|shared| Arc::ptr_eq(shared, known)));
        for shared in upstreams {
            if !self.watching.iter().any(|(known, _)| Arc::ptr_eq(shared, known)) {
                let watching = watch(std::slice::from_ref(shared));
                self.watching.push((Arc::clone(shared), watching));
            }
        }
    }

    /// Accepts from all these and from no other. What accepts from others and is about to end.
    fn listen(&mut self, listeners: Vec<Serve>) -> Vec<JoinHandle<()>> {
        let is_kept = |id| listeners.iter().any(|serve| serve.id == id);
        let (kept, gone) = std::mem::take(&mut self.accepting)
            .into_iter()
            .partition::<Vec<_>, _>(|(id, _)| is_kept(*id));
        self.accepting = kept;
        let mut served = Vec::new();
        for Serve { id, listener, tls, drain, sockets } in listeners {
            let way = Rc::new(Way::new(&listener, tls));
            let known = self.listeners.iter().find(|(known, _)| *known == id);
            let current = match known {
                Some((_, current)) => {
                    current.replace(way);
                    Rc::clone(current)
                }
                None => Rc::new(RefCell::new(way)),
            };
            served.push((id, Rc::clone(&current)));
            for socket in sockets {
                match TcpListener::from_std(socket) {
                    Ok(socket) => {
                        let accepting = accept::run(
                            Rc::clone(&self.current),
                            Listener::new(socket, Rc::clone(&current)),
                            drain.clone(),
                            self.open.clone(),
                        );
                        self.accepting.push((id, spawn_vital(&self.fallen, accepting)));
                    }
                    Err(error) => tracing::error!(%error, "a worker cannot use its socket"),
                }
            }
        }
        self.listeners = served;
        gone.into_iter().map(|(_, task)| task).collect()
    }

    async fn end(self) {
        let Workplace { config, upstreams, watching, accepting, sweeping, open, .. } = self;
        let drained = timeout(config.shutdown.drain, async {
            for (_, task) in accepting {
                let _ = task.await;
            }
            open.none().await;
        });
        if drained.await.is_err() {
            tracing::warn!(connections = open.count(), "the drain time is over; closing the rest");
        }
        sweeping.abort();
        drop(watching);
        upstreams.current.borrow().iter().for_each(|upstream| upstream.clear());
        upstreams.clear_retired();
    }
}

/// Makes these the worker's upstreams: those that it has keep their connections, the others retire.
fn take_over(known: &Upstreams, number: usize, shared: &[Arc<Shared>]) -> Vec<Rc<Upstream>> {
    let mut current = known.current.borrow_mut();
    let upstreams: Vec<_> = shared
        .iter()
        .map(|shared| match current.iter().find(|known| known.is_of(shared)) {
            Some(known) => Rc::clone(known),
            None => Upstream::lending(Arc::clone(shared), number),
        })
        .collect();
    let gone = current.iter().filter(|known| !upstreams.iter().any(|kept| Rc::ptr_eq(kept, known)));
    known.retired.borrow_mut().extend(gone.map(Rc::downgrade));
    current.clone_from(&upstreams);
    upstreams
}

//! Floor 3: everything between a request that is ready to be sent and the bytes that come back.
//!
//! [`Shared`] is what all workers know about an upstream; [`Upstream`] is one worker's view of it,
//! with its own connections. A request gets a [`Link`] to an endpoint, a connection of its own or a
//! place on a shared one, runs an [`exchange::Exchange`] on it and gives it back. Every error that
//! leaves this floor is a [`Failure`].

pub mod adaptive;
pub mod admission;
pub mod attempt;
pub mod balance;
pub mod blame;
pub mod budget;
pub mod circuit;
pub mod connect;
pub mod deadline;
pub mod dns;
pub mod ejection;
pub mod exchange;
pub mod fields;
pub mod framing;
pub mod health;
pub mod http1;
pub mod http2;
mod link;
pub mod patience;
pub mod pending;
pub mod pieces;
pub mod pool;
pub mod proxy_protocol;
mod records;
pub mod room;
pub mod set;
mod shared;
pub mod stream;
pub mod tenure;
pub mod tls;
pub mod upload;
mod view;
mod window;

use std::cell::{OnceCell, RefCell};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use adaptive::Slot;
use admission::{Place, Refused};
use balance::Picker;
use blame::Verdict;
use budget::Budget;
use circuit::Passage;
pub use link::{Link, Need};
use pending::Pending;
use pool::{OpenCount, Reusable};
use room::{Full, Room, Wish};
pub use shared::Shared;
use shared::{FAILED, FOUND, UNKNOWN};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
pub use view::{Choice, InFlight};
use view::{Endpoint, View};

use crate::config::model;
use crate::failure::{Failure, Kind, Phase};
use crate::telemetry::metrics::UpstreamMetrics;

/// One worker's view of an upstream.
#[derive(Debug)]
pub struct Upstream {
    shared: Arc<Shared>,
    view: RefCell<Rc<View>>,
    picker: Picker,
    budget: Budget,
    pending: Rc<Pending>,
    lending: OnceCell<Watching>,
}

/// What became of a request, as far as it speaks for or against the endpoint.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'f> {
    /// It was served.
    Served,
    /// The app said that it failed.
    AppFailed,
    /// It broke. Only failures of connection and protocol speak against the endpoint.
    Broken(&'f Failure),
}

/// Checks the health of every endpoint and follows DNS, on this worker, until the guard is dropped.
#[must_use]
pub fn watch(upstreams: &[Arc<Shared>]) -> Watching {
    let checked = upstreams.iter().filter(|shared| shared.settings.health.is_some()).cloned();
    let checks =
        checked.map(|shared| always("health checks", move || health::watch_all(shared.clone())));
    let found = upstreams.iter().filter(|shared| shared.settings.dns.is_some()).cloned();
    let finds = found.map(|shared| always("DNS", move || dns::follow(shared.clone())));
    Watching(checks.chain(finds).collect())
}

/// The shortest pause before a task that has ended is begun anew, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Runs a task that has no end; should it end all the same, by a panic, it is begun anew.
fn always<F: Future<Output = ()> + 'static>(
    what: &'static str,
    task: impl Fn() -> F + 'static,
) -> JoinHandle<()> {
    tokio::task::spawn_local(async move {
        let mut pause = PAUSES.0;
        loop {
            let mut running = Watching(vec![tokio::task::spawn_local(task())]);
            for handle in &mut running.0 {
                let ended = handle.await;
                tracing::error!(what, ?ended, "a task has ended that has no end; it begins anew");
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    })
}

/// Tasks of a worker that end when this is dropped.
#[derive(Debug, Default)]
pub struct Watching(Vec<JoinHandle<()>>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Closes idle connections for requests of other workers until the upstream is gone.
async fn lend(upstream: Weak<Upstream>, open: Arc<OpenCount>) {
    loop {
        let mut wanted = pin!(open.wanted().notified());
        // Who begins to wait from here on is not missed.
        wanted.as_mut().enable();
        let Some(upstream) = upstream.upgrade() else { return };
        upstream.give_up_idle();
        drop(upstream);
        wanted.await;
    }
}

impl Upstream {
    /// A view for the worker with this number; workers start their rounds at different endpoints.
    #[must_use]
    pub fn new(shared: Arc<Shared>, worker: usize) -> Self {
        let limits = &shared.settings.limits;
        let open = Arc::clone(&shared.open);
        let pending = Rc::new(Pending::new(limits, open, shared.metrics.pending().clone()));
        let view = RefCell::new(Rc::new(View::of(&shared, None, &pending)));
        let budget = Budget::new(shared.settings.retry.budget_percent);
        let (picker, lending) = (Picker::new(worker), OnceCell::new());
        Upstream { shared, view, picker, budget, pending, lending }
    }

    /// The same, and whenever requests wait on other workers, its idle connections are closed for
    /// them, for as long as it lives.
    #[must_use]
    pub fn lending(shared: Arc<Shared>, worker: usize) -> Rc<Self> {
        let upstream = Rc::new(Upstream::new(shared, worker));
        let open = Arc::clone(&upstream.shared.open);
        let lending = tokio::task::spawn_local(lend(Rc::downgrade(&upstream), open));
        // It is new: nothing was set.
        let _ = upstream.lending.set(Watching(vec![lending]));
        upstream
    }

    /// The endpoints as they are now.
    fn view(&self) -> Rc<View> {
        let view = self.view.borrow();
        if view.generation == self.shared.generation.load(Ordering::Acquire) {
            return Rc::clone(&view);
        }
        drop(view);
        self.renew()
    }

    #[cold]
    fn renew(&self) -> Rc<View> {
        let mut current = self.view.borrow_mut();
        let next = Rc::new(View::of(&self.shared, Some(&**current), &self.pending));
        let last = std::mem::replace(&mut *current, Rc::clone(&next));
        drop(current);
        // Requests that have begun still know those that are gone, and need no idle connections.
        for endpoint in last.endpoints.iter().filter(|endpoint| !endpoint.member.is_kept()) {
            endpoint.clear();
        }
        next
    }

    /// Whether this is a view of these.
    #[must_use]
    pub fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &Arc<model::Upstream> {
        &self.shared.settings
    }

    /// The metric handles.
    #[must_use]
    pub fn metrics(&self) -> &UpstreamMetrics {
        &self.shared.metrics
    }

    /// Lets a request through, if the upstream has a circuit and it is not open.
    ///
    /// # Errors
    /// The circuit is open.
    pub fn enter(&self) -> Result<Option<Passage>, Failure> {
        let Some(circuit) = &self.shared.circuit else { return Ok(None) };
        circuit.enter().map(Some).map_err(|open| {
            Failure::new(Kind::DestinationUnavailable, Phase::Connect)
                .at_upstream(&self.shared.settings.name)
                .with_retry_after(open.retry_after_secs.to_string().into())
                .with_source(open)
        })
    }

    /// A place among the requests that wait for their response heads, if those are limited.
    ///
    /// # Errors
    /// As many wait as the upstream can take.
    pub fn slot(&self) -> Result<Option<Slot>, Failure> {
        let Some(adaptive) = &self.shared.adaptive else { return Ok(None) };
        adaptive.enter().map(Some).map_err(|full| {
            Failure::new(Kind::ConnectionLimitReached, Phase::Connect)
                .at_upstream(&self.shared.settings.name)
                .with_source(full)
        })
    }

    /// Whether DNS has not been heard of yet, so that there is nothing to pick from.
    #[must_use]
    pub fn is_unresolved(&self) -> bool {
        self.shared.settings.dns.is_some()
            && self.shared.discovery.outcome.load(Ordering::Acquire) == UNKNOWN
    }

    /// Waits for the first word of DNS, not longer than it may take.
    pub async fn first_resolved(&self) {
        let limit = self.shared.settings.timeouts.resolve;
        let known = &self.shared.discovery.known;
        let _ = tokio::time::timeout(limit, async {
            loop {
                let mut heard = std::pin::pin!(known.notified());
                heard.as_mut().enable();
                if !self.is_unresolved() {
                    return;
                }
                heard.await;
            }
        })
        .await;
    }

    /// The endpoint for a request with this key, if it has one.
    ///
    /// # Errors
    /// If all endpoints fail their health checks or are drained, or DNS has named none.
    pub fn pick(&self, key: Option<u64>) -> Result<Choice, Failure> {
        self.pick_of(key, |_| true).ok_or_else(|| self.nowhere())
    }

    /// The same among the endpoints that `fits` says yes to.
    fn pick_of(&self, key: Option<u64>, fits: impl Fn(&Endpoint) -> bool) -> Option<Choice> {
        let view = self.view();
        let standing = view.set.roster.view();
        let of = |at: usize| view.endpoints.get(at);
        let load = |at: usize| of(at).map_or(0, |endpoint| endpoint.in_flight.get());
        let share = |at: usize| match of(at) {
            Some(endpoint) if fits(endpoint) => standing.share(at),
            _ => 0,
        };
        let picked = self.picker.pick(&view.set.plan, key, share, load);
        picked.and_then(|at| Choice::of(&view, at))
    }

    /// An endpoint for a request with this key, if it has one, and room for it there; `None` if it
    /// has to wait for room.
    pub fn start(&self, key: Option<u64>) -> Option<Result<(Choice, InFlight), Failure>> {
        match &self.shared.room {
            None => Some(self.pick(key).map(|choice| {
                let in_flight = InFlight::at(&choice, None);
                (choice, in_flight)
            })),
            Some(room) if room.is_free_to_try() => self.try_start(room, key),
            Some(_) => None,
        }
    }

    /// The same for a request that has to wait.
    ///
    /// # Errors
    /// There is no endpoint, as [`Upstream::pick`] says, or no room, and none became free in time.
    pub async fn start_waiting(&self, key: Option<u64>) -> Result<(Choice, InFlight), Failure> {
        let room = self.shared.room.as_ref().ok_or_else(|| self.full(Full))?;
        let waited = room.wait(Wish::Any, || self.try_start(room, key)).await;
        waited.unwrap_or_else(|full| Err(self.full(full)))
    }

    fn try_start(
        &self,
        room: &Arc<Room>,
        key: Option<u64>,
    ) -> Option<Result<(Choice, InFlight), Failure>> {
        let has_room = |endpoint: &Endpoint| room.has_room_at(&endpoint.member.used);
        // Where no connection can be had, a request would wait although another endpoint has some.
        let can_go = |endpoint: &Endpoint| has_room(endpoint) && endpoint.has_connection(room);
        let picked = self.pick_of(key, can_go).or_else(|| self.pick_of(key, has_room));
        let Some(choice) = picked else {
            // Nowhere to go at all is not for waiting.
            return self.pick(key).err().map(Err);
        };
        let place = room.enter(&choice.endpoint.member.used)?;
        let in_flight = InFlight::at(&choice, Some(place));
        Some(Ok((choice, in_flight)))
    }

    #[cold]
    fn full(&self, full: Full) -> Failure {
        Failure::new(Kind::ConnectionLimitReached, Phase::Connect)
            .at_upstream(&self.shared.settings.name)
            .with_source(full)
    }

    #[cold]
    fn nowhere(&self) -> Failure {
        let Shared { settings, discovery, .. } = &*self.shared;
        let outcome = discovery.outcome.load(Ordering::Acquire);
        let failure = match outcome {
            _ if settings.dns.is_none() || outcome == FOUND => {
                Failure::new(Kind::DestinationUnavailable, Phase::Connect)
            }
            FAILED => Failure::new(Kind::DnsError, Phase::Resolve),
            _ => Failure::new(Kind::DnsTimeout, Phase::Resolve),
        };
        failure.at_upstream(&settings.name)
    }

    /// Returns `true` if there is another endpoint than this one and those to `avoid`.
    #[must_use]
    pub fn has_other(&self, choice: &Choice, avoid: &[usize]) -> bool {
        let fits = |at: usize| !avoid.contains(&at);
        choice.view.set.roster.view().other_than(choice.at, fits).is_some()
    }

    /// Returns the endpoint to try after this one, if there is another with room that is not one to
    /// `avoid`; the request moves there.
    pub fn after(
        &self,
        choice: &Choice,
        avoid: &[usize],
        in_flight: &mut InFlight,
    ) -> Option<Choice> {
        let has_room = |at: usize| match (&self.shared.room, choice.view.endpoints.get(at)) {
            (Some(room), Some(endpoint)) => room.has_room_at(&endpoint.member.used),
            _ => true,
        };
        let fits = |at: usize| !avoid.contains(&at) && has_room(at);
        let other = choice.view.set.roster.view().other_than(choice.at, fits)?;
        let other = Choice::of(&choice.view, other)?;
        in_flight.move_to(&other).then_some(other)
    }

    /// The same for a request that can only go on elsewhere: it waits for room, if all others are
    /// full.
    pub async fn after_waiting(
        &self,
        choice: &Choice,
        avoid: &[usize],
        in_flight: &mut InFlight,
    ) -> Option<Choice> {
        let found = self.after(choice, avoid, in_flight);
        let (None, Some(room)) = (&found, &self.shared.room) else { return found };
        if !self.has_other(choice, avoid) {
            return None;
        }
        let in_flight = RefCell::new(in_flight);
        let try_again = || self.after(choice, avoid, &mut in_flight.borrow_mut());
        Box::pin(room.wait(Wish::Choosy, try_again)).await.ok()
    }

    /// Takes note of what became of a request at the endpoint.
    pub fn report(&self, choice: &Choice, outcome: Outcome<'_>) {
        let settings = &self.shared.settings;
        let set = &choice.view.set;
        match blame::judge(outcome, settings.ejection.count_app_errors) {
            Verdict::Nothing => {}
            Verdict::Well => set.roster.succeeded(choice.at),
            Verdict::Failed => {
                if let Some(time) = set.roster.failed(choice.at) {
                    set.ejected(&settings.name, choice.at, time);
                }
            }
        }
    }

    /// What may be spent on retries.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// `http` or `https`: the scheme of an endpoint.
    #[must_use]
    pub fn scheme(&self, choice: &Choice) -> &'static str {
        if choice.endpoint.member.target.tls.is_some() { "https" } else { "http" }
    }

    /// A place for one more WebSocket.
    ///
    /// # Errors
    /// If there is none, or if too many ask at once. Counted.
    pub fn admit(&self) -> Result<Place, Refused> {
        self.shared
            .admission
            .enter()
            .inspect_err(|refused| self.metrics().websocket().refused(refused.why))
    }

    /// Keeps a connection for the next request.
    pub fn give_back(&self, choice: &Choice, connection: Reusable, now: Instant) {
        // Closed, so that the request on another worker can open one, or because nobody will ask, or
        // because it was for one client.
        if self.shared.settings.proxy_protocol.is_some()
            || self.pending.is_for_others()
            || !choice.endpoint.member.is_kept()
        {
            return;
        }
        if choice.endpoint.pool.put(connection, now) {
            self.pending.returned();
        }
    }

    /// Completes a failure with the names of this upstream and the endpoint.
    pub fn place(&self, choice: &Choice, failure: Failure) -> Failure {
        let failure = failure.at_upstream(&self.shared.settings.name);
        failure.at_endpoint(choice.label())
    }

    /// Closes idle connections that are too old, were closed by the upstream, or lead where no request
    /// goes any more.
    pub fn sweep(&self) {
        self.shared.sweep();
        self.view().endpoints.iter().for_each(|endpoint| endpoint.sweep());
    }

    /// Closes all idle connections.
    pub fn clear(&self) {
        self.view().endpoints.iter().for_each(|endpoint| endpoint.clear());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tasks_that_panic_begin_anew_and_end_with_their_guard() {
        let local = tokio::task::LocalSet::new();
        let begun = Rc::new(Cell::new(0));
        let counted = Rc::clone(&begun);
        let task = move || {
            let begun = Rc::clone(&counted);
            async move {
                begun.set(begun.get() + 1);
                assert!(begun.get() > 3, "a panic");
                std::future::pending().await
            }
        };
        let start = Instant::now();
        local
            .run_until(async {
                let watching = Watching(vec![always("test", task)]);
                while begun.get() < 4 {
                    sleep(Duration::from_millis(10)).await;
                }
                assert_eq!(start.elapsed().as_secs(), 1 + 2 + 4);
                sleep(Duration::from_secs(600)).await;
                assert_eq!(begun.get(), 4);
                drop(watching);
                sleep(Duration::from_secs(1)).await;
                assert_eq!(Rc::strong_count(&begun), 1, "its task is gone");
            })
            .await;
    }
}

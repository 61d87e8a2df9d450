//! The workers of a process, and what happens when one of them ends early.
//!
//! A panic costs one connection: tokio catches it at the task. What ends a worker is one in its own
//! loop, or in the loop that accepts or sweeps for it; then its connections are lost, and until there
//! is another one nobody accepts from its sockets, to which the kernel still sends its share of the
//! clients (SO_REUSEPORT).
//!
//! ```text
//! at work ── ended early ──► steady before: replaced at once, the same sockets, whose queues wait
//!    ▲                         │
//!    │                         └─ not steady: its sockets are closed, so that the others get all
//!    │                              │        clients; if it was alone, they stay and clients wait
//!    └──── the pause is over ───────┘  bound anew
//! ```

use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use super::worker::{Change, Order, Seed, Serve};
use super::{Running, StartError, spawn};

/// A worker that has run for so long is replaced at once.
const STEADY: Duration = Duration::from_secs(10);
/// The first pause before one that has not; doubled each time.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST: Duration = Duration::from_secs(10);

/// The workers.
#[derive(Debug)]
pub(super) struct Crew {
    posts: Vec<Post>,
    tell: UnboundedSender<usize>,
    ended: UnboundedReceiver<usize>,
}

/// The place of one worker.
#[derive(Debug, Default)]
struct Post {
    worker: Option<AtWork>,
    /// How often in a row it ended before it was steady.
    early: u32,
    /// When it is replaced, if it has to be.
    due: Option<Instant>,
}

/// A worker's thread, and how it is told what to do.
#[derive(Debug)]
struct AtWork {
    thread: JoinHandle<()>,
    orders: UnboundedSender<Order>,
    since: Instant,
}

/// Tells that a worker's thread has ended, however it did.
struct Farewell(usize, UnboundedSender<usize>);

impl Drop for Farewell {
    fn drop(&mut self) {
        // Where the process ends, nobody listens.
        let _ = self.1.send(self.0);
    }
}

impl Crew {
    /// Places for this many workers.
    pub(super) fn new(workers: usize) -> Self {
        let (tell, ended) = unbounded_channel();
        let posts = std::iter::repeat_with(Post::default).take(workers).collect();
        Crew { posts, tell, ended }
    }

    /// How many there are when all are at work.
    pub(super) fn len(&self) -> usize {
        self.posts.len()
    }

    /// Lets a worker begin at this place.
    pub(super) fn begin(
        &mut self,
        number: usize,
        make: impl FnOnce(UnboundedReceiver<Order>) -> Seed,
    ) -> Result<(), StartError> {
        let (orders, receiver) = unbounded_channel();
        let seed = make(receiver);
        let farewell = Farewell(number, self.tell.clone());
        let thread = spawn(format!("seawall-{number}"), move |runtime| {
            let _farewell = farewell;
            seed.run(runtime);
        })?;
        if let Some(post) = self.posts.get_mut(number) {
            post.worker = Some(AtWork { thread, orders, since: Instant::now() });
            post.due = None;
        }
        Ok(())
    }

    /// Tells each worker that is there its change.
    pub(super) fn tell(&self, changes: impl Iterator<Item = Change>) {
        for (post, change) in self.posts.iter().zip(changes) {
            if let Some(worker) = &post.worker {
                // One that has ended will be replaced, and begins with all of it.
                let _ = worker.orders.send(Order::Change(change));
            }
        }
    }

    /// Waits until all workers have ended. Returns `true` if they did in order.
    pub(super) fn join(&mut self) -> bool {
        let mut in_order = true;
        for post in &mut self.posts {
            if let Some(worker) = post.worker.take() {
                in_order &= worker.thread.join().is_ok();
            }
        }
        in_order
    }

    /// The places without a worker.
    fn vacant(&self) -> impl Iterator<Item = usize> {
        let vacant = self.posts.iter().enumerate().filter(|(_, post)| post.worker.is_none());
        vacant.map(|(number, _)| number)
    }

    /// Takes the worker that has ended from its place. Returns how long it is until the next one
    /// begins there.
    fn lost(&mut self, number: usize) -> Option<Duration> {
        let post = self.posts.get_mut(number)?;
        let worker = post.worker.take()?;
        let steady = worker.since.elapsed() >= STEADY;
        // Its runtime is gone with it, and so are its connections and its sockets.
        let panicked = worker.thread.join().is_err();
        post.early = if steady { 0 } else { post.early.saturating_add(1) };
        let pause = pause(post.early);
        post.due = Some(Instant::now() + pause);
        tracing::error!(
            worker = number,
            panicked,
            ?pause,
            "a worker has ended early and is replaced; its connections are lost"
        );
        Some(pause)
    }

    /// Puts off the replacement, which could not be made.
    fn put_off(&mut self, number: usize) {
        if let Some(post) = self.posts.get_mut(number) {
            post.early = post.early.saturating_add(1);
            post.due = Some(Instant::now() + pause(post.early));
        }
    }

    fn next_due(&self) -> Option<(Instant, usize)> {
        let posts = self.posts.iter().enumerate();
        posts.filter_map(|(number, post)| Some((post.due?, number))).min()
    }
}

fn pause(early: u32) -> Duration {
    match early.checked_sub(1) {
        None => Duration::ZERO,
        Some(times) => PAUSE.saturating_mul(2_u32.saturating_pow(times)).min(LONGEST),
    }
}

impl Running {
    /// Replaces a worker that ends early. Returns when it has done something; call it again and
    /// again, for as long as the process serves. Cancel-safe.
    pub async fn tend(&mut self) {
        let due = self.crew.next_due();
        let again = async {
            match due {
                Some((at, _)) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let lost = tokio::select! {
            Some(number) = self.crew.ended.recv() => Some(number),
            () = again => None,
        };
        if self.drain.is_leaving() {
            // Those that end now end in order.
            return;
        }
        match (lost, due) {
            (Some(number), _) => {
                if self.crew.lost(number).is_some_and(|pause| {
                    self.metrics.worker_lost();
                    !pause.is_zero()
                }) {
                    self.close_unattended();
                }
            }
            (None, Some((_, number))) => self.replace(number),
            (None, None) => {}
        }
    }

    /// Closes the sockets that nobody accepts from for now, unless nobody accepts at all.
    pub(super) fn close_unattended(&mut self) {
        let vacant: Vec<_> = self.crew.vacant().collect();
        if vacant.len() == self.crew.len() {
            return;
        }
        for number in vacant {
            self.listeners.iter_mut().for_each(|bound| bound.sockets.close_of(number));
        }
    }

    fn replace(&mut self, number: usize) {
        let serve = self.listeners.iter_mut().map(|bound| {
            let (sockets, trouble) = bound.sockets.again(bound.address, number);
            if let Some(error) = trouble {
                let address = bound.address;
                tracing::error!(worker = number, %address, %error, "a new worker lacks a socket of its own; the others serve its share");
            }
            bound.serve(sockets)
        });
        let serve = serve.collect();
        if let Err(error) = self.begin_worker(number, serve) {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(worker = number, %error, cause, "a worker cannot be replaced yet");
            self.crew.put_off(number);
        }
        // Where all had ended, this one is the first that is back.
        self.close_unattended();
    }

    /// Lets a worker begin with what runs now.
    pub(super) fn begin_worker(
        &mut self,
        number: usize,
        listeners: Vec<Serve>,
    ) -> Result<(), StartError> {
        let (metrics, journal) = (self.metrics.clone(), self.journal.clone());
        let drain = self.drain.clone();
        let first = Change {
            config: self.config.clone(),
            upstreams: self.upstreams.clone(),
            listeners,
            tracer: self.tracer.clone(),
            // Nobody waits: the kernel accepts for a worker that is still on its way.
            done: std::sync::mpsc::channel().0,
        };
        let seed = |orders| Seed { number, metrics, journal, first, orders, drain };
        self.crew.begin(number, seed)
    }
}

#[cfg(test)]
mod tests;

//! The end of a worker or of a listener: whoever is told to drain, and who is still there.
//!
//! There are two steps. At *leaving* nothing new is accepted, and whoever asks once more is answered
//! and told to connect anew (`Connection: close`, GOAWAY): a client that keeps asking moves to
//! another process without an error. At *begun* whoever has nothing to finish is closed. A plain
//! drain takes both steps at once; a takeover leaves time between them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};

use tokio::sync::Notify;

/// Tells when the process, or a listener, begins to drain. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain(Arc<Steps>);

/// Tells every [`Drain`] to begin; also when it is dropped.
#[derive(Debug)]
pub struct Drainer(Arc<Steps>);

#[derive(Debug, Default)]
struct Steps {
    leaving: Signal,
    begun: Signal,
}

#[derive(Debug, Default)]
struct Signal {
    given: AtomicBool,
    waiting: Notify,
}

impl Drainer {
    /// A drainer and the signal that it gives.
    #[must_use]
    pub fn new() -> (Self, Drain) {
        let steps = Arc::<Steps>::default();
        (Drainer(Arc::clone(&steps)), Drain(steps))
    }

    /// Takes the first step. Calling it again changes nothing.
    pub fn leave(&self) {
        self.0.leaving.give();
    }

    /// Takes both steps. Calling it again changes nothing.
    pub fn begin(&self) {
        self.0.leaving.give();
        self.0.begun.give();
    }
}

impl Drop for Drainer {
    fn drop(&mut self) {
        // A drainer that is gone will not let anybody stay either.
        self.begin();
    }
}

impl Drain {
    /// Whether nothing new is accepted any more: one load.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.0.leaving.is_given()
    }

    /// Waits until nothing new is accepted. Cancel-safe.
    pub async fn leaving(self) {
        self.0.leaving.wait().await;
    }

    /// Waits until draining begins. Cancel-safe.
    pub async fn begun(self) {
        self.0.begun.wait().await;
    }
}

impl Signal {
    fn is_given(&self) -> bool {
        self.given.load(Ordering::Acquire)
    }

    fn give(&self) {
        self.given.store(true, Ordering::Release);
        self.waiting.notify_waiters();
    }

    /// Connections poll this whenever anything happens to them, so that asking again costs one
    /// load: the waker is registered once.
    async fn wait(&self) {
        let mut waiting = pin!(self.waiting.notified());
        // From here on a notification is not missed.
        waiting.as_mut().enable();
        let mut registered: Option<Waker> = None;
        poll_fn(|cx| {
            if self.is_given() {
                return Poll::Ready(());
            }
            if registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            registered = Some(cx.waker().clone());
            waiting.as_mut().poll(cx)
        })
        .await;
    }
}

/// The connections of one worker that are still open.
#[derive(Clone, Debug, Default)]
pub struct Open(Rc<Count>);

#[derive(Debug, Default)]
struct Count {
    open: Cell<usize>,
    by_address: RefCell<HashMap<IpAddr, usize>>,
    changed: Notify,
}

/// One open connection.
#[derive(Debug)]
pub struct OpenGuard(Rc<Count>, IpAddr);

impl Open {
    /// Counts a connection of this address until the guard is dropped.
    #[must_use]
    pub fn enter(&self, from: IpAddr) -> OpenGuard {
        self.0.open.set(self.0.open.get() + 1);
        *self.0.by_address.borrow_mut().entry(from).or_default() += 1;
        OpenGuard(Rc::clone(&self.0), from)
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.open.get()
    }

    /// How many of this address are open.
    #[must_use]
    pub fn count_of(&self, from: IpAddr) -> usize {
        self.0.by_address.borrow().get(&from).copied().unwrap_or_default()
    }

    /// Waits until none is open. Cancel-safe.
    pub async fn none(&self) {
        while self.count() > 0 {
            self.0.changed.notified().await;
        }
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        if let Entry::Occupied(mut count) = self.0.by_address.borrow_mut().entry(self.1) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_hears_of_a_drain_before_and_after_it_began() {
        let (drainer, drain) = Drainer::new();
        let early: Vec<_> = (0..3).map(|_| tokio::spawn(drain.clone().begun())).collect();
        tokio::task::yield_now().await;
        drainer.begin();
        for waiter in early {
            waiter.await.unwrap();
        }
        drain.clone().begun().await;
        drop(drainer);
        drain.begun().await;
    }

    #[tokio::test]
    async fn leaving_comes_before_the_end_and_a_plain_drain_is_both() {
        let (drainer, drain) = Drainer::new();
        assert!(!drain.is_leaving());
        drainer.leave();
        drain.clone().leaving().await;
        assert!(drain.is_leaving());
        let mut begun = Box::pin(drain.clone().begun());
        assert!(futures_pending(&mut begun).await);
        drainer.begin();
        begun.await;
        let (drainer, drain) = Drainer::new();
        drainer.begin();
        assert!(drain.is_leaving());
    }

    #[tokio::test]
    async fn the_last_one_to_leave_ends_the_wait() {
        let open = Open::default();
        let (here, there) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let (one, two) = (open.enter(here), open.enter(there));
        drop(one);
        assert_eq!(open.count(), 1);
        assert_eq!((open.count_of(here), open.count_of(there)), (0, 1));
        let wait = open.none();
        tokio::pin!(wait);
        assert!(futures_pending(&mut wait).await);
        drop(two);
        wait.await;
    }

    async fn futures_pending(future: &mut (impl Future<Output = ()> + Unpin)) -> bool {
        std::future::poll_fn(|cx| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending())
        })
        .await
    }
}

//! Being told to leave: the whole process when it ends, an endpoint's WebSockets when it goes.
//!
//! There are two steps. At *leaving* nothing new is accepted, and whoever asks once more is answered
//! and told to connect anew (`Connection: close`, GOAWAY): a client that keeps asking moves to
//! another process without an error. At *begun* whoever has nothing to finish is closed. A plain
//! drain takes both steps at once; a takeover leaves time between them.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};

use tokio::sync::Notify;

/// Tells when the process, a listener or an endpoint begins to drain. Cheap to clone.
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

    /// Whether draining has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.begun.is_given()
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

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nobody_misses_a_drain_that_begins_while_they_begin_to_wait() {
        for _ in 0..500 {
            let (drainer, drain) = Drainer::new();
            let waiting: Vec<_> = (0..8).map(|_| tokio::spawn(drain.clone().begun())).collect();
            let begin = tokio::spawn(async move {
                drainer.begin();
                drainer
            });
            for waiter in waiting {
                waiter.await.unwrap();
            }
            drop(begin.await.unwrap());
        }
    }

    #[tokio::test]
    async fn leaving_comes_before_the_end_and_a_plain_drain_is_both() {
        let (drainer, drain) = Drainer::new();
        assert!(!drain.is_leaving());
        drainer.leave();
        drain.clone().leaving().await;
        assert!(drain.is_leaving());
        assert!(!drain.has_begun());
        let begun = tokio::spawn(drain.clone().begun());
        tokio::task::yield_now().await;
        assert!(!begun.is_finished());
        drainer.begin();
        begun.await.unwrap();
        let (drainer, drain) = Drainer::new();
        drainer.begin();
        assert!(drain.is_leaving());
    }
}

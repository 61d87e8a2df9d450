//! Being told to leave: the whole process when it ends, an endpoint's WebSockets when it goes.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};

use tokio::sync::Notify;

/// Resolves when draining begins. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain(Arc<Signal>);

/// Tells every [`Drain`] to begin; also when it is dropped.
#[derive(Debug)]
pub struct Drainer(Arc<Signal>);

#[derive(Debug, Default)]
struct Signal {
    begun: AtomicBool,
    waiting: Notify,
}

impl Drainer {
    /// A drainer and the signal that it gives.
    #[must_use]
    pub fn new() -> (Self, Drain) {
        let signal = Arc::<Signal>::default();
        (Drainer(Arc::clone(&signal)), Drain(signal))
    }

    /// Begins to drain. Calling it again changes nothing.
    pub fn begin(&self) {
        self.0.begun.store(true, Ordering::Release);
        self.0.waiting.notify_waiters();
    }
}

impl Drop for Drainer {
    fn drop(&mut self) {
        // A drainer that is gone will not let anybody stay either.
        self.begin();
    }
}

impl Drain {
    /// Whether draining has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.begun.load(Ordering::Acquire)
    }

    /// Waits until draining begins. Cancel-safe.
    ///
    /// Connections poll this whenever anything happens to them, so that asking again costs one
    /// load: the waker is registered once.
    pub async fn begun(self) {
        let mut waiting = pin!(self.0.waiting.notified());
        // From here on a notification is not missed.
        waiting.as_mut().enable();
        let mut registered: Option<Waker> = None;
        poll_fn(|cx| {
            if self.0.begun.load(Ordering::Acquire) {
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
}

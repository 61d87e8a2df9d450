//! The end of a worker: whoever is told to drain, and who is still there.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::{Notify, watch};

/// Resolves when the process begins to drain. Cheap to clone; cancel-safe.
#[derive(Clone, Debug)]
pub struct Drain(watch::Receiver<bool>);

/// Tells every [`Drain`] to begin.
#[derive(Debug)]
pub struct Drainer(watch::Sender<bool>);

impl Drainer {
    /// A drainer and the signal that it gives.
    #[must_use]
    pub fn new() -> (Self, Drain) {
        let (sender, receiver) = watch::channel(false);
        (Drainer(sender), Drain(receiver))
    }

    /// Begins to drain. Calling it again changes nothing.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}

impl Drain {
    /// Waits until draining begins.
    pub async fn begun(mut self) {
        // A drainer that is gone will not let anybody stay either.
        let _ = self.0.wait_for(|draining| *draining).await;
    }
}

/// The connections of one worker that are still open.
#[derive(Clone, Debug, Default)]
pub struct Open(Rc<Count>);

#[derive(Debug, Default)]
struct Count {
    open: Cell<usize>,
    changed: Notify,
}

/// One open connection.
#[derive(Debug)]
pub struct OpenGuard(Rc<Count>);

impl Open {
    /// Counts a connection until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> OpenGuard {
        self.0.open.set(self.0.open.get() + 1);
        OpenGuard(Rc::clone(&self.0))
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.open.get()
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
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_one_to_leave_ends_the_wait() {
        let open = Open::default();
        let (one, two) = (open.enter(), open.enter());
        drop(one);
        assert_eq!(open.count(), 1);
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

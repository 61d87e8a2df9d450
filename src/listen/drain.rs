//! The end of a worker: who is still there.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::rc::Rc;

use tokio::sync::Notify;

pub use crate::drain::{Drain, Drainer};

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

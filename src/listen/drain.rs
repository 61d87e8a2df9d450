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
    /// Counts a connection of this address until the guard is dropped. Tells how many it has now.
    #[must_use]
    pub fn enter(&self, from: IpAddr) -> (OpenGuard, usize) {
        self.0.open.set(self.0.open.get() + 1);
        let of_address = self.0.one_more(from);
        (OpenGuard(Rc::clone(&self.0), from), of_address)
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

impl Count {
    fn one_more(&self, from: IpAddr) -> usize {
        let mut by_address = self.by_address.borrow_mut();
        let count = by_address.entry(from).or_default();
        *count += 1;
        *count
    }
}

impl OpenGuard {
    /// Counts the connection for another address: that of the client that a proxy speaks for. Tells how
    /// many that has now.
    pub fn move_to(&mut self, from: IpAddr) -> usize {
        self.forget_address();
        self.1 = from;
        self.0.one_more(from)
    }

    fn forget_address(&self) {
        if let Entry::Occupied(mut count) = self.0.by_address.borrow_mut().entry(self.1) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        self.forget_address();
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
        let ((mut one, first), (mut two, second)) = (open.enter(here), open.enter(here));
        assert_eq!((first, second), (1, 2));
        assert_eq!((two.move_to(there), one.move_to(there), one.move_to(here)), (1, 2, 1));
        drop(one);
        assert_eq!(open.count(), 1);
        let known: Vec<_> = open.0.by_address.borrow().keys().copied().collect();
        assert_eq!(known, [there], "who has left is forgotten");
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

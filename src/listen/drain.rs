//! The end of a worker: who is still there.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::rc::Rc;

use tokio::sync::Notify;

pub use crate::drain::{Drain, Drainer};
use crate::net::Network;

/// The connections of one worker that are still open.
#[derive(Clone, Debug, Default)]
pub struct Open(Rc<Count>);

#[derive(Debug, Default)]
struct Count {
    open: Cell<usize>,
    by_network: RefCell<HashMap<Network, usize>>,
    changed: Notify,
}

/// One open connection.
#[derive(Debug)]
pub struct OpenGuard(Rc<Count>, Network);

impl Open {
    /// Counts a connection of this address until the guard is dropped. Returns how many the network
    /// of that address has now.
    #[must_use]
    pub fn enter(&self, from: IpAddr) -> (OpenGuard, usize) {
        self.0.open.set(self.0.open.get() + 1);
        let network = Network::of(from);
        let of_network = self.0.one_more(network);
        (OpenGuard(Rc::clone(&self.0), network), of_network)
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
    fn one_more(&self, from: Network) -> usize {
        let mut by_network = self.by_network.borrow_mut();
        let count = by_network.entry(from).or_default();
        *count += 1;
        *count
    }
}

impl OpenGuard {
    /// Counts the connection for another address: that of the client that a proxy speaks for. Returns
    /// how many the network of that address has now.
    pub fn move_to(&mut self, from: IpAddr) -> usize {
        self.forget_network();
        self.1 = Network::of(from);
        self.0.one_more(self.1)
    }

    fn forget_network(&self) {
        if let Entry::Occupied(mut count) = self.0.by_network.borrow_mut().entry(self.1) {
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
        self.forget_network();
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
        let known: Vec<_> = open.0.by_network.borrow().keys().copied().collect();
        assert_eq!(known, [Network::of(there)], "who has left is forgotten");
        let wait = open.none();
        tokio::pin!(wait);
        assert!(futures_pending(&mut wait).await);
        drop(two);
        wait.await;
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_together() {
        let open = Open::default();
        let from = |text: &str| text.parse::<IpAddr>().unwrap();
        let (one, first) = open.enter(from("2001:db8::1"));
        let (mut two, second) = open.enter(from("2001:db8::2"));
        let (_other, alone) = open.enter(from("2001:db8:0:1::1"));
        assert_eq!((first, second, alone), (1, 2, 1));
        assert_eq!(two.move_to(from("2001:db8:0:1::2")), 2);
        drop(one);
        assert_eq!(open.enter(from("2001:db8::3")).1, 1);
    }

    async fn futures_pending(future: &mut (impl Future<Output = ()> + Unpin)) -> bool {
        std::future::poll_fn(|cx| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending())
        })
        .await
    }
}

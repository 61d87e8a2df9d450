//! The connections of the admin listener. There is always room for one more.
//!
//! A probe that is not answered restarts the process, so that nobody may occupy all the places.
//! Where a newcomer finds too many, overall or of its own network, another connection is closed for
//! it, of the network that has the most:
//!
//! | state | since | closed |
//! | --- | --- | --- |
//! | idle: no request is under way, or its head is not whole yet | it was accepted, or its last answer was written | first, the longest idle before others |
//! | busy: an answer is made or written | the last byte that its client took | where none is idle |
//!
//! The bytes of a head that is not whole do not count as life here: who sends one every few seconds
//! stays in line. A connection of which nothing moves for [`STANDSTILL`] is closed anyway.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::net::Network;

/// The most connections at the same time.
pub(super) const MOST: usize = 64;
/// The most of one network (see [`Network`]).
pub(super) const OF_NETWORK: usize = 32;
/// The time for which a connection may stand still: idle, or with an answer that its client does not take.
pub(super) const STANDSTILL: Duration = Duration::from_secs(30);

/// Those that are open.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections(Rc<RefCell<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    network: Network,
    life: Rc<Life>,
}

/// A place among them, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    connections: Connections,
    life: Rc<Life>,
}

/// The facts about one connection.
#[derive(Debug)]
struct Life {
    state: Cell<State>,
    since: Cell<Instant>,
    evicted: Notify,
}

/// The order is that in which they are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Idle,
    /// The answer is written.
    Answering,
    /// The answer is made; a flush means nothing yet.
    Asked,
}

impl Connections {
    /// Takes a place for a connection from this network; another one is closed for it if need be.
    pub(super) fn enter(&self, network: Network) -> Place {
        let mut table = self.0.borrow_mut();
        if table.count(network) >= OF_NETWORK {
            table.evict_one_of(network);
        } else if table.open.len() >= MOST
            && let Some(crowded) = table.most_crowded()
        {
            table.evict_one_of(crowded);
        }
        let number = table.next;
        table.next += 1;
        let life = Rc::new(Life {
            state: Cell::new(State::Idle),
            since: Cell::new(Instant::now()),
            evicted: Notify::new(),
        });
        table.open.insert(number, Entry { network, life: Rc::clone(&life) });
        debug_assert!(table.open.len() <= MOST);
        Place { number, connections: self.clone(), life }
    }
}

impl Table {
    fn count(&self, network: Network) -> usize {
        self.open.values().filter(|entry| entry.network == network).count()
    }

    fn most_crowded(&self) -> Option<Network> {
        self.open.values().map(|entry| entry.network).max_by_key(|network| self.count(*network))
    }

    fn evict_one_of(&mut self, network: Network) {
        let of_network = self.open.iter().filter(|(_, entry)| entry.network == network);
        let order = |life: &Life| (life.state.get(), life.since.get());
        let first = of_network.min_by_key(|(number, entry)| (order(&entry.life), **number));
        let Some(number) = first.map(|(number, _)| *number) else { return };
        // It is out of the table at once: its task ends a little later.
        if let Some(entry) = self.open.remove(&number) {
            entry.life.evicted.notify_one();
        }
    }
}

impl Place {
    /// Watches what moves on this transport.
    pub(super) fn watched<T>(&self, inner: T) -> Watched<T> {
        Watched { inner, life: Rc::clone(&self.life) }
    }

    /// A request has come, and its answer is being made.
    pub(super) fn asked(&self) {
        self.life.enter(State::Asked);
    }

    /// The answer is ready to be written.
    pub(super) fn answered(&self) {
        self.life.enter(State::Answering);
    }

    /// Waits until the connection has to go: for another one, or because nothing moves.
    /// Cancel-safe.
    pub(super) async fn must_go(&self) {
        let evicted = self.life.evicted.notified();
        tokio::pin!(evicted);
        loop {
            let end = self.life.since.get() + STANDSTILL;
            tokio::select! {
                () = &mut evicted => return,
                () = sleep_until(end) => {}
            }
            // While an answer is made, the wait is ours.
            if self.life.state.get() == State::Asked {
                self.life.since.set(Instant::now());
            } else if self.life.since.get() + STANDSTILL <= Instant::now() {
                return;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.0.borrow_mut().open.remove(&self.number);
    }
}

impl Life {
    fn enter(&self, state: State) {
        self.state.set(state);
        self.since.set(Instant::now());
    }

    fn wrote(&self, bytes: usize) {
        if bytes > 0 && self.state.get() == State::Answering {
            self.since.set(Instant::now());
        }
    }

    /// Everything that was to be written has been taken.
    fn flushed(&self) {
        if self.state.get() == State::Answering {
            self.enter(State::Idle);
        }
    }
}

/// A transport that tells what moves on it.
#[derive(Debug)]
pub(super) struct Watched<T> {
    inner: T,
    life: Rc<Life>,
}

impl<T: Read + Unpin> Read for Watched<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buf)
    }
}

impl<T: Write + Unpin> Write for Watched<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, buf))?;
        this.life.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper flushes when it has handed over all that it has.
        ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        this.life.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, bufs))?;
        this.life.wrote(written);
        Poll::Ready(Ok(written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use tokio::time::advance;

    fn network(last: u8) -> Network {
        Network::of(IpAddr::from([10, 0, 0, last]))
    }

    fn is_open(place: &Place) -> bool {
        place.connections.0.borrow().open.contains_key(&place.number)
    }

    async fn enter(connections: &Connections, from: u8, count: usize) -> Vec<Place> {
        let mut places = Vec::new();
        for _ in 0..count {
            places.push(connections.enter(network(from)));
            advance(Duration::from_millis(1)).await;
        }
        places
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_takes_the_place_of_the_longest_idle_of_its_network() {
        let connections = Connections::default();
        let places = enter(&connections, 1, OF_NETWORK).await;
        // The oldest is busy, the second has just been served.
        places[0].asked();
        places[1].answered();
        places[1].life.flushed();
        let other = connections.enter(network(2));
        let next = connections.enter(network(1));
        assert!(is_open(&next) && is_open(&other));
        let open: Vec<_> = places.iter().map(is_open).collect();
        assert_eq!(open.iter().filter(|open| !**open).count(), 1);
        assert!(!open[2], "neither the busy one nor the one that was used last");
        tokio::time::timeout(Duration::from_millis(1), places[2].must_go()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_network_with_the_most_gives_way_to_others() {
        let connections = Connections::default();
        let quiet = connections.enter(network(9));
        advance(Duration::from_millis(1)).await;
        let mut many = enter(&connections, 1, OF_NETWORK).await;
        many.extend(enter(&connections, 2, MOST - OF_NETWORK - 1).await);
        let next = connections.enter(network(3));
        assert!(is_open(&quiet) && is_open(&next), "the oldest of all is not of a crowd");
        assert!(!is_open(&many[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn of_busy_ones_the_one_whose_client_takes_nothing_goes() {
        let connections = Connections::default();
        let places = enter(&connections, 1, OF_NETWORK).await;
        for place in &places {
            place.asked();
            place.answered();
        }
        advance(Duration::from_secs(1)).await;
        for (at, place) in places.iter().enumerate() {
            if at != 7 {
                place.life.wrote(1);
            }
        }
        let _next = connections.enter(network(1));
        assert_eq!(places.iter().position(|place| !is_open(place)), Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_stays_and_what_stands_still_goes() {
        let connections = Connections::default();
        let place = connections.enter(network(1));
        place.asked();
        place.answered();
        for _ in 0..10 {
            let waited = tokio::time::timeout(STANDSTILL * 9 / 10, place.must_go()).await;
            assert!(waited.is_err(), "a slow reader that reads");
            place.life.wrote(1);
        }
        let began = Instant::now();
        place.must_go().await;
        assert_eq!(began.elapsed(), STANDSTILL);
        let place = connections.enter(network(1));
        place.asked();
        assert!(tokio::time::timeout(STANDSTILL * 3, place.must_go()).await.is_err(), "our wait");
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_given_back() {
        let connections = Connections::default();
        for _ in 0..10 {
            drop(enter(&connections, 1, OF_NETWORK + 5).await);
        }
        assert!(connections.0.borrow().open.is_empty());
    }
}

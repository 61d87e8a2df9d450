//! Finds out if a connection on which nothing comes is dead (RFC 9113 §6.7).
//!
//! A connection can die without a word: a host that lost its power, a NAT that forgot it. So it is
//! pinged when it has been silent for `timeouts.ping_interval`, and when there is a reason to
//! doubt it: a request that goes out after a silence, or one that was waited for in vain. If then
//! nothing at all comes for `timeouts.ping`, it gets no new requests. Those that are on it fail
//! by standing still only.
//!
//! Some servers count pings and end a connection that has too many of them: gRPC's allow two
//! between any two frames of answers, or one in five minutes. So there is one for a reason of
//! ours, and no other one before an answer has come or five minutes have passed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::Instant;

use super::watch::Watch;
use crate::upstream::deadline::Deadline;

/// What gRPC servers put up with, whatever else is said.
const PATIENCE_OF_SERVERS: Duration = Duration::from_secs(300);

/// What a session and the keeper of its connection tell each other.
#[derive(Debug, Default)]
pub struct Doubt {
    /// How often something had come when the doubt arose.
    since: Cell<Option<u64>>,
    dead: Cell<bool>,
    asked: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Doubt {
    /// Has the connection pinged, if that is bearable.
    pub fn ask(&self) {
        self.asked.set(true);
        self.waker.borrow_mut().take().into_iter().for_each(Waker::wake);
    }

    /// Has the connection pinged. Until something comes on it, it is doubtful.
    pub fn raise(&self, watch: &Watch) {
        self.since.set(Some(watch.reads()));
        self.ask();
    }

    /// Returns `true` if nothing has come since a doubt arose.
    pub fn is_open(&self, watch: &Watch) -> bool {
        self.since.get() == Some(watch.reads())
    }

    /// Returns `true` if the connection is dead.
    pub fn is_confirmed(&self) -> bool {
        self.dead.get()
    }
}

/// The keeper of one connection; polled by the task that runs it.
#[derive(Debug)]
pub struct Keeper {
    pings: Option<PingPong>,
    watch: Rc<Watch>,
    doubt: Rc<Doubt>,
    interval: Duration,
    timeout: Duration,
    deadline: Deadline,
    /// How often something had come when the deadline was set.
    reads: u64,
    is_waiting: bool,
    /// When the last ping was sent, and how many frames of answers had come then.
    last: Option<(Instant, u64)>,
}

impl Keeper {
    /// Keeps a connection.
    pub fn new(
        pings: Option<PingPong>,
        watch: Rc<Watch>,
        doubt: Rc<Doubt>,
        interval: Duration,
        timeout: Duration,
    ) -> Self {
        let mut keeper = Keeper {
            pings,
            reads: watch.reads(),
            watch,
            doubt,
            interval,
            timeout,
            deadline: Deadline::new(),
            is_waiting: false,
            last: None,
        };
        keeper.rest();
        keeper
    }

    /// Pings when it is time to, and tells when the connection turns out to be dead.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        if self.doubt.dead.get() {
            return;
        }
        self.doubt.waker.replace(Some(cx.waker().clone()));
        if let Some(pings) = &mut self.pings {
            // One that is answered makes room for the next.
            let _ = pings.poll_pong(cx);
        }
        if self.is_waiting && self.watch.reads() != self.reads {
            self.rest();
        }
        if self.doubt.asked.take() && !self.is_waiting {
            if self.is_bearable() {
                self.ping();
            } else if self.doubt.is_open(&self.watch) {
                return self.bury();
            }
        }
        while self.deadline.poll(cx).is_ready() {
            match (self.is_waiting, self.reads == self.watch.reads()) {
                (true, true) => return self.bury(),
                (false, true) => self.ping(),
                (_, false) => self.rest(),
            }
        }
    }

    /// Waits until nothing has come for the whole interval.
    fn rest(&mut self) {
        self.is_waiting = false;
        self.reads = self.watch.reads();
        match self.interval.is_zero() {
            true => self.deadline.clear(),
            false => self.deadline.set_from(self.watch.last_read(), self.interval),
        }
    }

    fn is_bearable(&self) -> bool {
        self.last.is_none_or(|(at, answers)| {
            answers != self.watch.answers() || at.elapsed() >= PATIENCE_OF_SERVERS
        })
    }

    fn ping(&mut self) {
        // It fails if one is under way, and if the connection has ended: both are known elsewhere.
        let _ = self.pings.as_mut().map(|pings| pings.send_ping(Ping::opaque()));
        self.last = Some((Instant::now(), self.watch.answers()));
        self.is_waiting = true;
        self.reads = self.watch.reads();
        self.deadline.set(self.timeout);
    }

    fn bury(&mut self) {
        self.deadline.clear();
        self.doubt.dead.set(true);
        tracing::debug!("an HTTP/2 connection to an upstream gave no sign of life: it is retired");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{Future, poll_fn};
    use std::pin::Pin;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::{advance, sleep};

    const PING: [u8; 5] = [0, 0, 8, 6, 0];
    const INTERVAL: Duration = Duration::from_secs(60);
    const TIMEOUT: Duration = Duration::from_secs(10);

    /// A connection with a keeper, and its other end.
    struct Kept {
        doubt: Rc<Doubt>,
        watch: Rc<Watch>,
        upstream: DuplexStream,
        _send: h2::client::SendRequest<bytes::Bytes>,
    }

    async fn kept(interval: Duration) -> Kept {
        let (near, mut upstream) = tokio::io::duplex(64 * 1024);
        let (send, mut connection) = h2::client::handshake(near).await.unwrap();
        let (doubt, watch) = (Rc::<Doubt>::default(), Rc::<Watch>::default());
        let (theirs, pings) = (Rc::clone(&watch), connection.ping_pong());
        let mut keeper = Keeper::new(pings, theirs, Rc::clone(&doubt), interval, TIMEOUT);
        tokio::task::spawn_local(async move {
            poll_fn(|cx| {
                let ended = Pin::new(&mut connection).poll(cx);
                keeper.poll(cx);
                ended
            })
            .await
        });
        upstream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        Kept { doubt, watch, upstream, _send: send }
    }

    impl Kept {
        /// How many pings have come until now.
        async fn pings(&mut self) -> usize {
            sleep(Duration::from_millis(1)).await;
            let mut bytes = vec![0; 64 * 1024];
            let read =
                tokio::time::timeout(Duration::from_millis(1), self.upstream.read(&mut bytes));
            let count = read.await.map_or(0, Result::unwrap);
            let pings = bytes[..count].windows(17).filter(|window| window.starts_with(&PING));
            let pings: Vec<_> = pings.map(|ping| [&[0, 0, 8, 6, 1], &ping[5..]].concat()).collect();
            // The answer; the sieve that would have told of it is not here.
            self.upstream.write_all(&pings.concat()).await.unwrap();
            sleep(Duration::from_millis(1)).await;
            pings.len()
        }

        async fn after(&mut self, time: Duration) -> (usize, bool) {
            for _ in 0..time.as_secs() {
                advance(Duration::from_secs(1)).await;
                tokio::task::yield_now().await;
            }
            (self.pings().await, self.doubt.is_confirmed())
        }
    }

    async fn local(test: impl Future<Output = ()>) {
        tokio::task::LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_pinged_and_dead_when_nothing_comes() {
        local(async {
            let mut kept = kept(INTERVAL).await;
            assert_eq!(kept.after(INTERVAL - TIMEOUT).await, (0, false));
            assert_eq!(kept.after(TIMEOUT).await, (1, false));
            assert_eq!(kept.after(TIMEOUT).await, (0, true));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_comes_is_a_sign_of_life() {
        local(async {
            let mut kept = kept(INTERVAL).await;
            for _ in 0..10 {
                assert_eq!(kept.after(INTERVAL / 2).await, (0, false));
                kept.watch.read();
            }
            // Not the answer to the ping.
            assert_eq!(kept.after(INTERVAL + TIMEOUT / 2).await.0, 1);
            kept.watch.read();
            assert_eq!(kept.after(TIMEOUT * 2).await, (0, false));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_in_doubt_is_pinged_once_until_it_answers_something() {
        local(async {
            let mut kept = kept(Duration::ZERO).await;
            kept.doubt.raise(&kept.watch);
            assert!(kept.doubt.is_open(&kept.watch));
            assert_eq!(kept.pings().await, 1);
            kept.watch.read();
            assert!(!kept.doubt.is_open(&kept.watch));
            assert_eq!(kept.after(TIMEOUT * 2).await, (0, false));
            // gRPC servers count pings between answers.
            kept.doubt.ask();
            assert_eq!(kept.after(TIMEOUT * 2).await, (0, false));
            kept.watch.hear(1, 1);
            kept.doubt.ask();
            assert_eq!(kept.pings().await, 1);
            kept.watch.read();
            assert_eq!(kept.after(PATIENCE_OF_SERVERS).await, (0, false));
            kept.doubt.ask();
            assert_eq!(kept.pings().await, 1);
            assert_eq!(kept.after(TIMEOUT).await, (0, true));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_in_doubt_that_cannot_be_pinged_is_given_up() {
        local(async {
            let mut kept = kept(Duration::ZERO).await;
            kept.doubt.ask();
            assert_eq!(kept.pings().await, 1);
            kept.watch.read();
            assert_eq!(kept.after(TIMEOUT).await, (0, false));
            kept.doubt.raise(&kept.watch);
            assert_eq!(kept.after(Duration::from_secs(1)).await, (0, true));
        })
        .await;
    }
}

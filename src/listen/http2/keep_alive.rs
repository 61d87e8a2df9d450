//! Finds out that a client is gone without a FIN: one that has been silent is asked by a PING, and
//! has to answer it, or to move bytes in either direction.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};

use crate::upstream::deadline::Deadline;

/// Bytes that move because of a PING and its answer: they are no sign of life.
const OF_PINGS: u64 = 64;

/// The watch over one connection.
#[derive(Debug)]
pub struct KeepAlive {
    pings: PingPong,
    /// Bytes read and written so far.
    moved: Rc<Cell<u64>>,
    seen: u64,
    /// How long a client may be silent before it is asked.
    interval: Duration,
    /// How long its answer may take.
    patience: Duration,
    due: Deadline,
    is_asked: bool,
    is_over: bool,
}

impl KeepAlive {
    /// Watches a connection that counts here what it reads and writes.
    pub fn new(
        pings: PingPong,
        moved: Rc<Cell<u64>>,
        interval: Duration,
        patience: Duration,
    ) -> Self {
        let mut due = Deadline::new();
        due.set(interval);
        let seen = moved.get();
        KeepAlive { pings, moved, seen, interval, patience, due, is_asked: false, is_over: false }
    }

    /// Ready, once, when the client is gone.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.is_over {
            if self.is_asked && self.pings.poll_pong(cx).is_ready() {
                self.is_asked = false;
                self.begin(self.interval);
            }
            if self.due.poll(cx).is_pending() {
                return Poll::Pending;
            }
            let has_moved = self.moved.get().saturating_sub(self.seen) > OF_PINGS;
            match (has_moved, self.is_asked) {
                (true, false) => self.begin(self.interval),
                (true, true) => self.begin(self.patience),
                (false, false) => {
                    // One that is under way already is answered as well as another.
                    let _ = self.pings.send_ping(Ping::opaque());
                    self.is_asked = true;
                    self.begin(self.patience);
                }
                (false, true) => {
                    self.is_over = true;
                    return Poll::Ready(());
                }
            }
        }
        Poll::Pending
    }

    fn begin(&mut self, after: Duration) {
        self.seen = self.moved.get();
        self.due.set(after);
    }
}

//! Requests that wait for a connection, or for a stream on one, while an upstream has as many as it
//! may.
//!
//! One queue per worker, first come, first served, bounded in length and in time: a burst is served
//! a moment later instead of being refused, and an overload is refused instead of being piled up.
//! A request that finds room does not come here, and whoever gives a connection back only looks at
//! one number to see that nobody waits.
//!
//! | what becomes free | who is woken |
//! | --- | --- |
//! | a connection that stays open | the first of this worker; if none waits here, it is closed: |
//! | a connection that closes | the first of any worker |
//! | a stream of an HTTP/2 connection | the first of this worker that waits for this endpoint ([`Line`]) |

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::pool::OpenCount;
use crate::failure::{Failure, Kind, Phase};

/// One worker's queue.
#[derive(Debug)]
pub struct Pending {
    most: usize,
    time: Duration,
    waiting: Cell<usize>,
    returned: Notify,
    open: Arc<OpenCount>,
    /// Those that need a connection of their own.
    connections: Line,
}

/// Who in the queue can use what one endpoint alone has: its HTTP/2 streams.
#[derive(Debug, Default)]
pub struct Line {
    waiting: Cell<usize>,
    returned: Notify,
}

impl Line {
    /// Whether nobody waits: whoever comes now does not overtake anybody.
    pub fn is_empty(&self) -> bool {
        self.waiting.get() == 0
    }

    /// There is room for one more.
    pub fn returned(&self) {
        if !self.is_empty() {
            self.returned.notify_one();
        }
    }
}

/// A place in the queue.
struct Place<'p>(&'p Pending, &'p Line);

impl<'p> Place<'p> {
    fn take(pending: &'p Pending, line: &'p Line) -> Self {
        pending.waiting.set(pending.waiting.get() + 1);
        line.waiting.set(line.waiting.get() + 1);
        pending.open.wait_more();
        Place(pending, line)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Place(pending, line) = self;
        pending.waiting.set(pending.waiting.get().saturating_sub(1));
        line.waiting.set(line.waiting.get().saturating_sub(1));
        pending.open.wait_less();
    }
}

impl Pending {
    /// A queue for at most `most` requests, each for at most `time`.
    #[must_use]
    pub fn new(most: usize, time: Duration, open: Arc<OpenCount>) -> Self {
        let (waiting, returned) = (Cell::new(0), Notify::new());
        Pending { most, time, waiting, returned, open, connections: Line::default() }
    }

    /// Whether nobody waits on this worker: whoever comes now does not overtake anybody.
    pub fn is_empty(&self) -> bool {
        self.waiting.get() == 0
    }

    /// Whether somebody waits on another worker, and nobody on this one.
    pub fn is_for_others(&self) -> bool {
        self.is_empty() && self.open.is_waited_for()
    }

    /// An idle connection has come back.
    pub fn returned(&self) {
        if !self.is_empty() {
            self.returned.notify_one();
        }
    }

    /// Waits until `take` finds room: at once, if nobody waits.
    ///
    /// # Errors
    /// The limit is reached: too many wait, or the time is over.
    pub async fn wait<T>(&self, take: impl Fn() -> Option<T>) -> Result<T, Failure> {
        self.wait_in(&self.connections, &mut None, take).await
    }

    /// The same for who can use a stream of an endpoint too. Who comes back to the queue brings its
    /// deadline, so that all its waits together take no longer than one may.
    ///
    /// # Errors
    /// The limit is reached: too many wait, or the time is over.
    pub async fn wait_in<T>(
        &self,
        line: &Line,
        deadline: &mut Option<Instant>,
        take: impl Fn() -> Option<T>,
    ) -> Result<T, Failure> {
        let full = || Failure::new(Kind::ConnectionLimitReached, Phase::Connect);
        let mut may_try = self.is_empty();
        if may_try && let Some(found) = take() {
            return Ok(found);
        }
        if self.waiting.get() >= self.most {
            return Err(full());
        }
        let _place = Place::take(self, line);
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.time);
        loop {
            let mut returned = pin!(self.returned.notified());
            let mut closed = pin!(self.open.closed().notified());
            let mut stream = pin!(line.returned.notified());
            // In line before looking again: what becomes free from now on wakes this request.
            returned.as_mut().enable();
            closed.as_mut().enable();
            stream.as_mut().enable();
            if may_try && let Some(found) = take() {
                return Ok(found);
            }
            tokio::select! {
                biased;
                () = returned => {}
                () = closed => {}
                () = stream => {}
                () = sleep_until(deadline) => return Err(full()),
            }
            may_try = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use tokio::task::LocalSet;

    fn pending(most: usize) -> Rc<Pending> {
        Rc::new(Pending::new(most, Duration::from_secs(1), Arc::default()))
    }

    /// Waits for room in a task of its own; writes down who came when it got some, or that it did
    /// not.
    fn enqueue(
        pending: &Rc<Pending>,
        room: &Rc<Cell<usize>>,
        served: &Rc<RefCell<Vec<(usize, bool)>>>,
        who: usize,
    ) {
        let (pending, room, served) = (Rc::clone(pending), Rc::clone(room), Rc::clone(served));
        tokio::task::spawn_local(async move {
            let take = || room.get().checked_sub(1).map(|left| room.set(left));
            let found = pending.wait(take).await.is_ok();
            served.borrow_mut().push((who, found));
        });
    }

    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_came_first_is_served_first_and_one_too_many_is_refused_at_once() {
        let work = async {
            let (pending, room, served) = (pending(3), Rc::new(Cell::new(1)), Rc::default());
            let start = Instant::now();
            for who in 0..5 {
                enqueue(&pending, &room, &served, who);
            }
            settle().await;
            assert_eq!(*served.borrow(), [(0, true), (4, false)]);
            for _ in 0..3 {
                room.set(room.get() + 1);
                pending.returned();
                settle().await;
            }
            assert_eq!(served.borrow()[2..], [(1, true), (2, true), (3, true)]);
            assert!(pending.is_empty() && !pending.open.is_waited_for());
            assert_eq!(start.elapsed(), Duration::ZERO);
        };
        LocalSet::new().run_until(work).await;
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_too_long_is_refused() {
        let pending = pending(3);
        let start = Instant::now();
        let refused = pending.wait(|| None::<()>).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::ConnectionLimitReached);
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        assert!(pending.is_empty() && !pending.open.is_waited_for());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_where_the_queue_is_off() {
        let start = Instant::now();
        assert!(pending(0).wait(|| None::<()>).await.is_err());
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_passes_its_turn_on() {
        let work = async {
            let (pending, room, served) = (pending(3), Rc::new(Cell::new(0)), Rc::default());
            let left = tokio::task::spawn_local({
                let pending = Rc::clone(&pending);
                async move { pending.wait(|| None::<()>).await.map(drop) }
            });
            settle().await;
            enqueue(&pending, &room, &served, 2);
            settle().await;
            room.set(1);
            pending.returned();
            // Woken, and gone before it could look.
            left.abort();
            settle().await;
            assert_eq!(*served.borrow(), [(2, true)]);
        };
        LocalSet::new().run_until(work).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_closes_on_one_worker_serves_a_request_of_another() {
        let work = async {
            let open: Arc<OpenCount> = Arc::default();
            let queue = || Rc::new(Pending::new(3, Duration::from_secs(1), Arc::clone(&open)));
            let (here, there) = (queue(), queue());
            let (room, served) = (Rc::new(Cell::new(0)), Rc::default());
            enqueue(&there, &room, &served, 1);
            settle().await;
            assert!(here.is_for_others() && !there.is_for_others());
            room.set(1);
            open.one_closed();
            settle().await;
            assert_eq!(*served.borrow(), [(1, true)]);
        };
        LocalSet::new().run_until(work).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_wakes_who_waits_for_its_endpoint_and_a_connection_wakes_anybody() {
        let work = async {
            let (pending, open) = (pending(3), Rc::new(Cell::new("")));
            let lines = [Rc::new(Line::default()), Rc::new(Line::default())];
            let served: Rc<RefCell<Vec<&str>>> = Rc::default();
            for (line, wants) in lines.iter().zip(["stream of a", "stream of b"]) {
                let (line, pending) = (Rc::clone(line), Rc::clone(&pending));
                let (open, served) = (Rc::clone(&open), Rc::clone(&served));
                tokio::task::spawn_local(async move {
                    let take = || (open.get() == wants || open.get() == "connection").then_some(());
                    pending.wait_in(&line, &mut None, take).await.unwrap();
                    open.set("");
                    served.borrow_mut().push(wants);
                });
            }
            settle().await;
            // The first in the queue is of the other endpoint.
            open.set("stream of b");
            lines[1].returned();
            settle().await;
            assert_eq!(*served.borrow(), ["stream of b"]);
            assert!(lines[1].is_empty() && !lines[0].is_empty() && !pending.is_empty());
            open.set("connection");
            pending.returned();
            settle().await;
            assert_eq!(*served.borrow(), ["stream of b", "stream of a"]);
            assert!(pending.is_empty() && !pending.open.is_waited_for());
        };
        LocalSet::new().run_until(work).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_back_to_the_queue_waits_no_longer_in_all() {
        let (pending, line, start) = (pending(3), Line::default(), Instant::now());
        let mut deadline = None;
        for _ in 0..3 {
            let asked = Cell::new(0);
            let after_a_while = || (asked.replace(asked.get() + 1) > 0).then_some(());
            let work = pending.wait_in(&line, &mut deadline, after_a_while);
            let waking = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                line.returned();
            };
            tokio::join!(work, waking).0.unwrap();
        }
        let refused = pending.wait_in(&line, &mut deadline, || None::<()>).await;
        assert_eq!(refused.unwrap_err().kind(), Kind::ConnectionLimitReached);
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }
}

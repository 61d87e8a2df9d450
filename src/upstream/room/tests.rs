use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::task::LocalSet;
use tokio::time::Instant;

use super::*;

fn room(requests: usize, endpoint_requests: usize) -> Arc<Room> {
    let limits =
        UpstreamLimits { requests, endpoint_requests, pending: 3, ..UpstreamLimits::default() };
    Arc::new(Room::of(&limits, &gauge()).unwrap())
}

fn gauge() -> IntGauge {
    IntGauge::new("waiting", "waiting").unwrap()
}

fn label(name: &str) -> Arc<str> {
    name.into()
}

async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn without_a_limit_there_is_nothing_to_ask() {
    assert!(Room::of(&UpstreamLimits::default(), &gauge()).is_none());
}

#[test]
fn an_endpoint_that_is_full_takes_nothing_from_the_upstream() {
    let room = room(3, 1);
    let (one, two) = (room.endpoint(&label("one")), room.endpoint(&label("two")));
    let first = room.enter(&one).unwrap();
    for _ in 0..10 {
        assert!(room.enter(&one).is_none());
    }
    assert!(!room.has_room_at(&one) && room.has_room_at(&two));
    let _second = room.enter(&two).unwrap();
    drop(first);
    assert!(room.enter(&one).is_some());
    assert_eq!(room.taken.load(SeqCst), 1);
}

#[test]
fn a_request_that_moves_leaves_its_endpoint() {
    let room = room(0, 1);
    let (one, two) = (room.endpoint(&label("one")), room.endpoint(&label("two")));
    let mut place = room.enter(&one).unwrap();
    assert!(place.move_to(&two));
    assert!(room.has_room_at(&one) && !room.has_room_at(&two));
    let mut other = room.enter(&one).unwrap();
    assert!(!other.move_to(&two), "it is full");
    drop((place, other));
    assert!(room.has_room_at(&one) && room.has_room_at(&two));
}

#[test]
fn what_is_used_is_known_as_long_as_somebody_uses_it() {
    let room = room(0, 2);
    let place = room.enter(&room.endpoint(&label("one"))).unwrap();
    assert_eq!(room.endpoint(&label("one")).requests.load(SeqCst), 1);
    drop(place);
    drop(room.endpoint(&label("two")));
    assert_eq!(room.endpoints.lock().unwrap().len(), 1, "who is gone is forgotten");
}

/// Waits in a task of its own for a place at this endpoint, writes down that it has it, and keeps it.
fn enqueue(room: &Arc<Room>, used: &Arc<Used>, got: &Rc<RefCell<Vec<(usize, Place)>>>, who: usize) {
    let (room, used, got) = (Arc::clone(room), Arc::clone(used), Rc::clone(got));
    tokio::task::spawn_local(async move {
        if let Ok(place) = room.wait(Wish::Any, || room.enter(&used)).await {
            got.borrow_mut().push((who, place));
        }
    });
}

#[tokio::test(start_paused = true)]
async fn who_came_first_is_served_first_and_one_too_many_is_refused_at_once() {
    let work = async {
        let (room, got) = (room(1, 0), Rc::default());
        let used = room.endpoint(&label("one"));
        let start = Instant::now();
        (0..4).for_each(|who| enqueue(&room, &used, &got, who));
        settle().await;
        assert_eq!(room.pending.get(), 3);
        assert_eq!(room.wait(Wish::Any, || room.enter(&used)).await.unwrap_err(), Full);
        for who in 0..4 {
            let (served, place) = got.borrow_mut().remove(0);
            assert_eq!((served, got.borrow().len()), (who, 0), "one at a time, in order");
            drop(place);
            settle().await;
        }
        assert_eq!((room.pending.get(), start.elapsed()), (0, Duration::ZERO));
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_too_long_is_refused_and_whoever_leaves_passes_its_turn_on() {
    let work = async {
        let (room, got) = (room(1, 0), Rc::default());
        let used = room.endpoint(&label("one"));
        let held = room.enter(&used).unwrap();
        let left = tokio::task::spawn_local({
            let (room, used) = (Arc::clone(&room), Arc::clone(&used));
            async move { room.wait(Wish::Any, || room.enter(&used)).await.map(drop) }
        });
        settle().await;
        enqueue(&room, &used, &got, 2);
        settle().await;
        drop(held);
        // Woken, and gone before it could look.
        left.abort();
        settle().await;
        assert_eq!(got.borrow().iter().map(|(who, _)| *who).collect::<Vec<_>>(), [2]);
        let start = Instant::now();
        assert_eq!(room.wait(Wish::Any, || room.enter(&used)).await.unwrap_err(), Full);
        assert_eq!((start.elapsed(), room.pending.get()), (Duration::from_secs(1), 0));
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test(start_paused = true)]
async fn who_wants_one_endpoint_is_woken_beside_who_wants_any() {
    let work = async {
        let (room, got) = (room(0, 1), Rc::default());
        let (one, two) = (room.endpoint(&label("one")), room.endpoint(&label("two")));
        let (at_one, at_two) = (room.enter(&one).unwrap(), room.enter(&two).unwrap());
        enqueue(&room, &one, &got, 1);
        let found = Rc::new(Cell::new(false));
        let choosy = tokio::task::spawn_local({
            let (room, two, found) = (Arc::clone(&room), Arc::clone(&two), Rc::clone(&found));
            async move {
                let place = room.wait(Wish::Choosy, || room.enter(&two)).await;
                found.set(place.is_ok());
            }
        });
        settle().await;
        drop(at_two);
        settle().await;
        assert!(found.get() && got.borrow().is_empty());
        choosy.await.unwrap();
        drop(at_one);
        settle().await;
        assert_eq!(got.borrow().len(), 1);
    };
    LocalSet::new().run_until(work).await;
}

#[test]
fn many_threads_never_take_more_than_there_is_and_all_are_served() {
    const THREADS: usize = 4;
    const TURNS: usize = 500;
    let limits = UpstreamLimits {
        requests: 2,
        endpoint_requests: 1,
        pending: THREADS,
        pending_time: Duration::from_secs(60),
        ..UpstreamLimits::default()
    };
    let room = Arc::new(Room::of(&limits, &gauge()).unwrap());
    let most = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (room, most) = (&room, &most);
            scope.spawn(move || {
                let ends = ["one", "two"].map(|name| room.endpoint(&label(name)));
                let wish = if thread == 0 { Wish::Choosy } else { Wish::Any };
                let of = if thread == 0 { &ends[..1] } else { &ends[..] };
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
                let enter = || of.iter().find_map(|used| room.enter(used));
                runtime.unwrap().block_on(async {
                    for _ in 0..TURNS {
                        let place = room.wait(wish, enter).await.unwrap();
                        most.fetch_max(room.taken.load(SeqCst), SeqCst);
                        tokio::task::yield_now().await;
                        drop(place);
                    }
                });
            });
        }
    });
    assert!(most.load(SeqCst) <= 2);
    assert_eq!((room.taken.load(SeqCst), room.pending.get()), (0, 0));
}

use std::net::IpAddr;

use tokio::task::JoinSet;
use tokio::time::{advance, sleep};

use super::super::tests::Script;
use super::*;

const LIMIT: Duration = Duration::from_secs(2);
const MOMENT: Duration = Duration::from_millis(10);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An answer with these addresses, after a moment.
fn answer(ttl: u64, addresses: &[&str]) -> (Duration, [Told; 2]) {
    let (six, four) = addresses.iter().map(|text| ip(text)).partition(IpAddr::is_ipv6);
    let ttl = Duration::from_secs(ttl);
    (MOMENT, [Ok((four, ttl)), Ok((six, ttl))])
}

fn failure(silence: &Silence) -> (Duration, [Told; 2]) {
    (MOMENT, [Err(silence.clone()), Err(silence.clone())])
}

/// It never answers.
fn silent() -> (Duration, [Told; 2]) {
    (Duration::from_secs(3600), [Err(Silence::Timeout), Err(Silence::Timeout)])
}

fn name(steps: impl IntoIterator<Item = (Duration, [Told; 2])>) -> (Script, Arc<Name>) {
    let (script, resolver) = Script::new(steps);
    let bounds = Bounds { most: Duration::from_secs(10), ..Bounds::default() };
    (script, Name::new("app.test", resolver, LIMIT, bounds, None))
}

async fn first(name: &Arc<Name>) -> String {
    match name.addresses().await {
        Ok(found) => found[0].to_string(),
        Err(Unresolved { silence, repeated }) => format!("{silence}, repeated: {repeated}"),
    }
}

#[tokio::test(start_paused = true)]
async fn asks_once_however_many_wait() {
    let (script, name) = name([answer(5, &["10.0.0.1"])]);
    let mut waiting = JoinSet::new();
    for _ in 0..500 {
        let name = Arc::clone(&name);
        waiting.spawn(async move { name.addresses().await.unwrap() });
    }
    let found = waiting.join_all().await;
    assert!(found.iter().all(|found| *found == [ip("10.0.0.1")]));
    assert_eq!(script.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn tells_one_failure_once_however_many_wait() {
    let (script, name) = name([silent()]);
    let start = Instant::now();
    let mut waiting = JoinSet::new();
    for _ in 0..500 {
        let name = Arc::clone(&name);
        waiting.spawn(async move { name.addresses().await.unwrap_err() });
    }
    let failed = waiting.join_all().await;
    assert_eq!(start.elapsed(), LIMIT);
    assert!(failed.iter().all(|failed| failed.silence.is_late()));
    assert_eq!(failed.iter().filter(|failed| !failed.repeated).count(), 1);
    assert_eq!(script.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn uses_an_answer_as_long_as_its_ttl_within_bounds() {
    for (ttl, kept) in [(5, 5), (0, 1), (86_400, 10)] {
        let (script, name) = name([answer(ttl, &["10.0.0.1"]), answer(ttl, &["10.0.0.2"])]);
        assert_eq!(first(&name).await, "10.0.0.1");
        sleep(Duration::from_secs(kept) - MOMENT).await;
        assert_eq!(first(&name).await, "10.0.0.1", "{ttl}");
        assert_eq!(script.asked(), 1);
        sleep(MOMENT).await;
        assert_eq!(first(&name).await, "10.0.0.2", "{ttl}");
        assert_eq!(script.asked(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn believes_a_failure_for_a_moment_and_asks_again() {
    for silence in [Silence::Empty, Silence::Timeout] {
        let (script, name) = name([failure(&silence), failure(&silence), answer(5, &["10.0.0.1"])]);
        assert_eq!(first(&name).await, format!("{silence}, repeated: false"));
        let start = Instant::now();
        for _ in 0..100 {
            assert_eq!(first(&name).await, format!("{silence}, repeated: true"));
        }
        assert_eq!((start.elapsed(), script.asked()), (Duration::ZERO, 1));
        sleep(RETRY).await;
        assert_eq!(first(&name).await, format!("{silence}, repeated: false"));
        sleep(RETRY).await;
        assert_eq!(first(&name).await, "10.0.0.1");
        assert_eq!(script.asked(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn keeps_the_last_good_answer_for_a_while_and_lets_nobody_wait_twice() {
    let steps = [answer(1, &["10.0.0.1"]), silent()];
    let (script, name) = name(steps);
    assert_eq!(first(&name).await, "10.0.0.1");
    sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    assert_eq!(first(&name).await, "10.0.0.1");
    assert_eq!(start.elapsed(), LIMIT, "the first one waits for the question");
    let start = Instant::now();
    for _ in 0..60 {
        assert_eq!(first(&name).await, "10.0.0.1");
        advance(Duration::from_secs(1)).await;
    }
    assert_eq!(start.elapsed(), Duration::from_secs(60), "and nobody after it");
    assert!((10..40).contains(&script.asked()), "{}", script.asked());
    sleep(Bounds::default().stale).await;
    let answer = first(&name).await;
    assert!(answer.starts_with("no answer in time"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn goes_on_with_the_question_when_its_first_asker_leaves() {
    let (script, name) = name([answer(5, &["10.0.0.1"])]);
    let leaving = tokio::spawn({
        let name = Arc::clone(&name);
        async move { name.addresses().await }
    });
    sleep(MOMENT / 2).await;
    leaving.abort();
    assert_eq!(first(&name).await, "10.0.0.1");
    assert_eq!(script.asked(), 1);
}

#[test]
fn asks_anew_when_the_thread_that_asked_has_ended() {
    let (script, name) = name([silent(), answer(5, &["10.0.0.1"])]);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first_thread = runtime();
    let asking = Arc::clone(&name);
    first_thread.spawn(async move { asking.addresses().await });
    first_thread.block_on(tokio::task::yield_now());
    first_thread.block_on(tokio::task::yield_now());
    assert_eq!(script.asked(), 1);
    drop(first_thread);
    assert_eq!(runtime().block_on(first(&name)), "10.0.0.1");
}

#[tokio::test(start_paused = true)]
async fn asks_sooner_when_no_address_can_be_connected_to() {
    let (script, name) = name([answer(10, &["10.0.0.1"]), answer(10, &["10.0.0.2"])]);
    assert_eq!(first(&name).await, "10.0.0.1");
    name.doubt();
    assert_eq!(first(&name).await, "10.0.0.1", "not sooner than it may be");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(first(&name).await, "10.0.0.2");
    assert_eq!(script.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn gives_each_address_its_turn() {
    let (_, name) = name([answer(10, &["10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.0.3"])]);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let mut found = name.addresses().await.unwrap();
        seen.push(found[0]);
        found.sort();
        assert_eq!(found, ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(ip));
    }
    seen.sort();
    assert_eq!(seen, ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(ip));
}

#[test]
fn a_family_that_fails_is_not_missed() {
    let ttl = Duration::from_secs(5);
    let four = || Ok((vec![ip("10.0.0.1")], ttl));
    for other in [Err(Silence::Timeout), Err(Silence::Empty), Ok((Vec::new(), ttl))] {
        assert_eq!(merged([four(), other]).unwrap(), (vec![ip("10.0.0.1")], ttl));
    }
    assert!(merged([Ok((Vec::new(), ttl)), Err(Silence::Timeout)]).unwrap_err().is_late());
    let none = merged([Ok((Vec::new(), ttl)), Err(Silence::Empty)]).unwrap_err();
    assert!(matches!(none, Silence::Empty));
}

use std::path::Path;

use tokio::time::advance;

use super::*;

/// A roster of so many endpoints with these settings.
fn roster(count: usize, settings: &str) -> Roster {
    let endpoints: Vec<_> = (0..count).map(|at| format!("'http://10.0.0.{at}:80'")).collect();
    let text = format!(
        "listeners: [{{ address: ':0' }}]\n\
         upstreams: {{ app: {{ endpoints: [{}], {settings} }} }}\n\
         routes: [{{ upstream: app }}]\n",
        endpoints.join(", ")
    );
    let config = crate::config::parse("test.yaml", &text, Path::new(".")).unwrap();
    let upstream = &config.upstreams[0];
    let standings = (0..count).map(|_| Arc::new(Standing::new(upstream, Arc::default())));
    Roster::new(upstream, standings.collect(), Instant::now())
}

const SETTINGS: &str = "slow_start: 10s, ejection: { consecutive_failures: 3, base: 5s, max: 30s }";

fn shares(roster: &Roster) -> Vec<u32> {
    let view = roster.view();
    (0..roster.endpoints.len()).map(|endpoint| view.share(endpoint)).collect()
}

/// Fails so often that it must be ejected, and tells for how long.
fn eject(roster: &Roster, endpoint: usize) -> Duration {
    (0..3).find_map(|_| roster.failed(endpoint)).unwrap()
}

fn about(seconds: u64) -> std::ops::RangeInclusive<Duration> {
    Duration::from_secs(seconds)..=Duration::from_millis(seconds * 1100)
}

#[tokio::test(start_paused = true)]
async fn so_many_failures_in_a_row_eject_and_fewer_do_not() {
    let roster = roster(3, SETTINGS);
    for _ in 0..10 {
        assert_eq!((roster.failed(1), roster.failed(1)), (None, None));
        roster.succeeded(1);
    }
    assert_eq!(shares(&roster), [FULL; 3]);
    assert!(about(5).contains(&eject(&roster, 1)));
    assert_eq!(shares(&roster), [FULL, 0, FULL]);
    assert!(!roster.is_up(1) && roster.is_up(0));
    assert_eq!(roster.failed(1), None, "a straggler");
}

#[tokio::test(start_paused = true)]
async fn so_many_percent_of_failures_eject_and_fewer_requests_say_nothing() {
    let settings = "slow_start: 0s, ejection: { consecutive_failures: 0, failure_percent: 30, \
                    min_requests: 10, window: 10s, base: 5s }";
    let roster = roster(3, settings);
    // Every third request fails: 3 of 9 are not enough requests, 4 of 12 are.
    let request = |number: usize| match number % 3 {
        2 => roster.failed(1),
        _ => {
            roster.succeeded(1);
            None
        }
    };
    assert!((0..9).all(|number| request(number).is_none()));
    let ejected = (9..12).find_map(request).unwrap();
    assert!(about(5).contains(&ejected));
    assert_eq!(shares(&roster), [FULL, 0, FULL]);
    // What it failed with before does not count again.
    advance(ejected).await;
    assert!((0..9).all(|number| request(number).is_none()));
    assert_eq!(shares(&roster), [FULL; 3]);
}

#[tokio::test(start_paused = true)]
async fn failures_of_long_ago_do_not_eject() {
    let settings = "ejection: { consecutive_failures: 0, failure_percent: 50, min_requests: 10 }";
    let roster = roster(3, settings);
    for _ in 0..100 {
        assert_eq!(roster.failed(1), None);
        advance(Duration::from_secs(2)).await;
    }
    assert!((0..4).all(|_| roster.failed(1).is_none()));
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_back_gets_its_share_little_by_little() {
    let roster = roster(3, SETTINGS);
    let time = eject(&roster, 1);
    advance(time).await;
    assert_eq!(shares(&roster)[1], LEAST);
    advance(Duration::from_secs(5)).await;
    assert_eq!(shares(&roster)[1], FULL / 2);
    advance(Duration::from_secs(5)).await;
    assert_eq!(shares(&roster)[1], FULL);
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_at_once_again_is_out_twice_as_long_up_to_the_longest() {
    let roster = roster(3, SETTINGS);
    let mut time = eject(&roster, 1);
    for seconds in [10, 20, 30, 30, 30] {
        advance(time).await;
        time = roster.failed(1).unwrap();
        assert!(about(seconds).contains(&time), "{time:?} is not about {seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn an_ejection_is_forgotten_when_the_endpoint_was_well_for_as_long() {
    let roster = roster(3, SETTINGS);
    let time = eject(&roster, 1);
    advance(time).await;
    roster.succeeded(1);
    advance(Duration::from_secs(9)).await;
    roster.tidy();
    assert!(!roster.endpoints[1].is_quiet());
    advance(Duration::from_secs(2)).await;
    roster.tidy();
    assert!(roster.endpoints[1].is_quiet());
    assert!(about(5).contains(&eject(&roster, 1)), "as if for the first time");
}

#[tokio::test(start_paused = true)]
async fn a_single_endpoint_is_never_ejected() {
    let roster = roster(1, SETTINGS);
    assert!((0..100).all(|_| roster.failed(0).is_none()));
    assert_eq!(shares(&roster), [FULL]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_ejected_where_it_is_off() {
    for off in ["consecutive_failures: 0", "max_percent: 0"] {
        let roster = roster(3, &format!("ejection: {{ {off} }}"));
        assert!((0..100).all(|_| roster.failed(0).is_none()), "{off}");
    }
}

#[tokio::test(start_paused = true)]
async fn when_more_would_be_out_than_may_be_all_are_tried() {
    let roster = roster(4, SETTINGS);
    eject(&roster, 0);
    eject(&roster, 1);
    assert_eq!(shares(&roster), [0, 0, FULL, FULL], "half of them may be out");
    eject(&roster, 2);
    assert_eq!(shares(&roster), [LEAST, LEAST, LEAST, FULL]);
    eject(&roster, 3);
    assert_eq!(shares(&roster), [FULL; 4]);
    // Whoever is well is in again, and the others are left to themselves.
    roster.succeeded(1);
    assert_eq!(shares(&roster), [LEAST, FULL, LEAST, LEAST]);
    roster.succeeded(2);
    assert_eq!(shares(&roster), [0, LEAST, LEAST, 0], "both come back little by little");
}

#[tokio::test(start_paused = true)]
async fn one_of_two_may_be_out() {
    let roster = roster(2, "ejection: { consecutive_failures: 3, max_percent: 1 }");
    eject(&roster, 0);
    assert_eq!(shares(&roster), [0, FULL]);
}

#[tokio::test(start_paused = true)]
async fn a_success_of_an_earlier_request_does_not_end_an_ejection() {
    let roster = roster(3, SETTINGS);
    eject(&roster, 1);
    roster.succeeded(1);
    assert_eq!(shares(&roster), [FULL, 0, FULL]);
}

#[tokio::test(start_paused = true)]
async fn what_fails_its_checks_is_out_even_if_all_do() {
    let roster = roster(2, SETTINGS);
    roster.set_down(0, true);
    assert_eq!(shares(&roster), [0, FULL]);
    roster.set_down(1, true);
    assert_eq!(shares(&roster), [0, 0]);
    assert_eq!(roster.view().other_than(0, |_| true), None);
    roster.set_down(1, false);
    assert_eq!(shares(&roster), [0, LEAST]);
    advance(Duration::from_secs(10)).await;
    assert_eq!(shares(&roster), [0, FULL]);
}

#[tokio::test(start_paused = true)]
async fn endpoints_are_down_before_their_first_check_where_it_says_so() {
    let roster = roster(2, "health: { tcp: true, initial: unhealthy }");
    assert_eq!(shares(&roster), [0, 0]);
    assert!(!roster.is_up(0));
}

#[tokio::test(start_paused = true)]
async fn the_other_endpoint_is_the_one_with_the_least_doubt() {
    let roster = roster(4, SETTINGS);
    assert_eq!(roster.view().other_than(0, |_| true), Some(1));
    assert_eq!(roster.view().other_than(3, |_| true), Some(0));
    roster.failed(1);
    assert_eq!(roster.view().other_than(0, |_| true), Some(2));
    eject(&roster, 2);
    roster.set_down(3, true);
    assert_eq!(roster.view().other_than(0, |_| true), Some(1));
    assert_eq!(roster.view().other_than(1, |_| true), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_drained_endpoint_gets_nothing_and_is_no_reason_to_try_those_that_are_ejected() {
    let roster = roster(3, SETTINGS);
    roster.endpoints[0].tenure().set_drained(true);
    assert_eq!(shares(&roster), [0, FULL, FULL]);
    assert_eq!(roster.view().other_than(1, |_| true), Some(2));
    eject(&roster, 1);
    assert_eq!(shares(&roster), [0, 0, FULL], "one of three is ejected, as may be");
    assert_eq!([0, 1, 2].map(|at| roster.state(at)), ["drained", "ejected", "up"]);
    roster.endpoints[0].tenure().set_drained(false);
    assert_eq!(shares(&roster), [FULL, 0, FULL]);
}

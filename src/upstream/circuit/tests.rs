use std::collections::BTreeSet;

use proptest::prelude::*;
use tokio::time::advance;

use super::*;
use crate::failure::{Failure, Kind, Phase, Protocol};
use crate::telemetry::metrics::Metrics;

fn settings() -> model::Circuit {
    model::Circuit {
        consecutive_failures: 3,
        failure_percent: 0,
        open: Duration::from_secs(5),
        max: Duration::from_secs(30),
        probes: 2,
        ..model::Circuit::default()
    }
}

fn circuit(settings: model::Circuit) -> (Arc<Circuit>, Arc<Metrics>) {
    let metrics = Metrics::new().unwrap();
    let handles = metrics.upstream("app", &[], Protocol::ALL);
    (Arc::new(Circuit::new(settings, "app".into(), handles.circuit().clone())), metrics)
}

fn cell(metrics: &Metrics, name: &str) -> u64 {
    let text = String::from_utf8(metrics.encode()).unwrap();
    let line =
        text.lines().find_map(|line| line.strip_prefix(&format!("{name}{{upstream=\"app\"}} ")));
    line.unwrap().parse().unwrap()
}

fn crash() -> Failure {
    Failure::new(Kind::ConnectionTerminated, Phase::Head)
}

fn fail(circuit: &Arc<Circuit>) {
    circuit.enter().unwrap().settle(Outcome::Broken(&crash()));
}

fn serve(circuit: &Arc<Circuit>) {
    circuit.enter().unwrap().settle(Outcome::Served);
}

/// For how long it stays open, a second more or less.
async fn time_open(circuit: &Arc<Circuit>) -> u64 {
    let mut seconds = 0;
    while circuit.enter().is_err() {
        advance(Duration::from_secs(1)).await;
        seconds += 1;
        assert!(seconds < 1000);
    }
    seconds
}

#[tokio::test(start_paused = true)]
async fn it_opens_after_so_many_failures_in_a_row_and_closes_when_its_probes_are_served() {
    let (circuit, metrics) = circuit(settings());
    fail(&circuit);
    fail(&circuit);
    serve(&circuit);
    fail(&circuit);
    fail(&circuit);
    assert_eq!(cell(&metrics, "seawall_circuit_state"), 0);
    fail(&circuit);
    assert_eq!(cell(&metrics, "seawall_circuit_state"), 2);
    assert_eq!(cell(&metrics, "seawall_circuit_openings_total"), 1);
    let waits: BTreeSet<_> =
        (0..100).map(|_| circuit.enter().unwrap_err().retry_after_secs).collect();
    assert!(waits.iter().all(|wait| (5..=11).contains(wait)), "{waits:?}");
    assert!(waits.len() > 3, "clients are not told to come back together: {waits:?}");
    assert_eq!(cell(&metrics, "seawall_circuit_refused_total"), 100);

    advance(Duration::from_millis(5501)).await;
    circuit.tidy();
    assert_eq!(cell(&metrics, "seawall_circuit_state"), 1);
    let (first, second) = (circuit.enter().unwrap(), circuit.enter().unwrap());
    assert!(circuit.enter().is_err(), "two probes and no more");
    first.settle(Outcome::Served);
    assert!(circuit.enter().is_err(), "one is served, the other is under way");
    second.settle(Outcome::Served);
    assert_eq!(cell(&metrics, "seawall_circuit_state"), 0);
    (0..10).for_each(|_| serve(&circuit));
    assert_eq!(cell(&metrics, "seawall_circuit_openings_total"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_opens_it_for_twice_as_long_up_to_a_limit() {
    let (circuit, metrics) = circuit(settings());
    (0..3).for_each(|_| fail(&circuit));
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(time_open(&circuit).await);
        fail(&circuit);
    }
    let expected = [5, 10, 20, 30, 30];
    for (time, expected) in times.iter().zip(expected) {
        assert!((expected..=expected + expected / 10 + 1).contains(time), "{times:?}");
    }
    assert_eq!(cell(&metrics, "seawall_circuit_openings_total"), 6);
}

#[tokio::test(start_paused = true)]
async fn one_that_was_well_for_long_opens_for_the_first_time_again() {
    for (well, expected) in [(1, 10), (60, 5)] {
        let (circuit, _) = circuit(settings());
        (0..3).for_each(|_| fail(&circuit));
        time_open(&circuit).await;
        (0..2).for_each(|_| serve(&circuit));
        advance(Duration::from_secs(well)).await;
        (0..3).for_each(|_| fail(&circuit));
        let time = time_open(&circuit).await;
        assert!((expected..=expected + 2).contains(&time), "well for {well} s: {time} s");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_under_way_when_it_opened_says_nothing_later() {
    let (circuit, metrics) = circuit(settings());
    let mut stragglers: Vec<_> = (0..7).map(|_| circuit.enter().unwrap()).collect();
    (0..3).for_each(|_| fail(&circuit));
    let mut late = |outcome: Outcome<'_>| stragglers.pop().unwrap().settle(outcome);
    late(Outcome::Served);
    assert_eq!(cell(&metrics, "seawall_circuit_state"), 2, "open");
    time_open(&circuit).await;
    late(Outcome::Broken(&crash()));
    late(Outcome::Served);
    (0..2).for_each(|_| serve(&circuit));
    for _ in 0..4 {
        late(Outcome::Broken(&crash()));
    }
    assert_eq!(cell(&metrics, "seawall_circuit_state"), 0, "closed");
    assert_eq!(cell(&metrics, "seawall_circuit_openings_total"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_client_leaves_makes_room_for_another() {
    let (circuit, _) = circuit(settings());
    (0..3).for_each(|_| fail(&circuit));
    time_open(&circuit).await;
    for _ in 0..20 {
        let (one, two) = (circuit.enter().unwrap(), circuit.enter().unwrap());
        assert!(circuit.enter().is_err());
        drop((one, two));
    }
    // A limit of ours says nothing about the upstream either.
    let full = Failure::new(Kind::ConnectionLimitReached, Phase::Connect);
    circuit.enter().unwrap().settle(Outcome::Broken(&full));
    (0..2).for_each(|_| serve(&circuit));
    assert!((0..10).all(|_| circuit.enter().is_ok()), "closed");
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_response_lasts_has_seen_enough() {
    let (circuit, _) = circuit(settings());
    let usual = circuit.enter().unwrap();
    assert!(usual.begun(Outcome::Served).is_some(), "it counts when it ends");
    (0..3).for_each(|_| fail(&circuit));
    time_open(&circuit).await;
    for _ in 0..2 {
        assert!(circuit.enter().unwrap().begun(Outcome::Served).is_none());
    }
    assert!((0..10).all(|_| circuit.enter().is_ok()), "closed");
}

#[tokio::test(start_paused = true)]
async fn it_opens_when_too_many_of_a_window_failed() {
    let settings = model::Circuit {
        consecutive_failures: 0,
        failure_percent: 50,
        min_requests: 20,
        window: Duration::from_secs(10),
        ..settings()
    };
    let (few, metrics) = circuit(settings.clone());
    (0..19).for_each(|_| fail(&few));
    assert_eq!(cell(&metrics, "seawall_circuit_openings_total"), 0, "too few to tell");
    advance(Duration::from_secs(12)).await;
    (0..19).for_each(|_| fail(&few));
    assert_eq!(cell(&metrics, "seawall_circuit_openings_total"), 0, "the others are forgotten");
    fail(&few);
    assert_eq!(cell(&metrics, "seawall_circuit_openings_total"), 1);

    let (mixed, metrics) = circuit(settings);
    for _ in 0..200 {
        (0..3).for_each(|_| serve(&mixed));
        (0..2).for_each(|_| fail(&mixed));
        advance(Duration::from_millis(333)).await;
    }
    assert_eq!(cell(&metrics, "seawall_circuit_openings_total"), 0, "two in five");
    for _ in 0..40 {
        if let Ok(passage) = mixed.enter() {
            passage.settle(Outcome::Broken(&crash()));
        }
        if let Ok(passage) = mixed.enter() {
            passage.settle(Outcome::Broken(&crash()));
        }
        advance(Duration::from_millis(333)).await;
    }
    assert!(cell(&metrics, "seawall_circuit_openings_total") >= 1, "nearly all");
}

#[tokio::test(start_paused = true)]
async fn an_apps_own_errors_open_it_only_where_that_is_configured() {
    for count_app_errors in [false, true] {
        let (circuit, metrics) = circuit(model::Circuit { count_app_errors, ..settings() });
        (0..3).for_each(|_| circuit.enter().unwrap().settle(Outcome::AppFailed));
        let openings = cell(&metrics, "seawall_circuit_openings_total");
        assert_eq!(openings, u64::from(count_app_errors));
    }
}

#[test]
fn many_threads_see_it_open_once_and_admit_no_probe_too_many() {
    let (circuit, metrics) = circuit(model::Circuit {
        open: Duration::from_millis(5),
        max: Duration::from_millis(5),
        ..settings()
    });
    // Of each generation: a thread that sleeps may still be at its probe when the next one begins.
    let probing = [const { AtomicU32::new(0) }; 256];
    let most = AtomicU32::new(0);
    let failing = || {
        while circuit.generation() < 20 {
            let Ok(passage) = circuit.enter() else {
                std::thread::yield_now();
                continue;
            };
            if passage.probe {
                let probing = &probing[usize::from(passage.generation)];
                most.fetch_max(probing.fetch_add(1, Relaxed) + 1, Relaxed);
                std::thread::yield_now();
                probing.fetch_sub(1, Relaxed);
            }
            passage.settle(Outcome::Broken(&crash()));
        }
    };
    std::thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(failing)));
    });
    let most = most.load(Relaxed);
    assert!((1..=2).contains(&most), "{most} probes at a time");
    let openings = cell(&metrics, "seawall_circuit_openings_total");
    let generations = u64::from(circuit.generation());
    assert_eq!(openings, generations, "each opening was counted once");
}

proptest! {
    #[test]
    fn a_state_survives_its_word(until in 0..State::UNTIL, rest in any::<[u8; 3]>()) {
        let [generation, in_flight, served] = rest;
        let state = State { until, generation, in_flight, served };
        prop_assert_eq!(State::unpack(state.pack()), state);
    }
}

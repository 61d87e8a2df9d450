use proptest::prelude::*;

use super::*;
use crate::config::model::{HashKey, Scheme};

fn endpoints(weights: &[u32]) -> Vec<Endpoint> {
    let endpoint = |(number, weight): (usize, &u32)| Endpoint {
        label: format!("http://10.0.0.{number}:80").into(),
        scheme: Scheme::Http,
        host: format!("10.0.0.{number}").into(),
        name: format!("10.0.0.{number}").into(),
        port: 80,
        weight: *weight,
    };
    weights.iter().enumerate().map(endpoint).collect()
}

fn plan(balance: &Balance, weights: &[u32]) -> Plan {
    Plan::new(balance, &endpoints(weights))
}

const HASH: Balance = Balance::Hash(HashKey::Address);

/// How many of so many requests each endpoint gets.
fn counts(plan: &Plan, requests: u64, share: impl Fn(usize) -> u32) -> Vec<usize> {
    let picker = Picker::new(0);
    let mut counts = vec![0; plan.weights.len()];
    for request in 0..requests {
        let key = key(&request.to_le_bytes());
        counts[picker.pick(plan, Some(key), &share, |_| 0).unwrap()] += 1;
    }
    counts
}

fn all(_: usize) -> u32 {
    FULL
}

#[test]
fn requests_go_round_by_weight_and_the_heavy_one_does_not_come_in_a_row() {
    let rows: [(&[u32], &[usize]); 4] = [
        (&[1, 1, 1], &[0, 1, 2]),
        (&[7, 7], &[0, 1]),
        (&[5, 1, 1], &[0, 0, 1, 0, 2, 0, 0]),
        (&[2, 4], &[1, 0, 1]),
    ];
    for (weights, expected) in rows {
        assert_eq!(schedule(weights), expected, "{weights:?}");
    }
}

#[test]
fn the_turns_of_one_that_is_out_go_to_all_others() {
    let plan = plan(&Balance::RoundRobin, &[1, 1, 1, 1]);
    let share = |endpoint| if endpoint == 1 { 0 } else { FULL };
    assert_eq!(counts(&plan, 300, share), [100, 0, 100, 100]);
}

#[test]
fn every_balance_follows_the_weights() {
    for balance in [Balance::RoundRobin, Balance::LeastRequest, HASH] {
        let counts = counts(&plan(&balance, &[1, 3]), 40_000, all);
        let heavy = counts[1] as f64 / 40_000.0;
        // Two draws of two endpoints are both of them: with nothing in flight the first counts.
        assert!((0.72..0.78).contains(&heavy), "{balance:?}: {counts:?}");
    }
}

#[test]
fn one_that_comes_back_gets_its_share_little_by_little() {
    for balance in [Balance::RoundRobin, Balance::LeastRequest, HASH] {
        let plan = plan(&balance, &[1, 1]);
        let mut before = 0;
        for share in [0, 26, 64, 128, 256] {
            let of = |endpoint| if endpoint == 1 { share } else { FULL };
            let gets = counts(&plan, 20_000, of)[1];
            assert!(gets > before || share == 0, "{balance:?}: {gets} with a share of {share}");
            before = gets;
        }
        assert!((9_500..10_500).contains(&before), "{balance:?}: {before}");
    }
}

#[test]
fn the_slow_one_of_two_is_left_alone_while_it_is_busy() {
    let plan = plan(&Balance::LeastRequest, &[1, 1]);
    let picker = Picker::new(0);
    let load = |endpoint: usize| if endpoint == 0 { 3 } else { 2 };
    assert!((0..1000).all(|_| picker.pick(&plan, None, all, load) == Some(1)));
    // Twice the weight takes twice the load.
    let plan = self::plan(&Balance::LeastRequest, &[2, 1]);
    let load = |endpoint: usize| if endpoint == 0 { 3 } else { 2 };
    assert!((0..1000).all(|_| picker.pick(&plan, None, all, load) == Some(0)));
}

#[test]
fn keys_spread_evenly() {
    let counts = counts(&plan(&HASH, &[1; 7]), 70_000, all);
    assert!(counts.iter().all(|count| (9_400..10_600).contains(count)), "{counts:?}");
}

#[test]
fn the_table_does_not_depend_on_the_order_of_endpoints() {
    let names = ["a", "b", "c"];
    let table = maglev(&names, &[1, 2, 3]);
    let turned = maglev(&["c", "a", "b"], &[3, 1, 2]);
    let name = |table: &[u16], names: [&'static str; 3], place: usize| names[table[place] as usize];
    for place in 0..TABLE {
        assert_eq!(name(&table, names, place), name(&turned, ["c", "a", "b"], place));
    }
}

#[test]
fn a_new_endpoint_takes_its_part_and_few_keys_move_between_the_others() {
    let (before, after) = (plan(&HASH, &[1; 9]), plan(&HASH, &[1; 10]));
    let moved = (0..10_000_u64).filter(|request| {
        let key = key(&request.to_le_bytes());
        let old = Picker::by_key(&before, key, &all).unwrap();
        let new = Picker::by_key(&after, key, &all).unwrap();
        old != new && new != 9
    });
    assert!(moved.count() < 300);
}

proptest! {
    // Each case fills a table, which takes a debug build a moment.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn only_endpoints_with_a_share_are_picked_and_one_is_whenever_there_is_one(
        weights in proptest::collection::vec(1_u32..20, 1..8),
        shares in proptest::collection::vec(0_u32..=FULL, 8),
        loads in proptest::collection::vec(0_usize..50, 8),
        kind in 0..3,
        key in any::<Option<u64>>(),
        worker in any::<usize>(),
    ) {
        let balance = match kind { 0 => Balance::RoundRobin, 1 => Balance::LeastRequest, _ => HASH };
        let plan = plan(&balance, &weights);
        let picked = Picker::new(worker).pick(&plan, key, |at| shares[at], |at| loads[at]);
        match picked {
            Some(endpoint) => prop_assert!(shares[endpoint] > 0),
            None => prop_assert!(shares[..weights.len()].iter().all(|share| *share == 0)),
        }
    }

    #[test]
    fn when_an_endpoint_goes_out_only_its_own_keys_move(
        count in 2_usize..8, out in 0_usize..8, keys in proptest::collection::vec(any::<u64>(), 50),
    ) {
        let plan = plan(&HASH, &vec![1; count]);
        let picker = Picker::new(0);
        for key in keys {
            let before = picker.pick(&plan, Some(key), all, |_| 0).unwrap();
            let share = |endpoint| if endpoint == out % count { 0 } else { FULL };
            let after = picker.pick(&plan, Some(key), share, |_| 0).unwrap();
            prop_assert!(before == after || before == out % count);
        }
    }
}

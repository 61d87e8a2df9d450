//! Which endpoint a request goes to. Pure: no clock, no lock, no allocation for a request.
//!
//! | balance | a request goes to |
//! | --- | --- |
//! | round robin | the next entry of a schedule in which each endpoint stands as often as it weighs |
//! | least request | of two entries drawn from that schedule, the one with less in flight |
//! | hash | the entry of its key in a Maglev table (Eisenbud et al., 2016); round robin without a key |
//!
//! Each endpoint has a share: nothing if it is out, [`FULL`] if it is well, something between while
//! it comes back. When an endpoint goes out, hash moves its keys only, and spreads them.

use std::cell::Cell;

use crate::config::model::{Balance, Endpoint};

/// The share of an endpoint that is well.
pub const FULL: u32 = 256;

/// Entries of a Maglev table: a prime, much larger than any list of endpoints, so that shares are
/// even to a percent.
const TABLE: usize = 65_537;

/// How often fortune is tried before all endpoints are looked through.
const TRIES: u64 = 8;

/// How an upstream's requests are spread: made once, read by all workers.
#[derive(Debug)]
pub struct Plan {
    weights: Vec<u32>,
    /// Endpoints, each as often as it weighs, evenly mixed.
    schedule: Vec<usize>,
    table: Vec<u16>,
    least_request: bool,
}

impl Plan {
    /// The plan for these endpoints.
    #[must_use]
    pub fn new(balance: &Balance, endpoints: &[Endpoint]) -> Self {
        let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight.max(1)).collect();
        let table = match balance {
            Balance::Hash(_) => {
                let names: Vec<_> = endpoints.iter().map(|endpoint| &*endpoint.label).collect();
                maglev(&names, &weights)
            }
            Balance::RoundRobin | Balance::LeastRequest => Vec::new(),
        };
        Plan {
            schedule: schedule(&weights),
            weights,
            table,
            least_request: *balance == Balance::LeastRequest,
        }
    }

    fn weight(&self, endpoint: usize) -> u32 {
        self.weights.get(endpoint).copied().unwrap_or(1)
    }
}

/// One worker's place in the schedule, and its dice.
#[derive(Debug)]
pub struct Picker {
    turn: Cell<usize>,
    random: Cell<u64>,
}

impl Picker {
    /// A picker for the worker with this number; workers begin at different endpoints.
    #[must_use]
    pub fn new(worker: usize) -> Self {
        Picker { turn: Cell::new(worker), random: Cell::new(worker as u64) }
    }

    /// An endpoint with a share; `None` if none has any. `load` is how much an endpoint has in
    /// flight.
    pub fn pick(
        &self,
        plan: &Plan,
        key: Option<u64>,
        share: impl Fn(usize) -> u32,
        load: impl Fn(usize) -> usize,
    ) -> Option<usize> {
        let found = match key {
            Some(key) if !plan.table.is_empty() => Self::by_key(plan, key, &share),
            _ if plan.least_request => self.by_load(plan, &share, load),
            _ => self.by_turn(plan, &share),
        };
        // Whoever has the smallest share is still better than nobody.
        found.or_else(|| (0..plan.weights.len()).find(|endpoint| share(*endpoint) > 0))
    }

    fn by_turn(&self, plan: &Plan, share: &impl Fn(usize) -> u32) -> Option<usize> {
        let length = plan.schedule.len();
        (0..2 * length).find_map(|_| {
            let turn = self.turn.get();
            // Whoever is out gives its turn away for good: the next one would get two otherwise.
            self.turn.set(turn.wrapping_add(1));
            let endpoint = *plan.schedule.get(turn % length)?;
            self.is_lucky(share(endpoint)).then_some(endpoint)
        })
    }

    fn by_load(
        &self,
        plan: &Plan,
        share: &impl Fn(usize) -> u32,
        load: impl Fn(usize) -> usize,
    ) -> Option<usize> {
        let first = self.draw(plan, share, None)?;
        let Some(second) = self.draw(plan, share, Some(first)) else { return Some(first) };
        let room = |endpoint| u64::from(plan.weight(endpoint)) * u64::from(share(endpoint));
        let busy = |endpoint| load(endpoint) as u64;
        // Less in flight for its weight; of two idle ones the first, which was drawn by weight.
        let second_is_freer = busy(second) * room(first) < busy(first) * room(second);
        Some(if second_is_freer { second } else { first })
    }

    /// Draws an endpoint by weight and share, another one than `not`.
    fn draw(
        &self,
        plan: &Plan,
        share: &impl Fn(usize) -> u32,
        not: Option<usize>,
    ) -> Option<usize> {
        let drawn = (0..TRIES).find_map(|_| {
            let endpoint = *at(&plan.schedule, self.roll())?;
            let fits = Some(endpoint) != not && self.is_lucky(share(endpoint));
            fits.then_some(endpoint)
        });
        drawn.or_else(|| {
            let count = plan.weights.len();
            let from = usize::try_from(self.roll() >> 32).unwrap_or_default();
            (0..count)
                .map(|step| (from + step) % count)
                .find(|endpoint| Some(*endpoint) != not && share(*endpoint) > 0)
        })
    }

    fn by_key(plan: &Plan, key: u64, share: &impl Fn(usize) -> u32) -> Option<usize> {
        (0..TRIES).find_map(|again| {
            // Another place of the table for each try: the keys of who is out spread over all.
            let place = mix(key.wrapping_add(again));
            let endpoint = usize::from(*at(&plan.table, place)?);
            // The same keys come back first each time.
            let threshold = mix(place ^ endpoint as u64) % u64::from(FULL);
            (threshold < u64::from(share(endpoint))).then_some(endpoint)
        })
    }

    fn is_lucky(&self, share: u32) -> bool {
        share >= FULL || (share > 0 && self.roll() % u64::from(FULL) < u64::from(share))
    }

    /// SplitMix64: not for secrets.
    fn roll(&self) -> u64 {
        self.random.set(self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        mix(self.random.get())
    }
}

fn at<T>(list: &[T], number: u64) -> Option<&T> {
    let place = number.checked_rem(list.len() as u64)?;
    list.get(usize::try_from(place).ok()?)
}

/// The key of these bytes: the same in every process, so that several seawalls agree. (FNV-1a.)
#[must_use]
pub fn key(bytes: &[u8]) -> u64 {
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, add))
}

/// The finalizer of SplitMix64.
fn mix(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Endpoints as often as they weigh, those of a heavy one far apart (nginx's smooth weighted round
/// robin, one round of it).
fn schedule(weights: &[u32]) -> Vec<usize> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let weights: Vec<i64> = weights.iter().map(|weight| i64::from(weight / divisor)).collect();
    let total: i64 = weights.iter().sum();
    let mut credit = vec![0; weights.len()];
    let mut round = Vec::new();
    for _ in 0..total {
        let mut best = (0, i64::MIN);
        for (endpoint, (credit, weight)) in credit.iter_mut().zip(&weights).enumerate() {
            *credit += weight;
            if *credit > best.1 {
                best = (endpoint, *credit);
            }
        }
        if let Some(credit) = credit.get_mut(best.0) {
            *credit -= total;
        }
        round.push(best.0);
    }
    round
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The table: each endpoint in turn takes the next free place of its own permutation, as many at a
/// time as it weighs. It depends on the names, not on their order.
fn maglev(names: &[&str], weights: &[u32]) -> Vec<u16> {
    let size = TABLE as u64;
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let mut order: Vec<_> = names.iter().zip(weights).enumerate().collect();
    order.sort_by_key(|(_, (name, _))| **name);
    let mut walks: Vec<_> = order
        .into_iter()
        .filter_map(|(endpoint, (name, weight))| {
            let hash = key(name.as_bytes());
            let skip = mix(hash) % (size - 1) + 1;
            Some((u16::try_from(endpoint).ok()?, weight / divisor, hash % size, skip))
        })
        .collect();
    let mut table: Vec<Option<u16>> = vec![None; TABLE];
    let mut left = if walks.is_empty() { 0 } else { TABLE };
    while left > 0 {
        for (endpoint, weight, place, skip) in &mut walks {
            for _ in 0..*weight {
                // A permutation of a prime number of places meets every free one.
                while left > 0 {
                    let found = usize::try_from(*place).ok().and_then(|at| table.get_mut(at));
                    *place = (*place + *skip) % size;
                    if let Some(free @ None) = found {
                        *free = Some(*endpoint);
                        left -= 1;
                        break;
                    }
                }
            }
        }
    }
    table.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;

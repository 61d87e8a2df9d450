//! The retry budget: retries are a share of requests, so that an upstream that fails is not buried
//! under twice its load.
//!
//! One bucket per worker and upstream. Every request puts its share in, every retry takes a whole
//! one out. The bucket starts with a reserve, and never holds more than it or less than nothing: a
//! quiet upstream may retry the few requests it has, a busy one at most its percentage of them. From
//! a retry that failed until a request succeeds, nothing is put in: where all of them fail, retries
//! would help nobody and only be more to fail at.

use std::cell::Cell;

/// A whole retry, in hundredths.
const RETRY: u32 = 100;
/// Retries that are there without any request before them.
const RESERVE: u32 = 10 * RETRY;

/// What may be spent on retries.
#[derive(Debug)]
pub struct Budget {
    percent: u32,
    balance: Cell<u32>,
    /// A retry has failed, and no request has succeeded since.
    in_vain: Cell<bool>,
}

impl Budget {
    /// A budget of so many retries per hundred requests; 0 is no retry at all.
    #[must_use]
    pub fn new(percent: u32) -> Self {
        let reserve = if percent == 0 { 0 } else { RESERVE };
        Budget { percent, balance: Cell::new(reserve), in_vain: Cell::new(false) }
    }

    /// A request came.
    pub fn deposit(&self) {
        if !self.in_vain.get() {
            self.balance.set((self.balance.get() + self.percent).min(RESERVE));
        }
    }

    /// A request was answered.
    pub fn succeeded(&self) {
        self.in_vain.set(false);
    }

    /// A request failed after it had been sent again.
    pub fn failed_again(&self) {
        self.in_vain.set(true);
    }

    /// Takes one retry out; false if there is none.
    #[must_use]
    pub fn withdraw(&self) -> bool {
        match self.balance.get().checked_sub(RETRY) {
            Some(rest) => {
                self.balance.set(rest);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_requests_beyond_the_reserve() {
        let budget = Budget::new(20);
        let retried = (0..1000).filter(|_| {
            budget.deposit();
            budget.withdraw()
        });
        // 200 of their own, and the reserve.
        assert_eq!(retried.count(), 209);
    }

    #[test]
    fn where_all_fail_nothing_is_put_in_until_one_succeeds() {
        let budget = Budget::new(20);
        let retried = || {
            (0..100)
                .filter(|_| {
                    budget.deposit();
                    budget.withdraw()
                })
                .count()
        };
        budget.failed_again();
        assert_eq!(retried(), 10, "the reserve");
        assert_eq!(retried(), 0);
        budget.succeeded();
        assert_eq!(retried(), 20);
    }

    #[test]
    fn quiet_times_do_not_add_up() {
        let budget = Budget::new(100);
        (0..1000).for_each(|_| budget.deposit());
        assert_eq!((0..1000).filter(|_| budget.withdraw()).count(), 10);
    }

    #[test]
    fn nothing_percent_is_no_retry() {
        let budget = Budget::new(0);
        budget.deposit();
        assert!(!budget.withdraw());
    }
}

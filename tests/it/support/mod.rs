//! What every test stands on.

pub mod client;
pub mod dns;
pub mod http2;
pub mod log;
pub mod script;
pub mod seawall;
pub mod websocket;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Longer than anything that a test waits for: only a test that fails waits so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How many rows of a table are checked at a time: most of them wait.
const ROWS: usize = 8;

/// Checks every row, so that one that fails does not hide the others.
pub fn every<T: Sync>(rows: &[T], name: impl Fn(&T) -> String + Sync, check: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..ROWS {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if catch_unwind(AssertUnwindSafe(|| check(row))).is_err() {
                        wrong.lock().unwrap().push(name(row));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "see above: {wrong:#?}");
}

/// What an upstream says that no client may ever read.
pub const SECRET: &str = "hunter2";

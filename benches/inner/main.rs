//! The inner parts of seawall, without a socket: what each step of a request, a failure or a
//! WebSocket message costs, and what it allocates.
//!
//! `cargo bench` runs all of it in well under a minute; `cargo bench -- fields` a part. A number here
//! is for finding out whether a change made a step dearer; whether that matters is told by
//! `benches/peers/run.py`. Allocations are exact, times are not: compare the fastest.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench that cannot run shall say so")]

mod failure;
mod fields;
mod frame;
mod metrics;
mod route;

// What a healthy request allocates is a number that should be seen to change.
#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    // As long as it takes for the fastest to be found, for each; `--min-time` changes it.
    let least = std::time::Duration::from_millis(200);
    divan::Divan::default().min_time(least).config_with_args().main();
}

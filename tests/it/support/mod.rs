//! What every test stands on.

pub mod client;
pub mod http2;
pub mod log;
pub mod script;
pub mod seawall;
pub mod websocket;

use std::time::Duration;

/// Longer than anything that a test waits for: only a test that fails waits so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What an upstream says that no client may ever read.
pub const SECRET: &str = "hunter2";

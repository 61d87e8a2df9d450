//! When the file is read again.

use std::time::Duration;

/// When a changed file is noticed.
#[derive(Clone, Debug, PartialEq)]
pub struct Reload {
    /// The file is watched; else only SIGHUP makes seawall read it. Default on.
    pub watch: bool,
    /// How often the file is looked at. Default 1 s.
    pub interval: Duration,
}

impl Default for Reload {
    fn default() -> Self {
        Reload { watch: true, interval: Duration::from_secs(1) }
    }
}

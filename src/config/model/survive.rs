//! How an upstream chooses among its endpoints, and which of them it leaves out.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use regex::bytes::Regex;

/// How requests are spread over endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// In turn, by weight (the default).
    #[default]
    RoundRobin,
    /// The one with fewer requests in flight of two that are drawn.
    LeastRequest,
    /// Requests with the same key go to the same endpoint.
    Hash(HashKey),
}

/// What a request's key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The value of a field.
    Field(HeaderName),
    /// The value of a cookie.
    Cookie(Arc<str>),
    /// The client's address.
    Address,
}

/// When an endpoint that fails is left out for a while.
#[derive(Clone, Debug)]
pub struct Ejection {
    /// After so many failures in a row; 0 is never. Default 5.
    pub consecutive_failures: u32,
    /// For how long at first; doubled each time it fails right away again. Default 5 s.
    pub base: Duration,
    /// For how long at most. Default 300 s.
    pub max: Duration,
    /// Percent of the endpoints that may be out; beyond it the others are tried all the same.
    /// Default 50.
    pub max_percent: u32,
    /// What the app says of itself (5xx) counts as a failure of its endpoint. Default off.
    pub count_app_errors: bool,
}

impl Default for Ejection {
    fn default() -> Self {
        Ejection {
            consecutive_failures: 5,
            base: Duration::from_secs(5),
            max: Duration::from_secs(300),
            max_percent: 50,
            count_app_errors: false,
        }
    }
}

/// How each endpoint is checked.
#[derive(Clone, Debug)]
pub struct Health {
    /// What is asked.
    pub probe: Probe,
    /// From one check to the next, give or take a tenth. Default 5 s.
    pub interval: Duration,
    /// How long a check may take in all. Default 1 s.
    pub timeout: Duration,
    /// So many passed checks in a row bring an endpoint back. Default 2.
    pub healthy: u32,
    /// So many failed checks in a row take an endpoint out. Default 3.
    pub unhealthy: u32,
    /// Whether endpoints get requests before their first check. Default on.
    pub initially_up: bool,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            probe: Probe::Tcp,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            healthy: 2,
            unhealthy: 3,
            initially_up: true,
        }
    }
}

/// What a health check asks.
#[derive(Clone, Debug)]
pub enum Probe {
    /// Whether a connection can be opened, TLS included.
    Tcp,
    /// Whether a GET is answered well.
    Http {
        /// The request's target.
        path: Arc<str>,
        /// Ranges of good statuses, both ends included.
        statuses: Vec<(u16, u16)>,
        /// What the first 64 KiB of the content match.
        body: Option<Regex>,
    },
}

impl Probe {
    /// The good statuses if none are set.
    pub const STATUSES: (u16, u16) = (200, 399);
}

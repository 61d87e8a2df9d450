//! How an upstream chooses among its endpoints, and which of them it leaves out.

use std::sync::Arc;
use std::time::Duration;

use crate::failure::pattern::Pattern;
use http::HeaderName;

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
#[derive(Clone, Debug, PartialEq)]
pub struct Ejection {
    /// After so many failures in a row; 0 is never. Default 5.
    pub consecutive_failures: u32,
    /// When so many percent of its requests of a window failed; 0 is never (the default).
    pub failure_percent: u32,
    /// A window with fewer requests says nothing. Default 20.
    pub min_requests: u32,
    /// How far back the window reaches. Default 10 s.
    pub window: Duration,
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
            failure_percent: 0,
            min_requests: 20,
            window: Duration::from_secs(10),
            base: Duration::from_secs(5),
            max: Duration::from_secs(300),
            max_percent: 50,
            count_app_errors: false,
        }
    }
}

/// When an upstream that fails is left alone for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Circuit {
    /// After so many failed requests in a row; 0 is never. Default 10.
    pub consecutive_failures: u32,
    /// When so many percent of the requests of a window failed; 0 is never. Default 50.
    pub failure_percent: u32,
    /// A window with fewer requests says nothing. Default 20.
    pub min_requests: u32,
    /// How far back the window reaches. Default 10 s.
    pub window: Duration,
    /// For how long at first; doubled each time it fails right away again. Default 5 s.
    pub open: Duration,
    /// For how long at most. Default 60 s.
    pub max: Duration,
    /// After that time so many requests at most are under way at once, and so many have to be
    /// served, before all are let through again: 1 to 100. Default 3.
    pub probes: u32,
    /// What the app says of itself (5xx) counts as a failure. Default off.
    pub count_app_errors: bool,
}

impl Default for Circuit {
    fn default() -> Self {
        Circuit {
            consecutive_failures: 10,
            failure_percent: 50,
            min_requests: 20,
            window: Duration::from_secs(10),
            open: Duration::from_secs(5),
            max: Duration::from_secs(60),
            probes: 3,
            count_app_errors: false,
        }
    }
}

/// How many requests an upstream gets at a time, as it turns out that it can take.
#[derive(Clone, Debug, PartialEq)]
pub struct Concurrency {
    /// Nine in ten response heads come in less. Default 1 s.
    pub target: Duration,
    /// Never less: at least 1. Default 8.
    pub min: usize,
    /// Never more; where it begins. Default 1000.
    pub max: usize,
}

impl Default for Concurrency {
    fn default() -> Self {
        Concurrency { target: Duration::from_secs(1), min: 8, max: 1000 }
    }
}

/// How each endpoint is checked.
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Debug, PartialEq)]
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
        body: Option<Pattern>,
    },
    /// Whether `grpc.health.v1.Health/Check` says SERVING.
    Grpc {
        /// Of which service; empty is the server as a whole.
        service: Arc<str>,
    },
    /// Whether a WebSocket can be opened.
    WebSocket {
        /// The target of the handshake.
        path: Arc<str>,
    },
}

impl Probe {
    /// The good statuses if none are set.
    pub const STATUSES: (u16, u16) = (200, 399);
}

//! `/status.json`: what the admin page shows, in one answer. Names, counters and states only; what
//! was said in a failure is in the journal, and settings are in `/config`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Admin;
use crate::failure::Kind;
use crate::upstream::Shared;

/// Everything as it is now.
pub fn describe(admin: &Admin) -> Value {
    let reading = admin.metrics.reading();
    let (history, now) = {
        let history = admin.state.history();
        (history.describe(&reading), history.now(&reading))
    };
    let websockets = admin.metrics.websockets_open();
    let circuits = admin.metrics.circuits();
    let loaded = admin.state.loaded();
    let upstreams = loaded.upstreams.iter().map(|upstream| {
        let name = &*upstream.settings.name;
        json!({
            "name": name,
            "websockets": websockets.get(name).copied().unwrap_or_default(),
            "circuit": match (&upstream.settings.circuit, circuits.get(name)) {
                (None, _) => "none",
                (_, Some(1)) => "half-open",
                (_, Some(2)) => "open",
                _ => "closed",
            },
            "endpoints": endpoints(upstream),
        })
    });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "time_ms": time_ms(),
        "readiness": admin.state.readiness(),
        "now": now,
        "upstreams": upstreams.collect::<Vec<_>>(),
        "journal": { "next": admin.journal.next() },
        "history": history,
        "kinds": Kind::ALL.iter().map(|kind| meaning(*kind)).collect::<serde_json::Map<_, _>>(),
    })
}

fn endpoints(upstream: &Shared) -> Value {
    let set = upstream.current();
    let members = set.members.iter().enumerate();
    let endpoints = members.map(|(at, member)| {
        let checks = match (&upstream.settings.health, member.standing.is_down()) {
            (None, _) => "none",
            (Some(_), false) => "passing",
            (Some(_), true) => "failing",
        };
        json!({
            "endpoint": &**member.label(),
            "state": set.roster.state(at),
            "checks": checks,
        })
    });
    endpoints.collect()
}

fn meaning(kind: Kind) -> (String, Value) {
    (kind.name().to_owned(), kind.description().into())
}

fn time_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

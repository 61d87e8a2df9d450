//! `/endpoints`: who gets requests, and an operator's way to take an endpoint out and in again.
//!
//! Draining: no new requests, requests that run finish, WebSockets are closed with 1012 one after the
//! other, idle connections are closed. No failure is counted. Asking twice gives the same answer.
//! It lasts until the endpoint is restored, through reloads, DNS and takeovers; a restart forgets it.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use crate::upstream::Shared;

/// All endpoints of all upstreams.
pub fn list(upstreams: &[Arc<Shared>]) -> Value {
    let endpoints = upstreams.iter().flat_map(|upstream| {
        let set = upstream.current();
        let members = set.members.iter().enumerate();
        let there =
            members.map(|(at, member)| describe(upstream, member.label(), set.roster.state(at)));
        // DNS does not name them at the moment. They stay drained when they come back.
        let drained = upstream.drained();
        let gone = drained.iter().filter(|label| set.find(label).is_none());
        there.chain(gone.map(|label| describe(upstream, label, "drained"))).collect::<Vec<_>>()
    });
    endpoints.collect()
}

fn describe(upstream: &Shared, endpoint: &str, state: &str) -> Value {
    json!({ "upstream": &*upstream.settings.name, "endpoint": endpoint, "state": state })
}

/// Drains or restores the endpoint that the query names, `upstream=…&endpoint=…`.
///
/// # Errors
/// What is wrong with the query, for the operator.
pub fn set_drained(
    upstreams: &[Arc<Shared>],
    query: &str,
    drained: bool,
) -> Result<Value, (StatusCode, &'static str)> {
    let (mut upstream, mut endpoint) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("upstream", name)) => upstream = Some(name),
            Some(("endpoint", label)) => endpoint = Some(unescaped(label)),
            _ => return Err((StatusCode::BAD_REQUEST, "known parameters: upstream, endpoint\n")),
        }
    }
    let (Some(upstream), Some(endpoint)) = (upstream, endpoint) else {
        return Err((StatusCode::BAD_REQUEST, "name an upstream and an endpoint\n"));
    };
    let known = upstreams.iter().find(|known| &*known.settings.name == upstream);
    let Some(known) = known else { return Err((StatusCode::NOT_FOUND, "no such upstream\n")) };
    match known.set_drained(&endpoint, drained) {
        Some(state) => Ok(describe(known, &endpoint, state)),
        None => Err((StatusCode::NOT_FOUND, "no such endpoint; GET /endpoints lists them\n")),
    }
}

/// The labels of endpoints and the ids of requests have colons and slashes and the like, which some
/// clients escape.
pub fn unescaped(text: &str) -> String {
    let pairs = [
        ("%3A", ":"),
        ("%3a", ":"),
        ("%2F", "/"),
        ("%2f", "/"),
        ("%5B", "["),
        ("%5b", "["),
        ("%5D", "]"),
        ("%5d", "]"),
        ("%3D", "="),
        ("%3d", "="),
        ("%2B", "+"),
        ("%2b", "+"),
        ("%40", "@"),
    ];
    pairs.iter().fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

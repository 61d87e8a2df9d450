//! What a request says about being sent: which endpoint it belongs to, and if it may be sent twice.

use std::net::IpAddr;

use http::{HeaderName, Method};

use super::Route;
use super::head::{Head, Known};
use super::request as rewrite;
use super::retry::Outgoing;
use crate::config::model::{Balance, HashKey};
use crate::upstream::balance;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Returns what the request has in common with others that go to the same endpoint.
pub(super) fn key(route: &Route, outgoing: &Outgoing<'_>) -> Option<u64> {
    let Balance::Hash(key) = &route.upstream.settings().balance else { return None };
    let fields = &outgoing.head.fields;
    match key {
        HashKey::Field(name) => fields.named(name).next().map(|field| balance::key(field.value)),
        HashKey::Cookie(name) => {
            let cookies = fields.all(Known::Cookie);
            let mut pairs = cookies.flat_map(|value| value.split(|b| *b == b';'));
            pairs.find_map(|pair| {
                let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
                Some(balance::key(value))
            })
        }
        HashKey::Address => {
            let peer = outgoing.extra.peer;
            match rewrite::told_address(fields, peer) {
                Some(address) => Some(balance::key(address)),
                None => Some(match peer.address {
                    IpAddr::V4(address) => balance::key(&address.octets()),
                    IpAddr::V6(address) => balance::key(&address.octets()),
                }),
            }
        }
    }
}

/// Returns `true` if the request may be processed twice (RFC 9110 §9.2.2).
pub(super) fn is_idempotent(head: &Head, by_key: bool) -> bool {
    matches!(
        head.method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    ) || (by_key && head.fields.named(&IDEMPOTENCY_KEY).next().is_some())
}

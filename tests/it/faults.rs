//! P1, P2, P4, P5: every way an upstream can fail, and the one complete answer it becomes.
//!
//! A table of stories; each is told to a client of each protocol, and everything is asserted
//! together: the bytes that the client got, the kind in `Proxy-Status`, metric, log and journal,
//! that nothing of the upstream leaks, and that the next request is served.

use std::collections::BTreeSet;

use seawall::failure::{Kind, Outcome, Phase};
use serde_json::Value;

use crate::support::client::{Client, End, Request, Seen, Version};
use crate::support::script::{Script, Upstream, WELL};
use crate::support::seawall::{Seawall, Told};
use crate::support::{SECRET, every};

mod http2;
mod table;

/// A fault and what becomes of it.
pub struct Fault {
    /// What happens, as a claim's subject.
    pub name: &'static str,
    /// Who is asked.
    pub upstream: Box<dyn Fn() -> Stage + Send + Sync>,
    /// What is asked.
    pub request: Request,
    /// What the failure is called.
    pub kind: Kind,
    /// Where it happens.
    pub phase: Phase,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// An upstream and a seawall before it.
pub struct Stage {
    /// The scripted upstream.
    pub upstream: Upstream,
    /// The seawall.
    pub seawall: Seawall,
    /// Whether the upstream is well afterwards.
    pub recovers: bool,
    /// What keeps the stage as it is.
    pub _props: Box<dyn std::any::Any>,
}

impl Stage {
    /// The first connection plays the script, the others are well.
    pub fn playing(script: Script, settings: &str) -> Self {
        let upstream = Upstream::playing([script]);
        let seawall = Seawall::before_with(&upstream, settings);
        Stage { upstream, seawall, recovers: true, _props: Box::new(()) }
    }
}

fn tell(fault: &Fault, version: Version) {
    let name = format!("{} over {version:?}", fault.name);
    let stage = (fault.upstream)();
    let mut client = Client::connect(version, stage.seawall.address());
    let seen = client.exchange(&fault.request, stage.upstream.gate());
    match fault.outcome {
        Outcome::Normalized => normalized(&name, fault, &stage, &seen),
        Outcome::Aborted => aborted(&name, version, &seen),
        Outcome::Recovered | Outcome::Passed => panic!("{name}: not in this table"),
    }
    let everything = seen.everything();
    let port = stage.upstream.address().port().to_string();
    for word in [SECRET, "127.0.0.1", "Traceback", &*port] {
        assert!(!everything.contains(word), "{name}: {word} leaked: {everything}");
    }
    let id = seen.field("x-request-id").unwrap_or_else(|| panic!("{name}: no request id"));
    let (kind, phase, outcome) = (fault.kind, fault.phase, fault.outcome);
    let entry =
        stage.seawall.told_once(&name, id, &Told { kind, phase, outcome, protocol: "http" });
    assert_eq!(entry["status"], seen.status, "{name}");

    // The next request is served: by the same connection, unless the response was cut off or much
    // of the request was left unread. That is announced.
    let announced = seen.field("connection") == Some("close");
    let unread = fault.request.content.len() > 65_536;
    assert!(unread || !announced, "{name}: gives up the connection: {seen:?}");
    let aborted = fault.outcome == Outcome::Aborted && version == Version::Http1;
    if aborted || announced {
        client = Client::connect(version, stage.seawall.address());
    }
    let next = client.exchange(&Request::get(), stage.upstream.gate());
    let expected = if stage.recovers { 200 } else { 500 };
    assert_eq!((next.status, next.end), (expected, End::Complete), "{name}: the next: {next:?}");
    if stage.recovers {
        assert_eq!(next.text(), WELL, "{name}: the next");
    }
}

fn normalized(name: &str, fault: &Fault, stage: &Stage, seen: &Seen) {
    assert_eq!((seen.status, seen.end), (500, End::Complete), "{name}: {seen:?}");
    let status = seen.field("proxy-status").unwrap_or_default();
    let mut parameters = status.split(';').map(str::trim);
    assert_eq!(parameters.next(), Some("seawall"), "{name}: {status}");
    let error = parameters.find_map(|parameter| parameter.strip_prefix("error="));
    assert_eq!(error, Some(fault.kind.name()), "{name}: {status}");
    assert_eq!(seen.field("cache-control"), Some("no-store"), "{name}");
    assert_eq!(seen.field("content-type"), Some("application/problem+json"), "{name}");
    let id = seen.field("x-request-id").unwrap();
    let problem: Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(problem["status"], 500, "{name}");
    assert!(problem["instance"].as_str().unwrap().contains(id), "{name}: {problem}");
    for member in ["type", "title"] {
        assert!(problem[member].is_string(), "{name}: {problem}");
    }
    let statuses = stage.seawall.cells("seawall_requests_total");
    assert_eq!(statuses.len(), 1, "{name}: {statuses:?}");
    assert!(statuses[0].contains("status=\"500\""), "{name}: {statuses:?}");
}

fn aborted(name: &str, version: Version, seen: &Seen) {
    assert_eq!(seen.status, 200, "{name}: {seen:?}");
    match version {
        Version::Http1 => assert_ne!(seen.end, End::Complete, "{name} looks whole"),
        Version::Http2 => assert!(
            // INTERNAL_ERROR: anything else would say more than is true, REFUSED_STREAM most of all.
            seen.end == End::StreamReset(2),
            "{name}: {:?}",
            seen.end
        ),
    }
}

/// Tells every row, so that one that fails does not hide the others.
fn tell_all(faults: &[Fault], version: Version) {
    every(faults, |fault| fault.name.to_owned(), |fault| tell(fault, version));
}

#[test]
fn every_fault_becomes_one_clean_answer_over_http_1() {
    tell_all(&table::faults(), Version::Http1);
}

#[test]
fn every_fault_becomes_one_clean_answer_over_http_2() {
    tell_all(&table::faults(), Version::Http2);
}

#[test]
fn every_fault_of_an_http_2_upstream_becomes_one_clean_answer_over_http_1() {
    tell_all(&http2::faults(), Version::Http1);
}

#[test]
fn every_fault_of_an_http_2_upstream_becomes_one_clean_answer_over_http_2() {
    tell_all(&http2::faults(), Version::Http2);
}

/// Kinds that no single HTTP/1.1 upstream can be scripted to produce, and where they are tested.
const ELSEWHERE: &[(Kind, &str)] = &[
    (Kind::DnsTimeout, "failure::phase: what a timeout is called in each phase"),
    (Kind::DestinationUnavailable, "needs health checks and ejection"),
    (Kind::DestinationIpUnroutable, "failure::classify: needs a machine without a route"),
    (Kind::ConnectionLimitReached, "limits: a full upstream"),
    (Kind::HttpUpgradeFailed, "websocket: the handshake table"),
    (Kind::WebsocketProtocolError, "websocket: the fault table"),
    (Kind::ProxyInternalError, "our own fault: nobody knows how to cause it"),
    (Kind::ProxyConfigurationError, "routes: a request that no route takes"),
    (Kind::ProxyLoopDetected, "loops: a client's, never an upstream's"),
];

#[test]
fn every_kind_has_a_story() {
    let told: BTreeSet<Kind> = table::faults().iter().map(|fault| fault.kind).collect();
    let elsewhere: BTreeSet<Kind> = ELSEWHERE.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(told.intersection(&elsewhere).collect::<Vec<_>>(), Vec::<&Kind>::new());
    let known: BTreeSet<Kind> = told.union(&elsewhere).copied().collect();
    let all: BTreeSet<Kind> = Kind::ALL.iter().copied().collect();
    assert_eq!(known, all);
}

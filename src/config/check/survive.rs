//! How an upstream chooses among its endpoints and when it is left alone: balance, ejection,
//! health checks, circuit, concurrency.

use super::super::diagnostic::Problem;
use super::super::model::{
    Balance, Circuit, Concurrency, Ejection, HashKey, Health, Probe, Upstream, UpstreamProtocol,
};
use super::super::scope::{Found, Scope};
use super::{failures, to_usize, wrong};

pub(super) fn balance(upstream: &Scope<'_>) -> Balance {
    let meaning = "How requests are spread: in turn, to the one of two endpoints with less in flight, or by a key (`hash`).";
    let words = &["round_robin", "least_request", "hash"];
    let word = upstream.word("balance", words, 0, meaning);
    let key = hash_key(upstream);
    match (word, key) {
        (0, None) => Balance::RoundRobin,
        (1, None) => Balance::LeastRequest,
        (2, Some(key)) => Balance::Hash(key),
        _ if upstream.is_describing() => Balance::default(),
        (2, None) => {
            let message = "`balance: hash` needs a key";
            let remedy = "write hash: { field: NAME }, { cookie: NAME } or { address: true }";
            upstream.problem(Problem::new(upstream.span(), message).remedy(remedy));
            Balance::default()
        }
        _ => {
            let message = "`hash` is set, and `balance` is not hash";
            let remedy = "write balance: hash, or remove `hash`";
            upstream.problem(Problem::new(upstream.span(), message).remedy(remedy));
            Balance::default()
        }
    }
}

fn hash_key(upstream: &Scope<'_>) -> Option<HashKey> {
    let meaning =
        "What decides with `balance: hash`: one of these. Requests without it go in turn.";
    let section = upstream.optional_section("hash", meaning)?;
    let field = section.text("field", "field name", None, "The value of this field.");
    let field = field.and_then(|found| failures::field_name(&section, &found));
    let cookie = section.text("cookie", "cookie name", None, "The value of this cookie.");
    let meaning = "The client's address, behind a trusted proxy the one that it tells.";
    let address = section.bool("address", false, meaning);
    let keys = [
        field.map(HashKey::Field),
        cookie.map(|name| HashKey::Cookie(name.value.as_str().into())),
        address.then_some(HashKey::Address),
    ];
    let mut keys: Vec<_> = keys.into_iter().flatten().collect();
    let key = keys.pop();
    if (key.is_none() || !keys.is_empty()) && !section.is_describing() {
        let problem = Problem::new(section.span(), "`hash` needs one key");
        section.problem(problem.remedy("set one of field, cookie and address: true"));
    }
    section.finish();
    key
}

pub(super) fn ejection(upstream: &Scope<'_>) -> Ejection {
    let meaning = "An endpoint that fails is left out for a while; a single one never is.";
    let section = upstream.section("ejection", meaning);
    let d = Ejection::default();
    let number = |key, default: u32, bounds, meaning| {
        let read = section.integer(key, u64::from(default), bounds, meaning);
        u32::try_from(read).unwrap_or(default)
    };
    let meaning = "After so many failures of connection or protocol in a row; 0 is never.";
    let consecutive_failures =
        number("consecutive_failures", d.consecutive_failures, (0, 1_000_000), meaning);
    let ejection = Ejection {
        consecutive_failures,
        failure_percent: number(
            "failure_percent",
            d.failure_percent,
            (0, 100),
            "When so many percent of its requests of the window failed; 0 is never.",
        ),
        min_requests: number(
            "min_requests",
            d.min_requests,
            (1, 1_000_000),
            "A window with fewer requests says nothing.",
        ),
        window: section.wait("window", d.window, "How far back the window reaches."),
        base: section.wait(
            "base",
            d.base,
            "For how long at first; twice as long each time it fails right after.",
        ),
        max: section.wait("max", d.max, "For how long at most."),
        max_percent: number(
            "max_percent",
            d.max_percent,
            (0, 100),
            "How many of the endpoints may be out (one at least, unless 0); if more would be, all are tried.",
        ),
        count_app_errors: section.bool(
            "count_app_errors",
            d.count_app_errors,
            "An app's own 5xx counts as a failure of its endpoint.",
        ),
    };
    section.finish();
    ejection
}

pub(super) fn circuit(upstream: &Scope<'_>) -> Option<Circuit> {
    let meaning = "Leaves an upstream alone that keeps failing: requests are answered at once. Off if not set; `{}` is the defaults.";
    let section = upstream.optional_section("circuit", meaning)?;
    let d = Circuit::default();
    let number = |key, default: u32, bounds, meaning| {
        let read = section.integer(key, u64::from(default), bounds, meaning);
        u32::try_from(read).unwrap_or(default)
    };
    let circuit = Circuit {
        consecutive_failures: number(
            "consecutive_failures",
            d.consecutive_failures,
            (0, 1_000_000),
            "Opens after so many requests in a row that failed, retries included; 0 is never.",
        ),
        failure_percent: number(
            "failure_percent",
            d.failure_percent,
            (0, 100),
            "Opens when so many percent of the requests of the window failed; 0 is never.",
        ),
        min_requests: number(
            "min_requests",
            d.min_requests,
            (1, 1_000_000),
            "A window with fewer requests says nothing.",
        ),
        window: section.wait("window", d.window, "How far back the window reaches."),
        open: section.wait(
            "open",
            d.open,
            "For how long at first; twice as long each time it fails right after.",
        ),
        max: section.wait("max", d.max, "For how long at most."),
        probes: number(
            "probes",
            d.probes,
            (1, 100),
            "After that, so many requests at a time are let through; it closes when so many were served.",
        ),
        count_app_errors: section.bool(
            "count_app_errors",
            d.count_app_errors,
            "An app's own 5xx counts as a failure.",
        ),
    };
    section.finish();
    Some(circuit)
}

pub(super) fn concurrency(upstream: &Scope<'_>) -> Option<Concurrency> {
    let meaning = "A limit on requests that wait for their response head, which adapts to what the upstream can take; over all workers. Off if not set.";
    let section = upstream.optional_section("concurrency", meaning)?;
    let d = Concurrency::default();
    let target =
        section.wait("target", d.target, "What nine in ten response heads are to be faster than.");
    let number = |key, default: usize, meaning| {
        to_usize(section.integer(key, default as u64, (1, 1_000_000), meaning))
    };
    let min = number("min", d.min, "The limit never falls below.");
    let max = number("max", d.max, "The limit never rises above; this is where it begins.");
    if min > max && !section.is_describing() {
        let message = format!("`min` is {min}, and `max` is {max}");
        section.problem(Problem::new(section.span(), &message).remedy("set min to max at most"));
    }
    section.finish();
    Some(Concurrency { target, min, max: max.max(min) })
}

/// What must be a path, of its own or to be asked for.
fn target(section: &Scope<'_>, key: &'static str, meaning: &'static str) -> Option<Found<String>> {
    section.text(key, "path", None, meaning).filter(|found| {
        let good = found.starts_with('/') && found.bytes().all(|byte| byte.is_ascii_graphic());
        if !good {
            wrong(section, key, found, "write a path such as /healthz");
        }
        good
    })
}

pub(super) fn health(upstream: &Scope<'_>) -> Option<Health> {
    let meaning = "Checks each endpoint; one that fails gets no requests. None if not set.";
    let section = upstream.optional_section("health", meaning)?;
    let d = Health::default();
    let path = target(&section, "path", "A GET of this path must be answered well.");
    let tcp = section.bool("tcp", false, "Only a connection is opened, TLS included.");
    let meaning = "Statuses that are well; 200-399 if not set.";
    let statuses = section.texts("status", "status, or a range such as 200-399", false, meaning);
    let mut statuses: Vec<_> =
        statuses.iter().filter_map(|found| status_range(&section, found)).collect();
    if statuses.is_empty() {
        statuses.push(Probe::STATUSES);
    }
    let meaning = "What the first 64 KiB of the content match.";
    let body = section.text("body", "regular expression", None, meaning);
    let body = body.and_then(|found| failures::pattern(&section, "body", &found));
    let meaning = "The gRPC health protocol (grpc.health.v1) must say SERVING; over HTTP/2.";
    let grpc = section.bool("grpc", false, meaning);
    let meaning = "Of which gRPC service; of the server as a whole if not set.";
    let service = section.text("service", "service name", None, meaning);
    if let Some(service) = service.as_ref().filter(|_| !grpc && !section.is_describing()) {
        let problem = Problem::new(service.span, "`service` is set, and `grpc` is not");
        section.problem(problem.remedy("set grpc: true, or remove `service`"));
    }
    let websocket = target(&section, "websocket", "A WebSocket to this path must open.");
    let ways = [path.is_some(), tcp, grpc, websocket.is_some()];
    if ways.iter().filter(|asked| **asked).count() != 1 && !section.is_describing() {
        let problem = Problem::new(section.span(), "`health` needs to know what to ask");
        section.problem(problem.remedy("set one of path, websocket, grpc: true and tcp: true"));
    }
    let count = |key, default: u32, meaning| {
        u32::try_from(section.integer(key, u64::from(default), (1, 1000), meaning))
            .unwrap_or(default)
    };
    let health = Health {
        probe: match (path, websocket) {
            (Some(path), _) => Probe::Http { path: path.value.as_str().into(), statuses, body },
            (None, Some(path)) => Probe::WebSocket { path: path.value.as_str().into() },
            (None, None) if grpc => {
                Probe::Grpc { service: service.map_or("".into(), |name| name.value.into()) }
            }
            (None, None) => Probe::Tcp,
        },
        interval: section.wait(
            "interval",
            d.interval,
            "From one check to the next, give or take a tenth.",
        ),
        timeout: section.wait("timeout", d.timeout, "How long a check may take in all."),
        healthy: count("healthy", d.healthy, "So many passed checks in a row bring it back."),
        unhealthy: count("unhealthy", d.unhealthy, "So many failed checks in a row take it out."),
        initially_up: section.word(
            "initial",
            &["healthy", "unhealthy"],
            0,
            "What an endpoint is before its first check.",
        ) == 0,
    };
    section.finish();
    Some(health)
}

/// What one section asks of another.
pub(super) fn agree(section: &Scope<'_>, upstream: &Upstream) {
    let probe = upstream.health.as_ref().map(|health| &health.probe);
    let is_http1 = upstream.protocol == UpstreamProtocol::Http1;
    if matches!(probe, Some(Probe::Grpc { .. })) && is_http1 && !section.is_describing() {
        let problem = Problem::new(section.span(), "`health: { grpc: true }` needs HTTP/2");
        section.problem(problem.remedy("set protocol: http2 for this upstream"));
    }
}

fn status_range(section: &Scope<'_>, found: &Found<String>) -> Option<(u16, u16)> {
    let status = |text: &str| text.trim().parse().ok().filter(|code| (100..600).contains(code));
    let range = match found.split_once('-') {
        Some((from, to)) => status(from).zip(status(to)).filter(|(from, to)| from <= to),
        None => status(found).map(|code| (code, code)),
    };
    if range.is_none() {
        wrong(section, "status", found, "write a status such as 200, or a range such as 200-399");
    }
    range
}

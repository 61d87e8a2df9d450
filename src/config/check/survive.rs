//! How an upstream chooses among its endpoints: balance, ejection, health checks.

use super::super::diagnostic::Problem;
use super::super::model::{Balance, Ejection, HashKey, Health, Probe};
use super::super::scope::{Found, Scope};
use super::{failures, wrong};

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

pub(super) fn health(upstream: &Scope<'_>) -> Option<Health> {
    let meaning = "Checks each endpoint; one that fails gets no requests. None if not set.";
    let section = upstream.optional_section("health", meaning)?;
    let d = Health::default();
    let path = section.text("path", "path", None, "A GET of this path must be answered well.");
    let path = path.filter(|found| {
        let good = found.starts_with('/') && found.bytes().all(|byte| byte.is_ascii_graphic());
        if !good {
            wrong(&section, "path", found, "write a path such as /healthz");
        }
        good
    });
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
    if path.is_some() == tcp && !section.is_describing() {
        let problem = Problem::new(section.span(), "`health` needs to know what to ask");
        section.problem(problem.remedy("set either path or tcp: true"));
    }
    let count = |key, default: u32, meaning| {
        u32::try_from(section.integer(key, u64::from(default), (1, 1000), meaning))
            .unwrap_or(default)
    };
    let health = Health {
        probe: match path {
            Some(path) => Probe::Http { path: path.value.as_str().into(), statuses, body },
            None => Probe::Tcp,
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

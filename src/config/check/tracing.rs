//! Spans for an OpenTelemetry collector.

use std::fs;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::super::model::{Scheme, Tracing};
use super::super::scope::{Found, Scope};
use super::{Base, listener, parse_endpoint, plain_name, to_usize, wrong};

/// What OTLP/HTTP adds to a collector's address.
const PATH: &str = "/v1/traces";
/// Most bytes of the file with fields.
const MOST_FIELDS: u64 = 64 * 1024;

pub(super) fn tracing(root: &Scope<'_>, base: Base<'_>) -> Option<Tracing> {
    let meaning = "Spans of requests, for an OpenTelemetry collector, and `traceparent` continued. Off if not set: `traceparent` passes as it is.";
    let section = root.optional_section("tracing", meaning)?;
    let d = Tracing::to("");
    let meaning =
        "The collector that speaks OTLP over HTTP, often at port 4318; `/v1/traces` is added.";
    let found = section.required_text("endpoint", "URL", meaning);
    let url = found.and_then(|found| endpoint(&section, &found));
    let meaning = "What the spans call this proxy (service.name).";
    let found = section.text("service", "name", Some(&d.service), meaning);
    let service = found.and_then(|found| service(&section, &found)).unwrap_or(d.service);
    let meaning = "How many traces are recorded, such as 0.1%. Where a proxy in `forwarded.trusted` has decided already, that holds.";
    let found = section.text("sample", "percent", Some("100%"), meaning);
    let sample = found.and_then(|found| percent(&section, &found));
    let meaning = "A file with what the collector wants to know, such as a key: a field a line, `name: value`.";
    let found = section.text("fields_file", "file", None, meaning);
    let fields = found.and_then(|found| fields(&section, &found, base));
    let meaning =
        "Roots that the collector's certificate is checked with; the system's if not set.";
    let roots = section
        .text("roots", "PEM file", None, meaning)
        .and_then(|found| listener::certificates(&section, "roots", &found, base));
    let number = |key, default: usize, most, meaning| {
        to_usize(section.integer(key, default as u64, (1, most), meaning))
    };
    let meaning = "Requests that may wait to be sent, each at most 8 KiB or so; more are dropped and counted.";
    let queue = number("queue", d.queue, 1_000_000, meaning);
    let batch = number("batch", d.batch, 10_000, "The most requests that are sent together.");
    let meaning = "How long a batch waits to become full.";
    let interval: Duration = section.wait("interval", d.interval, meaning);
    let meaning = "How long a batch may take, sent again if need be; then it is given up.";
    let timeout: Duration = section.wait("timeout", d.timeout, meaning);
    section.finish();
    Some(Tracing {
        url: url?,
        service,
        sample_percent: sample.unwrap_or(d.sample_percent),
        fields: fields.unwrap_or_default(),
        roots: roots.map(std::sync::Arc::new),
        queue,
        batch,
        interval,
        timeout,
    })
}

/// The URL with the path that OTLP/HTTP adds to it.
fn endpoint(section: &Scope<'_>, found: &Found<String>) -> Option<Box<str>> {
    const FORM: &str = "write http://HOST:PORT or https://HOST[:PORT][/PATH]";
    let text = found.value.trim_end_matches('/');
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte);
    let problem = match parse_endpoint(&format!("{scheme}://{authority}")) {
        _ if !matches!(scheme, "http" | "https") => FORM.to_owned(),
        Err(problem) => problem,
        Ok(_) if !path.bytes().all(plain) => FORM.to_owned(),
        Ok(known) if known.port == 4317 && known.scheme == Scheme::Http => {
            "4317 is the port of OTLP over gRPC; write 4318, or what the collector serves OTLP over HTTP on"
                .to_owned()
        }
        Ok(_) => {
            // Collectors document their whole URL as often as its beginning.
            let path = path.strip_suffix(PATH).unwrap_or(path);
            return Some(format!("{scheme}://{authority}{path}{PATH}").into());
        }
    };
    wrong(section, "endpoint", found, &problem);
    None
}

fn service(section: &Scope<'_>, found: &Found<String>) -> Option<Box<str>> {
    let name = plain_name(&found.value);
    if name.is_none() {
        wrong(section, "service", found, "write 1 to 64 letters, digits, -, _ or .");
    }
    name.map(|name| (&*name).into())
}

fn percent(section: &Scope<'_>, found: &Found<String>) -> Option<f64> {
    let number = found.value.trim_end_matches('%').trim_end().parse::<f64>();
    let percent = number.ok().filter(|percent| (0.0..=100.0).contains(percent));
    if percent.is_none() {
        wrong(section, "sample", found, "write a percentage from 0% to 100%, such as 0.1%");
    }
    percent
}

/// The lines of the file, as fields that are never printed.
fn fields(
    section: &Scope<'_>,
    found: &Found<String>,
    base: Base<'_>,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let path = base.0.join(&found.value);
    let read = match fs::metadata(&path) {
        Ok(known) if known.len() > MOST_FIELDS => Err("the file is too large".to_owned()),
        _ => fs::read_to_string(&path).map_err(|error| format!("the file cannot be read: {error}")),
    };
    let parsed = read.and_then(|text| {
        let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
        let fields = lines.map(|(line, number)| {
            field(line).ok_or_else(|| format!("write `name: value` in its line {number}"))
        });
        fields.collect()
    });
    match parsed {
        Ok(fields) => Some(fields),
        Err(remedy) => {
            wrong(section, "fields_file", found, &remedy);
            None
        }
    }
}

fn field(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    let name = HeaderName::try_from(name.trim()).ok()?;
    let mut value = HeaderValue::try_from(value.trim()).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

//! A seawall of one worker, and what it says about itself.
//!
//! What it says follows the client's last byte by a moment, and on a busy machine the moment is long.
//! So nothing here reads once and goes on: a test asks a seawall that has [settled](Seawall::cells)
//! all its requests, or it [waits](Seawall::until) for what must come.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use seawall::config::{self, model::Config};
use seawall::failure::{Kind, Outcome, Phase};
use seawall::server::diff::Diff;
use seawall::server::{Running, Server, StartError};
use seawall::telemetry::journal::Query;
use serde_json::Value;

use super::script::Upstream;
use super::{PATIENCE, log};

/// A running seawall that ends with the test.
#[derive(Debug)]
pub struct Seawall {
    running: Running,
}

/// Short waits, for upstreams that have to be waited for in vain: it shall not make the tests long. And
/// long enough for all that comes before, and for the next request, on a busy machine.
pub const IMPATIENT: &str = "timeouts: { connect: 2s, head: 2s, idle: 2s }";

/// What must be told of a failure.
pub struct Told {
    pub kind: Kind,
    pub phase: Phase,
    pub outcome: Outcome,
    pub protocol: &'static str,
}

fn parsed(yaml: &str) -> Config {
    let mut text = format!("shutdown: {{ drain: 1s }}\n{yaml}");
    if !yaml.contains("workers:") {
        text.push_str("workers: 1\n");
    }
    if !yaml.contains("admin:") {
        text.push_str("admin: { address: off }\n");
    }
    if !yaml.contains("listeners:") {
        text.push_str("listeners: [{ address: '127.0.0.1:0' }]\n");
    }
    match config::parse("test.yaml", &text, Path::new(".")) {
        Ok(config) => config,
        Err(problems) => panic!("{problems}"),
    }
}

impl Seawall {
    /// In front of this upstream.
    pub fn before(upstream: &Upstream) -> Self {
        Seawall::before_with(upstream, "")
    }

    /// In front of this upstream, with more settings of `upstreams.app`.
    pub fn before_with(upstream: &Upstream, settings: &str) -> Self {
        Seawall::at(&format!("http://{}", upstream.address()), settings)
    }

    /// In front of these endpoints (URLs with commas between), with more settings of the upstream.
    /// Each request has one attempt unless they say otherwise: a fault shall be seen. What is held is
    /// held for as long as it takes: a fault shall not come too late on a busy machine.
    pub fn at(endpoints: &str, settings: &str) -> Self {
        let once = if settings.contains("retry:") { "" } else { ", retry: { attempts: 1 }" };
        let comma = if settings.is_empty() { "" } else { "," };
        Seawall::configured(&format!(
            "upstreams: {{ app: {{ endpoints: [{endpoints}]{once}{comma} {settings} }} }}\n\
            routes: [{{ upstream: app, hold: {{ time: 300s }} }}]\n"
        ))
    }

    /// With this configuration; worker, listener and drain time are added.
    pub fn configured(yaml: &str) -> Self {
        log::capture();
        Seawall { running: Server::start(parsed(yaml)).unwrap() }
    }

    /// Goes on with this configuration; what [`Seawall::configured`] adds is added.
    pub fn reload(&mut self, yaml: &str) -> Result<Diff, StartError> {
        self.running.reload(parsed(yaml))
    }

    /// What runs.
    pub fn running(&mut self) -> &mut Running {
        &mut self.running
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.running.addresses()[0]
    }

    /// All metrics as Prometheus would read them, when no request is under way any more.
    pub fn metrics(&self) -> String {
        self.settled().metrics()
    }

    /// The cells of a metric that are not 0, as `{labels} value`, when no request is under way any
    /// more: what is not there then will not come. Whatever is under way by intention needs
    /// [`Seawall::until`].
    pub fn cells(&self, name: &str) -> Vec<String> {
        self.settled().cells(name)
    }

    /// The value of this line of the metrics (name and labels), when no request is under way any
    /// more; 0 if there is none.
    pub fn value(&self, line: &str) -> u64 {
        self.settled().value(line)
    }

    /// Drains this endpoint of `app`, or takes it back, as an operator does; its state then.
    pub fn drain(&self, endpoint: &str, drained: bool) -> Option<&'static str> {
        self.running.upstreams().first()?.set_drained(endpoint, drained)
    }

    /// P5: this failure and no other is in the metric, once, and it has one line in the log and one
    /// entry in the journal under the id that the client has.
    pub fn told_once(&self, name: &str, id: &str, failure: &Told) -> Value {
        let cells = self.until(name, |seawall| {
            Some(seawall.cells("seawall_failures_total")).filter(|cells| !cells.is_empty())
        });
        // Twice would be wrong too: until the request has ended, another one could follow.
        let now = self.settled();
        assert_eq!(now.cells("seawall_failures_total"), cells, "{name}");
        let (kind, phase) = (failure.kind.name(), failure.phase.name());
        let (outcome, protocol) = (failure.outcome.name(), failure.protocol);
        let expected = format!(
            "{{kind=\"{kind}\",outcome=\"{outcome}\",phase=\"{phase}\",protocol=\"{protocol}\",\
            upstream=\"app\"}} 1"
        );
        assert_eq!(cells, [expected], "{name}");
        // A session has a line of its own when it ends.
        let lines = log::wait_for(id, name, |lines| {
            let mut lines = lines.to_vec();
            lines.retain(|line| line.contains_key("kind"));
            Some(lines).filter(|lines| !lines.is_empty())
        });
        assert_eq!(lines.len(), 1, "{name}: {lines:?}");
        let mut entries = now.journal(id);
        assert_eq!(entries.len(), 1, "{name}: {entries:?}");
        let entry = entries.remove(0);
        for (field, expected) in [("kind", kind), ("phase", phase), ("outcome", outcome)] {
            assert_eq!(lines[0][field], expected, "{name}: {field} in the log");
            assert_eq!(entry[field], expected, "{name}: {field} in the journal");
        }
        assert_eq!(entry["protocol"], protocol, "{name}");
        assert_eq!(entry["upstream"], "app", "{name}");
        entry
    }

    /// Waits until `question` is answered with something.
    pub fn until<T>(&self, what: &str, mut question: impl FnMut(&Now<'_>) -> Option<T>) -> T {
        let now = Now(self);
        let asked = tokio::time::Instant::now();
        while asked.elapsed() < PATIENCE {
            if let Some(answer) = question(&now) {
                return answer;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        panic!("never came true: {what}\n{}", now.metrics());
    }

    /// Does this and waits until one more request is under way.
    pub fn with_one_more<T>(&self, ask: impl FnOnce() -> T) -> T {
        let before = Now(self).in_flight();
        let asked = ask();
        self.until("it has arrived", |now| (now.in_flight() > before).then_some(()));
        asked
    }

    /// Waits until every client has left, and every trace of it is counted.
    pub fn until_deserted(&self) {
        self.until("every client has left", |now| {
            (now.value("seawall_client_connections") == 0).then_some(())
        });
    }

    /// Waits until no request is under way: a request is told in full before it ends.
    fn settled(&self) -> Now<'_> {
        self.until("no request is under way", |now| (now.in_flight() == 0).then_some(()));
        Now(self)
    }
}

/// A seawall while something may be under way. Only [`Seawall::until`] lends one, for as long as it
/// takes: what is read from it once says nothing.
#[derive(Debug)]
pub struct Now<'s>(&'s Seawall);

impl Deref for Now<'_> {
    type Target = Seawall;

    fn deref(&self) -> &Seawall {
        self.0
    }
}

impl Now<'_> {
    /// All metrics.
    pub fn metrics(&self) -> String {
        String::from_utf8(self.0.running.metrics().encode()).unwrap()
    }

    /// The cells of a metric that are not 0, as `{labels} value`.
    pub fn cells(&self, name: &str) -> Vec<String> {
        self.metrics()
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with('{') && !rest.ends_with(" 0"))
            .map(str::to_owned)
            .collect()
    }

    /// The value of this line of the metrics (name and labels); 0 if there is none.
    pub fn value(&self, line: &str) -> u64 {
        let metrics = self.metrics();
        let mut values = metrics.lines().filter_map(|it| it.strip_prefix(line)?.strip_prefix(' '));
        values.next().map_or(0, |value| value.parse().unwrap())
    }

    /// How many requests are under way.
    pub fn in_flight(&self) -> u64 {
        let metrics = self.metrics();
        let each = |line: &str| {
            let value = line.strip_prefix("seawall_requests_in_flight{")?.rsplit(' ').next()?;
            Some(value.parse::<u64>().unwrap())
        };
        metrics.lines().filter_map(each).sum()
    }

    /// How many requests to `app` wait for room.
    pub fn pending(&self) -> u64 {
        self.value("seawall_upstream_pending_requests{upstream=\"app\"}")
    }

    /// What the journal has for this request.
    pub fn journal(&self, request_id: &str) -> Vec<Value> {
        let query = Query { request_id: Some(request_id.to_owned()), ..Query::default() };
        self.0.running.journal().snapshot(&query).as_array().unwrap().clone()
    }
}

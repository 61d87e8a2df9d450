//! What a reload keeps of an upstream, and what it begins anew.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::failure::{Failure, Phase, Protocol};
use crate::telemetry::metrics::Metrics;
use crate::upstream::Outcome;

const ONE: &str = "http://10.0.0.1:80";
const TWO: &str = "http://10.0.0.2:80";
const EJECTS: &str = "ejection: { consecutive_failures: 1, base: 60s }";
const CHECKED: &str = "health: { path: /healthz }";

fn settings(text: &str) -> Arc<model::Upstream> {
    let text = format!(
        "listeners: [{{ address: ':0' }}]\nupstreams: {{ app: {{ {text} }} }}\n\
        routes: [{{ upstream: app }}]\n"
    );
    let config = crate::config::parse("test.yaml", &text, Path::new(".")).unwrap();
    Arc::clone(&config.upstreams[0])
}

/// Two endpoints, and more settings.
fn two(more: &str) -> Arc<model::Upstream> {
    settings(&format!("endpoints: ['{ONE}', '{TWO}'], {more}"))
}

fn start(settings: Arc<model::Upstream>, previous: Option<&Shared>) -> Shared {
    let metrics = Metrics::new().unwrap();
    let handles = metrics.upstream("app", &[], Protocol::ALL);
    Shared::new(settings, handles, previous).unwrap()
}

/// As a reload does it.
fn reload(before: &Shared, settings: Arc<model::Upstream>) -> Shared {
    let after = start(settings, Some(before));
    before.retire(Some(&after));
    after
}

fn states(shared: &Shared) -> Vec<&'static str> {
    let set = shared.current();
    (0..set.members.len()).map(|at| set.roster.state(at)).collect()
}

#[tokio::test(start_paused = true)]
async fn drain_lasts_through_reloads_until_it_is_taken_back() {
    let first = start(two("timeouts: { head: 5s }"), None);
    assert_eq!(first.set_drained(TWO, true), Some("drained"));
    let mut last = first;
    for change in [
        "timeouts: { head: 6s }",
        EJECTS,
        CHECKED,
        "protocol: http2",
        "limits: { requests: 7 }",
        "circuit: {}",
        "balance: least_request",
    ] {
        last = reload(&last, two(change));
        assert_eq!(states(&last)[1], "drained", "{change}");
        assert!(last.current().members[1].leaving().has_begun(), "{change}");
    }
    assert_eq!(last.set_drained(TWO, false), Some("up"));
    last = reload(&last, two("timeouts: { head: 8s }"));
    assert_eq!(states(&last), ["up", "up"]);
    assert!(!last.current().members[1].leaving().has_begun());
}

#[tokio::test(start_paused = true)]
async fn drain_reaches_those_who_came_before_the_reload() {
    for change in ["timeouts: { head: 6s }", EJECTS] {
        let before = start(two(""), None);
        let websocket = before.current().members[0].leaving();
        let after = reload(&before, two(change));
        assert!(!websocket.has_begun());
        after.set_drained(ONE, true);
        assert!(websocket.has_begun(), "{change}");
        assert_eq!(states(&before)[0], "drained", "a request of before does not go there either");
    }
}

#[tokio::test(start_paused = true)]
async fn drain_during_a_reload_is_not_lost() {
    let before = start(two(""), None);
    let after = start(two("timeouts: { head: 6s }"), Some(&before));
    before.set_drained(ONE, true);
    before.retire(Some(&after));
    assert_eq!(states(&after), ["drained", "up"]);
}

#[tokio::test(start_paused = true)]
async fn endpoint_that_the_configuration_removes_and_lists_again_begins_anew() {
    let before = start(two(""), None);
    before.set_drained(TWO, true);
    let without = reload(&before, settings(&format!("endpoints: ['{ONE}']")));
    assert!(without.drained().is_empty());
    assert_eq!(without.set_drained(TWO, true), None, "there is no such endpoint");
    assert_eq!(states(&reload(&without, two(""))), ["up", "up"]);
}

#[tokio::test(start_paused = true)]
async fn ejection_lasts_through_reloads_that_do_not_concern_it() {
    let before = start(two(EJECTS), None);
    assert!(before.current().roster.failed(0).is_some());
    tokio::time::advance(Duration::from_secs(30)).await;
    let after = reload(&before, two(&format!("{EJECTS}, timeouts: {{ head: 6s }}")));
    assert_eq!(states(&after), ["ejected", "up"]);
    tokio::time::advance(Duration::from_secs(37)).await;
    assert_eq!(states(&after), ["up", "up"], "its time has not begun anew");
    for change in ["ejection: { consecutive_failures: 2 }", "protocol: http2"] {
        let before = start(two(EJECTS), None);
        assert!(before.current().roster.failed(0).is_some());
        let after = reload(&before, two(change));
        assert_eq!(states(&after), ["up", "up"], "{change} may have cured it");
    }
}

#[tokio::test(start_paused = true)]
async fn unhealthy_endpoint_stays_out_until_a_check_passes() {
    let down = |more: &str| {
        let before = start(two(&format!("{CHECKED}{more}")), None);
        let member = Arc::clone(&before.current().members[0]);
        assert!(member.standing.first_check());
        before.checked(&member, false, None);
        before
    };
    for (change, first) in [
        (format!("{CHECKED}, timeouts: {{ head: 6s }}"), false),
        (format!("{CHECKED}, {EJECTS}"), true),
        ("health: { path: /other }".to_owned(), true),
        ("health: { tcp: true }".to_owned(), true),
        (format!("{CHECKED}, protocol: http2"), true),
    ] {
        let after = reload(&down(""), two(&change));
        assert_eq!(states(&after), ["unhealthy", "up"], "{change}");
        let standing = Arc::clone(&after.current().members[0].standing);
        assert_eq!(standing.first_check(), first, "{change}: is one passed check enough?");
    }
    assert_eq!(states(&reload(&down(""), two(EJECTS))), ["up", "up"], "nobody checks it");
    let unchecked = start(two(""), None);
    let after = reload(&unchecked, two("health: { path: /healthz, initial: unhealthy }"));
    assert_eq!(states(&after), ["up", "up"], "it had its requests");
    let fresh = start(two("health: { path: /healthz, initial: unhealthy }"), None);
    assert_eq!(states(&fresh), ["unhealthy", "unhealthy"]);
}

#[tokio::test(start_paused = true)]
async fn circuit_and_limit_last_through_reloads_that_do_not_concern_them() {
    const TRIPS: &str = "circuit: { consecutive_failures: 1, open: 60s }, concurrency: { max: 50 }";
    let open = || {
        let shared = start(two(TRIPS), None);
        let circuit = shared.circuit.clone().unwrap();
        let failure = Failure::new(Kind::ConnectionRefused, Phase::Connect);
        circuit.enter().unwrap().settle(Outcome::Broken(&failure));
        assert!(circuit.enter().is_err());
        shared
    };
    let is_open = |shared: &Shared| shared.circuit.as_ref().is_some_and(|it| it.enter().is_err());
    let before = open();
    let after = reload(&before, two(&format!("{TRIPS}, timeouts: {{ head: 6s }}")));
    assert!(is_open(&after));
    let adaptive = |shared: &Shared| shared.adaptive.clone().unwrap();
    assert!(Arc::ptr_eq(&adaptive(&before), &adaptive(&after)));
    for change in [
        settings(&format!("endpoints: ['{ONE}'], {TRIPS}")),
        two(&format!("{TRIPS}, protocol: http2")),
        two("circuit: { consecutive_failures: 9 }"),
        two(""),
    ] {
        assert!(!is_open(&reload(&open(), change)), "the change may have cured it");
    }
}

#[tokio::test(start_paused = true)]
async fn dns_neither_loses_a_drain_nor_does_a_reload_lose_what_it_found() {
    let dns = |more: &str| settings(&format!("dns: {{ name: 'http://app.test:80' }}{more}"));
    let endpoints = |labels: &[&str]| {
        let list = labels.iter().map(|label| format!("'{label}'")).collect::<Vec<_>>().join(", ");
        settings(&format!("endpoints: [{list}]")).endpoints.clone()
    };
    let shared = start(dns(""), None);
    shared.replace(endpoints(&[ONE, TWO])).unwrap();
    shared.resolved();
    shared.set_drained(TWO, true);
    let websocket = shared.current().members[0].leaving();
    shared.replace(Vec::new()).unwrap();
    assert!(websocket.has_begun());
    assert_eq!(shared.drained(), [Arc::from(TWO)]);
    shared.replace(endpoints(&[ONE, TWO])).unwrap();
    assert_eq!(states(&shared), ["up", "drained"]);
    assert!(!shared.current().members[0].leaving().has_begun(), "it is back");

    let after = reload(&shared, dns(", timeouts: { head: 6s }"));
    assert_eq!(states(&after), ["up", "drained"], "before DNS has answered once");
    assert_eq!(after.discovery.outcome.load(Ordering::Acquire), FOUND);
    after.replace(endpoints(&[ONE])).unwrap();
    let after = reload(&after, dns(", timeouts: { head: 7s }"));
    assert_eq!(after.drained(), [Arc::from(TWO)]);
    assert_eq!(after.set_drained(TWO, false), Some("gone"), "taken back while it is not there");
    after.replace(endpoints(&[ONE, TWO])).unwrap();
    assert_eq!(states(&after), ["up", "up"]);

    let other = reload(&after, settings("dns: { name: 'http://other.test:80' }"));
    assert!(other.current().members.is_empty(), "those of another name are not these");
}

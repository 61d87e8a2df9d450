use std::cell::RefCell;
use std::path::Path;

use tokio::time::Instant;

use super::*;
use crate::failure::Protocol;
use crate::telemetry::metrics::Metrics;

fn shared(dns: &str) -> (Arc<Metrics>, Arc<Shared>) {
    let text = format!(
        "listeners: [{{ address: ':0' }}]\n\
         upstreams: {{ app: {{ dns: {dns}, timeouts: {{ resolve: 2s }} }} }}\n\
         routes: [{{ upstream: app }}]\n"
    );
    let config = crate::config::parse("test.yaml", &text, Path::new(".")).unwrap();
    let metrics = Metrics::new().unwrap();
    let handles = metrics.upstream("app", &[], Protocol::ALL);
    let shared = Shared::new(Arc::clone(&config.upstreams[0]), handles, None).unwrap();
    (metrics, Arc::new(shared))
}

fn found(last: u8, weight: u32) -> Found {
    Found { address: [10, 0, 0, last].into(), port: 80, weight }
}

fn answer(last: &[u8], ttl: u64) -> Result<Answer, Silence> {
    let found = last.iter().map(|last| found(*last, 1)).collect();
    Ok(Answer { found, ttl: Duration::from_secs(ttl), trouble: None })
}

fn labels(shared: &Shared) -> Vec<String> {
    shared.current().members.iter().map(|member| member.label().to_string()).collect()
}

/// Follows these answers, one a question; the seconds at which they were asked for.
async fn follow_these(shared: &Shared, answers: Vec<Result<Answer, Silence>>) -> Vec<u64> {
    let start = Instant::now();
    let asked = RefCell::new(Vec::new());
    let answers = RefCell::new(answers.into_iter());
    let dns = shared.settings.dns.clone().unwrap();
    let following = follow_with(shared, &dns, async || {
        let Some(answer) = answers.borrow_mut().next() else { std::future::pending().await };
        asked.borrow_mut().push(start.elapsed().as_secs());
        answer
    });
    // The last question is never answered.
    let _ = timeout(Duration::from_secs(3600), following).await;
    asked.into_inner()
}

#[tokio::test(start_paused = true)]
async fn the_ttl_says_when_to_ask_again_within_bounds() {
    let (_metrics, shared) = shared("{ name: 'http://app.test:80', min_ttl: 5s, max_ttl: 100s }");
    let answers = vec![answer(&[1], 20), answer(&[1], 0), answer(&[1], 86_400), answer(&[1], 1)];
    let asked = follow_these(&shared, answers).await;
    let waits: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (wait, (least, most)) in waits.iter().zip([(20, 22), (5, 6), (100, 110)]) {
        assert!((least..=most).contains(wait), "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_stay_are_the_same_ones_and_others_are_told_to_leave() {
    let (_metrics, shared) = shared("http://app.test:80");
    let _ = timeout(Duration::ZERO, follow_these(&shared, vec![answer(&[2, 1], 30)])).await;
    assert_eq!(labels(&shared), ["http://10.0.0.1:80", "http://10.0.0.2:80"]);
    let before = shared.current();
    let _ = timeout(Duration::ZERO, follow_these(&shared, vec![answer(&[3, 2], 30)])).await;
    assert_eq!(labels(&shared), ["http://10.0.0.2:80", "http://10.0.0.3:80"]);
    let after = shared.current();
    assert!(Arc::ptr_eq(&before.members[1], &after.members[0]));
    assert!(before.members[0].leaving().has_begun() && !before.members[0].is_kept());
    assert!(!after.members[0].leaving().has_begun() && after.members[0].is_kept());
}

#[tokio::test(start_paused = true)]
async fn the_same_answer_in_another_order_changes_nothing() {
    let (_metrics, shared) = shared("http://app.test:80");
    let _ = timeout(Duration::ZERO, follow_these(&shared, vec![answer(&[1, 2], 30)])).await;
    let before = shared.current();
    let _ = timeout(Duration::ZERO, follow_these(&shared, vec![answer(&[2, 1, 2], 30)])).await;
    assert!(Arc::ptr_eq(&before, &shared.current()));
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_fails_costs_no_endpoint_and_is_asked_less_and_less_often() {
    let (metrics, shared) = shared("{ name: 'http://app.test:80', min_ttl: 10s, max_ttl: 60s }");
    let silence = || Err(Silence::Empty);
    let mut answers = vec![answer(&[1], 10)];
    answers.extend((0..5).map(|_| silence()));
    let asked = follow_these(&shared, answers).await;
    let waits: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (wait, least) in waits.iter().zip([10, 10, 20, 40, 60]) {
        assert!((least..=least + least / 10).contains(wait), "{waits:?}");
    }
    assert_eq!(labels(&shared), ["http://10.0.0.1:80"]);
    let text = String::from_utf8(metrics.encode()).unwrap();
    // The last question of all is not answered in time.
    let failed = "seawall_dns_lookups_total{result=\"failed\",upstream=\"app\"}";
    let count = text.lines().find_map(|line| line.strip_prefix(failed)).unwrap();
    assert!(count.trim().parse::<u64>().unwrap() >= 5, "{count}");
}

#[tokio::test(start_paused = true)]
async fn before_the_first_answer_requests_wait_and_then_are_told_why() {
    let (_metrics, shared) = shared("http://app.test:80");
    let upstream = super::super::Upstream::new(Arc::clone(&shared), 0);
    assert!(upstream.is_unresolved());
    let start = Instant::now();
    upstream.first_resolved().await;
    assert_eq!(start.elapsed(), Duration::from_secs(2), "as long as resolving may take");
    assert_eq!(upstream.pick(None).unwrap_err().kind(), Kind::DnsTimeout);
    shared.unresolved(Kind::DnsError);
    assert!(!upstream.is_unresolved());
    assert_eq!(upstream.pick(None).unwrap_err().kind(), Kind::DnsError);
    let _ = timeout(Duration::ZERO, follow_these(&shared, vec![answer(&[7], 30)])).await;
    assert!(upstream.pick(None).is_ok());
    shared.unresolved(Kind::DnsError);
    assert!(upstream.pick(None).is_ok(), "what was found once is kept");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_weight_changes_stays() {
    let (_metrics, shared) = shared("http://app.test:80");
    let weighed = |weight| {
        let found = vec![found(1, weight), found(2, 1)];
        Ok(Answer { found, ttl: Duration::from_secs(30), trouble: None })
    };
    let _ = timeout(Duration::ZERO, follow_these(&shared, vec![weighed(1)])).await;
    let before = shared.current();
    let _ = timeout(Duration::ZERO, follow_these(&shared, vec![weighed(9)])).await;
    let after = shared.current();
    assert!(!Arc::ptr_eq(&before, &after));
    assert!(Arc::ptr_eq(&before.members[0], &after.members[0]));
}

#[test]
fn weights_of_srv_keep_their_proportion() {
    assert_eq!([0, 1, 100].map(|weight| scaled(weight, 100)), [1, 1, 100]);
    assert_eq!([0, 6553, 65_535].map(|weight| scaled(weight, 65_535)), [1, 9, 100]);
}

#[test]
fn a_family_that_fails_keeps_what_it_had_and_one_that_never_was_is_not_missed() {
    let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
    let told = |last: u8, ttl| Ok((vec![ip(last)], Duration::from_secs(ttl)));
    let none = || Ok((Vec::new(), Duration::ZERO));
    let silent = || Err(Silence::Timeout);
    let mut known = Known::default();
    let mut merge = |four, six| {
        let merged = known.merge("app.test", [four, six]);
        merged.map(|(addresses, ttl, trouble)| (addresses, ttl.as_secs(), trouble.is_some()))
    };
    assert!(merge(silent(), silent()).unwrap_err().is_late());
    assert_eq!(merge(told(1, 30), silent()).unwrap(), (vec![ip(1)], 30, false));
    assert_eq!(merge(told(1, 30), told(6, 9)).unwrap(), (vec![ip(1), ip(6)], 9, false));
    assert_eq!(merge(silent(), told(7, 9)).unwrap(), (vec![ip(1), ip(7)], 9, true));
    assert!(merge(silent(), Err(Silence::Empty)).is_err(), "nobody knows: all is kept");
    assert_eq!(merge(told(2, 30), none()).unwrap(), (vec![ip(2)], 30, false));
    assert_eq!(merge(told(2, 30), silent()).unwrap(), (vec![ip(2)], 30, false), "it has none");
}

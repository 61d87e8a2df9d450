use super::*;
use crate::failure::{Failure, Outcome, Phase, Protocol};

fn text(metrics: &Metrics) -> String {
    String::from_utf8(metrics.encode()).unwrap()
}

fn resolved() -> (Arc<Metrics>, RouteMetrics, UpstreamMetrics) {
    let metrics = Metrics::new().unwrap();
    let route = metrics.route("all", "app");
    metrics.rehearses("all");
    metrics.certificates("0.0.0.0:443").expires("chain.pem", 4_102_444_800);
    let upstream = metrics.upstream("app", &["postgres".into()], Protocol::ALL);
    let _ = upstream.endpoint("http://a:1");
    (metrics, route, upstream)
}

#[test]
fn every_declared_family_is_in_the_output_and_no_other() {
    let (metrics, ..) = resolved();
    let text = text(&metrics);
    for family in family::ALL {
        assert!(text.contains(&format!("# TYPE {} ", family.name)), "{}", family.name);
    }
    let named = |line: &str| line.strip_prefix("# TYPE ").map(|rest| rest.to_owned());
    for line in text.lines().filter_map(named) {
        let name = line.split(' ').next().unwrap();
        let known = family::ALL.iter().any(|family| family.name == name);
        assert!(known || name.starts_with("process_"), "{name}");
    }
}

#[test]
fn the_series_of_an_endpoint_end_when_it_is_gone() {
    let (metrics, _, upstream) = resolved();
    let endpoint = upstream.endpoint("http://b:2");
    endpoint.connected(true);
    assert_eq!(text(&metrics).matches("endpoint=\"http://b:2\"").count(), 6);
    endpoint.forget();
    assert!(!text(&metrics).contains("http://b:2"));
    assert!(text(&metrics).contains("http://a:1"));
}

#[test]
fn the_first_failure_is_a_step_from_zero() {
    let (metrics, _, upstream) = resolved();
    let line = |value| {
        format!(
            "seawall_failures_total{{kind=\"connection_refused\",outcome=\"normalized\",\
             phase=\"connect\",protocol=\"http\",upstream=\"app\"}} {value}\n"
        )
    };
    assert!(text(&metrics).contains(&line(0)));
    let failure = Failure::new(Kind::ConnectionRefused, Phase::Connect);
    upstream.failed(&failure, Protocol::Http, Outcome::Normalized);
    assert!(text(&metrics).contains(&line(1)));
}

#[test]
fn an_implausible_failure_is_counted_all_the_same() {
    let (metrics, _, upstream) = resolved();
    let before = text(&metrics);
    assert!(!before.contains("kind=\"dns_error\",outcome=\"aborted\",phase=\"websocket\""));
    let failure = Failure::new(Kind::DnsError, Phase::Websocket);
    upstream.failed(&failure, Protocol::Websocket, Outcome::Aborted);
    assert!(text(&metrics).contains("kind=\"dns_error\",outcome=\"aborted\",phase=\"websocket\""));
}

#[test]
fn dependencies_and_traces_are_counted_with_their_failure() {
    let (metrics, _, upstream) = resolved();
    let failure = Failure::new(Kind::DependencyFailure, Phase::Head)
        .with_dependency("postgres".into())
        .with_trace("python");
    upstream.failed(&failure, Protocol::Http, Outcome::Normalized);
    let text = text(&metrics);
    for line in [
        "seawall_dependency_failures_total{dependency=\"postgres\",upstream=\"app\"} 1",
        "seawall_scrubbed_responses_total{trace=\"python\",upstream=\"app\"} 1",
    ] {
        assert!(text.contains(line), "{line}");
    }
}

#[test]
fn a_request_is_in_flight_until_it_ends() {
    let (metrics, route, _) = resolved();
    route.began();
    assert!(text(&metrics).contains("seawall_requests_in_flight{route=\"all\"} 1"));
    route.ended(418, Duration::from_millis(3));
    route.began();
    route.ended(999, Duration::from_millis(3));
    let text = text(&metrics);
    for line in [
        "seawall_requests_in_flight{route=\"all\"} 0",
        "seawall_requests_total{route=\"all\",status=\"418\",upstream=\"app\"} 1",
        "seawall_requests_total{route=\"all\",status=\"999\",upstream=\"app\"} 1",
        "seawall_request_seconds_bucket{route=\"all\",le=\"0.005\"} 2",
    ] {
        assert!(text.contains(line), "{line}");
    }
}

#[test]
fn application_close_codes_share_a_cell() {
    let (metrics, _, upstream) = resolved();
    let traffic = Traffic::default();
    for code in [4001, 4002] {
        upstream.websocket().opened();
        let summary = SessionSummary {
            code,
            initiator: "upstream",
            to_client: traffic,
            to_upstream: traffic,
        };
        upstream.websocket().closed(&summary, Duration::from_secs(2));
    }
    let line =
        "seawall_websocket_closes_total{code=\"4xxx\",initiator=\"upstream\",upstream=\"app\"} 2";
    assert!(text(&metrics).contains(line));
}

#[test]
fn every_client_failure_has_a_cell() {
    let (metrics, ..) = resolved();
    for failure in ClientFailure::ALL {
        metrics.client(*failure);
        let line = format!("seawall_client_failures_total{{kind=\"{failure}\"}} 1");
        assert!(text(&metrics).contains(&line), "{line}");
    }
}

#[test]
fn every_result_of_a_retry_has_a_cell() {
    let (metrics, _, upstream) = resolved();
    for result in RetryResult::ALL {
        upstream.retried(result);
        let line = format!("result=\"{}\",upstream=\"app\"}} 1", result.name());
        assert!(text(&metrics).contains(&line), "{line}");
    }
}

#[test]
fn certificates_are_told_by_listener_and_file() {
    let (metrics, ..) = resolved();
    let certificates = metrics.certificates("0.0.0.0:443");
    certificates.reloaded(true);
    certificates.reloaded(false);
    certificates.reloaded(false);
    let text = text(&metrics);
    for line in [
        "seawall_certificate_reloads_total{listener=\"0.0.0.0:443\",result=\"ok\"} 1",
        "seawall_certificate_reloads_total{listener=\"0.0.0.0:443\",result=\"failed\"} 2",
        "seawall_certificate_expiry_timestamp_seconds{certificate=\"chain.pem\",listener=\"0.0.0.0:443\"} 4102444800",
    ] {
        assert!(text.contains(line), "{line}");
    }
    certificates.forget("chain.pem");
    let text = super::tests::text(&metrics);
    assert!(!text.contains("seawall_certificate_expiry_timestamp_seconds{"));
}

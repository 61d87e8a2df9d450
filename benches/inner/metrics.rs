//! Recording: what a healthy request, a failure and a relayed piece add to the metrics.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use divan::Bencher;
use seawall::failure::{Failure, Kind, Outcome, Phase, Protocol};
use seawall::telemetry::metrics::{Direction, Metrics, RouteMetrics, UpstreamMetrics};

fn handles() -> (Arc<Metrics>, RouteMetrics, UpstreamMetrics) {
    let metrics = Metrics::new().unwrap();
    let route = metrics.route("*/*", "app");
    let upstream = metrics.upstream("app", &[], Protocol::ALL);
    (metrics, route, upstream)
}

const ELAPSED: Duration = Duration::from_micros(730);

#[divan::bench]
fn healthy_request(bencher: Bencher<'_, '_>) {
    let (_, route, upstream) = handles();
    bencher.bench_local(|| {
        route.began();
        upstream.head_received(black_box(ELAPSED));
        route.ended(black_box(200), black_box(ELAPSED));
    });
}

#[divan::bench]
fn failed(bencher: Bencher<'_, '_>) {
    let (_, _, upstream) = handles();
    let failure = Failure::new(Kind::ConnectionRefused, Phase::Connect);
    bencher.bench_local(|| {
        upstream.failed(black_box(&failure), Protocol::Http, Outcome::Normalized);
    });
}

#[divan::bench]
fn websocket_relayed(bencher: Bencher<'_, '_>) {
    let (_, _, upstream) = handles();
    let websocket = upstream.websocket();
    bencher.bench_local(|| websocket.relayed(Direction::ToClient, black_box(3), black_box(375)));
}

/// A scrape with one route and one upstream.
#[divan::bench]
fn scrape(bencher: Bencher<'_, '_>) {
    let (metrics, route, _) = handles();
    route.began();
    route.ended(200, ELAPSED);
    bencher.bench_local(|| metrics.encode());
}

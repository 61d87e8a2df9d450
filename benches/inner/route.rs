//! Route matching: the first, the last and no route of as many as the name says.

use std::fmt::Write;
use std::hint::black_box;
use std::path::Path;

use divan::Bencher;
use seawall::config;
use seawall::route::Router;

/// `count` hosts with two routes each, and one for all others.
fn router(count: usize) -> Router {
    let mut text = String::from(
        "listeners: [{ address: \"127.0.0.1:0\" }]\n\
         upstreams: { app: { endpoints: [\"http://127.0.0.1:1\"] } }\nroutes:\n",
    );
    for number in 0..count {
        let host = format!("host-{number:03}.example.com");
        writeln!(text, "  - {{ host: {host}, path: /api/*, upstream: app }}").unwrap();
        writeln!(text, "  - {{ host: {host}, upstream: app }}").unwrap();
    }
    text.push_str("  - { path: /any/*, upstream: app }\n");
    Router::new(&config::parse("bench.yaml", &text, Path::new("")).unwrap().routes)
}

#[divan::bench(args = [1, 10, 100])]
fn first(bencher: Bencher<'_, '_>, hosts: usize) {
    find(bencher, hosts, "host-000.example.com:8080", "/api/articles/42");
}

#[divan::bench(args = [1, 10, 100])]
fn last(bencher: Bencher<'_, '_>, hosts: usize) {
    find(bencher, hosts, "elsewhere.example.com", "/any/42");
}

#[divan::bench(args = [1, 10, 100])]
fn none(bencher: Bencher<'_, '_>, hosts: usize) {
    find(bencher, hosts, "elsewhere.example.com", "/articles/42");
}

fn find(bencher: Bencher<'_, '_>, hosts: usize, host: &str, path: &str) {
    let router = router(hosts);
    bencher.bench(|| router.find(black_box(host), black_box(path)));
}

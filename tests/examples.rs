//! The configurations that are shipped load, and the annotated ones say what they claim.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its files fails")]
#![allow(clippy::panic, reason = "a test with a file that does not load fails")]

use std::fs;
use std::path::{Path, PathBuf};

use seawall::config::{self, model::Config};

/// Every shipped configuration, in the order of the names.
fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
    found.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/container.yaml"));
    found.sort();
    found
}

fn load(path: &Path) -> Config {
    config::load(path).unwrap_or_else(|diagnostics| panic!("{diagnostics}"))
}

fn named(name: &str) -> Config {
    load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name))
}

#[test]
fn every_example_loads() {
    assert!(examples().len() >= 6);
    for path in examples() {
        let config = load(&path);
        assert!(!config.listeners.is_empty() && !config.routes.is_empty(), "{}", path.display());
    }
}

#[test]
fn every_example_says_first_what_it_is_for() {
    for path in examples() {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{} does not begin with a comment", path.display());
    }
}

#[test]
fn the_full_example_names_every_setting() {
    let text = named_text("everything.yaml");
    for row in config::reference().lines().skip(2) {
        let path = row.split('`').nth(1).unwrap();
        let key = path.trim_end_matches("[]").rsplit('.').next().unwrap();
        // A named section has any name: its own settings show it.
        if key == "*" {
            continue;
        }
        let set = text.contains(&format!("{key}:"));
        assert!(set, "config/everything.yaml does not set {path}");
    }
}

#[test]
fn the_full_example_has_the_defaults_where_it_says_so() {
    // Each line that ends in `# default` is one: without them the same configuration is loaded.
    let text = named_text("everything.yaml");
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let (kept, defaults): (Vec<_>, Vec<_>) =
        text.lines().partition(|line| !line.ends_with("# default"));
    assert!(defaults.len() >= 30, "only {} lines are marked", defaults.len());
    let whole = named("everything.yaml").describe();
    let without = config::parse("everything.yaml", &kept.join("\n"), &base);
    let without = without.unwrap_or_else(|diagnostics| panic!("{diagnostics}")).describe();
    assert_eq!(whole, without);
}

fn named_text(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)).unwrap()
}

#[test]
fn the_edge_speaks_tls_and_the_sidecar_stays_on_loopback() {
    assert!(named("tls-edge.yaml").listeners.iter().any(|listener| listener.tls.is_some()));
    let sidecar = named("sidecar.yaml");
    let endpoints: Vec<_> = sidecar.upstreams.iter().flat_map(|u| &u.endpoints).collect();
    assert!(endpoints.iter().all(|endpoint| &*endpoint.host == "127.0.0.1"));
}

#[test]
fn the_api_names_its_dependencies() {
    let config = named("api.yaml");
    assert!(config.routes.iter().any(|route| !route.policy.dependencies().is_empty()));
}

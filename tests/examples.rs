//! The configurations that are shipped load, and the annotated ones say what they claim.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its files fails")]
#![allow(clippy::panic, reason = "a test with a file that does not load fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use saphyr_parser::{Event, Parser};
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

/// Every path that a file sets, list entries as `[]`: `routes[].failures.profile`.
fn paths(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    // One entry per open map (its path, and the path that its next value has) or list.
    let mut open: Vec<(String, Option<String>)> = Vec::new();
    let mut is_map: Vec<bool> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, _) = event.unwrap();
        let begins = match (&event, open.last(), is_map.last()) {
            (Event::Scalar(key, ..), Some((path, None)), Some(true)) => {
                let dot = if path.is_empty() { "" } else { "." };
                let path = format!("{path}{dot}{key}");
                found.insert(path.clone());
                open.last_mut().unwrap().1 = Some(path);
                continue;
            }
            (_, Some((_, Some(path))), Some(true)) => path.clone(),
            (_, Some((path, _)), Some(false)) => format!("{path}[]"),
            _ => String::new(),
        };
        match event {
            Event::MappingStart(..) => {
                open.push((begins, None));
                is_map.push(true);
            }
            Event::SequenceStart(..) => {
                open.push((begins, None));
                is_map.push(false);
            }
            Event::MappingEnd | Event::SequenceEnd => {
                open.pop();
                is_map.pop();
                if let Some(top) = open.last_mut() {
                    top.1 = None;
                }
            }
            Event::Scalar(..) => {
                if let Some(top) = open.last_mut() {
                    top.1 = None;
                }
            }
            _ => {}
        }
    }
    found
}

#[test]
fn the_full_example_names_every_setting() {
    let set = paths(&named_text("everything.yaml"));
    for row in config::reference().lines().skip(2) {
        let path = row.split('`').nth(1).unwrap();
        // `*` is any name.
        let fits = |set: &String| {
            let (set, path): (Vec<_>, Vec<_>) =
                (set.split('.').collect(), path.split('.').collect());
            set.len() == path.len() && set.iter().zip(path).all(|(s, p)| p == "*" || *s == p)
        };
        assert!(set.iter().any(fits), "config/everything.yaml does not set {path}: {set:#?}");
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

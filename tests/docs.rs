//! What the README says is what the code does. Its tables are made from the code: between
//! `<!-- begin: NAME -->` and `<!-- end: NAME -->` stands exactly what this test makes.
//!
//! `SEAWALL_WRITE_DOCS=1 cargo test --test docs` writes them anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot read the README fails")]
#![allow(clippy::panic, reason = "a test that finds a difference fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use seawall::config;
use seawall::failure::policy::{AppErrors, Policy, Profile};
use seawall::failure::{ClientFailure, Failure, Kind, Phase};
use seawall::telemetry::metrics::family;

const REMEDY: &str = "SEAWALL_WRITE_DOCS=1 cargo test --test docs";

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap()
}

/// Where a section's content lies in the text.
fn section(text: &str, name: &str) -> std::ops::Range<usize> {
    let [begin, end] = ["begin", "end"].map(|word| format!("<!-- {word}: {name} -->\n"));
    let from = text.find(&begin).unwrap_or_else(|| panic!("README.md has no {begin}"));
    let from = from + begin.len();
    let length = text[from..].find(&end).unwrap_or_else(|| panic!("README.md has no {end}"));
    from..from + length
}

/// The tests of one binary run beside each other, and each may write its own section.
static README: Mutex<()> = Mutex::new(());

/// Compares a section of the README with what the code says, or writes it.
fn keep(name: &str, expected: &str) {
    let _guard = README.lock();
    let mut readme = read("README.md");
    let expected = format!("\n{expected}\n");
    let place = section(&readme, name);
    if readme[place.clone()] == expected {
        return;
    }
    if std::env::var_os("SEAWALL_WRITE_DOCS").is_some() {
        readme.replace_range(place, &expected);
        fs::write(file("README.md"), readme).unwrap();
        return;
    }
    let difference = expected
        .lines()
        .zip(readme[place].lines().chain(std::iter::repeat("(nothing)")))
        .find(|(ours, theirs)| ours != theirs)
        .map_or_else(String::new, |(ours, theirs)| {
            format!("\n  the code says:   {ours}\n  the README says: {theirs}")
        });
    panic!("README.md, section {name}, is not what the code says. Run: {REMEDY}{difference}");
}

/// The statuses that the policy gives to this kind, whatever the app itself answered.
fn statuses(policy: &Policy, kind: Kind) -> String {
    let phase = kind.phases()[0];
    let mut found = BTreeSet::from([policy.decide(&Failure::new(kind, phase)).status]);
    for received in 500..=504 {
        let failure = Failure::new(kind, phase).with_received_status(received);
        found.insert(policy.decide(&failure).status);
    }
    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
    found.join(", ")
}

fn failures() -> String {
    let internal = Policy::default();
    let gateway = Policy::new(Profile::Gateway, AppErrors::default(), Arc::new([]));
    let mut table = String::from(
        "| kind | what happened upstream | HTTP status | with `profile: gateway` | WebSocket close |\n\
         | --- | --- | --- | --- | --- |\n",
    );
    for kind in Kind::ALL {
        let after_upgrade = kind.phases().contains(&Phase::Websocket);
        let only_after_upgrade = kind.phases() == [Phase::Websocket];
        let status = |policy| match only_after_upgrade {
            true => "–".to_owned(),
            false => statuses(policy, *kind),
        };
        let close = match after_upgrade {
            true => internal.decide(&Failure::new(*kind, Phase::Websocket)).close_code.to_string(),
            false => "–".to_owned(),
        };
        table.push_str(&format!(
            "| `{kind}` | {} | {} | {} | {close} |\n",
            kind.description(),
            status(&internal),
            status(&gateway),
        ));
    }
    table
}

fn client_failures() -> String {
    let rows: Vec<_> = ClientFailure::ALL
        .iter()
        .filter_map(|failure| Some(format!("{} `{failure}`", failure.status()?)))
        .collect();
    format!("{}.\n", rows.join(", "))
}

#[test]
fn the_readme_tells_the_answer_to_every_kind() {
    let table = failures();
    for kind in Kind::ALL {
        assert_eq!(table.matches(&format!("\n| `{kind}` |")).count(), 1, "{kind}");
    }
    keep("failures", &table);
}

#[test]
fn the_readme_tells_the_status_of_every_client_failure() {
    keep("client failures", &client_failures());
}

#[test]
fn the_readme_lists_every_setting() {
    keep("configuration", &config::reference());
}

#[test]
fn the_readme_lists_every_metric() {
    keep("metrics", &family::reference());
}

#[test]
fn the_readme_shows_what_check_says() {
    let shown = read("tests/golden/five-mistakes.yaml");
    keep("five mistakes, file", &format!("```yaml\n{shown}```\n"));
    let said = config::parse("five-mistakes.yaml", &shown, Path::new("")).unwrap_err();
    keep("five mistakes, said", &format!("```text\n{said}\n```\n"));
}

/// Headings as GitHub makes anchors of them.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    let _guard = README.lock();
    for page in [
        "README.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "deploy/README.md",
        "deploy/prometheus/README.md",
        "deploy/kubernetes/README.md",
        "docs/scaling-out.md",
        "docs/migrating.md",
    ] {
        let text = read(page);
        let folder = file(page).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { file(page) } else { folder.join(path) };
            assert!(target.exists(), "{page} links to {link}, which is not there");
            if !fragment.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let found = text.lines().any(|l| l.starts_with('#') && anchor(l) == fragment);
                assert!(found, "{page} links to {link}, which has no such heading");
            }
        }
    }
}

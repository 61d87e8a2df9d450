//! The floor plan is kept: a module imports only what lies below it, and foreign errors are looked
//! into in one file only.

#![allow(clippy::unwrap_used, reason = "a test that cannot read the sources fails")]

use std::fs;
use std::path::{Path, PathBuf};

/// Which floor each module lives on; see the table in `src/lib.rs`.
const FLOORS: &[(&str, u8)] = &[
    ("failure", 0),
    ("message", 0),
    ("config", 1),
    ("telemetry", 2),
    ("upstream", 3),
    ("websocket", 3),
    ("forward", 4),
    ("route", 4),
    ("listen", 5),
    ("admin", 5),
    ("demo", 5),
    ("server", 6),
    ("failures", 6),
    ("command", 7),
];

/// What the plan allows besides: `forward` joins `route` on its own floor; the demonstration starts
/// a whole seawall.
const ALLOWED: &[(&str, &str)] = &[("forward", "route"), ("demo", "server")];

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&src, &mut found);
    let relative = |path: &Path| path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
    found.iter().map(|path| (relative(path), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn modules_import_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    for (file, text) in all_sources() {
        let module = file.split(['/', '.']).next().unwrap();
        let Some(own) = floor(module) else { continue };
        // Tests may start anything.
        let code = text.split("#[cfg(test)]").next().unwrap();
        for (number, line) in code.lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            let Some((_, path)) = line.split_once("crate::") else { continue };
            let other = path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            let Some(theirs) = floor(other) else { continue };
            let allowed = other == module || theirs < own || ALLOWED.contains(&(module, other));
            if !allowed {
                wrong.push(format!("src/{file}:{}: {module} uses {other}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn foreign_errors_are_looked_into_in_one_file_only() {
    const LOOKS: &[&str] =
        &["downcast_ref", ".is_parse()", ".is_timeout()", ".is_incomplete_message()", ".is_user()"];
    for (file, text) in all_sources() {
        if file == "failure/classify.rs" {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap();
        for look in LOOKS {
            assert!(!code.contains(look), "src/{file} uses {look}");
        }
    }
}

//! Every mistake in a configuration is told with its place and its remedy: `tests/golden/NAME.yaml`
//! gives exactly `tests/golden/NAME.txt`.
//!
//! `SEAWALL_WRITE_DOCS=1 cargo test --test golden` writes the texts anew; read the difference before
//! it is committed.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its files fails")]

use std::fs;
use std::path::{Path, PathBuf};

const REMEDY: &str = "SEAWALL_WRITE_DOCS=1 cargo test --test golden";

/// Every bad configuration, in the order of the names.
fn bad_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
    found.sort();
    found
}

/// What `seawall check` would say of it. Relative paths begin nowhere, so that the texts do not
/// depend on where the repository lies.
fn said(path: &Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    match seawall::config::parse(name, &fs::read_to_string(path).unwrap(), Path::new("")) {
        Ok(_) => format!("{name} is valid\n"),
        Err(diagnostics) => format!("{diagnostics}\n"),
    }
}

#[test]
fn every_bad_configuration_gives_exactly_its_message() {
    let write = std::env::var_os("SEAWALL_WRITE_DOCS").is_some();
    let mut wrong = Vec::new();
    for path in bad_files() {
        let (said, golden) = (said(&path), path.with_extension("txt"));
        if write {
            fs::write(&golden, said).unwrap();
        } else if fs::read_to_string(&golden).ok().as_deref() != Some(&*said) {
            wrong.push(format!("{} is not what is said now:\n{said}", golden.display()));
        }
    }
    assert!(wrong.is_empty(), "{}\nIf this is what is meant, run: {REMEDY}", wrong.join("\n"));
}

#[test]
fn every_message_belongs_to_a_file_that_is_bad() {
    let files = bad_files();
    assert!(files.len() >= 12, "only {} bad configurations", files.len());
    for path in files {
        assert!(!said(&path).ends_with("is valid\n"), "{} is valid", path.display());
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.with_extension("yaml").exists(), "{} has no file", path.display());
    }
}

#[test]
fn the_file_with_five_mistakes_gives_five_errors_with_place_and_remedy() {
    let text = include_str!("golden/five-mistakes.yaml");
    let diagnostics =
        seawall::config::parse("five-mistakes.yaml", text, Path::new("")).unwrap_err();
    assert_eq!(diagnostics.problems().len(), 5, "{diagnostics}");
    for problem in diagnostics.problems() {
        assert!(problem.span.line > 0 && problem.span.column > 0, "{}", problem.message);
        assert!(problem.remedy.is_some(), "{} has no remedy", problem.message);
    }
}

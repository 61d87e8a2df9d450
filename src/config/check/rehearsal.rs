//! The secret with which clients may ask for failures.

use std::fs;
use std::sync::Arc;

use super::super::scope::Scope;
use super::{Base, wrong};

/// Fewer characters can be guessed.
const LEAST: usize = 16;
/// More are no secret but a mistake.
const MOST: usize = 1024;

pub(super) fn secret(root: &Scope<'_>, base: Base<'_>) -> Option<Arc<str>> {
    let section = root.section("rehearsal", "Failures on demand, for routes with rehearse: true.");
    let meaning = "The file whose first line is what a request must know to ask for a failure: 16 characters or more.";
    let file = section.text("secret_file", "file", None, meaning);
    let found = file.and_then(|file| match fs::read_to_string(base.0.join(&*file.value)) {
        Ok(text) => {
            let line = text.lines().next().unwrap_or_default().trim();
            let usable = is_usable(line);
            if !usable {
                let remedy = "put 16 to 1024 characters of plain ASCII into its first line";
                wrong(&section, "secret_file", &file, remedy);
            }
            usable.then(|| line.into())
        }
        Err(error) => {
            wrong(&section, "secret_file", &file, &format!("the file cannot be read: {error}"));
            None
        }
    });
    section.finish();
    found
}

/// A secret must fit into a string of a structured field (RFC 9651 §3.3.3).
fn is_usable(secret: &str) -> bool {
    (LEAST..=MOST).contains(&secret.len())
        && secret.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

//! Floor 1: the configuration, from YAML to resolved values.
//!
//! ```text
//! text ─► raw (positions kept) ─► scope + check (all problems at once) ─► model (what runs)
//!                                    └──► schema, reference: the same lines of code, described
//! ```
//!
//! Never panics on input; a bad file changes nothing.

mod check;
mod describe;
pub mod diagnostic;
pub mod model;
pub mod pem;
mod raw;
mod schema;
mod scope;
mod units;

use std::fs;
use std::path::{Path, PathBuf};

pub use diagnostic::Diagnostics;
use diagnostic::Problem;
use model::Config;
use raw::Span;
use scope::{Collected, Scope, Setting};

/// Where a configuration is looked for when none is named, in this order.
#[must_use]
pub fn default_paths() -> [PathBuf; 2] {
    ["seawall.yaml", "/etc/seawall/seawall.yaml"].map(PathBuf::from)
}

/// Loads a file.
///
/// # Errors
/// Every problem of the file, or that it cannot be read.
pub fn load(path: &Path) -> Result<Config, Diagnostics> {
    let name = path.display().to_string();
    match fs::read_to_string(path) {
        Ok(text) => parse(&name, &text, path.parent().unwrap_or(Path::new(""))),
        Err(error) => {
            let problem = Problem::new(Span::default(), &format!("cannot read the file: {error}"));
            Err(Diagnostics::new(&name, "", vec![problem]))
        }
    }
}

/// Parses a file's text. Relative paths in it begin at `base`.
///
/// # Errors
/// Every problem of the text.
pub fn parse(file_name: &str, text: &str, base: &Path) -> Result<Config, Diagnostics> {
    let failed = |problems| Err(Diagnostics::new(file_name, text, problems));
    let root = match raw::read(text) {
        Ok(root) => root,
        Err(problem) => return failed(vec![problem]),
    };
    let collected = Collected::default();
    let config = check::config(Scope::root(&root, &collected), check::Base(base));
    let problems = collected.problems.into_inner();
    if problems.is_empty() { Ok(config) } else { failed(problems) }
}

impl Config {
    /// A configuration without a file: everything goes to one upstream.
    ///
    /// # Errors
    /// What is wrong with either argument.
    pub fn for_upstream(upstream: &str, listen: Option<&str>) -> Result<Self, Diagnostics> {
        let failed = |argument: &str, value: &str, remedy: &str| {
            let problem = Problem::new(Span::default(), &format!("cannot be {value:?}"));
            Diagnostics::new(argument, "", vec![problem.remedy(remedy)])
        };
        let endpoint = check::parse_endpoint(upstream)
            .map_err(|remedy| failed("--upstream", upstream, &remedy))?;
        let listen = listen.unwrap_or("127.0.0.1:8080");
        let address =
            check::parse_address(listen).map_err(|remedy| failed("--listen", listen, &remedy))?;
        // Built from text, so that every default is the one of a file.
        let text = format!(
            "listeners: [{{ address: \"{address}\" }}]\n\
             upstreams: {{ app: {{ endpoints: [\"{}\"] }} }}\n\
             routes: [{{ upstream: app }}]\n",
            endpoint.label
        );
        parse("the command line", &text, Path::new(""))
    }
}

fn settings() -> Vec<Setting> {
    let collected = Collected::default();
    let _ = check::config(Scope::describing(&collected), check::Base(Path::new("")));
    collected.settings.into_inner()
}

/// The JSON Schema of a configuration file.
#[must_use]
pub fn schema() -> serde_json::Value {
    schema::schema(&settings())
}

/// The reference for the README, in Markdown.
#[must_use]
pub fn reference() -> String {
    schema::reference(&settings())
}

#[cfg(test)]
mod tests;

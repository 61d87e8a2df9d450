//! What is wrong with a configuration, said so that it can be mended: the place, the line, the
//! remedy. All problems at once.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use super::raw::Span;

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where; the default span is the file as a whole.
    pub span: Span,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Problem {
    /// A problem at this place.
    #[must_use]
    pub fn new(span: Span, message: &str) -> Self {
        Problem { span, message: message.to_owned(), remedy: None }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: &str) -> Self {
        self.remedy = Some(remedy.to_owned());
        self
    }
}

/// Every problem of one configuration.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    source: String,
    lines: Vec<String>,
    problems: Vec<Problem>,
}

impl Diagnostics {
    /// The problems of the file, or argument, named `source`.
    #[must_use]
    pub fn new(source: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| (problem.span.line, problem.span.column));
        Diagnostics {
            source: source.to_owned(),
            lines: text.lines().map(str::to_owned).collect(),
            problems,
        }
    }

    /// Every problem, in the order of the file.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            let Span { line, column, length } = problem.span;
            if line == 0 {
                writeln!(f, "{}: {}", self.source, masked(&problem.message))?;
            } else {
                writeln!(f, "{}:{line}:{column}: {}", self.source, masked(&problem.message))?;
                if let Some(text) = self.lines.get(line - 1) {
                    let mut gutter = String::new();
                    write!(gutter, "{line:>5} | ")?;
                    writeln!(f, "{gutter}{}", masked(text))?;
                    // Tabs keep their width, so that the caret stands under the right character.
                    let lead: String = text
                        .chars()
                        .take(column - 1)
                        .map(|c| if c == '\t' { '\t' } else { ' ' })
                        .collect();
                    writeln!(f, "{:>5} | {lead}{}", "", "^".repeat(length))?;
                }
            }
            if let Some(remedy) = &problem.remedy {
                writeln!(f, "{:>5} = {remedy}", "")?;
            }
        }
        let count = self.problems.len();
        write!(f, "{count} error{} in {}", if count == 1 { "" } else { "s" }, self.source)
    }
}

impl std::error::Error for Diagnostics {}

/// The text with stars for what stands before the `@` of a URL (RFC 3986 §3.2.1): what `check` says is
/// read by more people than a configuration. As many characters as before, for the carets.
fn masked(text: &str) -> Cow<'_, str> {
    let mut masked = Cow::Borrowed(text);
    let mut from = 0;
    while let Some(start) = masked.get(from..).and_then(|rest| rest.find("://")) {
        from += start + 3;
        let rest = masked.get(from..).unwrap_or_default();
        let end = rest.find(|c: char| c.is_whitespace() || "/?#\"'".contains(c));
        let authority = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        if let Some(at) = authority.rfind('@') {
            let user = authority.get(..at).unwrap_or_default();
            let stars = "*".repeat(user.chars().count());
            masked.to_mut().replace_range(from..from + at, &stars);
        }
    }
    masked
}

/// The known word nearest to this one, if one is near enough to be meant.
#[must_use]
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

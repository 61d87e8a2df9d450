//! What the app said about itself: is this answer a failure, whose, and may it pass?
//!
//! The station after a response head, for every upstream that answered. [`judge`] decides from the
//! head alone and asks for the content only where it matters; [`inspect`] decides with the first
//! [`INSPECT_BYTES`] of it. Both are pure, linear in what they read, and silent on healthy
//! traffic: below 500 a judgement is one comparison, unless a configured rule lists such a status.
//!
//! | the app answered | `replace` | `scrub` | `pass` |
//! | --- | --- | --- | --- |
//! | a configured dependency rule matches | dependency | dependency | passed |
//! | 502, 503, 504, or a 5xx with `Proxy-Status: …; error=` | dependency | dependency | passed |
//! | 500 with a trace, empty, or unreadable | app | app | passed |
//! | 500 with a deliberate body | app | passed | passed |
//! | another 5xx with a trace, or unreadable | app | app | healthy |
//! | another 5xx | healthy | healthy | healthy |
//!
//! "dependency" and "app" are replaced by our answer as `dependency_failure` and
//! `application_error`; "passed" reaches the client and is counted with outcome `passed`. Another
//! 5xx (501, 505, 507, 511 …) is something that an app says on purpose, about the request rather
//! than about itself; only a trace makes it a failure.
//!
//! Unreadable is content with a `Content-Encoding`, and a 500 of which no byte came in time: what
//! cannot be judged is not shown (P4). `readable` is the one place that decides it, so that a
//! decoder can widen it. Labels come from configuration and from [`trace::TRACES`] only.

mod text;
pub mod trace;

use std::sync::Arc;

use http::header::{CONTENT_ENCODING, HeaderMap};

use super::Kind;
use super::policy::{AppErrors, DependencyRule, Policy};

/// How much content a judgement looks at, and how much evidence is kept.
pub const INSPECT_BYTES: usize = 8 * 1024;

/// What was found in an app's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// [`Kind::ApplicationError`] or [`Kind::DependencyFailure`].
    pub kind: Kind,
    /// The name of the rule that matched.
    pub dependency: Option<Arc<str>>,
    /// Whose stack trace or debug page was seen: one of [`trace::TRACES`].
    pub trace: Option<&'static str>,
}

/// What becomes of an app's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No failure: it passes and is not counted.
    Healthy,
    /// A failure that policy lets through: it passes and is counted with outcome `passed`.
    Passed(Finding),
    /// A failure: our own answer takes its place.
    Replace(Finding),
}

/// What the head of a response tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The head suffices.
    Known(Verdict),
    /// The first [`INSPECT_BYTES`] of the content decide: call [`inspect`].
    Inspect,
}

/// Compiles what detection needs, which otherwise the first 5xx answer of the process waits for:
/// some milliseconds. To be called once when the server starts.
pub fn prepare() {
    let _ = trace::detect(b"Error");
}

/// Judges an answer by its head.
#[must_use]
pub fn judge(policy: &Policy, status: u16, fields: &HeaderMap) -> Judgement {
    if status < 500 && !policy.judges_below_500() {
        return Judgement::Known(Verdict::Healthy);
    }
    let readable = readable(fields);
    for rule in policy.dependencies() {
        if !matches_head(rule, status, fields) {
            continue;
        }
        match rule.body {
            None => return Judgement::Known(dependency(policy, Some(&rule.name))),
            // An earlier rule wins over a later one, so the content has to be seen first.
            Some(_) if readable => return Judgement::Inspect,
            Some(_) => {}
        }
    }
    match by_status(policy, status, fields) {
        ByStatus::Known(verdict) => Judgement::Known(verdict),
        ByStatus::Content if readable => Judgement::Inspect,
        ByStatus::Content => Judgement::Known(Verdict::Replace(application(None))),
    }
}

/// Judges an answer by its head and the beginning of its content.
///
/// `whole` says that `prefix` is all of the content. Only the first [`INSPECT_BYTES`] are read. A
/// caller that got less than that in time passes what it has. For HEAD, whose answers have no
/// content, a 500 is therefore always replaced by ours: one 500 for another.
#[must_use]
pub fn inspect(
    policy: &Policy,
    status: u16,
    fields: &HeaderMap,
    prefix: &[u8],
    whole: bool,
) -> Verdict {
    if status < 500 && !policy.judges_below_500() {
        return Verdict::Healthy;
    }
    let (prefix, whole) = match prefix.get(..INSPECT_BYTES) {
        Some(first) if prefix.len() > INSPECT_BYTES => (first, false),
        _ => (prefix, whole),
    };
    let readable = readable(fields);
    let rule = policy.dependencies().iter().find(|rule| {
        matches_head(rule, status, fields)
            && rule.body.as_ref().is_none_or(|body| readable && body.is_match(prefix))
    });
    if let Some(rule) = rule {
        let mut verdict = dependency(policy, Some(&rule.name));
        if let Verdict::Replace(finding) = &mut verdict {
            finding.trace = readable.then(|| trace::detect(prefix)).flatten();
        }
        return verdict;
    }
    match by_status(policy, status, fields) {
        ByStatus::Known(verdict) => verdict,
        ByStatus::Content => by_content(status, readable.then_some(prefix), whole),
    }
}

/// What the status says when no rule matched.
enum ByStatus {
    Known(Verdict),
    Content,
}

fn by_status(policy: &Policy, status: u16, fields: &HeaderMap) -> ByStatus {
    let app_errors = policy.app_errors();
    ByStatus::Known(match status {
        ..500 => Verdict::Healthy,
        502..=504 => dependency(policy, None),
        _ if blames_another(fields) => dependency(policy, None),
        500 => match app_errors {
            AppErrors::Replace => Verdict::Replace(application(None)),
            AppErrors::Scrub => return ByStatus::Content,
            AppErrors::Pass => Verdict::Passed(application(None)),
        },
        _ => match app_errors {
            AppErrors::Replace | AppErrors::Scrub => return ByStatus::Content,
            AppErrors::Pass => Verdict::Healthy,
        },
    })
}

/// `None` is content that cannot be read.
fn by_content(status: u16, content: Option<&[u8]>, whole: bool) -> Verdict {
    let Some(content) = content else { return Verdict::Replace(application(None)) };
    if let Some(name) = trace::detect(content) {
        return Verdict::Replace(application(Some(name)));
    }
    // An empty 500 gets a body; one of which nothing came in time cannot be judged.
    let nothing = if whole { content.trim_ascii().is_empty() } else { content.is_empty() };
    match (status, nothing) {
        (500, true) => Verdict::Replace(application(None)),
        (500, false) => Verdict::Passed(application(None)),
        _ => Verdict::Healthy,
    }
}

fn application(trace: Option<&'static str>) -> Finding {
    Finding { kind: Kind::ApplicationError, dependency: None, trace }
}

fn dependency(policy: &Policy, name: Option<&Arc<str>>) -> Verdict {
    let finding = Finding { kind: Kind::DependencyFailure, dependency: name.cloned(), trace: None };
    match policy.app_errors() {
        AppErrors::Pass => Verdict::Passed(finding),
        AppErrors::Replace | AppErrors::Scrub => Verdict::Replace(finding),
    }
}

/// Do the conditions on status and fields hold?
fn matches_head(rule: &DependencyRule, status: u16, fields: &HeaderMap) -> bool {
    let status_holds = match rule.status.as_slice() {
        [] => (500..600).contains(&status),
        listed => listed.contains(&status),
    };
    let field_holds = || {
        rule.field.as_ref().is_none_or(|(name, pattern)| {
            fields.get_all(name).iter().any(|value| pattern.is_match(value.as_bytes()))
        })
    };
    status_holds && field_holds()
}

/// Can the content be read as it is? Not behind a coding other than `identity`.
fn readable(fields: &HeaderMap) -> bool {
    fields.get_all(CONTENT_ENCODING).iter().all(|value| {
        value.as_bytes().split(|byte| *byte == b',').all(|coding| {
            let coding = coding.trim_ascii();
            coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")
        })
    })
}

/// Does a `Proxy-Status` field say that something behind the app failed (RFC 9209 §2.1.1)?
/// A field that is no structured list says nothing.
fn blames_another(fields: &HeaderMap) -> bool {
    fields.get_all("proxy-status").iter().any(|value| {
        let parsed: Result<sfv::List, _> = sfv::Parser::new(value.as_bytes()).parse();
        parsed.is_ok_and(|members| {
            members.iter().any(|member| match member {
                sfv::ListEntry::Item(item) => item.params.contains_key("error"),
                sfv::ListEntry::InnerList(_) => false,
            })
        })
    })
}

#[cfg(test)]
mod tests;

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
//! Encoded content is judged by what it decodes to. Unreadable is content under a coding that
//! `decode` does not know or that turns out malformed, and a 500 of which no byte came in time:
//! what cannot be judged is not shown (P4). Labels come from configuration and from
//! [`trace::TRACES`] only.

mod decode;
mod text;
pub mod trace;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderMap;

use super::Kind;
use super::policy::{AppErrors, DependencyRule, Policy};

/// How much content a judgement looks at, as it was sent, and how much evidence is kept.
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

/// Whether an answer with this status is healthy, whatever its fields are.
#[must_use]
pub fn says_nothing(policy: &Policy, status: u16) -> bool {
    status < 500 && !policy.judges_below_500()
}

/// Judges an answer by its head.
#[must_use]
pub fn judge(policy: &Policy, status: u16, fields: &HeaderMap) -> Judgement {
    if says_nothing(policy, status) {
        return Judgement::Known(Verdict::Healthy);
    }
    let readable = decode::codings(fields).is_some();
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
/// `whole` says that `prefix` is all of the content. Only the first [`INSPECT_BYTES`] are read, and
/// decoded where the fields tell a coding. A caller that got less than that in time passes what it has. For HEAD, whose answers have no
/// content, a 500 is therefore always replaced by ours: one 500 for another.
#[must_use]
pub fn inspect(
    policy: &Policy,
    status: u16,
    fields: &HeaderMap,
    prefix: &[u8],
    whole: bool,
) -> Verdict {
    if says_nothing(policy, status) {
        return Verdict::Healthy;
    }
    let read = first(prefix);
    let whole = whole && read.len() == prefix.len();
    let content = content(fields, read);
    let rule = policy.dependencies().iter().find(|rule| {
        matches_head(rule, status, fields)
            && rule
                .body
                .as_ref()
                .is_none_or(|body| content.as_ref().is_some_and(|content| body.is_match(content)))
    });
    if let Some(rule) = rule {
        let mut verdict = dependency(policy, Some(&rule.name));
        if let Verdict::Replace(finding) = &mut verdict {
            finding.trace = content.as_deref().and_then(trace::detect);
        }
        return verdict;
    }
    match by_status(policy, status, fields) {
        ByStatus::Known(verdict) => verdict,
        ByStatus::Content => by_content(status, content.as_deref(), whole),
    }
}

/// What is kept of the content of a failure, for the log and the journal: the first
/// [`INSPECT_BYTES`] of its text, or of the content as it was sent where that cannot be decoded.
#[must_use]
pub fn evidence(fields: &HeaderMap, prefix: Bytes) -> Bytes {
    match content(fields, first(&prefix)) {
        Some(Cow::Owned(mut text)) => {
            text.truncate(INSPECT_BYTES);
            text.into()
        }
        Some(Cow::Borrowed(_)) | None => prefix.slice(..prefix.len().min(INSPECT_BYTES)),
    }
}

fn first(prefix: &[u8]) -> &[u8] {
    prefix.get(..INSPECT_BYTES).unwrap_or(prefix)
}

/// The text of the content that `prefix` begins. `None`: it cannot be read.
fn content<'a>(fields: &HeaderMap, prefix: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    decode::decode(decode::codings(fields)?, prefix)
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

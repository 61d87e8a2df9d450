//! Rehearsed failures: a client team asks for one, by name, and sees what a real one would look
//! like.
//!
//! A request asks with one field, a structured item (RFC 9651):
//!
//! ```text
//! Seawall-Rehearse: connection_terminated; after=3; secret="…"
//! ```
//!
//! Without `after` the request is answered with the failure and reaches no upstream. With it, the
//! response is cut off after so many bytes of content, or the WebSocket after so many messages of
//! the upstream. A field without the right secret is as if it were not there, so that nobody can
//! tell a route that rehearses from one that does not. A rehearsed failure looks like a real one to
//! the client, but for `details="rehearsal"` in `Proxy-Status`, and is counted apart.

use std::error::Error;
use std::fmt;

use http::HeaderName;

use super::{Failure, Kind};

/// The field that asks for a rehearsal. No upstream ever sees it.
pub const FIELD: HeaderName = HeaderName::from_static("seawall-rehearse");

/// A failure that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rehearsal {
    /// What shall happen.
    pub kind: Kind,
    /// After how many bytes of response content, or messages of a WebSocket; `None` is instead of
    /// any response.
    pub after: Option<u64>,
}

/// A field with the right secret that asks for nothing known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;

impl Rehearsal {
    /// What a field asks for; `None` without the secret.
    ///
    /// # Errors
    /// If the secret is right and the rest is not.
    pub fn read(field: &[u8], secret: &str) -> Result<Option<Self>, Unknown> {
        let Ok(item) = sfv::Parser::new(field).parse::<sfv::Item>() else { return Ok(None) };
        let given = item.params.get("secret").and_then(|given| given.as_string());
        if !given.is_some_and(|given| is_same(given.as_str().as_bytes(), secret.as_bytes())) {
            return Ok(None);
        }
        let kind = item.bare_item.as_token().and_then(|kind| Kind::from_name(kind.as_str()));
        let after = match item.params.get("after") {
            None => None,
            Some(count) => {
                let count = count.as_integer().and_then(|count| u64::try_from(count).ok());
                Some(count.ok_or(Unknown)?)
            }
        };
        Ok(Some(Rehearsal { kind: kind.ok_or(Unknown)?, after }))
    }

    /// The failure.
    pub fn failure(self) -> Failure {
        // Every kind has a phase; the last one is where content and messages are.
        let phases = self.kind.phases();
        let phase = if self.after.is_some() { phases.last() } else { phases.first() };
        let phase = phase.copied().unwrap_or(super::Phase::Head);
        Failure::new(self.kind, phase).with_source(Rehearsed(self.kind))
    }
}

/// The source error of a rehearsed failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rehearsed(pub Kind);

impl fmt::Display for Rehearsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a rehearsal of {}", self.0)
    }
}

impl Error for Rehearsed {}

/// In a time that depends on the lengths alone, so that the secret cannot be guessed byte by byte.
#[must_use]
pub fn is_same(given: &[u8], secret: &[u8]) -> bool {
    let pairs = given.iter().zip(secret);
    let difference = pairs.fold(0, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
    given.len() == secret.len() && !secret.is_empty() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "correct horse battery";

    fn read(field: &str) -> Result<Option<Rehearsal>, Unknown> {
        Rehearsal::read(field.as_bytes(), SECRET)
    }

    #[test]
    fn every_kind_can_be_asked_for() {
        for kind in Kind::ALL {
            let field = format!("{kind};secret=\"{SECRET}\"");
            assert_eq!(read(&field), Ok(Some(Rehearsal { kind: *kind, after: None })));
            let field = format!("{kind}; after=3; secret=\"{SECRET}\"");
            assert_eq!(read(&field), Ok(Some(Rehearsal { kind: *kind, after: Some(3) })));
        }
    }

    #[test]
    fn without_the_secret_nothing_is_asked_for() {
        for field in [
            "connection_refused",
            "connection_refused; secret=\"\"",
            "connection_refused; secret=\"correct horse batter\"",
            "connection_refused; secret=\"correct horse battery \"",
            "connection_refused; secret=correct",
            "connection_refused; secret=:Y29ycmVjdA==:",
            "nonsense",
            "",
            "\"",
            "connection_refused; secret=\"correct horse battery",
        ] {
            assert_eq!(read(field), Ok(None), "{field}");
        }
        assert_eq!(Rehearsal::read(b"connection_refused; secret=\"\"", ""), Ok(None));
    }

    #[test]
    fn with_the_secret_a_mistake_is_told() {
        for begin in ["no_such_kind", "7", "connection_refused;after=-1", "dns_error;after=x"] {
            let field = format!("{begin};secret=\"{SECRET}\"");
            assert_eq!(read(&field), Err(Unknown), "{field}");
        }
    }
}

//! The last event of an event stream whose upstream failed (HTML standard, "Server-sent events").
//!
//! Its data is the problem document that a response of its own would have had. After it the stream
//! is cut off all the same: a browser reconnects by itself then, and tells what to resume from.

use bytes::Bytes;

use super::super::Failure;
use super::super::policy::Decision;
use super::accept::MediaType;
use super::content;

/// An `error` event for this failure.
#[must_use]
pub fn sse(failure: &Failure, decision: Decision, request_id: &str) -> Bytes {
    let problem = content::of_kind(failure.kind())
        .map(|page| page.body(MediaType::Problem, decision.status, request_id));
    // The document is one line and ends with a line feed; the second one ends the event.
    [b"event: error\ndata: ", problem.unwrap_or_default().trim_ascii_end(), b"\n\n"].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;

    #[test]
    fn every_kind_is_one_event_of_one_line_of_json() {
        for kind in Kind::ALL {
            let failure = Failure::new(*kind, kind.phases()[0]).with_source("secret".to_owned());
            let decision = Decision { status: 500, close_code: 1011 };
            let event = sse(&failure, decision, "id-1");
            let text = std::str::from_utf8(&event).unwrap();
            let data = text.strip_prefix("event: error\ndata: ").unwrap();
            let data = data.strip_suffix("\n\n").unwrap();
            assert!(!data.contains('\n') && !data.contains("secret"));
            let problem: serde_json::Value = serde_json::from_str(data).unwrap();
            assert_eq!(problem["type"], format!("urn:seawall:failure:{kind}"));
            assert_eq!((&problem["status"], &problem["instance"]), (&500.into(), &"id-1".into()));
        }
    }
}

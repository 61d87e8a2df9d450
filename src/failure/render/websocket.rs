//! The Close frame of a failure (RFC 6455 §5.5.1): code and a reason that names the kind.

use super::super::Failure;
use super::super::policy::Decision;

/// Bytes of a Close reason: 125 of a control frame (RFC 6455 §5.5) less 2 of the code.
const REASON_MAX: usize = 123;

/// A Close frame that seawall sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseFrame {
    /// A code that may be on the wire (RFC 6455 §7.4).
    pub code: u16,
    /// At most 123 bytes; [`CloseFrame::payload`] cuts a longer one.
    pub reason: String,
}

impl CloseFrame {
    /// A Close frame with this code; the reason is cut to what fits.
    #[must_use]
    pub fn new(code: u16, mut reason: String) -> Self {
        reason.truncate(fitting(&reason).len());
        CloseFrame { code, reason }
    }

    /// The payload: the code in network order, then the reason. 2 to 125 bytes.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        let reason = fitting(&self.reason);
        let mut payload = Vec::with_capacity(2 + reason.len());
        payload.extend_from_slice(&self.code.to_be_bytes());
        payload.extend_from_slice(reason.as_bytes());
        payload
    }

    /// The whole frame as a server sends it, unmasked: at most 127 bytes.
    #[must_use]
    pub fn encode_unmasked(&self) -> Vec<u8> {
        const FIN_CLOSE: u8 = 0x88;
        let reason = fitting(&self.reason);
        let length = 2 + reason.len();
        let mut frame = Vec::with_capacity(2 + length);
        // `fitting` keeps the length below 126, where it is one byte (RFC 6455 §5.2).
        frame.extend_from_slice(&[FIN_CLOSE, u8::try_from(length).unwrap_or(125)]);
        frame.extend_from_slice(&self.code.to_be_bytes());
        frame.extend_from_slice(reason.as_bytes());
        frame
    }
}

/// The longest part of a reason that fits, cut between characters: a reason must be UTF-8.
fn fitting(reason: &str) -> &str {
    reason.get(..reason.floor_char_boundary(REASON_MAX)).unwrap_or_default()
}

/// May an endpoint send this code? RFC 6455 §7.4, with 1012–1014 of the IANA registry.
fn sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The Close frame that tells a client of this failure.
///
/// The reason is the kind's name and the request id, so that a client's log leads to ours. It has
/// nothing of the upstream (P4). A decision whose code may not be on the wire closes with 1011.
#[must_use]
pub fn websocket(failure: &Failure, decision: Decision, request_id: &str) -> CloseFrame {
    let code = if sendable(decision.close_code) { decision.close_code } else { 1011 };
    let kind = failure.kind().name();
    let id = fitting(request_id);
    let mut reason = String::with_capacity(kind.len() + "; request ".len() + id.len());
    reason.push_str(kind);
    if !id.is_empty() {
        reason.push_str("; request ");
        reason.push_str(id);
    }
    CloseFrame::new(code, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;

    const DECISION: Decision = Decision { status: 500, close_code: 1011 };

    fn failure(kind: Kind) -> Failure {
        Failure::new(kind, kind.phases()[0])
            .with_source("secret source".to_string())
            .at_endpoint(&"http://10.1.2.3:3000".into())
            .at_upstream(&"secret-upstream".into())
    }

    #[test]
    fn every_kind_closes_with_its_name_and_the_request_id_only() {
        for kind in Kind::ALL {
            let close = websocket(&failure(*kind), DECISION, "01ABC");
            assert_eq!(close.code, 1011);
            assert_eq!(close.reason, format!("{kind}; request 01ABC"));
        }
    }

    #[test]
    fn a_close_frame_never_exceeds_a_control_frame() {
        // Ids of 0 to 300 characters, of one to four bytes each.
        for letter in ['a', 'ß', '€', '🌊'] {
            for count in [0, 1, 20, 29, 30, 31, 60, 90, 91, 92, 93, 94, 123, 124, 300] {
                let id: String = std::iter::repeat_n(letter, count).collect();
                for kind in Kind::ALL {
                    let close = websocket(&failure(*kind), DECISION, &id);
                    assert!(close.reason.len() <= REASON_MAX, "{kind} {letter} {count}");
                    assert!(close.reason.starts_with(kind.name()));
                    let frame = close.encode_unmasked();
                    assert_eq!(frame[0], 0x88);
                    assert_eq!(usize::from(frame[1]), frame.len() - 2);
                    assert!(frame[1] <= 125);
                    assert_eq!(frame[2..], close.payload());
                    assert!(std::str::from_utf8(&frame[4..]).is_ok());
                }
            }
        }
    }

    #[test]
    fn a_reason_set_by_hand_is_cut_when_encoded() {
        let close = CloseFrame { code: 1011, reason: "ß".repeat(100) };
        assert_eq!(close.payload().len(), 2 + 122);
        assert_eq!(close.encode_unmasked().len(), 2 + 2 + 122);
    }

    #[test]
    fn the_bytes_are_those_of_rfc_6455() {
        let close = CloseFrame::new(1011, "x".into());
        assert_eq!(close.encode_unmasked(), [0x88, 3, 0x03, 0xf3, b'x']);
    }

    #[test]
    fn a_code_that_may_not_be_on_the_wire_becomes_1011() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
            let decision = Decision { status: 500, close_code: code };
            let close = websocket(&failure(Kind::ConnectionTerminated), decision, "id");
            assert_eq!(close.code, 1011, "{code}");
        }
        for code in [1001, 1011, 1012, 1013, 1014, 4000] {
            let decision = Decision { status: 500, close_code: code };
            let close = websocket(&failure(Kind::ConnectionTerminated), decision, "id");
            assert_eq!(close.code, code);
        }
    }
}

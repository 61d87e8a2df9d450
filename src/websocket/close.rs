//! Close frames: which codes may be on the wire (RFC 6455 §7.4 and the IANA registry), and what
//! becomes of each.

/// The payload of a Close frame, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Close {
    /// No payload: no code was given.
    Empty,
    /// A code that may be on the wire, and its reason.
    Code(u16, String),
    /// One byte, a code that may not be on the wire, or a reason that is not UTF-8.
    Illegal,
}

impl Close {
    /// Takes an unmasked payload apart.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Self {
        match payload {
            [] => Close::Empty,
            [high, low, reason @ ..] => {
                let code = u16::from_be_bytes([*high, *low]);
                match std::str::from_utf8(reason) {
                    Ok(reason) if may_be_sent(code) => Close::Code(code, reason.to_owned()),
                    _ => Close::Illegal,
                }
            }
            [_] => Close::Illegal,
        }
    }

    /// The code as it is counted: 1005 for none, 1006 for what should not have been sent.
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            Close::Empty => 1005,
            Close::Code(code, _) => *code,
            Close::Illegal => 1006,
        }
    }
}

/// Whether an endpoint may send this code.
#[must_use]
pub fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The payload of a Close frame.
#[must_use]
pub fn payload(code: u16, reason: &str) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_legal_or_not() {
        for code in 0..=u16::MAX {
            let legal = matches!(
                code,
                1000 | 1001 | 1002 | 1003 | 1007 | 1008 | 1009 | 1010 | 1011 | 1012 | 1013 | 1014
            ) || (3000..5000).contains(&code);
            let expected = if legal { Close::Code(code, "ä".into()) } else { Close::Illegal };
            assert_eq!(Close::parse(&payload(code, "ä")), expected, "{code}");
        }
    }

    #[test]
    fn one_byte_and_bad_text_are_illegal() {
        assert_eq!(Close::parse(&[]), Close::Empty);
        assert_eq!(Close::parse(&[3]), Close::Illegal);
        assert_eq!(Close::parse(&[3, 232, 0xFF]), Close::Illegal);
    }
}

//! HTTP/1.1 or HTTP/2 with prior knowledge, by the first bytes (RFC 9113 §3.3, §3.4).

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.1 or older, or something that the HTTP/1.1 front will refuse.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What the client speaks that has begun with these bytes; `None` if more is needed to tell.
#[must_use]
pub fn spoken(first: &[u8]) -> Option<Spoken> {
    let known = first.len().min(PREFACE.len());
    if first.get(..known) != PREFACE.get(..known) {
        return Some(Spoken::Http1);
    }
    (known == PREFACE.len()).then_some(Spoken::Http2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_is_http_2_once_it_is_whole() {
        for cut in 0..PREFACE.len() {
            assert_eq!(spoken(&PREFACE[..cut]), None, "{cut}");
        }
        assert_eq!(spoken(PREFACE), Some(Spoken::Http2));
        assert_eq!(spoken(&[PREFACE, b"\0\0"].concat()), Some(Spoken::Http2));
    }

    #[test]
    fn everything_else_is_left_to_http_1() {
        for first in [&b"GET / HTTP/1.1\r\n"[..], b"PRI /x", b"\x16\x03\x01", b"PRI * HTTP/2.1\r\n"]
        {
            assert_eq!(spoken(first), Some(Spoken::Http1));
        }
    }
}

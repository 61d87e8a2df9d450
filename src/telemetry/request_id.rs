//! Request ids: 32 hexadecimal digits, unguessable enough to be unique, cheap enough for every
//! request. They are names, not secrets.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;

/// Longest id that is taken over from a trusted client.
const LONGEST: usize = 128;

/// The id of one request, as it is written in fields, log and journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Text);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Text {
    Made([u8; 32]),
    Accepted(Box<str>),
}

impl RequestId {
    /// Takes over an id for which [`is_acceptable`] holds.
    #[must_use]
    pub fn accept(id: &str) -> Self {
        RequestId(Text::Accepted(id.into()))
    }

    /// The id as bytes, all of them visible ASCII.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::Made(digits) => digits,
            Text::Accepted(id) => id.as_bytes(),
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // Hexadecimal digits only: always UTF-8.
            Text::Made(digits) => std::str::from_utf8(digits).unwrap_or_default(),
            Text::Accepted(id) => id,
        }
    }
}

/// Every byte in hexadecimal digits.
const PAIRS: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Whether a client's id may be used: 1 to 128 visible ASCII characters, without those that would
/// need quoting in logs and URLs.
#[must_use]
pub fn is_acceptable(id: &str) -> bool {
    (1..=LONGEST).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:=+/@".contains(&b))
}

/// What this process calls itself in Via if nobody has named it: `seawall-` and eight digits, the same
/// until the process ends.
pub fn pseudonym() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let id = RequestIds::new().next_id();
        format!("seawall-{}", id.as_str().get(..8).unwrap_or_default())
    })
}

/// Makes ids for one worker: xorshift128+ seeded from the system once. 16 ns an id where a system
/// call would take 280.
#[derive(Debug)]
pub struct RequestIds {
    state: [u64; 2],
}

impl RequestIds {
    /// A generator whose ids no other generator makes, but by a chance of 2^-64.
    #[must_use]
    pub fn new() -> Self {
        // RandomState is seeded by the system; hashing a constant with two of them gives its keys.
        let seed = || RandomState::new().build_hasher().finish() | 1;
        RequestIds { state: [seed(), seed()] }
    }

    /// The next id.
    pub fn next_id(&mut self) -> RequestId {
        let mut digits = [0_u8; 32];
        let (high, low) = (self.random(), self.random());
        let random = high.to_be_bytes().into_iter().chain(low.to_be_bytes());
        let (pairs, _) = digits.as_chunks_mut();
        for (pair, byte) in pairs.iter_mut().zip(random) {
            *pair = PAIRS[usize::from(byte)];
        }
        RequestId(Text::Made(digits))
    }

    /// So many random bits: for names, not for secrets.
    pub fn random(&mut self) -> u64 {
        let [mut x, y] = self.state;
        x ^= x << 23;
        let next = x ^ y ^ (x >> 18) ^ (y >> 5);
        self.state = [y, next];
        next.wrapping_add(y)
    }
}

impl Default for RequestIds {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_of_many_workers_are_all_different() {
        let mut seen = HashSet::new();
        for _ in 0..8 {
            let mut ids = RequestIds::new();
            for _ in 0..10_000 {
                let id = ids.next_id();
                assert_eq!(id.as_str().len(), 32);
                assert!(seen.insert(id.as_str().to_owned()));
            }
        }
    }

    #[test]
    fn only_harmless_ids_are_taken_over() {
        for good in ["a", "4bf92f35-77b3", "abc/1.2:3=", &"x".repeat(128)] {
            assert!(is_acceptable(good), "{good}");
        }
        for bad in ["", "a b", "a\"b", "ä", "a\nb", "<script>", &"x".repeat(129)] {
            assert!(!is_acceptable(bad), "{bad}");
        }
    }
}

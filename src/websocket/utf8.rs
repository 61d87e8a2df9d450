//! UTF-8 across frames and reads: a message may be cut anywhere, even inside a character.

/// Checks text that arrives in pieces.
#[derive(Clone, Debug, Default)]
pub struct Utf8 {
    /// The bytes of a character that is not complete: at most three.
    open: [u8; 4],
    held: usize,
}

impl Utf8 {
    /// Checks the next piece; false as soon as the text cannot become valid any more.
    #[must_use]
    pub fn push(&mut self, mut piece: &[u8]) -> bool {
        while self.held > 0 {
            let Some((byte, rest)) = piece.split_first() else { return true };
            piece = rest;
            let Some(slot) = self.open.get_mut(self.held) else { return false };
            *slot = *byte;
            self.held += 1;
            match std::str::from_utf8(self.open.get(..self.held).unwrap_or_default()) {
                Ok(_) => self.held = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return false,
            }
        }
        match simdutf8::compat::from_utf8(piece) {
            Ok(_) => true,
            Err(error) if error.error_len().is_none() => {
                let tail = piece.get(error.valid_up_to()..).unwrap_or_default();
                if let Some(open) = self.open.get_mut(..tail.len()) {
                    open.copy_from_slice(tail);
                    self.held = tail.len();
                }
                true
            }
            Err(_) => false,
        }
    }

    /// Whether the text may end here; begins a new one.
    #[must_use]
    pub fn end(&mut self) -> bool {
        std::mem::take(&mut self.held) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(pieces: &[&[u8]]) -> bool {
        let mut utf8 = Utf8::default();
        pieces.iter().all(|piece| utf8.push(piece)) && utf8.end()
    }

    proptest! {
        #[test]
        fn text_cut_into_any_pieces_is_judged_as_a_whole(
            bytes in prop_oneof![
                "\\PC{0,20}".prop_map(String::into_bytes),
                prop::collection::vec(prop_oneof![any::<u8>(), Just(0xF0), Just(0x9F)], 0..12),
            ],
            a in 0usize..20, b in 0usize..20,
        ) {
            let (a, b) = (a.min(bytes.len()), b.min(bytes.len()));
            let (a, b) = (a.min(b), a.max(b));
            let cut = check(&[&bytes[..a], &bytes[a..b], &bytes[b..]]);
            prop_assert_eq!(cut, std::str::from_utf8(&bytes).is_ok());
        }
    }

    #[test]
    fn what_can_never_become_valid_is_told_at_once() {
        let mut utf8 = Utf8::default();
        assert!(utf8.push(&[0xF0, 0x9F]));
        assert!(!utf8.push(b"x"));
        let mut surrogate = Utf8::default();
        assert!(surrogate.push(&[0xED]));
        assert!(!surrogate.push(&[0xA0]));
    }
}

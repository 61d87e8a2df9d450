//! Content in the pieces that it came in. Most content is one piece, which needs no room elsewhere.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Pieces up to this size are joined where they are kept: each would occupy many times its length.
const SMALL: usize = 2 * 1024;
/// What small pieces are joined into grows up to this size.
const JOINED: usize = 16 * 1024;

/// Pieces of content, in order.
#[derive(Debug, Default)]
pub struct Pieces {
    first: Option<Bytes>,
    #[expect(
        clippy::box_collection,
        reason = "nearly always there is none, and it is moved often"
    )]
    more: Option<Box<VecDeque<Bytes>>>,
}

impl Pieces {
    /// Appends one.
    pub fn push(&mut self, piece: Bytes) {
        if self.is_empty() {
            self.first = Some(piece);
        } else {
            self.more.get_or_insert_default().push_back(piece);
        }
    }

    /// Appends one that will be kept: small pieces are joined, so that what is kept occupies a small
    /// multiple of its length, in however small pieces it came.
    pub fn keep(&mut self, piece: Bytes) {
        let more = self.more.as_mut().and_then(|more| more.back_mut());
        match more.or(self.first.as_mut()) {
            Some(last) if piece.len() <= SMALL && last.len() <= JOINED => join(last, &piece),
            _ => self.push(piece),
        }
    }

    /// Takes the first one.
    pub fn pop(&mut self) -> Option<Bytes> {
        self.first.take().or_else(|| self.more.as_mut()?.pop_front())
    }

    /// The first one.
    pub fn first_mut(&mut self) -> Option<&mut Bytes> {
        let more = &mut self.more;
        self.first.as_mut().or_else(|| more.as_mut()?.front_mut())
    }

    /// Returns the one at this place.
    pub fn get(&self, at: usize) -> Option<&Bytes> {
        match &self.first {
            Some(first) if at == 0 => Some(first),
            first => self.more.as_ref()?.get(at - usize::from(first.is_some())),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.as_ref().map_or(0, |more| more.len())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_none() && self.more.as_ref().is_none_or(|more| more.is_empty())
    }

    /// The only one, if it is that.
    #[must_use]
    pub fn only(&self) -> Option<&Bytes> {
        let mut pieces = self.iter();
        pieces.next().filter(|_| pieces.next().is_none())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.first.iter().chain(self.more.iter().flat_map(|more| more.iter()))
    }
}

/// Appends `piece` to `last`, in place if nobody else has a part of that.
fn join(last: &mut Bytes, piece: &[u8]) {
    let mut joined = std::mem::take(last).try_into_mut().unwrap_or_else(|shared| {
        let mut joined = BytesMut::with_capacity(2 * (shared.len() + piece.len()));
        joined.extend_from_slice(&shared);
        joined
    });
    joined.extend_from_slice(piece);
    *last = joined.freeze();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_small_pieces_in_little_more_room_than_they_need() {
        let mut pieces = Pieces::default();
        let content: Vec<u8> = (0..60_000_u32).map(|at| at as u8).collect();
        let mut shared = Vec::new();
        for byte in content.chunks(1) {
            let piece = Bytes::copy_from_slice(byte);
            // The way to the other side still has the last few.
            shared.push(piece.clone());
            pieces.keep(piece);
        }
        assert!(pieces.len() <= 2 + content.len() / JOINED, "{}", pieces.len());
        assert_eq!(pieces.iter().flatten().copied().collect::<Vec<_>>(), content);
        for size in [SMALL, SMALL + 1, JOINED, 1] {
            let mut pieces = Pieces::default();
            content.chunks(size).take(40).for_each(|part| pieces.keep(part.to_vec().into()));
            let kept: Vec<u8> = pieces.iter().flatten().copied().collect();
            assert_eq!(kept, content[..(40 * size).min(content.len())], "pieces of {size}");
            assert!(pieces.len() <= 40);
        }
    }

    #[test]
    fn they_come_out_as_they_went_in() {
        let piece = |text: &'static str| Bytes::from_static(text.as_bytes());
        let mut pieces = Pieces::default();
        assert!(pieces.is_empty() && pieces.pop().is_none());
        pieces.push(piece("a"));
        assert_eq!(pieces.only(), Some(&piece("a")));
        pieces.push(piece("b"));
        assert_eq!((pieces.only(), pieces.len()), (None, 2));
        assert_eq!(pieces.first_mut(), Some(&mut piece("a")));
        assert_eq!(pieces.pop(), Some(piece("a")));
        assert_eq!(pieces.first_mut(), Some(&mut piece("b")));
        pieces.push(piece("c"));
        assert_eq!(pieces.iter().collect::<Vec<_>>(), [&piece("b"), &piece("c")]);
        assert_eq!(
            (pieces.pop(), pieces.pop(), pieces.pop()),
            (Some(piece("b")), Some(piece("c")), None)
        );
    }
}

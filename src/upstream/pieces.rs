//! Content in the pieces that it came in. Most content is one piece, which needs no room elsewhere.

use std::collections::VecDeque;

use bytes::Bytes;

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

    /// Takes the first one.
    pub fn pop(&mut self) -> Option<Bytes> {
        self.first.take().or_else(|| self.more.as_mut()?.pop_front())
    }

    /// The first one.
    pub fn first_mut(&mut self) -> Option<&mut Bytes> {
        let more = &mut self.more;
        self.first.as_mut().or_else(|| more.as_mut()?.front_mut())
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

#[cfg(test)]
mod tests {
    use super::*;

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

//! The names that a message's Connection lines list (RFC 9110 §7.6.1): these fields are for this hop
//! only.
//!
//! A peer chooses both how many names it lists and how many fields it sends. Looking one up in a
//! sorted list keeps the work near the length of the head, where comparing each with each would be the
//! product of both.

use std::cmp::Ordering;

/// Names that are compared without regard to case.
#[derive(Clone, Debug, Default)]
pub struct Listed<N> {
    /// In order.
    names: Vec<N>,
}

impl<N: AsRef<[u8]>> Listed<N> {
    /// These names.
    #[must_use]
    pub fn new(mut names: Vec<N>) -> Self {
        if names.len() > 1 {
            names.sort_unstable_by(|one, other| compare(one.as_ref(), other.as_ref()));
        }
        Listed { names }
    }

    /// Returns `true` if no name is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Every name.
    pub fn iter(&self) -> std::slice::Iter<'_, N> {
        self.names.iter()
    }

    /// Returns `true` if this name is listed.
    #[must_use]
    #[inline]
    pub fn contains(&self, name: &[u8]) -> bool {
        !self.names.is_empty() && self.finds(name)
    }

    fn finds(&self, name: &[u8]) -> bool {
        self.names.binary_search_by(|listed| compare(listed.as_ref(), name)).is_ok()
    }
}

fn compare(one: &[u8], other: &[u8]) -> Ordering {
    let lower = |byte: &u8| byte.to_ascii_lowercase();
    one.iter().map(lower).cmp(other.iter().map(lower))
}

/// The options of these Connection values, but those that name no field: `close` and `keep-alive`.
pub fn options<'h>(lines: impl Iterator<Item = &'h [u8]>) -> Listed<&'h [u8]> {
    let options = lines.flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    Listed::new(
        options
            .filter(|option| {
                !(option.is_empty()
                    || option.eq_ignore_ascii_case(b"keep-alive")
                    || option.eq_ignore_ascii_case(b"close"))
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    #[test]
    fn options_of_every_line_are_found_in_any_case() {
        let lines = [&b"X-One, close,, Keep-Alive "[..], b"x-two\t,X-THREE"];
        let listed = options(lines.into_iter());
        for name in ["x-one", "X-Two", "x-three"] {
            assert!(listed.contains(name.as_bytes()), "{name}");
        }
        for name in ["close", "keep-alive", "", "x-on", "x-onee", "x_one"] {
            assert!(!listed.contains(name.as_bytes()), "{name}");
        }
        assert!(options([&b"close"[..], b"keep-alive"].into_iter()).is_empty());
    }

    /// A name that counts how often it is looked at.
    struct Counted(Vec<u8>, Rc<Cell<usize>>);

    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            self.1.set(self.1.get() + 1);
            &self.0
        }
    }

    #[test]
    fn work_grows_with_the_head_and_not_with_its_square() {
        let looks = |count: usize| {
            let seen = Rc::new(Cell::new(0));
            let name = |at: usize| format!("x-{at:x}").into_bytes();
            let names = (0..count).map(|at| Counted(name(at), Rc::clone(&seen))).collect();
            let listed = Listed::new(names);
            for at in 0..count {
                assert!(listed.contains(&name(at)));
                assert!(!listed.contains(&name(at + count)));
            }
            seen.get()
        };
        for count in [1_000_usize, 16_000] {
            let most = 8 * count * (count.ilog2() as usize + 1);
            assert!(looks(count) < most, "{} of {most} for {count}", looks(count));
        }
    }
}

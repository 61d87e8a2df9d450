//! Read buffers that no connection needs at the moment. A client's connection that waits for its next
//! request holds none, and those that are busy use the ones that were used last, which the
//! processor's caches still have.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use bytes::BytesMut;

/// Room for a whole request head in most cases.
pub const SIZE: usize = 8 * 1024;

/// How many are kept on a thread, and of which sizes: 512 KiB at most.
const KEPT: usize = 32;
const SIZES: RangeInclusive<usize> = SIZE / 2..=16 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer.
#[must_use]
pub fn take() -> BytesMut {
    let spare = SPARE.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| BytesMut::with_capacity(SIZE))
}

/// Gives one back; what is in it is forgotten.
pub fn give_back(mut buf: BytesMut) {
    buf.clear();
    // What was taken off its front is there again, if nobody has it any more.
    if buf.try_reclaim(SIZE) && SIZES.contains(&buf.capacity()) {
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < KEPT {
                spare.push(buf);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_nobody_has_a_part_of_it() {
        let mut buf = take();
        buf.extend_from_slice(b"GET / HTTP/1.1");
        let start = buf.as_ptr();
        let head = buf.split_to(5).freeze();
        give_back(buf);
        let mut other = take();
        assert_ne!(other.as_ptr(), start, "a part of it is still in use");
        other.extend_from_slice(b"GET / HTTP/1.1");
        let (start, head_of_other) = (other.as_ptr(), other.split_to(5).freeze());
        drop((head, head_of_other));
        give_back(other);
        let again = take();
        assert_eq!((again.as_ptr(), again.len()), (start, 0));
        assert!(again.capacity() >= SIZE);
    }

    #[test]
    fn large_buffers_are_not_kept() {
        while SPARE.with_borrow_mut(Vec::pop).is_some() {}
        give_back(BytesMut::with_capacity(64 * 1024));
        give_back(BytesMut::new());
        assert!(SPARE.with_borrow(Vec::is_empty));
        (0..KEPT + 5).for_each(|_| give_back(BytesMut::with_capacity(SIZE)));
        assert_eq!(SPARE.with_borrow(Vec::len), KEPT);
    }
}

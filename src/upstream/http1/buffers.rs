//! Read buffers that no connection needs at the moment. A connection that waits holds none, and those
//! that are busy use the ones that were used last, which the processor's caches still have.

use std::cell::RefCell;

use bytes::BytesMut;

/// The smallest: most heads with their content fit.
pub const SMALLEST: usize = 8 * 1024;
/// The largest that is kept.
pub const LARGEST: usize = SMALLEST << (CLASSES - 1);

/// Sizes, each twice the one before it.
const CLASSES: usize = 4;
/// How many bytes of each size are kept on a thread: 1 MiB at most in all.
const KEPT: usize = 256 * 1024;

thread_local! {
    static SPARE: RefCell<[Vec<BytesMut>; CLASSES]> = const { RefCell::new([const { Vec::new() }; CLASSES]) };
}

/// The place of the largest size that is no larger than this.
fn class(size: usize) -> usize {
    (size / SMALLEST).checked_ilog2().map_or(0, |class| class as usize).min(CLASSES - 1)
}

/// An empty buffer of at least so many bytes, one of the sizes.
#[must_use]
pub fn take(size: usize) -> BytesMut {
    let spare = SPARE.with_borrow_mut(|spare| spare.get_mut(class(size)).and_then(Vec::pop));
    spare.unwrap_or_else(|| BytesMut::with_capacity(size))
}

/// Gives this one back, if nobody has a part of it any more, and leaves an empty one; what is in it is
/// forgotten. A part that is still in use, such as a request's head, keeps all of it alive anyway.
pub fn give_back(from: &mut BytesMut) {
    from.clear();
    // What was taken off its front is there again, if nobody has it any more.
    if from.capacity() == 0 || !from.try_reclaim(SMALLEST) {
        return;
    }
    let buf = std::mem::take(from);
    if buf.capacity() > LARGEST {
        return;
    }
    SPARE.with_borrow_mut(|spare| {
        let class = class(buf.capacity());
        if let Some(spare) = spare.get_mut(class)
            && spare.len() < KEPT / (SMALLEST << class)
        {
            spare.push(buf);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_nobody_has_a_part_of_it() {
        let mut buf = take(SMALLEST);
        buf.extend_from_slice(b"GET / HTTP/1.1");
        let start = buf.as_ptr();
        let head = buf.split_to(5).freeze();
        give_back(&mut buf);
        assert_ne!(buf.capacity(), 0, "a part of it is still in use");
        let mut other = take(SMALLEST);
        assert_ne!(other.as_ptr(), start, "a part of it is still in use");
        other.extend_from_slice(b"GET / HTTP/1.1");
        let (start, head_of_other) = (other.as_ptr(), other.split_to(5).freeze());
        drop((head, head_of_other));
        give_back(&mut other);
        assert_eq!(other.capacity(), 0);
        let again = take(SMALLEST);
        assert_eq!((again.as_ptr(), again.len()), (start, 0));
        assert!(again.capacity() >= SMALLEST);
    }

    #[test]
    fn a_buffer_has_the_size_that_is_asked_for() {
        for size in [SMALLEST, 2 * SMALLEST, LARGEST, SMALLEST, LARGEST] {
            let mut buf = take(size);
            assert!(buf.capacity() >= size, "{size}");
            give_back(&mut buf);
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let kept = || SPARE.with_borrow(|spare| spare.each_ref().map(Vec::len));
        SPARE.set(Default::default());
        give_back(&mut BytesMut::with_capacity(2 * LARGEST));
        give_back(&mut BytesMut::with_capacity(SMALLEST - 1));
        give_back(&mut BytesMut::new());
        assert_eq!(kept(), [0; CLASSES]);
        for size in [SMALLEST, SMALLEST + 1, 2 * SMALLEST, LARGEST] {
            (0..KEPT / SMALLEST).for_each(|_| give_back(&mut BytesMut::with_capacity(size)));
        }
        assert_eq!(kept(), [32, 16, 0, 4]);
    }
}

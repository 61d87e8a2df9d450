//! Content that comes faster than it is taken, in small frames.
//!
//! h2 keeps each DATA frame apart, with its own record of some 200 bytes and the buffer that it was
//! read into, and ends the whole connection when there are too many small ones. One client that
//! does not read events of 20 bytes would cost all others their requests. So small frames of a stream
//! on which some wait already are gathered here, before h2 sees them: a window costs about as many
//! bytes of memory as it has. They are let go when what is before them has been taken, when they
//! are enough, and before anything else that comes on their stream.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};

/// A frame with less content than this is small.
const SMALL: usize = 4 * 1024;
/// Small frames of a stream that wait as they came; those behind them are gathered.
const AS_THEY_CAME: usize = 16;
/// What is gathered at most; one frame can carry it and a small one (RFC 9113 §4.2).
const GATHERED_BYTES: usize = 8 * 1024;

/// What waits on the streams of one connection.
#[derive(Debug, Default)]
pub struct Backlog(RefCell<State>);

#[derive(Debug, Default)]
struct State {
    streams: BTreeMap<u32, Waiting>,
    /// What shall go on now.
    due: Vec<(u32, Bytes)>,
    /// The connection's reader.
    reader: Option<Waker>,
}

/// What waits on one stream.
#[derive(Debug, Default)]
struct Waiting {
    /// Small frames that went on and were not taken.
    small: usize,
    gathered: BytesMut,
}

/// The one that takes the content of a stream.
#[derive(Debug)]
pub struct Taker {
    backlog: Rc<Backlog>,
    stream: u32,
}

impl Backlog {
    /// The content of this stream is taken from now on.
    #[must_use]
    pub fn open(self: &Rc<Self>, stream: u32) -> Taker {
        self.0.borrow_mut().streams.insert(stream, Waiting::default());
        Taker { backlog: Rc::clone(self), stream }
    }

    /// A frame with so much content comes on this stream, and others may follow it. Returns `true` if
    /// it is to be gathered; else it goes on.
    pub fn gathers(&self, stream: u32, length: usize) -> bool {
        let mut state = self.0.borrow_mut();
        let Some(waiting) = state.streams.get_mut(&stream) else { return false };
        if length == 0 || length >= SMALL {
            return false;
        }
        let is_behind = waiting.small >= AS_THEY_CAME;
        waiting.small += usize::from(!is_behind);
        is_behind
    }

    /// Gathers content. Returns what is to go on now.
    pub fn gather(&self, stream: u32, content: &[u8]) -> Option<Bytes> {
        let mut state = self.0.borrow_mut();
        // Whoever takes it may have gone meanwhile: the windows count it all the same.
        let Some(waiting) = state.streams.get_mut(&stream) else {
            return Some(Bytes::copy_from_slice(content));
        };
        waiting.gathered.extend_from_slice(content);
        let is_enough = waiting.gathered.len() >= GATHERED_BYTES;
        (is_enough || waiting.small == 0).then(|| waiting.go_on())
    }

    /// Something else comes on this stream. Returns what goes on before it.
    pub fn before(&self, stream: u32) -> Option<Bytes> {
        let mut state = self.0.borrow_mut();
        let waiting = state.streams.get_mut(&stream)?;
        (!waiting.gathered.is_empty()).then(|| waiting.go_on())
    }

    /// Returns what shall go on now, if nothing else is under way.
    pub fn due(&self) -> Vec<(u32, Bytes)> {
        let mut state = self.0.borrow_mut();
        if state.due.is_empty() { Vec::new() } else { std::mem::take(&mut state.due) }
    }

    /// Returns all that was gathered: nothing follows.
    pub fn all(&self) -> Vec<(u32, Bytes)> {
        let mut all = self.due();
        let mut state = self.0.borrow_mut();
        let gathered = state.streams.iter_mut().filter(|(_, it)| !it.gathered.is_empty());
        all.extend(gathered.map(|(stream, waiting)| (*stream, waiting.go_on())));
        all
    }

    /// Wakes this reader when something is due.
    pub fn wakes(&self, cx: &Context<'_>) {
        let mut state = self.0.borrow_mut();
        if !state.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            state.reader = Some(cx.waker().clone());
        }
    }
}

impl Waiting {
    fn go_on(&mut self) -> Bytes {
        let content = std::mem::take(&mut self.gathered).freeze();
        self.small += usize::from(content.len() < SMALL);
        content
    }
}

impl Taker {
    /// Content of this length, which was one frame, has been taken.
    pub fn took(&self, length: usize) {
        if length == 0 || length >= SMALL {
            return;
        }
        let mut state = self.backlog.0.borrow_mut();
        let State { streams, due, reader } = &mut *state;
        let Some(waiting) = streams.get_mut(&self.stream) else { return };
        waiting.small = waiting.small.saturating_sub(1);
        if waiting.small < AS_THEY_CAME / 2 && !waiting.gathered.is_empty() {
            due.push((self.stream, waiting.go_on()));
            reader.take().into_iter().for_each(Waker::wake);
        }
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        let mut state = self.backlog.0.borrow_mut();
        let State { streams, due, reader } = &mut *state;
        // h2 does not give it to anybody, but it counts in the connection's window.
        if let Some(mut waiting) = streams.remove(&self.stream)
            && !waiting.gathered.is_empty()
        {
            due.push((self.stream, waiting.go_on()));
            reader.take().into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind() -> (Rc<Backlog>, Taker) {
        let backlog = Rc::new(Backlog::default());
        let taker = backlog.open(1);
        for _ in 0..AS_THEY_CAME {
            assert!(!backlog.gathers(1, 20), "as it came");
        }
        (backlog, taker)
    }

    #[test]
    fn small_frames_are_gathered_once_some_wait_and_go_on_when_those_are_taken() {
        let (backlog, taker) = behind();
        for _ in 0..3 {
            assert!(backlog.gathers(1, 2));
            assert_eq!(backlog.gather(1, b"ab"), None);
        }
        for _ in 0..AS_THEY_CAME / 2 {
            taker.took(20);
            assert_eq!(backlog.due(), []);
        }
        taker.took(20);
        assert_eq!(backlog.due(), [(1, Bytes::from_static(b"ababab"))]);
    }

    #[test]
    fn what_was_gathered_goes_on_when_it_is_enough_and_before_anything_else() {
        let (backlog, _taker) = behind();
        assert!(!backlog.gathers(1, 0) && !backlog.gathers(1, SMALL) && !backlog.gathers(3, 1));
        let most = GATHERED_BYTES / 1024;
        for count in 1..=most {
            assert!(backlog.gathers(1, 1024));
            let gathered = backlog.gather(1, &[7; 1024]);
            assert_eq!(gathered.map(|all| all.len()), (count == most).then_some(GATHERED_BYTES));
        }
        assert_eq!(backlog.before(1), None);
        assert_eq!(backlog.gather(1, b"a"), None);
        assert_eq!(backlog.before(1).as_deref(), Some(&b"a"[..]));
        assert_eq!(backlog.before(3), None);
    }

    #[test]
    fn what_nobody_takes_any_more_goes_on_to_be_counted() {
        let (backlog, taker) = behind();
        assert_eq!(backlog.gather(1, b"a"), None);
        drop(taker);
        assert_eq!(backlog.due(), [(1, Bytes::from_static(b"a"))]);
        assert_eq!(backlog.gather(1, b"b").as_deref(), Some(&b"b"[..]));
        assert_eq!(backlog.all(), []);
    }
}

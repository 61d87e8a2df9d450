//! What is known about an HTTP/2 connection to an upstream from the bytes themselves.
//!
//! The h2 library keeps to itself what the promises depend on: the last stream of a GOAWAY (RFC
//! 9113 §6.8), whether anything of an answer has come before a stream was reset (P8), and what
//! was wrong with a message. `sieve` reads the bytes, and tells it here.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::time::Instant;

use super::backlog::{Backlog, Taker};
use super::flaw::{Flaw, Section};

/// What is known about a connection.
#[derive(Debug)]
pub struct Watch {
    last_stream: Cell<Option<u32>>,
    /// How often something has come, and when that was last.
    reads: Cell<u64>,
    last_read: Cell<Instant>,
    /// How many frames of answers have come.
    answers: Cell<u64>,
    /// The stream whose frames have ended the connection.
    culprit: Cell<Option<u32>>,
    streams: RefCell<BTreeMap<u32, Stream>>,
    /// Content that nobody takes.
    pub(super) backlog: Rc<Backlog>,
}

/// What is known about a stream.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// Bytes of an answer that have come, whatever they are.
    heard: u64,
    has_final_head: bool,
    /// It has come to its end.
    has_ended: bool,
    flaw: Option<Flaw>,
}

/// A stream that is watched until this is dropped.
#[derive(Debug)]
pub struct Open {
    watch: Rc<Watch>,
    stream: u32,
    taker: Taker,
}

impl Open {
    /// Bytes of an answer that have come on it.
    #[must_use]
    pub fn heard(&self) -> u64 {
        self.watch.of(self.stream).map_or(0, |stream| stream.heard)
    }

    /// Content of this length has been taken.
    pub fn took(&self, length: usize) {
        self.taker.took(length);
    }

    /// What was wrong with its answer.
    #[must_use]
    pub fn flaw(&self) -> Option<Flaw> {
        self.watch.of(self.stream)?.flaw
    }

    /// Whether the connection ended because of this stream, if that is known.
    #[must_use]
    pub fn is_culprit(&self) -> Option<bool> {
        Some(self.watch.culprit.get()? == self.stream)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.watch.streams.borrow_mut().remove(&self.stream);
    }
}

impl Default for Watch {
    fn default() -> Self {
        Watch {
            last_stream: Cell::default(),
            reads: Cell::default(),
            last_read: Cell::new(Instant::now()),
            answers: Cell::default(),
            culprit: Cell::default(),
            streams: RefCell::default(),
            backlog: Rc::default(),
        }
    }
}

impl Watch {
    /// Whether the upstream has announced that it goes away: no new stream may be opened.
    #[must_use]
    pub fn goes_away(&self) -> bool {
        self.last_stream.get().is_some()
    }

    /// Whether the upstream has said that it will not process this stream.
    #[must_use]
    pub fn disclaims(&self, stream: u32) -> bool {
        self.last_stream.get().is_some_and(|last| stream > last)
    }

    /// How often something has come: as long as it grows, the connection lives.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// When something has come last.
    #[must_use]
    pub fn last_read(&self) -> Instant {
        self.last_read.get()
    }

    /// How many frames of answers have come, on all streams.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.answers.get()
    }

    /// Begins to watch a stream.
    #[must_use]
    pub fn open(self: &Rc<Self>, stream: u32) -> Open {
        self.streams.borrow_mut().insert(stream, Stream::default());
        Open { watch: Rc::clone(self), stream, taker: self.backlog.open(stream) }
    }

    fn of(&self, stream: u32) -> Option<Stream> {
        self.streams.borrow().get(&stream).copied()
    }

    /// Bytes have come.
    pub(super) fn read(&self) {
        self.reads.set(self.reads.get().wrapping_add(1));
        self.last_read.set(Instant::now());
    }

    /// The upstream goes away.
    pub(super) fn goaway(&self, last_stream: u32) {
        self.last_stream.set(Some(last_stream));
    }

    /// Part of an answer has come on this stream.
    pub(super) fn hear(&self, stream: u32, bytes: usize) {
        self.answers.set(self.answers.get().wrapping_add(1));
        if let Some(stream) = self.streams.borrow_mut().get_mut(&stream) {
            stream.heard = stream.heard.saturating_add(bytes as u64);
        }
    }

    /// What the next field section on this stream is, if it is watched and not lost already.
    pub(super) fn section(&self, stream: u32) -> Option<Section> {
        let stream = self.of(stream).filter(|stream| stream.flaw.is_none())?;
        Some(if stream.has_final_head { Section::Trailers } else { Section::Head })
    }

    /// A field section was acceptable, and had this status.
    pub(super) fn accept(&self, stream: u32, status: Option<u16>) {
        if let (Some(stream), Some(200..)) = (self.streams.borrow_mut().get_mut(&stream), status) {
            stream.has_final_head = true;
        }
    }

    /// The upstream has ended this stream.
    pub(super) fn end(&self, stream: u32) {
        if let Some(stream) = self.streams.borrow_mut().get_mut(&stream) {
            stream.has_ended = true;
        }
    }

    /// Returns `true` if the upstream has ended this stream, and somebody still has it.
    pub(super) fn has_ended(&self, stream: u32) -> bool {
        self.of(stream).is_some_and(|stream| stream.has_ended)
    }

    /// Something on this stream was not acceptable. Returns `true` if that is news: its stream has
    /// to be reset.
    pub(super) fn reject(&self, stream: u32, flaw: Flaw) -> bool {
        match self.streams.borrow_mut().get_mut(&stream) {
            Some(stream) if stream.flaw.is_none() => {
                stream.flaw = Some(flaw);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Frames of this stream have ended the connection. If nobody waits for it, nobody can tell.
    pub(super) fn blame(&self, stream: u32) {
        if self.culprit.get().is_none() && self.of(stream).is_some() {
            self.culprit.set(Some(stream));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goaway_disclaims_the_streams_behind_its_last_one() {
        let watch = Watch::default();
        assert!(!watch.disclaims(5) && !watch.goes_away());
        watch.goaway(3);
        assert!(watch.goes_away() && watch.disclaims(5) && !watch.disclaims(3));
    }

    #[test]
    fn a_stream_is_known_until_its_exchange_is_dropped() {
        let watch = Rc::new(Watch::default());
        assert_eq!(watch.section(1), None);
        let open = watch.open(1);
        assert_eq!(watch.section(1), Some(Section::Head));
        watch.accept(1, Some(103));
        assert_eq!(watch.section(1), Some(Section::Head));
        watch.accept(1, Some(200));
        assert_eq!(watch.section(1), Some(Section::Trailers));
        watch.hear(1, 7);
        assert!(watch.reject(1, Flaw::Name) && !watch.reject(1, Flaw::Value));
        assert_eq!((open.heard(), open.flaw(), watch.section(1)), (7, Some(Flaw::Name), None));
        drop(open);
        assert!(watch.streams.borrow().is_empty() && !watch.reject(1, Flaw::Name));
    }
}

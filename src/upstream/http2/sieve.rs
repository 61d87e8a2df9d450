//! What an HTTP/2 upstream sends, on its way to the h2 library: what is an error of one stream
//! stays one (RFC 9113 §5.4.2, §8.1.1).
//!
//! The library ends the connection for a field that it cannot hold, for a head that is far too
//! large, and for a few frames that concern one stream only; all other requests on it would be
//! lost. So the frames are walked here:
//!
//! | frame | what becomes of it |
//! | --- | --- |
//! | HEADERS, CONTINUATION | decoded, checked, and encoded again without a table; if they have a flaw, a block that the library answers with a reset of the stream |
//! | DATA | passes as it is; one before a head or behind the end, or one that is too large, resets its stream; an empty one that ends nothing is left out: the library counts them over the life of a connection; small ones that nobody takes are gathered ([`super::backlog`]) |
//! | WINDOW_UPDATE by 0 on a stream | resets the stream |
//! | PRIORITY | left out: it means nothing any more (RFC 9113 §5.3.2) |
//! | GOAWAY | is read, and passes |
//! | all others | pass, to be judged by the library |
//!
//! So there is one table of HPACK, the one here, and the library's is always empty. Nothing is
//! copied and nothing is held back but the field blocks themselves, parts of frame headers, and small
//! content that nobody takes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::flaw::{Check, Flaw, Limits, Section};
use super::hpack::{self, Corrupt, Decoder, Field};
use super::watch::Watch;

/// Length, type, flags and stream identifier (RFC 9113 §4.1).
const HEADER: usize = 9;
/// The largest payload as long as nobody has allowed more (RFC 9113 §4.2).
const MAX_FRAME: usize = 16_384;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITISED: u8 = 0x20;

/// The most bytes of one field block, frame headers among them. What is larger ends the connection:
/// nobody else can use it in the meantime.
const MAX_BLOCK: usize = 16 * 1024 * 1024;

/// A stream whose incoming frames are sieved.
#[derive(Debug)]
pub struct Sieved<S> {
    inner: S,
    sieve: Sieve,
}

impl<S> Sieved<S> {
    /// Sieves what is read from `inner`.
    pub fn new(inner: S, watch: Rc<Watch>, limits: Limits) -> Self {
        Sieved { inner, sieve: Sieve::new(watch, limits) }
    }
}

/// A frame header.
#[derive(Clone, Copy, Debug)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    fn parse(bytes: [u8; HEADER]) -> Self {
        let [a, b, c, kind, flags, d, e, f, g] = bytes;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        // The highest bit is reserved.
        Head { length, kind, flags, stream: u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff }
    }

    fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Where in the sequence of frames the bytes are.
#[derive(Debug)]
enum At {
    /// In a frame header.
    Header,
    /// In a payload that passes.
    Pass { left: usize },
    /// In a payload that is left out.
    Drop { left: usize },
    /// In content of a stream that is lost, in more than one frame can carry.
    Split { stream: u32, left: usize },
    /// In a payload that is looked at when it is complete.
    Take { head: Head },
}

/// A field block that is not complete.
#[derive(Debug)]
struct Block {
    stream: u32,
    ends_stream: bool,
    /// With what it has all in all.
    size: usize,
    /// The part of a field that has come.
    rest: Vec<u8>,
    check: Option<Check>,
}

/// The walk over the frames.
#[derive(Debug)]
struct Sieve {
    watch: Rc<Watch>,
    limits: Limits,
    at: At,
    /// A frame header as far as it has come.
    part: [u8; HEADER],
    filled: usize,
    /// A payload as far as it has come.
    payload: Vec<u8>,
    block: Option<Block>,
    decoder: Decoder,
    /// Fields, encoded again.
    encoded: Vec<u8>,
    /// What the library is to read next, before anything else.
    out: BytesMut,
    /// The library has been given something that ends the connection: nothing follows.
    over: bool,
}

impl Sieve {
    fn new(watch: Rc<Watch>, limits: Limits) -> Self {
        Sieve {
            watch,
            limits,
            at: At::Header,
            part: [0; HEADER],
            filled: 0,
            payload: Vec::new(),
            block: None,
            decoder: Decoder::default(),
            encoded: Vec::new(),
            out: BytesMut::new(),
            over: false,
        }
    }

    /// Walks over bytes that have come. Says how many of them, from the first, the library may read
    /// where they are; what follows those is in `out`.
    fn walk(&mut self, bytes: &[u8]) -> usize {
        // Whatever came before and did not pass goes first.
        let begins_passing = match self.at {
            At::Header => self.filled == 0,
            At::Pass { .. } => true,
            At::Drop { .. } | At::Split { .. } | At::Take { .. } => false,
        };
        let mut passed = (!begins_passing || !self.out.is_empty()).then_some(0);
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty() && !self.over) {
            match self.at {
                At::Header => {
                    // If its first bytes came earlier, nothing passes anyway.
                    let begin = at;
                    let count = rest.len().min(HEADER - self.filled);
                    let slots = self.part.iter_mut().skip(self.filled);
                    slots.zip(rest).for_each(|(slot, byte)| *slot = *byte);
                    at += count;
                    self.filled += count;
                    if self.filled < HEADER {
                        passed.get_or_insert(begin);
                        continue;
                    }
                    self.filled = 0;
                    let head = Head::parse(self.part);
                    // It may be of the same stream: that goes first.
                    self.let_go_due();
                    let (next, passes) = self.begin(head);
                    self.at = next;
                    if !passes || !self.out.is_empty() {
                        passed.get_or_insert(begin);
                    }
                    if passes && passed.is_some() {
                        self.out.extend_from_slice(&self.part);
                    }
                    self.settle();
                }
                At::Pass { ref mut left } => {
                    let count = rest.len().min(*left);
                    *left -= count;
                    at += count;
                    if passed.is_some() {
                        self.out.extend_from_slice(rest.get(..count).unwrap_or_default());
                    }
                    self.settle();
                }
                At::Drop { ref mut left } => {
                    let count = rest.len().min(*left);
                    *left -= count;
                    at += count;
                    self.settle();
                }
                At::Split { stream, ref mut left } => {
                    let count = rest.len().min(*left).min(MAX_FRAME);
                    *left -= count;
                    at += count;
                    let content = rest.get(..count).unwrap_or_default();
                    frame(&mut self.out, DATA, 0, stream, content);
                    self.settle();
                }
                At::Take { head } => {
                    let count = rest.len().min(head.length - self.payload.len());
                    self.payload.extend_from_slice(rest.get(..count).unwrap_or_default());
                    at += count;
                    if self.payload.len() == head.length {
                        let payload = std::mem::take(&mut self.payload);
                        self.at = At::Header;
                        self.take(head, &payload);
                        self.payload = payload;
                        self.payload.clear();
                    }
                }
            }
        }
        passed.unwrap_or(bytes.len())
    }

    /// Goes on to the next frame where one has ended.
    fn settle(&mut self) {
        match self.at {
            At::Pass { left: 0 } | At::Drop { left: 0 } | At::Split { left: 0, .. } => {
                self.at = At::Header;
            }
            At::Take { head } if head.length == 0 => {
                self.at = At::Header;
                self.take(head, &[]);
            }
            At::Header | At::Pass { .. } | At::Drop { .. } | At::Split { .. } | At::Take { .. } => {
            }
        }
    }

    /// Begins a frame: what becomes of its payload, and whether its header passes.
    fn begin(&mut self, head: Head) -> (At, bool) {
        let Head { length, kind, flags: _, stream } = head;
        let pass = (At::Pass { left: length }, true);
        if let Some(block) = &self.block
            && (kind != CONTINUATION || stream != block.stream)
        {
            // RFC 9113 §6.10: nothing may come in between.
            self.watch.blame(block.stream);
            self.ruin();
            return (At::Drop { left: length }, false);
        }
        match kind {
            DATA if stream != 0 => {
                self.watch.hear(stream, HEADER + length);
                if length > MAX_FRAME && self.watch.section(stream).is_some() {
                    self.lose(stream, Flaw::Frame);
                    return (At::Split { stream, left: length }, false);
                }
                if self.watch.section(stream) == Some(Section::Head) {
                    // RFC 9113 §8.1: the head comes first.
                    self.lose(stream, Flaw::Frame);
                }
                let is_idle = length == 0 && !head.is(END_STREAM) && !head.is(PADDED);
                if is_idle && self.watch.section(stream) == Some(Section::Trailers) {
                    return (At::Drop { left: 0 }, false);
                }
                if self.watch.has_ended(stream) {
                    // RFC 9113 §5.1: an error of the stream; to the library, of the connection.
                    self.lose(stream, Flaw::Frame);
                }
                if head.is(END_STREAM) {
                    self.watch.end(stream);
                } else if !head.is(PADDED) && self.watch.backlog.gathers(stream, length) {
                    return (At::Take { head }, false);
                }
                self.let_go(stream);
                pass
            }
            HEADERS if stream != 0 && length <= MAX_FRAME => (At::Take { head }, false),
            CONTINUATION if self.block.is_some() && length <= MAX_FRAME => {
                (At::Take { head }, false)
            }
            PRIORITY if stream != 0 => (At::Drop { left: length }, false),
            WINDOW_UPDATE if stream != 0 && length == 4 => (At::Take { head }, false),
            GOAWAY if stream == 0 && (8..=MAX_FRAME).contains(&length) => {
                (At::Take { head }, false)
            }
            _ => {
                if kind == RST_STREAM {
                    self.let_go(stream);
                    self.watch.end(stream);
                }
                if length > MAX_FRAME || matches!(kind, HEADERS | CONTINUATION | RST_STREAM) {
                    // Nearly all of these end the connection.
                    self.accuse(head);
                }
                pass
            }
        }
    }

    /// If the library ends the connection for this frame, it is this stream's doing.
    fn accuse(&mut self, head: Head) {
        let fatal = head.length > MAX_FRAME || head.kind != RST_STREAM || head.length != 4;
        if fatal && head.stream != 0 {
            self.watch.blame(head.stream);
        }
    }

    /// Looks at a payload that is complete.
    fn take(&mut self, head: Head, payload: &[u8]) {
        match head.kind {
            DATA => {
                let content = self.watch.backlog.gather(head.stream, payload);
                content.into_iter().for_each(|content| self.content(head.stream, &content));
            }
            GOAWAY => {
                if let Some(last) = payload.first_chunk() {
                    self.watch.goaway(u32::from_be_bytes(*last) & 0x7fff_ffff);
                }
                self.pass(head, payload);
            }
            WINDOW_UPDATE => {
                let by = payload.first_chunk().map_or(0, |by| u32::from_be_bytes(*by));
                if by & 0x7fff_ffff > 0 {
                    self.pass(head, payload);
                } else if self.watch.section(head.stream).is_some() {
                    // RFC 9113 §6.9: an error of the stream.
                    self.lose(head.stream, Flaw::Frame);
                }
            }
            HEADERS => {
                self.watch.hear(head.stream, HEADER + payload.len());
                match fragment(head, payload) {
                    Some(fragment) => self.begin_block(head, fragment),
                    None => {
                        self.watch.blame(head.stream);
                        self.pass(head, payload);
                    }
                }
            }
            _ => {
                self.watch.hear(head.stream, HEADER + payload.len());
                self.continue_block(payload, head.is(END_HEADERS));
            }
        }
    }

    fn begin_block(&mut self, head: Head, fragment: &[u8]) {
        self.decoder.begin();
        self.encoded.clear();
        self.block = Some(Block {
            stream: head.stream,
            ends_stream: head.is(END_STREAM),
            size: 0,
            rest: Vec::new(),
            check: self.watch.section(head.stream).map(Check::new),
        });
        self.continue_block(fragment, head.is(END_HEADERS));
    }

    fn continue_block(&mut self, fragment: &[u8], is_last: bool) {
        let Some(mut block) = self.block.take() else { return };
        block.size += HEADER + fragment.len();
        let Ok(()) = self.decode(&mut block, fragment, is_last) else {
            self.watch.blame(block.stream);
            return self.ruin();
        };
        if is_last {
            self.end_block(block);
        } else {
            self.block = Some(block);
        }
    }

    /// Decodes what has come of a block.
    fn decode(&mut self, block: &mut Block, part: &[u8], is_last: bool) -> Result<(), Corrupt> {
        if block.size > MAX_BLOCK {
            return Err(Corrupt);
        }
        let Sieve { decoder, encoded, limits, .. } = self;
        let mut each = |field: Field<'_>| {
            // Whatever is wrong with it, the table must know it.
            if let Some(field) = block.check.as_mut().and_then(|check| check.field(field, limits)) {
                hpack::encode(field, encoded);
            }
        };
        let left = if block.rest.is_empty() {
            part.get(decoder.decode(part, &mut each)?..).unwrap_or_default().to_vec()
        } else {
            let mut all = std::mem::take(&mut block.rest);
            all.extend_from_slice(part);
            let read = decoder.decode(&all, &mut each)?;
            all.drain(..read);
            all
        };
        block.rest = left;
        if is_last && !block.rest.is_empty() { Err(Corrupt) } else { Ok(()) }
    }

    fn end_block(&mut self, block: Block) {
        let Block { stream, ends_stream, check, .. } = block;
        let flags = if ends_stream { END_STREAM } else { 0 };
        self.let_go(stream);
        if self.watch.has_ended(stream) {
            // RFC 9113 §5.1.
            return self.lose(stream, Flaw::Frame);
        }
        let Some(check) = check else {
            // Nobody waits for it. The library shall judge if it may come at all.
            return frame(&mut self.out, HEADERS, flags | END_HEADERS, stream, &[STATUS_200]);
        };
        match check.finish(ends_stream) {
            Ok(status) => {
                self.watch.accept(stream, status);
                if ends_stream {
                    self.watch.end(stream);
                }
                let mut parts = self.encoded.chunks(MAX_FRAME).peekable();
                let (mut kind, mut flags) = (HEADERS, flags);
                loop {
                    let part = parts.next().unwrap_or_default();
                    let end = if parts.peek().is_none() { END_HEADERS } else { 0 };
                    frame(&mut self.out, kind, flags | end, stream, part);
                    if end != 0 {
                        return;
                    }
                    (kind, flags) = (CONTINUATION, 0);
                }
            }
            Err(flaw) => self.lose(stream, flaw),
        }
    }

    /// Lets content go on that was gathered.
    fn content(&mut self, stream: u32, content: &[u8]) {
        frame(&mut self.out, DATA, 0, stream, content);
    }

    /// Lets go on what was gathered on this stream: something else follows.
    fn let_go(&mut self, stream: u32) {
        let content = self.watch.backlog.before(stream);
        content.into_iter().for_each(|content| self.content(stream, &content));
    }

    /// Lets go on what is due, if that does not break a frame in two.
    fn let_go_due(&mut self) {
        if !matches!(self.at, At::Pass { .. }) {
            let due = self.watch.backlog.due();
            due.iter().for_each(|(stream, content)| self.content(*stream, content));
        }
    }

    /// Lets the library reset a stream, once.
    fn lose(&mut self, stream: u32, flaw: Flaw) {
        if self.watch.reject(stream, flaw) {
            frame(&mut self.out, HEADERS, END_HEADERS, stream, MALFORMED);
        }
    }

    /// Lets the library end the connection.
    fn ruin(&mut self) {
        frame(&mut self.out, HEADERS, END_HEADERS, 1, CORRUPT);
        self.block = None;
        self.over = true;
    }

    fn pass(&mut self, head: Head, payload: &[u8]) {
        frame(&mut self.out, head.kind, head.flags, head.stream, payload);
    }

    /// The connection has ended. What was held back is the beginning of something: the library shall
    /// see that it was cut off.
    fn end(&mut self) {
        if !matches!(self.at, At::Pass { .. }) {
            let all = self.watch.backlog.all();
            all.iter().for_each(|(stream, content)| self.content(*stream, content));
        }
        if self.filled > 0 || self.block.is_some() || matches!(self.at, At::Take { .. }) {
            self.out.extend_from_slice(&[0; 3]);
            self.over = true;
        }
    }
}

/// `:status: 200`, by its index.
const STATUS_200: u8 = 0x88;
/// A field that is malformed over HTTP/2, so that the library resets the stream.
const MALFORMED: &[u8] = b"\x00\x0aconnection\x01x";
/// An index that no table has, so that the library ends the connection.
const CORRUPT: &[u8] = &[0x80];

fn frame(out: &mut BytesMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(length.get(1..).unwrap_or_default());
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The part of a field block in a HEADERS frame, without padding and priority (RFC 9113 §6.2).
fn fragment(head: Head, mut payload: &[u8]) -> Option<&[u8]> {
    let mut padding = 0;
    if head.is(PADDED) {
        let (length, rest) = payload.split_first()?;
        (padding, payload) = (usize::from(*length), rest);
    }
    if head.is(PRIORITISED) {
        payload = payload.get(5..)?;
    }
    payload.get(..payload.len().checked_sub(padding)?)
}

impl<S: AsyncRead + Unpin> AsyncRead for Sieved<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Sieved { inner, sieve } = self.get_mut();
        loop {
            if !sieve.out.is_empty() {
                let count = sieve.out.len().min(buf.remaining());
                buf.put_slice(sieve.out.get(..count).unwrap_or_default());
                sieve.out.advance(count);
                return Poll::Ready(Ok(()));
            }
            if sieve.over || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            sieve.watch.backlog.wakes(cx);
            sieve.let_go_due();
            if !sieve.out.is_empty() {
                continue;
            }
            let before = buf.filled().len();
            std::task::ready!(Pin::new(&mut *inner).poll_read(cx, buf))?;
            let fresh = buf.filled().get(before..).unwrap_or_default();
            if fresh.is_empty() {
                sieve.end();
                if sieve.out.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            sieve.watch.read();
            let passed = sieve.walk(fresh);
            buf.set_filled(before + passed);
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
            // Nothing to give may mean that all was held back: more has to come.
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Sieved<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;

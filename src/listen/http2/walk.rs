//! The walk over the frames of a client, in whatever pieces their bytes come; see
//! [`guard`](super::guard) for what becomes of each.

use std::rc::Rc;

use bytes::BytesMut;

use super::PREFACE;
use super::check::{Check, Limits, Section};
use super::stand_in;
use crate::upstream::http2::backlog::Backlog;
use crate::upstream::http2::hpack::{self, Corrupt, Decoder, Field};

/// Length, type, flags and stream identifier (RFC 9113 §4.1).
const HEADER: usize = 9;
/// The largest payload: we have not allowed more (RFC 9113 §4.2).
const MAX_FRAME: usize = 16_384;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITISED: u8 = 0x20;

/// What a frame of a block counts at least: many small ones are a flood (CVE-2024-27316).
const LEAST_FRAME: usize = 256;

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
#[derive(Clone, Copy, Debug)]
enum At {
    /// In a frame header.
    Header,
    /// In what passes.
    Pass { left: usize },
    /// In a payload that is left out.
    Drop { left: usize },
    /// In a payload that is looked at when it is complete.
    Take { head: Head },
}

/// Which of the newest streams the client has ended.
#[derive(Debug)]
struct Ended {
    newest: u32,
    streams: [u64; Ended::WORDS],
}

impl Ended {
    const WORDS: usize = 16;
    /// Older ones are not known: h2 has forgotten nearly all of them.
    const STREAMS: u32 = 1024;

    fn new() -> Self {
        Ended { newest: 0, streams: [0; Self::WORDS] }
    }

    /// The place of a stream; clients' have odd numbers (RFC 9113 §5.1.1).
    fn place(&mut self, stream: u32) -> Option<(&mut u64, u64)> {
        let is_known = stream <= self.newest && self.newest - stream < Self::STREAMS * 2;
        let at = usize::try_from(stream / 2).ok().filter(|_| is_known)?;
        Some((self.streams.get_mut(at / 64 % Self::WORDS)?, 1 << (at % 64)))
    }

    /// A stream is opened.
    fn open(&mut self, stream: u32) {
        let skipped = (stream - self.newest).min(Self::STREAMS * 2);
        self.newest = stream;
        // Their places were those of others.
        for older in (0..skipped).step_by(2) {
            self.set(stream.saturating_sub(older), false);
        }
    }

    fn set(&mut self, stream: u32, ended: bool) {
        if let Some((word, bit)) = self.place(stream) {
            *word = if ended { *word | bit } else { *word & !bit };
        }
    }

    fn has(&mut self, stream: u32) -> bool {
        self.place(stream).is_some_and(|(word, bit)| *word & bit != 0)
    }
}

/// A field block that is not complete.
#[derive(Debug)]
struct Block {
    stream: u32,
    section: Section,
    ends_stream: bool,
    /// What it has come to, as it came and unpacked.
    size: usize,
    unpacked: usize,
    /// The part of a field that has come.
    rest: Vec<u8>,
    check: Check,
}

/// The walk over the frames.
#[derive(Debug)]
pub struct Walk {
    /// What h2 has to read next, before anything else.
    pub out: BytesMut,
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
    /// The stream that was opened last, and which have ended.
    ended: Ended,
    /// Content that nobody takes.
    pub backlog: Rc<Backlog>,
    /// h2 has been given something that ends the connection: nothing follows.
    is_over: bool,
}

impl Walk {
    /// Begins before the preface.
    pub fn new(limits: Limits) -> Self {
        Walk {
            out: BytesMut::new(),
            limits,
            at: At::Pass { left: PREFACE.len() },
            part: [0; HEADER],
            filled: 0,
            payload: Vec::new(),
            block: None,
            decoder: Decoder::default(),
            encoded: Vec::new(),
            ended: Ended::new(),
            backlog: Rc::default(),
            is_over: false,
        }
    }

    /// Returns `true` if nothing that comes now passes.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Walks over bytes that have come. Returns how many of them, from the first, h2 may read where
    /// they are; what follows those is in `out`.
    pub fn over(&mut self, bytes: &[u8]) -> usize {
        // A header that was held back goes first.
        let mut passed = (self.filled > 0).then_some(0);
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty() && !self.is_over) {
            match &mut self.at {
                At::Header => {
                    let begin = at.saturating_sub(self.filled);
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
                    self.at = self.begin(head);
                    if !self.out.is_empty() {
                        passed.get_or_insert(begin);
                    }
                    match (self.at, passed) {
                        (At::Pass { .. }, None) => {}
                        (At::Pass { .. }, Some(_)) => self.out.extend_from_slice(&self.part),
                        _ => {
                            passed.get_or_insert(begin);
                        }
                    }
                }
                At::Pass { left } => {
                    let count = rest.len().min(*left);
                    *left -= count;
                    at += count;
                    if passed.is_some() {
                        self.out.extend_from_slice(rest.get(..count).unwrap_or_default());
                    }
                }
                At::Drop { left } => {
                    passed.get_or_insert(at);
                    let count = rest.len().min(*left);
                    *left -= count;
                    at += count;
                }
                At::Take { head } => {
                    passed.get_or_insert(at);
                    let count = rest.len().min(head.length - self.payload.len());
                    self.payload.extend_from_slice(rest.get(..count).unwrap_or_default());
                    at += count;
                }
            }
            self.settle();
        }
        passed.unwrap_or(bytes.len())
    }

    /// Goes on to the next frame where one has ended.
    fn settle(&mut self) {
        match self.at {
            At::Pass { left: 0 } | At::Drop { left: 0 } => self.at = At::Header,
            At::Take { head } if self.payload.len() == head.length => {
                let mut payload = std::mem::take(&mut self.payload);
                self.at = At::Header;
                self.take(head, &payload);
                payload.clear();
                self.payload = payload;
            }
            At::Header | At::Pass { .. } | At::Drop { .. } | At::Take { .. } => {}
        }
    }

    /// Begins a frame: what becomes of its payload.
    fn begin(&mut self, head: Head) -> At {
        let Head { length, kind, flags: _, stream } = head;
        if let Some(block) = &self.block
            && (kind != CONTINUATION || stream != block.stream)
        {
            // RFC 9113 §6.10: nothing may come in between.
            self.ruin();
            return At::Drop { left: length };
        }
        let is_known = stream != 0 && stream <= self.ended.newest;
        match kind {
            DATA if is_known => self.begin_content(head),
            RST_STREAM => {
                self.let_go(stream);
                self.ended.set(stream, true);
                At::Pass { left: length }
            }
            HEADERS if stream != 0 && length <= MAX_FRAME => At::Take { head },
            CONTINUATION if self.block.is_some() && length <= MAX_FRAME => At::Take { head },
            PRIORITY if stream != 0 => At::Drop { left: length },
            WINDOW_UPDATE if is_known && length == 4 => At::Take { head },
            _ => At::Pass { left: length },
        }
    }

    /// Begins content.
    fn begin_content(&mut self, head: Head) -> At {
        let Head { length, stream, .. } = head;
        if self.ended.has(stream) {
            // RFC 9113 §5.1: an error of the stream; to h2, of the connection. Once is enough.
            self.ended.set(stream, false);
            self.reset(stream);
        } else if head.is(END_STREAM) {
            self.ended.set(stream, true);
        } else if !head.is(PADDED) {
            if length == 0 {
                // h2 counts them over the life of a connection.
                return At::Drop { left: 0 };
            }
            if self.backlog.gathers(stream, length) {
                return At::Take { head };
            }
        }
        self.let_go(stream);
        At::Pass { left: length }
    }

    /// Lets content go on that was gathered.
    fn content(&mut self, stream: u32, content: &[u8]) {
        frame(&mut self.out, DATA, 0, stream, content);
    }

    /// Lets go on what was gathered on this stream: something else follows.
    fn let_go(&mut self, stream: u32) {
        let content = self.backlog.before(stream);
        content.into_iter().for_each(|content| self.content(stream, &content));
    }

    /// Lets go on what is due, if that does not break a frame in two.
    pub fn let_go_due(&mut self) {
        if !matches!(self.at, At::Pass { .. }) {
            let due = self.backlog.due();
            due.iter().for_each(|(stream, content)| self.content(*stream, content));
        }
    }

    /// Looks at a payload that is complete.
    fn take(&mut self, head: Head, payload: &[u8]) {
        match head.kind {
            DATA => {
                let content = self.backlog.gather(head.stream, payload);
                content.into_iter().for_each(|content| self.content(head.stream, &content));
            }
            WINDOW_UPDATE => {
                let by = payload.first_chunk().map_or(0, |by| u32::from_be_bytes(*by));
                if by & 0x7fff_ffff > 0 {
                    frame(&mut self.out, WINDOW_UPDATE, head.flags, head.stream, payload);
                } else {
                    // RFC 9113 §6.9: an error of the stream.
                    self.reset(head.stream);
                }
            }
            HEADERS => match fragment(head, payload) {
                Some(fragment) => {
                    self.begin_block(head);
                    self.continue_block(fragment, head.is(END_HEADERS));
                }
                // RFC 9113 §6.2: more padding than payload is an error of the connection.
                None => self.ruin(),
            },
            _ => self.continue_block(payload, head.is(END_HEADERS)),
        }
    }

    fn begin_block(&mut self, head: Head) {
        self.decoder.begin();
        self.encoded.clear();
        let section = match head.stream > self.ended.newest {
            true => Section::Head,
            false => Section::Trailers,
        };
        if section == Section::Head {
            self.ended.open(head.stream);
        }
        self.block = Some(Block {
            stream: head.stream,
            section,
            ends_stream: head.is(END_STREAM),
            size: 0,
            unpacked: 0,
            rest: Vec::new(),
            check: Check::new(section, self.limits),
        });
    }

    fn continue_block(&mut self, fragment: &[u8], is_last: bool) {
        let Some(mut block) = self.block.take() else { return };
        block.size += fragment.len().max(LEAST_FRAME);
        match self.decode(&mut block, fragment, is_last) {
            // RFC 9113 §4.3: no later block could be read.
            Err(Corrupt) => self.ruin(),
            // Until it is complete nobody else can use the connection.
            Ok(()) if block.size.max(block.unpacked) > self.limits.block_size() => self.ruin(),
            Ok(()) if is_last => self.end_block(block),
            Ok(()) => self.block = Some(block),
        }
    }

    /// Decodes what has come of a block.
    fn decode(&mut self, block: &mut Block, part: &[u8], is_last: bool) -> Result<(), Corrupt> {
        let Walk { decoder, encoded, .. } = self;
        let Block { check, rest, unpacked, .. } = block;
        let mut each = |field: Field<'_>| {
            *unpacked = unpacked.saturating_add(field.name.len() + field.value.len());
            // Whatever is wrong with it, the table must know it.
            if let Some(field) = check.field(field) {
                hpack::encode(field, encoded);
            }
        };
        if rest.is_empty() {
            let read = decoder.decode(part, &mut each)?;
            *rest = part.get(read..).unwrap_or_default().to_vec();
        } else {
            rest.extend_from_slice(part);
            let read = decoder.decode(rest, &mut each)?;
            rest.drain(..read);
        }
        if is_last && !rest.is_empty() { Err(Corrupt) } else { Ok(()) }
    }

    fn end_block(&mut self, block: Block) {
        let Block { stream, section, ends_stream, check, .. } = block;
        self.let_go(stream);
        let has_ended = self.ended.has(stream);
        self.ended.set(stream, ends_stream);
        match (check.finish(ends_stream), section) {
            // RFC 9113 §5.1, as with content.
            (Ok(()), Section::Trailers) if has_ended => return self.reset(stream),
            (Ok(()), _) => {}
            (Err(refused), Section::Head) => {
                self.encoded.clear();
                stand_in::write(&refused, &mut self.encoded);
            }
            (Err(_), Section::Trailers) => return self.reset(stream),
        }
        let mut parts = self.encoded.chunks(MAX_FRAME).peekable();
        let (mut kind, mut flags) = (HEADERS, if ends_stream { END_STREAM } else { 0 });
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

    /// Lets h2 reset a stream.
    fn reset(&mut self, stream: u32) {
        frame(&mut self.out, HEADERS, END_HEADERS | END_STREAM, stream, MALFORMED);
    }

    /// Lets h2 end the connection.
    fn ruin(&mut self) {
        frame(&mut self.out, HEADERS, END_HEADERS, 1, CORRUPT);
        self.block = None;
        self.is_over = true;
    }
}

/// A field that is malformed over HTTP/2, so that h2 resets the stream.
const MALFORMED: &[u8] = b"\x00\x0aconnection\x01x";
/// An index that no table has, so that h2 ends the connection.
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

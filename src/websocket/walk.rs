//! Walking the frames of one direction: what each frame is allowed to be (RFC 6455 §5), and how
//! its bytes pass. Pure: bytes in, steps out.
//!
//! [`FromUpstream`] lets whole frames pass, and cuts frames longer than the hold into fragments, so
//! that what the client has got can be followed by a Close at any moment. [`FromClient`] lets bytes
//! pass as they come and holds back only an incomplete header or control frame; it knows whether
//! the upstream stands between two frames.

use super::close::Close;
use super::frame::{
    self, BINARY, BadLength, CLOSE, CONTINUATION, Header, MAX_CONTROL, PING, PONG, TEXT,
};
use super::utf8::Utf8;

/// How a frame breaks RFC 6455.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A server's frame is masked, or a client's is not (§5.1).
    Masking,
    /// A reserved opcode (§5.2).
    Opcode,
    /// A reserved bit without the extension that defines it (§5.2).
    ReservedBit,
    /// A length that is not in its shortest form, or of more than 63 bits (§5.2).
    Length,
    /// A control frame that is fragmented or longer than 125 bytes (§5.5).
    Control,
    /// A continuation of nothing, or a new message inside another (§5.4).
    Fragmentation,
    /// A frame larger than `websocket.max_frame`.
    TooLarge,
    /// A text message that is not UTF-8 (§8.1).
    Utf8,
    /// A Close with a payload that may not be on the wire (§5.5.1, §7.4).
    Close,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Violation::Masking => "a frame is masked that must not be, or the other way round",
            Violation::Opcode => "a frame has a reserved opcode",
            Violation::ReservedBit => "a frame has a reserved bit that no extension defines",
            Violation::Length => "a frame's length is not in its shortest form",
            Violation::Control => "a control frame is fragmented or longer than 125 bytes",
            Violation::Fragmentation => "a fragment is out of place",
            Violation::TooLarge => "a frame is larger than websocket.max_frame",
            Violation::Utf8 => "a text message is not UTF-8",
            Violation::Close => "a close frame has a payload that may not be sent",
        })
    }
}

impl std::error::Error for Violation {}

impl From<BadLength> for Violation {
    fn from(_: BadLength) -> Self {
        Violation::Length
    }
}

/// What to do with the next bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes pass as they are.
    Pass(usize),
    /// So many bytes are the answer to a ping of ours and go no further.
    Swallow(usize),
    /// So many bytes are the header of a frame that will pass as fragments.
    Skip(usize),
    /// A fragment: skip so many bytes of the original header, write this header, pass so many bytes.
    Fragment(usize, Header, usize),
    /// A Close frame of so many bytes.
    Close(usize, Close),
    /// More bytes are needed: so many in all.
    More(usize),
    /// Nothing more may pass.
    Broken(Violation),
}

/// What both directions keep of the message that is being sent.
#[derive(Debug)]
struct Messages {
    rsv: u8,
    max_frame: u64,
    /// Inside a fragmented message.
    open: bool,
    /// Messages that are complete, and payload bytes of data frames, since the last count.
    whole: u64,
    bytes: u64,
}

impl Messages {
    fn new(rsv: u8, max_frame: u64) -> Self {
        Messages { rsv, max_frame, open: false, whole: 0, bytes: 0 }
    }

    /// Whether this header may come now.
    fn admit(&mut self, header: &Header) -> Result<(), Violation> {
        match header.opcode {
            CONTINUATION | TEXT | BINARY => {
                let continues = header.opcode == CONTINUATION;
                if continues != self.open {
                    return Err(Violation::Fragmentation);
                }
                // RSV1 belongs to the first frame of a message (RFC 7692 §6).
                let allowed = if continues && self.rsv == 4 { 0 } else { self.rsv };
                if header.rsv & !allowed != 0 {
                    return Err(Violation::ReservedBit);
                }
                if header.length > self.max_frame {
                    return Err(Violation::TooLarge);
                }
                self.open = !header.fin;
                Ok(())
            }
            CLOSE | PING | PONG => {
                if !header.fin || header.length > MAX_CONTROL {
                    Err(Violation::Control)
                } else if header.rsv & !(self.rsv & 3) != 0 {
                    Err(Violation::ReservedBit)
                } else {
                    Ok(())
                }
            }
            _ => Err(Violation::Opcode),
        }
    }

    /// The common case in a tight loop: how many bytes at the start of `data` are whole messages of
    /// one frame each, of at most `limit` bytes, that nobody has to look at twice. `judge` is asked
    /// about text that is not compressed. Whatever is not common is left to the slow path.
    fn whole_messages(
        &mut self,
        data: &[u8],
        masked: bool,
        limit: u64,
        judge: impl Fn(&[u8]) -> bool,
    ) -> usize {
        if self.open {
            return 0;
        }
        let limit = usize::try_from(limit.min(self.max_frame)).unwrap_or(usize::MAX);
        let mut at = 0;
        let mut rest = data;
        while let [first, second, behind @ ..] = rest {
            let known =
                matches!(first, 0x81 | 0x82) || (matches!(first, 0xC1 | 0xC2) && self.rsv & 4 != 0);
            if !known || (second & 0x80 != 0) != masked {
                break;
            }
            let (length, extended) = match (second & 0x7F, behind) {
                (length @ 0..=125, _) => (usize::from(length), 0),
                (126, [high, low, ..]) => (usize::from(u16::from_be_bytes([*high, *low])), 2),
                _ => break,
            };
            let minimal = extended == 0 || length > 125;
            let start = 2 + extended + if masked { 4 } else { 0 };
            let Some(payload) = rest.get(start..start + length) else { break };
            if !minimal || length > limit || (*first == 0x81 && !judge(payload)) {
                break;
            }
            self.passed(length as u64, true);
            at += start + length;
            rest = rest.get(start + length..).unwrap_or_default();
        }
        at
    }

    fn passed(&mut self, bytes: u64, ends_message: bool) {
        self.bytes += bytes;
        self.whole += u64::from(ends_message);
    }

    /// Complete messages and payload bytes since the last call.
    fn count(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.whole), std::mem::take(&mut self.bytes))
    }
}

/// The payload of a ping of ours that has not been answered.
pub type Token = [u8; 8];

/// Frames from the upstream to the client.
#[derive(Debug)]
pub struct FromUpstream {
    messages: Messages,
    hold: u64,
    /// The message is uncompressed text: its bytes are checked.
    text: bool,
    utf8: Utf8,
    long: Option<Long>,
}

/// A frame that is longer than the hold, on its way as fragments.
#[derive(Clone, Copy, Debug)]
struct Long {
    header: Header,
    left: u64,
    begun: bool,
}

impl FromUpstream {
    /// Frames whose reserved bits are `rsv`; longer ones than `hold` are cut.
    #[must_use]
    pub fn new(rsv: u8, max_frame: u64, hold: usize) -> Self {
        FromUpstream {
            messages: Messages::new(rsv, max_frame),
            hold: (hold as u64).max(MAX_CONTROL),
            text: false,
            utf8: Utf8::default(),
            long: None,
        }
    }

    /// Complete messages and payload bytes since the last call.
    pub fn count(&mut self) -> (u64, u64) {
        self.messages.count()
    }

    /// Whether a message has begun to reach the client and is not complete.
    #[must_use]
    pub fn is_inside_message(&self) -> bool {
        self.messages.open || self.long.is_some()
    }

    /// The next step. `ours` is the token of a ping that waits for its pong.
    pub fn step(&mut self, data: &[u8], ours: Option<Token>) -> Step {
        match self.try_step(data, ours) {
            Ok(step) => step,
            Err(violation) => Step::Broken(violation),
        }
    }

    fn try_step(&mut self, data: &[u8], ours: Option<Token>) -> Result<Step, Violation> {
        if let Some(long) = self.long {
            return self.fragment(long, 0, data);
        }
        match self.messages.whole_messages(data, false, self.hold, is_text) {
            0 => {}
            count => return Ok(Step::Pass(count)),
        }
        let Some(header) = Header::parse(data)? else { return Ok(Step::More(frame::MAX_HEADER)) };
        if header.mask.is_some() {
            return Err(Violation::Masking);
        }
        let long = !header.is_control() && header.length > self.hold;
        let size = usize::try_from(header.length).unwrap_or(usize::MAX).saturating_add(header.size);
        if !long && data.len() < size {
            // Judged already, so that a frame that may not come is told before it is whole. The
            // message's state changes only once.
            let open = self.messages.open;
            let judged = self.messages.admit(&header);
            self.messages.open = open;
            return judged.map(|()| Step::More(size));
        }
        self.messages.admit(&header)?;
        if header.opcode == TEXT || header.opcode == BINARY {
            self.text = header.opcode == TEXT && header.rsv == 0;
        }
        if long {
            let payload = data.get(header.size..).unwrap_or_default();
            let long = Long { header, left: header.length, begun: false };
            self.long = Some(long);
            return self.fragment(long, header.size, payload);
        }
        let payload = data.get(header.size..size).unwrap_or_default();
        match header.opcode {
            CLOSE => return Ok(Step::Close(size, Close::parse(payload))),
            PONG if ours.is_some_and(|token| token == payload) => return Ok(Step::Swallow(size)),
            PING | PONG => return Ok(Step::Pass(size)),
            _ => {}
        }
        self.check_text(payload, header.fin)?;
        self.messages.passed(header.length, header.fin);
        Ok(Step::Pass(size))
    }

    /// The part of a long frame that is there, as a frame of its own (RFC 6455 §5.4).
    fn fragment(&mut self, long: Long, skip: usize, payload: &[u8]) -> Result<Step, Violation> {
        let count = usize::try_from(long.left).unwrap_or(usize::MAX).min(payload.len());
        if count == 0 {
            // The header was taken; what follows is payload only.
            return Ok(if skip > 0 { Step::Skip(skip) } else { Step::More(1) });
        }
        let payload = payload.get(..count).unwrap_or_default();
        let left = long.left - count as u64;
        let last = left == 0;
        let fin = last && long.header.fin;
        self.check_text(payload, fin)?;
        self.messages.passed(count as u64, fin);
        self.long = (!last).then_some(Long { left, begun: true, ..long });
        let first = !long.begun;
        let header = Header {
            fin,
            rsv: if first { long.header.rsv } else { 0 },
            opcode: if first { long.header.opcode } else { CONTINUATION },
            mask: None,
            length: count as u64,
            size: 0,
        };
        Ok(Step::Fragment(skip, header, count))
    }

    fn check_text(&mut self, payload: &[u8], fin: bool) -> Result<(), Violation> {
        if self.text && !(self.utf8.push(payload) && (!fin || self.utf8.end())) {
            return Err(Violation::Utf8);
        }
        Ok(())
    }
}

/// Whether a whole text message is UTF-8. Short messages are mostly ASCII, which takes one pass
/// over its words; the vector code has to be called for.
fn is_text(payload: &[u8]) -> bool {
    const SHORT: usize = 256;
    if payload.len() <= SHORT {
        let (words, rest) = payload.as_chunks::<8>();
        let bits = words.iter().fold(0, |bits, word| bits | u64::from_ne_bytes(*word));
        if bits & 0x8080_8080_8080_8080 == 0 && rest.is_ascii() {
            return true;
        }
    }
    simdutf8::basic::from_utf8(payload).is_ok()
}

/// Frames from the client to the upstream.
#[derive(Debug)]
pub struct FromClient {
    messages: Messages,
    /// Payload bytes of the frame that is passing.
    left: u64,
    /// It ends its message.
    ends_message: bool,
}

impl FromClient {
    /// Frames whose reserved bits are `rsv`.
    #[must_use]
    pub fn new(rsv: u8, max_frame: u64) -> Self {
        FromClient { messages: Messages::new(rsv, max_frame), left: 0, ends_message: false }
    }

    /// Complete messages and payload bytes since the last call.
    pub fn count(&mut self) -> (u64, u64) {
        self.messages.count()
    }

    /// Whether what has passed ends with a whole frame.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.left == 0
    }

    /// Whether what has passed ends with a whole message.
    #[must_use]
    pub fn is_between_messages(&self) -> bool {
        self.left == 0 && !self.messages.open
    }

    /// The next step. `ours` is the token of a ping that waits for its pong.
    pub fn step(&mut self, data: &[u8], ours: Option<Token>) -> Step {
        match self.try_step(data, ours) {
            Ok(step) => step,
            Err(violation) => Step::Broken(violation),
        }
    }

    fn try_step(&mut self, data: &[u8], ours: Option<Token>) -> Result<Step, Violation> {
        if self.left > 0 {
            return Ok(match self.pass(data.len()) {
                0 => Step::More(1),
                count => Step::Pass(count),
            });
        }
        match self.messages.whole_messages(data, true, u64::MAX, |_| true) {
            0 => {}
            count => return Ok(Step::Pass(count)),
        }
        let Some(header) = Header::parse(data)? else { return Ok(Step::More(frame::MAX_HEADER)) };
        let Some(key) = header.mask else { return Err(Violation::Masking) };
        if !header.is_control() {
            self.messages.admit(&header)?;
            self.left = header.length;
            self.ends_message = header.fin;
            if header.length == 0 {
                self.messages.passed(0, header.fin);
            }
            let count = self.pass(data.len() - header.size);
            return Ok(Step::Pass(header.size + count));
        }
        self.messages.admit(&header)?;
        let size = header.size + usize::try_from(header.length).unwrap_or_default();
        let Some(payload) = data.get(header.size..size) else { return Ok(Step::More(size)) };
        let mut payload = payload.to_vec();
        frame::mask(&mut payload, key);
        Ok(match header.opcode {
            CLOSE => match Close::parse(&payload) {
                Close::Illegal => return Err(Violation::Close),
                close => Step::Close(size, close),
            },
            PONG if ours.is_some_and(|token| token[..] == payload) => Step::Swallow(size),
            _ => Step::Pass(size),
        })
    }

    /// Lets payload pass; gives how much.
    fn pass(&mut self, available: usize) -> usize {
        if self.left == 0 {
            return 0;
        }
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(available);
        self.left -= count as u64;
        self.messages.passed(count as u64, self.left == 0 && self.ends_message);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1 << 20;

    fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
        let header = Header {
            fin: first & 0x80 != 0,
            rsv: (first >> 4) & 7,
            opcode: first & 15,
            mask: key,
            length: payload.len() as u64,
            size: 0,
        };
        let mut bytes = Vec::new();
        header.write(&mut bytes);
        let from = bytes.len();
        bytes.extend_from_slice(payload);
        if let Some(key) = key {
            frame::mask(&mut bytes[from..], key);
        }
        bytes
    }

    fn upstream_verdict(rsv: u8, frames: &[Vec<u8>]) -> Option<Violation> {
        let mut walk = FromUpstream::new(rsv, LIMIT, 1024);
        let data = frames.concat();
        let mut at = 0;
        loop {
            match walk.step(&data[at..], None) {
                Step::Pass(n) | Step::Swallow(n) | Step::Skip(n) | Step::Close(n, _) => at += n,
                Step::Fragment(skip, _, n) => at += skip + n,
                Step::More(_) => return None,
                Step::Broken(violation) => return Some(violation),
            }
        }
    }

    #[test]
    fn each_violation_of_an_upstream_is_told() {
        use Violation as V;
        let key = Some([1, 2, 3, 4]);
        let long = vec![b'x'; 126];
        let rows: Vec<(u8, Vec<Vec<u8>>, Option<V>)> = vec![
            (0, vec![frame(0x81, b"ok", None)], None),
            (0, vec![frame(0x81, b"ok", key)], Some(V::Masking)),
            (0, vec![frame(0x83, b"", None)], Some(V::Opcode)),
            (0, vec![frame(0x8B, b"", None)], Some(V::Opcode)),
            (0, vec![frame(0xC1, b"", None)], Some(V::ReservedBit)),
            (4, vec![frame(0xC1, b"\xFF", None)], None),
            (4, vec![frame(0x41, b"", None), frame(0xC0, b"", None)], Some(V::ReservedBit)),
            (4, vec![frame(0xC9, b"", None)], Some(V::ReservedBit)),
            (4, vec![frame(0xA1, b"", None)], Some(V::ReservedBit)),
            (0, vec![frame(0x89, &long, None)], Some(V::Control)),
            (0, vec![frame(0x09, b"", None)], Some(V::Control)),
            (0, vec![frame(0x80, b"", None)], Some(V::Fragmentation)),
            (0, vec![frame(0x01, b"", None), frame(0x81, b"", None)], Some(V::Fragmentation)),
            (0, vec![frame(0x01, b"", None), frame(0x89, b"", None), frame(0x80, b"", None)], None),
            (0, vec![frame(0x81, b"\xFF", None)], Some(V::Utf8)),
            (0, vec![frame(0x01, b"\xF0", None), frame(0x80, b"\x9F", None)], Some(V::Utf8)),
            (0, vec![frame(0x01, b"\xC3", None), frame(0x80, b"\xA4", None)], None),
            (0, vec![frame(0x82, b"\xFF", None)], None),
            (0, vec![vec![0x81, 126, 0, 5]], Some(V::Length)),
        ];
        for (rsv, frames, expected) in rows {
            assert_eq!(upstream_verdict(rsv, &frames), expected, "{frames:?}");
        }
        let mut huge = Vec::new();
        let header =
            Header { fin: true, rsv: 0, opcode: 2, mask: None, length: LIMIT + 1, size: 0 };
        header.write(&mut huge);
        assert_eq!(upstream_verdict(0, &[huge]), Some(V::TooLarge));
    }

    #[test]
    fn a_frame_that_may_not_come_is_told_before_it_is_whole() {
        let mut walk = FromUpstream::new(0, LIMIT, 1024);
        let bad = frame(0x83, b"payload", None);
        assert_eq!(walk.step(&bad[..2], None), Step::Broken(Violation::Opcode));
        let mut walk = FromUpstream::new(0, LIMIT, 1024);
        let first = frame(0x01, b"abc", None);
        for _ in 0..3 {
            assert_eq!(walk.step(&first[..3], None), Step::More(5));
        }
        assert_eq!(walk.step(&first, None), Step::Pass(5));
    }

    #[test]
    fn a_long_frame_becomes_fragments_that_keep_opcode_bits_and_end() {
        let mut walk = FromUpstream::new(4, LIMIT, 200);
        let payload = vec![7_u8; 500];
        let bytes = frame(0xC2, &payload, None);
        let header =
            |fin, rsv, opcode, length| Header { fin, rsv, opcode, mask: None, length, size: 0 };
        assert_eq!(
            walk.step(&bytes[..104], None),
            Step::Fragment(4, header(false, 4, 2, 100), 100)
        );
        assert!(walk.is_inside_message());
        assert_eq!(
            walk.step(&bytes[104..404], None),
            Step::Fragment(0, header(false, 0, 0, 300), 300)
        );
        assert_eq!(walk.step(&[], None), Step::More(1));
        assert_eq!(walk.step(&bytes[404..], None), Step::Fragment(0, header(true, 0, 0, 100), 100));
        assert!(!walk.is_inside_message());
        assert_eq!(walk.count(), (1, 500));
    }

    #[test]
    fn a_clients_frames_pass_as_they_come_and_are_judged() {
        use Violation as V;
        let key = Some([1, 2, 3, 4]);
        let mut walk = FromClient::new(0, LIMIT);
        let hello = frame(0x81, b"hello", key);
        assert_eq!(walk.step(&hello[..5], None), Step::More(14));
        assert_eq!(walk.step(&hello[..8], None), Step::Pass(8));
        assert!(!walk.is_between_frames());
        assert_eq!(walk.step(&hello[8..], None), Step::Pass(3));
        assert!(walk.is_between_frames() && walk.is_between_messages());
        assert_eq!(walk.count(), (1, 5));
        for (bytes, violation) in [
            (frame(0x81, b"x", None), V::Masking),
            (frame(0x84, b"x", key), V::Opcode),
            (frame(0x91, b"x", key), V::ReservedBit),
            (frame(0x80, b"x", key), V::Fragmentation),
            (frame(0x08, b"", key), V::Control),
            (frame(0x88, b"\x03", key), V::Close),
            (frame(0x88, &1005_u16.to_be_bytes(), key), V::Close),
        ] {
            let mut walk = FromClient::new(0, LIMIT);
            assert_eq!(walk.step(&bytes, None), Step::Broken(violation), "{bytes:?}");
        }
    }

    #[test]
    fn only_pongs_of_ours_are_swallowed() {
        let token = *b"seawall!";
        let pong = frame(0x8A, &token, None);
        let mut walk = FromUpstream::new(0, LIMIT, 1024);
        assert_eq!(walk.step(&pong, None), Step::Pass(10));
        assert_eq!(walk.step(&pong, Some(token)), Step::Swallow(10));
        assert_eq!(walk.step(&frame(0x8A, b"other", None), Some(token)), Step::Pass(7));
        let masked = frame(0x8A, &token, Some([9, 8, 7, 6]));
        let mut walk = FromClient::new(0, LIMIT);
        assert_eq!(walk.step(&masked, Some(token)), Step::Swallow(14));
    }
}

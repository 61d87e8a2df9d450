//! Heads that two parsers could read differently, found in the bytes before hyper sees them.
//!
//! hyper reads such a head in one way and says nothing of the other: of a request with both
//! Transfer-Encoding and Content-Length only the first is left when it arrives (RFC 9112 §6.3 allows
//! that), and a line may end with a bare LF (§2.2 allows that too). What is forwarded is in one
//! normal form either way. But whoever stands before us may have read the other one, so both are
//! refused here.
//!
//! The watch follows heads and content from the first byte of a connection to its last, and looks at
//! nothing but line ends and two field names. Where it cannot follow (bad chunk sizes, an upgrade) it
//! stops watching: what is malformed is hyper's to refuse.

use memchr::memchr;

/// The longest beginning of a line that is looked at: `Content-Length: ` and 20 digits fit.
const PREFIX: usize = 64;

/// Follows the bytes that a client sends on one HTTP/1.1 connection.
#[derive(Debug)]
pub struct Watch {
    state: State,
    line: [u8; PREFIX],
    /// How many bytes of the line there were, those beyond `line` included.
    length: usize,
    /// The last byte of the line so far.
    last: u8,
    head: Head,
}

/// A head that may mean two things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ambiguous {
    /// How many of the bytes given last come before this head.
    pub before: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// So many bytes of content, and what follows them.
    Content(u64, After),
    ChunkSize,
    Trailers,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Head,
    ChunkSize,
}

/// What is known of the head that is being read.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    begun: bool,
    length: Option<u64>,
    has_length: bool,
    chunked: bool,
    upgrade: bool,
}

impl Default for Watch {
    fn default() -> Self {
        let state = State::Head;
        Watch { state, line: [0; PREFIX], length: 0, last: 0, head: Head::default() }
    }
}

impl Watch {
    /// What follows is not HTTP.
    pub fn stop(&mut self) {
        self.state = State::Off;
    }

    /// Follows the next bytes of the connection.
    ///
    /// # Errors
    /// If a head can be read in two ways. The watch is of no use then.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<(), Ambiguous> {
        let mut rest = bytes;
        let mut before = 0;
        while !rest.is_empty() {
            match self.state {
                State::Off => return Ok(()),
                State::Content(left, after) => {
                    let skipped = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    rest = rest.get(skipped..).unwrap_or_default();
                    self.state = match (left - skipped as u64, after) {
                        (0, After::Head) => State::Head,
                        (0, After::ChunkSize) => State::ChunkSize,
                        (left, after) => State::Content(left, after),
                    };
                }
                State::Head | State::ChunkSize | State::Trailers => {
                    if self.state == State::Head && !self.head.begun && self.length == 0 {
                        before = bytes.len() - rest.len();
                    }
                    let Some(end) = memchr(b'\n', rest) else {
                        self.add(rest);
                        return Ok(());
                    };
                    self.add(rest.get(..end).unwrap_or_default());
                    rest = rest.get(end + 1..).unwrap_or_default();
                    self.line_ended().map_err(|()| Ambiguous { before })?;
                    self.length = 0;
                    self.last = 0;
                }
            }
        }
        Ok(())
    }

    /// Adds to the line.
    fn add(&mut self, piece: &[u8]) {
        let Some(last) = piece.last() else { return };
        self.last = *last;
        if let Some(room) = self.line.get_mut(self.length..) {
            let count = room.len().min(piece.len());
            if let (Some(to), Some(from)) = (room.get_mut(..count), piece.get(..count)) {
                to.copy_from_slice(from);
            }
        }
        self.length = self.length.saturating_add(piece.len());
    }

    fn line_ended(&mut self) -> Result<(), ()> {
        let is_whole = self.length <= PREFIX;
        let is_bare = self.last != b'\r';
        let line = self.line.get(..self.length.min(PREFIX)).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.state {
            State::Head if is_bare => return Err(()),
            State::Head if !line.is_empty() => self.head.note(line, is_whole),
            // Empty lines before a request are skipped (RFC 9112 §2.2).
            State::Head if !self.head.begun => {}
            State::Head => self.state = std::mem::take(&mut self.head).end()?,
            // hyper refuses it.
            State::ChunkSize | State::Trailers if is_bare => self.state = State::Off,
            State::ChunkSize => {
                self.state = match chunk_size(line) {
                    Some(0) => State::Trailers,
                    // With the line end behind the chunk.
                    Some(size) => State::Content(size.saturating_add(2), After::ChunkSize),
                    None => State::Off,
                };
            }
            State::Trailers if line.is_empty() => self.state = State::Head,
            State::Trailers | State::Content(..) | State::Off => {}
        }
        Ok(())
    }
}

impl Head {
    /// Notes a line, or its beginning.
    fn note(&mut self, line: &[u8], is_whole: bool) {
        if !std::mem::replace(&mut self.begun, true) {
            return;
        }
        // Most fields are told apart by their first letter.
        match line.first().map(u8::to_ascii_lowercase) {
            Some(b'c') => {
                if let Some(value) = value_of(line, b"content-length") {
                    self.has_length = true;
                    self.length = number(value, 10).filter(|_| is_whole);
                }
            }
            Some(b't') => self.chunked |= value_of(line, b"transfer-encoding").is_some(),
            Some(b'u') => self.upgrade |= value_of(line, b"upgrade").is_some(),
            _ => {}
        }
    }

    fn end(self) -> Result<State, ()> {
        match self {
            Head { has_length: true, chunked: true, .. } => Err(()),
            // The client may go on in another protocol right away.
            Head { upgrade: true, .. } => Ok(State::Off),
            // Whatever else the coding is, it is refused.
            Head { chunked: true, .. } => Ok(State::ChunkSize),
            Head { has_length: false, .. } | Head { length: Some(0), .. } => Ok(State::Head),
            Head { length: Some(length), .. } => Ok(State::Content(length, After::Head)),
            // Not a number: refused.
            Head { length: None, .. } => Ok(State::Off),
        }
    }
}

/// The value of a field line with this name.
fn value_of<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let (given, rest) = line.split_at_checked(name.len())?;
    if !given.eq_ignore_ascii_case(name) {
        return None;
    }
    rest.strip_prefix(b":")
}

/// The size in a chunk's first line (RFC 9112 §7.1).
fn chunk_size(line: &[u8]) -> Option<u64> {
    number(line.split(|byte| *byte == b';').next()?, 16)
}

/// An unsigned number without a sign, between white space.
fn number(text: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    if text.starts_with('+') {
        return None;
    }
    u64::from_str_radix(text, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of these bytes, however they are split.
    fn follow(bytes: &[u8]) -> Result<(), Ambiguous> {
        let whole = Watch::default().follow(bytes);
        for cut in 1..bytes.len() {
            let mut watch = Watch::default();
            let (first, second) = bytes.split_at(cut);
            let pieces = watch.follow(first).and_then(|()| watch.follow(second));
            assert_eq!(pieces.is_ok(), whole.is_ok(), "split at {cut}");
        }
        whole
    }

    #[test]
    fn both_lengths_are_ambiguous_in_either_order() {
        let one = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\ncontent-length: 3\r\n\r\n";
        let other = b"POST / HTTP/1.1\r\nCONTENT-LENGTH: 3\r\ntransfer-encoding:chunked\r\n\r\n";
        assert_eq!(follow(one), Err(Ambiguous { before: 0 }));
        assert_eq!(follow(other), Err(Ambiguous { before: 0 }));
    }

    #[test]
    fn a_bare_line_feed_in_a_head_is_ambiguous() {
        assert!(follow(b"GET / HTTP/1.1\nHost: a\r\n\r\n").is_err());
        assert!(follow(b"GET / HTTP/1.1\r\nHost: a\n\r\n").is_err());
        assert!(follow(b"GET / HTTP/1.1\r\nHost: a\r\n\n").is_err());
    }

    #[test]
    fn what_was_asked_before_is_told_apart_from_the_ambiguous_head() {
        let first: &[u8] = b"\r\nPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
            a;x=\"y\"\r\n\n\n\n\n\n\n\n\n\n\n\r\n0\r\nSum: 1\r\n\r\n\
            PUT / HTTP/1.1\r\nContent-Length: 4\r\n\r\n\n\n\n\n";
        assert_eq!(follow(first), Ok(()));
        let second: &[u8] = b"GET / HTTP/1.1\nHost: a\r\n\r\n";
        let both = [first, second].concat();
        assert_eq!(Watch::default().follow(&both), Err(Ambiguous { before: first.len() }));
        assert!(follow(&both).is_err());
    }

    #[test]
    fn what_cannot_be_followed_is_left_to_others() {
        for head in [
            &b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n\n\n"[..],
            b"PUT / HTTP/1.1\r\nContent-Length: +4\r\n\r\n\n\n",
            b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\n\n\n",
            b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\n\n\n",
        ] {
            assert_eq!(follow(head), Ok(()));
        }
    }
}

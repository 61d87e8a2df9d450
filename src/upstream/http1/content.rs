//! The framing of response content, undone: Content-Length, chunked, or until the end of the
//! connection (RFC 9112 §6, §7).
//!
//! A decoder is fed with whatever has arrived and gives data out, large pieces without copying. It
//! never looks at a byte twice and never keeps more than a chunk-size line or a trailer section,
//! both of which are bounded.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use super::head::cut;
use super::lines::Reader;
use super::{MessageError, MessageLimits};
use crate::message::field;
use crate::upstream::exchange::Framing;

/// Longest chunk-size line in bytes, extensions included. They are ignored (RFC 9112 §7.1.1) but
/// have to be read.
const MAX_SIZE_LINE: usize = 4096;

/// Undoes the framing of one message's content.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Content bytes given out so far.
    decoded: u64,
}

/// Evidence that all of a message was read that its head has announced.
#[derive(Debug)]
pub struct AllRead(());

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    Close,
    Done,
}

/// What the decoder made of the bytes.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Some content.
    Data(Bytes),
    /// The trailer section; the content is complete.
    Trailers(HeaderMap),
    /// The content is complete.
    Done,
    /// Nothing more can be made of what is there.
    More,
}

/// Whether the end of a connection completes the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// The content was delimited by the end of the connection: it is complete.
    Complete,
    /// More was due.
    CutShort,
}

impl Decoder {
    /// A decoder for content framed like this.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::Close => State::Close,
        };
        Decoder { state, decoded: 0 }
    }

    /// Returns the evidence that the content was read to its end, if it was.
    #[must_use]
    pub fn all_read(&self) -> Option<AllRead> {
        self.is_done().then_some(AllRead(()))
    }

    /// Whether the content is complete.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How many bytes are left, if that is known.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// What an orderly end of the connection means now.
    #[must_use]
    pub fn at_end(&self) -> AtEnd {
        match self.state {
            State::Close | State::Done => AtEnd::Complete,
            _ => AtEnd::CutShort,
        }
    }

    /// Takes what can be decoded off the front of `buf`.
    ///
    /// # Errors
    /// If the framing is malformed or over a limit.
    pub fn decode(
        &mut self,
        buf: &mut BytesMut,
        limits: &MessageLimits,
    ) -> Result<Step, MessageError> {
        loop {
            match self.state {
                State::Done => return Ok(Step::Done),
                _ if buf.is_empty() => return Ok(Step::More),
                State::Length(left) => {
                    let data = take_up_to(buf, left);
                    let left = left - data.len() as u64;
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    return self.give(data, limits);
                }
                State::Close => return self.give(buf.split().freeze(), limits),
                State::ChunkSize => match chunk_size(buf)? {
                    None => return Ok(Step::More),
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::ChunkData(size),
                },
                State::ChunkData(left) => {
                    let data = take_up_to(buf, left);
                    let left = left - data.len() as u64;
                    self.state = if left == 0 { State::ChunkEnd } else { State::ChunkData(left) };
                    return self.give(data, limits);
                }
                State::ChunkEnd => {
                    match (buf.first(), buf.get(1)) {
                        (Some(b'\r'), Some(b'\n')) => buf.advance(2),
                        (Some(b'\r'), None) => return Ok(Step::More),
                        _ => return Err(MessageError::Chunk),
                    }
                    self.state = State::ChunkSize;
                }
                State::Trailers => {
                    let Some(trailers) = trailers(buf, limits)? else { return Ok(Step::More) };
                    self.state = State::Done;
                    return Ok(if trailers.is_empty() {
                        Step::Done
                    } else {
                        Step::Trailers(trailers)
                    });
                }
            }
        }
    }

    fn give(&mut self, data: Bytes, limits: &MessageLimits) -> Result<Step, MessageError> {
        self.decoded += data.len() as u64;
        if limits.body_bytes.is_some_and(|limit| self.decoded > limit) {
            return Err(MessageError::ContentTooLarge);
        }
        Ok(Step::Data(data))
    }
}

fn take_up_to(buf: &mut BytesMut, left: u64) -> Bytes {
    let count = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
    cut(buf, count)
}

/// `chunk-size [ chunk-ext ] CRLF`.
fn chunk_size(buf: &mut BytesMut) -> Result<Option<u64>, MessageError> {
    let Some(end) = memchr::memchr(b'\n', buf.get(..buf.len().min(MAX_SIZE_LINE)).unwrap_or(buf))
    else {
        // What cannot become a size any more is told at once.
        let plausible = buf.first().is_some_and(u8::is_ascii_hexdigit);
        return if plausible && buf.len() < MAX_SIZE_LINE {
            Ok(None)
        } else {
            Err(MessageError::Chunk)
        };
    };
    let line = buf.get(..end).and_then(|line| line.strip_suffix(b"\r"));
    let size = line.and_then(parse_size).ok_or(MessageError::Chunk)?;
    buf.advance(end + 1);
    Ok(Some(size))
}

fn parse_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    // 15 digits stay below 2^60: no overflow, and far beyond any real chunk.
    if digits == 0 || digits > 15 {
        return None;
    }
    let (size, rest) = line.split_at_checked(digits)?;
    // Only an extension may follow, after white space that RFC 9112 §7.1.1 calls bad but has; some
    // servers pad the size with it. It is spaces and tabs: others end a line for some readers.
    let padding = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let is_text = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    match rest.split_at_checked(padding)?.1 {
        [] => {}
        [b';', extension @ ..] if extension.iter().all(is_text) => {}
        _ => return None,
    }
    size.iter()
        .try_fold(0_u64, |sum, digit| Some(sum * 16 + u64::from(char::from(*digit).to_digit(16)?)))
}

/// A complete trailer section, end-to-end fields only, or `None` if more is needed.
fn trailers(buf: &mut BytesMut, limits: &MessageLimits) -> Result<Option<HeaderMap>, MessageError> {
    if buf.starts_with(b"\r\n") {
        buf.advance(2);
        return Ok(Some(HeaderMap::new()));
    }
    let window = buf.get(..buf.len().min(limits.trailer_bytes)).unwrap_or(buf);
    let Some(end) = memchr::memmem::find(window, b"\r\n\r\n") else {
        return if buf.len() >= limits.trailer_bytes {
            Err(MessageError::TrailersTooLarge)
        } else if buf.first() == Some(&b'\n') {
            Err(MessageError::Trailers)
        } else {
            Ok(None)
        };
    };
    let section = buf.split_to(end + 4);
    parse_fields(&section, limits).map(Some)
}

fn parse_fields(section: &[u8], limits: &MessageLimits) -> Result<HeaderMap, MessageError> {
    let mut reader = Reader::<()>::of_fields();
    let limits = MessageLimits {
        head_bytes: limits.trailer_bytes,
        field_bytes: limits.trailer_bytes,
        ..*limits
    };
    match reader.read(section, &limits, |_| None) {
        Ok(Some(_)) => {}
        Err(MessageError::TooManyFields | MessageError::HeadTooLarge) => {
            return Err(MessageError::TrailersTooLarge);
        }
        // The empty line is there.
        Ok(None) | Err(_) => return Err(MessageError::Trailers),
    }
    let mut trailers = HeaderMap::with_capacity(reader.lines().len());
    for line in reader.lines() {
        let name =
            HeaderName::from_bytes(line.name(section)).map_err(|_| MessageError::Trailers)?;
        if !field::may_be_trailer(line.name(section)) {
            continue;
        }
        let value =
            HeaderValue::from_bytes(line.value(section)).map_err(|_| MessageError::Trailers)?;
        trailers.append(name, value);
    }
    Ok(trailers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::UpstreamLimits;
    use proptest::prelude::*;

    fn limits() -> MessageLimits {
        let limits = UpstreamLimits { trailer_bytes: 64, fields: 3, ..Default::default() };
        MessageLimits::from(&limits)
    }

    /// Feeds `bytes` in pieces that end at `cuts` and collects what comes out.
    fn run(
        framing: Framing,
        bytes: &[u8],
        cuts: &[usize],
        limits: &MessageLimits,
    ) -> Result<(Vec<u8>, Option<HeaderMap>, bool, usize), MessageError> {
        let mut decoder = Decoder::new(framing);
        let mut buf = BytesMut::new();
        let (mut content, mut trailers, mut from) = (Vec::new(), None, 0);
        for to in cuts.iter().copied().chain([bytes.len()]) {
            buf.extend_from_slice(&bytes[from..to]);
            from = to;
            loop {
                match decoder.decode(&mut buf, limits)? {
                    Step::Data(data) => content.extend_from_slice(&data),
                    Step::Trailers(map) => trailers = Some(map),
                    Step::Done | Step::More => break,
                }
            }
        }
        Ok((content, trailers, decoder.is_done(), buf.len()))
    }

    #[test]
    fn chunked_content_split_at_every_byte_is_the_same() {
        let bytes = b"5\r\nhello\r\n6;ext=\"1\"\r\n world\r\n0\r\nX-Sum: 11\r\n\r\nNEXT";
        for cut in 0..bytes.len() {
            let (content, trailers, done, left) =
                run(Framing::Chunked, bytes, &[cut], &limits()).unwrap();
            assert_eq!(content, b"hello world");
            assert_eq!(trailers.unwrap()["x-sum"], "11");
            assert!(done);
            assert_eq!(left, 4, "what follows is not ours");
        }
    }

    #[test]
    fn malformed_chunks_are_told() {
        let rows: &[&[u8]] = &[
            b"x\r\n",
            b"\r\n",
            b"-5\r\nhello\r\n",
            b"+5\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b"5\nhello\n",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello\nX",
            b"5 x\r\nhello\r\n",
            b"fffffffffffffffff\r\n",
        ];
        for bytes in rows {
            let result = run(Framing::Chunked, bytes, &[], &limits());
            assert_eq!(result.err(), Some(MessageError::Chunk), "{:?}", bytes.escape_ascii());
        }
    }

    #[test]
    fn an_endless_size_line_is_bounded() {
        let line = [b"5;".to_vec(), vec![b'a'; MAX_SIZE_LINE]].concat();
        let result = run(Framing::Chunked, &line, &[10], &limits());
        assert_eq!(result.err(), Some(MessageError::Chunk));
    }

    #[test]
    fn trailers_are_bounded_checked_and_cleaned() {
        let many = b"0\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\n\r\n";
        let long = [b"0\r\nA: ".to_vec(), vec![b'x'; 80]].concat();
        let bad = b"0\r\nA\r\n\r\n";
        for (bytes, error) in [
            (&many[..], MessageError::TrailersTooLarge),
            (&long[..], MessageError::TrailersTooLarge),
            (&bad[..], MessageError::Trailers),
        ] {
            assert_eq!(run(Framing::Chunked, bytes, &[], &limits()).err(), Some(error));
        }
        let framing = b"0\r\nContent-Length: 5\r\nA: 1\r\n\r\n";
        let (_, trailers, ..) = run(Framing::Chunked, framing, &[], &limits()).unwrap();
        assert_eq!(trailers.unwrap().len(), 1);
    }

    #[test]
    fn content_over_the_limit_is_told() {
        let limits = MessageLimits { body_bytes: Some(4), ..limits() };
        for (framing, bytes) in
            [(Framing::Close, &b"hello"[..]), (Framing::Chunked, b"5\r\nhello\r\n")]
        {
            let result = run(framing, bytes, &[], &limits);
            assert_eq!(result.err(), Some(MessageError::ContentTooLarge));
        }
    }

    #[test]
    fn only_close_delimited_content_is_complete_at_the_end() {
        assert_eq!(Decoder::new(Framing::Close).at_end(), AtEnd::Complete);
        assert_eq!(Decoder::new(Framing::Empty).at_end(), AtEnd::Complete);
        assert_eq!(Decoder::new(Framing::Length(1)).at_end(), AtEnd::CutShort);
        assert_eq!(Decoder::new(Framing::Chunked).at_end(), AtEnd::CutShort);
    }

    proptest! {
        #[test]
        fn any_chunking_cut_into_any_reads_gives_the_content(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            mut cuts in prop::collection::vec(0usize..400, 0..12),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            cuts.retain(|cut| *cut < wire.len());
            cuts.sort_unstable();
            let (content, _, done, left) = run(Framing::Chunked, &wire, &cuts, &limits()).unwrap();
            prop_assert_eq!(content, chunks.concat());
            prop_assert!(done && left == 0);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = run(Framing::Chunked, &bytes, &[], &limits());
        }
    }
}

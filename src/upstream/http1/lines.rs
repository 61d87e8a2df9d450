//! The lines of a head, read in one pass (RFC 9112 §2.2, §5).
//!
//! A line that is complete is never looked at again, and one that is not complete is not read again
//! before its end is there: a head that comes byte by byte costs no more than one that comes at once.
//! Nothing is copied. What two readers could understand differently is refused: bare line feeds and
//! carriage returns, obsolete folding, white space before the colon.
//!
//! A library's parser did this before, behind a scan for the end of the head: twice as many
//! instructions (benches/README.md). It is what the tests compare this one with.

use std::ops::Range;

use bytes::BytesMut;

use super::upload::extend_field;
use super::{Malformed, MessageError, MessageLimits};

/// How many fields are expected: most heads have fewer.
const USUAL: usize = 16;

/// A field line: where in its head its parts lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<K> {
    /// What the reader's owner knows it as.
    pub known: Option<K>,
    /// It has the form in which we write lines: `name: value` and CRLF, without other white space.
    is_plain: bool,
    name_length: u16,
    name: u32,
    value: u32,
    value_length: u32,
}

impl<K> Line<K> {
    /// The name, in the case in which it came.
    #[must_use]
    pub fn name<'h>(&self, head: &'h [u8]) -> &'h [u8] {
        part(head, self.name, self.name_length.into())
    }

    /// The value, without white space around it.
    #[must_use]
    pub fn value<'h>(&self, head: &'h [u8]) -> &'h [u8] {
        part(head, self.value, self.value_length)
    }

    /// Where the whole line lies with its CRLF, if it has the form in which we write lines.
    #[must_use]
    pub fn plain(&self) -> Option<Range<usize>> {
        let end = self.value as usize + self.value_length as usize + CRLF.len();
        self.is_plain.then_some(self.name as usize..end)
    }
}

/// Lines that are copied, those that stand one behind the other at once.
#[derive(Debug, Default)]
pub struct Run(Range<usize>);

impl Run {
    /// Copies this line of the head behind those before it, in the form in which we write lines: now, or
    /// with the next ones.
    pub fn pass<K>(&mut self, line: &Line<K>, head: &[u8], out: &mut BytesMut) {
        match line.plain() {
            Some(place) if place.start == self.0.end => self.0.end = place.end,
            Some(place) => {
                self.end(head, out);
                self.0 = place;
            }
            None => {
                self.end(head, out);
                extend_field(out, line.name(head), line.value(head));
            }
        }
    }

    /// Where the value of the line that was passed last will stand in `out`.
    #[must_use]
    pub fn value_range<K>(&self, line: &Line<K>, out: &BytesMut) -> Range<usize> {
        let start = match self.0.is_empty() {
            true => out.len() - CRLF.len() - line.value_length as usize,
            false => out.len() + line.value as usize - self.0.start,
        };
        start..start + line.value_length as usize
    }

    /// Copies what has not been copied yet.
    pub fn end(&mut self, head: &[u8], out: &mut BytesMut) {
        let run = std::mem::take(&mut self.0);
        out.extend_from_slice(head.get(run).unwrap_or_default());
    }
}

fn part(head: &[u8], at: u32, length: u32) -> &[u8] {
    head.get(at as usize..at as usize + length as usize).unwrap_or_default()
}

const CRLF: &[u8] = b"\r\n";

/// No head is as long as that.
const MOST: usize = u32::MAX as usize;

/// Reads one head after the other.
#[derive(Debug)]
pub struct Reader<K> {
    /// Where the line begins that is not complete.
    at: usize,
    /// The line does not end before this.
    searched: usize,
    /// How long the first line is, without its CRLF.
    first: Option<usize>,
    lines: Vec<Line<K>>,
}

impl<K> Default for Reader<K> {
    fn default() -> Self {
        Reader { at: 0, searched: 0, first: None, lines: Vec::new() }
    }
}

impl<K> Reader<K> {
    /// A reader of field lines without another line before them: a trailer section.
    #[must_use]
    pub fn of_fields() -> Self {
        Reader { first: Some(0), ..Self::default() }
    }

    /// The length of the complete head at the start of `head`, or `None` if more is needed; then it is
    /// called again with more behind the same bytes. `known` is asked for what a name is known as.
    ///
    /// # Errors
    /// What can already be said to be wrong with the bytes so far.
    pub fn read(
        &mut self,
        head: &[u8],
        limits: &MessageLimits,
        known: impl Fn(&[u8]) -> Option<K>,
    ) -> Result<Option<usize>, MessageError> {
        let head = head.get(..MOST).unwrap_or(head);
        if self.searched > self.at {
            let fresh = head.get(self.searched..).unwrap_or_default();
            if memchr::memchr(b'\n', fresh).is_none() {
                return self.needs_more(head, limits);
            }
        }
        let mut rest = head.get(self.at..).unwrap_or_default();
        if self.first.is_none() {
            let length = text(rest);
            let Some(next) = behind(rest, length, Malformed::FirstLine)? else {
                return self.needs_more(head, limits);
            };
            self.complete(length, limits)?;
            self.first = Some(length);
            rest = next;
            // One that is taken away with each head needs room for all of them at once.
            self.lines.reserve(USUAL.min(limits.fields));
        }
        loop {
            let name_length = name(rest);
            let Some((colon, after)) = rest.get(name_length..).and_then(<[u8]>::split_first) else {
                return self.needs_more(head, limits);
            };
            if *colon != b':' || name_length == 0 {
                return self.no_field(head, rest, name_length, limits);
            }
            let space = white_space(after);
            let value = after.get(space..).unwrap_or_default();
            let length = text(value);
            let Some(next) = behind(value, length, Malformed::Value)? else {
                return self.needs_more(head, limits);
            };
            let value_length = trimmed(value, length);
            let before_value = name_length + 1 + space;
            let line = Line {
                known: known(rest.get(..name_length).unwrap_or_default()),
                is_plain: space == 1 && value_length == length && after.first() == Some(&b' '),
                name_length: name_length.try_into().map_err(|_| MessageError::FieldTooLarge)?,
                // All of them are below MOST.
                name: self.at as u32,
                value: (self.at + before_value) as u32,
                value_length: value_length as u32,
            };
            self.complete(before_value + length, limits)?;
            if self.lines.len() >= limits.fields {
                return Err(MessageError::TooManyFields);
            }
            self.lines.push(line);
            rest = next;
        }
    }

    /// What begins with no name and colon: the empty line behind the last field, or nothing good.
    fn no_field(
        &mut self,
        head: &[u8],
        rest: &[u8],
        name_length: usize,
        limits: &MessageLimits,
    ) -> Result<Option<usize>, MessageError> {
        match (name_length, rest.get(name_length)) {
            (0, Some(b'\r')) => {
                if behind(rest, 0, Malformed::Name)?.is_none() {
                    return self.needs_more(head, limits);
                }
                let length = self.at + CRLF.len();
                match length > limits.head_bytes {
                    true => Err(MessageError::HeadTooLarge),
                    false => Ok(Some(length)),
                }
            }
            (_, Some(b'\n')) => Err(MessageError::BareLineFeed),
            _ => Err(MessageError::Malformed(Malformed::Name)),
        }
    }

    /// A line of this length without its CRLF is complete.
    fn complete(&mut self, length: usize, limits: &MessageLimits) -> Result<(), MessageError> {
        if length > limits.field_bytes {
            return Err(MessageError::FieldTooLarge);
        }
        self.at += length + CRLF.len();
        Ok(())
    }

    #[cold]
    fn needs_more(
        &mut self,
        head: &[u8],
        limits: &MessageLimits,
    ) -> Result<Option<usize>, MessageError> {
        // A CR is not enough to end it.
        self.searched = head.len();
        if head.len() > limits.head_bytes {
            return Err(MessageError::HeadTooLarge);
        }
        if head.len() - self.at > limits.field_bytes {
            return Err(MessageError::FieldTooLarge);
        }
        Ok(None)
    }

    /// Whether not even the first line is there.
    #[must_use]
    pub fn is_in_first_line(&self) -> bool {
        self.first.is_none()
    }

    /// The first line of a head that is complete.
    #[must_use]
    pub fn first<'h>(&self, head: &'h [u8]) -> &'h [u8] {
        self.first.and_then(|end| head.get(..end)).unwrap_or_default()
    }

    /// The field lines of a head that is complete, in the order in which they came.
    #[must_use]
    pub fn lines(&self) -> &[Line<K>] {
        &self.lines
    }

    /// Takes the lines away: another head follows.
    #[must_use]
    pub fn take(&mut self) -> Vec<Line<K>> {
        std::mem::take(self).lines
    }

    /// Forgets the head: another one follows. The room for its lines is kept, if they were not many.
    pub fn restart(&mut self) {
        let mut lines = std::mem::take(self).lines;
        if lines.capacity() <= 4 * USUAL {
            lines.clear();
            self.lines = lines;
        }
    }
}

/// What follows the line that ends behind so much text; `None` if its end has not come.
fn behind(rest: &[u8], text: usize, what: Malformed) -> Result<Option<&[u8]>, MessageError> {
    match rest.get(text..).unwrap_or_default() {
        [b'\r', b'\n', next @ ..] => Ok(Some(next)),
        [] | [b'\r'] => Ok(None),
        [b'\n', ..] => Err(MessageError::BareLineFeed),
        _ => Err(MessageError::Malformed(what)),
    }
}

/// How many spaces and tabs these bytes begin with.
fn white_space(bytes: &[u8]) -> usize {
    match bytes {
        // Nearly always.
        [b' ', b'!'..=b'~', ..] => 1,
        _ => bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count(),
    }
}

/// How much of this text is left without the spaces and tabs at its end.
fn trimmed(bytes: &[u8], length: usize) -> usize {
    match bytes.get(..length) {
        Some(value @ [.., b' ' | b'\t']) => value.trim_ascii_end().len(),
        _ => length,
    }
}

/// How many bytes a token has that these begin with (RFC 9110 §5.6.2).
fn name(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks();
    let others = words.iter().map(|word| no_letters(u64::from_le_bytes(*word)));
    // It is the colon, nearly always.
    let at = match others.enumerate().find(|(_, others)| *others != 0) {
        Some((at, others)) => at * size_of::<u64>() + others.trailing_zeros() as usize / 8,
        None => bytes.len() - rest.len(),
    };
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|byte| !is_token(*byte)).unwrap_or(rest.len())
}

/// The high bit of each byte that is neither a letter nor a hyphen.
fn no_letters(word: u64) -> u64 {
    const LOW: u64 = each(0x7f);
    let lower = (word | each(0x20)) & LOW;
    // No sum of a byte reaches the next one.
    let from_a = lower + each(0x80 - b'a');
    let behind_z = lower + each(0x7f - b'z');
    let letter = from_a & !behind_z & !word;
    let off = word ^ each(b'-');
    let hyphen = !(((off & LOW) + LOW) | off);
    !(letter | hyphen) & each(0x80)
}

fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0_u8;
        while byte < 128 {
            table[byte as usize] = byte.is_ascii_alphanumeric()
                || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~');
            byte += 1;
        }
        table
    };
    TOKEN[usize::from(byte)]
}

/// In each byte of a word.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// How many bytes there are before the first one that is below `LEAST` or DEL. Words are looked at as a
/// whole.
// Not inlined: elsewhere there are no registers left for the masks.
#[inline(never)]
fn before<const LEAST: u8>(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The lowest bit that is set is right: a borrow only goes upwards.
        let below = word.wrapping_sub(each(LEAST));
        let del = (word ^ each(0x7f)).wrapping_sub(each(1));
        let found = (below | del) & !word & each(0x80);
        if found != 0 {
            return at * size_of::<u64>() + found.trailing_zeros() as usize / 8;
        }
    }
    let last = rest.iter().position(|byte| *byte < LEAST || *byte == 0x7f);
    bytes.len() - rest.len() + last.unwrap_or(rest.len())
}

/// How many bytes from the first on a field's value may have: visible ones, those above ASCII, spaces
/// and tabs (RFC 9110 §5.5).
fn text(bytes: &[u8]) -> usize {
    let mut at = before::<b' '>(bytes);
    while bytes.get(at) == Some(&b'\t') {
        at += 1;
        at += before::<b' '>(bytes.get(at..).unwrap_or_default());
    }
    at
}

/// How many bytes from the first on a request's target may have (RFC 9112 §3.2): no control
/// characters, no spaces.
#[must_use]
pub fn target(bytes: &[u8]) -> usize {
    before::<b'!'>(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: MessageLimits = MessageLimits {
        head_bytes: 1_000,
        field_bytes: 1_000,
        fields: 20,
        trailer_bytes: 1_000,
        body_bytes: None,
    };

    type Found = (usize, Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>);

    /// What is found in bytes that come in pieces, which end at `cuts`.
    fn read(bytes: &[u8], cuts: &[usize]) -> Result<Option<Found>, MessageError> {
        let mut reader = Reader::<()>::default();
        let cuts = cuts.iter().copied().filter(|cut| *cut < bytes.len());
        for end in cuts.chain([bytes.len()]) {
            let head = &bytes[..end];
            if let Some(length) = reader.read(head, &LIMITS, |_| None)? {
                let first = reader.first(head).to_vec();
                let lines = reader.take().into_iter().map(|line| {
                    if let Some(place) = line.plain() {
                        let whole = [line.name(head), b": ", line.value(head), CRLF].concat();
                        assert_eq!(&head[place], whole);
                    }
                    (line.name(head).to_vec(), line.value(head).to_vec())
                });
                return Ok(Some((length, first, lines.collect())));
            }
        }
        Ok(None)
    }

    #[test]
    fn lines_are_found_whatever_their_white_space() {
        let bytes =
            b"GET / HTTP/1.1\r\nA: 1\r\nB:2\r\nC:\t 3 \t\r\nD:\r\nE: \r\nF: a\tb \xe4\r\n\r\nrest";
        let (length, first, lines) = read(bytes, &[]).unwrap().unwrap();
        assert_eq!((length, &first[..]), (bytes.len() - 4, &b"GET / HTTP/1.1"[..]));
        let expected: [(&[u8], &[u8]); 6] = [
            (b"A", b"1"),
            (b"B", b"2"),
            (b"C", b"3"),
            (b"D", b""),
            (b"E", b""),
            (b"F", b"a\tb \xe4"),
        ];
        for ((name, value), expected) in lines.iter().zip(expected) {
            assert_eq!((&name[..], &value[..]), expected);
        }
    }

    #[test]
    fn only_the_form_that_we_write_is_plain() {
        let head = b"x\r\nA: 1\r\nB:2\r\nC:  3\r\nD: 4 \r\nE: \r\nF:\r\nG:\t7\r\n\r\n";
        let mut reader = Reader::<()>::default();
        reader.read(head, &LIMITS, |_| None).unwrap().unwrap();
        let plain: Vec<_> = reader.lines().iter().map(|line| line.plain().is_some()).collect();
        assert_eq!(plain, [true, false, false, false, true, false, false]);
    }

    #[test]
    fn what_is_wrong_is_told_by_its_part() {
        use MessageError::{BareLineFeed, Malformed as Bad};
        for (bytes, error) in [
            (&b"x\ny"[..], BareLineFeed),
            (b"x\r\nA: b\n", BareLineFeed),
            (b"x\r\nA\n", BareLineFeed),
            (b"x\r\n\n", BareLineFeed),
            (b"x\ry", Bad(Malformed::FirstLine)),
            (b"x\0", Bad(Malformed::FirstLine)),
            (b"x\r\n: b", Bad(Malformed::Name)),
            (b"x\r\nA : b", Bad(Malformed::Name)),
            (b"x\r\nA\r\n", Bad(Malformed::Name)),
            (b"x\r\n\rA", Bad(Malformed::Name)),
            (b"x\r\nA: b\r\n c\r\n", Bad(Malformed::Name)),
            (b"x\r\nA\xe4: b", Bad(Malformed::Name)),
            (b"x\r\nA: b\rc", Bad(Malformed::Value)),
            (b"x\r\nA: \x7f", Bad(Malformed::Value)),
            (b"x\r\nA: 1234567890\x1f", Bad(Malformed::Value)),
        ] {
            assert_eq!(read(bytes, &[]), Err(error), "{:?}", bytes.escape_ascii());
        }
    }

    #[test]
    fn every_byte_is_looked_at_as_a_part_of_a_word_and_alone() {
        for byte in 0..=u8::MAX {
            for place in 0..17 {
                let mut bytes = [b'a'; 17];
                bytes[place] = byte;
                let is_text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
                assert_eq!(text(&bytes), if is_text { 17 } else { place }, "{byte} at {place}");
                let is_target = byte > b' ' && byte != 0x7f;
                assert_eq!(target(&bytes), if is_target { 17 } else { place });
            }
        }
    }

    #[test]
    fn names_are_tokens_wherever_they_end() {
        for byte in 0..=u8::MAX {
            for place in 0..17 {
                let mut bytes = *b"Abcdefgh-ijklmnoZ";
                bytes[place] = byte;
                assert_eq!(
                    name(&bytes),
                    if is_token(byte) { 17 } else { place },
                    "{byte} at {place}"
                );
            }
            let is_tchar = b"!#$%&'*+-.^_`|~".contains(&byte) || byte.is_ascii_alphanumeric();
            assert_eq!(is_token(byte), is_tchar);
        }
    }

    #[test]
    fn a_reader_is_used_again() {
        let mut reader = Reader::<u8>::default();
        for head in [&b"a\r\nA: 1\r\nB: 2\r\n\r\n"[..], b"bc\r\nC: 3\r\n\r\n", b"d\r\n\r\n"] {
            assert!(reader.is_in_first_line());
            let length = reader.read(head, &LIMITS, |name| name.first().copied()).unwrap();
            assert_eq!(length, Some(head.len()));
            let known: Vec<_> = reader.lines().iter().filter_map(|line| line.known).collect();
            assert_eq!(known.first().copied(), head.iter().copied().find(u8::is_ascii_uppercase));
            reader.restart();
        }
        let mut trailers = Reader::<()>::of_fields();
        assert_eq!(trailers.read(b"A: 1\r\n\r\n", &LIMITS, |_| None), Ok(Some(8)));
    }

    /// What httparse finds in the same bytes.
    fn reference(bytes: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut fields = [httparse::EMPTY_HEADER; 20];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(_)) => Some(
                request
                    .headers
                    .iter()
                    .map(|field| (field.name.as_bytes().to_vec(), field.value.to_vec()))
                    .collect(),
            ),
            _ => None,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn heads_in_pieces_are_read_as_a_library_reads_them(
            lines in prop::collection::vec("[aA:~ \t\r\\x00\\x7f\"é-]{0,3}:?[ \t]{0,2}[b-e \t\r\n\\x01é]{0,12}", 0..5),
            mut cuts in prop::collection::vec(0_usize..120, 0..6),
        ) {
            let mut bytes = b"GET / HTTP/1.1\r\n".to_vec();
            for line in &lines {
                bytes.extend_from_slice(line.as_bytes());
                bytes.extend_from_slice(CRLF);
            }
            bytes.extend_from_slice(CRLF);
            cuts.sort_unstable();
            let whole = read(&bytes, &[]);
            prop_assert_eq!(&whole, &read(&bytes, &cuts));
            // It lets a bare line feed end a line.
            if whole != Err(MessageError::BareLineFeed) {
                let found = whole.ok().flatten().map(|(_, _, lines)| lines);
                prop_assert_eq!(found, reference(&bytes));
            }
        }
    }
}

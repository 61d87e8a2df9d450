//! Field blocks (RFC 7541): a decoder that shows each field as bytes, whatever they are, and an
//! encoder that needs no memory of what was sent before.
//!
//! The decoder judges nothing but the compression itself. So a field that HTTP does not allow
//! leaves its table as right as any other field, and only its own message is lost.

use std::collections::VecDeque;

use super::huffman;

/// The largest dynamic table, which is also the default (RFC 9113 §6.5.2).
const TABLE: usize = 4096;
/// What an entry of the table counts beside its name and value (RFC 7541 §4.1).
const OVERHEAD: usize = 32;
/// The longest name or value that is waited for.
const LONGEST: usize = 1024 * 1024;

/// The compression is broken: no later block of this connection can be read (RFC 9113 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

/// A field as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'f> {
    /// The name, or the name of a pseudo-header field with its colon.
    pub name: &'f [u8],
    /// The value.
    pub value: &'f [u8],
    /// It must not be kept in a table, here and on all further hops (RFC 7541 §7.1.3).
    pub never_indexed: bool,
}

/// Reads the field blocks of one connection, one after the other.
#[derive(Debug)]
pub struct Decoder {
    /// The newest first.
    table: VecDeque<Entry>,
    size: usize,
    most: usize,
    /// The table may be resized: no field of this block has come.
    may_resize: bool,
    name: Vec<u8>,
    value: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    bytes: Box<[u8]>,
    name_length: usize,
}

impl Entry {
    fn field(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at_checked(self.name_length).unwrap_or_default()
    }
}

impl Default for Decoder {
    fn default() -> Self {
        let (name, value) = (Vec::new(), Vec::new());
        Decoder { table: VecDeque::new(), size: 0, most: TABLE, may_resize: true, name, value }
    }
}

/// A number that has come, or not all of it.
type Part<T> = Result<Option<T>, Corrupt>;

/// Takes a number whose first byte has `prefix` bits for it (RFC 7541 §5.1).
fn integer(bytes: &mut &[u8], prefix: u32) -> Part<usize> {
    let Some((first, mut rest)) = bytes.split_first() else { return Ok(None) };
    let most = (1_usize << prefix) - 1;
    let mut number = usize::from(*first) & most;
    if number == most {
        let mut shift = 0;
        loop {
            let Some((byte, behind)) = rest.split_first() else { return Ok(None) };
            rest = behind;
            // More than four bytes are no length, and no index of anything.
            if shift > 21 {
                return Err(Corrupt);
            }
            number += usize::from(*byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *bytes = rest;
    Ok(Some(number))
}

/// Takes a string, still encoded, and says whether that is by Huffman's code (RFC 7541 §5.2).
fn string<'b>(bytes: &mut &'b [u8]) -> Part<(&'b [u8], bool)> {
    let Some(first) = bytes.first() else { return Ok(None) };
    let is_huffman = first & 0x80 != 0;
    let mut rest = *bytes;
    let Some(length) = integer(&mut rest, 7)? else { return Ok(None) };
    if length > LONGEST {
        return Err(Corrupt);
    }
    let Some((string, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    *bytes = rest;
    Ok(Some((string, is_huffman)))
}

fn decode_into(out: &mut Vec<u8>, (string, is_huffman): (&[u8], bool)) -> Result<(), Corrupt> {
    out.clear();
    if is_huffman {
        huffman::decode(string, out).ok_or(Corrupt)
    } else {
        out.extend_from_slice(string);
        Ok(())
    }
}

impl Decoder {
    /// Begins another block.
    pub fn begin(&mut self) {
        self.may_resize = true;
    }

    /// Shows `each` the fields of as much of a block as has come, and says how many bytes these
    /// were: what is left belongs to a field that is not complete.
    ///
    /// # Errors
    /// If the compression is broken.
    pub fn decode(
        &mut self,
        block: &[u8],
        mut each: impl FnMut(Field<'_>),
    ) -> Result<usize, Corrupt> {
        let mut rest = block;
        while !rest.is_empty() {
            let before = rest.len();
            if self.next(&mut rest, &mut each)?.is_none() {
                return Ok(block.len() - before);
            }
        }
        Ok(block.len())
    }

    /// Takes one representation (RFC 7541 §6).
    fn next(&mut self, rest: &mut &[u8], each: &mut impl FnMut(Field<'_>)) -> Part<()> {
        let Some(first) = rest.first().copied() else { return Ok(None) };
        if first & 0xe0 == 0x20 {
            let Some(size) = integer(rest, 5)? else { return Ok(None) };
            if !self.may_resize || size > TABLE {
                return Err(Corrupt);
            }
            self.most = size;
            self.shrink(0);
            return Ok(Some(()));
        }
        self.may_resize = false;
        if first & 0x80 != 0 {
            let Some(index) = integer(rest, 7)? else { return Ok(None) };
            let (name, value) = self.entry(index)?;
            each(Field { name, value, never_indexed: false });
            return Ok(Some(()));
        }
        let (prefix, indexed) = if first & 0x40 != 0 { (6, true) } else { (4, false) };
        let never_indexed = first & 0xf0 == 0x10;
        let mut ahead = *rest;
        let Some(index) = integer(&mut ahead, prefix)? else { return Ok(None) };
        let name = match index {
            0 => match string(&mut ahead)? {
                None => return Ok(None),
                name => name,
            },
            _ => None,
        };
        let Some(value) = string(&mut ahead)? else { return Ok(None) };
        let mut buffer = std::mem::take(&mut self.name);
        match name {
            Some(name) => decode_into(&mut buffer, name)?,
            None => decode_into(&mut buffer, (self.entry(index)?.0, false))?,
        }
        self.name = buffer;
        decode_into(&mut self.value, value)?;
        *rest = ahead;
        each(Field { name: &self.name, value: &self.value, never_indexed });
        if indexed {
            self.insert();
        }
        Ok(Some(()))
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), Corrupt> {
        let index = index.checked_sub(1).ok_or(Corrupt)?;
        match STATIC.get(index) {
            Some((name, value)) => Ok((name.as_bytes(), value.as_bytes())),
            None => self.table.get(index - STATIC.len()).map(Entry::field).ok_or(Corrupt),
        }
    }

    /// Puts the field that was read last into the table (RFC 7541 §4.4).
    fn insert(&mut self) {
        let length = self.name.len() + self.value.len();
        self.shrink(length + OVERHEAD);
        if length + OVERHEAD <= self.most {
            let bytes = [self.name.as_slice(), &self.value].concat().into();
            self.table.push_front(Entry { bytes, name_length: self.name.len() });
            self.size += length + OVERHEAD;
        }
    }

    /// Forgets the oldest entries until there is so much room.
    fn shrink(&mut self, room: usize) {
        while self.size + room > self.most {
            let Some(oldest) = self.table.pop_back() else { return };
            self.size = self.size.saturating_sub(oldest.bytes.len() + OVERHEAD);
        }
    }
}

/// Appends a field as a literal: it neither uses a table nor changes one.
pub fn encode(field: Field<'_>, out: &mut Vec<u8>) {
    out.push(if field.never_indexed { 0x10 } else { 0 });
    for text in [field.name, field.value] {
        length(text.len(), out);
        out.extend_from_slice(text);
    }
}

/// Appends the length of a string that is not by Huffman's code.
fn length(length: usize, out: &mut Vec<u8>) {
    let byte = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
    let Some(mut rest) = length.checked_sub(0x7f) else { return out.push(byte(length)) };
    out.push(0x7f);
    while rest > 0x7f {
        out.push(byte(rest & 0x7f) | 0x80);
        rest >>= 7;
    }
    out.push(byte(rest));
}

/// RFC 7541 appendix A.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"),
    (":path", "/index.html"), (":scheme", "http"), (":scheme", "https"), (":status", "200"),
    (":status", "204"), (":status", "206"), (":status", "304"), (":status", "400"),
    (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""),
    ("accept", ""), ("access-control-allow-origin", ""), ("age", ""), ("allow", ""),
    ("authorization", ""), ("cache-control", ""), ("content-disposition", ""),
    ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""),
    ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""),
    ("if-match", ""), ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""),
    ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""), ("location", ""),
    ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""),
    ("via", ""), ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
    }

    fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, Corrupt> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        decoder.begin();
        let read =
            decoder.decode(block, |field| fields.push((text(field.name), text(field.value))))?;
        if read == block.len() { Ok(fields) } else { Err(Corrupt) }
    }

    fn table(decoder: &Decoder) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        decoder.table.iter().map(Entry::field).map(|(n, v)| (text(n), text(v))).collect()
    }

    #[test]
    fn responses_of_rfc_7541_are_decoded_and_evict_what_is_old() {
        // Appendix C.6: with Huffman's code, and a table of 256 bytes.
        let blocks = [
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6
             2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab
             77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f
             9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ];
        let mut decoder = Decoder { most: 256, ..Decoder::default() };
        let all: Vec<_> =
            blocks.iter().map(|block| fields(&mut decoder, &hex(block)).unwrap()).collect();
        let own = |rows: &[(&str, &str)]| -> Vec<_> {
            rows.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let shared = [
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("location", "https://www.example.com"),
        ];
        assert_eq!(all[0], own(&[&[(":status", "302")][..], &shared].concat()));
        assert_eq!(all[1], own(&[&[(":status", "307")][..], &shared].concat()));
        let last = [
            ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
            ("content-encoding", "gzip"),
            ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
        ];
        assert_eq!(table(&decoder), own(&last));
        assert_eq!(decoder.size, 215);
    }

    #[test]
    fn a_block_that_is_cut_anywhere_is_decoded_the_same() {
        let block =
            hex("4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6
             2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3 3fe1 1f");
        let block = &block[..block.len() - 3];
        let whole = fields(&mut Decoder::default(), block).unwrap();
        for cut in 0..=block.len() {
            let (mut decoder, mut seen) = (Decoder::default(), Vec::new());
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let mut keep = |field: Field<'_>| seen.push((text(field.name), text(field.value)));
            let read = decoder.decode(&block[..cut], &mut keep).unwrap();
            assert_eq!(decoder.decode(&block[read..], &mut keep), Ok(block.len() - read));
            assert_eq!(seen, whole, "cut at {cut}");
        }
    }

    #[test]
    fn broken_compression_is_told() {
        let rows: &[(&str, &[u8])] = &[
            ("index 0", &[0x80]),
            ("an index of nothing", &[0xbe]),
            ("the name of nothing", &[0x7e, 1, b'a']),
            ("a table that is too large", &[0x3f, 0xe2, 0x1f]),
            ("a table that is resized too late", &[0x88, 0x20]),
            ("a number without an end", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            ("a value that is too long", &[0x08, 0x7f, 0xff, 0xff, 0xff, 0x7f]),
            ("a wrong padding", b"\x08\x86\xa8\xeb\x10\x64\x9c\xbe"),
        ];
        for (what, block) in rows {
            assert_eq!(fields(&mut Decoder::default(), block), Err(Corrupt), "{what}");
        }
    }

    #[test]
    fn a_field_that_is_larger_than_the_table_empties_it() {
        let mut decoder = Decoder::default();
        let mut block = vec![0x40, 1, b'a', 1, b'b', 0x40, 1, b'c'];
        length(5000, &mut block);
        block.extend([b'v'; 5000]);
        assert_eq!(fields(&mut decoder, &block).unwrap().len(), 2);
        assert!(table(&decoder).is_empty() && decoder.size == 0);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            name in prop::collection::vec(any::<u8>(), 0..200),
            value in prop::collection::vec(any::<u8>(), 0..40_000),
            never_indexed: bool,
        ) {
            let (mut block, mut seen) = (Vec::new(), 0);
            encode(Field { name: &name, value: &value, never_indexed }, &mut block);
            let read = Decoder::default().decode(&block, |field| {
                assert_eq!(field, Field { name: &name, value: &value, never_indexed });
                seen += 1;
            });
            prop_assert_eq!((read, seen), (Ok(block.len()), 1));
        }

        #[test]
        fn arbitrary_blocks_never_panic(
            blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5),
        ) {
            let mut decoder = Decoder::default();
            for block in blocks {
                decoder.begin();
                let _ = decoder.decode(&block, |_| {});
                assert!(decoder.size <= TABLE);
            }
        }
    }
}

//! The Huffman code of HPACK (RFC 7541 §5.2, appendix B).
//!
//! The code is canonical: of two codes of one length the larger belongs to the larger symbol, and
//! each length begins behind the one before it. So the lengths say all, and the tables are
//! computed from them when seawall is built.

/// The length of each symbol's code in bits; the last one is the end of the string.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28,
    30, 28, 28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11,
    8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20,
    22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21,
    22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23,
    22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26,
    28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27,
    26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const SYMBOLS: usize = 257;
const END: u16 = 256;
const LONGEST: usize = 30;

/// Bits of which a table tells the symbol at once: nearly all text has no longer ones.
const SHORT: u32 = 8;

static CODES: Codes = Codes::new();

struct Codes {
    /// For each length, its smallest code, how many there are, and where their symbols begin.
    lengths: [(u32, u32, usize); LONGEST + 1],
    /// The symbols, by length and by value.
    symbols: [u16; SYMBOLS],
    /// For the next eight bits, the symbol that they begin with and its length; 0 is none.
    short: [(u8, u8); 1 << SHORT],
}

impl Codes {
    const fn new() -> Self {
        let mut codes = Codes {
            lengths: [(0, 0, 0); LONGEST + 1],
            symbols: [0; SYMBOLS],
            short: [(0, 0); 1 << SHORT],
        };
        let (mut code, mut place, mut length) = (0_u32, 0, 1);
        while length <= LONGEST {
            code <<= 1;
            codes.lengths[length] = (code, 0, place);
            let mut symbol = 0;
            while symbol < SYMBOLS {
                if LENGTHS[symbol] as usize == length {
                    codes.symbols[place] = symbol as u16;
                    codes.lengths[length].1 += 1;
                    if length <= SHORT as usize {
                        let shift = SHORT - length as u32;
                        let mut rest = 0;
                        while rest < 1 << shift {
                            let bits = (code << shift) + rest;
                            codes.short[bits as usize] = (symbol as u8, length as u8);
                            rest += 1;
                        }
                    }
                    code += 1;
                    place += 1;
                }
                symbol += 1;
            }
            length += 1;
        }
        codes
    }

    /// The symbol that these bits, the first of them the highest, begin with, and its length.
    fn find(&self, bits: u64) -> Option<(u16, u32)> {
        let short = usize::try_from(bits >> (64 - SHORT)).ok()?;
        if let Some((symbol, length @ 1..)) = self.short.get(short) {
            return Some((u16::from(*symbol), u32::from(*length)));
        }
        (SHORT + 1..).zip(self.lengths.iter().skip(SHORT as usize + 1)).find_map(
            |(length, (first, count, place))| {
                let code = u32::try_from(bits >> (64 - length)).ok()?;
                let number = code.checked_sub(*first).filter(|number| number < count)?;
                let symbol = self.symbols.get(place + usize::try_from(number).ok()?)?;
                Some((*symbol, length))
            },
        )
    }
}

/// Appends what these bytes stand for; `None` if it is not in this code.
pub fn decode(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut bytes = bytes.iter();
    let (mut bits, mut left) = (0_u64, 0_u32);
    loop {
        while left <= 56
            && let Some(byte) = bytes.next()
        {
            bits |= u64::from(*byte) << (56 - left);
            left += 8;
        }
        match CODES.find(bits) {
            Some((symbol, length)) if length <= left => {
                // The end of the string never stands in it.
                out.push(u8::try_from(symbol).ok().filter(|_| symbol != END)?);
                bits <<= length;
                left -= length;
            }
            // What fills the last byte: less than a byte, and nothing but ones.
            _ => return (left < 8 && (!bits).leading_zeros() >= left).then_some(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> Option<String> {
        let mut out = Vec::new();
        decode(bytes, &mut out)?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn strings_of_rfc_7541_are_decoded() {
        // Appendix C.4 and C.6.
        let rows: &[(&[u8], &str)] = &[
            (b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff", "www.example.com"),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache"),
            (b"\x64\x02", "302"),
            (b"\xae\xc3\x77\x1a\x4b", "private"),
            (b"\x9b\xd9\xab", "gzip"),
            (b"", ""),
        ];
        for (bytes, text) in rows {
            assert_eq!(decoded(bytes).as_deref(), Some(*text));
        }
    }

    #[test]
    fn a_string_that_is_padded_wrongly_or_contains_its_end_is_none() {
        // `no-cache` with a zero in its padding, `302` with a byte of padding, the end of a string.
        let cache = b"\xa8\xeb\x10\x64\x9c\xbe";
        for bytes in [&cache[..], b"\x64\x02\xff", b"\xff\xff\xff\xff", b"\xff"] {
            assert_eq!(decoded(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn each_symbol_has_the_code_of_its_length() {
        let all: f64 = LENGTHS.iter().map(|length| 0.5_f64.powi(i32::from(*length))).sum();
        assert!((all - 1.0).abs() < f64::EPSILON, "no code is left over");
        for (length, (first, count, place)) in CODES.lengths.iter().enumerate().skip(1) {
            for number in 0..*count {
                let bits = u64::from(first + number) << (64 - length);
                let symbol = CODES.symbols[place + number as usize];
                assert_eq!(CODES.find(bits), Some((symbol, length as u32)));
            }
        }
    }
}

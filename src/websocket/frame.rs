//! Frame headers (RFC 6455 §5.2): read without looking beyond them, and written.

/// A continuation of a fragmented message.
pub const CONTINUATION: u8 = 0x0;
/// A text message.
pub const TEXT: u8 = 0x1;
/// A binary message.
pub const BINARY: u8 = 0x2;
/// Close (RFC 6455 §5.5.1).
pub const CLOSE: u8 = 0x8;
/// Ping (RFC 6455 §5.5.2).
pub const PING: u8 = 0x9;
/// Pong (RFC 6455 §5.5.3).
pub const PONG: u8 = 0xA;

/// Most payload bytes of a control frame.
pub const MAX_CONTROL: u64 = 125;
/// Longest header: two bytes, eight of length, four of mask.
pub const MAX_HEADER: usize = 14;

/// A frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The last fragment of a message.
    pub fin: bool,
    /// RSV1, RSV2 and RSV3 as the bits 4, 2 and 1.
    pub rsv: u8,
    /// 0 to 15.
    pub opcode: u8,
    /// The masking key, if the payload is masked.
    pub mask: Option<[u8; 4]>,
    /// Payload bytes.
    pub length: u64,
    /// Bytes of the header itself.
    pub size: usize,
}

/// A length that is not legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadLength {
    /// Not in the shortest form.
    NotMinimal,
    /// The top bit of a 64-bit length is set.
    TooLarge,
}

impl Header {
    /// The header at the start of `bytes`, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// If the length is not legal.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, BadLength> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let (length, size) = match second & 0x7F {
            126 => {
                let Some(field) = rest.first_chunk::<2>() else { return Ok(None) };
                let length = u64::from(u16::from_be_bytes(*field));
                if length < 126 {
                    return Err(BadLength::NotMinimal);
                }
                (length, 4)
            }
            127 => {
                let Some(field) = rest.first_chunk::<8>() else { return Ok(None) };
                let length = u64::from_be_bytes(*field);
                if length >> 63 != 0 {
                    return Err(BadLength::TooLarge);
                }
                if length <= u64::from(u16::MAX) {
                    return Err(BadLength::NotMinimal);
                }
                (length, 10)
            }
            short => (u64::from(short), 2),
        };
        let masked = second & 0x80 != 0;
        let mask = if masked {
            let Some(key) = bytes.get(size..).and_then(|rest| rest.first_chunk::<4>()) else {
                return Ok(None);
            };
            Some(*key)
        } else {
            None
        };
        Ok(Some(Header {
            fin: first & 0x80 != 0,
            rsv: (first >> 4) & 7,
            opcode: first & 0x0F,
            mask,
            length,
            size: size + if masked { 4 } else { 0 },
        }))
    }

    /// Close, Ping and Pong, and the reserved opcodes beside them.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.opcode & 0x8 != 0
    }

    /// Appends the header.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(if self.fin { 0x80 } else { 0 } | (self.rsv << 4) | self.opcode);
        let mask = if self.mask.is_some() { 0x80 } else { 0 };
        match self.length {
            0..=125 => out.push(mask | self.length.to_le_bytes()[0]),
            126..=0xFFFF => {
                out.push(mask | 126);
                out.extend_from_slice(&self.length.to_be_bytes()[6..]);
            }
            _ => {
                out.push(mask | 127);
                out.extend_from_slice(&self.length.to_be_bytes());
            }
        }
        out.extend(self.mask.iter().flatten());
    }
}

/// Masks, or unmasks, a payload (RFC 6455 §5.3).
pub fn mask(payload: &mut [u8], key: [u8; 4]) {
    for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// A whole control frame; masked if there is a key.
#[must_use]
pub fn control(opcode: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let payload = payload.get(..payload.len().min(125)).unwrap_or_default();
    let length = payload.len() as u64;
    let header = Header { fin: true, rsv: 0, opcode, mask: key, length, size: 0 };
    let mut out = Vec::with_capacity(MAX_HEADER + payload.len());
    header.write(&mut out);
    let from = out.len();
    out.extend_from_slice(payload);
    if let (Some(key), Some(payload)) = (key, out.get_mut(from..)) {
        mask(payload, key);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            fin: bool, rsv in 0u8..8, opcode in 0u8..16, mask: Option<[u8; 4]>,
            length in prop_oneof![0u64..300, 65_000u64..66_000, 0u64..1 << 63],
        ) {
            let mut bytes = Vec::new();
            Header { fin, rsv, opcode, mask, length, size: 0 }.write(&mut bytes);
            let expected = Header { fin, rsv, opcode, mask, length, size: bytes.len() };
            prop_assert_eq!(Header::parse(&bytes), Ok(Some(expected)));
            for cut in 0..bytes.len() {
                prop_assert_eq!(Header::parse(&bytes[..cut]), Ok(None));
            }
        }
    }

    #[test]
    fn lengths_have_one_form() {
        assert_eq!(Header::parse(&[0x81, 126, 0, 125]), Err(BadLength::NotMinimal));
        assert_eq!(
            Header::parse(&[0x81, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]),
            Err(BadLength::NotMinimal)
        );
        assert_eq!(
            Header::parse(&[0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]),
            Err(BadLength::TooLarge)
        );
    }
}

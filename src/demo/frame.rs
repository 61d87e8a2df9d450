//! WebSocket frames (RFC 6455 §5.2) as the demo's app and probe need them: whole, in memory, and
//! not judged. The relay has its own walk, which this must not share: the demo is its witness.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The largest payload that is read.
const PAYLOAD_MAX: u64 = 4 * 1024 * 1024;

/// A frame as it came, unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The last fragment of its message.
    pub fin: bool,
    /// The four bits of the opcode.
    pub opcode: u8,
    /// It was masked.
    pub masked: bool,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// Cuts a stream into frames.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: Vec<u8>,
}

impl Reader {
    /// A reader of a stream whose first bytes have already been read.
    #[must_use]
    pub fn starting_with(buffer: Vec<u8>) -> Self {
        Reader { buffer }
    }

    /// Whether a part of a frame has been read.
    #[must_use]
    pub fn is_in_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next frame; `None` when the stream has ended, maybe in the middle of one. What has been
    /// read survives a dropped future.
    ///
    /// # Errors
    /// When the stream fails or a frame is larger than the demo ever sends.
    pub async fn next<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
    ) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Frame>> {
        let Some((frame, length)) = parse(&self.buffer)? else { return Ok(None) };
        self.buffer.drain(..length);
        Ok(Some(frame))
    }
}

/// The frame at the start of these bytes and its length, once it is whole.
fn parse(bytes: &[u8]) -> io::Result<Option<(Frame, usize)>> {
    let Some(([first, second], rest)) = bytes.split_first_chunk() else { return Ok(None) };
    let (length, rest) = match second & 0x7f {
        126 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest),
            None => return Ok(None),
        },
        length => (u64::from(length), rest),
    };
    if length > PAYLOAD_MAX {
        return Err(io::Error::other("a frame larger than the demo ever sends"));
    }
    let masked = second & 0x80 != 0;
    let (mask, rest) = match rest.split_first_chunk() {
        Some((mask, rest)) if masked => (*mask, rest),
        None if masked => return Ok(None),
        _ => ([0; 4], rest),
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let Some((payload, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    let frame = Frame { fin: first & 0x80 != 0, opcode: first & 0x0f, masked, payload };
    Ok(Some((frame, bytes.len() - rest.len())))
}

/// A frame as a server sends it.
#[must_use]
pub fn encode(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len(), 0);
    frame.extend_from_slice(payload);
    frame
}

/// A frame as a client sends it. The mask is of no use to a demo, so it is a constant.
#[must_use]
pub fn encode_masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = *b"wall";
    let mut frame = header(first, payload.len(), 0x80);
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A server's Close frame. Any code, also those that may not be sent.
#[must_use]
pub fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason);
    encode(0x80 | CLOSE, &payload)
}

fn header(first: u8, length: usize, mask: u8) -> Vec<u8> {
    let mut header = vec![first];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ ..126), _) => header.push(mask | length),
        (_, Ok(length)) => {
            header.push(mask | 126);
            header.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            header.push(mask | 127);
            header.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_read_again_wherever_it_is_cut() {
        for length in [0, 1, 125, 126, 300, 65_536] {
            let payload = vec![b'p'; length];
            for (bytes, masked) in [
                (encode(0x80 | TEXT, &payload), false),
                (encode_masked(0x80 | TEXT, &payload), true),
            ] {
                for cut in [0, 1, 2, 3, 5, 9, bytes.len() - 1] {
                    assert!(cut >= bytes.len() || parse(&bytes[..cut]).unwrap().is_none());
                }
                let frame = Frame { fin: true, opcode: TEXT, masked, payload: payload.clone() };
                assert_eq!(parse(&bytes).unwrap(), Some((frame, bytes.len())));
            }
        }
    }

    #[test]
    fn a_frame_that_would_fill_the_memory_is_refused() {
        assert!(parse(b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
    }
}

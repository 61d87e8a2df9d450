//! Frames (RFC 6455 §5.2), as far as a load tool needs them: headers are read, payloads are counted.

pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

const MASKED: u8 = 0x80;
const FIN: u8 = 0x80;

/// Who sends a frame: clients mask theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Upstream,
}

/// Appends a final frame. A client's key is zero: allowed on the wire, and the payload stays as it is.
pub fn append(out: &mut Vec<u8>, role: Role, opcode: u8, payload: &[u8]) {
    let mask = if role == Role::Client { MASKED } else { 0 };
    out.push(FIN | opcode);
    let length = payload.len();
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => out.push(mask | short),
        (_, Ok(middle)) => {
            out.push(mask | 126);
            out.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            out.push(mask | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    if role == Role::Client {
        out.extend_from_slice(&[0; 4]);
    }
    out.extend_from_slice(payload);
}

/// What a walk meets.
#[derive(Debug)]
pub enum Event<'p> {
    /// So many payload bytes of a data frame.
    Data(usize),
    /// A message is complete.
    Message,
    /// A complete control frame, unmasked.
    Control(u8, &'p [u8]),
}

/// Walks a stream of frames in whatever pieces it comes.
#[derive(Debug, Default)]
pub struct Walker {
    header: [u8; 14],
    have: u8,
    opcode: u8,
    fin: bool,
    key: [u8; 4],
    left: u64,
    inside: bool,
    control: Vec<u8>,
}

impl Walker {
    /// Walks `data`; every event goes to `seen`.
    pub fn walk(&mut self, mut data: &[u8], mut seen: impl FnMut(Event<'_>)) {
        loop {
            if self.inside {
                let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(data.len());
                let (now, rest) = data.split_at(count);
                data = rest;
                self.left -= count as u64;
                if self.opcode >= CLOSE {
                    self.control.extend_from_slice(now);
                } else if count > 0 {
                    seen(Event::Data(count));
                }
                if self.left > 0 {
                    return;
                }
                self.inside = false;
                if self.opcode >= CLOSE {
                    let mut payload = std::mem::take(&mut self.control);
                    for (byte, key) in payload.iter_mut().zip(self.key.iter().cycle()) {
                        *byte ^= key;
                    }
                    seen(Event::Control(self.opcode, &payload));
                } else if self.fin {
                    seen(Event::Message);
                }
            }
            while usize::from(self.have) < self.needed() {
                let Some((&first, rest)) = data.split_first() else { return };
                self.header[usize::from(self.have)] = first;
                self.have += 1;
                data = rest;
            }
            self.begin();
        }
    }

    fn needed(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let length = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.header[1] & MASKED == 0 { 0 } else { 4 }
    }

    fn begin(&mut self) {
        let end = usize::from(self.have);
        let masked = self.header[1] & MASKED != 0;
        let length = &self.header[2..if masked { end - 4 } else { end }];
        self.left = match self.header[1] & 0x7f {
            short @ 0..=125 => u64::from(short),
            _ => length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        self.key = [0; 4];
        if masked {
            self.key.copy_from_slice(&self.header[end - 4..end]);
        }
        self.opcode = self.header[0] & 0x0f;
        self.fin = self.header[0] & FIN != 0;
        self.have = 0;
        self.inside = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_cut_anywhere_are_counted_alike() {
        for role in [Role::Client, Role::Upstream] {
            let mut bytes = Vec::new();
            for length in [0, 1, 125, 126, 65_535, 65_536] {
                append(&mut bytes, role, BINARY, &vec![b'x'; length]);
                append(&mut bytes, role, PING, b"token");
            }
            for piece in [1, 7, 4096, bytes.len()] {
                let (mut payload, mut messages, mut pings) = (0, 0, 0);
                let mut walker = Walker::default();
                for part in bytes.chunks(piece) {
                    walker.walk(part, |event| match event {
                        Event::Data(count) => payload += count,
                        Event::Message => messages += 1,
                        Event::Control(PING, b"token") => pings += 1,
                        Event::Control(..) => panic!("{event:?}"),
                    });
                }
                assert_eq!((payload, messages, pings), (131_323, 6, 6));
            }
        }
    }
}

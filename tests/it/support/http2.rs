//! HTTP/2 by hand (RFC 9113): frames as bytes, so that a story can break any rule.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

/// What a client begins with, behind the part that looks like a request head (RFC 9113 §3.4).
const REST_OF_PREFACE: &[u8] = b"SM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

// Error codes (RFC 9113 §7).
pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const INTERNAL_ERROR: u32 = 2;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `:status`, in the static table of HPACK or as a literal (RFC 7541 §6).
pub fn status(status: u16) -> Vec<u8> {
    match status {
        200 => vec![0x88],
        204 => vec![0x89],
        404 => vec![0x8d],
        500 => vec![0x8e],
        other => [&[0x08, 3], other.to_string().as_bytes()].concat(),
    }
}

/// A field as a literal without indexing.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0][..], &text(name), &text(value)].concat()
}

/// A field of any bytes, as a literal without indexing.
pub fn raw_field(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0][..], &text(name), &text(value)].concat()
}

fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    let mut length = Vec::new();
    // An integer with a prefix of seven bits (RFC 7541 §5.1).
    match text.len() {
        short @ ..127 => length.push(u8::try_from(short).unwrap()),
        long => {
            length.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                length.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            length.push(u8::try_from(rest).unwrap());
        }
    }
    [&length, text].concat()
}

/// A response head of the first stream.
pub fn head(code: u16, fields: &[(&str, &str)]) -> Vec<u8> {
    head_of(1, 0, code, fields)
}

/// A response head.
pub fn head_of(stream: u32, flags: u8, code: u16, fields: &[(&str, &str)]) -> Vec<u8> {
    let fields = fields.iter().flat_map(|(name, value)| field(name, value));
    frame(
        HEADERS,
        END_HEADERS | flags,
        stream,
        status(code).into_iter().chain(fields).collect::<Vec<_>>(),
    )
}

/// Content of the first stream.
pub fn data(content: impl AsRef<[u8]>) -> Vec<u8> {
    frame(DATA, 0, 1, content)
}

/// Content of the first stream, and its end.
pub fn last_data(content: impl AsRef<[u8]>) -> Vec<u8> {
    frame(DATA, END_STREAM, 1, content)
}

/// Trailers of the first stream.
pub fn trailers(fields: &[(&str, &str)]) -> Vec<u8> {
    let fields = fields.iter().flat_map(|(name, value)| field(name, value)).collect::<Vec<_>>();
    frame(HEADERS, END_HEADERS | END_STREAM, 1, fields)
}

/// RST_STREAM for the first stream.
pub fn reset(code: u32) -> Vec<u8> {
    reset_of(1, code)
}

/// RST_STREAM of a stream.
pub fn reset_of(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, code.to_be_bytes())
}

/// GOAWAY: no stream beyond `last` is processed.
pub fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, [last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// SETTINGS with these parameters.
pub fn settings(parameters: &[(u16, u32)]) -> Vec<u8> {
    let one = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, parameters.iter().flat_map(one).collect::<Vec<_>>())
}

/// A frame that was read.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A client's connection with prior knowledge: preface and SETTINGS are sent (RFC 9113 §3.4).
pub fn connect(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\n").unwrap();
    stream.write_all(REST_OF_PREFACE).unwrap();
    stream.write_all(&settings(&[])).unwrap();
    stream
}

/// A request head, pseudo-fields included, as one frame.
pub fn request(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    let block = fields.iter().flat_map(|(name, value)| field(name, value)).collect::<Vec<_>>();
    frame(HEADERS, END_HEADERS | flags, stream, block)
}

/// A field block in a HEADERS frame and as many CONTINUATION frames as it needs.
pub fn block(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    let mut parts = block.chunks(16_384).peekable();
    let mut frames = Vec::new();
    let (mut kind, mut flags) = (HEADERS, flags);
    while let Some(part) = parts.next() {
        let end = if parts.peek().is_none() { END_HEADERS } else { 0 };
        frames.extend(frame(kind, flags | end, stream, part));
        (kind, flags) = (CONTINUATION, 0);
    }
    frames
}

/// The upstream's side of a connection: answers what the protocol itself asks for.
#[derive(Debug)]
pub struct Http2;

impl Http2 {
    /// Reads the rest of the client's preface, behind its first empty line, and sends SETTINGS.
    pub fn begin(stream: &mut TcpStream, settings: &[u8]) -> Option<Self> {
        let mut rest = [0; REST_OF_PREFACE.len()];
        stream.read_exact(&mut rest).ok()?;
        assert_eq!(rest, REST_OF_PREFACE);
        stream.write_all(settings).ok()?;
        Some(Http2)
    }

    /// Reads the next frame that is about a stream; `None` at the end.
    pub fn next(&self, stream: &mut TcpStream) -> Option<Frame> {
        loop {
            let mut header = [0; 9];
            stream.read_exact(&mut header).ok()?;
            let [a, b, c, kind, flags, d, e, f, g] = header;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            stream.read_exact(&mut payload).ok()?;
            match (kind, flags & ACK) {
                (SETTINGS, 0) => stream.write_all(&frame(SETTINGS, ACK, 0, b"")).ok()?,
                (PING, 0) => stream.write_all(&frame(PING, ACK, 0, &payload)).ok()?,
                (SETTINGS | PING | WINDOW_UPDATE, _) => {}
                _ => {
                    let id = u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff;
                    return Some(Frame { kind, flags, stream: id, payload });
                }
            }
        }
    }

    /// Reads the next frame, whatever it is; SETTINGS and PING are answered.
    pub fn any(&self, stream: &mut TcpStream) -> Option<Frame> {
        let mut header = [0; 9];
        stream.read_exact(&mut header).ok()?;
        let [a, b, c, kind, flags, d, e, f, g] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).ok()?;
        if matches!(kind, SETTINGS | PING) && flags & ACK == 0 {
            let content: &[u8] = if kind == PING { &payload } else { &[] };
            stream.write_all(&frame(kind, ACK, 0, content)).ok()?;
        }
        let stream = u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff;
        Some(Frame { kind, flags, stream, payload })
    }

    /// Sends a PING and waits for its answer: all that was sent before has been read by then, and all
    /// that the other side had to say to it is here.
    pub fn settle(&self, stream: &mut TcpStream) -> Option<()> {
        stream.write_all(&frame(PING, 0, 0, [0; 8])).ok()?;
        loop {
            let mut header = [0; 9];
            stream.read_exact(&mut header).ok()?;
            let [a, b, c, kind, flags, ..] = header;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            stream.read_exact(&mut payload).ok()?;
            if (kind, flags & ACK) == (PING, ACK) {
                return Some(());
            }
        }
    }

    /// Reads the next WINDOW_UPDATE of a stream; `None` when there is none for a while.
    pub fn window_update(&self, stream: &mut TcpStream) -> Option<(u32, usize)> {
        loop {
            let mut header = [0; 9];
            stream.read_exact(&mut header).ok()?;
            let [a, b, c, kind, _, d, e, f, g] = header;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            stream.read_exact(&mut payload).ok()?;
            let id = u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff;
            if kind == WINDOW_UPDATE && id != 0 {
                let more = u32::from_be_bytes(payload.try_into().unwrap()) as usize;
                return Some((id, more));
            }
        }
    }

    /// Reads up to the end of the next request; its content is let in without a limit. Gives its
    /// stream and how much content it had.
    pub fn request(&self, stream: &mut TcpStream) -> Option<(u32, usize)> {
        let mut content = 0;
        loop {
            let frame = self.next(stream)?;
            match frame.kind {
                HEADERS => {}
                DATA if !frame.payload.is_empty() => {
                    content += frame.payload.len();
                    let more = u32::try_from(frame.payload.len()).unwrap().to_be_bytes();
                    for id in [0, frame.stream] {
                        stream.write_all(&self::frame(WINDOW_UPDATE, 0, id, more)).ok()?;
                    }
                }
                DATA => {}
                // The client has given up.
                _ => continue,
            }
            if frame.flags & END_STREAM != 0 {
                return Some((frame.stream, content));
            }
        }
    }
}

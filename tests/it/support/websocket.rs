//! WebSocket by bytes: frames written as the test says, and a strict reader for what a client gets.

use std::net::SocketAddr;

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::client::{End, Http1, Seen};
use super::script::{Gate, Script};

/// The key that every client here offers.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The last frame of its message.
pub const FIN: u8 = 0x80;
/// The bit of a compressed message.
pub const RSV1: u8 = 0x40;

/// The 101 that answers [`KEY`], with these further fields.
pub fn accepted(fields: &str) -> String {
    answer(KEY, fields)
}

/// The 101 that answers this handshake, whatever its key.
pub fn accepting(head: &[u8], fields: &str) -> String {
    let head = String::from_utf8_lossy(head);
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim())
    });
    answer(key.expect("a handshake has a key"), fields)
}

fn answer(key: &str, fields: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: {}\r\n{fields}\r\n",
        derive_accept_key(key.as_bytes())
    )
}

/// A script that has accepted the handshake.
pub fn open() -> Script {
    Script::read_head().write_accepting("")
}

/// A header as a server writes it: first byte, then the length.
pub fn header(first: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(u8::try_from(length).unwrap()),
        126..=0xFFFF => {
            bytes.push(126);
            bytes.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        }
        _ => {
            bytes.push(127);
            bytes.extend_from_slice(&u64::try_from(length).unwrap().to_be_bytes());
        }
    }
    bytes
}

/// A frame as a server writes it.
pub fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    [&header(first, payload.len())[..], payload].concat()
}

/// A Close as a server writes it.
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    frame(FIN | CLOSE, [&code.to_be_bytes()[..], reason.as_bytes()].concat())
}

/// The same frame as a client writes it.
pub fn masked(frame: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let mut bytes = frame.to_vec();
    let start = match bytes[1] & 0x7F {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    bytes[1] |= 0x80;
    for (at, byte) in bytes[start..].iter_mut().enumerate() {
        *byte ^= MASK[at % 4];
    }
    bytes.splice(start..start, MASK);
    bytes
}

/// A frame that a client got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// FIN, RSV and opcode.
    pub first: u8,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Reads one frame, unmasked as RFC 6455 §5.1 demands of a server.
pub fn read_frame(client: &mut Http1) -> Result<Frame, End> {
    let head = client.take(2)?;
    assert_eq!(head[1] & 0x80, 0, "a masked frame for a client");
    let length = match head[1] {
        126 => usize::from(u16::from_be_bytes(client.take(2)?.try_into().unwrap())),
        127 => {
            let length = u64::from_be_bytes(client.take(8)?.try_into().unwrap());
            usize::try_from(length).unwrap()
        }
        length => usize::from(length),
    };
    Ok(Frame { first: head[0], payload: client.take(length)? })
}

/// How a session ended for a client.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Every frame before the Close.
    pub frames: Vec<Frame>,
    /// The code of the Close; 1005 if it had none.
    pub code: u16,
    /// Its reason.
    pub reason: String,
    /// What the connection did after the client had answered the Close.
    pub end: End,
}

impl Ended {
    /// The data messages that were complete, fragments joined, and the payload of one that was not.
    pub fn messages(&self) -> (Vec<Vec<u8>>, Option<Vec<u8>>) {
        let mut complete = Vec::new();
        let mut open: Option<Vec<u8>> = None;
        for frame in &self.frames {
            match frame.first & 0x0F {
                CONTINUATION => {
                    open.as_mut().expect("a continuation of nothing").extend(&frame.payload);
                }
                TEXT | BINARY => {
                    assert!(open.is_none(), "a message inside a message");
                    open = Some(frame.payload.clone());
                }
                _ => continue,
            }
            if frame.first & FIN != 0 {
                complete.extend(open.take());
            }
        }
        (complete, open)
    }
}

/// Sends a handshake with these further fields and reads the answer.
pub fn handshake(address: SocketAddr, fields: &str) -> (Http1, Seen) {
    let mut client = Http1::connect(address);
    client.send(format!(
        "GET /chat HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{fields}\r\n"
    ));
    let seen = client.read(false, &Gate::default());
    (client, seen)
}

/// Opens a WebSocket.
pub fn connect(address: SocketAddr, fields: &str) -> (Http1, Seen) {
    let (client, seen) = handshake(address, fields);
    assert_eq!(seen.status, 101, "{seen:?}");
    assert_eq!(seen.field("sec-websocket-accept"), Some(&*derive_accept_key(KEY.as_bytes())));
    (client, seen)
}

/// Reads until the Close, answers it, and sees how the connection ends.
pub fn read_to_end(client: &mut Http1) -> Result<Ended, (Vec<Frame>, End)> {
    let mut frames = Vec::new();
    loop {
        let frame = match read_frame(client) {
            Ok(frame) => frame,
            Err(end) => return Err((frames, end)),
        };
        if frame.first & 0x0F != CLOSE {
            frames.push(frame);
            continue;
        }
        assert_eq!(frame.first, FIN | CLOSE);
        assert!(frame.payload.len() <= 125, "a control frame of {} bytes", frame.payload.len());
        client.send(masked(&frame_of(&frame)));
        let (rest, end) = client.rest();
        assert_eq!(rest, b"", "bytes after the Close");
        let (code, reason) = match &frame.payload[..] {
            [] => (1005, String::new()),
            [high, low, reason @ ..] => (
                u16::from_be_bytes([*high, *low]),
                String::from_utf8(reason.to_vec()).expect("a reason is UTF-8"),
            ),
            [_] => panic!("a Close of one byte"),
        };
        return Ok(Ended { frames, code, reason, end });
    }
}

fn frame_of(frame_read: &Frame) -> Vec<u8> {
    frame(frame_read.first, &frame_read.payload)
}

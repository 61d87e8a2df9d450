//! A story of one client connection and the upstream connections behind it, told by any bytes.
//!
//! The first byte chooses a configuration. What follows is written by the client as it is, until a
//! tilde says otherwise; so a seed can be read, and whatever a mutation makes of it is a story:
//!
//! | | |
//! | --- | --- |
//! | `~u`, `~c` | what follows is the upstream's next connection, the client again |
//! | `~w` | wait: for a whole request, or for more of the answer |
//! | `~p` x | pause for 4 x² ms; a pause of nothing cuts what is written in two |
//! | `~h`, `~r` | half close; reset. That side does nothing more, but goes on reading |
//! | `~q` | stop reading, or begin again |
//! | `~z` n x | 256 n times the byte x |
//! | `~k` t f s n | the head of an HTTP/2 frame: type, flags, stream, length |
//! | `~f` x n | a WebSocket frame: first byte, length; masked if it is the client's |
//! | `~0` … `~9` | a piece of [`PIECES`] |
//! | `~~` | a tilde |

use std::time::Duration;

/// What stories are often made of.
pub const PIECES: [&[u8]; 10] = [
    b"0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"PUT /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
      Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
      Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
];

/// What a side does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Send(Vec<u8>),
    Wait,
    Pause(Duration),
    Finish,
    Reset,
    /// Stop reading, or begin again.
    Turn,
}

/// Who does what.
#[derive(Clone, Debug, Default)]
pub struct Story {
    pub client: Vec<Step>,
    pub upstreams: Vec<Vec<Step>>,
}

/// Most upstream connections of a story, most bytes of one side, and most pauses.
const MOST: usize = 8;
const MOST_BYTES: usize = 200_000;
const MOST_STEPS: usize = 400;

/// Whom a step belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Upstream,
}

impl Story {
    /// The story that these bytes tell.
    pub fn of(bytes: &[u8]) -> Self {
        let mut story = Story::default();
        let mut side = Side::Client;
        let mut rest = bytes;
        let (mut total, mut steps) = (0, 0);
        let byte = |rest: &mut &[u8]| {
            let (first, after) = rest.split_first()?;
            *rest = after;
            Some(*first)
        };
        while let Some(first) = byte(&mut rest) {
            let mut piece = Vec::new();
            let step = match (first, rest.first().copied()) {
                (b'~', Some(command)) => {
                    rest = &rest[1..];
                    let mut next = || byte(&mut rest).unwrap_or_default();
                    match command {
                        b'c' => {
                            side = Side::Client;
                            continue;
                        }
                        b'u' if story.upstreams.len() < MOST => {
                            side = Side::Upstream;
                            story.upstreams.push(Vec::new());
                            continue;
                        }
                        b'w' => Step::Wait,
                        b'p' => {
                            let time = u64::from(next());
                            Step::Pause(Duration::from_millis(4 * time * time))
                        }
                        b'h' => Step::Finish,
                        b'r' => Step::Reset,
                        b'q' => Step::Turn,
                        b'z' => {
                            let (count, filling) = (usize::from(next()), next());
                            piece.resize(count * 256, filling);
                            Step::Send(piece)
                        }
                        b'k' => {
                            let (kind, flags, stream, length) = (next(), next(), next(), next());
                            piece.extend([0, 0, length, kind, flags, 0, 0, 0, stream]);
                            Step::Send(piece)
                        }
                        b'f' => {
                            let (first, length) = (next(), next());
                            frame(&mut piece, first, length, side);
                            Step::Send(piece)
                        }
                        b'0'..=b'9' => {
                            piece.extend_from_slice(PIECES[usize::from(command - b'0')]);
                            Step::Send(piece)
                        }
                        other => Step::Send(vec![other]),
                    }
                }
                (other, _) => Step::Send(vec![other]),
            };
            let target = match side {
                Side::Client => &mut story.client,
                Side::Upstream => story.upstreams.last_mut().expect("there is one"),
            };
            steps += usize::from(!matches!(step, Step::Send(_)));
            if let Step::Send(bytes) = &step {
                total += bytes.len();
            }
            if total > MOST_BYTES || steps > MOST_STEPS {
                break;
            }
            match (target.last_mut(), step) {
                (Some(Step::Finish | Step::Reset), Step::Send(_)) => {}
                (Some(Step::Send(known)), Step::Send(more)) => known.extend_from_slice(&more),
                (_, step) => target.push(step),
            }
        }
        story
    }
}

/// A frame of `a`s; lengths from 200 on mean longer ones.
fn frame(into: &mut Vec<u8>, first: u8, length: u8, side: Side) {
    let mask = if side == Side::Client { 0x80 } else { 0 };
    let length = match length {
        0..200 => usize::from(length),
        long => (usize::from(long) - 199) * 400,
    };
    into.push(first);
    match length {
        0..126 => into.push(mask | u8::try_from(length).unwrap_or_default()),
        _ => {
            into.push(mask | 126);
            into.extend_from_slice(&u16::try_from(length).unwrap_or_default().to_be_bytes());
        }
    }
    if mask != 0 {
        into.extend([0; 4]);
    }
    match first & 0x0F {
        // A Close with a code that may be sent.
        8 if length == 2 => into.extend([0x03, 0xE8]),
        _ => into.resize(into.len() + length, b'a'),
    }
}

//! The app: answers each message, or floods.
//!
//! | path | what it does |
//! | --- | --- |
//! | `/echo/SIZE` | a message of SIZE bytes for each message |
//! | `/flood/COUNT/SIZE/BATCH/text` (or `binary`) | after the client's first message, COUNT messages of SIZE bytes, as many whole frames in a write as fit into BATCH bytes, but at least one |
//! | anything without an upgrade | 200 and a line of text |
//!
//! Clients always send RFC 6455's sample key, so the answer to it is a constant.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::frame::{self, BINARY, Role, TEXT};
use crate::socket::{Brought, Socket};

const LISTENER: Token = Token(0);
const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 22\r\n\
    connection: close\r\n\r\nhello from the origin\n";

enum State {
    Handshake(TcpStream, Vec<u8>),
    Open(Socket, Work),
}

enum Work {
    /// The frame that answers a message.
    Echo(Vec<u8>),
    Flood(Flood),
}

struct Flood {
    begun: bool,
    left: u64,
    frame: usize,
    batch: Vec<u8>,
    /// What of the first write is left.
    at: usize,
}

/// Serves for ever.
pub fn run(address: SocketAddr) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(address)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut connections: HashMap<Token, State> = HashMap::new();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 256 * 1024];
    let mut next = 1;
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let token = Token(next);
                    next += 1;
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut stream, token, interest)?;
                    connections.insert(token, State::Handshake(stream, Vec::new()));
                }
                continue;
            }
            let Some(state) = connections.remove(&event.token()) else { continue };
            if let Some(state) = turn(state, &mut buffer, event.is_read_closed()) {
                connections.insert(event.token(), state);
            }
        }
    }
}

/// One turn of a connection; `None` when it is over.
fn turn(state: State, buffer: &mut [u8], closed: bool) -> Option<State> {
    match state {
        State::Handshake(mut stream, mut head) => loop {
            match stream.read(buffer) {
                Ok(0) => return None,
                Ok(count) => head.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Some(State::Handshake(stream, head));
                }
                Err(_) => return None,
            }
            if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                return shake(stream, &head, end + 4);
            }
        },
        State::Open(mut socket, mut work) => {
            let brought = socket.read(buffer, closed);
            answer(&mut socket, &mut work, &brought);
            brought.ended.is_none().then_some(State::Open(socket, work))
        }
    }
}

fn shake(mut stream: TcpStream, head: &[u8], end: usize) -> Option<State> {
    let text = String::from_utf8_lossy(&head[..end]).to_lowercase();
    if !text.contains("\r\nupgrade: websocket") {
        let _ = stream.write(HELLO);
        return None;
    }
    stream.write_all(SWITCH).ok()?;
    let path = text.split(' ').nth(1)?;
    let mut socket = Socket::new(stream, Role::Upstream);
    let mut work = work(path)?;
    let mut brought = Brought::default();
    socket.walk(&head[end..], &mut brought);
    answer(&mut socket, &mut work, &brought);
    Some(State::Open(socket, work))
}

fn work(path: &str) -> Option<Work> {
    let mut parts = path.strip_prefix('/')?.split('/');
    let name = parts.next()?;
    let mut number = || parts.next()?.parse::<usize>().ok();
    if name == "echo" {
        let mut frame = Vec::new();
        frame::append(&mut frame, Role::Upstream, BINARY, &vec![b'x'; number()?]);
        return Some(Work::Echo(frame));
    }
    let (count, size, batch) = (number()?, number()?, number()?);
    let opcode = if parts.next() == Some("text") { TEXT } else { BINARY };
    let mut frame = Vec::new();
    frame::append(&mut frame, Role::Upstream, opcode, &vec![b'x'; size]);
    let batch = frame.repeat((batch / frame.len()).clamp(1, count.max(1)));
    let left = count as u64 * frame.len() as u64;
    Some(Work::Flood(Flood { begun: false, left, frame: frame.len(), batch, at: 0 }))
}

fn answer(socket: &mut Socket, work: &mut Work, brought: &Brought) {
    let clear = socket.flush();
    match work {
        Work::Echo(frame) => {
            for _ in 0..brought.messages {
                socket.send(frame);
            }
        }
        Work::Flood(flood) => {
            flood.begun |= brought.messages > 0;
            if flood.begun && clear {
                flood.write(&mut socket.stream);
            }
        }
    }
}

impl Flood {
    fn write(&mut self, stream: &mut TcpStream) {
        while self.left > 0 {
            debug_assert_eq!(self.batch.len() % self.frame, 0);
            let end =
                self.batch.len().min(self.at + usize::try_from(self.left).unwrap_or(usize::MAX));
            match stream.write(&self.batch[self.at..end]) {
                Ok(count) => {
                    self.left -= count as u64;
                    self.at = (self.at + count) % self.batch.len();
                }
                Err(_) => return,
            }
        }
    }
}

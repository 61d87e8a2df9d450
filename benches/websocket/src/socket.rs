//! A non-blocking socket that carries frames, and what waits to be written to it.

use std::io::{self, Read, Write};

use mio::net::TcpStream;

use crate::frame::{self, CLOSE, Event, PING, PONG, Role, Walker};

/// How a WebSocket ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ending {
    /// The code of the Close that came; 1005 for an empty one.
    pub code: Option<u16>,
    /// A reset instead of a FIN.
    pub reset: bool,
}

/// What a read brought.
#[derive(Debug, Default)]
pub struct Brought {
    /// Complete messages.
    pub messages: u64,
    /// Payload bytes of data frames.
    pub bytes: u64,
    /// The stream is over.
    pub ended: Option<Ending>,
}

/// One end of a WebSocket.
#[derive(Debug)]
pub struct Socket {
    pub stream: TcpStream,
    role: Role,
    walker: Walker,
    waiting: Vec<u8>,
    written: usize,
    code: Option<u16>,
}

impl Socket {
    pub fn new(stream: TcpStream, role: Role) -> Self {
        let walker = Walker::default();
        Socket { stream, role, walker, waiting: Vec::new(), written: 0, code: None }
    }

    /// Reads until there is no more; answers pings and Closes. `closed`: epoll said that an end
    /// is among what waits, which no further event will announce.
    pub fn read(&mut self, buffer: &mut [u8], closed: bool) -> Brought {
        let mut brought = Brought::default();
        loop {
            match self.stream.read(buffer) {
                Ok(0) => {
                    brought.ended = Some(Ending { code: self.code, reset: false });
                    return brought;
                }
                Ok(count) => {
                    self.walk(&buffer[..count], &mut brought);
                    if count < buffer.len() && !closed {
                        // A short read: the socket is empty, and epoll will tell when it is not.
                        return brought;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return brought,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    brought.ended = Some(Ending { code: self.code, reset: true });
                    return brought;
                }
            }
        }
    }

    /// Walks bytes that came.
    pub fn walk(&mut self, data: &[u8], brought: &mut Brought) {
        let mut answers = Vec::new();
        let (role, code) = (self.role, &mut self.code);
        self.walker.walk(data, |event| match event {
            Event::Data(count) => brought.bytes += count as u64,
            Event::Message => brought.messages += 1,
            Event::Control(PING, payload) => frame::append(&mut answers, role, PONG, payload),
            Event::Control(CLOSE, payload) if code.is_none() => {
                let said = payload.first_chunk().map_or(1005, |said| u16::from_be_bytes(*said));
                *code = Some(said);
                frame::append(&mut answers, role, CLOSE, payload.get(..2).unwrap_or_default());
            }
            Event::Control(..) => {}
        });
        if !answers.is_empty() {
            self.send(&answers);
        }
    }

    /// Sends bytes, now as far as possible. A socket that is gone is noticed when it is read.
    pub fn send(&mut self, bytes: &[u8]) {
        if self.is_clear() {
            match self.stream.write(bytes) {
                Ok(count) if count == bytes.len() => return,
                Ok(count) => self.waiting.extend_from_slice(&bytes[count..]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.waiting.extend_from_slice(bytes);
                }
                Err(_) => return,
            }
        } else {
            self.waiting.extend_from_slice(bytes);
        }
        self.flush();
    }

    /// Writes what waits; whether nothing waits any more.
    pub fn flush(&mut self) -> bool {
        while self.written < self.waiting.len() {
            match self.stream.write(&self.waiting[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => break,
            }
        }
        self.waiting.clear();
        self.written = 0;
        true
    }

    pub fn is_clear(&self) -> bool {
        self.waiting.is_empty()
    }
}

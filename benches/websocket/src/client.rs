//! The clients: many WebSockets through a proxy, and what became of them.
//!
//! Each command opens its WebSockets, prints a line, and waits for a line on its input before it
//! goes on, so that whoever measures the proxy can read `/proc` in between. Results are one line of
//! JSON. Anything unexpected ends the run with an error: what is lost must not look fast.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, Socket as Raw, Type};

use crate::frame::{self, BINARY, Role};
use crate::socket::{Brought, Ending, Socket};

/// WebSockets of one source address.
const PER_ADDRESS: usize = 5_000;
const INPUT: Token = Token(usize::MAX);
const READ: usize = 256 * 1024;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Opens one WebSocket; all that follows the handshake's answer is walked by the caller.
fn open(proxy: SocketAddr, number: usize, path: &str) -> Result<(Socket, Vec<u8>)> {
    let raw = Raw::new(Domain::IPV4, Type::STREAM, None)?;
    let source = Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(number / PER_ADDRESS)?);
    raw.bind(&SocketAddr::from((source, 0)).into())?;
    raw.connect(&proxy.into())?;
    raw.set_tcp_nodelay(true)?;
    let mut stream = std::net::TcpStream::from(raw);
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {proxy}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )?;
    let (mut head, mut piece) = (Vec::new(), [0; 4096]);
    let end = loop {
        let count = stream.read(&mut piece)?;
        head.extend_from_slice(&piece[..count]);
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if count == 0 {
            return Err(format!("WebSocket {number}: no answer to the handshake").into());
        }
    };
    if !head.starts_with(b"HTTP/1.1 101") {
        return Err(format!("WebSocket {number}: {}", String::from_utf8_lossy(&head)).into());
    }
    stream.set_nonblocking(true)?;
    Ok((Socket::new(TcpStream::from_std(stream), Role::Client), head.split_off(end)))
}

/// Open WebSockets and the loop that serves them.
struct Crowd {
    poll: Poll,
    sockets: Vec<Option<Socket>>,
    buffer: Vec<u8>,
    input: Receiver<String>,
    events: Events,
}

impl Crowd {
    fn open(proxy: SocketAddr, count: usize, path: &str) -> Result<Self> {
        let started = Instant::now();
        let poll = Poll::new()?;
        let mut sockets = Vec::with_capacity(count);
        for number in 0..count {
            let (mut socket, early) = open(proxy, number, path)?;
            if !early.is_empty() {
                socket.walk(&early, &mut Brought::default());
            }
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut socket.stream, Token(number), interest)?;
            sockets.push(Some(socket));
        }
        let waker = Arc::new(Waker::new(poll.registry(), INPUT)?);
        let (sender, input) = channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
                if sender.send(line).is_err() || waker.wake().is_err() {
                    return;
                }
            }
            drop(sender);
            let _ = waker.wake();
        });
        println!("{{\"opened\": {count}, \"seconds\": {:.2}}}", started.elapsed().as_secs_f64());
        let (buffer, events) = (vec![0; READ], Events::with_capacity(1024));
        Ok(Crowd { poll, sockets, buffer, input, events })
    }

    /// One wait; `seen` learns what each WebSocket brought.
    fn turn(
        &mut self,
        wait: Duration,
        mut seen: impl FnMut(&mut Socket, &Brought) -> Result<()>,
    ) -> Result<()> {
        self.poll.poll(&mut self.events, Some(wait))?;
        for event in &self.events {
            let Some(slot) = self.sockets.get_mut(event.token().0) else { continue };
            let Some(socket) = slot else { continue };
            socket.flush();
            let brought = socket.read(&mut self.buffer, event.is_read_closed());
            seen(socket, &brought)?;
            if brought.ended.is_some() {
                *slot = None;
            }
        }
        Ok(())
    }

    /// Keeps the WebSockets alive until a line comes; `None` at the end of the input.
    fn wait(&mut self) -> Result<Option<String>> {
        loop {
            match self.input.try_recv() {
                Ok(line) => return Ok(Some(line)),
                Err(TryRecvError::Disconnected) => return Ok(None),
                Err(TryRecvError::Empty) => {}
            }
            self.turn(Duration::from_secs(1), |_, brought| match brought.ended {
                Some(ending) => Err(format!("a WebSocket ended early: {ending:?}").into()),
                None => Ok(()),
            })?;
        }
    }
}

/// Holds idle WebSockets; on `kill PID` kills the upstream and reports how they all ended.
pub fn hold(proxy: SocketAddr, count: usize, limit: Duration) -> Result<()> {
    let mut crowd = Crowd::open(proxy, count, "/echo/1")?;
    let Some(line) = crowd.wait()? else { return Ok(()) };
    let pid = line.strip_prefix("kill ").ok_or("kill PID expected")?;
    let begun = Instant::now();
    if !Command::new("kill").args(["-KILL", pid]).status()?.success() {
        return Err("the upstream could not be killed".into());
    }
    let mut endings: BTreeMap<Ending, usize> = BTreeMap::new();
    let (mut open, mut first, mut last) = (count, None, Duration::ZERO);
    while open > 0 && begun.elapsed() < limit {
        crowd.turn(Duration::from_millis(200), |_, brought| {
            if let Some(ending) = brought.ended {
                *endings.entry(ending).or_default() += 1;
                open -= 1;
                last = begun.elapsed();
                first.get_or_insert(last);
            }
            Ok(())
        })?;
    }
    let mut parts: Vec<String> = endings
        .iter()
        .map(|(ending, count)| {
            let said = ending.code.map_or("no Close".to_owned(), |code| format!("Close {code}"));
            let end = if ending.reset { "reset" } else { "FIN" };
            format!("\"{said}, {end}\": {count}")
        })
        .collect();
    if open > 0 {
        parts.push(format!("\"still open\": {open}"));
    }
    let first = first.unwrap_or_default().as_secs_f64();
    println!(
        "{{\"endings\": {{{}}}, \"first\": {first:.3}, \"last\": {:.3}}}",
        parts.join(", "),
        last.as_secs_f64()
    );
    // The others end when this process does; the proxy's memory can be read until then.
    while crowd.wait()?.is_some() {}
    Ok(())
}

/// Ping-pong: each WebSocket sends a message when the last one was answered.
pub fn echo(proxy: SocketAddr, connections: usize, count: u64, size: usize) -> Result<()> {
    let mut crowd = Crowd::open(proxy, connections, &format!("/echo/{size}"))?;
    crowd.wait()?;
    let mut frame = Vec::new();
    frame::append(&mut frame, Role::Client, BINARY, &vec![b'x'; size]);
    let begun = Instant::now();
    let mut to_send = count;
    for socket in crowd.sockets.iter_mut().flatten() {
        if to_send > 0 {
            to_send -= 1;
            socket.send(&frame);
        }
    }
    let (mut messages, mut bytes) = (0, 0);
    while messages < count {
        crowd.turn(Duration::from_secs(1), |socket, brought| {
            alive(brought)?;
            messages += brought.messages;
            bytes += brought.bytes;
            for _ in 0..brought.messages.min(to_send) {
                to_send -= 1;
                socket.send(&frame);
            }
            Ok(())
        })?;
    }
    report(&mut crowd, begun, (messages, bytes), (count, size))
}

/// One way: each WebSocket asks for its share of the messages and receives them.
pub fn flood(
    proxy: SocketAddr,
    connections: usize,
    count: u64,
    size: usize,
    batch: usize,
    kind: &str,
) -> Result<()> {
    let share = count.div_ceil(connections as u64);
    let path = format!("/flood/{share}/{size}/{batch}/{kind}");
    let mut crowd = Crowd::open(proxy, connections, &path)?;
    crowd.wait()?;
    let mut frame = Vec::new();
    frame::append(&mut frame, Role::Client, BINARY, b"go");
    let begun = Instant::now();
    for socket in crowd.sockets.iter_mut().flatten() {
        socket.send(&frame);
    }
    let count = share * connections as u64;
    let (mut messages, mut bytes) = (0, 0);
    while messages < count {
        crowd.turn(Duration::from_secs(1), |_, brought| {
            alive(brought)?;
            messages += brought.messages;
            bytes += brought.bytes;
            Ok(())
        })?;
    }
    report(&mut crowd, begun, (messages, bytes), (count, size))
}

fn alive(brought: &Brought) -> Result<()> {
    match brought.ended {
        Some(ending) => Err(format!("a WebSocket ended early: {ending:?}").into()),
        None => Ok(()),
    }
}

fn report(
    crowd: &mut Crowd,
    begun: Instant,
    (messages, bytes): (u64, u64),
    (count, size): (u64, usize),
) -> Result<()> {
    let seconds = begun.elapsed().as_secs_f64();
    if (messages, bytes) != (count, count * size as u64) {
        return Err(format!("{messages} messages of {bytes} bytes in all, not {count}").into());
    }
    println!("{{\"messages\": {messages}, \"seconds\": {seconds:.3}}}");
    while crowd.wait()?.is_some() {}
    Ok(())
}

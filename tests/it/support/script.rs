//! Scripted upstreams: a failure is a story that waits for events, never for time.
//!
//! Each accepted connection plays the next script; when the scripts are used up, the upstream is
//! well: it answers every request with [`WELL`]. Raw sockets, no HTTP library.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::PATIENCE;
use super::http2::{self, Http2};

/// The window of a stream in the tests that fill it: what they configure.
const WINDOW: usize = 64 * 1024;

/// The content of a healthy answer.
pub const WELL: &str = "all is well";

/// What a connection does next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Reads a request head.
    ReadHead,
    /// Reads the preface of an HTTP/2 connection and sends these SETTINGS.
    Http2(Vec<u8>),
    /// Reads the preface of an HTTP/2 connection.
    ReadPreface,
    /// Reads an HTTP/2 request to its end.
    Http2Request,
    /// Reads the next frame of an HTTP/2 request: its head.
    Http2Frame,
    /// Accepts the WebSocket handshake that was read last, with these further fields.
    Accept(&'static str),
    /// Reads so many bytes of content.
    ReadContent(usize),
    /// Writes these bytes.
    Write(Vec<u8>),
    /// Writes these bytes again and again, until the other side does not take them any more.
    WriteForever(Vec<u8>),
    /// Writes these bytes until nobody takes any for half a second, and keeps how many were taken
    /// for [`Upstream::taken`].
    WriteUntilStuck(Vec<u8>),
    /// Waits until the client has seen the head of its response.
    UntilClientSawHead,
    /// Is slow: does nothing for so many milliseconds.
    Pause(u64),
    /// Closes with a FIN: everything sent before arrives, and what still comes is read.
    Fin,
    /// Sends a FIN, and reads nothing until the client has seen the head of its response.
    FinUnread,
    /// Closes with a RST.
    Reset,
    /// Says nothing more, and reads whatever comes until the other side closes.
    Hang,
    /// Is well from now on.
    BeWell,
    /// Answers so many HTTP/2 requests with content without end, as far as windows allow; opens the
    /// gate when all of them are full.
    FloodHttp2 {
        /// How many.
        requests: usize,
    },
    /// Is well from now on, on an HTTP/2 connection, to so many requests at a time: answers them when
    /// as many have come or no more come, and refuses what is beyond.
    RationHttp2 {
        /// How many.
        most: usize,
    },
    /// Waits until all that was sent on the HTTP/2 connection has been read.
    Http2Settled,
    /// Waits until the first HTTP/2 request is reset with CANCEL.
    Http2Cancelled,
    /// Is well from now on, on an HTTP/2 connection.
    BeWellHttp2,
    /// Reads everything until the other side closes, and keeps it for [`Upstream::record`].
    Record,
}

/// The story of one connection.
#[derive(Clone, Debug, Default)]
pub struct Script(Vec<Step>);

impl Script {
    /// Begins by reading a request head.
    pub fn read_head() -> Self {
        Script::default().then(Step::ReadHead)
    }

    /// Begins by reading the preface of an HTTP/2 connection and a request.
    pub fn http2_request() -> Self {
        Script::http2(&[]).then(Step::Http2Request)
    }

    /// Begins by reading the preface of an HTTP/2 connection, and does not answer it.
    pub fn read_preface() -> Self {
        Script::default().then(Step::ReadPreface)
    }

    /// Begins by reading the preface of an HTTP/2 connection; sends these SETTINGS.
    pub fn http2(settings: &[(u16, u32)]) -> Self {
        Script::default().then(Step::Http2(http2::settings(settings)))
    }

    /// Adds a step.
    pub fn then(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }

    /// Writes these bytes.
    pub fn write(self, bytes: impl AsRef<[u8]>) -> Self {
        self.then(Step::Write(bytes.as_ref().to_vec()))
    }

    /// Accepts a handshake whose key the script has to look at, with these further fields.
    pub fn write_accepting(self, fields: &'static str) -> Self {
        self.then(Step::Accept(fields))
    }

    /// Closes with a FIN.
    pub fn fin(self) -> Self {
        self.then(Step::Fin)
    }

    /// Closes with a RST.
    pub fn reset(self) -> Self {
        self.then(Step::Reset)
    }

    /// Writes these frames and is well from now on, on the same HTTP/2 connection.
    pub fn then_well_http2(self, frames: impl AsRef<[u8]>) -> Self {
        self.write(frames).then(Step::BeWellHttp2)
    }

    /// Falls silent.
    pub fn hang(self) -> Self {
        self.then(Step::Hang)
    }

    /// Goes on with another script.
    pub fn joined(mut self, other: Script) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Goes on with what another script does after its handshake: its first two steps.
    pub fn continued(mut self, other: Script) -> Self {
        self.0.extend(other.0.into_iter().skip(2));
        self
    }

    /// Keeps whatever comes from now on.
    pub fn record(self) -> Self {
        self.then(Step::Record)
    }

    /// Waits for the client to have read its response head.
    pub fn until_client_saw_head(self) -> Self {
        self.then(Step::UntilClientSawHead)
    }
}

/// Opened once; whoever waits goes on then.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everybody through.
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open; fails the story when nobody opens it.
    pub fn wait(&self) {
        let open = self.0.0.lock().unwrap();
        let (_open, late) = self.0.1.wait_timeout_while(open, PATIENCE, |open| !*open).unwrap();
        assert!(!late.timed_out(), "the gate stayed shut");
    }
}

/// A loopback address at which nobody listens, and that nobody else gets, while this is kept.
#[derive(Debug)]
pub struct Nobody(Socket);

impl Nobody {
    /// Takes a free port.
    pub fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        Nobody(socket)
    }

    /// Where nobody listens.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }

    /// From now on the kernel accepts connections.
    pub fn arise(&self) {
        self.0.listen(64).unwrap();
    }
}

/// An upstream that plays scripts.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    gate: Gate,
    stopped: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
    requests: Arc<Requests>,
    refused: Arc<AtomicUsize>,
    record: Arc<(Mutex<Option<Record>>, Condvar)>,
}

/// The request heads that were read.
#[derive(Debug, Default)]
struct Requests {
    heads: Mutex<Vec<Vec<u8>>>,
    more: Condvar,
}

impl Requests {
    fn push(&self, head: Vec<u8>) {
        self.heads.lock().unwrap().push(head);
        self.more.notify_all();
    }
}

/// Everything that a connection received after its story, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether it ended with a RST.
    pub reset: bool,
}

impl Upstream {
    /// The first connections play these scripts, in order; all later ones are well.
    pub fn playing(scripts: impl IntoIterator<Item = Script>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut upstream = Upstream {
            address: listener.local_addr().unwrap(),
            gate: Gate::default(),
            stopped: Arc::default(),
            accepting: None,
            requests: Arc::default(),
            refused: Arc::default(),
            record: Arc::default(),
        };
        let mut scripts: std::collections::VecDeque<_> = scripts.into_iter().collect();
        let (gate, stopped) = (upstream.gate.clone(), Arc::clone(&upstream.stopped));
        let requests = Arc::clone(&upstream.requests);
        let (record, refused) = (Arc::clone(&upstream.record), Arc::clone(&upstream.refused));
        upstream.accepting = Some(thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let script = scripts.pop_front();
                let story = Story {
                    stream,
                    gate: gate.clone(),
                    requests: Arc::clone(&requests),
                    refused: Arc::clone(&refused),
                    record: Arc::clone(&record),
                };
                thread::spawn(move || match script {
                    Some(script) => story.play(script),
                    None => story.be_well(),
                });
            }
        }));
        upstream
    }

    /// An upstream that is well.
    pub fn healthy() -> Self {
        Upstream::playing([])
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The gate of [`Step::UntilClientSawHead`].
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Every request head that was read, as it was read. One that was answered is among them; for
    /// one that is under way, wait with [`Upstream::until_asked`].
    pub fn requests(&self) -> Vec<String> {
        let heads = self.requests.heads.lock().unwrap();
        heads.iter().map(|head| String::from_utf8_lossy(head).into_owned()).collect()
    }

    /// Waits until so many request heads have been read.
    pub fn until_asked(&self, times: usize) {
        let heads = self.requests.heads.lock().unwrap();
        let wait = self.requests.more.wait_timeout_while(heads, PATIENCE, |it| it.len() < times);
        let (heads, late) = wait.unwrap();
        assert!(!late.timed_out(), "asked {} times, not {times}", heads.len());
    }

    /// How many streams [`Step::RationHttp2`] has refused.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    /// What [`Step::Record`] received, if it has ended.
    pub fn recorded(&self) -> Option<Record> {
        self.record.0.lock().unwrap().clone()
    }

    /// What [`Step::Record`] received; waits for its end.
    pub fn record(&self) -> Record {
        let record = self.record.0.lock().unwrap();
        let (record, late) =
            self.record.1.wait_timeout_while(record, PATIENCE, |record| record.is_none()).unwrap();
        assert!(!late.timed_out(), "the upstream's connection was never closed");
        record.clone().unwrap()
    }

    /// How many bytes [`Step::WriteUntilStuck`] got rid of.
    pub fn taken(&self) -> usize {
        String::from_utf8(self.record().bytes).unwrap().parse().unwrap()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.gate.open();
        // Wakes the accept loop; when it has ended, nobody listens any more.
        drop(TcpStream::connect(self.address));
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}

struct Story {
    stream: TcpStream,
    gate: Gate,
    requests: Arc<Requests>,
    refused: Arc<AtomicUsize>,
    record: Arc<(Mutex<Option<Record>>, Condvar)>,
}

impl Story {
    fn play(mut self, script: Script) {
        self.stream.set_nodelay(true).unwrap();
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        for step in script.0 {
            match step {
                Step::Http2(settings) => {
                    if self.head().is_none() || Http2::begin(&mut self.stream, &settings).is_none()
                    {
                        return;
                    }
                }
                Step::ReadPreface => {
                    if self.head().is_none() || Http2::begin(&mut self.stream, b"").is_none() {
                        return;
                    }
                }
                Step::Http2Request => match Http2.request(&mut self.stream) {
                    Some((stream, content)) => self.keep_request(stream, content),
                    None => return,
                },
                Step::Http2Settled => {
                    if Http2.settle(&mut self.stream).is_none() {
                        return;
                    }
                }
                Step::FloodHttp2 { requests } => {
                    if self.flood_http2(requests).is_none() {
                        return;
                    }
                }
                Step::RationHttp2 { most } => {
                    self.ration_http2(most);
                    return;
                }
                Step::Http2Cancelled => loop {
                    let Some(frame) = Http2.next(&mut self.stream) else { return };
                    if (frame.kind, frame.stream) == (http2::RST_STREAM, 1) {
                        assert_eq!(frame.payload, http2::CANCEL.to_be_bytes());
                        break;
                    }
                },
                Step::Http2Frame => {
                    if Http2.next(&mut self.stream).is_none() {
                        return;
                    }
                }
                Step::ReadHead => {
                    if self.head().is_none() {
                        return;
                    }
                }
                Step::ReadContent(length) => {
                    let mut content = vec![0; length];
                    if self.stream.read_exact(&mut content).is_err() {
                        return;
                    }
                }
                Step::Accept(fields) => {
                    let head =
                        self.requests.heads.lock().unwrap().last().cloned().unwrap_or_default();
                    let answer = super::websocket::accepting(&head, fields);
                    let _ = self.stream.write_all(answer.as_bytes());
                }
                Step::Write(bytes) => {
                    // Whoever has seen enough may close before the end.
                    let _ = self.stream.write_all(&bytes);
                }
                Step::WriteForever(bytes) => while self.stream.write_all(&bytes).is_ok() {},
                Step::WriteUntilStuck(bytes) => self.write_until_stuck(&bytes),
                Step::UntilClientSawHead => self.gate.wait(),
                Step::Pause(time) => thread::sleep(Duration::from_millis(time)),
                Step::Fin => {
                    // A close over unread bytes would be a RST: all that comes is read, for as long
                    // as the other side has not closed too.
                    let _ = self.stream.shutdown(Shutdown::Write);
                    return self.read_away();
                }
                Step::FinUnread => {
                    let _ = self.stream.shutdown(Shutdown::Write);
                    self.gate.wait();
                    return self.read_away();
                }
                Step::Reset => {
                    SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
                    return;
                }
                Step::Hang => self.read_away(),
                Step::BeWell => return self.be_well(),
                Step::BeWellHttp2 => return self.be_well_http2(),
                Step::Record => self.record(),
            }
        }
    }

    fn read_away(&mut self) {
        while matches!(self.stream.read(&mut [0; 65_536]), Ok(1..)) {}
    }

    fn write_until_stuck(&mut self, bytes: &[u8]) {
        self.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut taken = 0;
        while let Ok(count) = self.stream.write(bytes) {
            taken += count;
        }
        self.keep(Record { bytes: taken.to_string().into_bytes(), reset: false });
    }

    fn keep(&mut self, record: Record) {
        *self.record.0.lock().unwrap() = Some(record);
        self.record.1.notify_all();
    }

    fn record(&mut self) {
        let mut bytes = Vec::new();
        let ended = self.stream.read_to_end(&mut bytes);
        self.keep(Record { bytes, reset: ended.is_err() });
    }

    /// Reads a request head; `None` when the other side closes instead.
    fn head(&mut self) -> Option<Vec<u8>> {
        let mut head = Vec::new();
        let mut byte = [0; 1];
        while !head.ends_with(b"\r\n\r\n") {
            match self.stream.read(&mut byte) {
                Ok(1..) => head.push(byte[0]),
                _ => return None,
            }
        }
        if !head.starts_with(b"PRI * HTTP/2.0") {
            self.requests.push(head.clone());
        }
        Some(head)
    }

    fn keep_request(&self, stream: u32, content: usize) {
        let head = format!("HTTP/2 stream {stream}, {content} bytes");
        self.requests.push(head.into_bytes());
    }

    fn flood_http2(&mut self, requests: usize) -> Option<()> {
        let mut windows = std::collections::BTreeMap::new();
        while windows.len() < requests {
            let (stream, _) = Http2.request(&mut self.stream)?;
            self.stream.write_all(&http2::head_of(stream, 0, 200, &[])).ok()?;
            windows.insert(stream, WINDOW);
        }
        // Until nobody has opened a window for a while: then all of them are full.
        loop {
            for (stream, window) in &mut windows {
                while *window > 0 {
                    let size = (*window).min(16_384);
                    let content = http2::frame(http2::DATA, 0, *stream, vec![b'x'; size]);
                    self.stream.write_all(&content).ok()?;
                    *window -= size;
                }
            }
            self.stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let more = Http2.window_update(&mut self.stream);
            self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
            match more {
                Some((stream, more)) => *windows.entry(stream).or_default() += more,
                None => break,
            }
        }
        self.gate.open();
        Some(())
    }

    fn ration_http2(&mut self, most: usize) -> Option<()> {
        let mut open = std::collections::BTreeMap::new();
        loop {
            self.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let has_more = self.stream.peek(&mut [0]);
            self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let ready = !open.is_empty() && open.values().all(|whole| *whole);
            if ready && (open.len() >= most || has_more.is_err()) {
                for (stream, _) in std::mem::take(&mut open) {
                    self.keep_request(stream, 0);
                    let head = http2::head_of(stream, 0, 200, &[]);
                    let content = http2::frame(http2::DATA, http2::END_STREAM, stream, WELL);
                    self.stream.write_all(&[head, content].concat()).ok()?;
                }
            }
            if matches!(has_more, Ok(0)) {
                return None;
            }
            if has_more.is_err() {
                continue;
            }
            let frame = Http2.any(&mut self.stream)?;
            let ends = frame.flags & http2::END_STREAM != 0;
            match frame.kind {
                http2::HEADERS if open.len() >= most => {
                    let no = http2::REFUSED_STREAM.to_be_bytes();
                    let reset = http2::frame(http2::RST_STREAM, 0, frame.stream, no);
                    self.stream.write_all(&reset).ok()?;
                    self.refused.fetch_add(1, Ordering::SeqCst);
                }
                http2::HEADERS => {
                    open.insert(frame.stream, ends);
                }
                http2::DATA => {
                    open.entry(frame.stream).and_modify(|whole| *whole = ends);
                }
                _ => {}
            }
        }
    }

    fn be_well_http2(mut self) {
        while let Some((stream, content)) = Http2.request(&mut self.stream) {
            self.keep_request(stream, content);
            let length = WELL.len().to_string();
            let head = http2::head_of(stream, 0, 200, &[("content-length", &length)]);
            let content = http2::frame(http2::DATA, http2::END_STREAM, stream, WELL);
            if self.stream.write_all(&[head, content].concat()).is_err() {
                return;
            }
        }
    }

    fn be_well(mut self) {
        self.stream.set_nodelay(true).unwrap();
        while let Some(head) = self.head() {
            if head.starts_with(b"PRI * HTTP/2.0") {
                if Http2::begin(&mut self.stream, &http2::settings(&[])).is_some() {
                    self.be_well_http2();
                }
                return;
            }
            let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let length = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.trim().parse().unwrap());
            let mut content = vec![0; length];
            if self.stream.read_exact(&mut content).is_err() {
                return;
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{WELL}", WELL.len());
            if self.stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

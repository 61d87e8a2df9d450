//! Scripted upstreams: a failure is a story that waits for events, never for time.
//!
//! Each accepted connection plays the next script; when the scripts are used up, the upstream is
//! well: it answers every request with [`WELL`]. Raw sockets, no HTTP library.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use super::PATIENCE;

/// The content of a healthy answer.
pub const WELL: &str = "all is well";

/// What a connection does next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Reads a request head.
    ReadHead,
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
    /// Closes with a FIN: everything sent before arrives, unread bytes are read first.
    Fin,
    /// Closes with a RST.
    Reset,
    /// Says nothing more, and reads whatever comes until the other side closes.
    Hang,
    /// Is well from now on.
    BeWell,
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

    /// Falls silent.
    pub fn hang(self) -> Self {
        self.then(Step::Hang)
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

/// An upstream that plays scripts.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    gate: Gate,
    stopped: Arc<AtomicBool>,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
    record: Arc<(Mutex<Option<Record>>, Condvar)>,
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
        let upstream = Upstream {
            address: listener.local_addr().unwrap(),
            gate: Gate::default(),
            stopped: Arc::default(),
            requests: Arc::default(),
            record: Arc::default(),
        };
        let mut scripts: std::collections::VecDeque<_> = scripts.into_iter().collect();
        let (gate, stopped) = (upstream.gate.clone(), Arc::clone(&upstream.stopped));
        let requests = Arc::clone(&upstream.requests);
        let record = Arc::clone(&upstream.record);
        thread::spawn(move || {
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
                    record: Arc::clone(&record),
                };
                thread::spawn(move || match script {
                    Some(script) => story.play(script),
                    None => story.be_well(),
                });
            }
        });
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

    /// Every request head that was read, as it was read.
    pub fn requests(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests.iter().map(|head| String::from_utf8_lossy(head).into_owned()).collect()
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
        // Wakes the accept loop, which ends then.
        drop(TcpStream::connect(self.address));
    }
}

struct Story {
    stream: TcpStream,
    gate: Gate,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
    record: Arc<(Mutex<Option<Record>>, Condvar)>,
}

impl Story {
    fn play(mut self, script: Script) {
        self.stream.set_nodelay(true).unwrap();
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        for step in script.0 {
            match step {
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
                    let head = self.requests.lock().unwrap().last().cloned().unwrap_or_default();
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
                Step::Fin => {
                    // Unread bytes would turn the close into a RST.
                    self.stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
                    let _ = self.stream.read(&mut [0; 65536]);
                    return;
                }
                Step::Reset => {
                    SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
                    return;
                }
                Step::Hang => while matches!(self.stream.read(&mut [0; 65_536]), Ok(1..)) {},
                Step::BeWell => return self.be_well(),
                Step::Record => self.record(),
            }
        }
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
        self.requests.lock().unwrap().push(head.clone());
        Some(head)
    }

    fn be_well(mut self) {
        self.stream.set_nodelay(true).unwrap();
        while let Some(head) = self.head() {
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

//! P7: what two parsers could read differently is refused, everything else is forwarded in one form.
//!
//! A table of raw requests; each is sent as it stands to a seawall before an upstream that records
//! every byte. A refused request never reaches the upstream, closes the connection and is counted as
//! the client's failure; a forwarded one is there in exactly the expected bytes, and once.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::client::{End, Http1};
use crate::support::every;
use crate::support::script::{Gate, Script, Upstream};
use crate::support::seawall::Seawall;

mod http2;
mod table;

/// A raw request and what becomes of it.
pub struct Row {
    /// A claim.
    pub name: &'static str,
    /// What the client sends.
    pub bytes: Vec<u8>,
    /// What comes of it.
    pub fate: Fate,
}

/// What becomes of a row's bytes.
#[derive(Debug)]
pub enum Fate {
    /// Answered with this status, counted as this client failure, and the connection is closed.
    Refused(u16, &'static str),
    /// The content breaks off: the upstream has a part of the request at most, never all of it.
    Broken(u16),
    /// The upstream gets exactly these requests.
    Forwarded(Vec<Vec<u8>>),
    /// The upstream gets exactly these requests; what follows is refused and the connection closed.
    ForwardedThenRefused(Vec<Vec<u8>>),
}

/// Every request that an upstream received, whole or not.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
    broken: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    /// Starts one; it answers whole requests and ends with the test process.
    pub fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let recorder = Recorder::default();
        let shared = recorder.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let recorder = shared.clone();
                thread::spawn(move || recorder.serve(stream.unwrap()));
            }
        });
        (recorder, address)
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        loop {
            while let Some(length) = whole(&bytes) {
                let request: Vec<u8> = bytes.drain(..length).collect();
                self.requests.lock().unwrap().push(without_id(&request));
                if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
                    return;
                }
            }
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer) {
                Ok(count @ 1..) => bytes.extend_from_slice(&buffer[..count]),
                _ if bytes.is_empty() => return,
                _ => return self.broken.lock().unwrap().push(bytes),
            }
        }
    }

    /// What has come whole, request ids taken out.
    pub fn requests(&self) -> Vec<Vec<u8>> {
        self.requests.lock().unwrap().clone()
    }

    /// What broke off.
    pub fn broken(&self) -> usize {
        self.broken.lock().unwrap().len()
    }
}

/// The length of the request at the start, if it is there to its end. Knows one form of framing only,
/// that in which seawall writes.
fn whole(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    if text.contains("\r\ntransfer-encoding: chunked\r\n") {
        assert!(!text.contains("\r\ncontent-length:"), "two lengths: {text}");
        let last = bytes[head..].windows(3).position(|three| three == b"0\r\n")?;
        let end = bytes[head + last..].windows(4).position(|four| four == b"\r\n\r\n")?;
        return Some(head + last + end + 4);
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = head + length.map_or(0, |length| length.parse::<usize>().unwrap());
    (bytes.len() >= length).then_some(length)
}

/// The request with `ID` for its random id.
fn without_id(request: &[u8]) -> Vec<u8> {
    let name = b"\r\nx-request-id: ";
    let at = request.windows(name.len()).position(|part| part == name).unwrap() + name.len();
    [&request[..at], b"ID", &request[at + 32..]].concat()
}

/// A seawall called `wall` before a recorder.
pub fn stage() -> (Recorder, Seawall) {
    let (recorder, upstream) = Recorder::start();
    let seawall = Seawall::configured(&format!(
        "forwarded: {{ name: wall }}\n\
        clients: {{ target: 1KiB, head: 8KiB, fields: 32 }}\n\
        upstreams: {{ app: {{ endpoints: [http://{upstream}], retry: {{ attempts: 1 }} }} }}\n\
        routes: [{{ upstream: app, host: '*' }}]\n"
    ));
    (recorder, seawall)
}

fn tell(row: &Row) {
    let name = row.name;
    let (recorder, seawall) = stage();
    let mut client = Http1::connect(seawall.address());
    client.send(&row.bytes);
    let expected: &[Vec<u8>] = match &row.fate {
        Fate::Forwarded(expected) | Fate::ForwardedThenRefused(expected) => expected,
        Fate::Refused(..) | Fate::Broken(_) => &[],
    };
    for _ in expected {
        let seen = client.read(row.bytes.starts_with(b"HEAD"), &Gate::default());
        assert_eq!((seen.status, seen.end), (200, End::Complete), "{name}: {seen:?}");
    }
    let refused = match row.fate {
        Fate::Refused(status, kind) => Some((status, kind)),
        Fate::Broken(status) => Some((status, "bad_request")),
        Fate::ForwardedThenRefused(_) => Some((400, "bad_request")),
        Fate::Forwarded(_) => None,
    };
    if let Some((status, kind)) = refused {
        let seen = client.read(false, &Gate::default());
        assert_eq!((seen.status, seen.end), (status, End::Complete), "{name}: {seen:?}");
        let _ = client.stream().shutdown(Shutdown::Write);
        assert_eq!(client.rest(), (Vec::new(), End::Fin), "{name}: the connection is closed");
        let cells = seawall.until(name, |seawall| {
            Some(seawall.cells("seawall_client_failures_total")).filter(|cells| !cells.is_empty())
        });
        assert_eq!(cells, [format!("{{kind=\"{kind}\"}} 1")], "{name}");
    } else {
        // Nothing more comes, neither here nor at the upstream.
        let _ = client.stream().shutdown(Shutdown::Write);
        let (rest, _) = client.rest();
        assert_eq!(String::from_utf8_lossy(&rest), "", "{name}: one answer too many");
        drop(client);
        seawall.until_deserted();
        assert!(seawall.cells("seawall_client_failures_total").is_empty(), "{name}");
    }
    assert!(recorder.broken() <= 1, "{name}: sent more than once");
    assert!(seawall.cells("seawall_failures_total").is_empty(), "{name}: blamed the upstream");
    let text = |all: &[Vec<u8>]| -> Vec<String> {
        all.iter().map(|one| String::from_utf8_lossy(one).into_owned()).collect()
    };
    let requests = recorder.requests();
    assert_eq!(text(&requests), text(expected), "{name}");
    assert_eq!(requests, expected, "{name}");
}

fn tell_all(rows: &[Row]) {
    every(rows, |row| row.name.to_owned(), tell);
}

#[test]
fn lengths_and_codings_have_one_meaning() {
    tell_all(&table::framing());
}

#[test]
fn heads_have_one_meaning() {
    tell_all(&table::heads());
}

#[test]
fn hosts_and_targets_have_one_meaning() {
    tell_all(&table::targets());
}

#[test]
fn chunks_have_one_meaning() {
    tell_all(&table::chunks());
}

#[test]
fn there_are_more_than_a_hundred_requests_in_the_table() {
    let rows = [table::framing(), table::heads(), table::targets(), table::chunks()];
    let names: std::collections::BTreeSet<_> = rows.iter().flatten().map(|row| row.name).collect();
    assert_eq!(names.len(), rows.iter().flatten().count(), "every name is there once");
    assert!(names.len() > 100, "{}", names.len());
}

#[test]
fn no_refusal_follows_an_answer_that_was_cut_off() {
    for length in
        ["Content-Length: 100000\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"]
    {
        let answer = format!("HTTP/1.1 200 OK\r\nX-Accel-Buffering: no\r\n{length}");
        let cut = Script::read_head().write(answer).until_client_saw_head().reset();
        let upstream = Upstream::playing([cut]);
        let seawall = Seawall::before(&upstream);
        let mut client = Http1::connect(seawall.address());
        let ambiguous = "GET / HTTP/1.1\nHost: a\r\n\r\n";
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n\r\n{ambiguous}"));
        let seen = client.read(false, upstream.gate());
        // 66 bytes of a 400 would be taken for content, and might make it whole.
        assert_eq!((seen.status, seen.text()), (200, "hello".to_owned()));
        assert_eq!(seen.end, End::Fin);
    }
}

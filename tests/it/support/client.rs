//! Clients that report what they saw: HTTP/1.1 by raw bytes, HTTP/2 by the `h2` crate.
//!
//! Both are strict. A body is whole only if its framing says so: a connection that closes early is
//! [`End::Fin`] or [`End::Reset`], never a shorter body.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::PATIENCE;
use super::script::Gate;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1 in plain text.
    Http1,
    /// HTTP/2 in plain text with prior knowledge.
    Http2,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: &'static str,
    /// The path.
    pub path: &'static str,
    /// Fields besides Host and Content-Length.
    pub fields: Vec<(&'static str, &'static str)>,
    /// The content.
    pub content: Vec<u8>,
}

impl Request {
    /// A GET without content.
    pub fn get() -> Self {
        Request { method: "GET", path: "/", fields: Vec::new(), content: Vec::new() }
    }

    /// A POST of so many bytes.
    pub fn post(length: usize) -> Self {
        Request { method: "POST", content: vec![b'x'; length], ..Request::get() }
    }

    /// With one more field.
    pub fn field(mut self, name: &'static str, value: &'static str) -> Self {
        self.fields.push((name, value));
        self
    }
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Whole, by its own framing.
    Complete,
    /// A FIN before it was whole.
    Fin,
    /// A RST of the connection before it was whole.
    Reset,
    /// RST_STREAM with this error code.
    StreamReset(u32),
}

/// What a client saw of a response.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The statuses of interim responses.
    pub interim: Vec<u16>,
    /// The final status; 0 if none came.
    pub status: u16,
    /// The fields, names in lower case.
    pub fields: Vec<(String, String)>,
    /// The content, as much of it as came.
    pub body: Vec<u8>,
    /// The trailers, names in lower case.
    pub trailers: Vec<(String, String)>,
    /// How it ended.
    pub end: End,
}

impl Seen {
    fn nothing(end: End) -> Self {
        Seen {
            interim: Vec::new(),
            status: 0,
            fields: Vec::new(),
            body: Vec::new(),
            trailers: Vec::new(),
            end,
        }
    }

    /// The value of a field that may come once.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(known, _)| known == name);
        let value = values.next().map(|(_, value)| &**value);
        assert_eq!(values.next(), None, "{name} came twice: {self:?}");
        value
    }

    /// The content as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Everything that the client could read, to be searched for what it must not contain.
    pub fn everything(&self) -> String {
        format!("{:?} {:?} {}", self.fields, self.trailers, self.text())
    }
}

/// A client's connection.
#[derive(Debug)]
pub enum Client {
    /// HTTP/1.1.
    Http1(Http1),
    /// HTTP/2.
    Http2(Http2),
}

impl Client {
    /// Connects.
    pub fn connect(version: Version, address: SocketAddr) -> Self {
        match version {
            Version::Http1 => Client::Http1(Http1::connect(address)),
            Version::Http2 => Client::Http2(Http2::connect(address)),
        }
    }

    /// Sends a request and reads its response; opens the gate when the head is there.
    pub fn exchange(&mut self, request: &Request, gate: &Gate) -> Seen {
        match self {
            Client::Http1(client) => client.exchange(request, gate),
            Client::Http2(client) => client.exchange(request, gate),
        }
    }
}

/// A raw HTTP/1.1 connection.
#[derive(Debug)]
pub struct Http1 {
    stream: TcpStream,
    early: Vec<u8>,
}

impl Http1 {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Http1 { stream, early: Vec::new() }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends a request; its content is written while the response is read.
    pub fn exchange(&mut self, request: &Request, gate: &Gate) -> Seen {
        let Request { method, path, fields, content } = request;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: example.com\r\n");
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !content.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", content.len()));
        }
        head.push_str("\r\n");
        let bytes = [head.as_bytes(), content].concat();
        let mut writer = self.stream.try_clone().unwrap();
        let sending = thread::spawn(move || writer.write_all(&bytes));
        let seen = self.read(*method == "HEAD", gate);
        if seen.end != End::Complete {
            // Frees a writer whom nobody listens to any more.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        let sent = sending.join().unwrap();
        if seen.end == End::Complete && content.len() <= 65_536 {
            sent.expect("a small request is always taken whole");
        }
        seen
    }

    /// Reads one response, interim ones included.
    pub fn read(&mut self, to_head: bool, gate: &Gate) -> Seen {
        let mut interim = Vec::new();
        loop {
            let head = match self.line_block() {
                Ok(head) => head,
                Err(end) => return Seen { interim, ..Seen::nothing(end) },
            };
            let mut lines = head.split("\r\n");
            let status_line = lines.next().unwrap();
            assert!(status_line.starts_with("HTTP/1."), "not HTTP/1: {status_line:?}");
            let status: u16 = status_line[9..12].parse().unwrap();
            let fields = fields(lines);
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
                gate.open();
                continue;
            }
            gate.open();
            let mut seen = Seen { interim, status, fields, ..Seen::nothing(End::Complete) };
            if !to_head
                && !matches!(status, 101 | 204 | 304)
                && let Err(end) = self.content(&mut seen)
            {
                seen.end = end;
            }
            return seen;
        }
    }

    /// Everything until the end of the connection, and how that came.
    pub fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            if let Err(end) = self.fill() {
                return (std::mem::take(&mut self.early), end);
            }
        }
    }

    /// Exactly so many bytes.
    pub fn take(&mut self, length: usize) -> Result<Vec<u8>, End> {
        while self.early.len() < length {
            self.fill()?;
        }
        Ok(self.early.drain(..length).collect())
    }

    fn content(&mut self, seen: &mut Seen) -> Result<(), End> {
        let chunked = seen.field("transfer-encoding").map(|coding| coding == "chunked");
        let length = seen.field("content-length").map(|length| length.parse::<usize>().unwrap());
        match (chunked, length) {
            (Some(chunked), None) => {
                assert!(chunked, "an unknown transfer coding");
                loop {
                    let line = self.line()?;
                    let size = usize::from_str_radix(&line, 16).unwrap();
                    if size == 0 {
                        break;
                    }
                    self.up_to(size, &mut seen.body)?;
                    assert_eq!(self.take(2)?, b"\r\n");
                }
                let mut lines = Vec::new();
                loop {
                    let line = self.line()?;
                    if line.is_empty() {
                        break;
                    }
                    lines.push(line);
                }
                seen.trailers = fields(lines.iter().map(|line| &**line));
                Ok(())
            }
            (None, Some(length)) => self.up_to(length, &mut seen.body),
            (None, None) => match self.rest() {
                (rest, End::Fin) => {
                    seen.body = rest;
                    Ok(())
                }
                (rest, end) => {
                    seen.body = rest;
                    Err(end)
                }
            },
            (Some(_), Some(_)) => panic!("both Transfer-Encoding and Content-Length: {seen:?}"),
        }
    }

    /// Adds `length` bytes to `into`, or as many as come.
    fn up_to(&mut self, length: usize, into: &mut Vec<u8>) -> Result<(), End> {
        while self.early.len() < length {
            if let Err(end) = self.fill() {
                into.append(&mut self.early);
                return Err(end);
            }
        }
        into.extend(self.early.drain(..length));
        Ok(())
    }

    fn line(&mut self) -> Result<String, End> {
        loop {
            if let Some(end) = self.early.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.early.drain(..end + 2).take(end).collect();
                return Ok(String::from_utf8(line).unwrap());
            }
            self.fill()?;
        }
    }

    /// Everything before the next empty line.
    fn line_block(&mut self) -> Result<String, End> {
        let mut block = String::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(block);
            }
            if !block.is_empty() {
                block.push_str("\r\n");
            }
            block.push_str(&line);
        }
    }

    fn fill(&mut self) -> Result<(), End> {
        let mut buffer = [0; 65_536];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(End::Fin),
            Ok(length) => {
                self.early.extend_from_slice(&buffer[..length]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("nothing came in time"),
            Err(_) => Err(End::Reset),
        }
    }
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    lines
        .map(|line| line.split_once(':').unwrap_or_else(|| panic!("not a field: {line:?}")))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect()
}

/// An HTTP/2 connection on a runtime of its own.
#[derive(Debug)]
pub struct Http2 {
    runtime: Runtime,
    requests: SendRequest<Bytes>,
}

impl Http2 {
    /// Connects with prior knowledge.
    pub fn connect(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let requests = runtime.block_on(async {
            let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
            let (requests, connection) = h2::client::handshake(tcp).await.unwrap();
            tokio::spawn(async move {
                let _ = connection.await;
            });
            requests
        });
        Http2 { runtime, requests }
    }

    /// Sends a request and reads its response.
    pub fn exchange(&mut self, request: &Request, gate: &Gate) -> Seen {
        let requests = self.requests.clone();
        let exchange = exchange2(requests, request, gate);
        self.runtime.block_on(async { timeout(PATIENCE, exchange).await.unwrap() })
    }
}

fn end_of(error: &h2::Error) -> End {
    match error.reason() {
        Some(reason) if error.is_reset() => End::StreamReset(reason.into()),
        _ => End::Reset,
    }
}

async fn exchange2(requests: SendRequest<Bytes>, request: &Request, gate: &Gate) -> Seen {
    let mut head = http::Request::builder()
        .method(request.method)
        .uri(format!("http://example.com{}", request.path));
    for (name, value) in &request.fields {
        head = head.header(*name, *value);
    }
    let length = request.content.len();
    if length > 0 {
        head = head.header("content-length", length);
    }
    let mut requests = match requests.ready().await {
        Ok(requests) => requests,
        Err(error) => return Seen::nothing(end_of(&error)),
    };
    let (response, sender) = requests.send_request(head.body(()).unwrap(), length == 0).unwrap();
    let content = Bytes::from(request.content.clone());
    let sending = tokio::spawn(send2(sender, content));
    let seen = response2(response, gate).await;
    sending.abort();
    seen
}

/// Writes the content as the other side makes room for it; an early answer may end it.
async fn send2(mut sender: h2::SendStream<Bytes>, mut content: Bytes) {
    while !content.is_empty() {
        sender.reserve_capacity(content.len());
        let Some(Ok(room)) = std::future::poll_fn(|cx| sender.poll_capacity(cx)).await else {
            return;
        };
        let part = content.split_to(room.min(content.len()));
        if sender.send_data(part, content.is_empty()).is_err() {
            return;
        }
    }
}

async fn response2(response: h2::client::ResponseFuture, gate: &Gate) -> Seen {
    let (head, mut content) = match response.await {
        Ok(response) => response.into_parts(),
        Err(error) => return Seen::nothing(end_of(&error)),
    };
    gate.open();
    let mut seen = Seen {
        status: head.status.as_u16(),
        fields: pairs(&head.headers),
        ..Seen::nothing(End::Complete)
    };
    while let Some(data) = content.data().await {
        match data {
            Ok(data) => {
                let _ = content.flow_control().release_capacity(data.len());
                seen.body.extend_from_slice(&data);
            }
            Err(error) => {
                seen.end = end_of(&error);
                return seen;
            }
        }
    }
    match content.trailers().await {
        Ok(Some(trailers)) => seen.trailers = pairs(&trailers),
        Ok(None) => {}
        Err(error) => seen.end = end_of(&error),
    }
    seen
}

fn pairs(fields: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    fields.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

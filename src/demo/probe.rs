//! Raw clients that say in a few words what a client sees.
//!
//! A lenient client library hides what this demonstration is about: whether an answer is whole,
//! whether a WebSocket ended with a Close frame. So the probes read bytes. What must stay true:
//! every probe ends within [`PATIENCE`], and reads at most `READ_MAX` bytes.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::frame::{self, Frame};
use super::view::{End, PATIENCE, Session, View, judge, leaks};
use crate::net::resolve::{Resolver, Silence};

const READ_MAX: usize = 4 * 1024 * 1024;
const KEY: &str = "c2Vhd2FsbCBkZW1vIGtleQ==";
/// What the probe says in a WebSocket.
const GREETING: &[u8] = b"is anybody there?";

/// Asks for a path and looks at the answer.
pub async fn http(address: SocketAddr, path: &str) -> View {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: application/json\r\n\
        Connection: close\r\n\r\n"
    );
    let deadline = Instant::now() + PATIENCE;
    let mut stream = match dial(address, deadline).await {
        Ok(stream) => stream,
        Err(why) => return View::Unreachable(why),
    };
    if let Err(end) = write(&mut stream, request.as_bytes(), deadline).await {
        return View::NoAnswer(end);
    }
    response(&mut stream, Vec::new(), deadline).await
}

/// Opens a WebSocket, says something, and watches how it ends.
pub async fn websocket(address: SocketAddr, path: &str) -> View {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    let deadline = Instant::now() + PATIENCE;
    let mut stream = match dial(address, deadline).await {
        Ok(stream) => stream,
        Err(why) => return View::Unreachable(why),
    };
    if let Err(end) = write(&mut stream, request.as_bytes(), deadline).await {
        return View::NoAnswer(end);
    }
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = memchr::memmem::find(&read, b"\r\n\r\n") {
            break end + 4;
        }
        match fill(&mut stream, &mut read, deadline).await {
            None => {}
            Some(end) => return judge(&read, Some(end)).unwrap_or(View::NoAnswer(end)),
        }
    };
    let opening = read.split_off(end);
    if !read.starts_with(b"HTTP/1.1 101 ") {
        read.extend_from_slice(&opening);
        return response(&mut stream, read, deadline).await;
    }
    let accept = derive_accept_key(KEY.as_bytes());
    if memchr::memmem::find(&read, accept.as_bytes()).is_none() {
        return View::Broken("101 with a wrong accept value".into());
    }
    View::Session(session(&mut stream, opening, deadline).await)
}

/// Resolves a name and, should it exist, leaves it at that.
pub async fn name(name: &str) -> View {
    let told = Resolver::of(&[]).addresses(name, PATIENCE).await;
    if told.iter().flatten().any(|(found, _)| !found.is_empty()) {
        return View::Unreachable("the name exists");
    }
    if told.iter().all(|told| told.as_ref().is_err_and(Silence::is_late)) {
        return View::NoAnswer(End::Silent);
    }
    View::Unreachable("name not found")
}

/// Attempts a TLS handshake.
pub async fn tls(address: SocketAddr) -> View {
    const FAILED: View = View::Unreachable("TLS handshake failed");
    let deadline = Instant::now() + PATIENCE;
    let stream = match dial(address, deadline).await {
        Ok(stream) => stream,
        Err(why) => return View::Unreachable(why),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let Ok(versions) =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
    else {
        return FAILED;
    };
    let config =
        versions.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    match within(deadline, connector.connect(address.ip().into(), stream)).await {
        Ok(_) => View::Unreachable("a TLS session"),
        Err(End::Silent) => View::NoAnswer(End::Silent),
        Err(End::Closed | End::Reset) => FAILED,
    }
}

/// The text at a path of the admin listener; `None` if there is no whole answer 200.
pub async fn text(address: SocketAddr, path: &str) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut stream = dial(address, deadline).await.ok()?;
    // HTTP/1.0: no chunks, and the end of the connection is the end of the text.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    write(&mut stream, request.as_bytes(), deadline).await.ok()?;
    let mut read = Vec::new();
    while read.len() < READ_MAX {
        match fill(&mut stream, &mut read, deadline).await {
            None => {}
            Some(End::Closed) => break,
            Some(End::Reset | End::Silent) => return None,
        }
    }
    let text = String::from_utf8(read).ok()?;
    let (head, content) = text.split_once("\r\n\r\n")?;
    (head.split(' ').nth(1) == Some("200")).then(|| content.to_owned())
}

async fn within<T>(deadline: Instant, work: impl Future<Output = io::Result<T>>) -> Result<T, End> {
    match timeout_at(deadline, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(End::Closed),
        Ok(Err(_)) => Err(End::Reset),
        Err(_) => Err(End::Silent),
    }
}

async fn dial(address: SocketAddr, deadline: Instant) -> Result<TcpStream, &'static str> {
    match timeout_at(deadline, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err("connection refused")
        }
        Ok(Err(_)) => Err("no connection"),
        Err(_) => Err("no connection in time"),
    }
}

async fn write(stream: &mut TcpStream, bytes: &[u8], deadline: Instant) -> Result<(), End> {
    within(deadline, stream.write_all(bytes)).await
}

/// Reads once. `Some`: nothing more will come.
async fn fill(stream: &mut TcpStream, read: &mut Vec<u8>, deadline: Instant) -> Option<End> {
    if read.len() >= READ_MAX {
        return Some(End::Silent);
    }
    match within(deadline, stream.read_buf(read)).await {
        Ok(0) => Some(End::Closed),
        Ok(_) => None,
        Err(end) => Some(end),
    }
}

async fn response(stream: &mut TcpStream, mut read: Vec<u8>, deadline: Instant) -> View {
    loop {
        if let Some(view) = judge(&read, None) {
            return view;
        }
        if let Some(end) = fill(stream, &mut read, deadline).await {
            return judge(&read, Some(end)).unwrap_or(View::NoAnswer(end));
        }
    }
}

async fn session(stream: &mut TcpStream, opening: Vec<u8>, deadline: Instant) -> Session {
    let mut session = Session::default();
    let mut reader = frame::Reader::starting_with(opening);
    let mut in_message = false;
    // What cannot be written will be read as an end.
    let _ = write(stream, &frame::encode_masked(0x80 | frame::TEXT, GREETING), deadline).await;
    loop {
        let frame = match within(deadline, reader.next(stream)).await {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(End::Closed | End::Reset) => {
                session.fault = Some(match (reader.is_in_frame(), in_message) {
                    (true, _) => "1006 in mid-frame",
                    (false, true) => "1006 in mid-message",
                    (false, false) => "1006 (no Close)",
                });
                return session;
            }
            Err(End::Silent) => {
                session.fault = Some("then silence");
                return session;
            }
        };
        session.leaks |= leaks(&frame.payload);
        if let Some(fault) = broken(&frame) {
            session.fault = Some(fault);
            return session;
        }
        match frame.opcode {
            frame::CLOSE => {
                closed(&mut session, &frame);
                let code = frame.payload.get(..2).unwrap_or_default();
                let reply = frame::encode_masked(0x80 | frame::CLOSE, code);
                let _ = write(stream, &reply, deadline).await;
                // A client hears of a clean close only if the connection then ends in order.
                let mut rest = Vec::new();
                if !matches!(fill(stream, &mut rest, deadline).await, Some(End::Closed)) {
                    session.fault = Some("unclean");
                }
                return session;
            }
            frame::PING => {
                let pong = frame::encode_masked(0x80 | frame::PONG, &frame.payload);
                let _ = write(stream, &pong, deadline).await;
            }
            frame::PONG => {}
            _ if frame.fin && frame.payload == GREETING => {
                session.echoed = true;
                let close = frame::encode_masked(0x80 | frame::CLOSE, &1000_u16.to_be_bytes());
                let _ = write(stream, &close, deadline).await;
            }
            _ => {
                in_message = !frame.fin;
                session.messages += usize::from(frame.fin);
            }
        }
    }
}

/// What a client may not accept from a server.
fn broken(frame: &Frame) -> Option<&'static str> {
    match frame.opcode {
        _ if frame.masked => Some("masked frame"),
        frame::CONTINUATION | frame::BINARY | frame::CLOSE | frame::PING | frame::PONG => None,
        frame::TEXT if frame.fin && std::str::from_utf8(&frame.payload).is_err() => {
            Some("text not UTF-8")
        }
        frame::TEXT => None,
        _ => Some("reserved opcode"),
    }
}

fn closed(session: &mut Session, frame: &Frame) {
    let Some((code, reason)) = frame.payload.split_first_chunk() else {
        session.close = Some((1005, String::new()));
        return;
    };
    let code = u16::from_be_bytes(*code);
    // RFC 6455 §7.4, with 1012 to 1014 of the IANA registry.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        session.fault = Some("illegal");
    }
    session.close = Some((code, String::from_utf8_lossy(reason).into_owned()));
}

//! The PROXY protocol, versions 1 and 2, as a proxy before us sends it: whom a connection is for,
//! before its first byte. The format is that of HAProxy's `doc/proxy-protocol.txt`.
//!
//! The parser is a pure function over what was read so far, and nothing is read beyond the header:
//! what follows it belongs to TLS or HTTP. A header is at most [`MOST`] bytes and comes within the
//! handshake's time; anything else ends the connection. Extensions (TLVs) are skipped.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncReadExt;

use crate::net::TcpStream;

/// The longest header of version 1, its line end included (§2.1).
const MOST_V1: usize = 107;
/// The longest header that is accepted: TLVs may be long, for example the certificate of a client.
pub const MOST: usize = 16 * 1024;
/// §2.2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// What begins version 1.
const WORD: &[u8] = b"PROXY ";
/// Both versions are longer than this.
const LEAST: usize = 12;
/// Signature, version and command, family, length.
const FIXED: usize = 16;

/// Between whom the connection is that a proxy speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The client.
    pub from: SocketAddr,
    /// Where it connected to.
    pub to: SocketAddr,
}

/// What was read so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// At least so many bytes, from the beginning, are needed to tell more.
    Needs(usize),
    /// A header of so many bytes. `None`: the proxy speaks for itself, or cannot say for whom.
    Header(usize, Option<Route>),
}

/// It is no PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl From<Malformed> for io::Error {
    fn from(_: Malformed) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, "no PROXY protocol header")
    }
}

/// Reads what a connection began with.
///
/// # Errors
/// If no header begins like this.
pub fn parse(read: &[u8]) -> Result<Parsed, Malformed> {
    if read.starts_with(WORD) {
        return parse_v1(read);
    }
    let known = read.len().min(SIGNATURE.len());
    let is_v2 = read.get(..known) == SIGNATURE.get(..known);
    match read.len() {
        0..LEAST if is_v2 || WORD.starts_with(read) => Ok(Parsed::Needs(LEAST)),
        LEAST..FIXED if is_v2 => Ok(Parsed::Needs(FIXED)),
        FIXED.. if is_v2 => parse_v2(read),
        _ => Err(Malformed),
    }
}

/// §2.1: one line of ASCII.
fn parse_v1(read: &[u8]) -> Result<Parsed, Malformed> {
    let line = read.get(..MOST_V1.min(read.len())).unwrap_or(read);
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return if read.len() < MOST_V1 {
            Ok(Parsed::Needs(read.len() + 1))
        } else {
            Err(Malformed)
        };
    };
    let text = line.get(WORD.len()..end).and_then(|text| text.strip_suffix(b"\r"));
    let text = std::str::from_utf8(text.ok_or(Malformed)?).map_err(|_| Malformed)?;
    let length = end + 1;
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return Ok(Parsed::Header(length, None));
    }
    let mut words = text.split(' ');
    let family = words.next().ok_or(Malformed)?;
    let mut address = || -> Result<IpAddr, Malformed> {
        let word = words.next().ok_or(Malformed)?;
        match family {
            "TCP4" => word.parse().map(IpAddr::V4).map_err(|_| Malformed),
            "TCP6" => word.parse().map(IpAddr::V6).map_err(|_| Malformed),
            _ => Err(Malformed),
        }
    };
    let (from, to) = (address()?, address()?);
    let mut port = || words.next().and_then(port).ok_or(Malformed);
    let (from_port, to_port) = (port()?, port()?);
    if words.next().is_some() {
        return Err(Malformed);
    }
    let route = Route { from: SocketAddr::new(from, from_port), to: SocketAddr::new(to, to_port) };
    Ok(Parsed::Header(length, Some(route)))
}

/// A port without a sign or leading zeros.
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit());
    let port = word.parse().ok().filter(|_| plain);
    port.filter(|_| word == "0" || !word.starts_with('0'))
}

/// §2.2: binary.
fn parse_v2(read: &[u8]) -> Result<Parsed, Malformed> {
    let Some([command, family, high, low]) = read.get(12..FIXED) else { return Err(Malformed) };
    let length = FIXED + usize::from(u16::from_be_bytes([*high, *low]));
    if command >> 4 != 2 || length > MOST {
        return Err(Malformed);
    }
    let addresses = |most: usize| read.get(FIXED..length.min(most));
    // What is wrong with the fixed part is told before the rest is waited for.
    let local = match command & 0xf {
        0 => true,
        1 => false,
        _ => return Err(Malformed),
    };
    let (transport, size) = match (family >> 4, family & 0xf) {
        _ if local => (None, 0),
        (0, 0..=2) => (None, 0),
        (1, kind @ 0..=2) => (Some(kind), 12),
        (2, kind @ 0..=2) => (Some(kind), 36),
        (3, kind @ 0..=2) => (Some(kind), 216),
        _ => return Err(Malformed),
    };
    if length < FIXED + size {
        return Err(Malformed);
    }
    if read.len() < length {
        return Ok(Parsed::Needs(length));
    }
    // Streams of TCP alone: a Unix socket has no address, and nothing else gets here.
    if transport != Some(1) {
        return Ok(Parsed::Header(length, None));
    }
    let route = match size {
        12 => route_of::<4, _>(addresses(FIXED + 12), Ipv4Addr::from),
        36 => route_of::<16, _>(addresses(FIXED + 36), Ipv6Addr::from),
        _ => None,
    };
    Ok(Parsed::Header(length, route))
}

/// Two addresses of `N` bytes and two ports.
fn route_of<const N: usize, A: Into<IpAddr>>(
    bytes: Option<&[u8]>,
    address: impl Fn([u8; N]) -> A,
) -> Option<Route> {
    let (from, rest) = bytes?.split_first_chunk::<N>()?;
    let (to, rest) = rest.split_first_chunk::<N>()?;
    let (from_port, rest) = rest.split_first_chunk::<2>()?;
    let (to_port, _) = rest.split_first_chunk::<2>()?;
    let socket = |bytes: [u8; N], port: [u8; 2]| {
        SocketAddr::new(address(bytes).into(), u16::from_be_bytes(port))
    };
    Some(Route { from: socket(*from, *from_port), to: socket(*to, *to_port) })
}

/// Takes the header off the beginning of a connection. Not cancel-safe.
///
/// # Errors
/// If there is none, or if reading fails.
pub async fn read(tcp: &mut TcpStream) -> io::Result<Option<Route>> {
    let mut header = Vec::with_capacity(128);
    let mut wanted = LEAST;
    loop {
        let known = header.len();
        header.resize(wanted, 0);
        let rest = header.get_mut(known..).unwrap_or_default();
        tcp.read_exact(rest).await?;
        match parse(&header)? {
            Parsed::Header(_, route) => return Ok(route),
            Parsed::Needs(more) => wanted = more,
        }
        // A line of text says nothing of its length: take what is there of it, and no more.
        if header.starts_with(WORD) {
            wanted =
                header.len() + until_line_end(tcp, MOST_V1 - header.len().min(MOST_V1)).await?;
        }
    }
}

/// How many of the bytes that are there belong to the line: at least one.
async fn until_line_end(tcp: &TcpStream, most: usize) -> io::Result<usize> {
    let mut there = [0; MOST_V1];
    let room = there.get_mut(..most.max(1)).unwrap_or_default();
    let count = tcp.peek(room).await?;
    let seen = room.get(..count).unwrap_or_default();
    let end = seen.iter().position(|byte| *byte == b'\n').map_or(count, |at| at + 1);
    Ok(end.max(1))
}

#[cfg(test)]
mod tests;

use std::time::Duration;

use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;
use crate::config::model::ProxyVersion;
use crate::upstream::proxy_protocol::{Told, header};

fn told(from: &str, to: &str) -> Option<Told> {
    Some(Told { from: from.parse().unwrap(), to: to.parse().unwrap() })
}

fn headers() -> Vec<(Vec<u8>, Option<Told>)> {
    let routes = [
        told("192.0.2.7:50000", "198.51.100.1:443"),
        told("[2001:db8::1]:1", "[2001:db8::2]:65535"),
        told("255.255.255.255:0", "0.0.0.0:0"),
        None,
    ];
    let both = [ProxyVersion::V1, ProxyVersion::V2];
    both.iter().flat_map(|version| routes.map(|told| (header(*version, told), told))).collect()
}

fn v2(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend_from_slice(&[command, family]);
    bytes.extend_from_slice(&u16::try_from(content.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(content);
    bytes
}

#[test]
fn what_we_would_send_is_understood_whatever_follows_it() {
    for (bytes, told) in headers() {
        let route = told.map(|told| Route { from: told.from, to: told.to });
        for more in [&b""[..], b"GET / HTTP/1.1\r\n", b"\n", b"\x16\x03\x01"] {
            let read = [&bytes, more].concat();
            assert_eq!(parse(&read), Ok(Parsed::Header(bytes.len(), route)));
        }
    }
}

#[test]
fn every_beginning_of_a_header_needs_more_and_not_more_than_there_is() {
    for (bytes, _) in headers() {
        for end in 0..bytes.len() {
            let needed = match parse(&bytes[..end]) {
                Ok(Parsed::Needs(needed)) => needed,
                other => panic!("{end} of {bytes:?}: {other:?}"),
            };
            assert!(end < needed && needed <= bytes.len(), "{end} < {needed} <= {}", bytes.len());
        }
    }
}

#[test]
fn extensions_are_skipped_and_the_long_line_of_an_unknown_proxy_too() {
    let content = [&[192, 0, 2, 7, 192, 0, 2, 8, 0, 1, 0, 2][..], &[0x20, 0, 3, 1, 2, 3]].concat();
    let bytes = v2(0x21, 0x11, &content);
    let route = Route { from: "192.0.2.7:1".parse().unwrap(), to: "192.0.2.8:2".parse().unwrap() };
    assert_eq!(parse(&bytes), Ok(Parsed::Header(bytes.len(), Some(route))));
    let line = format!("PROXY UNKNOWN {}\r\n", "f".repeat(107 - 16));
    assert_eq!(line.len(), 107);
    assert_eq!(parse(line.as_bytes()), Ok(Parsed::Header(107, None)));
}

#[test]
fn whoever_speaks_for_itself_or_for_no_tcp_stream_names_nobody() {
    for bytes in [
        v2(0x20, 0x00, b""),
        // §2.2: whatever a LOCAL header holds is skipped.
        v2(0x20, 0x11, &[1, 2, 3]),
        v2(0x20, 0xff, b""),
        v2(0x21, 0x00, b"anything"),
        v2(0x21, 0x12, &[0; 12]),
        v2(0x21, 0x31, &[0; 216]),
    ] {
        assert_eq!(parse(&bytes), Ok(Parsed::Header(bytes.len(), None)), "{bytes:?}");
    }
}

#[test]
fn anything_else_is_refused() {
    let texts: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\n",
        b"PROXX ",
        b"\x16\x03\x01\x02",
        b"PROXY\r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        b"PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
        b"PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY \xff\xfe\r\n",
    ];
    for text in texts {
        assert_eq!(parse(text), Err(Malformed), "{}", text.escape_ascii());
    }
    assert_eq!(parse(&[WORD, &[b'a'; 101]].concat()), Err(Malformed), "a line without an end");
    for bytes in [
        v2(0x11, 0x11, &[0; 12]),
        v2(0x22, 0x11, &[0; 12]),
        v2(0x21, 0x41, &[0; 12]),
        v2(0x21, 0x13, &[0; 12]),
        v2(0x21, 0x11, &[0; 11]),
        v2(0x21, 0x21, &[0; 35]),
        v2(0x21, 0x11, &vec![0; MOST]),
    ] {
        assert_eq!(parse(&bytes), Err(Malformed), "{:?}", &bytes[12..16]);
        // And it is known from the fixed part.
        assert_eq!(parse(&bytes[..FIXED]), Err(Malformed));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_ask_for_too_much(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        which in 0_usize..8, at in 0_usize..300, cut in 0_usize..300,
    ) {
        let mut mutated = headers()[which].0.clone();
        let place = at % mutated.len();
        mutated.splice(place..(place + cut % 4).min(mutated.len()), bytes.iter().copied());
        for read in [&*bytes, &*mutated, &[&SIGNATURE, &*bytes].concat(), &[WORD, &*bytes].concat()] {
            for end in [read.len(), cut.min(read.len())] {
                match parse(&read[..end]) {
                    Ok(Parsed::Needs(more)) => prop_assert!(more > end && more <= MOST),
                    Ok(Parsed::Header(length, _)) => prop_assert!(length <= end && length <= MOST),
                    Err(Malformed) => {}
                }
            }
        }
    }

    #[test]
    fn every_changed_byte_is_refused_or_is_another_header(
        which in 0_usize..8, at in 0_usize..300, byte: u8,
    ) {
        let mut bytes = headers()[which].0.clone();
        let place = at % bytes.len();
        bytes[place] = byte;
        if let Ok(Parsed::Header(length, _)) = parse(&bytes) {
            prop_assert!(length <= bytes.len());
        }
    }
}

/// What a connection that begins with these pieces is for, and what is left to read of it.
async fn connection(pieces: &[&[u8]]) -> (io::Result<Option<Route>>, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.set_nodelay(true).unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    let mut tcp = crate::net::TcpStream::Kernel(tcp);
    let write = async {
        for piece in pieces {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        client.shutdown().await.unwrap();
    };
    let limited = tokio::time::timeout(Duration::from_secs(20), read(&mut tcp));
    let (read, ()) = tokio::join!(limited, write);
    let mut rest = Vec::new();
    let read = read.unwrap();
    if read.is_ok() {
        tcp.read_to_end(&mut rest).await.unwrap();
    }
    (read, rest)
}

#[tokio::test]
async fn nothing_behind_the_header_is_taken_wherever_it_is_cut() {
    let after = b"GET / HTTP/1.1\r\n\r\n";
    for (bytes, told) in headers() {
        let route = told.map(|told| Route { from: told.from, to: told.to });
        let whole = [&bytes, &after[..]].concat();
        for cut in (1..whole.len()).step_by(5) {
            let (head, tail) = whole.split_at(cut);
            let (found, rest) = connection(&[head, tail]).await;
            assert_eq!((found.unwrap(), &*rest), (route, &after[..]));
        }
    }
}

#[tokio::test]
async fn what_ends_or_is_wrong_is_an_error() {
    let kind = |read: io::Result<Option<Route>>| read.unwrap_err().kind();
    assert_eq!(kind(connection(&[b"PROXY TCP4 1"]).await.0), io::ErrorKind::UnexpectedEof);
    assert_eq!(kind(connection(&[b"GET / HTTP/1.1\r\n"]).await.0), io::ErrorKind::InvalidData);
    assert_eq!(kind(connection(&[]).await.0), io::ErrorKind::UnexpectedEof);
}

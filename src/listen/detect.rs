//! HTTP/1.1 or HTTP/2 with prior knowledge, by the first bytes (RFC 9113 §3.3, §3.4).

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::buffers;

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.1 or older, or something that the HTTP/1.1 server will refuse.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Reads until it is clear what the client speaks; gives what was read. `None`: the client left
/// without a byte. Not cancel-safe: what was read is lost with the future.
///
/// # Errors
/// If reading fails.
pub async fn detect<R: AsyncRead + Unpin>(
    io: &mut R,
) -> std::io::Result<Option<(Spoken, BytesMut)>> {
    let mut read = buffers::take();
    loop {
        let ended = io.read_buf(&mut read).await? == 0;
        if ended && read.is_empty() {
            return Ok(None);
        }
        let known = read.len().min(PREFACE.len());
        if read.get(..known) != PREFACE.get(..known) || ended {
            return Ok(Some((Spoken::Http1, read)));
        }
        if known == PREFACE.len() {
            return Ok(Some((Spoken::Http2, read)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(pieces: &[&[u8]]) -> Option<(Spoken, usize)> {
        let mut io = tokio_test::io::Builder::new();
        for piece in pieces {
            io.read(piece);
        }
        let found = detect(&mut io.build()).await.unwrap();
        found.map(|(spoken, read)| (spoken, read.len()))
    }

    #[tokio::test]
    async fn the_preface_split_at_every_byte_is_http_2() {
        for cut in 1..PREFACE.len() {
            let (head, tail) = PREFACE.split_at(cut);
            assert_eq!(run(&[head, tail]).await, Some((Spoken::Http2, PREFACE.len())));
        }
    }

    #[tokio::test]
    async fn everything_else_is_left_to_http_1() {
        assert_eq!(run(&[b"GET / HTTP/1.1\r\n"]).await, Some((Spoken::Http1, 16)));
        assert_eq!(run(&[b"PRI", b" /x"]).await, Some((Spoken::Http1, 6)));
        assert_eq!(run(&[b"PR"]).await, Some((Spoken::Http1, 2)));
        assert_eq!(run(&[]).await, None);
    }
}

//! The gRPC health protocol, version 1: one call of `grpc.health.v1.Health/Check`.
//!
//! Its request is a message of one text and its response one of one number, so that both are
//! written and read by hand here. An endpoint is well if the call ends with status 0 and the answer
//! is SERVING; a service that the app does not know (NOT_FOUND) is not.

use std::future::poll_fn;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};

use super::{Content, MOST, Unwell};
use crate::failure::{Failure, Kind, Phase};
use crate::upstream::Shared;
use crate::upstream::connect::Target;
use crate::upstream::exchange::{Exchange, Piece};
use crate::upstream::stream::Stream;
use crate::upstream::tls;

const PATH: &str = "/grpc.health.v1.Health/Check";
const SERVING: u64 = 1;

/// Asks on this connection, which speaks HTTP/2 whatever the upstream's settings say: there is no
/// gRPC without.
pub async fn ask(
    shared: &Shared,
    target: &Target,
    stream: Stream,
    service: &str,
) -> Result<(), Unwell> {
    if stream.alpn_agreed_on(tls::HTTP_2) == Some(false) {
        let failure = Failure::new(Kind::TlsProtocolError, Phase::Tls);
        return Err(failure.with_source("the endpoint did not agree on h2 by ALPN").into());
    }
    let head = http::Request::post(super::uri(target, PATH))
        .header(CONTENT_TYPE, "application/grpc")
        .header("te", "trailers");
    let content = Content::new(request(service));
    let mut exchange = super::over_http2(shared, stream, head, content).await?;
    let head = super::final_head(&mut exchange).await?;
    if head.status != StatusCode::OK {
        return Err(Unwell::Status(head.status.as_u16()));
    }
    let (content, trailers) = whole(&mut exchange).await?;
    // A call that fails at once has its status in the head.
    let fields = head.fields.into_map();
    let status = [&trailers, &fields].into_iter().find_map(|fields| fields.get("grpc-status"));
    match status.map(|status| status.as_bytes()) {
        Some(b"0") => {}
        status => {
            let text = status.map(|status| String::from_utf8_lossy(status).into_owned());
            return Err(Unwell::GrpcStatus(text));
        }
    }
    match serving_status(&content) {
        Some(SERVING) => Ok(()),
        Some(other) => Err(Unwell::NotServing(other)),
        None => Err(Unwell::Content),
    }
}

/// The content, if it is not too long, and the trailers.
async fn whole(exchange: &mut Exchange<Content>) -> Result<(BytesMut, HeaderMap), Unwell> {
    let mut content = BytesMut::new();
    loop {
        match poll_fn(|cx| exchange.poll_content(cx)).await.transpose()? {
            Some(Piece::Data(data)) => content.extend_from_slice(&data),
            Some(Piece::Trailers(trailers)) => return Ok((content, trailers)),
            None => return Ok((content, HeaderMap::new())),
        }
        if content.len() > MOST {
            return Err(Unwell::Content);
        }
    }
}

/// `HealthCheckRequest { service }`, as a message of gRPC: not compressed, its length, itself.
fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        // Field 1, of a length.
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8(low_bits(length) | 0x80);
            length >>= 7;
        }
        message.put_u8(low_bits(length));
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(&message);
    framed.freeze()
}

fn low_bits(number: usize) -> u8 {
    u8::try_from(number & 0x7f).unwrap_or_default()
}

/// The status in a `HealthCheckResponse`; 0 (UNKNOWN) is what a message without one says. `None`
/// if this is no such message.
fn serving_status(framed: &[u8]) -> Option<u64> {
    let (&[compressed, a, b, c, d], message) = framed.split_first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    if compressed != 0 || message.len() != length {
        return None;
    }
    let mut rest = message;
    let mut status = 0;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        // The wire types of Protocol Buffers; what is not known is skipped.
        match tag & 7 {
            0 => {
                let value = varint(&mut rest)?;
                if tag >> 3 == 1 {
                    status = value;
                }
            }
            1 => rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// A number in groups of seven bits, the lowest first.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, left) = rest.split_first()?;
        *rest = left;
        number |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_names_its_service() {
        assert_eq!(&*request(""), b"\0\0\0\0\0");
        assert_eq!(&*request("a.B"), b"\0\0\0\0\x05\x0a\x03a.B");
        let long = request(&"x".repeat(300));
        assert_eq!(long[..8], *b"\0\0\0\x01\x2f\x0a\xac\x02");
        assert_eq!(long.len(), 5 + 3 + 300);
    }

    #[test]
    fn a_status_is_read_whatever_is_beside_it() {
        for (message, expected) in [
            (&b"\0\0\0\0\0"[..], Some(0)),
            (b"\0\0\0\0\x02\x08\x01", Some(1)),
            (b"\0\0\0\0\x02\x08\x02", Some(2)),
            // Fields that a later version may add: text, a number, fixed sizes.
            (b"\0\0\0\0\x06\x12\x02hi\x08\x01", Some(1)),
            (b"\0\0\0\0\x05\x18\x96\x01\x08\x01", Some(1)),
            (b"\0\0\0\0\x07\x25abcd\x08\x01", Some(1)),
            (b"\0\0\0\0\x0b\x21abcdefgh\x08\x01", Some(1)),
            // The last one counts.
            (b"\0\0\0\0\x04\x08\x01\x08\x02", Some(2)),
            (b"\x01\0\0\0\x02\x08\x01", None),
            (b"\0\0\0\0\x03\x08\x01", None),
            (b"\0\0\0\0\x01\x08\x01", None),
            (b"\0\0\0\0\x01\x08", None),
            (b"\0\0\0\0\x03\x12\x05h", None),
            (b"\0\0\0\0\x01\x0b", None),
            (b"\0\0\0\0\x0c\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\0\0\0", None),
            (b"", None),
        ] {
            assert_eq!(serving_status(message), expected, "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = serving_status(&bytes);
        }
    }
}

//! Request heads (RFC 9112 §2, §3).
//!
//! A head that two readers could understand differently is refused, because whoever stands before
//! us may have understood it in the other way: bare line feeds, obsolete folding, more than one
//! length, a length beside Transfer-Encoding. What else is wrong with a request, and does not put
//! in doubt where it ends, is told by `forward`, in an answer of more words.

use std::rc::Rc;

use bytes::{Buf, Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{Method, Uri, Version};

use crate::failure::ClientFailure;
use crate::forward::head::{Fields, Head, Known};
use crate::forward::request::asks_for_continue;
use crate::upstream::exchange::Framing;
use crate::upstream::http1::head::parse_length;
use crate::upstream::http1::lines;
use crate::upstream::http1::{MessageError, MessageLimits};

/// Reads request heads.
pub type Reader = lines::Reader<Known>;

/// The longest target that [`Uri`] can hold.
const LONGEST_TARGET: usize = 65_534;

/// The longest method that is looked for in bytes that may be something else than HTTP.
const LONGEST_METHOD: usize = 24;

/// A request, as far as its head tells.
#[derive(Debug)]
pub struct Request {
    /// The head.
    pub head: Rc<Head>,
    /// How the content is delimited.
    pub framing: Framing,
    /// Whether the connection may carry another request (RFC 9112 §9.3).
    pub keep_alive: bool,
    /// The content waits for a 100 (RFC 9110 §10.1.1).
    pub expects_continue: bool,
}

/// Takes a head off the front of `buf`; `None` if more is needed.
///
/// # Errors
/// What is wrong with it. Nothing behind it can be trusted then.
pub fn take(
    reader: &mut Reader,
    buf: &mut BytesMut,
    limits: &MessageLimits,
) -> Result<Option<Request>, ClientFailure> {
    // Empty lines before a request are skipped (RFC 9112 §2.2).
    while reader.is_in_first_line() && buf.starts_with(b"\r\n") {
        buf.advance(2);
        reader.restart();
    }
    if buf.is_empty() {
        return Ok(None);
    }
    let in_first_line = reader.is_in_first_line();
    let length = match reader.read(buf, limits, Known::of) {
        Ok(Some(length)) => length,
        Ok(None) if in_first_line && !may_begin_request(buf) => {
            // What is not HTTP is told at once, not after a time limit.
            return Err(ClientFailure::BadRequest);
        }
        Ok(None) => return Ok(None),
        Err(error) => return Err(refused(error, reader)),
    };
    // Shared, not copied: the request's parts are slices of it, and are gone before the next one.
    assemble(buf.split_to(length).freeze(), reader).map(Some)
}

/// Whether these bytes may be the beginning of a method and a space (RFC 9112 §3).
fn may_begin_request(bytes: &[u8]) -> bool {
    if bytes == b"\r" {
        return true;
    }
    let start = bytes.get(..LONGEST_METHOD).unwrap_or(bytes);
    let method = start.split(|byte| *byte == b' ').next().unwrap_or_default();
    let is_whole = method.len() < start.len();
    let is_plausible =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    method.iter().all(is_plausible) && (!is_whole || !method.is_empty())
}

fn refused(error: MessageError, reader: &Reader) -> ClientFailure {
    match error {
        MessageError::HeadTooLarge | MessageError::FieldTooLarge if reader.is_in_first_line() => {
            ClientFailure::UriTooLong
        }
        MessageError::HeadTooLarge | MessageError::FieldTooLarge | MessageError::TooManyFields => {
            ClientFailure::FieldsTooLarge
        }
        _ => ClientFailure::BadRequest,
    }
}

/// The fields that say where the request ends and what follows it.
#[derive(Default)]
struct Hop {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
}

fn assemble(bytes: Bytes, reader: &mut Reader) -> Result<Request, ClientFailure> {
    const BAD: ClientFailure = ClientFailure::BadRequest;
    let line = reader.first(&bytes);
    let method = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    let rest = line.get(method.len() + 1..).unwrap_or_default();
    let (target, version) = rest.split_at_checked(lines::target(rest)).ok_or(BAD)?;
    let version = match version {
        b" HTTP/1.1" => Version::HTTP_11,
        b" HTTP/1.0" => Version::HTTP_10,
        _ => return Err(BAD),
    };
    if target.len() > LONGEST_TARGET {
        return Err(ClientFailure::UriTooLong);
    }
    let method = Method::from_bytes(method).map_err(|_| BAD)?;
    // No target has a fragment (RFC 9110 §4.2.5); `Uri` would cut it off.
    if memchr::memchr(b'#', target).is_some() {
        return Err(BAD);
    }
    let mut uri = Uri::from_maybe_shared(bytes.slice_ref(target)).map_err(|_| BAD)?;
    if method == Method::OPTIONS && is_bare_authority(target) {
        uri = asterisk(uri).ok_or(BAD)?;
    }
    let mut hop = Hop::default();
    for line in reader.lines() {
        if let Some(known) = line.known {
            hop.note(known, line.value(&bytes))?;
        }
    }
    let fields = Fields::lines(bytes, reader.take());
    let head = Head { method, uri, version, fields, extended: None };
    let framing = match (hop.chunked, hop.length) {
        // RFC 9112 §6.1: either is a try to smuggle, or would be read by an old proxy as one.
        (true, Some(_)) => return Err(BAD),
        (true, None) if version == Version::HTTP_10 => return Err(BAD),
        (true, None) => Framing::Chunked,
        (false, None | Some(0)) => Framing::Empty,
        (false, Some(length)) => Framing::Length(length),
    };
    Ok(Request {
        head: Rc::new(head),
        framing,
        keep_alive: !hop.close && (version == Version::HTTP_11 || hop.keep_alive),
        expects_continue: hop.expects_continue
            && version == Version::HTTP_11
            && framing != Framing::Empty,
    })
}

/// Returns `true` for an absolute-form target without path and query.
fn is_bare_authority(target: &[u8]) -> bool {
    let behind_scheme = memchr::memmem::find(target, b"://").map(|at| at + b"://".len());
    let rest = behind_scheme.and_then(|at| target.get(at..));
    rest.is_some_and(|rest| memchr::memchr2(b'/', b'?', rest).is_none())
}

/// The target of an OPTIONS that asks a server as a whole: `*` (RFC 9112 §3.2.4).
fn asterisk(uri: Uri) -> Option<Uri> {
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static("*"));
    Uri::from_parts(parts).ok()
}

impl Hop {
    fn note(&mut self, field: Known, value: &[u8]) -> Result<(), ClientFailure> {
        match field {
            Known::Expect => {
                self.expects_continue |= asks_for_continue(value);
            }
            Known::Connection => {
                for option in value.split(|byte| *byte == b',') {
                    let option = option.trim_ascii();
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            Known::ContentLength => {
                let length = parse_length(value).map_err(|_| ClientFailure::BadRequest)?;
                if self.length.replace(length).is_some_and(|known| known != length) {
                    return Err(ClientFailure::BadRequest);
                }
            }
            Known::TransferEncoding => {
                // Any other coding, and a list of them, is read in more than one way (RFC 9112 §6.1).
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(ClientFailure::BadRequest);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: MessageLimits = MessageLimits {
        head_bytes: 300,
        field_bytes: 300,
        fields: 5,
        trailer_bytes: 100,
        body_bytes: None,
    };

    /// What comes of these bytes, in whatever pieces they come.
    fn read(bytes: &[u8]) -> Result<Option<Request>, ClientFailure> {
        let mut buf = BytesMut::from(bytes);
        let whole = take(&mut Reader::default(), &mut buf, &LIMITS);
        for cut in 1..bytes.len() {
            let mut buf = BytesMut::from(&bytes[..cut]);
            let mut reader = Reader::default();
            let pieces = take(&mut reader, &mut buf, &LIMITS).and_then(|head| match head {
                None => {
                    buf.extend_from_slice(&bytes[cut..]);
                    take(&mut reader, &mut buf, &LIMITS)
                }
                head => Ok(head),
            });
            match (&pieces, &whole) {
                (Ok(pieces), Ok(whole)) => assert_eq!(pieces.is_some(), whole.is_some(), "{cut}"),
                (Err(pieces), Err(whole)) => assert_eq!(pieces, whole, "{cut}"),
                _ => panic!("{pieces:?} and {whole:?}, cut at {cut}"),
            }
        }
        whole
    }

    fn head(text: &str) -> Request {
        read(text.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn framing_and_keep_alive_follow_rfc_9112() {
        use Framing::*;
        for (text, framing, keep_alive) in [
            ("GET / HTTP/1.1\r\n\r\n", Empty, true),
            ("\r\n\r\nGET / HTTP/1.1\r\n\r\n", Empty, true),
            ("GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n", Empty, false),
            ("GET / HTTP/1.0\r\n\r\n", Empty, false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", Empty, true),
            ("PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", Length(5), true),
            ("PUT / HTTP/1.1\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\n", Length(5), true),
            ("PUT / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", Empty, true),
            ("PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n", Chunked, true),
        ] {
            let head = head(text);
            assert_eq!((head.framing, head.keep_alive), (framing, keep_alive), "{text:?}");
        }
    }

    #[test]
    fn a_100_is_awaited_whatever_else_is_expected() {
        for (fields, expected) in [
            ("Expect: 100-continue", true),
            ("Expect: x\r\nExpect: 100-Continue", true),
            ("Expect: 100-continue\r\nExpect: x", true),
            ("Expect: x=\"y\", 100-continue,", true),
            ("Expect: x", false),
            ("Expect: 100-continue2", false),
            ("Expect:", false),
        ] {
            let text = format!("PUT / HTTP/1.1\r\n{fields}\r\nContent-Length: 5\r\n\r\n");
            let request = head(&text);
            assert_eq!(request.expects_continue, expected, "{fields}");
            let forwarded = crate::forward::request::expects_continue(&request.head);
            assert_eq!(forwarded, expected, "{fields}: both sides read the same");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for text in [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "\nGET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\nA : b\r\n\r\n",
            "PUT / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "PUT / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n",
            "PUT / HTTP/1.1\r\nContent-Length: +5\r\n\r\n",
            "PUT / HTTP/1.1\r\nContent-Length:\r\n\r\n",
            "PUT / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
            "PUT / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /a b HTTP/1.1\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\0\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
        ] {
            assert_eq!(read(text.as_bytes()).err(), Some(ClientFailure::BadRequest), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_http_is_told_before_its_line_ends() {
        for bytes in [&b"\x16\x03\x01\x02\x00\x01"[..], b" GET /", b"GE\"T", b"(", b"\r\r"] {
            assert_eq!(read(bytes).err(), Some(ClientFailure::BadRequest), "{bytes:?}");
        }
        for bytes in [&b"GE"[..], b"GET", b"GET ", b"M-SEARCH * HT", b"\r", b"\r\n\r\nGET / H"] {
            assert!(read(bytes).unwrap().is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_too_large_is_told_by_its_part() {
        let line = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(300));
        let field = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(300));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(6));
        assert_eq!(read(line.as_bytes()).err(), Some(ClientFailure::UriTooLong));
        assert_eq!(read(field.as_bytes()).err(), Some(ClientFailure::FieldsTooLarge));
        assert_eq!(read(many.as_bytes()).err(), Some(ClientFailure::FieldsTooLarge));
    }

    #[test]
    fn what_follows_the_head_stays() {
        let mut buf = BytesMut::from(
            &b"PUT /x?y HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\nabGET"[..],
        );
        let head = take(&mut Reader::default(), &mut buf, &LIMITS).unwrap().unwrap();
        assert_eq!((head.head.uri.path(), head.head.uri.query()), ("/x", Some("y")));
        assert!(head.expects_continue);
        assert_eq!(&buf[..], b"abGET");
    }
}

//! Response heads: read in one pass, split into what is for the client and what was for this hop only.
//!
//! Before: `exchange` reads bytes. After: `content` takes the [`Framing`]. A head that two readers
//! could understand differently is refused (RFC 9112 §2.2, §5, §6.3): what [`lines`]
//! refuses, and conflicting lengths.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, StatusCode, Version};

use super::lines::{self, Line};
use super::{Malformed, MessageError, MessageLimits};
use crate::message::listed::Listed;
use crate::upstream::exchange::{Asked, Framing, ResponseHead};
use crate::upstream::fields::{Fields, Known, Lines};

/// Reads response heads.
pub type Reader = lines::Reader<Known>;

/// The length of the complete response head at the start of `buf`, or `None` if more is needed.
///
/// # Errors
/// What can already be said to be wrong with the bytes so far.
pub fn read(
    reader: &mut Reader,
    buf: &[u8],
    limits: &MessageLimits,
) -> Result<Option<usize>, MessageError> {
    if reader.is_in_first_line() {
        // Garbage shall be told at once, not after a timeout.
        let known = buf.len().min(VERSION.len());
        if buf.get(..known) != VERSION.get(..known) {
            return Err(MessageError::NotHttp);
        }
    }
    reader.read(buf, limits, Known::of)
}

const VERSION: &[u8] = b"HTTP/1.";

/// What is copied instead of shared. A copy leaves the read buffer to its connection, which needs no
/// other one for the next response; a share would be a reference into 8 KiB.
const COPIED: usize = 2 * 1024;

/// Takes `length` bytes off the front.
#[must_use]
pub fn cut(buf: &mut BytesMut, length: usize) -> Bytes {
    match buf.get(..length) {
        Some(small) if length <= COPIED => {
            let copy = Bytes::copy_from_slice(small);
            buf.advance(length);
            copy
        }
        _ => buf.split_to(length).freeze(),
    }
}

/// Takes a complete head of `length` bytes off the front of `buf`, which `reader` has read.
///
/// # Errors
/// If the head is malformed or ambiguous.
pub fn take(
    buf: &mut BytesMut,
    length: usize,
    reader: &Reader,
    asked: Asked,
) -> Result<ResponseHead, MessageError> {
    if asked.lines {
        // What passes is copied line by line: nothing keeps the buffer.
        let head = assemble(None, buf.get(..length).unwrap_or_default(), reader, asked);
        buf.advance(length);
        return head;
    }
    let bytes = cut(buf, length);
    assemble(Some(&bytes), &bytes, reader, asked)
}

/// The minor version and the status of a status line (RFC 9112 §4).
fn status_line(line: &[u8]) -> Result<(u8, StatusCode), MessageError> {
    let (minor, code) = match line.strip_prefix(VERSION) {
        Some([minor @ (b'0' | b'1'), b' ', code @ ..]) => (minor - b'0', code),
        _ => return Err(MessageError::Malformed(Malformed::FirstLine)),
    };
    let malformed = MessageError::Malformed(Malformed::Status);
    let (code, rest) = code.split_at_checked(3).ok_or(malformed)?;
    // The space behind it belongs to it, and some leave it out with the reason.
    if !matches!(rest.first(), None | Some(b' ')) {
        return Err(malformed);
    }
    Ok((minor, StatusCode::from_bytes(code).map_err(|_| malformed)?))
}

/// The fields that speak to this hop only, as they are collected.
#[derive(Default)]
struct Hop<'b> {
    length: Option<u64>,
    /// The length as it was written, if that is the normal form.
    length_text: Option<&'b [u8]>,
    transfer_encoding: Option<bool>,
    close: bool,
    keep_alive: bool,
    listed: Vec<HeaderName>,
    /// A 101 may come, and its Connection and Upgrade lines are kept.
    upgradable: bool,
    connection: Vec<HeaderValue>,
    upgrade: Vec<HeaderValue>,
}

/// `shared` is what field values may share: those of a map. Without it the fields become lines.
fn assemble(
    shared: Option<&Bytes>,
    bytes: &[u8],
    reader: &Reader,
    asked: Asked,
) -> Result<ResponseHead, MessageError> {
    let (minor, status) = status_line(reader.first(bytes))?;
    let http_1_0 = minor == 0;
    let mut hop = Hop { upgradable: asked.upgrade, ..Hop::default() };
    let mut fields = match shared {
        None => {
            let mut lines = Lines::new(status, bytes.len() + OURS_AS_LINES);
            lines.pass(bytes, reader.lines(), |line| hop.note(line, bytes))?;
            Fields::Lines(lines)
        }
        Some(_) => {
            // Most heads fit in the smallest map but one, if it is not asked for more than is needed.
            let is_theirs = |line: &&Line<Known>| !line.known.is_some_and(Known::stays_behind);
            let theirs = reader.lines().iter().filter(is_theirs).count();
            let mut fields = Fields::from(HeaderMap::with_capacity(theirs + OURS));
            for line in reader.lines() {
                if !hop.note(line, bytes)? {
                    push(&mut fields, shared, line.name(bytes), line.value(bytes))?;
                }
            }
            fields
        }
    };
    let listed = Listed::new(std::mem::take(&mut hop.listed));
    if !listed.is_empty() {
        fields.remove_listed(&listed);
    }
    if asked.upgrade && status == StatusCode::SWITCHING_PROTOCOLS {
        for value in &hop.connection {
            fields.append(&CONNECTION, value);
        }
        for value in &hop.upgrade {
            fields.append(&UPGRADE, value);
        }
    }
    let framing = hop.framing(status, http_1_0, asked)?;
    // RFC 9110 §8.6: not in a 1xx or 204; in answers to HEAD and in a 304 it describes what a GET
    // would have got.
    if let Some(length) = hop.length
        && !status.is_informational()
        && status != StatusCode::NO_CONTENT
        // What has content is framed again.
        && (!asked.lines || asked.head || status == StatusCode::NOT_MODIFIED)
    {
        match hop.length_text {
            Some(text) => push(&mut fields, shared, CONTENT_LENGTH.as_str().as_bytes(), text)?,
            None => fields.append(&CONTENT_LENGTH, &HeaderValue::from(length)),
        }
    }
    let keep_alive = !hop.close
        && (!http_1_0 || hop.keep_alive)
        && framing != Framing::Close
        && !hop.announces_what_may_not_come(status);
    let version = if http_1_0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let listed = (!listed.is_empty()).then(|| Box::new(listed));
    Ok(ResponseHead { status, version, fields, listed, framing, keep_alive })
}

/// Via and X-Request-Id will be added to the fields, and hyper makes room for Date and Content-Length.
const OURS: usize = 4;
/// The same as lines, with what frames the content, and small content itself: all leave in one write.
const OURS_AS_LINES: usize = 512;

fn push(
    fields: &mut Fields,
    shared: Option<&Bytes>,
    name: &[u8],
    value: &[u8],
) -> Result<(), MessageError> {
    match fields {
        Fields::Lines(lines) => lines.push(name, value),
        Fields::Map(map) => {
            let name = HeaderName::from_bytes(name)
                .map_err(|_| MessageError::Malformed(Malformed::Name))?;
            let value = match shared {
                Some(bytes) => value_of(bytes, value)?,
                None => HeaderValue::from_bytes(value)
                    .map_err(|_| MessageError::Malformed(Malformed::Value))?,
            };
            map.append(name, value);
        }
    }
    Ok(())
}

/// A field value that shares the head's buffer.
///
/// # Errors
/// If it is no field value (RFC 9110 §5.5).
pub fn value_of(bytes: &Bytes, value: &[u8]) -> Result<HeaderValue, MessageError> {
    let shared = if value.is_empty() { Bytes::new() } else { bytes.slice_ref(value) };
    HeaderValue::from_maybe_shared(shared).map_err(|_| MessageError::Malformed(Malformed::Value))
}

impl<'b> Hop<'b> {
    /// Notes what concerns this hop, and says whether this line does.
    fn note(&mut self, line: &Line<Known>, head: &'b [u8]) -> Result<bool, MessageError> {
        let Some(known) = line.known.filter(|known| known.stays_behind()) else {
            return Ok(false);
        };
        let value = line.value(head);
        match known {
            Known::ContentLength => {
                if let Ok(length) = parse_length(value) {
                    self.note_length(length)?;
                    self.length_text = Some(value);
                    return Ok(true);
                }
                // A list of equal values may come from a recipient that joined field lines
                // (RFC 9110 §8.6): the one value is meant. Anything else is a conflict.
                for part in value.split(|byte| *byte == b',') {
                    self.note_length(parse_length(part.trim_ascii())?)?;
                }
                self.length_text = None;
            }
            Known::TransferEncoding => {
                let chunked = value.trim_ascii().eq_ignore_ascii_case(b"chunked");
                // A second line would be a second coding.
                self.transfer_encoding = Some(chunked && self.transfer_encoding.is_none());
            }
            Known::Connection => {
                // What nearly all of them say.
                if value.eq_ignore_ascii_case(b"keep-alive") {
                    self.keep_alive = true;
                } else {
                    let options = value.split(|byte| *byte == b',');
                    options.for_each(|option| self.note_option(option.trim_ascii()));
                }
                if self.upgradable {
                    self.connection.extend(HeaderValue::from_bytes(value));
                }
            }
            Known::Upgrade if self.upgradable => {
                self.upgrade.extend(HeaderValue::from_bytes(value));
            }
            _ => {}
        }
        Ok(true)
    }

    fn note_length(&mut self, length: u64) -> Result<(), MessageError> {
        match self.length.replace(length) {
            Some(known) if known != length => Err(MessageError::ContentLength),
            _ => Ok(()),
        }
    }

    fn note_option(&mut self, option: &[u8]) {
        if option.eq_ignore_ascii_case(b"close") {
            self.close = true;
        } else if option.eq_ignore_ascii_case(b"keep-alive") {
            self.keep_alive = true;
        } else if let Ok(name) = HeaderName::from_bytes(option)
            && name != CONTENT_LENGTH
        {
            self.listed.push(name);
        }
    }

    /// Returns `true` if the head announces content that its status cannot have (RFC 9110 §8.6, RFC
    /// 9112 §6.1): whether it follows nobody knows, and the next response would begin behind it.
    fn announces_what_may_not_come(&self, status: StatusCode) -> bool {
        let has_none = status.is_informational() || status == StatusCode::NO_CONTENT;
        let announced = self.transfer_encoding.is_some() || self.length.is_some_and(|it| it > 0);
        has_none && announced
    }

    /// RFC 9112 §6.3, in its order.
    fn framing(
        &self,
        status: StatusCode,
        http_1_0: bool,
        asked: Asked,
    ) -> Result<Framing, MessageError> {
        match (self.transfer_encoding, self.length) {
            (Some(_), Some(_)) => return Err(MessageError::ConflictingFraming),
            (Some(false), None) => return Err(MessageError::TransferEncoding),
            // RFC 9112 §6.1: faulty framing, since HTTP/1.0 knows no transfer codings.
            (Some(true), None) if http_1_0 => return Err(MessageError::TransferEncoding),
            _ => {}
        }
        let bodiless = asked.head
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        Ok(match (self.transfer_encoding, self.length) {
            _ if bodiless => Framing::Empty,
            (Some(_), _) => Framing::Chunked,
            (None, Some(0)) => Framing::Empty,
            (None, Some(length)) => Framing::Length(length),
            (None, None) => Framing::Close,
        })
    }
}

/// `1*DIGIT` that fits in 63 bits; no sign, no white space, no empty value.
///
/// # Errors
/// If it is anything else.
pub fn parse_length(digits: &[u8]) -> Result<u64, MessageError> {
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(MessageError::ContentLength);
    }
    Ok(digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::UpstreamLimits;

    fn limits() -> MessageLimits {
        let limits =
            UpstreamLimits { head_bytes: 400, field_bytes: 100, fields: 5, ..Default::default() };
        MessageLimits::from(&limits)
    }

    fn read(bytes: &[u8]) -> Result<Option<ResponseHead>, MessageError> {
        read_as(bytes, Asked::default())
    }

    fn read_as(bytes: &[u8], asked: Asked) -> Result<Option<ResponseHead>, MessageError> {
        let mut reader = Reader::default();
        let mut buf = BytesMut::from(bytes);
        let head = super::read(&mut reader, &buf, &limits())?;
        let head = head.map(|length| take(&mut buf, length, &reader, asked)).transpose();
        // Both forms are made of the same lines.
        let mut reader = Reader::default();
        let mut buf = BytesMut::from(bytes);
        let asked = Asked { lines: true, ..asked };
        let lines = super::read(&mut reader, &buf, &limits())?
            .map(|length| take(&mut buf, length, &reader, asked))
            .transpose();
        let facts = |head: &Option<ResponseHead>| {
            head.as_ref().map(|head| (head.status, head.framing, head.keep_alive))
        };
        assert_eq!(head.as_ref().map(facts), lines.as_ref().map(facts));
        head
    }

    #[test]
    fn framing_follows_rfc_9112_section_6_3() {
        use Framing::*;
        let rows: &[(&str, Framing, bool)] = &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Length(5), true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Empty, true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", Length(5), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nContent-Length: 5\r\n\r\n", Length(5), true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Chunked, true),
            ("HTTP/1.1 200 OK\r\n\r\n", Close, false),
            ("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", Empty, false),
            ("HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n", Empty, true),
            ("HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", Empty, false),
            ("HTTP/1.1 103 Early\r\nContent-Length: 5\r\n\r\n", Empty, false),
            ("HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n", Empty, false),
            ("HTTP/1.1 100 Continue\r\n\r\n", Empty, true),
            ("HTTP/1.1 304 NM\r\nTransfer-Encoding: chunked\r\n\r\n", Empty, true),
            ("HTTP/1.1 304 NM\r\nContent-Length: 5\r\n\r\n", Empty, true),
            ("HTTP/1.1 200\r\nContent-Length: 5\r\nConnection: a, Close\r\n\r\n", Length(5), false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Length(5), false),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n",
                Length(5),
                true,
            ),
        ];
        for (bytes, framing, keep_alive) in rows {
            let head = read(bytes.as_bytes()).unwrap().unwrap();
            assert_eq!((head.framing, head.keep_alive), (*framing, *keep_alive), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_ambiguous_or_too_large_is_an_error() {
        use MessageError::*;
        let long_field = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(120));
        let long_head =
            format!("HTTP/1.1 200 OK\r\n{}", format!("A: {}\r\n", "x".repeat(90)).repeat(5));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(6));
        let rows: Vec<(&str, MessageError)> = vec![
            ("SSH-2.0-OpenSSH_9.2\r\n", NotHttp),
            ("\x15\x03\x01\x00\x02\x02\x16", NotHttp),
            ("HTTP/1.1 200 OK\nA: b\n\n", BareLineFeed),
            ("HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n", BareLineFeed),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", ContentLength),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n", ContentLength),
            ("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", ContentLength),
            ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", ContentLength),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\n", ContentLength),
            ("HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n", ContentLength),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", ContentLength),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                ConflictingFraming,
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", TransferEncoding),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n", TransferEncoding),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                TransferEncoding,
            ),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncoding),
            (&long_field, FieldTooLarge),
            (&long_head, HeadTooLarge),
            (&many, TooManyFields),
        ];
        for (bytes, error) in rows {
            assert_eq!(read(bytes.as_bytes()).err(), Some(error), "{bytes:?}");
        }
        let malformed = [
            "HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: b\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.7 200 OK\r\n\r\n",
            "HTTP/1.1  200 OK\r\n\r\n",
            "HTTP/1.1 20\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1\r\n\r\n",
            "HTTP/1.1 200 O\0K\r\n\r\n",
        ];
        for bytes in malformed {
            let error = read(bytes.as_bytes()).err();
            assert!(matches!(error, Some(Malformed(_))), "{bytes:?}: {error:?}");
        }
    }

    #[test]
    fn hop_by_hop_fields_of_every_connection_line_are_removed() {
        let head = read(
            b"HTTP/1.1 200 OK\r\nConnection: X-One\r\nX-One: 1\r\nConnection: close\r\nX-Two: 2\r\n\r\n",
        )
        .unwrap()
        .unwrap();
        let fields = head.fields.into_map();
        let names: Vec<_> = fields.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-two"]);
    }

    #[test]
    fn a_head_request_has_no_content_but_keeps_its_length() {
        let head = read_as(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            Asked { head: true, ..Asked::default() },
        )
        .unwrap()
        .unwrap();
        assert_eq!(head.framing, Framing::Empty);
        assert_eq!(head.fields.map()[CONTENT_LENGTH], "5");
    }

    #[test]
    fn a_head_split_at_every_byte_is_found_at_its_last_byte() {
        let bytes = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nrest";
        let mut reader = Reader::default();
        for end in 1..25 {
            assert_eq!(super::read(&mut reader, &bytes[..end], &limits()), Ok(None), "{end}");
        }
        assert_eq!(super::read(&mut reader, bytes, &limits()), Ok(Some(25)));
        let mut buf = BytesMut::from(&bytes[..]);
        take(&mut buf, 25, &reader, Asked::default()).unwrap();
        assert_eq!(&buf[..], b"rest");
    }
}

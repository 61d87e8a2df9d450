//! What a client sees, as a value and in a few words.
//!
//! [`judge`] is pure: bytes and the way they ended give a [`View`]. It is stricter than clients
//! are, because what a lenient one forgives (a body cut short, two lengths) is the matter here.

use std::fmt;
use std::time::Duration;

use super::fault::SECRET;

/// How long a client waits for the end of what it reads.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// What a client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// There is no connection on which to ask.
    Unreachable(&'static str),
    /// Not one byte came.
    NoAnswer(End),
    /// Bytes came that are not a response a client could use.
    Broken(String),
    /// A response.
    Response(Response),
    /// A WebSocket session.
    Session(Session),
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// An orderly end.
    Closed,
    /// A reset.
    Reset,
    /// It did not, in time.
    Silent,
}

/// A response with a head that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The media type without parameters.
    pub media_type: String,
    /// The `error` of `Proxy-Status` (RFC 9209 §2.1.1).
    pub error: Option<String>,
    /// It has an `X-Request-Id`.
    pub has_request_id: bool,
    /// How its content ended.
    pub content: Content,
    /// Its head's size in bytes.
    pub head: usize,
    /// The secret is in it.
    pub leaks: bool,
}

/// How the content of a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// It is whole, and so long.
    Whole(usize),
    /// The connection ended too early, as anybody can see.
    Cut,
    /// It stands still.
    Stalled,
    /// A chunk is malformed.
    BadChunk,
}

/// A WebSocket session after its 101.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Whole messages, without the echo.
    pub messages: usize,
    /// What the probe had said came back.
    pub echoed: bool,
    /// Code and reason of the Close frame.
    pub close: Option<(u16, String)>,
    /// What was wrong with it, or how it ended without a Close frame.
    pub fault: Option<&'static str>,
    /// The secret is in it.
    pub leaks: bool,
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            View::Unreachable(why) => f.write_str(why),
            View::NoAnswer(End::Closed) => f.write_str("connection closed, no answer"),
            View::NoAnswer(End::Reset) => f.write_str("connection reset, no answer"),
            View::NoAnswer(End::Silent) => write!(f, "no answer within {} s", PATIENCE.as_secs()),
            View::Broken(what) => f.write_str(what),
            View::Response(response) => response.fmt(f),
            View::Session(session) => session.fmt(f),
        }
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        let media_type = self.media_type.strip_prefix("application/").unwrap_or(&self.media_type);
        if !media_type.is_empty() {
            write!(f, " {media_type}")?;
        }
        match self.content {
            Content::Whole(0) => f.write_str(" without content")?,
            Content::Whole(_) => {}
            Content::Cut => f.write_str(", cut off")?,
            Content::Stalled => f.write_str(", then silence")?,
            Content::BadChunk => f.write_str(", bad chunk")?,
        }
        if self.head > 16 * 1024 {
            write!(f, ", {} KiB head", self.head / 1024)?;
        }
        if self.leaks {
            f.write_str(", leaks")?;
        }
        Ok(())
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.echoed, self.messages) {
            (true, _) => f.write_str("echo")?,
            (false, 1) => f.write_str("1 message")?,
            (false, count) => write!(f, "{count} messages")?,
        }
        match (&self.close, self.fault) {
            (Some((code, _)), Some(fault)) => write!(f, ", {fault} Close {code}")?,
            (Some((code, _)), None) => write!(f, ", Close {code}")?,
            (None, Some(fault)) => write!(f, ", {fault}")?,
            (None, None) => f.write_str(", no end")?,
        }
        if self.leaks {
            f.write_str(", leaks")?;
        }
        Ok(())
    }
}

/// What these bytes are. Without an end, `None` means that more are needed to tell.
pub fn judge(bytes: &[u8], end: Option<End>) -> Option<View> {
    if bytes.is_empty() {
        return end.map(View::NoAnswer);
    }
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut response = httparse::Response::new(&mut fields);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => {
            return end.map(|end| {
                View::Broken(match end {
                    End::Closed | End::Reset => "cut off in the head".into(),
                    End::Silent => "silence in the head".into(),
                })
            });
        }
        Err(_) => return Some(View::Broken("not HTTP".into())),
    };
    let status = response.code.unwrap_or_default();
    let all = |name: &'static str| {
        response
            .headers
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| String::from_utf8_lossy(field.value).into_owned())
    };
    let mut lengths = all("content-length");
    let length = lengths.next();
    if lengths.any(|other| Some(other) != length) {
        return Some(View::Broken(format!("{status} with two lengths")));
    }
    let rest = bytes.get(head..).unwrap_or_default();
    let content = if all("transfer-encoding").any(|coding| coding == "chunked") {
        dechunk(rest)
    } else if let Some(length) = length.and_then(|length| length.parse().ok()) {
        (rest.len() >= length).then_some(Content::Whole(length))
    } else {
        (end == Some(End::Closed)).then_some(Content::Whole(rest.len()))
    };
    let content = match (content, end) {
        (Some(content), _) => content,
        (None, Some(End::Closed | End::Reset)) => Content::Cut,
        (None, Some(End::Silent)) => Content::Stalled,
        (None, None) => return None,
    };
    let media_type = all("content-type").next().unwrap_or_default();
    Some(View::Response(Response {
        status,
        media_type: media_type.split(';').next().unwrap_or_default().trim().to_owned(),
        error: all("proxy-status").find_map(|value| error(&value)),
        has_request_id: all("x-request-id").next().is_some_and(|id| !id.is_empty()),
        content,
        head,
        leaks: leaks(bytes),
    }))
}

/// Whether chunked content is whole or malformed; `None` if it is neither.
fn dechunk(mut rest: &[u8]) -> Option<Content> {
    let mut total = 0;
    loop {
        match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete((line, 0))) => {
                // The trailer section ends with an empty line.
                let trailers = rest.get(line..)?;
                let ended = trailers.starts_with(b"\r\n")
                    || memchr::memmem::find(trailers, b"\r\n\r\n").is_some();
                return ended.then_some(Content::Whole(total));
            }
            Ok(httparse::Status::Complete((line, size))) => {
                let size = usize::try_from(size).ok()?;
                rest = rest.get(line..)?.get(size..)?;
                total += size;
                match rest.split_at_checked(2) {
                    Some((b"\r\n", next)) => rest = next,
                    Some(_) => return Some(Content::BadChunk),
                    None => return None,
                }
            }
            Ok(httparse::Status::Partial) => return None,
            Err(_) => return Some(Content::BadChunk),
        }
    }
}

/// The `error` parameter of a `Proxy-Status` field.
fn error(value: &str) -> Option<String> {
    value
        .split(';')
        .find_map(|part| part.trim().strip_prefix("error="))
        .map(|name| name.split(',').next().unwrap_or_default().trim().to_owned())
}

/// Whether the secret is in it.
pub fn leaks(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, SECRET.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(bytes: &[u8], end: Option<End>) -> String {
        judge(bytes, end).map_or("more".into(), |view| view.to_string())
    }

    #[test]
    fn bytes_and_their_end_give_words() {
        let length =
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n".as_slice();
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice();
        let open = b"HTTP/1.1 200 OK\r\n\r\n".as_slice();
        let rows = [
            (b"".as_slice(), b"".as_slice(), None, "more"),
            (b"", b"", Some(End::Reset), "connection reset, no answer"),
            (b"", b"", Some(End::Silent), "no answer within 3 s"),
            (b"HTTP/1.1 20", b"", None, "more"),
            (b"HTTP/1.1 20", b"", Some(End::Closed), "cut off in the head"),
            (b"\x15\x03", b"", None, "not HTTP"),
            (length, b"o", None, "more"),
            (length, b"o", Some(End::Closed), "200 text/plain, cut off"),
            (length, b"o", Some(End::Silent), "200 text/plain, then silence"),
            (length, b"ok", None, "200 text/plain"),
            (chunked, b"2\r\nok\r\n", Some(End::Closed), "200, cut off"),
            (chunked, b"2\r\nok\r\n0\r\n\r\n", None, "200"),
            (chunked, b"2\r\nok!!", None, "200, bad chunk"),
            (open, b"half", Some(End::Closed), "200"),
            (open, b"hunter2", Some(End::Reset), "200, cut off, leaks"),
        ];
        for (head, rest, end, expected) in rows {
            let bytes = [head, rest].concat();
            assert_eq!(words(&bytes, end), expected, "{bytes:?} {end:?}");
        }
    }

    #[test]
    fn the_kind_is_read_from_proxy_status() {
        assert_eq!(
            error("seawall; error=dns_error; received-status=500"),
            Some("dns_error".into())
        );
        assert_eq!(error("cache, seawall;error=dns_error"), Some("dns_error".into()));
        assert_eq!(error("seawall"), None);
    }
}

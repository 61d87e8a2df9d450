//! Response heads, written (RFC 9112 §4, §6).

use bytes::BytesMut;
use http::header::CONTENT_LENGTH;
use http::{StatusCode, Version};

use crate::listen::date;
use crate::message::field::is_hop_by_hop;
use crate::upstream::fields::{Fields, Lines};
use crate::upstream::framing::{Absence, Announced, Framing};
use crate::upstream::http1::upload::extend_field;

/// Where the minor version stands in a status line.
const MINOR_VERSION: usize = 7;

/// Room for the fields of a response, and for small content behind them.
const HEAD_ROOM: usize = 1024;

/// What the response depends on beside itself.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The client's version.
    pub version: Version,
    /// A HEAD request: its response has no content.
    pub head: bool,
    /// Whether another request may follow on the connection, as far as we know.
    pub keep_alive: bool,
}

/// Writes the head of a response with so many bytes of content, if that is known, behind `earlier`:
/// what has to be said before it. Returns `true` with it if another request may follow behind its
/// content.
pub fn write(
    earlier: BytesMut,
    status: StatusCode,
    fields: Fields,
    exact: Option<u64>,
    asked: Asked,
) -> (Announced<BytesMut>, bool) {
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    let bodiless = asked.head
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    let framing = match exact {
        _ if bodiless => Framing::Empty,
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
        None if asked.version == Version::HTTP_11 => Framing::Chunked,
        None => Framing::Close,
    };
    let keep_alive = asked.keep_alive && framing != Framing::Close;
    let has_date = fields.has_date();
    let mut out = match fields {
        Fields::Lines(mut lines) => {
            if !bodiless {
                lines.forget_length();
            }
            lines.into_text()
        }
        Fields::Map(map) => {
            let mut out = Lines::new(status, HEAD_ROOM).into_text();
            for (name, value) in &*map {
                // The content is as long as it is. Where there is none, the field says what a GET
                // would have got (RFC 9110 §8.6).
                let is_ours = is_hop_by_hop(name.as_str().as_bytes()) && !switches;
                if !is_ours && (bodiless || *name != CONTENT_LENGTH) {
                    extend_field(&mut out, name.as_str().as_bytes(), value.as_bytes());
                }
            }
            out
        }
    };
    if asked.version == Version::HTTP_10
        && let Some(minor) = out.get_mut(MINOR_VERSION)
    {
        *minor = b'0';
    }
    let absence = if bodiless { Absence::Understood } else { Absence::Said };
    let mut announced = Announced::lines(out, framing, absence);
    if !has_date {
        announced.push(b"date: ");
        date::with(|date| announced.push(date.as_bytes()));
        announced.push(b"\r\n");
    }
    announced.push(match (keep_alive, asked.version) {
        _ if switches => b"\r\n",
        (false, _) => b"connection: close\r\n\r\n",
        // RFC 9112 §9.3: not the default there.
        (true, Version::HTTP_10) => b"connection: keep-alive\r\n\r\n",
        (true, _) => b"\r\n",
    });
    announced.put_before(earlier);
    (announced, keep_alive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderName, HeaderValue};

    const ASKED: Asked = Asked { version: Version::HTTP_11, head: false, keep_alive: true };

    /// What is written, which is the same for both forms of the fields.
    fn written(
        status: u16,
        given: &[(&'static str, &'static str)],
        exact: Option<u64>,
        asked: Asked,
    ) -> (String, Framing, bool) {
        let status = StatusCode::from_u16(status).unwrap();
        let forms = [Fields::new(status, Version::HTTP_11), Fields::from(HeaderMap::new())];
        let [lines, map] = forms.map(|mut fields| {
            for (name, value) in given.iter().chain(&[("date", "now")]) {
                let name = HeaderName::from_static(name);
                fields.append(&name, &HeaderValue::from_static(value));
            }
            let (head, keep_alive) = write(BytesMut::new(), status, fields, exact, asked);
            let text = String::from_utf8(head.head().to_vec()).unwrap();
            (text.replace("date: now\r\n", ""), head.framing(), keep_alive)
        });
        assert_eq!(lines, map);
        lines
    }

    #[test]
    fn the_content_decides_the_framing() {
        use Framing::*;
        let old = Asked { version: Version::HTTP_10, ..ASKED };
        let head = Asked { head: true, ..ASKED };
        for (status, exact, asked, expected, framing) in [
            (200, Some(5), ASKED, "1.1 200 OK\r\ncontent-length: 5\r\n", Length(5)),
            (200, Some(0), ASKED, "1.1 200 OK\r\ncontent-length: 0\r\n", Empty),
            (200, None, ASKED, "1.1 200 OK\r\ntransfer-encoding: chunked\r\n", Chunked),
            (200, None, old, "1.0 200 OK\r\nconnection: close\r\n", Close),
            (
                200,
                Some(5),
                old,
                "1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n",
                Length(5),
            ),
            (200, Some(0), head, "1.1 200 OK\r\ncontent-length: 7\r\n", Empty),
            (304, Some(0), ASKED, "1.1 304 Not Modified\r\ncontent-length: 7\r\n", Empty),
        ] {
            let (text, written_framing, _) =
                written(status, &[("content-length", "7")], exact, asked);
            assert_eq!((text, written_framing), (format!("HTTP/{expected}\r\n"), framing));
        }
        let (text, _, _) = written(204, &[], Some(0), ASKED);
        assert_eq!(text, "HTTP/1.1 204 No Content\r\n\r\n");
    }

    #[test]
    fn a_connection_that_ends_says_so() {
        let closing = Asked { keep_alive: false, ..ASKED };
        let (text, _, keep_alive) = written(200, &[], Some(0), closing);
        assert_eq!(text, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        assert!(!keep_alive);
        let switching = [("connection", "upgrade"), ("upgrade", "x")];
        let (text, _, _) = written(101, &switching, Some(0), closing);
        assert_eq!(
            text,
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
        );
    }

    #[test]
    fn what_has_no_date_gets_one() {
        let status = StatusCode::from_u16(799).unwrap();
        let fields = Fields::new(status, Version::HTTP_11);
        let earlier = BytesMut::from(&b"HTTP/1.1 103 Early Hints\r\n\r\n"[..]);
        let (head, _) = write(earlier, status, fields, Some(0), ASKED);
        let text = String::from_utf8(head.head().to_vec()).unwrap();
        let date = text
            .strip_prefix(
                "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 799 \r\ncontent-length: 0\r\ndate: ",
            )
            .unwrap();
        let date = httpdate::parse_http_date(date.strip_suffix("\r\n\r\n").unwrap()).unwrap();
        assert!(date.elapsed().unwrap().as_secs() < 60);
    }
}

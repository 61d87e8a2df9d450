//! The answer to what is not served: it is no request, or none that can be read to its end. What
//! follows on the connection cannot be trusted.

use std::future::poll_fn;
use std::task::Poll;

use bytes::BytesMut;
use http::{Method, Version};
use http_body::Body as _;
use tokio::io::AsyncWrite;

use super::response::{self, Asked};
use crate::failure::ClientFailure;
use crate::forward::Worker;
use crate::forward::client::Client;
use crate::forward::reply::Reply;
use crate::forward::unrouted::{self, Unrouted};
use crate::upstream::http1::upload::Upload;
use crate::upstream::upload::{ContentLimit, Waiting};

/// The longest method that the log tells of something that is no request.
const METHOD: usize = 24;

/// The longest path that the log tells of something that is no request.
const PATH: usize = 1024;

/// Settles the refusal and writes its answer. `read` is what the client has sent.
pub async fn answer<S: AsyncWrite + Unpin>(
    io: &mut S,
    worker: &Worker,
    client: &Client,
    read: &[u8],
    failure: ClientFailure,
) {
    let mut request = Unrouted::unread(Version::HTTP_11);
    if let Some((method, path)) = first_line(read) {
        (request.method, request.path) = (method, path);
    }
    let mut reply = unrouted::refuse_unread(worker, request, failure);
    client.peer.entrance.complete(&mut reply);
    let Reply { status, fields, content, .. } = reply;
    let head = request.method == Method::HEAD.as_str();
    let asked = Asked { version: Version::HTTP_11, head, keep_alive: false };
    let length = content.size_hint().exact();
    let (head, _) = response::write(BytesMut::new(), status, fields, length, asked);
    let mut sending = Upload::new(head, Some(content), false, ContentLimit::default());
    poll_fn(|cx| match sending.poll(io, cx) {
        Ok(Waiting::Done) | Err(_) => Poll::Ready(()),
        Ok(Waiting::Upstream | Waiting::Client | Waiting::Continue) => Poll::Pending,
    })
    .await;
}

/// Returns the method and the path, as far as the bytes look like those of a request.
fn first_line(read: &[u8]) -> Option<(&str, &str)> {
    let read = read.get(..METHOD + 1 + PATH).unwrap_or(read);
    let mut words = read.split(|byte| *byte == b' ');
    let is_method = |word: &&[u8]| word.len() <= METHOD && Method::from_bytes(word).is_ok();
    let method = words.next().filter(is_method)?;
    let path = words.next()?.split(|byte| matches!(byte, b'?' | b'#' | b'\r' | b'\n')).next()?;
    // A path that is cut off, or has other bytes than a target, is not told.
    let is_path = path.starts_with(b"/") && path.iter().all(u8::is_ascii_graphic);
    let method = std::str::from_utf8(method).ok()?;
    Some((method, std::str::from_utf8(path).ok().filter(|_| is_path).unwrap_or("-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_method_and_path_of_what_looks_like_a_request() {
        for (read, expected) in [
            (&b"GET /a?b=c HTTP/1.1\r\nx\r\n"[..], Some(("GET", "/a"))),
            (b"PRI * HTTP/2.0\r\n\r\n", Some(("PRI", "-"))),
            (b"GET /\xff HTTP/1.1\r\n", Some(("GET", "-"))),
            (b"\x16\x03\x01\x02\x00 \x01", None),
            (b"GET", None),
            (b"", None),
        ] {
            assert_eq!(first_line(read), expected, "{read:?}");
        }
    }
}

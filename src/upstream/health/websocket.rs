//! A WebSocket handshake (RFC 6455 §4) as a health check: whether the app still accepts sessions,
//! which a GET of some page does not tell.
//!
//! The session that this opens is closed in order, behind the check's back: what the app does with
//! its Close has no part in the result.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use http::header::{CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{AGENT, MOST, Unwell};
use crate::upstream::Shared;
use crate::upstream::connect::Target;
use crate::upstream::exchange::Asked;
use crate::upstream::pool::Connection;
use crate::upstream::stream::Stream;

/// How long the app has to answer the Close.
const GOODBYE: Duration = Duration::from_secs(1);

/// Asks on this HTTP/1.1 connection.
pub async fn ask(
    shared: &Shared,
    target: &Target,
    stream: Stream,
    path: &str,
) -> Result<(), Unwell> {
    let (authority, key) = (target.endpoint.authority(), generate_key());
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {AGENT}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\n"
    );
    let asked = Asked { upgrade: true, ..Asked::default() };
    let mut exchange = super::over_http1(shared, stream, &head, asked);
    let head = super::final_head(&mut exchange).await?;
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Unwell::Status(head.status.as_u16()));
    }
    if !is_accepted(&head.fields.map(), &key) {
        return Err(Unwell::Handshake);
    }
    if let Some(connection) = exchange.into_upgraded() {
        tokio::task::spawn_local(async move { timeout(GOODBYE, leave(connection)).await });
    }
    Ok(())
}

/// Whether this is the 101 that answers the key, and agrees on nothing else: nothing was offered
/// (RFC 6455 §4.1).
fn is_accepted(fields: &HeaderMap, key: &str) -> bool {
    let mut accepts = fields.get_all(SEC_WEBSOCKET_ACCEPT).iter();
    let accept = accepts.next().filter(|_| accepts.next().is_none());
    has_token(fields, &UPGRADE, b"websocket")
        && has_token(fields, &CONNECTION, b"upgrade")
        && accept
            .is_some_and(|accept| accept.as_bytes() == derive_accept_key(key.as_bytes()).as_bytes())
        && !fields.contains_key("sec-websocket-protocol")
        && !fields.contains_key("sec-websocket-extensions")
}

fn has_token(fields: &HeaderMap, name: &HeaderName, token: &[u8]) -> bool {
    fields.get_all(name).iter().any(|line| {
        line.as_bytes()
            .split(|byte| *byte == b',')
            .any(|member| member.trim_ascii().eq_ignore_ascii_case(token))
    })
}

/// Sends a Close 1000, and reads what still comes until the app closes.
async fn leave(mut connection: Box<Connection>) {
    if connection.stream.write_all(&close()).await.is_err() {
        return;
    }
    let mut read = 0;
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = connection.stream.read(&mut buffer).await {
        read += count;
        if read > MOST {
            return;
        }
    }
}

/// A Close 1000 as a client sends it: masked (RFC 6455 §5.3).
fn close() -> [u8; 8] {
    let [.., a, b, c, d] = RandomState::new().hash_one(()).to_be_bytes();
    let [high, low] = 1000_u16.to_be_bytes();
    [0x88, 0x82, a, b, c, d, high ^ a, low ^ b]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455 §1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    #[test]
    fn only_a_complete_answer_to_the_key_is_accepted() {
        let good = [
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-accept", ACCEPT),
        ];
        let fields = |lines: &[(&'static str, &str)]| {
            let mut fields = HeaderMap::new();
            for (name, value) in lines {
                fields.append(*name, value.parse().unwrap());
            }
            fields
        };
        assert!(is_accepted(&fields(&good), KEY));
        for missing in 0..good.len() {
            let mut lines = good.to_vec();
            lines.remove(missing);
            assert!(!is_accepted(&fields(&lines), KEY), "{lines:?}");
        }
        for more in [
            ("sec-websocket-accept", ACCEPT),
            ("sec-websocket-protocol", "chat"),
            ("sec-websocket-extensions", "permessage-deflate"),
        ] {
            let lines = [&good[..], &[more]].concat();
            assert!(!is_accepted(&fields(&lines), KEY), "{lines:?}");
        }
        assert!(!is_accepted(&fields(&good), "another key"));
    }
}

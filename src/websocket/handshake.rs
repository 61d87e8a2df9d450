//! The opening handshake (RFC 6455 §4), from both sides: what the client offers, and whether the
//! upstream's answer is a valid 101 to that offer.

use http::header::{
    CONNECTION, HeaderMap, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, Method, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::failure::ClientFailure;

/// What a client offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The key for the upstream, if the client's handshake has none: over HTTP/2 there is no need
    /// for one (RFC 8441 §5).
    pub key: Option<String>,
    accept: String,
    protocols: Vec<String>,
    /// Sorted: both sides choose how many they name.
    extensions: Vec<String>,
}

/// What both sides agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// Which of RSV1, RSV2 and RSV3 (bits 4, 2, 1) frames may have.
    pub rsv: u8,
}

/// Why an answer is not a valid 101.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// The status is not 101.
    Status,
    /// `Upgrade: websocket` is missing.
    Upgrade,
    /// `Connection: upgrade` is missing.
    Connection,
    /// `Sec-WebSocket-Accept` is missing, repeated or wrong.
    Accept,
    /// A subprotocol that the client did not offer, or more than one.
    Protocol,
    /// An extension that the client did not offer.
    Extension,
}

impl HandshakeError {
    /// Returns `true` if another offer might have been answered well.
    #[must_use]
    pub fn depends_on_offer(&self) -> bool {
        match self {
            HandshakeError::Protocol | HandshakeError::Extension => true,
            HandshakeError::Status
            | HandshakeError::Upgrade
            | HandshakeError::Connection
            | HandshakeError::Accept => false,
        }
    }
}

impl std::fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            HandshakeError::Status => "the status is not 101",
            HandshakeError::Upgrade => "the 101 has no `upgrade: websocket`",
            HandshakeError::Connection => "the 101 has no `connection: upgrade`",
            HandshakeError::Accept => "the 101 has no sec-websocket-accept that fits the key",
            HandshakeError::Protocol => "the 101 chose a subprotocol that was not offered",
            HandshakeError::Extension => "the 101 chose an extension that was not offered",
        })
    }
}

impl std::error::Error for HandshakeError {}

/// The client's offer; `None` if the request is not a WebSocket handshake at all.
///
/// A request that asks for a WebSocket and gets the rest wrong is the client's failure
/// (RFC 6455 §4.2.1).
pub fn client_offer(
    method: &Method,
    version: Version,
    fields: &HeaderMap,
) -> Option<Result<Offer, ClientFailure>> {
    // RFC 9110 §7.8: an Upgrade in HTTP/1.0 is ignored, and HTTP/2 has none.
    if version != Version::HTTP_11
        || !has_token(fields, &UPGRADE, "websocket")
        || !has_token(fields, &CONNECTION, "upgrade")
    {
        return None;
    }
    let key = only(fields, &SEC_WEBSOCKET_KEY);
    let version = only(fields, &SEC_WEBSOCKET_VERSION);
    Some(match (method, key, version) {
        (&Method::GET, Some(key), Some(version))
            if key.len() == 24 && version.as_bytes() == b"13" =>
        {
            Ok(Offer::new(key.as_bytes(), None, fields))
        }
        _ => Err(ClientFailure::BadRequest),
    })
}

/// The offer of an extended CONNECT (RFC 8441 §5). The upstream is asked with a key of ours.
///
/// # Errors
/// If the client speaks another version of the protocol than RFC 6455's.
pub fn extended_offer(fields: &HeaderMap) -> Result<Offer, ClientFailure> {
    match only(fields, &SEC_WEBSOCKET_VERSION) {
        Some(version) if version.as_bytes() == b"13" => {
            let key = generate_key();
            Ok(Offer::new(key.as_bytes(), Some(key.clone()), fields))
        }
        _ => Err(ClientFailure::BadRequest),
    }
}

impl Offer {
    fn new(key: &[u8], own: Option<String>, fields: &HeaderMap) -> Self {
        let mut extensions = extensions(fields);
        extensions.sort_unstable();
        Offer {
            key: own,
            accept: derive_accept_key(key),
            protocols: list(fields, &SEC_WEBSOCKET_PROTOCOL),
            extensions,
        }
    }

    fn has_extension(&self, name: &String) -> bool {
        self.extensions.binary_search(name).is_ok()
    }
}

/// Checks the upstream's answer (RFC 6455 §4.1).
///
/// # Errors
/// What makes it invalid.
pub fn check_answer(
    offer: &Offer,
    status: StatusCode,
    fields: &HeaderMap,
) -> Result<Agreed, HandshakeError> {
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(HandshakeError::Status);
    }
    if !has_token(fields, &UPGRADE, "websocket") {
        return Err(HandshakeError::Upgrade);
    }
    if !has_token(fields, &CONNECTION, "upgrade") {
        return Err(HandshakeError::Connection);
    }
    let accept = only(fields, &SEC_WEBSOCKET_ACCEPT);
    if accept.is_none_or(|value| value.as_bytes() != offer.accept.as_bytes()) {
        return Err(HandshakeError::Accept);
    }
    match &*list(fields, &SEC_WEBSOCKET_PROTOCOL) {
        [] => {}
        [chosen] if offer.protocols.contains(chosen) => {}
        _ => return Err(HandshakeError::Protocol),
    }
    let chosen = extensions(fields);
    if !chosen.iter().all(|name| offer.has_extension(name)) {
        return Err(HandshakeError::Extension);
    }
    // RFC 7692 §6: permessage-deflate uses RSV1 alone. What another extension does with the bits
    // only its endpoints know.
    let rsv = chosen.iter().map(|name| if name == "permessage-deflate" { 4 } else { 7 });
    Ok(Agreed { rsv: rsv.fold(0, |all, bits| all | bits) })
}

/// The field's value, if it has exactly one line.
fn only<'f>(fields: &'f HeaderMap, name: &HeaderName) -> Option<&'f HeaderValue> {
    let mut lines = fields.get_all(name).iter();
    lines.next().filter(|_| lines.next().is_none())
}

/// The elements of a list that may be spread over several lines (RFC 9110 §5.6.1).
fn list(fields: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let lines = fields.get_all(name).iter().filter_map(|line| line.to_str().ok());
    let elements = lines.flat_map(|line| line.split(','));
    elements.map(|e| e.trim().to_owned()).filter(|e| !e.is_empty()).collect()
}

fn has_token(fields: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    fields
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|element| element.trim().eq_ignore_ascii_case(token))
}

/// The names of extensions, without their parameters, in lower case.
fn extensions(fields: &HeaderMap) -> Vec<String> {
    list(fields, &SEC_WEBSOCKET_EXTENSIONS)
        .iter()
        .map(|element| element.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455 §1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn fields(lines: &[(&str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        fields
    }

    fn request(more: &[(&str, &str)]) -> HeaderMap {
        let mut lines = vec![
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-key", KEY),
            ("sec-websocket-version", "13"),
        ];
        lines.extend_from_slice(more);
        fields(&lines)
    }

    fn offer(more: &[(&str, &str)]) -> Offer {
        client_offer(&Method::GET, Version::HTTP_11, &request(more)).unwrap().unwrap()
    }

    fn answer(lines: &[(&str, &str)]) -> HeaderMap {
        let mut all = vec![
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-accept", ACCEPT),
        ];
        all.extend_from_slice(lines);
        fields(&all)
    }

    #[test]
    fn an_upgrade_to_something_else_is_no_offer() {
        let other = fields(&[("upgrade", "h2c"), ("connection", "upgrade")]);
        assert!(client_offer(&Method::GET, Version::HTTP_11, &other).is_none());
        assert!(client_offer(&Method::GET, Version::HTTP_10, &request(&[])).is_none());
        let unconnected = fields(&[("upgrade", "websocket")]);
        assert!(client_offer(&Method::GET, Version::HTTP_11, &unconnected).is_none());
    }

    #[test]
    fn a_broken_offer_is_the_clients_failure() {
        let refused = |method: Method, fields: HeaderMap| {
            client_offer(&method, Version::HTTP_11, &fields) == Some(Err(ClientFailure::BadRequest))
        };
        assert!(refused(Method::POST, request(&[])));
        assert!(refused(Method::GET, request(&[("sec-websocket-key", KEY)])));
        let mut old = request(&[]);
        old.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        assert!(refused(Method::GET, old));
        let mut short = request(&[]);
        short.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("abc"));
        assert!(refused(Method::GET, short));
    }

    #[test]
    fn answers_are_held_against_the_offer() {
        use HandshakeError as E;
        let offer = offer(&[
            ("sec-websocket-protocol", "chat, superchat"),
            ("sec-websocket-protocol", "v2"),
            ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits, x-other"),
        ]);
        let check = |lines: &[(&str, &str)]| {
            check_answer(&offer, StatusCode::SWITCHING_PROTOCOLS, &answer(lines))
        };
        assert_eq!(check(&[]), Ok(Agreed { rsv: 0 }));
        assert_eq!(check(&[("sec-websocket-protocol", "v2")]), Ok(Agreed { rsv: 0 }));
        assert_eq!(check(&[("sec-websocket-protocol", "v3")]), Err(E::Protocol));
        assert_eq!(check(&[("sec-websocket-protocol", "v2, chat")]), Err(E::Protocol));
        let deflate =
            ("sec-websocket-extensions", "permessage-deflate; server_no_context_takeover");
        assert_eq!(check(&[deflate]), Ok(Agreed { rsv: 4 }));
        assert_eq!(check(&[("sec-websocket-extensions", "x-other")]), Ok(Agreed { rsv: 7 }));
        assert_eq!(check(&[("sec-websocket-extensions", "x-third")]), Err(E::Extension));
        assert_eq!(check(&[("sec-websocket-accept", ACCEPT)]), Err(E::Accept));
        for (missing, error) in
            [(UPGRADE, E::Upgrade), (CONNECTION, E::Connection), (SEC_WEBSOCKET_ACCEPT, E::Accept)]
        {
            let mut fields = answer(&[]);
            fields.remove(missing);
            let status = StatusCode::SWITCHING_PROTOCOLS;
            assert_eq!(check_answer(&offer, status, &fields), Err(error));
        }
        assert_eq!(check_answer(&offer, StatusCode::OK, &answer(&[])), Err(E::Status));
    }
}

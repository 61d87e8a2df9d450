//! What takes the place of a request head that is refused: one that h2 takes, and that says why.
//!
//! It says so in itself, not in a list beside it: one that got lost could not be taken for a request.
//! A client that writes such a head itself refuses itself.

use http::Method;
use http::header::HeaderName;

use super::check::Refused;
use crate::failure::ClientFailure;
use crate::forward::head::Head;
use crate::upstream::http2::hpack::{self, Field};

/// The method of all of them.
const METHOD: &str = "SEAWALL-REFUSED";

const WHY: HeaderName = HeaderName::from_static("why");
const OF_METHOD: HeaderName = HeaderName::from_static("method");
const HAS_PATH: HeaderName = HeaderName::from_static("has-path");

/// A head that was refused, as it is told.
#[derive(Debug)]
pub struct StandIn {
    /// Why.
    pub failure: ClientFailure,
    /// Its method, if it had one.
    pub method: Option<Method>,
    /// Its path is that of the stand-in.
    pub has_path: bool,
}

/// Writes the block that stands for this head.
pub fn write(refused: &Refused, out: &mut Vec<u8>) {
    let path = refused.path.as_deref().filter(|path| path.starts_with(b"/"));
    let mut field = |name: &str, value: &[u8]| {
        hpack::encode(Field { name: name.as_bytes(), value, never_indexed: false }, out);
    };
    field(":method", METHOD.as_bytes());
    field(":scheme", b"http");
    field(":path", path.unwrap_or(b"/"));
    field(WHY.as_str(), refused.failure.name().as_bytes());
    if let Some(method) = &refused.method {
        field(OF_METHOD.as_str(), method.as_str().as_bytes());
    }
    if path.is_some() {
        field(HAS_PATH.as_str(), b"1");
    }
}

/// Reads what a head stands for; `None` if that is itself.
pub fn read(head: &Head) -> Option<StandIn> {
    if head.method.as_str() != METHOD {
        return None;
    }
    let field = |name: &HeaderName| head.fields.named(name).next().map(|field| field.value);
    let why = field(&WHY).unwrap_or_default();
    let known = [ClientFailure::UriTooLong, ClientFailure::FieldsTooLarge];
    let failure = known.into_iter().find(|failure| failure.name().as_bytes() == why);
    Some(StandIn {
        failure: failure.unwrap_or(ClientFailure::BadRequest),
        method: field(&OF_METHOD).and_then(|method| Method::from_bytes(method).ok()),
        has_path: field(&HAS_PATH).is_some(),
    })
}

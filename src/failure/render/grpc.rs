//! The answer to a gRPC call whose upstream failed (the gRPC protocol over HTTP/2, "Responses").
//!
//! A gRPC client reads no HTTP status: its answer is a 200 whose status is in `grpc-status`. If
//! nothing has been committed, that field stands in the head, "trailers-only"; if messages have
//! been, it follows them in the trailers. Both end the call at once with a code that says whether
//! the call may be made again: UNAVAILABLE if it certainly was not processed, else INTERNAL.

use ::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use ::http::{HeaderName, HeaderValue, StatusCode};
use bytes::Bytes;

use super::super::Failure;
use super::http::{Answer, PROXY_STATUS, X_REQUEST_ID, proxy_status};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// INTERNAL.
const INTERNAL: HeaderValue = HeaderValue::from_static("13");
/// UNAVAILABLE: "retrying with a back-off" is what it asks of clients.
const UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");

/// Whether a request's Content-Type makes it a gRPC or gRPC-Web call.
#[must_use]
pub fn is_grpc(content_type: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let begins =
        content_type.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC));
    // `application/grpc`, `application/grpc+proto`, `application/grpc-web-text`; not `application/grpcx`.
    begins && matches!(content_type.get(GRPC.len()), None | Some(b'+' | b'-' | b';' | b' '))
}

/// The answer to a call of which nothing has been committed; `content_type` is the request's.
#[must_use]
pub fn grpc(failure: &Failure, request_id: &str, content_type: &HeaderValue) -> Answer {
    let mut fields = vec![
        (CONTENT_TYPE, content_type.clone()),
        (CONTENT_LENGTH, HeaderValue::from(0)),
        (GRPC_STATUS, code(failure)),
        (GRPC_MESSAGE, message(failure)),
    ];
    if let Ok(id) = HeaderValue::from_str(request_id) {
        fields.push((X_REQUEST_ID, id));
    }
    if let Some(value) = proxy_status(failure) {
        fields.push((PROXY_STATUS, value));
    }
    Answer { status: StatusCode::OK, fields, body: Bytes::new() }
}

/// The trailers of a call whose head has been committed.
#[must_use]
pub fn grpc_trailers(failure: &Failure) -> HeaderMap {
    HeaderMap::from_iter([(GRPC_STATUS, code(failure)), (GRPC_MESSAGE, message(failure))])
}

fn code(failure: &Failure) -> HeaderValue {
    if failure.is_unprocessed() { UNAVAILABLE } else { INTERNAL }
}

/// Kinds are plain ASCII: nothing to percent-encode.
fn message(failure: &Failure) -> HeaderValue {
    HeaderValue::from_static(failure.kind().name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Kind, Phase};

    #[test]
    fn every_kind_is_trailers_only_and_leaks_nothing() {
        for kind in Kind::ALL {
            let failure = Failure::new(*kind, kind.phases()[0])
                .with_source("secret".to_owned())
                .with_evidence(Bytes::from_static(b"secret"));
            let media_type = HeaderValue::from_static("application/grpc+proto");
            let answer = grpc(&failure, "id-1", &media_type);
            assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0));
            assert_eq!(answer.content_type(), Some(&media_type));
            let before = matches!(failure.phase(), Phase::Resolve | Phase::Connect | Phase::Tls);
            let expected = if before { "14" } else { "13" };
            assert_eq!(answer.field(&GRPC_STATUS).unwrap(), expected, "{kind}");
            assert_eq!(answer.field(&GRPC_MESSAGE).unwrap(), kind.name());
            assert!(!format!("{answer:?}").contains("secret"));
            assert_eq!(grpc_trailers(&failure)[GRPC_STATUS], expected);
        }
    }

    #[test]
    fn a_call_that_was_refused_unprocessed_is_unavailable() {
        let failure = Failure::new(Kind::ConnectionTerminated, Phase::Head).unprocessed();
        assert_eq!(code(&failure), "14");
    }

    #[test]
    fn grpc_is_told_by_its_media_type() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+json", true),
            ("Application/GRPC-web-text; charset=utf-8", true),
            ("application/grpcx", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(text.as_bytes()), expected, "{text}");
        }
    }
}

//! Max-Forwards (RFC 9110 §7.6.2): how many recipients may still pass a TRACE or an OPTIONS on.
//!
//! The one that gets it with 0 answers in the place of the app.

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, StatusCode};

use super::head::{Head, Known};
use crate::failure::render::Answer;
use crate::message::field::{InRequest, X_REQUEST_ID};

/// How many more recipients may have the request; `None` if nothing limits them, or if the method is
/// another one.
///
/// # Errors
/// If it is not one number.
pub fn read(head: &Head) -> Result<Option<u64>, NotOneNumber> {
    if !matches!(head.method, Method::TRACE | Method::OPTIONS) {
        return Ok(None);
    }
    let Some(digits) = head.fields.first(Known::MaxForwards) else { return Ok(None) };
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if !is_number || head.fields.is_repeated(Known::MaxForwards) {
        return Err(NotOneNumber);
    }
    // What is larger than any number of recipients is as good as the largest one.
    let number = digits
        .iter()
        .fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Ok(Some(number))
}

/// Max-Forwards is not one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOneNumber;

/// The answer of the last recipient: to OPTIONS nothing but that it is there, to TRACE the request as
/// it came (RFC 9110 §9.3.8), without what is secret in it.
pub fn answer(head: &Head, request_id: &str) -> Answer {
    let mut fields = vec![(CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    let mut body = Vec::new();
    if head.method == Method::TRACE {
        body = message(head);
        fields.push((CONTENT_TYPE, HeaderValue::from_static("message/http")));
        // A browser shall not take it for a page.
        fields.push((X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")));
    }
    fields.push((CONTENT_LENGTH, HeaderValue::from(body.len())));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        fields.push((X_REQUEST_ID, id));
    }
    Answer { status: StatusCode::OK, fields, body: Bytes::from(body) }
}

fn message(head: &Head) -> Vec<u8> {
    let mut out = format!("{} {} {:?}\r\n", head.method, head.uri, head.version).into_bytes();
    for field in head.fields.iter().filter(|field| !is_secret(field.known, field.name)) {
        for part in [field.name, b": ", field.value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Returns `true` for credentials, and for what other proxies have said of the client.
fn is_secret(known: Option<Known>, name: &[u8]) -> bool {
    const SECRET: [HeaderName; 1] = [AUTHORIZATION];
    let by_table = known.is_some_and(|known| match known.in_request() {
        InRequest::Passes | InRequest::Told => false,
        InRequest::Hop => known != Known::Host && known != Known::Connection,
        InRequest::Ours => known != Known::Via,
        InRequest::Identity | InRequest::Routing => true,
    });
    by_table || SECRET.iter().any(|secret| name.eq_ignore_ascii_case(secret.as_str().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::head::tests::both;

    #[test]
    fn one_number_counts_and_nothing_else() {
        let get = |method: &str, lines: &[&str]| {
            let request = http::Request::builder().method(method).uri("/");
            let request =
                lines.iter().fold(request, |request, line| request.header("max-forwards", *line));
            let [map, lines] = both(request).map(|head| read(&head));
            assert_eq!(map, lines);
            map
        };
        for (method, lines, expected) in [
            ("OPTIONS", &["0"][..], Ok(Some(0))),
            ("TRACE", &["007"], Ok(Some(7))),
            ("TRACE", &["99999999999999999999999999999"], Ok(Some(u64::MAX))),
            ("OPTIONS", &[], Ok(None)),
            ("GET", &["0"], Ok(None)),
            ("POST", &["x"], Ok(None)),
            ("OPTIONS", &["-1"], Err(NotOneNumber)),
            ("OPTIONS", &["+1"], Err(NotOneNumber)),
            ("OPTIONS", &[""], Err(NotOneNumber)),
            ("OPTIONS", &["1, 1"], Err(NotOneNumber)),
            ("OPTIONS", &["0x1"], Err(NotOneNumber)),
            ("OPTIONS", &["1", "1"], Err(NotOneNumber)),
        ] {
            assert_eq!(get(method, lines), expected, "{method} {lines:?}");
        }
    }

    #[test]
    fn trace_is_answered_with_the_request_and_without_its_secrets() {
        let heads = both(
            http::Request::builder()
                .method("TRACE")
                .uri("/a?b")
                .header("host", "h.test")
                .header("via", "1.1 other")
                .header("cookie", "secret")
                .header("authorization", "secret")
                .header("proxy-authorization", "secret")
                .header("seawall-rehearse", "secret")
                .header("x", "1"),
        );
        for head in heads {
            let answer = answer(&head, "id-1");
            let text = String::from_utf8(answer.body.to_vec()).unwrap();
            let expected = "TRACE /a?b HTTP/1.1\r\nhost: h.test\r\nvia: 1.1 other\r\nx: 1\r\n\r\n";
            assert_eq!(text, expected);
            assert_eq!(answer.field(&CONTENT_TYPE).unwrap(), "message/http");
        }
    }
}

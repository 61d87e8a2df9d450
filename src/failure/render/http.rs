//! The HTTP answer to a failure: status, fields, and a body in the media type the client prefers.

use std::sync::LazyLock;

use ::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use ::http::{HeaderName, HeaderValue, Response, StatusCode};
use bytes::Bytes;
use sfv::{KeyRef, ListSerializer, StringRef, TokenRef};

use super::super::policy::Decision;
use super::super::{ClientFailure, Failure, Kind};
use super::accept::{self, MediaType};
use super::content::{self, Page};
use super::jitter;
use super::template::Templates;

pub(super) const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The smallest and the largest number of seconds that seawall itself asks clients to wait: long
/// enough for an ejected endpoint to come back, spread so that they do not come back at once.
const WAIT: std::ops::RangeInclusive<u64> = 1..=5;

/// A complete HTTP answer of seawall's own.
#[derive(Clone, Debug)]
pub struct Answer {
    /// A final status, 400 to 599.
    pub status: StatusCode,
    /// Every field, `Content-Type` and `Content-Length` included. For HEAD they stay as they are.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// The whole content. The caller drops it for HEAD.
    pub body: Bytes,
}

impl Answer {
    /// The answer as a response with any body that is made from bytes.
    #[must_use]
    pub fn into_response<B: From<Bytes>>(self) -> Response<B> {
        let mut response = Response::new(B::from(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.fields);
        response
    }

    /// The value of a field.
    #[must_use]
    pub fn field(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.fields.iter().find(|(candidate, _)| candidate == name).map(|(_, value)| value)
    }

    /// The media type of the content.
    #[must_use]
    pub fn content_type(&self) -> Option<&HeaderValue> {
        self.field(&CONTENT_TYPE)
    }
}

/// The answer to a request whose upstream failed.
///
/// `accept` is the client's `Accept` field value. `Retry-After` is the app's own if it is one
/// (RFC 9110 §10.2.3), else ours where waiting helps, with a jitter that follows from the request
/// id. A decision whose status is no error status answers 500.
#[must_use]
pub fn http(
    failure: &Failure,
    decision: Decision,
    request_id: &str,
    accept: Option<&[u8]>,
) -> Answer {
    let kind = failure.kind();
    let mut answer = answer(content::of_kind(kind), decision.status, request_id, accept);
    if let Some(value) = proxy_status(failure) {
        answer.fields.push((PROXY_STATUS, value));
    }
    let kept = failure.retry_after().and_then(|value| kept_retry_after(value));
    let wait = kept.or_else(|| waiting_helps(kind).then(|| wait_seconds(request_id)));
    if let Some(value) = wait {
        answer.fields.push((RETRY_AFTER, value));
    }
    answer
}

/// The same, with the body of the template that is for it, if there is one.
#[must_use]
pub fn http_from(
    templates: &Templates,
    failure: &Failure,
    decision: Decision,
    request_id: &str,
    accept: Option<&[u8]>,
) -> Answer {
    let mut answer = http(failure, decision, request_id, accept);
    if templates.is_empty() {
        return answer;
    }
    // An app may say a date instead of seconds: the field has it, a sentence could not use it.
    let retry_after =
        answer.field(&RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let (class, status) = (accept::choose(accept), answer.status.as_u16());
    let body = templates.body(class, failure.kind(), status, request_id, retry_after);
    if let Some((content_type, body)) = body {
        answer.fields.retain(|(name, _)| *name != CONTENT_TYPE && *name != CONTENT_LENGTH);
        answer.fields.push((CONTENT_TYPE, content_type));
        answer.fields.push((CONTENT_LENGTH, HeaderValue::from(body.len())));
        answer.body = Bytes::from(body);
    }
    answer
}

/// The answer to a request that is the client's own failure. Whether the connection survives is
/// the caller's decision. A failure without a status (nobody reads, or the answer is a close code)
/// renders as 400.
#[must_use]
pub fn client(failure: ClientFailure, request_id: &str, accept: Option<&[u8]>) -> Answer {
    let status = failure.status().unwrap_or(400);
    answer(content::of_client(failure), status, request_id, accept)
}

/// The answer when seawall itself has no room for the request: 503.
#[must_use]
pub fn overload(request_id: &str, accept: Option<&[u8]>, retry_after_secs: u64) -> Answer {
    let mut answer = answer(Some(content::of_overload()), 503, request_id, accept);
    answer.fields.push((RETRY_AFTER, HeaderValue::from(retry_after_secs)));
    answer
}

/// What all answers have in common.
fn answer(
    page: Option<&'static Page>,
    status: u16,
    request_id: &str,
    accept: Option<&[u8]>,
) -> Answer {
    let status = match StatusCode::from_u16(status) {
        Ok(status) if status.is_client_error() || status.is_server_error() => status,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let media_type = accept::choose(accept);
    let body = page.map(|page| page.body(media_type, status.as_u16(), request_id));
    let body = Bytes::from(body.unwrap_or_default());
    let mut fields = Vec::with_capacity(8);
    fields.push((CONTENT_TYPE, content_type(media_type)));
    fields.push((CONTENT_LENGTH, HeaderValue::from(body.len())));
    fields.push((CACHE_CONTROL, HeaderValue::from_static("no-store")));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        fields.push((X_REQUEST_ID, id));
    }
    Answer { status, fields, body }
}

const fn content_type(media_type: MediaType) -> HeaderValue {
    HeaderValue::from_static(match media_type {
        // RFC 9457 §6.1: JSON is UTF-8, and the type has no charset parameter.
        MediaType::Problem => "application/problem+json",
        MediaType::Html => "text/html; charset=utf-8",
        MediaType::Plain => "text/plain; charset=utf-8",
    })
}

/// Statuses that failing apps answer with: their `Proxy-Status` values are made in advance.
const USUAL: [Option<u16>; 5] = [None, Some(500), Some(502), Some(503), Some(504)];

static PROXY_STATUSES: LazyLock<Vec<[Option<HeaderValue>; USUAL.len()]>> = LazyLock::new(|| {
    Kind::ALL
        .iter()
        .map(|kind| USUAL.map(|received| write_proxy_status(*kind, received, None)))
        .collect()
});

/// `Proxy-Status` (RFC 9209 §2): cached for what usually happens.
pub(super) fn proxy_status(failure: &Failure) -> Option<HeaderValue> {
    let (kind, received) = (failure.kind(), failure.received_status());
    if failure.is_rehearsed() {
        return write_proxy_status(kind, received, Some("rehearsal"));
    }
    match USUAL.iter().position(|usual| *usual == received) {
        Some(column) => PROXY_STATUSES.get(kind.index())?.get(column)?.clone(),
        None => write_proxy_status(kind, received, None),
    }
}

fn write_proxy_status(
    kind: Kind,
    received: Option<u16>,
    details: Option<&'static str>,
) -> Option<HeaderValue> {
    let mut list = ListSerializer::new();
    let mut member = list
        .bare_item(TokenRef::constant("seawall"))
        .parameter(KeyRef::constant("error"), TokenRef::from_str(kind.name()).ok()?);
    if let Some(status) = received {
        member = member.parameter(KeyRef::constant("received-status"), status);
    }
    if let Some(details) = details {
        let _ = member.parameter(KeyRef::constant("details"), StringRef::constant(details));
    }
    HeaderValue::try_from(list.finish()?).ok()
}

/// Is this a failure that passes by itself, without anybody repairing anything?
const fn waiting_helps(kind: Kind) -> bool {
    matches!(kind, Kind::DestinationUnavailable | Kind::ConnectionLimitReached)
}

fn wait_seconds(request_id: &str) -> HeaderValue {
    let choices = WAIT.end() - WAIT.start() + 1;
    HeaderValue::from(WAIT.start() + jitter(request_id) % choices)
}

/// The app's own `Retry-After`, if it is one (RFC 9110 §10.2.3) and so cannot carry anything else
/// of the app to the client (P4).
fn kept_retry_after(value: &[u8]) -> Option<HeaderValue> {
    let value = value.trim_ascii();
    // Ten digits are more than three hundred years.
    let seconds = (1..=10).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    (seconds || is_http_date(value)).then(|| HeaderValue::from_bytes(value).ok())?
}

/// An IMF-fixdate such as `Sun, 06 Nov 1994 08:49:37 GMT`. The two obsolete forms of RFC 9110
/// §5.6.7 are not kept: a sender, which we are, must not generate them.
fn is_http_date(value: &[u8]) -> bool {
    const SHAPE: &[u8; 29] = b"www, 00 mmm 0000 00:00:00 GMT";
    const DAYS: [&[u8]; 7] = [b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun"];
    const MONTHS: [&[u8]; 12] = [
        b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov",
        b"Dec",
    ];
    value.len() == SHAPE.len()
        && value.iter().zip(SHAPE).all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            b'w' | b'm' => true,
            _ => byte == shape,
        })
        && value.get(..3).is_some_and(|day| DAYS.contains(&day))
        && value.get(8..11).is_some_and(|month| MONTHS.contains(&month))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::policy::{Policy, Profile};
    use crate::failure::{Phase, policy::AppErrors};
    use std::sync::Arc;

    const PLAIN: Option<&[u8]> = Some(b"text/plain");
    const HTML: Option<&[u8]> = Some(b"text/html");
    const ID: &str = "01JD3W9V7K4QX";

    fn decision(status: u16) -> Decision {
        Decision { status, close_code: 1011 }
    }

    /// A failure with a secret in every place that has room for one.
    fn secretive(kind: Kind) -> Failure {
        Failure::new(kind, kind.phases()[0])
            .at_upstream(&Arc::from("SECRET-upstream"))
            .at_endpoint(&Arc::from("http://SECRET-endpoint:3000"))
            .with_dependency(Arc::from("SECRET-dependency"))
            .with_source("SECRET source".to_string())
            .with_evidence(Bytes::from_static(b"SECRET evidence"))
            .with_retry_after(Bytes::from_static(b"SECRET retry"))
            .with_trace("SECRET trace")
    }

    fn text(answer: &Answer, name: &HeaderName) -> Option<String> {
        answer.field(name).map(|value| value.to_str().unwrap().to_string())
    }

    fn check_common(answer: &Answer) {
        assert_eq!(text(answer, &CONTENT_LENGTH).unwrap(), answer.body.len().to_string());
        assert_eq!(text(answer, &CACHE_CONTROL).unwrap(), "no-store");
        assert_eq!(text(answer, &X_REQUEST_ID).unwrap(), ID);
        assert!(std::str::from_utf8(&answer.body).unwrap().contains(ID));
    }

    #[test]
    fn every_kind_renders_in_every_type_and_leaks_nothing() {
        for kind in Kind::ALL {
            for accept in [None, HTML, PLAIN] {
                let answer = http(&secretive(*kind), decision(500), ID, accept);
                check_common(&answer);
                assert_eq!(answer.status, 500);
                let body = std::str::from_utf8(&answer.body).unwrap();
                assert!(body.contains(kind.name()) && body.contains(content::title(*kind)));
                assert!(body.contains("500"));
                let all = format!("{answer:?}").to_lowercase();
                assert!(!all.contains("secret"), "{kind}: {all}");
            }
        }
    }

    #[test]
    fn the_problem_document_has_the_members_of_rfc_9457() {
        for kind in Kind::ALL {
            let answer = http(&secretive(*kind), decision(kind.gateway_status()), ID, None);
            assert_eq!(text(&answer, &CONTENT_TYPE).unwrap(), "application/problem+json");
            let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(
                problem,
                serde_json::json!({
                    "type": format!("urn:seawall:failure:{kind}"),
                    "title": content::title(*kind),
                    "status": kind.gateway_status(),
                    "instance": ID,
                })
            );
        }
    }

    #[test]
    fn html_and_plain_name_their_charset() {
        let failure = secretive(Kind::ConnectionRefused);
        let html = http(&failure, decision(500), ID, HTML);
        assert_eq!(text(&html, &CONTENT_TYPE).unwrap(), "text/html; charset=utf-8");
        assert!(html.body.starts_with(b"<!doctype html>"));
        assert!(html.body.len() < 1500, "small: {}", html.body.len());
        let plain = http(&failure, decision(500), ID, PLAIN);
        assert_eq!(text(&plain, &CONTENT_TYPE).unwrap(), "text/plain; charset=utf-8");
    }

    #[test]
    fn proxy_status_parses_back_to_the_kind() {
        for kind in Kind::ALL {
            for received in [None, Some(500), Some(503), Some(599), Some(404)] {
                let mut failure = secretive(*kind);
                if let Some(status) = received {
                    failure = failure.with_received_status(status);
                }
                let answer = http(&failure, decision(500), ID, None);
                let value = answer.field(&PROXY_STATUS).unwrap().as_bytes();
                let list: sfv::List = sfv::Parser::new(value).parse().unwrap();
                let [sfv::ListEntry::Item(member)] = &list[..] else { panic!("{list:?}") };
                assert_eq!(member.bare_item.as_token().unwrap().as_str(), "seawall");
                let error = member.params.get("error").unwrap();
                assert_eq!(error.as_token().unwrap().as_str(), kind.name());
                let status = member.params.get("received-status");
                assert_eq!(
                    status.map(|status| u16::try_from(status.as_integer().unwrap()).unwrap()),
                    received
                );
            }
        }
        let refused = http(&secretive(Kind::ConnectionRefused), decision(500), ID, None);
        assert_eq!(text(&refused, &PROXY_STATUS).unwrap(), "seawall;error=connection_refused");
    }

    #[test]
    fn the_apps_own_retry_after_is_kept_if_it_is_one() {
        let table: &[(&str, Option<&str>)] = &[
            ("120", Some("120")),
            (" 7\t", Some("7")),
            ("0", Some("0")),
            ("9999999999", Some("9999999999")),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some("Sun, 06 Nov 1994 08:49:37 GMT")),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("99999999999", None),
            ("1, 2", None),
            ("Sunday, 06-Nov-94 08:49:37 GMT", None),
            ("Sun Nov  6 08:49:37 1994", None),
            ("Xxx, 06 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 PST", None),
            ("Sun, 06 Nov 1994 08:49:3\n GMT", None),
            ("db01.internal is down", None),
        ];
        for (given, kept) in table {
            let failure = Failure::new(Kind::DependencyFailure, Phase::Head)
                .with_retry_after(Bytes::copy_from_slice(given.as_bytes()));
            let answer = http(&failure, decision(500), ID, None);
            assert_eq!(text(&answer, &RETRY_AFTER).as_deref(), *kept, "{given}");
        }
    }

    #[test]
    fn clients_are_asked_to_wait_only_where_waiting_helps() {
        for kind in Kind::ALL {
            let answer = http(&secretive(*kind), decision(500), ID, None);
            let helps = matches!(kind, Kind::DestinationUnavailable | Kind::ConnectionLimitReached);
            assert_eq!(answer.field(&RETRY_AFTER).is_some(), helps, "{kind}");
        }
    }

    #[test]
    fn waits_are_spread_over_clients_and_repeat_for_one_request() {
        let wait = |id: &str| -> u64 {
            let failure = Failure::new(Kind::DestinationUnavailable, Phase::Connect);
            let answer = http(&failure, decision(500), id, None);
            text(&answer, &RETRY_AFTER).unwrap().parse().unwrap()
        };
        let mut seen = [0; 6];
        for number in 0..1000 {
            let id = format!("request-{number}");
            assert_eq!(wait(&id), wait(&id));
            seen[usize::try_from(wait(&id)).unwrap()] += 1;
        }
        assert_eq!(seen[0], 0);
        assert!(seen[1..].iter().all(|count| *count > 100), "{seen:?}");
    }

    #[test]
    fn an_answer_is_always_an_error() {
        for status in [0, 100, 101, 200, 204, 304, 399, 600, 999, 1000, u16::MAX] {
            let failure = Failure::new(Kind::ConnectionRefused, Phase::Connect);
            let answer = http(&failure, decision(status), ID, PLAIN);
            assert_eq!(answer.status, 500, "{status}");
            assert!(answer.body.windows(11).any(|text| text == b"status: 500"));
        }
    }

    #[test]
    fn the_status_is_the_decisions() {
        let policy = Policy::new(Profile::Gateway, AppErrors::Scrub, Arc::new([]));
        for kind in Kind::ALL {
            let failure = Failure::new(*kind, kind.phases()[0]);
            let answer = http(&failure, policy.decide(&failure), ID, None);
            assert_eq!(answer.status.as_u16(), kind.gateway_status());
        }
    }

    #[test]
    fn a_clients_own_failure_is_a_4xx_without_proxy_status() {
        for failure in ClientFailure::ALL {
            for accept in [None, HTML, PLAIN] {
                let answer = client(*failure, ID, accept);
                check_common(&answer);
                assert_eq!(answer.status.as_u16(), failure.status().unwrap_or(400));
                assert!(answer.field(&PROXY_STATUS).is_none());
            }
            let answer = client(*failure, ID, None);
            let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(problem["type"], format!("urn:seawall:client:{failure}"));
        }
    }

    #[test]
    fn overload_is_503_and_says_when_to_come_back() {
        let answer = overload(ID, None, 3);
        check_common(&answer);
        assert_eq!(answer.status, 503);
        assert_eq!(text(&answer, &RETRY_AFTER).unwrap(), "3");
    }

    #[test]
    fn a_request_id_that_is_no_field_value_is_left_out() {
        let failure = Failure::new(Kind::ConnectionRefused, Phase::Connect);
        let answer = http(&failure, decision(500), "a\r\nSet-Cookie: b", None);
        assert!(answer.field(&X_REQUEST_ID).is_none());
    }

    #[test]
    fn a_response_carries_everything() {
        let failure = Failure::new(Kind::ConnectionRefused, Phase::Connect);
        let answer = http(&failure, decision(500), ID, None);
        let response: Response<Bytes> = answer.clone().into_response();
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers().len(), answer.fields.len());
        assert_eq!(*response.body(), answer.body);
    }
}

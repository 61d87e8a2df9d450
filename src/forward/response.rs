//! The upstream's response: judged, held, committed.
//!
//! Before: `retry` has brought a head. After: a response for hyper, whole or flowing through
//! `content`. Between the two lies the commit point: until [`Held::commit`] every failure is still
//! an answer.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, RETRY_AFTER, VIA};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::client::{Busy, Client};
use super::content::{Content, Relayed, Source};
use super::hold::{self, Terms};
use super::request::{X_REQUEST_ID, via_version};
use super::retry::Answered;
use super::settle::Held;
use crate::failure::app::{self, Finding, INSPECT_BYTES, Judgement, Verdict};
use crate::failure::{Failure, Phase};
use crate::upstream::http1::exchange::Broken;
use crate::upstream::http1::head::ResponseHead;

/// Answers with what the upstream said, or for it.
pub async fn respond(
    held: Held,
    client: &Client,
    answered: Answered,
    route: &super::Route,
    busy: Busy,
) -> Response<Content> {
    let Answered { mut exchange, head, endpoint } = answered;
    let settings = &route.settings;
    let judgement = app::judge(&settings.policy, head.status.as_u16(), &head.fields);
    let mut terms = Terms::of(&head, &settings.hold);
    if judgement != Judgement::Known(Verdict::Healthy) {
        terms = terms.at_least(INSPECT_BYTES, settings.hold.time);
    }
    let content = match hold::hold(&mut exchange, terms).await {
        Ok(content) => content,
        Err(Broken::Upstream(failure)) => {
            client.withdraw_interim();
            return held.answer(route.upstream.place(endpoint, failure));
        }
        Err(Broken::Client(failure, _)) => return held.refuse(failure),
    };
    client.withdraw_interim();
    let mut source =
        Source { exchange: Some(exchange), upstream: route.upstream.clone(), endpoint };

    let verdict = match judgement {
        Judgement::Known(verdict) => verdict,
        Judgement::Inspect => {
            let prefix = prefix(&content.pieces);
            let status = head.status.as_u16();
            app::inspect(&settings.policy, status, &head.fields, &prefix, content.whole)
        }
    };
    match &verdict {
        Verdict::Healthy => {}
        Verdict::Passed(finding) => {
            held.passed(route.upstream.place(endpoint, told(finding, &head, &content)));
        }
        Verdict::Replace(finding) => {
            if content.whole {
                source.finish();
            }
            return held.answer(route.upstream.place(endpoint, told(finding, &head, &content)));
        }
    }

    let version = held.subject().map_or(http::Version::HTTP_11, |subject| subject.version);
    let length = hold::length(&head);
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    *response.headers_mut() = head.fields;
    add_fields(response.headers_mut(), &held);
    let committed = held.commit(response.status().as_u16());
    let body = if content.whole {
        source.finish();
        committed.finish();
        if response.status() == StatusCode::NO_CONTENT {
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        Content::held(content.pieces, content.trailers)
    } else {
        // For an HTTP/1.0 client the end of the connection is the end of the content.
        let reset = (version == http::Version::HTTP_10).then(|| client.reset.clone());
        Content::relayed(Relayed {
            held: content.pieces,
            source,
            committed: Some(committed),
            length,
            reset,
            _busy: busy,
        })
    };
    response.map(|()| body)
}

/// What the app said about itself, as a failure.
fn told(finding: &Finding, head: &ResponseHead, content: &hold::Held) -> Failure {
    let mut failure = Failure::new(finding.kind, Phase::Head)
        .with_received_status(head.status.as_u16())
        .with_evidence(app::evidence(&head.fields, prefix(&content.pieces)));
    if let Some(dependency) = &finding.dependency {
        failure = failure.with_dependency(dependency.clone());
    }
    if let Some(trace) = finding.trace {
        failure = failure.with_trace(trace);
    }
    if let Some(value) = head.fields.get(RETRY_AFTER) {
        failure = failure.with_retry_after(Bytes::copy_from_slice(value.as_bytes()));
    }
    failure
}

/// The first bytes of what is held.
fn prefix(pieces: &std::collections::VecDeque<Bytes>) -> Bytes {
    if let [only] = pieces.as_slices().0
        && pieces.len() == 1
    {
        return only.slice(..only.len().min(INSPECT_BYTES));
    }
    let mut prefix = BytesMut::new();
    for piece in pieces {
        let room = INSPECT_BYTES - prefix.len();
        prefix.extend_from_slice(piece.get(..room).unwrap_or(piece));
        if prefix.len() >= INSPECT_BYTES {
            break;
        }
    }
    prefix.freeze()
}

/// The two fields that every response through seawall has.
pub fn add_fields(fields: &mut HeaderMap, held: &Held) {
    // RFC 9110 §7.6.3, appended behind those of proxies before us.
    fields.append(VIA, HeaderValue::from_static(via_version(http::Version::HTTP_11)));
    if let Some(subject) = held.subject()
        && let Ok(id) = HeaderValue::from_str(subject.id.as_str())
    {
        fields.insert(X_REQUEST_ID, id);
    }
}

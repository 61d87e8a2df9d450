//! The upstream's response: judged and committed.
//!
//! Before: `retry` has brought a head and what is held of the content. After: a response for the client's connection,
//! whole or flowing through `content`. Between the two lies the commit point: until
//! [`Held::commit`] every failure is still an answer.

use bytes::{Bytes, BytesMut};
use http::Version;
use http::header::{CONTENT_ENCODING, RETRY_AFTER};
use tokio::time::Instant;

use super::client::Client;
use super::content::{Content, Ending, Relayed, Source, without};
use super::hold;
use super::reply::Reply;
use super::retry::Answered;
use super::settle::Held;
use super::sse::Events;
use crate::failure::app::{self, Finding, INSPECT_BYTES, Judgement, Verdict};
use crate::failure::{Failure, Phase};
use crate::upstream::Outcome;
use crate::upstream::exchange::ResponseHead;
use crate::upstream::fields::Fields;
use crate::upstream::pieces::Pieces;

/// Events up to this size pass whole even where nothing is held.
const LEAST_EVENT: usize = 8 * 1024;

/// Answers with what the upstream said, or for it.
pub fn respond(
    held: Held,
    client: &Client,
    answered: Box<Answered>,
    route: &super::Route,
) -> Reply {
    let Answered { exchange, head, content, judgement, now, endpoint, in_flight, passage } =
        *answered;
    let settings = &route.settings;
    client.withdraw_interim();
    let verdict = match judgement.map(|judgement| *judgement) {
        None => Verdict::Healthy,
        Some(Judgement::Known(verdict)) => verdict,
        Some(Judgement::Inspect) => {
            let prefix = prefix(&content.pieces);
            let status = head.status.as_u16();
            app::inspect(&settings.policy, status, &head.fields.map(), &prefix, content.whole)
        }
    };
    let mut source = Source {
        exchange: Some(exchange),
        upstream: route.upstream.clone(),
        endpoint,
        in_flight,
        outcome: match &verdict {
            Verdict::Healthy => Outcome::Served,
            Verdict::Passed(_) | Verdict::Replace(_) => Outcome::AppFailed,
        },
        passage,
    };
    match &verdict {
        Verdict::Healthy => {}
        Verdict::Passed(finding) => {
            held.passed(route.upstream.place(&source.endpoint, told(finding, &head, &content)));
        }
        Verdict::Replace(finding) => {
            match content.whole {
                true => source.finish(Instant::now()),
                // The rest is not waited for.
                false => source.report(source.outcome),
            }
            return held
                .answer(route.upstream.place(&source.endpoint, told(finding, &head, &content)));
        }
    }

    let version = held.subject().map_or(Version::HTTP_11, |subject| subject.head.version);
    let rehearsal = held.subject().and_then(|subject| subject.rehearsal);
    let is_grpc = held.subject().is_some_and(|subject| subject.grpc.is_some());
    let length = hold::length(&head);
    let ResponseHead { status, version: received, mut fields, listed, .. } = head;
    add_fields(&mut fields, received, &held);
    let committed = held.commit(status.as_u16());
    let body = if content.whole {
        let now = now.unwrap_or_else(Instant::now);
        source.finish(now);
        committed.finish(now);
        client.served.set(Some(now));
        let trailers = content.trailers.and_then(|it| without(*it, listed.as_deref()));
        Content::held(content.pieces, trailers.map(Box::new))
    } else {
        source.passage = source.passage.and_then(|passage| passage.begun(source.outcome));
        let events = (route.settings.sse_event && length.is_none() && is_readable_events(&fields))
            .then(|| Box::new(Events::new(route.settings.hold.bytes.max(LEAST_EVENT))));
        // For an HTTP/1.0 client the end of the connection is the end of the content.
        let reset = (version == Version::HTTP_10).then(|| client.reset.clone());
        Content::relayed(Relayed {
            held: content.pieces,
            ending: Ending::default(),
            events,
            source,
            committed: Some(committed),
            length,
            listed,
            reset,
            trailers_tell: is_grpc && version == Version::HTTP_2,
            rehearsal,
        })
    };
    Reply { status, fields, content: body, close: false }
}

/// An event stream into which another event can be written.
fn is_readable_events(fields: &Fields) -> bool {
    let media_type = fields.content_type().unwrap_or_default();
    let media_type = media_type.split(|byte| *byte == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
        && !fields.contains(&CONTENT_ENCODING)
}

/// What the app said about itself, as a failure.
fn told(finding: &Finding, head: &ResponseHead, content: &hold::Held) -> Failure {
    let fields = head.fields.map();
    let mut failure = Failure::new(finding.kind, Phase::Head)
        .with_received_status(head.status.as_u16())
        .with_evidence(app::evidence(&fields, prefix(&content.pieces)));
    if let Some(dependency) = &finding.dependency {
        failure = failure.with_dependency(dependency.clone());
    }
    if let Some(trace) = finding.trace {
        failure = failure.with_trace(trace);
    }
    if let Some(value) = fields.get(RETRY_AFTER) {
        failure = failure.with_retry_after(Bytes::copy_from_slice(value.as_bytes()));
    }
    failure
}

/// The first bytes of what is held.
fn prefix(pieces: &Pieces) -> Bytes {
    if let Some(only) = pieces.only() {
        return only.slice(..only.len().min(INSPECT_BYTES));
    }
    let mut prefix = BytesMut::new();
    for piece in pieces.iter() {
        let room = INSPECT_BYTES - prefix.len();
        prefix.extend_from_slice(piece.get(..room).unwrap_or(piece));
        if prefix.len() >= INSPECT_BYTES {
            break;
        }
    }
    prefix.freeze()
}

/// The two fields that every response through seawall has; it was `received` over this version.
pub fn add_fields(fields: &mut Fields, received: Version, held: &Held) {
    let Some(subject) = held.subject() else { return };
    fields.add_ours(subject.worker.via.of(received), subject.id.as_bytes());
}

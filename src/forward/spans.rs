//! What of a request goes into its spans.

use http::header::{HeaderName, USER_AGENT};

use super::client::Client;
use super::head::Head;
use super::settle::Subject;
use super::{Worker, request as rewrite};
use crate::telemetry::spans::context::{self, Context, TRACEPARENT, TRACESTATE};
use crate::telemetry::spans::{Begun, Owner, Recording, Tracer, text};

/// The request's place in its trace, the client's or a new one.
pub fn begin(
    worker: &Worker,
    tracer: &Tracer,
    client: &Client,
    head: &Head,
    host: &str,
) -> Box<Recording> {
    let peer = &client.peer;
    let trusted = peer.trusted.get();
    let ids = &mut worker.ids.borrow_mut();
    let context = Context::begin(values(head, &TRACEPARENT), trusted, tracer.share, ids);
    let is_continued = context.parent.is_some();
    Box::new(Recording::new(context, || {
        let told = rewrite::told_address(&head.fields, peer);
        let agent = values(head, &USER_AGENT).next();
        let lossy = |bytes: &[u8]| text(&String::from_utf8_lossy(bytes));
        Begun {
            method: head.method.clone(),
            path: text(head.uri.path()),
            version: head.version,
            scheme: peer.scheme,
            host: text(host),
            peer: peer.address,
            client: told.map_or_else(|| peer.text.clone(), lossy),
            user_agent: agent.map(lossy),
            state: context::state(values(head, &TRACESTATE)).filter(|_| is_continued),
        }
    }))
}

/// The values of the lines of this name.
fn values<'h>(head: &'h Head, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    head.fields.named(name).map(|field| field.value)
}

/// Whose spans these are.
pub fn owner(subject: &Subject) -> Owner<'_> {
    let settings = &subject.route.settings;
    Owner { request_id: &subject.id, route: &settings.name, upstream: &settings.upstream.name }
}

//! What of a request goes into its spans.

use http::header::USER_AGENT;
use http::request;

use super::client::Client;
use super::settle::Subject;
use super::{Worker, request as rewrite};
use crate::telemetry::spans::context::{self, Context};
use crate::telemetry::spans::{Begun, Owner, Recording, Tracer, text};

/// The request's place in its trace, the client's or a new one.
pub fn begin(
    worker: &Worker,
    tracer: &Tracer,
    client: &Client,
    parts: &request::Parts,
    host: &str,
) -> Box<Recording> {
    let peer = &client.peer;
    let trusted = peer.trusted.get();
    let ids = &mut worker.ids.borrow_mut();
    let context = Context::begin(&parts.headers, trusted, tracer.share, ids);
    let is_continued = context.parent.is_some();
    Box::new(Recording::new(context, || {
        let told = rewrite::told_address(&parts.headers, peer);
        let agent = parts.headers.get(USER_AGENT);
        let lossy = |bytes: &[u8]| text(&String::from_utf8_lossy(bytes));
        Begun {
            method: parts.method.clone(),
            path: text(parts.uri.path()),
            version: parts.version,
            scheme: peer.scheme,
            host: text(host),
            peer: peer.address,
            client: told.map_or_else(|| peer.text.clone(), lossy),
            user_agent: agent.map(|agent| lossy(agent.as_bytes())),
            state: context::state(&parts.headers).filter(|_| is_continued),
        }
    }))
}

/// Whose spans these are.
pub fn owner(subject: &Subject) -> Owner<'_> {
    let settings = &subject.route.settings;
    Owner { request_id: &subject.id, route: &settings.name, upstream: &settings.upstream.name }
}

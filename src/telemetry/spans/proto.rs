//! Spans in OTLP's protobuf messages, with the names of OpenTelemetry's semantic conventions for
//! HTTP (<https://opentelemetry.io/docs/specs/semconv/http/http-spans/>). Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::otlp::{
    self, AnyValue, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource,
    ResourceSpans, ScopeSpans, SpanKind, Status, StatusCode, Value,
};
use super::{Attempt, Exchange, Failed, Span, What};
use crate::telemetry::metrics::SessionSummary;
use http::{Method, Version};

/// `trace-flags` and whether the parent is known to be, and is, somebody else's.
const SAMPLED: u32 = 0x001;
const IS_KNOWN: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// Who tells the spans.
pub(super) fn resource(service: &str, instance: &str) -> Resource {
    let mut attributes = Attributes::default();
    attributes.text("service.name", service);
    attributes.text("service.version", env!("CARGO_PKG_VERSION"));
    attributes.text("service.instance.id", instance);
    attributes.text("telemetry.sdk.name", "seawall");
    attributes.text("telemetry.sdk.language", "rust");
    attributes.text("telemetry.sdk.version", env!("CARGO_PKG_VERSION"));
    Resource { attributes: attributes.0 }
}

/// A batch, as it is sent.
pub(super) fn request(resource: Resource, batch: &[Box<Span>]) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope {
        name: "seawall".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut spans = Vec::new();
    for span in batch {
        write(span, &mut spans);
    }
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
    let spans = ResourceSpans { resource: Some(resource), scope_spans };
    ExportTraceServiceRequest { resource_spans: vec![spans] }
}

fn write(span: &Span, out: &mut Vec<otlp::Span>) {
    match &span.record.what {
        What::Request(exchange) => {
            out.push(server(span, exchange));
            for (attempt, resent) in exchange.attempts.iter().zip(0..) {
                out.push(client(span, exchange, attempt, resent));
            }
        }
        What::WebSocket(summary) => out.push(websocket(span, summary.as_ref())),
    }
}

/// What every span of seawall's has.
fn common(span: &Span, kind: SpanKind) -> otlp::Span {
    let context = &span.context;
    otlp::Span {
        trace_id: context.trace.0.to_vec(),
        span_id: context.span.0.to_vec(),
        parent_span_id: context.parent.map_or_else(Vec::new, |parent| parent.0.to_vec()),
        flags: SAMPLED | IS_KNOWN,
        kind: kind.into(),
        start_time_unix_nano: nanos(span.record.began),
        end_time_unix_nano: nanos(span.record.began + span.elapsed),
        ..otlp::Span::default()
    }
}

fn server(span: &Span, exchange: &Exchange) -> otlp::Span {
    let begun = &exchange.begun;
    let mut out = common(span, SpanKind::Server);
    out.name = format!("{} {}", named(&begun.method), span.route);
    if span.context.parent.is_some() {
        out.flags |= IS_REMOTE;
    }
    out.trace_state = begun.state.as_deref().unwrap_or_default().to_owned();
    let mut attributes = Attributes::default();
    attributes.method(&begun.method);
    attributes.text("url.path", &begun.path);
    attributes.text("url.scheme", begun.scheme);
    attributes.host(&begun.host);
    attributes.text("client.address", &begun.client);
    attributes.text("network.peer.address", &begun.peer.to_string());
    attributes.text("network.protocol.version", version(begun.version));
    if let Some(agent) = &begun.user_agent {
        attributes.text("user_agent.original", agent);
    }
    attributes.number("http.response.status_code", exchange.status.into());
    attributes.owner(span);
    if let Some(why) = exchange.refused {
        attributes.text("seawall.client_failure", why);
    }
    if let Some(kind) = exchange.recovered {
        attributes.text("seawall.recovered", kind.name());
    }
    out.status = match &span.record.failed {
        Some(failed) => Some(attributes.failed(failed)),
        // A 503 of our own is an error, and nobody's failure.
        None if exchange.status >= 500 => {
            attributes.text("error.type", &exchange.status.to_string());
            Some(error(""))
        }
        None => None,
    };
    out.attributes = attributes.0;
    out
}

fn client(span: &Span, exchange: &Exchange, attempt: &Attempt, resent: i64) -> otlp::Span {
    let begun = &exchange.begun;
    let mut out = common(span, SpanKind::Client);
    out.span_id = attempt.span.0.to_vec();
    out.parent_span_id = span.context.span.0.to_vec();
    out.name = named(&begun.method).to_owned();
    out.start_time_unix_nano = nanos(attempt.began);
    if let Some(ended) = attempt.ended {
        out.end_time_unix_nano = nanos(ended);
    }
    let mut attributes = Attributes::default();
    attributes.method(&begun.method);
    let (scheme, host) = attempt.endpoint.split_once("://").unwrap_or(("http", &attempt.endpoint));
    attributes.text("url.full", &format!("{scheme}://{host}{}", begun.path));
    attributes.host(host);
    if let Some(spoken) = attempt.version {
        attributes.text("network.protocol.version", version(spoken));
    }
    if let Some(status) = attempt.status {
        attributes.number("http.response.status_code", status.into());
    }
    if resent > 0 {
        attributes.number("http.request.resend_count", resent);
    }
    attributes.text("seawall.upstream", &span.upstream);
    out.status = match (attempt.failed, attempt.status) {
        (Some(kind), _) => {
            attributes.text("error.type", kind.name());
            Some(error(kind.name()))
        }
        (None, Some(status)) if status >= 400 => {
            attributes.text("error.type", &status.to_string());
            Some(error(""))
        }
        (None, _) => None,
    };
    out.attributes = attributes.0;
    out
}

fn websocket(span: &Span, summary: Option<&SessionSummary>) -> otlp::Span {
    let mut out = common(span, SpanKind::Internal);
    out.name = format!("WebSocket {}", span.route);
    let mut attributes = Attributes::default();
    attributes.text("network.protocol.name", "websocket");
    attributes.owner(span);
    if let Some(summary) = summary {
        attributes.number("seawall.websocket.close_code", summary.code.into());
        attributes.text("seawall.websocket.initiator", summary.initiator);
        for (direction, traffic) in
            [("to_client", summary.to_client), ("to_upstream", summary.to_upstream)]
        {
            let name = |what| format!("seawall.websocket.{direction}.{what}");
            let most = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            attributes.number(&name("messages"), most(traffic.messages));
            attributes.number(&name("bytes"), most(traffic.bytes));
        }
    }
    out.status = span.record.failed.as_ref().map(|failed| attributes.failed(failed));
    out.attributes = attributes.0;
    out
}

/// A span's attributes, as they are collected.
#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn push(&mut self, key: &str, value: Value) {
        let value = Some(AnyValue { value: Some(value) });
        self.0.push(KeyValue { key: key.to_owned(), value });
    }

    fn text(&mut self, key: &str, value: &str) {
        self.push(key, Value::Text(value.to_owned()));
    }

    fn number(&mut self, key: &str, value: i64) {
        self.push(key, Value::Integer(value));
    }

    fn method(&mut self, asked: &Method) {
        self.text("http.request.method", method(asked));
        if method(asked) == UNKNOWN {
            self.text("http.request.method_original", &super::text(asked.as_str()));
        }
    }

    /// Name and port of an authority.
    fn host(&mut self, authority: &str) {
        let (name, port) = match authority.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
            _ => (authority, None),
        };
        self.text("server.address", name.trim_matches(['[', ']']));
        if let Some(port) = port {
            self.number("server.port", port);
        }
    }

    fn owner(&mut self, span: &Span) {
        self.text("seawall.request_id", span.request_id.as_str());
        self.text("seawall.route", &span.route);
        self.text("seawall.upstream", &span.upstream);
    }

    fn failed(&mut self, failed: &Failed) -> Status {
        let kind = failed.kind.name();
        self.text("error.type", kind);
        self.text("seawall.phase", failed.phase);
        self.text("seawall.outcome", failed.outcome);
        if let Some(dependency) = &failed.dependency {
            self.text("seawall.dependency", dependency);
        }
        if failed.rehearsed {
            self.push("seawall.rehearsed", Value::Bool(true));
        }
        error(kind)
    }
}

fn error(message: &str) -> Status {
    Status { message: message.to_owned(), code: StatusCode::Error.into() }
}

/// What an unknown method is called: names of spans shall be few.
const UNKNOWN: &str = "_OTHER";

fn method(method: &Method) -> &'static str {
    const KNOWN: &[&str] =
        &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.iter().find(|known| **known == method.as_str()).copied().unwrap_or(UNKNOWN)
}

/// The method in a span's name.
fn named(asked: &Method) -> &'static str {
    match method(asked) {
        UNKNOWN => "HTTP",
        known => known,
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::context::{Context, Share};
    use super::super::{Begun, Owner, Recording};
    use super::*;
    use crate::failure::{Failure, Kind, Outcome, Phase};
    use crate::telemetry::metrics::Traffic;
    use crate::telemetry::request_id::{RequestId, RequestIds};

    /// A request with this method, to which `happens`.
    fn told(
        method: &[u8],
        status: u16,
        happens: impl FnOnce(&Recording, &mut RequestIds),
    ) -> Vec<otlp::Span> {
        let mut ids = RequestIds::new();
        let everything = Share::of_percent(100.0);
        let context = Context::begin([], false, everything, &mut ids);
        let method = Method::from_bytes(method).unwrap();
        let recording = Recording::new(context, || Begun { method, ..begun() });
        happens(&recording, &mut ids);
        written(recording.ended(status, &owner()).unwrap())
    }

    fn begun() -> Begun {
        Begun {
            method: Method::GET,
            path: "/a".into(),
            version: Version::HTTP_2,
            scheme: "https",
            host: "[::1]:8443".into(),
            peer: [10, 0, 0, 9].into(),
            client: "10.0.0.9".into(),
            user_agent: None,
            state: None,
        }
    }

    fn written(span: Span) -> Vec<otlp::Span> {
        let request = request(resource("edge", "one"), &[Box::new(span)]);
        let [spans] = &*request.resource_spans else { panic!("one resource") };
        spans.scope_spans[0].spans.clone()
    }

    fn owner() -> Owner<'static> {
        static NAMES: std::sync::LazyLock<(RequestId, Arc<str>, Arc<str>)> =
            std::sync::LazyLock::new(|| (RequestId::accept("id-1"), "api".into(), "app".into()));
        Owner { request_id: &NAMES.0, route: &NAMES.1, upstream: &NAMES.2 }
    }

    fn get<'s>(span: &'s otlp::Span, key: &str) -> Option<&'s Value> {
        let mut found = span.attributes.iter().filter(|pair| pair.key == key);
        let value = found.next()?.value.as_ref()?.value.as_ref();
        assert!(found.next().is_none(), "{key} is told once");
        value
    }

    fn text(text: &str) -> Option<Value> {
        Some(Value::Text(text.to_owned()))
    }

    #[test]
    fn an_authority_is_a_name_and_a_port() {
        let spans = told(b"GET", 200, |_, _| {});
        assert_eq!(get(&spans[0], "server.address").cloned(), text("::1"));
        assert_eq!(get(&spans[0], "server.port"), Some(&Value::Integer(8443)));
        assert_eq!(get(&spans[0], "network.protocol.version").cloned(), text("2"));
    }

    #[test]
    fn a_method_that_nobody_knows_makes_no_name() {
        let spans = told(b"BREW", 200, |_, _| {});
        assert_eq!(spans[0].name, "HTTP api");
        assert_eq!(get(&spans[0], "http.request.method").cloned(), text("_OTHER"));
        assert_eq!(get(&spans[0], "http.request.method_original").cloned(), text("BREW"));
    }

    #[test]
    fn the_clients_mistakes_are_no_errors_of_ours() {
        let spans = told(b"GET", 413, |recording, _| recording.refused("content_too_large"));
        assert_eq!(spans[0].status, None);
        assert_eq!(get(&spans[0], "seawall.client_failure").cloned(), text("content_too_large"));
        // Whoever is refused for want of room sees an error, and it has no kind.
        let spans = told(b"GET", 503, |_, _| {});
        assert_eq!(spans[0].status, Some(error("")));
        assert_eq!(get(&spans[0], "error.type").cloned(), text("503"));
    }

    #[test]
    fn a_failure_after_the_head_is_its_attempts_too() {
        let endpoint: Arc<str> = "http://a:1".into();
        let spans = told(b"GET", 200, |recording, ids| {
            recording.attempt(&endpoint, ids);
            recording.attempted(Ok((200, Version::HTTP_11)));
            let failure = Failure::new(Kind::HttpResponseIncomplete, Phase::Body)
                .with_dependency("postgres".into());
            recording.failed(&failure, Outcome::Aborted);
        });
        let [server, client] = &*spans else { panic!("{spans:?}") };
        assert_eq!(client.parent_span_id, server.span_id);
        for span in [server, client] {
            assert_eq!(span.status, Some(error("http_response_incomplete")));
            assert_eq!(get(span, "http.response.status_code"), Some(&Value::Integer(200)));
        }
        assert_eq!(get(server, "seawall.outcome").cloned(), text("aborted"));
        assert_eq!(get(server, "seawall.dependency").cloned(), text("postgres"));
    }

    #[test]
    fn an_apps_error_that_may_pass_is_an_error_of_its_attempt() {
        let endpoint: Arc<str> = "https://a:1".into();
        let spans = told(b"GET", 404, |recording, ids| {
            recording.attempt(&endpoint, ids);
            recording.attempted(Ok((404, Version::HTTP_2)));
        });
        assert_eq!((&spans[0].status, &spans[1].status), (&None, &Some(error(""))));
        assert_eq!(get(&spans[1], "error.type").cloned(), text("404"));
        assert_eq!(get(&spans[1], "url.full").cloned(), text("https://a:1/a"));
    }

    #[test]
    fn a_websocket_is_below_its_request() {
        let mut ids = RequestIds::new();
        let everything = Share::of_percent(100.0);
        let context = Context::begin([], false, everything, &mut ids);
        let (trace, request) = (context.trace, context.span);
        let mut recording = Recording::new(context, begun);
        recording.upgraded(&mut ids);
        let traffic = Traffic { messages: 2, bytes: 9, cut: false };
        let summary = SessionSummary {
            code: 1000,
            initiator: "client",
            to_client: traffic,
            to_upstream: Traffic::default(),
        };
        let spans = written(recording.closed(&summary, &owner()).unwrap());
        assert_eq!(spans[0].trace_id, trace.0);
        assert_eq!(spans[0].parent_span_id, request.0);
        assert_eq!(spans[0].status, None);
        let bytes = get(&spans[0], "seawall.websocket.to_client.bytes");
        assert_eq!(bytes, Some(&Value::Integer(9)));
    }

    #[test]
    fn what_is_not_sampled_is_nowhere() {
        let mut ids = RequestIds::new();
        let nothing = Share::of_percent(0.0);
        let context = Context::begin([], false, nothing, &mut ids);
        let recording = Recording::new(context, || unreachable!("asked only if sampled"));
        recording.attempt(&"http://a:1".into(), &mut ids);
        assert!(recording.ended(200, &owner()).is_none());
        assert!(recording.traceparent().ends_with(b"-02"));
    }
}

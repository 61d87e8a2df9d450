//! Upstreams: endpoints, waits, limits, TLS.

use std::sync::Arc;

use super::super::diagnostic::Problem;
use super::super::model::{
    Dns, Endpoint, Records, Retry, Scheme, Timeouts, Upstream, UpstreamLimits, UpstreamProtocol,
    UpstreamTls,
};
use super::super::raw::Span;
use super::super::scope::{Found, Scope};
use super::{Base, entrance, listener, network, plain_name, survive, to_usize, wrong};

/// The largest window of HTTP/2 (RFC 9113 §6.9.1).
const MAX_WINDOW: u32 = 0x7fff_ffff;

/// An upstream and whether it is used.
pub(super) struct Known {
    pub(super) upstream: Arc<Upstream>,
}

pub(super) fn upstreams(root: &Scope<'_>, base: Base<'_>) -> Vec<Known> {
    let mut known = Vec::new();
    let meaning = "The apps, each a named group of endpoints that serve the same.";
    for (name, section) in root.named("upstreams", true, meaning) {
        let label = plain_name(&name.text);
        if label.is_none() && !section.is_describing() {
            let message = format!("`{}` cannot name an upstream", name.text);
            let remedy =
                "use up to 64 letters, digits, `-`, `_` and `.`: it becomes a metric label";
            section.problem(Problem::new(name.span, &message).remedy(remedy));
        }
        let protocol = protocol(&section);
        let upstream = Upstream {
            name: label.unwrap_or_else(|| name.text.into()),
            endpoints: endpoints(&section),
            dns: dns(&section),
            resolver: network::name_resolver(&section),
            protocol,
            timeouts: timeouts(&section),
            tcp: network::tcp(&section),
            limits: limits(&section),
            retry: retry(&section),
            balance: survive::balance(&section),
            ejection: survive::ejection(&section),
            circuit: survive::circuit(&section),
            concurrency: survive::concurrency(&section),
            slow_start: section.duration(
                "slow_start",
                Upstream::SLOW_START,
                "How long an endpoint that comes back takes to get its full share; 0s is at once.",
            ),
            health: survive::health(&section),
            tls: tls(&section, base),
            proxy_protocol: entrance::proxy_version(&section, protocol),
        };
        survive::agree(&section, &upstream);
        section.finish();
        known.push(Known { upstream: Arc::new(upstream) });
    }
    known
}

fn endpoints(section: &Scope<'_>) -> Vec<Endpoint> {
    const FORM: &str = "http://HOST:PORT or https://HOST[:PORT]";
    let meaning = "Where the app listens.";
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let elsewhere = section.has("dns") || section.is_describing();
    for entry in section.texts_or_sections("endpoints", FORM, !elsewhere, meaning) {
        let (found, weight) = match entry {
            Err(text) => (Some(text), 1),
            Ok(entry) => {
                let url = entry.required_text("url", FORM, "Its address.");
                let meaning = "Its share of the requests beside those of the others.";
                let weight = entry.integer("weight", 1, (1, 100), meaning);
                entry.finish();
                (url, u32::try_from(weight).unwrap_or(1))
            }
        };
        let Some(found) = found else { continue };
        match parse_endpoint(&found.value) {
            Ok(endpoint) => {
                if endpoints.iter().any(|known| known.label == endpoint.label) {
                    let message = format!("{} is listed twice", endpoint.label);
                    section
                        .problem(Problem::new(found.span, &message).remedy("keep one of the two"));
                }
                endpoints.push(Endpoint { weight, ..endpoint });
            }
            Err(remedy) => wrong(section, "endpoints", &found, &remedy),
        }
    }
    endpoints
}

fn dns(section: &Scope<'_>) -> Option<Dns> {
    const FORM: &str = "http://NAME:PORT or https://NAME[:PORT]";
    let meaning =
        "A name whose addresses are the endpoints, instead of a list; asked again as its TTL says.";
    let (name, dns) = match section.text_or_section("dns", FORM, meaning)? {
        Err(name) => (Some(name), None),
        Ok(dns) => {
            let meaning = "The name, with the scheme and the port of the endpoints.";
            let name = dns.required_text("name", FORM, meaning);
            let meaning = "Its A and AAAA records, or its SRV records, which have ports and weights of their own.";
            let records = dns.word("records", &["addresses", "srv"], 0, meaning);
            let meaning = "Resolvers to ask, ADDRESS[:PORT]; the system's if not set.";
            let servers = network::servers(&dns, meaning);
            let meaning = "How long an answer is used at least.";
            let least = dns.wait("min_ttl", Dns::LEAST, meaning);
            let meaning = "How long an answer is used at most.";
            let most = dns.wait("max_ttl", Dns::MOST, meaning);
            dns.finish();
            (name, Some((records, servers, least, most)))
        }
    };
    let name = name?;
    if section.has("endpoints") {
        wrong(section, "dns", &name, "set endpoints or dns, not both");
    }
    let endpoint = match parse_endpoint(&name.value) {
        Ok(endpoint) if endpoint.host.parse::<std::net::IpAddr>().is_err() => endpoint,
        Ok(_) => {
            wrong(section, "dns", &name, "list addresses under endpoints");
            return None;
        }
        Err(remedy) => {
            wrong(section, "dns", &name, &remedy);
            return None;
        }
    };
    let (records, servers, least, most) = dns.unwrap_or((0, Vec::new(), Dns::LEAST, Dns::MOST));
    if least > most {
        wrong(section, "dns", &name, "min_ttl must not be longer than max_ttl");
    }
    let records = if records == 0 { Records::Addresses } else { Records::Services };
    Some(Dns {
        identity: Dns::identity_of(&endpoint.host, records).into(),
        name: endpoint.host,
        scheme: endpoint.scheme,
        port: endpoint.port,
        records,
        servers,
        least,
        most: most.max(least),
    })
}

/// Reads `http://host:port`, `https://host`, `host:port`.
pub(in crate::config) fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    const FORM: &str = "write http://HOST:PORT or https://HOST[:PORT]";
    let (scheme, authority) = match text.split_once("://") {
        Some(("http", rest)) => (Scheme::Http, rest),
        Some(("https", rest)) => (Scheme::Https, rest),
        Some(("ws", rest)) => {
            return Err(format!("write http://{rest}; WebSockets are upgraded from HTTP"));
        }
        Some(("wss", rest)) => {
            return Err(format!("write https://{rest}; WebSockets are upgraded from HTTP"));
        }
        Some((scheme, _)) => return Err(format!("{scheme} is not supported; {FORM}")),
        None => (Scheme::Http, text),
    };
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    if authority.contains('@') {
        return Err("remove the user name: credentials do not belong here".to_owned());
    }
    if authority.contains(['/', '?', '#']) {
        return Err("remove the path: requests keep their own".to_owned());
    }
    let (host, port) = match authority.rsplit_once(':') {
        // A colon inside brackets belongs to the address.
        Some((host, port)) if !port.ends_with(']') => (
            host,
            port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| FORM.to_owned())?,
        ),
        _ => (authority, if scheme == Scheme::Https { 443 } else { 80 }),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let valid = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            (1..=253).contains(&host.len()) && host.chars().all(plain)
        }
    };
    if !valid {
        return Err(FORM.to_owned());
    }
    let prefix = if scheme == Scheme::Https { "https" } else { "http" };
    // The root's dot belongs to a question for a name, not to the name in a certificate (RFC 6066 §3).
    let name = host.strip_suffix('.').filter(|name| !name.is_empty()).unwrap_or(host);
    Ok(Endpoint {
        label: format!("{prefix}://{host}:{port}").into(),
        scheme,
        name: bare.unwrap_or(name).into(),
        host: bare.unwrap_or(host).into(),
        port,
        weight: 1,
    })
}

fn protocol(section: &Scope<'_>) -> UpstreamProtocol {
    let meaning = "What is spoken to endpoints: HTTP/1.1, HTTP/2 (prior knowledge or ALPN), or what ALPN agrees on; WebSockets are HTTP/1.1 always.";
    match section.word("protocol", &["http1", "http2", "auto"], 0, meaning) {
        0 => UpstreamProtocol::Http1,
        1 => UpstreamProtocol::Http2,
        _ => UpstreamProtocol::Auto,
    }
}

fn timeouts(upstream: &Scope<'_>) -> Timeouts {
    let section = upstream.section("timeouts", "How long each wait for the upstream may take.");
    let d = Timeouts::default();
    let timeouts = Timeouts {
        resolve: section.wait("resolve", d.resolve, "Resolving a name."),
        connect: section.wait("connect", d.connect, "The TCP and TLS handshakes together."),
        head: section.wait(
            "head",
            d.head,
            "How long the upstream may take to its complete response head, over all attempts and connecting included. It runs while the upstream alone is waited for, and begins anew with an interim response.",
        ),
        idle: section.wait(
            "idle",
            d.idle,
            "How long content may stand still, in either direction.",
        ),
        expect_continue: section.wait(
            "expect_continue",
            d.expect_continue,
            "How long request content waits for the upstream's 100 (continue).",
        ),
        keep_alive: section.duration(
            "keep_alive",
            d.keep_alive,
            "How long an unused connection is kept.",
        ),
        refusal: section.duration(
            "refusal",
            d.refusal,
            "How long a refused connection is believed: the worker does not try this endpoint again before, and what would need a connection is refused at once. 0s tries each time.",
        ),
        ping_interval: section.duration(
            "ping_interval",
            d.ping_interval,
            "An HTTP/2 connection on which nothing has come for so long is pinged; 0s is never. gRPC servers close what is pinged more often than every 5 minutes.",
        ),
        ping: section.wait(
            "ping",
            d.ping,
            "How long a ping waits for any byte; without one the connection gets no new requests. A request that goes out after so long a silence brings a ping along.",
        ),
    };
    section.finish();
    timeouts
}

fn limits(upstream: &Scope<'_>) -> UpstreamLimits {
    let section =
        upstream.section("limits", "How much may be open, and how large a response may be.");
    let d = UpstreamLimits::default();
    let limits = UpstreamLimits {
        connections: to_usize(section.integer(
            "connections",
            d.connections as u64,
            (1, 1_000_000),
            "Open connections over all workers, WebSockets not among them.",
        )),
        endpoint_connections: to_usize(section.integer(
            "endpoint_connections",
            d.endpoint_connections as u64,
            (0, 1_000_000),
            "Open connections to one endpoint over all workers, WebSockets not among them. 0 is no limit.",
        )),
        requests: to_usize(section.integer(
            "requests",
            d.requests as u64,
            (0, 1_000_000),
            "Requests under way over all workers, WebSockets not among them. 0 is no limit.",
        )),
        endpoint_requests: to_usize(section.integer(
            "endpoint_requests",
            d.endpoint_requests as u64,
            (0, 1_000_000),
            "Requests under way at one endpoint over all workers; the next one goes to another endpoint, or waits if all are full. 0 is no limit.",
        )),
        pending: to_usize(section.integer(
            "pending",
            d.pending as u64,
            (0, 1_000_000),
            "Requests of one worker that wait for a connection, or for a stream on one, while there are as many as may be; and of all workers that wait while as many as may be are under way.",
        )),
        pending_time: section.wait("pending_time", d.pending_time, "How long such a request waits."),
        idle_connections: to_usize(section.integer(
            "idle_connections",
            d.idle_connections as u64,
            (0, 100_000),
            "Idle connections kept per worker and endpoint.",
        )),
        head_bytes: to_usize(section.size(
            "head",
            d.head_bytes as u64,
            512,
            "The largest response head.",
        )),
        field_bytes: to_usize(section.size(
            "field",
            d.field_bytes as u64,
            256,
            "The largest field line of a response.",
        )),
        fields: to_usize(section.integer(
            "fields",
            d.fields as u64,
            (1, 10_000),
            "The most field lines of a response.",
        )),
        body_bytes: section.optional_size(
            "body",
            d.body_bytes,
            0,
            "The largest response content; unlimited if not set, since content is streamed.",
        ),
        trailer_bytes: to_usize(section.size(
            "trailers",
            d.trailer_bytes as u64,
            64,
            "The largest trailer section.",
        )),
        interim_responses: to_usize(section.integer(
            "interim_responses",
            d.interim_responses as u64,
            (0, 10_000),
            "The most interim (1xx) responses before the final one.",
        )),
        websockets: to_usize(section.integer(
            "websockets",
            d.websockets as u64,
            (1, 10_000_000),
            "Open WebSockets over all workers; one more is answered 503 with Retry-After.",
        )),
        handshakes: u32::try_from(section.integer(
            "handshakes",
            u64::from(d.handshakes),
            (0, 1_000_000),
            "WebSocket handshakes a second; the surplus is answered 503 with Retry-After. 0 is no limit.",
        ))
        .unwrap_or(d.handshakes),
        streams: to_usize(section.integer(
            "streams",
            d.streams as u64,
            (1, 100_000),
            "Requests at a time on one HTTP/2 connection, if the upstream allows as many.",
        )),
        window: u32::try_from(section.size(
            "window",
            u64::from(d.window),
            16 * 1024,
            "How much of one HTTP/2 response may wait for its client.",
        ))
        .map_or(MAX_WINDOW, |window| window.min(MAX_WINDOW)),
    };
    section.finish();
    limits
}

fn retry(upstream: &Scope<'_>) -> Retry {
    let section =
        upstream.section("retry", "When a request is sent again (RFC 9110 section 9.2.2).");
    let d = Retry::default();
    let meaning = "Attempts in all, the first included; 1 is no retry.";
    let attempts = section.integer("attempts", u64::from(d.attempts), (1, 16), meaning);
    let meaning = "Retries in percent of requests, so that they cannot become a flood.";
    let budget = section.integer("budget_percent", u64::from(d.budget_percent), (0, 100), meaning);
    let retry = Retry {
        attempts: u32::try_from(attempts).unwrap_or(d.attempts),
        budget_percent: u32::try_from(budget).unwrap_or(d.budget_percent),
        attempt: section.duration(
            "attempt",
            d.attempt,
            "How long an attempt may take to its response head while another endpoint can be asked after it; 0s is as long as timeouts.head, which bounds all attempts together.",
        ),
        replay_bytes: to_usize(section.size(
            "replay",
            d.replay_bytes as u64,
            0,
            "How much request content is kept to be sent again.",
        )),
        idempotency_key: section.bool(
            "idempotency_key",
            d.idempotency_key,
            "A request with an Idempotency-Key field is sent again like a GET.",
        ),
    };
    section.removed("total", "remove it: timeouts.head bounds all attempts together");
    section.finish();
    retry
}

fn tls(upstream: &Scope<'_>, base: Base<'_>) -> UpstreamTls {
    let section = upstream.section("tls", "TLS towards https endpoints.");
    let meaning = "Trusted root certificates; the system's if not set.";
    let roots = section
        .text("roots", "PEM file", None, meaning)
        .and_then(|found| listener::certificates(&section, "roots", &found, base))
        .map(Arc::new);
    let meaning = "The certificate that seawall presents.";
    let identity = section.optional_section("certificate", meaning).and_then(|certificate| {
        let identity = listener::identity(&certificate, base);
        certificate.finish();
        identity
    });
    let meaning = "The name to ask for and to verify; if not set, the endpoint's host, or the name in dns (without the _service._proto of SRV).";
    let server_name = section.text("server_name", "DNS name", None, meaning);
    let server_name = server_name.and_then(|found| server_name_of(&section, &found));
    section.finish();
    UpstreamTls { roots, identity, server_name }
}

fn server_name_of(section: &Scope<'_>, found: &Found<String>) -> Option<Arc<str>> {
    match rustls_pki_types::ServerName::try_from(&*found.value) {
        Ok(_) => Some((&*found.value).into()),
        Err(_) => {
            wrong(section, "server_name", found, "write a DNS name such as app.internal");
            None
        }
    }
}

/// Finds an upstream by name.
pub(super) fn find<'k>(
    known: &'k [Known],
    scope: &Scope<'_>,
    name: &str,
    span: Span,
) -> Option<&'k Arc<Upstream>> {
    let found = known.iter().find(|known| &*known.upstream.name == name);
    if found.is_none() {
        let names: Vec<&str> = known.iter().map(|known| &*known.upstream.name).collect();
        let remedy = match super::super::diagnostic::nearest(name, names.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if names.is_empty() => "define it under upstreams".to_owned(),
            None => format!("defined are: {}", names.join(", ")),
        };
        let message = format!("no upstream is named `{name}`");
        scope.problem(Problem::new(span, &message).remedy(&remedy));
    }
    found.map(|known| &known.upstream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_have_their_usual_forms() {
        for (text, label, host) in [
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000", "127.0.0.1"),
            ("http://app/", "http://app:80", "app"),
            ("https://app.internal", "https://app.internal:443", "app.internal"),
            ("app:3000", "http://app:3000", "app"),
            ("http://[::1]:3000", "http://[::1]:3000", "::1"),
            ("https://[::1]", "https://[::1]:443", "::1"),
        ] {
            let endpoint = parse_endpoint(text).unwrap();
            assert_eq!((&*endpoint.label, &*endpoint.host), (label, host), "{text}");
            assert_eq!(&*endpoint.name, host, "{text}");
        }
        let absolute = parse_endpoint("https://app.internal.").unwrap();
        assert_eq!((&*absolute.host, &*absolute.name), ("app.internal.", "app.internal"));
    }

    #[test]
    fn what_is_no_endpoint_is_told_with_a_remedy() {
        for (text, remedy) in [
            ("ws://app:1", "http://app:1"),
            ("ftp://app", "not supported"),
            ("http://app/path", "path"),
            ("http://me@app", "user name"),
            ("http://app:0", "PORT"),
            ("http://app:99999", "PORT"),
            ("http://", "HOST"),
            ("http://a b", "HOST"),
            ("http://[::1", "HOST"),
        ] {
            assert!(parse_endpoint(text).unwrap_err().contains(remedy), "{text}");
        }
    }
}

//! The configuration as loaded, for operators. Secrets are not in it: of a key it says only that
//! there is one.

use serde_json::{Value, json};

use super::model::{
    Balance, Circuit, Concurrency, Config, Dns, HashKey, Health, HostPattern, ListenerTls,
    PathPattern, Probe, ProxyProtocol, ProxyVersion, Records, ToldIdentity, Tracing,
    UpstreamProtocol,
};
use super::units::{bytes_text, duration_text};

impl Config {
    /// What runs, as JSON, secrets hidden.
    #[must_use]
    pub fn describe(&self) -> Value {
        let listeners = self.listeners.iter().map(|listener| {
            json!({
                "address": listener.address.to_string(),
                "tls": listener.tls.as_ref().map(tls),
                "redirect": listener.redirect.map(|port| json!({ "port": port })),
                "proxy_protocol": match listener.proxy_protocol {
                    ProxyProtocol::Never => "never",
                    ProxyProtocol::Trusted => "trusted",
                    ProxyProtocol::Always => "always",
                },
            })
        });
        let upstreams = self.upstreams.iter().map(|upstream| {
            let (timeouts, limits) = (&upstream.timeouts, &upstream.limits);
            let endpoints: Vec<_> = upstream
                .endpoints
                .iter()
                .map(|endpoint| json!({ "url": &*endpoint.label, "weight": endpoint.weight }))
                .collect();
            let described = json!({
                "endpoints": endpoints,
                "dns": upstream.dns.as_ref().map(dns),
                "protocol": match upstream.protocol {
                    UpstreamProtocol::Http1 => "http1",
                    UpstreamProtocol::Http2 => "http2",
                    UpstreamProtocol::Auto => "auto",
                },
                "timeouts": {
                    "resolve": duration_text(timeouts.resolve),
                    "connect": duration_text(timeouts.connect),
                    "head": duration_text(timeouts.head),
                    "idle": duration_text(timeouts.idle),
                    "expect_continue": duration_text(timeouts.expect_continue),
                    "keep_alive": duration_text(timeouts.keep_alive),
                    "refusal": duration_text(timeouts.refusal),
                },
                "limits": {
                    "connections": limits.connections,
                    "endpoint_connections": limits.endpoint_connections,
                    "requests": limits.requests,
                    "endpoint_requests": limits.endpoint_requests,
                    "pending": limits.pending,
                    "pending_time": duration_text(limits.pending_time),
                    "idle_connections": limits.idle_connections,
                    "head": bytes_text(limits.head_bytes as u64),
                    "field": bytes_text(limits.field_bytes as u64),
                    "fields": limits.fields,
                    "body": limits.body_bytes.map(bytes_text),
                    "trailers": bytes_text(limits.trailer_bytes as u64),
                    "interim_responses": limits.interim_responses,
                    "websockets": limits.websockets,
                    "handshakes": limits.handshakes,
                    "streams": limits.streams,
                    "window": bytes_text(u64::from(limits.window)),
                },
                "retry": {
                    "attempts": upstream.retry.attempts,
                    "budget_percent": upstream.retry.budget_percent,
                    "attempt": duration_text(upstream.retry.attempt),
                    "replay": bytes_text(upstream.retry.replay_bytes as u64),
                    "idempotency_key": upstream.retry.idempotency_key,
                },
                "balance": balance(&upstream.balance),
                "ejection": {
                    "consecutive_failures": upstream.ejection.consecutive_failures,
                    "failure_percent": upstream.ejection.failure_percent,
                    "min_requests": upstream.ejection.min_requests,
                    "window": duration_text(upstream.ejection.window),
                    "base": duration_text(upstream.ejection.base),
                    "max": duration_text(upstream.ejection.max),
                    "max_percent": upstream.ejection.max_percent,
                    "count_app_errors": upstream.ejection.count_app_errors,
                },
                "circuit": upstream.circuit.as_ref().map(circuit),
                "concurrency": upstream.concurrency.as_ref().map(concurrency),
                "slow_start": duration_text(upstream.slow_start),
                "health": upstream.health.as_ref().map(health),
                "tls": {
                    "roots": if upstream.tls.roots.is_some() { "file" } else { "system" },
                    "certificate": upstream.tls.identity.as_ref().map(|_| "set"),
                    "server_name": upstream.tls.server_name.as_deref(),
                },
                "proxy_protocol": match upstream.proxy_protocol {
                    None => "never",
                    Some(ProxyVersion::V1) => "v1",
                    Some(ProxyVersion::V2) => "v2",
                },
            });
            (upstream.name.to_string(), described)
        });
        let routes = self.routes.iter().map(|route| {
            json!({
                "name": &*route.name,
                "host": match &route.host {
                    HostPattern::Any => "*".to_owned(),
                    HostPattern::Exact(host) => host.to_string(),
                    HostPattern::Below(suffix) => format!("*{suffix}"),
                },
                "path": match &route.path {
                    PathPattern::Any => "/*".to_owned(),
                    PathPattern::Exact(path) => path.to_string(),
                    PathPattern::Below(prefix) => format!("{prefix}/*"),
                },
                "upstream": &*route.upstream.name,
                "hold": {
                    "bytes": bytes_text(route.hold.bytes as u64),
                    "time": duration_text(route.hold.time),
                    "types": route.hold.types.iter().map(ToString::to_string).collect::<Vec<_>>(),
                },
                "sse_event": route.sse_event,
                "rehearse": route.rehearsal.is_some(),
                "templates": route.policy.templates().len(),
                "cors": route.policy.cors().is_some(),
                "request_body": route.request_body_bytes.map(bytes_text),
                "dependencies": route.policy.dependencies().iter().map(|rule| &*rule.name).collect::<Vec<_>>(),
            })
        });
        json!({
            "workers": self.workers,
            "listeners": listeners.collect::<Vec<_>>(),
            "admin": {
                "address": self.admin.address.map(|address| address.to_string()),
                "token": self.admin.token.as_ref().map(|_| "set"),
                "hosts": self.admin.hosts,
            },
            "upstreams": upstreams.collect::<serde_json::Map<_, _>>(),
            "routes": routes.collect::<Vec<_>>(),
            "websocket": {
                "ping_interval": duration_text(self.websocket.ping_interval),
                "pong_timeout": duration_text(self.websocket.pong_timeout),
                "close_timeout": duration_text(self.websocket.close_timeout),
                "write_timeout": duration_text(self.websocket.write_timeout),
                "max_frame": bytes_text(self.websocket.max_frame),
                "hold": bytes_text(self.websocket.hold as u64),
                "read": bytes_text(self.websocket.read as u64),
                "idle_timeout": duration_text(self.websocket.idle_timeout),
                "close_spread": duration_text(self.websocket.loss_spread),
            },
            "clients": {
                "handshake_timeout": duration_text(self.clients.handshake_timeout),
                "head_timeout": duration_text(self.clients.head_timeout),
                "body_timeout": duration_text(self.clients.body_timeout),
                "body_rate": self.clients.body_rate,
                "write_timeout": duration_text(self.clients.write_timeout),
                "head": bytes_text(self.clients.head_bytes as u64),
                "target": bytes_text(self.clients.target_bytes as u64),
                "fields": self.clients.fields,
                "connections": self.clients.connections,
                "per_address": self.clients.per_address,
                "requests_per_connection": self.clients.requests_per_connection,
                "streams": self.clients.streams,
            },
            "forwarded": {
                "name": self.forwarded.name,
                "keep": self.forwarded.keep.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "max_passes": self.forwarded.max_passes,
                "trusted": self.forwarded.trusted.iter().map(ToString::to_string).collect::<Vec<_>>(),
            },
            "log": { "filter": self.log.filter, "access": self.log.access },
            "journal": {
                "entries": self.journal.entries,
                "file": self.journal.file.as_ref().map(|file| file.display().to_string()),
                "file_size": bytes_text(self.journal.file_bytes),
                "files": self.journal.files,
            },
            "tracing": self.tracing.as_ref().map(tracing),
            "shutdown": { "drain": duration_text(self.shutdown.drain) },
            "reload": {
                "watch": self.reload.watch,
                "interval": duration_text(self.reload.interval),
            },
        })
    }
}

fn tls(tls: &ListenerTls) -> Value {
    json!({
        "certificates": tls.certificates.iter().map(|known| &*known.name).collect::<Vec<_>>(),
        "reload": duration_text(tls.reload),
        "min_version": if tls.only_tls13 { "1.3" } else { "1.2" },
        "clients": tls.clients.as_ref().map(|clients| json!({
            "mode": if clients.required { "required" } else { "optional" },
            "tell": match clients.told {
                ToldIdentity::Certificate => "certificate",
                ToldIdentity::Subject => "subject",
            },
            "field": clients.field.as_str(),
        })),
        "hsts": tls.hsts.as_ref().and_then(|value| value.to_str().ok()),
    })
}

fn tracing(tracing: &Tracing) -> Value {
    json!({
        "endpoint": &*tracing.url,
        "service": &*tracing.service,
        "sample": format!("{}%", tracing.sample_percent),
        "fields": tracing.fields.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        "roots": tracing.roots.as_ref().map(|roots| roots.len()),
        "queue": tracing.queue,
        "batch": tracing.batch,
        "interval": duration_text(tracing.interval),
        "timeout": duration_text(tracing.timeout),
    })
}

fn dns(dns: &Dns) -> Value {
    json!({
        "name": &*dns.name,
        "port": dns.port,
        "records": match dns.records {
            Records::Addresses => "addresses",
            Records::Services => "srv",
        },
        "servers": dns.servers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "min_ttl": duration_text(dns.least),
        "max_ttl": duration_text(dns.most),
    })
}

fn balance(balance: &Balance) -> Value {
    match balance {
        Balance::RoundRobin => json!("round_robin"),
        Balance::LeastRequest => json!("least_request"),
        Balance::Hash(HashKey::Field(name)) => json!({ "hash": { "field": name.as_str() } }),
        Balance::Hash(HashKey::Cookie(name)) => json!({ "hash": { "cookie": &**name } }),
        Balance::Hash(HashKey::Address) => json!({ "hash": { "address": true } }),
    }
}

fn circuit(circuit: &Circuit) -> Value {
    json!({
        "consecutive_failures": circuit.consecutive_failures,
        "failure_percent": circuit.failure_percent,
        "min_requests": circuit.min_requests,
        "window": duration_text(circuit.window),
        "open": duration_text(circuit.open),
        "max": duration_text(circuit.max),
        "probes": circuit.probes,
        "count_app_errors": circuit.count_app_errors,
    })
}

fn concurrency(concurrency: &Concurrency) -> Value {
    json!({
        "target": duration_text(concurrency.target),
        "min": concurrency.min,
        "max": concurrency.max,
    })
}

fn health(health: &Health) -> Value {
    let probe = match &health.probe {
        Probe::Tcp => json!("tcp"),
        Probe::Http { path, statuses, body } => json!({
            "path": &**path,
            "status": statuses.iter().map(|(from, to)| format!("{from}-{to}")).collect::<Vec<_>>(),
            "body": body.as_ref().map(|pattern| pattern.as_str()),
        }),
        Probe::Grpc { service } => json!({ "grpc": true, "service": &**service }),
        Probe::WebSocket { path } => json!({ "websocket": &**path }),
    };
    json!({
        "probe": probe,
        "interval": duration_text(health.interval),
        "timeout": duration_text(health.timeout),
        "healthy": health.healthy,
        "unhealthy": health.unhealthy,
        "initial": if health.initially_up { "healthy" } else { "unhealthy" },
    })
}

//! Every metric that seawall has: the one place where they are declared. Renaming one is a breaking
//! change; the table in the README is this list.

/// What a metric measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Observations in buckets.
    Histogram,
}

/// A metric and its labels.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The full name: prefix, scope, base unit.
    pub name: &'static str,
    /// What it measures.
    pub shape: Shape,
    /// Its labels. Their values come from configuration or from closed lists only.
    pub labels: &'static [&'static str],
    /// One sentence for operators.
    pub help: &'static str,
}

macro_rules! families {
    ($( $constant:ident, $name:literal, $shape:ident, [$($label:literal),*], $help:literal; )+) => {
        $( #[doc = $help] pub const $constant: Family = Family {
            name: $name, shape: Shape::$shape, labels: &[$($label),*], help: $help,
        }; )+

        /// Every family, in the order of the README's table.
        pub const ALL: &[Family] = &[$($constant),+];
    };
}

families! {
    FAILURES, "seawall_failures_total", Counter,
        ["upstream", "protocol", "kind", "phase", "outcome"],
        "Failures of upstreams, each counted once.";
    DEPENDENCY_FAILURES, "seawall_dependency_failures_total", Counter,
        ["upstream", "dependency"],
        "Failures of dependencies behind upstreams, as configured rules name them.";
    REQUESTS, "seawall_requests_total", Counter,
        ["route", "upstream", "status"],
        "Requests by the status that the client got; 499 if it left before.";
    REQUEST_SECONDS, "seawall_request_seconds", Histogram,
        ["route"],
        "Time from a request's head to the end of its response.";
    UPSTREAM_HEAD_SECONDS, "seawall_upstream_head_seconds", Histogram,
        ["upstream"],
        "Time from sending a request to the head of the upstream's response.";
    REQUESTS_IN_FLIGHT, "seawall_requests_in_flight", Gauge,
        ["route"],
        "Requests that have begun and not ended.";
    RETRIES, "seawall_retries_total", Counter,
        ["upstream", "result"],
        "Requests sent again: stale (an idle connection was closed), refused (unprocessed, REFUSED_STREAM or GOAWAY), recovered, failed, or over_budget (not sent: the budget was spent).";
    CLIENT_FAILURES, "seawall_client_failures_total", Counter,
        ["kind"],
        "Failures of clients; never an upstream's.";
    CLIENT_CONNECTIONS_REFUSED, "seawall_client_connections_refused_total", Counter,
        ["reason"],
        "Connections of clients refused because of a limit: connections or per_address.";
    REHEARSALS, "seawall_rehearsals_total", Counter,
        ["route", "kind"],
        "Failures that clients asked for (routes with rehearse: true); they count nowhere else.";
    SCRUBBED_RESPONSES, "seawall_scrubbed_responses_total", Counter,
        ["upstream", "trace"],
        "Responses that showed a stack trace or a debug page and were replaced.";
    WEBSOCKET_SESSIONS, "seawall_websocket_sessions", Gauge,
        ["upstream"],
        "Open WebSockets.";
    WEBSOCKET_CLOSES, "seawall_websocket_closes_total", Counter,
        ["upstream", "code", "initiator"],
        "Ended WebSockets by the close code that the client got and by who began; 1006 if the client got none.";
    WEBSOCKET_REFUSED, "seawall_websocket_handshakes_refused_total", Counter,
        ["upstream", "reason"],
        "WebSocket handshakes answered 503 because of a limit: sessions or rate.";
    WEBSOCKET_MESSAGES, "seawall_websocket_messages_total", Counter,
        ["upstream", "direction"],
        "Whole WebSocket messages relayed.";
    WEBSOCKET_BYTES, "seawall_websocket_bytes_total", Counter,
        ["upstream", "direction"],
        "WebSocket payload bytes relayed.";
    WEBSOCKET_CUT_MESSAGES, "seawall_websocket_cut_messages_total", Counter,
        ["upstream", "direction"],
        "WebSocket messages that were cut when their sender failed: data that may be lost.";
    WEBSOCKET_SESSION_SECONDS, "seawall_websocket_session_seconds", Histogram,
        ["upstream"],
        "Length of WebSocket sessions.";
    UPSTREAM_CONNECTIONS, "seawall_upstream_connections", Gauge,
        ["upstream", "state"],
        "Open connections to upstreams, active or idle.";
    UPSTREAM_PENDING, "seawall_upstream_pending_requests", Gauge,
        ["upstream"],
        "Requests that wait because a limit of the upstream or of its endpoints is reached.";
    CONNECTS, "seawall_connects_total", Counter,
        ["upstream", "endpoint", "result"],
        "Connection attempts to endpoints, ok or failed.";
    ENDPOINT_UP, "seawall_endpoint_up", Gauge,
        ["upstream", "endpoint"],
        "0 if the endpoint is ejected or drained, fails its health checks, or could not be connected to when that was last tried; else 1.";
    ENDPOINT_EJECTIONS, "seawall_endpoint_ejections_total", Counter,
        ["upstream", "endpoint"],
        "How often the endpoint was left out for a while because it had failed again and again.";
    HEALTH_CHECKS, "seawall_health_checks_total", Counter,
        ["upstream", "endpoint", "result"],
        "Health checks of endpoints, ok or failed.";
    DNS_LOOKUPS, "seawall_dns_lookups_total", Counter,
        ["upstream", "result"],
        "Questions to DNS for the endpoints of an upstream, ok or failed; after a failure the last good answer is kept.";
    CIRCUIT_STATE, "seawall_circuit_state", Gauge,
        ["upstream"],
        "The upstream's circuit: 0 closed (also if it has none), 1 half-open, 2 open.";
    CIRCUIT_OPENINGS, "seawall_circuit_openings_total", Counter,
        ["upstream"],
        "How often the circuit opened because too many requests had failed.";
    CIRCUIT_REFUSED, "seawall_circuit_refused_total", Counter,
        ["upstream"],
        "Requests answered at once because the circuit was open.";
    CONCURRENCY_LIMIT, "seawall_concurrency_limit", Gauge,
        ["upstream"],
        "Requests that may wait for their response head at a time, as it adapts; 0 if there is no such limit.";
    CONCURRENCY_REFUSED, "seawall_concurrency_refused_total", Counter,
        ["upstream"],
        "Attempts refused because as many requests as that limit allows were waiting.";
    CLIENT_CONNECTIONS, "seawall_client_connections", Gauge,
        [],
        "Open connections of clients.";
    REDIRECTS, "seawall_https_redirects_total", Counter,
        [],
        "Requests on redirect listeners that were sent on to https.";
    CERTIFICATE_RELOADS, "seawall_certificate_reloads_total", Counter,
        ["listener", "result"],
        "Changed certificate files of listeners: ok (in use), or failed (the old ones stay).";
    CERTIFICATE_EXPIRY, "seawall_certificate_expiry_timestamp_seconds", Gauge,
        ["listener", "certificate"],
        "When the listener's certificate ends, in seconds since 1970; by the file of its chain.";
    JOURNAL_DROPPED, "seawall_journal_dropped_total", Counter,
        ["reason"],
        "Failures that are missing in the journal's file: queue (too many at once) or write (it could not be written).";
    LOG_DROPPED, "seawall_log_dropped_total", Counter,
        ["reason"],
        "Lines that are missing in the log: queue (nobody read it fast enough) or write (it could not be written).";
    SPANS, "seawall_spans_total", Counter,
        ["result"],
        "Spans for the OpenTelemetry collector: exported, dropped (more waited than the queue holds), failed (no collector took them in time) or rejected (the collector did not want them).";
    ACCEPT_FAILURES, "seawall_accept_failures_total", Counter,
        [],
        "Connections of clients that could not be accepted when they came, as when no file could be opened; they wait, and are accepted later.";
    WORKER_RESTARTS, "seawall_worker_restarts_total", Counter,
        [],
        "Worker threads that ended early, as none should; each is replaced, and its connections are lost.";
    CONFIG_RELOADS, "seawall_config_reloads_total", Counter,
        ["result"],
        "Configurations loaded since the start, ok or failed.";
    CONFIG_LAST_SUCCESS, "seawall_config_last_reload_success_timestamp_seconds", Gauge,
        [],
        "When the configuration that runs was loaded, in seconds since 1970.";
    BUILD_INFO, "seawall_build_info", Gauge,
        ["version"],
        "1; the label names the running version.";
}

/// The table for the README, in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut table =
        String::from("| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n");
    for family in ALL {
        let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let shape = match family.shape {
            Shape::Counter => "counter",
            Shape::Gauge => "gauge",
            Shape::Histogram => "histogram",
        };
        table.push_str(&format!(
            "| `{}` | {shape} | {} | {} |\n",
            family.name,
            labels.join(", "),
            family.help
        ));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_fields_conventions() {
        for family in ALL {
            assert!(family.name.starts_with("seawall_"));
            let counts = family.name.ends_with("_total");
            assert_eq!(counts, family.shape == Shape::Counter, "{}", family.name);
            if family.shape == Shape::Histogram {
                assert!(family.name.ends_with("_seconds"), "{}", family.name);
            }
            assert!(family.help.ends_with('.') && !family.help.is_empty());
        }
    }
}

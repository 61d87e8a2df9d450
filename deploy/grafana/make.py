#!/usr/bin/env python3
"""Prints seawall's Grafana dashboard: deploy/grafana/make.py > deploy/grafana/seawall.json

Change the panels here, never in the JSON; a test compares the two. Grafana puts panels below each other on a
narrow screen by itself, and the 24 columns fill a wide one.
"""

import json
import sys

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
INSTANCE = 'instance=~"$instance"'
UPSTREAM = f'{INSTANCE},upstream=~"$upstream"'
ROUTE = f'{INSTANCE},route=~"$route"'
BOTH = f'{UPSTREAM},route=~"$route"'
LOST = f'seawall_failures_total{{{UPSTREAM},outcome=~"normalized|aborted"}}'
LOST_REQUESTS = f'seawall_failures_total{{{UPSTREAM},outcome=~"normalized|aborted",phase!="websocket"}}'
UNSEEN = f'seawall_failures_total{{{UPSTREAM},outcome=~"recovered|passed"}}'
RATE = "$__rate_interval"
GREEN, YELLOW, RED = "green", "yellow", "red"


def steps(*pairs):
    """Thresholds: green, then each colour from its value on."""
    found = [{"color": GREEN, "value": None}]
    return {"mode": "absolute", "steps": found + [{"color": color, "value": value} for color, value in pairs]}


def queries(pairs, instant, form):
    return [
        {
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": expression,
            "format": form,
            "instant": instant,
            "legendFormat": legend,
            "range": not instant,
            "refId": chr(ord("A") + number),
        }
        for number, (expression, legend) in enumerate(pairs)
    ]


def panel(kind, title, about, width, height, pairs, unit, *, thresholds=None, instant=False, form="time_series"):
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": SOURCE,
        "gridPos": {"h": height, "w": width, "x": 0, "y": 0},
        "targets": queries(pairs, instant, form),
        "fieldConfig": {
            "defaults": {"unit": unit, "min": 0, "thresholds": thresholds or steps()},
            "overrides": [],
        },
        "options": {},
    }


def stat(title, about, expression, unit="short", thresholds=None, legend="", text="value"):
    """One large number; its colour says whether to worry."""
    made = panel("stat", title, about, 4, 4, [(expression, legend)], unit, thresholds=thresholds, instant=True)
    made["fieldConfig"]["defaults"]["color"] = {"mode": "thresholds"}
    made["options"] = {
        "colorMode": "background" if thresholds else "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": text,
    }
    return made


def lines(title, about, pairs, unit="reqps", width=12, stacked=False, thresholds=None):
    """Series over time; stacked bars for what adds up."""
    made = panel("timeseries", title, about, width, 8, pairs, unit, thresholds=thresholds)
    made["fieldConfig"]["defaults"]["custom"] = {
        "drawStyle": "bars" if stacked else "line",
        "fillOpacity": 70 if stacked else 8,
        "lineWidth": 1,
        "showPoints": "never",
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        "thresholdsStyle": {"mode": "line" if thresholds else "off"},
    }
    made["options"] = {
        "legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return made


def timeline(title, about, expression, legend, zero, one):
    """States over time: `zero` and `one` are (text, colour) of the values 0 and 1."""
    made = panel("state-timeline", title, about, 12, 8, [(expression, legend)], "short")
    texts = {
        str(value): {"color": color, "index": value, "text": text} for value, (text, color) in enumerate((zero, one))
    }
    made["fieldConfig"]["defaults"]["mappings"] = [{"type": "value", "options": texts}]
    made["fieldConfig"]["defaults"]["custom"] = {"fillOpacity": 80, "lineWidth": 0}
    made["options"] = {
        "alignValue": "center",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
        "mergeValues": True,
        "rowHeight": 0.8,
        "showValue": "auto",
    }
    return made


def table(title, about, expression):
    made = panel("table", title, about, 12, 8, [(expression, "")], "short", instant=True, form="table")
    made["fieldConfig"]["defaults"]["decimals"] = 0
    made["options"] = {"cellHeight": "sm", "showHeader": True, "sortBy": [{"desc": True, "displayName": "count"}]}
    made["transformations"] = [
        {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": {"Value": "count"}}}
    ]
    return made


def per_second(metric, labels, by):
    return f"sum by ({by}) (rate({metric}{{{labels}}}[{RATE}]))"


def percentiles(metric, labels):
    return [
        (f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{{{labels}}}[{RATE}])))", name)
        for share, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))
    ]


NOW = [
    stat(
        "Requests lost",
        "Share of requests whose client got seawall's answer instead of the app's, or a response that was cut off, "
        "over five minutes. Empty while there are no requests.",
        f"sum(rate({LOST_REQUESTS}[5m])) / sum(rate(seawall_requests_total{{{UPSTREAM}}}[5m]))",
        "percentunit",
        steps((YELLOW, 0.001), (RED, 0.0144)),
    ),
    stat(
        "Normalized",
        "Failures that clients saw as a clean 500 or close 1011, in five minutes.",
        f'sum(increase(seawall_failures_total{{{UPSTREAM},outcome="normalized"}}[5m]))',
        thresholds=steps((YELLOW, 1), (RED, 50)),
    ),
    stat(
        "Aborted",
        "Responses that had begun and were cut off so that they cannot look complete, in five minutes.",
        f'sum(increase(seawall_failures_total{{{UPSTREAM},outcome="aborted"}}[5m]))',
        thresholds=steps((YELLOW, 1), (RED, 10)),
    ),
    stat(
        "Recovered",
        "Failures that clients never saw, because another attempt answered, in five minutes.",
        f'sum(increase(seawall_failures_total{{{UPSTREAM},outcome="recovered"}}[5m]))',
    ),
    stat(
        "Messages cut",
        "WebSocket messages cut when their sender failed, in five minutes: data that may be lost.",
        f"sum(increase(seawall_websocket_cut_messages_total{{{UPSTREAM}}}[5m]))",
        thresholds=steps((RED, 1)),
    ),
    stat(
        "Endpoints down",
        "Endpoints that refused the last connection attempt of at least one seawall.",
        f"count(min by (upstream, endpoint) (seawall_endpoint_up{{{UPSTREAM}}}) == 0) or vector(0)",
        thresholds=steps((RED, 1)),
    ),
    timeline(
        "Are clients hurt, and since when?",
        "Per upstream: red while clients lose requests or WebSockets.",
        f"sum by (upstream) (rate({LOST}[{RATE}])) > bool 0",
        "{{upstream}}",
        ("ok", GREEN),
        ("failing", RED),
    ),
    table(
        "What failed, in five minutes",
        "Every failure that was counted, with what became of it. The journal at /failures of the admin listener has "
        "each one with its request id, error and the app's text.",
        f"sum by (upstream, kind, phase, outcome) (increase(seawall_failures_total{{{UPSTREAM}}}[5m])) > 0",
    ),
]
CAUSES = [
    lines(
        "Failures that clients saw, by kind",
        "Normalized and aborted. The README's table of kinds says what happened upstream.",
        [(f"sum by (kind) (rate({LOST}[{RATE}])) > 0", "{{kind}}")],
        stacked=True,
    ),
    lines(
        "Failures that clients saw, by upstream and outcome",
        "Normalized is a clean 500 or 1011; aborted is a response cut off.",
        [(f"sum by (upstream, outcome) (rate({LOST}[{RATE}])) > 0", "{{upstream}}: {{outcome}}")],
        stacked=True,
    ),
    lines(
        "Failed dependencies",
        "What failed behind the app, as the rules in failures.dependencies name it.",
        [
            (
                per_second("seawall_dependency_failures_total", UPSTREAM, "upstream, dependency"),
                "{{upstream}}: {{dependency}}",
            )
        ],
        stacked=True,
    ),
    lines(
        "Responses replaced because of a trace",
        "By the kind of stack trace or debug page that clients did not get to see.",
        [(per_second("seawall_scrubbed_responses_total", UPSTREAM, "upstream, trace"), "{{upstream}}: {{trace}}")],
        stacked=True,
    ),
    lines(
        "Recovered and passed",
        "Failures that clients did not see, and errors of the app that policy let through.",
        [
            (
                f"sum by (outcome, kind) (rate({UNSEEN}[{RATE}])) > 0",
                "{{outcome}}: {{kind}}",
            )
        ],
        stacked=True,
    ),
    lines(
        "Retries",
        "stale: an idle connection was closed. over_budget: not sent again, the budget was spent.",
        [(per_second("seawall_retries_total", UPSTREAM, "result"), "{{result}}")],
    ),
]
WEBSOCKETS = [
    lines(
        "Open WebSockets",
        "Sessions that are open now.",
        [(f"sum by (upstream) (seawall_websocket_sessions{{{UPSTREAM}}})", "{{upstream}}")],
        "short",
    ),
    lines(
        "Closes by code and initiator",
        "The close code that the client got and who began; 1006 is no Close frame. 1011 is an upstream's failure, "
        "1012 a drain.",
        [(per_second("seawall_websocket_closes_total", UPSTREAM, "code, initiator"), "{{code}} by {{initiator}}")],
        "ops",
        stacked=True,
    ),
    lines(
        "Messages",
        "Whole messages relayed.",
        [(per_second("seawall_websocket_messages_total", UPSTREAM, "direction"), "{{direction}}")],
        "mps",
        8,
    ),
    lines(
        "Payload",
        "Payload bytes relayed.",
        [(per_second("seawall_websocket_bytes_total", UPSTREAM, "direction"), "{{direction}}")],
        "Bps",
        8,
    ),
    lines(
        "Messages cut",
        "Messages cut when their sender failed: data that may be lost.",
        [
            (
                per_second("seawall_websocket_cut_messages_total", UPSTREAM, "upstream, direction"),
                "{{upstream}} {{direction}}",
            )
        ],
        "mps",
        8,
        stacked=True,
    ),
    lines(
        "Length of sessions",
        "How long sessions lasted that ended.",
        percentiles("seawall_websocket_session_seconds", UPSTREAM),
        "s",
    ),
    lines(
        "Handshakes refused",
        "Answered 503 because of a limit: sessions or rate.",
        [
            (
                per_second("seawall_websocket_handshakes_refused_total", UPSTREAM, "upstream, reason"),
                "{{upstream}}: {{reason}}",
            )
        ],
        "ops",
        stacked=True,
    ),
]
REQUESTS = [
    lines(
        "Requests by status",
        "What clients got; 499 if they left before, 101 is a WebSocket.",
        [(per_second("seawall_requests_total", BOTH, "status"), "{{status}}")],
        stacked=True,
    ),
    lines(
        "Requests in flight",
        "Begun and not ended.",
        [(f"sum by (route) (seawall_requests_in_flight{{{ROUTE}}})", "{{route}}")],
        "short",
    ),
    lines(
        "Request time",
        "From a request's head to the end of its response, as clients wait.",
        percentiles("seawall_request_seconds", ROUTE),
        "s",
    ),
    lines(
        "Upstream head time",
        "From sending a request to the head of the upstream's response: the app's share of the wait.",
        percentiles("seawall_upstream_head_seconds", UPSTREAM),
        "s",
    ),
]
UPSTREAMS = [
    timeline(
        "Endpoints",
        "Whether the last connection attempt succeeded; an endpoint that was not tried yet counts as up.",
        f"min by (upstream, endpoint) (seawall_endpoint_up{{{UPSTREAM}}})",
        "{{upstream}}: {{endpoint}}",
        ("down", RED),
        ("up", GREEN),
    ),
    lines(
        "Connections to upstreams",
        "Open connections, active or idle.",
        [(f"sum by (upstream, state) (seawall_upstream_connections{{{UPSTREAM}}})", "{{upstream}}: {{state}}")],
        "short",
    ),
    lines(
        "Requests that wait",
        "For a connection, or because as many requests as may be are under way.",
        [(f"sum by (upstream) (seawall_upstream_pending_requests{{{UPSTREAM}}})", "{{upstream}}")],
        "short",
    ),
    lines(
        "Connection attempts that failed",
        "By endpoint.",
        [
            (
                f'sum by (upstream, endpoint) (rate(seawall_connects_total{{{UPSTREAM},result="failed"}}[{RATE}]))',
                "{{upstream}}: {{endpoint}}",
            )
        ],
        "ops",
        stacked=True,
    ),
    lines(
        "Ejections",
        "Endpoints taken out of rotation for a while after failures in a row.",
        [(per_second("seawall_endpoint_ejections_total", UPSTREAM, "upstream, endpoint"), "{{upstream}}: {{endpoint}}")],
        "ops",
        stacked=True,
    ),
    lines(
        "Health checks",
        "By result, of upstreams that are checked.",
        [(per_second("seawall_health_checks_total", UPSTREAM, "upstream, result"), "{{upstream}}: {{result}}")],
        "ops",
    ),
    lines(
        "DNS",
        "Questions for the endpoints of an upstream; after a failure the last good answer is kept.",
        [(per_second("seawall_dns_lookups_total", UPSTREAM, "upstream, result"), "{{upstream}}: {{result}}")],
        "ops",
    ),
    lines(
        "Circuits",
        "0 closed, 1 half-open, 2 open: requests are answered at once until a few probes were served.",
        [(f"max by (upstream) (seawall_circuit_state{{{UPSTREAM}}})", "{{upstream}}")],
        "short",
    ),
    lines(
        "Circuits opened, requests refused",
        "A circuit opens when too many requests fail; those that come then are refused.",
        [
            (per_second("seawall_circuit_openings_total", UPSTREAM, "upstream"), "{{upstream}}: opened"),
            (per_second("seawall_circuit_refused_total", UPSTREAM, "upstream"), "{{upstream}}: refused"),
        ],
        "ops",
    ),
    lines(
        "Concurrency limits",
        "Requests that may wait for their response head at a time, over all workers of an instance; 0 is no limit.",
        [(f"max by (upstream) (seawall_concurrency_limit{{{UPSTREAM}}})", "{{upstream}}")],
        "short",
    ),
    lines(
        "Refused by concurrency limits",
        "Attempts that found as many requests waiting as the upstream can take.",
        [(per_second("seawall_concurrency_refused_total", UPSTREAM, "upstream"), "{{upstream}}")],
        "ops",
    ),
    lines(
        "Connection attempts that succeeded",
        "Many of them mean that connections are not kept.",
        [(f'sum by (upstream) (rate(seawall_connects_total{{{UPSTREAM},result="ok"}}[{RATE}]))', "{{upstream}}")],
        "ops",
    ),
]
CLIENTS = [
    lines(
        "Connections of clients",
        "Open connections, by instance.",
        [(f"sum by (instance) (seawall_client_connections{{{INSTANCE}}})", "{{instance}}")],
        "short",
    ),
    lines(
        "Connections refused",
        "Over a limit on connections: in all, or of one address.",
        [(per_second("seawall_client_connections_refused_total", INSTANCE, "reason"), "{{reason}}")],
        "ops",
        stacked=True,
    ),
    lines(
        "Failures of clients",
        "What was the client's own fault, never an upstream's.",
        [(f"sum by (kind) (rate(seawall_client_failures_total{{{INSTANCE}}}[{RATE}])) > 0", "{{kind}}")],
        stacked=True,
    ),
    lines(
        "Certificates end in",
        "Time until each listener's certificates are no longer valid, by the file of the chain.",
        [
            (
                f"min by (listener, certificate) (seawall_certificate_expiry_timestamp_seconds{{{INSTANCE}}}) - time()",
                "{{listener}}: {{certificate}}",
            )
        ],
        "s",
        thresholds=steps(),
    ),
    lines(
        "Certificate files that changed",
        "In use since (ok), or refused (failed): the log says why.",
        [(per_second("seawall_certificate_reloads_total", INSTANCE, "listener, result"), "{{listener}}: {{result}}")],
        "ops",
        stacked=True,
    ),
    lines(
        "Sent on to https",
        "Requests on redirect listeners.",
        [(f"sum by (instance) (rate(seawall_https_redirects_total{{{INSTANCE}}}[{RATE}]))", "{{instance}}")],
        stacked=True,
    ),
]
OF_SEAWALL = f"and on (job, instance) seawall_build_info{{{INSTANCE}}}"
ITSELF = [
    lines(
        "CPU",
        "Processor cores in use.",
        [(f"rate(process_cpu_seconds_total[{RATE}]) {OF_SEAWALL}", "{{instance}}")],
        "short",
        8,
    ),
    lines("Memory", "Resident memory.", [(f"process_resident_memory_bytes {OF_SEAWALL}", "{{instance}}")], "bytes", 8),
    lines(
        "File descriptors",
        "Open ones as a share of the limit; at 100 % no connection can be accepted.",
        [(f"process_open_fds / process_max_fds {OF_SEAWALL}", "{{instance}}")],
        "percentunit",
        8,
        thresholds=steps((RED, 0.85)),
    ),
    lines(
        "Missing in the journal's file",
        "Failures that came too fast for it (queue) or found the disk full (write); the metrics have them all.",
        [(per_second("seawall_journal_dropped_total", INSTANCE, "instance, reason"), "{{instance}}: {{reason}}")],
        "cps",
        8,
    ),
    lines(
        "Missing in the log, connections that wait, workers that ended",
        "Lines that nobody read fast enough (queue) or found the disk full (write); clients that wait for a free file; "
        "worker threads that ended early and were replaced.",
        [
            (per_second("seawall_log_dropped_total", INSTANCE, "instance, reason"), "{{instance}}: lines, {{reason}}"),
            (per_second("seawall_accept_failures_total", INSTANCE, "instance"), "{{instance}}: accepts that failed"),
            (per_second("seawall_worker_restarts_total", INSTANCE, "instance"), "{{instance}}: workers that ended"),
        ],
        "cps",
        8,
    ),
    lines(
        "Spans for OpenTelemetry",
        "What became of them: dropped (more waited than the queue holds), failed (no collector took them in time), "
        "rejected (the collector did not want them).",
        [(per_second("seawall_spans_total", INSTANCE, "instance, result"), "{{instance}}: {{result}}")],
        "cps",
        8,
    ),
    lines(
        "Configurations loaded",
        "Since the start of each process; a failed one left the old one running.",
        [(f"sum by (instance, result) (seawall_config_reloads_total{{{INSTANCE}}})", "{{instance}}: {{result}}")],
        "short",
        8,
    ),
    lines(
        "Age of the configuration",
        "Since the configuration that runs was loaded: beside the restarts, each drop is a reload.",
        [(f"time() - seawall_config_last_reload_success_timestamp_seconds{{{INSTANCE}}}", "{{instance}}")],
        "s",
        8,
    ),
    lines(
        "Rehearsals",
        "Failures that clients asked for; they count nowhere else.",
        [(per_second("seawall_rehearsals_total", ROUTE, "route, kind") + " > 0", "{{route}}: {{kind}}")],
        width=8,
        stacked=True,
    ),
    lines(
        "Versions",
        "Processes by version: two lines while a new one is rolled out.",
        [(f"sum by (version) (seawall_build_info{{{INSTANCE}}})", "{{version}}")],
        "short",
        8,
    ),
]
ROWS = [
    ("Are clients hurt now?", NOW),
    ("Why, and whose fault", CAUSES),
    ("WebSockets", WEBSOCKETS),
    ("Requests and latency", REQUESTS),
    ("Upstreams and endpoints", UPSTREAMS),
    ("Clients", CLIENTS),
    ("seawall itself", ITSELF),
]


def placed(rows):
    """Panels in rows of 24 columns from left to right, numbered from 1."""
    result, y = [], 0
    for title, panels in rows:
        result.append({"type": "row", "title": title, "collapsed": False, "panels": []})
        result[-1]["gridPos"] = {"h": 1, "w": 24, "x": 0, "y": y}
        y, x, height = y + 1, 0, 0
        for one in panels:
            at = one["gridPos"]
            if x + at["w"] > 24:
                y, x, height = y + height, 0, 0
            at["x"], at["y"] = x, y
            x, height = x + at["w"], max(height, at["h"])
            result.append(one)
        y += height
    return [{"id": number} | one for number, one in enumerate(result, 1)]


def variable(name, label, query):
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "query": {"qryType": 1, "query": query, "refId": f"variable-{name}"},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "options": [],
        "hide": 0,
        "regex": "",
    }


DASHBOARD = {
    "title": "seawall",
    "uid": "seawall",
    "description": "What clients see of their upstreams' failures.",
    "tags": ["seawall", "proxy"],
    "schemaVersion": 41,
    "version": 1,
    "editable": True,
    "graphTooltip": 1,
    "refresh": "10s",
    "time": {"from": "now-1h", "to": "now"},
    "timezone": "browser",
    "annotations": {"list": []},
    "links": [],
    "templating": {
        "list": [
            {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "current": {},
             "options": [], "hide": 0, "refresh": 1, "regex": "", "multi": False, "includeAll": False},
            variable("instance", "Instance", "label_values(seawall_build_info, instance)"),
            variable("upstream", "Upstream", 'label_values(seawall_failures_total{instance=~"$instance"}, upstream)'),
            variable("route", "Route", 'label_values(seawall_requests_in_flight{instance=~"$instance"}, route)'),
        ]
    },
    "panels": placed(ROWS),
}

if __name__ == "__main__":
    json.dump(DASHBOARD, sys.stdout, indent=2, ensure_ascii=False)
    print()

//! The handles of an upstream's WebSockets.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::Metrics;

impl Metrics {
    /// The handles of this upstream's WebSockets.
    pub(super) fn websocket(&self, upstream: &str) -> WebsocketMetrics {
        let traffic = |direction: Direction| TrafficHandles {
            messages: self.websocket_messages.with_label_values(&[upstream, direction.name()]),
            bytes: self.websocket_bytes.with_label_values(&[upstream, direction.name()]),
            cut: self.websocket_cut_messages.with_label_values(&[upstream, direction.name()]),
        };
        for (code, initiator) in [("1011", "upstream"), ("1012", "seawall"), ("1000", "client")] {
            self.websocket_closes.with_label_values(&[upstream, code, initiator]);
        }
        WebsocketMetrics {
            name: upstream.into(),
            sessions: self.websocket_sessions.with_label_values(&[upstream]),
            seconds: self.websocket_session_seconds.with_label_values(&[upstream]),
            closes: self.websocket_closes.clone(),
            refused: Refusal::ALL
                .map(|why| self.websocket_refused.with_label_values(&[upstream, why.name()])),
            to_client: traffic(Direction::ToClient),
            to_upstream: traffic(Direction::ToUpstream),
        }
    }
}

/// Which way a WebSocket message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the upstream.
    ToClient,
    /// From the client.
    ToUpstream,
}

impl Direction {
    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Direction::ToClient => "to_client",
            Direction::ToUpstream => "to_upstream",
        }
    }
}

/// Why a WebSocket handshake is answered 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `limits.websockets` are open.
    Sessions,
    /// More than `limits.handshakes` in a second.
    Rate,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Refusal; 2] = [Refusal::Sessions, Refusal::Rate];

    /// The name in the metric.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Refusal::Sessions => "sessions",
            Refusal::Rate => "rate",
        }
    }
}

/// The handles of one upstream's WebSockets.
#[derive(Clone, Debug)]
pub struct WebsocketMetrics {
    name: Box<str>,
    sessions: IntGauge,
    seconds: Histogram,
    closes: IntCounterVec,
    refused: [IntCounter; 2],
    to_client: TrafficHandles,
    to_upstream: TrafficHandles,
}

#[derive(Clone, Debug)]
struct TrafficHandles {
    messages: IntCounter,
    bytes: IntCounter,
    cut: IntCounter,
}

/// What one direction of a WebSocket carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Whole messages.
    pub messages: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// The last message was cut when its sender failed.
    pub cut: bool,
}

/// How a WebSocket ended and what it carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSummary {
    /// The close code that the client got; 1005 for a Close without one, 1006 for none at all.
    pub code: u16,
    /// `client`, `upstream` or `seawall`.
    pub initiator: &'static str,
    /// From the upstream.
    pub to_client: Traffic,
    /// From the client.
    pub to_upstream: Traffic,
}

impl WebsocketMetrics {
    /// A WebSocket has begun.
    pub fn opened(&self) {
        self.sessions.inc();
    }

    /// A handshake was answered 503.
    pub fn refused(&self, why: Refusal) {
        let [sessions, rate] = &self.refused;
        match why {
            Refusal::Sessions => sessions.inc(),
            Refusal::Rate => rate.inc(),
        }
    }

    /// So many messages and payload bytes have passed.
    pub fn relayed(&self, direction: Direction, messages: u64, bytes: u64) {
        let handles = match direction {
            Direction::ToClient => &self.to_client,
            Direction::ToUpstream => &self.to_upstream,
        };
        handles.messages.inc_by(messages);
        handles.bytes.inc_by(bytes);
    }

    /// A WebSocket has ended.
    pub fn closed(&self, summary: &SessionSummary, elapsed: Duration) {
        self.sessions.dec();
        self.seconds.observe(elapsed.as_secs_f64());
        // Codes 3000 to 4999 belong to applications: one cell each would be without bound.
        let code = match summary.code {
            3000..=3999 => "3xxx".to_owned(),
            4000..=4999 => "4xxx".to_owned(),
            code => code.to_string(),
        };
        self.closes.with_label_values(&[&*self.name, &code, summary.initiator]).inc();
        if summary.to_client.cut {
            self.to_client.cut.inc();
        }
        if summary.to_upstream.cut {
            self.to_upstream.cut.inc();
        }
    }
}

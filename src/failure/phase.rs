//! Where on its way a request was when the upstream failed, and the kind that a timeout has there.

use super::kind::Kind;

/// The station of an exchange with an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Resolving the upstream's name.
    Resolve,
    /// Opening the TCP connection.
    Connect,
    /// The TLS handshake.
    Tls,
    /// Sending the request's head or content.
    Send,
    /// Waiting for, or reading, the response head.
    Head,
    /// Reading the response content or trailers.
    Body,
    /// The WebSocket handshake: from the upgrade request to its answer.
    Upgrade,
    /// After the 101: the relayed WebSocket.
    Websocket,
}

impl Phase {
    /// Every phase, in the order of a request's life.
    pub const ALL: &'static [Phase] = &[
        Phase::Resolve,
        Phase::Connect,
        Phase::Tls,
        Phase::Send,
        Phase::Head,
        Phase::Body,
        Phase::Upgrade,
        Phase::Websocket,
    ];

    /// The name in the metric, the log and the journal.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Resolve => "resolve",
            Phase::Connect => "connect",
            Phase::Tls => "tls",
            Phase::Send => "send",
            Phase::Head => "head",
            Phase::Body => "body",
            Phase::Upgrade => "upgrade",
            Phase::Websocket => "websocket",
        }
    }

    /// The kind of a wait that ran out in this phase. Never taken from an error's text.
    #[must_use]
    pub const fn timeout_kind(self) -> Kind {
        match self {
            Phase::Resolve => Kind::DnsTimeout,
            Phase::Connect | Phase::Tls => Kind::ConnectionTimeout,
            Phase::Send => Kind::ConnectionWriteTimeout,
            Phase::Head | Phase::Upgrade => Kind::HttpResponseTimeout,
            Phase::Body | Phase::Websocket => Kind::ConnectionReadTimeout,
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_happens_in_a_phase_its_kind_knows() {
        for phase in Phase::ALL {
            assert!(phase.timeout_kind().phases().contains(phase), "{phase}");
        }
    }
}

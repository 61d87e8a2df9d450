//! Failures of the client: another type than [`super::Failure`], so that they can never be counted
//! as an upstream's.

/// What a client did wrong, or that it went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientFailure {
    /// The request cannot be understood, or is ambiguous.
    BadRequest,
    /// The request head or content did not arrive in time.
    RequestTimeout,
    /// The request content is larger than the route allows.
    ContentTooLarge,
    /// The request target is too long.
    UriTooLong,
    /// The request head is larger than the limit.
    FieldsTooLarge,
    /// No route serves this host.
    Misdirected,
    /// No route serves this path.
    NoRoute,
    /// Extended CONNECT for a protocol that is not a WebSocket (RFC 9220 §3).
    UnsupportedProtocol,
    /// The request has come past this seawall too often: it goes round in a loop.
    Loop,
    /// The client closed or reset before its answer was complete.
    Gone,
    /// A WebSocket client broke RFC 6455.
    WebsocketProtocolError,
    /// A WebSocket client sent a frame larger than the limit.
    WebsocketMessageTooBig,
    /// No TLS session in time, or none that both sides agree on.
    TlsHandshake,
    /// An HTTP/2 connection broke RFC 9113, or was a flood of frames that cost more than they ask for.
    Http2,
    /// A connection did not begin with the PROXY protocol header that it had to begin with.
    ProxyProtocol,
}

impl ClientFailure {
    /// Every client failure.
    pub const ALL: &'static [ClientFailure] = &[
        ClientFailure::BadRequest,
        ClientFailure::RequestTimeout,
        ClientFailure::ContentTooLarge,
        ClientFailure::UriTooLong,
        ClientFailure::FieldsTooLarge,
        ClientFailure::Misdirected,
        ClientFailure::NoRoute,
        ClientFailure::UnsupportedProtocol,
        ClientFailure::Loop,
        ClientFailure::Gone,
        ClientFailure::WebsocketProtocolError,
        ClientFailure::WebsocketMessageTooBig,
        ClientFailure::TlsHandshake,
        ClientFailure::Http2,
        ClientFailure::ProxyProtocol,
    ];

    /// The name in `seawall_client_failures_total` and the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ClientFailure::BadRequest => "bad_request",
            ClientFailure::RequestTimeout => "request_timeout",
            ClientFailure::ContentTooLarge => "content_too_large",
            ClientFailure::UriTooLong => "uri_too_long",
            ClientFailure::FieldsTooLarge => "header_fields_too_large",
            ClientFailure::Misdirected => "misdirected_request",
            ClientFailure::NoRoute => "no_route",
            ClientFailure::UnsupportedProtocol => "unsupported_protocol",
            ClientFailure::Loop => "proxy_loop_detected",
            ClientFailure::Gone => "client_gone",
            ClientFailure::WebsocketProtocolError => "websocket_protocol_error",
            ClientFailure::WebsocketMessageTooBig => "websocket_message_too_big",
            ClientFailure::TlsHandshake => "tls_handshake_failed",
            ClientFailure::Http2 => "http2_error",
            ClientFailure::ProxyProtocol => "proxy_protocol_error",
        }
    }

    /// The status that answers it (RFC 9110 §15.5). `None`: nobody is left to read an answer, or
    /// the answer is a close code.
    #[must_use]
    pub const fn status(self) -> Option<u16> {
        match self {
            ClientFailure::BadRequest => Some(400),
            ClientFailure::RequestTimeout => Some(408),
            ClientFailure::ContentTooLarge => Some(413),
            ClientFailure::UriTooLong => Some(414),
            ClientFailure::FieldsTooLarge => Some(431),
            ClientFailure::Misdirected => Some(421),
            ClientFailure::NoRoute => Some(404),
            ClientFailure::UnsupportedProtocol => Some(501),
            // The policy of the route says how a loop is answered.
            ClientFailure::Loop
            | ClientFailure::Gone
            | ClientFailure::WebsocketProtocolError
            | ClientFailure::WebsocketMessageTooBig
            | ClientFailure::TlsHandshake
            | ClientFailure::Http2
            | ClientFailure::ProxyProtocol => None,
        }
    }
}

impl std::fmt::Display for ClientFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for ClientFailure {}

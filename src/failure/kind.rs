//! Every way an upstream can fail, by the name that operators look up.
//!
//! The names are the proxy error types of RFC 9209 §2.3 (IANA registry "HTTP Proxy Error
//! Types"), extended by four of our own where that registry is silent: `application_error`,
//! `dependency_failure`, `websocket_protocol_error` and `http_response_header_size`'s siblings
//! are told apart as the registry does.
//!
//! What must stay true: one name per kind, used by the metric, the log, `Proxy-Status`, the
//! journal and the docs (P5). A new kind does not build before it has a name, a gateway status,
//! the phases it can happen in and a sentence for the docs.

use super::phase::Phase;

macro_rules! kinds {
    ($( $variant:ident, $name:literal, $gateway:literal, [$($phase:ident),+], $doc:literal; )+) => {
        /// What happened upstream. One value per row of the design's failure taxonomy.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Kind {
            $( #[doc = $doc] $variant, )+
        }

        impl Kind {
            /// Every kind, in the order of the taxonomy.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),+];

            /// How many kinds there are: the size of tables indexed by [`Kind::index`].
            pub const COUNT: usize = Self::ALL.len();

            /// The name in metrics, logs, `Proxy-Status`, the journal and configuration.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Kind::$variant => $name, )+ }
            }

            /// The status of `profile: gateway`; the default profile answers 500 to all.
            #[must_use]
            pub const fn gateway_status(self) -> u16 {
                match self { $( Kind::$variant => $gateway, )+ }
            }

            /// The phases in which this kind can occur: the metric cells that exist from the
            /// start, so that the first failure is a step from 0.
            #[must_use]
            pub const fn phases(self) -> &'static [Phase] {
                match self { $( Kind::$variant => &[$(Phase::$phase),+], )+ }
            }

            /// One sentence for operators: what happened upstream.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $( Kind::$variant => $doc, )+ }
            }
        }
    };
}

kinds! {
    DnsError, "dns_error", 502, [Resolve],
        "The upstream's name does not resolve.";
    DnsTimeout, "dns_timeout", 504, [Resolve],
        "The upstream's name did not resolve in time.";
    DestinationUnavailable, "destination_unavailable", 503, [Connect],
        "Every endpoint is ejected, unhealthy or drained, or the circuit is open.";
    DestinationIpUnroutable, "destination_ip_unroutable", 502, [Connect],
        "The upstream's network or host is unreachable.";
    ConnectionRefused, "connection_refused", 502, [Connect],
        "Nobody listens at the upstream's address: the app is down.";
    ConnectionTimeout, "connection_timeout", 504, [Connect, Tls],
        "No TCP or TLS connection to the upstream in time.";
    ConnectionLimitReached, "connection_limit_reached", 503, [Connect],
        "The upstream's connection or pending-request limit is full.";
    ConnectionTerminated, "connection_terminated", 502, [Connect, Tls, Send, Head, Upgrade, Websocket],
        "The upstream closed or reset the connection before the first byte of a response, or ended a WebSocket without a Close frame: the crash.";
    ConnectionReadTimeout, "connection_read_timeout", 504, [Body, Websocket],
        "The upstream stood still in the middle of a body, or a WebSocket upstream stopped answering pings.";
    ConnectionWriteTimeout, "connection_write_timeout", 504, [Send, Websocket],
        "The upstream stopped reading what it was sent.";
    TlsProtocolError, "tls_protocol_error", 502, [Tls],
        "The TLS handshake with the upstream failed.";
    TlsCertificateError, "tls_certificate_error", 502, [Tls],
        "The upstream's certificate is not trusted, expired or for another name.";
    TlsAlertReceived, "tls_alert_received", 502, [Tls, Send, Head, Body],
        "The upstream ended TLS with an alert.";
    HttpResponseTimeout, "http_response_timeout", 504, [Head, Upgrade],
        "No response head from the upstream in time.";
    HttpResponseIncomplete, "http_response_incomplete", 502, [Head, Body, Upgrade],
        "The response began and was then cut short, in its head or its body.";
    HttpResponseHeaderSectionSize, "http_response_header_section_size", 502, [Head, Upgrade],
        "The response head is larger, or has more fields, than the limit.";
    HttpResponseHeaderSize, "http_response_header_size", 502, [Head, Upgrade],
        "One field line of the response is larger than the limit.";
    HttpResponseBodySize, "http_response_body_size", 502, [Head, Body],
        "The response content is larger than the limit.";
    HttpResponseTrailerSectionSize, "http_response_trailer_section_size", 502, [Body],
        "The response trailers are larger than the limit.";
    HttpResponseTransferCoding, "http_response_transfer_coding", 502, [Head, Body],
        "The response has a malformed chunk, or a bad or unknown Transfer-Encoding.";
    HttpProtocolError, "http_protocol_error", 502, [Head, Body, Upgrade],
        "The response is not HTTP: garbage, conflicting Content-Length, an illegal field, an illegal 1xx or 101.";
    HttpUpgradeFailed, "http_upgrade_failed", 502, [Upgrade],
        "The answer to a WebSocket handshake is not a valid 101, or is a 5xx.";
    WebsocketProtocolError, "websocket_protocol_error", 502, [Websocket],
        "The upstream broke RFC 6455 after the upgrade, or closed with a code that may not be on the wire.";
    ApplicationError, "application_error", 500, [Head, Body, Websocket],
        "The app itself answered 500, or closed with 1011.";
    DependencyFailure, "dependency_failure", 502, [Head, Body, Websocket],
        "The app says that something behind it failed: 502, 503, 504, Proxy-Status with error, close 1014, or a configured rule.";
    ProxyInternalError, "proxy_internal_error", 500, [Resolve, Connect, Tls, Send, Head, Body, Upgrade, Websocket],
        "seawall's own fault.";
    ProxyConfigurationError, "proxy_configuration_error", 500, [Connect],
        "seawall's configuration does not allow to serve this request.";
    ProxyLoopDetected, "proxy_loop_detected", 502, [Send],
        "The request has come past this seawall more often than `forwarded.max_passes`: the client's failure, and no upstream's.";
}

impl Kind {
    /// This kind's row in tables of [`Kind::COUNT`] entries.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The kind with this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// The gateway status refined by what the app itself said: a dependency failure keeps the
    /// 502, 503 or 504 that the app answered (the design's table says `502–504`).
    #[must_use]
    pub fn gateway_status_for(self, received: Option<u16>) -> u16 {
        match (self, received) {
            (Kind::DependencyFailure, Some(status @ 502..=504)) => status,
            (kind, _) => kind.gateway_status(),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found_again() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.name()), Some(*kind));
            assert_eq!(Kind::ALL[kind.index()], *kind);
        }
        assert_eq!(Kind::from_name("nonsense"), None);
    }

    #[test]
    fn names_are_structured_field_tokens() {
        // They go into Proxy-Status as tokens (RFC 9651 §3.3.4) and into labels.
        for kind in Kind::ALL {
            assert!(kind.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
    }

    #[test]
    fn every_gateway_status_is_a_5xx() {
        for kind in Kind::ALL {
            assert!((500..=504).contains(&kind.gateway_status()), "{kind}");
        }
    }
}

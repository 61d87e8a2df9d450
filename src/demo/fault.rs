//! The faults of the demonstration: one list for the app that plays them, the table that measures
//! them and the page that has a button for each.
//!
//! A fault is a story in exact bytes ([`Step`]), the sentence that tells it, what a client sees of
//! it without seawall, and what must become of it behind seawall. What must stay true: every kind
//! that an HTTP/1.1 upstream or a WebSocket can produce on one machine within seconds has a row.
//! Not here, because they need a foreign network, certificates or minutes: `connection_timeout`,
//! `destination_ip_unroutable`, `tls_certificate_error`, `tls_alert_received`.

use super::story::FAULTS;
use crate::failure::Kind;

/// What no client may ever see: every story that leaks, leaks this.
pub const SECRET: &str = "hunter2";

/// A host name that never exists (RFC 6761 §6.4).
pub const NO_NAME: &str = "demo-app.invalid";

/// What a client speaks to provoke a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A GET request.
    Http,
    /// A WebSocket handshake and, if it succeeds, a session.
    WebSocket,
}

/// Who plays a fault.
#[derive(Clone, Copy, Debug)]
pub enum Upstream {
    /// The app, in these steps. An orderly end of the connection follows the last one.
    App(&'static [Step]),
    /// An address at which nobody listens.
    Nobody,
    /// Nobody: the name [`NO_NAME`] does not exist.
    NoName,
    /// The app, which speaks plain text where TLS is expected.
    PlainText,
}

/// One step of a story that the app plays after it has read the request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// These bytes.
    Send(&'static [u8]),
    /// These bytes, so many times.
    Repeat(&'static [u8], usize),
    /// So many chunks of 8 KiB (RFC 9112 §7.1), without the last chunk.
    Chunks(usize),
    /// A whole response with a Content-Length: status line after the version, media type, content.
    Answer(&'static str, &'static str, &'static str),
    /// The page of the demonstration.
    Page,
    /// A valid 101 (RFC 6455 §4.2.2).
    Upgrade,
    /// Returns every message until the client closes.
    Echo,
    /// A Close frame with this code and reason.
    Close(u16, &'static str),
    /// Silence until the client gives up.
    Hang,
    /// A TCP reset, at once.
    Reset,
}

/// What a client must see behind seawall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// What the app sent: a whole 200, or an echo and Close 1000.
    Healthy,
    /// seawall's whole 500, with the kind in `Proxy-Status`.
    Answered,
    /// A 200 that was already on its way, cut off so that nobody takes it for whole.
    CutOff,
    /// The app's own, deliberate 500.
    Passed,
    /// Every whole message, then Close 1011.
    Closed,
}

impl Expected {
    /// The name by which the page knows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Expected::Healthy => "healthy",
            Expected::Answered => "answered",
            Expected::CutOff => "cut_off",
            Expected::Passed => "passed",
            Expected::Closed => "closed",
        }
    }

    /// The same in the words of the page and the table.
    #[must_use]
    pub const fn words(self, transport: Transport) -> &'static str {
        match (self, transport) {
            (Expected::Healthy, Transport::Http) => "200 text/plain",
            (Expected::Healthy, Transport::WebSocket) => "echo, Close 1000",
            (Expected::Answered, _) => "500 problem+json",
            (Expected::CutOff, _) => "200 text/plain, cut off",
            (Expected::Passed, _) => "500 json",
            (Expected::Closed, _) => "1 message, Close 1011",
        }
    }
}

/// One fault.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Its name, unique within its transport: the last segment of its path.
    pub name: &'static str,
    /// What happens, in a sentence.
    pub about: &'static str,
    /// How a client provokes it.
    pub transport: Transport,
    /// Who plays it.
    pub upstream: Upstream,
    /// What a client sees without seawall, in the words of the probe.
    pub without: &'static str,
    /// What a client must see behind seawall.
    pub expected: Expected,
    /// The kind that must be counted, exactly once; `None` is no failure.
    pub kind: Option<Kind>,
    /// The dependency that must be counted.
    pub dependency: Option<&'static str>,
}

impl Fault {
    /// Where the app and seawall serve it.
    #[must_use]
    pub fn path(&self) -> String {
        match self.transport {
            Transport::Http => format!("/fault/{}", self.name),
            Transport::WebSocket => format!("/ws/{}", self.name),
        }
    }

    /// The fault at this path.
    #[must_use]
    pub fn at(path: &str) -> Option<&'static Fault> {
        let (transport, name) = match path.strip_prefix("/fault/") {
            Some(name) => (Transport::Http, name),
            None => (Transport::WebSocket, path.strip_prefix("/ws/")?),
        };
        FAULTS.iter().find(|fault| fault.transport == transport && fault.name == name)
    }

    /// Whether this is the kind that must be counted. A machine without a working resolver may
    /// take longer to find out that a name does not exist than seawall waits.
    #[must_use]
    pub fn accepts(&self, kind: &str) -> bool {
        match self.kind {
            None => false,
            Some(Kind::DnsError) => {
                kind == Kind::DnsError.name() || kind == Kind::DnsTimeout.name()
            }
            Some(expected) => kind == expected.name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_found_at_its_own_path() {
        for fault in FAULTS {
            let found = Fault::at(&fault.path()).unwrap();
            assert_eq!((found.name, found.transport), (fault.name, fault.transport));
        }
        assert!(Fault::at("/fault/nonsense").is_none() && Fault::at("/").is_none());
    }

    #[test]
    fn every_kind_that_the_demo_can_produce_has_a_fault() {
        // What needs a foreign network, certificates, long uploads, or is seawall's own.
        let absent = [
            Kind::DnsTimeout,
            Kind::DestinationUnavailable,
            Kind::DestinationIpUnroutable,
            Kind::ConnectionTimeout,
            Kind::ConnectionLimitReached,
            Kind::ConnectionWriteTimeout,
            Kind::TlsCertificateError,
            Kind::TlsAlertReceived,
            Kind::HttpResponseBodySize,
            Kind::HttpResponseTrailerSectionSize,
            Kind::ProxyInternalError,
            Kind::ProxyConfigurationError,
            Kind::ProxyLoopDetected,
        ];
        for kind in Kind::ALL {
            let shown = FAULTS.iter().any(|fault| fault.kind == Some(*kind));
            assert_ne!(shown, absent.contains(kind), "{kind}");
        }
    }

    #[test]
    fn only_what_is_healthy_has_no_kind() {
        for fault in FAULTS {
            assert_eq!(fault.kind.is_none(), fault.expected == Expected::Healthy, "{}", fault.name);
        }
    }

    #[test]
    fn what_is_said_to_leak_holds_the_secret() {
        let leaks = FAULTS.iter().filter(|fault| fault.without.ends_with("leaks"));
        for fault in leaks {
            assert!(format!("{:?}", fault.upstream).contains(SECRET), "{}", fault.name);
        }
    }
}

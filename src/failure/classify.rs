//! From a foreign error and the facts around it to a [`Kind`]: the only file that looks inside
//! errors that are not ours.
//!
//! An error alone does not know whether the request was sent or how much of the response had
//! come; the [`Facts`] do. Everything here is pure, so a table tests it without a socket.
//! Timeouts of ours never come through here: their kind follows from the phase
//! ([`Failure::timeout`]).

use std::error::Error;
use std::io;

use super::rehearsal::Rehearsed;
use super::{ClientFailure, Failure, Kind, Phase};

/// What is known about an exchange at the moment an error is returned.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Where the request was.
    pub phase: Phase,
    /// Bytes of this response that had arrived.
    pub received: u64,
}

impl Facts {
    /// Facts of a phase in which no response byte can have come.
    #[must_use]
    pub fn in_phase(phase: Phase) -> Self {
        Facts { phase, received: 0 }
    }
}

/// Classifies an I/O error of an upstream's socket or TLS session.
#[must_use]
pub fn classify(facts: &Facts, error: &io::Error) -> Kind {
    if let Some(Rehearsed(kind)) = rehearsed(error) {
        return kind;
    }
    if let Some(tls) = find_tls(error) {
        return classify_tls(tls);
    }
    match facts.phase {
        Phase::Resolve => Kind::DnsError,
        Phase::Connect => classify_connect(error),
        Phase::Tls
        | Phase::Send
        | Phase::Head
        | Phase::Body
        | Phase::Upgrade
        | Phase::Websocket => classify_established(facts, error),
    }
}

/// Classifies and wraps in one step, where the I/O returns.
pub fn failure(facts: &Facts, error: io::Error) -> Failure {
    Failure::new(classify(facts, &error), facts.phase).with_source(error)
}

/// The upstream closed its side in an orderly way although more was due.
pub fn ended(facts: &Facts) -> Failure {
    Failure::new(cut_short(facts), facts.phase).with_source(Ended { received: facts.received })
}

/// Classifies an error of an HTTP/2 stream or of its connection.
///
/// What the upstream ended (RST_STREAM, GOAWAY, the connection) was cut short; what we had to end
/// is its breach of RFC 9113.
pub fn http2(facts: &Facts, error: h2::Error) -> Failure {
    let kind = match error.get_io() {
        // h2's codec says in words of its own that the connection ended within a frame.
        Some(io) if io.kind() == io::ErrorKind::Other && find_tls(io).is_none() => cut_short(facts),
        Some(io) => classify(facts, io),
        None if error.is_remote() => cut_short(facts),
        None if error.is_library() || error.is_reset() || error.is_go_away() => {
            Kind::HttpProtocolError
        }
        None => Kind::ProxyInternalError,
    };
    Failure::new(kind, facts.phase).with_source(error)
}

/// Classifies an error of an HTTP/2 connection that we had to end because of what came on another
/// of its streams: for this one it was cut short.
pub fn collateral(facts: &Facts, error: h2::Error) -> Failure {
    Failure::new(cut_short(facts), facts.phase).with_source(Collateral(error))
}

/// The connection ended because of another stream.
#[derive(Debug)]
struct Collateral(h2::Error);

impl std::fmt::Display for Collateral {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection was ended because of what came on another of its streams")
    }
}

impl Error for Collateral {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

/// What a rehearsal asked for, if this is the error of one.
pub(super) fn rehearsed(error: &(dyn Error + 'static)) -> Option<Rehearsed> {
    let inner = match error.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().and_then(|inner| inner.downcast_ref()),
        None => error.downcast_ref(),
    };
    inner.copied()
}

/// What an HTTP/2 error has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http2End {
    /// The stream, which the upstream says that it has not processed (RFC 9113 §8.7).
    Refused,
    /// The stream, by the upstream.
    Reset,
    /// The stream, by us, because of what the upstream has sent on it.
    Refuted,
    /// The connection.
    Connection,
}

/// Returns what an HTTP/2 error has ended.
#[must_use]
pub fn http2_end(error: &h2::Error) -> Http2End {
    match (error.is_reset(), error.is_remote()) {
        (true, true) if error.reason() == Some(h2::Reason::REFUSED_STREAM) => Http2End::Refused,
        (true, true) => Http2End::Reset,
        (true, false) => Http2End::Refuted,
        (false, _) => Http2End::Connection,
    }
}

/// Returns the client's failure if its HTTP/2 connection ended because of what it sent: we have said
/// so with GOAWAY. A client that has just left has not failed.
#[must_use]
pub fn client_http2(error: &h2::Error) -> Option<ClientFailure> {
    let is_ours = error.is_go_away() && !error.is_remote();
    is_ours.then_some(ClientFailure::Http2)
}

/// What the client did, if its request content ended with this error: chunks that cannot be read, or
/// else it went away.
#[must_use]
pub fn content(error: &(dyn std::error::Error + 'static)) -> ClientFailure {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
        {
            return ClientFailure::BadRequest;
        }
        source = error.source();
    }
    ClientFailure::Gone
}

/// A connection that ended early: before the first byte it is the crash, after it the response is
/// incomplete.
fn cut_short(facts: &Facts) -> Kind {
    if facts.received == 0 { Kind::ConnectionTerminated } else { Kind::HttpResponseIncomplete }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "the foreign enum is open-ended")]
fn classify_connect(error: &io::Error) -> Kind {
    use io::ErrorKind as E;
    match error.kind() {
        E::ConnectionRefused => Kind::ConnectionRefused,
        E::TimedOut => Kind::ConnectionTimeout,
        E::ConnectionReset | E::ConnectionAborted | E::BrokenPipe | E::NotConnected => {
            Kind::ConnectionTerminated
        }
        E::HostUnreachable | E::NetworkUnreachable | E::NetworkDown | E::PermissionDenied => {
            Kind::DestinationIpUnroutable
        }
        // Out of descriptors, ports or memory: ours, never hidden under an upstream's name.
        // io::ErrorKind is open-ended.
        _ => Kind::ProxyInternalError,
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "the foreign enum is open-ended")]
fn classify_established(facts: &Facts, error: &io::Error) -> Kind {
    use io::ErrorKind as E;
    match error.kind() {
        E::ConnectionReset
        | E::ConnectionAborted
        | E::BrokenPipe
        | E::UnexpectedEof
        | E::NotConnected
        | E::WriteZero => cut_short(facts),
        // The kernel gave up retransmitting.
        E::TimedOut => facts.phase.timeout_kind(),
        E::HostUnreachable | E::NetworkUnreachable | E::NetworkDown => {
            Kind::DestinationIpUnroutable
        }
        // io::ErrorKind is open-ended.
        _ => Kind::ProxyInternalError,
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "the foreign enum is open-ended")]
fn classify_tls(error: &rustls::Error) -> Kind {
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            Kind::TlsCertificateError
        }
        rustls::Error::AlertReceived(_) => Kind::TlsAlertReceived,
        // rustls::Error is non-exhaustive.
        _ => Kind::TlsProtocolError,
    }
}

fn find_tls(error: &io::Error) -> Option<&rustls::Error> {
    // tokio-rustls hands rustls' errors out as the inner error of an io::Error.
    let mut next: Option<&(dyn Error + 'static)> =
        error.get_ref().map(|inner| inner as &(dyn Error + 'static));
    while let Some(inner) = next {
        if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        next = inner.source();
    }
    None
}

/// The orderly end of a connection, as a source error for the log.
#[derive(Debug)]
struct Ended {
    received: u64,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the upstream closed the connection after {} bytes of the response",
            self.received
        )
    }
}

impl Error for Ended {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_facts_give_kinds() {
        use io::ErrorKind as E;
        let rows = [
            (Phase::Resolve, 0, E::Other, Kind::DnsError),
            (Phase::Connect, 0, E::ConnectionRefused, Kind::ConnectionRefused),
            (Phase::Connect, 0, E::TimedOut, Kind::ConnectionTimeout),
            (Phase::Connect, 0, E::HostUnreachable, Kind::DestinationIpUnroutable),
            (Phase::Connect, 0, E::NetworkUnreachable, Kind::DestinationIpUnroutable),
            (Phase::Connect, 0, E::ConnectionReset, Kind::ConnectionTerminated),
            (Phase::Connect, 0, E::Other, Kind::ProxyInternalError),
            (Phase::Tls, 0, E::UnexpectedEof, Kind::ConnectionTerminated),
            (Phase::Send, 0, E::BrokenPipe, Kind::ConnectionTerminated),
            (Phase::Head, 0, E::ConnectionReset, Kind::ConnectionTerminated),
            (Phase::Head, 1, E::ConnectionReset, Kind::HttpResponseIncomplete),
            (Phase::Body, 9, E::UnexpectedEof, Kind::HttpResponseIncomplete),
            (Phase::Head, 0, E::TimedOut, Kind::HttpResponseTimeout),
            (Phase::Body, 9, E::TimedOut, Kind::ConnectionReadTimeout),
            (Phase::Send, 0, E::TimedOut, Kind::ConnectionWriteTimeout),
            (Phase::Body, 9, E::Other, Kind::ProxyInternalError),
        ];
        for (phase, received, error, expected) in rows {
            let facts = Facts { phase, received };
            assert_eq!(classify(&facts, &io::Error::from(error)), expected, "{phase} {error:?}");
        }
    }

    #[test]
    fn tls_errors_are_found_inside_io_errors() {
        use rustls::{AlertDescription, CertificateError, Error as Tls};
        let rows = [
            (Tls::InvalidCertificate(CertificateError::Expired), Kind::TlsCertificateError),
            (Tls::NoCertificatesPresented, Kind::TlsCertificateError),
            (Tls::AlertReceived(AlertDescription::HandshakeFailure), Kind::TlsAlertReceived),
            (Tls::DecryptError, Kind::TlsProtocolError),
        ];
        for (tls, expected) in rows {
            let error = io::Error::new(io::ErrorKind::InvalidData, tls);
            assert_eq!(classify(&Facts::in_phase(Phase::Tls), &error), expected);
        }
    }
}

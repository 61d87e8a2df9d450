//! The one place that says what counts against an endpoint (ejection) and against its upstream (the
//! circuit).
//!
//! | a request | endpoint | circuit |
//! | --- | --- | --- |
//! | was served | for it | for it |
//! | was answered by an app that failed | against it with `count_app_errors`, else for it | the same |
//! | failed by connection or protocol | against it | against it, if no other attempt served it |
//! | failed so because of an event that another one has told: a connection that all waited for, or shared, or a refusal that is believed | – | – |
//! | was declined unprocessed (REFUSED_STREAM, GOAWAY) | – | – |
//! | lost its idle connection and was sent again | – | – |
//! | got a 101 with a wrong Upgrade, Connection or Sec-WebSocket-Accept | against it | against it |
//! | got a 101 with what its client had not offered | – | – |
//! | asked an endpoint that speaks HTTP/2 for an upgrade of HTTP/1.1, and it could not | – | – |
//! | met a limit, or an answer that is over one | – | – |
//! | failed by what its client did: an upload that stands still, a loop, a rehearsal | – | – |
//!
//! What is told of an event once is each request's own failure all the same: that is what
//! `seawall_failures_total` counts.
//!
//! The third that learns, `adaptive`, learns from times and not from failures: from how long the upstream
//! alone was waited for, whatever ended the wait.

use super::Outcome;
use crate::failure::{Failure, Kind};

/// What the end of a request says of the endpoint, or of the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is well.
    Well,
    /// It has failed.
    Failed,
    /// Nothing.
    Nothing,
}

/// Judges the end of a request, where an app's own failures count or do not.
#[must_use]
pub fn judge(outcome: Outcome<'_>, count_app_errors: bool) -> Verdict {
    match outcome {
        Outcome::Served => Verdict::Well,
        Outcome::AppFailed if count_app_errors => Verdict::Failed,
        Outcome::AppFailed => Verdict::Well,
        Outcome::Broken(failure) if blames(failure) => Verdict::Failed,
        Outcome::Broken(_) => Verdict::Nothing,
    }
}

/// Returns `true` if a failure speaks against the upstream: connection and protocol do. What the app
/// says of itself is judged elsewhere; limits, and how large a response is, are no sign of a crash.
fn blames(failure: &Failure) -> bool {
    if failure.is_blameless() || failure.is_rehearsed() {
        return false;
    }
    match failure.kind() {
        Kind::DnsError
        | Kind::DnsTimeout
        | Kind::DestinationIpUnroutable
        | Kind::ConnectionRefused
        | Kind::ConnectionTimeout
        | Kind::ConnectionTerminated
        | Kind::ConnectionReadTimeout
        | Kind::ConnectionWriteTimeout
        | Kind::TlsProtocolError
        | Kind::TlsCertificateError
        | Kind::TlsAlertReceived
        | Kind::HttpResponseTimeout
        | Kind::HttpResponseIncomplete
        | Kind::HttpResponseTransferCoding
        | Kind::HttpProtocolError
        // Only a 101 that no request can be the reason of; the others are blameless.
        | Kind::HttpUpgradeFailed => true,
        Kind::DestinationUnavailable
        | Kind::ConnectionLimitReached
        | Kind::HttpResponseHeaderSectionSize
        | Kind::HttpResponseHeaderSize
        | Kind::HttpResponseBodySize
        | Kind::HttpResponseTrailerSectionSize
        | Kind::WebsocketProtocolError
        | Kind::ApplicationError
        | Kind::DependencyFailure
        | Kind::ProxyInternalError
        | Kind::ProxyConfigurationError
        | Kind::ProxyLoopDetected => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Phase;

    #[test]
    fn connection_and_protocol_count_and_what_clients_and_limits_do_does_not() {
        let judged = |failure: Failure| judge(Outcome::Broken(&failure), true);
        let of = |kind| Failure::new(kind, Phase::Head);
        for kind in [
            Kind::ConnectionRefused,
            Kind::ConnectionTerminated,
            Kind::HttpResponseTimeout,
            Kind::HttpProtocolError,
            Kind::HttpUpgradeFailed,
        ] {
            assert_eq!(judged(of(kind)), Verdict::Failed, "{kind}");
            assert_eq!(judged(of(kind).blameless()), Verdict::Nothing, "{kind}, told before");
        }
        for kind in [
            Kind::ConnectionLimitReached,
            Kind::HttpResponseBodySize,
            Kind::ProxyInternalError,
            Kind::ProxyLoopDetected,
            Kind::DestinationUnavailable,
        ] {
            assert_eq!(judged(of(kind)), Verdict::Nothing, "{kind}");
        }
    }

    #[test]
    fn an_app_that_fails_counts_only_where_it_is_configured() {
        assert_eq!(judge(Outcome::AppFailed, true), Verdict::Failed);
        assert_eq!(judge(Outcome::AppFailed, false), Verdict::Well);
        assert_eq!(judge(Outcome::Served, false), Verdict::Well);
    }
}

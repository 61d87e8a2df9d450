//! Active health checks: each endpoint is asked now and then, and one that does not answer well gets
//! no requests until it does.
//!
//! One task per endpoint, on one worker; what it finds is known to all of them through the roster.
//! A check opens a connection of its own, so that it sees what a new connection would see, and ends
//! within its time. It is no request of a client: neither limits nor failure counters see it.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use tokio::time::{sleep, timeout};

use super::Shared;
use super::exchange::{Asked, Broken, Exchange, Framing, Head, Piece, Request, ResponseHead};
use super::http2::session::{Session, Sessions};
use super::pool::{Connection, Ticket};
use super::tls::{self, Purpose};
use super::{ejection, http1, http2};
use crate::config::model::{Health, Probe, UpstreamProtocol};
use crate::failure::Failure;

/// How much of an answer is read.
const MOST: usize = 64 * 1024;

/// Checks this endpoint for ever.
pub async fn watch(shared: Arc<Shared>, endpoint: usize) {
    let Some(health) = shared.settings.health.clone() else { return };
    let mut streak = Streak::new(&health);
    // Not all endpoints, and not all seawalls after a restart, at the same moment.
    sleep(ejection::jitter(health.interval.min(Duration::from_secs(1)))).await;
    loop {
        let result = check(&shared, endpoint, &health).await;
        shared.metrics.checked(endpoint, result.is_ok());
        if let Some(up) = streak.next(result.is_ok()) {
            shared.checked(endpoint, up, result.err());
        }
        let tenth = health.interval / 10;
        sleep(health.interval - tenth + ejection::jitter(tenth * 2)).await;
    }
}

/// Checks in a row with the same result.
#[derive(Debug)]
struct Streak {
    healthy: u32,
    unhealthy: u32,
    up: bool,
    length: u32,
    first: bool,
}

impl Streak {
    fn new(health: &Health) -> Self {
        let Health { healthy, unhealthy, initially_up: up, .. } = *health;
        Streak { healthy, unhealthy, up, length: 0, first: true }
    }

    /// Whether the endpoint is up from now on, if this changes it. The first check is enough to
    /// bring in an endpoint that nothing was known of.
    fn next(&mut self, passed: bool) -> Option<bool> {
        let first = std::mem::replace(&mut self.first, false);
        if passed == self.up {
            self.length = 0;
            return None;
        }
        self.length += 1;
        let enough = match passed {
            true if first => 1,
            true => self.healthy,
            false => self.unhealthy,
        };
        if self.length < enough {
            return None;
        }
        self.length = 0;
        self.up = passed;
        Some(passed)
    }
}

/// Why a check failed: for the log.
#[derive(Debug)]
pub enum Unwell {
    /// It took too long.
    Slow,
    /// It broke.
    Broken(Failure),
    /// The status is none of the good ones.
    Status(u16),
    /// The content does not match.
    Content,
}

impl std::fmt::Display for Unwell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unwell::Slow => f.write_str("no answer in time"),
            Unwell::Broken(failure) => failure.fmt(f),
            Unwell::Status(status) => write!(f, "status {status}"),
            Unwell::Content => f.write_str("the content does not match"),
        }
    }
}

impl From<Failure> for Unwell {
    fn from(failure: Failure) -> Self {
        Unwell::Broken(failure)
    }
}

impl From<Broken> for Unwell {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Upstream(failure) => Unwell::Broken(failure),
            // There is no client.
            Broken::Client(..) => Unwell::Slow,
        }
    }
}

async fn check(shared: &Shared, endpoint: usize, health: &Health) -> Result<(), Unwell> {
    // Boxed: it is rare, and the worker would carry the room for it.
    let ask = Box::pin(ask(shared, endpoint, &health.probe));
    timeout(health.timeout, ask).await.unwrap_or(Err(Unwell::Slow))
}

async fn ask(shared: &Shared, endpoint: usize, probe: &Probe) -> Result<(), Unwell> {
    let Some(target) = shared.targets.get(endpoint) else { return Err(Unwell::Slow) };
    let settings = &shared.settings;
    let stream = target.connect(settings, Purpose::Requests, None).await?;
    let Probe::Http { path, statuses, body } = probe else { return Ok(()) };
    let ticket = Ticket::beside(shared.metrics.connections());
    let two = match settings.protocol {
        UpstreamProtocol::Http1 => false,
        UpstreamProtocol::Http2 => true,
        UpstreamProtocol::Auto => stream.alpn_agreed_on(tls::HTTP_2) == Some(true),
    };
    let authority = target.endpoint.authority();
    let mut exchange = if two {
        let open = async { Session::open(stream, ticket, &settings.limits).await.map(Some) };
        let lease = Sessions::new(Duration::ZERO).lease(open).await?;
        let Some(lease) = lease else { return Err(Unwell::Slow) };
        let scheme = if target.tls.is_some() { "https" } else { "http" };
        let uri = format!("{scheme}://{authority}{path}");
        let head = http::Request::get(uri).header("user-agent", AGENT).body(());
        let head = head.map_err(|error| {
            let kind = crate::failure::Kind::ProxyInternalError;
            Failure::new(kind, crate::failure::Phase::Send).with_source(error)
        })?;
        let request = request(settings.timeouts.head).with_head(head);
        let exchange = http2::exchange::Exchange::new(lease, Arc::clone(settings), request);
        Exchange::Http2(Box::new(exchange))
    } else {
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {AGENT}\r\n\
             Connection: close\r\n\r\n"
        );
        let request = request(settings.timeouts.head).with_head(BytesMut::from(&*head));
        let connection = Connection::new(stream, ticket);
        let exchange = http1::exchange::Exchange::new(connection, Arc::clone(settings), request);
        Exchange::Http1(Box::new(exchange))
    };
    let head = final_head(&mut exchange).await?;
    let status = head.status.as_u16();
    if !statuses.iter().any(|(from, to)| (*from..=*to).contains(&status)) {
        return Err(Unwell::Status(status));
    }
    let Some(pattern) = body else { return Ok(()) };
    let content = content(&mut exchange).await?;
    if pattern.is_match(&content) { Ok(()) } else { Err(Unwell::Content) }
}

const AGENT: &str = concat!("seawall/", env!("CARGO_PKG_VERSION"), " health check");

fn request(head_timeout: Duration) -> Request<(), Nothing> {
    Request {
        head: (),
        body: None,
        framing: Framing::Empty,
        asked: Asked::default(),
        expects_continue: false,
        content_limit: None,
        client_timeout: head_timeout,
        head_timeout,
    }
}

async fn final_head(exchange: &mut Exchange<Nothing>) -> Result<ResponseHead, Broken> {
    loop {
        if let Head::Final(head) = exchange.head().await? {
            return Ok(head);
        }
    }
}

/// The first [`MOST`] bytes.
async fn content(exchange: &mut Exchange<Nothing>) -> Result<BytesMut, Broken> {
    let mut content = BytesMut::new();
    while content.len() < MOST {
        match poll_fn(|cx| exchange.poll_content(cx)).await.transpose()? {
            Some(Piece::Data(data)) => content.extend_from_slice(&data),
            Some(Piece::Trailers(_)) | None => break,
        }
    }
    content.truncate(MOST);
    Ok(content)
}

/// The content of a GET.
#[derive(Debug)]
struct Nothing;

impl Body for Nothing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streak(initially_up: bool) -> Streak {
        Streak::new(&Health { healthy: 2, unhealthy: 3, initially_up, ..Health::default() })
    }

    /// What becomes of checks that pass (`+`) or fail (`-`): up, down, or no change.
    fn changes(mut streak: Streak, checks: &str) -> String {
        let change = |check| match streak.next(check == '+') {
            Some(true) => 'u',
            Some(false) => 'd',
            None => '.',
        };
        checks.chars().map(change).collect()
    }

    #[test]
    fn only_so_many_checks_in_a_row_change_anything() {
        for (up, checks, expected) in [
            (true, "+++--+---++", "........d.u"),
            (true, "--+--+---", "........d"),
            (true, "----+-++", "..d....u"),
            // Nothing was known: the first answer counts.
            (false, "++---", "u...d"),
            (false, "-+++", "..u."),
        ] {
            assert_eq!(changes(streak(up), checks), expected, "{checks}");
        }
    }
}

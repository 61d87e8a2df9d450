//! Active health checks: each endpoint is asked now and then, and one that does not answer well gets
//! no requests until it does.
//!
//! One task per endpoint, on one worker; what it finds is known to all of them through the roster.
//! A check opens a connection of its own, so that it sees what a new connection would see, and ends
//! within its time. It is no request of a client: neither limits nor failure counters see it.

mod grpc;
mod websocket;

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::Full;
use tokio::time::{Instant, sleep, timeout};

use super::connect::Target;
use super::exchange::{Asked, Broken, Came, Exchange, Piece, Request, ResponseHead};
use super::framing::{Absence, Announced, Framing};
use super::http2::session::{Session, Sessions};
use super::pool::{Connection, Ticket};
use super::set::Member;
use super::stream::Stream;
use super::tls::{self, Purpose};
use super::upload::ContentLimit;
use super::{Shared, Watching, always};
use super::{ejection, http1, http2};
use crate::config::model::{Health, Probe, UpstreamProtocol};
use crate::failure::{Failure, Kind, Phase};

/// What a check sends: nothing, or all of it at once.
type Content = Full<Bytes>;

/// How much of an answer is read.
const MOST: usize = 64 * 1024;

/// Checks the endpoints of this upstream for ever, those that come as well.
pub async fn watch_all(shared: Arc<Shared>) {
    let mut watched: Vec<(Arc<Member>, Watching)> = Vec::new();
    loop {
        let mut changed = pin!(shared.changed.notified());
        // What changes from here on is not missed.
        changed.as_mut().enable();
        let set = shared.current();
        let is_there = |known: &Arc<Member>| set.members.iter().any(|at| Arc::ptr_eq(at, known));
        watched.retain(|(known, _)| is_there(known));
        for member in &set.members {
            if !watched.iter().any(|(known, _)| Arc::ptr_eq(known, member)) {
                let (shared, checked) = (Arc::clone(&shared), Arc::clone(member));
                let watch = move || watch(Arc::clone(&shared), Arc::clone(&checked));
                let task = Watching(vec![always("a health check", watch)]);
                watched.push((Arc::clone(member), task));
            }
        }
        drop(set);
        changed.await;
    }
}

/// Checks this endpoint for ever.
async fn watch(shared: Arc<Shared>, member: Arc<Member>) {
    let Some(health) = shared.settings.health.clone() else { return };
    let mut streak = Streak::new(&health, !member.standing.is_down());
    // Not all endpoints, and not all seawalls after a restart, at the same moment.
    sleep(ejection::jitter(health.interval.min(Duration::from_secs(1)))).await;
    loop {
        let result = check(&shared, &member.target, &health).await;
        if let Err(Unwell::Broken(failure)) = &result
            && (failure.kind(), failure.phase()) == (Kind::ProxyInternalError, Phase::Connect)
        {
            // Our own trouble, as when no file can be opened: it says nothing of the endpoint.
            tracing::warn!(endpoint = &**member.label(), %failure, "a health check could not be made");
            sleep(health.interval).await;
            continue;
        }
        member.metrics.checked(result.is_ok());
        let first = member.standing.first_check();
        if let Some(up) = streak.next(result.is_ok(), first) {
            shared.checked(&member, up, result.err());
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
}

impl Streak {
    /// A streak that begins with an endpoint that is `up` or not.
    fn new(health: &Health, up: bool) -> Self {
        Streak { healthy: health.healthy, unhealthy: health.unhealthy, up, length: 0 }
    }

    /// Returns `true` if the endpoint is up from now on, if this changes it. The first check of its
    /// kind is enough to bring an endpoint in.
    fn next(&mut self, passed: bool, first: bool) -> Option<bool> {
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
    /// The gRPC call ended with this status, or without any.
    GrpcStatus(Option<String>),
    /// The service is in this state of grpc.health.v1, and not in SERVING.
    NotServing(u64),
    /// The answer to the WebSocket handshake is no valid 101.
    Handshake,
}

impl std::fmt::Display for Unwell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unwell::Slow => f.write_str("no answer in time"),
            Unwell::Broken(failure) => failure.fmt(f),
            Unwell::Status(status) => write!(f, "status {status}"),
            Unwell::Content => f.write_str("the content does not match"),
            Unwell::GrpcStatus(None) => f.write_str("no grpc-status"),
            Unwell::GrpcStatus(Some(status)) => write!(f, "grpc-status {status}"),
            Unwell::NotServing(0) => f.write_str("UNKNOWN"),
            Unwell::NotServing(2) => f.write_str("NOT_SERVING"),
            Unwell::NotServing(3) => f.write_str("SERVICE_UNKNOWN"),
            Unwell::NotServing(other) => write!(f, "serving status {other}"),
            Unwell::Handshake => f.write_str("the handshake is not accepted as RFC 6455 demands"),
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

async fn check(shared: &Shared, target: &Target, health: &Health) -> Result<(), Unwell> {
    // Boxed: it is rare, and the worker would carry the room for it.
    let ask = Box::pin(ask(shared, target, &health.probe));
    timeout(health.timeout, ask).await.unwrap_or(Err(Unwell::Slow))
}

async fn ask(shared: &Shared, target: &Target, probe: &Probe) -> Result<(), Unwell> {
    let settings = &shared.settings;
    let purpose = match probe {
        Probe::Tcp | Probe::Http { .. } | Probe::Grpc { .. } => Purpose::Requests,
        Probe::WebSocket { .. } => Purpose::Upgrade,
    };
    let stream = target.connect(settings, purpose, None).await?;
    let (path, statuses, body) = match probe {
        Probe::Tcp => return Ok(()),
        Probe::Grpc { service } => return grpc::ask(shared, target, stream, service).await,
        Probe::WebSocket { path } => return websocket::ask(shared, target, stream, path).await,
        Probe::Http { path, statuses, body } => (path, statuses, body),
    };
    let two = match settings.protocol {
        UpstreamProtocol::Http1 => false,
        UpstreamProtocol::Http2 => true,
        UpstreamProtocol::Auto => stream.alpn_agreed_on(tls::HTTP_2) == Some(true),
    };
    let authority = target.endpoint.authority();
    let mut exchange = if two {
        let head = http::Request::get(uri(target, path));
        over_http2(shared, stream, head, Content::default()).await?
    } else {
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {AGENT}\r\n\
             Connection: close\r\n"
        );
        over_http1(shared, stream, &head, Asked::default())
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

/// The absolute form of a path at the endpoint.
fn uri(target: &Target, path: &str) -> String {
    let scheme = if target.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{}{path}", target.endpoint.authority())
}

/// Returns an exchange without content on this HTTP/1.1 connection; `head` lacks its empty line.
fn over_http1(shared: &Shared, stream: Stream, head: &str, asked: Asked) -> Exchange<Content> {
    let settings = &shared.settings;
    let request = request(settings.timeouts.head, Content::default());
    let mut head = Announced::lines(BytesMut::from(head), Framing::Empty, Absence::Understood);
    head.push(b"\r\n");
    let request = Request { asked, ..request }.with_head(head);
    let connection = Connection::new(stream, Ticket::beside(shared.metrics.connections()));
    let exchange = http1::exchange::Exchange::new(connection, Arc::clone(settings), request);
    Exchange::Http1(exchange)
}

/// The only exchange on this HTTP/2 connection.
async fn over_http2(
    shared: &Shared,
    stream: Stream,
    head: http::request::Builder,
    content: Content,
) -> Result<Exchange<Content>, Unwell> {
    let settings = &shared.settings;
    let head = head.header("user-agent", AGENT).body(());
    let head = head
        .map_err(|error| Failure::new(Kind::ProxyInternalError, Phase::Send).with_source(error))?;
    let ticket = Ticket::beside(shared.metrics.connections());
    let sessions = Rc::new(Sessions::new(Duration::ZERO, None));
    let open = async { Session::open(stream, ticket, settings, &sessions).await.map(Some) };
    let lease = sessions.open(settings.timeouts.connect, open).await?;
    let Some(lease) = lease else { return Err(Unwell::Slow) };
    let framing = match content.size_hint().exact() {
        None | Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
    };
    let head = Announced::request(head, framing, Absence::Understood);
    let request = request(settings.timeouts.head, content).with_head(head);
    let exchange = http2::exchange::Exchange::new(lease, Arc::clone(settings), request);
    Ok(Exchange::Http2(Box::new(exchange)))
}

fn request(head_timeout: Duration, content: Content) -> Request<(), Content> {
    Request {
        head: (),
        body: Some(content),
        sent: Instant::now(),
        asked: Asked::default(),
        expects_continue: false,
        content_limit: ContentLimit::default(),
        client_timeout: head_timeout,
        head_timeout,
    }
}

async fn final_head(exchange: &mut Exchange<Content>) -> Result<ResponseHead, Broken> {
    let mut head = ResponseHead::awaited();
    while exchange.head(&mut head).await? == Came::Interim {}
    Ok(head)
}

/// The first [`MOST`] bytes.
async fn content(exchange: &mut Exchange<Content>) -> Result<BytesMut, Broken> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn streak(initially_up: bool) -> Streak {
        Streak::new(&Health { healthy: 2, unhealthy: 3, ..Health::default() }, initially_up)
    }

    /// What becomes of checks that pass (`+`) or fail (`-`): up, down, or no change.
    fn changes(mut streak: Streak, checks: &str) -> String {
        let mut first = true;
        let change = |check| match streak.next(check == '+', std::mem::take(&mut first)) {
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

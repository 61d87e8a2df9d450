//! The accept loop of one worker on one listener, and the first steps of a connection.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, timeout};

use super::drain::{Drain, Open, OpenGuard};
use super::io::{ClientIo, Transport};
use super::proxy_protocol::{self, Route};
use super::tls::{self, Store};
use super::{http1, http2};
use crate::config::model::{self, ProxyProtocol};
use crate::failure::ClientFailure;
use crate::forward::Worker;
use crate::forward::client::Client;
use crate::forward::current::Current;
use crate::forward::entrance::Entrance;
use crate::forward::peer::Peer;
use crate::forward::unrouted;
use crate::net::{TcpListener, TcpStream};
use crate::upstream::proxy_protocol::Told;

/// How long a failed accept is paused: out of descriptors, a busy loop would help nobody.
const PAUSE: Duration = Duration::from_millis(50);

/// How often the log says that accepting fails; the metric counts each time.
const REMINDER: Duration = Duration::from_secs(10);

/// seawall's own overload, towards a client whose request is not even read; an id follows.
const OVERLOADED: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\
    retry-after: 2\r\ncache-control: no-store\r\nconnection: close\r\nx-request-id: ";

/// A worker's socket of one listener.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    /// What the next connection goes through.
    way: CurrentWay,
    /// When the log was last told that accepting fails.
    said: Cell<Option<Instant>>,
}

impl Listener {
    /// A socket, and what its connections go through.
    #[must_use]
    pub fn new(socket: TcpListener, way: CurrentWay) -> Self {
        Listener { socket, way, said: Cell::new(None) }
    }
}

/// What a listener's connections go through, as it is now: a reload may replace it.
pub type CurrentWay = Rc<RefCell<Rc<Way>>>;

/// What a connection of a listener goes through before its first request.
#[derive(Debug)]
pub struct Way {
    /// Whose connections begin with a PROXY protocol header.
    pub proxy_protocol: ProxyProtocol,
    /// TLS, if the listener has it.
    pub tls: Option<Arc<Store>>,
    /// What the listener does with every request.
    pub entrance: Rc<Entrance>,
}

impl Way {
    /// The way of this listener's connections.
    #[must_use]
    pub fn new(listener: &model::Listener, tls: Option<Arc<Store>>) -> Self {
        let hsts = listener.tls.as_ref().and_then(|tls| tls.hsts.clone());
        let entrance = Rc::new(Entrance { redirect: listener.redirect, hsts });
        Way { proxy_protocol: listener.proxy_protocol, tls, entrance }
    }

    /// Whether a connection from this address tells whom it is for.
    fn is_told(&self, worker: &Worker, from: IpAddr) -> bool {
        match self.proxy_protocol {
            ProxyProtocol::Never => false,
            ProxyProtocol::Trusted => worker.trusts(from),
            ProxyProtocol::Always => true,
        }
    }
}

/// Accepts until the process or the listener is leaving; connections go on in tasks of their own, counted by `open`.
pub async fn run(current: Rc<Current>, listener: Listener, drain: Drain, open: Open) {
    let leaving = drain.clone().leaving();
    tokio::pin!(leaving);
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.socket.accept() => accepted,
            () = &mut leaving => break,
        };
        take(&current, &listener, accepted, &drain, &open).await;
    }
    // What the kernel has accepted already is served: closing the socket would reset it.
    while let Some(accepted) = ready(listener.socket.accept()).await {
        take(&current, &listener, accepted, &drain, &open).await;
    }
}

/// The future's output, if it has one at once.
async fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::pin!(future);
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match future.as_mut().poll(cx) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

async fn take(
    current: &Rc<Current>,
    listener: &Listener,
    accepted: io::Result<(TcpStream, SocketAddr)>,
    drain: &Drain,
    open: &Open,
) {
    match accepted {
        Ok((tcp, address)) => {
            let from = address.ip().to_canonical();
            let (guard, of_address) = open.enter(from);
            let worker = current.get();
            let way = Rc::clone(&listener.way.borrow());
            let told = way.is_told(&worker, from);
            let crowded = crowd(&worker, open, from, of_address, told);
            let current = Rc::clone(current);
            let arrival = Arrival { address, told, guard, way, open: open.clone() };
            let drain = drain.clone();
            // Boxed: when a task ends, all the room that its future has in it is written once more.
            tokio::task::spawn_local(Box::pin(async move {
                if let Some(limit) = crowded {
                    worker.metrics.connection_refused(limit);
                    let tls = arrival.way.tls.is_some();
                    return Box::pin(refuse(&worker, tcp, tls, limit)).await;
                }
                let _connection = worker.metrics.client_connected();
                drop(worker);
                if let Err(error) = connection(&current, tcp, arrival, drain).await {
                    tracing::debug!(%address, %error, "client connection ended early");
                }
            }));
        }
        // The client left between the handshake and the accept: nothing is wrong with us.
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
        Err(error) => {
            current.get().metrics.accept_failed();
            let now = Instant::now();
            if listener.said.get().is_none_or(|said| now.duration_since(said) >= REMINDER) {
                listener.said.set(Some(now));
                tracing::error!(%error, "cannot accept connections; trying again");
            }
            sleep(PAUSE).await;
        }
    }
}

/// The limit that one more connection of this address exceeds.
fn crowd(
    worker: &Worker,
    open: &Open,
    from: IpAddr,
    of_address: usize,
    told: bool,
) -> Option<&'static str> {
    if open.count() > worker.clients.connections {
        return Some("connections");
    }
    // A proxy before us speaks for many.
    let crowded = of_address > worker.clients.per_address && !told && !worker.trusts(from);
    crowded.then_some("per_address")
}

/// More connections than the limit: say so, without reading anything.
async fn refuse(worker: &Worker, mut tcp: TcpStream, tls: bool, limit: &str) {
    tracing::warn!("clients.{limit} is reached; connection refused");
    if tls {
        return;
    }
    let answer = format!("{OVERLOADED}{}\r\n\r\n", unrouted::overloaded(worker).as_str());
    let _ = timeout(Duration::from_secs(1), async {
        tcp.write_all(answer.as_bytes()).await?;
        tcp.shutdown().await?;
        http1::read_away(&mut tcp).await
    })
    .await;
}

/// A connection that was just accepted.
struct Arrival {
    address: SocketAddr,
    /// It begins with a PROXY protocol header.
    told: bool,
    guard: OpenGuard,
    way: Rc<Way>,
    open: Open,
}

/// Counts a handshake that did not come to its end. A client that just leaves has done nothing wrong:
/// load balancers look in like that.
fn count_failed(worker: &Worker, failure: ClientFailure, error: &io::Error) {
    if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::TimedOut) {
        worker.metrics.client(failure);
    }
}

/// The client that a proxy speaks for, if it does.
async fn introduced(worker: &Worker, tcp: &mut TcpStream) -> io::Result<Option<Route>> {
    let read = timeout(worker.clients.handshake_timeout, proxy_protocol::read(tcp)).await;
    read.map_err(io::Error::from)
        .flatten()
        .inspect_err(|error| count_failed(worker, ClientFailure::ProxyProtocol, error))
}

/// TLS, and the field that tells the upstream who the client has shown to be.
async fn secured(
    worker: &Worker,
    tcp: TcpStream,
    store: &Store,
) -> io::Result<(Transport, Option<(HeaderName, HeaderValue)>)> {
    let settings = store.settings();
    let accepted = timeout(worker.clients.handshake_timeout, store.acceptor().accept(tcp)).await;
    let session = accepted
        .map_err(io::Error::from)
        .flatten()
        .inspect_err(|error| count_failed(worker, ClientFailure::TlsHandshake, error))?;
    let identity = tls::identity(&settings, session.get_ref().1);
    Ok((Transport::Tls(Box::new(session)), identity))
}

async fn connection(
    current: &Rc<Current>,
    mut tcp: TcpStream,
    arrival: Arrival,
    drain: Drain,
) -> io::Result<()> {
    let Arrival { mut address, told, mut guard, way, open } = arrival;
    let worker = current.get();
    let mut to = None;
    // What happens once in the life of a connection is boxed, so that it does not carry the room.
    if told && let Some(route) = Box::pin(introduced(&worker, &mut tcp)).await? {
        (address, to) = (route.from, Some(route.to));
        let from = address.ip().to_canonical();
        let of_address = guard.move_to(from);
        if let Some(limit) = crowd(&worker, &open, from, of_address, false) {
            worker.metrics.connection_refused(limit);
            Box::pin(refuse(&worker, tcp, way.tls.is_some(), limit)).await;
            return Ok(());
        }
    }
    let to = match to {
        None if worker.tells_addresses => Some(tcp.local_addr()?),
        to => to,
    };
    let (transport, scheme, identity) = match &way.tls {
        None => (Transport::Tcp(tcp), "http", None),
        Some(store) => {
            let (transport, identity) = Box::pin(secured(&worker, tcp, store)).await?;
            (transport, "https", identity)
        }
    };
    let told = to.filter(|_| worker.tells_addresses).map(|to| Rc::new(Told { from: address, to }));
    let entrance = Rc::clone(&way.entrance);
    let peer = Peer { entrance, identity, told, ..worker.peer(address.ip(), scheme) };
    let io = ClientIo::new(transport, worker.clients.write_timeout);
    drop(worker);
    let client = Rc::new(Client::new(peer));
    if io.alpn() == Some(tls::ALPN_HTTP2) {
        Box::pin(http2::serve(current, io, client, drain)).await;
        return Ok(());
    }
    // Boxed, so that what comes later does not occupy what HTTP/1.1 needed before it.
    let http = http1::serve(current, io, Rc::clone(&client), drain.clone());
    match Box::pin(http).await {
        None => {}
        Some(http1::Became::WebSocket(switched)) => {
            drop(client);
            Box::pin(http1::relay(Box::new(switched), drain)).await;
        }
        Some(http1::Became::Http2(io)) => Box::pin(http2::serve(current, io, client, drain)).await,
    }
    Ok(())
}

//! The accept loop of one worker on one listener, and the first steps of a connection.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::detect::{Spoken, detect};
use super::drain::{Drain, Open};
use super::io::Transport;
use super::{http1, http2};
use crate::forward::Worker;
use crate::forward::current::Current;

/// How long a failed accept is paused: out of descriptors, a busy loop would help nobody.
const PAUSE: Duration = Duration::from_millis(50);

/// seawall's own overload, towards a client whose request is not even read.
const OVERLOADED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\
    retry-after: 2\r\ncache-control: no-store\r\nconnection: close\r\n\r\n";

/// A worker's socket of one listener.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// TLS for the next connection.
    pub tls: CurrentTls,
}

/// A listener's TLS, if it has any, as it is now: a reload may replace it.
pub type CurrentTls = Rc<RefCell<Option<TlsAcceptorDebug>>>;

/// A TLS acceptor that can be printed.
#[derive(Clone)]
pub struct TlsAcceptorDebug(pub TlsAcceptor);

impl std::fmt::Debug for TlsAcceptorDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsAcceptor")
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
            let guard = open.enter(from);
            let worker = current.get();
            let crowded = crowd(&worker, open, from);
            let current = Rc::clone(current);
            let tls = listener.tls.borrow().clone();
            let drain = drain.clone();
            tokio::task::spawn_local(async move {
                let _guard = guard;
                if let Some(limit) = crowded {
                    worker.metrics.connection_refused(limit);
                    return refuse(tcp, tls.is_some(), limit).await;
                }
                let _connection = worker.metrics.client_connected();
                drop(worker);
                if let Err(error) = connection(&current, tcp, address, tls, drain).await {
                    tracing::debug!(%address, %error, "client connection ended early");
                }
            });
        }
        // The client left between the handshake and the accept: nothing is wrong with us.
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
        Err(error) => {
            tracing::error!(%error, "cannot accept connections; trying again");
            sleep(PAUSE).await;
        }
    }
}

/// The limit that one more connection of this address exceeds.
fn crowd(worker: &Worker, open: &Open, from: IpAddr) -> Option<&'static str> {
    if open.count() > worker.clients.connections {
        return Some("connections");
    }
    // A proxy before us speaks for many.
    let crowded = open.count_of(from) > worker.clients.per_address && !worker.trusts(from);
    crowded.then_some("per_address")
}

/// More connections than the limit: say so, without reading anything.
async fn refuse(mut tcp: TcpStream, tls: bool, limit: &str) {
    tracing::warn!("clients.{limit} is reached; connection refused");
    if tls {
        return;
    }
    let _ = timeout(Duration::from_secs(1), async {
        tcp.write_all(OVERLOADED).await?;
        tcp.shutdown().await?;
        http1::read_away(&mut tcp).await
    })
    .await;
}

async fn connection(
    current: &Rc<Current>,
    tcp: TcpStream,
    address: SocketAddr,
    tls: Option<TlsAcceptorDebug>,
    drain: Drain,
) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let limit = current.get().clients.handshake_timeout;
    let (mut transport, scheme) = match tls {
        None => (Transport::Tcp(tcp), "http"),
        Some(TlsAcceptorDebug(acceptor)) => {
            let session = Box::pin(timeout(limit, acceptor.accept(tcp))).await??;
            (Transport::Tls(Box::new(session)), "https")
        }
    };
    let limit = current.get().clients.head_timeout;
    let detected = tokio::select! {
        biased;
        detected = timeout(limit, detect(&mut transport)) => detected?,
        // An idle connection has nothing to finish.
        () = drain.clone().begun() => return Ok(()),
    };
    let Some((spoken, early)) = detected? else { return Ok(()) };
    let peer = current.get().peer(address.ip(), scheme);
    match spoken {
        // Boxed, so that a WebSocket does not occupy for its life what HTTP needed before it.
        Spoken::Http1 => {
            let http = http1::serve(current, transport, early.freeze(), peer, drain.clone());
            if let Some(switched) = Box::pin(http).await.map(Box::new) {
                Box::pin(http1::relay(switched, drain)).await;
            }
        }
        Spoken::Http2 => {
            Box::pin(http2::serve(current, transport, early.freeze(), peer, drain)).await;
        }
    }
    Ok(())
}

//! Sockets that are pipes in memory, for the fuzz targets and for unit tests.
//!
//! Their readiness is that of tokio's sockets, to the letter: it is noted when something happens, it
//! stays until a read finds less than it has room for, and only a poll that finds none leaves a
//! waker. So a read that fills its buffer to the last byte leaves the readiness behind, a wait
//! without a waker is never woken, and a budget that is used up looks like nothing to read.
//!
//! They end as TCP does where seawall can tell: a FIN leaves the other direction open; a close over
//! unread bytes, or with the linger time at zero, is a reset; after a reset the other side still
//! reads what had arrived, then an error. Writing to somebody who has closed is an error and a reset.
//! Each direction holds [`ROOM`] bytes, then a writer waits. All of it belongs to one thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::cooperative;

/// What one direction of a connection holds.
pub const ROOM: usize = 16 * 1024;

/// One direction of a connection.
#[derive(Debug, Default)]
struct Way {
    bytes: VecDeque<u8>,
    /// The writer is done.
    fin: bool,
    /// Nobody will read any more.
    deaf: bool,
    /// Something has happened since the reader has found nothing more.
    is_readable: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Way {
    fn wake(&mut self) {
        self.wake_reader();
        self.writer.take().into_iter().for_each(Waker::wake);
    }

    fn wake_reader(&mut self) {
        self.is_readable = true;
        self.reader.take().into_iter().for_each(Waker::wake);
    }
}

#[derive(Debug, Default)]
struct Wire {
    ways: [Way; 2],
    reset: bool,
    /// Which end closes with a reset.
    abortive: [bool; 2],
    /// Somebody has connected, and who waits for that.
    taken: bool,
    accepting: Option<Waker>,
}

/// A connection's end.
#[derive(Debug)]
pub struct TcpStream {
    wire: Arc<Mutex<Wire>>,
    /// Which of the two ways this end writes to.
    end: usize,
}

/// Whom a connection goes to, or comes from, where it does not matter.
const ADDRESS: ([u8; 4], u16) = ([127, 0, 0, 1], 1);

/// A new connection's two ends.
#[must_use]
pub fn pair() -> (TcpStream, TcpStream) {
    let wire = Arc::<Mutex<Wire>>::default();
    let end = |end| TcpStream { wire: Arc::clone(&wire), end };
    (end(0), end(1))
}

impl TcpStream {
    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects to whatever [`set_upstreams`] was given next.
    ///
    /// # Errors
    /// If it has nothing: nobody listens.
    pub async fn connect(_address: impl Sized) -> io::Result<Self> {
        let next = UPSTREAMS.with(|upstreams| upstreams.borrow_mut().pop_front());
        match next {
            Some(stream) => {
                MOVED.set(MOVED.get() + 1);
                let mut wire = stream.wire();
                wire.taken = true;
                wire.accepting.take().into_iter().for_each(Waker::wake);
                drop(wire);
                Ok(stream)
            }
            None => Err(ErrorKind::ConnectionRefused.into()),
        }
    }

    /// There is nothing to set.
    ///
    /// # Errors
    /// Never.
    pub fn set_nodelay(&self, _nodelay: bool) -> io::Result<()> {
        Ok(())
    }

    /// The coming close is a reset.
    ///
    /// # Errors
    /// Never.
    pub fn set_zero_linger(&self) -> io::Result<()> {
        self.wire().abortive[self.end] = true;
        Ok(())
    }

    /// The address that all have.
    ///
    /// # Errors
    /// Never.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(ADDRESS))
    }

    /// An address.
    ///
    /// # Errors
    /// Never.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(ADDRESS))
    }

    /// Is ready when something has happened since a read has found nothing more.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Takes a unit of the scheduler's budget, and is pending when that is used up.
        let ready = poll_fn(|cx| {
            let mut wire = self.wire();
            let way = &mut wire.ways[1 - self.end];
            if way.is_readable {
                return Poll::Ready(Ok(()));
            }
            way.reader = Some(cx.waker().clone());
            Poll::Pending
        });
        pin!(cooperative(ready)).poll(cx)
    }

    /// Waits for something to read. Cancel-safe.
    ///
    /// # Errors
    /// Never.
    pub async fn readable(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_read_ready(cx)).await
    }

    /// What a read would give. Cancel-safe.
    ///
    /// # Errors
    /// `ConnectionReset` after a reset.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        let wire = loop {
            self.readable().await?;
            let mut wire = self.wire();
            let reset = wire.reset;
            let way = &mut wire.ways[1 - self.end];
            match (way.bytes.is_empty(), way.fin, reset) {
                (true, _, true) => return Err(ErrorKind::ConnectionReset.into()),
                (true, false, false) => way.is_readable = false,
                _ => break wire,
            }
        };
        let way = &wire.ways[1 - self.end];
        let count = way.bytes.len().min(buf.len());
        for (to, from) in buf.iter_mut().zip(&way.bytes) {
            *to = *from;
        }
        Ok(count)
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is, `ConnectionReset` after a reset.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.wire();
        let reset = wire.reset;
        let way = &mut wire.ways[1 - self.end];
        if !way.is_readable {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = way.bytes.len().min(buf.len());
        let is_over = reset || way.fin;
        way.is_readable = is_over || count == buf.len();
        if count > 0 {
            for (to, from) in buf.iter_mut().zip(way.bytes.drain(..count)) {
                *to = from;
            }
            way.writer.take().into_iter().for_each(Waker::wake);
            MOVED.set(MOVED.get() + 1);
            return Ok(count);
        }
        match (reset, way.fin) {
            (true, _) => Err(ErrorKind::ConnectionReset.into()),
            (false, true) => Ok(0),
            (false, false) => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes all of it, waiting for room. How much it was in the end.
    pub async fn send(&self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            let written = std::future::poll_fn(|cx| self.poll_try_write(cx, &bytes[sent..])).await;
            match written {
                Ok(count) => sent += count,
                Err(_) => break,
            }
        }
        sent
    }

    /// Writes no more.
    pub fn finish(&self) {
        let mut wire = self.wire();
        wire.ways[self.end].fin = true;
        wire.ways[self.end].wake();
    }

    fn poll_try_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.try_write(&[IoSlice::new(bytes)]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.wire().ways[self.end].writer = Some(cx.waker().clone());
                Poll::Pending
            }
            written => Poll::Ready(written),
        }
    }

    fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut wire = self.wire();
        if wire.reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let way = &mut wire.ways[self.end];
        if way.fin {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if way.deaf {
            wire.reset = true;
            wire.ways.iter_mut().for_each(Way::wake);
            return Err(ErrorKind::ConnectionReset.into());
        }
        let mut room = ROOM.saturating_sub(way.bytes.len());
        let mut count = 0;
        for buf in bufs {
            let part = &buf[..buf.len().min(room)];
            way.bytes.extend(part);
            count += part.len();
            room -= part.len();
        }
        if count == 0 && bufs.iter().any(|buf| !buf.is_empty()) {
            return Err(ErrorKind::WouldBlock.into());
        }
        way.wake_reader();
        MOVED.set(MOVED.get() + 1);
        Ok(count)
    }

    /// Waits until somebody has connected to the other end.
    pub async fn taken(&self) {
        std::future::poll_fn(|cx| {
            let mut wire = self.wire();
            if wire.taken {
                return Poll::Ready(());
            }
            wire.accepting = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Ends the connection at once, in both directions.
    pub fn reset(&self) {
        let mut wire = self.wire();
        wire.reset = true;
        wire.ways.iter_mut().for_each(Way::wake);
    }

    /// Whether the other side has closed its end altogether, or reset the connection.
    #[must_use]
    pub fn is_left(&self) -> bool {
        let wire = self.wire();
        wire.reset || wire.ways[self.end].deaf
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        let mut wire = self.wire();
        let end = self.end;
        if wire.abortive[end] || !wire.ways[1 - end].bytes.is_empty() {
            wire.reset = true;
        }
        wire.ways[1 - end].deaf = true;
        wire.ways[1 - end].bytes.clear();
        wire.ways[end].fin = true;
        wire.ways.iter_mut().for_each(Way::wake);
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            match self.try_read(buf.initialize_unfilled()) {
                Ok(count) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.try_write(bufs) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.wire().ways[self.end].writer = Some(cx.waker().clone());
                Poll::Pending
            }
            written => Poll::Ready(written),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.wire();
        if wire.reset {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        }
        let end = self.end;
        wire.ways[end].fin = true;
        wire.ways[end].wake();
        Poll::Ready(Ok(()))
    }
}

/// How often something was read, written or connected to on this thread.
#[must_use]
pub fn moved() -> u64 {
    MOVED.get()
}

thread_local! {
    static MOVED: Cell<u64> = const { Cell::new(0) };
    static UPSTREAMS: RefCell<VecDeque<TcpStream>> = const { RefCell::new(VecDeque::new()) };
}

/// From now on these are what this thread's connects lead to, one after the other; then nobody
/// listens.
pub fn set_upstreams(streams: Vec<TcpStream>) {
    UPSTREAMS.with(|upstreams| *upstreams.borrow_mut() = streams.into());
}

/// A listening socket from which connections come that were put there.
#[derive(Clone, Debug, Default)]
pub struct TcpListener(Rc<RefCell<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    streams: VecDeque<TcpStream>,
    waker: Option<Waker>,
}

impl TcpListener {
    /// There is no such listener here.
    ///
    /// # Errors
    /// Always.
    pub fn from_std(_socket: std::net::TcpListener) -> io::Result<Self> {
        Err(ErrorKind::Unsupported.into())
    }

    /// Somebody connects.
    pub fn push(&self, stream: TcpStream) {
        let mut waiting = self.0.borrow_mut();
        waiting.streams.push_back(stream);
        waiting.waker.take().into_iter().for_each(Waker::wake);
    }

    /// The next connection. Cancel-safe.
    ///
    /// # Errors
    /// Never.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        std::future::poll_fn(|cx| {
            let mut waiting = self.0.borrow_mut();
            match waiting.streams.pop_front() {
                Some(stream) => Poll::Ready(Ok((stream, SocketAddr::from(ADDRESS)))),
                None => {
                    waiting.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

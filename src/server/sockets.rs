//! Listening sockets: inherited or bound, one for each worker, each with SO_REUSEPORT.
//!
//! A socket that was inherited by `LISTEN_FDS`, from systemd or from the process before this one,
//! serves the listener with its address. Every inherited socket of a listener is accepted from, as
//! connections may wait at any of them; where there are fewer than workers, the rest is bound beside
//! them, or shared where the first was not bound to be shared.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;

use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::upstream::Shared;

/// Connections that the kernel may hold for a worker that has not accepted them yet.
const BACKLOG: i32 = 4096;

/// What a process has from the one before it, or from systemd.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Sockets that were open when the process began.
    sockets: Vec<(SocketAddr, StdListener)>,
    /// Endpoints that operators have drained.
    drained: Vec<Drained>,
}

/// An endpoint that an operator has drained: its upstream and its label.
pub type Drained = (Arc<str>, Arc<str>);

impl Inherited {
    /// What `LISTEN_FDS` says (sd_listen_fds(3)). What is no listening TCP socket is left alone,
    /// and told.
    #[must_use]
    pub fn from_env() -> Self {
        let mut given = ListenFd::from_env();
        let sockets = (0..given.len()).filter_map(|number| {
            let listening = |socket: StdListener| {
                let address = socket.local_addr()?;
                match SockRef::from(&socket).is_listener()? {
                    true => Ok((address, socket)),
                    false => Err(io::Error::other("it does not listen")),
                }
            };
            match given.take_tcp_listener(number).and_then(|found| found.map(listening).transpose())
            {
                Ok(socket) => socket,
                Err(error) => {
                    tracing::warn!(number, %error, "a descriptor of LISTEN_FDS cannot be used");
                    None
                }
            }
        });
        Inherited { sockets: sockets.collect(), drained: Vec::new() }
    }

    /// Adds what operators had drained in the process before this one.
    #[must_use]
    pub fn with_drained(self, drained: Vec<Drained>) -> Self {
        Inherited { drained, ..self }
    }

    /// Drains those endpoints among these upstreams.
    pub(super) fn drain(&mut self, upstreams: &[Arc<Shared>]) {
        for (upstream, endpoint) in self.drained.drain(..) {
            let mut named = upstreams.iter().filter(|shared| shared.settings.name == upstream);
            if named.any(|shared| shared.inherit_drain(&endpoint)) {
                tracing::info!(%upstream, %endpoint, "an endpoint is drained, as it was before the takeover");
            }
        }
    }

    /// Those with this address.
    fn take(&mut self, address: SocketAddr) -> Vec<StdListener> {
        let (taken, left) = std::mem::take(&mut self.sockets)
            .into_iter()
            .partition::<Vec<_>, _>(|(bound, _)| *bound == address);
        self.sockets = left;
        taken.into_iter().map(|(_, socket)| socket).collect()
    }

    /// One with this address.
    pub(super) fn take_one(&mut self, address: SocketAddr) -> io::Result<Option<StdListener>> {
        let socket = self.take(address).into_iter().next();
        socket.map(|socket| socket.set_nonblocking(true).map(|()| socket)).transpose()
    }

    /// Closes those that no listener has the address of, and says so.
    pub(super) fn close_rest(self) {
        for (address, _) in self.sockets {
            tracing::warn!(%address, "an inherited socket fits no listener's address; closed");
        }
    }
}

/// The sockets of one listener.
pub(super) struct Sockets {
    /// Where they are; the port is the one that the kernel chose if it could.
    pub(super) address: SocketAddr,
    /// Each worker's.
    pub(super) of_workers: Vec<Vec<StdListener>>,
    /// All of them once more.
    pub(super) kept: Kept,
}

impl Sockets {
    /// Opens the sockets of a listener on this address. `ours` are ports on which this process
    /// listens already.
    pub(super) fn open(
        address: SocketAddr,
        workers: usize,
        inherited: &mut Inherited,
        ours: &HashSet<u16>,
    ) -> io::Result<Self> {
        let mut sockets = inherited.take(address);
        for socket in &sockets {
            socket.set_nonblocking(true)?;
        }
        if sockets.is_empty() && !ours.contains(&address.port()) {
            // SO_REUSEPORT would share the port with any other process of ours in silence: a socket
            // without it finds out whether the port is free.
            drop(bind(address, Reuse::Exclusive)?);
        }
        let alone = match sockets.first() {
            Some(socket) => !SockRef::from(socket).reuse_port()?,
            None => false,
        };
        let mut address = address;
        while !alone && sockets.len() < workers {
            let socket = bind(address, Reuse::Shared)?;
            // Port 0: the first socket decides for all.
            address = socket.local_addr()?;
            sockets.push(socket);
        }
        for socket in &sockets {
            // Connections inherit it: one system call less for each.
            SockRef::from(socket).set_tcp_nodelay(true)?;
        }
        let kept = sockets.iter().map(StdListener::try_clone).collect::<io::Result<Vec<_>>>()?;
        let kept = Kept { sockets: kept.into_iter().map(Some).collect(), workers };
        let of_workers = (0..workers).map(|number| {
            let own = kept.of(number).into_iter().filter_map(|at| kept.sockets.get(at)?.as_ref());
            own.map(StdListener::try_clone).collect()
        });
        let of_workers = of_workers.collect::<io::Result<Vec<_>>>()?;
        Ok(Sockets { address, of_workers, kept })
    }
}

/// The sockets of a listener once more: for the process that takes over, and for a worker that
/// replaces another one. While one is open, the kernel goes on accepting there.
#[derive(Debug)]
pub(super) struct Kept {
    /// `None` are closed, because nobody accepts from them.
    sockets: Vec<Option<StdListener>>,
    workers: usize,
}

impl Kept {
    /// Returns which of them the worker with this number accepts from: its share, or one together
    /// with others where there are fewer than workers.
    fn of(&self, number: usize) -> Vec<usize> {
        let own: Vec<_> = (number..self.sockets.len()).step_by(self.workers.max(1)).collect();
        match number.checked_rem(self.sockets.len()) {
            Some(shared) if own.is_empty() => vec![shared],
            _ => own,
        }
    }

    /// Closes those that only the worker with this number accepts from.
    pub(super) fn close_of(&mut self, number: usize) {
        if self.sockets.len() < self.workers {
            return;
        }
        for at in self.of(number) {
            self.sockets.get_mut(at).and_then(Option::take);
        }
    }

    /// Returns those of the worker with this number once more; what was closed is bound anew. The
    /// error is why one is missing; it is closed then.
    pub(super) fn again(
        &mut self,
        address: SocketAddr,
        number: usize,
    ) -> (Vec<StdListener>, Option<io::Error>) {
        let (mut again, mut trouble) = (Vec::new(), None);
        for at in self.of(number) {
            let Some(kept) = self.sockets.get_mut(at) else { continue };
            let socket = kept.take().map_or_else(|| bind_shared(address), Ok);
            match socket.and_then(|socket| Ok((socket.try_clone()?, socket))) {
                Ok((socket, copy)) => {
                    again.push(socket);
                    *kept = Some(copy);
                }
                Err(error) => trouble = Some(error),
            }
        }
        (again, trouble)
    }

    /// Returns those that are open.
    pub(super) fn iter(&self) -> impl Iterator<Item = &StdListener> {
        self.sockets.iter().flatten()
    }

    /// Closes all of them: nothing is accepted any more, and nobody is replaced.
    pub(super) fn clear(&mut self) {
        self.sockets.clear();
    }
}

/// Binds a socket of a worker beside others of ours.
fn bind_shared(address: SocketAddr) -> io::Result<StdListener> {
    let socket = bind(address, Reuse::Shared)?;
    SockRef::from(&socket).set_tcp_nodelay(true)?;
    Ok(socket)
}

/// Whether other sockets may listen on the same port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reuse {
    /// None may.
    Exclusive,
    /// Those of the same user may, and share its connections.
    Shared,
}

pub(super) fn bind(address: SocketAddr, reuse: Reuse) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier process in TIME_WAIT do not keep us from the port.
    socket.set_reuse_address(true)?;
    if reuse == Reuse::Shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// So many sockets on one port, inherited.
    fn inherited(count: usize, reuse: Reuse) -> (SocketAddr, Inherited) {
        let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
        let sockets = (0..count).map(|_| {
            let socket = bind(address, reuse).unwrap();
            address = socket.local_addr().unwrap();
            (address, socket)
        });
        let sockets = sockets.collect();
        (address, Inherited { sockets, ..Inherited::default() })
    }

    /// Which sockets each worker accepts from: a socket is told by its number in the kernel.
    fn of_workers(sockets: &Sockets) -> Vec<BTreeSet<u64>> {
        let cookie = |socket: &StdListener| SockRef::from(socket).cookie().unwrap();
        sockets.of_workers.iter().map(|worker| worker.iter().map(cookie).collect()).collect()
    }

    fn open(address: SocketAddr, workers: usize, inherited: &mut Inherited) -> Sockets {
        Sockets::open(address, workers, inherited, &HashSet::new()).unwrap()
    }

    #[test]
    fn every_inherited_socket_is_accepted_from_whatever_the_number_of_workers() {
        for (given, workers) in [(1, 3), (3, 3), (5, 2)] {
            let (address, mut inherited) = inherited(given, Reuse::Shared);
            let sockets = open(address, workers, &mut inherited);
            let of_workers = of_workers(&sockets);
            assert_eq!(of_workers.iter().map(BTreeSet::len).sum::<usize>(), given.max(workers));
            assert!(of_workers.iter().all(|worker| !worker.is_empty()), "{of_workers:?}");
            assert_eq!(sockets.kept.iter().count(), given.max(workers));
            assert!(inherited.sockets.is_empty());
        }
    }

    #[test]
    fn a_socket_that_must_stay_alone_is_shared_by_all_workers() {
        let (address, mut inherited) = inherited(1, Reuse::Exclusive);
        let sockets = open(address, 3, &mut inherited);
        let of_workers = of_workers(&sockets);
        assert!(of_workers.iter().all(|worker| worker.len() == 1 && *worker == of_workers[0]));
        assert_eq!(sockets.kept.iter().count(), 1);
    }

    #[test]
    fn what_fits_no_address_is_left() {
        let (address, mut inherited) = inherited(1, Reuse::Exclusive);
        let other = open(SocketAddr::from(([127, 0, 0, 1], 0)), 1, &mut inherited);
        assert_ne!(other.address, address);
        assert_eq!(inherited.sockets.len(), 1);
        assert!(inherited.take_one(other.address).unwrap().is_none());
        assert!(inherited.take_one(address).unwrap().is_some());
    }

    #[test]
    fn a_port_that_another_process_has_is_taken_and_one_of_ours_is_not() {
        let (address, held) = inherited(1, Reuse::Shared);
        let none = &mut Inherited::default();
        let error = Sockets::open(address, 1, none, &HashSet::new()).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(Sockets::open(address, 1, none, &HashSet::from([address.port()])).is_ok());
        drop(held);
    }
    #[test]
    fn accepted_connections_send_small_writes_at_once() {
        for mut given in [Inherited::default(), inherited(1, Reuse::Shared).1] {
            let address = given.sockets.first().map_or(([127, 0, 0, 1], 0).into(), |(at, _)| *at);
            let sockets = open(address, 1, &mut given);
            let client = std::net::TcpStream::connect(sockets.address).unwrap();
            sockets.kept.sockets[0].as_ref().unwrap().set_nonblocking(false).unwrap();
            let (accepted, _) = sockets.kept.sockets[0].as_ref().unwrap().accept().unwrap();
            assert!(accepted.nodelay().unwrap());
            drop(client);
        }
    }
}

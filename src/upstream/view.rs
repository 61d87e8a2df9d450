//! One worker's view of an upstream's endpoints: its connections to them, and what a request that was
//! given one of them holds on to.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::Deaths;
use super::http2::session::Sessions;
use super::pending::Pending;
use super::pool::{Pool, Ticket};
use super::room::{Place, Room};
use super::set::{Member, Set};
use super::shared::Shared;
use crate::config::model;
use crate::drain::Drain;
use crate::failure::{Failure, Kind, Phase};

/// One worker's connections to the endpoints of a set.
#[derive(Debug)]
pub(super) struct View {
    pub(super) generation: u64,
    pub(super) set: Arc<Set>,
    pub(super) endpoints: Vec<Rc<Endpoint>>,
}

/// One worker's connections to an endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) member: Arc<Member>,
    pub(super) pool: Pool,
    pub(super) sessions: Rc<Sessions>,
    /// What it spoke last: with `protocol: auto` that is known only after a handshake.
    pub(super) speaks: Cell<Speaks>,
    pub(super) in_flight: Rc<Cell<usize>>,
    /// When it refused a connection, if it did at the last try.
    pub(super) refused: Cell<Option<Instant>>,
    /// When requests in flight there lost their connections.
    pub(super) deaths: Deaths,
}

/// A request or a WebSocket in flight at an endpoint, until it is dropped.
#[derive(Debug)]
pub struct InFlight {
    load: Load,
    place: Option<Place>,
}

/// One of those that the balance knows of.
#[derive(Debug)]
struct Load(Rc<Cell<usize>>);

impl Load {
    fn at(choice: &Choice) -> Self {
        let in_flight = &choice.endpoint.in_flight;
        in_flight.set(in_flight.get() + 1);
        Load(Rc::clone(in_flight))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl InFlight {
    pub(super) fn at(choice: &Choice, place: Option<Place>) -> Self {
        InFlight { load: Load::at(choice), place }
    }

    /// The request goes on at another endpoint, if there is room.
    pub(super) fn move_to(&mut self, choice: &Choice) -> bool {
        let moves =
            self.place.as_mut().is_none_or(|place| place.move_to(&choice.endpoint.member.used));
        if moves {
            self.load = Load::at(choice);
        }
        moves
    }

    /// The request has become a WebSocket: these have a limit of their own.
    pub fn became_websocket(&mut self) {
        self.place = None;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Unknown,
    Http1,
    Http2,
}

/// The endpoint that a request was given, among those that there were then.
#[derive(Clone, Debug)]
pub struct Choice {
    pub(super) view: Rc<View>,
    pub(super) at: usize,
    pub(super) endpoint: Rc<Endpoint>,
}

impl Choice {
    /// The endpoint's name in metrics and logs.
    #[must_use]
    pub fn label(&self) -> &Arc<str> {
        self.endpoint.member.label()
    }

    pub(super) fn of(view: &Rc<View>, at: usize) -> Option<Self> {
        let endpoint = Rc::clone(view.endpoints.get(at)?);
        Some(Choice { view: Rc::clone(view), at, endpoint })
    }

    /// Returns when requests in flight at the endpoint lost their connections.
    #[must_use]
    pub fn deaths(&self) -> &Deaths {
        &self.endpoint.deaths
    }

    /// Returns its number among the endpoints that the request was given one of.
    #[must_use]
    pub fn number(&self) -> usize {
        self.at
    }

    /// Resolves when its WebSockets have to leave.
    #[must_use]
    pub fn leaving(&self) -> Drain {
        self.endpoint.member.leaving()
    }
}

impl View {
    /// The view of the current set; what the last one had of it stays.
    pub(super) fn of(shared: &Shared, last: Option<&View>, pending: &Rc<Pending>) -> Self {
        // Read before the set: a change in between makes the next request look again.
        let generation = shared.generation.load(Ordering::Acquire);
        let set = shared.current();
        let known = last.map_or(&[][..], |last| &last.endpoints);
        let endpoint = |member: &Arc<Member>| {
            let known = known.iter().find(|known| Arc::ptr_eq(&known.member, member));
            known.map_or_else(|| Rc::new(Endpoint::new(shared, member, pending)), Rc::clone)
        };
        let endpoints = set.members.iter().map(endpoint).collect();
        View { generation, set, endpoints }
    }
}

impl Endpoint {
    /// The failure of whoever would try again so soon: an app that is down is not asked 20,000 times a
    /// second, and what its clients get is what they would have got.
    pub(super) fn still_refuses(&self, believed: Duration) -> Option<Failure> {
        let ago = self.refused.get()?.elapsed();
        (ago < believed).then(|| {
            let source = format!("it refused a connection {} µs ago", ago.as_micros());
            Failure::new(Kind::ConnectionRefused, Phase::Connect).with_source(source).blameless()
        })
    }

    fn new(shared: &Shared, member: &Arc<Member>, pending: &Rc<Pending>) -> Self {
        let model::Upstream { limits, timeouts, protocol, .. } = &*shared.settings;
        let keep_alive = timeouts.keep_alive;
        Endpoint {
            member: Arc::clone(member),
            pool: Pool::new(limits.idle_connections, keep_alive),
            sessions: Rc::new(Sessions::new(keep_alive, Some(Rc::clone(pending)))),
            speaks: Cell::new(match (protocol, member.target.tls.is_some()) {
                (model::UpstreamProtocol::Http2, _) => Speaks::Http2,
                (model::UpstreamProtocol::Auto, true) => Speaks::Unknown,
                (model::UpstreamProtocol::Auto | model::UpstreamProtocol::Http1, _) => {
                    Speaks::Http1
                }
            }),
            in_flight: Rc::default(),
            refused: Cell::new(None),
            deaths: Deaths::default(),
        }
    }

    /// Whether a request may find a connection without waiting.
    pub(super) fn has_connection(&self, room: &Room) -> bool {
        room.has_connection_at(&self.member.used)
            || !self.pool.is_empty()
            || self.speaks.get() == Speaks::Http2
    }

    /// Closes an idle connection, and gives its place away.
    pub(super) fn evict(&self) -> Option<Ticket> {
        self.pool.evict().or_else(|| self.sessions.evict())
    }

    pub(super) fn sweep(&self) {
        if self.member.is_kept() {
            self.pool.sweep();
            self.sessions.sweep();
        } else {
            self.clear();
        }
    }

    /// Closes all idle connections.
    pub(super) fn clear(&self) {
        self.pool.clear();
        self.sessions.clear();
    }
}

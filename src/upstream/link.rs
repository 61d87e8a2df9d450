//! From an endpoint to something that a request can travel on: an idle connection, a place on a
//! shared one, or a new one as far as the limits allow.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::http2::session::{Lease, Session};
use super::patience::{HeadTime, Spent};
use super::pool::{Connection, Pool, Ticket};
use super::proxy_protocol::Told;
use super::room::Room;
use super::set::Member;
use super::shared::Shared;
use super::stream::Stream;
use super::tls::{self, Purpose};
use super::view::{Choice, Endpoint, Speaks};
use super::{Upstream, model};
use crate::failure::{Failure, Kind, Phase};

/// What a request finds that needs a connection of its own.
enum Own {
    /// An idle connection.
    Taken(Box<Connection>),
    /// A place for a new one.
    Free(Ticket),
}

/// What a request finds that can share a connection.
enum Way {
    /// A place on one.
    Lease(Lease),
    /// One that is on its way.
    Coming,
    /// A place for a new one.
    New(Ticket),
}

/// What a request travels on.
#[derive(Debug)]
pub enum Link {
    /// An HTTP/1.1 connection of its own.
    Http1(Box<Connection>),
    /// A place on a shared HTTP/2 connection.
    Http2(Lease),
}

/// What a request needs of its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// An open one if there is one.
    Any,
    /// A new one: the last one was stale.
    Fresh,
    /// A new HTTP/1.1 connection, to be upgraded.
    Upgrade,
}

/// The request has no time left to wait for a connection. The endpoint may not have had its own
/// (`timeouts.connect`): that says nothing of it.
fn too_late(spent: Spent) -> Failure {
    Failure::timeout(Phase::Connect).with_source(spent).blameless()
}

impl Upstream {
    /// Takes an idle connection to the endpoint, if it will do.
    #[must_use]
    pub fn idle_link(&self, choice: &Choice, need: Need, now: Instant) -> Option<Link> {
        let endpoint = &*choice.endpoint;
        let is_enough = need == Need::Any
            // A connection that has told one client's address serves no other one.
            && self.shared.settings.proxy_protocol.is_none()
            && self.pending.is_free_to_try(endpoint.sessions.line())
            && endpoint.speaks.get() != Speaks::Http2;
        is_enough.then(|| endpoint.pool.take(now)).flatten().map(Link::Http1)
    }

    /// A link to the endpoint, for the client that `told` names to upstreams that want to know. Connecting
    /// takes of the request's `time`, waiting for its turn does not. [`Upstream::idle_link`] has been asked
    /// before.
    ///
    /// # Errors
    /// The failure, complete with upstream and endpoint names. No byte of the request has been
    /// sent then.
    pub async fn link(
        &self,
        choice: &Choice,
        need: Need,
        told: Option<&Told>,
        time: &HeadTime,
    ) -> Result<Link, Failure> {
        let need = match need {
            // What has told one client's address serves no other one.
            Need::Any if self.shared.settings.proxy_protocol.is_some() => Need::Fresh,
            need => need,
        };
        let endpoint = &*choice.endpoint;
        let link = match (need, endpoint.speaks.get()) {
            (Need::Upgrade, _) => self.open_http1(choice, Purpose::Upgrade, told, None, time).await,
            (Need::Any, Speaks::Http1) => {
                self.open_http1(choice, Purpose::Requests, told, Some(&endpoint.pool), time).await
            }
            (Need::Fresh, Speaks::Http1) => {
                self.open_http1(choice, Purpose::Requests, told, None, time).await
            }
            (Need::Any | Need::Fresh, Speaks::Http2 | Speaks::Unknown) => {
                self.join(choice, time).await
            }
        };
        link.map_err(|failure| self.place(choice, failure))
    }

    /// Returns `true` if the endpoint serves requests over HTTP/2.
    #[must_use]
    pub fn speaks_http2(&self, choice: &Choice) -> bool {
        choice.endpoint.speaks.get() == Speaks::Http2
    }

    /// A new connection, or an idle one of this pool that comes back while there is no room.
    async fn open_http1(
        &self,
        choice: &Choice,
        purpose: Purpose,
        told: Option<&Told>,
        pool: Option<&Pool>,
        time: &HeadTime,
    ) -> Result<Link, Failure> {
        let endpoint = &*choice.endpoint;
        let line = endpoint.sessions.line();
        let idle = |pool: &Pool| pool.take(Instant::now());
        let found = self.pending.wait(line, || match pool.and_then(idle) {
            Some(connection) => Some(Own::Taken(connection)),
            None => self.make_room(endpoint).map(Own::Free),
        });
        let ticket = match found.await? {
            Own::Taken(connection) => return Ok(Link::Http1(connection)),
            Own::Free(ticket) => ticket,
        };
        let connected = time.within(self.connect(choice, purpose, told)).await;
        let stream = connected.unwrap_or_else(|spent| Err(too_late(spent)))?;
        Ok(Link::Http1(Connection::new(stream, ticket)))
    }

    /// A place for a connection to this endpoint: a free one, or that of an idle connection to
    /// whatever endpoint; if this one has as many as it may, to this one.
    fn make_room(&self, endpoint: &Endpoint) -> Option<Ticket> {
        let Shared { settings, metrics, room, .. } = &*self.shared;
        let place = match room {
            None => None,
            Some(room) => match room.connection(&endpoint.member.used) {
                None => return endpoint.evict(),
                place => place,
            },
        };
        let (share, most) = (self.pending.share(), settings.limits.connections);
        let ticket = Ticket::take(share, most, metrics.connections());
        let ticket = ticket.or_else(|| self.view().endpoints.iter().find_map(|at| at.evict()));
        ticket.map(|ticket| ticket.at(place))
    }

    /// Closes idle connections, one for each request that waits on another worker. Nobody else would:
    /// this one may have nothing to do.
    pub(super) fn give_up_idle(&self) {
        let Shared { settings, open, room, .. } = &*self.shared;
        let waiting = if self.pending.is_for_others() { open.waiting() } else { 0 };
        let mut of_all = if open.is_below(settings.limits.connections) { 0 } else { waiting };
        for endpoint in &self.view().endpoints {
            let is_full = |room: &Arc<Room>| !room.has_connection_at(&endpoint.member.used);
            // Which endpoint they wait for is not known here.
            let of_this = if room.as_ref().is_some_and(is_full) { waiting } else { of_all };
            let closed = (0..of_this).map_while(|_| endpoint.evict().map(drop)).count();
            of_all = of_all.saturating_sub(closed);
        }
    }

    /// A place on a shared connection, if the endpoint turns out to speak HTTP/2.
    async fn join(&self, choice: &Choice, time: &HeadTime) -> Result<Link, Failure> {
        let sessions = &choice.endpoint.sessions;
        // What nobody but this endpoint's requests can use.
        let own = || match sessions.take() {
            Some(lease) => Some(Way::Lease(lease)),
            None => sessions.is_opening().then_some(Way::Coming),
        };
        let mut deadline = None;
        loop {
            let way = match sessions.line().is_empty().then(own).flatten() {
                Some(way) => way,
                None => {
                    let room = || self.make_room(&choice.endpoint).map(Way::New);
                    let take = || own().or_else(|| (!sessions.is_barred()).then(room).flatten());
                    self.pending.wait_in(sessions.line(), &mut deadline, take).await?
                }
            };
            if !(matches!(way, Way::New(_)) || self.pending.is_empty()) {
                self.pass_on();
            }
            match way {
                Way::Lease(lease) => {
                    sessions.pass_on();
                    return Ok(Link::Http2(lease));
                }
                Way::Coming => {
                    let opened = time.within(sessions.opened()).await;
                    opened.unwrap_or_else(|spent| Err(too_late(spent)))?;
                }
                Way::New(ticket) => {
                    // Boxed: it is rare, and has much to remember.
                    let opened = time.within(Box::pin(self.open_http2(choice, ticket))).await;
                    let opened = opened.unwrap_or_else(|spent| Err(too_late(spent)))?;
                    if let Some(link) = opened {
                        return Ok(link);
                    }
                }
            }
        }
    }

    /// Wakes whoever can use what a request was woken for and did not need.
    fn pass_on(&self) {
        let Shared { settings, open, .. } = &*self.shared;
        let is_idle =
            |endpoint: &Rc<Endpoint>| !endpoint.pool.is_empty() || endpoint.sessions.has_idle();
        if open.is_below(settings.limits.connections) {
            open.one_closed();
        } else if self.view().endpoints.iter().any(is_idle) {
            self.pending.returned();
        }
    }

    /// A place on a new connection, or all of it if it turns out to speak HTTP/1.1.
    async fn open_http2(&self, choice: &Choice, ticket: Ticket) -> Result<Option<Link>, Failure> {
        let endpoint = &choice.endpoint;
        let mut plain = None;
        let time = self.shared.settings.timeouts.connect;
        let lease = endpoint.sessions.open(time, async {
            // Many clients share it: it can be for none of them (the configuration sees to that).
            let stream = self.connect(choice, Purpose::Requests, None).await?;
            let agreed = stream.alpn_agreed_on(tls::HTTP_2);
            let strict = self.shared.settings.protocol == model::UpstreamProtocol::Http2;
            if agreed == Some(false) {
                if strict {
                    let failure = Failure::new(Kind::TlsProtocolError, Phase::Tls);
                    return Err(failure.with_source("the endpoint did not agree on h2 by ALPN"));
                }
                endpoint.speaks.set(Speaks::Http1);
                plain = Some(Connection::new(stream, ticket));
                return Ok(None);
            }
            endpoint.speaks.set(Speaks::Http2);
            let session = Session::open(stream, ticket, &self.shared.settings, &endpoint.sessions);
            session.await.map(Some)
        });
        let lease = lease.await?;
        Ok(lease.map(Link::Http2).or(plain.map(Link::Http1)))
    }

    async fn connect(
        &self,
        choice: &Choice,
        purpose: Purpose,
        told: Option<&Told>,
    ) -> Result<Stream, Failure> {
        let endpoint = &choice.endpoint;
        if let Some(failure) = endpoint.still_refuses(self.shared.settings.timeouts.refusal) {
            return Err(failure);
        }
        let Member { target, metrics, .. } = &*endpoint.member;
        let result = target.connect(&self.shared.settings, purpose, told).await;
        if result.as_ref().is_err_and(Failure::is_blameless) {
            // Another request has met this already.
            return result;
        }
        metrics.connected(result.is_ok());
        let refused = matches!(&result, Err(failure) if failure.kind() == Kind::ConnectionRefused);
        endpoint.refused.set(refused.then(Instant::now));
        // Out of files or ports: that is our trouble, and says nothing of the endpoint.
        if !matches!(&result, Err(failure) if failure.kind() == Kind::ProxyInternalError) {
            let set = &choice.view.set;
            set.roster.connected(choice.at, result.is_ok());
            set.tell_whether_up(choice.at);
        }
        result
    }
}

//! Floor 4: one request, from its head to the end of its response.
//!
//! ```text
//! handle ─► check ─► route ─► retry ─► request ─► hold ─► response ─► content ─► the client
//!                               ▲ │                 │        │            │
//!                               └─┴─────────────────┘        ├► websocket │
//!                             another attempt                ▼            ▼
//!                                             settle: counted, logged, journalled, answered
//! ```
//!
//! Everything that a request touches belongs to its worker: [`Worker`], [`Route`] and the upstreams'
//! pools are not shared, and what is shared behind them (metrics, journal) was resolved when the
//! configuration was loaded.

pub mod check;
pub mod client;
pub mod content;
pub mod current;
pub mod entrance;
pub mod forwarded;
pub mod head;
pub mod hold;
pub mod incoming;
pub mod max_forwards;
pub mod peer;
mod repeat;
pub mod replay;
pub mod reply;
pub mod request;
pub mod response;
pub mod retry;
pub mod settle;
mod spans;
pub mod sse;
pub mod unrouted;
pub mod websocket;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Version};
use http_body::Body as _;
use tokio::time::Instant;

use client::Client;
use forwarded::Forwarded;
use head::{Extended, Fields, Head, Known};
use incoming::Incoming;
use peer::Peer;
use reply::Reply;
use request::Extra;
use retry::{Outgoing, Unanswered};
use settle::{Held, Subject};

use crate::config::model::{self, Config};
use crate::failure::rehearsal::{self, Rehearsal};
use crate::failure::{ClientFailure, Protocol, render};
use crate::message::via;
use crate::route::{NoRoute, Router};
use crate::telemetry::Telemetry;
use crate::telemetry::journal::Journal;
use crate::telemetry::metrics::{Metrics, RouteMetrics};
use crate::telemetry::request_id::{self, RequestId, RequestIds};
use crate::telemetry::spans::Tracer;
use crate::upstream::Upstream;
use crate::upstream::exchange::Framing;
use crate::websocket::handshake;
use crate::websocket::relay::Scratch;

/// Everything that one worker's requests share.
#[derive(Debug)]
pub struct Worker {
    /// Metric handles that do not belong to a route or an upstream.
    pub metrics: Arc<Metrics>,
    /// The failure journal.
    pub journal: Arc<Journal>,
    /// The way to an OpenTelemetry collector, if there is one.
    pub tracer: Option<Arc<Tracer>>,
    /// One log line per request.
    pub access_log: bool,
    /// Limits towards clients.
    pub clients: model::Clients,
    /// How WebSockets are relayed.
    pub websocket: model::WebSocket,
    /// Read buffers of the WebSocket relay.
    pub scratch: Scratch,
    /// Our name in Via.
    pub name: Box<str>,
    /// What responses say in Via.
    pub via: Vias,
    /// How many configurations came before this one.
    pub generation: u64,
    router: Router,
    routes: Vec<Rc<Route>>,
    /// What the app is told about a client, and by whom.
    pub forwarded: Forwarded,
    /// Whether an upstream wants to know both ends of a client's connection.
    pub tells_addresses: bool,
    ids: RefCell<RequestIds>,
}

/// What responses say in Via, by the version that they were received over (RFC 9110 §7.6.3).
#[derive(Debug)]
pub struct Vias {
    http_10: HeaderValue,
    http_11: HeaderValue,
    http_2: HeaderValue,
}

impl Vias {
    fn new(name: &str) -> Self {
        let value = |version| {
            let value = HeaderValue::try_from(format!("{}{name}", via::protocol(version)));
            // Names are plain: this cannot fail.
            value.unwrap_or(HeaderValue::from_static("1.1 seawall"))
        };
        Vias {
            http_10: value(Version::HTTP_10),
            http_11: value(Version::HTTP_11),
            http_2: value(Version::HTTP_2),
        }
    }

    fn of(&self, received: Version) -> &HeaderValue {
        match received {
            Version::HTTP_2 => &self.http_2,
            Version::HTTP_10 => &self.http_10,
            _ => &self.http_11,
        }
    }
}

/// A route, resolved for one worker.
#[derive(Debug)]
pub struct Route {
    /// As configured.
    pub settings: Arc<model::Route>,
    /// Where its requests go.
    pub upstream: Rc<Upstream>,
    /// Its metric handles.
    pub metrics: RouteMetrics,
}

impl Worker {
    /// A worker for this configuration; `upstreams` are in the configuration's order. After a
    /// reload, `previous` is what it was before.
    #[must_use]
    pub fn new(
        config: &Config,
        upstreams: &[Rc<Upstream>],
        telemetry: Telemetry,
        previous: Option<&Worker>,
    ) -> Self {
        let Telemetry { metrics, journal, tracer } = telemetry;
        // Old sessions keep their worker: as many buffers as reloads would be too many.
        let scratch = previous
            .filter(|previous| previous.websocket.read == config.websocket.read)
            .map(|previous| previous.scratch.clone());
        let routes = config.routes.iter().filter_map(|settings| {
            let upstream =
                upstreams.iter().find(|known| known.settings().name == settings.upstream.name)?;
            if settings.rehearsal.is_some() {
                metrics.rehearses(&settings.name);
            }
            Some(Rc::new(Route {
                settings: Arc::clone(settings),
                upstream: Rc::clone(upstream),
                metrics: metrics.route(&settings.name, &settings.upstream.name),
            }))
        });
        let name: Box<str> = match &config.forwarded.name {
            Some(name) => (&**name).into(),
            None => request_id::pseudonym().into(),
        };
        Worker {
            via: Vias::new(&name),
            name,
            access_log: config.log.access,
            clients: config.clients.clone(),
            websocket: config.websocket.clone(),
            scratch: scratch.unwrap_or_else(|| Scratch::new(config.websocket.read)),
            generation: previous.map_or(0, |previous| previous.generation + 1),
            router: Router::new(&config.routes),
            routes: routes.collect(),
            forwarded: Forwarded::new(config, Arc::clone(&metrics)),
            tells_addresses: config.upstreams.iter().any(|known| known.proxy_protocol.is_some()),
            ids: RefCell::new(RequestIds::new()),
            metrics,
            journal,
            tracer,
        }
    }

    /// Who is at the other end of a connection.
    #[must_use]
    pub fn peer(&self, address: std::net::IpAddr, scheme: &'static str) -> Peer {
        // An IPv4 client of a dual-stack socket is an IPv4 client.
        let address = address.to_canonical();
        Peer::new(address, scheme, self.trusts(address))
    }

    /// Whether this is a proxy that is believed.
    #[must_use]
    pub fn trusts(&self, address: std::net::IpAddr) -> bool {
        self.forwarded.trusts(address)
    }
}

/// Answers one request. Always answers: every path ends in exactly one response (P1).
///
/// Cancel-safe: `listen` drops this future when the client goes away, and with it the exchange and
/// its connection.
pub async fn handle(
    worker: Rc<Worker>,
    client: Rc<Client>,
    head: Rc<Head>,
    body: Incoming,
) -> Reply {
    client.follow(&worker);
    let id = match request::trusted_id(&head, &client.peer) {
        Some(id) => RequestId::accept(id),
        None => worker.ids.borrow_mut().next_id(),
    };
    let admitted = match admit(&worker, &client, &head, &id, body) {
        Ok(admitted) => admitted,
        // What is rare is boxed: this future is moved for every request.
        Err(refused) => return Box::pin(refused.settle(&client, head.version)).await,
    };
    let Admitted {
        route,
        host,
        held,
        asked,
        body,
        framing,
        expects_continue,
        may_hold,
        max_forwards,
    } = admitted;
    let outgoing = Outgoing {
        head: &head,
        extra: Extra {
            peer: &client.peer,
            host,
            via: &worker.name,
            forwarded: &worker.forwarded,
            max_forwards,
            request_id: id.as_bytes(),
            framing,
            upgrade: asked.is_some(),
            recording: held.subject().and_then(|subject| subject.recording.as_deref()),
            websocket_key: asked.as_ref().and_then(|asked| asked.offer.key.as_deref()),
        },
        expects_continue,
        may_hold,
    };
    let unanswered = match retry::send(&worker, &route, &client, &held, &outgoing, body).await {
        Ok(answered) => {
            return match asked {
                Some(asked) => websocket::respond(held, &client, answered, &route, *asked),
                None => response::respond(held, &client, answered, &route),
            };
        }
        Err(unanswered) => unanswered,
    };
    client.withdraw_interim();
    let (reply, body) = match unanswered {
        Unanswered::Upstream(failure, body) => (held.answer(failure), body),
        Unanswered::Client(failure, body) => (held.refuse(failure), body),
    };
    let left = body.map(|body| Left { body, expects_continue });
    Box::pin(Refused { reply, left }.settle(&client, head.version)).await
}

/// A request that is sent to an upstream.
struct Admitted<'h> {
    route: Rc<Route>,
    host: &'h str,
    held: Held,
    /// The WebSocket that is asked for. Boxed: most requests ask for none.
    asked: Option<Box<websocket::Asked>>,
    body: Incoming,
    framing: Framing,
    expects_continue: bool,
    may_hold: bool,
    max_forwards: Option<u64>,
}

/// Finds the request's route, and what speaks against taking it.
fn admit<'h>(
    worker: &Rc<Worker>,
    client: &Client,
    head: &'h Rc<Head>,
    id: &RequestId,
    mut body: Incoming,
) -> Result<Admitted<'h>, Box<Refused>> {
    body.belongs_to(worker, head);
    if let Some(port) = client.peer.entrance.redirect {
        return Err(entrance::redirect(worker, client, head, body, port, id));
    }
    let (route, host) = match find_route(worker, head, &client.peer) {
        Ok(found) => found,
        Err(failure) => return Err(refuse_unrouted(worker, client, head, body, failure, id)),
    };
    let offer = if head.extended == Some(Extended::WebSocket) {
        Some(handshake::extended_offer(&head.fields.map()))
    } else if head.fields.has(Known::Upgrade) {
        handshake::client_offer(&head.method, head.version, &head.fields.map())
    } else {
        None
    };
    let grpc = head.fields.first(Known::ContentType).filter(|value| render::is_grpc(value));
    let grpc = grpc.and_then(|value| HeaderValue::from_bytes(value).ok()).map(Box::new);
    let rehearsal = find_rehearsal(&route, &head.fields);
    let recording = worker.tracer.as_deref().map(|tracer| {
        // Boxed, and made elsewhere: most do not have it.
        spans::begin(worker, tracer, client, head, host)
    });
    let held = Held::new(Subject {
        worker: Rc::clone(worker),
        route: Rc::clone(&route),
        id: id.clone(),
        head: Rc::clone(head),
        started: Instant::now(),
        protocol: match (&offer, &grpc) {
            (Some(_), _) => Protocol::Websocket,
            (None, Some(_)) => Protocol::Grpc,
            (None, None) => Protocol::Http,
        },
        grpc,
        rehearsal: rehearsal.as_ref().ok().copied().flatten(),
        recording,
    });
    let expects_continue = request::expects_continue(head);
    let framing = request::framing(head, body.size_hint().exact());
    let left = |body| Some(Left { body, expects_continue });
    let offer = match offer.transpose() {
        // RFC 9110 §7.8: content comes before the switch, and a WebSocket's handshake has none to
        // wait for. Left out, it would be read as the connection's next request.
        Ok(Some(_)) if framing != Framing::Empty => Err(ClientFailure::BadRequest),
        offer => offer,
    };
    let asked = match offer {
        Ok(offer) => offer.map(|offer| (offer, route.upstream.admit())),
        Err(failure) => return Err(Refused::with(held.refuse(failure), left(body))),
    };
    let asked = match asked {
        None => None,
        Some((offer, Ok(place))) => Some(Box::new(websocket::Asked { offer, place })),
        Some((_, Err(refused))) => {
            return Err(Refused::with(held.overloaded(refused.retry_after_secs), left(body)));
        }
    };
    let is_too_large = match (framing, route.settings.request_body_bytes) {
        (Framing::Length(length), Some(limit)) => length > limit,
        _ => false,
    };
    let max_forwards = max_forwards::read(head);
    let passes = via::passes(head.fields.all(Known::Via), &worker.name);
    let reply = match rehearsal {
        _ if passes > worker.forwarded.max_passes => held.looped(),
        _ if max_forwards.is_err() => held.refuse(ClientFailure::BadRequest),
        _ if max_forwards == Ok(Some(0)) => held.conclude_here(),
        Err(rehearsal::Unknown) => held.refuse(ClientFailure::BadRequest),
        Ok(Some(instead @ Rehearsal { after: None, .. })) => held.answer(instead.failure()),
        Ok(_) if is_too_large => held.refuse(ClientFailure::ContentTooLarge),
        Ok(rehearsal) => {
            // Nobody rehearses how a held response is cut off.
            let may_hold = rehearsal.is_none();
            return Ok(Admitted {
                route,
                host,
                held,
                asked,
                body,
                framing,
                expects_continue,
                may_hold,
                max_forwards: max_forwards.ok().flatten().map(|left| left - 1),
            });
        }
    };
    Err(Refused::with(reply, left(body)))
}

/// What the request asks to be rehearsed, on a route that does.
fn find_rehearsal(route: &Route, fields: &Fields) -> Result<Option<Rehearsal>, rehearsal::Unknown> {
    let Some(secret) = &route.settings.rehearsal else { return Ok(None) };
    let field = fields.first(Known::Rehearse);
    field.map_or(Ok(None), |field| Rehearsal::read(field, secret))
}

fn find_route<'h>(
    worker: &Worker,
    head: &'h Head,
    peer: &Peer,
) -> Result<(Rc<Route>, &'h str), ClientFailure> {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > worker.clients.target_bytes {
        return Err(ClientFailure::UriTooLong);
    }
    let host = check::check(head, peer)?;
    match head.extended {
        Some(Extended::WebSocket) => {}
        // RFC 9220 §3.
        Some(Extended::Other) => return Err(ClientFailure::UnsupportedProtocol),
        // A tunnel to anywhere is not what a reverse proxy is for.
        None if head.method == Method::CONNECT => return Err(ClientFailure::BadRequest),
        None => {}
    }
    let index = worker.router.find(host, head.uri.path()).map_err(|error| match error {
        NoRoute::Host => ClientFailure::Misdirected,
        NoRoute::Path => ClientFailure::NoRoute,
        NoRoute::Ambiguous => ClientFailure::BadRequest,
    })?;
    let route = worker.routes.get(index).ok_or(ClientFailure::NoRoute)?;
    Ok((Rc::clone(route), host))
}

fn refuse_unrouted(
    worker: &Worker,
    client: &Client,
    head: &Head,
    body: Incoming,
    failure: ClientFailure,
    id: &RequestId,
) -> Box<Refused> {
    let mut reply = unrouted::refuse_head(worker, head, failure, id);
    if failure == ClientFailure::BadRequest && head.version != Version::HTTP_2 {
        // What follows on this connection may be part of what was not understood.
        client.linger.set(true);
        reply.close = true;
        return Refused::with(reply, None);
    }
    let left = Left { body, expects_continue: request::expects_continue(head) };
    Refused::with(reply, Some(left))
}

/// An answer that does not come from an upstream.
struct Refused {
    reply: Reply,
    left: Option<Left>,
}

/// Request content that nobody will read, because the answer is already known.
struct Left {
    body: Incoming,
    expects_continue: bool,
}

/// How much unread content, and for how long, is read away so that the connection stays usable.
/// Beyond that the connection closes after the answer, lingering.
const DRAIN_BYTES: usize = 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_millis(500);

impl Refused {
    fn with(reply: Reply, left: Option<Left>) -> Box<Self> {
        Box::new(Refused { reply, left })
    }

    /// Makes sure that the unread content does not cost the client its answer.
    async fn settle(self, client: &Client, version: Version) -> Reply {
        let Refused { mut reply, left } = self;
        let Some(Left { mut body, expects_continue }) = left else { return reply };
        if body.is_end_stream() || version == Version::HTTP_2 {
            // HTTP/2: the stream is reset with NO_ERROR behind the answer (RFC 9113 §8.1).
            return reply;
        }
        // Reading content that waits for a 100 would ask for it.
        let drained = !expects_continue
            && tokio::time::timeout(DRAIN_TIME, drain(&mut body)).await.unwrap_or(false);
        if !drained {
            client.linger.set(true);
            reply.close = true;
        }
        reply
    }
}

/// Reads content away; false if there is too much of it, or if the client fails.
async fn drain(body: &mut Incoming) -> bool {
    let mut left = DRAIN_BYTES;
    loop {
        let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx)).await;
        match frame {
            None => return true,
            Some(Err(_)) => return false,
            Some(Ok(frame)) => match left.checked_sub(frame.data_ref().map_or(0, |d| d.len())) {
                Some(rest) => left = rest,
                None => return false,
            },
        }
    }
}

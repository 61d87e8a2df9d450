//! One request and its response, whatever the upstream speaks: the vocabulary that
//! [`super::http1`] and [`super::http2`] share, and [`Exchange`], which is one or the other.
//!
//! An exchange is polled inside the request's own task, so that at each error it is known which
//! byte failed and whose it was: upstream and client are told apart by construction ([`Broken`]).
//! Every future here is cancel-safe: dropping the exchange closes its connection or resets its
//! stream.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, StatusCode, Version};
use http_body::Body;
use tokio::time::Instant;

use super::attempt::Seen;
use super::fields::Fields;
use super::framing::Announced;
pub use super::framing::Framing;
use super::patience::Patience;
use super::pool::{Connection, Reusable};
use super::{http1, http2};
use crate::failure::{ClientFailure, Failure, Source};
use crate::message::listed::Listed;

/// A parsed response head.
#[derive(Debug)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: StatusCode,
    /// What it came over.
    pub version: Version,
    /// What the client may see: end-to-end fields only (RFC 9110 §7.6.1). For a 101 also
    /// `Upgrade` and `Connection`, which its check needs.
    pub fields: Fields,
    /// The fields that its Connection lists: they do not pass as trailers either. Boxed: there are
    /// hardly ever any.
    pub listed: Option<Box<Listed<HeaderName>>>,
    /// How the content is delimited.
    pub framing: Framing,
    /// Whether the connection may carry another request (RFC 9112 §9.3).
    pub keep_alive: bool,
}

impl ResponseHead {
    /// What every head over HTTP/2 has.
    #[must_use]
    pub fn over_http2() -> Self {
        ResponseHead { version: Version::HTTP_2, keep_alive: true, ..Self::awaited() }
    }

    /// The place of one that has not come.
    #[must_use]
    pub fn awaited() -> Self {
        ResponseHead {
            status: StatusCode::OK,
            version: Version::HTTP_11,
            fields: Fields::none(),
            listed: None,
            framing: Framing::Empty,
            keep_alive: false,
        }
    }
}

/// What the request was, as far as the response's framing depends on it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// A HEAD request: its response has no content.
    pub head: bool,
    /// An upgrade was asked for: a 101 is legal.
    pub upgrade: bool,
    /// The fields are to be passed on as lines, if they come as lines.
    pub lines: bool,
}

/// Which head of the response has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// That of a 1xx (RFC 9110 §15.2): another one follows.
    Interim,
    /// That of the response itself.
    Final,
}

/// A piece of the response content.
#[derive(Debug)]
pub enum Piece {
    /// Some content.
    Data(Bytes),
    /// The trailers; nothing follows.
    Trailers(HeaderMap),
}

/// Why an exchange is over before its end: who failed is known by construction.
#[derive(Debug)]
pub enum Broken {
    /// The upstream.
    Upstream(Failure),
    /// The client: it never counts as the upstream's failure.
    Client(ClientFailure, Source),
}

/// How a request is sent and waited for.
#[derive(Debug)]
pub struct Request<H, B> {
    /// The head, in the form of the upstream's protocol. It says how the content is framed.
    pub head: H,
    /// The content, if there is any.
    pub body: Option<B>,
    /// When it is sent.
    pub sent: Instant,
    /// What the response's framing depends on.
    pub asked: Asked,
    /// The content waits for a 100.
    pub expects_continue: bool,
    /// How much content the client may send, and how slowly.
    pub content_limit: super::upload::ContentLimit,
    /// How long the client may let the content stand still.
    pub client_timeout: Duration,
    /// How long the response head may take.
    pub head_timeout: Duration,
}

impl<B> Request<(), B> {
    /// The request with its head.
    pub fn with_head<H>(self, head: H) -> Request<H, B> {
        Request {
            head,
            body: self.body,
            sent: self.sent,
            asked: self.asked,
            expects_continue: self.expects_continue,
            content_limit: self.content_limit,
            client_timeout: self.client_timeout,
            head_timeout: self.head_timeout,
        }
    }
}

/// A request in the form of HTTP/1.1: the bytes from request line to empty line.
pub type Http1Request<B> = Request<Announced<BytesMut>, B>;

/// A request in the form of HTTP/2.
pub type Http2Request<B> = Request<Announced<http::Request<()>>, B>;

/// One request and its response.
///
/// Boxed, because it is moved from station to station: one allocation costs less.
#[derive(Debug)]
pub enum Exchange<B> {
    /// On a connection of its own.
    Http1(Box<http1::exchange::Exchange<B>>),
    /// On a stream of a shared connection.
    Http2(Box<http2::exchange::Exchange<B>>),
}

impl<B> Exchange<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Source>,
{
    /// The next head of the response, put into `head`: it is too large to be handed up from call to call.
    ///
    /// # Errors
    /// When either side fails first.
    pub async fn head(&mut self, head: &mut ResponseHead) -> Result<Came, Broken> {
        poll_fn(|cx| match self {
            Exchange::Http1(exchange) => exchange.poll_head(head, cx),
            Exchange::Http2(exchange) => exchange.poll_head(head, cx),
        })
        .await
    }

    /// The next piece of the content; `None` when it is whole. After that,
    /// [`Exchange::into_connection`].
    pub fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, Broken>>> {
        match self {
            Exchange::Http1(exchange) => exchange.poll_content(cx),
            Exchange::Http2(exchange) => exchange.poll_content(cx),
        }
    }

    /// Whether the content is whole already: nothing is left to wait for.
    pub fn is_whole(&self) -> bool {
        match self {
            Exchange::Http1(exchange) => exchange.is_whole(),
            Exchange::Http2(exchange) => exchange.is_whole(),
        }
    }

    /// Returns what was seen of the request, after this failure.
    pub fn seen(&self, failure: &Failure, now: Instant) -> Seen {
        match self {
            Exchange::Http1(exchange) => exchange.seen(failure, now),
            Exchange::Http2(exchange) => exchange.seen(failure),
        }
    }

    /// Returns its clock.
    pub fn patience(&self) -> &Patience {
        match self {
            Exchange::Http1(exchange) => exchange.patience(),
            Exchange::Http2(exchange) => exchange.patience(),
        }
    }

    /// Gives the connection back, if it is the exchange's own and can carry another request.
    pub fn into_connection(self) -> Option<Reusable> {
        match self {
            Exchange::Http1(exchange) => exchange.into_connection(),
            Exchange::Http2(_) => None,
        }
    }

    /// Gives the upgraded connection away, with the bytes that came after the 101.
    pub fn into_upgraded(self) -> Option<Box<Connection>> {
        match self {
            Exchange::Http1(exchange) => Some(exchange.into_upgraded()),
            Exchange::Http2(_) => None,
        }
    }
}

/// The client let its upload stand still.
#[derive(Debug)]
pub struct Stalled;

impl std::fmt::Display for Stalled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the client let the request content stand still")
    }
}

impl std::error::Error for Stalled {}

//! What is answered on each path.
//!
//! [`Admin::decide`] runs on the admin thread and takes no time; what does is a [`Question`], and
//! answered beside it.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;

use super::access::{Refusal, Wish};
use super::{Admin, endpoints, status};
use crate::telemetry::journal::Query;

/// Entries of the journal in one answer, unless asked otherwise.
const ENTRIES: usize = 100;

pub(super) const PAGE: &str = include_str!("page.html");
pub(super) const STYLE: &str = include_str!("page.css");
pub(super) const SCRIPT: &str = include_str!("page.js");

/// Nothing but our own two files is loaded, nothing is sent elsewhere, and no text can become markup:
/// what the page shows of the journal was written by whoever could make an app fail.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

type Answer = Response<Full<Bytes>>;

/// The verdict on a request.
pub(super) enum Decided {
    /// This is the answer.
    Answer(Answer),
    /// The answer takes time.
    Question(Question),
}

/// An answer that takes time to be made: it grows with configuration, traffic and journal.
#[derive(Debug)]
pub(super) enum Question {
    Metrics,
    Status,
    Failures(Query),
    Config,
    Endpoints,
}

/// The thing at a path.
enum Place {
    Livez,
    Readyz,
    Page(fn() -> Answer),
    Read(fn(&str) -> Result<Question, &'static str>),
    Drain(bool),
    Nothing,
}

impl Place {
    fn at(path: &str) -> Self {
        match path {
            "/livez" => Place::Livez,
            "/readyz" => Place::Readyz,
            "/" => Place::Page(page),
            "/page.css" => Place::Page(|| reply(StatusCode::OK, "text/css; charset=utf-8", STYLE)),
            "/page.js" => {
                Place::Page(|| reply(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT))
            }
            "/status.json" => Place::Read(|_| Ok(Question::Status)),
            "/metrics" => Place::Read(|_| Ok(Question::Metrics)),
            "/failures" => Place::Read(|query| journal_query(query).map(Question::Failures)),
            "/config" => Place::Read(|_| Ok(Question::Config)),
            "/endpoints" => Place::Read(|_| Ok(Question::Endpoints)),
            "/endpoints/drain" => Place::Drain(true),
            "/endpoints/restore" => Place::Drain(false),
            _ => Place::Nothing,
        }
    }

    fn wish(&self) -> Wish {
        match self {
            Place::Livez | Place::Readyz => Wish::Probe,
            // The page is the same everywhere: it asks its reader for the token, which a browser
            // cannot bring by itself.
            Place::Page(_) => Wish::Page,
            Place::Drain(_) => Wish::Change,
            Place::Read(_) | Place::Nothing => Wish::Read,
        }
    }
}

impl Admin {
    /// Answers the request, or says what has to be found out for it.
    pub(super) fn decide<B>(&self, request: &Request<B>) -> Decided {
        let place = Place::at(request.uri().path());
        let query = request.uri().query().unwrap_or_default();
        let wish = place.wish();
        if wish != Wish::Probe
            && let Err(refusal) = self.state.loaded().access.judge(request, wish)
        {
            return Decided::Answer(refused(refusal));
        }
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        Decided::Answer(match place {
            Place::Drain(_) if request.method() != Method::POST => {
                not_allowed("only POST is served\n", "POST")
            }
            Place::Drain(drained) => {
                let loaded = self.state.loaded();
                let set = || endpoints::set_drained(&loaded.upstreams, query, drained);
                match self.state.change(set) {
                    Some(Ok(state)) => json(&state),
                    Some(Err((status, problem))) => text(status, problem),
                    None => text(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "another process is taking over; ask it in a moment\n",
                    ),
                }
            }
            _ if !is_read => not_allowed("only GET and HEAD are served\n", "GET, HEAD"),
            Place::Livez => text(StatusCode::OK, "ok\n"),
            Place::Readyz => match self.state.readiness() {
                "ready" => text(StatusCode::OK, "ready\n"),
                "draining" => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
                _ => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            },
            Place::Page(page) => page(),
            Place::Read(question) => match question(query) {
                Ok(question) => return Decided::Question(question),
                Err(problem) => text(StatusCode::BAD_REQUEST, problem),
            },
            Place::Nothing => text(
                StatusCode::NOT_FOUND,
                "not found; try /metrics, /livez, /readyz, /failures, /endpoints, /status.json, \
                 /config or /\n",
            ),
        })
    }

    /// Finds it out. May take time.
    pub(super) fn make(&self, question: Question) -> Answer {
        match question {
            Question::Metrics => reply(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                self.metrics.encode(),
            ),
            Question::Status => compact(&status::describe(self)),
            Question::Failures(query) => json(&self.journal.snapshot(&query)),
            Question::Config => json(&self.state.loaded().config),
            Question::Endpoints => json(&endpoints::list(&self.state.loaded().upstreams)),
        }
    }
}

fn refused(refusal: Refusal) -> Answer {
    let (status, problem) = refusal.answer();
    let mut answer = text(status, problem);
    if status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer realm=\"seawall\"");
        answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    answer
}

/// The answer when an answer cannot be made.
pub(super) fn failed() -> Answer {
    text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made; the log says why\n")
}

fn not_allowed(problem: &'static str, allowed: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, problem);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// `id=…&kind=…&upstream=…&limit=…`
pub(super) fn journal_query(text: &str) -> Result<Query, &'static str> {
    let mut query = Query { limit: Some(ENTRIES), ..Query::default() };
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "id" => query.request_id = Some(endpoints::unescaped(value)),
            // Kinds and names of upstreams need no decoding to be found again.
            "kind" => query.kind = Some(value.to_owned()),
            "upstream" => query.upstream = Some(value.to_owned()),
            "limit" => {
                let limit = value.parse().map_err(|_| "limit must be a whole number\n")?;
                query.limit = Some(limit);
            }
            _ => return Err("known parameters: id, kind, upstream, limit\n"),
        }
    }
    Ok(query)
}

fn page() -> Answer {
    let mut page = reply(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    let fields = page.headers_mut();
    fields.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    fields.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    page
}

/// JSON for programs that ask often.
fn compact(value: &Value) -> Answer {
    reply(StatusCode::OK, "application/json", format!("{value}\n"))
}

fn json(value: &Value) -> Answer {
    reply(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn text(status: StatusCode, text: &'static str) -> Answer {
    reply(status, "text/plain; charset=utf-8", text)
}

fn reply(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // What an app said in a failure is never taken for a script or a page.
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

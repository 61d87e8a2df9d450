//! Floor 5: the operators' listener. Metrics, probes, the journal, the configuration,
//! the endpoints, and a page that shows all of it to people.
//!
//! It runs on a thread of its own, so that a scrape never waits behind traffic and traffic never
//! behind a scrape. Everything but draining an endpoint is read-only, and no page of another origin
//! can make an operator's browser do that. Connections are few and short-lived: both are limited.

mod endpoints;
mod history;
mod status;

use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    ORIGIN, REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use history::{History, STEP};

use crate::config::model::Secret;
use crate::failure::rehearsal::is_same;
use crate::telemetry::journal::{Journal, Query};
use crate::telemetry::metrics::Metrics;
use crate::upstream::Shared;

/// Most connections at the same time.
const CONNECTIONS: usize = 64;
/// How long a connection may be kept, whatever it does.
const LIFETIME: Duration = Duration::from_secs(60);
/// How long the head of a request may take.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How often the log says that accepting fails.
const REMINDER: Duration = Duration::from_secs(10);
/// Entries of the journal in one answer, unless asked otherwise.
const ENTRIES: usize = 100;

/// The scheme of the token (RFC 6750 §2.1).
const BEARER: &[u8] = b"Bearer ";

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Nothing but our own two files is loaded, nothing is sent elsewhere, and no text can become markup:
/// what the page shows of the journal was written by whoever could make an app fail.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// What operators can ask about.
#[derive(Clone, Debug)]
pub struct Admin {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For `/failures`.
    pub journal: Arc<Journal>,
    /// For the probes and `/config`.
    pub state: Arc<State>,
    /// What a request must know, but for the probes.
    pub token: Option<Secret>,
}

/// Whether the process serves clients.
#[derive(Debug)]
pub struct State {
    readiness: AtomicU8,
    loaded: Mutex<Loaded>,
    /// Locked by the admin thread only.
    history: Mutex<History>,
}

/// What a reload replaces.
#[derive(Debug)]
struct Loaded {
    config: Value,
    upstreams: Vec<Arc<Shared>>,
}

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

impl State {
    /// The state of a process that starts with this configuration, secrets already hidden, and these
    /// upstreams.
    #[must_use]
    pub fn new(config: Value, upstreams: Vec<Arc<Shared>>) -> Self {
        State {
            readiness: AtomicU8::new(STARTING),
            loaded: Mutex::new(Loaded { config, upstreams }),
            history: Mutex::default(),
        }
    }

    /// This runs from now on.
    pub fn load(&self, config: Value, upstreams: Vec<Arc<Shared>>) {
        *self.loaded() = Loaded { config, upstreams };
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Clients are served.
    pub fn set_ready(&self) {
        self.readiness.store(READY, Ordering::Relaxed);
    }

    /// No new clients are served.
    pub fn set_draining(&self) {
        self.readiness.store(DRAINING, Ordering::Relaxed);
    }

    /// `starting`, `ready` or `draining`.
    #[must_use]
    pub fn readiness(&self) -> &'static str {
        match self.readiness.load(Ordering::Relaxed) {
            READY => "ready",
            DRAINING => "draining",
            _ => "starting",
        }
    }

    fn upstreams(&self) -> Vec<Arc<Shared>> {
        self.loaded().upstreams.clone()
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admin {
    /// Serves until `shutdown` resolves. Runs inside a `LocalSet`.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let admin = Rc::new(self);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        tokio::pin!(shutdown);
        let mut steps = interval(STEP);
        steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once.
        steps.tick().await;
        let mut said = None;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut shutdown => return,
                _ = steps.tick() => {
                    admin.state.history().end_step(admin.metrics.reading());
                    continue;
                }
            };
            match accepted {
                Ok((tcp, _)) => {
                    // One too many is closed at once: an operator tries again, a flood ends here.
                    if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                        let admin = Rc::clone(&admin);
                        tokio::task::spawn_local(async move {
                            let _place = place;
                            admin.connection(tcp).await;
                        });
                    }
                }
                Err(error) => {
                    if said.is_none_or(|at: Instant| at.elapsed() >= REMINDER) {
                        said = Some(Instant::now());
                        tracing::warn!(%error, "the admin listener cannot accept; trying again");
                    }
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn connection(self: Rc<Self>, tcp: TcpStream) {
        let service = service_fn(|request: Request<hyper::body::Incoming>| {
            let answer = self.answer(&request);
            async { Ok::<_, Infallible>(answer) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(tcp), service);
        if let Ok(Err(error)) = timeout(LIFETIME, connection).await {
            tracing::debug!(%error, "admin connection ended early");
        }
    }

    /// Whether the request brings the token, if there is one (RFC 6750 §2.1).
    fn admits<B>(&self, request: &Request<B>) -> bool {
        let Some(Secret(token)) = &self.token else { return true };
        let mut lines = request.headers().get_all(AUTHORIZATION).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return false };
        let (scheme, given) = line.as_bytes().split_at(line.len().min(BEARER.len()));
        scheme.eq_ignore_ascii_case(BEARER) && is_same(given.trim_ascii(), token.as_bytes())
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        // Probes are asked by machines that know nothing, and say nothing. The page is the same
        // everywhere: it asks its reader for the token, which a browser cannot bring by itself.
        let open = ["/livez", "/readyz", "/", "/page.css", "/page.js"];
        if !open.contains(&request.uri().path()) && !self.admits(request) {
            let mut answer = text(StatusCode::UNAUTHORIZED, "a token is needed\n");
            let challenge = HeaderValue::from_static("Bearer realm=\"seawall\"");
            answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            return answer;
        }
        let query = request.uri().query().unwrap_or_default();
        let path = request.uri().path();
        if let "/endpoints/drain" | "/endpoints/restore" = path {
            return self.drain(request, query, path.ends_with("drain"));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return not_allowed("only GET and HEAD are served\n", "GET, HEAD");
        }
        match path {
            "/" => page(),
            "/page.css" => reply(StatusCode::OK, "text/css; charset=utf-8", STYLE),
            "/page.js" => reply(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT),
            "/status.json" => compact(&status::describe(self)),
            "/metrics" => reply(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                self.metrics.encode(),
            ),
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.state.readiness() {
                "ready" => text(StatusCode::OK, "ready\n"),
                "draining" => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
                _ => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            },
            "/failures" => match journal_query(query) {
                Ok(query) => json(&self.journal.snapshot(&query)),
                Err(problem) => text(StatusCode::BAD_REQUEST, problem),
            },
            "/config" => json(&self.state.loaded().config),
            "/endpoints" => json(&endpoints::list(&self.state.loaded().upstreams)),
            _ => text(
                StatusCode::NOT_FOUND,
                "not found; try /metrics, /livez, /readyz, /failures, /endpoints, /status.json, \
                 /config or /\n",
            ),
        }
    }

    fn drain<B>(&self, request: &Request<B>, query: &str, drained: bool) -> Response<Full<Bytes>> {
        if request.method() != Method::POST {
            return not_allowed("only POST is served\n", "POST");
        }
        // Browsers say where a page comes from that makes them send this.
        let foreign = |site: &HeaderValue| site != "same-origin" && site != "none";
        let fields = request.headers();
        if fields.get("sec-fetch-site").map_or(fields.contains_key(ORIGIN), foreign) {
            return text(StatusCode::FORBIDDEN, "not from a page of another origin\n");
        }
        match endpoints::set_drained(&self.state.loaded().upstreams, query, drained) {
            Ok(state) => json(&state),
            Err((status, problem)) => text(status, problem),
        }
    }
}

fn not_allowed(problem: &'static str, allowed: &'static str) -> Response<Full<Bytes>> {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, problem);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// `id=…&kind=…&upstream=…&limit=…`
fn journal_query(text: &str) -> Result<Query, &'static str> {
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

fn page() -> Response<Full<Bytes>> {
    let mut page = reply(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    let fields = page.headers_mut();
    fields.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    fields.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    page
}

/// JSON for programs that ask often.
fn compact(value: &Value) -> Response<Full<Bytes>> {
    reply(StatusCode::OK, "application/json", format!("{value}\n"))
}

fn json(value: &Value) -> Response<Full<Bytes>> {
    reply(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    reply(status, "text/plain; charset=utf-8", text)
}

fn reply(
    status: StatusCode,
    media_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // What an app said in a failure is never taken for a script or a page.
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn admin() -> Admin {
        Admin {
            metrics: Metrics::new().unwrap(),
            journal: Arc::new(Journal::new(10)),
            state: Arc::new(State::new(serde_json::json!({"workers": 1}), Vec::new())),
            token: None,
        }
    }

    async fn ask(admin: &Admin, method: Method, uri: &str) -> (u16, String, String) {
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        let (parts, body) = admin.answer(&request).into_parts();
        let media_type = parts.headers[CONTENT_TYPE].to_str().unwrap().to_owned();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), media_type, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn every_path_answers_what_it_promises() {
        let admin = admin();
        let get = |uri| ask(&admin, Method::GET, uri);
        let (status, media_type, body) = get("/metrics").await;
        assert_eq!((status, &*media_type), (200, "text/plain; version=0.0.4; charset=utf-8"));
        assert!(body.contains("seawall_build_info"));
        assert_eq!(get("/livez").await.0, 200);
        assert_eq!(get("/config").await.2, "{\n  \"workers\": 1\n}\n");
        assert_eq!(get("/failures").await.2, "[]\n");
        assert!(get("/").await.2.contains("href=\"metrics\""));
        assert_eq!(get("/page.css").await.1, "text/css; charset=utf-8");
        assert_eq!(get("/page.js").await.1, "text/javascript; charset=utf-8");
        let status: Value = serde_json::from_str(&get("/status.json").await.2).unwrap();
        assert_eq!(status["now"]["failures"], 0);
        assert_eq!(status["readiness"], "starting");
        assert_eq!(get("/nonsense").await.0, 404);
        assert_eq!(ask(&admin, Method::POST, "/metrics").await.0, 405);
    }

    /// The page's elements are made by its script, from text. That nothing is loaded from elsewhere is
    /// checked by browsers, that there is nothing to load is checked here.
    #[test]
    fn the_page_names_no_other_place_and_makes_no_markup_of_text() {
        let answer = admin().answer(&Request::get("/").body(()).unwrap());
        let policy = answer.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        for text in [PAGE, STYLE, SCRIPT] {
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http://") && !text.contains("https://"));
            for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
            {
                assert!(!text.contains(word), "{word}");
            }
        }
        assert!(!PAGE.contains("<style") && !PAGE.contains("style="));
    }

    #[tokio::test]
    async fn readiness_follows_the_process() {
        let admin = admin();
        let ready = || ask(&admin, Method::GET, "/readyz");
        assert_eq!(ready().await.0, 503);
        admin.state.set_ready();
        assert_eq!(ready().await.0, 200);
        admin.state.set_draining();
        assert_eq!(ready().await, (503, "text/plain; charset=utf-8".into(), "draining\n".into()));
    }

    #[test]
    fn with_a_token_only_the_probes_and_the_empty_page_answer_without_it() {
        let token = "0123456789abcdef";
        let admin = Admin { token: Some(Secret(token.into())), ..admin() };
        assert!(!format!("{admin:?}").contains(token), "a token is never printed");
        let status = |uri: &str, lines: &[&str]| {
            let mut request = Request::builder().uri(uri);
            for line in lines {
                request = request.header(AUTHORIZATION, *line);
            }
            admin.answer(&request.body(()).unwrap()).status().as_u16()
        };
        let right = format!("Bearer {token}");
        let closed =
            ["/status.json", "/metrics", "/failures", "/config", "/nonsense", "/livez/", "//livez"];
        for uri in closed {
            assert_eq!(status(uri, &[]), 401, "{uri}");
            assert_ne!(status(uri, &[&right]), 401, "{uri}");
        }
        for uri in ["/livez", "/", "/page.css", "/page.js"] {
            assert_eq!(status(uri, &[]), 200, "{uri}");
        }
        assert_eq!(status("/readyz", &[]), 503);
        assert_eq!(status("/config", &[&format!("bearer  {token}")]), 200);
        let longer = format!("{right}0");
        let wrong = [
            "",
            "Bearer",
            "Bearer ",
            token,
            "Basic 0123456789abcdef",
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcde",
            &longer,
        ];
        for wrong in wrong {
            assert_eq!(status("/config", &[wrong]), 401, "{wrong}");
        }
        assert_eq!(status("/config", &[&right, &right]), 401, "two are none");
    }

    /// An administration of one upstream `app` with two endpoints.
    fn with_endpoints() -> Admin {
        let text = "listeners: [{ address: ':0' }]\n\
            upstreams: { app: { endpoints: ['http://10.0.0.1:80', 'http://10.0.0.2:80'] } }\n\
            routes: [{ upstream: app }]\n";
        let config = crate::config::parse("test.yaml", text, std::path::Path::new(".")).unwrap();
        let admin = admin();
        let handles = admin.metrics.upstream("app", &[], crate::failure::Protocol::ALL);
        let shared = Shared::new(Arc::clone(&config.upstreams[0]), handles, None).unwrap();
        let state = State::new(serde_json::json!({}), vec![Arc::new(shared)]);
        Admin { state: Arc::new(state), ..admin }
    }

    #[tokio::test]
    async fn an_endpoint_is_drained_and_restored_and_asking_twice_changes_nothing() {
        let admin = with_endpoints();
        let states = async || {
            let listed = ask(&admin, Method::GET, "/endpoints").await.2;
            let listed: Value = serde_json::from_str(&listed).unwrap();
            [0, 1].map(|at| listed[at]["state"].as_str().unwrap().to_owned())
        };
        assert_eq!(states().await, ["up", "up"]);
        for escaped in ["http://10.0.0.2:80", "http%3A%2F%2F10.0.0.2%3A80"] {
            let uri = format!("/endpoints/drain?upstream=app&endpoint={escaped}");
            let (status, _, body) = ask(&admin, Method::POST, &uri).await;
            assert!(status == 200 && body.contains("\"drained\""), "{body}");
            assert_eq!(states().await, ["up", "drained"]);
        }
        let metrics = ask(&admin, Method::GET, "/metrics").await.2;
        let gauge = "seawall_endpoint_up{endpoint=\"http://10.0.0.2:80\",upstream=\"app\"}";
        assert!(metrics.contains(&format!("{gauge} 0")), "{metrics}");
        let uri = "/endpoints/restore?upstream=app&endpoint=http://10.0.0.2:80";
        assert_eq!(ask(&admin, Method::POST, uri).await.0, 200);
        assert_eq!(states().await, ["up", "up"]);
    }

    #[tokio::test]
    async fn only_an_operator_drains_and_only_what_is_there() {
        let admin = with_endpoints();
        let uri = "/endpoints/drain?upstream=app&endpoint=http://10.0.0.2:80";
        assert_eq!(ask(&admin, Method::GET, uri).await.0, 405);
        for (query, status) in [
            ("upstream=app&endpoint=http://10.0.0.9:80", 404),
            ("upstream=other&endpoint=http://10.0.0.2:80", 404),
            ("upstream=app", 400),
            ("upstream=app&endpiont=x", 400),
        ] {
            let uri = format!("/endpoints/drain?{query}");
            assert_eq!(ask(&admin, Method::POST, &uri).await.0, status, "{query}");
        }
        for (name, value) in
            [("origin", "https://evil.test"), ("sec-fetch-site", "cross-site"), ("origin", "null")]
        {
            let request = Request::post(uri).header(name, value).body(()).unwrap();
            assert_eq!(admin.answer(&request).status(), 403, "{name}: {value}");
        }
        let request = Request::post(uri).header("sec-fetch-site", "same-origin");
        let request = request.header("origin", "http://127.0.0.1:9900").body(()).unwrap();
        assert_eq!(admin.answer(&request).status(), 200);
    }

    #[tokio::test]
    async fn a_wrong_query_is_told() {
        let admin = admin();
        for uri in ["/failures?limit=x", "/failures?colour=red"] {
            assert_eq!(ask(&admin, Method::GET, uri).await.0, 400, "{uri}");
        }
        assert_eq!(ask(&admin, Method::GET, "/failures?id=a&kind=b&limit=3").await.0, 200);
        let query = journal_query("id=a%3Ab%2Fc%2Bd%3De%40f-_.").unwrap();
        assert_eq!(query.request_id.as_deref(), Some("a:b/c+d=e@f-_."), "all that an id may have");
    }
}

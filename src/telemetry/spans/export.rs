//! Sending spans to a collector: OTLP/HTTP, protobuf
//! (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>).
//!
//! - One thread sends; spans reach it through a bounded queue, and what finds it full is dropped.
//! - A batch that a collector cannot take now (no connection, 429, 502, 503, 504) is sent again, with
//!   pauses that double, or as long as `Retry-After` says, while its time lasts; then it is given up.
//! - Every span is counted once: exported, dropped, failed, or rejected by the collector.
//! - A collector that is gone is said once, and said to be back.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver as EndReceiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use prometheus::IntCounter;
use prost::Message;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsConnector;

use super::context::Share;
use super::otlp::{ExportTraceServiceResponse, Resource};
use super::{Span, proto};
use crate::config::model::Tracing;
use crate::net::resolve::Resolver;
use crate::net::resolve::name::{Bounds, Name};

/// The first pause before a batch is sent again.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest that resolving its name may take.
const RESOLVE: Duration = Duration::from_secs(2);
/// Most bytes of a collector's answer that are read.
const MOST_ANSWER: usize = 64 * 1024;
/// How long the end of the process waits for what is in the queue.
const FLUSH: Duration = Duration::from_secs(2);

/// Counts what became of spans.
#[derive(Clone, Debug)]
pub struct Results {
    /// The collector has it.
    pub exported: IntCounter,
    /// The queue was full.
    pub dropped: IntCounter,
    /// No collector took it in time.
    pub failed: IntCounter,
    /// The collector did not want it.
    pub rejected: IntCounter,
}

/// The way to the thread that sends.
#[derive(Debug)]
pub struct Tracer {
    /// The share of traces that are recorded.
    pub share: Share,
    queue: Sender<Box<Span>>,
    /// Read once, by who ends it; the lock only makes it shareable.
    ended: Mutex<EndReceiver<()>>,
    dropped: IntCounter,
}

impl Tracer {
    /// Begins to send.
    ///
    /// # Errors
    /// If there is no thread to be had, or the collector's URL or roots cannot be used.
    pub fn start(settings: &Tracing, instance: &str, results: Results) -> io::Result<Self> {
        let (queue, spans) = channel(settings.queue);
        let (tell_end, ended) = sync_channel(0);
        let dropped = results.dropped.clone();
        let exporter = Exporter::new(settings, instance, results)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("seawall-spans".into()).spawn(move || {
            runtime.block_on(exporter.run(spans));
            drop(tell_end);
        })?;
        let share = Share::of_percent(settings.sample_percent);
        Ok(Tracer { share, queue, ended: Mutex::new(ended), dropped })
    }

    /// Hands a span over, or drops it.
    pub fn send(&self, span: Span) {
        let count = span.count();
        if self.queue.try_send(Box::new(span)).is_err() {
            self.dropped.inc_by(count);
        }
    }

    /// Waits until all is sent, for two seconds at most.
    pub fn finish(self) {
        let Tracer { queue, ended, .. } = self;
        drop(queue);
        let ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(FLUSH) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the last spans may not have reached the collector");
        }
    }
}

struct Exporter {
    settings: Tracing,
    url: Uri,
    /// The collector's host.
    name: Arc<Name>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    resource: Resource,
    results: Results,
    /// What the last batch was sent over.
    connection: Option<SendRequest<Full<Bytes>>>,
    /// The last batch found no collector.
    broken: bool,
}

/// What a collector said to a batch.
#[derive(Debug)]
enum Answer {
    /// It has it, but for so many spans.
    Taken { rejected: u64, why: String },
    /// It may take it later, after this time if it says so.
    Later { after: Option<Duration>, why: String },
    /// It never will.
    Refused(String),
}

impl Exporter {
    fn new(settings: &Tracing, instance: &str, results: Results) -> io::Result<Self> {
        let url: Uri = settings.url.parse().map_err(io::Error::other)?;
        let tls = (url.scheme_str() == Some("https")).then(|| tls(settings, &url)).transpose()?;
        // Never the system's own resolver: it takes a thread, which nothing ends.
        let (resolver, limit) = (Resolver::of(&[]), settings.timeout.min(RESOLVE));
        let name = Name::new(host_of(&url), resolver, limit, Bounds::default(), None);
        Ok(Exporter {
            url,
            name,
            tls,
            resource: proto::resource(&settings.service, instance),
            settings: settings.clone(),
            results,
            connection: None,
            broken: false,
        })
    }

    /// Sends until there is nobody left who could hand over more.
    async fn run(mut self, mut spans: Receiver<Box<Span>>) {
        let mut batch = Vec::new();
        while let Some(first) = spans.recv().await {
            batch.push(first);
            let until = Instant::now() + self.settings.interval;
            while batch.len() < self.settings.batch {
                match timeout_at(until, spans.recv()).await {
                    Ok(Some(next)) => batch.push(next),
                    // Whoever ends the process is waiting.
                    Ok(None) | Err(_) => break,
                }
            }
            self.export(&batch).await;
            batch.clear();
        }
    }

    async fn export(&mut self, batch: &[Box<Span>]) {
        let count = batch.iter().map(|span| span.count()).sum::<u64>();
        let content = proto::request(self.resource.clone(), batch).encode_to_vec();
        let endpoint = self.settings.url.clone();
        match self.deliver(content.into()).await {
            Ok((rejected, why)) => {
                let rejected = rejected.min(count);
                self.results.exported.inc_by(count - rejected);
                self.results.rejected.inc_by(rejected);
                if std::mem::take(&mut self.broken) {
                    tracing::info!(endpoint = &*endpoint, "the collector takes spans again");
                }
                if rejected > 0 {
                    tracing::warn!(rejected, why, "the collector does not want some spans");
                }
            }
            Err(why) => {
                self.results.failed.inc_by(count);
                if !std::mem::replace(&mut self.broken, true) {
                    let endpoint = &*endpoint;
                    tracing::warn!(endpoint, why, "the collector does not take spans; trying on");
                }
            }
        }
    }

    /// Sends until it is taken, refused, or too late. How many spans were rejected, and why.
    async fn deliver(&mut self, content: Bytes) -> Result<(u64, String), String> {
        let until = Instant::now() + self.settings.timeout;
        let mut pause = PAUSE;
        loop {
            let answer = match timeout_at(until, self.post(content.clone())).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => Answer::Later { after: None, why: error.to_string() },
                Err(_) => Answer::Refused("it does not answer in time".to_owned()),
            };
            let (after, why) = match answer {
                Answer::Taken { rejected, why } => return Ok((rejected, why)),
                Answer::Refused(why) => {
                    self.connection = None;
                    return Err(why);
                }
                Answer::Later { after, why } => (after, why),
            };
            self.connection = None;
            let wait = after.unwrap_or(pause);
            if wait >= until.saturating_duration_since(Instant::now()) {
                return Err(why);
            }
            sleep(wait).await;
            pause = pause.saturating_mul(2);
        }
    }

    async fn post(&mut self, content: Bytes) -> Result<Answer, Box<dyn std::error::Error>> {
        let request = self.request(content)?;
        let mut connection = match self.connection.take().filter(SendRequest::is_ready) {
            Some(open) => open,
            None => self.connect().await?,
        };
        let response = connection.send_request(request).await?;
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER);
        let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
        let content = Limited::new(response.into_body(), MOST_ANSWER).collect().await;
        let content = content.map_err(|error| error.to_string())?.to_bytes();
        Ok(match status.as_u16() {
            200..=299 => {
                self.connection = Some(connection);
                // What cannot be read was written by somebody who has it all the same.
                let answer = ExportTraceServiceResponse::decode(content).ok();
                let partial = answer.and_then(|answer| answer.partial_success).unwrap_or_default();
                let rejected = u64::try_from(partial.rejected_spans).unwrap_or(0);
                Answer::Taken { rejected, why: partial.error_message }
            }
            429 | 502 | 503 | 504 => {
                let after = after.map(Duration::from_secs);
                Answer::Later { after, why: format!("it answers {status}") }
            }
            _ => Answer::Refused(format!("it answers {status}")),
        })
    }

    fn request(&self, content: Bytes) -> http::Result<Request<Full<Bytes>>> {
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::post(self.url.path())
            .header(HOST, authority)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("seawall/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(content))?;
        for (name, value) in &self.settings.fields {
            request.headers_mut().insert(name, HeaderValue::clone(value));
        }
        Ok(request)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Box<dyn std::error::Error>> {
        let usual = if self.tls.is_some() { 443 } else { 80 };
        let port = self.url.port_u16().unwrap_or(usual);
        let found: Vec<IpAddr> = match host_of(&self.url).parse() {
            Ok(address) => vec![address],
            Err(_) => self.name.addresses().await.map_err(|unresolved| unresolved.silence)?,
        };
        let addresses: Vec<_> =
            found.into_iter().map(|address| SocketAddr::new(address, port)).collect();
        let stream = TcpStream::connect(&*addresses).await.inspect_err(|_| self.name.doubt())?;
        match &self.tls {
            Some((connector, name)) => {
                handshake(connector.connect(name.clone(), stream).await?).await
            }
            None => handshake(stream).await,
        }
    }
}

/// The host of a URL, an address without brackets.
fn host_of(url: &Uri) -> &str {
    url.host().unwrap_or_default().trim_matches(['[', ']'])
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, Box<dyn std::error::Error>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // Whoever sends is told as well.
        let _ = connection.await;
    });
    Ok(sender)
}

fn tls(settings: &Tracing, url: &Uri) -> io::Result<(TlsConnector, ServerName<'static>)> {
    let mut roots = RootCertStore::empty();
    match &settings.roots {
        Some(own) => {
            for root in own.iter() {
                roots.add(root.clone()).map_err(io::Error::other)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host_of(url).to_owned()).map_err(io::Error::other)?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

//! Exchanges over sockets in memory whose readiness is tokio's: what is answered at once comes at
//! once, and what a response leaves behind on its connection reaches no other request.

use std::future::poll_fn;
use std::io::Write as _;
use std::pin::pin;
use std::time::Duration;

use http_body_util::Full;
use prometheus::IntGauge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{JoinHandle, coop};
use tokio::time::sleep;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::net::{TcpStream, memory};
use crate::telemetry::metrics::ConnectionGauges;
use crate::upstream::framing::{Absence, Announced};
use crate::upstream::pool::{Pool, Ticket};
use crate::upstream::records::Records;
use crate::upstream::stream::Stream;
use crate::upstream::upload::ContentLimit;

/// The time that the second answer of a connection takes.
const WORK: Duration = Duration::from_millis(50);

/// Whole responses, heads included, that end before, at and behind the ends of read buffers.
fn sizes() -> Vec<usize> {
    let ends = [8_192, 16_384, 24_576, 32_768, 40_960, 65_536, 73_728];
    ends.iter().flat_map(|end| [end - 1, *end, end + 1]).chain([60, 100, 8_180]).collect()
}

/// A response of so many bytes in all.
fn response(size: usize) -> Vec<u8> {
    let head =
        |length: usize| format!("HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: {length:05}\r\n\r\n");
    let length = size - head(0).len();
    [head(length).into_bytes(), vec![b'x'; length]].concat()
}

fn settings() -> Arc<Upstream> {
    let text = "listeners: [{ address: '127.0.0.1:0' }]\n\
        upstreams: { app: { endpoints: ['http://127.0.0.1:1'] } }\n\
        routes: [{ upstream: app }]\n";
    let config = crate::config::parse("test.yaml", text, std::path::Path::new(".")).unwrap();
    Arc::clone(&config.upstreams[0])
}

fn connection(stream: Stream) -> Box<Connection> {
    let gauge = |name| IntGauge::new(name, name).unwrap();
    let gauges = ConnectionGauges { active: gauge("active"), idle: gauge("idle") };
    Connection::new(stream, Ticket::beside(&gauges))
}

fn pool() -> Pool {
    Pool::new(8, Duration::from_secs(60))
}

fn request(framing: Framing, body: Option<Full<Bytes>>) -> Http1Request<Full<Bytes>> {
    let head = "GET / HTTP/1.1\r\nhost: a\r\n".as_bytes().into();
    let mut head = Announced::lines(head, framing, Absence::Understood);
    head.push(b"\r\n");
    let request = Request {
        head: (),
        body,
        sent: Instant::now(),
        asked: Asked::default(),
        expects_continue: false,
        content_limit: ContentLimit::default(),
        client_timeout: Duration::from_secs(30),
        head_timeout: Duration::from_secs(30),
    };
    request.with_head(head)
}

/// What became of a request: its status, its content, and the connection, if it may be used again.
async fn run(
    connection: Box<Connection>,
    request: Http1Request<Full<Bytes>>,
) -> (StatusCode, Vec<u8>, Option<Reusable>) {
    let mut exchange = Exchange::new(connection, settings(), request);
    let mut head = ResponseHead::awaited();
    while poll_fn(|cx| exchange.poll_head(&mut head, cx)).await.unwrap() == Came::Interim {}
    let mut content = Vec::new();
    while let Some(piece) = poll_fn(|cx| exchange.poll_content(cx)).await {
        match piece.unwrap() {
            Piece::Data(data) => content.extend_from_slice(&data),
            Piece::Trailers(_) => {}
        }
    }
    (head.status, content, exchange.into_connection())
}

async fn get(connection: Box<Connection>) -> (StatusCode, Vec<u8>, Option<Reusable>) {
    run(connection, request(Framing::Empty, None)).await
}

/// Reads a request head.
async fn read_head(far: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(far.read_u8().await.unwrap());
    }
}

/// Answers one request at once with `first`, and the next one after [`WORK`].
async fn answer_twice(
    mut far: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    first: Vec<u8>,
) {
    read_head(&mut far).await;
    far.write_all(&first).await.unwrap();
    far.flush().await.unwrap();
    read_head(&mut far).await;
    sleep(WORK).await;
    far.write_all(&response(60)).await.unwrap();
    far.flush().await.unwrap();
    // The end of the connection is not the answer's.
    let _ = far.read_u8().await;
}

fn plain() -> (Stream, memory::TcpStream) {
    let (near, far) = memory::pair();
    (Stream::Tcp(TcpStream::Memory(near)), far)
}

type FarTls = tokio_rustls::server::TlsStream<memory::TcpStream>;

async fn tls() -> (Stream, FarTls) {
    let signed = rcgen::generate_simple_self_signed(["app".to_owned()]).unwrap();
    let certificate = signed.cert.der().clone();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (near, far) = memory::pair();
    let near = Records::new(TcpStream::Memory(near));
    let name = "app".try_into().unwrap();
    let near = TlsConnector::from(Arc::new(client)).connect(name, near);
    let (near, far) = tokio::join!(near, TlsAcceptor::from(Arc::new(server)).accept(far));
    (Stream::Tls(Box::new(near.unwrap())), far.unwrap())
}

/// Asks twice on one connection, the second time through a pool.
async fn ask_twice(stream: Stream, answers: JoinHandle<()>, size: usize, layer: &str) {
    let start = Instant::now();
    let (status, content, connection) = get(connection(stream)).await;
    assert_eq!((status, start.elapsed()), (StatusCode::OK, Duration::ZERO), "{layer}, {size}");
    assert!(response(size).ends_with(&content), "{layer}, {size}");
    let pool = pool();
    assert!(pool.put(connection.expect("nothing is left on it"), Instant::now()));
    let connection = pool.take(Instant::now()).expect("nothing has come");
    let (status, content, _) = get(connection).await;
    assert_eq!((status, start.elapsed()), (StatusCode::OK, WORK), "{layer}, {size}: woken late");
    assert!(response(60).ends_with(&content), "{layer}, {size}");
    answers.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_response_that_fills_its_buffer_wakes_the_next_one_in_time() {
    for size in sizes() {
        let (stream, far) = plain();
        let answers = tokio::spawn(answer_twice(far, response(size)));
        ask_twice(stream, answers, size, "plain").await;
        let (stream, far) = tls().await;
        let answers = tokio::spawn(answer_twice(far, response(size)));
        ask_twice(stream, answers, size, "TLS").await;
    }
}

/// Whether a connection serves a second request after this answer, of which everything arrives.
async fn is_reused(stream: Stream) -> bool {
    let (_, _, connection) = get(connection(stream)).await;
    let Some(connection) = connection else { return false };
    let pool = pool();
    pool.put(connection, Instant::now());
    // What was on its way arrives.
    sleep(WORK).await;
    pool.take(Instant::now()).is_some()
}

#[tokio::test(start_paused = true)]
async fn bytes_behind_a_response_reach_no_other_request() {
    let evil = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    for size in sizes() {
        for behind in [&evil[..], b"H", b"\r\n"] {
            for late in [Duration::ZERO, WORK / 2] {
                let (stream, mut far) = plain();
                let answer = response(size);
                let far = tokio::spawn(async move {
                    read_head(&mut far).await;
                    match late.is_zero() {
                        true => drop(far.send(&[&answer, behind].concat()).await),
                        false => {
                            far.send(&answer).await;
                            sleep(late).await;
                            far.send(behind).await;
                        }
                    }
                    let _ = far.read_u8().await;
                });
                assert!(!is_reused(stream).await, "{size}, then {behind:?} after {late:?}");
                far.await.unwrap();
            }
        }
    }
}

/// Answers with these pieces of plaintext, a record each; of the last record only so many bytes.
async fn answer_in_records(mut far: FarTls, records: &[&[u8]], of_last: Option<usize>) {
    read_head(&mut far).await;
    let (tcp, mut session) = far.into_inner();
    let mut wire = Vec::new();
    for (at, record) in records.iter().enumerate() {
        let before = wire.len();
        session.writer().write_all(record).unwrap();
        while session.wants_write() {
            session.write_tls(&mut wire).unwrap();
        }
        if at + 1 == records.len()
            && let Some(bytes) = of_last
        {
            wire.truncate(before + bytes);
        }
    }
    tcp.send(&wire).await;
    while !tcp.is_left() {
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn plaintext_and_parts_of_records_behind_a_response_reach_no_other_request() {
    let evil = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    for size in sizes().into_iter().filter(|size| *size < 16_000) {
        let answer = response(size);
        let together = [&answer[..], evil].concat();
        let ask = async |records: &[&[u8]], of_last| {
            let (stream, far) = tls().await;
            let far = pin!(answer_in_records(far, records, of_last));
            tokio::select! {
                reused = is_reused(stream) => reused,
                () = far => panic!("the connection was closed early"),
            }
        };
        assert!(ask(&[&answer], None).await, "{size}: nothing behind it");
        assert!(!ask(&[&together], None).await, "{size}: in the same record");
        assert!(!ask(&[&answer, evil], None).await, "{size}: in a record of its own");
        for part in [1, 4, 5, 6, 20] {
            assert!(!ask(&[&answer, evil], Some(part)).await, "{size}: {part} bytes of a record");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unread_bytes_are_seen_when_the_budget_of_the_scheduler_is_used_up() {
    let (mut stream, far) = plain();
    far.send(b"x").await;
    let (mut secure, mut far_tls) = tls().await;
    far_tls.write_all(b"x").await.unwrap();
    poll_fn(|cx| {
        while coop::has_budget_remaining() {
            let _ = std::future::Future::poll(pin!(coop::consume_budget()), cx);
        }
        assert!(!stream.is_quiet() && !secure.is_quiet());
        Poll::Ready(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_not_sent_whole_costs_its_connection() {
    let (stream, mut far) = plain();
    let far = tokio::spawn(async move {
        read_head(&mut far).await;
        far.send(b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n").await;
        let _ = far.read_u8().await;
    });
    // Five bytes are announced, and nobody has them.
    let (status, _, connection) = run(connection(stream), request(Framing::Length(5), None)).await;
    assert_eq!((status, connection.is_some()), (StatusCode::UNAUTHORIZED, false));
    far.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_head_that_announces_what_it_cannot_have_is_answered_and_costs_its_connection() {
    for (heads, reused) in [
        ("HTTP/1.1 204 No\r\n\r\n", true),
        ("HTTP/1.1 204 No\r\ncontent-length: 0\r\n\r\n", true),
        ("HTTP/1.1 204 No\r\ncontent-length: 60\r\n\r\n", false),
        ("HTTP/1.1 204 No\r\ntransfer-encoding: chunked\r\n\r\n", false),
        ("HTTP/1.1 304 Same\r\ncontent-length: 60\r\n\r\n", true),
        ("HTTP/1.1 103 Hint\r\ncontent-length: 9\r\n\r\nHTTP/1.1 204 No\r\n\r\n", false),
        ("HTTP/1.1 103 Hint\r\nlink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n", true),
        ("HTTP/1.1 100 Go\r\ntransfer-encoding: chunked\r\n\r\nHTTP/1.1 204 No\r\n\r\n", false),
    ] {
        let (stream, mut far) = plain();
        let far = tokio::spawn(async move {
            read_head(&mut far).await;
            far.send(heads.as_bytes()).await;
            let _ = far.read_u8().await;
        });
        let (status, content, connection) = get(connection(stream)).await;
        assert!(status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED);
        assert_eq!((content.len(), connection.is_some()), (0, reused), "{heads:?}");
        drop(connection);
        far.await.unwrap();
    }
}

/// Content of which nothing comes for a long time but signs of life, and then nothing at all.
struct Drip {
    signs: usize,
    pause: std::pin::Pin<Box<tokio::time::Sleep>>,
}

impl Body for Drip {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<http_body::Frame<Bytes>>>> {
        if self.signs == 0 {
            return Poll::Pending;
        }
        std::task::ready!(std::future::Future::poll(self.pause.as_mut(), cx));
        self.signs -= 1;
        self.pause = Box::pin(sleep(Duration::from_secs(20)));
        Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::new()))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_of_which_any_byte_comes_does_not_stand_still() {
    let (near, _far) = plain();
    let began = Instant::now();
    let body = Drip { signs: 5, pause: Box::pin(sleep(Duration::from_secs(20))) };
    let Request { sent, asked, content_limit, client_timeout, head_timeout, .. } =
        request(Framing::Chunked, None);
    let head = "POST / HTTP/1.1\r\nhost: a\r\n".as_bytes().into();
    let mut head = Announced::lines(head, Framing::Chunked, Absence::Understood);
    head.push(b"\r\n");
    let request = Request {
        head: (),
        body: Some(body),
        sent,
        asked,
        expects_continue: false,
        content_limit,
        client_timeout,
        head_timeout,
    };
    let mut exchange = Exchange::new(connection(near), settings(), request.with_head(head));
    let mut head = ResponseHead::awaited();
    let broken = poll_fn(|cx| exchange.poll_head(&mut head, cx)).await;
    assert!(matches!(broken, Err(Broken::Client(ClientFailure::RequestTimeout, _))), "{broken:?}");
    assert_eq!(began.elapsed(), Duration::from_secs(5 * 20 + 30), "since its last byte");
}

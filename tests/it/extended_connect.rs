//! RFC 8441: WebSockets over HTTP/2, each on a stream of its own. A failure before the upgrade is a
//! 500 on that stream; after it a Close 1011 and END_STREAM; other streams never notice.

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response};
use tokio::net::TcpStream;

use crate::support::PATIENCE;
use crate::support::script::{Script, Step, Upstream, WELL};
use crate::support::seawall::Seawall;
use crate::support::websocket::{BINARY, CLOSE, FIN, TEXT, close, frame, header, masked, open};

/// An HTTP/2 connection that knows extended CONNECT is served.
async fn connect(seawall: &Seawall) -> SendRequest<Bytes> {
    let tcp = TcpStream::connect(seawall.address()).await.unwrap();
    let (requests, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let requests = requests.ready().await.unwrap();
    // SETTINGS have come with the first round trip.
    ask(&requests).await;
    assert!(requests.is_extended_connect_protocol_enabled());
    requests
}

/// An ordinary request on the same connection.
async fn ask(requests: &SendRequest<Bytes>) -> (u16, String) {
    let mut requests = requests.clone().ready().await.unwrap();
    let request = Request::get("http://example.com/").body(()).unwrap();
    let (response, _) = requests.send_request(request, true).unwrap();
    let (head, mut body) = response.await.unwrap().into_parts();
    let mut text = String::new();
    while let Some(data) = body.data().await {
        text.push_str(std::str::from_utf8(&data.unwrap()).unwrap());
    }
    (head.status.as_u16(), text)
}

fn extended(protocol: &'static str) -> Request<()> {
    Request::builder()
        .method(Method::CONNECT)
        .uri("http://example.com/chat?room=1")
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .body(())
        .unwrap()
}

async fn tunnel(
    requests: &SendRequest<Bytes>,
    request: Request<()>,
) -> (Response<RecvStream>, SendStream<Bytes>) {
    let mut requests = requests.clone().ready().await.unwrap();
    let (response, sender) = requests.send_request(request, false).unwrap();
    (response.await.unwrap(), sender)
}

/// Everything until END_STREAM; fails on a reset.
async fn rest(stream: &mut RecvStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data.expect("the stream ends without a reset");
        let _ = stream.flow_control().release_capacity(data.len());
        bytes.extend_from_slice(&data);
    }
    bytes
}

/// Runs a test whose upstream is well once, then plays this script.
fn play<T>(script: Script, test: impl AsyncFnOnce(&Seawall, &Upstream) -> T) -> T {
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{WELL}",
        WELL.len()
    );
    let first = Script::read_head().write(answer).fin();
    let upstream = Upstream::playing([first, script]);
    let seawall = Seawall::configured(&format!(
        "upstreams: {{ app: {{ endpoints: ['http://{}'] }} }}\nroutes: [{{ upstream: app }}]\n\
        websocket: {{ close_timeout: 2s }}\n",
        upstream.address(),
    ));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, test(&seawall, &upstream)).await.expect("in time")
    })
}

fn fields(seen: &HeaderMap) -> Vec<&str> {
    seen.keys().map(http::HeaderName::as_str).collect()
}

#[test]
fn a_websocket_over_http_2_becomes_an_upgrade_to_the_upstream() {
    let from_client = masked(&frame(FIN | TEXT, "hello"));
    let script = Script::read_head()
        .write_accepting("Sec-WebSocket-Protocol: chat\r\n")
        .then(Step::ReadContent(from_client.len()))
        .write(frame(FIN | TEXT, "welcome"))
        .write(close(1000, "bye"))
        .record();
    play(script, async |seawall, upstream| {
        let requests = connect(seawall).await;
        let (response, mut sender) = tunnel(&requests, extended("websocket")).await;
        assert_eq!(response.status(), 200);
        let known = fields(response.headers());
        for name in ["upgrade", "connection", "sec-websocket-accept"] {
            assert!(!known.contains(&name), "{known:?}");
        }
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        sender.send_data(Bytes::from(from_client), false).unwrap();
        let mut stream = response.into_body();
        sender.send_data(Bytes::from(masked(&close(1000, "bye"))), true).unwrap();
        let expected = [frame(FIN | TEXT, "welcome"), close(1000, "bye")].concat();
        assert_eq!(rest(&mut stream).await, expected, "then END_STREAM");
        assert_eq!(upstream.record().bytes, masked(&close(1000, "bye")));
        let head = &upstream.requests()[1];
        assert!(head.starts_with("GET /chat?room=1 HTTP/1.1\r\n"), "{head}");
        for line in [
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            "sec-websocket-protocol: chat",
            "host: example.com",
        ] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} is missing: {head}");
        }
        assert!(head.contains("\r\nvia: 2.0 seawall-"), "Via is missing: {head}");
    });
}

#[test]
fn a_key_that_a_client_sends_over_http_2_does_not_reach_the_app() {
    let script = Script::read_head().write_accepting("").write(close(1000, "")).record();
    play(script, async |seawall, upstream| {
        let requests = connect(seawall).await;
        let mut request = extended("websocket");
        let key = http::HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        request.headers_mut().insert("sec-websocket-key", key);
        request.headers_mut().remove("sec-websocket-protocol");
        let (response, mut sender) = tunnel(&requests, request).await;
        assert_eq!(response.status(), 200);
        sender.send_data(Bytes::from(masked(&close(1000, ""))), true).unwrap();
        rest(&mut response.into_body()).await;
        let head = &upstream.requests()[1];
        assert_eq!(head.matches("\r\nsec-websocket-key: ").count(), 1, "{head}");
        assert!(!head.contains("dGhlIHNhbXBsZSBub25jZQ=="), "{head}");
        assert!(seawall.cells("seawall_failures_total").is_empty());
    });
}

#[test]
fn an_upstream_that_crashes_becomes_1011_and_end_of_stream_and_no_other_stream_notices() {
    for reset in [false, true] {
        let script = open().write(frame(FIN | TEXT, "hello")).write(b"\x82\x09half");
        let script = if reset { script.reset() } else { script.fin() };
        play(script, async |seawall, _| {
            let requests = connect(seawall).await;
            let (response, mut sender) = tunnel(&requests, extended("websocket")).await;
            let mut stream = response.into_body();
            let mut bytes = Vec::new();
            while !bytes.windows(2).any(|pair| pair == [0x03, 0xF3]) {
                bytes.extend_from_slice(&stream.data().await.unwrap().unwrap());
            }
            sender.send_data(Bytes::from(masked(&close(1011, ""))), true).unwrap();
            bytes.extend(rest(&mut stream).await);
            let hello = frame(FIN | TEXT, "hello");
            assert!(bytes.starts_with(&hello));
            let close = &bytes[hello.len()..];
            assert_eq!((close[0], usize::from(close[1])), (FIN | CLOSE, close.len() - 2));
            assert_eq!(ask(&requests).await, (200, WELL.to_owned()));
            let closes = seawall.until("the close", |seawall| {
                Some(seawall.cells("seawall_websocket_closes_total")).filter(|c| !c.is_empty())
            });
            assert_eq!(closes, ["{code=\"1011\",initiator=\"upstream\",upstream=\"app\"} 1"]);
        });
    }
}

#[test]
fn a_handshake_that_fails_is_a_500_on_its_stream() {
    let scripts = [
        Script::read_head().reset(),
        Script::read_head().write("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").hang(),
        Script::read_head()
            .write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
            .hang(),
    ];
    for script in scripts {
        play(script, async |seawall, _| {
            let requests = connect(seawall).await;
            let (response, _sender) = tunnel(&requests, extended("websocket")).await;
            assert_eq!(response.status(), 500);
            assert!(response.headers()["proxy-status"].to_str().unwrap().contains("error="));
            let body = rest(&mut response.into_body()).await;
            assert!(body.starts_with(b"{"), "{}", String::from_utf8_lossy(&body));
            assert_eq!(ask(&requests).await.0, 200);
        });
    }
}

#[test]
fn a_client_that_resets_its_stream_leaves_1001_to_the_upstream() {
    play(open().record(), async |seawall, upstream| {
        let requests = connect(seawall).await;
        let (response, mut sender) = tunnel(&requests, extended("websocket")).await;
        assert_eq!(response.status(), 200);
        sender.send_reset(h2::Reason::CANCEL);
        drop(response);
        // The connection's task must run while the upstream waits for the end.
        let record = async {
            loop {
                if let Some(record) = upstream.recorded() {
                    break record;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let record = record.await;
        assert_eq!((record.bytes[0], record.reset), (FIN | CLOSE, false));
        assert_eq!(ask(&requests).await.0, 200);
    });
}

#[test]
fn other_protocols_are_not_implemented() {
    play(Script::read_head().hang(), async |seawall, _| {
        let requests = connect(seawall).await;
        let (response, _sender) = tunnel(&requests, extended("connect-udp")).await;
        assert_eq!(response.status(), 501);
    });
}

#[test]
fn a_large_message_passes_with_flow_control() {
    let payload: Vec<u8> = (0..3_000_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    let script = open()
        .write(header(FIN | BINARY, payload.len()))
        .write(&payload)
        .write(close(1000, ""))
        .record();
    play(script, async |seawall, _| {
        let requests = connect(seawall).await;
        let (response, mut sender) = tunnel(&requests, extended("websocket")).await;
        let mut stream = response.into_body();
        let mut bytes = Vec::new();
        while !bytes.ends_with(&close(1000, "")) {
            let data = stream.data().await.unwrap().unwrap();
            let _ = stream.flow_control().release_capacity(data.len());
            bytes.extend_from_slice(&data);
        }
        sender.send_data(Bytes::from(masked(&close(1000, ""))), true).unwrap();
        assert!(rest(&mut stream).await.is_empty());
        assert!(bytes.len() > payload.len());
    });
}

//! The demo's app: a raw-socket server that plays the stories of [`super::fault`].
//!
//! No HTTP library: what goes over the wire is exactly what a story says, wrong as it may be. One
//! request per connection. What must stay true: it listens on loopback only, never panics, reads
//! at most `HEAD_MAX` bytes of a head, serves at most `CONNECTIONS` at a time, and leaves no
//! connection open for longer than `PATIENCE`.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::fault::{Fault, Step, Transport, Upstream};
use super::frame;
use super::story::{self, FAULTS};

const HEAD_MAX: usize = 16 * 1024;
const CONNECTIONS: usize = 256;
const PATIENCE: Duration = Duration::from_secs(60);
/// How long what the client still sends is read after the app's end of the connection, so that no
/// TCP reset destroys what the app has sent.
const LINGER: Duration = Duration::from_secs(2);

/// The running app. Dropping it stops its thread.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    admin: Arc<OnceLock<SocketAddr>>,
    // Dropped with the app: the accept loop ends.
    _stop: oneshot::Sender<()>,
}

impl App {
    /// Starts the app in a thread of its own.
    ///
    /// # Errors
    /// When no loopback socket or no thread can be had.
    pub fn start() -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let admin = Arc::new(OnceLock::new());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let known = Arc::clone(&admin);
        std::thread::Builder::new().name("demo-app".into()).spawn(move || {
            let serving = LocalSet::new();
            runtime.block_on(serving.run_until(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                tokio::select! {
                    () = serve(listener, known) => {}
                    _ = stopped => {}
                }
            }));
        })?;
        Ok(App { address, admin, _stop: stop })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells the page where the admin listener is. Only the first call counts.
    pub fn set_admin(&self, address: SocketAddr) {
        let _ = self.admin.set(address);
    }
}

async fn serve(listener: TcpListener, admin: Arc<OnceLock<SocketAddr>>) {
    let open = Rc::new(Cell::new(0_usize));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: some will be free in a moment.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if open.get() >= CONNECTIONS {
            continue;
        }
        let (open, admin) = (Rc::clone(&open), Arc::clone(&admin));
        open.set(open.get() + 1);
        spawn_local(async move {
            // A client that goes away in the middle of a story is no news.
            let _ = timeout(PATIENCE, connection(stream, &admin)).await;
            open.set(open.get().saturating_sub(1));
        });
    }
}

async fn connection(mut stream: TcpStream, admin: &OnceLock<SocketAddr>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(head) = read_head(&mut stream).await? else { return Ok(()) };
    for step in steps(&head) {
        match *step {
            Step::Send(bytes) => stream.write_all(bytes).await?,
            Step::Repeat(bytes, times) => {
                let block = bytes.repeat(1 + 4096 / bytes.len().max(1));
                let mut left = bytes.len() * times;
                while left > 0 {
                    let part = block.get(..left.min(block.len())).unwrap_or_default();
                    stream.write_all(part).await?;
                    left -= part.len();
                }
            }
            Step::Chunks(count) => {
                let mut text = "a line of a long answer that never comes to its end\n".repeat(158);
                text.truncate(8 * 1024);
                let chunk = format!("2000\r\n{text}\r\n");
                for _ in 0..count {
                    stream.write_all(chunk.as_bytes()).await?;
                }
            }
            Step::Answer(status, media_type, content) => {
                stream.write_all(answer(status, media_type, "", content).as_bytes()).await?;
            }
            Step::Page => {
                let page = page(admin.get().copied());
                let answer = answer("200 OK", "text/html; charset=utf-8", PAGE_FIELDS, &page);
                stream.write_all(answer.as_bytes()).await?;
            }
            Step::Upgrade => stream.write_all(switching(&head).as_bytes()).await?,
            Step::Echo => echo(&mut stream).await?,
            Step::Close(code, reason) => {
                stream.write_all(&frame::close(code, reason.as_bytes())).await?;
            }
            Step::Hang => {
                drain(&mut stream, usize::MAX).await;
                return Ok(());
            }
            Step::Reset => return stream.set_zero_linger(),
        }
    }
    stream.shutdown().await?;
    let _ = timeout(LINGER, drain(&mut stream, 1 << 20)).await;
    Ok(())
}

/// What the app does for this request.
fn steps(head: &str) -> &'static [Step] {
    let mut words = head.split([' ', '\r']);
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return story::BAD_REQUEST;
    };
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return story::BAD_REQUEST;
    }
    let path = target.split('?').next().unwrap_or_default();
    if path == "/" {
        return story::PAGE;
    }
    match Fault::at(path).map(|fault| fault.upstream) {
        Some(Upstream::App(steps)) => steps,
        // Played by others; who asks the app itself gets nothing.
        Some(Upstream::Nobody | Upstream::NoName | Upstream::PlainText) | None => story::NOT_FOUND,
    }
}

/// Reads to the end of the request head. `None`: the client left before it was whole.
async fn read_head(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
        // What does not begin like a method (a TLS ClientHello) may never have an end.
        let foreign = !head.first().is_some_and(u8::is_ascii_uppercase);
        let whole = memchr::memmem::find(&head, b"\r\n\r\n").is_some();
        if whole || foreign || head.len() > HEAD_MAX {
            return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
        }
    }
}

/// Reads and forgets what the client sends, until it ends or `most` bytes have come.
async fn drain(stream: &mut TcpStream, most: usize) {
    let mut scratch = [0; 4096];
    let mut total = 0_usize;
    while let Ok(read @ 1..) = stream.read(&mut scratch).await {
        total = total.saturating_add(read);
        if total > most {
            return;
        }
    }
}

/// Returns messages, answers pings, and ends after the client's Close or its end.
async fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut reader = frame::Reader::default();
    loop {
        let Some(frame) = reader.next(stream).await? else { return Ok(()) };
        let reply = match frame.opcode {
            frame::CLOSE => {
                let payload = frame.payload.get(..125).unwrap_or(&frame.payload);
                return stream.write_all(&frame::encode(0x80 | frame::CLOSE, payload)).await;
            }
            frame::PING => frame::encode(0x80 | frame::PONG, &frame.payload),
            frame::PONG => continue,
            // Fragment by fragment, with its own FIN and opcode.
            opcode => frame::encode(u8::from(frame.fin) << 7 | opcode, &frame.payload),
        };
        stream.write_all(&reply).await?;
    }
}

fn answer(status: &str, media_type: &str, fields: &str, content: &str) -> String {
    let length = content.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\
        {fields}Connection: close\r\n\r\n{content}"
    )
}

fn switching(head: &str) -> String {
    let key = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        .map_or("", |(_, value)| value.trim());
    let accept = derive_accept_key(key.as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// The page loads nothing, and connects to nothing but the origin it came from.
const PAGE_FIELDS: &str = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
    Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; \
    script-src 'unsafe-inline'; img-src data:; connect-src 'self' ws: wss:\r\n";

const PAGE: &str = include_str!("page.html");

/// The page, with the list of faults and the admin address as data.
fn page(admin: Option<SocketAddr>) -> String {
    let faults: Vec<_> = FAULTS
        .iter()
        .map(|fault| {
            serde_json::json!({
                "name": fault.name,
                "about": fault.about,
                "path": fault.path(),
                "websocket": fault.transport == Transport::WebSocket,
                "without": fault.without,
                "with": fault.expected.words(fault.transport),
                "expected": fault.expected.name(),
                "kind": fault.kind.map(|kind| kind.name()),
            })
        })
        .collect();
    let data = serde_json::json!({
        "faults": faults,
        "admin": admin.map(|address| format!("http://{address}")),
    });
    // Inside a script element only `<` could end the data.
    PAGE.replace("{{DATA}}", &data.to_string().replace('<', "\\u003c"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_the_app_has_a_path_that_it_serves() {
        for fault in FAULTS {
            if let Upstream::App(played) = fault.upstream {
                let head = format!("GET {}?again HTTP/1.1\r\n\r\n", fault.path());
                assert_eq!(steps(&head), played, "{}", fault.name);
            }
        }
    }

    #[test]
    fn what_is_not_http_and_what_is_not_there_is_told_so() {
        assert_eq!(steps("GET /nowhere HTTP/1.1\r\n\r\n"), story::NOT_FOUND);
        assert_eq!(steps("GET /fault/dns HTTP/1.1\r\n\r\n"), story::NOT_FOUND);
        assert_eq!(steps("\u{16}\u{3}\u{1}"), story::BAD_REQUEST);
        assert_eq!(steps(""), story::BAD_REQUEST);
    }

    #[test]
    fn the_page_holds_the_whole_list_and_nothing_from_outside() {
        let page = page(Some(([127, 0, 0, 1], 9900).into()));
        assert!(page.contains("http://127.0.0.1:9900") && !page.contains("{{DATA}}"));
        for fault in FAULTS {
            assert!(page.contains(&format!("\"{}\"", fault.path())), "{}", fault.name);
        }
        for outside in ["https://", "src=\"", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn a_wrong_accept_never_comes_from_a_valid_upgrade() {
        // RFC 6455 §1.3 has this example.
        let head = "GET / HTTP/1.1\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        assert!(switching(head).contains("Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    }
}

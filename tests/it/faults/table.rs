//! The stories.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use seawall::failure::{Kind, Outcome, Phase};
use socket2::{Domain, Socket, Type};

use super::{Fault, Stage};
use crate::support::client::Request;
use crate::support::script::{Nobody, Script, Step, Upstream};
use crate::support::seawall::{IMPATIENT, Seawall};

const JSON: &str = "HTTP/1.1 200 OK\r\nServer: hunter2/1.0\r\nContent-Type: application/json\r\n";
const TEXT: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n";

/// Starts a row whose upstream plays this script.
fn story(name: &'static str, kind: Kind, phase: Phase, script: Script) -> Fault {
    with(name, kind, phase, "", script)
}

/// A row with settings of the upstream.
fn with(
    name: &'static str,
    kind: Kind,
    phase: Phase,
    settings: &'static str,
    script: Script,
) -> Fault {
    staged(name, kind, phase, move || Stage::playing(script.clone(), settings))
}

/// A row with a stage of its own.
pub fn staged(
    name: &'static str,
    kind: Kind,
    phase: Phase,
    stage: impl Fn() -> Stage + Send + Sync + 'static,
) -> Fault {
    let upstream = Box::new(stage);
    let outcome = Outcome::Normalized;
    Fault { name, upstream, request: Request::get(), kind, phase, outcome }
}

impl Fault {
    /// Asked like this.
    pub fn asked(self, request: Request) -> Self {
        Fault { request, ..self }
    }

    /// The response was committed before the fault.
    pub fn aborted(self) -> Self {
        Fault { outcome: Outcome::Aborted, ..self }
    }
}

/// Both ways a connection can be cut.
fn cut(
    [fin, reset]: [&'static str; 2],
    kind: Kind,
    phase: Phase,
    script: impl Fn() -> Script,
) -> [Fault; 2] {
    [story(fin, kind, phase, script().fin()), story(reset, kind, phase, script().reset())]
}

/// A response head with these fields, then a little content.
fn answer(fields: &str) -> Script {
    Script::read_head().write(format!("{TEXT}{fields}\r\nhunter2"))
}

/// Every row.
pub fn faults() -> Vec<Fault> {
    let mut all = connecting();
    all.extend(heads());
    all.extend(cut_contents());
    all.extend(bad_contents());
    all.extend(silences());
    all.extend(malformed());
    all.extend(uploads());
    all.extend(apps());
    all
}

fn connecting() -> Vec<Fault> {
    let down = |settings: &'static str| {
        move || {
            let upstream = Upstream::healthy();
            let nobody = Nobody::new();
            let seawall = Seawall::at(&format!("http://{}", nobody.address()), settings);
            Stage { upstream, seawall, recovers: false, _props: Box::new(nobody) }
        }
    };
    let name_is_unknown = || {
        let seawall = Seawall::at("http://no-such-host.invalid:80", "timeouts: { resolve: 10s }");
        let upstream = Upstream::healthy();
        Stage { upstream, seawall, recovers: false, _props: Box::new(()) }
    };
    let alert = b"\x15\x03\x03\x00\x02\x02\x28";
    vec![
        staged("a port that refuses", Kind::ConnectionRefused, Phase::Connect, down("")),
        staged("10 MB to a port that refuses", Kind::ConnectionRefused, Phase::Connect, down(""))
            .asked(Request::post(10_000_000)),
        staged("a blackhole", Kind::ConnectionTimeout, Phase::Connect, blackhole),
        staged("a name that does not exist", Kind::DnsError, Phase::Resolve, name_is_unknown),
        staged("plain HTTP on a TLS port", Kind::TlsProtocolError, Phase::Tls, || {
            let says = "HTTP/1.1 400 Bad Request\r\n\r\nhunter2";
            encrypted("", Script::default().write(says).fin())
        }),
        staged("a TLS alert", Kind::TlsAlertReceived, Phase::Tls, move || {
            encrypted("", Script::default().write(alert).fin())
        }),
        staged("a FIN in the TLS handshake", Kind::ConnectionTerminated, Phase::Tls, || {
            encrypted("", Script::default().fin())
        }),
        staged("silence in the TLS handshake", Kind::ConnectionTimeout, Phase::Tls, || {
            encrypted(IMPATIENT, Script::default().hang())
        }),
        staged("an unknown issuer", Kind::TlsCertificateError, Phase::Tls, || {
            let address = tls_upstream();
            let seawall = Seawall::at(&format!("https://localhost:{}", address.port()), "");
            let upstream = Upstream::healthy();
            Stage { upstream, seawall, recovers: false, _props: Box::new(()) }
        }),
    ]
}

/// A script behind an `https` endpoint.
fn encrypted(settings: &str, script: Script) -> Stage {
    // Every connection plays it: the next request fails in the same manner.
    let upstream = Upstream::playing([script.clone(), script]);
    let seawall = Seawall::at(&format!("https://{}", upstream.address()), settings);
    Stage { upstream, seawall, recovers: false, _props: Box::new(()) }
}

/// A socket whose queue of connections is full: further SYNs get no answer.
fn blackhole() -> Stage {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        filler.set_nonblocking(true).unwrap();
        let _ = filler.connect(&address);
        waiting.push(filler);
    }
    let seawall = Seawall::at(&format!("http://{}", address.as_socket().unwrap()), IMPATIENT);
    let upstream = Upstream::healthy();
    Stage { upstream, seawall, recovers: false, _props: Box::new((socket, waiting)) }
}

/// A TLS server with a certificate that nobody issued.
fn tls_upstream() -> SocketAddr {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for _ in 0..2 {
            let Ok((mut tcp, _)) = listener.accept() else { return };
            let mut session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::Stream::new(&mut session, &mut tcp);
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.flush();
        }
    });
    address
}

fn heads() -> Vec<Fault> {
    let incomplete = Kind::HttpResponseIncomplete;
    let mut all = Vec::new();
    all.extend(cut(
        ["a FIN before a byte", "a RST before a byte"],
        Kind::ConnectionTerminated,
        Phase::Head,
        Script::read_head,
    ));
    all.extend(cut(
        ["a FIN in the status line", "a RST in the status line"],
        incomplete,
        Phase::Head,
        || Script::read_head().write("HTTP/1.1 20"),
    ));
    all.extend(cut(
        ["a FIN in the fields", "a RST in the fields"],
        incomplete,
        Phase::Head,
        || Script::read_head().write("HTTP/1.1 200 OK\r\nServer: hunter2\r\nContent-Le"),
    ));
    all
}

fn cut_contents() -> Vec<Fault> {
    let incomplete = Kind::HttpResponseIncomplete;
    let large = || {
        Script::read_head()
            .write(format!("{TEXT}Content-Length: 200000\r\n\r\n{}", "x".repeat(100_000)))
            .until_client_saw_head()
    };
    let chunks = || {
        Script::read_head()
            .write(format!("{TEXT}Transfer-Encoding: chunked\r\n\r\n11170\r\n"))
            .write("x".repeat(70_000))
            .write("\r\n")
            .until_client_saw_head()
    };
    let mut all = Vec::new();
    all.extend(cut(
        ["a FIN in a small body", "a RST in a small body"],
        incomplete,
        Phase::Body,
        || Script::read_head().write(format!("{JSON}Content-Length: 500\r\n\r\n{{\"hunter2\":")),
    ));
    all.extend(cut(
        ["a FIN in a JSON body of unknown length", "a RST in a JSON body of unknown length"],
        incomplete,
        Phase::Body,
        || {
            Script::read_head()
                .write(format!("{JSON}Transfer-Encoding: chunked\r\n\r\n8\r\n{{\"hunter\r\n"))
        },
    ));
    all.extend(
        cut(["a FIN in a large body", "a RST in a large body"], incomplete, Phase::Body, large)
            .map(Fault::aborted),
    );
    all.extend(
        cut(["a FIN in a chunk", "a RST in a chunk"], incomplete, Phase::Body, || {
            chunks().write("100\r\nxxxx")
        })
        .map(Fault::aborted),
    );
    all.extend(
        cut(["a FIN between chunks", "a RST between chunks"], incomplete, Phase::Body, chunks)
            .map(Fault::aborted),
    );
    all.push(
        // A FIN would be its end; a RST is not.
        story(
            "a RST in a close-delimited body",
            incomplete,
            Phase::Body,
            Script::read_head()
                .write(format!("{TEXT}\r\n{}", "x".repeat(70_000)))
                .until_client_saw_head()
                .reset(),
        )
        .aborted(),
    );
    all
}

fn bad_contents() -> Vec<Fault> {
    let coding = Kind::HttpResponseTransferCoding;
    let chunked = |bytes: &str| {
        Script::read_head().write(format!("{JSON}Transfer-Encoding: chunked\r\n\r\n{bytes}")).hang()
    };
    vec![
        story("a chunk size that is no number", coding, Phase::Body, chunked("hunter2\r\n")),
        story("a negative chunk size", coding, Phase::Body, chunked("-1\r\nx\r\n0\r\n\r\n")),
        story("an enormous chunk size", coding, Phase::Body, chunked("fffffffffffffffff\r\nx")),
        story("a chunk longer than its size", coding, Phase::Body, chunked("2\r\nhunter2\r\n")),
        story(
            "a bad chunk size after the commit",
            coding,
            Phase::Body,
            Script::read_head()
                .write(format!("{TEXT}Transfer-Encoding: chunked\r\n\r\n11170\r\n"))
                .write("x".repeat(70_000))
                .write("\r\n")
                .until_client_saw_head()
                .write("zz\r\n")
                .hang(),
        )
        .aborted(),
        story(
            "an unknown transfer coding",
            coding,
            Phase::Head,
            answer("Transfer-Encoding: hunter2\r\n"),
        ),
        with(
            "content over the limit, known beforehand",
            Kind::HttpResponseBodySize,
            Phase::Head,
            "limits: { body: 1KiB }",
            Script::read_head().write(format!("{TEXT}Content-Length: 1025\r\n\r\n")).hang(),
        ),
        with(
            "content over the limit, found out",
            Kind::HttpResponseBodySize,
            Phase::Body,
            "limits: { body: 1KiB }",
            Script::read_head()
                .write(format!("{JSON}Transfer-Encoding: chunked\r\n\r\n401\r\n"))
                .write("x".repeat(1025))
                .hang(),
        ),
        with(
            "trailers over the limit",
            Kind::HttpResponseTrailerSectionSize,
            Phase::Body,
            "limits: { trailers: 1KiB }",
            Script::read_head()
                .write(format!("{JSON}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\nX: "))
                .write("x".repeat(2000))
                .hang(),
        ),
    ]
}

fn silences() -> Vec<Fault> {
    let late = Kind::HttpResponseTimeout;
    vec![
        with("no response", late, Phase::Head, IMPATIENT, Script::read_head().hang()),
        with(
            "a head that stops",
            late,
            Phase::Head,
            IMPATIENT,
            Script::read_head().write("HTTP/1.1 200 OK\r\nServer: hun").hang(),
        ),
        with(
            "a small body that stops",
            Kind::ConnectionReadTimeout,
            Phase::Body,
            IMPATIENT,
            Script::read_head().write(format!("{JSON}Content-Length: 99\r\n\r\n{{\"h")).hang(),
        ),
        with(
            "a large body that stops",
            Kind::ConnectionReadTimeout,
            Phase::Body,
            IMPATIENT,
            Script::read_head()
                .write(format!("{TEXT}Content-Length: 200000\r\n\r\n{}", "x".repeat(100_000)))
                .hang(),
        )
        .aborted(),
        with(
            "an upstream that does not read 10 MB",
            Kind::ConnectionWriteTimeout,
            Phase::Send,
            IMPATIENT,
            Script::read_head().until_client_saw_head(),
        )
        .asked(Request::post(10_000_000)),
    ]
}

fn malformed() -> Vec<Fault> {
    let wrong = Kind::HttpProtocolError;
    let head = |name, bytes: &[u8]| {
        story(name, wrong, Phase::Head, Script::read_head().write(bytes).hang())
    };
    let fields = |name, fields: &str| story(name, wrong, Phase::Head, answer(fields).hang());
    vec![
        head("garbage", b"\x00\xff hunter2 \x01\r\n\r\n"),
        head("text that is not HTTP", b"hunter2: command not found\n"),
        head("TLS bytes on a plain port", b"\x15\x03\x01\x00\x02\x02\x46"),
        head("an HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        head("a status of two digits", b"HTTP/1.1 20 OK\r\n\r\n"),
        head("a status that is no number", b"HTTP/1.1 2x0 OK\r\n\r\n"),
        head("HTTP/2.0 as a version", b"HTTP/2.0 200 OK\r\n\r\n"),
        fields("conflicting lengths in two lines", "Content-Length: 7\r\nContent-Length: 8\r\n"),
        fields("conflicting lengths in one line", "Content-Length: 7, 8\r\n"),
        fields("a negative length", "Content-Length: -7\r\n"),
        fields("a signed length", "Content-Length: +7\r\n"),
        fields("a length that is no number", "Content-Length: seven\r\n"),
        fields("an empty length", "Content-Length: \r\n"),
        fields("a length beyond 64 bits", "Content-Length: 99999999999999999999\r\n"),
        fields("length and coding", "Content-Length: 7\r\nTransfer-Encoding: chunked\r\n"),
        fields("a NUL in a field", "X-Bad: hun\0ter2\r\n"),
        fields("a bare CR in a field", "X-Bad: hun\rter2\r\n"),
        fields("a bare LF", "X-Bad: hunter2\nX: y\r\n"),
        fields("a folded field", "X-Bad: hunter\r\n 2\r\n"),
        fields("a blank before the colon", "X-Bad : hunter2\r\n"),
        fields("a field without a name", ": hunter2\r\n"),
        fields("a line without a colon", "hunter2\r\n"),
        story(
            "a head over the limit",
            Kind::HttpResponseHeaderSectionSize,
            Phase::Head,
            Script::read_head()
                .write(format!("{TEXT}{}\r\n", format!("X-A: {}\r\n", "x".repeat(1000)).repeat(70)))
                .hang(),
        ),
        story(
            "a field over the limit",
            Kind::HttpResponseHeaderSize,
            Phase::Head,
            Script::read_head().write(format!("{TEXT}X-A: {}", "x".repeat(40_000))).hang(),
        ),
        story(
            "too many fields",
            Kind::HttpResponseHeaderSectionSize,
            Phase::Head,
            Script::read_head().write(format!("{TEXT}{}\r\n", "X-A: x\r\n".repeat(200))).hang(),
        ),
        story(
            "interim responses without end",
            wrong,
            Phase::Head,
            Script::read_head()
                .then(Step::WriteForever(b"HTTP/1.1 102 Processing\r\n\r\n".to_vec())),
        ),
        story(
            "a 101 that nobody asked for",
            wrong,
            Phase::Head,
            Script::read_head()
                .write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: hunter2\r\n\r\n")
                .hang(),
        ),
    ]
}

fn uploads() -> Vec<Fault> {
    // With 10 MB under way, the close is met while writing or while waiting for the head: what is
    // known for sure is that no byte of a response came. The upstream reads nothing of the content.
    let sizes: [(&'static str, &'static str, usize, Phase); 3] = [
        ("a FIN before 1 B was read", "a RST before 1 B was read", 1, Phase::Head),
        ("a FIN before 64 KiB were read", "a RST before 64 KiB were read", 65_536, Phase::Head),
        ("a FIN before 10 MB were read", "a RST before 10 MB were read", 10_000_000, Phase::Send),
    ];
    let mut all = Vec::new();
    for (fin, reset, length, phase) in sizes {
        let ended = Kind::ConnectionTerminated;
        // All of the content but its last byte where it is small: the rest is known to be there.
        let script = || Script::read_head().then(Step::ReadContent(length.min(65_536)));
        let pair = [
            story(fin, ended, phase, script().then(Step::FinUnread)),
            story(reset, ended, phase, script().reset()),
        ];
        all.extend(pair.map(|fault| fault.asked(Request::post(length))));
    }
    all
}

fn apps() -> Vec<Fault> {
    let says = |status: &str, media_type: &str, content: &str| {
        let length = content.len();
        Script::read_head()
            .write(format!(
                "HTTP/1.1 {status}\r\nServer: hunter2/1.0\r\nContent-Type: {media_type}\r\n\
                Content-Length: {length}\r\n\r\n{content}"
            ))
            .then(Step::BeWell)
    };
    let trace = "Traceback (most recent call last):\n  File \"/srv/hunter2.py\", line 1, in f\n\
        KeyError: 'hunter2'\n";
    let depends = Kind::DependencyFailure;
    vec![
        story(
            "a stack trace",
            Kind::ApplicationError,
            Phase::Head,
            says("500 Oops", "text/plain", trace),
        ),
        story(
            "an empty 500",
            Kind::ApplicationError,
            Phase::Head,
            says("500 hunter2", "text/plain", ""),
        ),
        story(
            "a 502",
            depends,
            Phase::Head,
            says("502 Bad Gateway", "text/html", "<p>hunter2</p>"),
        ),
        story("a 503", depends, Phase::Head, says("503 Busy", "text/plain", "hunter2")),
        story(
            "a 504",
            depends,
            Phase::Head,
            says("504 Late", "application/json", "{\"hunter2\":1}"),
        ),
    ]
}

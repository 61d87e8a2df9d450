//! What TLS has agreed on is not guessed at again (RFC 7301); without it the first bytes decide.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::PATIENCE;
use crate::support::http2::{GOAWAY, PROTOCOL_ERROR, SETTINGS};
use crate::support::script::Upstream;
use crate::support::seawall::Seawall;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// A listener with TLS, and what its clients trust.
struct Secured {
    seawall: Seawall,
    roots: RootCertStore,
    _folder: Folder,
    _upstream: Upstream,
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Secured {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("seawall-alpn-{}-{count}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&folder.0).unwrap();
        let key = KeyPair::generate().unwrap();
        let made = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let made = made.self_signed(&key).unwrap();
        let (chain_path, key_path) = (folder.0.join("chain.pem"), folder.0.join("key.pem"));
        std::fs::write(&chain_path, made.pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.der().clone()).unwrap();
        let upstream = Upstream::healthy();
        let seawall = Seawall::configured(&format!(
            "clients: {{ head_timeout: 2s }}\n\
            listeners: [{{ address: '127.0.0.1:0', tls: {{ certificates: [{{ chain: '{}', key: '{}' }}] }} }}]\n\
            upstreams: {{ app: {{ endpoints: [http://{}] }} }}\n\
            routes: [{{ upstream: app }}]\n",
            chain_path.display(),
            key_path.display(),
            upstream.address()
        ));
        Secured { seawall, roots, _folder: folder, _upstream: upstream }
    }

    /// What comes back for these bytes, until the end, over a session with this ALPN.
    fn said(&self, alpn: &[&[u8]], pieces: &[&[u8]]) -> Vec<u8> {
        let config = ClientConfig::builder().with_root_certificates(self.roots.clone());
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        let tcp = TcpStream::connect(self.seawall.address()).unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut tls = StreamOwned::new(session, tcp);
        for piece in pieces {
            tls.write_all(piece).unwrap();
            tls.flush().unwrap();
        }
        let mut answer = Vec::new();
        tls.read_to_end(&mut answer).unwrap();
        answer
    }
}

/// The kinds of the frames, and the payload of the last one.
fn frames(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut kinds, mut last) = (Vec::new(), Vec::new());
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        kinds.push(*kind);
        last = rest[..length].to_vec();
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty(), "no frames: {bytes:?}");
    (kinds, last)
}

#[test]
fn what_is_no_preface_after_h2_is_a_connection_error() {
    let secured = Secured::new();
    for pieces in
        [&[GET][..], &[b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n"], &[&PREFACE[..10], b"x"], &[b"\0"]]
    {
        let answer = secured.said(&[b"h2"], pieces);
        let (kinds, goaway) = frames(&answer);
        assert_eq!(kinds, [SETTINGS, GOAWAY], "{pieces:?}");
        assert_eq!(goaway[4..8], PROTOCOL_ERROR.to_be_bytes());
    }
    secured.seawall.until("each is counted", |seawall| {
        let cells = seawall.cells("seawall_client_failures_total");
        (cells == ["{kind=\"http2_error\"} 4"]).then_some(())
    });
}

#[test]
fn a_preface_in_pieces_begins_http_2() {
    let secured = Secured::new();
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    for alpn in [&[&b"h2"[..]][..], &[]] {
        let (one, two) = PREFACE.split_at(10);
        let answer = secured.said(alpn, &[one, two, &settings, &goaway]);
        let (kinds, _) = frames(&answer);
        assert_eq!(kinds.first(), Some(&SETTINGS), "{kinds:?}");
    }
    assert!(secured.seawall.cells("seawall_client_failures_total").is_empty());
}

#[test]
fn a_preface_that_stalls_is_given_up_without_a_guess() {
    let secured = Secured::new();
    assert!(secured.said(&[b"h2"], &[&PREFACE[..10]]).is_empty());
}

#[test]
fn after_http_1_1_or_nothing_the_first_bytes_are_requests() {
    let secured = Secured::new();
    for (alpn, bytes, status) in [
        (&[&b"http/1.1"[..]][..], GET, "200 OK"),
        (&[], GET, "200 OK"),
        (&[&b"http/1.1"[..]], PREFACE, "400 Bad Request"),
    ] {
        let answer = secured.said(alpn, &[bytes]);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
    }
}

//! What the kernel knows of an endpoint before seawall does.

#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use socket2::{Domain, Socket, Type};

use crate::support::PATIENCE;
use crate::support::client::{Client, Request, Version};
use crate::support::script::{Gate, Upstream};
use crate::support::seawall::Seawall;

/// Reads a request head with a small buffer, and then nothing.
fn takes_nothing() -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(8).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0; 256]);
            kept.push(stream);
        }
    });
    address
}

#[test]
fn ends_a_connection_to_an_endpoint_that_takes_nothing() {
    let patient = "timeouts: { head: 300s, idle: 300s }, limits: { idle_connections: 0 }";
    let endpoint = format!("http://{}", takes_nothing());
    let seawall = Seawall::at(&endpoint, &format!("{patient}, tcp: {{ user_timeout: 1s }}"));
    let mut client = Client::connect(Version::Http1, seawall.address());
    let seen = client.exchange(&Request::post(16 * 1024 * 1024), &Gate::default());
    assert_eq!(seen.status, 500, "{seen:?}");
    let error = seen.field("proxy-status").unwrap();
    assert!(error.contains("connection_write_timeout"), "{error}");
}

#[test]
fn a_quiet_connection_outlives_its_limits() {
    // Nothing is unacknowledged, and the kernel at the other end answers its probes.
    let app = Upstream::healthy();
    let tcp = "tcp: { user_timeout: 100ms, keepalive: 1s }";
    let seawall = Seawall::before_with(&app, tcp);
    let mut stream = TcpStream::connect(seawall.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut ask = || {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut answer = [0; 1024];
        let count = stream.read(&mut answer).unwrap();
        assert!(answer[..count].starts_with(b"HTTP/1.1 200 "));
    };
    ask();
    // Two probes of one second each.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    ask();
    let connects = seawall.cells("seawall_connects_total");
    assert_eq!(connects.len(), 1, "{connects:?}");
    assert!(connects[0].ends_with(" 1"), "the same connection: {connects:?}");
}

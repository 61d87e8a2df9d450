//! What a panic prints, sent as the answer by an app that runs its work in a child process:
//! rust_app PORT. Its child is `rust_app PORT work`.
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

fn price(cart: &[u32], at: usize) -> u32 {
    cart[at]
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.len() > 2 {
        println!("{}", price(&[12], arguments.len() + 4));
        return;
    }
    let listener = TcpListener::bind(("127.0.0.1", arguments[1].parse().unwrap())).unwrap();
    for connection in listener.incoming() {
        let mut connection = connection.unwrap();
        let mut request = [0; 4096];
        let Ok(length @ 1..) = connection.read(&mut request) else { continue };
        let backtrace = if request[..length].starts_with(b"GET /message") { "0" } else { "1" };
        let worker = Command::new(&arguments[0])
            .args([&arguments[1], "work"])
            .env("RUST_BACKTRACE", backtrace)
            .output()
            .unwrap();
        let head = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\nConnection: close";
        write!(connection, "{head}\r\nContent-Length: {}\r\n\r\n", worker.stderr.len()).unwrap();
        connection.write_all(&worker.stderr).unwrap();
    }
}

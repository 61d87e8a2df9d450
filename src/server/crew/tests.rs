//! Workers that are made to end, and clients that must not notice for long.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::super::Server;
use super::super::worker::Break;
use super::*;
use crate::config::model::Config;

const PATIENCE: Duration = Duration::from_secs(20);
/// With so many connections no socket of a few is left out.
const MANY: usize = 64;

/// A configuration that needs no upstream: every other path is answered 404.
fn config(workers: usize, path: &str) -> Config {
    let text = format!(
        "workers: {workers}\nadmin: {{ address: off }}\nshutdown: {{ drain: 1s }}\n\
        listeners: [{{ address: '127.0.0.1:0' }}]\n\
        upstreams: {{ app: {{ endpoints: ['http://127.0.0.1:1'] }} }}\n\
        routes: [{{ path: {path}, upstream: app }}]\n"
    );
    crate::config::parse("test.yaml", &text, Path::new(".")).unwrap()
}

fn ask(address: SocketAddr, path: &str) -> TcpStream {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).unwrap();
    client
}

fn status(client: &mut TcpStream) -> String {
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn all_are_answered(running: &Running, path: &str, expected: &str) {
    let address = running.addresses()[0];
    for number in 0..MANY {
        assert_eq!(status(&mut ask(address, path)), expected, "connection {number}");
    }
}

fn restarts(running: &Running) -> String {
    let text = String::from_utf8(running.metrics().encode()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("seawall_worker_restarts_total "));
    line.unwrap().to_owned()
}

impl Running {
    /// Breaks a worker that has just begun, however long the test took until here.
    fn break_worker(&mut self, number: usize, how: Break) {
        self.break_worker_since(number, how, Instant::now());
    }

    fn break_worker_since(&mut self, number: usize, how: Break, since: Instant) {
        let worker = self.crew.posts[number].worker.as_mut().unwrap();
        worker.since = since;
        worker.orders.send(Order::Break(how)).ok().unwrap();
    }

    fn tended(&mut self, runtime: &Runtime) {
        runtime.block_on(async { timeout(PATIENCE, self.tend()).await.unwrap() });
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn worker_that_ends_early_is_replaced_and_counted() {
    for how in [Break::Panic, Break::Return, Break::Task] {
        for broken in [0, 1] {
            let runtime = runtime();
            let mut running = Server::start(config(2, "/app")).unwrap();
            assert_eq!(restarts(&running), "0");
            all_are_answered(&running, "/", "404");
            running.break_worker(broken, how);
            running.tended(&runtime);
            assert_eq!(restarts(&running), "1", "{how:?}");
            all_are_answered(&running, "/", "404");
            assert!(running.crew.posts[broken].worker.is_none(), "not before its pause is over");
            assert_eq!(running.listeners[0].sockets.iter().count(), 1, "its socket is closed");
            running.tended(&runtime);
            assert!(running.crew.posts[broken].worker.is_some());
            assert_eq!(running.listeners[0].sockets.iter().count(), 2);
            all_are_answered(&running, "/", "404");
            assert!(running.join(), "what ended before was told already");
        }
    }
}

#[test]
fn clients_wait_for_the_only_worker_to_be_replaced() {
    let runtime = runtime();
    let mut running = Server::start(config(1, "/app")).unwrap();
    for times in 1..=3 {
        running.break_worker(0, Break::Panic);
        running.tended(&runtime);
        let mut client = ask(running.addresses()[0], "/");
        running.tended(&runtime);
        assert_eq!(status(&mut client), "404");
        assert_eq!(restarts(&running), times.to_string());
    }
}

#[test]
fn steady_worker_is_replaced_at_once_and_its_queue_is_served() {
    let runtime = runtime();
    let mut running = Server::start(config(2, "/app")).unwrap();
    running.break_worker_since(1, Break::Panic, Instant::now().checked_sub(STEADY).unwrap());
    running.tended(&runtime);
    assert_eq!(running.listeners[0].sockets.iter().count(), 2, "nothing is closed");
    let address = running.addresses()[0];
    let mut clients: Vec<_> = (0..MANY).map(|_| ask(address, "/")).collect();
    running.tended(&runtime);
    clients.iter_mut().for_each(|client| assert_eq!(status(client), "404"));
}

#[test]
fn replaced_worker_follows_reloads() {
    let runtime = runtime();
    let mut running = Server::start(config(2, "/app")).unwrap();
    running.break_worker(0, Break::Panic);
    running.tended(&runtime);
    // Its place is vacant: nothing listens at the upstream, which is a 500.
    running.reload(config(2, "/next")).unwrap();
    all_are_answered(&running, "/next", "500");
    running.tended(&runtime);
    all_are_answered(&running, "/next", "500");
    running.reload(config(2, "/last")).unwrap();
    all_are_answered(&running, "/next", "404");
    all_are_answered(&running, "/last", "500");
}

#[test]
fn all_workers_may_end_and_come_back() {
    let runtime = runtime();
    let mut running = Server::start(config(3, "/app")).unwrap();
    (0..3).for_each(|number| running.break_worker(number, Break::Panic));
    let mut client = ask(running.addresses()[0], "/");
    while running.crew.posts.iter().any(|post| post.worker.is_none()) || restarts(&running) != "3" {
        running.tended(&runtime);
    }
    all_are_answered(&running, "/", "404");
    // It was at a socket that was closed, or it was answered.
    let _ = client.read_to_string(&mut String::new());
}

#[test]
fn listener_that_is_added_while_a_worker_is_missing_is_served() {
    let runtime = runtime();
    let mut running = Server::start(config(2, "/app")).unwrap();
    running.break_worker(1, Break::Panic);
    running.tended(&runtime);
    let mut next = config(2, "/app");
    next.listeners[0].address = "127.0.0.2:0".parse().unwrap();
    running.reload(next).unwrap();
    assert_eq!(running.listeners[0].sockets.iter().count(), 1);
    all_are_answered(&running, "/", "404");
    running.tended(&runtime);
    assert_eq!(running.listeners[0].sockets.iter().count(), 2);
    all_are_answered(&running, "/", "404");
}

#[test]
fn pauses_grow_and_are_bounded() {
    let millis: Vec<_> = (0..10).map(|early| pause(early).as_millis()).collect();
    assert_eq!(millis, [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    assert_eq!(pause(u32::MAX), LONGEST);
}

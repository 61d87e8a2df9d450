//! WebSocket load for seawall's benches: the clients and the upstream, in raw frames on epoll.

// Nothing here runs on tokio: the clock of the machine is meant.
#![allow(clippy::disallowed_types)]

mod client;
mod frame;
mod socket;
mod upstream;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "\
usage: wsload upstream ADDRESS                                           the app behind the proxy
       wsload hold     PROXY WEBSOCKETS SECONDS                          idle; then how they end
       wsload echo     PROXY WEBSOCKETS MESSAGES SIZE                    ping-pong
       wsload flood    PROXY WEBSOCKETS MESSAGES SIZE BATCH text|binary  one way, to the client";

fn run(arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    match arguments {
        ["upstream", address] => Ok(upstream::run(address.parse()?)?),
        ["hold", proxy, count, limit] => {
            client::hold(proxy.parse()?, count.parse()?, Duration::from_secs(limit.parse()?))
        }
        ["echo", proxy, connections, count, size] => {
            client::echo(proxy.parse()?, connections.parse()?, count.parse()?, size.parse()?)
        }
        ["flood", proxy, connections, count, size, batch, kind] => client::flood(
            proxy.parse()?,
            connections.parse()?,
            count.parse()?,
            size.parse()?,
            batch.parse()?,
            kind,
        ),
        _ => Err(USAGE.into()),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

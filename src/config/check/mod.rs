//! From the shape of a file to a configuration that can run: the only place that builds a
//! [`model::Config`] from text. Every problem is collected; nothing stops at the first.
//!
//! Defaults come from the model's own `Default`s, so that they are written once.

mod entrance;
mod failures;
mod listener;
mod network;
mod rehearsal;
mod reload;
mod rendering;
mod route;
mod survive;
mod tracing;
mod upstream;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub(super) use listener::parse_address;
pub(super) use upstream::parse_endpoint;

use super::diagnostic::Problem;
use super::model::{
    Admin, Clients, Config, Forwarded, Journal, Listener, Log, LogFormat, Shutdown, WebSocket,
};
use super::scope::{Found, Scope};
use crate::message::field;

/// Where relative paths in the file begin.
#[derive(Clone, Copy, Debug)]
pub struct Base<'p>(pub &'p Path);

/// Reads, or describes, everything. The result means something only if no problem was collected.
pub fn config(root: Scope<'_>, base: Base<'_>) -> Config {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = workers(&root, cores);
    let listeners = listener::listeners(&root, base);
    let admin = admin(&root, &listeners, base);
    let upstreams = upstream::upstreams(&root, base);
    let failures = failures::global(&root, base);
    let secret = rehearsal::secret(&root, base);
    let routes = route::routes(&root, &upstreams, &failures, secret.as_ref(), base);
    let mut websocket = websocket(&root);
    let clients = clients(&root);
    let forwarded = forwarded(&root);
    entrance::trust(&root, &listeners, &forwarded);
    let log = log(&root);
    let journal = journal(&root, base);
    let tracing = tracing::tracing(&root, base);
    let shutdown = shutdown(&root);
    let reload = reload::reload(&root);
    root.finish();
    // The last client that is told to go shall have time to answer.
    let most = shutdown.drain * 4 / 5;
    websocket.drain_spread = match websocket.loss_spread {
        Duration::ZERO => most,
        chosen => chosen.min(most),
    };
    Config {
        workers,
        listeners,
        admin,
        upstreams: upstreams.into_iter().map(|known| known.upstream).collect(),
        routes,
        websocket,
        clients,
        forwarded,
        log,
        journal,
        tracing,
        shutdown,
        reload,
    }
}

fn workers(root: &Scope<'_>, cores: usize) -> usize {
    let meaning = "Worker threads: `auto` is one per core.";
    let Some(found) = root.text("workers", "auto or a number from 1 to 256", Some("auto"), meaning)
    else {
        return cores;
    };
    match (&*found.value, found.value.parse()) {
        ("auto", _) => cores,
        (_, Ok(count @ 1..=256)) => count,
        _ => {
            wrong(root, "workers", &found, "write auto, or a number from 1 to 256");
            cores
        }
    }
}

fn admin(root: &Scope<'_>, listeners: &[Listener], base: Base<'_>) -> Admin {
    let section = root.section("admin", "Where operators connect.");
    let meaning = "The operators' address, or `off`. On any but loopback `token_file` is required.";
    let default = "127.0.0.1:9900";
    let found = section.text("address", listener::ADDRESS, Some(default), meaning);
    let span = found.as_ref().map_or(section.span(), |found| found.span);
    let address = match found {
        None => default.parse().ok(),
        Some(found) if matches!(&*found.value, "off" | "false") => None,
        Some(found) => listener::address(&section, "address", &found),
    };
    let taken = |address: &SocketAddr| {
        address.port() != 0 && listeners.iter().any(|known| known.address == *address)
    };
    if let Some(address) = address.filter(taken) {
        let problem = Problem::new(span, &format!("{address} is a listener's address already"));
        section.problem(problem.remedy("give operators an address of their own, or `off`"));
    }
    let token = entrance::token(&section, address, base);
    let hosts = entrance::hosts(&section);
    section.finish();
    Admin { address, token, hosts }
}

fn websocket(root: &Scope<'_>) -> WebSocket {
    let section = root.section("websocket", "How WebSockets are relayed.");
    let d = WebSocket::default();
    let websocket = WebSocket {
        ping_interval: section.wait(
            "ping_interval",
            d.ping_interval,
            "A side that is silent for so long is pinged.",
        ),
        pong_timeout: section.wait("pong_timeout", d.pong_timeout, "How long a pong may take."),
        close_timeout: section.wait(
            "close_timeout",
            d.close_timeout,
            "How long each side has to answer a Close.",
        ),
        write_timeout: section.wait(
            "write_timeout",
            d.write_timeout,
            "How long a side may refuse to read what it is sent.",
        ),
        max_frame: section.size(
            "max_frame",
            d.max_frame,
            125,
            "The largest frame, either direction.",
        ),
        hold: to_usize(section.size(
            "hold",
            d.hold as u64,
            125,
            "Frames up to this size reach the client whole, longer ones as fragments.",
        )),
        read: to_usize(section.size(
            "read",
            d.read as u64,
            4096,
            "What is read at a time, and the most that waits for a side that does not read.",
        )),
        idle_timeout: section.duration(
            "idle_timeout",
            d.idle_timeout,
            "A WebSocket that carries no message for so long is closed with 1001; 0s is never.",
        ),
        loss_spread: section.duration(
            "close_spread",
            d.loss_spread,
            "Closes are spread over this time when an upstream fails, or at a drain; at 0s a failure is told at once, and a drain takes four fifths of shutdown.drain.",
        ),
        drain_spread: d.drain_spread,
    };
    section.finish();
    websocket
}

/// The largest window of HTTP/2 (RFC 9113 §6.9.1).
const LARGEST_WINDOW: u32 = (1 << 31) - 1;

fn clients(root: &Scope<'_>) -> Clients {
    let section = root.section("clients", "Limits towards clients.");
    let d = Clients::default();
    let clients = Clients {
        handshake_timeout: section.wait(
            "handshake_timeout",
            d.handshake_timeout,
            "How long a TLS handshake may take, and a PROXY protocol header before it.",
        ),
        head_timeout: section.wait(
            "head_timeout",
            d.head_timeout,
            "How long a request head may take, and how long an idle connection is kept.",
        ),
        body_timeout: section.wait(
            "body_timeout",
            d.body_timeout,
            "How long request content may stand still.",
        ),
        body_rate: section.integer(
            "body_rate",
            d.body_rate,
            (0, 1_000_000_000),
            "The fewest bytes a second, on average, of request content with a length, after `body_timeout`; slower content is answered 408. 0 is no limit.",
        ),
        write_timeout: section.wait(
            "write_timeout",
            d.write_timeout,
            "How long a client may refuse to read its response.",
        ),
        head_bytes: to_usize(section.size(
            "head",
            d.head_bytes as u64,
            8192,
            "The largest request head.",
        )),
        target_bytes: to_usize(section.size(
            "target",
            d.target_bytes as u64,
            64,
            "The longest request target; a longer one is answered 414.",
        )),
        fields: to_usize(section.integer(
            "fields",
            d.fields as u64,
            (8, 10_000),
            "The most field lines of a request head.",
        )),
        connections: to_usize(section.integer(
            "connections",
            d.connections as u64,
            (1, 10_000_000),
            "The most connections per worker; one more is answered 503.",
        )),
        per_address: to_usize(section.integer(
            "per_address",
            d.per_address as u64,
            (1, 10_000_000),
            "The most connections of one address per worker, unless it is in `forwarded.trusted`; one more is answered 503. Of IPv6 the /64 counts as one address.",
        )),
        requests_per_connection: section.integer(
            "requests_per_connection",
            d.requests_per_connection,
            (1, 1_000_000_000),
            "A connection closes in order after so many requests.",
        ),
        streams: u32::try_from(section.integer(
            "streams",
            u64::from(d.streams),
            (1, 65_535),
            "The most concurrent streams of an HTTP/2 connection.",
        ))
        .unwrap_or(d.streams),
        stream_window: u32::try_from(section.size(
            "stream_window",
            u64::from(d.stream_window),
            16 << 10,
            "How much request content waits for an upstream, per stream of an HTTP/2 connection.",
        ))
        .map_or(LARGEST_WINDOW, |window| window.min(LARGEST_WINDOW)),
        stream_buffer: to_usize(section.size(
            "stream_buffer",
            d.stream_buffer as u64,
            16 << 10,
            "How much of a response waits for a client, per stream of an HTTP/2 connection.",
        )),
    };
    section.finish();
    clients
}

fn forwarded(root: &Scope<'_>) -> Forwarded {
    let section = root.section("forwarded", "What upstreams are told about a client, and by whom.");
    let meaning = "Proxies in front of seawall: their X-Forwarded-*, Forwarded, X-Real-IP and X-Request-Id are kept and appended to, and other proxies' identity fields pass; everybody else's are replaced or removed.";
    let mut trusted = Vec::new();
    for found in section.texts("trusted", "address or network, such as 10.0.0.0/8", false, meaning)
    {
        let network = found.value.parse();
        let address = || found.value.parse::<std::net::IpAddr>().map(ipnet::IpNet::from);
        match network.or_else(|_: ipnet::AddrParseError| address()) {
            Ok(network) => trusted.push(network),
            Err(_) => {
                wrong(&section, "trusted", &found, "write 10.0.0.0/8, 192.168.1.1 or fd00::/8")
            }
        }
    }
    let meaning = "What seawall calls itself in Via: a request that has come past this name too often (`max_passes`) is a loop. If not set, a name made at start.";
    let mut name = None;
    if let Some(found) = section.text("name", "name", None, meaning) {
        match plain_name(&found.value) {
            Some(plain) => name = Some((&*plain).into()),
            None => wrong(&section, "name", &found, "write 1 to 64 letters, digits, -, _ or ."),
        }
    }
    let meaning = "Fields of other proxies that pass whoever sends them, such as CF-Connecting-IP: who a client is (from strangers removed otherwise), or where a request goes, such as X-Original-URL (removed from everybody otherwise).";
    let mut keep = Vec::new();
    for found in section.texts("keep", "field name", false, meaning) {
        let name = http::HeaderName::from_bytes(found.value.as_bytes()).ok();
        let keepable = name.as_ref().and_then(|name| field::is_keepable(name.as_str().as_bytes()));
        match (name, keepable) {
            (Some(name), Some(true)) => keep.push(name),
            (Some(_), Some(false)) => {
                let remedy = "seawall sets or needs it itself; proxies that may say who a client is belong into `trusted`";
                wrong(&section, "keep", &found, remedy);
            }
            (Some(_), None) => {
                wrong(
                    &section,
                    "keep",
                    &found,
                    "no rule removes it: it passes without being named",
                );
            }
            (None, _) => {
                wrong(&section, "keep", &found, "write a field name such as CF-Connecting-IP");
            }
        }
    }
    let max_passes = usize::try_from(section.integer(
        "max_passes",
        Forwarded::default().max_passes as u64,
        (1, 1000),
        "How often a request may have come past this seawall already; one that has come oftener is a loop.",
    ));
    let max_passes = max_passes.unwrap_or(Forwarded::default().max_passes);
    section.finish();
    Forwarded { trusted, name, keep, max_passes }
}

fn log(root: &Scope<'_>) -> Log {
    let section = root.section("log", "What the log looks like; it goes to stderr.");
    let d = Log::default();
    let format =
        match section.word("format", &["json", "human"], 0, "JSON lines, or lines for people.") {
            0 => LogFormat::Json,
            _ => LogFormat::Human,
        };
    let filter = "level, or a tracing filter such as info,seawall=debug";
    let found = section.text("filter", filter, Some(&d.filter), "What is logged.");
    if let Some(found) = &found
        && found.value.parse::<tracing_subscriber::filter::Targets>().is_err()
    {
        wrong(&section, "filter", found, "write error, warn, info, debug or TARGET=LEVEL,…");
    }
    let access = section.bool("access", d.access, "One line per request.");
    section.finish();
    Log { format, filter: found.map_or(d.filter, |found| found.value), access }
}

fn journal(root: &Scope<'_>, base: Base<'_>) -> Journal {
    let section = root.section("journal", "The failure journal behind /failures.");
    let d = Journal::default();
    let meaning = "How many failures are remembered; each takes at most 12 KiB.";
    let entries = section.integer("entries", d.entries as u64, (0, 1_000_000), meaning);
    let meaning = "The file that failures are written to, a JSON object a line; those in it are remembered after a restart. None if not set.";
    let file = section.text("file", "file", None, meaning);
    let meaning = "How large the file may grow before it is renamed to .1.";
    let file_bytes = section.size("file_size", d.file_bytes, 64 * 1024, meaning);
    let meaning = "How many files there are in all, the renamed ones included.";
    let files = section.integer("files", d.files as u64, (1, 100), meaning);
    section.finish();
    Journal {
        entries: to_usize(entries),
        file: file.map(|file| base.0.join(&file.value)),
        file_bytes,
        files: to_usize(files),
    }
}

fn shutdown(root: &Scope<'_>) -> Shutdown {
    let section = root.section("shutdown", "How the process ends.");
    let meaning = "How long requests and WebSockets have to finish.";
    let drain: Duration = section.duration("drain", Shutdown::default().drain, meaning);
    section.finish();
    Shutdown { drain }
}

/// Reports a value that has the right shape and is wrong all the same.
fn wrong(scope: &Scope<'_>, key: &str, found: &Found<String>, remedy: &str) {
    let message = format!("`{key}` cannot be {:?}", found.value);
    scope.problem(Problem::new(found.span, &message).remedy(remedy));
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Names become labels and go into logs: short and plain.
fn plain_name(name: &str) -> Option<Arc<str>> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    ((1..=64).contains(&name.len()) && name.chars().all(plain)).then(|| name.into())
}

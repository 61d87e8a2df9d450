//! Names to addresses, without a thread: the system's files and servers, or servers that are given.
//!
//! Each question reads `resolv.conf` and `hosts` anew, so that a file that was missing or has changed
//! is used from the next question on. Dropping a question ends all that it has begun: no socket, no
//! task and no thread outlives it, and nothing delays the end of the process.
//!
//! The order is that of the system's own resolver: `hosts`, then DNS with the search list of
//! `resolv.conf` (`ndots`, `search`, `domain`), one server after the other, until one of them knows.
//! [`name::Name`] keeps answers for those who connect again and again.

mod hosts;
pub mod name;

use std::env;
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name as DnsName, RData, Record, RecordType};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout};

/// The families of addresses that are asked for.
pub const FAMILIES: [RecordType; 2] = [RecordType::A, RecordType::AAAA];
/// How long what stands in `hosts` holds.
const HOSTS_TTL: Duration = Duration::from_secs(5);
/// The most of a file that is read.
const MOST_READ: u64 = 16 * 1024 * 1024;
/// The most servers of `resolv.conf` that are asked, as in the C library.
const MOST_SERVERS: usize = 3;
/// The most aliases that lead from a name to its records.
const MOST_ALIASES: usize = 16;

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum Silence {
    /// None came in time.
    Timeout,
    /// The question failed.
    Error(NetError),
    /// An answer without a record that could be used.
    Empty,
}

impl Silence {
    /// Returns `true` if time ran out.
    #[must_use]
    pub fn is_late(&self) -> bool {
        matches!(self, Silence::Timeout | Silence::Error(NetError::Timeout))
    }
}

impl std::fmt::Display for Silence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Silence::Timeout => f.write_str("no answer in time"),
            Silence::Error(error) => error.fmt(f),
            Silence::Empty => f.write_str("there is no such name, or no address"),
        }
    }
}

impl std::error::Error for Silence {}

/// The answer to one question: addresses, which may be none, and how long they hold.
pub type Told = Result<(Vec<IpAddr>, Duration), Silence>;

/// A source of answers.
#[derive(Clone, Debug)]
pub struct Resolver(Source);

#[derive(Clone, Debug)]
enum Source {
    /// These files say what is known and which servers are asked.
    System { resolv_conf: PathBuf, hosts: PathBuf },
    /// These servers, one after the other; names are whole as they are.
    Servers(Vec<SocketAddr>),
    /// The answers of a test.
    #[cfg(test)]
    Scripted(tests::Script),
}

/// Servers to ask, and the names to ask them for.
struct Asking {
    servers: Vec<TokioResolver>,
    names: Vec<DnsName>,
}

impl Resolver {
    /// Returns the resolver that asks these servers, or the system's if there are none.
    #[must_use]
    pub fn of(servers: &[SocketAddr]) -> Self {
        if servers.is_empty() {
            return Resolver::with_files("/etc/resolv.conf", "/etc/hosts");
        }
        Resolver(Source::Servers(servers.to_vec()))
    }

    /// Returns the resolver that does as these files say.
    #[must_use]
    pub fn with_files(resolv_conf: impl Into<PathBuf>, hosts: impl Into<PathBuf>) -> Self {
        Resolver(Source::System { resolv_conf: resolv_conf.into(), hosts: hosts.into() })
    }

    /// Asks for the addresses of both families, for no longer than `limit`.
    pub async fn addresses(&self, name: &str, limit: Duration) -> [Told; 2] {
        #[cfg(test)]
        if let Source::Scripted(script) = &self.0 {
            return script.next().await;
        }
        let deadline = Instant::now() + limit;
        if let Some(known) = self.known_without_asking(name) {
            return known;
        }
        let Asking { servers, names } = match self.prepare(name, limit) {
            Ok(asking) => asking,
            Err(silence) => return [Err(silence.clone()), Err(silence)],
        };
        let mut last = [Err(Silence::Empty), Err(Silence::Empty)];
        for name in &names {
            let left = deadline.saturating_duration_since(Instant::now());
            let told = families(&servers, name, left).await;
            let is_found = |told: &Told| told.as_ref().is_ok_and(|(found, _)| !found.is_empty());
            if told.iter().any(is_found) {
                return told;
            }
            // The next name of the search list would meet the same silence.
            if told.iter().all(|told| told.as_ref().is_err_and(Silence::is_late)) {
                return told;
            }
            // A server that fails has not said that there is no such name.
            if told.iter().any(|told| !matches!(told, Err(Silence::Empty))) {
                last = told;
            }
        }
        last
    }

    /// Asks for the SRV records of the name, for no longer than `limit`.
    ///
    /// # Errors
    /// If no server answers, or if there are none.
    pub async fn services(&self, name: &str, limit: Duration) -> Result<Vec<Record>, Silence> {
        let Asking { servers, names } = self.prepare(name, limit)?;
        let asking = async {
            let mut last = Silence::Empty;
            for name in &names {
                match question(&servers, name, RecordType::SRV).await {
                    Ok(records) if !records.is_empty() => return Ok(records),
                    Ok(_) | Err(Silence::Empty) => {}
                    Err(silence) if silence.is_late() => return Err(silence),
                    Err(silence) => last = silence,
                }
            }
            Err(last)
        };
        timeout(limit, asking).await.unwrap_or(Err(Silence::Timeout))
    }

    /// What no server has to be asked for: `hosts`, loopback, and names that never exist (RFC 6761
    /// §6.3, §6.4).
    fn known_without_asking(&self, name: &str) -> Option<[Told; 2]> {
        if let Source::System { hosts, .. } = &self.0
            && let Some(found) = read(hosts).ok().and_then(|text| hosts::find(&text, name))
        {
            let (six, four) = found.into_iter().partition(IpAddr::is_ipv6);
            return Some([Ok((four, HOSTS_TTL)), Ok((six, HOSTS_TTL))]);
        }
        let plain = name.strip_suffix('.').unwrap_or(name);
        let last = plain.rsplit('.').next().unwrap_or(plain);
        if last.eq_ignore_ascii_case("invalid") {
            return Some([Err(Silence::Empty), Err(Silence::Empty)]);
        }
        last.eq_ignore_ascii_case("localhost").then(|| {
            let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            loopback.map(|address| Ok((vec![address], HOSTS_TTL)))
        })
    }

    fn prepare(&self, name: &str, limit: Duration) -> Result<Asking, Silence> {
        let error = |error: NetError| Silence::Error(error);
        // ASCII as it is: names with an underscore anywhere exist, whatever RFC 1123 says of hosts.
        let whole = DnsName::from_ascii(name).map_err(|wrong| error(wrong.into()))?;
        let (servers, names) = match &self.0 {
            Source::Servers(servers) => {
                let mut whole = whole;
                whole.set_fqdn(true);
                (servers.clone(), vec![whole])
            }
            #[cfg(test)]
            Source::Scripted(_) => return Err(Silence::Empty),
            Source::System { resolv_conf, .. } => {
                let (config, options) = system(resolv_conf).map_err(error)?;
                let names = searched(whole, &config, options.ndots);
                let servers = config.name_servers().iter().map(|server| {
                    let port = server.connections.first().map_or(53, |way| way.port);
                    SocketAddr::new(server.ip, port)
                });
                (servers.take(MOST_SERVERS).collect::<Vec<_>>(), names)
            }
        };
        let count = u32::try_from(servers.len().max(1)).unwrap_or(u32::MAX);
        // All attempts of all servers fit into the time of one question.
        let attempts = if count == 1 { 2 } else { 1 };
        let each = limit * 2 / 3 / count / attempts;
        let servers = servers.iter().map(|server| one(*server, each, attempts));
        let servers = servers.collect::<Result<_, _>>().map_err(error)?;
        Ok(Asking { servers, names })
    }
}

/// Asks this server alone, which has `each` for an attempt.
fn one(server: SocketAddr, each: Duration, attempts: u32) -> Result<TokioResolver, NetError> {
    let ways = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut way| {
        way.port = server.port();
        way
    });
    let server = NameServerConfig::new(server.ip(), true, ways.into());
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let provider = TokioRuntimeProvider::default();
    let mut builder = TokioResolver::builder_with_config(config, provider);
    let options = builder.options_mut();
    // A question is asked when its answer is needed, and then it shall leave.
    options.cache_size = 0;
    // The aliases say which records belong to the name.
    options.preserve_intermediates = true;
    options.use_hosts_file = ResolveHosts::Never;
    // These are further ones.
    options.attempts = attempts as usize - 1;
    options.timeout = each;
    builder.build()
}

/// Reads what the system says: `resolv.conf`, and the variables that change it (resolv.conf(5)).
#[cfg(all(unix, not(any(target_os = "android", target_vendor = "apple"))))]
fn system(resolv_conf: &Path) -> Result<(ResolverConfig, ResolverOpts), NetError> {
    use hickory_resolver::system_conf::parse_resolv_conf;
    let mut text = match read(resolv_conf) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    for (variable, keyword) in [("LOCALDOMAIN", "search"), ("RES_OPTIONS", "options")] {
        if let Ok(value) = env::var(variable) {
            text.push_str(&format!("\n{keyword} {value}\n"));
        }
    }
    let text = without_malformed_domains(&text);
    // Without a server in it, or without the file, the one on this machine is asked.
    parse_resolv_conf(&text)
        .or_else(|_| parse_resolv_conf(format!("{text}\nnameserver 127.0.0.1\n")))
}

/// Leaves out the search domains that are no names. They can be found nowhere, and are no reason to
/// find nothing.
#[cfg(all(unix, not(any(target_os = "android", target_vendor = "apple"))))]
fn without_malformed_domains(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    for line in text.lines() {
        match line.split_ascii_whitespace().next() {
            Some("search") => {
                let words = line.split_ascii_whitespace();
                words.filter(|word| DnsName::from_str_relaxed(word).is_ok()).for_each(|word| {
                    kept.push_str(word);
                    kept.push(' ');
                });
            }
            _ => kept.push_str(line),
        }
        kept.push('\n');
    }
    kept
}

/// Reads what the system says.
#[cfg(not(all(unix, not(any(target_os = "android", target_vendor = "apple")))))]
fn system(_: &Path) -> Result<(ResolverConfig, ResolverOpts), NetError> {
    hickory_resolver::system_conf::read_system_conf()
}

/// Reads the beginning of a file, which is all of it unless it is of an absurd size.
fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_READ).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the names that are asked for, one after the other (resolv.conf(5), `search`, `ndots`).
fn searched(name: DnsName, config: &ResolverConfig, ndots: usize) -> Vec<DnsName> {
    if name.is_fqdn() {
        return vec![name];
    }
    let as_it_is = || {
        let mut whole = name.clone();
        whole.set_fqdn(true);
        whole
    };
    let domains = match config.search() {
        [] => config.domain().map(std::slice::from_ref).unwrap_or_default(),
        search => search,
    };
    let below = domains.iter().filter_map(|domain| {
        let mut whole = name.clone().append_domain(domain).ok()?;
        whole.set_fqdn(true);
        Some(whole)
    });
    let has_dots = usize::from(name.num_labels()) > ndots;
    let first = has_dots.then(as_it_is);
    let last = (!has_dots).then(as_it_is);
    let mut names: Vec<DnsName> = Vec::new();
    for name in first.into_iter().chain(below).chain(last) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Reads an IPv4 address in the forms that inet_aton(3) takes, and that connecting always took:
/// `127.1`, `0x7f000001`.
#[must_use]
pub fn ipv4_of(text: &str) -> Option<Ipv4Addr> {
    let parts = text.split('.').map(|part| {
        let lower = part.to_ascii_lowercase();
        let (digits, radix) = match (lower.strip_prefix("0x"), lower.strip_prefix('0')) {
            (Some(digits), _) => (digits, 16),
            (None, Some(digits)) if !digits.is_empty() => (digits, 8),
            _ => (&*lower, 10),
        };
        digits.bytes().next().filter(u8::is_ascii_hexdigit)?;
        u32::from_str_radix(digits, radix).ok()
    });
    let parts: Vec<u32> = parts.collect::<Option<_>>()?;
    let (last, leading) = parts.split_last()?;
    let mut number: u32 = 0;
    for (part, shift) in leading.iter().zip([24, 16, 8]) {
        number |= u32::from(u8::try_from(*part).ok()?) << shift;
    }
    let bits =
        32_u32.checked_sub(8 * u32::try_from(leading.len()).ok()?).filter(|bits| *bits > 0)?;
    (u64::from(*last) < 1 << bits).then(|| Ipv4Addr::from(number | last))
}

/// Asks for the addresses of both families at once. When one has brought some, the other one has a
/// moment left: a resolver that knows nothing of it shall not keep anybody waiting (RFC 8305 §3).
async fn families(servers: &[TokioResolver], name: &DnsName, limit: Duration) -> [Told; 2] {
    let ask = async |family| {
        let records = question(servers, name, family).await?;
        let ttl = ttl_of(&records);
        let addresses = records.iter().filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::from(address.0)),
            RData::AAAA(address) => Some(IpAddr::from(address.0)),
            _ => None,
        });
        Ok((addresses.collect(), ttl))
    };
    let (four, six) = (pin!(ask(RecordType::A)), pin!(ask(RecordType::AAAA)));
    let left = |first: &Told| match first {
        Ok((found, _)) if !found.is_empty() => limit / 4,
        Ok(_) | Err(_) => limit / 2,
    };
    let late = |told: Result<Told, Elapsed>| told.unwrap_or(Err(Silence::Timeout));
    match timeout(limit * 3 / 4, select(four, six)).await {
        Err(_) => [Err(Silence::Timeout), Err(Silence::Timeout)],
        // There is no such name, in any family (RFC 8020). That AAAA is answered so says less: some
        // servers do it for whatever has no IPv6 (RFC 4074 §4.2).
        Ok(Either::Left((Err(Silence::Empty), _))) => [Err(Silence::Empty), Err(Silence::Empty)],
        Ok(Either::Left((four, six))) => {
            let six = late(timeout(left(&four), six).await);
            [four, six]
        }
        Ok(Either::Right((six, four))) => {
            let four = late(timeout(left(&six), four).await);
            [four, six]
        }
    }
}

/// Which of two futures was first, with the other one.
enum Either<A, B> {
    Left(A),
    Right(B),
}

async fn select<'f, T, A, B>(
    mut one: Pin<&'f mut A>,
    mut other: Pin<&'f mut B>,
) -> Either<(T, Pin<&'f mut B>), (T, Pin<&'f mut A>)>
where
    A: Future<Output = T>,
    B: Future<Output = T>,
{
    let first = poll_fn(|cx| {
        if let Poll::Ready(output) = one.as_mut().poll(cx) {
            return Poll::Ready(Either::Left(output));
        }
        other.as_mut().poll(cx).map(Either::Right)
    });
    match first.await {
        Either::Left(output) => Either::Left((output, other)),
        Either::Right(output) => Either::Right((output, one)),
    }
}

/// Asks one server after the other, until one of them knows. That there are no such records is
/// knowledge.
async fn question(
    servers: &[TokioResolver],
    name: &DnsName,
    records: RecordType,
) -> Result<Vec<Record>, Silence> {
    let mut last = Silence::Empty;
    for server in servers {
        match server.lookup(name.clone(), records).await {
            Ok(answer) => return Ok(answering(name, records, answer.answers())),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
                ResponseCode::NoError => return Ok(Vec::new()),
                // No such name.
                ResponseCode::NXDomain => return Err(Silence::Empty),
                _ => last = Silence::Error(DnsError::NoRecordsFound(none).into()),
            },
            Err(error) => last = Silence::Error(error),
        }
    }
    Err(last)
}

/// Returns the records that answer the question: those of this type that belong to the name or to one
/// that its aliases lead to, and the aliases. Whatever else a server says was not asked for.
fn answering(name: &DnsName, kind: RecordType, told: &[Record]) -> Vec<Record> {
    let mut names = vec![name];
    let mut answering = Vec::new();
    while names.len() <= MOST_ALIASES
        && let Some(last) = names.last()
    {
        let alias = told.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == **last => Some((record, &target.0)),
            _ => None,
        });
        match alias {
            Some((record, target)) if !names.contains(&target) => {
                answering.push(record.clone());
                names.push(target);
            }
            Some(_) | None => break,
        }
    }
    let asked = told.iter().filter(|record| record.record_type() == kind);
    answering.extend(asked.filter(|record| names.contains(&&record.name)).cloned());
    answering
}

/// Returns how long these records hold, those of the names between included.
#[must_use]
pub fn ttl_of(records: &[Record]) -> Duration {
    let least = records.iter().map(|record| record.ttl).min();
    Duration::from_secs(u64::from(least.unwrap_or_default()))
}

#[cfg(test)]
mod tests;

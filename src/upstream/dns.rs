//! Endpoints from DNS: the addresses of a name, or its SRV records, asked again as their TTL says.
//!
//! One task per upstream, on one worker; all workers see its findings through [`Shared`].
//!
//! | the resolver | the endpoints |
//! | --- | --- |
//! | answers | those of the answer; others are drained |
//! | fails, is silent, or knows no such name | the last good ones; asked again soon, then less often |
//! | fails for one family or one target | for that one the last good ones |
//! | has never answered | none: requests wait for it for a moment, then fail with `dns_error` or `dns_timeout` |
//!
//! A name that is not there is no order to send everybody away: a resolver that has lost a zone
//! answers just so.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use hickory_resolver::{ResolverBuilder, TokioResolver};
use tokio::task::JoinSet;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout};

use super::{Shared, ejection};
use crate::config::model::{Dns, Endpoint, Records, Scheme};
use crate::failure::Kind;

/// The most endpoints that an answer may bring.
const MOST: usize = 512;
/// How many targets of SRV are asked for at a time.
const AT_A_TIME: usize = 16;
/// The most weight of an endpoint, as in a list of endpoints.
const MOST_WEIGHT: u32 = 100;

/// What DNS says of an upstream.
#[derive(Debug)]
struct Answer {
    found: Vec<Found>,
    ttl: Duration,
    /// A part of it is what was known before, because this question failed.
    trouble: Option<Silence>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    address: IpAddr,
    port: u16,
    weight: u32,
}

/// Why there is no answer.
#[derive(Debug)]
enum Silence {
    Timeout,
    Error(NetError),
    /// An answer without a record that could be used.
    Empty,
}

impl Silence {
    fn kind(&self) -> Kind {
        match self {
            Silence::Timeout | Silence::Error(NetError::Timeout) => Kind::DnsTimeout,
            Silence::Error(_) | Silence::Empty => Kind::DnsError,
        }
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

/// Keeps the endpoints of this upstream as DNS says, for ever.
pub async fn follow(shared: Arc<Shared>) {
    let Some(dns) = shared.settings.dns.clone() else { return };
    let limit = shared.settings.timeouts.resolve;
    let resolvers = match resolvers(&dns, limit) {
        Ok(resolvers) => resolvers,
        Err(error) => {
            let upstream = &*shared.settings.name;
            tracing::error!(upstream, %error, "the system's resolvers cannot be used; set dns.servers");
            shared.unresolved(Kind::DnsError);
            return;
        }
    };
    let mut asker = Asker { dns: dns.clone(), resolvers, limit, known: Known::default() };
    follow_with(&shared, &dns, async || asker.ask().await).await;
}

async fn follow_with(
    shared: &Shared,
    dns: &Dns,
    mut ask: impl AsyncFnMut() -> Result<Answer, Silence>,
) {
    let limit = shared.settings.timeouts.resolve;
    let upstream = &*shared.settings.name;
    let mut pause = dns.least;
    loop {
        let asked = timeout(limit, ask()).await.unwrap_or(Err(Silence::Timeout));
        let whole = matches!(&asked, Ok(Answer { trouble: None, .. }));
        shared.metrics.looked_up(whole);
        let wait = match asked {
            Ok(Answer { found, ttl, trouble }) => {
                pause = dns.least;
                if let Some(silence) = trouble {
                    tracing::warn!(upstream, name = &*dns.name, %silence, "DNS answers in part; the last good answer is kept for the rest");
                }
                if found.len() > MOST {
                    tracing::warn!(
                        upstream,
                        found = found.len(),
                        used = MOST,
                        "DNS names more endpoints than are used"
                    );
                }
                let endpoints = endpoints(dns, found);
                let count = endpoints.len();
                match shared.replace(endpoints) {
                    Ok(true) => tracing::info!(upstream, count, "DNS has changed the endpoints"),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::error!(upstream, %error, "the endpoints of DNS cannot be used");
                    }
                }
                shared.resolved();
                ttl.clamp(dns.least, dns.most)
            }
            Err(silence) => {
                tracing::warn!(upstream, name = &*dns.name, %silence, "DNS does not answer; the last good answer is kept");
                shared.unresolved(silence.kind());
                let wait = pause;
                pause = (pause * 2).min(dns.most);
                wait
            }
        };
        // Not all seawalls at the same moment.
        sleep(wait + ejection::jitter(wait / 10)).await;
    }
}

/// The endpoints, in an order that does not change when DNS turns its answers round.
fn endpoints(dns: &Dns, mut found: Vec<Found>) -> Vec<Endpoint> {
    found.sort();
    found.dedup_by(|a, b| (a.address, a.port) == (b.address, b.port));
    found.truncate(MOST);
    let endpoint = |Found { address, port, weight }: Found| {
        let scheme = match dns.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        let label = format!("{scheme}://{}", std::net::SocketAddr::new(address, port));
        Endpoint {
            label: label.into(),
            scheme: dns.scheme,
            host: address.to_string().into(),
            port,
            // Not the target of an SRV record: DNS says where, not as what (RFC 9525 §6.1).
            name: Arc::clone(&dns.identity),
            weight,
        }
    };
    found.into_iter().map(endpoint).collect()
}

/// Whom to ask: the configured servers, one after the other, or the system's resolvers as one.
fn resolvers(dns: &Dns, limit: Duration) -> Result<Vec<TokioResolver>, NetError> {
    let count = u32::try_from(dns.servers.len().max(1)).unwrap_or(u32::MAX);
    // All attempts of all servers fit into the time of one question.
    let attempts = if count == 1 { 2 } else { 1 };
    let each = limit * 2 / 3 / count / attempts;
    let build = |mut builder: ResolverBuilder<TokioRuntimeProvider>| {
        let options = builder.options_mut();
        // The TTL decides when to ask again, and then the question shall leave.
        options.cache_size = 0;
        // These are further ones.
        options.attempts = attempts as usize - 1;
        options.timeout = each;
        builder.build()
    };
    if dns.servers.is_empty() {
        return Ok(vec![build(TokioResolver::builder_tokio()?)?]);
    }
    let resolver = |server: &SocketAddr| {
        let ways = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut way| {
            way.port = server.port();
            way
        });
        let server = NameServerConfig::new(server.ip(), true, ways.into());
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        build(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
    };
    dns.servers.iter().map(resolver).collect()
}

/// Asks for the endpoints of an upstream, and remembers what it was told.
#[derive(Debug)]
struct Asker {
    dns: Dns,
    resolvers: Vec<TokioResolver>,
    limit: Duration,
    known: Known,
}

/// The last good answer to each question for an address.
#[derive(Debug, Default)]
struct Known(HashMap<(String, RecordType), Vec<IpAddr>>);

/// What one question brought: addresses, which may be none, and for how long they hold.
type Told = Result<(Vec<IpAddr>, Duration), Silence>;

const FAMILIES: [RecordType; 2] = [RecordType::A, RecordType::AAAA];

impl Asker {
    async fn ask(&mut self) -> Result<Answer, Silence> {
        let answer = match self.dns.records {
            Records::Addresses => {
                let name = self.dns.name.to_string();
                let told = families(&self.resolvers, &name, self.limit).await;
                let (addresses, ttl, trouble) = self.known.merge(&name, told)?;
                let found = addresses.into_iter().map(|address| Found {
                    address,
                    port: self.dns.port,
                    weight: 1,
                });
                Answer { found: found.collect(), ttl, trouble }
            }
            Records::Services => self.services().await?,
        };
        if answer.found.is_empty() { Err(Silence::Empty) } else { Ok(answer) }
    }

    /// RFC 2782: of the targets with the lowest priority number, each by its weight.
    async fn services(&mut self) -> Result<Answer, Silence> {
        let limit = self.limit / 2;
        let question = question(&self.resolvers, &self.dns.name, RecordType::SRV);
        let records = timeout(limit, question).await.unwrap_or(Err(Silence::Timeout))?;
        let ttl = ttl_of(&records);
        let mut by_priority: BTreeMap<u16, Vec<(String, u16, u16)>> = BTreeMap::new();
        for record in &records {
            let RData::SRV(service) = &record.data else { continue };
            // A target of "." says that the service is not there.
            if !service.target.is_root() {
                let target = (service.target.to_utf8(), service.port, service.weight);
                by_priority.entry(service.priority).or_default().push(target);
            }
        }
        let Some((_, mut targets)) = by_priority.pop_first() else { return Err(Silence::Empty) };
        // The heaviest, should there be more than can be.
        targets.sort_by_key(|(_, _, weight)| Reverse(*weight));
        targets.truncate(MOST);
        let told = self.all_families(targets.iter().map(|(name, ..)| name.clone()), limit).await;
        self.known.forget_others(&told);
        let heaviest = targets.iter().map(|(.., weight)| *weight).max().unwrap_or_default();
        let mut answer = Answer { found: Vec::new(), ttl, trouble: None };
        let mut merged = HashMap::new();
        for (name, told) in told {
            // One without an address is no reason to leave the others.
            match self.known.merge(&name, told) {
                Ok((addresses, ttl, trouble)) => {
                    answer.ttl = answer.ttl.min(ttl);
                    answer.trouble = answer.trouble.or(trouble);
                    merged.insert(name, addresses);
                }
                Err(Silence::Empty) => {}
                Err(silence) => answer.trouble = answer.trouble.or(Some(silence)),
            }
        }
        for (target, port, weight) in targets {
            let weight = scaled(weight, heaviest);
            let addresses = merged.get(&target).into_iter().flatten();
            answer.found.extend(addresses.map(|address| Found { address: *address, port, weight }));
        }
        match answer.trouble.take() {
            Some(silence) if answer.found.is_empty() => Err(silence),
            trouble => Ok(Answer { trouble, ..answer }),
        }
    }

    /// Both families of all these names, some of them at a time.
    async fn all_families(
        &self,
        names: impl Iterator<Item = String>,
        limit: Duration,
    ) -> HashMap<String, [Told; 2]> {
        let deadline = Instant::now() + limit;
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names.dedup();
        let mut waiting = names.into_iter();
        let mut running = JoinSet::new();
        let mut told = HashMap::new();
        loop {
            for name in waiting.by_ref().take(AT_A_TIME - running.len()) {
                let resolvers = self.resolvers.clone();
                running.spawn(async move {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let families = families(&resolvers, &name, left).await;
                    (name, families)
                });
            }
            match running.join_next().await {
                None => return told,
                Some(Ok((name, families))) => _ = told.insert(name, families),
                Some(Err(error)) => tracing::error!(%error, "a question to DNS was lost"),
            }
        }
    }
}

impl Known {
    /// What is to be made of both families' answers: one that fails keeps what it had.
    fn merge(
        &mut self,
        name: &str,
        told: [Told; 2],
    ) -> Result<(Vec<IpAddr>, Duration, Option<Silence>), Silence> {
        let mut addresses = Vec::new();
        let mut shortest = Duration::MAX;
        let (mut answered, mut trouble, mut first) = (false, None, None);
        for (family, told) in FAMILIES.into_iter().zip(told) {
            let key = (name.to_owned(), family);
            match told {
                Ok((found, ttl)) => {
                    answered = true;
                    if !found.is_empty() {
                        shortest = shortest.min(ttl);
                    }
                    addresses.extend(&found);
                    self.0.insert(key, found);
                }
                Err(silence) => match self.0.get(&key).filter(|known| !known.is_empty()) {
                    Some(known) => {
                        addresses.extend(known);
                        trouble = Some(silence);
                    }
                    // It never was there: some resolvers say nothing to AAAA (RFC 4074).
                    None => first = first.or(Some(silence)),
                },
            }
        }
        if !answered {
            return Err(trouble.or(first).unwrap_or(Silence::Empty));
        }
        if addresses.is_empty() {
            return Err(first.unwrap_or(Silence::Empty));
        }
        Ok((addresses, shortest, trouble))
    }

    /// Keeps what is known of these names only.
    fn forget_others(&mut self, names: &HashMap<String, [Told; 2]>) {
        self.0.retain(|(name, _), _| names.contains_key(name));
    }
}

/// Asks for the addresses of both families at once. When one has brought some, the other one has a
/// moment left: a resolver that knows nothing of it shall not keep anybody waiting (RFC 8305 §3).
async fn families(resolvers: &[TokioResolver], name: &str, limit: Duration) -> [Told; 2] {
    let ask = async |family| {
        let records = question(resolvers, name, family).await?;
        let ttl = ttl_of(&records);
        let addresses = records.iter().filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::from(address.0)),
            RData::AAAA(address) => Some(IpAddr::from(address.0)),
            _ => None,
        });
        Ok((addresses.collect(), ttl))
    };
    let (four, six) = (pin!(ask(RecordType::A)), pin!(ask(RecordType::AAAA)));
    let soon = limit / 4;
    let has_some = |told: &Told| told.as_ref().is_ok_and(|(addresses, _)| !addresses.is_empty());
    let late = |told: Result<Told, Elapsed>| told.unwrap_or(Err(Silence::Timeout));
    let first = timeout(limit * 3 / 4, select(four, six)).await;
    match first {
        Err(_) => [Err(Silence::Timeout), Err(Silence::Timeout)],
        Ok(Either::Left((four, six))) => {
            let left = if has_some(&four) { soon } else { limit / 2 };
            [four, late(timeout(left, six).await)]
        }
        Ok(Either::Right((six, four))) => {
            let left = if has_some(&six) { soon } else { limit / 2 };
            [late(timeout(left, four).await), six]
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

/// Asks one resolver after the other, until one of them knows. That there are no such records is
/// knowledge.
async fn question(
    resolvers: &[TokioResolver],
    name: &str,
    records: RecordType,
) -> Result<Vec<Record>, Silence> {
    let mut last = Silence::Empty;
    for resolver in resolvers {
        match resolver.lookup(name, records).await {
            Ok(answer) => return Ok(answer.answers().to_vec()),
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

/// How long these records hold, those of the names between included.
fn ttl_of(records: &[Record]) -> Duration {
    let least = records.iter().map(|record| record.ttl).min();
    Duration::from_secs(u64::from(least.unwrap_or_default()))
}

/// A weight of SRV, up to 65,535, as one of ours; 0 is a very small chance there, and so here.
fn scaled(weight: u16, heaviest: u16) -> u32 {
    let (weight, heaviest) = (u32::from(weight), u32::from(heaviest));
    if heaviest <= MOST_WEIGHT {
        return weight.max(1);
    }
    (weight * MOST_WEIGHT / heaviest).max(1)
}

#[cfg(test)]
mod tests;

//! Endpoints from DNS: the addresses of a name, or its SRV records, asked again as their TTL says.
//!
//! One task per upstream, on one worker; all workers see its findings through [`Shared`].
//!
//! | the resolver | the endpoints |
//! | --- | --- |
//! | answers | those of the answer; others are drained |
//! | fails, is silent, or knows no such name | the last good ones; asked again soon, then less often |
//! | has never answered | none: requests wait for it for a moment, then fail with `dns_error` or `dns_timeout` |
//!
//! A name that is not there is no order to send everybody away: a resolver that has lost a zone
//! answers just so.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::time::{sleep, timeout};

use super::{Shared, ejection};
use crate::config::model::{Dns, Endpoint, Records, Scheme};
use crate::failure::Kind;

/// The most endpoints that an answer may bring.
const MOST: usize = 512;
/// The most weight of an endpoint, as in a list of endpoints.
const MOST_WEIGHT: u32 = 100;

/// What DNS says of an upstream.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    /// Address, port, weight, and the name that led there.
    found: Vec<Found>,
    ttl: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    address: IpAddr,
    port: u16,
    weight: u32,
    name: Arc<str>,
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
            Silence::Empty => f.write_str("the answer has no address"),
        }
    }
}

/// Keeps the endpoints of this upstream as DNS says, for ever.
pub async fn follow(shared: Arc<Shared>) {
    let Some(dns) = shared.settings.dns.clone() else { return };
    let resolver = match resolver(&dns, shared.settings.timeouts.resolve) {
        Ok(resolver) => resolver,
        Err(error) => {
            let upstream = &*shared.settings.name;
            tracing::error!(upstream, %error, "the system's resolvers cannot be used; set dns.servers");
            shared.unresolved(Kind::DnsError);
            return;
        }
    };
    follow_with(&shared, &dns, async || ask(&resolver, &dns).await).await;
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
        shared.metrics.looked_up(asked.is_ok());
        let wait = match asked {
            Ok(Answer { found, ttl }) => {
                pause = dns.least;
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
    let endpoint = |Found { address, port, weight, name }: Found| {
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
            name,
            weight,
        }
    };
    found.into_iter().map(endpoint).collect()
}

fn resolver(dns: &Dns, limit: Duration) -> Result<TokioResolver, NetError> {
    let mut builder = if dns.servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = dns.servers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut way| {
                way.port = server.port();
                way
            });
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    // Both families; the TTL decides when to ask again, and then the question shall leave.
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = 0;
    // Two attempts fit into the time that there is.
    options.attempts = 1;
    options.timeout = limit / 2;
    builder.build()
}

async fn ask(resolver: &TokioResolver, dns: &Dns) -> Result<Answer, Silence> {
    let answer = match dns.records {
        Records::Addresses => {
            let (addresses, ttl) = addresses(resolver, &dns.name).await?;
            let name = &dns.name;
            let found = addresses.into_iter().map(|address| Found {
                address,
                port: dns.port,
                weight: 1,
                name: Arc::clone(name),
            });
            Answer { found: found.collect(), ttl }
        }
        Records::Services => services(resolver, dns).await?,
    };
    if answer.found.is_empty() { Err(Silence::Empty) } else { Ok(answer) }
}

async fn addresses(
    resolver: &TokioResolver,
    name: &str,
) -> Result<(Vec<IpAddr>, Duration), Silence> {
    let answer = resolver.lookup_ip(name).await.map_err(Silence::Error)?;
    let ttls = answer.as_lookup().answers().iter().map(|record| record.ttl);
    let ttl = ttls.min().unwrap_or_default();
    Ok((answer.iter().collect(), Duration::from_secs(u64::from(ttl))))
}

/// RFC 2782: of the targets with the lowest priority number, each by its weight.
async fn services(resolver: &TokioResolver, dns: &Dns) -> Result<Answer, Silence> {
    let answer = resolver.lookup(&*dns.name, RecordType::SRV).await.map_err(Silence::Error)?;
    let mut ttl = u32::MAX;
    let mut by_priority: BTreeMap<u16, Vec<(String, u16, u16)>> = BTreeMap::new();
    for record in answer.answers() {
        let RData::SRV(service) = &record.data else { continue };
        ttl = ttl.min(record.ttl);
        // A target of "." says that the service is not there.
        if !service.target.is_root() {
            let target = (service.target.to_utf8(), service.port, service.weight);
            by_priority.entry(service.priority).or_default().push(target);
        }
    }
    let mut ttl = Duration::from_secs(u64::from(ttl));
    let Some((_, mut targets)) = by_priority.pop_first() else { return Err(Silence::Empty) };
    // The heaviest, should there be more than can be.
    targets.sort_by_key(|(_, _, weight)| Reverse(*weight));
    targets.truncate(MOST);
    let heaviest = targets.iter().map(|(.., weight)| *weight).max().unwrap_or_default();
    let mut found = Vec::new();
    for (target, port, weight) in targets {
        let (addresses, its_ttl) = addresses(resolver, &target).await?;
        ttl = ttl.min(its_ttl);
        let name: Arc<str> = target.trim_end_matches('.').into();
        let weight = scaled(weight, heaviest);
        found.extend(addresses.into_iter().map(|address| Found {
            address,
            port,
            weight,
            name: Arc::clone(&name),
        }));
    }
    Ok(Answer { found, ttl })
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

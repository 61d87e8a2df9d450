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
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{Shared, ejection};
use crate::config::model::{Dns, Endpoint, Records, Scheme};
use crate::failure::Kind;
use crate::net::resolve::{FAMILIES, Resolver, Silence, Told, ttl_of};

/// The most endpoints that an answer may bring.
const MOST: usize = 512;
/// The longest pause between questions before the first answer.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(5);
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

fn kind_of(silence: &Silence) -> Kind {
    if silence.is_late() { Kind::DnsTimeout } else { Kind::DnsError }
}

/// Keeps the endpoints of this upstream as DNS says, for ever.
pub async fn follow(shared: Arc<Shared>) {
    let Some(dns) = shared.settings.dns.clone() else { return };
    let limit = shared.settings.timeouts.resolve;
    let resolver = Resolver::of(&dns.servers);
    let mut asker = Asker { dns: dns.clone(), resolver, limit, known: Known::default() };
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
    // Without an answer ever, every request fails: asked more often.
    let mut longest = dns.most.min(UNKNOWN_PAUSE.max(dns.least));
    loop {
        let asked = timeout(limit, ask()).await.unwrap_or(Err(Silence::Timeout));
        let whole = matches!(&asked, Ok(Answer { trouble: None, .. }));
        shared.metrics.looked_up(whole);
        let wait = match asked {
            Ok(Answer { found, ttl, trouble }) => {
                (pause, longest) = (dns.least, dns.most);
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
                shared.unresolved(kind_of(&silence));
                let wait = pause;
                pause = (pause * 2).min(longest);
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

/// Asks for the endpoints of an upstream, and remembers what it was told.
#[derive(Debug)]
struct Asker {
    dns: Dns,
    resolver: Resolver,
    limit: Duration,
    known: Known,
}

/// The last good answer to each question for an address.
#[derive(Debug, Default)]
struct Known(HashMap<(String, RecordType), Vec<IpAddr>>);

impl Asker {
    async fn ask(&mut self) -> Result<Answer, Silence> {
        let answer = match self.dns.records {
            Records::Addresses => {
                let name = self.dns.name.to_string();
                let told = self.resolver.addresses(&name, self.limit).await;
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
        let records = self.resolver.services(&self.dns.name, limit).await?;
        let ttl = ttl_of(&records);
        let mut by_priority: BTreeMap<u16, Vec<(String, u16, u16)>> = BTreeMap::new();
        for record in &records {
            let RData::SRV(service) = &record.data else { continue };
            // A target of "." says that the service is not there.
            if !service.target.is_root() {
                let target = (service.target.to_ascii(), service.port, service.weight);
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
                let resolver = self.resolver.clone();
                running.spawn(async move {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let families = resolver.addresses(&name, left).await;
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

//! A name that is connected to again and again: one question at a time, and its answer kept.
//!
//! All threads share it. A question is a task of its own: those who wait for it may leave, and a
//! thread that ends with the question leaves it to the next one who needs it.
//!
//! | what is known | what is done |
//! | --- | --- |
//! | an answer within its TTL | it is used |
//! | an older answer | it is asked again, and waited for |
//! | the last question failed, less than [`RETRY`] ago | the last good answer, or the same failure |
//! | the last question failed, longer ago | it is asked again; the last good answer serves meanwhile |
//!
//! A last good answer serves for [`Bounds::stale`] beyond its TTL (RFC 8767).

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::{Resolver, Silence, Told};

/// How long a failure is believed.
pub const RETRY: Duration = Duration::from_secs(1);
/// The most addresses of a name that are used.
const MOST: usize = 64;

/// How long answers are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// At least, whatever the TTL.
    pub least: Duration,
    /// At most, whatever the TTL.
    pub most: Duration,
    /// Beyond that, while there is no other one.
    pub stale: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            least: Duration::from_secs(1),
            most: Duration::from_secs(10),
            stale: Duration::from_secs(3600),
        }
    }
}

/// A name that does not resolve.
#[derive(Clone, Debug)]
pub struct Unresolved {
    /// Why.
    pub silence: Silence,
    /// It was told to another one before, or is what a short while ago came out: no news.
    pub repeated: bool,
}

/// A name, and what is known of it.
#[derive(Debug)]
pub struct Name {
    name: Box<str>,
    resolver: Resolver,
    /// The longest that a question may take.
    limit: Duration,
    bounds: Bounds,
    /// Questions that were answered, and those that failed.
    counts: Option<[IntCounter; 2]>,
    known: Mutex<Known>,
    /// A question has ended.
    told: Notify,
    /// Whose turn it is to be connected to first.
    turn: AtomicUsize,
}

#[derive(Debug, Default)]
struct Known {
    good: Option<Good>,
    failed: Option<(Silence, Instant)>,
    asking: bool,
}

#[derive(Debug)]
struct Good {
    addresses: Arc<[IpAddr]>,
    asked: Instant,
    fresh_until: Instant,
    stale_until: Instant,
}

/// What to do for a caller.
enum Next {
    Use(Arc<[IpAddr]>),
    Fail(Silence),
    /// Somebody asks already.
    Wait,
    Ask,
}

/// A question that is being asked; it ends when this is dropped, answered or not.
struct Asking(Arc<Name>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.known().asking = false;
        self.0.told.notify_waiters();
    }
}

impl Name {
    /// Returns a name of which nothing is known yet. A question may take `limit`.
    #[must_use]
    pub fn new(
        name: &str,
        resolver: Resolver,
        limit: Duration,
        bounds: Bounds,
        counts: Option<[IntCounter; 2]>,
    ) -> Arc<Self> {
        Arc::new(Name {
            name: name.into(),
            resolver,
            limit,
            bounds,
            counts,
            known: Mutex::default(),
            told: Notify::new(),
            turn: AtomicUsize::new(0),
        })
    }

    /// Returns the addresses, another one of each family first each time. Waits for an answer no
    /// longer than a question may take. Cancel-safe: the question goes on for others.
    ///
    /// # Errors
    /// If there is none, and no last good one either.
    pub async fn addresses(self: &Arc<Self>) -> Result<Vec<IpAddr>, Unresolved> {
        let late = Unresolved { silence: Silence::Timeout, repeated: true };
        // The question itself ends first, unless its thread has no time for it.
        timeout(self.limit + self.limit / 4, self.wait()).await.unwrap_or(Err(late))
    }

    async fn wait(self: &Arc<Self>) -> Result<Vec<IpAddr>, Unresolved> {
        let mut has_asked = false;
        let mut has_waited = false;
        loop {
            let mut told = pin!(self.told.notified());
            // What is told from here on is not missed.
            told.as_mut().enable();
            match self.next(Instant::now()) {
                Next::Use(addresses) => return Ok(self.turned(&addresses)),
                // One failure is told once, however many waited for it.
                Next::Fail(silence) => {
                    return Err(Unresolved { silence, repeated: !(has_asked && has_waited) });
                }
                Next::Wait => {}
                Next::Ask => {
                    has_asked = true;
                    self.ask();
                }
            }
            has_waited = true;
            told.await;
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(self: &Arc<Self>, now: Instant) -> Next {
        let mut known = self.known();
        let Known { good, failed, asking } = &mut *known;
        let usable = good.as_ref().filter(|good| now < good.stale_until);
        let is_fresh = usable.is_some_and(|good| now < good.fresh_until);
        match (usable, failed) {
            (Some(good), _) if is_fresh => Next::Use(Arc::clone(&good.addresses)),
            (usable, Some((silence, at))) if now < *at + RETRY => match usable {
                Some(good) => Next::Use(Arc::clone(&good.addresses)),
                None => Next::Fail(silence.clone()),
            },
            // Nobody waits for a question whose predecessor has failed, if it can be helped.
            (Some(good), Some(_)) => {
                let addresses = Arc::clone(&good.addresses);
                let begins = !std::mem::replace(asking, true);
                drop(known);
                if begins {
                    self.ask();
                }
                Next::Use(addresses)
            }
            _ if std::mem::replace(asking, true) => Next::Wait,
            _ => Next::Ask,
        }
    }

    /// Asks, on this thread; [`Known::asking`] is set.
    fn ask(self: &Arc<Self>) {
        let asking = Asking(Arc::clone(self));
        tokio::spawn(async move {
            let name = &asking.0;
            let asked = name.resolver.addresses(&name.name, name.limit);
            let told = timeout(name.limit, asked).await;
            let silent = |_| [Err(Silence::Timeout), Err(Silence::Timeout)];
            name.learn(told.unwrap_or_else(silent), Instant::now());
            drop(asking);
        });
    }

    fn learn(&self, told: [Told; 2], now: Instant) {
        let answer = merged(told);
        if let Some([answered, failed]) = &self.counts {
            if answer.is_ok() { answered } else { failed }.inc();
        }
        let name = &*self.name;
        let mut known = self.known();
        match answer {
            Ok((addresses, ttl)) => {
                if known.failed.take().is_some() {
                    tracing::info!(name, "the name resolves again");
                }
                let fresh_until = now + ttl.clamp(self.bounds.least, self.bounds.most);
                known.good = Some(Good {
                    addresses: sorted(addresses).into(),
                    asked: now,
                    fresh_until,
                    stale_until: fresh_until + self.bounds.stale,
                });
            }
            Err(silence) => {
                if known.failed.is_none() {
                    let is_kept = known.good.as_ref().is_some_and(|good| now < good.stale_until);
                    tracing::warn!(name, %silence, is_kept, "the name does not resolve; its last good answer is kept if there is one");
                }
                known.failed = Some((silence, now));
            }
        }
    }

    /// Takes note that no address could be connected to: the name is asked for again before the TTL
    /// is over, though not more often than it may be.
    pub fn doubt(&self) {
        if let Some(good) = &mut self.known().good {
            good.fresh_until = good.fresh_until.min(good.asked + self.bounds.least);
        }
    }

    /// The addresses of each family, beginning with another one each time.
    fn turned(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let turn = self.turn.fetch_add(1, Relaxed);
        let mut turned = Vec::with_capacity(addresses.len());
        for family in addresses.chunk_by(|a, b| a.is_ipv6() == b.is_ipv6()) {
            let (before, after) = family.split_at(turn % family.len());
            turned.extend([after, before].concat());
        }
        turned
    }
}

/// The addresses of both families, and how long they hold. A family that fails while the other one
/// answers is not missed.
fn merged(told: [Told; 2]) -> Result<(Vec<IpAddr>, Duration), Silence> {
    let mut addresses = Vec::new();
    let mut shortest = Duration::MAX;
    let mut why = None;
    for told in told {
        match told {
            Ok((found, _)) if found.is_empty() => {}
            Ok((found, ttl)) => {
                shortest = shortest.min(ttl);
                addresses.extend(found);
            }
            // That one family is not there says less than that the other one failed.
            Err(Silence::Empty) => {}
            Err(silence) => why = why.or(Some(silence)),
        }
    }
    if addresses.is_empty() {
        return Err(why.unwrap_or(Silence::Empty));
    }
    Ok((addresses, shortest))
}

/// Each address once; IPv6 first, unless there is no way to it from here (RFC 6724 §6, rule 1).
fn sorted(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut seen = HashSet::new();
    let once = addresses.into_iter().filter(|address| seen.insert(*address));
    let (six, four): (Vec<_>, Vec<_>) = once.take(MOST).partition(IpAddr::is_ipv6);
    if six.first().is_some_and(|first| has_route(*first)) {
        [six, four].concat()
    } else {
        [four, six].concat()
    }
}

/// Returns `true` if the system has a way to this address. Nothing is sent.
fn has_route(address: IpAddr) -> bool {
    let any = match address {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    UdpSocket::bind((any, 0))
        .is_ok_and(|socket| socket.connect(SocketAddr::new(address, 9)).is_ok())
}

#[cfg(test)]
mod tests;

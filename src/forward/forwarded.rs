//! What the app is told about a client, and by whom: the rules of `forwarded`, and of the fields that
//! only seawall may set.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderMap;
use http::header::HeaderName;
use ipnet::IpNet;

use super::head::{Fields, Known};
use super::peer::Peer;
use super::request::connection_options;
use crate::config::model::Config;
use crate::message::field::{self, InRequest};
use crate::telemetry::metrics::Metrics;

/// The certificates behind the client's (RFC 9440 §2.3): a field that belongs to the first one.
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");

/// The rules of one configuration.
#[derive(Debug)]
pub struct Forwarded {
    /// Proxies that are believed.
    trusted: Vec<IpNet>,
    /// Fields that `forwarded.keep` names: they pass, whoever sends them.
    keep: Vec<HeaderName>,
    /// Fields that tell who a client is by its certificate.
    reserved: Vec<HeaderName>,
    /// How often a request may come past this seawall.
    pub max_passes: usize,
    metrics: Arc<Metrics>,
}

impl Forwarded {
    /// The rules of this configuration.
    #[must_use]
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Self {
        Forwarded {
            trusted: config.forwarded.trusted.clone(),
            keep: config.forwarded.keep.clone(),
            reserved: reserved(config),
            max_passes: config.forwarded.max_passes,
            metrics,
        }
    }

    /// Returns `true` if this address is that of a proxy that is believed.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|net| net.contains(&address))
    }

    /// Returns `true` if a field of the request's head does not pass as it came. The first removal of
    /// each is logged: an operator who needs the field learns how to have it.
    #[inline]
    pub fn stays_behind(&self, known: Option<Known>, name: &[u8], peer: &Peer) -> bool {
        // Nearly all fields are in no table.
        let by_table = match known.map(Known::in_request) {
            None | Some(InRequest::Passes) => false,
            Some(InRequest::Hop) if known != Some(Known::Twin) => true,
            Some(rule) => self.removes(rule, known, name, peer),
        };
        by_table || self.is_reserved(name)
    }

    #[cold]
    fn removes(&self, rule: InRequest, known: Option<Known>, name: &[u8], peer: &Peer) -> bool {
        let trusted = peer.trusted.get();
        match rule {
            InRequest::Passes => return false,
            InRequest::Told if trusted => return false,
            // What a proxy says is appended to, and so is every Via.
            InRequest::Ours if trusted || known == Some(Known::Via) => return true,
            // Whoever rehearses knows what becomes of it.
            InRequest::Ours if known == Some(Known::Rehearse) => return true,
            InRequest::Identity if trusted || self.keeps(name) => return false,
            InRequest::Routing if self.keeps(name) => return false,
            InRequest::Hop if self.keeps(name) => return false,
            _ => {}
        }
        if let Some(row) = field::row(name)
            && self.metrics.is_first_removal(row)
        {
            self.tell(rule, name, peer);
        }
        true
    }

    fn tell(&self, rule: InRequest, name: &[u8], peer: &Peer) {
        let remedy = match rule {
            InRequest::Ours | InRequest::Told => {
                "if a proxy sent it that shall be believed, list its address in forwarded.trusted"
            }
            InRequest::Identity => {
                "if a proxy sent it that shall be believed, list its address in forwarded.trusted; \
                 to have it from everybody, name it in forwarded.keep"
            }
            InRequest::Routing => "to have it from everybody, name it in forwarded.keep",
            InRequest::Hop | InRequest::Passes => {
                "apps that read `_` as `-` would take it for the field that seawall sets or removes"
            }
        };
        tracing::info!(
            field = %String::from_utf8_lossy(name),
            client = &*peer.text,
            remedy,
            "removed a field from a client's request; this is logged once for each field"
        );
    }

    fn keeps(&self, name: &[u8]) -> bool {
        self.keep.iter().any(|kept| field::is_same(name, kept.as_str().as_bytes()))
    }

    #[inline]
    fn is_reserved(&self, name: &[u8]) -> bool {
        self.reserved.iter().any(|reserved| field::is_same(name, reserved.as_str().as_bytes()))
    }

    /// Removes the trailers of a request that may not reach the app.
    pub fn clean_trailers(&self, trailers: &mut HeaderMap, fields: &Fields) {
        field::clean_trailers(trailers, &connection_options(fields));
        let unwanted = trailers.keys().filter(|name| self.is_reserved(name.as_str().as_bytes()));
        for name in unwanted.cloned().collect::<Vec<_>>() {
            trailers.remove(name);
        }
    }

    /// The client's address, as far as it is known: what a trusted proxy says it is, in X-Real-IP or
    /// as the last address of X-Forwarded-For that is not a trusted proxy's own; else the peer's.
    #[must_use]
    pub fn client_address(&self, fields: &Fields, peer: &Peer) -> IpAddr {
        if !peer.trusted.get() {
            return peer.address;
        }
        if let Some(told) = fields.first(Known::XRealIp).and_then(address)
            && !fields.is_repeated(Known::XRealIp)
        {
            return told;
        }
        let told: Vec<_> = fields
            .all(Known::XForwardedFor)
            .flat_map(|line| line.split(|byte| *byte == b','))
            .collect();
        let mut nearest = peer.address;
        for told in told.iter().rev().map_while(|told| address(told)) {
            nearest = told;
            if !self.trusts(told) {
                break;
            }
        }
        nearest
    }
}

#[cfg(test)]
impl Forwarded {
    /// The rules with these networks and fields.
    pub fn of(trusted: &[&str], keep: &[&'static str], reserved: &[&'static str]) -> Self {
        let names = |names: &[&'static str]| {
            names.iter().map(|name| HeaderName::from_static(name)).collect()
        };
        Forwarded {
            trusted: trusted.iter().map(|net| net.parse().unwrap()).collect(),
            keep: names(keep),
            reserved: names(reserved),
            max_passes: 10,
            metrics: Metrics::new().unwrap(),
        }
    }
}

/// An address, in the forms that proxies write: with a port, or in brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address| address.to_canonical())
}

/// The fields that tell upstreams who a client is by its certificate: no client may set them, wherever
/// it comes in.
fn reserved(config: &Config) -> Vec<HeaderName> {
    let tls = config.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    let mut names: Vec<_> =
        tls.filter_map(|tls| tls.clients.as_ref()).map(|clients| clients.field.clone()).collect();
    if names.iter().any(|name| name.as_str() == "client-cert") {
        names.push(CLIENT_CERT_CHAIN);
    }
    names.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::head::tests::both;

    fn rules() -> Forwarded {
        Forwarded::of(&["10.0.0.0/8"], &["x-client-ip", "x-rewrite-url"], &["x-user"])
    }

    #[test]
    fn strangers_and_trusted_proxies_are_heard_differently() {
        let rules = rules();
        let peers = [false, true].map(|trusted| Peer::new([10, 0, 0, 9].into(), "http", trusted));
        for (name, passes) in [
            ("x-anything", [true, true]),
            ("via", [false, false]),
            ("x-forwarded-for", [false, false]),
            ("x-real-ip", [false, false]),
            ("x-forwarded-proto", [false, true]),
            ("x-forwarded-port", [false, true]),
            ("true-client-ip", [false, true]),
            ("client-cert", [false, true]),
            ("x-client-ip", [true, true]),
            ("proxy", [false, false]),
            ("x-original-url", [false, false]),
            ("x-rewrite-url", [true, true]),
            ("x-user", [false, false]),
            ("x-forwarded_proto", [false, false]),
            ("x_forwarded_for", [false, false]),
            ("true_client_ip", [false, false]),
            ("x_client_ip", [true, true]),
            ("x_user", [false, false]),
            ("x_real-ip", [false, false]),
            ("content_length", [false, false]),
            ("ssl_client_verify", [false, true]),
        ] {
            let name = name.as_bytes();
            let known = Known::of(name);
            let found = peers.each_ref().map(|peer| !rules.stays_behind(known, name, peer));
            assert_eq!(found, passes, "{}", String::from_utf8_lossy(name));
        }
    }

    #[test]
    fn the_client_is_whom_the_nearest_trusted_proxy_saw() {
        let rules = rules();
        for (trusted, lines, expected) in [
            (false, &[("x-real-ip", "6.6.6.6"), ("x-forwarded-for", "6.6.6.6")][..], "10.0.0.9"),
            (true, &[], "10.0.0.9"),
            (true, &[("x-real-ip", "6.6.6.6"), ("x-forwarded-for", "7.7.7.7")], "6.6.6.6"),
            (true, &[("x-real-ip", "6.6.6.6"), ("x-real-ip", "7.7.7.7")], "10.0.0.9"),
            (true, &[("x-real-ip", "none"), ("x-forwarded-for", "7.7.7.7")], "7.7.7.7"),
            (true, &[("x-forwarded-for", "6.6.6.6, 7.7.7.7,10.1.1.1")], "7.7.7.7"),
            (true, &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "7.7.7.7")], "7.7.7.7"),
            (true, &[("x-forwarded-for", "10.1.1.1, 10.2.2.2")], "10.1.1.1"),
            (true, &[("x-forwarded-for", "6.6.6.6, unknown, 10.2.2.2")], "10.2.2.2"),
            (true, &[("x-forwarded-for", "7.7.7.7:4711")], "7.7.7.7"),
            (true, &[("x-forwarded-for", "[2001:db8::1]:4711")], "2001:db8::1"),
            (true, &[("x-forwarded-for", "[2001:db8::1]")], "2001:db8::1"),
        ] {
            let peer = Peer::new([10, 0, 0, 9].into(), "http", trusted);
            let request = http::Request::get("/").header("host", "a");
            let request = lines.iter().fold(request, |it, (name, value)| it.header(*name, *value));
            for head in both(request) {
                let found = rules.client_address(&head.fields, &peer);
                assert_eq!(found.to_string(), expected, "{lines:?}");
            }
        }
    }

    #[test]
    fn each_fields_first_removal_is_news() {
        let metrics = Metrics::new().unwrap();
        let row = |name: &str| field::row(name.as_bytes()).unwrap();
        assert!(metrics.is_first_removal(row("true-client-ip")));
        assert!(!metrics.is_first_removal(row("True-Client-IP")));
        assert!(metrics.is_first_removal(row("true_client_ip")));
        assert!(metrics.is_first_removal(row("x-forwarded-port")));
        assert!(!metrics.is_first_removal(row("x-forwarded-anything")), "a family is one row");
    }
}

//! The PROXY protocol towards upstreams: whom a connection is for, before its first byte (HAProxy's
//! `doc/proxy-protocol.txt`).

use std::net::{IpAddr, SocketAddr};

use crate::config::model::ProxyVersion;

/// §2.2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Between whom the connection is that we speak for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The client.
    pub from: SocketAddr,
    /// Where it connected to.
    pub to: SocketAddr,
}

/// The header; without a client, one that says that the connection is our own (a health check).
#[must_use]
pub fn header(version: ProxyVersion, told: Option<Told>) -> Vec<u8> {
    let told = told.map(same_family);
    match version {
        ProxyVersion::V1 => v1(told),
        ProxyVersion::V2 => v2(told),
    }
}

fn v1(told: Option<Told>) -> Vec<u8> {
    let Some(Told { from, to }) = told else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    let (source, destination) = (from.ip(), to.ip());
    format!("PROXY {family} {source} {destination} {} {}\r\n", from.port(), to.port()).into_bytes()
}

fn v2(told: Option<Told>) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    let Some(Told { from, to }) = told else {
        // LOCAL, of no family, nothing more.
        header.extend_from_slice(&[0x20, 0, 0, 0]);
        return header;
    };
    let size = |ip: IpAddr| if ip.is_ipv4() { (0x11, 12) } else { (0x21, 36) };
    let (family, length) = size(from.ip());
    header.extend_from_slice(&[0x21, family, 0, length]);
    for address in [from.ip(), to.ip()] {
        match address {
            IpAddr::V4(address) => header.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => header.extend_from_slice(&address.octets()),
        }
    }
    header.extend_from_slice(&from.port().to_be_bytes());
    header.extend_from_slice(&to.port().to_be_bytes());
    header
}

/// A header has one family: if one side is IPv6, an IPv4 address is written as one that is mapped.
fn same_family(told: Told) -> Told {
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (from, to) = (canonical(told.from), canonical(told.to));
    if from.is_ipv4() == to.is_ipv4() {
        return Told { from, to };
    }
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    Told { from: mapped(from), to: mapped(to) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(from: &str, to: &str) -> Option<Told> {
        Some(Told { from: from.parse().unwrap(), to: to.parse().unwrap() })
    }

    #[test]
    fn the_first_version_is_a_line() {
        for (told, line) in [
            (told("192.0.2.7:50000", "198.51.100.1:443"), "TCP4 192.0.2.7 198.51.100.1 50000 443"),
            (told("[2001:db8::1]:1", "[::1]:65535"), "TCP6 2001:db8::1 ::1 1 65535"),
            (told("[::ffff:192.0.2.7]:1", "192.0.2.8:2"), "TCP4 192.0.2.7 192.0.2.8 1 2"),
            (told("192.0.2.7:1", "[2001:db8::1]:2"), "TCP6 ::ffff:192.0.2.7 2001:db8::1 1 2"),
            (None, "UNKNOWN"),
        ] {
            let expected = format!("PROXY {line}\r\n").into_bytes();
            assert_eq!(header(ProxyVersion::V1, told), expected);
        }
    }

    #[test]
    fn the_second_version_is_binary() {
        let four = header(ProxyVersion::V2, told("192.0.2.7:258", "198.51.100.1:443"));
        assert_eq!(four[..12], SIGNATURE[..]);
        assert_eq!(four[12..], [0x21, 0x11, 0, 12, 192, 0, 2, 7, 198, 51, 100, 1, 1, 2, 1, 187]);
        let six = header(ProxyVersion::V2, told("[2001:db8::1]:1", "[::1]:2"));
        assert_eq!((six.len(), &six[12..16]), (16 + 36, &[0x21, 0x21, 0, 36][..]));
        assert_eq!(header(ProxyVersion::V2, None)[12..], [0x20, 0, 0, 0]);
    }
}

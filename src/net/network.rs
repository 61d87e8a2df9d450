//! The unit in which clients are counted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The network of a client, for all that is limited "per address": an IPv4 address, or the /64 that
/// an IPv6 address is in.
///
/// A host with IPv6 has a whole /64 (RFC 4291 §2.5.1, RFC 8981) and can use a new address for each
/// connection, so that single addresses limit nothing. An IPv4 address that is written as IPv6,
/// mapped (RFC 4291 §2.5.5.2) or translated (RFC 6052 §2.1), is that IPv4 address: else all of them
/// would be one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network(IpAddr);

impl Network {
    /// Returns the network of this address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Network(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => match address.segments() {
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                    let number = (u32::from(high) << 16) | u32::from(low);
                    IpAddr::V4(Ipv4Addr::from_bits(number))
                }
                [a, b, c, d, ..] => IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_counts_by_64_bits_and_ipv4_by_all() {
        let of = |text: &str| Network::of(text.parse().unwrap());
        for (one, other) in [
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff"),
            ("fd00::1", "fd00::2"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("64:ff9b::192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(of(one), of(other), "{one} {other}");
        }
        for (one, other) in [
            ("2001:db8:0:1::1", "2001:db8:0:2::1"),
            ("192.0.2.1", "192.0.2.2"),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2"),
            ("64:ff9b::192.0.2.1", "64:ff9b::192.0.2.2"),
            ("::1", "127.0.0.1"),
        ] {
            assert_ne!(of(one), of(other), "{one} {other}");
        }
    }
}

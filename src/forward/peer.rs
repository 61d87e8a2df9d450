//! Who is at the other end of a client's connection, and what its requests repeat because of that.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;

use bytes::BytesMut;
use http::Version;
use http::header::{HeaderName, HeaderValue};

use super::entrance::Entrance;
use super::request::Extra;
use crate::upstream::proxy_protocol::Told;

/// The client's side of a connection, as far as the app shall know it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address of whoever is connected.
    pub address: IpAddr,
    /// The same as text: every request of the connection says it twice.
    pub text: Box<str>,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// A proxy whose forwarding fields and request ids are believed.
    pub trusted: Cell<bool>,
    /// What the listener does with every request.
    pub entrance: Rc<Entrance>,
    /// The field that tells the upstream whom the client has shown to be by its certificate.
    pub identity: Option<(HeaderName, HeaderValue)>,
    /// What PROXY protocol headers say, if an upstream wants one.
    pub told: Option<Rc<Told>>,
    /// What its requests repeat.
    pub repeated: Repeated,
}

/// The address as text. Each connection needs it once, and `Display` takes ten times as long for IPv4.
fn text_of(address: IpAddr) -> Box<str> {
    let IpAddr::V4(address) = address else { return address.to_string().into() };
    let mut text = String::with_capacity("255.255.255.255".len());
    for (place, octet) in address.octets().into_iter().enumerate() {
        if place > 0 {
            text.push('.');
        }
        if octet >= 100 {
            text.push(char::from(b'0' + octet / 100));
        }
        if octet >= 10 {
            text.push(char::from(b'0' + octet / 10 % 10));
        }
        text.push(char::from(b'0' + octet % 10));
    }
    text.into()
}

/// The lines that one request of a connection after the other says to HTTP/1.1 upstreams: who asks,
/// whom, and on which way. They are written once and copied.
#[derive(Clone, Debug, Default)]
pub struct Repeated {
    /// There was a request: connections that have no other one shall not pay for what is kept.
    again: Cell<bool>,
    kept: RefCell<Option<Box<Kept>>>,
}

#[derive(Clone, Debug)]
struct Kept {
    host: Box<str>,
    version: Version,
    via: Box<str>,
    lines: Box<[u8]>,
}

impl Repeated {
    /// Whether a request with this host was found to be in order.
    pub(super) fn knows(&self, host: &str) -> bool {
        self.kept.borrow().as_ref().is_some_and(|kept| *kept.host == *host)
    }

    /// Appends the lines that `write` gives; what it wrote for the same host is copied.
    pub(super) fn copy_to(
        &self,
        out: &mut BytesMut,
        version: Version,
        extra: &Extra<'_>,
        write: impl FnOnce(&mut BytesMut),
    ) {
        if !self.again.replace(true) {
            return write(out);
        }
        let mut kept = self.kept.borrow_mut();
        match &*kept {
            Some(kept)
                if kept.version == version
                    && *kept.host == *extra.host
                    && *kept.via == *extra.via =>
            {
                out.extend_from_slice(&kept.lines);
            }
            _ => {
                let start = out.len();
                write(out);
                let lines = out.get(start..).unwrap_or_default().into();
                let (host, via) = (extra.host.into(), extra.via.into());
                *kept = Some(Box::new(Kept { host, version, via, lines }));
            }
        }
    }
}

impl Peer {
    /// Whoever is connected from this address.
    #[must_use]
    pub fn new(address: IpAddr, scheme: &'static str, trusted: bool) -> Self {
        Peer {
            address,
            text: text_of(address),
            scheme,
            trusted: Cell::new(trusted),
            entrance: Rc::default(),
            identity: None,
            told: None,
            repeated: Repeated::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_everywhere() {
        for octet in 0..=255 {
            let address = IpAddr::from([octet, 255, octet, 0]);
            assert_eq!(*text_of(address), *address.to_string());
        }
        assert_eq!(&*text_of("2001:db8::1".parse().unwrap()), "2001:db8::1");
    }
}

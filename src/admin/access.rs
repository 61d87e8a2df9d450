//! Who may ask what: host names, the token, and where a change comes from.
//!
//! | asked for | needs |
//! | --- | --- |
//! | `/livez`, `/readyz` | nothing: machines ask that know nothing, and nothing is said |
//! | anything, with a token configured | the token; only the empty page comes without it |
//! | anything, without a token | a Host that is ours |
//! | a change | all of that; and without a token a sign that no other page or app has forged it |
//!
//! Without a token the listener is on loopback, and everything on this machine may ask. A browser on
//! this machine runs pages of strangers: a page of `http://evil.test:9900/` whose name then resolves
//! to 127.0.0.1 (DNS rebinding) is of the same origin as the answers, and may read them. It cannot
//! choose another Host than its own name. An address is no name that anybody could give to us, so
//! that every address is ours. Where there is a token the Host says nothing more: no page of
//! strangers has it, and scrapes may use any name.
//!
//! A page of another origin, or an app that can be made to send requests (SSRF), can send a plain
//! POST, but neither `Sec-Fetch-Site: same-origin` nor a field of its own choice.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderName, Request, StatusCode, Version};

use crate::config::model::{self, Secret};
use crate::failure::rehearsal::is_same;

/// The scheme of the token (RFC 6750 §2.1).
const BEARER: &[u8] = b"Bearer ";

/// The words of a browser on the page that makes it send a request (W3C Fetch Metadata).
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The field of those who change something without a token and are no page of ours.
const FIELD: HeaderName = HeaderName::from_static("seawall-admin");

/// The wish of a request, as far as access depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// A probe: the process lives, or is ready.
    Probe,
    /// The page without what it shows.
    Page,
    /// Anything that is read.
    Read,
    /// Something else from now on.
    Change,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No Host, several, or one that is none (RFC 9112 §3.2).
    Host,
    /// The Host is not ours (RFC 9110 §15.5.20).
    Misdirected,
    /// The token is not there, or another one.
    Token,
    /// A page of another origin has sent it.
    Foreign,
    /// It could have been forged.
    Unsigned,
}

impl Refusal {
    /// The answer's status and text.
    pub(super) fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Refusal::Host => (StatusCode::BAD_REQUEST, "one Host is needed, with a valid value\n"),
            Refusal::Misdirected => (
                StatusCode::MISDIRECTED_REQUEST,
                "this is no host name of the admin listener: ask by its IP address or as \
                 localhost, or add the name to admin.hosts, or set admin.token_file\n",
            ),
            Refusal::Token => (StatusCode::UNAUTHORIZED, "a token is needed\n"),
            Refusal::Foreign => {
                (StatusCode::FORBIDDEN, "changes come from no page of another origin\n")
            }
            Refusal::Unsigned => (
                StatusCode::FORBIDDEN,
                "a change needs the field Seawall-Admin: 1, so that it cannot be forged\n",
            ),
        }
    }
}

/// The configured rules of access.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Access {
    token: Option<Secret>,
    /// Our own names, without a dot at the end.
    names: Vec<Box<str>>,
}

impl Access {
    /// The access that these settings give.
    pub(super) fn new(settings: &model::Admin) -> Self {
        let mut names: Vec<Box<str>> = vec!["localhost".into()];
        if let Some(machine) =
            nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok())
        {
            let short = machine.split('.').next().unwrap_or_default();
            names.extend(
                [short, &*machine].into_iter().filter(|name| !name.is_empty()).map(Into::into),
            );
        }
        names.extend(settings.hosts.iter().cloned());
        Access { token: settings.token.clone(), names }
    }

    /// Lets the request through, or says why not.
    pub(super) fn judge<B>(&self, request: &Request<B>, wish: Wish) -> Result<(), Refusal> {
        if wish == Wish::Probe {
            return Ok(());
        }
        let host = host(request)?;
        match &self.token {
            Some(_) if wish == Wish::Page => return Ok(()),
            Some(token) if !brings(request, token) => return Err(Refusal::Token),
            None if !self.is_own(request, host) => return Err(Refusal::Misdirected),
            Some(_) | None => {}
        }
        if wish != Wish::Change {
            return Ok(());
        }
        let site = single(request, &SITE);
        if is_foreign(request, site) {
            return Err(Refusal::Foreign);
        }
        let signed = site == Some(b"same-origin") || single(request, &FIELD) == Some(b"1");
        (self.token.is_some() || signed).then_some(()).ok_or(Refusal::Unsigned)
    }

    /// Returns `true` if both the Host and an absolute target are ours.
    fn is_own<B>(&self, request: &Request<B>, host: Option<Host<'_>>) -> bool {
        let target = request.uri().authority().map(|authority| Host::parse(authority.as_str()));
        let ours = |host: Host<'_>| match host {
            Host::Address => true,
            Host::Name(name) => self.names.iter().any(|own| own.eq_ignore_ascii_case(name)),
        };
        // HTTP/1.0 may go without Host. No browser does.
        host.is_none_or(ours) && target.is_none_or(|target| target.is_some_and(ours))
    }
}

/// Returns `true` if the request brings the token (RFC 6750 §2.1).
fn brings<B>(request: &Request<B>, Secret(token): &Secret) -> bool {
    let Some(line) = single(request, &AUTHORIZATION) else { return false };
    let (scheme, given) = line.split_at(line.len().min(BEARER.len()));
    scheme.eq_ignore_ascii_case(BEARER) && is_same(given.trim_ascii(), token.as_bytes())
}

/// Returns `true` if the page that makes a browser send this is not ours.
fn is_foreign<B>(request: &Request<B>, site: Option<&[u8]>) -> bool {
    if request.headers().contains_key(&SITE) {
        return site.is_none_or(|site| site != b"same-origin" && site != b"none");
    }
    // A browser that does not know the other field.
    if !request.headers().contains_key(ORIGIN) {
        return false;
    }
    let text = |name| single(request, name).and_then(|value| std::str::from_utf8(value).ok());
    let authority = text(&ORIGIN).and_then(|origin| origin.split_once("://")).map(|parts| parts.1);
    let ours = authority.zip(text(&HOST)).is_some_and(|(from, to)| from.eq_ignore_ascii_case(to));
    !ours
}

/// The value of a field that has one line.
fn single<'r, B>(request: &'r Request<B>, name: &HeaderName) -> Option<&'r [u8]> {
    let mut lines = request.headers().get_all(name).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    Some(line.as_bytes())
}

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host<'r> {
    /// An IP address, in whatever form: nobody's DNS can point it elsewhere.
    Address,
    /// A name, without a dot at its end.
    Name(&'r str),
}

/// The one Host of a request; `None` where HTTP/1.0 has none (RFC 9112 §3.2).
fn host<B>(request: &Request<B>) -> Result<Option<Host<'_>>, Refusal> {
    let mut lines = request.headers().get_all(HOST).iter();
    match (lines.next(), lines.next()) {
        (None, _) if request.version() < Version::HTTP_11 => Ok(None),
        (Some(line), None) => {
            let host = line.to_str().ok().and_then(Host::parse);
            host.map(Some).ok_or(Refusal::Host)
        }
        _ => Err(Refusal::Host),
    }
}

impl<'r> Host<'r> {
    /// Reads `uri-host [ ":" port ]` (RFC 9110 §7.2). The port may be any: it is another one behind
    /// `kubectl port-forward` and the like.
    fn parse(text: &'r str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']')?;
            // A zone (RFC 6874) is of this machine.
            let address = address.split('%').next().unwrap_or_default();
            let valid = address.parse::<Ipv6Addr>().is_ok() && is_port(port);
            return valid.then_some(Host::Address);
        }
        let (name, port) = text.find(':').map_or((text, ""), |colon| text.split_at(colon));
        let name = name.strip_suffix('.').unwrap_or(name);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if !is_port(port) || name.split('.').any(str::is_empty) || !name.bytes().all(plain) {
            return None;
        }
        // `127.1` and `2130706433` are addresses to those who send them; no name ends in a number.
        let last = name.rsplit('.').next().unwrap_or_default();
        let is_number = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
        match name.parse::<Ipv4Addr>().is_ok() || is_number {
            true => Some(Host::Address),
            false => Some(Host::Name(name)),
        }
    }
}

/// Nothing, or a colon and digits.
fn is_port(text: &str) -> bool {
    text.strip_prefix(':').map_or(text.is_empty(), |port| port.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn open() -> Access {
        Access::new(&model::Admin { hosts: vec!["seawall.internal".into()], ..admin(None) })
    }

    fn closed() -> Access {
        Access::new(&admin(Some(Secret(TOKEN.into()))))
    }

    fn admin(token: Option<Secret>) -> model::Admin {
        model::Admin { address: None, token, hosts: Vec::new() }
    }

    fn judge(
        access: &Access,
        wish: Wish,
        uri: &str,
        fields: &[(&str, &str)],
    ) -> Result<(), Refusal> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        access.judge(&request.body(()).unwrap(), wish)
    }

    #[test]
    fn answers_its_own_names_and_addresses_and_no_others() {
        let own = [
            "localhost",
            "LocalHost:9900",
            "localhost.:1",
            "127.0.0.1:9900",
            "127.1",
            "0:9900",
            "10.0.0.7:9900",
            "[::1]",
            "[::1]:9900",
            "[fe80::1%25eth0]:9900",
            "[2001:db8::1]",
            "seawall.internal",
            "SEAWALL.internal.:80",
            "localhost:",
        ];
        for host in own {
            assert_eq!(
                judge(&open(), Wish::Read, "/failures", &[("host", host)]),
                Ok(()),
                "{host}"
            );
        }
        let others = [
            "evil.test:9900",
            "evil.test",
            "localhost.evil.test",
            "127.0.0.1.evil.test",
            "xlocalhost",
            "seawall.internal.evil.test",
            "sub.seawall.internal",
            "127.0.0.1.nip.io",
        ];
        for host in others {
            for wish in [Wish::Read, Wish::Page, Wish::Change] {
                let fields = [("host", host), ("sec-fetch-site", "same-origin")];
                let judged = judge(&open(), wish, "/failures", &fields);
                assert_eq!(judged, Err(Refusal::Misdirected), "{host}");
            }
        }
    }

    #[test]
    fn the_machines_own_name_is_answered() {
        let name = nix::unistd::gethostname().unwrap().into_string().unwrap();
        let host = format!("{name}:9900");
        assert_eq!(judge(&open(), Wish::Read, "/metrics", &[("host", &host)]), Ok(()));
    }

    #[test]
    fn a_host_that_is_none_is_refused() {
        let wrong = [
            "",
            ":9900",
            "user@localhost",
            "local host",
            "localhost:x",
            "[::1",
            "[::g]",
            "[::1]x",
            "..",
            "localhost:1:2",
            "a/b",
            "evil.test,localhost",
        ];
        for host in wrong {
            let judged = judge(&open(), Wish::Read, "/", &[("host", host)]);
            assert_eq!(judged, Err(Refusal::Host), "{host:?}");
        }
        let two = [("host", "localhost"), ("host", "evil.test")];
        assert_eq!(judge(&open(), Wish::Read, "/", &two), Err(Refusal::Host));
        assert_eq!(judge(&open(), Wish::Read, "/", &[]), Err(Refusal::Host));
        let old = Request::builder().version(Version::HTTP_10).body(()).unwrap();
        assert_eq!(open().judge(&old, Wish::Read), Ok(()), "HTTP/1.0 may go without");
        let signed = Err(Refusal::Unsigned);
        assert_eq!(open().judge(&old, Wish::Change), signed);
    }

    #[test]
    fn an_absolute_target_must_be_ours_as_well() {
        for (uri, host, judged) in [
            ("http://localhost:9900/", "localhost:9900", Ok(())),
            ("http://evil.test:9900/", "localhost:9900", Err(Refusal::Misdirected)),
            ("http://localhost:9900/", "evil.test:9900", Err(Refusal::Misdirected)),
        ] {
            assert_eq!(judge(&open(), Wish::Read, uri, &[("host", host)]), judged, "{uri} {host}");
        }
    }

    #[test]
    fn probes_are_answered_under_any_name() {
        for access in [open(), closed()] {
            for fields in [&[][..], &[("host", "evil.test")], &[("host", "")]] {
                assert_eq!(judge(&access, Wish::Probe, "/livez", fields), Ok(()), "{fields:?}");
            }
        }
    }

    #[test]
    fn the_token_opens_under_any_name_and_nothing_else_does() {
        let right = format!("Bearer {TOKEN}");
        let ask = |wish, authorization| {
            let fields = [("host", "seawall:9900"), ("authorization", authorization)];
            judge(&closed(), wish, "/metrics", &fields)
        };
        for wish in [Wish::Read, Wish::Change] {
            assert_eq!(ask(wish, &right), Ok(()), "a scrape by name");
            for wrong in ["", "Bearer", "Bearer 0123456789abcdeF", TOKEN] {
                assert_eq!(ask(wish, wrong), Err(Refusal::Token), "{wrong}");
            }
        }
        assert_eq!(ask(Wish::Page, ""), Ok(()));
    }

    #[test]
    fn a_change_cannot_be_forged() {
        let host = ("host", "127.0.0.1:9900");
        for (fields, judged) in [
            (vec![host], Err(Refusal::Unsigned)),
            (vec![host, ("content-type", "text/plain")], Err(Refusal::Unsigned)),
            (vec![host, ("sec-fetch-site", "none")], Err(Refusal::Unsigned)),
            (vec![host, ("seawall-admin", "0")], Err(Refusal::Unsigned)),
            (vec![host, ("origin", "http://127.0.0.1:9900")], Err(Refusal::Unsigned)),
            (vec![host, ("origin", "https://evil.test")], Err(Refusal::Foreign)),
            (vec![host, ("origin", "null")], Err(Refusal::Foreign)),
            (vec![host, ("sec-fetch-site", "cross-site")], Err(Refusal::Foreign)),
            (vec![host, ("sec-fetch-site", "same-site")], Err(Refusal::Foreign)),
            (
                vec![host, ("seawall-admin", "1"), ("origin", "http://127.0.0.1:3000")],
                Err(Refusal::Foreign),
            ),
            (
                vec![host, ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
                Err(Refusal::Foreign),
            ),
            (vec![host, ("seawall-admin", "1")], Ok(())),
            (vec![host, ("seawall-admin", "1"), ("origin", "http://127.0.0.1:9900")], Ok(())),
            (vec![host, ("sec-fetch-site", "same-origin")], Ok(())),
        ] {
            let asked = judge(&open(), Wish::Change, "/endpoints/drain", &fields);
            assert_eq!(asked, judged, "{fields:?}");
        }
        let token = format!("Bearer {TOKEN}");
        let fields = [host, ("authorization", &*token), ("origin", "https://evil.test")];
        assert_eq!(judge(&closed(), Wish::Change, "/", &fields), Err(Refusal::Foreign));
        assert_eq!(judge(&closed(), Wish::Change, "/", &fields[..2]), Ok(()));
    }
}

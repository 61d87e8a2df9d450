//! Between seawall and the endpoints of an upstream: who resolves their names, and how the kernel
//! watches over connections.

use std::net::SocketAddr;

use super::super::diagnostic::Problem;
use super::super::model::{NameResolver, Tcp};
use super::super::scope::{Found, Scope};
use super::wrong;
use crate::net::resolve::name::Bounds;

pub(super) fn servers(scope: &Scope<'_>, meaning: &'static str) -> Vec<SocketAddr> {
    let servers = scope.texts("servers", "address", false, meaning);
    servers.iter().filter_map(|server| resolver(scope, server)).collect()
}

pub(super) fn name_resolver(upstream: &Scope<'_>) -> NameResolver {
    let meaning = "How names in endpoints are resolved.";
    let Some(section) = upstream.optional_section("resolver", meaning) else {
        return NameResolver::default();
    };
    if upstream.has("dns") {
        let problem = Problem::new(section.span(), "resolver is for names in endpoints");
        upstream.problem(problem.remedy("set dns.servers, dns.min_ttl and dns.max_ttl"));
    }
    let d = Bounds::default();
    let meaning = "Servers to ask, ADDRESS[:PORT]; if not set, the system's, with its hosts file and its search list.";
    let servers = servers(&section, meaning);
    let meaning = "How long an answer is used at least.";
    let least = section.wait("min_ttl", d.least, meaning);
    let meaning = "How long an answer is used at most; sooner if no address can be connected to.";
    let most = section.wait("max_ttl", d.most, meaning);
    let meaning =
        "How long beyond that the last good answer is used while questions fail. 0s: not at all.";
    let stale = section.duration("stale", d.stale, meaning);
    if least > most {
        let problem = Problem::new(section.span(), "min_ttl must not be longer than max_ttl");
        section.problem(problem.remedy("set both"));
    }
    section.finish();
    NameResolver { servers, bounds: Bounds { least, most: most.max(least), stale } }
}

pub(super) fn tcp(upstream: &Scope<'_>) -> Tcp {
    let section = upstream.section("tcp", "How the kernel watches over connections.");
    let d = Tcp::default();
    let tcp = Tcp {
        user_timeout: section.duration(
            "user_timeout",
            d.user_timeout,
            "How long sent data may stay unacknowledged, or wait for an endpoint that takes none, before the connection ends (TCP_USER_TIMEOUT, on Linux). 0s leaves it to the system.",
        ),
        keepalive: section.duration(
            "keepalive",
            d.keepalive,
            "How long a connection is quiet before the endpoint's kernel is asked for a sign of life. 0s is never.",
        ),
    };
    section.finish();
    tcp
}

fn resolver(scope: &Scope<'_>, found: &Found<String>) -> Option<SocketAddr> {
    let text = &*found.value;
    let parsed = text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse().ok()?, 53)));
    if parsed.is_none() {
        wrong(scope, "servers", found, "write an address such as 10.0.0.53, or 10.0.0.53:5353");
    }
    parsed
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::config::{self, model::Config};

    fn parsed(upstream: &str) -> Result<Config, String> {
        let text = format!(
            "listeners: [{{ address: ':0' }}]\nupstreams: {{ app: {{ {upstream} }} }}\n\
             routes: [{{ upstream: app }}]\n"
        );
        config::parse("test.yaml", &text, Path::new(".")).map_err(|problems| problems.to_string())
    }

    #[test]
    fn servers_and_bounds_of_names_are_read_and_checked() {
        let named = "endpoints: [app.test]";
        let config = parsed(named).unwrap();
        assert_eq!(config.upstreams[0].resolver, NameResolver::default());
        let settings = "resolver: { servers: ['::1', '10.0.0.53:5353'], max_ttl: 5s, stale: 0s }";
        let config = parsed(&format!("{named}, {settings}")).unwrap();
        let NameResolver { servers, bounds } = &config.upstreams[0].resolver;
        let servers: Vec<_> = servers.iter().map(SocketAddr::to_string).collect();
        assert_eq!(servers, ["[::1]:53", "10.0.0.53:5353"]);
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(5));
        assert_eq!(*bounds, Bounds { least, most, stale: Duration::ZERO });
        for (upstream, problem) in [
            ("dns: app.test, resolver: { max_ttl: 5s }", "resolver is for names in endpoints"),
            ("endpoints: [app.test], resolver: { min_ttl: 20s }", "longer than max_ttl"),
            ("endpoints: [app.test], resolver: { min_ttl: 0s }", "min_ttl"),
            ("endpoints: [app.test], resolver: { servers: [app] }", "address such as"),
        ] {
            let problems = parsed(upstream).unwrap_err();
            assert!(problems.contains(problem), "{upstream}: {problems}");
        }
    }
}

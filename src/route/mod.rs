//! Floor 4: host and path to route. Pure.
//!
//! The most specific route wins, whatever the order in the file: an exact host before a wildcard
//! (the longest first) before any host; then an exact path before the longest prefix before any
//! path. Two routes of the same rank cannot both match: the configuration's check refuses equal
//! ones.

mod reading;

use std::sync::Arc;

use crate::config::model::{HostPattern, PathPattern, Route};

/// The routes, most specific first.
#[derive(Debug)]
pub struct Router {
    order: Vec<Ranked>,
    /// A route has a path: it matters how one is read.
    is_by_path: bool,
}

/// A route at its place in the order.
#[derive(Debug)]
struct Ranked {
    route: Arc<Route>,
    index: usize,
    /// What the route's path may be read as: a rule is written in escapes where paths come in escapes.
    readings: Vec<PathPattern>,
}

/// Why no route serves a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// No route has this host (RFC 9110 §15.5.20: 421).
    Host,
    /// Routes have this host, but none of them this path (404).
    Path,
    /// The path takes one route as it came and another one, or none, as an app may read it (400).
    Ambiguous,
}

impl Router {
    /// Orders the routes; [`Router::find`] answers with their index in `routes`.
    #[must_use]
    pub fn new(routes: &[Arc<Route>]) -> Self {
        let ranked = routes.iter().enumerate().map(|(index, route)| Ranked {
            route: Arc::clone(route),
            index,
            readings: readings(&route.path),
        });
        let mut order: Vec<_> = ranked.collect();
        order.sort_by_key(|Ranked { route, .. }| {
            std::cmp::Reverse((host_rank(&route.host), path_rank(&route.path)))
        });
        let is_by_path = order.iter().any(|ranked| ranked.route.path != PathPattern::Any);
        Router { order, is_by_path }
    }

    /// The index of the route that serves this host (as in the Host field, port included) and path.
    ///
    /// # Errors
    /// Which half no route has, or that the path can be read in two ways that matter.
    pub fn find(&self, host: &str, path: &str) -> Result<usize, NoRoute> {
        let found = self.find_where(host, |ranked| path_matches(&ranked.route.path, path))?;
        if self.is_by_path {
            let others = reading::others(path);
            if others.iter().any(|other| self.find_read(host, other) != Ok(found)) {
                return Err(NoRoute::Ambiguous);
            }
        }
        Ok(found)
    }

    /// The index of the route that a path takes which is read like this.
    fn find_read(&self, host: &str, reading: &str) -> Result<usize, NoRoute> {
        self.find_where(host, |Ranked { route, readings, .. }| {
            path_matches(&route.path, reading)
                || readings.iter().any(|pattern| path_matches(pattern, reading))
        })
    }

    fn find_where(&self, host: &str, matches: impl Fn(&Ranked) -> bool) -> Result<usize, NoRoute> {
        let host = without_port(host);
        let mut known_host = false;
        for ranked in &self.order {
            if !host_matches(&ranked.route.host, host) {
                continue;
            }
            known_host = true;
            if matches(ranked) {
                return Ok(ranked.index);
            }
        }
        Err(if known_host { NoRoute::Path } else { NoRoute::Host })
    }
}

/// What a route's path may be read as, beside what it is.
fn readings(path: &PathPattern) -> Vec<PathPattern> {
    let of = |path: &str, pattern: fn(Arc<str>) -> PathPattern| {
        reading::others(path).into_iter().map(|reading| pattern(reading.into())).collect()
    };
    match path {
        PathPattern::Any => Vec::new(),
        PathPattern::Exact(path) => of(path, PathPattern::Exact),
        PathPattern::Below(prefix) => of(prefix, PathPattern::Below),
    }
}

fn host_rank(host: &HostPattern) -> (u8, usize) {
    match host {
        HostPattern::Exact(name) => (2, name.len()),
        HostPattern::Below(suffix) => (1, suffix.len()),
        HostPattern::Any => (0, 0),
    }
}

fn path_rank(path: &PathPattern) -> (u8, usize) {
    match path {
        PathPattern::Exact(path) => (2, path.len()),
        PathPattern::Below(prefix) => (1, prefix.len()),
        PathPattern::Any => (0, 0),
    }
}

/// `uri-host [ ":" port ]` without the port; the brackets of an IPv6 address stay.
fn without_port(host: &str) -> &str {
    let digits = host.bytes().rev().take_while(u8::is_ascii_digit).count();
    match host.get(..host.len() - digits).and_then(|rest| rest.strip_suffix(':')) {
        Some(name) if name.ends_with(':') || (name.starts_with('[') && !name.ends_with(']')) => {
            host
        }
        Some(name) => name,
        None => host,
    }
}

fn host_matches(pattern: &HostPattern, host: &str) -> bool {
    // RFC 9110 §4.2.3: the host is case-insensitive. A trailing dot names the same host.
    let host = host.strip_suffix('.').unwrap_or(host);
    match pattern {
        HostPattern::Any => true,
        HostPattern::Exact(name) => host.eq_ignore_ascii_case(name),
        HostPattern::Below(suffix) => {
            host.len() > suffix.len()
                && host
                    .get(host.len() - suffix.len()..)
                    .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
        }
    }
}

fn path_matches(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Any => true,
        PathPattern::Exact(exact) => path == &**exact,
        PathPattern::Below(prefix) => path
            .strip_prefix(&**prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{
        Balance, Ejection, Hold, NameResolver, Retry, Tcp, Timeouts, Upstream, UpstreamLimits,
        UpstreamProtocol, UpstreamTls,
    };
    use crate::failure::policy::Policy;

    fn router(patterns: &[(HostPattern, PathPattern)]) -> Router {
        let upstream = Arc::new(Upstream {
            name: "app".into(),
            endpoints: Vec::new(),
            dns: None,
            resolver: NameResolver::default(),
            protocol: UpstreamProtocol::default(),
            timeouts: Timeouts::default(),
            tcp: Tcp::default(),
            limits: UpstreamLimits::default(),
            retry: Retry::default(),
            balance: Balance::default(),
            ejection: Ejection::default(),
            circuit: None,
            concurrency: None,
            slow_start: Upstream::SLOW_START,
            health: None,
            tls: UpstreamTls::default(),
            proxy_protocol: None,
        });
        let routes: Vec<_> = patterns
            .iter()
            .map(|(host, path)| {
                Arc::new(Route {
                    name: "r".into(),
                    host: host.clone(),
                    path: path.clone(),
                    upstream: Arc::clone(&upstream),
                    policy: Arc::new(Policy::default()),
                    hold: Hold::default(),
                    sse_event: false,
                    rehearsal: None,
                    request_body_bytes: None,
                })
            })
            .collect();
        Router::new(&routes)
    }

    #[test]
    fn the_most_specific_route_wins_whatever_the_order() {
        use HostPattern as H;
        use PathPattern as P;
        let router = router(&[
            (H::Any, P::Any),
            (H::Below(".example.com".into()), P::Any),
            (H::Exact("api.example.com".into()), P::Below("/v1".into())),
            (H::Exact("api.example.com".into()), P::Below("/v1/users".into())),
            (H::Exact("api.example.com".into()), P::Exact("/v1/users".into())),
        ]);
        let rows = [
            ("api.example.com", "/v1/users", 4),
            ("API.Example.com:8080", "/v1/users/7", 3),
            ("api.example.com", "/v1", 2),
            ("api.example.com", "/v1beta", 1),
            ("www.example.com.", "/", 1),
            ("example.com", "/", 0),
            ("[::1]:80", "/", 0),
            ("", "/", 0),
        ];
        for (host, path, expected) in rows {
            assert_eq!(router.find(host, path), Ok(expected), "{host} {path}");
        }
    }

    #[test]
    fn an_unknown_host_is_told_from_an_unknown_path() {
        let router =
            router(&[(HostPattern::Exact("a.test".into()), PathPattern::Below("/x".into()))]);
        assert_eq!(router.find("b.test", "/x"), Err(NoRoute::Host));
        assert_eq!(router.find("a.test", "/y"), Err(NoRoute::Path));
    }

    #[test]
    fn a_path_that_may_be_read_as_one_of_another_route_takes_none() {
        use PathPattern as P;
        let any = HostPattern::Any;
        let router = router(&[
            (any.clone(), P::Any),
            (any.clone(), P::Below("/admin".into())),
            (any, P::Exact("/health".into())),
        ]);
        for path in [
            "/%61dmin",
            "/admi%6e/x",
            "//admin",
            "/a/../admin",
            "/a/..%2Fadmin/users",
            "/a/..;x/admin",
            "/a\\..\\admin",
            "/admin;x",
            "/admin/..",
            "/admin/../x",
            "/admin%2Fx",
            "/./health",
            "/%68ealth",
            "/a//../admin",
        ] {
            assert_eq!(router.find("a", path), Err(NoRoute::Ambiguous), "{path}");
        }
        for (path, expected) in [
            ("/admin//x", 1),
            ("/admin/a%2Fb;c=d/../e", 1),
            ("/a%2Fb", 0),
            ("/redirect/https://a.test/../x", 0),
            ("/.well-known/x", 0),
            ("/100%/x", 0),
            ("/health", 2),
        ] {
            assert_eq!(router.find("a", path), Ok(expected), "{path}");
        }
    }

    #[test]
    fn a_rule_that_is_written_in_escapes_is_taken_by_paths_in_escapes() {
        use PathPattern as P;
        let any = HostPattern::Any;
        let router = router(&[
            (any.clone(), P::Any),
            (any.clone(), P::Below("/caf%C3%A9".into())),
            (any.clone(), P::Exact("/a;v=1".into())),
            (any, P::Below("/x//y".into())),
        ]);
        for (path, expected) in [
            ("/caf%C3%A9", Ok(1)),
            ("/caf%C3%A9/menu%20du%20jour", Ok(1)),
            ("/a;v=1", Ok(2)),
            ("/x//y/z", Ok(3)),
            ("/caf%C3%A9/../x", Err(NoRoute::Ambiguous)),
            ("/%63af%C3%A9/x", Err(NoRoute::Ambiguous)),
            ("/b%20c", Ok(0)),
        ] {
            assert_eq!(router.find("a", path), expected, "{path}");
        }
    }

    #[test]
    fn where_no_route_has_a_path_every_path_passes() {
        let router = router(&[(HostPattern::Any, PathPattern::Any)]);
        assert_eq!(router.find("a", "/a/..%2F//;x"), Ok(0));
    }

    #[test]
    fn ports_are_not_part_of_the_host() {
        for (given, expected) in
            [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("a:", "a")]
        {
            assert_eq!(without_port(given), expected);
        }
    }
}

//! Routes: which host and path, which upstream, how failures are answered there.

use std::sync::Arc;

use super::super::diagnostic::Problem;
use super::super::model::{HostPattern, PathPattern, Route};
use super::super::scope::Scope;
use super::failures::{self, Settings};
use super::upstream::{self, Known};
use super::{Base, plain_name, wrong};

pub(super) fn routes(
    root: &Scope<'_>,
    upstreams: &[Known],
    global: &Settings,
    secret: Option<&Arc<str>>,
    base: Base<'_>,
) -> Vec<Arc<Route>> {
    let mut routes: Vec<Arc<Route>> = Vec::new();
    let meaning = "Which requests go where; the most specific route wins, whatever the order.";
    for section in root.sections("routes", true, meaning) {
        let meaning = "The `route` label of metrics; host and path if not set.";
        let name = section.text("name", "letters, digits, `-`, `_`, `.`", None, meaning);
        let meaning = "This host, or *.example.com for every host below it; any if not set.";
        let host = section.text("host", "host name", None, meaning);
        let meaning = "This path, or /v1/* for it and all below it; any if not set.";
        let path = section.text("path", "path", None, meaning);
        let meaning = "The name of the upstream that serves it.";
        let target = section.required_text("upstream", "name", meaning);
        let settings = failures::of_route(&section, global, base);
        let meaning =
            "The largest request content; unlimited if not set, since content is streamed.";
        let request_body_bytes = section.optional_size("request_body", None, 0, meaning);
        let meaning =
            "Requests that know the secret of `rehearsal` may ask for failures, to test clients.";
        let rehearse = section.bool("rehearse", false, meaning);
        if rehearse && secret.is_none() {
            let problem = Problem::new(section.span(), "the route rehearses without a secret");
            section.problem(problem.remedy("set rehearsal.secret_file"));
        }

        let host_pattern = host.as_ref().map_or(Ok(HostPattern::Any), |found| host_of(found));
        let path_pattern = path.as_ref().map_or(Ok(PathPattern::Any), |found| path_of(found));
        if let (Err(remedy), Some(found)) = (&host_pattern, &host) {
            wrong(&section, "host", found, remedy);
        }
        if let (Err(remedy), Some(found)) = (&path_pattern, &path) {
            wrong(&section, "path", found, remedy);
        }
        let label = match &name {
            Some(found) => plain_name(found).unwrap_or_else(|| {
                wrong(&section, "name", found, "use up to 64 letters, digits, `-`, `_` and `.`");
                "".into()
            }),
            None => {
                let host = host.as_ref().map_or("*", |found| found);
                let path = path.as_ref().map_or("/*", |found| found);
                format!("{host}{path}").into()
            }
        };
        let upstream = target
            .and_then(|found| upstream::find(upstreams, &section, &found, found.span).cloned());
        if let (Ok(host), Ok(path), Some(upstream)) = (host_pattern, path_pattern, upstream) {
            if routes.iter().any(|known| known.host == host && known.path == path) {
                let problem =
                    Problem::new(section.span(), "a route for this host and path is there already");
                section.problem(problem.remedy("remove one of the two"));
            }
            routes.push(Arc::new(Route {
                name: label,
                host,
                path,
                upstream,
                policy: settings.policy(),
                hold: settings.hold.clone(),
                sse_event: settings.sse_event,
                rehearsal: secret.filter(|_| rehearse).cloned(),
                request_body_bytes,
            }));
        }
        section.finish();
    }
    routes
}

fn host_of(text: &str) -> Result<HostPattern, &'static str> {
    const FORM: &str =
        "write a host such as api.example.com or *.example.com, without port or scheme";
    let plain = |name: &str| {
        !name.is_empty()
            && name.len() <= 253
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.[]:".contains(c))
            && (name.starts_with('[') || !name.contains(':'))
    };
    let lower = text.to_ascii_lowercase();
    match lower.strip_prefix("*.") {
        _ if text == "*" => Ok(HostPattern::Any),
        Some(rest) if plain(rest) => Ok(HostPattern::Below(format!(".{rest}").into())),
        None if plain(&lower) => Ok(HostPattern::Exact(lower.into())),
        _ => Err(FORM),
    }
}

fn path_of(text: &str) -> Result<PathPattern, &'static str> {
    const FORM: &str = "write a path such as /login, or /v1/* for all below /v1";
    if matches!(text, "*" | "/*") {
        return Ok(PathPattern::Any);
    }
    let visible = |path: &str| path.bytes().all(|b| b.is_ascii_graphic() && !b"?#*".contains(&b));
    match text.strip_suffix("/*") {
        Some(prefix) if prefix.starts_with('/') && visible(prefix) => {
            Ok(PathPattern::Below(prefix.into()))
        }
        None if text.starts_with('/') && visible(text) => Ok(PathPattern::Exact(text.into())),
        _ => Err(FORM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_have_their_usual_forms() {
        assert_eq!(host_of("*"), Ok(HostPattern::Any));
        assert_eq!(host_of("*.Example.com"), Ok(HostPattern::Below(".example.com".into())));
        assert_eq!(host_of("API.example.com"), Ok(HostPattern::Exact("api.example.com".into())));
        assert_eq!(path_of("/*"), Ok(PathPattern::Any));
        assert_eq!(path_of("/v1/*"), Ok(PathPattern::Below("/v1".into())));
        assert_eq!(path_of("/v1"), Ok(PathPattern::Exact("/v1".into())));
        for host in ["", "a:80", "http://a", "a.*", "a/b"] {
            assert!(host_of(host).is_err(), "{host}");
        }
        for path in ["", "v1", "/a?b", "/a/*/b", "/a*", "/a b"] {
            assert!(path_of(path).is_err(), "{path}");
        }
    }
}

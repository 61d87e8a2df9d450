//! What a listener does with every request, whatever route it takes: sends it on to `https`, or
//! tells the client to use TLS alone (RFC 6797).

use http::header::{CONTENT_LENGTH, HeaderValue, LOCATION, STRICT_TRANSPORT_SECURITY};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};

use super::check;
use super::client::Client;
use super::head::Head;
use super::incoming::Incoming;
use super::reply::Reply;
use super::unrouted::Unrouted;
use super::{Left, Refused, Worker, refuse_unrouted, request as incoming};
use crate::failure::ClientFailure;
use crate::telemetry::request_id::RequestId;

/// What a listener does with every request.
#[derive(Debug, Default)]
pub struct Entrance {
    /// The port of `https` to which requests are sent on; `None` serves them.
    pub redirect: Option<u16>,
    /// `Strict-Transport-Security` of every answer that has none of its own.
    pub hsts: Option<HeaderValue>,
}

impl Entrance {
    /// Completes an answer, the upstream's or our own.
    pub fn complete(&self, reply: &mut Reply) {
        if let Some(hsts) = &self.hsts
            && !reply.fields.contains(&STRICT_TRANSPORT_SECURITY)
        {
            reply.fields.append(&STRICT_TRANSPORT_SECURITY, hsts);
        }
    }
}

/// Sends the client to the same address under `https`: 308, so that method and content stay.
pub(super) fn redirect(
    worker: &Worker,
    client: &Client,
    head: &Head,
    body: Incoming,
    port: u16,
    id: &RequestId,
) -> Box<Refused> {
    let host = check::check(head, &client.peer).ok();
    let target = match head.method {
        Method::CONNECT => None,
        _ => head.uri.path_and_query().map(PathAndQuery::as_str).or(Some("/")),
    };
    let location = host.zip(target).and_then(|(host, target)| location(host, target, port));
    let Some(location) = location else {
        let failure = ClientFailure::BadRequest;
        return refuse_unrouted(worker, client, head, body, failure, id);
    };
    worker.metrics.redirected();
    let status = StatusCode::PERMANENT_REDIRECT;
    Unrouted::of(head).ended(worker, id.as_str(), status.as_u16());
    let mut reply = Reply::empty(status, head.version);
    reply.fields.append(&LOCATION, &location);
    // Also of a HEAD, where there is no content to count.
    reply.fields.append(&CONTENT_LENGTH, &HeaderValue::from_static("0"));
    reply.fields.set_request_id(id.as_bytes());
    let left = Left { body, expects_continue: incoming::expects_continue(head) };
    Refused::with(reply, Some(left))
}

/// The host without its port, and the target. `None`: the client has named no host, or no path.
fn location(host: &str, target: &str, port: u16) -> Option<HeaderValue> {
    let name = match host.rsplit_once(':') {
        // A colon inside brackets belongs to the address.
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let path = match target.chars().next() {
        None => "/",
        Some('/') => "",
        Some('?') => "/",
        Some(_) => return None,
    };
    if name.is_empty() {
        return None;
    }
    let location = match port {
        443 => format!("https://{name}{path}{target}"),
        _ => format!("https://{name}:{port}{path}{target}"),
    };
    HeaderValue::try_from(location).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Version;

    #[test]
    fn host_and_target_stay_and_the_port_is_the_configured_one() {
        for (host, target, port, expected) in [
            ("shop.example", "/a?b=c", 443, "https://shop.example/a?b=c"),
            ("shop.example:8080", "/", 443, "https://shop.example/"),
            ("shop.example:8080", "/", 8443, "https://shop.example:8443/"),
            ("[::1]:80", "/", 443, "https://[::1]/"),
            ("[::1]", "//evil.example", 8443, "https://[::1]:8443//evil.example"),
            ("shop.example", "?a", 443, "https://shop.example/?a"),
            ("shop.example", "", 443, "https://shop.example/"),
        ] {
            let expected = HeaderValue::from_static(expected);
            assert_eq!(location(host, target, port), Some(expected), "{host} {target}");
        }
        assert_eq!(location("", "/", 443), None);
        assert_eq!(location(":80", "/", 443), None);
        assert_eq!(location("shop.example", "*", 443), None);
    }

    #[test]
    fn an_answer_with_a_policy_of_its_own_keeps_it() {
        let entrance =
            Entrance { redirect: None, hsts: Some(HeaderValue::from_static("max-age=60")) };
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let mut reply = Reply::empty(StatusCode::OK, version);
            entrance.complete(&mut reply);
            assert_eq!(reply.fields.into_map()[STRICT_TRANSPORT_SECURITY], "max-age=60");
            let mut reply = Reply::empty(StatusCode::OK, version);
            let own = HeaderValue::from_static("max-age=1");
            reply.fields.append(&STRICT_TRANSPORT_SECURITY, &own);
            entrance.complete(&mut reply);
            let fields = reply.fields.into_map();
            let policies = fields.get_all(STRICT_TRANSPORT_SECURITY).iter().collect::<Vec<_>>();
            assert_eq!(policies, [&own]);
        }
    }
}

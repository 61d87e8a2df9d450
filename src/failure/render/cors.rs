//! Which scripts may read seawall's answers (Fetch standard, "CORS protocol").
//!
//! A browser shows a cross-origin answer to a script only if the answer allows its origin. The
//! app's answers do; ours must too, or the script sees a `TypeError` where a 500 was. Only answers
//! that seawall makes are touched.

use ::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    HeaderValue, VARY,
};

use super::Answer;

/// The origins whose scripts may read the answers of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    origins: Origins,
    credentials: bool,
    expose: HeaderValue,
}

/// Which origins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Every one.
    Any,
    /// These, serialised as browsers do: `https://app.example.com`, lower case, no default port.
    Listed(Vec<HeaderValue>),
}

impl Cors {
    /// Fields that scripts may read unless configured otherwise.
    pub const EXPOSED: &'static [&'static str] =
        &["x-request-id", "proxy-status", "retry-after", "grpc-status", "grpc-message"];

    /// These origins; `credentials` lets requests with cookies read answers, and `expose` lists the
    /// fields that scripts may see. Credentials do not go with [`Origins::Any`].
    #[must_use]
    pub fn new(origins: Origins, credentials: bool, expose: HeaderValue) -> Self {
        Cors { origins, credentials, expose }
    }

    /// Adds what the request's origin needs to read this answer.
    pub fn allow(&self, answer: &mut Answer, origin: Option<&HeaderValue>) {
        let allowed = match &self.origins {
            // Also without an origin: a cache may serve this to a request that has one.
            Origins::Any => Some(HeaderValue::from_static("*")),
            Origins::Listed(listed) => {
                // Also without a match: a cache must not serve this to another origin.
                answer.fields.push((VARY, HeaderValue::from_static("Origin")));
                origin.filter(|origin| listed.contains(origin)).cloned()
            }
        };
        let Some(allowed) = allowed else { return };
        answer.fields.push((ACCESS_CONTROL_ALLOW_ORIGIN, allowed));
        if self.credentials {
            let yes = HeaderValue::from_static("true");
            answer.fields.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, yes));
        }
        if !self.expose.is_empty() {
            answer.fields.push((ACCESS_CONTROL_EXPOSE_HEADERS, self.expose.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const ORIGIN: HeaderValue = HeaderValue::from_static("https://app.example.com");

    fn allowed(cors: &Cors, origin: Option<&HeaderValue>) -> Vec<(String, String)> {
        let status = ::http::StatusCode::INTERNAL_SERVER_ERROR;
        let mut answer = Answer { status, fields: Vec::new(), body: Bytes::new() };
        cors.allow(&mut answer, origin);
        let text = |(name, value): &(::http::HeaderName, HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned())
        };
        answer.fields.iter().map(text).collect()
    }

    fn of(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_listed_origin_may_read_and_others_may_not() {
        let expose = HeaderValue::from_static("x-request-id");
        let cors = Cors::new(Origins::Listed(vec![ORIGIN]), true, expose);
        let expected = of(&[
            ("vary", "Origin"),
            ("access-control-allow-origin", "https://app.example.com"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "x-request-id"),
        ]);
        assert_eq!(allowed(&cors, Some(&ORIGIN)), expected);
        let other = HeaderValue::from_static("https://app.example.com.evil.test");
        assert_eq!(allowed(&cors, Some(&other)), of(&[("vary", "Origin")]));
        assert_eq!(allowed(&cors, None), of(&[("vary", "Origin")]));
    }

    #[test]
    fn any_origin_is_a_star() {
        let cors = Cors::new(Origins::Any, false, HeaderValue::from_static(""));
        for origin in [Some(&ORIGIN), None] {
            assert_eq!(allowed(&cors, origin), of(&[("access-control-allow-origin", "*")]));
        }
    }
}

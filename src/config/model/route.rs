//! Which requests go to which upstream, and what is held of the responses.

use std::sync::Arc;
use std::time::Duration;

use super::Upstream;
use crate::failure::policy::Policy;

/// A rule from host and path to an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The `route` label: `host` and `path` as written, or the given name.
    pub name: Arc<str>,
    /// Which hosts.
    pub host: HostPattern,
    /// Which paths.
    pub path: PathPattern,
    /// Where to.
    pub upstream: Arc<Upstream>,
    /// How failures are answered.
    pub policy: Arc<Policy>,
    /// Which responses are held until they are whole.
    pub hold: Hold,
    /// Event streams pass event by event, and end with an `error` event when the upstream fails.
    /// Default off.
    pub sse_event: bool,
    /// The secret with which clients may ask for failures; `None` is off.
    pub rehearsal: Option<Arc<str>>,
    /// Bytes of request content; `None` is no limit.
    pub request_body_bytes: Option<u64>,
}

/// Hosts that a route serves. Lower case, without port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// Every host.
    Any,
    /// This host.
    Exact(Arc<str>),
    /// `*.example.com`, stored as `.example.com`: every host below it.
    Below(Arc<str>),
}

/// Paths that a route serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    /// Every path.
    Any,
    /// `/v1/users`: this path.
    Exact(Arc<str>),
    /// `/v1/*`, stored as `/v1`: this path and all below it, at segment boundaries.
    Below(Arc<str>),
}

/// The hold (P2).
#[derive(Clone, Debug, PartialEq)]
pub struct Hold {
    /// Responses that may still fit are held; 0 is off. Default 64 KiB.
    pub bytes: usize,
    /// How long a response is held at most. Default 1 s.
    pub time: Duration,
    /// Media types that are useless in part: they are held for `time` although their length is not
    /// known.
    pub types: Arc<[MediaPattern]>,
}

impl Hold {
    /// The default of [`Hold::types`], as it is written in a file.
    pub const TYPES: &'static [&'static str] = &["application/json", "*+json", "*+xml"];
}

impl Default for Hold {
    fn default() -> Self {
        Hold {
            bytes: 64 * 1024,
            time: Duration::from_secs(1),
            types: Self::TYPES.iter().filter_map(|text| MediaPattern::parse(text)).collect(),
        }
    }
}

/// Media types: one, all that end like `*+json`, or all that begin like `text/*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaPattern {
    /// This one. Lower case, as all of these.
    Exact(Box<str>),
    /// All that end like this.
    Suffix(Box<str>),
    /// All that begin like this.
    Prefix(Box<str>),
}

impl MediaPattern {
    /// Reads `application/json`, `*+json` or `text/*`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let plain = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"/+.-_!#$&^".contains(&b))
        };
        if let Some(suffix) = text.strip_prefix('*') {
            (suffix.starts_with('+') && plain(suffix)).then(|| Self::Suffix(suffix.into()))
        } else if let Some(prefix) = text.strip_suffix('*') {
            (prefix.ends_with('/') && plain(prefix)).then(|| Self::Prefix(prefix.into()))
        } else {
            (text.contains('/') && plain(&text)).then(|| Self::Exact(text.into()))
        }
    }

    /// Whether a media type without parameters is one of these.
    #[must_use]
    pub fn matches(&self, media_type: &[u8]) -> bool {
        let part = |from: Option<&[u8]>, wanted: &str| {
            from.is_some_and(|part| part.eq_ignore_ascii_case(wanted.as_bytes()))
        };
        match self {
            Self::Exact(wanted) => part(Some(media_type), wanted),
            Self::Prefix(wanted) => part(media_type.get(..wanted.len()), wanted),
            Self::Suffix(wanted) => {
                let from = media_type.len().checked_sub(wanted.len());
                part(from.and_then(|from| media_type.get(from..)), wanted)
            }
        }
    }
}

impl std::fmt::Display for MediaPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(whole) => f.write_str(whole),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

//! The three bodies of an answer: problem document (RFC 9457), HTML page, plain text.
//!
//! What can be known before a failure happens is written once: a [`Page`] holds, for one kind of
//! answer, the text around status and request id in each media type. Rendering then is one
//! allocation and a handful of copies. Titles are sentences for end users: they say that it did
//! not work and whether waiting helps, and nothing about how the app is built (P4).

use std::sync::LazyLock;

use super::super::{ClientFailure, Kind};
use super::accept::MediaType;

/// The text of one kind of answer, in every media type.
pub(super) struct Page {
    problem: Around,
    html: Around,
    plain: Around,
}

/// What stands before the status, between status and request id, and after it.
struct Around {
    before: String,
    between: &'static str,
    after: &'static str,
}

static KINDS: LazyLock<Vec<Page>> = LazyLock::new(|| {
    Kind::ALL
        .iter()
        .map(|kind| Page::new("urn:seawall:failure:", kind.name(), title(*kind)))
        .collect()
});

static CLIENTS: LazyLock<Vec<Page>> = LazyLock::new(|| {
    ClientFailure::ALL
        .iter()
        .map(|failure| Page::new("urn:seawall:client:", failure.name(), client_title(*failure)))
        .collect()
});

static OVERLOAD: LazyLock<Page> = LazyLock::new(|| {
    Page::new("urn:seawall:", "overload", "The service is busy. Please try again in a moment.")
});

/// The page of a kind.
pub(super) fn of_kind(kind: Kind) -> Option<&'static Page> {
    KINDS.get(kind.index())
}

/// The page of a client failure.
pub(super) fn of_client(failure: ClientFailure) -> Option<&'static Page> {
    ClientFailure::ALL
        .iter()
        .position(|candidate| *candidate == failure)
        .and_then(|index| CLIENTS.get(index))
}

/// The page of seawall's own overload.
pub(super) fn of_overload() -> &'static Page {
    &OVERLOAD
}

/// What an end user reads. Kinds that look the same from outside share a sentence.
pub(super) const fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::DnsError
        | Kind::DestinationIpUnroutable
        | Kind::ConnectionRefused
        | Kind::ConnectionTerminated
        | Kind::TlsProtocolError
        | Kind::TlsCertificateError
        | Kind::TlsAlertReceived => "The application did not answer this request.",
        Kind::DnsTimeout
        | Kind::ConnectionTimeout
        | Kind::ConnectionReadTimeout
        | Kind::ConnectionWriteTimeout
        | Kind::HttpResponseTimeout => "The application did not answer this request in time.",
        Kind::DestinationUnavailable | Kind::ConnectionLimitReached => {
            "The application is not available right now. Please try again in a moment."
        }
        Kind::HttpResponseIncomplete
        | Kind::HttpResponseHeaderSectionSize
        | Kind::HttpResponseHeaderSize
        | Kind::HttpResponseBodySize
        | Kind::HttpResponseTrailerSectionSize
        | Kind::HttpResponseTransferCoding
        | Kind::HttpProtocolError
        | Kind::HttpUpgradeFailed
        | Kind::WebsocketProtocolError => "The application gave no usable answer to this request.",
        Kind::ApplicationError | Kind::DependencyFailure => {
            "The application could not complete this request."
        }
        Kind::ProxyInternalError | Kind::ProxyConfigurationError | Kind::ProxyLoopDetected => {
            "This request could not be processed."
        }
    }
}

const fn client_title(failure: ClientFailure) -> &'static str {
    match failure {
        ClientFailure::BadRequest => "The request could not be understood.",
        ClientFailure::RequestTimeout => "The request did not arrive in time.",
        ClientFailure::ContentTooLarge => "The request content is too large.",
        ClientFailure::UriTooLong => "The request target is too long.",
        ClientFailure::FieldsTooLarge => "The request's header fields are too large.",
        ClientFailure::Misdirected => "This host is not served here.",
        ClientFailure::NoRoute => "Nothing is served at this address.",
        ClientFailure::UnsupportedProtocol => "This protocol is not served here.",
        ClientFailure::Loop => "This request goes round in a loop.",
        ClientFailure::Gone => "The client closed the connection.",
        ClientFailure::WebsocketProtocolError => "The WebSocket protocol was violated.",
        ClientFailure::WebsocketMessageTooBig => "The WebSocket message is too big.",
        ClientFailure::TlsHandshake => "The TLS handshake failed.",
        ClientFailure::Http2 => "The HTTP/2 protocol was violated.",
        ClientFailure::ProxyProtocol => "The PROXY protocol was violated.",
    }
}

impl Page {
    /// `name` and `title` are our own literals, without a character that needs escaping.
    fn new(urn: &str, name: &str, title: &str) -> Self {
        Page {
            problem: Around {
                before: format!(r#"{{"type":"{urn}{name}","title":"{title}","status":"#),
                between: r#","instance":""#,
                after: "\"}\n",
            },
            html: Around {
                before: format!(
                    "{HTML_HEAD}<title>{title}</title>\n{HTML_STYLE}<h1>{title}</h1>\n<p>{name}, status "
                ),
                between: "</p>\n<p>If you report this, please mention request <code>",
                after: "</code>.</p>\n</html>\n",
            },
            plain: Around {
                before: format!("{title}\n\nerror: {name}\nstatus: "),
                between: "\nrequest: ",
                after: "\n",
            },
        }
    }

    /// The body: one allocation.
    pub(super) fn body(&self, media_type: MediaType, status: u16, request_id: &str) -> Vec<u8> {
        let (around, escape): (_, fn(u8) -> Option<Escape>) = match media_type {
            MediaType::Problem => (&self.problem, json_escape),
            MediaType::Html => (&self.html, html_escape),
            MediaType::Plain => (&self.plain, plain_escape),
        };
        let fixed = around.before.len() + 3 + around.between.len() + around.after.len();
        let mut body = Vec::with_capacity(fixed + request_id.len());
        body.extend_from_slice(around.before.as_bytes());
        body.extend_from_slice(&digits(status));
        body.extend_from_slice(around.between.as_bytes());
        if request_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            body.extend_from_slice(request_id.as_bytes());
        } else {
            push_escaped(&mut body, request_id, escape);
        }
        body.extend_from_slice(around.after.as_bytes());
        body
    }
}

fn push_escaped(body: &mut Vec<u8>, text: &str, escape: fn(u8) -> Option<Escape>) {
    for byte in text.bytes() {
        match escape(byte) {
            None => body.push(byte),
            Some(Escape::Named(text)) => body.extend_from_slice(text.as_bytes()),
            Some(Escape::Dropped) => {}
        }
    }
}

/// The three digits of a status.
pub(super) fn digits(status: u16) -> [u8; 3] {
    [status / 100, status / 10, status].map(|n| b'0' + u8::try_from(n % 10).unwrap_or(0))
}

// A request id is ours or a trusted proxy's, and plain ASCII; the escapes are for the day when it
// is not. Control characters are dropped: no id has any.
enum Escape {
    Named(&'static str),
    Dropped,
}

fn plain_escape(byte: u8) -> Option<Escape> {
    byte.is_ascii_control().then_some(Escape::Dropped)
}

fn json_escape(byte: u8) -> Option<Escape> {
    match byte {
        b'"' => Some(Escape::Named("\\\"")),
        b'\\' => Some(Escape::Named("\\\\")),
        _ => plain_escape(byte),
    }
}

fn html_escape(byte: u8) -> Option<Escape> {
    match byte {
        b'&' => Some(Escape::Named("&amp;")),
        b'<' => Some(Escape::Named("&lt;")),
        b'>' => Some(Escape::Named("&gt;")),
        b'"' => Some(Escape::Named("&quot;")),
        b'\'' => Some(Escape::Named("&#39;")),
        _ => plain_escape(byte),
    }
}

const HTML_HEAD: &str = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
    <meta name=\"viewport\" content=\"width=device-width\">\n\
    <meta name=\"robots\" content=\"noindex\">\n";

const HTML_STYLE: &str = "<style>\n\
    :root { color-scheme: light dark }\n\
    body { font: 1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 18vh auto; padding: 0 1rem }\n\
    h1 { font-size: 1.4rem }\n\
    p { opacity: .75 }\n\
    code { overflow-wrap: anywhere }\n\
    </style>\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_request_id_stays_inside_its_place() {
        let page = of_kind(Kind::ConnectionRefused).unwrap();
        let id = "a\"b\\c<script>&'\r\n\u{7f}ü";
        let problem = page.body(MediaType::Problem, 500, id);
        let problem: serde_json::Value = serde_json::from_slice(&problem).unwrap();
        assert_eq!(problem["instance"], "a\"b\\c<script>&'ü");
        let html = String::from_utf8(page.body(MediaType::Html, 500, id)).unwrap();
        assert!(html.contains("<code>a&quot;b\\c&lt;script&gt;&amp;&#39;ü</code>"), "{html}");
        let plain = String::from_utf8(page.body(MediaType::Plain, 500, id)).unwrap();
        assert!(plain.ends_with("\nrequest: a\"b\\c<script>&'ü\n"), "{plain}");
    }

    #[test]
    fn ordinary_ids_need_one_allocation() {
        for kind in Kind::ALL {
            for media_type in [MediaType::Problem, MediaType::Html, MediaType::Plain] {
                let body = of_kind(*kind).unwrap().body(media_type, 500, "01JD3W9V7K4Q");
                assert_eq!(body.len(), body.capacity(), "{kind} {media_type:?}");
            }
        }
    }

    #[test]
    fn every_client_failure_has_a_page() {
        for failure in ClientFailure::ALL {
            assert!(of_client(*failure).is_some(), "{failure}");
        }
    }

    #[test]
    fn statuses_are_three_digits() {
        for status in 100..=999 {
            assert_eq!(std::str::from_utf8(&digits(status)).unwrap(), status.to_string());
        }
    }
}

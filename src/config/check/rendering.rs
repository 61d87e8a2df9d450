//! How answers are written: an operator's own templates, and which scripts may read them.

use std::fs::File;
use std::io::{self, Read};

use http::{HeaderName, HeaderValue};

use super::super::scope::{Found, Scope};
use super::{Base, failures, wrong};
use crate::failure::Kind;
use crate::failure::render::cors::{Cors, Origins};
use crate::failure::render::template::{Template, Templates};

/// Largest template in bytes.
const TEMPLATE_BYTES: u64 = 256 * 1024;

/// The templates, if a list is given; an empty one means the built-in bodies.
pub(super) fn templates(section: &Scope<'_>, base: Base<'_>) -> Option<Templates> {
    let meaning = "Bodies of answers to failures of upstreams, instead of the built-in ones; the first that fits is taken. A route's list replaces the other.";
    let mut templates = Vec::new();
    for template in section.sections("templates", false, meaning) {
        let meaning = "A Jinja template of status, kind, title, request_id and retry_after.";
        let file = template.required_text("file", "file", meaning);
        let meaning = "The media type of its output; by the file's extension (.html, .json, .txt) if not set.";
        let media_type = template.text("type", "media type", None, meaning);
        let meaning = "The kinds that it is for; all if not set.";
        let kinds = kinds(&template, &template.texts("kinds", "kind", false, meaning));
        if let Some(file) = file {
            let media_type = media_type.as_ref().map(|found| found.value.as_str());
            templates.extend(template_of(&template, &file, media_type, kinds, base));
        }
        template.finish();
    }
    section.has("templates").then(|| Templates::new(templates))
}

fn template_of(
    scope: &Scope<'_>,
    file: &Found<String>,
    media_type: Option<&str>,
    kinds: Vec<Kind>,
    base: Base<'_>,
) -> Option<Template> {
    let compiled = match (read(base, file), media_type.or_else(|| by_extension(file))) {
        (Err(error), _) => Err(format!("the file cannot be read: {error}")),
        (_, None) => Err("its extension tells no type: set `type`".to_owned()),
        (Ok(source), Some(media_type)) => {
            Template::compile(source, media_type, kinds).map_err(|error| error.to_string())
        }
    };
    match compiled {
        Ok(template) => Some(template),
        Err(remedy) => {
            wrong(scope, "file", file, &remedy);
            None
        }
    }
}

fn read(base: Base<'_>, file: &str) -> io::Result<String> {
    let mut source = String::new();
    let mut opened = File::open(base.0.join(file))?.take(TEMPLATE_BYTES + 1);
    let size = opened.read_to_string(&mut source)?;
    if size as u64 > TEMPLATE_BYTES {
        return Err(io::Error::other("it is larger than 256 KiB"));
    }
    Ok(source)
}

fn by_extension(file: &str) -> Option<&'static str> {
    match file.rsplit_once('.')?.1 {
        "html" | "htm" => Some("text/html"),
        "json" => Some("application/problem+json"),
        "txt" => Some("text/plain"),
        _ => None,
    }
}

fn kinds(scope: &Scope<'_>, names: &[Found<String>]) -> Vec<Kind> {
    let known = |name: &Found<String>| {
        let kind = Kind::from_name(name);
        if kind.is_none() {
            failures::unknown_kind(scope, name, name.span);
        }
        kind
    };
    names.iter().filter_map(known).collect()
}

/// Which scripts may read answers, if it is said; `off` says that none may.
pub(super) fn cors(section: &Scope<'_>) -> Option<Option<Cors>> {
    let meaning = "Scripts of these origins may read the answers that seawall makes; off: none.";
    let Ok(cors) = section.section_or_word("cors", "off", meaning)? else { return Some(None) };
    let meaning = "Origins such as https://app.example.com, or \"*\" alone for every one.";
    let found = cors.texts("origins", "origin", true, meaning);
    let meaning = "Requests with cookies may read answers; not with \"*\".";
    let credentials = cors.bool("credentials", false, meaning);
    let meaning = "Fields that scripts may see; x-request-id, proxy-status, retry-after, grpc-status and grpc-message if not set.";
    let expose = exposed(&cors, &cors.texts("expose", "field name", false, meaning));
    let star = found.iter().find(|origin| origin.value == "*");
    let listed = found.iter().filter(|origin| origin.value != "*");
    let listed = listed.filter_map(|origin| listed_origin(&cors, origin)).collect();
    let origins = match star {
        Some(star) => {
            if found.len() > 1 {
                wrong(&cors, "origins", star, "write \"*\" alone, or a list of origins");
            }
            if credentials {
                let remedy = "list the origins: browsers do not take \"*\" with credentials";
                wrong(&cors, "origins", star, remedy);
            }
            Origins::Any
        }
        None => Origins::Listed(listed),
    };
    cors.finish();
    Some(Some(Cors::new(origins, credentials, expose)))
}

/// An origin as browsers serialise it (HTML standard, "serialization of an origin").
fn listed_origin(scope: &Scope<'_>, found: &Found<String>) -> Option<HeaderValue> {
    if !is_origin(found) {
        let remedy = "write https://HOST or https://HOST:PORT as browsers do: lower case, no path, no default port";
        wrong(scope, "origins", found, remedy);
        return None;
    }
    HeaderValue::from_str(found).ok()
}

fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let default = match scheme {
        "https" => "443",
        "http" => "80",
        _ => return false,
    };
    let (host, port) = match authority.rsplit_once(':') {
        // The colons of an IPv6 address are in brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let valid_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => {
            let parsed: Result<std::net::Ipv6Addr, _> = address.parse();
            parsed.is_ok_and(|parsed| parsed.to_string() == address)
        }
        None => {
            let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_.".contains(&c);
            !host.is_empty() && host.bytes().all(plain)
        }
    };
    let valid_port = port.is_none_or(|port| {
        let number: Result<u16, _> = port.parse();
        number.is_ok_and(|number| number.to_string() == port) && port != default
    });
    valid_host && valid_port
}

fn exposed(scope: &Scope<'_>, names: &[Found<String>]) -> HeaderValue {
    for name in names {
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            wrong(scope, "expose", name, "write a field name such as x-request-id");
        }
    }
    let list = match names {
        [] => Cors::EXPOSED.join(", "),
        _ => names.iter().map(|name| name.value.as_str()).collect::<Vec<_>>().join(", "),
    };
    HeaderValue::try_from(list).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::is_origin;

    #[test]
    fn an_origin_is_what_browsers_send() {
        for origin in [
            "https://app.example.com",
            "http://localhost:3000",
            "https://a.b:8443",
            "http://127.0.0.1:81",
            "http://[::1]",
            "http://[2001:db8::1]:8080",
        ] {
            assert!(is_origin(origin), "{origin}");
        }
        for other in [
            "app.example.com",
            "https://",
            "https://:",
            "https://:8443",
            "http://a:b:c",
            "http://a:",
            "http://a:80",
            "https://a:443",
            "http://a:080",
            "http://a:65536",
            "https://App.example.com",
            "https://a/",
            "ws://a",
            "http://::1",
            "http://[::1",
            "http://[0:0::1]",
            "http://[a]",
            "null",
        ] {
            assert!(!is_origin(other), "{other}");
        }
    }
}

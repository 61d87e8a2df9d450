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

/// The templates, if any are given.
pub(super) fn templates(section: &Scope<'_>, base: Base<'_>) -> Option<Templates> {
    let meaning = "Bodies of answers to failures of upstreams, instead of the built-in ones; the first that fits is taken.";
    let mut templates = Vec::new();
    let mut given = false;
    for template in section.sections("templates", false, meaning) {
        given = true;
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
    given.then(|| Templates::new(templates))
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

/// Which scripts may read answers, if it is said.
pub(super) fn cors(section: &Scope<'_>) -> Option<Cors> {
    let meaning = "Scripts of these origins may read the answers that seawall makes.";
    let cors = section.optional_section("cors", meaning)?;
    let meaning = "Origins such as https://app.example.com, or \"*\" alone for every one.";
    let found = cors.texts("origins", "origin", true, meaning);
    let meaning = "Requests with cookies may read answers; not with \"*\".";
    let credentials = cors.bool("credentials", false, meaning);
    let meaning = "Fields that scripts may see; x-request-id, proxy-status, retry-after, grpc-status and grpc-message if not set.";
    let expose = exposed(&cors, &cors.texts("expose", "field name", false, meaning));
    let star = found.iter().find(|origin| origin.value == "*");
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
        None => Origins::Listed(found.iter().filter_map(|origin| listed(&cors, origin)).collect()),
    };
    cors.finish();
    Some(Cors::new(origins, credentials, expose))
}

/// An origin as browsers serialise it (HTML standard, "serialization of an origin").
fn listed(scope: &Scope<'_>, found: &Found<String>) -> Option<HeaderValue> {
    let (scheme, host) = found.split_once("://").unwrap_or_default();
    let default = if scheme == "https" { ":443" } else { ":80" };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.:[]".contains(c);
    let valid = matches!(scheme, "http" | "https")
        && !host.is_empty()
        && host.chars().all(plain)
        && !host.ends_with(default);
    if !valid {
        let remedy = "write https://HOST or https://HOST:PORT as browsers do: lower case, no path, no default port";
        wrong(scope, "origins", found, remedy);
        return None;
    }
    HeaderValue::from_str(found).ok()
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

//! Answers in an operator's own words: templates instead of the built-in bodies.
//!
//! A template is compiled, and rendered once for every kind it is for, when the configuration is
//! loaded: what is wrong with it is told then. At a request it is given the status, the kind, its
//! title, the request id, and the seconds of `Retry-After` if there are any; nothing of the
//! upstream is there to be written (P4). Should it fail all the same, the built-in body takes its
//! place: an answer never fails (P1).

use std::fmt;

use ::http::HeaderValue;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, context};

use super::super::Kind;
use super::accept::MediaType;
use super::content;

/// Largest body in bytes.
pub const MAX_BODY: usize = 64 * 1024;
/// Steps that rendering may take: far more than any page needs, far less than anybody would notice.
const FUEL: u64 = 100_000;
/// The one template of each environment.
const NAME: &str = "body";
/// The statuses that a profile gives, and so those that the renderings at load time try.
const STATUSES: [u16; 4] = [500, 502, 503, 504];
/// An id for the renderings that only check: with characters that every form has to escape.
const CHECK_ID: &str = "0<\"&'0";

/// One template.
pub struct Template {
    content_type: HeaderValue,
    class: MediaType,
    kinds: Vec<Kind>,
    source: Box<str>,
    environment: Environment<'static>,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template")
            .field("content_type", &self.content_type)
            .field("class", &self.class)
            .field("kinds", &self.kinds)
            .field("source", &self.source)
            .finish()
    }
}

/// An environment cannot be compared; all of it is made from what is compared here.
impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        let Template { content_type, class, kinds, source, environment: _ } = self;
        *content_type == other.content_type
            && *class == other.class
            && *kinds == other.kinds
            && *source == other.source
    }
}

/// What is wrong with a template.
#[derive(Debug)]
pub enum TemplateError {
    /// The media type is none that a client would be given this for.
    MediaType,
    /// It does not compile, or does not render.
    Template(minijinja::Error),
    /// Its output for this kind is not JSON, although its type says so.
    NotJson(Kind),
    /// Its output for this kind is larger than [`MAX_BODY`].
    TooLarge(Kind),
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TemplateError::MediaType => {
                f.write_str("the type must be text/html, text/plain, application/json or …+json")
            }
            TemplateError::Template(error) => {
                if let Some(line) = error.line() {
                    write!(f, "line {line}: ")?;
                }
                match (error.kind(), error.detail()) {
                    (ErrorKind::UndefinedError, _) => f.write_str(
                        "it uses a variable that is not there; there are status, kind, title, request_id and retry_after",
                    ),
                    (kind, Some(detail)) => write!(f, "{kind}: {detail}"),
                    (kind, None) => write!(f, "{kind}"),
                }
            }
            TemplateError::NotJson(kind) => write!(f, "what it makes of {kind} is not JSON"),
            TemplateError::TooLarge(kind) => {
                write!(f, "what it makes of {kind} is larger than 64 KiB")
            }
        }
    }
}

impl std::error::Error for TemplateError {}

impl Template {
    /// Compiles a template for these kinds; none means all.
    ///
    /// # Errors
    /// What is wrong with it, as far as rendering every kind shows.
    pub fn compile(
        source: String,
        media_type: &str,
        kinds: Vec<Kind>,
    ) -> Result<Self, TemplateError> {
        let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_json = essence == "application/json" || essence.ends_with("+json");
        let (class, escape) = match &*essence {
            "text/html" => (MediaType::Html, AutoEscape::Html),
            "text/plain" => (MediaType::Plain, AutoEscape::None),
            _ if is_json => (MediaType::Problem, AutoEscape::Json),
            _ => return Err(TemplateError::MediaType),
        };
        // JSON is UTF-8 and has no parameter that says so (RFC 8259 §11).
        let charset =
            if is_json || media_type.contains("charset") { "" } else { "; charset=utf-8" };
        let content_type = HeaderValue::from_str(&format!("{media_type}{charset}"))
            .map_err(|_| TemplateError::MediaType)?;
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(move |_| escape.clone());
        environment.set_fuel(Some(FUEL));
        environment.add_template_owned(NAME, source.clone()).map_err(TemplateError::Template)?;
        let kinds = if kinds.is_empty() { Kind::ALL.to_vec() } else { kinds };
        let template = Template { content_type, class, kinds, source: source.into(), environment };
        for kind in &template.kinds {
            for status in STATUSES {
                template.check(*kind, status, None, is_json)?;
                template.check(*kind, status, Some(5), is_json)?;
            }
        }
        Ok(template)
    }

    fn check(
        &self,
        kind: Kind,
        status: u16,
        retry_after: Option<u64>,
        is_json: bool,
    ) -> Result<(), TemplateError> {
        let body =
            self.render(kind, status, CHECK_ID, retry_after).map_err(TemplateError::Template)?;
        if body.len() > MAX_BODY {
            return Err(TemplateError::TooLarge(kind));
        }
        if is_json && serde_json::from_str::<serde_json::Value>(&body).is_err() {
            return Err(TemplateError::NotJson(kind));
        }
        Ok(())
    }

    /// The `Content-Type` of what it renders.
    #[must_use]
    pub fn content_type(&self) -> &HeaderValue {
        &self.content_type
    }

    fn render(
        &self,
        kind: Kind,
        status: u16,
        request_id: &str,
        retry_after: Option<u64>,
    ) -> Result<String, minijinja::Error> {
        self.environment.get_template(NAME)?.render(context! {
            status => status,
            kind => kind.name(),
            title => content::title(kind),
            request_id => request_id,
            retry_after => retry_after,
        })
    }
}

/// The templates of a route, the first that fits wins.
#[derive(Debug, Default, PartialEq)]
pub struct Templates(Vec<Template>);

impl Templates {
    /// These, in this order.
    #[must_use]
    pub fn new(templates: Vec<Template>) -> Self {
        Templates(templates)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The body for this kind and for a client that prefers this type, with its `Content-Type`.
    /// `retry_after` is in seconds.
    #[must_use]
    pub(super) fn body(
        &self,
        class: MediaType,
        kind: Kind,
        status: u16,
        request_id: &str,
        retry_after: Option<u64>,
    ) -> Option<(HeaderValue, String)> {
        let fits = |template: &&Template| template.class == class && template.kinds.contains(&kind);
        let template = self.0.iter().find(fits)?;
        let body = template.render(kind, status, request_id, retry_after).ok()?;
        (body.len() <= MAX_BODY).then(|| (template.content_type.clone(), body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(source: &str, media_type: &str) -> Result<Template, String> {
        Template::compile(source.to_owned(), media_type, Vec::new()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_not_ours_is_escaped_as_the_type_asks() {
        let id = "<b>\"&";
        for (media_type, source, expected) in [
            ("text/html", "<p>{{ request_id }}</p>", "<p>&lt;b&gt;&quot;&amp;</p>"),
            ("text/plain", "{{ request_id }}", "<b>\"&"),
            ("application/json", "{\"id\": {{ request_id }}}", "{\"id\": \"<b>\\\"&\"}"),
        ] {
            let templates = Templates::new(vec![compile(source, media_type).unwrap()]);
            let class = templates.0[0].class;
            let body = templates.body(class, Kind::DnsError, 500, id, None).unwrap().1;
            assert_eq!(body, expected, "{media_type}");
        }
    }

    #[test]
    fn every_mistake_is_told_when_the_template_is_compiled() {
        for (source, media_type, told) in [
            ("{{ status", "text/html", "line 1: syntax error"),
            ("a\n{{ upstream }}", "text/html", "line 2: it uses a variable that is not there"),
            ("{% include 'x' %}", "text/html", "line 1: "),
            ("{{ title }}", "image/png", "the type must be"),
            ("{\"a\": {{ title }}", "application/problem+json", "is not JSON"),
            (
                "{% for n in range(100000) %}{% for m in range(9) %}{% endfor %}{% endfor %}",
                "text/plain",
                "engine ran out of fuel",
            ),
            ("{{ 'x' * 70000 }}", "text/plain", ""),
            ("{% if status == 504 %}{{ gone }}{% endif %}", "text/plain", "is not there"),
            ("{% if retry_after %}{{ gone }}{% endif %}", "text/plain", "is not there"),
        ] {
            let error = compile(source, media_type).unwrap_err();
            assert!(error.contains(told), "{source}: {error}");
        }
        let long = "x".repeat(MAX_BODY + 1);
        assert!(compile(&long, "text/plain").unwrap_err().contains("larger than 64 KiB"));
    }

    #[test]
    fn the_first_template_that_is_for_the_kind_and_the_client_wins() {
        let of = |source: &str, media_type, kinds: &[Kind]| {
            Template::compile(source.to_owned(), media_type, kinds.to_vec()).unwrap()
        };
        let templates = Templates::new(vec![
            of("database", "text/html", &[Kind::DependencyFailure]),
            of("{{ status }} {{ kind }}", "text/html", &[]),
        ]);
        let body = |class, kind| templates.body(class, kind, 503, "id", None).map(|(_, body)| body);
        assert_eq!(body(MediaType::Html, Kind::DependencyFailure).unwrap(), "database");
        assert_eq!(body(MediaType::Html, Kind::DnsError).unwrap(), "503 dns_error");
        assert_eq!(body(MediaType::Plain, Kind::DnsError), None);
    }

    #[test]
    fn the_charset_is_told_where_the_type_has_one() {
        for (media_type, expected) in [
            ("text/html", "text/html; charset=utf-8"),
            ("text/plain; charset=us-ascii", "text/plain; charset=us-ascii"),
            ("application/vnd.api+json", "application/vnd.api+json"),
        ] {
            assert_eq!(compile("1", media_type).unwrap().content_type(), expected);
        }
    }
}

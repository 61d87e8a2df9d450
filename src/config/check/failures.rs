//! How failures are answered: for all routes, and what a route says otherwise, key by key.

use std::sync::Arc;

use http::HeaderName;
use regex::bytes::RegexBuilder;

use super::super::diagnostic::{Problem, nearest};
use super::super::model::{Hold, MediaPattern};
use super::super::raw::Span;
use super::super::scope::{Found, Scope};
use super::{Base, plain_name, rendering, to_usize, wrong};
use crate::failure::Kind;
use crate::failure::pattern::Pattern;
use crate::failure::policy::{AppErrors, DependencyRule, Policy, Profile};
use crate::failure::render::cors::Cors;
use crate::failure::render::template::Templates;

/// Largest compiled pattern in bytes: rules run on every error answer.
const PATTERN_BYTES: usize = 1024 * 1024;

/// What `failures` says.
#[derive(Clone)]
pub(super) struct Settings {
    profile: Profile,
    kinds: Vec<(Kind, u16)>,
    app_errors: AppErrors,
    pub(super) hold: Hold,
    pub(super) sse_event: bool,
    dependencies: Arc<[DependencyRule]>,
    templates: Arc<Templates>,
    cors: Option<Arc<Cors>>,
}

impl Settings {
    pub(super) fn policy(&self) -> Arc<Policy> {
        let mut policy = Policy::new(self.profile, self.app_errors, Arc::clone(&self.dependencies));
        for (kind, status) in &self.kinds {
            policy.map(*kind, *status);
        }
        Arc::new(policy.answering(Arc::clone(&self.templates), self.cors.clone()))
    }
}

const PROFILES: &[&str] = &["internal", "gateway"];
const APP_ERRORS: &[&str] = &["replace", "scrub", "pass"];

pub(super) fn global(root: &Scope<'_>, place: Base<'_>) -> Settings {
    let section =
        root.section("failures", "How failures are answered, unless a route says otherwise.");
    let base = Settings {
        profile: Profile::default(),
        kinds: Vec::new(),
        app_errors: AppErrors::default(),
        hold: Hold::default(),
        sse_event: false,
        dependencies: Arc::new([]),
        templates: Arc::default(),
        cors: None,
    };
    let mut settings = answers(&section, &base, place);
    settings.hold = hold(&section, &base.hold);
    settings.dependencies = dependencies(&section).into();
    section.finish();
    settings
}

pub(super) fn of_route(route: &Scope<'_>, global: &Settings, place: Base<'_>) -> Settings {
    let section = route.section("failures", "What this route answers otherwise.");
    let mut settings = answers(&section, global, place);
    section.finish();
    settings.hold = hold(route, &global.hold);
    settings
}

fn answers(section: &Scope<'_>, base: &Settings, place: Base<'_>) -> Settings {
    let profile = section.word(
        "profile",
        PROFILES,
        usize::from(base.profile == Profile::Gateway),
        "internal answers 500 and 1011 to every kind; gateway answers 502, 503 or 504.",
    );
    let app_errors = section.word(
        "app_errors",
        APP_ERRORS,
        match base.app_errors {
            AppErrors::Replace => 0,
            AppErrors::Scrub => 1,
            AppErrors::Pass => 2,
        },
        "An app's own 500: always replaced, replaced if it shows a trace or nothing, or passed.",
    );
    let meaning =
        "Event streams pass event by event, and end with an `error` event when the upstream fails.";
    let sse_event = section.bool("sse_event", base.sse_event, meaning);
    let mut kinds = base.kinds.clone();
    let meaning = "Another status for a kind, by its name.";
    for (name, scope) in section.named("kinds", false, meaning) {
        let meaning = "The status that clients get.";
        let status = scope.integer("status", 500, (400, 599), meaning);
        match Kind::from_name(&name.text) {
            Some(kind) => {
                kinds.retain(|(known, _)| *known != kind);
                kinds.push((kind, u16::try_from(status).unwrap_or(500)));
            }
            None if scope.is_describing() => {}
            None => unknown_kind(&scope, &name.text, name.span),
        }
        scope.finish();
    }
    Settings {
        profile: if profile == 1 { Profile::Gateway } else { Profile::Internal },
        app_errors: match app_errors {
            0 => AppErrors::Replace,
            1 => AppErrors::Scrub,
            _ => AppErrors::Pass,
        },
        kinds,
        sse_event,
        templates: rendering::templates(section, place)
            .map_or_else(|| Arc::clone(&base.templates), Arc::new),
        cors: rendering::cors(section).map_or_else(|| base.cors.clone(), |cors| cors.map(Arc::new)),
        ..base.clone()
    }
}

/// Tells that there is no such kind, and which may be meant.
pub(super) fn unknown_kind(scope: &Scope<'_>, name: &str, span: Span) {
    let remedy = match nearest(name, Kind::ALL.iter().map(|kind| kind.name())) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => "the README lists every kind".to_owned(),
    };
    let message = format!("no kind is named `{name}`");
    scope.problem(Problem::new(span, &message).remedy(&remedy));
}

fn hold(section: &Scope<'_>, base: &Hold) -> Hold {
    let meaning = "Responses that fit are held until they are whole; `off` commits at once.";
    let hold = match section.section_or_word("hold", "off", meaning) {
        None => return base.clone(),
        Some(Err(_)) => return Hold { bytes: 0, ..base.clone() },
        Some(Ok(hold)) => hold,
    };
    let held = Hold {
        bytes: to_usize(hold.size(
            "bytes",
            base.bytes as u64,
            0,
            "The largest response that is held.",
        )),
        time: hold.duration("time", base.time, "How long a response is held at most."),
        types: media_types(&hold, base),
    };
    hold.finish();
    held
}

fn media_types(hold: &Scope<'_>, base: &Hold) -> Arc<[MediaPattern]> {
    let meaning = "Media types that are useless in part: held although their length is not known; application/json, *+json and *+xml if not set.";
    let found = hold.texts(
        "types",
        "media type, such as application/json, *+json or text/*",
        false,
        meaning,
    );
    let parse = |found: &Found<String>| {
        let pattern = MediaPattern::parse(found);
        if pattern.is_none() {
            wrong(hold, "types", found, "write application/json, *+json or text/*");
        }
        pattern
    };
    let types: Vec<_> = found.iter().filter_map(parse).collect();
    if types.is_empty() { Arc::clone(&base.types) } else { types.into() }
}

fn dependencies(section: &Scope<'_>) -> Vec<DependencyRule> {
    let mut rules = Vec::new();
    let meaning = "Rules that recognise a failed dependency behind the app, in order.";
    for rule in section.sections("dependencies", false, meaning) {
        let meaning = "The dependency's name: a metric label.";
        let name = rule.required_text("name", "letters, digits, `-`, `_`, `.`", meaning);
        let meaning = "The statuses it applies to; every 5xx if not set.";
        let status = statuses(&rule, &rule.texts("status", "status", false, meaning));
        let meaning = "A response field that must match.";
        let field = rule.optional_section("field", meaning).and_then(|field| {
            let name = field.required_text("name", "field name", "The field's name.");
            let pattern =
                field.required_text("pattern", "regular expression", "What its value matches.");
            let name = name.and_then(|found| field_name(&field, &found));
            let pattern = pattern.and_then(|found| self::pattern(&field, "pattern", &found));
            field.finish();
            Some((name?, pattern?))
        });
        let meaning = "What the first 8 KiB of the content match.";
        let body = rule.text("body", "regular expression", None, meaning);
        let body = body.and_then(|found| pattern(&rule, "body", &found));
        let name = name.and_then(|found| {
            let label = plain_name(&found);
            if label.is_none() {
                wrong(&rule, "name", &found, "use up to 64 letters, digits, `-`, `_` and `.`");
            }
            label
        });
        if let Some(name) = name {
            if status.is_empty() && field.is_none() && body.is_none() && !rule.is_describing() {
                let problem = Problem::new(rule.span(), "the rule has no condition");
                rule.problem(problem.remedy("give it status, field or body"));
            }
            rules.push(DependencyRule { name, status, field, body });
        }
        rule.finish();
    }
    rules
}

fn statuses(rule: &Scope<'_>, found: &[Found<String>]) -> Vec<u16> {
    let parse = |found: &Found<String>| match found.value.parse() {
        Ok(status @ 100..=599) => Some(status),
        _ => {
            wrong(rule, "status", found, "write a status from 100 to 599");
            None
        }
    };
    found.iter().filter_map(parse).collect()
}

pub(super) fn field_name(scope: &Scope<'_>, found: &Found<String>) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(found.value.as_bytes()).ok();
    if name.is_none() {
        wrong(scope, "name", found, "write a field name such as x-error");
    }
    name
}

pub(super) fn pattern(scope: &Scope<'_>, key: &str, found: &Found<String>) -> Option<Pattern> {
    match RegexBuilder::new(&found.value).size_limit(PATTERN_BYTES).build() {
        Ok(pattern) => Some(pattern.into()),
        Err(error) => {
            // The library's own message spans lines; its last one says what is wrong.
            let message = error.to_string();
            let reason = message.lines().last().unwrap_or_default().trim_start_matches("error: ");
            wrong(scope, key, found, &format!("not a regular expression: {reason}"));
            None
        }
    }
}

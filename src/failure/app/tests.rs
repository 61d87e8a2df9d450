use super::*;
use crate::failure::policy::Profile;
use http::{HeaderName, HeaderValue};
use regex::bytes::Regex;

const TRACE: &[u8] = b"Error: boom\n    at Object.<anonymous> (/srv/app.js:1:2)\n";
const JSON: &[u8] = br#"{"error":"order could not be saved"}"#;

fn policy(app_errors: AppErrors, rules: Vec<DependencyRule>) -> Policy {
    Policy::new(Profile::Internal, app_errors, rules.into())
}

fn rule(name: &str) -> DependencyRule {
    DependencyRule { name: name.into(), status: Vec::new(), field: None, body: None }
}

fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    lines
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

/// Both stations, as a caller goes through them.
fn verdict(policy: &Policy, status: u16, fields: &HeaderMap, body: &[u8]) -> Verdict {
    match judge(policy, status, fields) {
        Judgement::Known(verdict) => {
            // What the head decides, the content must not change, but for the trace's name.
            let mut inspected = inspect(policy, status, fields, body, true);
            if let Verdict::Replace(finding) = &mut inspected {
                finding.trace = None;
            }
            assert_eq!(inspected, verdict, "{status}");
            verdict
        }
        Judgement::Inspect => inspect(policy, status, fields, body, true),
    }
}

fn app(trace: Option<&'static str>) -> Finding {
    Finding { kind: Kind::ApplicationError, dependency: None, trace }
}

fn behind(name: Option<&str>) -> Finding {
    Finding { kind: Kind::DependencyFailure, dependency: name.map(Arc::from), trace: None }
}

#[test]
fn the_table_of_the_module_holds() {
    use AppErrors::{Pass, Replace, Scrub};
    use Verdict::Healthy;
    let replaced = || Verdict::Replace(app(None));
    let traced = || Verdict::Replace(app(Some("node")));
    let passed = || Verdict::Passed(app(None));
    let table: Vec<(AppErrors, u16, &[u8], Verdict)> = vec![
        (Scrub, 200, TRACE, Healthy),
        (Scrub, 404, TRACE, Healthy),
        (Scrub, 499, TRACE, Healthy),
        (Scrub, 500, TRACE, traced()),
        (Scrub, 500, b"", replaced()),
        (Scrub, 500, b" \r\n", replaced()),
        (Scrub, 500, JSON, passed()),
        (Scrub, 500, b"<h1>Sorry</h1>", passed()),
        (Scrub, 500, b"Internal Server Error", passed()),
        (Scrub, 501, b"", Healthy),
        (Scrub, 505, JSON, Healthy),
        (Scrub, 507, TRACE, traced()),
        (Scrub, 599, JSON, Healthy),
        (Replace, 200, TRACE, Healthy),
        (Replace, 500, JSON, replaced()),
        (Replace, 500, TRACE, replaced()),
        (Replace, 501, JSON, Healthy),
        (Replace, 507, TRACE, traced()),
        (Pass, 500, TRACE, passed()),
        (Pass, 500, b"", passed()),
        (Pass, 501, TRACE, Healthy),
    ];
    for (app_errors, status, body, wanted) in table {
        let policy = policy(app_errors, vec![]);
        let got = verdict(&policy, status, &HeaderMap::new(), body);
        assert_eq!(got, wanted, "{app_errors:?} {status} {}", String::from_utf8_lossy(body));
    }
}

#[test]
fn a_gateway_status_of_the_app_is_a_dependency_failure() {
    for status in [502, 503, 504] {
        for app_errors in [AppErrors::Replace, AppErrors::Scrub] {
            let judged = judge(&policy(app_errors, vec![]), status, &HeaderMap::new());
            assert_eq!(judged, Judgement::Known(Verdict::Replace(behind(None))));
        }
        let judged = judge(&policy(AppErrors::Pass, vec![]), status, &HeaderMap::new());
        assert_eq!(judged, Judgement::Known(Verdict::Passed(behind(None))));
    }
}

#[test]
fn proxy_status_with_an_error_blames_what_is_behind_the_app() {
    let table: &[(&'static str, bool)] = &[
        ("cache; error=connection_refused", true),
        ("a, b; received-status=500; error=dns_timeout", true),
        ("\"edge 1\"; error=\"own words\"", true),
        ("cache", false),
        ("cache; received-status=500", false),
        ("error=connection_refused", false),
        ("cache; error=;;", false),
        ("", false),
    ];
    let scrub = policy(AppErrors::Scrub, vec![]);
    for (value, blames) in table {
        let fields = fields(&[("proxy-status", value)]);
        let wanted = match blames {
            true => Verdict::Replace(behind(None)),
            false => Verdict::Passed(app(None)),
        };
        assert_eq!(verdict(&scrub, 500, &fields, JSON), wanted, "{value}");
        assert_eq!(verdict(&scrub, 200, &fields, JSON), Verdict::Healthy, "{value}");
    }
    let two = fields(&[("proxy-status", "cache"), ("proxy-status", "app; error=dns_error")]);
    assert_eq!(verdict(&scrub, 507, &two, JSON), Verdict::Replace(behind(None)));
}

fn gzipped(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut encoder, text).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn encoded_content_is_judged_by_what_it_decodes_to() {
    let scrub = policy(AppErrors::Scrub, vec![]);
    let gzip = fields(&[("content-encoding", "gzip")]);
    let replaced = |trace| Verdict::Replace(app(trace));
    let table: &[(u16, &[u8], Verdict)] = &[
        (500, TRACE, replaced(Some("node"))),
        (507, TRACE, replaced(Some("node"))),
        (500, JSON, Verdict::Passed(app(None))),
        (507, JSON, Verdict::Healthy),
        (500, b" \r\n", replaced(None)),
    ];
    for (status, body, wanted) in table {
        assert_eq!(verdict(&scrub, *status, &gzip, &gzipped(body)), *wanted, "{status} {body:?}");
    }
    // HEAD has the fields of the page and no content.
    assert_eq!(verdict(&scrub, 507, &gzip, b""), Verdict::Healthy);
    let plain = fields(&[("content-encoding", "identity")]);
    assert_eq!(verdict(&scrub, 500, &plain, JSON), Verdict::Passed(app(None)));
}

#[test]
fn content_that_cannot_be_decoded_is_not_shown() {
    let scrub = policy(AppErrors::Scrub, vec![]);
    let pass = policy(AppErrors::Pass, vec![]);
    for coding in ["gzip", "br", "identity, zstd", "GZIP", "deflate", "unknown", "gzip, br, gzip"] {
        let fields = fields(&[("content-encoding", coding)]);
        for status in [500, 507] {
            assert_eq!(verdict(&scrub, status, &fields, JSON), Verdict::Replace(app(None)));
        }
        assert_eq!(verdict(&pass, 500, &fields, JSON), Verdict::Passed(app(None)));
    }
}

#[test]
fn evidence_is_the_text_where_there_is_one() {
    let gzip = fields(&[("content-encoding", "gzip")]);
    let unknown = fields(&[("content-encoding", "compress")]);
    let none = HeaderMap::new();
    let long = vec![b'x'; 3 * INSPECT_BYTES];
    assert_eq!(evidence(&gzip, gzipped(TRACE).into()), TRACE);
    assert_eq!(evidence(&gzip, gzipped(&long).into()), long[..INSPECT_BYTES]);
    assert_eq!(evidence(&gzip, TRACE.into()), TRACE, "malformed: as it was sent");
    assert_eq!(evidence(&unknown, gzipped(TRACE).into()), gzipped(TRACE));
    assert_eq!(evidence(&none, long.clone().into()), long[..INSPECT_BYTES]);
}

#[test]
fn a_500_of_which_nothing_came_cannot_be_judged() {
    let scrub = policy(AppErrors::Scrub, vec![]);
    let none = HeaderMap::new();
    assert_eq!(inspect(&scrub, 500, &none, b"", false), Verdict::Replace(app(None)));
    assert_eq!(inspect(&scrub, 500, &none, b"{", false), Verdict::Passed(app(None)));
}

#[test]
fn only_the_first_8_kib_are_read() {
    let scrub = policy(AppErrors::Scrub, vec![]);
    let mut body = vec![b'.'; INSPECT_BYTES];
    body.extend_from_slice(TRACE);
    let none = HeaderMap::new();
    assert_eq!(inspect(&scrub, 500, &none, &body, true), Verdict::Passed(app(None)));
    let cut = &body[TRACE.len()..];
    assert_eq!(inspect(&scrub, 500, &none, cut, true), Verdict::Replace(app(Some("node"))));
}

#[test]
fn all_given_conditions_of_a_rule_must_hold() {
    let strict = DependencyRule {
        status: vec![500, 520],
        field: Some((HeaderName::from_static("x-error"), Regex::new("^db-").unwrap().into())),
        body: Some(Regex::new("psycopg|PG::ConnectionBad").unwrap().into()),
        ..rule("postgres")
    };
    let policy = policy(AppErrors::Scrub, vec![strict]);
    let db = fields(&[("x-error", "web-1"), ("x-error", "db-1")]);
    let other = fields(&[("x-error", "web-db-1")]);
    let body = br#"{"error":"psycopg.OperationalError"}"#;
    let found = Verdict::Replace(behind(Some("postgres")));
    assert_eq!(verdict(&policy, 500, &db, body), found);
    assert_eq!(verdict(&policy, 520, &db, body), found);
    assert_eq!(verdict(&policy, 501, &db, body), Verdict::Healthy);
    assert_eq!(verdict(&policy, 500, &other, body), Verdict::Passed(app(None)));
    assert_eq!(verdict(&policy, 500, &HeaderMap::new(), body), Verdict::Passed(app(None)));
    assert_eq!(verdict(&policy, 500, &db, JSON), Verdict::Passed(app(None)));
    assert_eq!(verdict(&policy, 503, &db, body), Verdict::Replace(behind(None)));
}

#[test]
fn a_rule_on_the_head_needs_no_content() {
    let field = (HeaderName::from_static("x-error"), Regex::new("redis").unwrap().into());
    let policy =
        policy(AppErrors::Scrub, vec![DependencyRule { field: Some(field), ..rule("redis") }]);
    let judged = judge(&policy, 500, &fields(&[("x-error", "redis down")]));
    assert_eq!(judged, Judgement::Known(Verdict::Replace(behind(Some("redis")))));
}

#[test]
fn the_first_matching_rule_names_the_dependency() {
    let body = |name: &str, pattern: &str| DependencyRule {
        body: Some(Regex::new(pattern).unwrap().into()),
        ..rule(name)
    };
    let policy = policy(AppErrors::Scrub, vec![body("a", "alpha"), body("b", "beta"), rule("any")]);
    let none = HeaderMap::new();
    assert_eq!(judge(&policy, 503, &none), Judgement::Inspect);
    let named = |text: &[u8]| match verdict(&policy, 503, &none, text) {
        Verdict::Replace(finding) => finding.dependency.map(|name| name.to_string()),
        Verdict::Healthy | Verdict::Passed(_) => None,
    };
    assert_eq!(named(b"beta alpha").as_deref(), Some("a"));
    assert_eq!(named(b"beta").as_deref(), Some("b"));
    assert_eq!(named(b"gamma").as_deref(), Some("any"));
    // Behind an unknown coding no body pattern can match; the head still decides.
    let unknown = fields(&[("content-encoding", "compress")]);
    let any = Judgement::Known(Verdict::Replace(behind(Some("any"))));
    assert_eq!(judge(&policy, 503, &unknown), any);
    // Behind a known one they do, unless the content is malformed.
    let gzip = fields(&[("content-encoding", "gzip")]);
    assert_eq!(judge(&policy, 503, &gzip), Judgement::Inspect);
    let found = |body: &[u8]| inspect(&policy, 503, &gzip, body, true);
    assert_eq!(found(&gzipped(b"beta")), Verdict::Replace(behind(Some("b"))));
    assert_eq!(found(b"beta"), Verdict::Replace(behind(Some("any"))));
}

#[test]
fn below_500_only_a_rule_that_lists_the_status_makes_a_failure() {
    let listed = DependencyRule { status: vec![424], ..rule("billing") };
    let policy = policy(AppErrors::Scrub, vec![rule("any"), listed]);
    let none = HeaderMap::new();
    assert_eq!(verdict(&policy, 424, &none, JSON), Verdict::Replace(behind(Some("billing"))));
    for status in [200, 404, 429, 499] {
        assert_eq!(verdict(&policy, status, &none, TRACE), Verdict::Healthy, "{status}");
    }
}

#[test]
fn under_pass_a_rule_still_names_what_is_counted() {
    let body = Some(Regex::new("psycopg").unwrap().into());
    let policy = policy(AppErrors::Pass, vec![DependencyRule { body, ..rule("postgres") }]);
    let none = HeaderMap::new();
    let named = Verdict::Passed(behind(Some("postgres")));
    assert_eq!(verdict(&policy, 500, &none, b"psycopg"), named);
    assert_eq!(verdict(&policy, 500, &none, JSON), Verdict::Passed(app(None)));
}

#[test]
fn a_replaced_trace_keeps_its_name_beside_the_dependency() {
    let body = Some(Regex::new("psycopg").unwrap().into());
    let policy = policy(AppErrors::Scrub, vec![DependencyRule { body, ..rule("postgres") }]);
    let text = b"Traceback (most recent call last):\n  File \"/a.py\", line 1, in f\npsycopg.Error";
    let wanted = Finding { trace: Some("python"), ..behind(Some("postgres")) };
    assert_eq!(verdict(&policy, 500, &HeaderMap::new(), text), Verdict::Replace(wanted));
}

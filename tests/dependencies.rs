//! The rules of `config/dependencies.yaml` name what drivers say of a failed dependency, in the
//! words that `tests/drivers/wording.json` has collected, and nothing else.
//!
//! Needs no driver: `tests/drivers/wording.py` collects the words anew where they are installed.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its files fails")]
#![allow(clippy::panic, reason = "a test with a file that does not load fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use http::HeaderMap;
use seawall::config;
use seawall::failure::app::{Judgement, Verdict, inspect, judge};
use seawall::failure::policy::Policy;
use serde_json::Value;

const NAMES: [&str; 9] =
    ["postgres", "mysql", "redis", "mongodb", "kafka", "rabbitmq", "elasticsearch", "s3", "dns"];

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn policy() -> Policy {
    let loaded = config::load(&file("config/dependencies.yaml"));
    let config = loaded.unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
    (*config.routes[0].policy).clone()
}

/// The dependency that a 500 with this content is said to come from.
fn named(policy: &Policy, content: &str) -> Option<String> {
    let fields = HeaderMap::new();
    assert_eq!(judge(policy, 500, &fields), Judgement::Inspect);
    match inspect(policy, 500, &fields, content.as_bytes(), true) {
        Verdict::Replace(finding) | Verdict::Passed(finding) => {
            finding.dependency.map(|name| name.to_string())
        }
        Verdict::Healthy => None,
    }
}

struct Wording {
    driver: String,
    situation: String,
    shape: String,
    source: String,
    text: String,
    /// What the rules must name; nothing where the words fit any product.
    dependency: Option<String>,
}

fn wordings() -> Vec<Wording> {
    let text = fs::read_to_string(file("tests/drivers/wording.json")).unwrap();
    let entries: Vec<Value> = serde_json::from_str(&text).unwrap();
    let read = |entry: &Value| {
        let get =
            |key: &str| entry[key].as_str().unwrap_or_else(|| panic!("{key}: {entry}")).into();
        Wording {
            driver: get("driver"),
            situation: get("situation"),
            shape: get("shape"),
            source: get("source"),
            text: get("text"),
            dependency: entry["dependency"].as_str().map(Into::into),
        }
    };
    entries.iter().map(read).collect()
}

/// How apps put an error into an answer: as it is, and as the languages write JSON and HTML.
fn bodies(wording: &Wording) -> Vec<(&'static str, String)> {
    let text = &wording.text;
    let mut found = vec![("plain", text.clone())];
    // An error that was made JSON is an object of the answer, not a string in it.
    let in_json = match wording.shape.as_str() {
        "json" => format!("{{\"ok\":false,\"error\":{text}}}"),
        _ => format!("{{\"ok\":false,\"error\":{}}}", Value::from(text.as_str())),
    };
    found.push(("json", in_json.clone()));
    if wording.shape != "json" {
        found.push(("json of PHP", in_json.replace('/', "\\/")));
        // What .NET and Go escape beyond need.
        let mut escaped = in_json.replace("\\\"", "\\u0022");
        for (char, code) in [
            ("'", "\\u0027"),
            ("<", "\\u003c"),
            (">", "\\u003e"),
            ("&", "\\u0026"),
            ("`", "\\u0060"),
        ] {
            escaped = escaped.replace(char, code);
        }
        found.push(("json of .NET", escaped));
        let mut html = text.replace('&', "&amp;");
        for (char, entity) in [("<", "&lt;"), (">", "&gt;"), ("\"", "&quot;"), ("'", "&#39;")] {
            html = html.replace(char, entity);
        }
        let title = "<!doctype html><html><head><title>500 Internal Server Error</title></head>";
        found.push(("html", format!("{title}<body><pre>{html}</pre></body></html>")));
    }
    found
}

#[test]
fn every_rule_has_one_of_the_names_that_are_promised() {
    let policy = policy();
    let names: BTreeSet<_> = policy.dependencies().iter().map(|rule| &*rule.name).collect();
    assert_eq!(names, BTreeSet::from(NAMES));
    // Whose the failed name was is more than that it failed.
    let last = policy.dependencies().iter().rposition(|rule| &*rule.name != "dns").unwrap();
    let first = policy.dependencies().iter().position(|rule| &*rule.name == "dns").unwrap();
    assert!(last < first, "a rule stands below those of dns");
}

#[test]
fn every_wording_is_named_as_what_it_is_however_it_is_written() {
    let policy = policy();
    let mut wrong = Vec::new();
    for wording in wordings() {
        for (form, content) in bodies(&wording) {
            let found = named(&policy, &content);
            // Only the first 8 KiB are looked at, and escapes make a trace longer.
            if found != wording.dependency && content.len() <= seawall::failure::app::INSPECT_BYTES
            {
                let Wording { driver, situation, shape, .. } = &wording;
                let begin: String = wording.text.chars().take(200).collect();
                wrong.push(format!(
                    "{driver}, {situation}, {shape}, {form}: {found:?}, not {:?}: {begin}",
                    wording.dependency
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_wordings_are_of_real_drivers_of_every_dependency() {
    let mut drivers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for wording in wordings() {
        if let (Some(name), "seen") = (wording.dependency, wording.source.as_str()) {
            drivers.entry(name).or_default().insert(wording.driver);
        }
    }
    assert_eq!(drivers.keys().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(NAMES));
    for (name, drivers) in drivers {
        assert!(drivers.len() >= if name == "s3" { 1 } else { 2 }, "{name}: only {drivers:?}");
    }
}

#[test]
fn every_rule_is_there_because_a_wording_needs_it() {
    let policy = policy();
    let texts: Vec<_> = wordings().into_iter().map(|wording| wording.text).collect();
    for rule in policy.dependencies() {
        let body = rule.body.as_ref().unwrap();
        let needed = texts.iter().any(|text| body.is_match(text.as_bytes()));
        assert!(needed, "no wording matches the rule {}: {body}", rule.name);
    }
}

/// Errors of apps that are nobody's outage: mistakes, refusals, and prose about the products.
const INNOCENT: &[&str] = &[
    // -- SQL
    r#"{"error":"duplicate key value violates unique constraint \"orders_pkey\""}"#,
    r#"{"detail":"psycopg.errors.UniqueViolation: duplicate key value violates unique constraint"}"#,
    r#"{"error":"syntax error at or near \"selec\"","code":"42601","severity":"ERROR"}"#,
    "PG::UndefinedTable: ERROR:  relation \"carts\" does not exist",
    "SQLSTATE[42S02]: Base table or view not found: 1146 Table 'shop.carts' doesn't exist",
    "SQLSTATE[23000]: Integrity constraint violation: 1062 Duplicate entry '1' for key 'PRIMARY'",
    "SQLSTATE[42P01]: Undefined table: 7 ERROR:  relation \"carts\" does not exist",
    "org.postgresql.util.PSQLException: ERROR: null value in column \"id\" violates not-null constraint",
    "canceling statement due to statement timeout",
    "terminating connection due to idle-in-transaction timeout",
    r#"{"error":"deadlock detected","hint":"See server log for query details."}"#,
    r#"{"message":"column \"postgres_id\" does not exist"}"#,
    "Deadlock found when trying to get lock; try restarting transaction",
    "Lock wait timeout exceeded; try restarting transaction",
    r#"{"error":"Too many connections requested: choose at most 5 friends"}"#,
    r#"{"error":"Too many connections from your address, slow down"}"#,
    "<h1>Internal Server Error</h1><p>The export to MySQL could not be written: disk quota.</p>",
    r#"{"error":"Cannot add MySQL server to the inventory: name is taken"}"#,
    r#"{"code":"53300","message":"unknown postal code"}"#,
    r#"{"code":"08006","message":"unknown postal code"}"#,
    // -- Redis
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "redis.exceptions.ResponseError: WRONGTYPE Operation against a key holding the wrong kind of value",
    "ReplyError: ERR unknown command 'GTE', with args beginning with: 'cart'",
    r#"{"error":"NOSCRIPT No matching script. Please use EVAL."}"#,
    "redis.exceptions.DataError: Invalid input of type: 'dict'. Convert to a bytes, string, int or float first.",
    r#"{"error":"your redis plan allows 30 connections"}"#,
    // -- MongoDB
    "MongoServerError: E11000 duplicate key error collection: shop.users index: email_1 dup key",
    "pymongo.errors.DuplicateKeyError: E11000 duplicate key error collection: shop.users",
    "ValidationError: Order validation failed: total: Path `total` is required.",
    "CastError: Cast to ObjectId failed for value \"7\" (type string) at path \"_id\" for model \"Order\"",
    "TimeoutError: Timed out after 30000 ms while waiting for the WS endpoint URL to appear in stdout!",
    r#"{"error":"Document failed validation","codeName":"DocumentValidationFailure","code":121}"#,
    // -- Kafka and RabbitMQ
    "org.apache.kafka.common.errors.RecordTooLargeException: The message is 1048684 bytes when serialized",
    "kafka.errors.MessageSizeTooLargeError: [Error 10] MessageSizeTooLargeError",
    "KafkaError{code=TOPIC_AUTHORIZATION_FAILED,val=29,str=\"Broker: Topic authorization failed\"}",
    "KafkaJSNonRetriableError: Invalid topic",
    "Channel closed by server: 406 (PRECONDITION-FAILED) with message \"PRECONDITION_FAILED - inequivalent arg 'durable'\"",
    "pika.exceptions.ChannelClosedByBroker: (404, \"NOT_FOUND - no queue 'orders' in vhost '/'\")",
    "com.rabbitmq.client.ShutdownSignalException: channel error; protocol method: #method<channel.close>(reply-code=406)",
    // -- Elasticsearch and S3
    r#"{"error":{"type":"index_not_found_exception","reason":"no such index [orders]"},"status":404}"#,
    r#"elasticsearch.BadRequestError: BadRequestError(400, 'parsing_exception', 'unknown query [mach]')"#,
    "ResponseError: mapper_parsing_exception: failed to parse field [total] of type [long]",
    "An error occurred (NoSuchKey) when calling the GetObject operation: The specified key does not exist.",
    "An error occurred (AccessDenied) when calling the PutObject operation: Access Denied",
    "NoSuchBucket: The specified bucket does not exist\n    at s3.putObject (/app/node_modules/@aws-sdk/client-s3/index.js:1:1)",
    "An error occurred (ProvisionedThroughputExceededException) when calling the PutItem operation",
    r#"{"error":"S3 upload of 3 files was refused: virus found"}"#,
    // -- Names and other services
    r#"{"code":"ENOTFOUND","message":"order 7 was not found"}"#,
    r#"{"error":"no such host in your inventory: web-7"}"#,
    r#"{"error":"DNS zone example.com is already managed"}"#,
    "Failed to resolve dependency \"left-pad\" of the build",
    "connect ECONNREFUSED 10.0.3.7:8080",
    "Error: connect ETIMEDOUT 10.0.3.7:443",
    "requests.exceptions.ConnectionError: HTTPConnectionPool(host='payments', port=8080): Max retries exceeded",
    "Post \"http://payments:8080/charge\": dial tcp 10.0.3.7:8080: connect: connection refused",
    "java.net.ConnectException: Connection refused",
    "order 5432 was refused, see also 3306, 6379 and 27017",
    // -- An app that sheds load, drains, or talks of its own clients
    r#"{"error":"Too many connections"}"#,
    r#"{"error":"Server shutdown in progress"}"#,
    r#"{"error":"Socket closed unexpectedly"}"#,
    "No server is available in your region",
    "Could not establish TCP connection to the printer",
    "timeout exceeded when trying to connect to the payment terminal",
    "Command timed out",
    "TypeError: fetch failed",
    // -- Prose and plain failures
    r#"{"error":"out_of_stock","article":7}"#,
    "Internal Server Error",
    "",
    "<html><body><h1>We run on PostgreSQL, MySQL, Redis, MongoDB and Kafka</h1><p>Sorry, 500.</p></body></html>",
    "TypeError: Cannot read properties of undefined (reading 'redis')\n    at /app/routes/cart.js:7:13",
    "Traceback (most recent call last):\n  File \"/app/postgres/models.py\", line 3, in total\nKeyError: 'kafka'",
    "panic: runtime error: index out of range [3] with length 3\n\ngoroutine 1 [running]:\nmain.s3()",
    r#"{"title":"Bad connection string","detail":"elasticsearch.url must not be empty"}"#,
];

#[test]
fn an_error_that_is_no_outage_is_named_as_nothing() {
    let policy = policy();
    assert!(INNOCENT.len() >= 30);
    for content in INNOCENT {
        assert_eq!(named(&policy, content), None, "{content}");
        let in_json = Value::from(*content).to_string();
        assert_eq!(named(&policy, &in_json), None, "{in_json}");
    }
}

#[test]
fn an_answer_below_500_is_not_looked_at() {
    let policy = policy();
    assert_eq!(judge(&policy, 404, &HeaderMap::new()), Judgement::Known(Verdict::Healthy));
}

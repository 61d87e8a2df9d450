use super::*;
use proptest::prelude::*;

fn errors(text: &str) -> Vec<(usize, usize, String, String)> {
    match parse("test.yaml", text, Path::new("")) {
        Ok(_) => Vec::new(),
        Err(diagnostics) => diagnostics
            .problems()
            .iter()
            .map(|problem| {
                let remedy = problem.remedy.clone().unwrap_or_default();
                (problem.span.line, problem.span.column, problem.message.clone(), remedy)
            })
            .collect(),
    }
}

const SMALLEST: &str = "listeners: [{ address: \"0.0.0.0:8080\" }]\n\
    upstreams:\n  app: { endpoints: [\"http://127.0.0.1:3000\"] }\n\
    routes: [{ upstream: app }]\n";

#[test]
fn the_smallest_useful_file_is_valid_and_has_every_default() {
    let config = parse("test.yaml", SMALLEST, Path::new("")).unwrap();
    assert_eq!(config.upstreams.len(), 1);
    assert_eq!(config.routes[0].upstream.timeouts.head.as_secs(), 30);
    assert_eq!(config.routes[0].hold.bytes, 64 * 1024);
    assert_eq!(config.admin.address.unwrap().port(), 9900);
    assert!(config.workers >= 1);
}

#[test]
fn a_url_alone_is_a_configuration() {
    let config = Config::for_upstream("http://[::1]:3000", Some(":0")).unwrap();
    assert_eq!(&*config.upstreams[0].endpoints[0].host, "::1");
    let wrong = Config::for_upstream("ws://app", None).unwrap_err().to_string();
    assert!(wrong.starts_with("--upstream: cannot be \"ws://app\"\n"), "{wrong}");
    assert!(Config::for_upstream("app:1", Some("x")).unwrap_err().to_string().contains("--listen"));
}

#[test]
fn every_class_of_mistake_has_its_place_and_its_remedy() {
    let rows: &[(&str, &str, &str, &str)] = &[
        ("    endpoints:", "    endpoint:", "no setting `endpoint`", "did you mean `endpoints`?"),
        ("head: 30s", "head: 30", "`head` cannot be \"30\"", "30s"),
        ("upstream: app", "upstream: ap", "no upstream is named `ap`", "did you mean `app`?"),
        ("profile: internal", "profile: gatewy", "`profile` cannot be", "did you mean `gateway`?"),
        ("bytes: 64KiB", "bytes: 64K", "`bytes` cannot be \"64K\"", "64KiB"),
        ("http_response_timeout", "http_timeout", "no kind is named", "http_"),
        ("status: 504", "status: 600", "`status` cannot be \"600\"", "400 to 599"),
        ("psycopg", "(", "`body` cannot be \"(\"", "not a regular expression"),
        ("address: :8080", "address: 8080", "`address` cannot be \"8080\"", ":8080"),
        ("http://10.0.0.1:3000", "ws://10.0.0.1:3000", "`endpoints` cannot be", "http://"),
        ("[10.0.0.0/8]", "[10.0.0.0/99]", "`trusted` cannot be", "10.0.0.0/8"),
        ("path: /v1/*", "path: v1", "`path` cannot be \"v1\"", "/v1/*"),
        ("drain: 30s", "drain: 30s\n  drain: 3s", "`drain` is set twice", "keep one"),
        ("filter: info", "filter: 'a=b=c'", "`filter` cannot be", "info"),
        ("workers: 2", "workers: none", "`workers` cannot be", "auto"),
        ("weight: 3", "weight: 0", "`weight` cannot be \"0\"", "from 1 to 100"),
        ("url: http", "uri: http", "has no setting `uri`", "did you mean `url`?"),
        ("balance: hash", "balance: random", "`balance` cannot be", "least_request"),
        ("balance: hash", "balance: round_robin", "`hash` is set", "remove `hash`"),
        ("    hash: { cookie: user }\n", "", "`balance: hash` needs a key", "cookie: NAME"),
        ("{ cookie: user }", "{ cookie: user, address: true }", "needs one key", "set one of"),
        ("path: /healthz", "path: healthz", "`path` cannot be \"healthz\"", "/healthz"),
        ("path: /healthz", "interval: 1s", "needs to know what to ask", "tcp: true"),
        ("path: /healthz", "websocket: chat", "`websocket` cannot be \"chat\"", "/healthz"),
        ("path: /healthz", "path: /, tcp: true", "needs to know what to ask", "set one of"),
        (
            "path: /healthz",
            "grpc: true",
            "`health: { grpc: true }` needs HTTP/2",
            "protocol: http2",
        ),
        ("probes: 3", "probes: 0", "`probes` cannot be \"0\"", "from 1 to 100"),
        ("min: 8", "min: 800", "`min` is 800, and `max` is 100", "set min to max at most"),
        ("[200-299]", "[299-200]", "`status` cannot be \"299-200\"", "200-399"),
        ("max_percent: 50", "max_percent: 101", "`max_percent` cannot be", "from 0 to 100"),
        ("https://a.test", "https://a.test/", "`origins` cannot be", "as browsers do"),
        ("[https://a.test]", "[HTTP://a, '*']", "`origins` cannot be \"HTTP://a\"", "browsers"),
        ("[https://a.test]", "['*', https://a]", "`origins` cannot be \"*\"", "\"*\" alone"),
        ("[https://a.test]", "['*']", "`origins` cannot be \"*\"", "list the origins"),
        (
            "file: config/errors/500.html",
            "file: config/errors/none.html",
            "`file` cannot be",
            "cannot be read",
        ),
        (
            "config/errors/500.html",
            "tests/templates/unclosed.txt",
            "`file` cannot be",
            "line 2: syntax error",
        ),
        (
            "config/errors/500.html",
            "tests/templates/unknown_variable.txt",
            "`file` cannot be",
            "retry_after",
        ),
    ];
    let good = "\
workers: 2
listeners:
  - address: :8080
upstreams:
  app:
    endpoints:
      - http://10.0.0.1:3000
      - { url: http://10.0.0.2:3000, weight: 3 }
    timeouts:
      head: 30s
    balance: hash
    hash: { cookie: user }
    health: { path: /healthz, status: [200-299] }
    ejection: { max_percent: 50 }
    circuit: { probes: 3 }
    concurrency: { min: 8, max: 100 }
routes:
  - path: /v1/*
    upstream: app
failures:
  profile: internal
  kinds: { http_response_timeout: { status: 504 } }
  hold: { bytes: 64KiB }
  templates: [{ file: config/errors/500.html }]
  cors: { origins: [https://a.test], credentials: true }
  dependencies:
    - { name: postgres, body: \"psycopg\" }
forwarded: { trusted: [10.0.0.0/8] }
log: { filter: info }
shutdown:
  drain: 30s
";
    assert_eq!(errors(good), []);
    for (from, to, message, remedy) in rows {
        assert!(good.contains(from), "{from}");
        let found = errors(&good.replace(from, to));
        let hit =
            found.iter().find(|(_, _, said, how)| said.contains(message) && how.contains(remedy));
        let (line, column, ..) = hit.unwrap_or_else(|| panic!("{to}: {found:?}"));
        assert!(*line > 0 && *column > 0, "{to}: {found:?}");
    }
}

#[test]
fn names_for_dns_have_a_form_of_their_own() {
    let with = |upstream: &str| {
        format!(
            "listeners: [{{ address: ':0' }}]\nupstreams: {{ app: {{ {upstream} }} }}\n\
             routes: [{{ upstream: app }}]\n"
        )
    };
    for good in [
        "dns: app.internal:3000",
        "dns: https://app.internal",
        "dns: { name: 'http://_http._tcp.app.internal:80', records: srv, servers: ['::1', '10.0.0.1:5353'] }",
    ] {
        assert_eq!(errors(&with(good)), [], "{good}");
    }
    for (wrong, told) in [
        ("dns: 10.0.0.1:80", "list addresses under endpoints"),
        ("dns: http://app.internal/path", "remove the path"),
        ("dns: app:80, endpoints: [app:80]", "endpoints or dns, not both"),
        ("dns: { name: 'app:80', servers: [dns.internal] }", "10.0.0.53"),
        ("dns: { name: 'app:80', records: mx }", "srv"),
        ("dns: { name: 'app:80', min_ttl: 2m }", "not be longer than max_ttl"),
        ("dns: { nam: 'app:80' }", "did you mean `name`?"),
    ] {
        let found = errors(&with(wrong));
        assert!(found.iter().any(|(.., remedy)| remedy.contains(told)), "{wrong}: {found:?}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_and_in_order() {
    let found =
        errors("listners: []\nupstreams: {}\nroutes: [{ upstream: x, hots: a }]\nworkers: 0\n");
    let lines: Vec<_> = found.iter().map(|(line, ..)| *line).collect();
    assert!(found.len() >= 5, "{found:?}");
    assert!(lines.is_sorted());
}

#[test]
fn bad_yaml_is_told_with_its_place() {
    let found = errors("listeners:\n  - address: [\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].0 >= 2 && found[0].2.starts_with("not valid YAML"), "{found:?}");
    assert!(errors("a: 1\n---\nb: 2\n")[0].2.contains("second document"));
    let deep = "[".repeat(100);
    assert!(errors(&deep)[0].2.contains("nested"));
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    assert!(errors(&bomb)[0].2.contains("100,000"));
}

#[test]
fn a_route_inherits_what_it_does_not_say() {
    let text = format!(
        "{SMALLEST}failures: {{ profile: gateway, hold: off, kinds: {{ dns_error: {{ status: 599 }} }} }}\n"
    )
    .replace("{ upstream: app }", "{ upstream: app, failures: { app_errors: pass } }");
    let config = parse("test.yaml", &text, Path::new("")).unwrap();
    let failure = |kind| crate::failure::Failure::new(kind, crate::failure::Phase::Connect);
    let policy = &config.routes[0].policy;
    assert_eq!(policy.decide(&failure(crate::failure::Kind::DnsError)).status, 599);
    assert_eq!(policy.decide(&failure(crate::failure::Kind::ConnectionRefused)).status, 502);
    assert_eq!(policy.app_errors(), crate::failure::policy::AppErrors::Pass);
    assert_eq!(config.routes[0].hold.bytes, 0);
}

#[test]
fn the_description_of_a_configuration_hides_its_secrets() {
    let text = parse("test.yaml", SMALLEST, Path::new("")).unwrap().describe().to_string();
    assert!(text.contains("\"0.0.0.0:8080\"") && text.contains("http://127.0.0.1:3000"));
    assert!(!text.to_lowercase().contains("private"));
}

#[test]
fn the_schema_and_the_reference_know_every_setting() {
    let (schema, reference) = (schema().to_string(), reference());
    for setting in settings() {
        let key = setting.path.rsplit('.').next().unwrap().trim_end_matches("[]");
        assert!(schema.contains(&format!("\"{key}\"")), "{key}");
        assert!(reference.contains(&setting.path), "{}", setting.path);
    }
    assert!(reference.contains("`upstreams.*.timeouts.connect`"));
    assert!(reference.contains("`routes[].failures.profile`"));
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        let _ = parse("test.yaml", &text, Path::new(""));
    }

    #[test]
    fn damaged_files_never_panic(at in 0usize..150, with in "\\PC{0,3}") {
        let mut text: Vec<char> = SMALLEST.chars().collect();
        let at = at.min(text.len() - 1);
        text.splice(at..=at, with.chars());
        let _ = parse("test.yaml", &text.into_iter().collect::<String>(), Path::new(""));
    }
}

#[test]
fn a_collector_is_named_as_collectors_are() {
    let tracing = |section: &str| {
        let text = format!("{SMALLEST}tracing: {{ {section} }}\n");
        parse("test.yaml", &text, Path::new("")).map(|config| config.tracing.unwrap())
    };
    for (endpoint, url) in [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("http://[::1]:4318/", "http://[::1]:4318/v1/traces"),
        ("https://otlp.test/v1/traces", "https://otlp.test/v1/traces"),
        ("https://otlp.test/tenant/7/", "https://otlp.test/tenant/7/v1/traces"),
    ] {
        let read = tracing(&format!("endpoint: '{endpoint}'")).unwrap();
        assert_eq!(read, super::model::Tracing::to(url));
    }
    for (sample, percent) in [("0.01%", 0.01), ("5", 5.0), ("0%", 0.0), ("33.3 %", 33.3)] {
        let read = tracing(&format!("endpoint: 'http://a:1', sample: '{sample}'")).unwrap();
        assert_eq!(read.sample_percent, percent);
    }
    for (section, message, remedy) in [
        ("service: a", "tracing needs `endpoint`", ""),
        ("endpoint: 127.0.0.1:4318", "`endpoint` cannot be", "http://HOST:PORT"),
        ("endpoint: grpc://a:4317", "`endpoint` cannot be", "http://HOST:PORT"),
        ("endpoint: http://a:4317", "`endpoint` cannot be", "write 4318"),
        ("endpoint: http://u:p@a:1", "`endpoint` cannot be", "remove the user name"),
        ("endpoint: 'http://a:1/x?y'", "`endpoint` cannot be", "http://HOST:PORT"),
        ("endpoint: http://a:1, sample: 101%", "`sample` cannot be", "0% to 100%"),
        ("endpoint: http://a:1, sample: NaN", "`sample` cannot be", "0% to 100%"),
        ("endpoint: http://a:1, service: a b", "`service` cannot be", "letters"),
        ("endpoint: http://a:1, fields_file: absent", "`fields_file` cannot be", "cannot be read"),
        (
            "endpoint: http://a:1, fields_file: Cargo.toml",
            "`fields_file` cannot be",
            "in its line 1",
        ),
        ("endpoint: http://a:1, queue: 0", "`queue` cannot be", "from 1 to"),
    ] {
        let found = errors(&format!("{SMALLEST}tracing: {{ {section} }}\n"));
        let expected = |(line, _, said, told): &(usize, usize, String, String)| {
            *line == 5 && said.contains(message) && told.contains(remedy)
        };
        assert!(found.iter().any(expected), "{section}: {found:?}");
        assert_eq!(found.len(), 1, "{section}: {found:?}");
    }
}

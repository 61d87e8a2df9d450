//! Every path, as it is asked for without a socket; the sockets are in `tests/it/admin.rs`.

use super::answer::{PAGE, SCRIPT, STYLE, journal_query};
use super::*;
use http::Method;
use http::header::{AUTHORIZATION, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http_body_util::BodyExt;

/// An administration with these settings of `admin`, and of one upstream `app` with two endpoints.
fn admin_with(settings: &str) -> Admin {
    let text = format!(
        "workers: 1\nadmin: {{ {settings} }}\nlisteners: [{{ address: ':0' }}]\n\
        upstreams: {{ app: {{ endpoints: ['http://10.0.0.1:80', 'http://10.0.0.2:80'] }} }}\n\
        routes: [{{ upstream: app }}]\n"
    );
    let config = crate::config::parse("test.yaml", &text, std::path::Path::new(".")).unwrap();
    let metrics = Metrics::new().unwrap();
    let handles = metrics.upstream("app", &[], crate::failure::Protocol::ALL);
    let shared = Shared::new(Arc::clone(&config.upstreams[0]), handles, None).unwrap();
    let state = Arc::new(State::new(&config, vec![Arc::new(shared)]));
    Admin { metrics, journal: Arc::new(Journal::new(10)), state }
}

fn admin() -> Admin {
    admin_with("")
}

impl Admin {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        match self.decide(request) {
            Decided::Answer(answer) => answer,
            Decided::Question(question) => self.make(question),
        }
    }
}

/// A request as `curl` sends it, with the field that changes need.
fn request(method: Method, uri: &str) -> http::request::Builder {
    let request = Request::builder().method(method).uri(uri).header("host", "127.0.0.1:9900");
    request.header("seawall-admin", "1")
}

async fn ask(admin: &Admin, method: Method, uri: &str) -> (u16, String, String) {
    let request = request(method, uri).body(()).unwrap();
    let (parts, body) = admin.answer(&request).into_parts();
    let media_type = parts.headers[CONTENT_TYPE].to_str().unwrap().to_owned();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), media_type, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn every_path_answers_what_it_promises() {
    let admin = admin();
    let get = |uri| ask(&admin, Method::GET, uri);
    let (status, media_type, body) = get("/metrics").await;
    assert_eq!((status, &*media_type), (200, "text/plain; version=0.0.4; charset=utf-8"));
    assert!(body.contains("seawall_build_info"));
    assert_eq!(get("/livez").await.0, 200);
    assert!(get("/config").await.2.contains("\n  \"workers\": 1\n"));
    assert_eq!(get("/failures").await.2, "[]\n");
    assert!(get("/").await.2.contains("href=\"metrics\""));
    assert_eq!(get("/page.css").await.1, "text/css; charset=utf-8");
    assert_eq!(get("/page.js").await.1, "text/javascript; charset=utf-8");
    let status: Value = serde_json::from_str(&get("/status.json").await.2).unwrap();
    assert_eq!(status["now"]["failures"], 0);
    assert_eq!(status["readiness"], "starting");
    assert_eq!(get("/nonsense").await.0, 404);
    assert_eq!(ask(&admin, Method::POST, "/metrics").await.0, 405);
}

/// The page's elements are made by its script, from text. That nothing is loaded from elsewhere is
/// checked by browsers, that there is nothing to load is checked here.
#[test]
fn the_page_names_no_other_place_and_makes_no_markup_of_text() {
    let answer = admin().answer(&request(Method::GET, "/").body(()).unwrap());
    let policy = answer.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    for text in [PAGE, STYLE, SCRIPT] {
        let text = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http://") && !text.contains("https://"));
        for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!text.contains(word), "{word}");
        }
    }
    assert!(!PAGE.contains("<style") && !PAGE.contains("style="));
}

#[tokio::test]
async fn readiness_follows_the_process() {
    let admin = admin();
    let ready = || ask(&admin, Method::GET, "/readyz");
    assert_eq!(ready().await.0, 503);
    admin.state.set_ready();
    assert_eq!(ready().await.0, 200);
    admin.state.set_draining();
    assert_eq!(ready().await, (503, "text/plain; charset=utf-8".into(), "draining\n".into()));
}

#[test]
fn with_a_token_only_the_probes_and_the_empty_page_answer_without_it() {
    let token = "0123456789abcdef";
    let file = std::env::temp_dir().join(format!("seawall-token-{}", std::process::id()));
    std::fs::write(&file, token).unwrap();
    let admin = admin_with(&format!("token_file: '{}'", file.display()));
    std::fs::remove_file(&file).unwrap();
    assert!(!format!("{admin:?}").contains(token), "a token is never printed");
    let status = |uri: &str, lines: &[&str]| {
        let mut request = Request::builder().uri(uri).header("host", "seawall.monitoring:9900");
        for line in lines {
            request = request.header(AUTHORIZATION, *line);
        }
        admin.answer(&request.body(()).unwrap()).status().as_u16()
    };
    let right = format!("Bearer {token}");
    let closed =
        ["/status.json", "/metrics", "/failures", "/config", "/nonsense", "/livez/", "//livez"];
    for uri in closed {
        assert_eq!(status(uri, &[]), 401, "{uri}");
        assert_ne!(status(uri, &[&right]), 401, "{uri}");
    }
    for uri in ["/livez", "/", "/page.css", "/page.js"] {
        assert_eq!(status(uri, &[]), 200, "{uri}");
    }
    assert_eq!(status("/readyz", &[]), 503);
    assert_eq!(status("/config", &[&format!("bearer  {token}")]), 200);
    let longer = format!("{right}0");
    let wrong = [
        "",
        "Bearer",
        "Bearer ",
        token,
        "Basic 0123456789abcdef",
        "Bearer 0123456789abcdeF",
        "Bearer 0123456789abcde",
        &longer,
    ];
    for wrong in wrong {
        assert_eq!(status("/config", &[wrong]), 401, "{wrong}");
    }
    assert_eq!(status("/config", &[&right, &right]), 401, "two are none");
}

#[tokio::test]
async fn an_endpoint_is_drained_and_restored_and_asking_twice_changes_nothing() {
    let admin = admin();
    let states = async || {
        let listed = ask(&admin, Method::GET, "/endpoints").await.2;
        let listed: Value = serde_json::from_str(&listed).unwrap();
        [0, 1].map(|at| listed[at]["state"].as_str().unwrap().to_owned())
    };
    assert_eq!(states().await, ["up", "up"]);
    for escaped in ["http://10.0.0.2:80", "http%3A%2F%2F10.0.0.2%3A80"] {
        let uri = format!("/endpoints/drain?upstream=app&endpoint={escaped}");
        let (status, _, body) = ask(&admin, Method::POST, &uri).await;
        assert!(status == 200 && body.contains("\"drained\""), "{body}");
        assert_eq!(states().await, ["up", "drained"]);
    }
    let metrics = ask(&admin, Method::GET, "/metrics").await.2;
    let gauge = "seawall_endpoint_up{endpoint=\"http://10.0.0.2:80\",upstream=\"app\"}";
    assert!(metrics.contains(&format!("{gauge} 0")), "{metrics}");
    let uri = "/endpoints/restore?upstream=app&endpoint=http://10.0.0.2:80";
    assert_eq!(ask(&admin, Method::POST, uri).await.0, 200);
    assert_eq!(states().await, ["up", "up"]);
}

#[tokio::test]
async fn only_an_operator_drains_and_only_what_is_there() {
    let admin = admin();
    let uri = "/endpoints/drain?upstream=app&endpoint=http://10.0.0.2:80";
    assert_eq!(ask(&admin, Method::GET, uri).await.0, 405);
    for (query, status) in [
        ("upstream=app&endpoint=http://10.0.0.9:80", 404),
        ("upstream=other&endpoint=http://10.0.0.2:80", 404),
        ("upstream=app", 400),
        ("upstream=app&endpiont=x", 400),
    ] {
        let uri = format!("/endpoints/drain?{query}");
        assert_eq!(ask(&admin, Method::POST, &uri).await.0, status, "{query}");
    }
    // What any page or app could send.
    for (name, value) in
        [("accept", "*/*"), ("origin", "https://evil.test"), ("sec-fetch-site", "cross-site")]
    {
        let request = Request::post(uri).header("host", "127.0.0.1:9900").header(name, value);
        let answer = admin.answer(&request.body(()).unwrap());
        assert_eq!(answer.status(), 403, "{name}: {value}");
    }
    let request = Request::post(uri).header("host", "evil.test").header("seawall-admin", "1");
    assert_eq!(admin.answer(&request.body(()).unwrap()).status(), 421);
    let states = ask(&admin, Method::GET, "/endpoints").await.2;
    assert!(!states.contains("drained"), "{states}");
    let request =
        Request::post(uri).header("host", "localhost").header("sec-fetch-site", "same-origin");
    assert_eq!(admin.answer(&request.body(()).unwrap()).status(), 200);
}

#[tokio::test]
async fn a_strange_host_reads_nothing_but_the_probes() {
    let admin = admin();
    admin.state.set_ready();
    let get = |uri: &str| {
        let request = Request::get(uri).header("host", "evil.test:9900").body(()).unwrap();
        admin.answer(&request)
    };
    for uri in
        ["/", "/page.js", "/metrics", "/failures", "/config", "/endpoints", "/status.json", "/x"]
    {
        let answer = get(uri);
        assert_eq!(answer.status(), 421, "{uri}");
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&text).contains("admin.hosts"), "it says what to do");
    }
    for uri in ["/livez", "/readyz"] {
        assert_eq!(get(uri).status(), 200, "{uri}");
    }
}

#[tokio::test]
async fn a_reload_replaces_token_and_names() {
    let admin = admin();
    let get = |host: &str, authorization: &str| {
        let request = Request::get("/metrics").header("host", host);
        let request = request.header(AUTHORIZATION, authorization).body(()).unwrap();
        admin.answer(&request).status().as_u16()
    };
    assert_eq!((get("localhost", ""), get("seawall.lan", "")), (200, 421));
    let load = |settings: &str| {
        let text = format!(
            "admin: {{ {settings} }}\nlisteners: [{{ address: ':0' }}]\n\
            upstreams: {{ app: {{ endpoints: ['http://10.0.0.1:80'] }} }}\n\
            routes: [{{ upstream: app }}]\n"
        );
        let config = crate::config::parse("test.yaml", &text, std::path::Path::new("config"));
        admin.state.load(&config.unwrap(), Vec::new());
    };
    load("hosts: [Seawall.lan.]");
    assert_eq!((get("localhost", ""), get("seawall.lan:80", "")), (200, 200));
    load("token_file: admin.token");
    let token = std::fs::read_to_string("config/admin.token").unwrap();
    let right = format!("Bearer {}", token.trim());
    assert_eq!((get("localhost", ""), get("seawall.lan", &right)), (401, 200));
}

#[tokio::test]
async fn a_wrong_query_is_told() {
    let admin = admin();
    for uri in ["/failures?limit=x", "/failures?colour=red"] {
        assert_eq!(ask(&admin, Method::GET, uri).await.0, 400, "{uri}");
    }
    assert_eq!(ask(&admin, Method::GET, "/failures?id=a&kind=b&limit=3").await.0, 200);
    let query = journal_query("id=a%3Ab%2Fc%2Bd%3De%40f-_.").unwrap();
    assert_eq!(query.request_id.as_deref(), Some("a:b/c+d=e@f-_."), "all that an id may have");
}

#[tokio::test]
async fn nothing_is_changed_while_another_process_takes_over() {
    let admin = admin();
    let uri = "/endpoints/drain?upstream=app&endpoint=http://10.0.0.2:80";
    admin.state.set_frozen(true);
    assert_eq!(ask(&admin, Method::POST, uri).await.0, 503);
    assert_eq!(ask(&admin, Method::GET, "/endpoints").await.0, 200);
    admin.state.set_frozen(false);
    assert_eq!(ask(&admin, Method::POST, uri).await.0, 200);
}

use super::*;

/// What frameworks write when an app fails, abridged but with their own wording and layout.
const TRACED: &[(&str, &str, &str)] = &[
    (
        "python",
        "plain",
        "Traceback (most recent call last):\n  File \"/srv/app.py\", line 12, in view\n    return 1 / 0\n           ~~^~~\nZeroDivisionError: division by zero\n",
    ),
    (
        "python",
        "module level",
        "Traceback (most recent call last):\r\n  File \"<string>\", line 1, in <module>\r\nNameError: name 'x' is not defined\r\n",
    ),
    (
        "python",
        "exception group",
        "  + Exception Group Traceback (most recent call last):\n  |   File \"/srv/a.py\", line 3, in main\n  |     raise ExceptionGroup('x', [e])\n",
    ),
    (
        "python",
        "format_exc in JSON",
        r#"{"error":"internal","detail":"Traceback (most recent call last):\n  File \"/srv/api.py\", line 40, in handler\n    cur.execute(q)\npsycopg.OperationalError: server closed the connection unexpectedly\n"}"#,
    ),
    (
        "python",
        "format_tb as a JSON list",
        r#"{"message":"boom","traceback":["  File \"/srv/app.py\", line 12, in view\n    boom()\n"]}"#,
    ),
    (
        "python",
        "aiohttp debug page",
        "<html><head><title>500 Internal Server Error</title></head><body>\n<h1>500 Internal Server Error</h1>\n<h2>Traceback:</h2>\n<pre>Traceback (most recent call last):\n  File &quot;/usr/lib/python3.12/site-packages/aiohttp/web_protocol.py&quot;, line 452, in _handle_request\n    resp = await request_handler(request)\nRuntimeError: boom\n</pre></body></html>",
    ),
    (
        "python",
        "Starlette debugger",
        "<html><head><style type='text/css'>p{}</style><title>Starlette Debugger</title></head><body>\n<h1>500 Server Error</h1><h2>RuntimeError: boom</h2>\n<div class=\"traceback-container\"><p class=\"traceback-title\">Traceback</p><div>\n<p class=\"frame-title\">File <span class=\"frame-filename\">/srv/main.py</span>,\n    line <i>12</i>,\n    in <b>index</b>\n",
    ),
    (
        "django",
        "debug page",
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n  <meta http-equiv=\"content-type\" content=\"text/html; charset=utf-8\">\n  <meta name=\"robots\" content=\"NONE,NOARCHIVE\">\n  <title>ZeroDivisionError\n          at /boom/</title>\n  <style>\n    html * { padding:0; margin:0; }\n",
    ),
    (
        "django",
        "fact table of the debug page",
        "<table class=\"meta\">\n    <tr>\n      <th scope=\"row\">Django Version:</th>\n      <td>5.1.3</td>\n    </tr>\n",
    ),
    (
        "django",
        "plain text for AJAX",
        "ValueError at /api/orders\nno such order\n\nRequest Method: POST\nRequest URL: http://api.example.com/api/orders\nDjango Version: 4.2.16\nPython Executable: /usr/bin/python3\n",
    ),
    (
        "django",
        "traceback through django",
        "Traceback (most recent call last):\n  File \"/venv/lib/python3.12/site-packages/django/core/handlers/exception.py\", line 55, in inner\n    response = get_response(request)\n",
    ),
    (
        "werkzeug",
        "debugger",
        "<!doctype html>\n<html lang=en>\n  <head>\n    <title>ZeroDivisionError: division by zero\n // Werkzeug Debugger</title>\n    <link rel=\"stylesheet\" href=\"?__debugger__=yes&amp;cmd=resource&amp;f=style.css\">\n    <script>\n      var CONSOLE_MODE = false,\n          EVALEX = true,\n",
    ),
    (
        "node",
        "Express, not in production",
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Error</title>\n</head>\n<body>\n<pre>Error: boom<br> &nbsp; &nbsp;at /srv/app.js:7:9<br> &nbsp; &nbsp;at Layer.handle [as handle_request] (/srv/node_modules/express/lib/router/layer.js:95:5)<br> &nbsp; &nbsp;at next (/srv/node_modules/express/lib/router/route.js:149:13)</pre>\n</body>\n</html>\n",
    ),
    (
        "node",
        "plain",
        "Error: boom\n    at Object.<anonymous> (/srv/app.js:1:2)\n    at Module._compile (node:internal/modules/cjs/loader:1554:14)\n",
    ),
    (
        "node",
        "one anonymous frame in HTML",
        "<pre>TypeError: x is not a function<br>    at Object.&lt;anonymous&gt; (/srv/app.js:1:2)</pre>",
    ),
    (
        "node",
        "stack in JSON",
        r#"{"statusCode":500,"message":"boom","stack":"Error: boom\n    at async OrderService.find (/srv/dist/order.service.js:31:15)\n    at new Order (file:///srv/dist/order.mjs:3:1)"}"#,
    ),
    (
        "node",
        "stack as a JSON list",
        r#"{"error":"x","stack":["Error: x","at handler (/srv/src/index.ts:10:5)"]}"#,
    ),
    ("node", "JSON in JSON", r#"{"cause":"{\"stack\":\"Error: x\\n    at f (/srv/a.js:1:2)\"}"}"#),
    (
        "node",
        "Windows",
        "TypeError: Cannot read properties of undefined (reading 'id')\n    at C:\\srv\\new\\app.js:12:34\n    at Layer.handle (C:\\srv\\node_modules\\router\\layer.js:1:2)\n",
    ),
    (
        "node",
        "bundler",
        "Error: x\n    at eval (webpack-internal:///(rsc)/./src/app/page.tsx:9:11)\n    at GET (webpack-internal:///./src/api.ts:9:11)\n",
    ),
    ("node", "Deno", "Error: boom\n    at file:///srv/main.ts:3:9\n"),
    (
        "java",
        "plain",
        "java.lang.IllegalStateException: boom\n\tat com.example.shop.OrderService.find(OrderService.java:42)\n\tat java.base/java.lang.Thread.run(Thread.java:1583)\nCaused by: java.sql.SQLException: Connection refused\n\t... 42 more\n",
    ),
    (
        "java",
        "native and lambda frames only",
        "\tat jdk.internal.reflect.GeneratedMethodAccessor12.invoke(Unknown Source)\n",
    ),
    (
        "java",
        "Tomcat's error page",
        "<!doctype html><html lang=\"en\"><head><title>HTTP Status 500 – Internal Server Error</title></head><body><h1>HTTP Status 500 – Internal Server Error</h1><hr class=\"line\" /><p><b>Type</b> Exception Report</p><p><b>Exception</b></p><pre>java.lang.RuntimeException: boom\n\tcom.example.Boom.doGet(Boom.java:12)\n\tjakarta.servlet.http.HttpServlet.service(HttpServlet.java:564)\n</pre></body></html>",
    ),
    (
        "java",
        "constructor in HTML",
        "<pre>java.lang.Error: x\n\tat com.example.Foo.&lt;init&gt;(Foo.java:3)</pre>",
    ),
    (
        "java",
        "Kotlin",
        "java.lang.NullPointerException\n\tat io.example.ApplicationKt$main$1.invokeSuspend(Application.kt:17)\n",
    ),
    (
        "java",
        "cause only",
        "request failed\nCaused by: org.postgresql.util.PSQLException: Connection to db:5432 refused\n",
    ),
    (
        "spring",
        "Whitelabel page",
        "<html><body><h1>Whitelabel Error Page</h1><p>This application has no explicit mapping for /error, so you are seeing this as a fallback.</p><div id='created'>Mon Nov 18 10:00:00 UTC 2024</div><div>There was an unexpected error (type=Internal Server Error, status=500).</div></body></html>",
    ),
    (
        "spring",
        "trace in JSON",
        r#"{"timestamp":"2024-11-18T10:00:00.000+00:00","status":500,"error":"Internal Server Error","trace":"java.lang.RuntimeException: boom\n\tat com.example.DemoController.boom(DemoController.java:14)\n\tat org.springframework.web.method.support.InvocableHandlerMethod.doInvoke(InvocableHandlerMethod.java:255)\n","message":"boom","path":"/boom"}"#,
    ),
    (
        "spring",
        "Jetty's page without a stack",
        "<tr><th>MESSAGE:</th><td>org.springframework.web.util.NestedServletException: Request processing failed</td></tr>",
    ),
    (
        "java",
        "Jetty's page without a stack",
        "URI: /plain\nSTATUS: 500\nCAUSED BY java.lang.IllegalStateException: no price for pen\n",
    ),
    (
        "ruby",
        "webrick",
        "<H1>Internal Server Error</H1>\n key not found\n<HR>\n<ADDRESS>\n WEBrick/1.8.1 (Ruby/3.1.7/2025-03-26) at\n",
    ),
    ("ruby", "plain", "app.rb:12:in `foo': boom (RuntimeError)\n\tfrom app.rb:15:in `<main>'\n"),
    ("python", "Windows", "Unhandled:\n  File \"C:\\new\\run.py\", line 12, in view\n    boom()\n"),
    ("php", "Windows", "Error in C:\\xampp\\htdocs\\new.php on line 3\n"),
    (
        "node",
        "a call on Windows",
        "Error: x\n    at f (C:\\srv\\node_modules\\router\\layer.js:1:2)\n",
    ),
    (
        "ruby",
        "Ruby 3.4",
        "/srv/app.rb:12:in 'Shop#foo': boom (RuntimeError)\n\tfrom /srv/app.rb:15:in '<main>'\n",
    ),
    (
        "ruby",
        "in JSON",
        r#"{"error":"boom","backtrace":["/srv/app.rb:12:in `block in \u003cmain\u003e'","/srv/config.ru:3:in `call'"]}"#,
    ),
    (
        "ruby",
        "Rack::ShowExceptions",
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n  <meta http-equiv=\"content-type\" content=\"text/html; charset=utf-8\" />\n  <meta name=\"robots\" content=\"NONE,NOARCHIVE\" />\n  <title>RuntimeError at /boom</title>\n",
    ),
    (
        "ruby",
        "Sinatra",
        "<!DOCTYPE html>\n<html>\n<head>\n  <meta http-equiv=\"Content-Type\" content=\"text/html; charset=utf-8\"/>\n  <title>Redis::CannotConnectError at /boom</title>\n\n  <script type=\"text/javascript\">\n",
    ),
    (
        "rails",
        "debug page",
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n  <meta charset=\"utf-8\" />\n  <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n  <title>Action Controller: Exception caught</title>\n  <style>\n",
    ),
    (
        "rails",
        "debug page without styles",
        "<p><code>Rails.root: /srv/shop</code></p>\n<div id=\"traces\">",
    ),
    (
        "rails",
        "JSON for API apps",
        r##"{"status":500,"error":"Internal Server Error","exception":"#\u003cRuntimeError: boom\u003e","traces":{"Application Trace":[{"exception_object_id":1200,"id":0,"trace":"app/controllers/orders_controller.rb:3:in `index'"}],"Framework Trace":[]}}"##,
    ),
    (
        "rails",
        "plain",
        "RuntimeError (boom):\n\napp/controllers/orders_controller.rb:3:in `index'\nactionpack (7.1.3) lib/action_controller/metal/basic_implicit_render.rb:6:in `send_action'\n",
    ),
    (
        "php",
        "display_errors in HTML",
        "<br />\n<b>Fatal error</b>:  Uncaught Exception: boom in /var/www/html/index.php:3\nStack trace:\n#0 {main}\n  thrown in <b>/var/www/html/index.php</b> on line <b>3</b><br />\n",
    ),
    (
        "php",
        "a warning only",
        "<br />\n<b>Warning</b>:  mysqli::__construct(): (HY000/2002): Connection refused in <b>/var/www/html/db.php</b> on line <b>7</b><br />\n",
    ),
    (
        "php",
        "on the command line server",
        "PHP Fatal error:  Uncaught TypeError: f(): Argument #1 ($x) must be of type int\n",
    ),
    (
        "php",
        "frames",
        "#0 /var/www/html/src/Kernel.php(12): foo('bar')\n#1 /var/www/html/index.php(3): App\\Kernel->run()\n",
    ),
    (
        "php",
        "trace in JSON",
        r#"{"message":"boom","file":"\/var\/www\/src\/Shop.php","line":18,"trace":[]}"#,
    ),
    (
        "laravel",
        "JSON with debug on",
        r#"{"message":"SQLSTATE[HY000] [2002] Connection refused","exception":"Illuminate\\Database\\QueryException","file":"\/var\/www\/vendor\/laravel\/framework\/src\/Illuminate\/Database\/Connection.php","line":829,"trace":[]}"#,
    ),
    (
        "laravel",
        "Ignition",
        "<!doctype html>\n<html class=\"theme-light\">\n<!--\nRuntimeException: boom in file /var/www/routes/web.php on line 18\n\n#0 /var/www/vendor/laravel/framework/src/Illuminate/Routing/CallableDispatcher.php(40): {closure}()\n-->\n",
    ),
    (
        "laravel",
        "the icon of Laravel 11's page",
        "<link rel=\"icon\" type=\"image/svg+xml\"\n          href=\"data:image/svg+xml,%3Csvg viewBox='0 -.11376601 49.74245785 51.31690859' xmlns=",
    ),
    (
        "symfony",
        "debug page",
        "<!-- boom (500 Internal Server Error) -->\n<!DOCTYPE html>\n<html lang=\"en\">\n    <head>\n        <meta charset=\"UTF-8\" />\n        <meta name=\"robots\" content=\"noindex,nofollow\" />\n        <title>boom (500 Internal Server Error)</title>\n",
    ),
    (
        "symfony",
        "JSON with debug on",
        r#"{"type":"https:\/\/tools.ietf.org\/html\/rfc2616#section-10","title":"An error occurred","status":500,"detail":"boom","class":"RuntimeException","trace":[{"namespace":"","short_class":"","class":"","type":"","function":"","file":"\/app\/src\/Controller\/ShopController.php","line":14,"args":[]}]}"#,
    ),
    (
        "symfony",
        "plain",
        "Error: Call to undefined method Symfony\\Component\\HttpFoundation\\Request::foo()\n",
    ),
    (
        "go",
        "panic",
        "panic: runtime error: index out of range [5] with length 3\n\ngoroutine 1 [running]:\nmain.main()\n\t/src/main.go:12 +0x1d\nexit status 2\n",
    ),
    (
        "go",
        "debug.Stack in JSON",
        r#"{"error":"boom","stack":"goroutine 34 [running]:\nruntime/debug.Stack()\n\t/usr/local/go/src/runtime/debug/stack.go:26 +0x64\n"}"#,
    ),
    ("go", "waiting goroutine", "goroutine 7 [chan receive, 2 minutes]:\n"),
    (
        "go",
        "pkg/errors",
        "boom\nmain.handler\n\t/src/main.go:12\nnet/http.HandlerFunc.ServeHTTP\n\t/usr/local/go/src/net/http/server.go:2220\n",
    ),
    (
        "dotnet",
        "developer exception page in text",
        "System.NullReferenceException: Object reference not set to an instance of an object.\r\n   at Shop.Orders.Find(String id) in C:\\src\\new\\Orders.cs:line 31\r\n   at Program.<>c.<<Main>$>b__0_0() in /src/Program.cs:line 5\r\n",
    ),
    (
        "dotnet",
        "without symbols",
        "Unhandled:\n   at Shop.Orders.Find(String id)\n   at Shop.Api.<Get>d__4.MoveNext()\n",
    ),
    (
        "dotnet",
        "problem details with exception",
        r#"{"type":"https://tools.ietf.org/html/rfc9110#section-15.6.1","title":"System.InvalidOperationException","status":500,"detail":"boom","exception":{"details":"System.InvalidOperationException: boom\r\n   at Program.\u003C\u003Ec.\u003C\u003CMain\u003E$\u003Eb__0_0() in /src/Program.cs:line 5"}}"#,
    ),
    (
        "dotnet",
        "ASP.NET's yellow page",
        "<html><body bgcolor=\"white\"><span><h1>Server Error in '/' Application.<hr width=100% size=1 color=silver></h1>\n<h2> <i>Attempted to divide by zero.</i> </h2></span>",
    ),
    (
        "dotnet",
        "Mono's frames",
        "  at Shop.Price (System.String article) [0x0001d] in <12b418a7818c4ca0893feeaaf67f1e7f>:0 \n",
    ),
    (
        "dotnet",
        "the beginning of ASP.NET Core's developer exception page",
        "<title>Internal Server Error</title>\n<style>\n#stackpage .stackerror {\n    padding: 5px;\n}\n.rawExceptionStackTrace {\n    font-size: 1.2em;\n}\n</style>",
    ),
    ("dotnet", "inner exception", "   --- End of inner exception stack trace ---\n"),
    (
        "rust",
        "panic",
        "thread 'main' panicked at src/main.rs:3:5:\nboom\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n",
    ),
    (
        "rust",
        "panic with thread id",
        "thread 'tokio-runtime-worker' (4711) panicked at src/main.rs:3:5:\nboom\n",
    ),
    (
        "rust",
        "backtrace",
        "stack backtrace:\n   0: rust_begin_unwind\n             at /rustc/f6e511eec7342f59a25f7c0534f1dbea00d01b14/library/std/src/panicking.rs:662:5\n",
    ),
    (
        "rust",
        "anyhow in JSON",
        r#"{"error":"boom\n\nCaused by:\n    connection refused\n\nStack backtrace:\n   0: anyhow::error::<impl core::convert::From<E> for anyhow::Error>::from"}"#,
    ),
];

/// What apps answer on purpose. None of it may be replaced.
const DELIBERATE: &[&str] = &[
    "",
    "Internal Server Error",
    "Internal Server Error\n",
    r#"{"error":"internal"}"#,
    r#"{"statusCode":500,"message":"Internal server error"}"#,
    r#"{"type":"about:blank","title":"Internal Server Error","status":500,"detail":"The order could not be saved.","instance":"/orders/12"}"#,
    r#"{"timestamp":"2024-11-18T10:00:00.000+00:00","status":500,"error":"Internal Server Error","path":"/boom"}"#,
    r#"{"message":"Server Error"}"#,
    r#"{"error":{"code":"E_CSV","message":"error in line 3 of your CSV: expected 4 columns, found 3"}}"#,
    r#"{"error":"File \"report.csv\", line 3: not a number"}"#,
    r#"{"error":"parse error at line 3, column 14 of template.html"}"#,
    r#"{"error":"Please press the panic button at the front desk (room 12:30)"}"#,
    r#"{"error":"backup failed at 2024-11-18T10:20:30Z, next try at 10:30:00"}"#,
    "The shop closes at noon (UTC 12:30:00). We are at lunch (back at 13:00:00).",
    "Meet us at Main Street (near 5:30:10)",
    "If you see a traceback, please send it to support@example.com.",
    "Support text: paste what follows \"Traceback (most recent call last):\" into the ticket.",
    "Don't panic: the thread of events is being investigated.",
    "A stack trace was written to the log. Stack backtrace: see the log.",
    r#"{"errors":[{"message":"Cannot query field \"prize\" on type \"Article\". Did you mean \"price\"?","locations":[{"line":3,"column":5}],"path":["article","prize"],"extensions":{"code":"INTERNAL_SERVER_ERROR"}}],"data":null}"#,
    r#"{"jsonrpc":"2.0","error":{"code":-32603,"message":"Internal error","data":{"line":3,"file":"orders.csv"}},"id":7}"#,
    r#"{"code":13,"message":"internal","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"STOCKOUT"}]}"#,
    r#"{"error":"java.util.NoSuchElementException"}"#,
    r#"{"error":"org.example.shop.OutOfStock: article 7"}"#,
    "Exception: your subscription has ended. Caused by: a missed payment.",
    "Warning: the printer is on line 3.",
    "Warning: the service is down. Notice: we are working on it.",
    "Fatal error. Please call us on line 3.",
    "Our PHP, Django, Rails, Laravel and Symfony courses could not be loaded.",
    "Could not load index.php, please try again.",
    "See (Foo.java:12) in the manual.",
    "The goroutine exercise could not be graded.",
    "Look at https://status.example.com:8443/incidents/12:30:00 for news.",
    "look at /help/errors.html or at /status",
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n  <meta charset=\"utf-8\">\n  <title>Server Error (500)</title>\n</head>\n<body>\n  <h1>Server Error (500)</h1><p></p>\n</body>\n</html>\n",
    "<!doctype html>\n<html lang=en>\n<title>500 Internal Server Error</title>\n<h1>Internal Server Error</h1>\n<p>The server encountered an internal error and was unable to complete your request. Either the server is overloaded or there is an error in the application.</p>\n",
    "<!DOCTYPE html><html><head><title>We're sorry, but something went wrong (500)</title></head><body><!-- This file lives in public/500.html --><div class=\"dialog\"><h1>We're sorry, but something went wrong.</h1><p>If you are the application owner check the logs for more information.</p></div></body></html>",
    "<!DOCTYPE html><html><head><meta charset=\"UTF-8\" /><meta name=\"robots\" content=\"noindex,nofollow,noarchive\" /><title>An Error Occurred: Internal Server Error</title></head><body><h1>Oops! An Error Occurred</h1><h2>The server returned a \"500 Internal Server Error\".</h2></body></html>",
    "<html><body><h1>Oops</h1><p>Something broke at our side. Order no. 12:34:56</p><ul><li>at home (Berlin)</li><li>at work (Paris)</li></ul></body></html>",
    r#"{"errors":[{"field":"file","message":"C:\\new\\data.csv is not readable"}]}"#,
    r#"{"error":"rule Shop.Discount(summer) does not apply at Shop.Checkout(cart)"}"#,
    r#"{"fault":{"faultstring":"Policy ran into error","detail":{"errorcode":"steps.javascript.ScriptExecutionFailed"}}}"#,
    r#"{"error":"invalid pattern '<b>' in filter 'a & b'","file":"logo.png","line":3}"#,
];

#[test]
fn every_trace_is_recognised_and_named() {
    for (name, what, body) in TRACED {
        assert_eq!(detect(body.as_bytes()), Some(*name), "{name}, {what}");
    }
}

#[test]
fn a_trace_inside_a_json_string_is_a_trace() {
    for (name, what, body) in TRACED {
        let once = serde_json::json!({ "error": "internal", "detail": body }).to_string();
        assert!(detect(once.as_bytes()).is_some(), "{name}, {what}: {once}");
        let twice = serde_json::json!({ "body": once }).to_string();
        assert!(detect(twice.as_bytes()).is_some(), "{name}, {what}: {twice}");
    }
}

#[test]
fn a_trace_inside_html_is_a_trace() {
    for (name, what, body) in TRACED {
        let escaped = body
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&quot;")
            .replace('\'', "&#39;");
        // What is HTML itself is not shown escaped by anybody.
        if !body.trim_start().starts_with('<') {
            let page = format!("<html><body><h1>Error</h1><pre>{escaped}</pre></body></html>");
            assert_eq!(detect(page.as_bytes()), Some(*name), "{name}, {what}: {page}");
            let page = page.replace('\n', "<br>\n");
            assert!(detect(page.as_bytes()).is_some(), "{name}, {what}: {page}");
        }
    }
}

#[test]
fn deliberate_answers_are_no_traces() {
    for body in DELIBERATE {
        assert_eq!(detect(body.as_bytes()), None, "{body}");
        let inside = serde_json::json!({ "message": body }).to_string();
        assert_eq!(detect(inside.as_bytes()), None, "{inside}");
    }
}

#[test]
fn every_pattern_compiles_and_has_a_listed_name_and_a_sample() {
    assert_eq!(SET.len(), PATTERNS.len());
    for (name, pattern) in PATTERNS {
        assert!(TRACES.contains(name), "{name}");
        let alone = RegexSetBuilder::new([pattern]).unicode(false).build().unwrap();
        let shown = TRACED.iter().any(|(sample, _, body)| {
            sample == name && alone.is_match(&super::super::text::plain(body.as_bytes()))
        });
        assert!(shown, "no sample of {name} shows {pattern}");
    }
    for name in TRACES {
        assert!(PATTERNS.iter().any(|(known, _)| known == name), "{name}");
    }
}

#[test]
fn precedence_follows_the_list_of_names() {
    let mut order: Vec<_> = PATTERNS.iter().map(|(name, _)| *name).collect();
    order.dedup();
    assert_eq!(order, TRACES);
}

#[test]
fn hostile_bodies_are_read_in_linear_time() {
    // Near misses of every pattern, repeated: backtracking would never end.
    for piece in ["at a.b(", "File \"", "#0 ", " in /a.php", "\n at ", "((((", ": Exception"] {
        let body = piece.repeat(1 << 15);
        let _ = detect(body.as_bytes());
    }
}

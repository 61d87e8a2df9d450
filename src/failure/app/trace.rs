//! Stack traces and debug pages, recognised by their content.
//!
//! [`detect`] names the language or framework of the first trace it knows in a body, whatever the
//! body claims to be: plain text, HTML, JSON with the trace in a string. It promises:
//!
//! - a stable, bounded set of names ([`TRACES`]): they are metric labels;
//! - linear time: the `regex` crate has no backtracking, and all patterns run in one pass over
//!   text that `super::text` has freed of markup and escapes;
//! - no opinion about words. "panic", "traceback", "error in line 3" occur in deliberate messages;
//!   what counts is the shape of a stack frame (a function, a source file and a line number) or
//!   the fixed text of a debug page.
//!
//! A framework comes before its language, because the first name wins. A new pattern needs a
//! sample that the framework really writes, and must leave the table of deliberate answers alone.

use std::sync::LazyLock;

use regex::bytes::{RegexSet, RegexSetBuilder};

/// Every name that [`detect`] can give: the values of the `trace` label.
pub const TRACES: &[&str] = &[
    "django", "werkzeug", "python", "spring", "java", "rails", "ruby", "laravel", "symfony", "php",
    "node", "go", "dotnet", "rust",
];

/// Patterns in order of precedence, over ASCII classes. A path on Windows may contain line ends:
/// taking JSON escapes off turns `C:\new` into `C:` and `ew`.
const PATTERNS: &[(&str, &str)] = &[
    // The page's first lines, its fact table, and the plain-text variant for AJAX requests.
    ("django", r#"content="NONE,NOARCHIVE">\s+\S+\s+at /"#),
    ("django", r"Django Version:\s*\d"),
    ("django", r#"File "[^"]*[/\\]django[/\\][^"]*", line \d+, in "#),
    (
        "werkzeug",
        r"// Werkzeug (?:Debugger|Interactive)|\?__debugger__=yes|EVALEX = (?:true|false)",
    ),
    // The header alone may stand in a support text; with a frame under it, it is a trace. The
    // bars are those of exception groups.
    ("python", r#"Traceback \(most recent call last\):[\s|+-]*File ""#),
    ("python", r#"File "[^"]*", line \d+, in "#),
    ("python", r"File \S+\.py,\s+line \d+,\s+in "), // Starlette's page
    ("spring", r"Whitelabel Error Page"),
    ("spring", r"\bat [\w$.@/-]*\borg\.springframework\.[\w$.<>]+\("),
    ("spring", r"\borg\.springframework\.(?:\w+\.)*[\w$]*Exception: "),
    // `method(File.java:12)`: enough by itself, and all that Tomcat's page shows.
    ("java", r"[\w$>]\([\w$-]+\.(?:java|kt|kts|scala|groovy|clj):\d+\)"),
    ("java", r"\bat [\w$.@/<>-]+\((?:Native Method|Unknown Source)\)"),
    ("java", r"(?m)^\s*Caused by: (?:[\w$]+\.)+[\w$]+(?:Exception|Error)\b"),
    // What pages without a stack still show of the exception: its class, in full, and its message.
    (
        "java",
        r"\b(?:java|javax|jakarta|kotlin|scala|org\.(?:apache|eclipse|hibernate))\.(?:\w+\.)*[\w$]*(?:Exception|Error): ",
    ),
    ("rails", r"Action Controller: Exception caught|(?m:^)\s*Rails\.root: /"),
    ("rails", r#""Application Trace"\s*:|"Framework Trace"\s*:"#),
    ("rails", r"\b(?:actionpack|activerecord|activesupport|railties)[ -]\(?\d[^\n:]*:\d+:in ['`]"),
    ("rails", r"\b(?:actionpack|activerecord|activesupport|railties) \(\d[\d.]*\) \S+\.rb:\d+"),
    ("ruby", r"\.(?:rb|ru|erb|haml|slim|rake):\d+:in ['`]"),
    // Rack's and Sinatra's pages: the class and the path are title and heading.
    ("ruby", r#"content="NONE,NOARCHIVE" />\s+\S+ at /"#),
    // WEBrick's own page: the exception's message above, its banner below.
    ("ruby", r"\bWEBrick/\d[\d.]* \(Ruby/"),
    ("ruby", r"(?m)^\s*(?:[A-Z]\w*::)*[A-Z]\w*(?:Error|Exception) at /"),
    ("laravel", r"\bIlluminate\\[A-Z]|[/\\]laravel[/\\]framework[/\\]|window\.ignite\b"),
    // Laravel's own page since version 11: the trace comes after 60 KiB of styles, the icon before.
    ("laravel", r"svg viewBox='0 -\.11376601 49\.74245785 51\.31690859'"),
    (
        "symfony",
        r"\bSymfony\\(?:Component|Bundle)\\|[/\\]vendor[/\\]symfony[/\\]|Symfony Exception",
    ),
    ("symfony", r#"<!-- [^\n]* \(5\d\d [A-Za-z ]+\) -->\s*<!DOCTYPE|"short_class":"#),
    (
        "php",
        r"\b(?:Fatal error|Parse error|Warning|Notice|Deprecated): [^\n]* in [^\n]* on line \d",
    ),
    ("php", r"\bPHP (?:Fatal error|Parse error|Warning|Notice|Deprecated): "),
    (
        "php",
        r" in (?:file )?(?:[A-Za-z]:[\\/\s][^:]*|[^\s:][^\n:]*)\.php(?:\(\d+\)[^\n]*)?(?: on line |:)\d",
    ),
    ("php", r"#\d+ [^\n]*\.php\(\d+\): |#\d+ \{main\}|#\d+ \[internal function\]: "),
    ("php", r#""file":\s*"[^"]+\.php",\s*"line":\s*\d"#),
    // With a known location in parentheses any function name will do; without, only a script.
    ("node", NODE_CALL),
    ("node", NODE_PLACE),
    ("node", r"(?m)^\s*at (?:file://|node:)\S+:\d+:\d+\s*$"),
    ("go", r"goroutine \d+ (?:gp=\S+ m=\S+ (?:mp=\S+ )?)?\[[a-z][^\]\n]*\]:"),
    ("go", r"\.go:\d+ \+0x[0-9a-f]"),
    ("go", r"(?m)^[\w./()*\[\]-]+\s*\n\s+(?:/|[A-Z]:)\S+\.go:\d+"), // pkg/errors
    ("dotnet", r"\bat [\w.<>`+|$\[\],]+\([^()\n]*\) in (?:[A-Za-z]:\s|[A-Za-z]:[\\/]|/)"),
    // Mono's frames; and the style sheet of ASP.NET Core's page, which stands before all else.
    ("dotnet", r"\bat [\w.<>`+|$\[\],/]+ \([^()\n]*\) \[0x[0-9a-f]+\] in "),
    ("dotnet", r"\.rawExceptionStackTrace\b|#stackpage \.stackerror\b"),
    ("dotnet", r" in [^\n]*\.(?:cs|vb|fs|cshtml|razor):line \d"),
    (
        "dotnet",
        r"(?m)^\s*at [\w.<>`+|$\[\],]+\([^():\n]*\)\s*\n\s*at [\w.<>`+|$\[\],]+\([^():\n]*\)",
    ),
    ("dotnet", r"\b(?:System|Microsoft)\.(?:\w+\.)*\w*Exception(?: \(0x[0-9A-F]+\))?: "),
    (
        "dotnet",
        r"Server Error in '/[^'\n]*' Application\.|--- End of (?:inner exception )?stack trace",
    ),
    ("rust", r"thread '[^'\n]*' (?:\(\d+\) )?panicked at "),
    ("rust", r"(?i:stack backtrace:)\s+0: "),
    ("rust", r"\bat \S+\.rs:\d+:\d+"),
];

const NODE_CALL: &str = concat!(
    r#"(?:^|[\s"'>,])at (?:async |new )*(?:[\w$.<>\[\]#/@-]+ )?(?:\[as [^\]\n]+\] )?\("#,
    r"(?:(?:/|file:|node:|internal/|webpack|app://|\./)[^()\n]*",
    r"|[A-Za-z]:[\\/\s][^()]*",
    r"|[^()\n]*\.[cm]?[jt]sx?)",
    r":\d+:\d+\)",
);

const NODE_PLACE: &str = concat!(
    r#"(?:^|[\s"'>,])at (?:async )?"#,
    r#"(?:(?:file://|node:|/)[^\s()"]*|[A-Za-z]:[\\/\s][^()"]*)"#,
    r"\.[cm]?[jt]sx?:\d+:\d+",
);

static SET: LazyLock<RegexSet> = LazyLock::new(|| {
    // The patterns are literals that a test compiles; the fallback cannot be reached.
    RegexSetBuilder::new(PATTERNS.iter().map(|(_, pattern)| pattern))
        .unicode(false)
        .build()
        .unwrap_or_else(|_| RegexSet::empty())
});

/// The name of the trace that a body shows, one of [`TRACES`].
///
/// Reads all of `body`: the caller bounds it.
#[must_use]
pub fn detect(body: &[u8]) -> Option<&'static str> {
    let text = super::text::plain(body);
    let first = SET.matches(&text).iter().next()?;
    PATTERNS.get(first).map(|(name, _)| *name)
}

#[cfg(test)]
mod tests;

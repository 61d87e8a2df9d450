//! Floor 6: `seawall failures`, the journal in a terminal.
//!
//! It asks the admin listener of a running seawall over HTTP, as a browser would, and prints what it
//! is told: a line per failure, oldest first, so that the newest stands above the prompt. What a
//! failing app wrote reaches the terminal without control characters: it could else move the cursor,
//! change the title, or write what is not there. `--json` prints entries as they are, one a line;
//! JSON escapes control characters by itself. `--file` reads the journal's file instead, also when
//! nothing runs.

mod file;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::operator::{Place, authorization};
use crate::telemetry::journal::Query;

/// How often `--follow` asks.
const PERIOD: Duration = Duration::from_secs(1);
/// Most entries that `--follow` asks for at a time.
const BURST: usize = 1000;

/// What `seawall failures` was asked for.
#[derive(Debug, Args)]
pub struct Options {
    /// The admin address of a running seawall
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9900")]
    url: String,
    /// The file with the operators' token, if the admin address needs one (admin.token_file)
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The journal's file (journal.file) instead of a running seawall, with those renamed to .1, .2 ...
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "token_file"])]
    file: Option<PathBuf>,
    /// Only this request: its id, or how it begins; shows everything that is known
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Only this kind, such as connection_refused
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only this upstream
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Most failures to print
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
    limit: usize,
    /// Then wait for more, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Why there is nothing more to print.
#[derive(Debug)]
pub enum Trouble {
    /// The URL is none that can be asked.
    Url(String),
    /// The token cannot be read.
    Token(PathBuf, io::Error),
    /// The journal's file cannot be read.
    File(PathBuf, io::Error),
    /// Nobody answers there, or not in time.
    Ask(String, io::Error),
    /// The answer is no journal.
    Answer(String, String),
    /// The output is gone.
    Print(io::Error),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Url(url) => write!(f, "{url:?} is no http://HOST:PORT"),
            Trouble::Token(file, error) => {
                write!(f, "cannot read the token in {}: {error}", file.display())
            }
            Trouble::File(file, error) => {
                write!(f, "cannot read the journal {}: {error}", file.display())
            }
            Trouble::Ask(place, error) => write!(
                f,
                "no seawall answers at {place}: {error}; --url names its admin address (admin.address)"
            ),
            Trouble::Answer(place, what) => write!(f, "{place} answers {what}"),
            Trouble::Print(error) => write!(f, "cannot print: {error}"),
        }
    }
}

/// Prints what was asked for; with `follow` until the output is gone or seawall is.
///
/// # Errors
/// If seawall cannot be asked or the output is gone.
pub fn run(options: &Options) -> Result<(), Trouble> {
    let coloured = io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let printer = Printer { coloured, json: options.json, whole: options.id.is_some() };
    let printed = match &options.file {
        Some(file) => read(options, file, printer),
        None => ask(options, printer),
    };
    match printed {
        // Who reads has seen enough.
        Err(Trouble::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// Prints what is in the file; with `follow` also what is added, for ever.
fn read(options: &Options, path: &Path, printer: Printer) -> Result<(), Trouble> {
    let failed = |error| Trouble::File(path.to_owned(), error);
    let query = Query {
        request_id: options.id.clone(),
        kind: options.kind.clone(),
        upstream: options.upstream.clone(),
        limit: Some(options.limit),
    };
    // Before the last ones are read: what is written in between is printed twice rather than never.
    let follow = options.follow.then(|| file::Follow::new(path)).transpose().map_err(failed)?;
    let mut out = io::stdout().lock();
    for entry in file::last(path, &query).map_err(failed)? {
        printer.print(&mut out, &entry).map_err(Trouble::Print)?;
    }
    let Some(mut follow) = follow else { return Ok(()) };
    loop {
        thread::sleep(PERIOD);
        let mut broken = None;
        let read = follow.more(&mut |entry| {
            if broken.is_none() && query.wants(&entry) {
                broken = printer.print(&mut out, &entry).err();
            }
            Ok(())
        });
        read.map_err(failed)?;
        if let Some(error) = broken {
            return Err(Trouble::Print(error));
        }
    }
}

/// Prints what a running seawall knows; with `follow` until it is gone.
fn ask(options: &Options, printer: Printer) -> Result<(), Trouble> {
    let mut place = Place::parse(&options.url).ok_or_else(|| Trouble::Url(options.url.clone()))?;
    if let Some(file) = &options.token_file {
        place.authorization = authorization(file).map_err(|e| Trouble::Token(file.clone(), e))?;
    }
    let (mut next, mut limit) = (0, options.limit);
    loop {
        let entries = entries(&place, &query(options, limit))?;
        let newest = entries.first().map(number);
        // Numbers that begin anew are those of a seawall that was restarted.
        if newest.is_some_and(|newest| newest + 1 < next) {
            next = 0;
        }
        for entry in entries.iter().rev().filter(|entry| number(entry) >= next) {
            printer.print(&mut io::stdout().lock(), entry).map_err(Trouble::Print)?;
        }
        if !options.follow {
            return Ok(());
        }
        next = newest.map_or(next, |newest| newest + 1);
        limit = BURST;
        thread::sleep(PERIOD);
    }
}

fn entries(place: &Place, query: &str) -> Result<Vec<Value>, Trouble> {
    let target = format!("/failures?{query}");
    let asked = place.get(&target);
    let (status, content) = asked.map_err(|error| Trouble::Ask(place.authority.clone(), error))?;
    let wrong = |what: String| Trouble::Answer(place.authority.clone(), what);
    if status != 200 {
        let said = visible(&String::from_utf8_lossy(&content));
        return Err(wrong(format!("{status}: {}", said.trim())));
    }
    match serde_json::from_slice(&content) {
        Ok(Value::Array(entries)) => Ok(entries),
        Ok(_) => Err(wrong("something that is no journal".into())),
        Err(error) => Err(wrong(format!("something that is no journal: {error}"))),
    }
}

fn number(entry: &Value) -> u64 {
    entry.get("number").and_then(Value::as_u64).unwrap_or_default()
}

fn query(options: &Options, limit: usize) -> String {
    let mut query = format!("limit={limit}");
    let narrowed = [("id", &options.id), ("kind", &options.kind), ("upstream", &options.upstream)];
    for (name, value) in narrowed {
        // Ids and names have no other characters: what else was typed matches nothing.
        if let Some(value) = value {
            let plain = |c: &char| c.is_ascii_alphanumeric() || "-_.:=+/@".contains(*c);
            let value: String = value.chars().map(|c| if plain(&c) { c } else { '!' }).collect();
            // In a query, some servers read it as a space.
            let value = value.replace('+', "%2B");
            query.push_str(&format!("&{name}={value}"));
        }
    }
    query
}

/// How entries are written.
#[derive(Clone, Copy, Debug)]
struct Printer {
    coloured: bool,
    json: bool,
    whole: bool,
}

const RED: &str = "31";
const YELLOW: &str = "33";
const DIM: &str = "2";

/// What the first line of an entry has, or what is told apart.
const TOLD: &[&str] =
    &["time_ms", "number", "kind", "upstream", "method", "path", "error", "evidence"];

impl Printer {
    fn print(self, out: &mut impl Write, entry: &Value) -> io::Result<()> {
        if self.json {
            writeln!(out, "{entry}")?;
            return out.flush();
        }
        let text = |name: &str| entry.get(name).map(shown).unwrap_or_default();
        let outcome = text("outcome");
        let got = match (entry.get("close_code"), entry.get("status")) {
            _ if outcome == "recovered" => "recovered".to_owned(),
            (Some(code), _) => format!("close {}", shown(code)),
            (None, Some(status)) => shown(status),
            (None, None) => "cut off".to_owned(),
        };
        let colour = if matches!(&*outcome, "normalized" | "aborted") { RED } else { YELLOW };
        let time = utc(entry.get("time_ms").and_then(Value::as_u64).unwrap_or_default());
        let why =
            text("dependency") + if entry.get("dependency").is_some() { " failed; " } else { "" };
        writeln!(
            out,
            "{} {} {} {} {} -> {got}  {why}{} {}",
            self.painted(DIM, &time),
            self.painted(colour, &text("kind")),
            text("upstream"),
            text("method"),
            text("path"),
            text("error"),
            self.painted(DIM, &text("request_id")),
        )?;
        if let (true, Some(fields)) = (self.whole, entry.as_object()) {
            for (name, value) in fields.iter().filter(|(name, _)| !TOLD.contains(&&***name)) {
                writeln!(out, "  {:<16}{}", name.replace('_', " "), shown(value))?;
            }
            for line in entry.get("evidence").and_then(Value::as_str).unwrap_or_default().lines() {
                writeln!(out, "  {} {}", self.painted(DIM, "|"), visible(line))?;
            }
        }
        out.flush()
    }

    fn painted(self, colour: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A value in one line.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => visible(text),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(": "),
        other => other.to_string(),
    }
}

/// The text without what moves a terminal's cursor or turns the direction of writing.
fn visible(text: &str) -> String {
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars()
        .map(|c| match c {
            '\t' | '\n' => ' ',
            c if c.is_control() || turns(c) => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// Date and time of these milliseconds since 1970, as in RFC 3339.
fn utc(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // The civil calendar with years that begin in March, so that leap days come last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn printed(printer: Printer, entry: &Value) -> String {
        let mut out = Vec::new();
        printer.print(&mut out, entry).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn entry() -> Value {
        json!({
            "time_ms": 1_795_427_969_658_u64, "number": 3, "kind": "dependency_failure",
            "upstream": "app", "method": "GET", "path": "/cart", "status": 500,
            "outcome": "normalized", "dependency": "postgres", "error": ["outer", "inner"],
            "request_id": "abc", "evidence": "one\x1b[2Jtwo\nthree \u{202e}evil",
        })
    }

    const PLAIN: Printer = Printer { coloured: false, json: false, whole: false };

    #[test]
    fn a_failure_is_a_line_and_on_request_more() {
        let line = "2026-11-23T09:59:29Z dependency_failure app GET /cart -> 500  \
            postgres failed; outer: inner abc\n";
        assert_eq!(printed(PLAIN, &entry()), line);
        let whole = printed(Printer { whole: true, ..PLAIN }, &entry());
        assert!(whole.starts_with(line) && whole.contains("  outcome         normalized\n"));
        assert!(whole.contains("  | three"), "{whole}");
    }

    #[test]
    fn what_an_app_wrote_cannot_steer_the_terminal() {
        let mut hostile = entry();
        hostile["path"] = "/\x1b]0;title\x07\r\u{9b}1A".into();
        for whole in [true, false] {
            let text = printed(Printer { whole, ..PLAIN }, &hostile);
            let steers = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
            assert!(!text.contains(steers), "{text:?}");
        }
        let json = printed(Printer { json: true, ..PLAIN }, &hostile);
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), hostile);
        assert!(json.lines().count() == 1 && !json.contains('\x1b'));
    }

    #[test]
    fn colours_are_for_terminals() {
        assert!(!printed(PLAIN, &entry()).contains('\x1b'));
        let coloured = printed(Printer { coloured: true, ..PLAIN }, &entry());
        assert!(coloured.contains("\x1b[31mdependency_failure\x1b[0m"), "{coloured:?}");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds * 1000), expected);
        }
    }
}

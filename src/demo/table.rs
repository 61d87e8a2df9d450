//! The table: each fault without seawall and with it, judged.
//!
//! A row is right if the client behind seawall saw what [`super::fault`] promises, nothing leaked,
//! and the failure was counted exactly once, under the kind that the client was told. What is seen
//! without seawall is measured too, at the same time for all faults (some take as long as a client
//! has patience), but not judged: an app may fail as it likes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use super::fault::{Expected, Fault, NO_NAME, Transport, Upstream};
use super::probe;
use super::story::FAULTS;
use super::view::{Content, View};

/// How long a failure may take to be counted after the client has seen it, on a busy machine too.
const COUNTED: Duration = Duration::from_secs(10);

/// Where everything is.
#[derive(Clone, Copy, Debug)]
pub struct Targets {
    /// The app.
    pub app: SocketAddr,
    /// A port at which nobody listens.
    pub nobody: SocketAddr,
    /// seawall, for clients.
    pub seawall: SocketAddr,
    /// seawall, for operators.
    pub admin: SocketAddr,
}

/// One fault, measured.
#[derive(Debug)]
pub struct Row {
    /// The fault.
    pub fault: &'static Fault,
    /// What a client saw without seawall; `None` if the probe was lost.
    pub without: Option<View>,
    /// What a client saw with seawall.
    pub with: View,
    /// The kinds that were counted, with how often if not once.
    pub counted: String,
    /// What is not as promised.
    pub wrong: Option<String>,
}

/// Failures counted so far: by kind, and by dependency.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts {
    kinds: BTreeMap<String, u64>,
    dependencies: BTreeMap<String, u64>,
}

/// Measures these faults and gives each row to `each` as soon as it is known. Must run in a
/// `LocalSet`.
pub async fn measure(
    targets: Targets,
    faults: impl Iterator<Item = &'static Fault>,
    mut each: impl FnMut(&Row),
) {
    let begun: Vec<_> = faults.map(|fault| (fault, spawn_local(without(targets, fault)))).collect();
    for (fault, without) in begun {
        let mut row = measure_one(targets, fault).await;
        row.without = without.await.ok();
        each(&row);
    }
}

async fn measure_one(targets: Targets, fault: &'static Fault) -> Row {
    let before = Counts::read(targets.admin).await;
    let with = with(targets, fault).await;
    let wrong = judge(fault, &with).err();
    let Some(before) = before else {
        let wrong = Some("the metrics cannot be read".into());
        return Row { fault, without: None, with, counted: "?".into(), wrong };
    };
    let mut after = before.clone();
    let deadline = Instant::now() + COUNTED;
    // The client's last byte and the count are two events; what is healthy is counted at no time.
    while Instant::now() < deadline {
        if let Some(counts) = Counts::read(targets.admin).await {
            after = counts;
        }
        let counted = after.kinds != before.kinds
            && (fault.dependency.is_none() || after.dependencies != before.dependencies);
        if fault.kind.is_none() || counted {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    let (kinds, counted) = since(&before.kinds, &after.kinds);
    let (_, dependency) = since(&before.dependencies, &after.dependencies);
    let as_promised = match fault.kind {
        None => kinds == 0,
        Some(_) => kinds == 1 && fault.accepts(&counted),
    };
    let wrong = wrong.or_else(|| {
        if !as_promised {
            let expected = fault.kind.map_or("nothing", |kind| kind.name());
            Some(format!("counted {counted}, expected {expected}"))
        } else if fault.dependency.is_some_and(|expected| expected != dependency) {
            Some(format!("the dependency counted is {dependency}"))
        } else {
            None
        }
    });
    Row { fault, without: None, with, counted, wrong }
}

/// What a client sees that talks to the app itself.
pub async fn without(targets: Targets, fault: &'static Fault) -> View {
    match fault.upstream {
        Upstream::App(_) => ask(targets.app, fault).await,
        Upstream::Nobody => ask(targets.nobody, fault).await,
        Upstream::NoName => probe::name(NO_NAME).await,
        Upstream::PlainText => probe::tls(targets.app).await,
    }
}

/// What a client sees that talks to seawall.
async fn with(targets: Targets, fault: &'static Fault) -> View {
    ask(targets.seawall, fault).await
}

async fn ask(address: SocketAddr, fault: &Fault) -> View {
    match fault.transport {
        Transport::Http => probe::http(address, &fault.path()).await,
        Transport::WebSocket => probe::websocket(address, &fault.path()).await,
    }
}

/// Compares what a client saw behind seawall with what was promised.
fn judge(fault: &Fault, view: &View) -> Result<(), String> {
    let (as_promised, leaks, error) = match view {
        View::Response(response) => {
            let whole = matches!(response.content, Content::Whole(1..));
            let as_promised = match fault.expected {
                Expected::Healthy => response.status == 200 && whole,
                Expected::Answered => {
                    response.status == 500
                        && whole
                        && response.media_type == "application/problem+json"
                        && response.has_request_id
                }
                Expected::CutOff => response.status == 200 && response.content == Content::Cut,
                Expected::Passed => {
                    response.status == 500 && whole && response.media_type == "application/json"
                }
                Expected::Closed => false,
            };
            let told = (fault.expected == Expected::Answered)
                .then(|| response.error.clone().unwrap_or_else(|| "no error".into()));
            (as_promised, response.leaks, told)
        }
        View::Session(session) => {
            let code = session.close.as_ref().map(|(code, _)| *code);
            let as_promised = session.fault.is_none()
                && session.messages == 1
                && match fault.expected {
                    Expected::Healthy => session.echoed && code == Some(1000),
                    Expected::Closed => code == Some(1011),
                    Expected::Answered | Expected::CutOff | Expected::Passed => false,
                };
            (as_promised, session.leaks, None)
        }
        View::Unreachable(_) | View::NoAnswer(_) | View::Broken(_) => (false, false, None),
    };
    if leaks {
        return Err("what the app said reached the client".into());
    }
    if !as_promised {
        return Err(format!("expected {}", fault.expected.words(fault.transport)));
    }
    match error {
        Some(error) if !fault.accepts(&error) => Err(format!("Proxy-Status says {error}")),
        _ => Ok(()),
    }
}

impl Counts {
    async fn read(admin: SocketAddr) -> Option<Self> {
        probe::text(admin, "/metrics").await.map(|text| Counts::parse(&text))
    }

    fn parse(text: &str) -> Self {
        Counts {
            kinds: sums(text, "seawall_failures_total", "kind"),
            dependencies: sums(text, "seawall_dependency_failures_total", "dependency"),
        }
    }
}

/// A metric's samples in the text format of Prometheus, added up by one label.
fn sums(text: &str, metric: &str, label: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for line in text.lines() {
        let Some((labels, value)) = line
            .strip_prefix(metric)
            .and_then(|rest| rest.strip_prefix('{'))
            .and_then(|rest| rest.rsplit_once("} "))
        else {
            continue;
        };
        let name = labels.split(',').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            (key == label).then(|| value.trim_matches('"').to_owned())
        });
        if let (Some(name), Ok(value)) = (name, value.trim().parse::<u64>()) {
            *sums.entry(name).or_default() += value;
        }
    }
    sums
}

/// How many were counted in between, and of what.
fn since(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> (u64, String) {
    let mut total = 0;
    let mut names = String::new();
    for (name, count) in after {
        let more = count.saturating_sub(before.get(name).copied().unwrap_or(0));
        if more == 0 {
            continue;
        }
        total += more;
        if !names.is_empty() {
            names.push_str(", ");
        }
        names.push_str(name);
        if more > 1 {
            let _ = write!(names, " x{more}");
        }
    }
    (total, if total == 0 { "-".into() } else { names })
}

/// Prints rows as they come.
#[derive(Debug)]
pub struct Printer<W> {
    out: W,
    colours: bool,
    section: Option<Transport>,
    widths: [usize; 3],
    rows: usize,
    wrong: usize,
}

impl Printer<io::Stdout> {
    /// A printer to standard output, coloured on a terminal unless `NO_COLOR` is set
    /// (no-color.org).
    #[must_use]
    pub fn stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let out = io::stdout();
        let colours = out.is_terminal() && !refused && !dumb;
        Printer::new(out, colours)
    }
}

impl<W: Write> Printer<W> {
    /// A printer to `out`.
    pub fn new(out: W, colours: bool) -> Self {
        let widest = |of: fn(&Fault) -> usize| FAULTS.iter().map(of).max().unwrap_or(0);
        let widths = [
            widest(|fault| fault.name.len()),
            widest(|fault| fault.without.len()),
            widest(|fault| fault.expected.words(fault.transport).len()),
        ];
        Printer { out, colours, section: None, widths, rows: 0, wrong: 0 }
    }

    /// Prints a row, under a heading when it is the first of its transport.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn row(&mut self, row: &Row) -> io::Result<()> {
        self.rows += 1;
        self.wrong += usize::from(row.wrong.is_some());
        if self.section != Some(row.fault.transport) {
            self.section = Some(row.fault.transport);
            self.heading(row.fault.transport)?;
        }
        let without = row.without.as_ref().map_or("?".into(), ToString::to_string);
        let [name, left, right] = self.widths;
        let with = row.with.to_string();
        let (mark, colour) = if row.wrong.is_some() { ("WRONG", 31) } else { ("ok   ", 32) };
        let mark = self.paint(mark, colour);
        writeln!(
            self.out,
            "{mark}  {:name$}  {without:left$}  {with:right$}  {}",
            row.fault.name, row.counted
        )?;
        if let Some(wrong) = &row.wrong {
            let wrong = self.paint(wrong, 31);
            writeln!(self.out, "       {wrong}")?;
        }
        self.out.flush()
    }

    /// Prints the sum. True if every fault had its row and every row is right.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn sum(&mut self) -> io::Result<bool> {
        let right = self.rows - self.wrong;
        let all = self.wrong == 0 && self.rows == FAULTS.len();
        let line = format!("{right} of {} rows are right.", FAULTS.len());
        let line = self.paint(&line, if all { 32 } else { 31 });
        writeln!(self.out, "\n{line}")?;
        self.out.flush()?;
        Ok(all)
    }

    fn heading(&mut self, transport: Transport) -> io::Result<()> {
        let title = match transport {
            Transport::Http => "HTTP",
            Transport::WebSocket => "WebSocket",
        };
        let [name, left, right] = self.widths;
        let line = format!(
            "       {title:name$}  {:left$}  {:right$}  counted as",
            "without seawall", "with seawall"
        );
        let rule = "-".repeat(line.len().max(9 + name + left + right + 2 * 2 + 33));
        let line = self.paint(&line, 1);
        writeln!(self.out, "\n{line}\n{rule}")
    }

    fn paint(&self, text: &str, colour: u8) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::app::App;
    use crate::demo::stage::Nobody;
    use crate::demo::view::{Response, Session};

    #[tokio::test]
    async fn without_seawall_each_fault_looks_as_the_list_says() {
        let app = App::start().unwrap();
        let nobody = Nobody::bind().unwrap();
        let targets = Targets {
            app: app.address(),
            nobody: nobody.address(),
            seawall: app.address(),
            admin: app.address(),
        };
        let serving = tokio::task::LocalSet::new();
        serving
            .run_until(async {
                let views: Vec<_> =
                    FAULTS.iter().map(|fault| spawn_local(without(targets, fault))).collect();
                for (fault, view) in FAULTS.iter().zip(views) {
                    let view = view.await.unwrap().to_string();
                    // How a machine without a network says that a name does not exist is its own
                    // affair.
                    if !matches!(fault.upstream, Upstream::NoName) {
                        assert_eq!(view, fault.without, "{:?} {}", fault.transport, fault.name);
                    }
                }
            })
            .await;
    }

    fn fault(path: &str) -> &'static Fault {
        Fault::at(path).unwrap()
    }

    fn answer() -> Response {
        Response {
            status: 500,
            media_type: "application/problem+json".into(),
            error: Some("connection_terminated".into()),
            has_request_id: true,
            content: Content::Whole(80),
            head: 300,
            leaks: false,
        }
    }

    #[test]
    fn an_answer_is_right_only_if_all_of_it_is() {
        let crash = fault("/fault/crash");
        assert_eq!(judge(crash, &View::Response(answer())), Ok(()));
        for wrong in [
            Response { status: 502, ..answer() },
            Response { media_type: "text/plain".into(), ..answer() },
            Response { error: None, ..answer() },
            Response { error: Some("dns_error".into()), ..answer() },
            Response { has_request_id: false, ..answer() },
            Response { content: Content::Cut, ..answer() },
            Response { leaks: true, ..answer() },
        ] {
            assert!(judge(crash, &View::Response(wrong.clone())).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_session_is_right_only_with_its_message_and_a_clean_1011() {
        let crash = fault("/ws/crash");
        let right =
            Session { messages: 1, close: Some((1011, String::new())), ..Session::default() };
        assert_eq!(judge(crash, &View::Session(right.clone())), Ok(()));
        for wrong in [
            Session { messages: 0, ..right.clone() },
            Session { close: Some((1002, String::new())), ..right.clone() },
            Session { close: None, fault: Some("1006 (no Close)"), ..right.clone() },
            Session { fault: Some("unclean"), ..right.clone() },
            Session { leaks: true, ..right },
        ] {
            assert!(judge(crash, &View::Session(wrong.clone())).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn failures_are_counted_by_kind_over_all_other_labels() {
        let before = Counts::parse(
            "# HELP seawall_failures_total x\n\
            seawall_failures_total{kind=\"dns_error\",upstream=\"a\"} 1\n\
            seawall_failures_total{kind=\"connection_refused\",upstream=\"a\"} 0\n",
        );
        let after = Counts::parse(
            "seawall_failures_total{kind=\"dns_error\",upstream=\"a\"} 1\n\
            seawall_failures_total{kind=\"connection_refused\",upstream=\"a\"} 1\n\
            seawall_failures_total{kind=\"connection_refused\",upstream=\"b\"} 1\n\
            seawall_failures_total_created{kind=\"x\"} 9\n",
        );
        assert_eq!(since(&before.kinds, &after.kinds), (2, "connection_refused x2".into()));
        assert_eq!(since(&after.kinds, &after.kinds), (0, "-".into()));
    }

    #[test]
    fn a_wrong_row_says_why_and_spoils_the_sum() {
        let row = Row {
            fault: fault("/fault/crash"),
            without: None,
            with: View::Response(answer()),
            counted: "-".into(),
            wrong: Some("counted nothing".into()),
        };
        let mut printer = Printer::new(Vec::new(), false);
        printer.row(&row).unwrap();
        assert!(!printer.sum().unwrap());
        let text = String::from_utf8(printer.out).unwrap();
        assert!(text.contains("WRONG  crash ") && text.contains("counted nothing"), "{text}");
        assert!(!text.contains('\x1b'));
    }
}

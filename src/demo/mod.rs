//! Floor 5: the demonstration behind `seawall demo`. The one module that may start a server.
//!
//! One process: a small app that fails in every way there is, seawall in front of it, and a table
//! of what a client sees of each fault without seawall and with it. `--once` ends there, with an
//! exit code that says whether every row is right; otherwise it keeps running, for curl and for a
//! page that has a button for each fault.
//!
//! What must stay true: everything listens on loopback unless told otherwise; the faults have one
//! list ([`story::FAULTS`]); what judges seawall (the probes, the frame reader) shares no code
//! with it.

pub mod app;
pub mod fault;
mod frame;
pub mod probe;
pub mod stage;
pub mod story;
pub mod table;
pub mod view;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use stage::{Stage, Trouble};
use table::{Printer, Targets};

/// What `seawall demo` was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// End after the table.
    pub once: bool,
    /// Where clients connect; `None` is 127.0.0.1:8080, or any port if that is taken.
    pub listen: Option<SocketAddr>,
    /// Where operators connect; `None` is 127.0.0.1:9900, or any port if that is taken.
    pub admin: Option<SocketAddr>,
}

/// Runs the demonstration: success if every row of the table was right.
#[must_use]
pub fn run(options: Options) -> ExitCode {
    match demonstrate(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(trouble) => {
            // Nothing can be done about a terminal that is gone.
            let _ = writeln!(io::stderr(), "seawall demo: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate(options: &Options) -> Result<bool, Trouble> {
    let stage = Stage::set(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let all_right = LocalSet::new().block_on(&runtime, async {
        let all_right = show(stage.targets()).await?;
        if !options.once {
            invite(&mut io::stdout(), stage.targets())?;
            stage.log();
            interrupted().await?;
        }
        Ok::<_, io::Error>(all_right)
    })?;
    stage.clear();
    Ok(all_right)
}

/// Measures and prints the table.
async fn show(targets: Targets) -> io::Result<bool> {
    let mut printer = Printer::stdout();
    let mut printed = Ok(());
    table::measure(targets, story::FAULTS.iter(), |row| {
        if printed.is_ok() {
            printed = printer.row(row);
        }
    })
    .await;
    printed?;
    printer.sum()
}

/// Prints what can be tried now.
fn invite(out: &mut impl Write, targets: Targets) -> io::Result<()> {
    let Targets { app, seawall, admin, .. } = targets;
    write!(
        out,
        "\n\
        seawall keeps running in front of the demo app. Try:\n\n  \
          http://{seawall}/  a page with a button for each fault\n  \
          http://{admin}/  what operators see: are clients hurt, by what, since when\n  \
          http://{admin}/failures  the failure journal, as JSON\n  \
          http://{admin}/metrics  the metrics, for Prometheus\n\n  \
          curl -i http://{seawall}/fault/crash  a crash, behind seawall\n  \
          curl -i http://{app}/fault/crash  the same, without seawall\n  \
          curl -i http://{seawall}/fault/stack-trace -H 'Accept: text/html'\n\n\
        Each failure is logged below. Ctrl-C ends the demonstration.\n\n"
    )?;
    out.flush()
}

async fn interrupted() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

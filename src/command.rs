//! Floor 7: the command line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use crate::config::model::Config;
use crate::config::{self, Diagnostics};
use crate::demo;
use crate::failures;
use crate::operator;
use crate::server::notify;
use crate::server::sockets::Inherited;
use crate::server::takeover::{self, Invocation, TakeoverError};
use crate::server::watch::Watch;
use crate::server::{Running, Server, StartError};
use crate::telemetry::log;

/// What to do when there is nothing to do.
const ADVICE: &str = "\
seawall needs an upstream. Try one of:
  seawall --upstream http://127.0.0.1:3000   put it in front of an app, listening on 127.0.0.1:8080
  seawall demo                               see what it does;  seawall -c FILE  run with a configuration";

/// A streaming reverse proxy that turns every upstream failure into a clean HTTP 500 or WebSocket
/// close 1011, and counts it by kind for Prometheus.
#[derive(Debug, Parser)]
#[command(name = "seawall", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// Run with this configuration file (default: ./seawall.yaml, then /etc/seawall/seawall.yaml)
    #[arg(short, long, value_name = "FILE", conflicts_with = "upstream")]
    config: Option<PathBuf>,

    /// Run without a file, in front of this app: http://HOST[:PORT] or https://HOST[:PORT]
    #[arg(short, long, value_name = "URL")]
    upstream: Option<String>,

    /// Where clients connect, with --upstream (default: 127.0.0.1:8080)
    #[arg(short, long, value_name = "ADDR", requires = "upstream")]
    listen: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  seawall --upstream http://127.0.0.1:3000                  in front of an app, on 127.0.0.1:8080
  seawall --upstream http://127.0.0.1:3000 --listen :80     the same, on port 80 of every address
  seawall -c seawall.yaml                                   with a configuration file
  seawall check -c seawall.yaml                             is the file right? exit code 0 or 1
  seawall schema > seawall.schema.json                      a JSON Schema for your editor
  seawall demo                                              every fault, without and with seawall
  seawall failures --follow                                 what failed, and what fails from now on

Operators find metrics, probes and the failure journal on http://127.0.0.1:9900/ (admin.address).
Signals: SIGHUP reads the configuration file again, as does a change of it; nothing that the change
does not concern is interrupted. SIGUSR2 starts the program anew, which takes the listening sockets
over; then this process leaves. SIGTERM and SIGINT drain (stop accepting, finish requests, close
WebSockets with 1012) and exit 0; a second one exits at once.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a configuration file without starting: prints every mistake with line, column and remedy
    Check {
        /// The file to check
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print the JSON Schema of the configuration file
    Schema,
    /// Print the failures that a running seawall remembers, the newest last
    Failures(failures::Options),
    /// Exit with 0 if a running seawall takes requests (/readyz), with 1 if not
    Ready(operator::ReadyOptions),
    /// Show what clients see of each kind of failure, without and with seawall
    Demo {
        /// Print the table and exit: 0 if every row is as promised, 1 if not
        #[arg(long)]
        once: bool,
    },
}

/// Does what the arguments say.
pub fn run(arguments: Arguments) -> ExitCode {
    match arguments.command {
        Some(Command::Check { config }) => check(config.or(arguments.config)),
        Some(Command::Schema) => {
            say(format_args!("{:#}", config::schema()));
            ExitCode::SUCCESS
        }
        Some(Command::Failures(options)) => match failures::run(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(trouble) => {
                complain(format_args!("seawall failures: {trouble}"));
                ExitCode::FAILURE
            }
        },
        Some(Command::Ready(options)) => match operator::ready(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                complain(format_args!("seawall ready: {why}"));
                ExitCode::FAILURE
            }
        },
        Some(Command::Demo { once }) => {
            demo::run(demo::Options { once, ..demo::Options::default() })
        }
        None => match load(arguments.config, arguments.upstream, arguments.listen) {
            Some(Ok((config, watch))) => serve(config, watch),
            Some(Err(diagnostics)) => {
                complain(format_args!("{diagnostics}"));
                ExitCode::FAILURE
            }
            None => {
                complain(format_args!("{ADVICE}"));
                ExitCode::from(2)
            }
        },
    }
}

/// Prints a line for whoever reads it: a pipe whose reader has gone is nobody's mistake.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// The same for what went wrong.
fn complain(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The configuration, and the file that it is from.
///
/// The file is watched from before it is read: a change that comes while the process starts is not missed.
fn load(
    file: Option<PathBuf>,
    upstream: Option<String>,
    listen: Option<String>,
) -> Option<Result<(Config, Option<Watch>), Diagnostics>> {
    if let Some(upstream) = upstream {
        let config = Config::for_upstream(&upstream, listen.as_deref());
        return Some(config.map(|config| (config, None)));
    }
    file.or_else(default_file).map(|file| {
        let watch = Watch::new(&file);
        config::load(&file).map(|config| (config, Some(watch)))
    })
}

fn default_file() -> Option<PathBuf> {
    config::default_paths().into_iter().find(|path| path.exists())
}

fn check(file: Option<PathBuf>) -> ExitCode {
    let Some(file) = file.or_else(default_file) else {
        complain(format_args!("no configuration file: name one with -c FILE"));
        return ExitCode::from(2);
    };
    match config::load(&file) {
        Ok(config) => {
            say(format_args!("{}", summary(&file, &config)));
            ExitCode::SUCCESS
        }
        Err(diagnostics) => {
            complain(format_args!("{diagnostics}"));
            ExitCode::FAILURE
        }
    }
}

fn summary(file: &Path, config: &Config) -> String {
    let count =
        |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    format!(
        "{} is valid: {}, {}, {}",
        file.display(),
        count(config.listeners.len(), "listener"),
        count(config.upstreams.len(), "upstream"),
        count(config.routes.len(), "route")
    )
}

fn serve(config: Config, watch: Option<Watch>) -> ExitCode {
    log::init(&config.log);
    let code = serve_to_the_end(config, watch);
    log::finish();
    code
}

fn serve_to_the_end(config: Config, watch: Option<Watch>) -> ExitCode {
    // Asked first: the file may be replaced while this process runs.
    let invocation = Invocation::of_this_process();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return cannot_start(&StartError::Worker(error)),
    };
    // Signals are listened to before anybody can know that we are here.
    let entered = runtime.enter();
    let signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return cannot_start(&StartError::Worker(error)),
    };
    drop(entered);
    let inherited = Inherited::from_env().with_drained(takeover::drained_before());
    let mut running = match Server::start_with(config, inherited) {
        Ok(running) => running,
        Err(error) => return cannot_start(&error),
    };
    for address in running.addresses() {
        tracing::info!(%address, "listening");
    }
    if let Some(address) = running.admin_address() {
        tracing::info!(url = %format!("http://{address}/"), "admin");
    }
    if let Err(error) = takeover::tell_ready() {
        tracing::warn!(%error, "the process before this one cannot be told to leave");
    }
    if let Err(error) = notify::ready() {
        tracing::warn!(%error, "NOTIFY_SOCKET cannot be told that clients are served");
    }
    let mut signals = runtime.block_on(run_until_told(&mut running, signals, watch, &invocation));
    tracing::info!("draining");
    // A second signal does not wait for the drain.
    std::thread::spawn(move || {
        runtime.block_on(signals.terminated());
        std::process::exit(1);
    });
    if running.join() {
        tracing::info!("stopped");
        ExitCode::SUCCESS
    } else {
        tracing::error!("stopped; a worker did not end in order");
        ExitCode::FAILURE
    }
}

fn cannot_start(error: &StartError) -> ExitCode {
    let cause = std::error::Error::source(error).map(|e| format!(": {e}"));
    complain(format_args!("seawall cannot start: {error}{}", cause.unwrap_or_default()));
    ExitCode::FAILURE
}

/// The signal of RLIMIT_FSIZE, as Linux and the BSDs number it.
const SIGXFSZ: i32 = 25;

/// What the process can be told.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
    take_over: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        // A file that has reached the limit of its size shall be an error of the write, not the end.
        let _ = signal(SignalKind::from_raw(SIGXFSZ));
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
            take_over: signal(SignalKind::user_defined2())?,
        })
    }

    /// Cancel-safe.
    async fn terminated(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What to do next.
enum Next {
    End,
    Reload,
    HandOver,
    /// What is to do is done.
    Nothing,
}

/// Reloads when it is asked to, until the process is told to end or another one has taken over.
async fn run_until_told(
    running: &mut Running,
    mut signals: Signals,
    mut watch: Option<Watch>,
    invocation: &std::io::Result<Invocation>,
) -> Signals {
    loop {
        let settings = running.config().reload.clone();
        let changed = async {
            match &mut watch {
                Some(watch) if settings.watch => watch.changed(settings.interval).await,
                _ => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            _ = signals.terminate.recv() => Next::End,
            _ = signals.interrupt.recv() => Next::End,
            _ = signals.take_over.recv() => Next::HandOver,
            _ = signals.reload.recv() => Next::Reload,
            () = changed => Next::Reload,
            () = running.tend() => Next::Nothing,
        };
        match (next, &mut watch) {
            (Next::End, _) => return signals,
            (Next::Nothing, _) => {}
            (Next::HandOver, _) => {
                let leave = tokio::select! {
                    taken_over = hand_over(running, invocation) => taken_over,
                    // The new process is ended with the future.
                    () = signals.terminated() => return signals,
                };
                if leave {
                    running.leave();
                    tokio::select! {
                        () = sleep(takeover::LINGER) => {}
                        () = signals.terminated() => {}
                    }
                    return signals;
                }
            }
            (Next::Reload, Some(watch)) => {
                watch.note();
                running.reload_file(watch.path());
            }
            (Next::Reload, None) => tracing::warn!("there is no configuration file to read again"),
        }
    }
}

/// Starts another process that serves instead of this one. Whether it does.
async fn hand_over(running: &Running, invocation: &std::io::Result<Invocation>) -> bool {
    let started = match (invocation, running.sockets()) {
        (Ok(invocation), Ok(sockets)) => {
            let (program, sockets_given) = (invocation.program().display(), sockets.len());
            tracing::info!(%program, sockets_given, "starting the process that takes over");
            invocation.start(sockets, &running.freeze()).await
        }
        (Err(error), _) => Err(TakeoverError::Start(std::io::Error::other(error.to_string()))),
        (_, Err(error)) => Err(TakeoverError::Start(error)),
    };
    match started {
        Ok(pid) => {
            tracing::info!(pid, "another process has taken over; leaving");
            true
        }
        Err(error) => {
            running.unfreeze();
            tracing::error!(%error, "nobody takes over; this process goes on");
            false
        }
    }
}

//! A new process takes over the listening sockets of this one.
//!
//! The new process is started with the arguments of this one and inherits the sockets as systemd
//! would give them (`LISTEN_FDS`, sd_listen_fds(3)). They are the same sockets: connections that
//! wait in the kernel's queue are accepted by whoever comes first, and none is refused. The new
//! process says on its standard input, a socket pair, that it serves. Only then this one begins to
//! leave: it answers those who ask on open connections and sends them away with
//! `Connection: close` or GOAWAY, and after [`LINGER`] drains as with SIGTERM. A new process that
//! ends before, or says nothing in time, is ended and changes nothing.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::Running;
use super::sockets::Drained;

/// How long clients that keep their connections have to ask once more, and to be sent away with an
/// answer, before the drain begins.
pub const LINGER: Duration = Duration::from_secs(3);

/// How long a new process may take until it serves.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says to the new process that somebody waits for it.
const VARIABLE: &str = "SEAWALL_TAKEOVER";

/// What operators have drained: pairs of upstream and endpoint, as JSON.
const DRAINED: &str = "SEAWALL_DRAINED";
/// The longest value of that: the kernel takes twice as much.
const MOST_DRAINED: usize = 64 * 1024;

/// What the new process says when it serves.
const READY: [u8; 5] = *b"ready";

/// The first descriptor of `LISTEN_FDS`: after standard input, output and error.
const FIRST: i32 = 3;

/// How this process was started: the next one is started the same way.
#[derive(Debug)]
pub struct Invocation {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Invocation {
    /// Remembers it. Ask at the start: later the file may have been replaced, and its old name with
    /// it.
    ///
    /// # Errors
    /// If the system does not say which file this process was started from.
    pub fn of_this_process() -> io::Result<Self> {
        let mut arguments = std::env::args_os();
        // As it was called: a symbolic link may point to another version by then.
        let called = arguments.next().map(PathBuf::from);
        let program = match called.filter(|called| called.components().count() > 1) {
            Some(called) => std::env::current_dir()?.join(called),
            None => std::env::current_exe()?,
        };
        Ok(Invocation { program, arguments: arguments.collect() })
    }

    /// The file that will be started.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Starts the next process with these sockets and drained endpoints, and waits until it serves.
    ///
    /// Dropping the future ends it.
    ///
    /// # Errors
    /// If it cannot be started, ends, or does not serve in time. It is gone then.
    pub async fn start(
        &self,
        sockets: Vec<OwnedFd>,
        drained: &[Drained],
    ) -> Result<u32, TakeoverError> {
        let (ours, theirs) = StdUnixStream::pair().map_err(TakeoverError::Start)?;
        ours.set_nonblocking(true).map_err(TakeoverError::Start)?;
        let mut ready = UnixStream::from_std(ours).map_err(TakeoverError::Start)?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env("LISTEN_FDS", sockets.len().to_string())
            // The number of a process that does not exist yet cannot be told; without it the
            // variables are for whoever reads them.
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("LISTEN_FDS_FIRST_FD")
            .env(VARIABLE, "1")
            .env(DRAINED, told(drained))
            .stdin(Stdio::from(OwnedFd::from(theirs)));
        let mappings = sockets.into_iter().zip(FIRST..);
        command
            .fd_mappings(
                mappings.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect(),
            )
            .map_err(|error| TakeoverError::Start(io::Error::other(error)))?;
        let mut started = Started(Some(command.spawn().map_err(TakeoverError::Start)?));
        // Our copies of what it has inherited.
        drop(command);
        let mut said = [0; READY.len()];
        match timeout(PATIENCE, ready.read_exact(&mut said)).await {
            Ok(Ok(_)) if said == READY => Ok(started.0.take().map_or(0, |child| child.id())),
            Ok(_) => Err(TakeoverError::Ended),
            Err(_) => Err(TakeoverError::Late),
        }
    }
}

/// A process that may have to be ended.
struct Started(Option<Child>);

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Why no other process takes over.
#[derive(Debug)]
pub enum TakeoverError {
    /// It cannot be started.
    Start(io::Error),
    /// It ended before it served: its own last words say why.
    Ended,
    /// It did not serve in time, and was ended.
    Late,
}

impl std::fmt::Display for TakeoverError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TakeoverError::Start(error) => write!(f, "the new process cannot be started: {error}"),
            TakeoverError::Ended => f.write_str("the new process ended before it served"),
            TakeoverError::Late => f.write_str("the new process did not serve in time"),
        }
    }
}

impl std::error::Error for TakeoverError {}

/// Drained endpoints, as the next process is told of them.
fn told(drained: &[Drained]) -> String {
    let pairs: Vec<_> = drained.iter().map(|(upstream, label)| [&**upstream, &**label]).collect();
    let told = serde_json::json!(pairs).to_string();
    if told.len() <= MOST_DRAINED {
        return told;
    }
    tracing::warn!(
        endpoints = drained.len(),
        "too many endpoints are drained to tell the new process"
    );
    "[]".to_owned()
}

/// Returns what operators had drained in the process that has started this one.
#[must_use]
pub fn drained_before() -> Vec<Drained> {
    let told = std::env::var(DRAINED).unwrap_or_default();
    match std::env::var_os(VARIABLE) {
        Some(_) => heard(&told),
        None => Vec::new(),
    }
}

fn heard(told: &str) -> Vec<Drained> {
    let pairs = serde_json::from_str::<Vec<[String; 2]>>(told).unwrap_or_default();
    pairs.into_iter().map(|[upstream, label]| (upstream.into(), label.into())).collect()
}

/// Says to the process that has started this one, if one has, that clients are served here now.
///
/// # Errors
/// If it cannot be told: it has ended already, or will not leave.
pub fn tell_ready() -> io::Result<()> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(());
    }
    let channel = io::stdin().as_fd().try_clone_to_owned()?;
    StdUnixStream::from(channel).write_all(&READY)
}

impl Running {
    /// Every listening socket once more, for the process that takes over.
    ///
    /// # Errors
    /// If there is no room for more descriptors.
    pub fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        let listeners = self.listeners.iter().flat_map(|listener| listener.sockets.iter());
        let admin = self.admin.iter().map(|admin| &admin.socket);
        listeners.chain(admin).map(|socket| socket.as_fd().try_clone_to_owned()).collect()
    }

    /// Ends changes by operators here, for they would be lost. Returns what they have drained, for the
    /// process that takes over.
    #[must_use]
    pub fn freeze(&self) -> Vec<Drained> {
        self.state.set_frozen(true);
        let of = |shared: &std::sync::Arc<crate::upstream::Shared>| {
            let name = shared.settings.name.clone();
            shared.drained().into_iter().map(move |label| (name.clone(), label))
        };
        self.upstreams.iter().flat_map(of).collect()
    }

    /// Lets operators change things here again: nobody has taken over.
    pub fn unfreeze(&self) {
        self.state.set_frozen(false);
    }

    /// Another process serves clients and operators from now on: nothing new is accepted here, and
    /// clients that ask on open connections are answered and sent away. The drain has not begun.
    pub fn leave(&mut self) {
        self.state.set_draining();
        self.drainer.leave();
        for listener in &mut self.listeners {
            listener.drainer.leave();
            listener.sockets.clear();
        }
        if let Some(admin) = self.admin.take() {
            admin.drainer.begin();
            let _ = admin.thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Server;
    use crate::server::sockets::Inherited;

    #[test]
    fn drained_endpoints_are_told_to_the_next_process() {
        let (one, two) = ("http://10.0.0.1:80", "http://10.0.0.2:80");
        let config = || {
            let text = format!(
                "workers: 1\nadmin: {{ address: off }}\nlisteners: [{{ address: '127.0.0.1:0' }}]\n\
                upstreams: {{ app: {{ endpoints: ['{one}', '{two}'] }} }}\n\
                routes: [{{ upstream: app }}]\n"
            );
            crate::config::parse("test.yaml", &text, Path::new(".")).unwrap()
        };
        let old = Server::start(config()).unwrap();
        assert_eq!(old.upstreams()[0].set_drained(two, true), Some("drained"));
        let mut drained = heard(&told(&old.freeze()));
        assert_eq!(drained.len(), 1);
        drained.push(("app".into(), "http://10.0.0.9:80".into()));
        drained.push(("gone".into(), one.into()));
        let new = Server::start_with(config(), Inherited::default().with_drained(drained)).unwrap();
        assert_eq!(new.upstreams()[0].drained(), [std::sync::Arc::from(two)]);
        let set = new.upstreams()[0].current();
        assert_eq!((set.roster.state(0), set.roster.state(1)), ("up", "drained"));
    }

    #[test]
    fn what_cannot_be_read_drains_nothing() {
        for told in ["", "[", "{}", "[1]", r#"[["app"]]"#] {
            assert!(heard(told).is_empty(), "{told}");
        }
        let many: Vec<Drained> = vec![("app".into(), "x".repeat(1000).into()); 100];
        assert_eq!(told(&many), "[]");
    }
}

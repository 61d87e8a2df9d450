//! Certificates that change while seawall runs: their files are read again now and then, on a thread
//! of its own, because a file may be slow.
//!
//! What is read is compared by content: a file that was replaced by a link, restored with an old
//! time, or written twice within one tick is noticed all the same. All files of a listener are taken
//! together or not at all. What cannot be used is told once, and the old certificates stay; chain
//! and key that are replaced one after the other fit each other again at the next look.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::tls::Store;
use super::x509;
use crate::config::model::{Certificate, ClientCertificates, Identity, ListenerTls};
use crate::config::pem;
use crate::telemetry::metrics::CertificateMetrics;

/// The certificates of one listener.
#[derive(Debug)]
pub struct Renewal {
    store: Arc<Store>,
    metrics: CertificateMetrics,
    listener: String,
    seen: Option<u64>,
}

impl Drop for Renewal {
    /// A certificate that nobody shows any more has no end to warn of.
    fn drop(&mut self) {
        for certificate in &self.store.settings().certificates {
            self.metrics.forget(&certificate.name);
        }
    }
}

/// The thread that looks; it ends when this is dropped.
#[derive(Debug)]
pub struct Watching {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Whose files are not read again.
    _rest: Vec<Renewal>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so on stderr.
            let _ = thread.join();
        }
    }
}

impl Renewal {
    /// The certificates of the listener on this address. Tells their ends at once.
    #[must_use]
    pub fn new(store: Arc<Store>, metrics: CertificateMetrics, listener: String) -> Self {
        let renewal = Renewal { store, metrics, listener, seen: None };
        renewal.tell_ends();
        renewal
    }

    /// Looks after all of these, each as often as its settings say.
    ///
    /// # Errors
    /// If the thread cannot be made.
    pub fn watch(renewals: Vec<Renewal>) -> io::Result<Watching> {
        let watched = |renewal: &Renewal| !renewal.store.settings().reload.is_zero();
        let (renewals, rest): (Vec<_>, Vec<_>) = renewals.into_iter().partition(watched);
        if renewals.is_empty() {
            return Ok(Watching { stop: None, thread: None, _rest: rest });
        }
        let (stop, stopped) = channel();
        let thread = thread::Builder::new()
            .name("seawall-tls".into())
            .spawn(move || run(renewals, &stopped))?;
        Ok(Watching { stop: Some(stop), thread: Some(thread), _rest: rest })
    }

    fn interval(&self) -> Duration {
        self.store.settings().reload
    }

    /// Reads the files, and uses what is new.
    fn look(&mut self) {
        let settings = self.store.settings();
        let files = Files::read(&settings);
        let print = files.print();
        if self.seen.replace(print) == Some(print) {
            return;
        }
        let listener = &*self.listener;
        match files.settings(&settings) {
            Ok(None) => {}
            Ok(Some(next)) => match self.store.replace(next) {
                Ok(()) => {
                    self.metrics.reloaded(true);
                    self.tell_ends();
                    tracing::info!(listener, "new certificates are in use");
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    self.refuse(&format!("{error}: {}", cause.unwrap_or_default()));
                }
            },
            Err(why) => self.refuse(&why),
        }
    }

    fn refuse(&self, why: &str) {
        self.metrics.reloaded(false);
        let listener = &*self.listener;
        tracing::error!(listener, why, "new certificates cannot be used; the old ones stay");
    }

    fn tell_ends(&self) {
        for certificate in &self.store.settings().certificates {
            if let Some(end) =
                certificate.identity.chain.first().and_then(|der| x509::not_after(der))
            {
                self.metrics.expires(&certificate.name, end);
            }
        }
    }
}

fn run(mut renewals: Vec<Renewal>, stopped: &Receiver<()>) {
    // The shortest interval serves all: a look costs a few reads.
    loop {
        let Some(wait) = renewals.iter().map(Renewal::interval).min() else { return };
        // Settings may be replaced by some that are not watched.
        let wait = if wait.is_zero() { ListenerTls::RELOAD } else { wait };
        match stopped.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => renewals.iter_mut().for_each(Renewal::look),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// What a file holds, or why it cannot be read.
type Content = Result<Vec<u8>, String>;

/// What the files of a listener hold.
struct Files {
    certificates: Vec<(Content, Content, Option<Content>)>,
    roots: Option<Content>,
}

impl Files {
    fn read(settings: &ListenerTls) -> Self {
        let certificates = settings.certificates.iter().map(|known| {
            (read(&known.chain_file), read(&known.key_file), known.ocsp_file.as_deref().map(read))
        });
        Files {
            certificates: certificates.collect(),
            roots: settings.clients.as_ref().map(|clients| read(&clients.roots_file)),
        }
    }

    /// The same for the same content.
    fn print(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.certificates.hash(&mut hasher);
        self.roots.hash(&mut hasher);
        hasher.finish()
    }

    /// The settings with what the files hold now; `None` if that is nothing new.
    fn settings(self, old: &ListenerTls) -> Result<Option<ListenerTls>, String> {
        let mut next = old.clone();
        let mut changed = false;
        for (certificate, (chain, key, ocsp)) in next.certificates.iter_mut().zip(self.certificates)
        {
            let renewed = renewed(certificate, chain?, key?, ocsp.transpose()?)?;
            let was = &certificate.identity;
            changed |= renewed.identity.chain != was.chain
                || renewed.identity.key.secret_der() != was.key.secret_der()
                || renewed.ocsp != certificate.ocsp;
            *certificate = renewed;
        }
        if let (Some(clients), Some(roots)) = (&mut next.clients, self.roots) {
            let roots = parsed(&clients.roots_file, pem::certificates(&roots?))?;
            if roots != *clients.roots {
                changed = true;
                *clients = ClientCertificates { roots: Arc::new(roots), ..clients.clone() };
            }
        }
        Ok(changed.then_some(next))
    }
}

fn renewed(
    old: &Certificate,
    chain: Vec<u8>,
    key: Vec<u8>,
    ocsp: Option<Vec<u8>>,
) -> Result<Certificate, String> {
    let chain = parsed(&old.chain_file, pem::certificates(&chain))?;
    let key = parsed(&old.key_file, pem::private_key(&key))?;
    let identity = Arc::new(Identity { chain, key });
    Ok(Certificate { identity, ocsp: ocsp.map(Into::into), ..old.clone() })
}

fn read(path: &Path) -> Content {
    std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn parsed<T>(path: &Path, parsed: Result<T, &'static str>) -> Result<T, String> {
    parsed.map_err(|why| format!("{}: {why}", path.display()))
}

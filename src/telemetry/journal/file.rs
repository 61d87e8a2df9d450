//! Writing the journal's file: a JSON object a line, for whoever comes after this process.
//!
//! What must stay true:
//!
//! - No request waits for a disk. One thread writes; failures reach it through a queue of `QUEUE`
//!   entries, and what finds it full is dropped from the file, counted, and still in memory.
//! - A line is whole or the file ends in it: lines are appended by one write(2) with `O_APPEND`, so
//!   that two processes, while one takes over from the other, do not mix theirs. After a write that
//!   was cut short the next one begins a new line.
//! - The file is bounded: one that would outgrow its size is renamed to `.1`, that to `.2`, and so
//!   on, and the last one is gone. Only who holds the lock of the current file renames it, and only
//!   while it is still there under its name, so that two processes do not rename it twice.
//! - A file that somebody else has moved or removed is made anew with the next failure: logrotate
//!   needs no signal.
//! - A disk that is full, or a folder that is gone, is said once, tried again every `AGAIN`, and
//!   said to be over.

use std::borrow::Cow;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use prometheus::IntCounter;
use tokio::time::Instant;

use super::{Entry, past};

/// Failures that may wait to be written: 12 MiB if each is as large as it may be.
const QUEUE: usize = 1024;
/// Lines are written together up to so many bytes.
const BATCH: usize = 256 * 1024;
/// How long a file that cannot be written is left alone.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the end of the process waits for what is in the queue.
const FLUSH: Duration = Duration::from_secs(2);
/// What an app said may be confidential: the file is for its owner.
const MODE: u32 = 0o600;

/// Where and how much is written.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file.
    pub path: PathBuf,
    /// Bytes of a file.
    pub size: u64,
    /// Files in all, the one that is written included.
    pub files: usize,
}

/// Counts what is not in the file.
#[derive(Clone, Debug)]
pub struct Dropped {
    /// The queue was full.
    pub queue: IntCounter,
    /// It could not be written.
    pub write: IntCounter,
}

/// The way to the thread that writes.
#[derive(Debug)]
pub struct Writer {
    sender: SyncSender<(u64, Arc<Entry>)>,
    ended: Receiver<()>,
    dropped: IntCounter,
}

impl Writer {
    /// Opens the file and begins to write.
    ///
    /// # Errors
    /// If the file cannot be opened or made, or there is no thread to be had.
    pub fn start(settings: Settings, dropped: Dropped) -> io::Result<Self> {
        let mut out = Out { file: None, settings, torn: false };
        out.open()?;
        // A last line without its end is somebody's who was killed.
        out.torn = is_torn(&out.settings.path)?;
        let (sender, receiver) = sync_channel(QUEUE);
        let (tell_end, ended) = sync_channel(0);
        let refused = dropped.queue.clone();
        thread::Builder::new().name("seawall-journal".into()).spawn(move || {
            run(&receiver, out, &dropped.write);
            drop(tell_end);
        })?;
        Ok(Writer { sender, ended, dropped: refused })
    }

    /// Hands an entry over, or drops it.
    pub fn write(&self, number: u64, entry: &Arc<Entry>) {
        match self.sender.try_send((number, Arc::clone(entry))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.dropped.inc(),
        }
    }

    /// Waits until all is written, for `FLUSH` at most.
    pub fn finish(self) {
        let Writer { sender, ended, .. } = self;
        drop(sender);
        if ended.recv_timeout(FLUSH) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the last failures may be missing in the journal's file");
        }
    }
}

/// Whether the file's last line has no end.
fn is_torn(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

fn run(entries: &Receiver<(u64, Arc<Entry>)>, mut out: Out, dropped: &IntCounter) {
    let mut lines = Vec::new();
    let mut broken: Option<Instant> = None;
    while let Ok(first) = entries.recv() {
        lines.clear();
        let mut count = 0;
        let mut next = Some(first);
        while let Some((number, entry)) = next {
            count += 1;
            lines.extend_from_slice(entry.describe(number).to_string().as_bytes());
            lines.push(b'\n');
            next = if lines.len() < BATCH { entries.try_recv().ok() } else { None };
        }
        if broken.is_some_and(|since| since.elapsed() < AGAIN) {
            dropped.inc_by(count);
            continue;
        }
        match out.write(&lines) {
            Ok(()) => {
                if broken.take().is_some() {
                    tracing::info!(file = %out.settings.path.display(), "the journal is written again");
                }
            }
            Err(error) => {
                dropped.inc_by(count);
                if broken.replace(Instant::now()).is_none() {
                    let file = out.settings.path.display();
                    tracing::error!(%file, %error, "the journal cannot be written; trying again");
                }
            }
        }
    }
}

/// The file that is written.
struct Out {
    settings: Settings,
    file: Option<File>,
    /// The last line may have no end.
    torn: bool,
}

impl Out {
    fn open(&mut self) -> io::Result<&mut File> {
        // Opening a pipe would wait for whoever reads from it.
        if std::fs::metadata(&self.settings.path).is_ok_and(|found| found.file_type().is_fifo()) {
            return Err(io::Error::other("it is a pipe"));
        }
        let opened =
            OpenOptions::new().append(true).create(true).mode(MODE).open(&self.settings.path)?;
        Ok(self.file.insert(opened))
    }

    /// Appends whole lines.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let written = self.try_write(lines);
        if written.is_err() {
            // Opened anew next time: the folder may be another one by then.
            self.file = None;
        }
        written
    }

    fn try_write(&mut self, lines: &[u8]) -> io::Result<()> {
        if !self.is_current() {
            self.open()?;
        }
        self.rotate_before(lines.len() as u64)?;
        let lines = match self.torn {
            true => Cow::Owned([b"\n", lines].concat()),
            false => Cow::Borrowed(lines),
        };
        let file = match &mut self.file {
            Some(file) => file,
            None => self.open()?,
        };
        let written = file.write(&lines)?;
        self.torn = written < lines.len();
        if self.torn { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// Whether the open file is the one with the name.
    fn is_current(&self) -> bool {
        let Some(Ok(open)) = self.file.as_ref().map(File::metadata) else { return false };
        std::fs::metadata(&self.settings.path)
            .is_ok_and(|named| (named.dev(), named.ino()) == (open.dev(), open.ino()))
    }

    /// Makes room for so many bytes.
    fn rotate_before(&mut self, bytes: u64) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let length = file.metadata()?.len();
        if length == 0 || length.saturating_add(bytes) <= self.settings.size {
            return Ok(());
        }
        match file.try_lock() {
            Ok(()) if self.is_current() => self.rename()?,
            // Another process renames it at this moment, or has done so.
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if !self.is_current() {
            self.torn = false;
            self.open()?;
        }
        Ok(())
    }

    fn rename(&self) -> io::Result<()> {
        let Settings { path, files, .. } = &self.settings;
        let rotated = files.saturating_sub(1);
        if rotated == 0 {
            return std::fs::remove_file(path);
        }
        for number in (1..rotated).rev() {
            match std::fs::rename(past::rotated(path, number), past::rotated(path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(path, past::rotated(path, 1))
    }
}

#[cfg(test)]
mod tests;

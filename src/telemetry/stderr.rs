//! Where log lines go: to stderr, and no request ever waits for whoever reads it.
//!
//! What must stay true:
//!
//! - A file is written by whoever has the line, at once: what is logged before an answer is in the
//!   file before the answer. The same holds for devices such as `/dev/null`.
//! - A pipe, a socket or a terminal may have a reader that stands still, and then a write waits for
//!   ever. Lines for these go through a queue of `LINES` lines and `BYTES` bytes at most to a
//!   thread that writes. What finds the queue full is dropped.
//! - A line that was dropped, or could not be written (a full disk, a reader that went away), is
//!   counted in `seawall_log_dropped_total`: when the log cannot say it, the metrics do. A queue that
//!   moves again says in the log how many are missing.
//! - A line that was written in part is ended before the next one begins.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use prometheus::{IntCounterVec, Opts};
use tracing_subscriber::fmt::MakeWriter;

use super::metrics::family;

/// Lines that may wait to be written.
const LINES: usize = 8192;
/// Bytes of lines that may wait to be written.
const BYTES: usize = 4 * 1024 * 1024;
/// How long the end of the process waits for a reader.
const FLUSH: Duration = Duration::from_secs(1);

/// Lines that the log lacks, by reason: there is one log in a process.
pub static DROPPED: LazyLock<Option<IntCounterVec>> = LazyLock::new(|| {
    let family = &family::LOG_DROPPED;
    let counter = IntCounterVec::new(Opts::new(family.name, family.help), family.labels).ok()?;
    for reason in [QUEUE, WRITE] {
        counter.with_label_values(&[reason]);
    }
    Some(counter)
});

const QUEUE: &str = "queue";
const WRITE: &str = "write";

fn dropped(reason: &str) {
    if let Some(counter) = &*DROPPED {
        counter.with_label_values(&[reason]).inc();
    }
}

/// The log's way out. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stderr(Arc<Way>);

#[derive(Debug)]
enum Way {
    /// Nobody can make a write wait.
    Direct {
        torn: AtomicBool,
    },
    Queued(Queue),
}

impl Stderr {
    /// The way that suits what stderr is.
    #[must_use]
    pub fn open() -> Self {
        let queued = if never_waits() { None } else { Queue::start(io::stderr()).ok() };
        Stderr(Arc::new(queued.map_or_else(|| Way::Direct { torn: false.into() }, Way::Queued)))
    }

    /// Waits until what is in the queue is written, for a second at most.
    pub fn finish(&self) {
        if let Way::Queued(queue) = &*self.0 {
            queue.finish();
        }
    }
}

impl Write for Stderr {
    /// Takes a whole line. It never fails: nobody could be told.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &*self.0 {
            Way::Queued(queue) => queue.push(line),
            Way::Direct { torn } => {
                let mut was_torn = torn.load(Relaxed);
                if write_line(&mut io::stderr().lock(), line, &mut was_torn).is_err() {
                    dropped(WRITE);
                }
                torn.store(was_torn, Relaxed);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Stderr;

    fn make_writer(&'a self) -> Stderr {
        self.clone()
    }
}

/// Whether stderr is a file, or a device without a reader.
fn never_waits() -> bool {
    let Ok(owned) = io::stderr().as_fd().try_clone_to_owned() else { return true };
    let Ok(found) = File::from(owned).metadata() else { return true };
    let kind = found.file_type();
    kind.is_file() || (kind.is_char_device() && !io::stderr().is_terminal())
}

/// Writes a line; `torn` says whether the one before it has no end, and then whether this one has.
fn write_line(out: &mut impl Write, line: &[u8], torn: &mut bool) -> io::Result<()> {
    if *torn {
        out.write_all(b"\n")?;
        *torn = false;
    }
    let mut rest = line;
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                *torn = rest.len() < line.len();
                return Err(error);
            }
        }
    }
    Ok(())
}

/// What goes through the queue.
enum Item {
    Line(Box<[u8]>),
    /// Everything before it is written.
    Reached(SyncSender<()>),
}

/// The way to the thread that writes.
#[derive(Debug)]
struct Queue {
    sender: SyncSender<Item>,
    load: Arc<Load>,
}

#[derive(Debug, Default)]
struct Load {
    /// Bytes that wait.
    bytes: AtomicUsize,
    /// Lines that were dropped since the log has last said so.
    lost: AtomicU64,
}

impl Queue {
    fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(LINES);
        let load = Arc::<Load>::default();
        let queue = Queue { sender, load: Arc::clone(&load) };
        thread::Builder::new()
            .name("seawall-log".into())
            .spawn(move || run(&receiver, out, &load))?;
        Ok(queue)
    }

    fn push(&self, line: &[u8]) {
        let before = self.load.bytes.fetch_add(line.len(), Relaxed);
        let fits = before.saturating_add(line.len()) <= BYTES;
        if !fits || self.sender.try_send(Item::Line(line.into())).is_err() {
            self.load.bytes.fetch_sub(line.len(), Relaxed);
            self.load.lost.fetch_add(1, Relaxed);
            dropped(QUEUE);
        }
    }

    fn finish(&self) {
        let (reached, wait) = sync_channel(1);
        match self.sender.try_send(Item::Reached(reached)) {
            Ok(()) => _ = wait.recv_timeout(FLUSH),
            // Nobody reads.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

fn run(items: &Receiver<Item>, mut out: impl Write, load: &Load) {
    let mut torn = false;
    while let Ok(item) = items.recv() {
        let line = match item {
            Item::Line(line) => line,
            Item::Reached(reached) => {
                let _ = reached.try_send(());
                continue;
            }
        };
        let written = write_line(&mut out, &line, &mut torn);
        load.bytes.fetch_sub(line.len(), Relaxed);
        if written.is_err() {
            load.lost.fetch_add(1, Relaxed);
            dropped(WRITE);
            continue;
        }
        let lost = load.lost.swap(0, Relaxed);
        if lost > 0 {
            tracing::warn!(lines = lost, "the log lacks lines: nobody read it fast enough");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Writes what it is told it may, and waits otherwise.
    struct Gated {
        gate: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.gate.recv();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (Queue, Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (open, gate) = channel();
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let queue = Queue::start(Gated { gate, written: Arc::clone(&written) }).unwrap();
        (queue, open, written)
    }

    #[test]
    fn a_reader_that_stands_still_makes_nobody_wait_and_costs_what_does_not_fit() {
        let (queue, open, written) = gated();
        // One line may be with the writer already.
        for _ in 0..LINES + 10 {
            queue.push(b"line\n");
        }
        let lost = queue.load.lost.load(Relaxed);
        assert!((9..=10).contains(&lost), "{lost}");
        drop(open);
        queue.push(b"");
        let (reached, wait) = sync_channel(1);
        queue.sender.send(Item::Reached(reached)).unwrap();
        wait.recv().unwrap();
        let kept = LINES + 10 - usize::try_from(lost).unwrap();
        assert_eq!(*written.lock().unwrap(), b"line\n".repeat(kept));
        assert_eq!(queue.load.bytes.load(Relaxed), 0);
    }

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let (queue, _open, _) = gated();
        let line = vec![b'x'; BYTES / 4];
        (0..6).for_each(|_| queue.push(&line));
        assert_eq!(queue.load.lost.load(Relaxed), 2);
    }

    /// Takes so many bytes, and then has no room.
    struct Full(Vec<u8>, usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.1.min(bytes.len());
            if room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.1 -= room;
            self.0.extend_from_slice(&bytes[..room]);
            Ok(room)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_was_cut_does_not_take_the_next_one_with_it() {
        let mut disk = Full(Vec::new(), 8);
        let mut torn = false;
        write_line(&mut disk, b"first\n", &mut torn).unwrap();
        write_line(&mut disk, b"second\n", &mut torn).unwrap_err();
        assert!(torn);
        write_line(&mut disk, b"third\n", &mut torn).unwrap_err();
        disk.1 = 100;
        write_line(&mut disk, b"fourth\n", &mut torn).unwrap();
        assert_eq!(disk.0, b"first\nse\nfourth\n");
    }
}

//! Where log lines go: to stderr, and no request ever waits for whoever reads it.
//!
//! What must stay true:
//!
//! - A pipe, a socket or a terminal may have a reader that stands still, and then a write waits for
//!   ever; a file may be on a disk that is slow or full. Lines go through a queue of `LINES` lines
//!   and `BYTES` bytes at most to a thread that writes. What finds the queue full is dropped. Only a
//!   device that has no reader, such as `/dev/null`, is written by whoever has the line.
//! - A line that comes alone is written at once. While they come fast they are written together, every
//!   `PAUSE`: a write for each would cost as much as the answer that it tells of. What a process that
//!   is killed has not written is no more than that. One that ends by itself writes all.
//! - A line that was dropped, or could not be written (a full disk, a reader that went away), is
//!   counted in `seawall_log_dropped_total`: when the log cannot say it, the metrics do. A queue that
//!   moves again says in the log how many are missing.
//! - A line that was written in part is ended before the next one begins.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
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
/// How long lines are gathered behind those that were written.
const PAUSE: Duration = Duration::from_millis(2);
/// Most bytes of one write.
const BATCH: usize = 256 * 1024;
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
    Direct,
    Queued(Queue),
}

impl Stderr {
    /// The way that suits what stderr is.
    #[must_use]
    pub fn open() -> Self {
        let queued = if never_waits() { None } else { Queue::start(io::stderr()).ok() };
        Stderr(Arc::new(queued.map_or(Way::Direct, Way::Queued)))
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
            Way::Direct => {
                if io::stderr().write_all(line).is_err() {
                    dropped(WRITE);
                }
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

/// Whether stderr is a device without a reader.
fn never_waits() -> bool {
    let Ok(owned) = io::stderr().as_fd().try_clone_to_owned() else { return true };
    let Ok(found) = File::from(owned).metadata() else { return true };
    let kind = found.file_type();
    kind.is_char_device() && !io::stderr().is_terminal()
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
    /// Lines that wait.
    lines: AtomicUsize,
    /// Lines that were dropped since the log has last said so.
    lost: AtomicU64,
}

impl Queue {
    fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        // With room for whoever waits for the end.
        let (sender, receiver) = sync_channel(LINES + 1);
        let load = Arc::<Load>::default();
        let queue = Queue { sender, load: Arc::clone(&load) };
        thread::Builder::new()
            .name("seawall-log".into())
            .spawn(move || run(&receiver, out, &load))?;
        Ok(queue)
    }

    fn push(&self, line: &[u8]) {
        let Load { bytes, lines, lost } = &*self.load;
        let before = bytes.fetch_add(line.len(), Relaxed);
        let fits =
            lines.fetch_add(1, Relaxed) < LINES && before.saturating_add(line.len()) <= BYTES;
        if !fits || self.sender.try_send(Item::Line(line.into())).is_err() {
            bytes.fetch_sub(line.len(), Relaxed);
            lines.fetch_sub(1, Relaxed);
            lost.fetch_add(1, Relaxed);
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
    let mut batch = Batch::default();
    while let Ok(item) = items.recv() {
        let mut next = Some(item);
        while let Some(item) = next {
            match item {
                Item::Line(line) => batch.push(&line),
                Item::Reached(reached) => {
                    batch.leave(&mut out, load);
                    let _ = reached.try_send(());
                }
            }
            next = if batch.text.len() < BATCH { items.try_recv().ok() } else { None };
        }
        batch.leave(&mut out, load);
        // Nobody has to wake this thread meanwhile, and there is more to write at once then.
        thread::sleep(PAUSE);
    }
}

/// Lines that are written together.
#[derive(Debug, Default)]
struct Batch {
    text: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
    /// What was written last ends within a line.
    torn: bool,
}

impl Batch {
    fn push(&mut self, line: &[u8]) {
        self.text.extend_from_slice(line);
        self.ends.push(self.text.len());
    }

    /// Writes them, and counts those that could not be written.
    fn leave(&mut self, out: &mut impl Write, load: &Load) {
        if self.ends.is_empty() {
            return;
        }
        let lost = self.write(out);
        load.bytes.fetch_sub(self.text.len(), Relaxed);
        load.lines.fetch_sub(self.ends.len(), Relaxed);
        self.text.clear();
        self.ends.clear();
        if lost > 0 {
            load.lost.fetch_add(lost, Relaxed);
            (0..lost).for_each(|_| dropped(WRITE));
            return;
        }
        let lost = load.lost.swap(0, Relaxed);
        if lost > 0 {
            tracing::warn!(lines = lost, "the log lacks lines: nobody read it fast enough");
        }
    }

    /// Writes them; gives how many could not be written, or not to their end.
    fn write(&mut self, out: &mut impl Write) -> u64 {
        let Batch { text, ends, torn } = self;
        let (mut at, mut lost) = (0, 0);
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let written = if *torn { out.write(b"\n") } else { out.write(rest) };
            match written {
                Ok(1..) if *torn => *torn = false,
                Ok(count @ 1..) => at += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    // The line that was cut is lost; the next one may have better luck.
                    *torn = *torn || (at > 0 && ends.binary_search(&at).is_err());
                    at = ends.iter().copied().find(|end| *end > at).unwrap_or(text.len());
                    lost += 1;
                }
            }
        }
        lost
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
        for _ in 0..LINES + 10 {
            queue.push(b"line\n");
        }
        assert_eq!(queue.load.lost.load(Relaxed), 10);
        drop(open);
        let (reached, wait) = sync_channel(1);
        queue.sender.send(Item::Reached(reached)).unwrap();
        wait.recv().unwrap();
        assert_eq!(*written.lock().unwrap(), b"line\n".repeat(LINES));
        let Load { bytes, lines, .. } = &*queue.load;
        assert_eq!((bytes.load(Relaxed), lines.load(Relaxed)), (0, 0));
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
        let mut batch = Batch::default();
        let mut write = |disk: &mut Full, lines: &[&str]| {
            lines.iter().for_each(|line| batch.push(line.as_bytes()));
            let lost = batch.write(disk);
            batch.text.clear();
            batch.ends.clear();
            lost
        };
        assert_eq!(write(&mut disk, &["first\n", "second\n", "third\n"]), 2);
        assert_eq!(write(&mut disk, &["fourth\n"]), 1);
        disk.1 = 100;
        assert_eq!(write(&mut disk, &["fifth\n", "sixth\n"]), 0);
        assert_eq!(disk.0, b"first\nse\nfifth\nsixth\n");
        disk.1 = 6;
        assert_eq!(write(&mut disk, &["eight\n", "nine\n"]), 1);
        disk.1 = 100;
        assert_eq!(write(&mut disk, &["ten\n"]), 0);
        assert!(disk.0.ends_with(b"eight\nten\n"), "nothing was torn");
    }

    #[test]
    fn lines_that_come_fast_are_written_together() {
        let (queue, open, written) = gated();
        (0..100).for_each(|_| queue.push(b"line\n"));
        // One write for what the thread found first, and one for all that came meanwhile.
        (0..2).for_each(|_| open.send(()).unwrap());
        let (reached, wait) = sync_channel(1);
        queue.sender.send(Item::Reached(reached)).unwrap();
        wait.recv().unwrap();
        assert_eq!(*written.lock().unwrap(), b"line\n".repeat(100));
    }
}

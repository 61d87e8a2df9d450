//! Reading a journal's files: what was written before a restart, by whatever process.
//!
//! A file may end in the middle of a line (a process was killed, a disk was full), and may hold
//! anything, since it lies where others can write. A line that is no entry is left out and counted;
//! one that is too long is not even kept in memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The longest line that is read: an entry whose every character is escaped is shorter.
pub const LINE: usize = 256 * 1024;
/// How far back a file is read.
const MOST_BYTES: u64 = 1 << 28;
/// How many rotated files are looked for.
const MOST_FILES: usize = 1000;

/// The `number`th rotated file: `failures.jsonl.1` is the youngest of them.
#[must_use]
pub fn rotated(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Entries, one a line.
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    too_long: bool,
    /// Lines that are no entries.
    pub skipped: u64,
}

impl<R: BufRead> Lines<R> {
    /// Reads from here.
    pub fn new(reader: R) -> Self {
        Lines { reader, line: Vec::new(), too_long: false, skipped: 0 }
    }

    /// The next entry, or `None` if no whole line is there yet. What is written later can be asked
    /// for again.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn next_entry(&mut self) -> io::Result<Option<Value>> {
        loop {
            let read = self.reader.fill_buf()?;
            if read.is_empty() {
                return Ok(None);
            }
            let end = read.iter().position(|byte| *byte == b'\n');
            let part = read.get(..end.unwrap_or(read.len())).unwrap_or(read);
            if self.line.len() + part.len() > LINE {
                self.too_long = true;
                self.line.clear();
            } else if !self.too_long {
                self.line.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if end.is_none() {
                continue;
            }
            let found = if self.too_long { None } else { entry(&self.line) };
            let blank = !self.too_long && self.line.trim_ascii().is_empty();
            self.line.clear();
            self.too_long = false;
            match found {
                Some(entry) => return Ok(Some(entry)),
                None => self.skipped += u64::from(!blank),
            }
        }
    }
}

/// The entry that this line is, if it is one.
fn entry(line: &[u8]) -> Option<Value> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let is_entry = value.get("time_ms").is_some_and(Value::is_u64)
        && ["request_id", "kind", "upstream"].iter().all(|name| text(&value, name).is_some());
    is_entry.then_some(value)
}

/// A text of an entry.
#[must_use]
pub fn text<'v>(entry: &'v Value, name: &str) -> Option<&'v str> {
    entry.get(name)?.as_str()
}

/// What was found of a journal.
#[derive(Debug, Default)]
pub struct Past {
    /// Entries, oldest first.
    pub entries: VecDeque<Value>,
    /// Lines that are no entries.
    pub skipped: u64,
}

/// The file, if it is one: behind its last [`MOST_BYTES`] there is nothing that anybody asks for.
fn open(path: &Path) -> io::Result<Option<File>> {
    // Opening a pipe would wait for whoever writes to it.
    if !std::fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MOST_BYTES)))?;
    Ok(Some(file))
}

/// The last `most` entries that `wanted` says yes to, of the file and its rotated ones.
///
/// # Errors
/// If a file that is there cannot be read.
pub fn last(path: &Path, most: usize, wanted: impl Fn(&Value) -> bool) -> io::Result<Past> {
    let mut past = Past::default();
    for number in 0..MOST_FILES {
        let file = if number == 0 { path.to_owned() } else { rotated(path, number) };
        let file = match open(&file) {
            Ok(Some(file)) => file,
            // What has no end cannot be read to it.
            Ok(None) => break,
            // The one that is written may be missing between a rotation and the next failure.
            Err(error) if error.kind() == io::ErrorKind::NotFound && number == 0 => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        let room = most.saturating_sub(past.entries.len());
        if room == 0 {
            break;
        }
        let mut older = VecDeque::new();
        let mut lines = Lines::new(BufReader::new(file));
        while let Some(entry) = lines.next_entry()? {
            if !wanted(&entry) {
                continue;
            }
            if older.len() >= room {
                older.pop_front();
            }
            older.push_back(entry);
        }
        past.skipped += lines.skipped;
        older.append(&mut past.entries);
        past.entries = older;
    }
    Ok(past)
}

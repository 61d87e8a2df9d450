use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::super::tests::entry;
use super::super::{Journal, Query};
use super::*;
use crate::failure::Kind;

/// A folder of its own, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("seawall-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("failures.jsonl")
    }

    fn settings(&self, size: u64, files: usize) -> Settings {
        Settings { path: self.file(), size, files }
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn out(&self, size: u64, files: usize) -> Out {
        Out { file: None, settings: self.settings(size, files), torn: false }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn dropped() -> Dropped {
    let counter = |name| IntCounter::new(name, name).unwrap();
    Dropped { queue: counter("queue"), write: counter("write") }
}

fn line(number: u64) -> Vec<u8> {
    let entry = entry(&format!("id-{number:04}"), Kind::ConnectionRefused, 0);
    format!("{}\n", entry.describe(number)).into_bytes()
}

fn ids(folder: &Folder, most: usize) -> Vec<String> {
    let past = past::last(&folder.file(), most, |_| true).unwrap();
    let id = |entry: &Value| past::text(entry, "request_id").unwrap().to_owned();
    past.entries.iter().map(id).collect()
}

fn expected(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|number| format!("id-{number:04}")).collect()
}

fn journal(folder: &Folder, capacity: usize) -> (Journal, Dropped) {
    let dropped = dropped();
    let settings = folder.settings(1 << 20, 3);
    (Journal::with_file(capacity, settings, dropped.clone()).unwrap(), dropped)
}

#[test]
fn what_was_written_is_there_again_and_numbers_go_on() {
    let folder = Folder::new("again");
    let (first, dropped) = journal(&folder, 10);
    for id in ["a", "b", "c"] {
        first.push(entry(id, Kind::ConnectionRefused, 10));
    }
    let said = first.snapshot(&Query::default());
    first.finish();
    assert_eq!((dropped.queue.get(), dropped.write.get()), (0, 0));
    let (second, _) = journal(&folder, 10);
    assert_eq!(second.snapshot(&Query::default()), said, "to the last field");
    assert_eq!(second.next(), 3);
    second.push(entry("d", Kind::HttpProtocolError, 0));
    let asked = Query { request_id: Some("b".into()), ..Query::default() };
    assert_eq!(second.snapshot(&asked)[0]["number"], 1);
    second.finish();
    let (third, _) = journal(&folder, 2);
    let all = third.snapshot(&Query::default());
    assert_eq!((&all[0]["request_id"], &all[1]["request_id"]), (&"d".into(), &"c".into()));
    assert_eq!(all.as_array().map(Vec::len), Some(2));
    let mode = std::fs::metadata(folder.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "what an app said is for the file's owner");
}

#[test]
fn files_are_renamed_in_turn_and_never_more_than_may_be() {
    let folder = Folder::new("turn");
    let size = line(0).len() as u64;
    let mut out = folder.out(3 * size + 10, 3);
    for number in 0..20 {
        out.write(&line(number)).unwrap();
    }
    assert_eq!(folder.names(), ["failures.jsonl", "failures.jsonl.1", "failures.jsonl.2"]);
    for name in folder.names() {
        assert!(std::fs::metadata(folder.0.join(name)).unwrap().len() <= 3 * size + 10);
    }
    // Two in the current one, three in each of the others.
    assert_eq!(ids(&folder, 100), expected(12..20));
    assert_eq!(ids(&folder, 4), expected(16..20));
    let folder = Folder::new("one");
    let mut out = folder.out(3 * size + 10, 1);
    (0..20).for_each(|number| out.write(&line(number)).unwrap());
    assert_eq!(folder.names(), ["failures.jsonl"]);
    assert_eq!(ids(&folder, 100), expected(18..20));
}

#[test]
fn two_processes_write_whole_lines_and_rename_each_file_once() {
    let folder = Folder::new("two");
    let size = line(0).len() as u64;
    let write = |from: u64| {
        let mut out = folder.out(10 * size, 100);
        (from..from + 100).for_each(|number| out.write(&line(number)).unwrap());
    };
    std::thread::scope(|scope| {
        scope.spawn(|| write(0));
        scope.spawn(|| write(100));
    });
    let mut found = ids(&folder, 1000);
    found.sort();
    assert_eq!(found, expected(0..200), "none is lost, none is torn");
    // Each file is full, but for those between whose last look and rename the other one wrote.
    assert!(folder.names().len() <= 30, "{:?}", folder.names());
}

#[test]
fn a_file_that_somebody_moves_or_removes_is_made_anew() {
    let folder = Folder::new("moved");
    let mut out = folder.out(1 << 20, 3);
    out.write(&line(0)).unwrap();
    std::fs::rename(folder.file(), folder.0.join("elsewhere")).unwrap();
    out.write(&line(1)).unwrap();
    assert_eq!(ids(&folder, 10), expected(1..2));
    std::fs::remove_file(folder.file()).unwrap();
    out.write(&line(2)).unwrap();
    assert_eq!(ids(&folder, 10), expected(2..3));
}

#[test]
fn a_line_without_its_end_costs_only_itself() {
    let folder = Folder::new("torn");
    let whole = line(0);
    let torn = &line(1)[..40];
    std::fs::write(folder.file(), [&whole, torn].concat()).unwrap();
    let (journal, _) = journal(&folder, 10);
    journal.push(entry("id-0002", Kind::ConnectionRefused, 0));
    journal.finish();
    assert_eq!(ids(&folder, 10), ["id-0000", "id-0002"]);
}

#[test]
fn what_is_no_entry_is_left_out_however_long_it_is() {
    let folder = Folder::new("foreign");
    let endless = vec![b'x'; 3 * past::LINE];
    let foreign: [&[u8]; 5] =
        [b"\n[1,2]\n{\"kind\":1}\n\xff\xfe\n", &endless, b"\n", &line(7), b"{\"time_ms\":"];
    std::fs::write(folder.file(), foreign.concat()).unwrap();
    let past = past::last(&folder.file(), 10, |_| true).unwrap();
    assert_eq!((past.entries.len(), past.skipped), (1, 4));
    let (journal, _) = journal(&folder, 10);
    assert_eq!(journal.next(), 8, "after the number that was found");
}

#[test]
fn a_disk_that_is_full_costs_what_could_not_be_written_and_is_counted() {
    let folder = Folder::new("full");
    std::os::unix::fs::symlink("/dev/full", folder.file()).unwrap();
    let dropped = dropped();
    let writer = Writer::start(folder.settings(1 << 20, 2), dropped.clone()).unwrap();
    let failure = Arc::new(entry("a", Kind::ConnectionRefused, 0));
    (0..3).for_each(|number| writer.write(number, &failure));
    writer.finish();
    assert_eq!((dropped.queue.get(), dropped.write.get()), (0, 3));
}

#[test]
fn a_queue_that_is_full_holds_up_nobody() {
    let (sender, receiver) = sync_channel(2);
    let refused = dropped().queue;
    let (_tell, ended) = sync_channel(0);
    let writer = Writer { sender, ended, dropped: refused.clone() };
    let failure = Arc::new(entry("a", Kind::ConnectionRefused, 0));
    (0..5).for_each(|number| writer.write(number, &failure));
    assert_eq!(refused.get(), 3);
    drop(receiver);
    writer.write(5, &failure);
    assert_eq!(refused.get(), 4, "nor does a thread that is gone");
}

#[test]
fn a_folder_that_is_not_there_is_said_at_the_start() {
    let folder = Folder::new("absent");
    let path = folder.0.join("absent/failures.jsonl");
    let settings = Settings { path, size: 1 << 20, files: 2 };
    let error = Journal::with_file(10, settings, dropped()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

//! The journal's files, read without a seawall that runs.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value;

use crate::telemetry::journal::Query;
use crate::telemetry::journal::past::{self, Lines, Past};

/// The last entries that are asked for, oldest first.
///
/// # Errors
/// If there is no such file, or it cannot be read.
pub fn last(path: &Path, query: &Query) -> io::Result<VecDeque<Value>> {
    // The one that is written may be missing for a moment; a name that nobody ever wrote to is not.
    if !path.exists() && !past::rotated(path, 1).exists() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let limit = query.limit.unwrap_or(usize::MAX);
    let Past { entries, .. } = past::last(path, limit, |entry| query.wants(entry))?;
    Ok(entries)
}

/// What is written from now on.
pub struct Follow<'p> {
    path: &'p Path,
    open: Option<Open>,
}

/// The file that had the name when it was opened.
struct Open {
    lines: Lines<BufReader<File>>,
    device_and_inode: (u64, u64),
}

impl<'p> Follow<'p> {
    /// Begins at the end of the file, if it is there.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn new(path: &'p Path) -> io::Result<Self> {
        let mut follow = Follow { path, open: None };
        follow.more(&mut |_| Ok(()))?;
        Ok(follow)
    }

    /// Gives away what was added, through renaming: the old file is read to its end first.
    ///
    /// # Errors
    /// If the file cannot be read, or `each` fails.
    pub fn more(&mut self, each: &mut dyn FnMut(Value) -> io::Result<()>) -> io::Result<()> {
        loop {
            // Asked before reading: what the old file gets after its renaming is read too.
            let named = match std::fs::metadata(self.path) {
                Ok(named) => Some((named.dev(), named.ino())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            if let Some(open) = &mut self.open {
                while let Some(entry) = open.lines.next_entry()? {
                    each(entry)?;
                }
            }
            match (named, &self.open) {
                (None, _) => return Ok(()),
                (Some(named), Some(open)) if named == open.device_and_inode => return Ok(()),
                (Some(_), _) => {}
            }
            let file = match File::open(self.path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            };
            let device_and_inode = file.metadata().map(|open| (open.dev(), open.ino()))?;
            self.open = Some(Open { lines: Lines::new(BufReader::new(file)), device_and_inode });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn line(id: &str) -> String {
        format!(
            "{{\"time_ms\":1,\"request_id\":\"{id}\",\"kind\":\"dns_error\",\"upstream\":\"app\"}}\n"
        )
    }

    fn more(follow: &mut Follow<'_>) -> Vec<String> {
        let mut found = Vec::new();
        let mut keep = |entry: Value| {
            found.push(past::text(&entry, "request_id").unwrap().to_owned());
            Ok(())
        };
        follow.more(&mut keep).unwrap();
        found
    }

    #[test]
    fn it_follows_through_a_renaming_and_waits_for_the_end_of_a_line() {
        let name = format!("seawall-follow-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("failures.jsonl");
        std::fs::write(&path, line("before")).unwrap();
        let mut follow = Follow::new(&path).unwrap();
        assert!(more(&mut follow).is_empty());
        let mut file = File::options().append(true).open(&path).unwrap();
        let one = line("one");
        file.write_all(&one.as_bytes()[..20]).unwrap();
        assert!(more(&mut follow).is_empty());
        file.write_all(&one.as_bytes()[20..]).unwrap();
        assert_eq!(more(&mut follow), ["one"]);
        std::fs::rename(&path, past::rotated(&path, 1)).unwrap();
        // Another process has it open still.
        file.write_all(line("two").as_bytes()).unwrap();
        std::fs::write(&path, line("three")).unwrap();
        assert_eq!(more(&mut follow), ["two", "three"]);
        assert!(more(&mut follow).is_empty());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_that_nobody_wrote_is_an_error() {
        let absent = std::env::temp_dir().join("seawall-absent/failures.jsonl");
        let error = last(&absent, &Query::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}

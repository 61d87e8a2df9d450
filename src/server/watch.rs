//! Notices that a file has changed, by looking at it now and then.
//!
//! No inotify: a look every second costs nothing, and works on network file systems, on bind mounts
//! and through the symbolic links that Kubernetes swaps. A change counts when it has lasted for one
//! more look, so that a file that is being written is not read in the middle, and when the content
//! is really another.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

/// Size, time of the last change, and which file it is; `None`: it cannot be looked at.
type Stamp = Option<(u64, i64, i64, u64)>;

/// A file that is watched.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    known: Stamp,
    content: Option<u64>,
    /// Seen once, and different from what is known.
    candidate: Option<Stamp>,
}

impl Watch {
    /// Watches from now on.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let mut watch =
            Watch { path: path.to_owned(), known: None, content: None, candidate: None };
        watch.note();
        watch
    }

    /// The file that is watched.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is there now is known. Call this before the file is read: a change after it will be
    /// noticed.
    pub fn note(&mut self) {
        self.known = self.stamp();
        self.content = self.content();
        self.candidate = None;
    }

    /// Waits until the content has changed. Cancel-safe.
    pub async fn changed(&mut self, interval: Duration) {
        loop {
            sleep(interval).await;
            if self.look() {
                return;
            }
        }
    }

    fn look(&mut self) -> bool {
        let stamp = self.stamp();
        if stamp == self.known {
            self.candidate = None;
            return false;
        }
        if self.candidate != Some(stamp) {
            self.candidate = Some(stamp);
            return false;
        }
        let before = self.content;
        self.note();
        self.content != before
    }

    fn stamp(&self) -> Stamp {
        let found = fs::metadata(&self.path).ok()?;
        Some((found.len(), found.mtime(), found.mtime_nsec(), found.ino()))
    }

    fn content(&self) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        hasher.write(&fs::read(&self.path).ok()?);
        Some(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct File(PathBuf);

    impl File {
        fn new(name: &str, text: &str) -> Self {
            let name = format!("seawall-watch-{}-{name}", std::process::id());
            let file = File(std::env::temp_dir().join(name));
            file.write(text);
            file
        }

        fn write(&self, text: &str) {
            fs::write(&self.0, text).unwrap();
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_change_counts_when_it_has_lasted_and_only_once() {
        let file = File::new("lasts", "one");
        let mut watch = Watch::new(&file.0);
        assert!(!watch.look());
        file.write("two, half");
        assert!(!watch.look(), "it may still be written");
        file.write("two, and all of it");
        assert!(!watch.look(), "it was");
        assert!(watch.look());
        assert!(!watch.look());
    }

    #[test]
    fn the_same_content_in_another_file_is_no_change() {
        let file = File::new("same", "one");
        let mut watch = Watch::new(&file.0);
        let other = File::new("same-other", "one");
        fs::rename(&other.0, &file.0).unwrap();
        assert!(!watch.look() && !watch.look() && !watch.look());
    }

    #[test]
    fn a_file_that_is_gone_is_a_change_and_so_is_its_return() {
        let file = File::new("gone", "one");
        let mut watch = Watch::new(&file.0);
        fs::remove_file(&file.0).unwrap();
        assert!(!watch.look());
        assert!(watch.look());
        file.write("one");
        assert!(!watch.look());
        assert!(watch.look());
    }

    #[test]
    fn what_was_noted_is_no_news() {
        let file = File::new("noted", "one");
        let mut watch = Watch::new(&file.0);
        file.write("another one");
        watch.note();
        assert!(!watch.look() && !watch.look());
    }
}

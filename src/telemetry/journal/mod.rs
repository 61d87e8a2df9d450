//! The failure journal: the last failures, in memory, for `/failures` and the admin page.
//!
//! Bounded: `journal.entries` entries, each at most [`EVIDENCE`] bytes of evidence and
//! [`TEXT`] bytes for each other text, about 12 KiB in all. Shared by all workers behind a lock
//! that only failures and operators take. With `journal.file` they are written to a file as well
//! ([`mod@file`]), and read from there when the process starts again ([`past`]).

pub mod file;
pub mod past;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use http::Method;
use serde_json::{Value, json};

use self::file::{Dropped, Settings, Writer};
use super::log::FailureLine;
use super::spans::context::TraceId;
use crate::failure::{Kind, Outcome, Phase, Protocol};

/// Most bytes of evidence that an entry keeps.
pub const EVIDENCE: usize = 8 * 1024;
/// Most bytes of any other text that an entry keeps.
pub const TEXT: usize = 1024;
/// What a file says beyond it is no number of ours.
const MOST_NUMBER: u64 = 1 << 52;

/// One failure.
#[derive(Clone, Debug)]
pub struct Entry {
    time_ms: u64,
    request_id: Box<str>,
    kind: Kind,
    phase: Phase,
    outcome: Outcome,
    protocol: Protocol,
    route: Arc<str>,
    upstream: Option<Arc<str>>,
    endpoint: Option<Arc<str>>,
    dependency: Option<Arc<str>>,
    received_status: Option<u16>,
    status: Option<u16>,
    close_code: Option<u16>,
    trace_id: Option<TraceId>,
    method: Method,
    path: Box<str>,
    chain: Vec<String>,
    trace: Option<&'static str>,
    evidence: Option<Box<[u8]>>,
}

impl Entry {
    /// The entry that says the same as this log line, with the errors beneath.
    #[must_use]
    pub fn new(line: &FailureLine<'_>, mut chain: Vec<String>) -> Self {
        let failure = line.failure;
        let text = |text: &str| cut(text, TEXT).into();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let evidence = failure.evidence().filter(|bytes| !bytes.is_empty());
        for error in &mut chain {
            error.truncate(cut(error, TEXT).len());
        }
        let method = line.method.as_str();
        let method = match method.len() {
            ..=TEXT => line.method.clone(),
            _ => Method::from_bytes(cut(method, TEXT).as_bytes()).unwrap_or_default(),
        };
        Entry {
            time_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            request_id: text(line.request_id),
            kind: failure.kind(),
            phase: failure.phase(),
            outcome: line.outcome,
            protocol: line.protocol,
            route: Arc::clone(line.route),
            upstream: failure.upstream().cloned(),
            endpoint: failure.endpoint().cloned(),
            dependency: failure.dependency().cloned(),
            received_status: failure.received_status(),
            status: line.status,
            close_code: line.close_code,
            trace_id: line.trace_id,
            method,
            path: text(line.path),
            chain,
            trace: failure.trace(),
            evidence: evidence.map(|bytes| bytes.get(..EVIDENCE).unwrap_or(bytes).into()),
        }
    }

    fn upstream(&self) -> &str {
        self.upstream.as_deref().unwrap_or_default()
    }

    /// The entry as JSON; what there is nothing of is left out.
    #[must_use]
    pub fn describe(&self, number: u64) -> Value {
        let mut fields = json!({
            "number": number,
            "time_ms": self.time_ms,
            "request_id": &*self.request_id,
            "kind": self.kind.name(),
            "phase": self.phase.name(),
            "outcome": self.outcome.name(),
            "protocol": self.protocol.name(),
            "route": &*self.route,
            "upstream": self.upstream(),
            "endpoint": self.endpoint.as_deref(),
            "dependency": self.dependency.as_deref(),
            "received_status": self.received_status,
            "status": self.status,
            "close_code": self.close_code,
            "trace_id": self.trace_id.map(|trace| trace.to_string()),
            "method": self.method.as_str(),
            "path": &*self.path,
            "error": Some(&self.chain).filter(|chain| !chain.is_empty()),
            "trace": self.trace,
            "evidence": self.evidence.as_deref().map(String::from_utf8_lossy),
        });
        if let Value::Object(fields) = &mut fields {
            fields.retain(|_, value| !value.is_null());
        }
        fields
    }
}

/// At most `limit` bytes of the text, cut between characters.
pub(super) fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// Which entries are asked for; what is empty matches all.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// The request's id, or how it begins.
    pub request_id: Option<String>,
    /// The kind's name.
    pub kind: Option<String>,
    /// The upstream's name.
    pub upstream: Option<String>,
    /// Most entries to give.
    pub limit: Option<usize>,
}

impl Query {
    fn matches(&self, entry: &Record) -> bool {
        let (id, kind, upstream) = match entry {
            Record::New(entry) => (&*entry.request_id, entry.kind.name(), entry.upstream()),
            Record::Past(entry) => {
                let text = |name| past::text(entry, name).unwrap_or_default();
                (text("request_id"), text("kind"), text("upstream"))
            }
        };
        self.fits(id, kind, upstream)
    }

    /// Whether this entry of a file is asked for.
    #[must_use]
    pub fn wants(&self, entry: &Value) -> bool {
        let text = |name| past::text(entry, name).unwrap_or_default();
        self.fits(text("request_id"), text("kind"), text("upstream"))
    }

    fn fits(&self, request_id: &str, kind: &str, upstream: &str) -> bool {
        self.request_id.as_deref().is_none_or(|id| request_id.starts_with(id))
            && self.kind.as_deref().is_none_or(|wanted| wanted == kind)
            && self.upstream.as_deref().is_none_or(|wanted| wanted == upstream)
    }
}

/// A failure in the journal.
#[derive(Clone, Debug)]
enum Record {
    /// Of this process.
    New(Arc<Entry>),
    /// Of one before it, as it stands in the file.
    Past(Arc<Value>),
}

/// The last failures.
#[derive(Debug)]
pub struct Journal {
    capacity: usize,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<(u64, Record)>,
    next: u64,
    writer: Option<Writer>,
}

impl Journal {
    /// A journal of the last `capacity` failures.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Journal { capacity, ring: Mutex::default() }
    }

    /// A journal that goes on where the file's last process stopped, and is written to the file.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn with_file(capacity: usize, settings: Settings, dropped: Dropped) -> io::Result<Self> {
        let past = past::last(&settings.path, capacity, |_| true)?;
        let (file, found) = (settings.path.display().to_string(), past.entries.len());
        tracing::info!(file, found, unreadable = past.skipped, "the journal goes on");
        let writer = Writer::start(settings, dropped)?;
        let journal = Journal::new(capacity);
        let mut ring = journal.lock();
        for entry in past.entries {
            // Numbers grow, whatever a file says: two processes may have written at once.
            let said = entry.get("number").and_then(Value::as_u64).unwrap_or_default();
            let number = ring.next.max(said.min(MOST_NUMBER));
            ring.next = number + 1;
            ring.entries.push_back((number, Record::Past(Arc::new(entry))));
        }
        ring.writer = Some(writer);
        drop(ring);
        Ok(journal)
    }

    /// Adds a failure; the oldest makes room for it.
    pub fn push(&self, entry: Entry) {
        let entry = Arc::new(entry);
        let mut ring = self.lock();
        let number = ring.next;
        ring.next += 1;
        if let Some(writer) = &ring.writer {
            writer.write(number, &entry);
        }
        if self.capacity == 0 {
            return;
        }
        let oldest = (ring.entries.len() >= self.capacity).then(|| ring.entries.pop_front());
        ring.entries.push_back((number, Record::New(entry)));
        // Taken apart when others may go on.
        drop(ring);
        drop(oldest);
    }

    /// The file has all failures, or as many as it gets; there are no more to come.
    pub fn finish(&self) {
        let writer = self.lock().writer.take();
        writer.into_iter().for_each(Writer::finish);
    }

    /// The number that the next failure gets: how many there were.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.lock().next
    }

    /// The failures asked for, newest first, as JSON.
    #[must_use]
    pub fn snapshot(&self, query: &Query) -> Value {
        let found: Vec<_> = self
            .lock()
            .entries
            .iter()
            .rev()
            .filter(|(_, entry)| query.matches(entry))
            .take(query.limit.unwrap_or(usize::MAX))
            .cloned()
            .collect();
        // Made into JSON outside the lock: an operator who reads does not hold up a failure.
        let describe = |(number, record): &(u64, Record)| match record {
            Record::New(entry) => entry.describe(*number),
            Record::Past(entry) => {
                let mut entry = Value::clone(entry);
                if let Value::Object(fields) = &mut entry {
                    fields.insert("number".to_owned(), (*number).into());
                }
                entry
            }
        };
        found.iter().map(describe).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // A panic while pushing leaves the ring whole: it is used on.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::failure::Failure;

    pub(in crate::telemetry::journal) fn entry(id: &str, kind: Kind, evidence: usize) -> Entry {
        let failure = Failure::new(kind, Phase::Head)
            .at_upstream(&"app".into())
            .with_source(std::io::Error::other(format!("boom{}", " ".repeat(2000))))
            .with_evidence(vec![b'x'; evidence].into());
        let line = FailureLine {
            request_id: id,
            failure: &failure,
            outcome: Outcome::Normalized,
            protocol: Protocol::Http,
            route: &"/".into(),
            method: &Method::from_bytes(&[b'M'; 2000]).unwrap(),
            path: &"ä".repeat(2000),
            status: Some(500),
            close_code: None,
            trace_id: None,
        };
        Entry::new(&line, failure.chain())
    }

    #[test]
    fn the_oldest_entry_makes_room() {
        let journal = Journal::new(2);
        for id in ["a", "b", "c"] {
            journal.push(entry(id, Kind::ConnectionRefused, 0));
        }
        let all = journal.snapshot(&Query::default());
        let ids: Vec<_> = all.as_array().unwrap().iter().map(|e| e["request_id"].clone()).collect();
        assert_eq!(ids, ["c", "b"]);
        assert_eq!(all[0]["number"], 2);
        assert!(all[0]["error"][0].as_str().unwrap().starts_with("boom"));
    }

    #[test]
    fn an_entry_is_found_by_id_kind_and_upstream() {
        let journal = Journal::new(9);
        journal.push(entry("a", Kind::ConnectionRefused, 0));
        journal.push(entry("b", Kind::HttpProtocolError, 0));
        let ask = |query| journal.snapshot(&query).as_array().map(Vec::len);
        assert_eq!(ask(Query { request_id: Some("a".into()), ..Query::default() }), Some(1));
        assert_eq!(
            ask(Query { kind: Some("http_protocol_error".into()), ..Query::default() }),
            Some(1)
        );
        assert_eq!(ask(Query { upstream: Some("other".into()), ..Query::default() }), Some(0));
        assert_eq!(ask(Query { limit: Some(1), ..Query::default() }), Some(1));
    }

    #[test]
    fn an_entry_is_bounded() {
        let journal = Journal::new(1);
        journal.push(entry("a", Kind::ConnectionRefused, 100_000));
        let all = journal.snapshot(&Query::default());
        assert_eq!(all[0]["evidence"].as_str().map(str::len), Some(EVIDENCE));
        for text in [&all[0]["path"], &all[0]["method"], &all[0]["error"][0]] {
            assert_eq!(text.as_str().map(str::len), Some(TEXT));
        }
    }
}

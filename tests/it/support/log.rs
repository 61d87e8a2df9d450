//! The log of every seawall in this process, to be asked by request id.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, Once};

use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::PATIENCE;

/// The fields of one log line.
pub type Line = BTreeMap<String, String>;

static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());
static MORE: Condvar = Condvar::new();
static CAPTURE: Once = Once::new();

struct Capture;

struct Fields<'a>(&'a mut Line);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl<S: tracing::Subscriber> Layer<S> for Capture {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() > tracing::Level::INFO {
            return;
        }
        let mut line = Line::new();
        event.record(&mut Fields(&mut line));
        if line.contains_key("request_id") || line.contains_key("field") {
            LINES.lock().unwrap().push(line);
            MORE.notify_all();
        }
    }
}

/// Begins to capture; every seawall of the process is heard from then on.
pub fn capture() {
    CAPTURE.call_once(|| tracing_subscriber::registry().with(Capture).init());
}

/// Waits until the lines of this request answer `question`. There is no other way to read the log: a
/// line follows the client's last byte by a moment.
pub fn wait_for<T>(request_id: &str, what: &str, question: impl FnMut(&[Line]) -> Option<T>) -> T {
    wait_for_lines("request_id", request_id, what, question)
}

/// Waits until the lines in which this field has this value answer `question`.
pub fn wait_for_lines<T>(
    field: &str,
    value: &str,
    what: &str,
    mut question: impl FnMut(&[Line]) -> Option<T>,
) -> T {
    let mut answer = None;
    let lines = LINES.lock().unwrap();
    let (lines, _) = MORE
        .wait_timeout_while(lines, PATIENCE, |lines| {
            let has = |line: &&Line| line.get(field).is_some_and(|found| found == value);
            answer = question(&lines.iter().filter(has).cloned().collect::<Vec<_>>());
            answer.is_none()
        })
        .unwrap();
    drop(lines);
    answer.unwrap_or_else(|| panic!("never logged: {what}"))
}

//! The log of every seawall in this process, to be asked by request id.

use std::collections::BTreeMap;
use std::sync::{Mutex, Once};

use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// The fields of one log line.
pub type Line = BTreeMap<String, String>;

static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());
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
        if line.contains_key("request_id") {
            LINES.lock().unwrap().push(line);
        }
    }
}

/// Begins to capture; every seawall of the process is heard from then on.
pub fn capture() {
    CAPTURE.call_once(|| tracing_subscriber::registry().with(Capture).init());
}

/// The lines of this request.
pub fn of(request_id: &str) -> Vec<Line> {
    let lines = LINES.lock().unwrap();
    lines.iter().filter(|line| line["request_id"] == request_id).cloned().collect()
}

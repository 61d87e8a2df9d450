//! Server-sent events that end before their stream does: whole events, then one that says why.
//!
//! With `failures.sse_event` an event stream passes event by event, as a WebSocket passes frame by
//! frame: what of an event has come waits until the rest is there. A browser dispatches nothing
//! before that either (HTML standard, "Interpreting an event stream"), so that nobody waits longer.
//! When the upstream fails, the stream therefore stands between two events, and a last one can be
//! told before it is cut off. Of an event larger than the limit the parts pass as they come, and
//! behind such a part nothing can be told.

use bytes::{Bytes, BytesMut};

/// An event stream on its way.
#[derive(Debug)]
pub struct Events {
    /// The beginning of an event whose end has not come.
    waiting: BytesMut,
    limit: usize,
    walker: Walker,
    /// The client has a part of an event.
    inside: bool,
}

impl Events {
    /// Events of up to `limit` bytes pass whole.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Events { waiting: BytesMut::new(), limit, walker: Walker::default(), inside: false }
    }

    /// What may pass, now that these bytes have come.
    #[must_use]
    pub fn pass(&mut self, mut data: Bytes) -> Option<Bytes> {
        let end = self.walker.walk(&data);
        let Some(end) = end else {
            if self.inside || self.waiting.len() + data.len() > self.limit {
                self.inside = true;
                return Some(self.behind_waiting(data));
            }
            self.waiting.extend_from_slice(&data);
            return None;
        };
        self.inside = false;
        let rest = data.split_off(end.min(data.len()));
        let whole = self.behind_waiting(data);
        if rest.len() > self.limit {
            self.inside = true;
            return Some([whole, rest].concat().into());
        }
        self.waiting.extend_from_slice(&rest);
        Some(whole)
    }

    /// The stream has ended: what is left of it, a part of an event at most.
    #[must_use]
    pub fn rest(&mut self) -> Option<Bytes> {
        (!self.waiting.is_empty()).then(|| self.waiting.split().freeze())
    }

    /// Whether an event of ours may follow what has passed.
    #[must_use]
    pub fn stands_between_events(&self) -> bool {
        !self.inside
    }

    fn behind_waiting(&mut self, data: Bytes) -> Bytes {
        if self.waiting.is_empty() {
            return data;
        }
        self.waiting.extend_from_slice(&data);
        self.waiting.split().freeze()
    }
}

/// Finds the ends of events. A comment is an event of its own: it keeps a connection alive.
#[derive(Debug, Default)]
struct Walker {
    line: Line,
    /// A field has come since the last empty line.
    has_fields: bool,
    /// The last byte was a CR, whose LF may follow.
    after_return: bool,
}

/// What the current line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Line {
    #[default]
    Empty,
    Comment,
    Field,
}

impl Walker {
    /// Where in `data` the last event ends, if one does. Lines end with CR LF, LF or CR.
    fn walk(&mut self, data: &[u8]) -> Option<usize> {
        if data.is_empty() {
            return None;
        }
        let mut last = None;
        let mut at = 0;
        if std::mem::take(&mut self.after_return) && data.first() == Some(&b'\n') {
            at = 1;
            if self.line == Line::Empty && !self.has_fields {
                last = Some(1);
            }
        }
        while let Some(rest) = data.get(at..).filter(|rest| !rest.is_empty()) {
            let end = memchr::memchr2(b'\r', b'\n', rest);
            if self.line == Line::Empty {
                self.line = match rest.first() {
                    Some(b'\r' | b'\n') | None => Line::Empty,
                    Some(b':') => Line::Comment,
                    Some(_) => Line::Field,
                };
            }
            let Some(end) = end else { break };
            at += end + 1;
            match self.line {
                Line::Empty => self.has_fields = false,
                Line::Comment => {}
                Line::Field => self.has_fields = true,
            }
            self.line = Line::Empty;
            if rest.get(end) == Some(&b'\r') {
                match data.get(at) {
                    Some(b'\n') => at += 1,
                    Some(_) => {}
                    None => self.after_return = true,
                }
            }
            if !self.has_fields {
                last = Some(at);
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ends(text: &str) -> Option<usize> {
        Walker::default().walk(text.as_bytes())
    }

    #[test]
    fn events_end_with_an_empty_line() {
        for (text, end) in [
            ("data: 1\n\n", Some(9)),
            ("data: 1\r\n\r\n", Some(11)),
            ("data: 1\r\r", Some(9)),
            ("data: 1\n", None),
            ("data: 1\r\n", None),
            ("data: 1\n\ndata: 2\n", Some(9)),
            ("data: 1\n\n\n", Some(10)),
            (": comment\n", Some(10)),
            (": comment", None),
            ("data: 1\n: comment\n", None),
            (": comment\ndata: 1\n", Some(10)),
            ("", None),
        ] {
            assert_eq!(ends(text), end, "{text:?}");
        }
    }

    #[test]
    fn a_line_end_may_come_in_two_parts_with_nothing_between() {
        let mut walker = Walker::default();
        assert_eq!(walker.walk(b"id: 1\r"), None);
        assert_eq!(walker.walk(b""), None);
        assert_eq!(walker.walk(b"\n"), None);
        assert_eq!(walker.walk(b"\r"), Some(1));
        assert_eq!(walker.walk(b"\n"), Some(1));
    }

    #[test]
    fn a_part_of_an_event_waits_and_what_follows_it_joins() {
        let mut events = Events::new(100);
        assert_eq!(events.pass("data: 1\n\nda".into()).unwrap(), "data: 1\n\n");
        assert_eq!(events.pass("ta: 2\n".into()), None);
        assert!(events.stands_between_events());
        assert_eq!(events.pass("\nid: 3".into()).unwrap(), "data: 2\n\n");
        assert_eq!(events.rest().unwrap(), "id: 3");
        assert_eq!(events.rest(), None);
    }

    #[test]
    fn an_event_over_the_limit_passes_in_parts_and_nothing_can_be_told_behind_one() {
        let mut events = Events::new(10);
        assert_eq!(events.pass("data: 123".into()), None);
        assert_eq!(events.pass("456".into()).unwrap(), "data: 123456");
        assert!(!events.stands_between_events());
        assert_eq!(events.pass("7\n".into()).unwrap(), "7\n");
        assert_eq!(events.pass("\n".into()).unwrap(), "\n");
        assert!(events.stands_between_events());
        let long = "data: 1\n\ndata: 12345678901234567890";
        assert_eq!(events.pass(long.into()).unwrap(), long);
        assert!(!events.stands_between_events());
    }

    proptest! {
        #[test]
        fn every_cut_gives_the_same_bytes_and_stops_only_between_events(
            lines in prop::collection::vec("(data: [a-z]{0,9}|:[a-z]{0,5}|id:1|)(\n|\r|\r\n)", 0..30),
            mut cuts in prop::collection::vec(0usize..300, 0..12),
            limit in 0usize..60,
        ) {
            let text = lines.concat();
            cuts.retain(|cut| *cut < text.len());
            cuts.sort_unstable();
            let mut events = Events::new(limit);
            let (mut passed, mut from) = (String::new(), 0);
            for to in cuts.into_iter().chain([text.len()]) {
                let part = Bytes::copy_from_slice(&text.as_bytes()[from..to]);
                from = to;
                if let Some(out) = events.pass(part) {
                    passed.push_str(std::str::from_utf8(&out).unwrap());
                }
                prop_assert!(events.waiting.len() <= limit);
                if events.stands_between_events() {
                    // A reference that looks at all that has passed, line by line.
                    let mut fields = false;
                    let normal = passed.replace("\r\n", "\n").replace('\r', "\n");
                    prop_assert!(normal.is_empty() || normal.ends_with('\n'));
                    for line in normal.split_terminator('\n') {
                        fields = !line.is_empty() && (fields || !line.starts_with(':'));
                    }
                    prop_assert!(!fields, "in the middle of an event: {passed:?}");
                }
            }
            passed.extend(events.rest().map(|rest| String::from_utf8(rest.to_vec()).unwrap()));
            prop_assert_eq!(passed, text);
        }
    }
}

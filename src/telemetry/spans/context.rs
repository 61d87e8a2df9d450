//! Which trace a request belongs to: W3C Trace Context, level 1 (<https://www.w3.org/TR/trace-context/>).
//!
//! Pure. What cannot be read begins a new trace, as §4.3 of it says.

use std::fmt;

use http::HeaderName;

use crate::telemetry::request_id::RequestIds;

/// `traceparent` (§3.2).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `tracestate` (§3.3).
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes of a `traceparent` of version 00.
const LENGTH: usize = 55;
/// Flag: whoever came before records its part of the trace.
const SAMPLED: u8 = 0b01;
/// Flag of level 2: the trace id's last seven bytes are random. Passed on as it is.
const RANDOM: u8 = 0b10;
/// Most bytes of `tracestate` that are told the collector (§3.3.1.1).
const MOST_STATE: usize = 512;

/// Names a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub [u8; 16]);

/// Names a span of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(pub [u8; 8]);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl SpanId {
    /// A new one.
    pub fn new(ids: &mut RequestIds) -> Self {
        // All zeros would be none.
        SpanId(ids.random().max(1).to_be_bytes())
    }
}

/// The share of traces that are recorded, where nobody before us has decided.
///
/// The decision is the trace id's: whoever else takes the same share takes the same traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u64);

impl Share {
    /// How many values the random part of a trace id has.
    const WHOLE: u64 = 1 << 56;

    /// So many percent, from 0 to 100.
    #[must_use]
    pub fn of_percent(percent: f64) -> Self {
        let part = (percent / 100.0).clamp(0.0, 1.0) * Self::WHOLE as f64;
        Share(part as u64)
    }

    fn takes(self, trace: TraceId) -> bool {
        let [.., a, b, c, d, e, f, g] = trace.0;
        // As in OpenTelemetry's consistent sampling: the largest values are taken.
        u64::from_be_bytes([0, a, b, c, d, e, f, g]) >= Self::WHOLE - self.0
    }
}

/// A request's place in its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The client's span, if the client has told one.
    pub parent: Option<SpanId>,
    /// What seawall does for this request.
    pub span: SpanId,
    /// The trace is recorded.
    pub sampled: bool,
    random: bool,
}

impl Context {
    /// Continues the client's trace, or begins one. A trusted client has decided whether the trace
    /// is recorded; for all others the share decides. `told` has the values of `traceparent`.
    pub fn begin<'f>(
        told: impl IntoIterator<Item = &'f [u8]>,
        trusted: bool,
        share: Share,
        ids: &mut RequestIds,
    ) -> Self {
        let span = SpanId::new(ids);
        match parent(told) {
            Some((trace, parent, flags)) => {
                let sampled = if trusted { flags & SAMPLED != 0 } else { share.takes(trace) };
                let random = flags & RANDOM != 0;
                Context { trace, parent: Some(parent), span, sampled, random }
            }
            None => {
                let (high, low) = (ids.random(), ids.random());
                let trace = u128::from(high) << 64 | u128::from(low);
                let trace = TraceId(trace.max(1).to_be_bytes());
                let sampled = share.takes(trace);
                Context { trace, parent: None, span, sampled, random: true }
            }
        }
    }

    /// The field for the next hop, whose parent is this span.
    #[must_use]
    pub fn traceparent(&self, span: SpanId) -> [u8; LENGTH] {
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let flags = if self.sampled { SAMPLED } else { 0 } | if self.random { RANDOM } else { 0 };
        let bytes = self.trace.0.iter().chain(&span.0).chain(std::iter::once(&flags));
        let places = out.iter_mut().skip(3).filter(|place| **place == b'0');
        let digits = bytes.flat_map(|byte| [byte >> 4, byte & 15]);
        for (place, digit) in places.zip(digits) {
            *place = b"0123456789abcdef"[usize::from(digit)];
        }
        out
    }
}

/// The one `traceparent` that a request has, if it is valid (§3.2.2).
fn parent<'f>(told: impl IntoIterator<Item = &'f [u8]>) -> Option<(TraceId, SpanId, u8)> {
    let mut told = told.into_iter();
    let (Some(line), None) = (told.next(), told.next()) else { return None };
    let (known, rest) = line.split_at_checked(LENGTH)?;
    let version = byte(known.get(..2)?)?;
    // Later versions may append, behind a dash; ff is forbidden.
    let appended = rest.is_empty() || (version != 0 && rest.starts_with(b"-"));
    let dashes = [2, 35, 52].iter().all(|at| known.get(*at) == Some(&b'-'));
    if version == 0xff || !appended || !dashes {
        return None;
    }
    let trace: [u8; 16] = bytes(known.get(3..35)?)?;
    let span: [u8; 8] = bytes(known.get(36..52)?)?;
    let flags = byte(known.get(53..)?)?;
    (trace != [0; 16] && span != [0; 8]).then_some((TraceId(trace), SpanId(span), flags))
}

/// What vendors have added to the trace, the values of `tracestate`, if it fits.
pub fn state<'f>(told: impl IntoIterator<Item = &'f [u8]>) -> Option<Box<str>> {
    let lines = told.into_iter().map(|line| std::str::from_utf8(line).ok());
    let state = lines.collect::<Option<Vec<_>>>()?.join(",");
    (state.is_ascii() && (1..=MOST_STATE).contains(&state.len())).then(|| state.into())
}

fn bytes<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    for (place, pair) in out.iter_mut().zip(digits.chunks(2)) {
        *place = byte(pair)?;
    }
    Some(out)
}

/// Two hexadecimal digits; capital ones are not valid here.
fn byte(pair: &[u8]) -> Option<u8> {
    let digit = |digit: &u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let [high, low] = pair else { return None };
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of the specification.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn bytes_of<'l>(lines: &[&'l str]) -> Vec<&'l [u8]> {
        lines.iter().map(|line| line.as_bytes()).collect()
    }

    fn begin(told: &[&str], trusted: bool, percent: f64) -> Context {
        let share = Share::of_percent(percent);
        Context::begin(bytes_of(told), trusted, share, &mut RequestIds::new())
    }

    #[test]
    fn a_trace_is_continued() {
        let context = begin(&[EXAMPLE], true, 0.0);
        assert_eq!(context.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.parent, Some(SpanId(0x00f0_67aa_0ba9_02b7_u64.to_be_bytes())));
        assert!(context.sampled);
        let next = context.traceparent(SpanId([0xab; 8]));
        assert_eq!(&next, b"00-4bf92f3577b34da6a3ce929d0e0e4736-abababababababab-01");
    }

    #[test]
    fn what_is_not_valid_begins_a_trace() {
        let long = format!("{EXAMPLE}-what-the-future-brings");
        for invalid in [
            "",
            "00",
            &EXAMPLE.to_uppercase(),
            &EXAMPLE.replace("00-4", "ff-4"),
            &EXAMPLE.replace("-01", "-0g"),
            &EXAMPLE.replace('-', "_"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            &long,
            &format!("01{}", long.get(2..).unwrap().replace("01-w", "01.w")),
        ] {
            let context = begin(&[invalid], true, 100.0);
            assert_eq!(context.parent, None, "{invalid:?}");
            assert!(context.sampled, "{invalid:?}");
        }
        assert_eq!(begin(&[EXAMPLE, EXAMPLE], true, 100.0).parent, None);
        assert_eq!(begin(&[], true, 100.0).parent, None);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = format!("cc{}-what-the-future-brings", EXAMPLE.get(2..).unwrap());
        let context = begin(&[&later], true, 0.0);
        assert_eq!(context.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(context.traceparent(context.span).starts_with(b"00-4bf9"));
    }

    #[test]
    fn only_who_is_trusted_decides_for_us() {
        let not = EXAMPLE.replace("-01", "-00");
        for (line, trusted, percent, sampled) in [
            (EXAMPLE, true, 0.0, true),
            (EXAMPLE, false, 0.0, false),
            (&not, true, 100.0, false),
            (&not, false, 100.0, true),
        ] {
            let context = begin(&[line], trusted, percent);
            assert_eq!(context.sampled, sampled, "{line} {trusted} {percent}");
            let flags = context.traceparent(context.span)[54];
            assert_eq!(flags, if sampled { b'1' } else { b'0' });
        }
    }

    #[test]
    fn a_share_is_a_share() {
        let mut ids = RequestIds::new();
        let share = Share::of_percent(10.0);
        let begin = |_| Context::begin([], false, share, &mut ids).sampled;
        let taken = (0..10_000).map(begin).filter(|sampled| *sampled).count();
        assert!((800..1200).contains(&taken), "{taken} of 10,000");
        let trace = TraceId([0xff; 16]);
        assert!(Share::of_percent(0.001).takes(trace) && !Share::of_percent(0.0).takes(trace));
        assert!(Share::of_percent(100.0).takes(TraceId([0; 16])));
    }

    #[test]
    fn a_state_is_one_list_that_fits() {
        let state = |told: &[&str]| state(bytes_of(told));
        assert_eq!(state(&[]), None);
        assert_eq!(state(&["a=1", "b=2"]).as_deref(), Some("a=1,b=2"));
        assert_eq!(state(&["a=1", &"x".repeat(512)]), None);
        assert_eq!(state(&["a=\u{e4}"]), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(trace in any::<[u8; 16]>(), span in any::<[u8; 8]>(), sampled: bool) {
            prop_assume!(trace != [0; 16] && span != [0; 8]);
            let context = Context {
                trace: TraceId(trace), parent: None, span: SpanId(span), sampled, random: false,
            };
            let written = context.traceparent(SpanId(span));
            let read = parent([&written[..]]);
            prop_assert_eq!(read, Some((TraceId(trace), SpanId(span), u8::from(sampled))));
        }

        #[test]
        fn no_bytes_are_a_mistake(bytes in proptest::collection::vec(0x20_u8..0x7f, 0..80)) {
            parent([&bytes[..]]);
        }
    }
}

//! What must be true of every story (P1): an answer that looks whole to the client is the whole
//! answer of an upstream, or seawall's own. And what an upstream gets is in the one form in which
//! seawall writes, however it was said.
//!
//! The parsers here share nothing with seawall's and know only what is needed: of what seawall
//! writes, its one form; of what an upstream writes, everything that is an answer at all.

use std::collections::HashMap;

use crate::play::{End, Outcome, Seen};

/// A request as an upstream has got it.
#[derive(Debug)]
pub struct Request {
    method: String,
    id: String,
    /// Behind it.
    end: usize,
    upgrade: bool,
}

/// An answer as an upstream has written it, or as the client has read it.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// Names in small letters.
    fields: Vec<(String, Vec<u8>)>,
    content: Vec<u8>,
    whole: bool,
    /// Where it ends, if it is whole.
    end: usize,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|part| part == what)
}

/// Lines that end with CRLF, without them.
fn lines(head: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = head;
    while let Some(end) = find(rest, b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines
}

fn fields(lines: &[&[u8]]) -> Option<Vec<(String, Vec<u8>)>> {
    let field = |line: &&[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = String::from_utf8(line[..colon].to_ascii_lowercase()).ok()?;
        Some((name, line[colon + 1..].trim_ascii().to_vec()))
    };
    lines.iter().map(field).collect()
}

/// Undoes chunks; `None` if they are not well-formed. What there is, and the end if it is whole.
/// `strict` knows the one form in which seawall writes.
fn chunks(bytes: &[u8], strict: bool) -> Option<(Vec<u8>, Option<usize>)> {
    let mut content = Vec::new();
    let mut at = 0;
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else { return Some((content, None)) };
        let text = &bytes[at..at + line];
        let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let rest = text[digits..].trim_ascii_start();
        let well = rest.is_empty() || (!strict && rest[0] == b';');
        if digits == 0 || digits > 15 || !well || text.contains(&b'\n') {
            return None;
        }
        let size = std::str::from_utf8(&text[..digits]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        at += line + 2;
        if size == 0 {
            if bytes[at..].starts_with(b"\r\n") {
                return Some((content, Some(at + 2)));
            }
            let end = find(&bytes[at..], b"\r\n\r\n").map(|end| at + end + 4);
            return Some((content, end));
        }
        let there = bytes.len() - at;
        content.extend_from_slice(&bytes[at..at + size.min(there)]);
        if there < size + 2 {
            return Some((content, None));
        }
        if &bytes[at + size..at + size + 2] != b"\r\n" {
            return None;
        }
        at += size + 2;
    }
}

/// The requests that an upstream has got, each in the one form; the last one may be cut off.
/// Those behind one that became a WebSocket are none.
fn requests(seen: &Seen) -> Vec<Request> {
    let bytes = &*seen.bytes;
    let mut found = Vec::new();
    let (mut at, mut answered) = (0, 0);
    while let Some(head) = find(&bytes[at..], b"\r\n\r\n") {
        let head = &bytes[at..at + head + 2];
        let text = || head.escape_ascii().to_string();
        let lines = lines(head);
        for line in &lines {
            assert!(!line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{}", text());
        }
        let start = String::from_utf8_lossy(lines[0]).into_owned();
        let words: Vec<_> = start.split(' ').collect();
        assert!(words.len() == 3 && words[2] == "HTTP/1.1", "{}", text());
        let fields = fields(&lines[1..]).unwrap_or_else(|| panic!("{}", text()));
        let all = |name: &str| -> Vec<&[u8]> {
            fields.iter().filter(|(known, _)| known == name).map(|(_, value)| &**value).collect()
        };
        assert_eq!(all("host").len(), 1, "{}", text());
        assert_eq!(all("x-request-id").len(), 1, "{}", text());
        assert!(all("via").last().is_some_and(|via| via.ends_with(b"wall")), "{}", text());
        let names_are_plain = |(name, _): &(String, Vec<u8>)| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic())
        };
        assert!(fields.iter().all(names_are_plain), "{}", text());
        let behind = at + head.len() + 2;
        let content = &bytes[behind..];
        let end = match (&*all("content-length"), &*all("transfer-encoding")) {
            ([], []) => Some(0),
            ([length], []) => {
                let length: usize = std::str::from_utf8(length).unwrap().parse().unwrap();
                (content.len() >= length).then_some(length)
            }
            ([], [b"chunked"]) => {
                chunks(content, true).unwrap_or_else(|| panic!("{}", bytes.escape_ascii())).1
            }
            _ => panic!("two lengths: {}", text()),
        };
        // It may be answered before it is whole.
        let is_cut = end.is_none();
        at = behind + end.unwrap_or(content.len());
        let status = final_answer(seen, &mut answered, words[0]).map(|answer| answer.status);
        let upgrade = status == Some(101) && !all("upgrade").is_empty();
        found.push(Request {
            method: words[0].to_owned(),
            id: String::from_utf8_lossy(all("x-request-id")[0]).into_owned(),
            end: at,
            upgrade,
        });
        if upgrade || is_cut {
            break;
        }
    }
    found
}

/// The end of the first whole request behind `known`, for a script that waits for it. Whatever this
/// is not is not waited for.
pub fn next_request(bytes: &[u8], known: usize) -> Option<usize> {
    let at = known.min(bytes.len());
    let head = find(&bytes[at..], b"\r\n\r\n")? + 4 + at;
    let text = String::from_utf8_lossy(&bytes[at..head]).into_owned();
    if text.contains("transfer-encoding: chunked") {
        return chunks(&bytes[head..], true)?.1.map(|end| head + end);
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.and_then(|length| length.parse::<usize>().ok()).unwrap_or_default();
    (bytes.len() - head >= length).then_some(head + length)
}

/// The answer at the start, interim ones as well; `None` if there is none, or no head of one.
fn answer(bytes: &[u8], method: &str, end: Option<End>) -> Option<Answer> {
    let head = find(bytes, b"\r\n\r\n")? + 2;
    let lines = lines(&bytes[..head]);
    let start = lines.first()?;
    if !start.starts_with(b"HTTP/1.") {
        return None;
    }
    let status = std::str::from_utf8(start.get(9..12)?).ok()?.parse().ok()?;
    let fields = fields(&lines[1..])?;
    let mut answer = Answer { status, fields, content: Vec::new(), whole: true, end: head + 2 };
    let content = &bytes[head + 2..];
    if method == "HEAD" || status < 200 || matches!(status, 204 | 304) {
        return Some(answer);
    }
    let is_chunked = answer.field("transfer-encoding").is_some();
    let length = answer.field("content-length").map(|value| {
        let first = value.split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
        std::str::from_utf8(first).ok()?.parse::<usize>().ok()
    });
    let size = match (is_chunked, length) {
        (true, _) => {
            let (decoded, end) = chunks(content, false)?;
            answer.content = decoded;
            answer.whole = end.is_some();
            end.unwrap_or(content.len())
        }
        (false, Some(length)) => {
            let length = length?;
            answer.whole = content.len() >= length;
            let there = length.min(content.len());
            answer.content = content[..there].to_vec();
            there
        }
        (false, None) => {
            answer.whole = end == Some(End::Fin);
            answer.content = content.to_vec();
            content.len()
        }
    };
    answer.end += size;
    Some(answer)
}

/// The whole final answers of an upstream's connection, by the id of their request.
fn answers(seen: &Seen, requests: &[Request], into: &mut HashMap<String, (String, Vec<Answer>)>) {
    let mut at = 0;
    for request in requests {
        let (_, known) =
            into.entry(request.id.clone()).or_insert_with(|| (request.method.clone(), Vec::new()));
        let Some(answer) = final_answer(seen, &mut at, &request.method) else { return };
        known.push(answer);
    }
}

/// The next whole final answer that an upstream has written, behind interim ones.
fn final_answer(seen: &Seen, at: &mut usize, method: &str) -> Option<Answer> {
    let end = seen.finished.then_some(End::Fin);
    loop {
        let answer = answer(seen.sent.get(*at..)?, method, end).filter(|answer| answer.whole)?;
        *at += answer.end;
        if answer.status >= 200 || answer.status == 101 {
            return Some(answer);
        }
    }
}

/// Judges a story that was told under configuration `number`.
pub fn judge(number: usize, outcome: &Outcome) {
    let Outcome { client, upstreams } = outcome;
    let is_http2 = client.sent.starts_with(b"PRI");
    let (speaks_http2, told) = (number == 4, number == 5);
    if is_http2 || speaks_http2 || told {
        return;
    }
    let mut known = HashMap::new();
    for upstream in upstreams {
        let requests = requests(upstream);
        answers(upstream, &requests, &mut known);
        if let Some(last) = requests.last().filter(|last| last.upgrade) {
            from_client(&upstream.bytes[last.end..]);
        }
    }
    let mut at = 0;
    while at < client.bytes.len() {
        let rest = &client.bytes[at..];
        let told = || format!("{}\n{}", rest.escape_ascii(), outcome_text(outcome));
        // The method is known by the id, if the request has reached an upstream.
        let Some(head) = answer(rest, "HEAD", None) else {
            // A head that is cut off cannot be mistaken for an answer.
            assert!(find(rest, b"\r\n\r\n").is_none(), "no answer: {}", told());
            return;
        };
        if head.status < 200 && head.status != 101 {
            at += head.end;
            continue;
        }
        let id = head.field("x-request-id").map(|id| String::from_utf8_lossy(id).into_owned());
        let origin = id.and_then(|id| known.get(&id));
        let is_own = !head.field("via").is_some_and(|_| {
            let mut vias = head.fields.iter().filter(|(name, _)| name == "via");
            vias.next_back().is_some_and(|(_, via)| via.ends_with(b"wall"))
        });
        let behind = &rest[head.end..];
        let own_head = is_own && behind.starts_with(b"HTTP/1.");
        let method = match origin {
            _ if own_head => "HEAD",
            Some((method, _)) => method,
            None => "GET",
        };
        let answer = answer(rest, method, client.end).unwrap_or_else(|| panic!("{}", told()));
        if is_own {
            let gateway = number == 2;
            let expected = matches!(answer.status, 400..=499 | 500 | 503)
                || (gateway && (500..=504).contains(&answer.status))
                || answer.field("grpc-status").is_some_and(|status| status != b"0");
            assert!(expected, "not an answer of ours: {}", told());
            let leak = find(&rest[..answer.end], b"leak-me").is_none();
            assert!(leak, "an upstream's words: {}", told());
        } else if answer.whole {
            let (_, whole) = origin.unwrap_or_else(|| panic!("of nobody: {}", told()));
            let is_same = |one: &Answer| {
                one.status == answer.status
                    && (one.content == answer.content || is_told_event(number, &answer.content))
            };
            let is_cut_event = is_told_event(number, &answer.content);
            assert!(whole.iter().any(is_same) || is_cut_event, "cut off, but whole: {}", told());
        }
        at += answer.end;
        if answer.status == 101 {
            if !client.left {
                to_client(&client.bytes[at..], &told);
            }
            return;
        }
        if !answer.whole {
            // Nothing that looks like another answer may follow.
            assert!(answer.end == rest.len(), "behind what was cut off: {}", told());
        }
    }
}

/// Where it is configured, a stream of events that was cut off ends with an event that says so.
fn is_told_event(number: usize, content: &[u8]) -> bool {
    number == 3 && find(content, b"event: error").is_some()
}

/// A WebSocket's client has got whole frames, the last of them a Close.
fn to_client(bytes: &[u8], told: &dyn Fn() -> String) {
    let mut rest = bytes;
    let (mut closed, mut pinged) = (false, false);
    while !rest.is_empty() {
        assert!(!closed, "something behind a Close: {}", told());
        let (opcode, masked, size) =
            frame(rest).unwrap_or_else(|| panic!("inside a frame: {}", told()));
        assert!(!masked, "{}", told());
        pinged |= opcode == 9;
        if opcode == 8 {
            closed = true;
            assert_ne!(size, 3, "a Close of one byte: {}", told());
            if let Some(code) = rest.get(2..4).filter(|_| size >= 4) {
                let code = u16::from_be_bytes([code[0], code[1]]);
                let may = matches!(code, 1000..=1003 | 1007..=1013 | 3000..=4999);
                assert!(may, "{code}: {}", told());
                assert!(std::str::from_utf8(&rest[4..size]).is_ok(), "{}", told());
            }
        }
        rest = &rest[size..];
    }
    // Who does not answer a ping is gone: there is nobody to close.
    assert!(closed || pinged, "no Close: {}", told());
}

/// A WebSocket's upstream has got masked frames; the last one may be cut off, if it or the client has
/// given up in the middle of it.
fn from_client(bytes: &[u8]) {
    let mut rest = bytes;
    while let Some((_, masked, size)) = frame(rest) {
        assert!(masked, "{}", bytes.escape_ascii());
        rest = &rest[size..];
    }
}

/// Opcode, whether it is masked, and size of the whole frame at the start.
fn frame(bytes: &[u8]) -> Option<(u8, bool, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (length, head) = match second & 0x7F {
        126 => (usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).ok()?, 10),
        short => (usize::from(short), 2),
    };
    let masked = second & 0x80 != 0;
    let size = head + if masked { 4 } else { 0 } + length;
    (bytes.len() >= size).then_some((first & 0x0F, masked, size))
}

/// Nothing is in flight any more.
pub fn gauges(metrics: &str) {
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let is_gauge = ["_in_flight", "seawall_websocket_sessions", "upstream_connections"]
            .iter()
            .any(|name| line.contains(name));
        let is_clients = line.starts_with("seawall_client_connections ");
        if is_gauge || is_clients {
            assert!(line.ends_with(" 0"), "left over: {line}");
        }
    }
}

fn outcome_text(outcome: &Outcome) -> String {
    let one = |name: &str, seen: &Seen| {
        format!(
            "{name} ({:?}, left: {}, finished: {})\n  sent {}\n  read {}\n",
            seen.end,
            seen.left,
            seen.finished,
            seen.sent.escape_ascii(),
            seen.bytes.escape_ascii()
        )
    };
    let upstreams = outcome.upstreams.iter().map(|seen| one("upstream", seen));
    std::iter::once(one("client", &outcome.client)).chain(upstreams).collect()
}

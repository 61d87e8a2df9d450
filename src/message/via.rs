//! Via: by which ways a message has come (RFC 9110 §7.6.3).

use http::Version;

/// One recipient that passed the message on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'h> {
    /// As it was written, without white space around it.
    pub text: &'h [u8],
    /// Its name: a pseudonym, or a host with its port.
    pub by: &'h [u8],
}

/// The members of one Via line that have the form of the RFC, in order. What has another form says
/// nothing, and is left out.
pub fn members(line: &[u8]) -> impl Iterator<Item = Member<'_>> {
    Elements(Some(line)).filter_map(member)
}

/// Counts the members in these lines that have this name: how often the message has come past it.
pub fn passes<'h>(lines: impl Iterator<Item = &'h [u8]>, name: &str) -> usize {
    let own = |member: &Member<'_>| member.by.eq_ignore_ascii_case(name.as_bytes());
    lines.flat_map(members).filter(own).count()
}

/// What Via calls the protocol of a message that came over `version`, and a space.
#[must_use]
pub fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2.0 ",
        Version::HTTP_10 => "1.0 ",
        _ => "1.1 ",
    }
}

/// `received-protocol RWS received-by [ RWS comment ]`.
fn member(text: &[u8]) -> Option<Member<'_>> {
    let text = text.trim_ascii();
    let (protocol, rest) = word(text);
    let (by, comment) = word(rest);
    let mut parts = protocol.split(|byte| *byte == b'/');
    let is_protocol = parts.by_ref().take(2).all(is_token) && parts.next().is_none();
    let is_name = !by.is_empty() && by.iter().all(|byte| is_tchar(*byte) || b":[]".contains(byte));
    let is_comment = comment.is_empty() || (comment.first() == Some(&b'(') && closes(comment));
    (is_protocol && is_name && is_comment).then_some(Member { text, by })
}

/// The text before the first white space, and what follows that.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_ascii_start())
}

/// Returns `true` if the comment that the text begins with ends where the text does (§5.6.5).
fn closes(text: &[u8]) -> bool {
    let mut scan = Scan::default();
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        scan.step(*byte);
        if scan.depth == 0 {
            return bytes.as_slice().is_empty();
        }
    }
    false
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_tchar(*byte))
}

fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Where in a line with comments the next byte stands.
#[derive(Default)]
struct Scan {
    /// In how many comments.
    depth: usize,
    /// Behind a backslash in a comment.
    escaped: bool,
}

impl Scan {
    fn step(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.depth > 0 => self.escaped = true,
            b'(' => self.depth += 1,
            b')' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

/// The elements of a list, split at the commas outside of comments.
struct Elements<'h>(Option<&'h [u8]>);

impl<'h> Iterator for Elements<'h> {
    type Item = &'h [u8];

    fn next(&mut self) -> Option<&'h [u8]> {
        let rest = self.0.take()?;
        let mut scan = Scan::default();
        let comma = rest.iter().position(|byte| {
            let ends = *byte == b',' && scan.depth == 0;
            scan.step(*byte);
            ends
        });
        let Some(comma) = comma else { return Some(rest) };
        let (element, rest) = rest.split_at(comma);
        self.0 = rest.get(1..);
        Some(element)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(line: &str) -> Vec<&str> {
        members(line.as_bytes()).map(|member| std::str::from_utf8(member.by).unwrap()).collect()
    }

    #[test]
    fn members_are_told_apart_from_their_comments() {
        for (line, expected) in [
            ("1.1 a", &["a"][..]),
            ("1.1 a, 2.0\tb:8080 (x),HTTP/1.0  [::1]:80", &["a", "b:8080", "[::1]:80"]),
            ("1.1 a (1.1 wall, 1.1 wall), 1.1 b", &["a", "b"]),
            ("1.1 a (\\), 1.1 wall, \\(), 1.1 b", &["a", "b"]),
            ("1.1 a (x (y, 1.1 wall) z)", &["a"]),
            ("1.1 a (x) y, 1.1 b", &["b"]),
            ("1.1 a (never closed, 1.1 wall", &[]),
            ("wall", &[]),
            ("1.1", &[]),
            ("1.1 wall(x)", &[]),
            ("1.1 \"wall\"", &[]),
            ("a/b/c wall", &[]),
            ("/1.1 wall", &[]),
            ("1.1 wall other", &[]),
            ("", &[]),
            (", ,,\t", &[]),
        ] {
            assert_eq!(names(line), expected, "{line}");
        }
        let written: Vec<_> = members(b" 1.1 a  (x) ,2.0 b").map(|member| member.text).collect();
        assert_eq!(written, [&b"1.1 a  (x)"[..], b"2.0 b"]);
    }

    #[test]
    fn a_pass_is_a_member_of_exactly_our_name() {
        let count = |lines: &[&str]| passes(lines.iter().map(|line| line.as_bytes()), "wall");
        assert_eq!(count(&["1.1 wall, 1.0 other,  2.0\tWALL (x)", "HTTP/1.1 wall"]), 3);
        for other in ["1.1 wall-2", "1.1 a-wall", "1.1 wall:80", "1.1 x (wall)", "wall 1.1", "1.1"]
        {
            assert_eq!(count(&[other]), 0, "{other}");
        }
        let many = vec!["1.1 wall"; 1_000].join(",");
        assert_eq!(count(&[&many]), 1_000);
    }
}

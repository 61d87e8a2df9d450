//! The readings of a path that apps, and the servers in front of them, may have beside its own.
//!
//! RFC 3986 §6.2.2 makes `/%61dmin` and `/a/../admin` names of `/admin`, many servers take `\` for
//! `/` and `//` for one `/`, and servlets cut off `;…`. A path that takes one route as it came and
//! another one as an app reads it would pass by the rules of that route.

/// The paths that this one may be read as; none if there is only one reading. Escapes are resolved
/// once: what is an escape again behind that is read so by nobody who is right.
pub(super) fn others(path: &str) -> Vec<String> {
    if !may_be_read_otherwise(path.as_bytes()) {
        return Vec::new();
    }
    let unescaped = unescaped(path.as_bytes());
    let plain = without_parameters(&unescaped);
    // Who joins slashes before the dots are resolved goes up by one more name.
    let resolved = [resolve(&joined(&plain)), joined(&resolve(&plain))];
    let all = [unescaped].into_iter().chain(resolved);
    all.map(|reading| String::from_utf8_lossy(&reading).into_owned()).collect()
}

fn may_be_read_otherwise(path: &[u8]) -> bool {
    let mut last = 0;
    path.iter().any(|byte| {
        let before = std::mem::replace(&mut last, *byte);
        matches!(byte, b'%' | b'\\' | b';') || (before == b'/' && matches!(byte, b'/' | b'.'))
    })
}

fn unescaped(path: &[u8]) -> Vec<u8> {
    let digit = |at: usize| path.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (mut plain, mut at) = (Vec::with_capacity(path.len()), 0);
    while let Some(byte) = path.get(at) {
        at += 1;
        let byte = match (byte, digit(at), digit(at + 1)) {
            (b'%', Some(high), Some(low)) => {
                at += 2;
                u8::try_from(high * 16 + low).unwrap_or_default()
            }
            _ => *byte,
        };
        plain.push(if byte == b'\\' { b'/' } else { byte });
    }
    plain
}

/// The path without `;…` at the ends of its segments.
fn without_parameters(path: &[u8]) -> Vec<u8> {
    let segments = path.split(|byte| *byte == b'/');
    let names = segments.map(|segment| segment.split(|byte| *byte == b';').next());
    names.map(Option::unwrap_or_default).collect::<Vec<_>>().join(&b'/')
}

/// The path with one slash where it has many.
fn joined(path: &[u8]) -> Vec<u8> {
    let mut joined = path.to_vec();
    joined.dedup_by(|next, before| *next == b'/' && *before == b'/');
    joined
}

/// The path with its dot segments resolved (RFC 3986 §5.2.4).
fn resolve(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    let mut is_folder = false;
    // In front of the first slash there is nothing.
    for segment in path.split(|byte| *byte == b'/').skip(1) {
        is_folder = matches!(segment, b"." | b"..");
        match segment {
            b"." => {}
            b".." => _ = names.pop(),
            name => names.push(name),
        }
    }
    if is_folder {
        names.push(b"");
    }
    [&b"/"[..], &names.join(&b'/')].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_have_one_reading() {
        for path in ["/", "/a", "/a/b.html", "/a.b/c-d_e~f", "/a/b/", "*", "/a/"] {
            assert!(others(path).is_empty(), "{path}");
        }
    }

    #[test]
    fn escapes_slashes_parameters_and_dots_are_resolved() {
        for (path, reading) in [
            ("/%61dmin", "/admin"),
            ("/%41%2Fb", "/A/b"),
            ("/a/../admin", "/admin"),
            ("/a/./b/.", "/a/b/"),
            ("/a/..", "/"),
            ("/../../admin", "/admin"),
            ("//admin", "/admin"),
            ("/a/%2e%2E/admin", "/admin"),
            ("/a/..;x=y/admin", "/admin"),
            ("/admin;jsessionid=1/x", "/admin/x"),
            ("/a\\..\\admin", "/admin"),
            ("/a%5c..%5cadmin", "/admin"),
            ("/100%", "/100%"),
            ("/%zz/b", "/%zz/b"),
        ] {
            assert!(others(path).contains(&reading.to_owned()), "{path}: {:?}", others(path));
        }
        // Both ways to go up from a name with an empty one behind it.
        let both = others("/a//../b");
        assert!(both.contains(&"/b".to_owned()) && both.contains(&"/a/b".to_owned()), "{both:?}");
    }
}

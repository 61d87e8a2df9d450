//! The `hosts` file (hosts(5)): an address and its names on each line.

use std::net::IpAddr;

/// Returns the addresses of the name, in the order of the file; `None` if it is not there.
pub(super) fn find(text: &str, name: &str) -> Option<Vec<IpAddr>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut found = Vec::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.split('#').next().unwrap_or(line);
        let mut words = line.split_ascii_whitespace();
        let Some(address) = words.next() else { continue };
        let is_it = |word: &str| word.strip_suffix('.').unwrap_or(word).eq_ignore_ascii_case(name);
        if words.any(is_it)
            && let Ok(address) = address.parse()
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_all_addresses_of_a_name_and_nothing_else() {
        let text = "\u{feff}127.0.0.1\tlocalhost # app.test\n\
            10.0.0.1 app.test app\n\
            # 10.0.0.9 app.test\n\
            fd00::1   Other.test APP.test.\n\
            10.0.0.1 app\n\
            nonsense app.test\n\
            10.0.0.2\n\
            fe80::1%eth0 zone.test\n\
            10.0.0.3 app.testing";
        let found = |name| {
            let found = find(text, name).unwrap_or_default();
            found.iter().map(IpAddr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(found("app.test"), ["10.0.0.1", "fd00::1"]);
        assert_eq!(found("App.Test."), ["10.0.0.1", "fd00::1"]);
        assert_eq!(found("app"), ["10.0.0.1"]);
        assert_eq!(found("other.test"), ["fd00::1"]);
        assert_eq!(found("localhost"), ["127.0.0.1"]);
        for missing in ["app.tes", "zone.test", "10.0.0.1", "", "#"] {
            assert_eq!(find(text, missing), None, "{missing}");
        }
    }
}

//! What a new configuration changes. Pure.
//!
//! Settings are compared as values, with everything that was read from files: what is printed of
//! them is not enough, since secrets print alike.

use std::sync::Arc;

use crate::config::model::{Admin, Config, Log, Route};

/// What is different in one part of the configuration, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Only in the new one.
    pub added: Vec<String>,
    /// Only in the old one.
    pub removed: Vec<String>,
    /// In both, and different.
    pub changed: Vec<String>,
}

impl Names {
    /// Compares by name; names are unique.
    fn of<'c, T: 'c>(
        old: &[T],
        new: &'c [T],
        name: impl Fn(&T) -> String,
        same: impl Fn(&T, &T) -> bool,
    ) -> Self {
        let find = |among: &'c [T], wanted: &str| among.iter().find(|one| name(one) == wanted);
        let mut names = Names::default();
        for before in old {
            let name = name(before);
            match find(new, &name) {
                None => names.removed.push(name),
                Some(after) if !same(before, after) => names.changed.push(name),
                Some(_) => {}
            }
        }
        let known: Vec<_> = old.iter().map(&name).collect();
        names.added.extend(new.iter().map(&name).filter(|name| !known.contains(name)));
        names
    }

    fn is_empty(&self) -> bool {
        *self == Names::default()
    }
}

/// What a new configuration changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// By address.
    pub listeners: Names,
    /// By name.
    pub upstreams: Names,
    /// By name; not those whose upstream alone has changed.
    pub routes: Names,
    /// Other parts that are different.
    pub sections: Vec<&'static str>,
    /// What is different and keeps its old value until the process is started anew.
    pub needs_restart: Vec<&'static str>,
}

impl Diff {
    /// From the one to the other.
    #[must_use]
    pub fn between(old: &Config, new: &Config) -> Self {
        let differs = |name, same: bool| (!same).then_some(name);
        let admin = effective_admin(&old.admin, &new.admin);
        let sections = [
            differs("websocket", old.websocket == new.websocket),
            differs("clients", old.clients == new.clients),
            differs("forwarded", old.forwarded == new.forwarded),
            differs("log.access", old.log.access == new.log.access),
            differs("tracing", old.tracing == new.tracing),
            differs("shutdown", old.shutdown == new.shutdown),
            differs("reload", old.reload == new.reload),
            differs("admin.token_file", old.admin.token == admin.token),
            differs("admin.hosts", old.admin.hosts == admin.hosts),
        ];
        let needs_restart = [
            differs("workers", old.workers == new.workers),
            differs("admin.address", old.admin.address == new.admin.address),
            differs("admin.token_file", admin.token == new.admin.token),
            differs("journal", old.journal == new.journal),
            differs("log.format", old.log.format == new.log.format),
            differs("log.filter", old.log.filter == new.log.filter),
        ];
        Diff {
            listeners: Names::of(
                &old.listeners,
                &new.listeners,
                |listener| listener.address.to_string(),
                |old, new| old == new,
            ),
            upstreams: Names::of(
                &old.upstreams,
                &new.upstreams,
                |upstream| upstream.name.to_string(),
                |old, new| old == new,
            ),
            routes: Names::of(
                &old.routes,
                &new.routes,
                |route| route.name.to_string(),
                |old, new| same_route(old, new),
            ),
            sections: sections.into_iter().flatten().collect(),
            needs_restart: needs_restart.into_iter().flatten().collect(),
        }
    }

    /// Whether nothing that can be changed without a restart is different.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
            && self.upstreams.is_empty()
            && self.routes.is_empty()
            && self.sections.is_empty()
    }

    /// Writes what changed to the log.
    pub fn emit(&self) {
        if self.is_empty() {
            tracing::info!("the configuration is read again; nothing has changed");
        } else {
            tracing::info!(
                listeners_added = list(&self.listeners.added),
                listeners_removed = list(&self.listeners.removed),
                listeners_changed = list(&self.listeners.changed),
                upstreams_added = list(&self.upstreams.added),
                upstreams_removed = list(&self.upstreams.removed),
                upstreams_changed = list(&self.upstreams.changed),
                routes_added = list(&self.routes.added),
                routes_removed = list(&self.routes.removed),
                routes_changed = list(&self.routes.changed),
                sections_changed = list(&self.sections),
                "the configuration is loaded"
            );
        }
        for setting in &self.needs_restart {
            tracing::warn!(setting, "this setting changes with a restart only; it is as it was");
        }
    }
}

/// `None` keeps what is empty out of the log line.
fn list<T: AsRef<str>>(names: &[T]) -> Option<String> {
    let names: Vec<_> = names.iter().map(AsRef::as_ref).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// What runs after a reload: the new configuration, but for what needs a restart.
#[must_use]
pub fn effective(old: &Config, new: Config) -> Config {
    Config {
        workers: old.workers,
        admin: effective_admin(&old.admin, &new.admin),
        journal: old.journal.clone(),
        log: Log { access: new.log.access, ..old.log.clone() },
        ..new
    }
}

/// Returns what operators find after a reload: the address stays. A token that the address needs is
/// kept as well if the new configuration, which was checked for another address, has none.
fn effective_admin(old: &Admin, new: &Admin) -> Admin {
    let address = old.address;
    let needs_token = address.is_some_and(|address| !address.ip().to_canonical().is_loopback());
    let kept = old.token.clone().filter(|_| needs_token);
    Admin { address, token: new.token.clone().or(kept), ..new.clone() }
}

fn same_route(old: &Route, new: &Route) -> bool {
    let beside_upstream = Route { upstream: Arc::clone(&old.upstream), ..new.clone() };
    old.upstream.name == new.upstream.name && *old == beside_upstream
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use std::path::Path;

    fn config(text: &str) -> Config {
        let whole = format!(
            "upstreams: {{ app: {{ endpoints: ['http://a'] }}, b: {{ endpoints: ['http://b'] }} }}\n{text}"
        );
        parse("test.yaml", &whole, Path::new(".")).unwrap()
    }

    const LISTENERS: &str = "listeners: [{ address: ':1' }]\n";

    #[test]
    fn a_file_that_is_read_twice_has_not_changed() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
        for name in ["everything.yaml", "api.yaml", "dependencies.yaml"] {
            let read = || crate::config::load(&examples.join(name)).unwrap();
            assert_eq!(Diff::between(&read(), &read()), Diff::default(), "{name}");
        }
    }

    #[test]
    fn each_part_is_told_by_name() {
        let routes = "routes: [{ upstream: app, path: /a }, { upstream: app, path: /b }]\n";
        let old = config(&format!("{LISTENERS}{routes}"));
        let new = config(
            "listeners: [{ address: ':2' }]\nworkers: 99\nadmin: { address: off }\n\
            log: { format: human, filter: debug, access: true }\njournal: { entries: 7 }\n\
            clients: { head: 16KiB }\nroutes: [{ upstream: b, path: /a }, { upstream: b, path: /c }]\n",
        );
        let diff = Diff::between(&old, &new);
        assert_eq!(diff.listeners.added, ["0.0.0.0:2"]);
        assert_eq!(diff.listeners.removed, ["0.0.0.0:1"]);
        assert_eq!(diff.upstreams, Names::default());
        assert_eq!(diff.routes.added.len(), 1);
        assert_eq!(diff.routes.removed.len(), 1);
        assert_eq!(diff.routes.changed.len(), 1);
        assert_eq!(diff.sections, ["clients", "log.access"]);
        let restart = ["workers", "admin.address", "journal", "log.format", "log.filter"];
        assert_eq!(diff.needs_restart, restart);
        let effective = effective(&old, new);
        assert_eq!(effective.workers, old.workers);
        assert_eq!(effective.admin.address, old.admin.address);
        assert_eq!(effective.journal.entries, old.journal.entries);
        assert_eq!((&*effective.log.filter, effective.log.access), ("info", true));
        assert_eq!(effective.listeners[0].address.port(), 2);
    }

    /// A folder with these files, for as long as `read` needs them.
    fn with_files<T>(name: &str, files: &[(&str, &str)], read: impl FnOnce(&Path) -> T) -> T {
        let folder =
            std::env::temp_dir().join(format!("seawall-diff-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for (file, text) in files {
            std::fs::write(folder.join(file), text).unwrap();
        }
        let made = read(&folder);
        std::fs::remove_dir_all(&folder).unwrap();
        made
    }

    const REST: &str = "upstreams: { app: { endpoints: ['http://a'] } }\n\
        listeners: [{ address: ':1' }]\n";

    fn with_secret(secret: &str, text: &str) -> Config {
        with_files("secret", &[("secret", secret)], |folder| {
            let yaml = format!("{REST}{text}");
            parse("test.yaml", &yaml, folder).unwrap()
        })
    }

    #[test]
    fn changed_secrets_are_used_and_told() {
        let one = "0123456789abcdef0123456789abcdef";
        let two = "fedcba9876543210fedcba9876543210";
        let routes = "routes: [{ upstream: app, rehearse: true }]\n";
        let plain = "routes: [{ upstream: app }]\n";
        let token = format!("{plain}admin: {{ token_file: secret }}\n");
        let (old, new) = (with_secret(one, &token), with_secret(two, &token));
        assert_eq!(format!("{:?}", old.admin), format!("{:?}", new.admin), "secrets print alike");
        let diff = Diff::between(&old, &new);
        assert_eq!(diff.sections, ["admin.token_file"]);
        assert!(!diff.is_empty() && diff.needs_restart.is_empty());
        assert_eq!(effective(&old, new.clone()).admin.token, new.admin.token);

        let rehearsal = format!("{routes}rehearsal: {{ secret_file: secret }}\n");
        let (old, new) = (with_secret(one, &rehearsal), with_secret(two, &rehearsal));
        assert_eq!(Diff::between(&old, &new).routes.changed.len(), 1);

        let tracing =
            format!("{plain}tracing: {{ endpoint: 'http://c:4318', fields_file: secret }}\n");
        let (old, new) = (with_secret("key: one", &tracing), with_secret("key: two", &tracing));
        assert_eq!(Diff::between(&old, &new).sections, ["tracing"]);
    }

    #[test]
    fn another_key_of_the_same_certificate_is_a_change() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/everything.yaml");
        let old = crate::config::load(&examples).unwrap();
        let mut new = old.clone();
        let tls = new.listeners.iter_mut().find_map(|listener| listener.tls.as_mut()).unwrap();
        let known = &tls.certificates[0].identity;
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(vec![1, 2, 3]).into();
        let identity = crate::config::model::Identity { chain: known.chain.clone(), key };
        assert_eq!(format!("{known:?}"), format!("{identity:?}"), "keys print alike");
        tls.certificates[0].identity = Arc::new(identity);
        assert_eq!(Diff::between(&old, &new).listeners.changed.len(), 1);
    }

    #[test]
    fn an_address_that_stays_open_to_others_keeps_its_token_and_says_so() {
        let routes = "routes: [{ upstream: app }]\n";
        let open = format!("{routes}admin: {{ address: ':9900', token_file: secret }}\n");
        let old = with_secret("0123456789abcdef", &open);
        let new = with_secret("", &format!("{routes}admin: {{ address: '127.0.0.1:9900' }}\n"));
        let diff = Diff::between(&old, &new);
        assert_eq!(diff.needs_restart, ["admin.address", "admin.token_file"]);
        assert_eq!(effective(&old, new).admin, old.admin);
    }

    #[test]
    fn a_template_whose_text_has_changed_changes_its_route() {
        let folder = std::env::temp_dir().join(format!("seawall-diff-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let with = |text: &str| {
            std::fs::write(folder.join("page.txt"), text).unwrap();
            let yaml = "upstreams: { app: { endpoints: ['http://a'] } }\n\
                listeners: [{ address: ':1' }]\nroutes: [{ upstream: app }]\n\
                failures: { templates: [{ type: text/plain, file: page.txt }] }\n";
            parse("test.yaml", yaml, &folder).unwrap()
        };
        let (one, again, two) = (with("one"), with("one"), with("two"));
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(Diff::between(&one, &again), Diff::default());
        assert_eq!(Diff::between(&one, &two).routes.changed.len(), 1);
    }
}

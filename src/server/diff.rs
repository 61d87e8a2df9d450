//! What a new configuration changes. Pure.
//!
//! Two settings are equal if they print the same: what is printed is everything that was configured,
//! files included. Of a private key nothing is printed, but the certificate that belongs to it is.

use std::fmt::Debug;
use std::sync::Arc;

use crate::config::model::{Config, Log, Route};

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
        let sections = [
            differs("websocket", same(&old.websocket, &new.websocket)),
            differs("clients", same(&old.clients, &new.clients)),
            differs("forwarded", same(&old.forwarded, &new.forwarded)),
            differs("log.access", old.log.access == new.log.access),
            differs("tracing", old.tracing == new.tracing),
            differs("shutdown", same(&old.shutdown, &new.shutdown)),
            differs("reload", same(&old.reload, &new.reload)),
        ];
        let needs_restart = [
            differs("workers", old.workers == new.workers),
            differs("admin.address", same(&old.admin, &new.admin)),
            differs("journal", same(&old.journal, &new.journal)),
            differs("log.format", old.log.format == new.log.format),
            differs("log.filter", old.log.filter == new.log.filter),
        ];
        Diff {
            listeners: Names::of(
                &old.listeners,
                &new.listeners,
                |listener| listener.address.to_string(),
                same,
            ),
            upstreams: Names::of(
                &old.upstreams,
                &new.upstreams,
                |upstream| upstream.name.to_string(),
                same,
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
        admin: old.admin.clone(),
        journal: old.journal.clone(),
        log: Log { access: new.log.access, ..old.log.clone() },
        ..new
    }
}

/// Whether two settings are the same.
pub fn same<T: Debug>(one: &T, other: &T) -> bool {
    format!("{one:?}") == format!("{other:?}")
}

fn same_route(old: &Route, new: &Route) -> bool {
    let beside_upstream = Route { upstream: Arc::clone(&old.upstream), ..new.clone() };
    old.upstream.name == new.upstream.name && same(old, &beside_upstream)
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

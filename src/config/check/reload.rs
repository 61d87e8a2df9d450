//! When the file is read again.

use super::super::model::Reload;
use super::super::scope::Scope;

pub(super) fn reload(root: &Scope<'_>) -> Reload {
    let section = root.section("reload", "When the file is read again; SIGHUP always does it.");
    let d = Reload::default();
    let watch = section.bool("watch", d.watch, "A change of the file is a reload.");
    let meaning = "How often the file is looked at; a change counts when it has lasted as long.";
    let interval = section.wait("interval", d.interval, meaning);
    section.finish();
    Reload { watch, interval }
}

//! Owns: `[pools.copies]`.
//! Invariant: the defaults are those of the module `copies`.
//! Must not know: other sections of the pool.

use std::time::Duration;

use super::reader::Table;
use super::values::{KIB, MIB, MILLISECOND, SECOND, duration, flag, size, word};
use crate::copies::{Hold, Settings, StoreAddress};

/// The longest `handover`: a client hardly waits longer for a page.
const LONGEST_HANDOVER: Duration = SECOND.saturating_mul(60);

/// Reads the session copies of a pool; `None` without the section.
pub(super) fn copies(table: &Table<'_>) -> Option<Settings> {
    let default = Settings::default();
    let holds = word(Hold::ALL.map(|hold| (hold.as_str(), hold)));
    let settings = Settings {
        hold: table.get("hold", holds).unwrap_or(default.hold),
        memory: table.get("memory", size(MIB..=1 << 40)).unwrap_or(default.memory),
        max: table.get("max", size(KIB..=128 * KIB)).unwrap_or(default.max),
        handover: table.get("handover", duration(MILLISECOND * 10..=LONGEST_HANDOVER)).unwrap_or(default.handover),
        required: table.get("required", flag).unwrap_or(default.required),
        store: table.get("store", super::persistence::store).map(StoreAddress),
    };
    if !table.is_present() {
        return None;
    }
    let notes = table.notes();
    if table.has("store") && settings.hold != Hold::Balancer {
        let problem =
            format!("`store` has no effect: with hold = \"{}\", servers keep the copies", settings.hold.as_str());
        notes.warn(&table.at("store"), problem, "remove it, or write hold = \"balancer\"");
    }
    Some(settings)
}

//! Owns: what a reload reports: the keys that change, with the values before and after, and why a file is refused.
//! Invariant: what it says of a key is what the reload does: both follow the same merge.
//! Must not know: how a change is carried out.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Mutex;

use crate::admin::{ReloadChange, ReloadError};
use crate::config::{Finding, KeyChange, Origin, Plan, Report, Severity, key_path};
use crate::pool::{Backend, Pool, backend};

/// Keeps a reload and the end of the process apart: the one that holds it changes what all threads do. True once the
/// process stops.
pub(super) type Commit = Arc<Mutex<bool>>;

/// The most changes that one answer lists.
pub(super) const MAX_LISTED: usize = 1000;

/// The most changes that a log line or an event lists.
pub(super) const MAX_LOGGED: usize = 20;

/// The content of a file that the configuration names changed, but not its name.
const CONTENT: &str = "the content of the file that it names changed";

/// Lists what changes from the plan in use, whose pools these are, to the `next` one.
pub(super) fn changes(keys: Vec<KeyChange>, pools: &[Arc<Pool>], next: &Plan) -> Vec<ReloadChange> {
    let settable = settable(pools, next);
    keys.into_iter().map(|change| of_key(change, &settable)).collect()
}

/// The value that is in use, the one from now on, and why, of a key that the operator can set at runtime.
type SettableKey = (Value, Value, &'static str);

fn of_key(change: KeyChange, settable: &HashMap<String, SettableKey>) -> ReloadChange {
    let KeyChange { path, was, file, because } = change;
    match settable.get(&path) {
        Some((runtime, now, because)) => {
            ReloadChange { path, was, file, runtime: runtime.clone(), now: now.clone(), because: (*because).into() }
        }
        None => ReloadChange { path, runtime: was.clone(), was, now: file.clone(), file, because: because.into() },
    }
}

/// Merges all keys that the operator can set at runtime, by their paths.
fn settable(pools: &[Arc<Pool>], next: &Plan) -> HashMap<String, SettableKey> {
    let mut all = HashMap::new();
    for plan in &next.pools {
        let Some(pool) = pools.iter().find(|pool| **pool.name() == *plan.pool.name) else { continue };
        for settings in &plan.pool.backends {
            if let Some(index) = pool.position(&settings.name) {
                all.extend(settable_keys(pool.name(), pool.backend(index), settings));
            }
        }
    }
    all
}

fn settable_keys(pool: &str, backend: &Backend, next: &backend::Settings) -> [(String, SettableKey); 2] {
    let path = |key: &str| key_path(&["pools", pool, "backends", backend.name(), key]);
    let (weight, state) = (backend.merge_weight(next.weight), backend.merge_state(next.state));
    let live = backend.live();
    [
        (path("weight"), (live.weight().into(), weight.value().into(), weight.because())),
        (path("state"), (live.wanted().as_str().into(), state.value().as_str().into(), state.because())),
    ]
}

/// Makes the change of a key whose value is the name of a file with new content.
pub(super) fn of_content(path: String) -> ReloadChange {
    let value = Value::Null;
    ReloadChange {
        path,
        was: value.clone(),
        file: value.clone(),
        runtime: value.clone(),
        now: value,
        because: CONTENT.into(),
    }
}

/// Makes the answer's errors from those of a report.
pub(super) fn errors(report: &Report) -> Vec<ReloadError> {
    let errors = report.findings().iter().filter(|finding| finding.severity == Severity::Error);
    errors.map(of_finding).collect()
}

fn of_finding(finding: &Finding) -> ReloadError {
    ReloadError {
        file: finding.file.display().to_string(),
        line: finding.position.as_ref().map(|position| position.line),
        column: finding.position.as_ref().map(|position| position.column),
        problem: finding.problem.clone(),
        remedy: finding.remedy.clone(),
    }
}

/// Makes an error about a key of a valid file, which this process can't apply.
pub(super) fn error(origin: &Origin, line: Option<usize>, problem: String, remedy: &str) -> ReloadError {
    let file = origin.path.display().to_string();
    ReloadError { file, line, column: None, problem, remedy: remedy.into() }
}

/// Returns the paths of the changes in one line, for the log.
pub(super) fn paths(changes: &[ReloadChange]) -> String {
    let mut line: Vec<&str> = changes.iter().take(MAX_LOGGED).map(|change| change.path.as_str()).collect();
    let more = format!("and {} more", changes.len().saturating_sub(MAX_LOGGED));
    if changes.len() > MAX_LOGGED {
        line.push(&more);
    }
    line.join(" ")
}

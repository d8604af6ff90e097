//! Owns: the request for a reload, the JSON shape of its answer, and the figures about reloads.
//! Invariant: requests are answered one after the other, each once; a published name never changes.
//! Must not know: how a configuration is read, or what a reload changes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::actor::Actor;

/// Requests that wait while one is answered.
const QUEUE: usize = 16;

/// A request to read the configuration file again.
#[derive(Debug)]
pub struct ReloadRequest {
    /// Who asks for it.
    pub actor: Actor,
    /// Only say what would change.
    pub is_dry_run: bool,
    /// Where the answer goes. The client that asked may have left.
    pub reply: oneshot::Sender<ReloadReport>,
}

/// Requests reloads.
#[derive(Debug, Clone)]
pub struct Reloader(mpsc::Sender<ReloadRequest>);

impl Reloader {
    /// Makes a reloader, and what receives its requests.
    pub fn new() -> (Reloader, mpsc::Receiver<ReloadRequest>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Reloader(sender), receiver)
    }

    /// Requests a reload, and returns once it is done: every data-path thread uses the new configuration, or nothing has
    /// changed.
    pub async fn reload(&self, actor: Actor, is_dry_run: bool) -> ReloadReport {
        let (reply, answer) = oneshot::channel();
        if self.0.send(ReloadRequest { actor, is_dry_run, reply }).await.is_ok()
            && let Ok(report) = answer.await
        {
            return report;
        }
        ReloadReport::refused(0, vec![ReloadError::stopping()])
    }
}

/// The outcome of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReloadResult {
    /// Every thread uses the new configuration. In a dry run: it would be applied.
    Applied,
    /// The file says what is in use already.
    Unchanged,
    /// Nothing has changed; `errors` says why.
    Refused,
}

impl ReloadResult {
    /// The word for it in the answer, metrics and log.
    pub fn as_str(self) -> &'static str {
        match self {
            ReloadResult::Applied => "applied",
            ReloadResult::Unchanged => "unchanged",
            ReloadResult::Refused => "refused",
        }
    }
}

/// The answer to `POST /api/v1/reload`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// The outcome.
    pub result: ReloadResult,
    /// The number of the configuration in use: 1 at start, one more with each that is applied.
    pub generation: u64,
    /// The keys that changed, or would.
    pub changes: Vec<ReloadChange>,
    /// How many more changed than are listed; omitted if all are listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: usize,
    /// Why the file is refused.
    pub errors: Vec<ReloadError>,
}

/// One key that a reload changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReloadChange {
    /// The key with its sections: `pools.app.backends.b.weight`.
    pub path: String,
    /// Its value in the new file; null if that does not have it.
    pub file: Value,
    /// Its value in the file before.
    pub was: Value,
    /// The value that was in use.
    pub runtime: Value,
    /// The value in use from now on.
    pub now: Value,
    /// Why.
    pub because: String,
}

/// One reason why a file is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadError {
    /// The file.
    pub file: String,
    /// The line, from 1; null if it is about no line.
    pub line: Option<usize>,
    /// The column, from 1.
    pub column: Option<usize>,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl ReloadError {
    /// The process stops.
    pub fn stopping() -> ReloadError {
        ReloadError {
            file: String::new(),
            line: None,
            column: None,
            problem: "the process is stopping".into(),
            remedy: "its successor reads the file when it starts".into(),
        }
    }
}

/// Formats it in one line, as `linchpin check` does.
impl std::fmt::Display for ReloadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}:", self.file)?;
        }
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if let Some(column) = self.column {
            write!(f, "{column}:")?;
        }
        let space = if self.file.is_empty() { "" } else { " " };
        write!(f, "{space}error: {}; {}", self.problem, self.remedy)
    }
}

impl ReloadReport {
    /// Makes the answer to a file that is refused.
    pub fn refused(generation: u64, errors: Vec<ReloadError>) -> ReloadReport {
        ReloadReport { result: ReloadResult::Refused, generation, changes: Vec::new(), left_out: 0, errors }
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The figures about reloads. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct ReloadFigures(Arc<Figures>);

#[derive(Debug, Default)]
struct Figures {
    has_failed: AtomicBool,
    last_success: AtomicU64,
    results: [AtomicU64; 3],
    last: Mutex<Option<LastReload>>,
}

/// `GET /api/v1/reload`.
#[derive(Debug, Serialize)]
pub(super) struct ReloadView {
    /// The number of the configuration in use.
    generation: u64,
    /// The last reload; `null` before the first.
    last: Option<LastReload>,
}

/// A reload that was asked for, or changed something.
#[derive(Debug, Clone, Serialize)]
pub(super) struct LastReload {
    /// When it ended, in seconds since the Unix epoch.
    time: u64,
    /// What asked for it: `api`, `SIGHUP` or `watch`.
    by: &'static str,
    #[serde(flatten)]
    report: ReloadReport,
}

impl ReloadFigures {
    /// All outcomes, in the order of the metrics.
    pub const RESULTS: [ReloadResult; 3] = [ReloadResult::Applied, ReloadResult::Unchanged, ReloadResult::Refused];

    /// Makes the figures of a process that has loaded its configuration at `now`, since the Unix epoch.
    pub fn started(now: Duration) -> ReloadFigures {
        let figures = ReloadFigures::default();
        figures.0.last_success.store(now.as_secs(), Ordering::Relaxed);
        figures
    }

    /// Counts a reload that ended at `now`.
    pub fn count(&self, result: ReloadResult, now: Duration) {
        let is_refused = result == ReloadResult::Refused;
        self.0.has_failed.store(is_refused, Ordering::Relaxed);
        if !is_refused {
            self.0.last_success.store(now.as_secs(), Ordering::Relaxed);
        }
        if let Some(counter) = self.0.results.get(result as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Keeps the answer to a reload that ended at `now`. If a watched file says what is in use already, nobody has asked
    /// for anything, and the reload before stays the last one.
    pub fn keep(&self, report: &ReloadReport, actor: &Actor, now: Duration) {
        if report.result != ReloadResult::Unchanged || *actor != Actor::Watch {
            let last = LastReload { time: now.as_secs(), by: actor.by(), report: report.clone() };
            *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        }
    }

    pub(super) fn view(&self) -> ReloadView {
        let last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ReloadView { generation: last.as_ref().map_or(1, |last| last.report.generation), last }
    }

    pub(super) fn is_successful(&self) -> bool {
        !self.0.has_failed.load(Ordering::Relaxed)
    }

    pub(super) fn last_success(&self) -> u64 {
        self.0.last_success.load(Ordering::Relaxed)
    }

    pub(super) fn total(&self, result: ReloadResult) -> u64 {
        self.0.results.get(result as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

//! Owns: the status of a source, for the status API and the metrics.
//! Invariant: one task writes it and any thread reads it; neither waits longer than it takes to copy a text.
//! Must not know: who reads it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::settings::Source;

/// The status of a source of backends.
#[derive(Debug)]
pub struct SourceStatus {
    source: String,
    found: AtomicU64,
    answers: AtomicU64,
    failures: AtomicU64,
    answered: AtomicU64,
    is_good: AtomicBool,
    error: Mutex<Option<String>>,
}

impl SourceStatus {
    /// Makes the status of a source that was not looked at yet.
    pub fn new(source: &Source) -> SourceStatus {
        SourceStatus {
            source: source.to_string(),
            found: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            is_good: AtomicBool::new(false),
            error: Mutex::new(None),
        }
    }

    /// Records an answer at `now`, in seconds since the Unix epoch.
    pub fn answered(&self, now: u64) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.answered.store(now, Ordering::Relaxed);
        self.is_good.store(true, Ordering::Relaxed);
        *self.lock() = None;
    }

    /// Records a failure, and its reason.
    pub fn failed(&self, why: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.doubted(why);
    }

    /// Records that an answer is not believed, and why.
    pub fn doubted(&self, why: &str) {
        self.is_good.store(false, Ordering::Relaxed);
        *self.lock() = Some(why.to_owned());
    }

    /// Records the number of backends of a believed answer.
    pub fn has_found(&self, count: usize) {
        self.found.store(count as u64, Ordering::Relaxed);
    }

    /// Returns the DNS name or the path of the file.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns the number of backends of the last believed answer.
    pub fn found(&self) -> u64 {
        self.found.load(Ordering::Relaxed)
    }

    /// Returns the number of answers so far.
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Returns the number of failures so far.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Returns the time of the last answer, in seconds since the Unix epoch, if there was one.
    pub fn last_answer(&self) -> Option<u64> {
        Some(self.answered.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// Whether the last look had an answer that was believed.
    pub fn is_good(&self) -> bool {
        self.is_good.load(Ordering::Relaxed)
    }

    /// Returns why the last look failed or was not believed.
    pub fn error(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

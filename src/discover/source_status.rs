//! Owns: how a source is doing, for those who ask.
//! Invariant: written by whoever looks at the source, read by anyone, waited for by nobody.
//! Must not know: who asks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::settings::Source;

/// How a source is doing.
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
    /// Of a source that nobody has looked at yet.
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

    /// Notes an answer at `now`, in seconds since the Unix epoch.
    pub fn answered(&self, now: u64) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.answered.store(now, Ordering::Relaxed);
        self.is_good.store(true, Ordering::Relaxed);
        *self.lock() = None;
    }

    /// Notes that there was none, and why.
    pub fn failed(&self, why: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.doubted(why);
    }

    /// Notes that an answer is not believed, and why.
    pub fn doubted(&self, why: &str) {
        self.is_good.store(false, Ordering::Relaxed);
        *self.lock() = Some(why.to_owned());
    }

    /// Notes how many backends there are.
    pub fn has_found(&self, count: usize) {
        self.found.store(count as u64, Ordering::Relaxed);
    }

    /// The name that was asked for, or the file.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Backends of the last answer that was believed.
    pub fn found(&self) -> u64 {
        self.found.load(Ordering::Relaxed)
    }

    /// Answers so far.
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Failures so far.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// When it answered last, in seconds since the Unix epoch, if it ever did.
    pub fn last_answer(&self) -> Option<u64> {
        Some(self.answered.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// Whether the last look was good.
    pub fn is_good(&self) -> bool {
        self.is_good.load(Ordering::Relaxed)
    }

    /// What was wrong with the last look.
    pub fn error(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

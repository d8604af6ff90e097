//! Owns: the log line about a panic, and the count of panics.
//! Invariant: the line contains nothing that a client or a configuration sent.
//! Must not know: what panicked, or what follows.

use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// From now on panics of this process are counted, and said as every other message: without waiting for standard
/// error, as the standard library's hook would.
pub fn report() {
    std::panic::set_hook(Box::new(|panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        let thread = std::thread::current();
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(
            thread = thread.name(),
            at,
            why = why(panic),
            "panic: please report it; the request or task that it hit has ended"
        );
    }));
}

/// Its words, if they are the program's own. Words that were put together can have a piece of a request in them, as
/// those of a text that is cut within a character have.
fn why(panic: &PanicHookInfo<'_>) -> &'static str {
    panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(not shown)")
}

/// How many there were.
pub(super) fn count() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

//! Owns: the log line about a panic, and the count of panics.
//! Invariant: the line contains nothing that a client or a configuration sent.
//! Must not know: what panicked, or what follows.

use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Installs a panic hook that counts panics, and logs them like every other message: no thread waits for standard
/// error, as it would in the standard library's hook.
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

/// Returns the panic's message if it is a constant of the program. A formatted message can contain a piece of a
/// request: slicing a string within a character panics with a quotation of the string.
fn why(panic: &PanicHookInfo<'_>) -> &'static str {
    panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(not shown)")
}

/// Returns the number of panics so far.
pub(super) fn count() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

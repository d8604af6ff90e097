//! Owns: telling a shortage of this process or machine from a failure of whoever it talks to; which descriptors are kept for need.
//! Invariant: the line about a shortage comes at most once a second, however many tasks run into it.
//! Must not know: what the descriptor, port or memory was wanted for.

use std::error::Error;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;

use crate::clock;

/// The errors of the system that say that something has run out here: descriptors of the process or of the
/// machine, memory, socket buffers, local ports.
const LOCAL_SHORTAGES: [Errno; 5] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::ADDRNOTAVAIL];

/// Least time between two lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The first descriptor that no request may have: all below it are in use when the system gives it out
/// (POSIX: always the lowest). Of the process, as its descriptors are.
static RESERVED_FROM: AtomicI32 = AtomicI32::new(i32::MAX);

/// From now on descriptors from the number `ceiling` on are kept for what must go on when clients have taken all
/// others.
pub fn reserve_from(ceiling: usize) {
    RESERVED_FROM.store(i32::try_from(ceiling).unwrap_or(i32::MAX), Ordering::Relaxed);
}

/// Whether a request may use this descriptor.
///
/// # Errors
/// That of a process without descriptors, if it is one of those that are kept.
pub fn check(descriptor: &impl AsRawFd) -> io::Result<()> {
    match descriptor.as_raw_fd() < RESERVED_FROM.load(Ordering::Relaxed) {
        true => Ok(()),
        false => Err(Errno::MFILE.into()),
    }
}

/// Whether `error`, or an error that it was made of, is a shortage of our own: nobody else is to blame.
pub fn is_local_shortage(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if is_shortage_kind(error) {
                return true;
            }
            // `source` of an `io::Error` passes over the error that it wraps.
            if let Some(wrapped) = error.get_ref()
                && is_local_shortage(wrapped)
            {
                return true;
            }
        }
        next = error.source();
    }
    false
}

fn is_shortage_kind(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(code) => LOCAL_SHORTAGES.contains(&Errno::from_raw_os_error(code)),
        None => matches!(error.kind(), io::ErrorKind::OutOfMemory | io::ErrorKind::AddrNotAvailable),
    }
}

/// Says that `what` could not be done for want of something, unless a line said so within the last second.
pub fn report_shortage(what: &'static str, error: &(dyn Error + 'static)) {
    static LAST: AtomicU64 = AtomicU64::new(0);
    static SUPPRESSED: AtomicU64 = AtomicU64::new(0);
    let now = u64::try_from(clock::unix().as_millis()).unwrap_or(u64::MAX);
    if !is_due(&LAST, now) {
        SUPPRESSED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let unsaid = SUPPRESSED.swap(0, Ordering::Relaxed);
    tracing::warn!(
        %error,
        unsaid,
        "{what}: this process is short of descriptors, ports or memory, and no backend is to blame; \
         raise LimitNOFILE, or lower max_connections"
    );
}

/// Whether the time of a line has come at `now`, in milliseconds; if so, it is the caller's to say it.
fn is_due(last: &AtomicU64, now: u64) -> bool {
    let said = last.load(Ordering::Relaxed);
    // A wall clock that was set back must not silence it for long.
    let is_recent = said <= now && u128::from(now - said) < REPORT_INTERVAL.as_millis();
    !is_recent && last.compare_exchange(said, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_run_out_here_is_told_from_what_others_do() {
        for errno in LOCAL_SHORTAGES {
            assert!(is_local_shortage(&io::Error::from(errno)), "{errno}");
        }
        for errno in [Errno::CONNREFUSED, Errno::CONNRESET, Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::AGAIN] {
            assert!(!is_local_shortage(&io::Error::from(errno)), "{errno}");
        }
        assert!(is_local_shortage(&io::Error::from(io::ErrorKind::OutOfMemory)));
        assert!(!is_local_shortage(&io::Error::other("handshake failed")));
    }

    #[test]
    fn a_shortage_is_seen_through_what_it_was_wrapped_in() {
        #[derive(Debug)]
        struct Handshake(io::Error);
        impl std::fmt::Display for Handshake {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("handshake")
            }
        }
        impl Error for Handshake {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let short = || io::Error::from(Errno::MFILE);
        assert!(is_local_shortage(&Handshake(short())));
        assert!(is_local_shortage(&io::Error::other(short())));
        assert!(is_local_shortage(&io::Error::other(Handshake(io::Error::other(short())))));
        assert!(!is_local_shortage(&Handshake(io::Error::from(Errno::CONNREFUSED))));
    }

    #[test]
    fn a_line_is_due_once_a_second() {
        let last = AtomicU64::new(0);
        let due: Vec<_> = [5000, 5001, 5999, 6000, 6500, 3000, 3500].map(|now| is_due(&last, now)).into();
        assert_eq!(due, [true, false, false, true, false, true, false]);
    }
}

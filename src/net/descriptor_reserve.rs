//! Owns: the descriptors that are reserved for everything but requests; which errors are a shortage of this machine.
//! Invariant: a shortage is logged once a second at most, however many tasks run into it.
//! Must not know: what the descriptor, port or memory was needed for.

use std::error::Error;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rustix::io::Errno;

use crate::clock::{self, LogLimiter};

/// The errors by which the system says that something has run out here: descriptors of the process or of the machine,
/// memory, socket buffers, local ports.
const LOCAL_SHORTAGES: [Errno; 5] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::ADDRNOTAVAIL];

/// The least time between two log lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The first descriptor that no request may use: when the system gives it out, all below it are in use (POSIX: always
/// the lowest free one). A static, since a process has one table of descriptors.
static RESERVED_FROM: AtomicI32 = AtomicI32::new(i32::MAX);

/// Reserves the descriptors from the number `ceiling` on for what must go on when clients have taken all others.
pub fn reserve_from(ceiling: usize) {
    RESERVED_FROM.store(i32::try_from(ceiling).unwrap_or(i32::MAX), Ordering::Relaxed);
}

/// Checks that a request may use this descriptor.
///
/// # Errors
/// EMFILE if it is reserved, as if the process had none left.
pub fn check(descriptor: &impl AsRawFd) -> io::Result<()> {
    match descriptor.as_raw_fd() < RESERVED_FROM.load(Ordering::Relaxed) {
        true => Ok(()),
        false => Err(Errno::MFILE.into()),
    }
}

/// Whether `error`, or an error that it wraps, is a shortage of this machine, which nobody else is to blame for.
pub fn is_local_shortage(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if is_shortage_kind(error) {
                return true;
            }
            // `source` of an `io::Error` skips the error that it wraps.
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

/// Logs that `what` failed for want of something, once a second at most. Lines in between are counted in the next.
pub fn report_shortage(what: &'static str, error: &(dyn Error + 'static)) {
    static REPORTS: LazyLock<LogLimiter> = LazyLock::new(LogLimiter::default);
    let Some(unsaid) = REPORTS.take(clock::unix(), REPORT_INTERVAL, 1) else { return };
    tracing::warn!(
        %error,
        unsaid,
        "{what}: this process is short of descriptors, ports or memory, and no backend is to blame; \
         raise LimitNOFILE, or lower max_connections"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_shortage_is_distinguished_from_failures_of_others() {
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
    fn a_wrapped_shortage_is_recognised() {
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
}

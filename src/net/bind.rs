//! Owns: retries while another process still holds an address.
//! Invariant: an address that stays in use is an error after a few seconds.
//! Must not know: what is bound there.

use std::io;
use std::time::Duration;

use super::address::Address;

/// How often an address in use is tried, and the pause between: as nginx does, and longer than a Linchpin that is
/// stopping keeps its addresses.
const TRIES: u32 = 30;
const PAUSE: Duration = Duration::from_millis(100);

/// Calls `bind`, and again for three seconds while `address` is in use. Blocks the thread.
///
/// # Errors
/// The last error of `bind`.
pub fn with_retry<T>(address: &Address, mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for attempt in 0..TRIES {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if attempt == 0 {
                    tracing::info!(%address, "the address is taken; waiting up to 3 seconds for the other process to release it");
                }
                std::thread::sleep(PAUSE);
            }
            bound => return bound,
        }
    }
    bind()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn bind_succeeds_as_soon_as_the_holder_releases_the_address() {
        let mut holder = Some(TcpListener::bind("127.0.0.1:0").unwrap());
        let address = holder.as_ref().unwrap().local_addr().unwrap();
        let mut tries = 0;
        let bound = with_retry(&address.into(), || {
            tries += 1;
            if tries == 4 {
                holder = None;
            }
            TcpListener::bind(address)
        });
        assert_eq!((bound.unwrap().local_addr().unwrap(), tries), (address, 4));
    }

    #[test]
    fn another_error_is_returned_at_once() {
        let mut tries = 0;
        let refused = || {
            tries += 1;
            Err::<(), _>(io::ErrorKind::PermissionDenied.into())
        };
        let error = with_retry(&([127, 0, 0, 1], 1).into(), refused).unwrap_err();
        assert_eq!((error.kind(), tries), (io::ErrorKind::PermissionDenied, 1));
    }
}

//! Owns: waiting for an address whose holder is about to end.
//! Invariant: an address that stays taken is said to be so after a few seconds.
//! Must not know: what is bound there.

use std::io;
use std::time::Duration;

use super::Address;

/// How often and how long an address that is taken is tried: as nginx does, and longer than a Linchpin that was told
/// to stop keeps its own.
const TRIES: u32 = 30;
const PAUSE: Duration = Duration::from_millis(100);

/// What `bind` makes; it is tried again for some seconds while `address` is in use. Blocks.
///
/// # Errors
/// The last one of `bind`.
pub fn with_retry<T>(address: &Address, mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for attempt in 0..TRIES {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if attempt == 0 {
                    tracing::info!(%address, "the address is taken; waiting a moment for its holder to end");
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
    fn an_address_is_had_as_soon_as_its_holder_has_gone_and_not_before() {
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
    fn another_error_is_told_at_once() {
        let mut tries = 0;
        let refused = || {
            tries += 1;
            Err::<(), _>(io::ErrorKind::PermissionDenied.into())
        };
        let error = with_retry(&([127, 0, 0, 1], 1).into(), refused).unwrap_err();
        assert_eq!((error.kind(), tries), (io::ErrorKind::PermissionDenied, 1));
    }
}

//! Owns: the field Via (RFC 9110 §7.6.3): the entry that Linchpin adds, and detecting requests that loop.
//! Invariant: a pool gets a request at most once, however it returns; values are made once per snapshot and thread.
//! Must not know: backends, the response to a request that loops.

use std::cell::Cell;
use std::time::{Duration, Instant};

use http::Version;
use http::header::{HeaderMap, HeaderValue, VIA};

use crate::pool::hash::{mix, stable_hash};

/// The name of Linchpin in Via, unless the configuration has another one.
pub const NAME: &str = "linchpin";

/// The shortest time between two warnings of a thread that requests to a pool loop.
const LOOP_WARNING_INTERVAL: Duration = Duration::from_secs(1);

/// The mark of messages that are forwarded to or from the pool named `pool`: `name` and eight digits that differ
/// between processes, derived from the random number `process`.
///
/// The mark depends on the pool, too: a gateway behind one pool may forward a request to another pool of the same
/// Linchpin. A client that copies a mark has only its own request refused.
pub fn mark(name: &str, process: u64, pool: &str) -> Box<str> {
    let digits = mix(process ^ stable_hash(pool.as_bytes())) >> 32;
    format!("{name}-{digits:08x}").into()
}

/// One thread's values of Via for one pool.
#[derive(Debug)]
pub(super) struct Via {
    mark: Box<str>,
    /// For messages that were received over HTTP/1.0, 1.1 and 2.
    values: [HeaderValue; 3],
    warned_at: Cell<Option<Instant>>,
}

impl Via {
    /// Makes the values for this mark. `None` if the mark is not valid in a field.
    pub(super) fn new(mark: &str) -> Option<Via> {
        let value = |version| HeaderValue::try_from(format!("{version} {mark}")).ok();
        let values = [value("1.0")?, value("1.1")?, value("2.0")?];
        Some(Via { mark: mark.into(), values, warned_at: Cell::new(None) })
    }

    /// Appends the entry for a message that was received over `version`.
    pub(super) fn add(&self, headers: &mut HeaderMap, version: Version) {
        let [http10, http11, http2] = &self.values;
        let value = match version {
            Version::HTTP_2 => http2,
            Version::HTTP_10 | Version::HTTP_09 => http10,
            _ => http11,
        };
        headers.append(VIA, value.clone());
    }

    /// Whether a request with these fields was already forwarded to this pool.
    pub(super) fn is_loop(&self, headers: &HeaderMap) -> bool {
        let values = headers.get_all(VIA).iter();
        let mut hops = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        hops.any(|hop| {
            let mut words = hop.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            words.nth(1).is_some_and(|by| by == self.mark.as_bytes())
        })
    }

    /// Logs that a request was received that had been forwarded to `pool`, at most once per interval.
    pub(super) fn warn_of_loop(&self, pool: &str, listener: &str, request: &str, now: Instant) {
        if self.should_warn(now) {
            tracing::warn!(
                pool,
                listener,
                request,
                "refused a request that this pool had already received: the pool's backends send it back here; \
                 check them for the address of this Linchpin or of a proxy in front of it"
            );
        }
    }

    fn should_warn(&self, now: Instant) -> bool {
        let is_due = self
            .warned_at
            .get()
            .is_none_or(|warned_at| now.saturating_duration_since(warned_at) >= LOOP_WARNING_INTERVAL);
        if is_due {
            self.warned_at.set(Some(now));
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (VIA, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn each_hop_appends_its_entry() {
        let via = Via::new("linchpin-1").unwrap();
        let mut headers = headers(&["1.0 fred"]);
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            via.add(&mut headers, version);
        }
        let hops: Vec<_> = headers.get_all(VIA).iter().collect();
        assert_eq!(hops, ["1.0 fred", "1.0 linchpin-1", "1.1 linchpin-1", "2.0 linchpin-1"]);
    }

    #[test]
    fn a_loop_is_detected_wherever_the_mark_is_in_via() {
        let via = Via::new("linchpin-1").unwrap();
        for (values, is_loop) in [
            (&["1.1 linchpin-1"][..], true),
            (&["1.0 fred, HTTP/1.1 linchpin-1 (Linchpin),1.1 p"], true),
            (&["1.0 fred", "2.0\tlinchpin-1"], true),
            (&["1.1 linchpin-10"], false),
            (&["1.1 linchpin"], false),
            (&["1.1 p (linchpin-1)"], false),
            (&["linchpin-1"], false),
            (&["", " , ,"], false),
            (&[], false),
        ] {
            assert_eq!(via.is_loop(&headers(values)), is_loop, "{values:?}");
        }
    }

    #[test]
    fn processes_and_pools_have_different_marks() {
        let marks = [mark(NAME, 1, "app"), mark(NAME, 2, "app"), mark(NAME, 1, "shop")];
        assert!(marks[0] != marks[1] && marks[0] != marks[2] && marks[1] != marks[2], "{marks:?}");
        assert_eq!(marks[0].len(), "linchpin-00000000".len());
    }

    #[test]
    fn a_loop_is_logged_once_a_second() {
        let (via, now) = (Via::new("linchpin-1").unwrap(), Instant::now());
        let warnings: Vec<_> =
            [0, 1, 999, 1000, 1001].map(|ms| via.should_warn(now + Duration::from_millis(ms))).into();
        assert_eq!(warnings, [true, false, false, true, false]);
    }
}

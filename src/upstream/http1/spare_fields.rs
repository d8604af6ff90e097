//! Owns: the memory of one map of fields: that of a request which is over is used for the next response.
//! Invariant: the map is empty, and one is kept for each thread, of bounded size.
//! Must not know: connections.

use std::cell::Cell;

use http::header::HeaderMap;

/// The most fields that a map has room for if it is kept.
const MAX_FIELDS: usize = 256;

thread_local! {
    static SPARE: Cell<Option<HeaderMap>> = const { Cell::new(None) };
}

/// Returns an empty map.
pub(super) fn take() -> HeaderMap {
    SPARE.take().unwrap_or_default()
}

/// Takes a map that is no longer needed.
pub fn put(mut fields: HeaderMap) {
    if fields.capacity() <= MAX_FIELDS {
        fields.clear();
        SPARE.set(Some(fields));
    }
}

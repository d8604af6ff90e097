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

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::COOKIE;

    #[test]
    fn nothing_of_a_request_is_in_the_map_of_the_next_response_and_a_large_map_is_not_kept() {
        let mut fields = HeaderMap::with_capacity(16);
        fields.append(COOKIE, HeaderValue::from_static("a=secret"));
        fields.append(COOKIE, HeaderValue::from_static("b=secret"));
        put(fields);
        let next = take();
        assert!(next.is_empty() && next.get(COOKIE).is_none() && next.capacity() >= 16);
        assert_eq!(take().capacity(), 0, "there is one for each thread");
        put(HeaderMap::with_capacity(2 * MAX_FIELDS));
        assert_eq!(take().capacity(), 0);
    }
}

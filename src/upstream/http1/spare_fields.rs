//! Owns: the memory of maps of fields: that of a request which is over is used for the next response.
//! Invariant: the maps are empty, and few are kept for each thread, of bounded size.
//! Must not know: connections.

use std::cell::RefCell;

use http::header::HeaderMap;

/// The most fields that a map has room for if it is kept.
const MAX_FIELDS: usize = 256;

/// The most maps that are kept for each thread. Requests that run in turn need one; those that wait for a session's copy to
/// be given, while others run, need some more.
const MAX_MAPS: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// Returns an empty map.
pub(super) fn take() -> HeaderMap {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Takes a map that is no longer needed.
pub fn put(mut fields: HeaderMap) {
    if fields.capacity() > MAX_FIELDS {
        return;
    }
    fields.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MAX_MAPS {
            spare.push(fields);
        }
    });
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
        assert_eq!(take().capacity(), 0, "it was the only one");
        (0..MAX_MAPS + 1).for_each(|_| put(HeaderMap::with_capacity(16)));
        assert_eq!((0..MAX_MAPS + 1).filter(|_| take().capacity() > 0).count(), MAX_MAPS, "they are bounded");
        put(HeaderMap::with_capacity(2 * MAX_FIELDS));
        assert_eq!(take().capacity(), 0);
    }
}

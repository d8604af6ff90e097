//! Owns: the value of the Date field of responses over HTTP/2.
//! Invariant: it is made once a second for each thread.
//! Must not know: responses.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use http::HeaderValue;

use crate::clock;

thread_local! {
    static CACHED: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// Returns the time of this event-loop iteration as a field value (RFC 9110 §6.6.1).
pub(super) fn field_value() -> HeaderValue {
    let now = clock::unix().as_secs();
    CACHED.with_borrow_mut(|(second, value)| {
        if *second != now
            && let Ok(text) =
                HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(now)))
        {
            (*second, *value) = (now, text);
        }
        value.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_that_of_the_clock() {
        let date = httpdate::parse_http_date(field_value().to_str().unwrap()).unwrap();
        let age = SystemTime::now().duration_since(date).unwrap();
        assert!(age < Duration::from_secs(5), "{age:?}");
    }
}

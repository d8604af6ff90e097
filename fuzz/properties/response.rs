//! Properties of any backend's response: the client gets a complete response or an incomplete one, and never none.

use std::sync::{LazyLock, Mutex, PoisonError};

use super::between::Between;

static BETWEEN: LazyLock<Mutex<Between>> = LazyLock::new(|| Between::start("", ""));

pub fn holds(data: &[u8]) {
    let mut between = BETWEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let (received, seen) = between.pass(b"GET /x HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n", data);
    assert!(!received.is_empty(), "a client that gets not one byte sends its request again");
    assert!(seen.len() == 1 && seen[0].method == "GET" && seen[0].target == b"/x");
}

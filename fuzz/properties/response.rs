//! What must hold whatever a backend answers: its client gets a whole answer, or one that breaks off, and never none.

use std::sync::{LazyLock, Mutex, PoisonError};

use super::between::Between;

static BETWEEN: LazyLock<Mutex<Between>> = LazyLock::new(|| Between::start(""));

pub fn holds(data: &[u8]) {
    let mut between = BETWEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let (answer, seen) = between.pass(b"GET /x HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n", data);
    assert!(!answer.is_empty(), "a client that gets not one byte sends its request again");
    assert!(seen.len() == 1 && seen[0].method == "GET" && seen[0].target == b"/x");
}

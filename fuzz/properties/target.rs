//! Properties of any request target: it reaches the backend byte for byte and in a valid form, or is refused.

use std::sync::{LazyLock, Mutex, PoisonError};

use super::between::{Between, Request};

static BETWEEN: LazyLock<Mutex<Between>> = LazyLock::new(|| Between::start("", ""));

/// `data` is one byte for the method, then the target.
pub fn holds(data: &[u8]) {
    let Some((method, target)) = data.split_first() else { return };
    let method = match method {
        b'o' => "OPTIONS",
        b'h' => "HEAD",
        _ => "GET",
    };
    let mut request = format!("{method} ").into_bytes();
    request.extend_from_slice(target);
    request.extend_from_slice(b" HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n");
    let mut between = BETWEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let reply = if method == "HEAD" {
        &b"HTTP/1.1 204 No\r\n\r\n"[..]
    } else {
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    };
    let (_, seen) = between.pass(&request, reply);
    // What has blanks or line breaks in it is more, or other, than a target.
    if target.starts_with(b"/") && target.iter().all(u8::is_ascii_graphic) {
        let is_same = |seen: &&Request| seen.method == method && seen.target == target;
        assert!(seen.iter().all(|seen| is_same(&seen)), "{} became another", target.escape_ascii());
    }
}

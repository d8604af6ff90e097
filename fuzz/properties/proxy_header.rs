//! Properties of any bytes in place of a PROXY header: a valid header sets the client's address, and without one no
//! request is served.

use std::net::IpAddr;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::between::Between;

static BETWEEN: LazyLock<Mutex<Between>> =
    LazyLock::new(|| Between::start("proxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]", ""));

pub fn holds(data: &[u8]) {
    let mut sent = data.to_vec();
    sent.extend_from_slice(b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n");
    let mut between = BETWEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, seen) = between.pass(&sent, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let is_header = data.starts_with(b"PROXY ") || data.starts_with(b"\r\n\r\n\0\r\nQUIT\n");
    assert!(is_header || seen.is_empty(), "served without a header");
    // One line, and nothing behind it but the request.
    let is_line = data.starts_with(b"PROXY ") && data.iter().position(|byte| *byte == b'\n') == Some(data.len() - 1);
    for request in &seen {
        assert!(!is_line || request.method == "GET" && request.target == b"/", "the request behind it was cut");
        let chain = request.values("x-forwarded-for").join(&b","[..]);
        let chain = String::from_utf8_lossy(&chain);
        assert!(chain.split(',').all(|node| node.trim().parse::<IpAddr>().is_ok()), "{chain}");
    }
}

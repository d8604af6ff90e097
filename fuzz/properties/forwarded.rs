//! Properties of any forwarding fields: the last entry is the connected client, with one scheme, and no value from an
//! untrusted source reaches the backend.

use std::net::IpAddr;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::between::{Between, Request};

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]";

static X_FORWARDED: LazyLock<Mutex<Between>> = LazyLock::new(|| Between::start(TRUSTED, ""));
static FORWARDED: LazyLock<Mutex<Between>> =
    LazyLock::new(|| Between::start(&format!("{TRUSTED}\nforwarded = \"forwarded\""), ""));

/// Each line of `data` is a field: one byte for its name, then its value. The first byte selects the trusted
/// kind.
pub fn holds(data: &[u8]) {
    let Some((which, lines)) = data.split_first() else { return };
    let mut request = b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n".to_vec();
    for line in lines.split(|byte| *byte == b'\n') {
        let Some((name, value)) = line.split_first() else { continue };
        let name = match name {
            b'f' => "forwarded",
            b'p' => "x-forwarded-proto",
            b'h' => "x-forwarded-host",
            b'o' => "x-forwarded-port",
            b'r' => "x-real-ip",
            b'i' => "x-request-id",
            _ => "x-forwarded-for",
        };
        request.extend_from_slice(format!("{name}: ").as_bytes());
        request.extend(value.iter().filter(|byte| **byte != b'\r'));
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let between = if *which == b'f' { &FORWARDED } else { &X_FORWARDED };
    let mut between = between.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, seen) = between.pass(&request, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    // Values that occur only in the untrusted one of the two kinds of field.
    let is_secret = |line: &&[u8]| line.windows(6).any(|word| word == b"secret");
    let mut secrets = lines.split(|byte| *byte == b'\n').filter(is_secret).peekable();
    let is_unbelieved = |line: &[u8]| line.starts_with(b"f") != (*which == b'f') && !line.starts_with(b"i");
    let is_hidden = secrets.peek().is_some() && secrets.all(is_unbelieved);
    for request in &seen {
        assert!(request.method == "GET" && request.target == b"/", "fields became something else");
        says_who_connected(request);
        let mut values = request.fields.iter().filter(|(name, _)| name.contains("forwarded")).flat_map(|(_, all)| all);
        assert!(
            !is_hidden || !values.any(|value| is_secret(&value.as_slice())),
            "an untrusted value reached the backend"
        );
    }
}

fn says_who_connected(request: &Request) {
    let chain = request.values("x-forwarded-for").last().map(|chain| String::from_utf8_lossy(chain).into_owned());
    let chain = chain.unwrap_or_default();
    let last = chain.rsplit(',').next().unwrap_or_default().trim();
    assert_eq!(last.parse::<IpAddr>().ok(), Some(IpAddr::from([127, 0, 0, 1])), "{chain}");
}

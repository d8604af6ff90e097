//! Properties of any answer of a backend to a session's copy: the session's request has a response, and claims a state
//! only if the backend has confirmed that it took the copy.

use std::sync::{LazyLock, Mutex, PoisonError};

use super::between::Between;

static BETWEEN: LazyLock<Mutex<Between>> =
    LazyLock::new(|| Between::start("", "[pools.copies]\nhandover = \"500ms\"\n"));

const SAVED: &[u8] =
    b"HTTP/1.1 200 OK\r\nLinchpin-Session-Save: :c2VhbGVk:;term=1;seq=1;ttl=60\r\nContent-Length: 2\r\n\r\nok";
const WANT: &[u8] = b"HTTP/1.1 409 Conflict\r\nLinchpin-Session-Want: ?1\r\nContent-Length: 0\r\n\r\n";
const SERVED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The backend has saved a session, has lost it, and answers `data` when it is given the copy.
pub fn holds(data: &[u8]) {
    let mut between = BETWEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let (received, _) = between.pass(b"GET /x HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n", SAVED);
    let received = String::from_utf8_lossy(&received).into_owned();
    let pin = received.lines().find_map(|line| line.strip_prefix("set-cookie: ")?.split(';').next());
    let pin = pin.unwrap_or_else(|| panic!("no pin: {received}"));

    let request = format!("GET /x HTTP/1.1\r\nhost: a.test\r\ncookie: {pin}\r\nconnection: close\r\n\r\n");
    let answer = data.to_vec();
    let (received, seen) = between.pass_by(request.as_bytes(), move |head| match head {
        head if head.starts_with(b"PUT /.well-known/linchpin/session ") => answer.clone(),
        head if head.windows(13).any(|part| part == b";term=1;seq=1") => WANT.to_vec(),
        _ => SERVED.to_vec(),
    });
    let received = String::from_utf8_lossy(&received).to_ascii_lowercase();
    assert!(["200", "502", "503", "504"].iter().any(|status| received.starts_with(&format!("http/1.1 {status} "))));
    assert!(!received.contains("linchpin-session"), "no field of session copies reaches a client: {received}");

    let (copies, requests): (Vec<_>, Vec<_>) = seen.iter().partition(|request| request.method == "PUT");
    assert_eq!(copies.len(), 1);
    let field = |request: &super::between::Request| {
        String::from_utf8_lossy(&request.values("linchpin-session")[0]).into_owned()
    };
    assert!(field(copies[0]).ends_with(";term=2;seq=1") && copies[0].values("linchpin-session-role")[0] == b"primary");
    assert!((1..=2).contains(&requests.len()), "it runs once at most, after one want");
    if let Some(run) = requests.get(1) {
        let is_confirmed = data.windows(3).any(|status| status == b"204");
        assert!(is_confirmed || !field(run).contains(";seq="), "{} after {}", field(run), data.escape_ascii());
    }
}

//! Owns: the path that is Linchpin's own on backends, which no client may request.
//! Invariant: no spelling of the path that some server may take for it is forwarded.
//! Must not know: what backends have there.

use super::error::ProxyError;
use super::path_readings;

/// The segments of the path, in lower case.
const SEGMENTS: [&[u8]; 2] = [b".well-known", b"linchpin"];

/// Refuses a path with the segments `.well-known/linchpin`: where backends take copies of sessions, only Linchpin may
/// give them any. Backends differ in how they decode a path and in where an application begins, so the segments are
/// refused wherever they are, and however they are spelled.
///
/// # Errors
/// It is such a path.
pub(super) fn check(path: &str) -> Result<(), ProxyError> {
    let path = path.as_bytes();
    // Most paths have no escape, and not this word.
    let may_be_reserved = memchr::memchr2(b'%', b'\\', path).is_some() || has_word(path);
    if may_be_reserved && is_reserved_decoded(path) {
        return Err(ProxyError::NoRoute);
    }
    Ok(())
}

fn has_word(path: &[u8]) -> bool {
    let is_word = |at: usize| path.get(at..at + 8).is_some_and(|word| word.eq_ignore_ascii_case(b"linchpin"));
    memchr::memchr2_iter(b'l', b'L', path).any(is_word)
}

fn is_reserved_decoded(path: &[u8]) -> bool {
    path_readings::readings(path).any(|reading| is_reserved(&reading))
}

fn is_reserved(path: &[u8]) -> bool {
    let segments: Vec<&[u8]> = path_readings::segments(path);
    let is_it =
        |pair: &[&[u8]]| pair.iter().zip(SEGMENTS).all(|(segment, wanted)| segment.eq_ignore_ascii_case(wanted));
    segments.windows(SEGMENTS.len()).any(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_the_path_is_refused_and_no_other_path() {
        for path in [
            "/.well-known/linchpin/session",
            "/.well-known/linchpin",
            "/.Well-Known/LINCHPIN/session",
            "//.well-known//linchpin/session",
            "/.well-known/./linchpin/session",
            "/.well-known/x/../linchpin/session",
            "/x/../.well-known/linchpin/session",
            "/%2ewell-known/linchpin/session",
            "/.well-known%2flinchpin%2fsession",
            "/.well-known/%6cinchpin/session",
            "/.well-known/linch%70in/session",
            "/.well-known%252flinchpin/session",
            "/.well-known%25252Flinchpin/session",
            "/.well-known\\linchpin\\session",
            "/.well-known;a=b/linchpin;c/session",
            "/shop/.well-known/linchpin/session",
        ] {
            assert_eq!(check(path), Err(ProxyError::NoRoute), "{path}");
        }
        for path in [
            "/",
            "*",
            "/linchpin",
            "/.well-known/acme-challenge/linchpin",
            "/.well-known/linchpins",
            "/a%20b/%",
            "/%zz/.well-known/%6",
            "/linchpin/.well-known",
        ] {
            assert_eq!(check(path), Ok(()), "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_path_panics(path: String) {
            let _ = check(&path);
        }
    }
}

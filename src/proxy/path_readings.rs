//! Owns: how servers may read a path: decoded, with its segments resolved, in any case.
//! Invariant: a reading that some server has is among those that are listed here.
//! Must not know: which paths matter, or why.

/// How often a server may decode a path before it uses it.
const MAX_DECODINGS: usize = 3;

/// Returns the path as it is, and then after each further decoding.
pub(super) fn readings(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let next = |path: &Vec<u8>| Some(decoded(path)).filter(|next| next != path);
    std::iter::successors(Some(path.to_vec()), next).take(MAX_DECODINGS + 1)
}

/// Returns the segments of a path that some server may use: without empty ones, dots and path parameters.
pub(super) fn segments(path: &[u8]) -> Vec<&[u8]> {
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        // Path parameters belong to the segment before them.
        match segment.split(|byte| *byte == b';').next().unwrap_or_default() {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    segments
}

/// Whether no server reads a path otherwise than it is written: its segments have only lower-case letters, digits and
/// such characters as need no escape.
pub(super) fn is_plain(path: &str) -> bool {
    let is_odd = |byte: u8| matches!(byte, b'%' | b'\\' | b';') || byte.is_ascii_uppercase() || !byte.is_ascii();
    let path = path.as_bytes();
    !path.iter().copied().any(is_odd)
        && path.windows(2).all(|pair| pair.first() != Some(&b'/') || !matches!(pair.get(1), Some(b'/' | b'.')))
}

/// Returns each reading of a path in lower case, with its segments resolved.
pub(super) fn folded(path: &str) -> impl Iterator<Item = String> {
    readings(path.as_bytes()).map(|reading| {
        let segments = segments(&reading);
        let text: String = segments.iter().flat_map(|segment| ["/".into(), String::from_utf8_lossy(segment)]).collect();
        // A trailing slash, as in `/admin/`, is part of a prefix of whole segments.
        if text.is_empty() { "/".into() } else { text.to_ascii_lowercase() }
    })
}

/// Replaces each `%` and two hex digits by the byte that they encode.
fn decoded(path: &[u8]) -> Vec<u8> {
    let digit = |at: usize| path.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut bytes = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        let escaped = (*byte == b'%').then(|| Some((digit(at + 1)? << 4 | digit(at + 2)?) as u8)).flatten();
        bytes.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_plain_only_if_all_its_readings_are_the_path_itself() {
        for path in ["/", "/admin", "/a.b/c-d_e~f", "/a/b/", "*"] {
            assert!(is_plain(path), "{path}");
        }
        for path in ["/Admin", "/%61", "//a", "/a//b", "/./a", "/a/../b", "/.hidden", "/a;b", "/a\\b", "/ä"] {
            assert!(!is_plain(path), "{path}");
        }
    }

    #[test]
    fn each_reading_is_listed_in_lower_case() {
        let all = |path| folded(path).collect::<Vec<_>>();
        assert_eq!(all("/Admin"), ["/admin"]);
        assert_eq!(all("/x/..%2FAdmin"), ["/x/..%2fadmin", "/admin"]);
        assert_eq!(all("/%2561dmin;a/x"), ["/%2561dmin/x", "/%61dmin/x", "/admin/x"]);
        assert_eq!(all("//"), ["/"]);
    }

    proptest::proptest! {
        #[test]
        fn a_plain_path_has_one_reading(path in "(/[a-z0-9._~-]{0,4}){1,4}") {
            if is_plain(&path) {
                let trimmed = path.trim_end_matches('/');
                let own = if trimmed.is_empty() { "/" } else { trimmed };
                proptest::prop_assert_eq!(folded(&path).collect::<Vec<_>>(), [own]);
            }
        }
    }
}

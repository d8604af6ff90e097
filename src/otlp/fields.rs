//! Owns: reading the fields that a collector asks for besides a batch, such as an API key, from the text of a file.
//! Invariant: no field can change what is sent or how it is framed; values are marked as secret.
//! Must not know: the file.

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The largest file of fields, in bytes.
pub const MAX_FIELDS: u64 = 16 * 1024;

/// The fields that Linchpin sets itself, or that frame its request.
const OWN: [HeaderName; 9] =
    [CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Reads lines of `name: value`. Empty lines, and those that begin with `#`, say nothing.
///
/// # Errors
/// The number of the first line that is something else, or has a field that only Linchpin may set.
pub fn fields(text: &str) -> Result<HeaderMap, usize> {
    let mut fields = HeaderMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
    {
        let (name, value) = field(line).ok_or(number + 1)?;
        fields.append(name, value);
    }
    Ok(fields)
}

fn field(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).ok().filter(|name| !OWN.contains(name))?;
    let mut value = HeaderValue::from_str(value.trim()).ok().filter(|value| !value.is_empty())?;
    value.set_sensitive(true);
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_fields_and_none_changes_the_framing() {
        let read = fields("# of the vendor\nAuthorization: Bearer a:b\n\n x-key :1\nx-key: 2\r\n").unwrap();
        assert_eq!(read["authorization"], "Bearer a:b");
        assert_eq!(read.get_all("x-key").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert!(read.values().all(HeaderValue::is_sensitive));
        assert!(fields("").unwrap().is_empty());
        for (text, line) in
            [("key", 1), ("a: 1\nb c: 2", 2), ("a:", 1), ("host: x", 1), ("Content-Length: 0", 1), ("a: é\u{7f}", 1)]
        {
            assert_eq!(fields(text), Err(line), "{text}");
        }
    }
}

//! Owns: what a response's header section may say about where the response ends (RFC 9112 §6.3).
//! Invariant: a header section that passes has one Content-Length, or one Transfer-Encoding, or neither.
//! Must not know: bodies, connections, what happens to a response that does not pass.

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};

use super::failure::Fact;

/// What the header section says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settled {
    /// Content-Length, unless the body is chunked.
    pub(super) length: Option<u64>,
    /// Whether the body is chunked.
    pub(super) is_chunked: bool,
    /// Whether both were there. Such a backend may see the end of the response elsewhere, so nothing else may be read
    /// from the connection.
    pub(super) is_ambiguous: bool,
}

/// Checks the fields that say where a response ends, and removes the Content-Length of a response that has
/// Transfer-Encoding too (RFC 9112 §6.3, rule 3), which its client would believe otherwise.
///
/// It checks a response without a body, too: these fields would be forwarded as something that they are not. A body in
/// another coding than chunked, which RFC 9112 reads to the end of the connection, could not be forwarded as it is.
///
/// # Errors
/// [`Fact::Garbage`] for any Transfer-Encoding but a single `chunked`, and for any Content-Length but a single decimal
/// number. A backend may send nothing but `chunked` to a client that sent no TE (RFC 9110 §10.1.4).
pub(super) fn settle(headers: &mut HeaderMap) -> Result<Settled, Fact> {
    let (mut length, mut coding): (Option<&HeaderValue>, Option<&HeaderValue>) = (None, None);
    // One pass: a lookup by name costs a hash.
    for (name, value) in headers.iter() {
        let slot = match name {
            name if *name == CONTENT_LENGTH => &mut length,
            name if *name == TRANSFER_ENCODING => &mut coding,
            _ => continue,
        };
        if slot.replace(value).is_some() {
            return Err(Fact::Garbage);
        }
    }
    let length = length.map(|length| parse_length(length).ok_or(Fact::Garbage)).transpose()?;
    let is_chunked = coding.is_some();
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(Fact::Garbage);
    }
    let is_ambiguous = is_chunked && length.is_some();
    if is_ambiguous {
        headers.remove(CONTENT_LENGTH);
    }
    Ok(Settled { length: length.filter(|_| !is_chunked), is_chunked, is_ambiguous })
}

/// Parses decimal digits alone (RFC 9110 §8.6). A list of equal numbers may be refused; nginx refuses it, too.
fn parse_length(value: &HeaderValue) -> Option<u64> {
    let digits = value.to_str().ok()?;
    // `parse` alone would accept a sign.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::HeaderName;

    fn settled(fields: &[(&str, &str)]) -> Option<(bool, bool)> {
        let pair =
            |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in fields.iter().map(pair) {
            headers.append(name, value);
        }
        let settled = settle(&mut headers).ok()?;
        Some((settled.is_ambiguous, headers.contains_key(CONTENT_LENGTH)))
    }

    #[test]
    fn where_a_response_ends_must_be_unambiguous() {
        let (length, coding) = ("content-length", "transfer-encoding");
        for (fields, expected) in [
            (&[][..], Some((false, false))),
            (&[(length, "0")], Some((false, true))),
            (&[(length, "18446744073709551615")], Some((false, true))),
            (&[(coding, "Chunked")], Some((false, false))),
            (&[(length, "3"), (coding, "chunked")], Some((true, false))),
            (&[(coding, "chunked"), (length, "3")], Some((true, false))),
            (&[(length, "3"), (length, "3")], None),
            (&[(length, "3"), (length, "4")], None),
            (&[(length, "3, 3")], None),
            (&[(length, "+3")], None),
            (&[(length, "-3")], None),
            (&[(length, "0x3")], None),
            (&[(length, "3.0")], None),
            (&[(length, "")], None),
            (&[(length, "18446744073709551616")], None),
            (&[(coding, "")], None),
            (&[(coding, "gzip, chunked")], None),
            (&[(coding, "identity")], None),
            (&[(coding, "chunked, chunked")], None),
            (&[(coding, "chunked"), (coding, "chunked")], None),
            (&[(coding, "gzip"), (coding, "chunked")], None),
            (&[(coding, "chunked;x=1")], None),
            (&[(coding, "xchunked")], None),
            (&[(length, "x"), (coding, "chunked")], None),
        ] {
            assert_eq!(settled(fields), expected, "{fields:?}");
        }
    }
}

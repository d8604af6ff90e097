//! Owns: the id of a request in the access log, on error pages and in requests to backends.
//! Invariant: an id contains only characters that need no escape in HTML, JSON or a log line.
//! Must not know: which proxies are trusted, where ids are written.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The field that carries the id to backends, and from trusted proxies.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is accepted from a trusted proxy, in bytes.
const MAX_BYTES: usize = 128;

/// The id of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RequestId {
    /// Sixteen hexadecimal digits that Linchpin generated.
    Generated([u8; 16]),
    /// The id that a trusted proxy sent.
    Received(HeaderValue),
}

impl RequestId {
    /// Makes the id for a number that no other request of this process has.
    pub(super) fn generated(number: u64) -> RequestId {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        let mut text = [0; 16];
        for (at, digit) in text.iter_mut().enumerate() {
            *digit = DIGITS[(number >> (60 - 4 * at)) as usize & 15];
        }
        RequestId::Generated(text)
    }

    /// The id in the fields of a trusted proxy's request, if there is exactly one and it is valid.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<RequestId> {
        let mut values = headers.get_all(X_REQUEST_ID).iter();
        let value = values.next().filter(|_| values.next().is_none())?;
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:=+/@".contains(byte);
        let is_valid = (1..=MAX_BYTES).contains(&value.len()) && value.as_bytes().iter().all(is_plain);
        is_valid.then(|| RequestId::Received(value.clone()))
    }

    /// The id as text.
    pub(super) fn as_str(&self) -> &str {
        match self {
            RequestId::Generated(text) => std::str::from_utf8(text).unwrap_or_default(),
            RequestId::Received(value) => value.to_str().unwrap_or_default(),
        }
    }

    /// The id as a field value.
    pub(super) fn value(&self) -> HeaderValue {
        match self {
            // Digits are always a valid value.
            RequestId::Generated(text) => HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static("-")),
            RequestId::Received(value) => value.clone(),
        }
    }

    /// Copies the id out of the read buffer: a field value of a request is a slice of that buffer and would retain it.
    pub(super) fn into_owned(self) -> RequestId {
        match self {
            RequestId::Received(value) => {
                RequestId::Received(HeaderValue::from_bytes(value.as_bytes()).unwrap_or(value))
            }
            generated @ RequestId::Generated(_) => generated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_id_is_its_number_in_sixteen_digits() {
        assert_eq!(RequestId::generated(0xab).as_str(), "00000000000000ab");
        assert_eq!(RequestId::generated(u64::MAX).value(), "ffffffffffffffff");
    }

    #[test]
    fn a_received_id_is_accepted_if_it_needs_no_escape_anywhere() {
        let of = |values: &[&str]| {
            let fields = values.iter().map(|value| (X_REQUEST_ID, HeaderValue::from_str(value).unwrap()));
            RequestId::from_headers(&HeaderMap::from_iter(fields)).map(|id| id.as_str().to_owned())
        };
        let longest = "x".repeat(MAX_BYTES);
        for name in ["7f3a", "Root=1-67891233-abcdef012345678912345678", "a.b_c~d:e+f/g@h", &longest] {
            assert_eq!(of(&[name]).as_deref(), Some(name));
        }
        for bad in ["", "a b", "<b>", "a,b", "\"", "a;b", "&amp", &format!("{longest}x")] {
            assert_eq!(of(&[bad]), None, "{bad}");
        }
        assert_eq!(of(&["a", "b"]), None);
        assert_eq!(of(&[]), None);
    }
}

//! Owns: reading a caller's `traceparent` (W3C Trace Context §3.2).
//! Invariant: a field that is malformed or repeated counts as absent.
//! Must not know: spans; who is trusted; whether a request is sampled.

use http::header::{HeaderMap, HeaderName};

use crate::telemetry::TraceId;

/// The field that names the trace and the caller's span.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The length of a `traceparent` of version 00. Later versions may only append to it.
const LENGTH: usize = 55;

/// The caller's span, as a valid `traceparent` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TraceParent {
    pub(super) trace: TraceId,
}

impl TraceParent {
    /// Reads the only `traceparent` of a request. Of two nobody knows which one is right.
    pub(super) fn of(headers: &HeaderMap) -> Option<TraceParent> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next().filter(|_| values.next().is_none())?;
        TraceParent::parse(value.as_bytes())
    }

    fn parse(text: &[u8]) -> Option<TraceParent> {
        let (known, more) = text.split_at_checked(LENGTH)?;
        let mut parts = known.split(|byte| *byte == b'-');
        let [version] = hex::<1>(parts.next()?)?;
        let (trace, span) = (hex::<16>(parts.next()?)?, hex::<8>(parts.next()?)?);
        let [_flags] = hex::<1>(parts.next()?)?;
        let is_complete = match version {
            0 => more.is_empty(),
            // Invalid in every version.
            0xff => false,
            _ => more.first().is_none_or(|byte| *byte == b'-'),
        };
        let is_valid = is_complete && parts.next().is_none() && trace != [0; 16] && span != [0; 8];
        is_valid.then_some(TraceParent { trace: TraceId(trace) })
    }
}

/// Reads exactly `N` bytes of digits in lower case.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = (digit(*high)? << 4) | digit(*low)?;
    }
    Some(bytes)
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TRACE: &str = "12345678901234567890123456789012";
    const SPAN: &str = "1234567890123456";

    fn parent(values: &[&str]) -> Option<TraceParent> {
        let fields = values.iter().map(|value| (TRACEPARENT, HeaderValue::from_str(value).unwrap()));
        TraceParent::of(&fields.collect())
    }

    // The cases of W3C's own suite for implementations (w3c/trace-context, test/test.py), and what they leave out.

    #[test]
    fn a_valid_traceparent_is_read() {
        let trace = [0x12, 0x34, 0x56, 0x78, 0x90, 0x12, 0x34, 0x56, 0x78, 0x90, 0x12, 0x34, 0x56, 0x78, 0x90, 0x12];
        for flags in ["00", "01", "02", "03", "ff"] {
            assert_eq!(parent(&[&format!("00-{TRACE}-{SPAN}-{flags}")]).unwrap().trace, TraceId(trace));
        }
        for later in ["cc", "01", "fe"] {
            for more in ["", "-", "-what-the-future-will-be-like"] {
                assert_eq!(parent(&[&format!("{later}-{TRACE}-{SPAN}-01{more}")]).unwrap().trace, TraceId(trace));
            }
        }
    }

    #[test]
    fn a_malformed_or_repeated_traceparent_counts_as_absent() {
        let zeros = "0".repeat(32);
        let valid = format!("00-{TRACE}-{SPAN}-01");
        for bad in [
            format!("{valid}."),
            format!("{valid}-"),
            format!("{valid}-what-the-future-will-be-like"),
            format!("cc-{TRACE}-{SPAN}-01.what-the-future-will-be-like"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("FF-{TRACE}-{SPAN}-01"),
            format!(".0-{TRACE}-{SPAN}-01"),
            format!("0.-{TRACE}-{SPAN}-01"),
            format!("000-{TRACE}-{SPAN}-01"),
            format!("0000-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-.{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{}.-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}3-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{TRACE}-.{}-01", &SPAN[1..]),
            format!("00-{TRACE}-{}.-01", &SPAN[1..]),
            format!("00-{TRACE}-{SPAN}7-01"),
            format!("00-{TRACE}-{}-01", &SPAN[1..]),
            format!("00-{TRACE}-{SPAN}-.0"),
            format!("00-{TRACE}-{SPAN}-0."),
            format!("00-{TRACE}-{SPAN}-001"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{}A-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}-{}A-01", &SPAN[1..]),
            format!("00-{}-{SPAN}-01", "AB".repeat(16)),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("{valid},{valid}"),
            String::new(),
        ] {
            assert_eq!(parent(&[&bad]), None, "{bad}");
        }
        assert_eq!(parent(&[&valid, &valid]), None);
        assert_eq!(parent(&[]), None);
        assert!(parent(&[&valid]).is_some());
    }
}

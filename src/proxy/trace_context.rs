//! Owns: the W3C trace context of a request: reading `traceparent` and `tracestate`, and writing what goes to a backend.
//! Invariant: a field that is malformed or repeated counts as absent; what is written is valid.
//! Must not know: spans; who is trusted; which requests are sampled.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::telemetry::{SpanId, TraceId};

/// The field that names the trace and the caller's span (Trace Context §3.2).
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The field with the state of each tracing system on the way (Trace Context §3.3).
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The length of a `traceparent` of version 00. Later versions may only append to it.
const LENGTH: usize = 55;
/// The caller may have recorded its span.
const SAMPLED: u8 = 1;
/// The last seven bytes of the trace's id are random (Trace Context Level 2). All other flags are reserved.
const RANDOM: u8 = 2;
/// The most members of a `tracestate`.
const MAX_MEMBERS: usize = 32;
/// The longest `tracestate` of a span, and the longest member of one that is cut, in bytes (Trace Context §3.3.1.5).
const MAX_STATE: usize = 512;
const MAX_MEMBER: usize = 128;

/// The flags of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TraceFlags {
    pub(super) is_sampled: bool,
    pub(super) is_random: bool,
}

/// A span, as a valid `traceparent` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TraceParent {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) flags: TraceFlags,
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
        let [flags] = hex::<1>(parts.next()?)?;
        let is_complete = match version {
            0 => more.is_empty(),
            // Invalid in every version.
            0xff => false,
            _ => more.first().is_none_or(|byte| *byte == b'-'),
        };
        let is_valid = is_complete && parts.next().is_none() && trace != [0; 16] && span != [0; 8];
        let flags = TraceFlags { is_sampled: flags & SAMPLED != 0, is_random: flags & RANDOM != 0 };
        is_valid.then_some(TraceParent { trace: TraceId(trace), span: SpanId(span), flags })
    }

    /// Writes the field. Its version is 00, whatever the caller's was.
    pub(super) fn value(self) -> HeaderValue {
        let mut text = [b'-'; LENGTH];
        let flags = if self.flags.is_sampled { SAMPLED } else { 0 } | if self.flags.is_random { RANDOM } else { 0 };
        let mut at = 0;
        for part in [&[0][..], &self.trace.0, &self.span.0, &[flags]] {
            for (digits, byte) in text[at..].chunks_exact_mut(2).zip(part) {
                digits.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
            }
            at += 2 * part.len() + 1;
        }
        // Digits and hyphens are a valid value.
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
    }
}

const DIGITS: [u8; 16] = *b"0123456789abcdef";

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

/// Leaves one `tracestate`, or none: several become one, in their order, and one that is malformed goes, since a tracing
/// system must not guess what another one has written. A single valid one stays as it is.
pub(super) fn keep_valid_state(headers: &mut HeaderMap) {
    if !headers.contains_key(TRACESTATE) {
        return;
    }
    let values = headers.get_all(TRACESTATE);
    match joined_state(values.iter()) {
        None => remove_state(headers),
        Some(joined) if values.iter().nth(1).is_some() => {
            // Members and commas are a valid value.
            if let Ok(joined) = HeaderValue::try_from(joined) {
                headers.insert(TRACESTATE, joined);
            }
        }
        Some(_) => {}
    }
}

/// Removes each `tracestate`: it belongs to a `traceparent`.
pub(super) fn remove_state(headers: &mut HeaderMap) {
    headers.remove(TRACESTATE);
}

/// Returns the `tracestate` for a span. Of a long one as many whole members as fit, the short ones first.
pub(super) fn state_of_span(headers: &HeaderMap) -> Option<Box<str>> {
    let text = headers.get(TRACESTATE)?.to_str().ok()?;
    if text.len() <= MAX_STATE {
        return Some(text.into());
    }
    let mut kept = String::new();
    for member in members(text).filter(|member| member.len() <= MAX_MEMBER) {
        if kept.len() + 1 + member.len() > MAX_STATE {
            break;
        }
        kept.extend([if kept.is_empty() { "" } else { "," }, member]);
    }
    Some(kept.into())
}

/// Joins the members of all fields. `None` if there is none, there are too many, or one is malformed.
fn joined_state<'v>(values: impl Iterator<Item = &'v HeaderValue>) -> Option<String> {
    let (mut count, mut joined) = (0, String::new());
    for value in values {
        for member in members(value.to_str().ok()?) {
            count += 1;
            if count > MAX_MEMBERS || !is_member(member) {
                return None;
            }
            joined.extend([if joined.is_empty() { "" } else { "," }, member]);
        }
    }
    (count > 0).then_some(joined)
}

/// Returns the members of a list, which may have empty elements (RFC 9110 §5.6.1).
fn members(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty())
}

/// Whether this is `key=value` (Trace Context Level 2 §3.3.1.3; Level 1 has fewer keys).
fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte);
    let is_first = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_key = key.len() <= 256 && key.as_bytes().first().is_some_and(is_first) && key.bytes().all(is_inner);
    let is_value = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=');
    is_key && (1..=256).contains(&value.len()) && value.bytes().all(is_value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "12345678901234567890123456789012";
    const SPAN: &str = "1234567890123456";

    /// Returns the values of `tracestate` that go on.
    fn state(values: &[&str]) -> Vec<String> {
        let fields = values.iter().map(|value| (TRACESTATE, HeaderValue::from_str(value).unwrap()));
        let mut headers = fields.collect();
        keep_valid_state(&mut headers);
        headers.get_all(TRACESTATE).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    fn parent(values: &[&str]) -> Option<TraceParent> {
        let fields = values.iter().map(|value| (TRACEPARENT, HeaderValue::from_str(value).unwrap()));
        TraceParent::of(&fields.collect())
    }

    // The cases of W3C's own suite for implementations (w3c/trace-context, test/test.py), and what they leave out.

    #[test]
    fn a_valid_traceparent_is_read_and_written_as_version_00() {
        for (flags, written) in [("00", "00"), ("01", "01"), ("02", "02"), ("03", "03"), ("ff", "03"), ("fc", "00")] {
            let read = parent(&[&format!("00-{TRACE}-{SPAN}-{flags}")]).unwrap();
            assert_eq!(read.flags.is_sampled, written.ends_with(['1', '3']));
            assert_eq!(read.value(), format!("00-{TRACE}-{SPAN}-{written}"));
        }
        for later in ["cc", "01", "fe"] {
            for more in ["", "-", "-what-the-future-will-be-like"] {
                let read = parent(&[&format!("{later}-{TRACE}-{SPAN}-01{more}")]).unwrap();
                assert_eq!(read.value(), format!("00-{TRACE}-{SPAN}-01"));
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

    #[test]
    fn a_valid_tracestate_goes_on_and_several_in_one_field() {
        let many: Vec<_> = (1..=32).map(|n| format!("bar{n:02}={n:02}")).collect();
        let (left, right) = many.split_at(20);
        let (left, right) = (left.join(","), right.join(","));
        let (long, value) = ("z".repeat(256), "t".repeat(256));
        let alphabet = "abcdefghijklmnopqrstuvwxyz0123456789_-*/";
        let printable: String = (b' '..=b'~').filter(|byte| !b",=".contains(byte)).map(char::from).collect();
        for (sent, goes_on) in [
            (vec!["foo=1,bar=2"], "foo=1,bar=2".to_owned()),
            // Its bytes are the caller's.
            (vec!["foo=1 \t , \t bar=2, ,\t baz=3"], "foo=1 \t , \t bar=2, ,\t baz=3".to_owned()),
            (vec!["foo=1,bar=2", "rojo=1,congo=2", "baz=3"], "foo=1,bar=2,rojo=1,congo=2,baz=3".to_owned()),
            (vec!["foo=1,", "bar=2"], "foo=1,bar=2".to_owned()),
            (vec!["foo=1", ""], "foo=1".to_owned()),
            (vec!["", "foo=1"], "foo=1".to_owned()),
            (vec!["foo=1,foo=1"], "foo=1,foo=1".to_owned()),
            (vec!["foo=1", "foo=2"], "foo=1,foo=2".to_owned()),
            (vec![&format!("{alphabet}={printable}")], format!("{alphabet}={printable}")),
            (vec![&format!("{alphabet}@a-z0-9_-*/={printable}")], format!("{alphabet}@a-z0-9_-*/={printable}")),
            (vec!["foo@=1,bar=2"], "foo@=1,bar=2".to_owned()),
            (vec!["foo@@bar=1,bar=2"], "foo@@bar=1,bar=2".to_owned()),
            (vec!["foo@bar@baz=1,bar=2"], "foo@bar@baz=1,bar=2".to_owned()),
            (vec!["1foo=1"], "1foo=1".to_owned()),
            (vec!["foo=1", &format!("{long}=1")], format!("foo=1,{long}=1")),
            (vec![&format!("foo={value}")], format!("foo={value}")),
            (vec![&left, &right], many.join(",")),
            (vec![&format!("a={value},b={value},c={value}")], format!("a={value},b={value},c={value}")),
        ] {
            assert_eq!(state(&sent), [goes_on]);
        }
    }

    #[test]
    fn a_malformed_tracestate_goes() {
        let many = (1..=33).map(|n| format!("bar{n:02}={n:02}")).collect::<Vec<_>>().join(",");
        for bad in [
            "",
            " , ",
            "foo",
            "foo =1",
            "FOO=1",
            "foo.bar=1",
            "@foo=1,bar=2",
            "_foo=1",
            "foo=bar=baz",
            "foo=,bar=3",
            "foo=a\tb",
            &format!("{}=1", "z".repeat(257)),
            &format!("foo={}", "t".repeat(257)),
            &many,
        ] {
            assert!(state(&[bad]).is_empty(), "{bad}");
            assert!(state(&[bad, "BAR=1"]).is_empty(), "{bad}");
        }
        assert!(state(&["foo=1", "bad key=2"]).is_empty());
    }

    #[test]
    fn a_span_has_whole_members_of_a_long_tracestate() {
        let of = |text: &str| {
            let headers = HeaderMap::from_iter([(TRACESTATE, HeaderValue::from_str(text).unwrap())]);
            state_of_span(&headers).map(String::from)
        };
        assert_eq!(of("foo=1 , bar=2").unwrap(), "foo=1 , bar=2");
        let (short, long) = ("s".repeat(98), "l".repeat(200));
        let all = format!("x={long},a={short},b={short},c={short},d={short},e={short},f={short}");
        assert_eq!(of(&all).unwrap(), format!("a={short},b={short},c={short},d={short},e={short}"));
        assert_eq!(state_of_span(&HeaderMap::new()), None);
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_and_read_again(text in "[0-9a-f-]{50,60}|0[01]-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-x)?") {
            if let Some(read) = TraceParent::parse(text.as_bytes()) {
                prop_assert_eq!(TraceParent::parse(read.value().as_bytes()), Some(read));
            }
        }

        #[test]
        fn no_bytes_panic(parent in any::<Vec<u8>>(), state in "\\PC{0,80}") {
            TraceParent::parse(&parent);
            if let Ok(value) = HeaderValue::from_str(&state) {
                let mut headers = HeaderMap::from_iter([(TRACESTATE, value)]);
                keep_valid_state(&mut headers);
                state_of_span(&headers);
            }
        }
    }
}

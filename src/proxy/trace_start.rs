//! Owns: which trace a request belongs to, and whether it is sampled.
//! Invariant: pure; a caller that nobody trusts can't have its requests recorded.
//! Must not know: spans, exporters.

use http::header::HeaderMap;

use super::trace_context::{self, TraceFlags, TraceParent};
use crate::telemetry::{SpanId, SpanPlace, TraceId};

/// Continues the caller's trace, or begins one. Leaves a valid `tracestate` in `headers`, or none.
///
/// A caller that `is_trusted` decides about sampling by its flag. For any other, `per_million` requests of a million are
/// sampled: for a new trace by its id, as services do that know the same rule (Trace Context Level 2 §2.2.2), but not by
/// an id that the caller has chosen.
pub(super) fn start(
    headers: &mut HeaderMap,
    per_million: u32,
    is_trusted: bool,
    mut random: impl FnMut() -> u64,
) -> (SpanPlace, TraceFlags) {
    let caller = TraceParent::of(headers);
    match caller {
        Some(_) => trace_context::keep_valid_state(headers),
        None => trace_context::remove_state(headers),
    }
    let (trace, is_sampled, is_random) = match caller {
        Some(TraceParent { trace, flags, .. }) if is_trusted => (trace, flags.is_sampled, flags.is_random),
        Some(TraceParent { trace, flags, .. }) => (trace, is_in_sample(random(), per_million), flags.is_random),
        None => {
            // An id is never zero.
            let (high, low) = (random(), random().max(1));
            (TraceId((u128::from(high) << 64 | u128::from(low)).to_be_bytes()), is_in_sample(low, per_million), true)
        }
    };
    let state = if is_sampled { trace_context::state_of_span(headers) } else { None };
    let place = SpanPlace { trace, span: new_span(random()), parent: caller.map(|caller| caller.span), state };
    (place, TraceFlags { is_sampled, is_random })
}

/// Makes the id of a span of a random number. It is never zero.
pub(super) fn new_span(random: u64) -> SpanId {
    SpanId(random.max(1).to_be_bytes())
}

/// Whether the last seven bytes of a random number are in a sample of so many per million.
fn is_in_sample(random: u64, per_million: u32) -> bool {
    let random = random & (u64::MAX >> 8);
    u128::from(random) * 1_000_000 < u128::from(per_million) << 56
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::pool::hash::mix;

    const PARENT: &str = "00-12345678901234567890123456789012-1234567890123456-0";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn numbers() -> impl FnMut() -> u64 {
        let mut next = 0;
        move || {
            next += 1;
            mix(next)
        }
    }

    #[test]
    fn only_a_trusted_caller_decides_about_sampling() {
        for (flag, per_million, is_trusted, is_sampled) in
            [("1", 0, true, true), ("0", 1_000_000, true, false), ("1", 0, false, false), ("0", 1_000_000, false, true)]
        {
            let mut headers = headers(&[("traceparent", &format!("{PARENT}{flag}")), ("tracestate", "foo=1")]);
            let (place, flags) = start(&mut headers, per_million, is_trusted, numbers());
            assert_eq!(flags, TraceFlags { is_sampled, is_random: false });
            assert_eq!(place.trace.0[..4], [0x12, 0x34, 0x56, 0x78]);
            assert_eq!(place.parent, Some(SpanId([0x12, 0x34, 0x56, 0x78, 0x90, 0x12, 0x34, 0x56])));
            assert_ne!(Some(place.span), place.parent);
            assert_eq!(place.state.as_deref(), is_sampled.then_some("foo=1"));
            assert_eq!(headers["tracestate"], "foo=1");
        }
    }

    #[test]
    fn a_malformed_or_repeated_parent_begins_a_random_trace_without_its_state() {
        let valid = format!("{PARENT}1");
        for parents in [&[][..], &["nonsense"], &[&valid, &valid]] {
            let mut fields: Vec<_> = parents.iter().map(|parent| ("traceparent", *parent)).collect();
            fields.push(("tracestate", "foo=1"));
            let mut headers = headers(&fields);
            let (place, flags) = start(&mut headers, 1_000_000, true, numbers());
            assert_eq!(flags, TraceFlags { is_sampled: true, is_random: true });
            assert_eq!((place.parent, &place.state), (None, &None));
            assert_ne!(place.trace.0[..4], [0x12, 0x34, 0x56, 0x78]);
            assert!(!headers.contains_key("tracestate"));
        }
        let (place, _) = start(&mut HeaderMap::new(), 0, true, || 0);
        assert!(place.trace.0 != [0; 16] && place.span.0 != [0; 8]);
    }

    #[test]
    fn a_sample_has_its_share_of_requests_whatever_id_an_untrusted_caller_chooses() {
        let mut random = numbers();
        // The last seven bytes are 0, which are in each sample.
        let chosen = "00-12345678900000000000000000000000-1234567890123456-01";
        for caller in [None, Some(chosen)] {
            let mut count = |per_million| {
                let sampled = (0..10_000).filter(|_| {
                    let mut headers = headers(caller.map(|value| ("traceparent", value)).as_slice());
                    start(&mut headers, per_million, false, &mut random).1.is_sampled
                });
                sampled.count()
            };
            assert_eq!((count(0), count(1_000_000)), (0, 10_000));
            let share = count(100_000);
            assert!((900..1100).contains(&share), "{share}");
        }
    }
}

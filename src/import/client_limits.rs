//! Owns: limits per client of the parts of a source, as the one limit of each kind that Linchpin has for all requests.
//! Invariant: no request is limited that the source did not limit; where parts differ, the largest limit counts.
//! Must not know: the formats of sources; which requests a part has.

use std::collections::HashSet;
use std::time::Duration;

use super::toml::{Table, Value};

const SOME: &str = "only some requests had this limit per client, and Linchpin has one for all: set `requests_per_client` or `connections_per_client` of [server.limits]";
const LARGEST: &str = "Linchpin has one limit per client for all requests: the largest of these";

/// The range of the number in a rate.
const RATES: std::ops::RangeInclusive<u64> = 1..=100_000;

/// A rate of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) requests: u64,
    pub(super) period: Duration,
    /// How many requests may come at once; `None` for as many as the rate allows in a second.
    pub(super) burst: Option<u64>,
}

/// A limit, with its line and text.
#[derive(Debug, Clone)]
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) line: usize,
    pub(super) text: String,
}

/// The limits of one part of a source, such as a frontend.
#[derive(Debug, Clone, Default)]
pub(super) struct PartLimits {
    pub(super) rate: Option<Given<Rate>>,
    pub(super) connections: Option<Given<u64>>,
}

/// The limits of all parts that forward requests.
#[derive(Debug, Default)]
pub(super) struct ClientLimits(Vec<PartLimits>);

impl Rate {
    /// Returns the number of requests and the unit: the shortest one in which the number is whole.
    fn written(&self) -> Option<(u64, char)> {
        let nanos = self.period.as_nanos().max(1);
        let per = |seconds: u64| {
            let scaled = u128::from(self.requests) * u128::from(seconds) * 1_000_000_000;
            (scaled.is_multiple_of(nanos)).then(|| u64::try_from(scaled / nanos).ok()).flatten()
        };
        let units = [(1, 's'), (60, 'm'), (3600, 'h')];
        units.iter().find_map(|(seconds, unit)| Some((per(*seconds).filter(|count| RATES.contains(count))?, *unit)))
    }

    /// Returns its requests in an hour.
    fn per_hour(&self) -> u128 {
        u128::from(self.requests) * 3_600_000_000_000 / self.period.as_nanos().max(1)
    }
}

impl ClientLimits {
    pub(super) fn push(&mut self, part: PartLimits) {
        self.0.push(part);
    }

    /// Writes the limits that all parts have, and notes the others.
    pub(super) fn finish(self, limits: &mut Table) {
        let rates: Vec<_> = self.0.iter().map(|part| part.rate.clone()).collect();
        if let Some(largest) = largest(&rates, Rate::per_hour, limits) {
            match largest.value.written() {
                Some((count, unit)) => {
                    limits.set("requests_per_client", Value::text(&format!("{count}/{unit}")));
                    if let Some(burst) = largest.value.burst {
                        limits.set("request_burst", Value::number(burst.clamp(1, 1_000_000)));
                    }
                }
                None => limits.limit(largest.line, &largest.text, "not a rate that `requests_per_client` can have"),
            }
        }
        let connections: Vec<_> = self.0.iter().map(|part| part.connections.clone()).collect();
        if let Some(largest) = largest(&connections, |count| u128::from(*count), limits) {
            limits.set("connections_per_client", Value::number(largest.value.clamp(1, 1_000_000)));
        }
    }
}

/// Returns the largest limit if all parts have one, and notes the others.
fn largest<T: Clone>(parts: &[Option<Given<T>>], size: impl Fn(&T) -> u128, limits: &mut Table) -> Option<Given<T>> {
    let given = || parts.iter().flatten();
    let most = given().max_by_key(|given| size(&given.value)).filter(|_| parts.iter().all(Option::is_some));
    let mut noted = HashSet::new();
    for each in given() {
        let is_largest = most.is_some_and(|most| size(&most.value) == size(&each.value));
        if !is_largest && noted.insert(each.line) {
            limits.limit(each.line, &each.text, if most.is_some() { LARGEST } else { SOME });
        }
    }
    most.cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(requests: u64, seconds: u64) -> Rate {
        Rate { requests, period: Duration::from_secs(seconds), burst: None }
    }

    fn written(parts: &[Option<Rate>]) -> String {
        let mut all = ClientLimits::default();
        for (index, rate) in parts.iter().enumerate() {
            let rate = rate.map(|value| Given { value, line: index + 1, text: "x".into() });
            all.push(PartLimits { rate, connections: None });
        }
        let mut table = Table::default();
        all.finish(&mut table);
        let mut text = String::new();
        table.write("[server.limits]", false, &mut text);
        text
    }

    #[test]
    fn a_rate_is_written_in_a_unit_in_which_it_is_whole() {
        assert_eq!(rate(100, 10).written(), Some((10, 's')));
        assert_eq!(rate(5, 10).written(), Some((30, 'm')));
        assert_eq!(rate(1, 120).written(), Some((30, 'h')));
        assert_eq!(rate(1, 7200).written(), None);
        assert_eq!(rate(1_000_000, 1).written(), None);
    }

    #[test]
    fn a_limit_of_some_requests_limits_no_others() {
        assert!(written(&[Some(rate(10, 1)), None]).starts_with("# line 1: x: only some requests"));
        let both = written(&[Some(rate(10, 1)), Some(rate(20, 1))]);
        assert!(
            both.contains("requests_per_client = \"20/s\"") && both.contains("# line 1: x: Linchpin has one"),
            "{both}"
        );
        assert_eq!(written(&[None]), "");
    }
}

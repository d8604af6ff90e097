//! Owns: the request rate of clients: a token bucket per address.
//! Invariant: the rule is pure; the table has a fixed size and no lock, and drops only full buckets while it has space.
//! Must not know: status codes, which requests are counted.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::net;
use crate::slot_table::SlotTable;

/// `requests_per_client` and `request_burst` of `[server.limits]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The number of requests in `per`, on average.
    pub requests: u32,
    /// The time in which a client may send `requests`.
    pub per: Duration,
    /// The number of requests that an idle client may send at once.
    pub burst: u32,
}

/// The rule, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The cost of one request: the time in which its token is refilled.
    cost: u64,
    /// The tokens of a full bucket, as the time in which they are refilled.
    capacity: u64,
}

impl Rate {
    /// Makes the rule for these settings.
    pub fn new(settings: Settings) -> Rate {
        let per = u64::try_from(settings.per.as_micros()).unwrap_or(u64::MAX);
        let cost = (per / u64::from(settings.requests.max(1))).max(1);
        Rate { cost, capacity: cost.saturating_mul(u64::from(settings.burst.max(1))) }
    }

    /// Takes a token from a bucket that will be full at `full`, and returns when it will be full after that. In the
    /// generic cell rate algorithm, this time is the whole state of a bucket.
    ///
    /// # Errors
    /// The bucket is empty; the error is the number of microseconds until it has a token.
    pub fn take(self, full: u64, now: u64) -> Result<u64, u64> {
        let next = full.max(now).saturating_add(self.cost);
        match next.saturating_sub(self.capacity) {
            early if early > now => Err(early - now),
            _ => Ok(next),
        }
    }
}

/// Cache lines of the table: one MiB, for 131,072 clients whose buckets are not full.
const GROUPS: usize = 16 * 1024;

/// Bits of a slot for the time when its bucket is full, in microseconds since the table was made: nine years. The other
/// bits distinguish the clients of a cache line; two clients share them with a chance of one in ten thousand.
const TIME_BITS: u32 = 48;
const MAX_TIME: u64 = SlotTable::<TIME_BITS>::MAX_VALUE;

/// The most attempts to write a slot that other threads write at the same time.
const CAS_ATTEMPTS: usize = 16;

/// The buckets of all clients. All threads share them, because SO_REUSEPORT spreads a client's connections over
/// threads.
#[derive(Debug)]
pub struct RateLimiter {
    rate: Rate,
    created: Instant,
    /// When the bucket of each client will be full.
    buckets: SlotTable<TIME_BITS>,
}

impl RateLimiter {
    /// Makes the table; every client has a full bucket.
    pub fn new(settings: Settings, now: Instant) -> RateLimiter {
        RateLimiter { rate: Rate::new(settings), created: now, buckets: SlotTable::new(GROUPS) }
    }

    /// Takes a token of the client at `address`.
    ///
    /// # Errors
    /// The client has none; the error is the time until it has one.
    pub fn take(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let since = now.saturating_duration_since(self.created).as_micros();
        let now = u64::try_from(since).unwrap_or(MAX_TIME).min(MAX_TIME);
        let group = self.buckets.group(net::client_network(address));
        for _ in 0..CAS_ATTEMPTS {
            let slots = group.slots();
            let own = slots.iter().find(|slot| group.owns(**slot) && slot.value() > now);
            // A full bucket is a free slot. Without one, this replaces the bucket that would be full first.
            let Some(slot) = own.or_else(|| slots.iter().min_by_key(|slot| slot.value())) else { break };
            let full = own.map_or(now, |slot| slot.value());
            let next = self.rate.take(full, now).map_err(Duration::from_micros)?.min(MAX_TIME);
            if group.replace(*slot, next).is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Gives a token back that the client at `address` has taken.
    pub(super) fn give_back(&self, address: IpAddr, now: Instant) {
        let since = now.saturating_duration_since(self.created).as_micros();
        let now = u64::try_from(since).unwrap_or(MAX_TIME).min(MAX_TIME);
        let group = self.buckets.group(net::client_network(address));
        for _ in 0..CAS_ATTEMPTS {
            let slots = group.slots();
            // A bucket that is full by now, or was replaced, needs none.
            let Some(own) = slots.iter().find(|slot| group.owns(**slot) && slot.value() > now) else { break };
            if group.replace(*own, own.value().saturating_sub(self.rate.cost)).is_some() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings(requests: u32, burst: u32) -> Settings {
        Settings { requests, per: Duration::from_secs(1), burst }
    }

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(number).into()
    }

    #[test]
    fn an_idle_client_has_its_burst_and_then_its_rate() {
        let rate = Rate::new(settings(10, 3));
        let mut full = 0;
        for _ in 0..3 {
            full = rate.take(full, 5).unwrap();
        }
        assert_eq!(rate.take(full, 5), Err(100_000));
        assert_eq!(rate.take(full, 100_004), Err(1));
        assert!(rate.take(full, 100_005).is_ok());
    }

    proptest! {
        #[test]
        fn no_time_span_has_more_requests_than_burst_and_rate_allow(
            requests in 1..1000_u32, burst in 1..50_u32, gaps in prop::collection::vec(0..20_000_u64, 1..300)
        ) {
            let rate = Rate::new(settings(requests, burst));
            let (mut now, mut full, mut passed) = (0, 0, Vec::new());
            for gap in gaps {
                now += gap;
                match rate.take(full, now) {
                    Ok(next) => { full = next; passed.push(now); }
                    // The next request passes after this wait, and not earlier.
                    Err(wait) => {
                        prop_assert!(rate.take(full, now + wait).is_ok());
                        prop_assert!(rate.take(full, now + wait - 1).is_err());
                    }
                }
            }
            for (index, begin) in passed.iter().enumerate() {
                for (count, end) in passed[index..].iter().enumerate() {
                    let most = u64::from(burst) + (end - begin) / (1_000_000 / u64::from(requests));
                    prop_assert!((count as u64) < most, "{} from {begin} to {end}", count + 1);
                }
            }
        }
    }

    #[test]
    fn each_ipv4_address_and_each_ipv6_network_has_its_own_bucket() {
        let now = Instant::now();
        let limiter = RateLimiter::new(settings(1, 1), now);
        // Two clients with the same bits would make this fail once in twenty million runs.
        for number in 0..20 {
            assert_eq!(limiter.take(address(number), now), Ok(()));
            assert_eq!(limiter.take(address(number), now), Err(Duration::from_secs(1)));
        }
        assert_eq!(limiter.take(address(3), now + Duration::from_secs(1)), Ok(()));
        assert_eq!(limiter.take("2001:db8::1".parse().unwrap(), now), Ok(()));
        assert!(limiter.take("2001:db8::ffff:2".parse().unwrap(), now).is_err());
        assert_eq!(limiter.take("2001:db8:0:1::1".parse().unwrap(), now), Ok(()));
        // A listener on [::] sees IPv4 clients like this.
        assert!(limiter.take("::ffff:0.0.0.3".parse().unwrap(), now).is_err());
    }

    #[test]
    fn a_token_that_was_given_back_can_be_taken_again() {
        let now = Instant::now();
        let limiter = RateLimiter::new(settings(1, 2), now);
        for _ in 0..5 {
            assert_eq!(limiter.take(address(1), now), Ok(()));
            limiter.give_back(address(1), now);
        }
        // Nobody has more than a full bucket.
        limiter.give_back(address(1), now);
        assert_eq!((limiter.take(address(1), now), limiter.take(address(1), now)), (Ok(()), Ok(())));
        assert!(limiter.take(address(1), now).is_err());
    }

    #[test]
    fn more_clients_than_slots_are_still_served() {
        let now = Instant::now();
        let limiter = RateLimiter::new(settings(1, 1), now);
        let served = (0..400_000).filter(|number| limiter.take(address(*number), now).is_ok()).count();
        assert!(served > 399_000, "{served}");
    }

    #[test]
    fn several_threads_together_admit_no_more_than_one() {
        let now = Instant::now();
        let limiter = RateLimiter::new(settings(1, 500), now);
        let passed = || (0..1000).filter(|_| limiter.take(address(1), now).is_ok()).count();
        let all: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(passed)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!((500..=520).contains(&all), "{all}");
    }
}

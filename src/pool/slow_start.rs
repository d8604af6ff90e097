//! Owns: slow start: how the share of new sessions of a new or returned backend grows to its weight.
//! Invariant: the share depends on time, weight and start alone, never shrinks by time, and is 0 only if the weight is.
//! Must not know: sessions; the policies that balance by the share.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The effective weight of a backend of weight 1 that has served for long.
pub const ONE: u32 = 1000;

/// A backend begins with a tenth of its weight, so that it gets some sessions at once: the default of Envoy's
/// `min_weight_percent`.
const FIRST_PART: u32 = 10;

/// Returns the effective weight at `now`, in units of 1/[`ONE`], of a backend that has served since `since`: it grows
/// linearly to `weight` in the time `slow_start`. `None` means that the backend has served for long.
pub fn effective_weight(now: Instant, since: Option<Instant>, weight: u32, slow_start: Duration) -> u32 {
    let full = weight.saturating_mul(ONE);
    let Some(served) = since.map(|since| now.saturating_duration_since(since)).filter(|served| *served < slow_start)
    else {
        return full;
    };
    let grown = u128::from(full) * served.as_nanos() / slow_start.as_nanos().max(1);
    u32::try_from(grown).unwrap_or(full).max(full.div_ceil(FIRST_PART))
}

/// The slow start of one backend.
#[derive(Debug, Default)]
pub(super) struct SlowStart {
    /// Changes when the backend begins to serve, and with the configuration.
    start: Mutex<Start>,
    /// The effective weight when it was last computed. Balancers read it; no request computes it.
    effective: AtomicU32,
}

#[derive(Debug, Default)]
struct Start {
    /// How long a slow start takes; zero if there is none.
    lasts: Duration,
    /// When the backend began to serve; `None` if it has served for longer than `lasts`.
    since: Option<Instant>,
}

impl SlowStart {
    pub(super) fn new(weight: u32) -> SlowStart {
        SlowStart { start: Mutex::default(), effective: AtomicU32::new(weight.saturating_mul(ONE)) }
    }

    /// Returns the effective weight.
    pub(super) fn effective(&self) -> u32 {
        self.effective.load(Ordering::Relaxed)
    }

    /// Notes that the backend began to serve at `since`.
    pub(super) fn begin(&self, since: Instant, weight: u32, now: Instant) {
        self.update(weight, now, |start| start.since = Some(since));
    }

    /// Returns for how long the backend has served, if its slow start is not over.
    pub(super) fn served(&self, now: Instant) -> Option<Duration> {
        let start = self.start();
        let served = now.saturating_duration_since(start.since?);
        (served < start.lasts).then_some(served)
    }

    /// Sets how long a slow start takes. One that is under way takes as long from now on.
    pub(super) fn set_duration(&self, lasts: Duration, weight: u32, now: Instant) {
        self.update(weight, now, |start| start.lasts = lasts);
    }

    /// Computes the effective weight again.
    pub(super) fn refresh(&self, weight: u32, now: Instant) {
        self.update(weight, now, |_| {});
    }

    fn update(&self, weight: u32, now: Instant, change: impl FnOnce(&mut Start)) {
        let mut start = self.start();
        change(&mut start);
        let effective = effective_weight(now, start.since, weight, start.lasts);
        // One that has ended stays so, even if the next configuration has a longer one.
        let Start { lasts, since } = &mut *start;
        since.take_if(|since| now.saturating_duration_since(*since) >= *lasts);
        self.effective.store(effective, Ordering::Relaxed);
    }

    fn start(&self) -> MutexGuard<'_, Start> {
        // No change can panic half-way.
        self.start.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_share_of_a_backend_grows_linearly_from_a_tenth_to_its_weight() {
        let begun = Instant::now();
        let at = |seconds: u64| effective_weight(begun + Duration::from_secs(seconds), Some(begun), 4, MINUTE);
        assert_eq!([0, 6, 15, 30, 45, 59, 60, 600].map(at), [400, 400, 1000, 2000, 3000, 3933, 4000, 4000]);
        assert_eq!(effective_weight(begun, None, 4, MINUTE), 4000);
        assert_eq!(effective_weight(begun, Some(begun), 4, Duration::ZERO), 4000, "without a slow start");
        assert_eq!(effective_weight(begun, Some(begun + MINUTE), 1, MINUTE), 100, "a clock that runs behind");
    }

    #[test]
    fn a_slow_start_goes_on_in_another_configuration_and_one_that_has_ended_does_not_come_back() {
        let (slow, begun) = (SlowStart::new(1), Instant::now());
        slow.begin(begun, 1, begun);
        assert_eq!(slow.effective(), ONE, "there is none");
        slow.set_duration(MINUTE, 1, begun);
        assert_eq!(slow.effective(), ONE, "it has served for long by then");
        slow.begin(begun, 1, begun);
        slow.refresh(1, begun + MINUTE / 2);
        assert_eq!(slow.effective(), 500);
        slow.set_duration(MINUTE * 2, 1, begun + MINUTE / 2);
        assert_eq!(slow.effective(), 250);
        slow.refresh(8, begun + MINUTE / 2);
        assert_eq!(slow.effective(), 2000, "a new weight counts at once");
        slow.set_duration(Duration::ZERO, 8, begun + MINUTE / 2);
        slow.set_duration(MINUTE * 60, 8, begun + MINUTE / 2);
        assert_eq!(slow.effective(), 8000);
    }

    proptest! {
        #[test]
        fn no_share_shrinks_by_time_or_is_above_the_weight_or_starved(
            weight in 0u32..=1000, lasts in 0u64..100_000, mut times in proptest::collection::vec(0u64..200_000, 1..20)
        ) {
            let begun = Instant::now();
            times.sort_unstable();
            let mut before = 0;
            for time in times {
                let now = begun + Duration::from_millis(time);
                let share = effective_weight(now, Some(begun), weight, Duration::from_millis(lasts));
                prop_assert!(share >= before && share <= weight * ONE && share * FIRST_PART >= weight * ONE);
                prop_assert!(time < lasts || share == weight * ONE);
                before = share;
            }
        }
    }
}

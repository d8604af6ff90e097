//! Owns: whether a backend counts as alive: rise and fall of its probes, and ejection for failed requests.
//! Invariant: probes and requests are judged apart, and only together say `up`; time is an argument.
//! Must not know: sockets, timers, or who acts on the answer.

use std::time::{Duration, Instant};

/// When a backend's health changes. The keys of `[pools.health]` (rise, fall) and `[pools.ejection]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Successful probes in a row that bring a backend back up, 1 to 100.
    pub rise: u32,
    /// Failed probes in a row that take a backend down, 1 to 100.
    pub fall: u32,
    /// Failed requests in a row, over all threads, that eject a backend; 0 never ejects.
    pub consecutive_failures: u32,
    /// How long the first ejection lasts; each further one lasts a `base_time` longer.
    pub base_time: Duration,
    /// The longest ejection.
    pub max_time: Duration,
    /// Share of the pool's backends that may be ejected at once, in percent, 0 to 100. The whole
    /// pool is never ejected, whatever this says.
    pub max_ejected: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            rise: 2,
            fall: 3,
            consecutive_failures: 5,
            base_time: Duration::from_secs(10),
            max_time: Duration::from_secs(300),
            max_ejected: 50,
        }
    }
}

/// What was observed of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Up,
    /// Its probes fail.
    Down,
    /// Its probes pass or there are none, but requests failed on it one after the other.
    Ejected,
}

impl Health {
    /// The word of the design for this state, as it stands in the status API.
    pub fn as_str(self) -> &'static str {
        match self {
            Health::Up => "up",
            Health::Down => "down",
            Health::Ejected => "ejected",
        }
    }
}

/// One backend's rise/fall and ejection machine.
#[derive(Debug, Clone, Default)]
pub struct Vitals {
    probes: Probes,
    requests: Requests,
}

/// What the active probes say. `None` before the first: then a backend is believed.
#[derive(Debug, Clone, Default)]
struct Probes {
    alive: Option<bool>,
    against: u32,
}

/// What the requests say.
#[derive(Debug, Clone, Default)]
struct Requests {
    failures: u32,
    ejections: u32,
    until: Option<Instant>,
}

impl Vitals {
    /// A probe came back. The very first one decides alone, so that a backend that is dead when
    /// the proxy starts costs one probe and not `fall` of them (HAProxy starts its checks so).
    pub fn probed(&mut self, passed: bool, settings: &Settings) {
        let probes = &mut self.probes;
        match probes.alive {
            None => probes.alive = Some(passed),
            Some(alive) if alive == passed => probes.against = 0,
            Some(alive) => {
                probes.against += 1;
                let needed = if alive { settings.fall } else { settings.rise };
                if probes.against >= needed {
                    probes.alive = Some(passed);
                    probes.against = 0;
                    // A server that has risen again is a new life: what requests said of the
                    // old one is forgotten, or it would stay ejected while its probes pass.
                    if passed {
                        self.requests = Requests::default();
                    }
                }
            }
        }
    }

    /// A request failed on the backend. `may_eject` says whether the pool can spare it
    /// (see [`may_eject`]); where it can't, the count stays at the brink.
    pub fn failed(&mut self, now: Instant, may_eject: bool, settings: &Settings) {
        if settings.consecutive_failures == 0 || self.is_ejected(now) {
            return;
        }
        let requests = &mut self.requests;
        requests.failures = (requests.failures + 1).min(settings.consecutive_failures);
        if requests.failures == settings.consecutive_failures && may_eject {
            requests.ejections = requests.ejections.saturating_add(1);
            let time = settings.base_time.saturating_mul(requests.ejections).min(settings.max_time);
            requests.until = now.checked_add(time);
            requests.failures = 0;
        }
    }

    /// A request succeeded on the backend. A success after an ejection has ended pays one
    /// ejection back, so that the next time out grows only while the backend keeps failing.
    pub fn succeeded(&mut self, now: Instant) {
        self.requests.failures = 0;
        if !self.is_ejected(now) && self.requests.until.take().is_some() {
            self.requests.ejections = self.requests.ejections.saturating_sub(1);
        }
    }

    /// Failed requests in a row, so far.
    pub fn failures(&self) -> u32 {
        self.requests.failures
    }

    /// Whether a success has something to clear.
    pub fn is_marked(&self) -> bool {
        self.requests.failures > 0 || self.requests.until.is_some()
    }

    /// The verdict at `now`.
    pub fn health(&self, now: Instant) -> Health {
        if self.probes.alive == Some(false) {
            Health::Down
        } else if self.is_ejected(now) {
            Health::Ejected
        } else {
            Health::Up
        }
    }

    /// When the verdict changes by time alone: the end of a running ejection.
    pub fn changes_at(&self, now: Instant) -> Option<Instant> {
        self.requests.until.filter(|until| *until > now)
    }

    fn is_ejected(&self, now: Instant) -> bool {
        self.requests.until.is_some_and(|until| until > now)
    }
}

/// Whether one more of a pool's `total` backends may be ejected when, of the others, `ejected` are
/// so already and `out` take no new session for whatever reason, the operator's included: within `max_ejected` percent, at least one backend where there are
/// two, and never the last one that serves.
pub fn may_eject(ejected: usize, out: usize, total: usize, settings: &Settings) -> bool {
    let share = total * usize::from(settings.max_ejected.min(100)) / 100;
    let allowed = if settings.max_ejected == 0 { 0 } else { share.max(1) };
    ejected < allowed && out + 1 < total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::default()
    }

    #[test]
    fn the_first_probe_decides_alone_and_later_ones_need_fall_or_rise() {
        let (now, s) = (Instant::now(), settings());
        let mut v = Vitals::default();
        assert_eq!(v.health(now), Health::Up);
        v.probed(false, &s);
        assert_eq!(v.health(now), Health::Down);
        v.probed(true, &s);
        assert_eq!(v.health(now), Health::Down);
        v.probed(true, &s);
        assert_eq!(v.health(now), Health::Up);
        v.probed(false, &s);
        v.probed(false, &s);
        v.probed(true, &s);
        v.probed(false, &s);
        v.probed(false, &s);
        assert_eq!(v.health(now), Health::Up, "a pass between failures starts the count anew");
        v.probed(false, &s);
        assert_eq!(v.health(now), Health::Down);
    }

    #[test]
    fn ejection_grows_with_each_return_is_capped_and_is_paid_back() {
        let s = Settings { consecutive_failures: 2, ..settings() };
        let mut now = Instant::now();
        let mut v = Vitals::default();
        for expected in [10, 20, 30] {
            v.failed(now, true, &s);
            v.failed(now, true, &s);
            assert_eq!(v.health(now), Health::Ejected);
            assert_eq!(v.changes_at(now), Some(now + Duration::from_secs(expected)));
            now += Duration::from_secs(expected);
            assert_eq!(v.health(now), Health::Up);
        }
        for _ in 0..100 {
            v.failed(now, true, &s);
            v.failed(now, true, &s);
            let until = v.changes_at(now).unwrap();
            assert!(until - now <= s.max_time);
            now = until;
        }
        let before = v.requests.ejections;
        v.succeeded(now);
        v.succeeded(now);
        assert_eq!(v.requests.ejections, before - 1, "one return pays back one ejection");
    }

    #[test]
    fn a_success_between_failures_starts_the_count_anew() {
        let s = Settings { consecutive_failures: 2, ..settings() };
        let now = Instant::now();
        let mut v = Vitals::default();
        for _ in 0..10 {
            v.failed(now, true, &s);
            v.succeeded(now);
        }
        assert_eq!(v.health(now), Health::Up);
    }

    #[test]
    fn a_backend_that_cannot_be_spared_is_ejected_by_its_next_failure_once_it_can() {
        let s = Settings { consecutive_failures: 2, ..settings() };
        let now = Instant::now();
        let mut v = Vitals::default();
        for _ in 0..5 {
            v.failed(now, false, &s);
        }
        assert_eq!(v.health(now), Health::Up);
        v.failed(now, true, &s);
        assert_eq!(v.health(now), Health::Ejected);
    }

    #[test]
    fn a_backend_that_rises_again_is_no_longer_ejected() {
        let s = Settings { consecutive_failures: 1, rise: 1, fall: 1, ..settings() };
        let now = Instant::now();
        let mut v = Vitals::default();
        v.probed(true, &s);
        v.failed(now, true, &s);
        v.probed(false, &s);
        assert_eq!(v.health(now), Health::Down);
        v.probed(true, &s);
        assert_eq!(v.health(now), Health::Up);
    }

    #[test]
    fn the_whole_pool_is_never_ejected() {
        let s = Settings { max_ejected: 100, ..settings() };
        assert!(!may_eject(0, 0, 1, &s));
        assert!(may_eject(0, 0, 2, &s));
        assert!(!may_eject(1, 1, 2, &s));
        assert!(!may_eject(0, 1, 2, &s), "the other one is down");
        assert!(may_eject(1, 1, 3, &s));
        let half = settings();
        assert!(may_eject(0, 0, 3, &half));
        assert!(!may_eject(1, 1, 3, &half));
        let never = Settings { max_ejected: 0, ..settings() };
        assert!(!may_eject(0, 0, 10, &never));
    }

    proptest::proptest! {
        #[test]
        fn no_order_of_events_ejects_without_the_failures_or_longer_than_the_cap(
            events in proptest::collection::vec((0u8..4, 0u64..40), 1..200)
        ) {
            let s = Settings { consecutive_failures: 3, ..settings() };
            let mut now = Instant::now();
            let mut v = Vitals::default();
            let mut in_a_row = 0;
            for (event, step) in events {
                now += Duration::from_secs(step);
                let was = v.health(now);
                match event {
                    0 => { in_a_row += 1; v.failed(now, true, &s); }
                    1 => { in_a_row = 0; v.succeeded(now); }
                    2 => v.probed(true, &s),
                    _ => v.probed(false, &s),
                }
                if was != Health::Ejected && v.health(now) == Health::Ejected && event == 0 {
                    proptest::prop_assert!(in_a_row >= 3);
                }
                if let Some(until) = v.changes_at(now) {
                    proptest::prop_assert!(until - now <= s.max_time);
                }
            }
        }
    }
}

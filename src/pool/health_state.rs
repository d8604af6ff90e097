//! Owns: the state machine of a backend's health: rise and fall of its probes, and ejection for failed requests.
//! Invariant: probes, requests and the source are judged separately; a backend is up only if all say so; time is an argument.
//! Must not know: sockets, timers, or what acts on the verdict.

use std::fmt;
use std::time::{Duration, Instant};

use super::failure_evidence::{FailureEvidence, RunEvidence};

/// The thresholds at which a backend's health changes. The keys of `[pools.health]` (rise, fall) and
/// `[pools.ejection]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Consecutive successful probes that bring a backend up, 1 to 100.
    pub rise: u32,
    /// Consecutive failed probes that take a backend down, 1 to 100.
    pub fall: u32,
    /// Consecutive failed requests, over all threads, that eject a backend ([`FailedRequest`] says which ones count); 0
    /// never ejects.
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
    /// It serves.
    Up,
    /// Its probes fail, or its source says that it does not serve.
    Down,
    /// Its probes pass or there are none, but consecutive requests failed on it.
    Ejected,
}

impl Health {
    /// Returns the word for this state in the status API.
    pub fn as_str(self) -> &'static str {
        match self {
            Health::Up => "up",
            Health::Down => "down",
            Health::Ejected => "ejected",
        }
    }
}

/// How a request failed on a backend, as evidence against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedRequest {
    /// No connection could be used. No request can cause that: it counts whichever client sent the request.
    Connect,
    /// The response failed, or never came. One client or one page can cause that at will: a run of such failures counts
    /// once enough clients have received one ([`RunEvidence::suffice`]).
    Response(FailureEvidence),
}

/// Consecutive requests that failed on a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureRun {
    /// At least so many requests.
    pub failures: u32,
    /// Distinct clients that received failed responses.
    pub clients: usize,
}

impl fmt::Display for FailureRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FailureRun { failures, clients } = *self;
        match failures {
            1 => f.write_str("1 request failed")?,
            failures => write!(f, "{failures} requests in a row failed")?,
        }
        match clients {
            0 => Ok(()),
            1 => f.write_str(", of 1 client"),
            clients => write!(f, ", of {clients} clients"),
        }
    }
}

/// The state machine of one backend.
#[derive(Debug, Clone, Default)]
pub struct HealthState {
    probes: Probes,
    requests: Requests,
    /// Its source says that it does not serve.
    reported_down: bool,
}

/// The state of its probes. `alive` is `None` before the first probe: the backend counts as up.
#[derive(Debug, Clone, Default)]
struct Probes {
    alive: Option<bool>,
    against: u32,
}

/// The state of its requests.
#[derive(Debug, Clone, Default)]
struct Requests {
    /// Consecutive failures, and how many of them had no connection.
    failures: u32,
    unreached: u32,
    evidence: RunEvidence,
    ejections: u32,
    /// The end of the last ejection, and whether it began because the backend could not be reached.
    until: Option<Instant>,
    is_unreachable: bool,
    /// The last run that ejected it, or would have if the pool could spare it.
    run: Option<FailureRun>,
    is_kept: bool,
    /// Consecutive probes that passed since the ejection began.
    passed: u32,
}

/// What of a backend's health the next process begins with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InheritedHealth {
    /// Its probes fail.
    pub is_down: bool,
    /// How long it is still ejected.
    pub ejected_for: Option<Duration>,
    /// It is ejected because no connection could be used.
    pub is_unreachable: bool,
    /// How often it was ejected without having succeeded since.
    pub ejections: u32,
}

impl Requests {
    fn is_ejected(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until > now)
    }

    /// Ends a run of failures.
    fn clear_run(&mut self) {
        (self.failures, self.unreached, self.evidence, self.is_kept) = (0, 0, RunEvidence::default(), false);
    }

    /// Ends a running ejection. A success after it pays it back, as after an ejection that has expired.
    fn end(&mut self, now: Instant) {
        if self.is_ejected(now) {
            self.until = Some(now);
        }
    }
}

impl HealthState {
    /// Begins with what another process has observed.
    pub fn begin(health: &InheritedHealth, now: Instant) -> HealthState {
        let InheritedHealth { is_down, ejected_for, is_unreachable, ejections } = *health;
        let until = ejected_for.and_then(|left| now.checked_add(left));
        HealthState {
            // The first probe decides alone whether it is up, as at any start.
            probes: Probes { alive: is_down.then_some(false), against: 0 },
            requests: Requests { ejections, until, is_unreachable, ..Requests::default() },
            // Its source says it again.
            reported_down: false,
        }
    }

    /// Returns what another process begins with.
    pub fn inherited(&self, now: Instant) -> InheritedHealth {
        let requests = &self.requests;
        InheritedHealth {
            is_down: self.probes.alive == Some(false),
            ejected_for: requests.until.filter(|until| *until > now).map(|until| until - now),
            is_unreachable: self.is_unreachable(now),
            ejections: requests.ejections,
        }
    }

    /// Enters the result of a probe. The first one decides alone, so that a backend that is dead when the proxy starts
    /// costs one probe and not `fall` of them (HAProxy starts its checks in the same manner).
    ///
    /// Probes that have passed `rise` times since an ejection began end it, whatever they said before
    /// (Envoy's default): a server that was restarted between two probes never failed one.
    pub fn probed(&mut self, passed: bool, now: Instant, settings: &Settings) {
        let requests = &mut self.requests;
        requests.passed = if passed { requests.passed.saturating_add(1) } else { 0 };
        if requests.passed >= settings.rise {
            requests.end(now);
        }
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
                    // A server that has risen counts as restarted: failures of requests before that are
                    // forgotten, or it would stay ejected while its probes pass.
                    if passed {
                        self.requests = Requests::default();
                    }
                }
            }
        }
    }

    /// Enters whether its source says that it does not serve. One that serves again counts as restarted: failures of
    /// requests before that are forgotten.
    pub fn reported(&mut self, is_down: bool) {
        if std::mem::replace(&mut self.reported_down, is_down) && !is_down {
            self.requests = Requests::default();
        }
    }

    /// Returns whether its source says that it does not serve.
    pub fn is_reported_down(&self) -> bool {
        self.reported_down
    }

    /// Forgets what probes have shown, since there are none any more: only they could show that the backend is back.
    pub fn forget_probes(&mut self) {
        self.probes = Probes::default();
    }

    /// Enters a request that failed on the backend. `may_eject` is called once the run of failures suffices, and says
    /// whether the pool can spare the backend (see [`may_eject`]); if it can't, the next failure tries again.
    pub fn failed(
        &mut self,
        failed: FailedRequest,
        now: Instant,
        may_eject: impl FnOnce() -> bool,
        settings: &Settings,
    ) {
        let most = settings.consecutive_failures;
        let requests = &mut self.requests;
        if most == 0 || requests.is_ejected(now) {
            return;
        }
        requests.failures = requests.failures.saturating_add(1).min(most);
        let is_proven = match failed {
            FailedRequest::Connect => {
                requests.unreached = requests.unreached.saturating_add(1).min(most);
                requests.unreached == most || requests.evidence.suffice(false)
            }
            FailedRequest::Response(evidence) => {
                requests.evidence.add(evidence);
                requests.unreached == most || requests.evidence.suffice(evidence.only_client)
            }
        };
        if requests.failures < most || !is_proven {
            return;
        }
        requests.run = Some(FailureRun { failures: most, clients: requests.evidence.clients() });
        requests.is_kept = !may_eject();
        if !requests.is_kept {
            requests.ejections = requests.ejections.saturating_add(1);
            let time = settings.base_time.saturating_mul(requests.ejections).min(settings.max_time);
            requests.until = now.checked_add(time);
            requests.is_unreachable = failed == FailedRequest::Connect;
            requests.passed = 0;
            requests.clear_run();
        }
    }

    /// Enters a request that succeeded on the backend. A success after an ejection pays one ejection back, so that
    /// ejections grow longer only while the backend keeps failing.
    pub fn succeeded(&mut self, now: Instant) {
        self.requests.clear_run();
        if !self.requests.is_ejected(now) && self.requests.until.take().is_some() {
            self.requests.ejections = self.requests.ejections.saturating_sub(1);
        }
    }

    /// Enters that a connection was established: ends an ejection for failed connections.
    pub fn reached(&mut self, now: Instant) {
        self.requests.clear_run();
        if self.requests.is_unreachable {
            self.requests.end(now);
        }
    }

    /// Returns whether the backend would be ejected if the pool could spare it.
    pub fn is_kept(&self) -> bool {
        self.requests.is_kept
    }

    /// Returns the last run of failures that ejected it, or would have.
    pub fn run(&self) -> Option<FailureRun> {
        self.requests.run
    }

    /// Returns whether as many consecutive requests have failed as eject a backend, of any clients. If they don't eject
    /// it, other requests avoid it all the same.
    pub fn is_suspect(&self, settings: &Settings) -> bool {
        settings.consecutive_failures > 0 && self.requests.failures >= settings.consecutive_failures
    }

    /// Returns whether a success would clear something.
    pub fn awaits_success(&self) -> bool {
        self.requests.failures > 0 || self.requests.until.is_some()
    }

    /// Returns whether it is ejected at `now` because no connection could be used.
    pub fn is_unreachable(&self, now: Instant) -> bool {
        self.requests.is_unreachable && self.requests.is_ejected(now)
    }

    /// Returns the verdict at `now`.
    pub fn health(&self, now: Instant) -> Health {
        if self.reported_down || self.probes.alive == Some(false) {
            Health::Down
        } else if self.requests.is_ejected(now) {
            Health::Ejected
        } else {
            Health::Up
        }
    }

    /// Returns when the verdict changes by time alone: the end of a running ejection.
    pub fn changes_at(&self, now: Instant) -> Option<Instant> {
        self.requests.until.filter(|until| *until > now)
    }
}

/// Returns whether one more of a pool's `total` backends may be ejected when, of the others, `ejected` are ejected and
/// `out` accept no new session for any reason, the operator's included. The limit is `max_ejected` percent, but at
/// least one of two or more backends, and never the last one that accepts sessions.
pub fn may_eject(ejected: usize, out: usize, total: usize, settings: &Settings) -> bool {
    let share = total * usize::from(settings.max_ejected.min(100)) / 100;
    let allowed = if settings.max_ejected == 0 { 0 } else { share.max(1) };
    ejected < allowed && out + 1 < total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::failure_evidence::ClientKey;

    fn settings() -> Settings {
        Settings::default()
    }

    #[test]
    fn the_first_probe_decides_alone_and_later_ones_need_fall_or_rise() {
        let (now, s) = (Instant::now(), settings());
        let mut v = HealthState::default();
        assert_eq!(v.health(now), Health::Up);
        v.probed(false, now, &s);
        assert_eq!(v.health(now), Health::Down);
        v.probed(true, now, &s);
        assert_eq!(v.health(now), Health::Down);
        v.probed(true, now, &s);
        assert_eq!(v.health(now), Health::Up);
        v.probed(false, now, &s);
        v.probed(false, now, &s);
        v.probed(true, now, &s);
        v.probed(false, now, &s);
        v.probed(false, now, &s);
        assert_eq!(v.health(now), Health::Up, "a pass between failures starts the count anew");
        v.probed(false, now, &s);
        assert_eq!(v.health(now), Health::Down);
    }

    #[test]
    fn ejection_grows_with_each_return_is_capped_and_is_paid_back() {
        let s = Settings { consecutive_failures: 2, ..settings() };
        let mut now = Instant::now();
        let mut v = HealthState::default();
        for expected in [10, 20, 30] {
            v.failed(FailedRequest::Connect, now, || true, &s);
            v.failed(FailedRequest::Connect, now, || true, &s);
            assert_eq!(v.health(now), Health::Ejected);
            assert_eq!(v.changes_at(now), Some(now + Duration::from_secs(expected)));
            now += Duration::from_secs(expected);
            assert_eq!(v.health(now), Health::Up);
        }
        for _ in 0..100 {
            v.failed(FailedRequest::Connect, now, || true, &s);
            v.failed(FailedRequest::Connect, now, || true, &s);
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
        let mut v = HealthState::default();
        for _ in 0..10 {
            v.failed(FailedRequest::Connect, now, || true, &s);
            v.succeeded(now);
        }
        assert_eq!(v.health(now), Health::Up);
    }

    #[test]
    fn a_backend_that_cannot_be_spared_is_ejected_by_its_next_failure_once_it_can() {
        let s = Settings { consecutive_failures: 2, ..settings() };
        let now = Instant::now();
        let mut v = HealthState::default();
        for _ in 0..5 {
            v.failed(FailedRequest::Connect, now, || false, &s);
        }
        assert_eq!(v.health(now), Health::Up);
        v.failed(FailedRequest::Connect, now, || true, &s);
        assert_eq!(v.health(now), Health::Ejected);
    }

    #[test]
    fn a_backend_that_rises_again_is_no_longer_ejected() {
        let s = Settings { consecutive_failures: 1, rise: 1, fall: 1, ..settings() };
        let now = Instant::now();
        let mut v = HealthState::default();
        v.probed(true, now, &s);
        v.failed(FailedRequest::Connect, now, || true, &s);
        v.probed(false, now, &s);
        assert_eq!(v.health(now), Health::Down);
        v.probed(true, now, &s);
        assert_eq!(v.health(now), Health::Up);
    }

    fn answer(client: u8, path: u64) -> FailedRequest {
        let client = ClientKey::new([10, 0, 0, client].into(), None);
        FailedRequest::Response(FailureEvidence { client, path, only_client: false })
    }

    #[test]
    fn one_client_ejects_nothing_with_failing_answers_and_three_do() {
        let (s, now) = (settings(), Instant::now());
        let mut v = HealthState::default();
        (0..100).for_each(|path| v.failed(answer(1, path), now, || true, &s));
        (0..100).for_each(|path| v.failed(answer(2, path), now, || true, &s));
        assert_eq!(v.health(now), Health::Up);
        v.failed(answer(3, 1), now, || true, &s);
        assert_eq!(v.health(now), Health::Ejected);
        assert!(!v.is_unreachable(now), "it was reached");
        v = HealthState::default();
        (1..=4).for_each(|client| v.failed(answer(client, 1), now, || true, &s));
        assert_eq!(v.health(now), Health::Up, "three clients, but too few failures");
        v.succeeded(now);
        (1..=4).for_each(|client| v.failed(answer(client, 1), now, || true, &s));
        assert_eq!(v.health(now), Health::Up, "a success ends the run");
    }

    #[test]
    fn one_client_that_is_alone_ejects_with_three_paths() {
        let (s, now) = (settings(), Instant::now());
        let alone = |path| match answer(1, path) {
            FailedRequest::Response(evidence) => {
                FailedRequest::Response(FailureEvidence { only_client: true, ..evidence })
            }
            FailedRequest::Connect => FailedRequest::Connect,
        };
        let mut v = HealthState::default();
        (0..100).for_each(|time| v.failed(alone(time % 2), now, || true, &s));
        assert_eq!(v.health(now), Health::Up);
        v.failed(alone(2), now, || true, &s);
        assert_eq!(v.health(now), Health::Ejected);
    }

    #[test]
    fn connections_that_are_refused_count_at_once_and_one_clients_answers_add_nothing_to_them() {
        let (s, now) = (settings(), Instant::now());
        let mut v = HealthState::default();
        for _ in 0..4 {
            v.failed(answer(1, 1), now, || true, &s);
            v.failed(FailedRequest::Connect, now, || true, &s);
        }
        assert_eq!(v.health(now), Health::Up);
        v.failed(FailedRequest::Connect, now, || true, &s);
        assert_eq!(v.health(now), Health::Ejected);
        assert!(v.is_unreachable(now));
        v.reached(now);
        assert_eq!(v.health(now), Health::Up);
    }

    #[test]
    fn an_ejection_ends_when_probes_have_passed_rise_times_since_it_began_though_they_never_failed() {
        let (s, now) = (settings(), Instant::now());
        let mut v = HealthState::default();
        (0..10).for_each(|_| v.probed(true, now, &s));
        (0..5).for_each(|_| v.failed(FailedRequest::Connect, now, || true, &s));
        assert_eq!(v.health(now), Health::Ejected);
        for (passed, health) in
            [(true, Health::Ejected), (false, Health::Ejected), (true, Health::Ejected), (true, Health::Up)]
        {
            v.probed(passed, now, &s);
            assert_eq!(v.health(now), health);
        }
        assert_eq!(v.requests.ejections, 1);
        v.succeeded(now);
        assert_eq!(v.requests.ejections, 0, "and is paid back");
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
            let mut v = HealthState::default();
            let mut in_a_row = 0;
            for (event, step) in events {
                now += Duration::from_secs(step);
                let was = v.health(now);
                match event {
                    0 => { in_a_row += 1; v.failed(FailedRequest::Connect, now, || true, &s); }
                    1 => { in_a_row = 0; v.succeeded(now); }
                    2 => v.probed(true, now, &s),
                    _ => v.probed(false, now, &s),
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

//! Owns: what a process hands over of its backends, and how the next process begins with it.
//! Invariant: what the operator has set is merged with the new file as at a reload; health holds for the same address.
//! Must not know: how it travels; what the new process does with its backends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::admission::AdminState;
use super::backend::{self, Backend};
use super::backend_set::Pool;
use super::drain::{Drain, DrainCause, DrainEnd, DrainOrder};
use super::health_state::{HealthState, InheritedHealth};
use super::live::Live;
use super::merge::{KeyValues, merge};
use crate::clock;

/// The state of one pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolState {
    /// Its name.
    pub name: String,
    /// Its backends.
    pub backends: Vec<BackendState>,
}

/// The state of one backend.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendState {
    /// Its name.
    pub name: String,
    /// Its address as the configuration writes it.
    pub address: String,
    /// Its incarnation; 0 from a process that says nothing of it.
    pub incarnation: u64,
    /// Its weight in the file, and in use.
    pub weight: Option<(u32, u32)>,
    /// Its admin state in the file, and in use.
    pub state: Option<(String, String)>,
    /// Since when the name means this server, in seconds since the Unix epoch.
    pub since: u64,
    /// Its probes fail.
    pub is_down: bool,
    /// How long it is still ejected, in milliseconds.
    pub ejected_for: Option<u64>,
    /// It is ejected since no connection could be used.
    pub is_unreachable: bool,
    /// How often it was ejected without having succeeded since.
    pub ejections: u32,
    /// Its responses to probes ask for a drain.
    pub asks_for_drain: bool,
    /// For how long it has served, in milliseconds, if its slow start is not over.
    pub served: Option<u64>,
    /// The operator's drain, which can be running or over.
    pub drain: Option<DrainState>,
}

/// A drain. Times are in milliseconds, points in time since the Unix epoch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DrainState {
    /// How long it may take.
    pub deadline: Option<u64>,
    /// Sessions without a request for this long leave first.
    pub idle: u64,
    /// The admin state afterwards.
    pub then: Option<String>,
    /// When it began.
    pub begun: u64,
    /// The admin state before.
    pub before: String,
    /// The sessions that there were.
    pub sessions: u64,
    /// How it ended, when, and with how many sessions left.
    pub end: Option<(String, u64, u64)>,
}

impl DrainState {
    /// Returns what a process hands over of a drain: those of discovered backends begin anew with what is found.
    fn of(drain: &Drain) -> Option<DrainState> {
        (drain.cause == DrainCause::Operator).then(|| DrainState {
            deadline: drain.order.deadline,
            idle: drain.order.idle,
            then: drain.order.then.map(|state| state.as_str().into()),
            begun: drain.begun,
            before: drain.before.as_str().into(),
            sessions: drain.sessions,
            end: drain.end.map(|(end, at, left)| (end.as_str().into(), at, left)),
        })
    }

    /// Returns the drain; `None` if it has words that this version does not know.
    fn drain(&self) -> Option<Drain> {
        let then = match &self.then {
            Some(then) => Some(AdminState::of(then)?),
            None => None,
        };
        let end = match &self.end {
            Some((end, at, left)) => Some((DrainEnd::of(end)?, *at, *left)),
            None => None,
        };
        let order = DrainOrder { deadline: self.deadline, idle: self.idle, then };
        let (before, cause) = (AdminState::of(&self.before)?, DrainCause::Operator);
        Some(Drain { order, cause, begun: self.begun, before, sessions: self.sessions, end })
    }
}

/// What was handed over and no backend has taken yet.
#[derive(Debug, Default)]
pub struct InheritedBackends(HashMap<(String, String), BackendState>);

impl InheritedBackends {
    /// Takes what another process has handed over.
    pub fn new(pools: Vec<PoolState>) -> InheritedBackends {
        let of_pool = |pool: PoolState| {
            pool.backends.into_iter().map(move |backend| ((pool.name.clone(), backend.name.clone()), backend))
        };
        InheritedBackends(pools.into_iter().flat_map(of_pool).collect())
    }

    /// Takes what is known of a backend.
    pub(super) fn take(&mut self, pool: &str, backend: &str) -> Option<BackendState> {
        self.0.remove(&(pool.into(), backend.into()))
    }
}

impl BackendState {
    /// Returns the weight that holds if the new file says this.
    pub(super) fn merged_weight(&self, file: u32) -> u32 {
        self.weight.map_or(file, |(was, runtime)| merge(KeyValues { was, runtime, file }).value())
    }

    /// Returns the admin state that holds if the new file says this.
    pub(super) fn merged_state(&self, file: AdminState) -> AdminState {
        let known =
            self.state.as_ref().and_then(|(was, runtime)| Some((AdminState::of(was)?, AdminState::of(runtime)?)));
        known.map_or(file, |(was, runtime)| merge(KeyValues { was, runtime, file }).value())
    }

    /// Returns whether the state is that of the server which these settings mean.
    pub(super) fn is_of(&self, settings: &backend::Settings) -> bool {
        self.address == settings.address.to_string()
            && (self.incarnation == 0 || self.incarnation == settings.incarnation())
    }

    /// Has a backend go on with the operator's drain and with its slow start, unless the new file has changed its state.
    fn resume(&self, live: &Arc<Live>, now: Instant) {
        let since = self.served.and_then(|served| now.checked_sub(Duration::from_millis(served)));
        since.into_iter().for_each(|since| live.begin_slow_start_at(since, now));
        live.set_asks_for_drain(self.asks_for_drain);
        let is_kept = self.state.as_ref().is_some_and(|(_, runtime)| live.wanted().as_str() == runtime);
        let drain = self.drain.as_ref().filter(|_| is_kept).and_then(DrainState::drain);
        drain.into_iter().for_each(|drain| live.resume_drain(drain));
    }

    /// Sets what differs: weight, admin state, and the operator's drain.
    fn set(&self, live: &Arc<Live>, drain: Option<Drain>) {
        if let Some((_, weight)) = self.weight.filter(|(_, weight)| *weight != live.weight()) {
            live.set_weight(weight);
        }
        let state = self.state.as_ref().and_then(|(_, runtime)| AdminState::of(runtime));
        if let Some(state) = state.filter(|state| *state != live.wanted()) {
            live.set_state(state);
        }
        let plan = |drain: &Drain| (drain.begun, drain.order, drain.is_running());
        if let Some(drain) = drain.filter(|drain| live.draining().current().as_ref().map(plan) != Some(plan(drain))) {
            live.resume_drain(drain);
        }
    }

    fn health(&self) -> InheritedHealth {
        InheritedHealth {
            is_down: self.is_down,
            ejected_for: self.ejected_for.map(Duration::from_millis),
            is_unreachable: self.is_unreachable,
            ejections: self.ejections,
        }
    }
}

impl Pool {
    /// Returns the state of its backends at `now`, for the next process.
    pub fn state(&self, now: Instant) -> PoolState {
        let members = self.health_tracker().lock();
        let of = |backend: &Backend| {
            let live = backend.live();
            let health = members.get(&live.id()).map(|health| health.inherited(now)).unwrap_or_default();
            BackendState {
                name: backend.name().to_string(),
                address: backend.address().to_string(),
                incarnation: backend.incarnation(),
                weight: Some((backend.configured_weight(), live.weight())),
                state: Some((backend.configured_state().as_str().into(), live.wanted().as_str().into())),
                since: backend.since,
                is_down: health.is_down,
                ejected_for: health.ejected_for.and_then(|left| u64::try_from(left.as_millis()).ok()),
                is_unreachable: health.is_unreachable,
                ejections: health.ejections,
                asks_for_drain: live.asks_for_drain(),
                served: live.served(now).and_then(|served| u64::try_from(served.as_millis()).ok()),
                drain: live.draining().current().as_ref().and_then(DrainState::of),
            }
        };
        PoolState { name: self.name().to_string(), backends: self.backends().iter().map(of).collect() }
    }

    /// Takes in what the operator has set of the same servers in a process that has the listeners now.
    pub fn follow(&self, states: &PoolState) {
        for state in &states.backends {
            let Some(index) = self.position(&state.name) else { continue };
            let backend = self.backend(index);
            if backend.address().to_string() == state.address {
                let (live, drain) = (backend.live(), state.drain.as_ref().and_then(DrainState::drain));
                let is_over = |drain: &Drain| drain.end.is_some_and(|(end, ..)| end == DrainEnd::Deadline);
                if drain.as_ref().is_some_and(is_over) && live.draining().is_running() {
                    self.end_streams(index, clock::unix_millis());
                }
                state.set(live, drain);
            }
        }
    }

    /// Has the backend at `index` begin with this state. Nobody uses the pool yet.
    pub(super) fn begin_with(&self, index: usize, state: &BackendState, now: Instant) {
        let live = self.backend(index).live();
        let health = HealthState::begin(&state.health(), now);
        live.set_unreachable(health.is_unreachable(now));
        live.set_awaits_success(health.awaits_success());
        live.set_health(health.health(now), now);
        self.health_tracker().lock().insert(live.id(), health);
        state.resume(live, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::health_state::{self, Health};
    use crate::pool::observe::Observation;
    use crate::pool::reconcile::Reconciler;
    use crate::pool::{Closed, Settings};
    use proptest::prelude::*;

    fn backend(name: &str, port: u16) -> backend::Settings {
        backend::Settings::new(name, ([127, 0, 0, 1], port).into())
    }

    fn settings(backends: Vec<backend::Settings>) -> Settings {
        let health_state = health_state::Settings { consecutive_failures: 1, ..health_state::Settings::default() };
        Settings { name: "app".into(), backends, health_state, ..Settings::default() }
    }

    fn next(states: PoolState, settings: Settings) -> Arc<Pool> {
        next_at(states, settings, crate::clock::now())
    }

    fn next_at(states: PoolState, settings: Settings, now: Instant) -> Arc<Pool> {
        let mut reconciler = Reconciler::new(1);
        reconciler.inherit(InheritedBackends::new(vec![states]));
        reconciler.pools_at(&[settings], now).remove(0)
    }

    #[test]
    fn the_next_process_begins_with_what_was_set_and_observed() {
        let now = crate::clock::now();
        let file = || settings(vec![backend("a", 1), backend("b", 2), backend("c", 3), backend("d", 4)]);
        let pool = Reconciler::new(1).pools(&[file()]).remove(0);
        let live = |index: usize| pool.backend(index).live();
        live(0).set_weight(7);
        live(0).set_state(AdminState::Drain);
        pool.observe(1, Observation::probe(false), now);
        pool.observe(2, Observation::failure(health_state::FailedRequest::Connect), now);
        let states = pool.state(now);
        let after = next(states.clone(), file());
        let live = |index: usize| after.backend(index).live();
        assert_eq!((live(0).weight(), live(0).state()), (7, AdminState::Drain));
        assert_eq!((live(1).health(), live(2).health(), live(3).health()), (Health::Down, Health::Ejected, Health::Up));
        assert_eq!(live(1).accepts_existing(), Err(Closed::Down));
        assert!(after.health_tracker().changes_at(live(2), now).is_some(), "the ejection ends");
        assert_eq!(after.state(now).backends, states.backends, "and so on");
        // The new file counts where it has changed, and another server has another health.
        let changed = backend::Settings { weight: 3, ..backend("a", 1) };
        let after = next(states, settings(vec![changed, backend("b", 9)]));
        assert_eq!((after.backend(0).live().weight(), after.backend(0).live().wanted()), (3, AdminState::Drain));
        assert_eq!(after.backend(1).live().health(), Health::Up);
    }

    fn order(then: Option<AdminState>) -> DrainOrder {
        DrainOrder { deadline: Some(600_000), idle: 30_000, then }
    }

    #[test]
    fn the_next_process_goes_on_with_drains_and_slow_starts() {
        let (now, begun) = (crate::clock::now() + Duration::from_secs(100), crate::clock::unix_millis());
        let slow_start = Duration::from_secs(100);
        let file = || Settings {
            slow_start,
            ..settings(["a", "b", "c", "d", "e"].iter().zip(1..).map(|(name, port)| backend(name, port)).collect())
        };
        let pool = Reconciler::new(1).pools(&[file()]).remove(0);
        let live = |index: usize| pool.backend(index).live();
        live(0).begin_drain(order(Some(AdminState::Maintenance)), 40, begun);
        live(1).begin_drain(order(None), 40, begun);
        live(1).end_drain(DrainEnd::Deadline, 3, begun + 9);
        live(2).begin_drain(order(None), 40, begun);
        live(2).cancel_drain(begun + 9);
        live(3).begin_slow_start(now - slow_start / 2);
        live(4).set_asks_for_drain(true);
        let states = pool.state(now);
        let text = serde_json::to_string(&states).unwrap();
        let after = next_at(serde_json::from_str(&text).unwrap(), file(), now);
        let next = |index: usize| after.backend(index).live();
        for index in 0..5 {
            assert_eq!(next(index).draining().current(), live(index).draining().current(), "{index}");
            assert_eq!(next(index).draining().rule(), live(index).draining().rule(), "{index}");
            assert_eq!(next(index).state(), live(index).state(), "{index}");
        }
        assert!(next(0).draining().is_running() && next(1).draining().rule().is_some());
        assert_eq!((next(3).effective_weight(), next(4).asks_for_drain()), (500, true));
        assert_eq!(next(0).cancel_drain(begun + 10), Some(AdminState::Ready));
        assert_eq!(after.state(now).backends[3], states.backends[3]);
        // A file that sets another state ends the drain.
        let mut changed = file();
        changed.backends[0].state = AdminState::Maintenance;
        let after = next_at(states, changed, now);
        let live = after.backend(0).live();
        assert_eq!((live.state(), live.draining().current()), (AdminState::Maintenance, None));
    }

    #[test]
    fn an_older_process_takes_in_what_the_operator_sets_in_the_newest_one() {
        let make = || Reconciler::new(1).pools(&[settings(vec![backend("a", 1), backend("b", 2)])]).remove(0);
        let (newest, older, now) = (make(), make(), crate::clock::now());
        let (there, here) = (newest.backend(0).live(), older.backend(0).live());
        let begun = clock::unix_millis();
        there.set_weight(7);
        there.begin_drain(order(Some(AdminState::Maintenance)), 40, begun);
        older.follow(&newest.state(now));
        assert_eq!((here.weight(), here.state()), (7, AdminState::Drain));
        assert_eq!(here.draining().current(), there.draining().current());
        assert_eq!(here.draining().rule(), there.draining().rule());
        assert!(!here.draining().ends_stream(begun - 1));
        // The newest process may be the first one to see that the time is over: streams of this one end all the same.
        there.end_drain(DrainEnd::Deadline, 3, begun + 9);
        older.follow(&newest.state(now));
        let ends_stream = |index: usize| older.backend(index).live().draining().ends_stream(begun - 1);
        assert!(ends_stream(0) && !ends_stream(1));
        assert_eq!((here.state(), here.draining().is_running()), (AdminState::Maintenance, false));
        there.set_state(AdminState::Ready);
        there.begin_drain(order(None), 40, begun + 20);
        older.follow(&newest.state(now));
        there.cancel_drain(begun + 30);
        older.follow(&newest.state(now));
        assert_eq!((here.state(), here.draining().rule()), (AdminState::Ready, None));
        // Another server of that name is not meant.
        let other = Reconciler::new(1).pools(&[settings(vec![backend("a", 9)])]).remove(0);
        other.follow(&newest.state(now));
        assert_eq!(other.backend(0).live().weight(), 1);
    }

    #[test]
    fn a_backend_that_comes_later_is_none_of_those_that_were_handed_over() {
        let pool = Reconciler::new(1).pools(&[settings(vec![backend("a", 1), backend("b", 2)])]).remove(0);
        pool.backend(1).live().set_state(AdminState::Drain);
        let mut reconciler = Reconciler::new(1);
        reconciler.inherit(InheritedBackends::new(vec![pool.state(crate::clock::now())]));
        reconciler.pools(&[settings(vec![backend("a", 1)])]);
        reconciler.mark_started();
        let later = reconciler.pools(&[settings(vec![backend("a", 1), backend("b", 2)])]).remove(0);
        assert_eq!(later.backend(1).live().state(), AdminState::Ready);
    }

    #[test]
    fn the_state_of_another_version_has_defaults_where_it_says_nothing() {
        let states: PoolState = serde_json::from_str(
            r#"{"name":"app","later":1,"backends":[{"name":"a","address":"127.0.0.1:1","x":{}}]}"#,
        )
        .unwrap();
        let after = next(states, settings(vec![backend("a", 1)]));
        assert_eq!((after.backend(0).live().weight(), after.backend(0).live().health()), (1, Health::Up));
    }

    proptest! {
        #[test]
        fn a_state_is_read_as_it_was_written(
            names in proptest::collection::vec("[a-z.-]{1,10}", 0..5), weight in any::<(u32, u32)>(), since: u64,
            is_down: bool, ejected_for in proptest::option::of(any::<u64>()), ejections: u32,
        ) {
            let backend = |name: &String| BackendState {
                name: name.clone(), address: "unix:/a".into(), incarnation: since, weight: Some(weight), since, is_down, ejected_for, ejections,
                state: Some(("ready".into(), "drain".into())), is_unreachable: !is_down, asks_for_drain: is_down, served: ejected_for,
                drain: ejected_for.map(|at| DrainState { deadline: Some(at), idle: since, then: None, begun: at, before: "ready".into(), sessions: since, end: Some(("drained".into(), at, 0)) }),
            };
            let state = PoolState { name: "app".into(), backends: names.iter().map(backend).collect() };
            let text = serde_json::to_string(&state).unwrap();
            prop_assert_eq!(serde_json::from_str::<PoolState>(&text).unwrap(), state);
        }
    }
}

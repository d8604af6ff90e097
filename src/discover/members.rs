//! Owns: a pool's members: configured backends, discovered ones, and those that are no longer found but still drain.
//! Invariant: discovery never replaces a configured backend; no pin follows a name or address to another server.
//! Must not know: how sources work, or the health of a backend.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::DiscoveredBackend;
use super::settings::Settings;
use crate::net::{Address, local_addresses};
use crate::pool::backend;

/// The number of ended incarnations to remember. Beyond it, the oldest is forgotten.
const MAX_ENDED: usize = 4096;

/// The current time on two clocks: drains are measured with the first, pins with the second.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The monotonic time.
    pub at: Instant,
    /// The wall-clock time, in seconds since the Unix epoch.
    pub unix: u64,
}

impl Now {
    fn unix_millis(self) -> u64 {
        self.unix.saturating_mul(1000)
    }
}

/// The addresses of this Linchpin. A backend at one of them would send requests in a circle; at the admin listener, it
/// would open that to everyone.
#[derive(Debug, Default)]
pub struct OwnAddresses {
    /// The addresses of the listeners.
    pub listening: Vec<Address>,
    /// The IP addresses of this machine's interfaces.
    pub interfaces: HashSet<IpAddr>,
}

impl OwnAddresses {
    fn has(&self, address: &Address) -> bool {
        self.listening.iter().any(|listening| local_addresses::reaches(address, listening, &self.interfaces))
    }
}

/// The members of one pool.
#[derive(Debug)]
pub struct Members {
    own_addresses: Arc<OwnAddresses>,
    configured: Vec<backend::Settings>,
    sources: Vec<SourceBackends>,
    leaving: BTreeMap<String, Leaving>,
    /// When the incarnation of a name began, in seconds since the Unix epoch, if the name has had another before.
    since: HashMap<String, u64>,
    /// When the incarnation of a name at an address ended.
    ended: HashMap<(String, Address), u64>,
}

/// The backends of one source.
#[derive(Debug)]
struct SourceBackends {
    settings: Settings,
    found: Vec<DiscoveredBackend>,
    /// When each backend that the source says is leaving was first said to be, in milliseconds since the Unix epoch. By
    /// its identity, or its name if it has none.
    leaving_since: HashMap<String, u64>,
}

/// A backend that no source finds any more, until its drain ends.
#[derive(Debug)]
struct Leaving {
    settings: backend::Settings,
    until: Instant,
}

impl Members {
    /// Makes the members of a pool whose sources have found nothing yet.
    pub fn new(configured: Vec<backend::Settings>, sources: &[Settings]) -> Members {
        Members {
            own_addresses: Arc::default(),
            configured,
            sources: sources.iter().map(SourceBackends::new).collect(),
            leaving: BTreeMap::new(),
            since: HashMap::new(),
            ended: HashMap::new(),
        }
    }

    /// Lists all members: configured ones in their order, then discovered ones in theirs, then those that drain.
    pub fn settings(&self) -> Vec<backend::Settings> {
        let since = |mut settings: backend::Settings| {
            settings.since = self.since.get(&settings.name).copied().unwrap_or_default();
            settings
        };
        let found = self.found().into_iter().map(|(source, found)| source.settings_of(found)).map(since);
        let leaving = self.leaving.values().map(|leaving| leaving.settings.clone()).map(since);
        self.configured.iter().cloned().chain(found).chain(leaving).collect()
    }

    /// Replaces the backends of a source. Returns the names of those that are ignored, because another member has their
    /// name or address, or the address is one of `own_addresses`.
    pub fn update(
        &mut self,
        source: usize,
        found: Vec<DiscoveredBackend>,
        own_addresses: &Arc<OwnAddresses>,
        now: Now,
    ) -> Vec<String> {
        let (before, drains) = (self.by_name(), self.drains());
        if let Some(backends) = self.sources.get_mut(source) {
            backends.set(found, now);
        }
        self.own_addresses = Arc::clone(own_addresses);
        let after = self.by_name();
        self.begin_and_end_incarnations(&before, &after, &drains, now);
        let updated = self.sources.get(source).into_iter().flat_map(|source| &source.found);
        let is_ignored =
            |found: &&DiscoveredBackend| after.get(&found.name).is_none_or(|is| is.address != found.address);
        updated.filter(is_ignored).map(|found| found.name.clone()).collect()
    }

    /// Takes over another configuration: a source that it still has keeps what it has found, and the backends of any
    /// other one drain.
    pub fn reconfigure(&mut self, configured: Vec<backend::Settings>, sources: &[Settings], now: Now) {
        let (before, drains) = (self.by_name(), self.drains());
        let mut known = std::mem::take(&mut self.sources);
        let source = |settings: &Settings| {
            let same = known.iter().position(|known| known.settings.source == settings.source);
            match same.map(|at| known.swap_remove(at)) {
                Some(known) => SourceBackends { settings: settings.clone(), ..known },
                None => SourceBackends::new(settings),
            }
        };
        self.sources = sources.iter().map(source).collect();
        self.configured = configured;
        let after = self.by_name();
        self.begin_and_end_incarnations(&before, &after, &drains, now);
        // A backend that drained is configured now.
        let configured = &self.configured;
        let is_configured = |name: &String, leaving: &Leaving| {
            configured.iter().any(|one| one.name == *name || one.address == leaving.settings.address)
        };
        self.leaving.retain(|name, leaving| !is_configured(name, leaving));
    }

    /// How long each discovered backend drains when it is no longer found.
    fn drains(&self) -> HashMap<String, Duration> {
        self.found().iter().map(|(source, found)| (found.name.clone(), source.settings.drain_of_missing())).collect()
    }

    fn begin_and_end_incarnations(
        &mut self,
        before: &HashMap<String, backend::Settings>,
        after: &HashMap<String, backend::Settings>,
        drains: &HashMap<String, Duration>,
        now: Now,
    ) {
        for (name, was) in before {
            match after.get(name) {
                Some(is) if is.is_same_server(was) => {}
                Some(_) => self.end_incarnation(was, now),
                None => self.begin_drain(was, drains.get(name).copied().unwrap_or_default(), now),
            }
        }
        for (name, is) in after {
            if before.get(name).is_none_or(|was| !was.is_same_server(is)) {
                self.begin_incarnation(is, now);
            }
        }
        // Another name has the address now: the server that drained there is gone.
        let addresses: HashSet<_> = after.values().map(|settings| &settings.address).collect();
        self.remove_leaving(now, |leaving| leaving.until <= now.at || addresses.contains(&leaving.settings.address));
    }

    /// Removes the members whose drain has ended; returns whether there were any.
    pub fn end_drains(&mut self, now: Now) -> bool {
        self.remove_leaving(now, |leaving| leaving.until <= now.at)
    }

    /// Returns when the next drain ends.
    pub fn next_end(&self) -> Option<Instant> {
        self.leaving.values().map(|leaving| leaving.until).min()
    }

    /// Lists the discovered backends that are members: of several with one name or address, the first is.
    fn found(&self) -> Vec<(&SourceBackends, &DiscoveredBackend)> {
        let mut names: HashSet<&str> = self.configured.iter().map(|settings| settings.name.as_str()).collect();
        let configured = self.configured.iter().map(|settings| &settings.address);
        let mut addresses: HashSet<&Address> = configured.collect();
        let all = self.sources.iter().flat_map(|source| source.found.iter().map(move |found| (source, found)));
        all.filter(|(_, found)| {
            let is_free = !names.contains(found.name.as_str()) && !addresses.contains(&found.address);
            is_free
                && !self.own_addresses.has(&found.address)
                && names.insert(&found.name)
                && addresses.insert(&found.address)
        })
        .collect()
    }

    fn by_name(&self) -> HashMap<String, backend::Settings> {
        self.found().into_iter().map(|(source, found)| (found.name.clone(), source.settings_of(found))).collect()
    }

    /// Begins to drain a backend that is no longer found. It may be absent for a moment only, and keeps its sessions.
    fn begin_drain(&mut self, settings: &backend::Settings, drain: Duration, now: Now) {
        let length = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
        let leaves_at = Some(now.unix_millis().saturating_add(length));
        let settings = backend::Settings { leaving: true, leaves_at, ..settings.clone() };
        self.leaving.insert(settings.name.clone(), Leaving { settings, until: now.at + drain });
    }

    /// Begins the incarnation of a name, or goes on with the one that was only draining.
    fn begin_incarnation(&mut self, is: &backend::Settings, now: Now) {
        match self.leaving.remove(&is.name) {
            Some(leaving) if leaving.settings.is_same_server(is) => return,
            Some(leaving) => self.end_incarnation(&leaving.settings, now),
            None => {}
        }
        if let Some(ended) = self.ended.remove(&(is.name.clone(), is.address.clone())) {
            self.since.insert(is.name.clone(), midpoint(ended, now.unix));
        }
    }

    /// Ends the incarnation of a name. Pins tell those that have an identity by that, and need no time.
    fn end_incarnation(&mut self, was: &backend::Settings, now: Now) {
        self.since.remove(&was.name);
        if was.identity.is_some() {
            return;
        }
        if self.ended.len() >= MAX_ENDED
            && let Some(oldest) = self.ended.iter().min_by_key(|(_, ended)| **ended).map(|(key, _)| key.clone())
        {
            self.ended.remove(&oldest);
        }
        self.ended.insert((was.name.clone(), was.address.clone()), now.unix);
    }

    fn remove_leaving(&mut self, now: Now, goes: impl Fn(&Leaving) -> bool) -> bool {
        let ended: Vec<_> =
            self.leaving.iter().filter(|(_, leaving)| goes(leaving)).map(|(name, _)| name.clone()).collect();
        for name in &ended {
            if let Some(leaving) = self.leaving.remove(name) {
                self.end_incarnation(&leaving.settings, now);
            }
        }
        !ended.is_empty()
    }
}

/// Returns the time that separates the pins of two servers that had the same name and address one after the other: half
/// way between the end of the first and the beginning of the second. Each Linchpin sees both events a little earlier or
/// later than the next one, and still decides the same about a pin.
fn midpoint(ended: u64, began: u64) -> u64 {
    ended + began.saturating_sub(ended).div_ceil(2)
}

impl SourceBackends {
    fn new(settings: &Settings) -> SourceBackends {
        SourceBackends { settings: settings.clone(), found: Vec::new(), leaving_since: HashMap::new() }
    }

    fn set(&mut self, found: Vec<DiscoveredBackend>, now: Now) {
        let known = std::mem::take(&mut self.leaving_since);
        let since = |found: &DiscoveredBackend| {
            let key = leaving_key(found);
            (key.to_owned(), known.get(key).copied().unwrap_or_else(|| now.unix_millis()))
        };
        self.leaving_since = found.iter().filter(|found| found.is_leaving).map(since).collect();
        self.found = found;
    }

    fn settings_of(&self, found: &DiscoveredBackend) -> backend::Settings {
        let source = &self.settings;
        let leaves_at = || {
            let (since, drain) = (self.leaving_since.get(leaving_key(found))?, source.drain?);
            Some(since.saturating_add(u64::try_from(drain.as_millis()).unwrap_or(u64::MAX)))
        };
        backend::Settings {
            weight: found.weight.unwrap_or(source.weight),
            backup: found.backup,
            max_requests: source.max_requests,
            max_sessions: source.max_sessions,
            group: source.group.clone(),
            identity: found.identity.clone(),
            reported_down: !found.is_serving,
            leaving: found.is_leaving,
            leaves_at: found.is_leaving.then(leaves_at).flatten(),
            ..backend::Settings::new(&found.name, found.address.clone())
        }
    }
}

fn leaving_key(found: &DiscoveredBackend) -> &str {
    found.identity.as_deref().unwrap_or(&found.name)
}

#[cfg(test)]
mod tests {
    use super::super::settings::{Kubernetes, PodPort, Source};
    use super::*;

    const DRAIN: Duration = Duration::from_secs(100);

    fn members(configured: &[(&str, &str)], sources: usize) -> Members {
        let configured = configured.iter().map(|(name, at)| backend::Settings::new(name, at.parse().unwrap()));
        let source = Settings { drain: Some(DRAIN), ..Settings::new(Source::File("x".into())) };
        Members::new(configured.collect(), &vec![source; sources])
    }

    fn own_addresses() -> Arc<OwnAddresses> {
        let listening = ["10.9.9.9:80", "0.0.0.0:8080"].map(|address| address.parse().unwrap());
        Arc::new(OwnAddresses { listening: listening.into(), interfaces: ["10.9.9.9".parse().unwrap()].into() })
    }

    fn found(all: &[(&str, &str)]) -> Vec<DiscoveredBackend> {
        let found = |(name, at): &(&str, &str)| DiscoveredBackend::new((*name).into(), at.parse().unwrap());
        all.iter().map(found).collect()
    }

    /// Lists names and addresses, with a `-` for those that drain.
    fn listed(members: &Members) -> Vec<String> {
        let describe = |s: &backend::Settings| format!("{} {}{}", s.name, s.address, if s.leaving { " -" } else { "" });
        members.settings().iter().map(describe).collect()
    }

    fn since(members: &Members, name: &str) -> u64 {
        members.settings().iter().find(|settings| settings.name == name).unwrap().since
    }

    struct Clock(Instant);

    impl Clock {
        fn at(&self, seconds: u64) -> Now {
            Now { at: self.0 + Duration::from_secs(seconds), unix: 1000 + seconds }
        }
    }

    #[test]
    fn a_backend_that_is_no_longer_found_drains_and_is_the_same_if_it_is_back_in_time() {
        let (mut members, clock) = (members(&[], 1), Clock(Instant::now()));
        members.update(0, found(&[("a", "10.0.0.1:80"), ("b", "10.0.0.2:80")]), &own_addresses(), clock.at(0));
        members.update(0, found(&[("a", "10.0.0.1:80")]), &own_addresses(), clock.at(10));
        assert_eq!(listed(&members), ["a 10.0.0.1:80", "b 10.0.0.2:80 -"]);
        assert_eq!(members.next_end(), Some(clock.at(110).at));
        members.update(0, found(&[("a", "10.0.0.1:80"), ("b", "10.0.0.2:80")]), &own_addresses(), clock.at(50));
        assert_eq!(listed(&members), ["a 10.0.0.1:80", "b 10.0.0.2:80"]);
        assert_eq!((since(&members, "b"), members.next_end()), (0, None));

        members.update(0, found(&[("a", "10.0.0.1:80")]), &own_addresses(), clock.at(60));
        assert!(!members.end_drains(clock.at(159)));
        assert!(members.end_drains(clock.at(160)));
        assert_eq!(listed(&members), ["a 10.0.0.1:80"]);
    }

    #[test]
    fn a_backend_that_is_back_after_its_drain_is_a_new_incarnation() {
        let (mut members, clock) = (members(&[], 1), Clock(Instant::now()));
        members.update(0, found(&[("b", "10.0.0.2:80")]), &own_addresses(), clock.at(0));
        members.update(0, Vec::new(), &own_addresses(), clock.at(10));
        members.end_drains(clock.at(110));
        members.update(0, found(&[("b", "10.0.0.2:80")]), &own_addresses(), clock.at(310));
        assert_eq!(since(&members, "b"), 1210, "half way between its end and its return");
        members.update(0, found(&[("b", "10.0.0.2:80"), ("c", "10.0.0.3:80")]), &own_addresses(), clock.at(400));
        assert_eq!((since(&members, "b"), since(&members, "c")), (1210, 0));
        // Absent for a moment: the same incarnation.
        members.update(0, found(&[("c", "10.0.0.3:80")]), &own_addresses(), clock.at(500));
        assert_eq!(since(&members, "b"), 1210);
        members.update(0, found(&[("b", "10.0.0.2:80"), ("c", "10.0.0.3:80")]), &own_addresses(), clock.at(510));
        assert_eq!(since(&members, "b"), 1210);
    }

    #[test]
    fn a_name_that_moves_to_another_address_and_back_is_three_incarnations() {
        let (mut members, clock) = (members(&[], 1), Clock(Instant::now()));
        members.update(0, found(&[("web-0", "10.0.0.1:80")]), &own_addresses(), clock.at(0));
        members.update(0, found(&[("web-0", "10.0.0.2:80")]), &own_addresses(), clock.at(10));
        assert_eq!((listed(&members), since(&members, "web-0")), (vec!["web-0 10.0.0.2:80".to_owned()], 0));
        members.update(0, found(&[("web-0", "10.0.0.1:80")]), &own_addresses(), clock.at(20));
        assert_eq!(since(&members, "web-0"), 1015);
        // So is one that returns at another address while it drains.
        members.update(0, Vec::new(), &own_addresses(), clock.at(30));
        members.update(0, found(&[("web-0", "10.0.0.2:80")]), &own_addresses(), clock.at(40));
        assert_eq!(since(&members, "web-0"), 1030);
    }

    fn pods(drain: Option<Duration>) -> Members {
        let (namespace, service, port) = ("shop".into(), "web".into(), PodPort::Only);
        let of_pod = Kubernetes { namespace, service, port, api_server: None, token_file: None, authorities: None };
        Members::new(Vec::new(), &[Settings { drain, ..Settings::new(Source::Kubernetes(of_pod)) }])
    }

    fn pod(name: &str, uid: &str, at: &str) -> DiscoveredBackend {
        DiscoveredBackend { identity: Some(uid.into()), ..DiscoveredBackend::new(name.into(), at.parse().unwrap()) }
    }

    #[test]
    fn a_pod_leaves_while_it_terminates_and_is_removed_at_once_when_it_is_gone() {
        for (drain, leaves_at) in [(None, None), (Some(DRAIN), Some(1_110_000))] {
            let (mut members, clock) = (pods(drain), Clock(Instant::now()));
            let (a, b) = (pod("web-0", "u0", "10.0.0.1:80"), pod("web-1", "u1", "10.0.0.2:80"));
            members.update(0, vec![a.clone(), b.clone()], &own_addresses(), clock.at(0));
            let leaving = DiscoveredBackend { is_leaving: true, ..a.clone() };
            for later in [10, 20] {
                members.update(0, vec![leaving.clone(), b.clone()], &own_addresses(), clock.at(later));
                let all = members.settings();
                assert_eq!((all[0].leaving, all[0].leaves_at, all[1].leaving), (true, leaves_at, false));
            }
            let down = DiscoveredBackend { is_serving: false, ..leaving };
            members.update(0, vec![down, b.clone()], &own_addresses(), clock.at(30));
            assert!(members.settings()[0].reported_down);
            members.update(0, vec![b], &own_addresses(), clock.at(40));
            assert_eq!(listed(&members), ["web-1 10.0.0.2:80"]);
        }
    }

    #[test]
    fn pods_of_one_name_are_known_by_their_uids_and_not_by_time() {
        let (mut members, clock) = (pods(None), Clock(Instant::now()));
        for (at, uid) in [(0, "first"), (10, "second"), (20, "first")] {
            members.update(0, vec![pod("web-0", uid, "10.0.0.1:80")], &own_addresses(), clock.at(at));
            let settings = members.settings().remove(0);
            assert_eq!((settings.identity.as_deref(), settings.since), (Some(uid), 0));
        }
        assert!(members.ended.is_empty() && members.leaving.is_empty());
    }

    #[test]
    fn an_address_that_another_name_has_now_is_not_drained_under_the_old_one() {
        let (mut members, clock) = (members(&[], 1), Clock(Instant::now()));
        members.update(0, found(&[("web-0", "10.0.0.1:80")]), &own_addresses(), clock.at(0));
        members.update(0, found(&[("web-5", "10.0.0.1:80")]), &own_addresses(), clock.at(10));
        assert_eq!(listed(&members), ["web-5 10.0.0.1:80"]);
    }

    #[test]
    fn a_configured_backend_wins_and_then_that_of_the_first_source() {
        let (mut members, clock) = (members(&[("a", "10.0.0.1:80")], 2), Clock(Instant::now()));
        let ignored = members.update(
            0,
            found(&[("a", "10.0.0.9:80"), ("x", "10.0.0.1:80"), ("b", "10.0.0.2:80")]),
            &own_addresses(),
            clock.at(0),
        );
        assert_eq!(ignored, ["a", "x"]);
        for address in ["10.9.9.9:80", "10.9.9.9:8080", "127.0.0.1:8080", "[::ffff:127.0.0.1]:8080", "0.0.0.0:8080"] {
            let taken = members.update(1, found(&[("us", address)]), &own_addresses(), clock.at(0));
            assert_eq!(taken, ["us"], "a listener of own_addresses: {address}");
        }
        assert_eq!(
            members.update(1, found(&[("b", "10.0.0.3:80"), ("c", "10.0.0.4:80")]), &own_addresses(), clock.at(0)),
            ["b"]
        );
        assert_eq!(listed(&members), ["a 10.0.0.1:80", "b 10.0.0.2:80", "c 10.0.0.4:80"]);
        // Another source may still find what one no longer does.
        members.update(0, Vec::new(), &own_addresses(), clock.at(10));
        assert_eq!(listed(&members), ["a 10.0.0.1:80", "b 10.0.0.3:80", "c 10.0.0.4:80"]);
    }

    #[test]
    fn the_memory_of_ended_incarnations_is_bounded() {
        let (mut members, clock) = (members(&[], 1), Clock(Instant::now()));
        for round in 0..2 * MAX_ENDED as u64 {
            members.update(
                0,
                found(&[(&format!("b{round}"), &format!("10.0.0.1:{}", 1 + round % 60_000))]),
                &own_addresses(),
                clock.at(200 * round),
            );
            members.end_drains(clock.at(200 * round + 199));
        }
        assert!(members.ended.len() <= MAX_ENDED && members.leaving.len() <= 1 && members.since.is_empty());
    }
}

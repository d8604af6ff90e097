//! Owns: who belongs to a pool: whom the configuration names, whom sources have found, and who is gone but still drains.
//! Invariant: a configured backend is never replaced by a found one; a pin never follows a name or address to another server.
//! Must not know: sources' insides; what is known of a backend's health.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::DiscoveredBackend;
use super::settings::Settings;
use crate::net::{Address, own};
use crate::pool::backend;

/// Lives that have ended, of which is remembered when. Beyond it the oldest is forgotten.
const REMEMBERED: usize = 4096;

/// A moment, on both clocks: waiting goes by the one, pins by the other.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic.
    pub at: Instant,
    /// Seconds since the Unix epoch.
    pub unix: u64,
}

/// Where we are ourselves: a backend there would send requests round in a circle, or, where that is the admin
/// listener, let everyone in.
#[derive(Debug, Default)]
pub struct OwnAddresses {
    /// What we listen on.
    pub listening: Vec<Address>,
    /// The addresses of this machine.
    pub interfaces: HashSet<IpAddr>,
}

impl OwnAddresses {
    fn has(&self, address: &Address) -> bool {
        self.listening.iter().any(|listening| own::reaches(address, listening, &self.interfaces))
    }
}

/// The members of one pool.
#[derive(Debug)]
pub struct Members {
    ours: Arc<OwnAddresses>,
    configured: Vec<backend::Settings>,
    parts: Vec<Part>,
    leaving: BTreeMap<String, Leaving>,
    /// Since when a name stands for its server, where it has stood for another before.
    since: HashMap<String, u64>,
    /// When a name ceased to stand for the server at an address.
    ended: HashMap<(String, Address), u64>,
}

/// What one source has found.
#[derive(Debug)]
struct Part {
    settings: Settings,
    found: Vec<DiscoveredBackend>,
}

/// A backend that no source finds any more.
#[derive(Debug)]
struct Leaving {
    settings: backend::Settings,
    until: Instant,
}

impl Members {
    /// Those that are configured; the sources have found nobody yet.
    pub fn new(configured: Vec<backend::Settings>, sources: &[Settings]) -> Members {
        let part = |settings: &Settings| Part { settings: settings.clone(), found: Vec::new() };
        Members {
            ours: Arc::default(),
            configured,
            parts: sources.iter().map(part).collect(),
            leaving: BTreeMap::new(),
            since: HashMap::new(),
            ended: HashMap::new(),
        }
    }

    /// All of them, in the order of the configuration, then as they were found, then those that leave.
    pub fn settings(&self) -> Vec<backend::Settings> {
        let since = |mut settings: backend::Settings| {
            settings.since = self.since.get(&settings.name).copied().unwrap_or_default();
            settings
        };
        let found = self.found().into_iter().map(|(part, found)| settings_of(part, found)).map(since);
        let leaving = self.leaving.values().map(|leaving| leaving.settings.clone()).map(since);
        self.configured.iter().cloned().chain(found).chain(leaving).collect()
    }

    /// A source has found these. Returns the names of those that can't be had, since their name or
    /// address is another's, or the address is one of `ours`.
    pub fn take(
        &mut self,
        source: usize,
        found: Vec<DiscoveredBackend>,
        ours: &Arc<OwnAddresses>,
        now: Now,
    ) -> Vec<String> {
        let before = self.by_name();
        let drains: HashMap<_, _> = self.found().iter().map(|(part, found)| (found.name.clone(), part.drain)).collect();
        if let Some(part) = self.parts.get_mut(source) {
            part.found = found;
        }
        self.ours = Arc::clone(ours);
        let after = self.by_name();
        for (name, was) in &before {
            match after.get(name) {
                Some(is) if is.address == was.address => {}
                Some(_) => self.end(name, &was.address, now),
                None => self.leave(was, drains.get(name).copied().unwrap_or_default(), now),
            }
        }
        for (name, is) in &after {
            if before.get(name).is_none_or(|was| was.address != is.address) {
                self.begin(name, &is.address, now);
            }
        }
        // Whoever listens there now, it is not the one that is gone.
        let addresses: HashSet<_> = after.values().map(|settings| &settings.address).collect();
        self.let_go(now, |leaving| leaving.until <= now.at || addresses.contains(&leaving.settings.address));
        let clashes = self.parts.get(source).into_iter().flat_map(|part| &part.found);
        let is_out = |found: &&DiscoveredBackend| after.get(&found.name).is_none_or(|is| is.address != found.address);
        clashes.filter(is_out).map(|found| found.name.clone()).collect()
    }

    /// Lets those go whose time is over; says whether there were any.
    pub fn settle(&mut self, now: Now) -> bool {
        self.let_go(now, |leaving| leaving.until <= now.at)
    }

    /// When the next one's time is over.
    pub fn next_end(&self) -> Option<Instant> {
        self.leaving.values().map(|leaving| leaving.until).min()
    }

    /// What was found and can be had: who stands first has name and address.
    fn found(&self) -> Vec<(&Settings, &DiscoveredBackend)> {
        let mut names: HashSet<&str> = self.configured.iter().map(|settings| settings.name.as_str()).collect();
        let configured = self.configured.iter().map(|settings| &settings.address);
        let mut addresses: HashSet<&Address> = configured.collect();
        let all = self.parts.iter().flat_map(|part| part.found.iter().map(|found| (&part.settings, found)));
        all.filter(|(_, found)| {
            let is_free = !names.contains(found.name.as_str()) && !addresses.contains(&found.address);
            is_free && !self.ours.has(&found.address) && names.insert(&found.name) && addresses.insert(&found.address)
        })
        .collect()
    }

    fn by_name(&self) -> HashMap<String, backend::Settings> {
        let named = |(part, found): (&Settings, &DiscoveredBackend)| (found.name.clone(), settings_of(part, found));
        self.found().into_iter().map(named).collect()
    }

    /// The backend is gone. It may be gone for a moment only, so that it keeps what it has.
    fn leave(&mut self, settings: &backend::Settings, drain: Duration, now: Now) {
        let settings = backend::Settings { leaving: true, ..settings.clone() };
        self.leaving.insert(settings.name.clone(), Leaving { settings, until: now.at + drain });
    }

    /// From now on a name stands for the server at this address: the one that it stands for still, if
    /// that one was only leaving.
    fn begin(&mut self, name: &str, address: &Address, now: Now) {
        match self.leaving.remove(name) {
            Some(leaving) if leaving.settings.address == *address => return,
            Some(leaving) => self.end(name, &leaving.settings.address, now),
            None => {}
        }
        if let Some(ended) = self.ended.remove(&(name.to_owned(), address.clone())) {
            self.since.insert(name.to_owned(), between(ended, now.unix));
        }
    }

    /// A name no longer stands for the server at this address.
    fn end(&mut self, name: &str, address: &Address, now: Now) {
        self.since.remove(name);
        if self.ended.len() >= REMEMBERED
            && let Some(oldest) = self.ended.iter().min_by_key(|(_, ended)| **ended).map(|(key, _)| key.clone())
        {
            self.ended.remove(&oldest);
        }
        self.ended.insert((name.to_owned(), address.clone()), now.unix);
    }

    fn let_go(&mut self, now: Now, goes: impl Fn(&Leaving) -> bool) -> bool {
        let gone: Vec<_> =
            self.leaving.iter().filter(|(_, leaving)| goes(leaving)).map(|(name, _)| name.clone()).collect();
        for name in &gone {
            if let Some(leaving) = self.leaving.remove(name) {
                self.end(name, &leaving.settings.address, now);
            }
        }
        !gone.is_empty()
    }
}

/// The moment that parts the pins of two servers that had the same name and address one after the other:
/// half way between the end of the one and the beginning of the other. Each Linchpin sees both a little
/// earlier or later than the next, and is on the same side of that all the same.
fn between(ended: u64, began: u64) -> u64 {
    ended + began.saturating_sub(ended).div_ceil(2)
}

fn settings_of(part: &Settings, found: &DiscoveredBackend) -> backend::Settings {
    backend::Settings {
        weight: found.weight.unwrap_or(part.weight),
        backup: found.backup,
        max_requests: part.max_requests,
        max_sessions: part.max_sessions,
        ..backend::Settings::new(&found.name, found.address.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Source;
    use super::*;

    const DRAIN: Duration = Duration::from_secs(100);

    fn members(configured: &[(&str, &str)], sources: usize) -> Members {
        let configured = configured.iter().map(|(name, at)| backend::Settings::new(name, at.parse().unwrap()));
        let source = Settings { drain: DRAIN, ..Settings::new(Source::File("x".into())) };
        Members::new(configured.collect(), &vec![source; sources])
    }

    fn ours() -> Arc<OwnAddresses> {
        let listening = ["10.9.9.9:80", "0.0.0.0:8080"].map(|address| address.parse().unwrap());
        Arc::new(OwnAddresses { listening: listening.into(), interfaces: ["10.9.9.9".parse().unwrap()].into() })
    }

    fn found(all: &[(&str, &str)]) -> Vec<DiscoveredBackend> {
        let found = |(name, at): &(&str, &str)| DiscoveredBackend {
            name: (*name).into(),
            address: at.parse().unwrap(),
            weight: None,
            backup: false,
        };
        all.iter().map(found).collect()
    }

    /// Name, address and, of those that leave, `-`.
    fn told(members: &Members) -> Vec<String> {
        let told = |s: &backend::Settings| format!("{} {}{}", s.name, s.address, if s.leaving { " -" } else { "" });
        members.settings().iter().map(told).collect()
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
    fn who_is_gone_drains_and_goes_and_who_is_back_in_time_is_who_it_was() {
        let (mut members, clock) = (members(&[], 1), Clock(Instant::now()));
        members.take(0, found(&[("a", "10.0.0.1:80"), ("b", "10.0.0.2:80")]), &ours(), clock.at(0));
        members.take(0, found(&[("a", "10.0.0.1:80")]), &ours(), clock.at(10));
        assert_eq!(told(&members), ["a 10.0.0.1:80", "b 10.0.0.2:80 -"]);
        assert_eq!(members.next_end(), Some(clock.at(110).at));
        members.take(0, found(&[("a", "10.0.0.1:80"), ("b", "10.0.0.2:80")]), &ours(), clock.at(50));
        assert_eq!(told(&members), ["a 10.0.0.1:80", "b 10.0.0.2:80"]);
        assert_eq!((since(&members, "b"), members.next_end()), (0, None));

        members.take(0, found(&[("a", "10.0.0.1:80")]), &ours(), clock.at(60));
        assert!(!members.settle(clock.at(159)));
        assert!(members.settle(clock.at(160)));
        assert_eq!(told(&members), ["a 10.0.0.1:80"]);
    }

    #[test]
    fn who_is_back_after_its_drain_is_somebody_else() {
        let (mut members, clock) = (members(&[], 1), Clock(Instant::now()));
        members.take(0, found(&[("b", "10.0.0.2:80")]), &ours(), clock.at(0));
        members.take(0, Vec::new(), &ours(), clock.at(10));
        members.settle(clock.at(110));
        members.take(0, found(&[("b", "10.0.0.2:80")]), &ours(), clock.at(310));
        assert_eq!(since(&members, "b"), 1210, "half way between its end and its return");
        members.take(0, found(&[("b", "10.0.0.2:80"), ("c", "10.0.0.3:80")]), &ours(), clock.at(400));
        assert_eq!((since(&members, "b"), since(&members, "c")), (1210, 0));
        // Gone for a moment: still the one that it has been since.
        members.take(0, found(&[("c", "10.0.0.3:80")]), &ours(), clock.at(500));
        assert_eq!(since(&members, "b"), 1210);
        members.take(0, found(&[("b", "10.0.0.2:80"), ("c", "10.0.0.3:80")]), &ours(), clock.at(510));
        assert_eq!(since(&members, "b"), 1210);
    }

    #[test]
    fn a_name_that_moves_to_another_address_and_back_stands_for_three_servers() {
        let (mut members, clock) = (members(&[], 1), Clock(Instant::now()));
        members.take(0, found(&[("web-0", "10.0.0.1:80")]), &ours(), clock.at(0));
        members.take(0, found(&[("web-0", "10.0.0.2:80")]), &ours(), clock.at(10));
        assert_eq!((told(&members), since(&members, "web-0")), (vec!["web-0 10.0.0.2:80".to_owned()], 0));
        members.take(0, found(&[("web-0", "10.0.0.1:80")]), &ours(), clock.at(20));
        assert_eq!(since(&members, "web-0"), 1015);
        // So does one that comes back elsewhere while it leaves.
        members.take(0, Vec::new(), &ours(), clock.at(30));
        members.take(0, found(&[("web-0", "10.0.0.2:80")]), &ours(), clock.at(40));
        assert_eq!(since(&members, "web-0"), 1030);
    }

    #[test]
    fn an_address_that_another_name_has_now_is_not_drained_under_the_old_one() {
        let (mut members, clock) = (members(&[], 1), Clock(Instant::now()));
        members.take(0, found(&[("web-0", "10.0.0.1:80")]), &ours(), clock.at(0));
        members.take(0, found(&[("web-5", "10.0.0.1:80")]), &ours(), clock.at(10));
        assert_eq!(told(&members), ["web-5 10.0.0.1:80"]);
    }

    #[test]
    fn the_configured_one_wins_and_then_the_source_that_stands_first() {
        let (mut members, clock) = (members(&[("a", "10.0.0.1:80")], 2), Clock(Instant::now()));
        let clashes = members.take(
            0,
            found(&[("a", "10.0.0.9:80"), ("x", "10.0.0.1:80"), ("b", "10.0.0.2:80")]),
            &ours(),
            clock.at(0),
        );
        assert_eq!(clashes, ["a", "x"]);
        for address in ["10.9.9.9:80", "10.9.9.9:8080", "127.0.0.1:8080", "[::ffff:127.0.0.1]:8080", "0.0.0.0:8080"] {
            let taken = members.take(1, found(&[("us", address)]), &ours(), clock.at(0));
            assert_eq!(taken, ["us"], "a listener of ours: {address}");
        }
        assert_eq!(members.take(1, found(&[("b", "10.0.0.3:80"), ("c", "10.0.0.4:80")]), &ours(), clock.at(0)), ["b"]);
        assert_eq!(told(&members), ["a 10.0.0.1:80", "b 10.0.0.2:80", "c 10.0.0.4:80"]);
        // What one source no longer finds, another one may.
        members.take(0, Vec::new(), &ours(), clock.at(10));
        assert_eq!(told(&members), ["a 10.0.0.1:80", "b 10.0.0.3:80", "c 10.0.0.4:80"]);
    }

    #[test]
    fn what_is_remembered_of_the_gone_does_not_grow_without_bound() {
        let (mut members, clock) = (members(&[], 1), Clock(Instant::now()));
        for round in 0..2 * REMEMBERED as u64 {
            members.take(
                0,
                found(&[(&format!("b{round}"), &format!("10.0.0.1:{}", 1 + round % 60_000))]),
                &ours(),
                clock.at(200 * round),
            );
            members.settle(clock.at(200 * round + 199));
        }
        assert!(members.ended.len() <= REMEMBERED && members.leaving.len() <= 1 && members.since.is_empty());
    }
}

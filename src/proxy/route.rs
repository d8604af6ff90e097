//! Owns: the settings of routes, and which of them is a request's.
//! Invariant: the most specific route wins, whatever the order in the configuration.
//! Must not know: backends.

use std::sync::Arc;
use std::time::Duration;

use super::access::{self, AccessRules};
use super::fields::Fields;
use super::redirect::Redirect;
use super::rewrite::Rewrite;
use super::route_index::{HostMatch, RouteIndex, RouteMatch};
use super::timeouts::Timeouts;
use crate::affinity::rules::RuleEffect;

/// One `[[routes]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The names of the listeners whose requests match; empty for all listeners.
    pub listeners: Vec<String>,
    /// Matches only requests with TLS, or only those without; `None` for both.
    pub is_secure: Option<bool>,
    /// Host names in lower case, exact or `*.suffix`; empty for every host.
    pub hosts: Vec<String>,
    /// The prefix of the path, in whole segments; `/` for every path.
    pub path_prefix: String,
    /// Where requests are sent.
    pub action: RouteAction<String>,
    /// Whether the pool's persistence applies to requests of this route.
    pub persistence: bool,
    /// Whether all requests and responses are streams: they last as long as both sides want, whatever their fields say.
    pub is_stream: bool,
    /// Protocols to which requests may upgrade (RFC 9110 §7.8), by name, or by name and version.
    pub upgrades: Vec<String>,
    /// The timeouts that differ from the pool's.
    pub timeouts: TimeoutOverrides,
    /// The most bytes of a request's body; `None` for that of `[server.limits]`.
    pub body_bytes: Option<u64>,
    /// The prefix that is stripped from the path.
    pub strip_prefix: Option<String>,
    /// The prefix that is added to the path.
    pub add_prefix: Option<String>,
    /// Who may use it.
    pub access: access::Settings,
    /// The edits to the fields of requests.
    pub request_headers: Fields,
    /// The edits to the fields of responses.
    pub response_headers: Fields,
}

impl Settings {
    /// Sends every request to the pool named `pool`.
    pub fn all_to(pool: &str) -> Settings {
        Settings::to(RouteAction::Pool(pool.into()))
    }

    /// Applies `action` to every request.
    pub fn to(action: RouteAction<String>) -> Settings {
        Settings {
            listeners: Vec::new(),
            is_secure: None,
            hosts: Vec::new(),
            path_prefix: "/".into(),
            action,
            persistence: true,
            is_stream: false,
            upgrades: vec!["websocket".into()],
            timeouts: TimeoutOverrides::default(),
            body_bytes: None,
            strip_prefix: None,
            add_prefix: None,
            access: access::Settings::default(),
            request_headers: Fields::default(),
            response_headers: Fields::default(),
        }
    }
}

/// What a route does with its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteAction<P> {
    /// Forwards them to a pool.
    Pool(P),
    /// Redirects the clients.
    Redirect(Redirect),
}

/// `[routes.timeouts]`: the timeouts that override those of `[pools.timeouts]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TimeoutOverrides {
    /// [`Timeouts::connect`].
    pub connect: Option<Duration>,
    /// [`Timeouts::response`].
    pub response: Option<Duration>,
    /// [`Timeouts::idle`].
    pub idle: Option<Duration>,
    /// [`Timeouts::total`].
    pub total: Option<Duration>,
    /// [`Timeouts::stream_idle`].
    pub stream_idle: Option<Duration>,
    /// [`Timeouts::tunnel_lifetime`].
    pub tunnel_lifetime: Option<Duration>,
}

impl TimeoutOverrides {
    /// The pool's timeouts, with these overrides.
    pub fn apply_to(&self, pool: &Timeouts) -> Timeouts {
        Timeouts {
            connect: self.connect.unwrap_or(pool.connect),
            response: self.response.unwrap_or(pool.response),
            idle: self.idle.unwrap_or(pool.idle),
            total: self.total.unwrap_or(pool.total),
            stream_idle: self.stream_idle.unwrap_or(pool.stream_idle),
            tunnel_lifetime: self.tunnel_lifetime.or(pool.tunnel_lifetime),
        }
    }
}

/// All routes.
#[derive(Debug, Default)]
pub struct Routes {
    index: RouteIndex,
    entries: Vec<RouteEntry>,
    /// The routes with their prefixes in lower case, if any route has access rules.
    folded: Option<RouteIndex>,
}

/// The settings of one `[[routes]]` as requests need them.
#[derive(Debug)]
pub struct RouteEntry {
    /// The position of the pool, or the redirect.
    pub action: RouteAction<usize>,
    /// The prefix of the path.
    pub prefix: String,
    /// Whether all messages are streams, which last as long as both sides want.
    pub is_stream: bool,
    /// Protocols to which requests may upgrade.
    pub upgrades: Box<[String]>,
    /// The timeouts, if they differ from the pool's.
    pub timeouts: Option<Box<Timeouts>>,
    /// The most bytes of a request's body.
    pub body: u64,
    /// The effect on persistence, unless a rule of the pool matches.
    pub effect: Option<RuleEffect>,
    /// The rewrite of the path.
    pub rewrite: Option<Rewrite>,
    /// Who may use it; `None` for everybody.
    pub access: Option<Arc<AccessRules>>,
    /// The edits to the fields of requests.
    pub request: Fields,
    /// The edits to the fields of responses.
    pub response: Fields,
}

impl RouteEntry {
    /// The timeouts of requests on this route; `pool` are those of its pool.
    pub(super) fn timeouts<'t>(&'t self, pool: &'t Timeouts) -> &'t Timeouts {
        self.timeouts.as_deref().unwrap_or(pool)
    }

    fn new(settings: &Settings, body: u64, action: RouteAction<usize>, timeouts: Option<&Timeouts>) -> RouteEntry {
        let own = |timeouts: &Timeouts| {
            Some(settings.timeouts.apply_to(timeouts)).filter(|own| own != timeouts).map(Box::new)
        };
        let mut request = settings.request_headers.clone();
        if let Some(prefix) = settings.strip_prefix.as_ref().and_then(|prefix| prefix.parse().ok()) {
            // Applications need it to write links. Traefik introduced the name.
            request.set.push((http::HeaderName::from_static("x-forwarded-prefix"), prefix));
        }
        RouteEntry {
            action,
            prefix: settings.path_prefix.clone(),
            is_stream: settings.is_stream,
            upgrades: settings.upgrades.clone().into(),
            timeouts: timeouts.and_then(own),
            body: settings.body_bytes.unwrap_or(body),
            effect: (!settings.persistence).then_some(RuleEffect::Exempt),
            rewrite: Rewrite::new(settings.strip_prefix.as_deref(), settings.add_prefix.as_deref()),
            access: None,
            request,
            response: settings.response_headers.clone(),
        }
    }
}

impl Routes {
    /// Makes the table. `body` is the most bytes of a body on routes without a limit of their own. `listener` finds a
    /// listener's id by name, and `pool` a pool's position and timeouts. Ignores a route whose pool or listeners
    /// do not exist: the configuration check has refused it.
    pub fn new<'t>(
        settings: &[Settings],
        body: u64,
        listener: impl Fn(&str) -> Option<usize>,
        pool: impl Fn(&str) -> Option<(usize, &'t Timeouts)>,
    ) -> Routes {
        let (mut all, mut folded) = (Routes::default(), Vec::new());
        for each in settings {
            let entry = match &each.action {
                RouteAction::Redirect(redirect) => {
                    RouteEntry::new(each, body, RouteAction::Redirect(redirect.clone()), None)
                }
                RouteAction::Pool(name) => match pool(name) {
                    Some((position, timeouts)) => {
                        RouteEntry::new(each, body, RouteAction::Pool(position), Some(timeouts))
                    }
                    None => continue,
                },
            };
            let tied = || each.listeners.iter().filter_map(|name| listener(name)).collect();
            let listeners: Option<Vec<usize>> = (!each.listeners.is_empty()).then(tied);
            let any = each.hosts.is_empty().then_some(HostMatch::Any);
            for host in each.hosts.iter().map(|host| HostMatch::parse(host)).chain(any) {
                let prefix: String = each.path_prefix.trim_end_matches('/').into();
                let matches = RouteMatch { listeners: listeners.clone(), is_secure: each.is_secure, host, prefix };
                let prefix = matches.prefix.to_ascii_lowercase();
                folded.push((RouteMatch { prefix, ..matches.clone() }, all.entries.len()));
                all.index.insert(matches, all.entries.len());
            }
            let entry = RouteEntry { access: all.access_rules(&each.access), ..entry };
            all.entries.push(entry);
        }
        all.fold(folded);
        all
    }

    /// Makes the access rules of the next route. Equal rules are one value, so that they are quickly compared.
    fn access_rules(&self, settings: &access::Settings) -> Option<Arc<AccessRules>> {
        let rules = AccessRules::new(settings)?;
        let mut known = self.entries.iter().filter_map(|entry| entry.access.as_ref());
        Some(known.find(|known| ***known == rules).map_or_else(|| Arc::new(rules), Arc::clone))
    }

    /// Makes the index for paths in lower case, if any route has access rules. Of routes that differ in case only, one
    /// with rules goes first.
    fn fold(&mut self, matches: Vec<(RouteMatch, usize)>) {
        let has_rules = |position: usize| self.entry(position).is_some_and(|entry| entry.access.is_some());
        let (with, without): (Vec<_>, Vec<_>) = matches.into_iter().partition(|(_, position)| has_rules(*position));
        if with.is_empty() {
            return;
        }
        let mut folded = RouteIndex::default();
        with.into_iter().chain(without).for_each(|(matches, position)| folded.insert(matches, position));
        self.folded = Some(folded);
    }

    /// Finds the position of the route entry for a request to `host` (without port, in any case) and `path` that was
    /// received by the listener with this id.
    pub fn find(&self, listener: usize, is_secure: bool, host: &str, path: &str) -> Option<usize> {
        self.index.find(listener, is_secure, host, path)
    }

    /// Finds the route entry like [`Routes::find`], for a path in lower case, whatever the case of prefixes. `None` if no
    /// route has access rules, either.
    pub(super) fn find_folded(&self, listener: usize, is_secure: bool, host: &str, path: &str) -> Option<&RouteEntry> {
        self.entry(self.folded.as_ref()?.find(listener, is_secure, host, path)?)
    }

    /// Whether any route has access rules.
    pub fn has_access_rules(&self) -> bool {
        self.folded.is_some()
    }

    /// The route entry at a position.
    pub fn entry(&self, position: usize) -> Option<&RouteEntry> {
        self.entries.get(position)
    }

    /// All route entries, by position.
    pub fn entries(&self) -> &[RouteEntry] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type TestRoute<'g> = (Option<bool>, &'g [&'g str], &'g str, &'g str);

    const LISTENER: usize = 0;

    fn routes(given: &[TestRoute<'_>], timeouts: &Timeouts) -> Routes {
        let settings: Vec<_> = given
            .iter()
            .map(|(is_secure, hosts, prefix, pool)| Settings {
                is_secure: *is_secure,
                hosts: hosts.iter().map(|host| (*host).into()).collect(),
                path_prefix: (*prefix).into(),
                ..Settings::all_to(pool)
            })
            .collect();
        Routes::new(&settings, 0, |_| None, |name| Some((name.parse().ok()?, timeouts)))
    }

    fn found(routes: &Routes, is_secure: bool, host: &str, path: &str) -> Option<usize> {
        match routes.entry(routes.find(LISTENER, is_secure, host, path)?)?.action {
            RouteAction::Pool(pool) => Some(pool),
            RouteAction::Redirect(_) => None,
        }
    }

    #[test]
    fn the_most_specific_route_wins_whatever_the_order() {
        let table: [TestRoute<'_>; 8] = [
            (None, &[], "/", "0"),
            (None, &["*.example.com"], "/", "1"),
            (None, &["*.b.example.com"], "/", "2"),
            (None, &["shop.example.com"], "/", "3"),
            (None, &["shop.example.com"], "/cart", "4"),
            (None, &[], "/cart", "5"),
            (Some(true), &["*.example.com"], "/", "6"),
            (Some(true), &[], "/cart", "7"),
        ];
        let mut reversed = table;
        reversed.reverse();
        let timeouts = Timeouts::default();
        for routes in [routes(&table, &timeouts), routes(&reversed, &timeouts)] {
            for (is_secure, host, path, pool) in [
                (false, "shop.example.com", "/", 3),
                (false, "SHOP.example.COM", "/cart", 4),
                (false, "shop.example.com", "/cart/1", 4),
                (false, "shop.example.com", "/cart;jsessionid=1.a", 4),
                (false, "shop.example.com", "/carts", 3),
                (false, "x.example.com", "/cart", 1),
                (false, "a.b.example.com", "/", 2),
                (false, "example.com", "/", 0),
                (false, ".example.com", "/", 0),
                (false, "other", "/cart", 5),
                (false, "", "*", 0),
                (true, "shop.example.com", "/cart", 6),
                (true, "other", "/cart", 7),
                (true, "other", "/", 0),
            ] {
                assert_eq!(found(&routes, is_secure, host, path), Some(pool), "{is_secure} {host} {path}");
            }
        }
    }

    #[test]
    fn a_route_with_a_listener_matches_only_its_requests_and_ranks_first() {
        let timeouts = Timeouts::default();
        let tied = |listeners: &[&str], hosts: &[&str], pool: &str| Settings {
            listeners: listeners.iter().map(|name| (*name).into()).collect(),
            hosts: hosts.iter().map(|host| (*host).into()).collect(),
            ..Settings::all_to(pool)
        };
        let settings = [
            tied(&[], &["a"], "0"),
            tied(&["1", "2"], &[], "1"),
            tied(&["2"], &["a"], "2"),
            tied(&["nowhere"], &["b"], "3"),
        ];
        let pool = |name: &str| Some((name.parse().ok()?, &timeouts));
        let routes = Routes::new(&settings, 0, |name| name.parse().ok(), pool);
        for (listener, host, found) in [
            (0, "a", Some(0)),
            (0, "b", None),
            (1, "a", Some(1)),
            (1, "b", Some(1)),
            (2, "a", Some(2)),
            (2, "b", Some(1)),
        ] {
            assert_eq!(routes.find(listener, false, host, "/"), found, "{listener} {host}");
        }
    }

    #[test]
    fn a_request_without_a_route_has_no_pool() {
        let timeouts = Timeouts::default();
        let routes = |hosts: &[&str], prefix: &str| routes(&[(None, hosts, prefix, "0")], &timeouts);
        assert_eq!(found(&routes(&["a"], "/"), false, "b", "/"), None);
        assert_eq!(found(&routes(&[], "/app/"), false, "b", "/"), None);
        assert_eq!(found(&routes(&[], "/app/"), false, "b", "/app"), Some(0));
    }

    #[test]
    fn a_route_without_timeouts_uses_those_of_its_pool() {
        let pool = Timeouts { total: Duration::from_secs(7), ..Timeouts::default() };
        let mut settings = Settings::all_to("0");
        let entry = |settings: &Settings| {
            Routes::new(std::slice::from_ref(settings), 9, |_| None, |_| Some((0, &pool))).entries.pop().unwrap()
        };
        assert_eq!((entry(&settings).timeouts, entry(&settings).body), (None, 9));
        settings.timeouts.response = Some(Duration::from_secs(1));
        settings.body_bytes = Some(3);
        let own = Timeouts { response: Duration::from_secs(1), ..pool.clone() };
        assert_eq!((entry(&settings).timeouts, entry(&settings).body), (Some(Box::new(own)), 3));
    }
}

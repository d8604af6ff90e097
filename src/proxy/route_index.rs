//! Owns: finding the most specific of many routes for a request, at a cost that does not grow with their number.
//! Invariant: it finds what a search of all routes in the order of their precedence would find first.
//! Must not know: what a route does.

use std::borrow::Cow;
use std::collections::HashMap;

use super::rewrite::strip_path_prefix;

/// What requests a route matches.
#[derive(Debug, Clone)]
pub(super) struct RouteMatch {
    /// The ids of the listeners whose requests match; `None` for all listeners.
    pub(super) listeners: Option<Vec<usize>>,
    /// Matches only requests with TLS, or only those without; `None` for both.
    pub(super) is_secure: Option<bool>,
    pub(super) host: HostMatch,
    /// A prefix of the path in whole segments, without a slash at its end.
    pub(super) prefix: String,
}

/// Which hosts a route matches, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HostMatch {
    Exact(String),
    /// `.example.com` of `*.example.com`, which matches at least one more label.
    Suffix(String),
    Any,
}

impl HostMatch {
    pub(super) fn parse(pattern: &str) -> HostMatch {
        match pattern.strip_prefix('*') {
            Some("") => HostMatch::Any,
            Some(suffix) => HostMatch::Suffix(suffix.to_ascii_lowercase()),
            None => HostMatch::Exact(pattern.to_ascii_lowercase()),
        }
    }
}

/// The routes, by what they match. A route with a listener precedes any without, then one with a scheme, then the more
/// specific host, then the longer prefix; of routes that match the same requests, the first that was inserted.
#[derive(Debug, Default)]
pub(super) struct RouteIndex {
    /// Those with a listener first, then those with a scheme: few enough to look at each.
    scopes: Vec<(Scope, Hosts)>,
}

/// Which requests a group of routes matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scope {
    listener: Option<usize>,
    is_secure: Option<bool>,
}

#[derive(Debug, Default)]
struct Hosts {
    exact: HashMap<String, Prefixes>,
    suffixes: HashMap<String, Prefixes>,
    longest_suffix: usize,
    any: Prefixes,
}

#[derive(Debug, Default)]
struct Prefixes {
    by_prefix: HashMap<String, usize>,
    /// The lengths of all prefixes but the empty one, longest first.
    lengths: Vec<usize>,
    /// The route for every path.
    root: Option<usize>,
}

impl RouteIndex {
    /// Adds the matches of the route at this position.
    pub(super) fn insert(&mut self, matches: RouteMatch, position: usize) {
        let listeners = match &matches.listeners {
            Some(tied) => tied.iter().copied().map(Some).collect(),
            None => vec![None],
        };
        for listener in listeners {
            let scope = Scope { listener, is_secure: matches.is_secure };
            self.hosts_of(scope).prefixes_of(&matches.host).insert(&matches.prefix, position);
        }
    }

    fn hosts_of(&mut self, scope: Scope) -> &mut Hosts {
        let at = self.scopes.iter().position(|(other, _)| *other == scope).unwrap_or_else(|| {
            let at = self.scopes.partition_point(|(other, _)| other.rank() >= scope.rank());
            self.scopes.insert(at, (scope, Hosts::default()));
            at
        });
        &mut self.scopes[at].1
    }

    /// Finds the position of the route for a request to `host` (without port, in any case) and `path`.
    pub(super) fn find(&self, listener: usize, is_secure: bool, host: &str, path: &str) -> Option<usize> {
        let host = match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(host.to_ascii_lowercase()),
            false => Cow::Borrowed(host),
        };
        let mut scopes = self.scopes.iter().filter(|(scope, _)| scope.matches(listener, is_secure));
        scopes.find_map(|(_, hosts)| hosts.find(&host, path))
    }
}

impl Scope {
    fn rank(self) -> (bool, bool) {
        (self.listener.is_some(), self.is_secure.is_some())
    }

    fn matches(self, listener: usize, is_secure: bool) -> bool {
        self.listener.is_none_or(|only| only == listener) && self.is_secure.is_none_or(|only| only == is_secure)
    }
}

impl Hosts {
    fn prefixes_of(&mut self, host: &HostMatch) -> &mut Prefixes {
        match host {
            HostMatch::Exact(name) => self.exact.entry(name.clone()).or_default(),
            HostMatch::Suffix(suffix) => {
                self.longest_suffix = self.longest_suffix.max(suffix.len());
                self.suffixes.entry(suffix.clone()).or_default()
            }
            HostMatch::Any => &mut self.any,
        }
    }

    fn find(&self, host: &str, path: &str) -> Option<usize> {
        self.exact_match(host, path).or_else(|| self.suffix_match(host, path)).or_else(|| self.any.find(path))
    }

    fn exact_match(&self, host: &str, path: &str) -> Option<usize> {
        if self.exact.is_empty() { None } else { self.exact.get(host)?.find(path) }
    }

    fn suffix_match(&self, host: &str, path: &str) -> Option<usize> {
        // Nothing before this can begin a suffix, however long the host is.
        let begin = host.len().saturating_sub(self.longest_suffix).max(1);
        let dots = host.bytes().enumerate().skip(begin).filter(|(_, byte)| *byte == b'.');
        dots.filter_map(|(at, _)| self.suffixes.get(host.get(at..)?)).find_map(|prefixes| prefixes.find(path))
    }
}

impl Prefixes {
    fn insert(&mut self, prefix: &str, position: usize) {
        if prefix.is_empty() {
            self.root.get_or_insert(position);
            return;
        }
        self.by_prefix.entry(prefix.to_owned()).or_insert(position);
        if let Err(at) = self.lengths.binary_search_by(|length| prefix.len().cmp(length)) {
            self.lengths.insert(at, prefix.len());
        }
    }

    fn find(&self, path: &str) -> Option<usize> {
        let prefixes = self.lengths.iter().filter_map(|length| path.get(..*length));
        let mut whole = prefixes.filter(|prefix| strip_path_prefix(prefix, path).is_some());
        whole.find_map(|prefix| self.by_prefix.get(prefix)).copied().or(self.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl HostMatch {
        /// Ranks exact names above wildcards, longer wildcards above shorter ones, and any host last.
        fn rank(&self) -> (u8, usize) {
            match self {
                HostMatch::Exact(_) => (2, 0),
                HostMatch::Suffix(suffix) => (1, suffix.len()),
                HostMatch::Any => (0, 0),
            }
        }

        fn matches(&self, host: &str) -> bool {
            match self {
                HostMatch::Any => true,
                HostMatch::Exact(name) => host.eq_ignore_ascii_case(name),
                HostMatch::Suffix(suffix) => {
                    let at = host.len().checked_sub(suffix.len()).filter(|at| *at > 0);
                    at.and_then(|at| host.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
                }
            }
        }
    }

    /// Searches all routes, one after the other: what docs/routes.md says.
    fn search(routes: &[RouteMatch], listener: usize, is_secure: bool, host: &str, path: &str) -> Option<usize> {
        let rank = |route: &RouteMatch| {
            (route.listeners.is_some(), route.is_secure.is_some(), route.host.rank(), route.prefix.len())
        };
        let mut sorted: Vec<_> = routes.iter().enumerate().collect();
        sorted.sort_by_key(|(_, route)| std::cmp::Reverse(rank(route)));
        let matches = |route: &RouteMatch| {
            route.listeners.as_ref().is_none_or(|tied| tied.contains(&listener))
                && route.is_secure.is_none_or(|only| only == is_secure)
                && route.host.matches(host)
                && strip_path_prefix(&route.prefix, path).is_some()
        };
        sorted.iter().find(|(_, route)| matches(route)).map(|(position, _)| *position)
    }

    fn index(routes: &[RouteMatch]) -> RouteIndex {
        let mut index = RouteIndex::default();
        routes.iter().enumerate().for_each(|(position, route)| index.insert(route.clone(), position));
        index
    }

    /// Few different values, so that many routes match the same request.
    fn route() -> impl Strategy<Value = RouteMatch> {
        let hosts = ["*", "a", "a.b", "b.a.b", "*.b", "*.a.b", "*.b.a.b", "é.b", "*.é.b"];
        let prefixes = ["", "/a", "/a/b", "/ab", "/a;b", "/b", "/a/b/c", "/é", "/a/é"];
        let listeners = proptest::option::of(proptest::collection::vec(0usize..3, 0..3));
        let host = proptest::sample::select(hosts.to_vec()).prop_map(HostMatch::parse);
        (listeners, any::<Option<bool>>(), host, proptest::sample::select(prefixes.to_vec())).prop_map(
            |(listeners, is_secure, host, prefix)| RouteMatch { listeners, is_secure, host, prefix: prefix.into() },
        )
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_a_search_of_all_routes_finds(
            routes in proptest::collection::vec(route(), 0..40),
            requests in proptest::collection::vec((0usize..3, any::<bool>(), "([abAB]\\.|é\\.|\\.){0,4}[abB]?", "(/a|/b|/ab|/c|/é|;b|/){0,5}"), 20),
        ) {
            let index = index(&routes);
            for (listener, is_secure, host, path) in requests {
                let expected = search(&routes, listener, is_secure, &host, &path);
                prop_assert_eq!(index.find(listener, is_secure, &host, &path), expected, "{} {}", host, path);
            }
        }
    }

    #[test]
    fn a_long_host_or_path_is_found_without_a_look_at_each_of_its_parts() {
        let route = |host: &str, prefix: &str| RouteMatch {
            listeners: None,
            is_secure: None,
            host: HostMatch::parse(host),
            prefix: prefix.into(),
        };
        let index = index(&[route("*.example.com", "/a/b"), route("*", "/c")]);
        let host = ".a".repeat(30_000) + ".example.com";
        assert_eq!(index.find(0, false, &host, "/a/b/c"), Some(0));
        assert_eq!(index.find(0, false, &host, &"/c/d".repeat(30_000)), Some(1));
        assert_eq!(index.find(0, false, &host, &"/a".repeat(30_000)), None);
    }
}

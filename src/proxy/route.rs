//! Owns: host and path → pool.
//! Invariant: the most specific route wins, whatever the order of the configuration.
//! Must not know: backends.

/// One `[[routes]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Host names in lower case, exact or `*.suffix`; empty for every host.
    pub hosts: Vec<String>,
    /// The beginning of the path, whole segments; `/` for every path.
    pub path_prefix: String,
    /// Name of the pool.
    pub pool: String,
}

impl Settings {
    /// Every request to the pool named `pool`.
    pub fn all_to(pool: &str) -> Settings {
        Settings { hosts: Vec::new(), path_prefix: "/".into(), pool: pool.into() }
    }
}

/// All routes, most specific first.
#[derive(Debug, Default)]
pub struct Routes {
    routes: Vec<Route>,
}

#[derive(Debug)]
struct Route {
    host: Host,
    prefix: String,
    pool: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Host {
    Exact(String),
    /// `.example.com` of `*.example.com`: at least one label more.
    Suffix(String),
    Any,
}

impl Routes {
    /// Makes the table; `position` finds a pool by name. A route to no pool is left out: the
    /// configuration check has refused it.
    pub fn new(settings: &[Settings], position: impl Fn(&str) -> Option<usize>) -> Routes {
        let mut routes = Vec::new();
        for each in settings {
            let Some(pool) = position(&each.pool) else { continue };
            let any = each.hosts.is_empty().then_some(Host::Any);
            for host in each.hosts.iter().map(|host| Host::parse(host)).chain(any) {
                routes.push(Route { host, prefix: each.path_prefix.trim_end_matches('/').into(), pool });
            }
        }
        routes.sort_by_key(|route| std::cmp::Reverse((route.host.rank(), route.prefix.len())));
        Routes { routes }
    }

    /// The pool for a request to `host` (without port, any case) and `path`.
    pub fn find(&self, host: &str, path: &str) -> Option<usize> {
        let found = self.routes.iter().find(|route| route.host.matches(host) && is_prefix(&route.prefix, path));
        found.map(|route| route.pool)
    }
}

impl Host {
    fn parse(pattern: &str) -> Host {
        match pattern.strip_prefix('*') {
            Some("") => Host::Any,
            Some(suffix) => Host::Suffix(suffix.to_ascii_lowercase()),
            None => Host::Exact(pattern.to_ascii_lowercase()),
        }
    }

    /// Exact before wildcard, the longer wildcard before the shorter, any host last.
    fn rank(&self) -> (u8, usize) {
        match self {
            Host::Exact(_) => (2, 0),
            Host::Suffix(suffix) => (1, suffix.len()),
            Host::Any => (0, 0),
        }
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            Host::Any => true,
            Host::Exact(name) => host.eq_ignore_ascii_case(name),
            Host::Suffix(suffix) => {
                let at = host.len().checked_sub(suffix.len()).filter(|at| *at > 0);
                at.and_then(|at| host.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
        }
    }
}

/// Whole segments: `/app` is a prefix of `/app` and `/app/x`, not of `/apple`.
fn is_prefix(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

/// A Host field's value without its port.
pub fn without_port(host: &str) -> &str {
    match host.bytes().rposition(|byte| byte == b':') {
        // The colons inside an IPv6 literal's brackets are none before a port.
        Some(at) if !host[at..].contains(']') => &host[..at],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(settings: &[(&[&str], &str, &str)]) -> Routes {
        let settings: Vec<_> = settings
            .iter()
            .map(|(hosts, prefix, pool)| Settings {
                hosts: hosts.iter().map(|host| (*host).into()).collect(),
                path_prefix: (*prefix).into(),
                pool: (*pool).into(),
            })
            .collect();
        Routes::new(&settings, |name| name.parse().ok())
    }

    #[test]
    fn the_most_specific_route_wins_whatever_the_order() {
        let table: [(&[&str], &str, &str); 6] = [
            (&[], "/", "0"),
            (&["*.example.com"], "/", "1"),
            (&["*.b.example.com"], "/", "2"),
            (&["shop.example.com"], "/", "3"),
            (&["shop.example.com"], "/cart", "4"),
            (&[], "/cart", "5"),
        ];
        let mut reversed = table;
        reversed.reverse();
        for routes in [routes(&table), routes(&reversed)] {
            for (host, path, pool) in [
                ("shop.example.com", "/", 3),
                ("SHOP.example.COM", "/cart", 4),
                ("shop.example.com", "/cart/1", 4),
                ("shop.example.com", "/carts", 3),
                ("x.example.com", "/cart", 1),
                ("a.b.example.com", "/", 2),
                ("example.com", "/", 0),
                (".example.com", "/", 0),
                ("other", "/cart", 5),
                ("", "*", 0),
            ] {
                assert_eq!(routes.find(host, path), Some(pool), "{host} {path}");
            }
        }
    }

    #[test]
    fn no_route_is_no_pool() {
        assert_eq!(routes(&[(&["a"], "/", "0")]).find("b", "/"), None);
        assert_eq!(routes(&[(&[], "/app/", "0")]).find("b", "/"), None);
        assert_eq!(routes(&[(&[], "/app/", "0")]).find("b", "/app"), Some(0));
    }

    #[test]
    fn the_port_is_not_part_of_the_host() {
        for (with, without) in [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("", "")] {
            assert_eq!(without_port(with), without);
        }
    }
}

//! Owns: conditions on scheme, host and path, and the routes that they become.
//! Invariant: a condition is one that routes can express, except that paths match by whole segments.
//! Must not know: the formats of sources.

use super::grammar::{self, is_below};
use super::route::Request;

/// The most alternatives of a condition.
const MOST: usize = 1000;

/// A condition: one of its terms must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition(Vec<Term>);

/// A scheme, a host and a path prefix; `None` for any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Term {
    secure: Option<bool>,
    host: Option<String>,
    prefix: Option<String>,
}

impl Condition {
    /// Returns the condition that always holds.
    pub(super) fn always() -> Condition {
        Condition(vec![Term::default()])
    }

    /// Returns a condition on the host: a name, or `*.` and the end of a name.
    pub(super) fn host(text: &str) -> Option<Condition> {
        Some(Condition(vec![Term { host: Some(grammar::host(text)?), ..Term::default() }]))
    }

    /// Returns a condition on the path prefix.
    pub(super) fn prefix(text: &str) -> Option<Condition> {
        Some(Condition(vec![Term { prefix: Some(grammar::prefix(text)?), ..Term::default() }]))
    }

    /// Returns a condition on whether the client uses TLS.
    pub(super) fn secure(is_secure: bool) -> Condition {
        Condition(vec![Term { secure: Some(is_secure), ..Term::default() }])
    }

    /// Returns the negation, if routes can express it.
    pub(super) fn negated(&self) -> Option<Condition> {
        match &self.0[..] {
            [Term { secure: Some(is_secure), host: None, prefix: None }] => Some(Condition::secure(!is_secure)),
            _ => None,
        }
    }

    /// Returns the condition that either holds; `None` if it has too many terms.
    pub(super) fn or(mut self, other: Condition) -> Option<Condition> {
        for term in other.0 {
            if !self.0.contains(&term) {
                self.0.push(term);
            }
        }
        (self.0.len() <= MOST).then_some(self)
    }

    /// Returns the condition that both hold; `None` if they exclude each other, or it has too many terms.
    pub(super) fn and(&self, other: &Condition) -> Option<Condition> {
        if self.0.len().checked_mul(other.0.len())? > MOST {
            return None;
        }
        let pairs = self.0.iter().flat_map(|one| other.0.iter().map(move |other| (one, other)));
        let terms: Vec<_> = pairs.filter_map(|(one, other)| one.and(other)).collect();
        (!terms.is_empty()).then_some(Condition(terms))
    }

    /// Returns the requests of each route.
    pub(super) fn routes(&self) -> Vec<Request> {
        let mut routes: Vec<Request> = Vec::new();
        for term in &self.0 {
            let prefix = term.prefix.as_deref().unwrap_or("/");
            let is_same = |other: &&mut Request| {
                other.prefix == prefix && other.secure == term.secure && other.hosts.is_empty() == term.host.is_none()
            };
            match routes.iter_mut().find(is_same) {
                Some(request) => request.hosts.extend(term.host.clone()),
                None => routes.push(Request {
                    secure: term.secure,
                    hosts: term.host.clone().into_iter().collect(),
                    prefix: prefix.into(),
                }),
            }
        }
        routes
    }

    /// Returns the path prefixes, if it is a condition on paths alone.
    pub(super) fn prefixes(&self) -> Option<Vec<&str>> {
        self.0
            .iter()
            .map(|term| term.prefix.as_deref().filter(|_| term.host.is_none() && term.secure.is_none()))
            .collect()
    }
}

impl Term {
    fn and(&self, other: &Term) -> Option<Term> {
        let secure = match (self.secure, other.secure) {
            (Some(one), Some(other)) if one != other => return None,
            (one, other) => one.or(other),
        };
        let host = match (&self.host, &other.host) {
            (Some(one), Some(other)) if one != other => return None,
            (one, other) => one.clone().or_else(|| other.clone()),
        };
        let prefix = match (&self.prefix, &other.prefix) {
            (Some(one), Some(other)) if is_below(one, other) => Some(one.clone()),
            (Some(one), Some(other)) if is_below(other, one) => Some(other.clone()),
            (Some(_), Some(_)) => return None,
            (one, other) => one.clone().or_else(|| other.clone()),
        };
        Some(Term { secure, host, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&str]) -> Condition {
        names.iter().map(|name| Condition::host(name).unwrap()).reduce(|one, other| one.or(other).unwrap()).unwrap()
    }

    fn prefixes(paths: &[&str]) -> Condition {
        paths.iter().map(|path| Condition::prefix(path).unwrap()).reduce(|one, other| one.or(other).unwrap()).unwrap()
    }

    #[test]
    fn hosts_and_paths_are_routes() {
        let both = hosts(&["A.example", "*.b.example"]).and(&prefixes(&["/x/", "/y"])).unwrap();
        let hosts: Vec<String> = vec!["a.example".into(), "*.b.example".into()];
        assert_eq!(both.routes(), [Request::to(hosts.clone(), "/x"), Request::to(hosts, "/y")]);
        assert_eq!(Condition::always().routes(), [Request::to(vec![], "/")]);
        let clear = Condition::secure(true).negated().unwrap();
        assert_eq!(clear.routes(), [Request { secure: Some(false), ..Request::to(vec![], "/") }]);
        assert_eq!(clear.and(&Condition::secure(true)), None);
        assert_eq!(prefixes(&["/x"]).or(hosts_only()).unwrap().routes().len(), 2);
    }

    fn hosts_only() -> Condition {
        hosts(&["a.example"])
    }

    #[test]
    fn what_never_holds_is_none() {
        assert_eq!(hosts(&["a.example"]).and(&hosts(&["b.example"])), None);
        assert_eq!(prefixes(&["/a"]).and(&prefixes(&["/ab"])), None);
        assert_eq!(prefixes(&["/a"]).and(&prefixes(&["/a/b"])), Some(prefixes(&["/a/b"])));
        assert_eq!(prefixes(&["/"]).and(&prefixes(&["/a"])), Some(prefixes(&["/a"])));
    }

    #[test]
    fn too_many_alternatives_are_none() {
        let names: Vec<_> = (0..40).map(|i| format!("h{i}.example")).collect();
        let paths: Vec<_> = (0..40).map(|i| format!("/p{i}")).collect();
        let (names, paths): (Vec<_>, Vec<_>) =
            (names.iter().map(String::as_str).collect(), paths.iter().map(String::as_str).collect());
        assert_eq!(hosts(&names).and(&prefixes(&paths)), None);
    }
}

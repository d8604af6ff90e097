//! Owns: `[[pools.persistence.rules]]`: requests that are not pinned, and testers' requests that name their backend.
//! Invariant: the first rule that matches counts; a client names a backend only from an address that the rule allows.
//! Must not know: pins.

use std::net::IpAddr;

use http::header::{HeaderName, USER_AGENT};
use http::{Method, request};
use ipnet::IpNet;

use crate::pool::Pool;

/// One of `[[pools.persistence.rules]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// A matching request neither uses nor issues a pin.
    Exempt(ExemptRule),
    /// A matching request goes to the backend that it names.
    Force(ForceRule),
}

/// Exempts the requests that match every list that is not empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExemptRule {
    /// Patterns of paths.
    pub paths: Vec<Pattern>,
    /// Methods.
    pub methods: Vec<Method>,
    /// Patterns of the User-Agent field, in any case.
    pub user_agents: Vec<Pattern>,
}

/// Lets clients from some addresses name their backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForceRule {
    /// Where the request names the backend.
    pub by: BackendNameIn,
    /// The networks from which the name counts.
    pub from: Vec<IpNet>,
}

/// Where a request names its backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendNameIn {
    /// In a field, which is removed before the request goes to a backend.
    Header(HeaderName),
    /// In a parameter of the query, which stays in the request.
    Query(String),
}

/// The effect of a rule that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleEffect {
    /// The request neither uses nor issues a pin.
    Exempt,
    /// The request goes to the backend at this position, and to no other.
    Force(usize),
}

impl RuleEffect {
    /// The access log's word for this effect.
    pub fn as_str(self) -> &'static str {
        match self {
            RuleEffect::Exempt => "exempt",
            RuleEffect::Force(_) => "force",
        }
    }
}

/// A pattern in which `*` matches any number of characters, including none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<String>,
}

impl Pattern {
    /// Parses a pattern.
    pub fn new(text: &str) -> Pattern {
        Pattern { parts: text.split('*').map(str::to_owned).collect() }
    }

    fn matches(&self, text: &[u8], same: impl Fn(&[u8], &[u8]) -> bool) -> bool {
        let [first, middle @ .., last] = self.parts.as_slice() else {
            return self.parts.first().is_some_and(|only| only.len() == text.len() && same(only.as_bytes(), text));
        };
        if text.len() < first.len() + last.len() {
            return false;
        }
        let (head, rest) = text.split_at(first.len());
        let (mut rest, tail) = rest.split_at(rest.len() - last.len());
        if !same(first.as_bytes(), head) || !same(last.as_bytes(), tail) {
            return false;
        }
        // The leftmost match of each part is the best: it leaves the most text for the parts that follow.
        for part in middle.iter().filter(|part| !part.is_empty()) {
            let Some(at) = rest.windows(part.len()).position(|window| same(part.as_bytes(), window)) else {
                return false;
            };
            rest = &rest[at + part.len()..];
        }
        true
    }
}

/// Returns the effect of the first rule that matches a request from `address`. A client of unknown address may name no
/// backend.
pub(super) fn first_effect(
    rules: &[Rule],
    head: &request::Parts,
    address: Option<IpAddr>,
    pool: &Pool,
) -> Option<RuleEffect> {
    rules.iter().find_map(|rule| match rule {
        Rule::Exempt(exempt) => exempt.matches(head).then_some(RuleEffect::Exempt),
        Rule::Force(force) => force.chosen(head, address, pool).map(RuleEffect::Force),
    })
}

impl ExemptRule {
    fn matches(&self, head: &request::Parts) -> bool {
        let fits = |patterns: &[Pattern], text: &[u8], same: fn(&[u8], &[u8]) -> bool| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(text, same))
        };
        let agent = head.headers.get(USER_AGENT).map(|agent| agent.as_bytes()).unwrap_or_default();
        (self.methods.is_empty() || self.methods.contains(&head.method))
            && fits(&self.paths, head.uri.path().as_bytes(), |a, b| a == b)
            && fits(&self.user_agents, agent, |a, b| a.eq_ignore_ascii_case(b))
    }
}

impl ForceRule {
    /// Returns the position of the named backend, or `None` if the rule does not match or the pool has no such backend.
    fn chosen(&self, head: &request::Parts, address: Option<IpAddr>, pool: &Pool) -> Option<usize> {
        let name = match &self.by {
            BackendNameIn::Header(name) => head.headers.get(name)?.to_str().ok()?.trim(),
            BackendNameIn::Query(key) => {
                let pairs = head.uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
                pairs.into_iter().find(|(name, _)| name == key)?.1
            }
        };
        let index = pool.position(name)?;
        self.from.iter().any(|network| address.is_some_and(|address| network.contains(&address))).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{backend, reconcile};
    use http::Request;
    use std::sync::Arc;

    fn pool() -> Arc<Pool> {
        let backends = ["a", "b"].map(|name| backend::Settings::new(name, "127.0.0.1:1".parse().unwrap()));
        reconcile::pool_of("app", backends)
    }

    fn head(method: &str, uri: &str, fields: &[(&str, &str)]) -> request::Parts {
        let request = Request::builder().method(method).uri(uri);
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_star_matches_any_characters() {
        for (pattern, text, matches) in [
            ("/static/*", "/static/a/b.css", true),
            ("/static/*", "/static", false),
            ("*.css", "/a.css", true),
            ("*.css", "/a.css.map", false),
            ("*bot*", "Googlebot/2.1", true),
            ("*bot*", "bot", true),
            ("a*b*c", "abbc", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("*", "", true),
            ("**", "x", true),
            ("/x", "/x", true),
            ("/x", "/xy", false),
        ] {
            let found = Pattern::new(pattern).matches(text.as_bytes(), |a, b| a.eq_ignore_ascii_case(b));
            assert_eq!(found, matches, "{pattern} {text}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let exempt = ExemptRule {
            paths: vec![Pattern::new("/static/*")],
            methods: vec![Method::GET, Method::HEAD],
            user_agents: Vec::new(),
        };
        let bots = ExemptRule { user_agents: vec![Pattern::new("*bot*")], ..ExemptRule::default() };
        let force = |by| Rule::Force(ForceRule { by, from: vec!["10.0.0.0/8".parse().unwrap()] });
        let header = || force(BackendNameIn::Header(HeaderName::from_static("x-backend")));
        let rules = [header(), Rule::Exempt(exempt), Rule::Exempt(bots), force(BackendNameIn::Query("backend".into()))];
        let inside: IpAddr = [10, 1, 2, 3].into();
        let outside: IpAddr = [11, 0, 0, 1].into();
        for (head, address, effect) in [
            (head("GET", "/static/x.css", &[]), outside, Some(RuleEffect::Exempt)),
            (head("POST", "/static/x.css", &[]), outside, None),
            (head("GET", "/", &[("user-agent", "GoogleBot")]), outside, Some(RuleEffect::Exempt)),
            (head("GET", "/static/x", &[("x-backend", "b")]), inside, Some(RuleEffect::Force(1))),
            (head("GET", "/static/x", &[("x-backend", "b")]), outside, Some(RuleEffect::Exempt)),
            (head("GET", "/static/x", &[("x-backend", "z")]), inside, Some(RuleEffect::Exempt)),
            (head("GET", "/?x=1&backend=a", &[]), inside, Some(RuleEffect::Force(0))),
            (head("GET", "/?backend=a", &[]), outside, None),
            (head("GET", "/?backend", &[]), inside, None),
        ] {
            assert_eq!(first_effect(&rules, &head, Some(address), &pool()), effect, "{head:?} {address}");
        }
        assert_eq!(first_effect(&rules, &head("GET", "/?backend=a", &[]), None, &pool()), None);
    }

    proptest::proptest! {
        #[test]
        fn a_pattern_matches_what_it_was_made_of(parts in proptest::collection::vec("[ab]{0,3}", 1..5), fill in "[abc]{0,3}") {
            let text = parts.join(&fill);
            let pattern = Pattern::new(&parts.join("*"));
            proptest::prop_assert!(pattern.matches(text.as_bytes(), |a, b| a == b));
        }
    }
}

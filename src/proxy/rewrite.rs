//! Owns: rewriting the request path for routes that strip or add a prefix.
//! Invariant: only whole segments are stripped; the rest, with path parameters and query, stays the same byte for byte.
//! Must not know: routes, configuration, cookies.

use http::Uri;
use http::uri::PathAndQuery;

/// The prefix that is stripped from a path, and the prefix that is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    strip: String,
    add: String,
}

impl Rewrite {
    /// Takes the prefixes as they are configured: `/app`, or `/` for none. `None` if there is nothing to rewrite.
    pub fn new(strip: Option<&str>, add: Option<&str>) -> Option<Rewrite> {
        let bare = |prefix: Option<&str>| prefix.unwrap_or_default().trim_end_matches('/').to_owned();
        let rewrite = Rewrite { strip: bare(strip), add: bare(add) };
        (!rewrite.strip.is_empty() || !rewrite.add.is_empty()).then_some(rewrite)
    }

    /// Rewrites a request target. `*` and paths that do not start with the prefix stay the same. `None` if the result
    /// would be longer than a target can be, which is 64 KiB: a request that can't be rewritten must not be forwarded
    /// with its old path.
    pub fn apply(&self, uri: Uri) -> Option<Uri> {
        let Some(rest) = uri.path().starts_with('/').then(|| strip_path_prefix(&self.strip, uri.path())).flatten()
        else {
            return Some(uri);
        };
        let slash = if rest.starts_with('/') || (rest.is_empty() && !self.add.is_empty()) { "" } else { "/" };
        let (mark, query) = uri.query().map_or(("", ""), |query| ("?", query));
        // Parts of valid paths make a valid path, unless it is too long.
        PathAndQuery::try_from([&self.add, slash, rest, mark, query].concat()).ok().map(Uri::from)
    }
}

/// The rest of `path` after `prefix`, if the prefix ends at the end of a segment. Path parameters belong to the segment
/// before them: `/app;jsessionid=1` has the prefix `/app`, as in Java servers.
pub(super) fn strip_path_prefix<'p>(prefix: &str, path: &'p str) -> Option<&'p str> {
    path.strip_prefix(prefix)
        .filter(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/') || rest.starts_with(';'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rewritten(strip: &str, add: &str, target: &str) -> String {
        let uri: Uri = target.parse().unwrap();
        match Rewrite::new(Some(strip), Some(add)) {
            Some(rewrite) => rewrite.apply(uri).unwrap().to_string(),
            None => uri.to_string(),
        }
    }

    #[test]
    fn a_target_that_would_be_too_long_is_not_rewritten() {
        let rewrite = Rewrite::new(None, Some("/v1")).unwrap();
        let target = |length: usize| Uri::try_from(format!("/{}", "x".repeat(length - 1))).unwrap();
        assert!(rewrite.apply(target(65_000)).is_some());
        assert_eq!(rewrite.apply(target(65_534)), None);
    }

    #[test]
    fn prefixes_are_stripped_and_added_at_the_bounds_of_segments() {
        for (strip, add, target, expected) in [
            ("/app", "/", "/app/x?y=/app", "/x?y=/app"),
            ("/app", "/", "/app", "/"),
            ("/app", "/", "/app/", "/"),
            ("/app", "/", "/app?x", "/?x"),
            ("/app", "/", "/apple", "/apple"),
            ("/app", "/", "/app;jsessionid=1.a", "/;jsessionid=1.a"),
            ("/app", "/", "/app/x;jsessionid=1.a?y", "/x;jsessionid=1.a?y"),
            ("/app", "/", "/app/%2e%2e/a%2Fb", "/%2e%2e/a%2Fb"),
            ("/app", "/v1", "/app/x", "/v1/x"),
            ("/app", "/v1", "/app", "/v1"),
            ("/app", "/v1", "/app/", "/v1/"),
            ("/app", "/v1", "/app;a=1", "/v1/;a=1"),
            ("/", "/v1", "/x", "/v1/x"),
            ("/", "/v1", "/", "/v1/"),
            ("/", "/", "/x", "/x"),
            ("/", "/v1", "*", "*"),
        ] {
            assert_eq!(rewritten(strip, add, target), expected, "-{strip} +{add} {target}");
        }
    }

    proptest! {
        #[test]
        fn every_rewritten_target_starts_with_the_added_prefix_and_keeps_its_query(
            path in "(/[a-z;=.%2]{0,4}){0,4}", query in "[a-z=&/?]{0,6}"
        ) {
            let target = rewritten("/app", "/v1", &format!("/app{path}?{query}"));
            prop_assert!(target.starts_with("/v1"), "{}", target);
            prop_assert!(target.ends_with(&format!("?{query}")), "{}", target);
        }
    }
}

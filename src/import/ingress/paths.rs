//! Owns: paths of Ingresses as prefixes, and their rewriting.
//! Invariant: a pattern that is more than a prefix is refused.
//! Must not know: routes, pools.

use super::super::grammar;
use super::annotations::Annotations;
use super::objects::PathRule;

/// The ends of patterns that only capture the rest of a path, and the variable that has it.
const ENDS: [(&str, &str); 7] = [
    ("(/|$)(.*)", "/$2"),
    ("(/|$)(.+)", "/$2"),
    ("/?(.*)", "/$1"),
    ("/(.*)", "/$1"),
    ("(/.*)", "$1"),
    ("(.*)", "$1"),
    ("/.*", ""),
];

/// Returns the prefix of a path, and whether the rewriting may strip it; `None` if it is a pattern that is more than that.
pub(super) fn prefix(rule: &PathRule<'_>, annotations: &Annotations<'_>, is_pattern: bool) -> Option<(String, bool)> {
    let path = rule.path.trim_start_matches('^').trim_end_matches('$');
    if is_pattern
        && let Some((before, end)) = ENDS.iter().find_map(|(end, rest)| Some((path.strip_suffix(end)?, *rest)))
    {
        let target = annotations.peek("rewrite-target").unwrap_or_default();
        let before = if before.is_empty() { "/" } else { before };
        return plain(before).map(|prefix| (prefix, target == end || target == end.trim_start_matches('/')));
    }
    plain(&rule.path).map(|prefix| (prefix, annotations.peek("rewrite-target") == Some("/")))
}

fn plain(path: &str) -> Option<String> {
    grammar::prefix(path).filter(|path| !path.contains(|c: char| "*()[]|^$+\\".contains(c)))
}

/// Returns the prefix to strip and to add.
pub(super) fn rewrite(
    annotations: &Annotations<'_>,
    prefix: &str,
    may_strip: bool,
) -> (Option<String>, Option<String>) {
    let strip = (may_strip && prefix != "/").then(|| prefix.to_owned());
    if may_strip {
        annotations.take("rewrite-target");
    }
    (strip, None)
}

//! Owns: finding routes that no request can reach: other routes match first, or no listener receives such requests.
//! Invariant: a route is reported only if this holds for all its listeners, schemes and hosts.
//! Must not know: what a route does.

use std::ops::Range;

use super::file::Draft;
use super::listeners::ListenerDraft;
use super::report::Notes;
use super::routes::RouteDraft;

/// The limit of comparisons of two routes: a file with thousands of routes must not take minutes.
const MOST: usize = 4_000_000;

/// Notes each route that no request can reach.
pub(super) fn check(draft: &Draft, notes: &Notes<'_>) {
    if !notes.is_whole() {
        return;
    }
    // Of two routes that match the same, the one with listeners comes first, then the one with a scheme. No other route
    // can be hidden: a longer path or a more specific host never matches all that a shorter one does.
    let preferred: Vec<&RouteDraft> = draft.routes.iter().filter(|route| rank(route) > (false, false)).collect();
    let is_bounded = preferred.len().saturating_mul(draft.routes.len()) <= MOST;
    for route in &draft.routes {
        let listeners: Vec<_> = draft.listeners.iter().filter(|listener| is_open_at(route, listener)).collect();
        // Another check reports listeners that are missing or have an error.
        if listeners.is_empty() || listeners.iter().any(|listener| listener.address.is_none()) {
            continue;
        }
        let arrivals: Vec<_> = arrivals(route, &listeners).collect();
        if arrivals.is_empty() {
            warn_without_arrivals(route, &listeners, notes);
        } else if is_bounded && let Some(span) = hidden(route, &arrivals, &preferred) {
            let line = notes.line_of(span.start) + 1;
            let problem = format!(
                "no request reaches this route: other routes match first, such as the one in line \
                                   {line}"
            );
            let remedy = "routes with `listeners` match first, then routes with `scheme`: give this route the same, \
                          or remove it";
            notes.warn(&route.span, problem, remedy);
        }
    }
}

/// Returns each listener and scheme by which requests reach a route.
fn arrivals<'l>(
    route: &RouteDraft,
    listeners: &[&'l ListenerDraft],
) -> impl Iterator<Item = (&'l ListenerDraft, bool)> {
    let wanted = route.settings.is_secure;
    let schemes = [false, true].into_iter().filter(move |scheme| wanted.is_none_or(|wanted| wanted == *scheme));
    let listeners: Vec<_> = listeners.iter().copied().filter(|listener| listener.serves()).collect();
    schemes.flat_map(move |scheme| {
        let having = listeners.clone().into_iter().filter(move |listener| listener.may_receive(scheme));
        having.map(move |listener| (listener, scheme))
    })
}

fn warn_without_arrivals(route: &RouteDraft, listeners: &[&ListenerDraft], notes: &Notes<'_>) {
    if !listeners.iter().any(|listener| listener.serves()) {
        let problem = "no request reaches this route: its listeners redirect every request to https";
        notes.warn(&route.span, problem, "name the listener that has [listeners.tls], or remove the route");
        return;
    }
    let (scheme, remedy) = match route.settings.is_secure {
        Some(true) => {
            ("https", "add [listeners.tls] to one, name your proxies in `trusted_proxies`, or remove `scheme`")
        }
        _ => ("http", "add [[listeners]] without TLS, or remove `scheme`"),
    };
    let problem = format!("no request reaches this route: none of its listeners receives {scheme} requests");
    notes.warn(&route.span, problem, remedy);
}

/// Returns the position of a route that matches first, if every request of this one matches another first.
fn hidden<'r>(
    route: &RouteDraft,
    arrivals: &[(&ListenerDraft, bool)],
    preferred: &[&'r RouteDraft],
) -> Option<&'r Range<usize>> {
    let before: Vec<_> = preferred.iter().copied().filter(|other| rank(other) > rank(route)).collect();
    let mut first = None;
    for (host, _) in route.each_host() {
        for (listener, scheme) in arrivals {
            let taker = before.iter().find(|other| {
                is_open_at(other, listener)
                    && other.settings.is_secure.is_none_or(|only| only == *scheme)
                    && other.each_host().iter().any(|(pattern, _)| covers(pattern, host))
                    && is_below(&route.settings.path_prefix, &other.settings.path_prefix)
            })?;
            first = first.or(Some(&taker.span));
        }
    }
    first
}

/// The precedence of two routes that match the same.
fn rank(route: &RouteDraft) -> (bool, bool) {
    (!route.listeners.is_empty(), route.settings.is_secure.is_some())
}

/// Whether a route serves a listener.
pub(super) fn is_open_at(route: &RouteDraft, listener: &ListenerDraft) -> bool {
    let name = listener.name();
    route.listeners.is_empty() || route.listeners.iter().any(|tied| Some(&tied.value) == name.as_ref())
}

/// Whether `pattern` matches every host that `host` matches, which may be a pattern, too. An empty one matches every
/// host.
pub(super) fn covers(pattern: &str, host: &str) -> bool {
    pattern.is_empty()
        || pattern == host
        || pattern
            .strip_prefix('*')
            .is_some_and(|suffix| host.trim_start_matches('*').ends_with(suffix) && host.len() > suffix.len())
}

/// Whether a path is `prefix` or below it, in whole segments.
fn is_below(path: &str, prefix: &str) -> bool {
    let rest = path.strip_prefix(prefix.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

//! Owns: the checks of which listeners and clients a route serves.
//! Invariant: a route names only listeners of the file; a way around certificates, passwords or addresses warns.
//! Must not know: what a route does; TLS handshakes.

use std::path::Path;

use super::file::Draft;
use super::listeners::ListenerDraft;
use super::reach::is_open_at;
use super::report::Notes;
use super::routes::RouteDraft;
use super::values::{known, shown};
use crate::proxy::access::AccessRules;
use crate::tls::server::ClientVerification;

/// Notes routes and listeners that do not fit together.
pub(super) fn check(draft: &Draft, notes: &Notes<'_>) {
    for route in &draft.routes {
        for (index, name) in route.listeners.iter().enumerate() {
            let names = || draft.listeners.iter().filter_map(ListenerDraft::name);
            if !names().any(|known| known == name.value) {
                let all: Vec<_> = names().collect();
                let problem = format!("there is no listener {}", shown(&name.value));
                notes.missing(&name.span, problem, known("listeners", &name.value, all.iter().map(String::as_str)));
            } else if route.listeners.iter().take(index).any(|other| other.value == name.value) {
                let problem = format!("{} is in this list twice", shown(&name.value));
                notes.error(&name.span, problem, "remove one");
            }
        }
    }
    if !notes.is_whole() {
        return;
    }
    unreached(draft, notes);
    certificates(draft, notes);
    passwords(draft, notes);
    other_hosts(draft, notes);
}

/// Notes listeners without a route: every request to them gets a 404.
fn unreached(draft: &Draft, notes: &Notes<'_>) {
    for listener in draft.listeners.iter().filter(|listener| listener.serves()) {
        let Some(address) = &listener.address else { continue };
        if !draft.routes.is_empty() && !draft.routes.iter().any(|route| is_open_at(route, listener)) {
            let problem = "no route serves this listener, so every request gets a 404: every route names other \
                           `listeners`";
            notes.warn(&address.span, problem, "add [[routes]] for this listener, or remove it");
        }
    }
}

/// Notes routes that serve a listener that requires client certificates and one that requires none, or those of another
/// authority: such a route keeps nobody out.
fn certificates(draft: &Draft, notes: &Notes<'_>) {
    let routed = draft.routes.iter().filter(|route| route.pool.is_some());
    // A route that names its listeners serves these on purpose.
    let mut opened: Vec<_> = routed.filter(|route| route.listeners.is_empty()).map(|route| &route.span).collect();
    if let (true, Some(pool)) = (draft.routes.is_empty(), draft.pools.first()) {
        opened.push(&pool.span);
    }
    let listeners = || draft.listeners.iter().filter(|listener| listener.serves());
    let Some((strict, wanted)) = listeners().find_map(|each| Some((each, required(each)?))) else { return };
    let Some(other) = listeners().find(|other| required(other) != Some(wanted)) else { return };
    let what = match (required(other), client_verification(other)) {
        (Some(_), _) => "requires one of another authority",
        (None, Some(_)) => "also accepts clients without one",
        (None, None) => "requires none",
    };
    let name = |listener: &ListenerDraft| shown(&listener.name().unwrap_or_default());
    let write = if draft.routes.is_empty() { "write [[routes]] with this `pool` and" } else { "write" };
    for span in opened {
        let problem = format!(
            "this serves the listener {}, which requires a client certificate, and the listener {}, which {what}",
            name(strict),
            name(other)
        );
        notes.warn(span, problem, format!("{write} listeners = [{}], or name both listeners there", name(strict)));
    }
}

/// Notes routes whose passwords travel over a network without TLS.
fn passwords(draft: &Draft, notes: &Notes<'_>) {
    let in_the_clear = |listener: &&ListenerDraft| {
        let address = listener.address.as_ref().and_then(|address| address.value.ip());
        listener.serves() && !listener.may_receive(true) && address.is_some_and(|ip| !ip.is_loopback())
    };
    for route in draft.routes.iter().filter(|route| route.settings.access.basic_auth.is_some()) {
        let is_open = |listener: &&ListenerDraft| route.settings.is_secure != Some(true) && is_open_at(route, listener);
        if let Some(listener) = draft.listeners.iter().filter(in_the_clear).find(is_open) {
            let name = shown(&listener.name().unwrap_or_default());
            let problem =
                format!("the listener {name} has no TLS: passwords of this route cross the network in the clear");
            notes.warn(&route.span, problem, "write scheme = \"https\" here, or [listeners.tls] there");
        }
    }
}

/// Notes routes of every host to a pool that a route of certain hosts leads to with access rules: a client chooses its
/// Host, and gets around them.
fn other_hosts(draft: &Draft, notes: &Notes<'_>) {
    let has_rules = |route: &RouteDraft| AccessRules::new(&route.settings.access).is_some();
    let pool = |route: &RouteDraft| route.pool.as_ref().map(|pool| pool.value.clone());
    for open in draft.routes.iter().filter(|route| !route.has_hosts && route.pool.is_some() && !has_rules(route)) {
        let is_guarded = |other: &&RouteDraft| {
            let prefix = |route: &RouteDraft| route.settings.path_prefix.trim_end_matches('/').to_owned();
            other.has_hosts
                && has_rules(other)
                && pool(other) == pool(open)
                && prefix(other).starts_with(&prefix(open))
                && (open.listeners.is_empty() || other.listeners.is_empty())
        };
        if let Some(other) = draft.routes.iter().find(is_guarded) {
            let line = notes.line_of(other.span.start) + 1;
            let problem = format!(
                "this leads every other host to the same pool as the route in line {line}, without its access rules: a \
                 client gets around them with another Host"
            );
            notes.warn(&open.span, problem, "write the same rules here, or `hosts`");
        }
    }
}

fn client_verification(listener: &ListenerDraft) -> Option<&ClientVerification> {
    listener.tls.as_ref()?.settings.as_ref()?.clients.as_ref()
}

/// The authority whose certificates the listener requires; `None` if clients need none.
fn required(listener: &ListenerDraft) -> Option<&Path> {
    client_verification(listener).filter(|clients| clients.is_required).map(|clients| clients.authorities.as_path())
}

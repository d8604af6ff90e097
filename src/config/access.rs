//! Owns: the checks of which listeners a route serves.
//! Invariant: a route names only listeners of the file; serving listeners with and without client certificates warns.
//! Must not know: what a route does; TLS handshakes.

use std::path::Path;

use super::file::Draft;
use super::listeners::ListenerDraft;
use super::reach::is_open_at;
use super::report::Notes;
use super::values::{known, shown};
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

fn client_verification(listener: &ListenerDraft) -> Option<&ClientVerification> {
    listener.tls.as_ref()?.settings.as_ref()?.clients.as_ref()
}

/// The authority whose certificates the listener requires; `None` if clients need none.
fn required(listener: &ListenerDraft) -> Option<&Path> {
    client_verification(listener).filter(|clients| clients.is_required).map(|clients| clients.authorities.as_path())
}

//! Owns: the annotations of session affinity.
//! Invariant: each of them is a setting of the pool, or is noted with the reason.
//! Must not know: routes, canaries.

use std::time::Duration;

use super::super::grammar;
use super::super::pool::{Cookie, Pinning, Pool};
use super::super::toml::Table;
use super::annotations::Annotations;

/// The annotations that make up a pool's affinity.
const ALL: [&str; 13] = [
    "affinity",
    "affinity-mode",
    "affinity-canary-behavior",
    "session-cookie-name",
    "session-cookie-path",
    "session-cookie-domain",
    "session-cookie-secure",
    "session-cookie-samesite",
    "session-cookie-conditional-samesite-none",
    "session-cookie-max-age",
    "session-cookie-expires",
    "session-cookie-change-on-failure",
    "session-cookie-hash",
];

/// Notes all of them with one reason.
pub(super) fn take(annotations: &Annotations<'_>, why: &str, notes: &mut Table) {
    for key in ALL {
        annotations.unsupported(key, why, notes);
    }
}

/// Notes all of them as needing no equivalent, with one reason.
pub(super) fn take_unneeded(annotations: &Annotations<'_>, why: &str, notes: &mut Table) {
    for key in ALL {
        annotations.unneeded(key, why, notes);
    }
}

/// Converts them into a pool's persistence.
pub(super) fn affinity(annotations: &Annotations<'_>, pool: &mut Pool) {
    match annotations.text("affinity") {
        None => {
            return take(annotations, "without affinity: \"cookie\" ingress-nginx pins nobody", &mut pool.persistence);
        }
        Some((_, "cookie")) => {}
        Some((line, _)) => {
            let shown = annotations.shown("affinity");
            pool.persistence.unsupported(line, &shown, "ingress-nginx knows \"cookie\" alone, and pins nobody");
            return take(annotations, "ingress-nginx pins nobody here", &mut pool.persistence);
        }
    }
    let mut cookie = Cookie { name: Some("INGRESSCOOKIE".into()), ..Cookie::default() };
    let mut notes = Table::default();
    let mut set = |key: &str, take: &mut dyn FnMut(&str) -> bool| {
        if let Some((line, text)) = annotations.text(key)
            && !take(text)
        {
            notes.unsupported(line, &annotations.shown(key), "not a value that a cookie of Linchpin can have");
        }
    };
    set("session-cookie-name", &mut |text| keep(&mut cookie.name, grammar::routing_cookie(text)));
    set("session-cookie-path", &mut |text| keep(&mut cookie.path, grammar::prefix(text)));
    set("session-cookie-domain", &mut |text| keep(&mut cookie.domain, grammar::domain(text)));
    set("session-cookie-secure", &mut |text| keep(&mut cookie.secure, text.parse().ok()));
    set("session-cookie-samesite", &mut |text| keep(&mut cookie.same_site, grammar::same_site(text)));
    let mut life = None;
    // Max-Age goes before Expires (RFC 6265 §5.3).
    set("session-cookie-expires", &mut |text| keep(&mut life, text.parse::<u64>().ok()));
    set("session-cookie-max-age", &mut |text| keep(&mut life, text.parse::<u64>().ok()));
    if let Some(seconds) = life.filter(|seconds| *seconds > 0) {
        cookie.permanent = true;
        pool.absolute_timeout = Some(Duration::from_secs(seconds));
        notes.comment("ingress-nginx renewed this time with every new cookie only; here it ends a session, however active: idle_timeout ends idle ones");
    }
    match annotations.text("affinity-mode") {
        Some((line, "persistent-drainable")) => {
            let why = "a pod that terminates keeps its sessions while it serves";
            notes.unneeded(line, &annotations.shown("affinity-mode"), why);
        }
        Some((line, "persistent")) => {
            let why = "a session always stays with its server";
            notes.unneeded(line, &annotations.shown("affinity-mode"), why);
        }
        other => {
            let line = other.map(|(line, _)| line);
            let why = "\"balanced\" moved some sessions whenever servers were added; here none moves, unless you write [pools.rebalance]";
            match line {
                Some(line) => notes.unneeded(line, &annotations.shown("affinity-mode"), why),
                None => notes.comment(format!("affinity-mode {why}")),
            }
        }
    }
    // As ingress-nginx does by default: another server helps out, and the cookie stays.
    let moves = annotations.text("session-cookie-change-on-failure").is_some_and(|(_, text)| text == "true");
    if !moves {
        pool.on.extend([("down", "borrow"), ("failed", "borrow")]);
        notes.comment("session-cookie-change-on-failure is not \"true\": while a server is down, another one serves its sessions, and they return to it");
    }
    let why = "browsers that reject SameSite=None are of 2019 and before";
    annotations.unsupported("session-cookie-conditional-samesite-none", why, &mut notes);
    annotations.unneeded("session-cookie-hash", "pins are encrypted, not hashed", &mut notes);
    if cookie.same_site == Some("None") && cookie.secure != Some(true) {
        cookie.secure = Some(true);
    }
    pool.persistence.append(notes);
    pool.pinning = Some(Pinning::Cookie(cookie));
}

/// Keeps a value that could be read; returns whether it could.
fn keep<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    let is_read = value.is_some();
    *place = value.or(place.take());
    is_read
}

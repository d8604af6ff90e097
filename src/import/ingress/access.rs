//! Owns: the annotations that keep clients out.
//! Invariant: one that can't be converted disables its routes.
//! Must not know: pools, affinity.

use ipnet::IpNet;

use super::super::access::Access;
use super::super::address_lists::AddressLists;
use super::super::guard::{Guard, GuardScope, Restriction};
use super::super::output::Output;
use super::super::reasons::{FILTER, PASSWORDS};
use super::super::route::Request;
use super::super::toml::Value;
use super::super::users::{self, User};
use super::objects::{Ingress, Objects, PathRule};

/// Converts the restrictions of an Ingress whose paths became these routes.
pub(super) fn restrict(
    ingress: &Ingress<'_>,
    ids: &[usize],
    (objects, group): (&Objects<'_>, usize),
    rules: &[PathRule<'_>],
    out: &mut Output,
) {
    let annotations = &ingress.annotations;
    let mut guards: Vec<(usize, String, &'static str)> = Vec::new();
    for (key, list) in
        [("allowlist-source-range", "allow"), ("whitelist-source-range", "allow"), ("denylist-source-range", "deny")]
    {
        let Some((line, text)) = annotations.text(key) else { continue };
        let lists = networks(text).map(|networks| match list {
            "allow" => AddressLists { allow: networks, ..AddressLists::default() },
            _ => AddressLists { deny: networks, ..AddressLists::default() },
        });
        if !lists.is_some_and(|lists| out.restrict_on(ids, &Access::Lists(lists))) {
            guards.push((line, annotations.shown(key), FILTER));
        }
    }
    let secret = annotations.text("auth-secret");
    if let Some((line, kind)) = annotations.text("auth-type") {
        let key = annotations.text("auth-secret-type").map_or("auth-file", |(_, kind)| kind);
        let folder = secret.and_then(|(_, secret)| objects.folder(&ingress.namespace, secret));
        match (kind, key, folder) {
            ("basic", "auth-file", Some(folder)) if !ids.is_empty() => {
                let realm = annotations.text("auth-realm").map(|(_, realm)| realm).filter(|realm| is_realm(realm));
                let pairs = [("file", Value::text(&format!("auth/{folder}/auth")))].into_iter();
                let pairs = pairs.chain(realm.map(|realm| ("realm", Value::text(realm))));
                let value = Value::inline(pairs.chain([("forward_authorization", Value::flag(true))]));
                out.set_on(ids, "basic_auth", &value);
                let text = secret.and_then(|(_, secret)| objects.secret(&ingress.namespace, secret, "auth"));
                let line = secret.map_or(line, |(line, _)| line);
                let pairs = text.iter().flat_map(|text| text.lines()).filter_map(|line| line.split_once(':'));
                let user = |(name, hash): (&str, &str)| User {
                    line,
                    shown: format!("{}, user {name}", annotations.shown("auth-secret")),
                    weak: users::weakness(hash.trim()),
                };
                let weak: Vec<User> = pairs.map(user).filter(|user| user.weak.is_some()).collect();
                users::note(&weak, &format!("auth/{folder}/auth"), out.notes(ids));
                out.notes(ids).comment(format!(
                    "mount the Secret as a volume at auth/{folder}, beside this file; its hashes must be bcrypt or Argon2 (htpasswd -B)"
                ));
            }
            _ => guards.push((line, annotations.shown("auth-type"), PASSWORDS)),
        }
    }
    // Whatever another controller knows by its annotations may keep requests out.
    if ingress.other_class().is_some() {
        let why = "an annotation of another controller may restrict requests: translate it, or leave the Ingress out of the source";
        guards.extend(annotations.of_others().into_iter().map(|(line, text)| (line, text, why)));
    }
    let external = "Linchpin asks no other service who may enter";
    if annotations.peek("enable-global-auth") != Some("false")
        && let Some((line, _)) = objects.settings.text("global-auth-url")
    {
        guards.push((line, objects.settings.shown("global-auth-url"), external));
    }
    let certificates = "certificates of clients belong to a listener: set `client_ca` in [listeners.tls] of one, and its name in `listeners` of the route";
    for (key, why) in [
        ("auth-url", external),
        ("auth-tls-secret", certificates),
        ("enable-global-auth", external),
        ("enable-modsecurity", FILTER),
        ("enable-owasp-core-rules", FILTER),
        ("modsecurity-snippet", FILTER),
    ] {
        let is_off = annotations.peek(key) == Some("false");
        if let Some((line, _)) = annotations.text(key).filter(|_| !is_off) {
            guards.push((line, annotations.shown(key), why));
        }
    }
    for key in ["configuration-snippet", "server-snippet", "auth-snippet"] {
        let restricts =
            |text: &str| ["deny", "allow", "return 4", "auth_", "satisfy"].iter().any(|word| text.contains(word));
        if annotations.peek(key).is_some_and(restricts)
            && let Some((line, _)) = annotations.text(key)
        {
            guards.push((line, annotations.shown(key), FILTER));
        }
    }
    if let Some((line, _)) = annotations.text("satisfy").filter(|(_, text)| *text == "any") {
        let why = "with both, a client needs the right address and a password";
        out.notes(ids).unsupported(line, &annotations.shown("satisfy"), why);
    }
    for key in [
        "auth-realm",
        "auth-tls-verify-client",
        "auth-tls-verify-depth",
        "auth-signin",
        "auth-method",
        "auth-response-headers",
        "auth-tls-error-page",
        "auth-tls-pass-certificate-to-upstream",
        "auth-tls-match-cn",
        "auth-cache-key",
        "auth-cache-duration",
        "auth-keepalive",
        "auth-proxy-set-headers",
        "auth-always-set-cookie",
    ] {
        annotations.unsupported(key, "belongs to what the notes on this Ingress say", out.notes(ids));
    }
    for (line, text, why) in guards {
        let place = match ids.is_empty() {
            false => GuardScope::Routes(ids.to_vec()),
            // Other routes would serve what it restricted.
            true => {
                let requests = rules.iter().map(|rule| Request::to(rule.host.clone().into_iter().collect(), "/"));
                GuardScope::Groups(vec![group], requests.collect())
            }
        };
        out.guard(Guard { place, line, text, why: why.into(), kind: Restriction::Lost });
    }
}

/// Reads networks that are separated by commas.
fn networks(text: &str) -> Option<Vec<String>> {
    let networks: Option<Vec<_>> = text.split(',').map(|part| super::super::units::network(part.trim())).collect();
    networks.map(|all: Vec<IpNet>| all.iter().map(ToString::to_string).collect()).filter(|all: &Vec<_>| !all.is_empty())
}

fn is_realm(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| (byte == b' ' || byte.is_ascii_graphic()) && !b"\"\\".contains(&byte))
}

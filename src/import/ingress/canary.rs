//! Owns: canary Ingresses: which path they belong to, and their servers as a part of its pool.
//! Invariant: a canary without a path of another Ingress is noted.
//! Must not know: routes, what an annotation of affinity means.

use std::cell::RefCell;

use super::super::output::Output;
use super::super::pool::Pool;
use super::super::toml::Value;
use super::affinity;
use super::annotations::Annotations;
use super::objects::{Ingress, Objects, PathRule};
use super::service::ServicePort;

const BY_REQUEST: &str =
    "routes don't depend on fields or cookies; `force` in [[pools.persistence.rules]] lets testers choose a server";

/// The canary Ingresses of a file.
pub(super) struct Canaries<'o, 'n> {
    all: Vec<&'o Ingress<'n>>,
    used: RefCell<Vec<String>>,
}

/// A canary of one path.
pub(super) struct Canary<'o, 'n> {
    annotations: &'o Annotations<'n>,
    port: ServicePort,
    line: usize,
    shown: String,
}

impl<'o, 'n> Canaries<'o, 'n> {
    pub(super) fn of(objects: &'o Objects<'n>) -> Canaries<'o, 'n> {
        let all = objects.ingresses.iter().filter(|ingress| ingress.is_canary()).collect();
        Canaries { all, used: RefCell::default() }
    }

    /// Returns the canary of a path, if there is one.
    pub(super) fn of_rule(&self, ingress: &Ingress<'n>, rule: &PathRule<'n>) -> Option<Canary<'o, 'n>> {
        let same = |other: &PathRule<'n>| other.host == rule.host && other.path == rule.path;
        let own = self.all.iter().filter(|canary| canary.namespace == ingress.namespace);
        let (canary, found) = own.filter_map(|canary| Some((canary, canary.paths().into_iter().find(same)?))).next()?;
        self.used.borrow_mut().push(canary.shown());
        let port = ServicePort::of(found.backend, &canary.namespace)?;
        Some(Canary { annotations: &canary.annotations, port, line: found.line, shown: found.text })
    }

    /// Notes the canaries that belong to no path.
    pub(super) fn finish(&self, out: &mut Output) {
        let used = self.used.borrow();
        for canary in self.all.iter().filter(|canary| !used.contains(&canary.shown())) {
            out.unrouted.unsupported(canary.line, &canary.shown(), "no other Ingress has the path of this canary");
        }
    }
}

impl Canary<'_, '_> {
    /// Adds the canary's servers to the pool of its path: new sessions go to them by weight, and stay there.
    pub(super) fn write(&self, objects: &Objects<'_>, pool: &mut Pool) {
        let annotations = self.annotations;
        annotations.take("canary");
        let number = |key: &str| annotations.text(key).and_then(|(line, text)| Some((line, text.parse::<u64>().ok()?)));
        let total = number("canary-weight-total").map_or(100, |(_, total)| total.clamp(1, 1_000_000));
        let weight = number("canary-weight").map_or(0, |(_, weight)| weight.min(total));
        pool.last_weight(total - weight);
        self.port.write(objects, pool, self.line, &self.shown);
        pool.last_weight(weight);
        let table = pool.last_table();
        table.set("group", Value::text("canary"));
        table.comment(format!(
            "{weight} of {total} new sessions, if both Services have as many servers: weights are per server; a session of \
             the canary that loses its server prefers another one of the group"
        ));
        for key in ["canary-by-header", "canary-by-header-value", "canary-by-header-pattern", "canary-by-cookie"] {
            annotations.unsupported(key, BY_REQUEST, table);
        }
        match annotations.text("affinity-canary-behavior") {
            Some((line, "legacy")) => {
                let why = "a session stays with the server that holds it, whatever the canary's weight";
                table.unsupported(line, &annotations.shown("affinity-canary-behavior"), why);
            }
            Some((line, _)) => {
                let why = "a session of the canary always stays there";
                table.unneeded(line, &annotations.shown("affinity-canary-behavior"), why);
            }
            None => {}
        }
        let table = pool.last_table();
        affinity::take_unneeded(
            annotations,
            "the servers of a canary are part of the pool, and share its cookie",
            table,
        );
        annotations.of_canary(table);
    }
}

//! Owns: whether the configuration fits into the limit of open file descriptors.
//! Invariant: the default of `max_connections` is only an upper bound: it warns only if very few clients fit.
//! Must not know: how to find the limit of this process; the caller passes it.

use std::ops::Range;

use super::plan::Plan;
use super::report::Notes;
use crate::health::Probe;
use crate::runtime::descriptors::{self, Needs};

/// Space for fewer clients than this is always a warning.
const FEW: usize = 256;

impl Plan {
    /// Returns what the plan needs descriptors for, apart from clients.
    pub fn descriptors(&self) -> Needs {
        let probed = self.pools.iter().filter(|pool| pool.health.probe != Probe::None);
        let backends = probed.map(|pool| {
            let found: usize = pool.discover.iter().map(|source| source.max_backends).sum();
            pool.pool.backends.len() + found
        });
        Needs {
            threads: self.server.threads(),
            listeners: self.listeners.len(),
            backends: backends.sum(),
            has_admin: self.admin.is_some(),
        }
    }
}

/// Warns if a process that may open `limit` descriptors cannot have `max_connections`, whose value is at `place`.
pub(super) fn check(plan: &Plan, place: Option<Range<usize>>, limit: usize, notes: &Notes<'_>) {
    let wanted = plan.server.max_connections;
    let clients = descriptors::budget(limit, plan.descriptors()).clients;
    let is_default = wanted == crate::runtime::Settings::default().max_connections;
    if wanted <= clients || (is_default && clients >= FEW) {
        return;
    }
    let problem = format!(
        "`max_connections` = {wanted} is too high: this process may open {limit} file descriptors, enough for \
         {clients} clients with one backend connection each"
    );
    let remedy =
        format!("raise the limit (LimitNOFILE in systemd, or `ulimit -Hn`), or write max_connections = {clients}");
    notes.warn(&place.unwrap_or(notes.whole_file()), problem, remedy);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn findings(max_connections: &str, limit: usize) -> String {
        let text = format!(
            "[server]\nthreads = 2\n{max_connections}\n[[listeners]]\naddress = \"127.0.0.1:8080\"\n[[pools]]\n\
             name = \"app\"\npersistence = {{ type = \"none\" }}\n[[pools.backends]]\nname = \"a\"\n\
             address = \"127.0.0.1:9001\"\n"
        );
        let (plan, _) = super::super::parse(&text, Path::new("x.toml")).unwrap();
        let notes = Notes::new(&text, Path::new("x.toml"));
        check(&plan, max_connections.contains('=').then_some(21..31), limit, &notes);
        notes.report().to_string()
    }

    #[test]
    fn more_connections_than_descriptors_are_spoken_of_and_the_default_only_if_little_is_left() {
        let warning = findings("max_connections = 5000", 1024);
        let words = "x.toml:3:1: warning: `max_connections` = 5000 is too high: this process may open 1024 file \
                     descriptors, enough for 489 clients with one backend connection each; raise the limit \
                     (LimitNOFILE in systemd, or `ulimit -Hn`), or write max_connections = 489";
        assert!(warning.starts_with(words), "{warning}");
        assert_eq!(findings("max_connections = 400", 1024), "");
        assert_eq!(findings("", 1024), "");
        assert!(findings("", 80).contains("enough for 17 clients"), "{}", findings("", 80));
        assert_eq!(findings("max_connections = 10", 80), "");
        assert_eq!(findings("max_connections = 100000", 20_000), "", "the default, written");
    }
}

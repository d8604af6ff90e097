//! Owns: the conversion of an haproxy.cfg, section by section.
//! Invariant: each line is converted or noted; a line of `defaults` is noted once.
//! Must not know: the format of the output.

mod acl;
mod acme;
mod backend;
mod check;
mod disposition;
mod fields;
mod frontend;
mod global;
mod known;
mod limits;
mod resolvers;
mod rules;
mod section;
mod server;
mod sticky;
mod syntax;
mod tls;
mod userlist;

use super::reasons::NONE;
use std::collections::HashMap;

use self::acme::Stores;
use self::backend::BackendReader;
use self::disposition::Disposition;
use self::frontend::FrontendReader;
use self::global::Globals;
use self::resolvers::Resolvers;
use self::section::{ProxySection, overridden, proxies};
use self::syntax::{Statement, note_whole};
use self::userlist::UserLists;
use super::output::Output;
use super::pool::Pool;
use super::source::SyntaxError;
use super::toml::Table;

/// Converts an haproxy.cfg into `out`.
pub(super) fn read(text: &str, out: &mut Output) -> Result<(), SyntaxError> {
    let sections = syntax::sections(text)?;
    let mut globals = Globals::default();
    globals.stores = Stores::read(&sections, &mut out.rest);
    let resolvers = Resolvers::read(&sections);
    let proxies = proxies(&sections);
    let (http, other): (Vec<_>, Vec<_>) = proxies.into_iter().partition(|proxy| proxy.refusal().is_none());
    for section in sections.iter().filter(|section| section.header.word(0) == "global") {
        globals.read(section, out);
    }
    let users = UserLists::read(&sections);
    let mut reader = Reader {
        users: &users,
        pools: HashMap::new(),
        inherited: HashMap::new(),
        globals: &globals,
        resolvers: &resolvers,
        tables: limits::tables(&sections),
    };
    let mut names = Vec::new();
    for proxy in &http {
        let name = proxy.has_pool().then(|| out.pool_name(proxy.header.word(1)));
        if let Some(name) = &name {
            reader.pools.entry(proxy.header.word(1).to_owned()).or_insert_with(|| name.clone());
        }
        names.push(name);
    }
    for (proxy, pool) in http.iter().zip(&names) {
        reader.proxy(proxy, pool.as_deref(), out);
    }
    for proxy in &other {
        note_whole(proxy.header, proxy.own, proxy.refusal().unwrap_or_default(), &mut out.rest);
    }
    for section in &sections {
        match section.header.word(0) {
            "global" | "frontend" | "backend" | "listen" => {}
            "defaults" => reader.defaults(&section.statements, &mut out.top),
            "" => section.statements.iter().for_each(|line| {
                out.rest.unsupported(line.line, &line.text, "the line is outside of any section");
            }),
            "acme" => {}
            "userlist" => users.note(section, &mut out.rest),
            "crt-store" => globals.stores.note(section, &mut out.rest),
            "resolvers" => resolvers.note(section, &mut out.rest),
            kind => note_whole(&section.header, &section.statements, known::section(kind), &mut out.rest),
        }
    }
    Ok(())
}

/// Returns the order in which lines are read: addresses and persistence first, as other lines depend on them,
/// and redirects before the lines that choose a backend.
fn rank(statement: &Statement) -> u8 {
    match statement.word(0) {
        "bind" | "cookie" | "appsession" => 0,
        "stick" => 1,
        "stick-table" => 2,
        "use_backend" | "default_backend" => 4,
        _ => 3,
    }
}

struct Reader<'r> {
    globals: &'r Globals,
    users: &'r UserLists<'r>,
    resolvers: &'r Resolvers,
    tables: limits::Tables<'r>,
    /// The pool of each section, by the section's name.
    pools: HashMap<String, String>,
    /// How each line of `defaults` was handled, by its number.
    inherited: HashMap<usize, Disposition>,
}

impl Reader<'_> {
    fn proxy(&mut self, proxy: &ProxySection<'_>, pool: Option<&str>, out: &mut Output) {
        let acls = acl::Acls::read(proxy.each("acl"));
        let mut backend = pool
            .map(|name| BackendReader::new(Pool::new(name), proxy, (&acls, self.users), self.globals, self.resolvers));
        let mut frontend = proxy
            .is_frontend()
            .then(|| FrontendReader::new(proxy, (&acls, self.users), (&self.pools, &self.tables), self.globals, out));
        if let Some(frontend) = &mut frontend {
            frontend.header(out);
        }
        let mut statements: Vec<_> = proxy.all().collect();
        statements.sort_by_key(|(statement, _)| rank(statement));
        for (statement, is_inherited) in statements {
            let mut disposition =
                frontend.as_mut().map_or(Disposition::Unhandled, |frontend| frontend.read(statement, out));
            if disposition == Disposition::Unhandled
                && let Some(backend) = &mut backend
            {
                disposition = backend.read(statement);
            }
            if disposition == Disposition::Unhandled && statement.word(0) == "acl" {
                continue;
            }
            if is_inherited {
                inherit(&mut self.inherited, statement.line, disposition);
                continue;
            }
            if disposition == Disposition::Unhandled {
                disposition = known::disposition(statement);
            }
            let table = match &mut backend {
                Some(backend) => backend.table(statement),
                None => &mut out.unrouted,
            };
            note(statement, disposition, table);
        }
        for statement in proxy.own.iter().filter(|statement| proxy.overridden.contains(&statement.line)) {
            let table = match &mut backend {
                Some(backend) => backend.table(statement),
                None => &mut out.unrouted,
            };
            note(statement, Disposition::Unneeded("a later line of the section overrides it"), table);
        }
        if let Some(frontend) = frontend {
            frontend.finish(pool, out);
        }
        let unused: Vec<_> = proxy.each("acl").filter(|statement| !acls.is_used(statement.word(1))).cloned().collect();
        let mut pool = backend.map(|backend| backend.finish(out));
        let notes = pool.as_mut().map_or(&mut out.unrouted, |pool| &mut pool.main);
        for statement in unused {
            notes.unsupported(statement.line, &statement.text, acls.why_not(&statement));
        }
        out.pools.extend(pool);
    }

    /// Notes the lines of `defaults` that no section converted.
    fn defaults(&self, statements: &[Statement], notes: &mut Table) {
        let overridden = overridden(statements);
        for statement in statements {
            let disposition = match overridden.contains(&statement.line) {
                true => Disposition::Unneeded("a later line of the section overrides it"),
                false => self.of_defaults(statement),
            };
            note(statement, disposition, notes);
        }
    }

    /// Returns how a line of `defaults` was handled.
    fn of_defaults(&self, statement: &Statement) -> Disposition {
        match self.inherited.get(&statement.line) {
            None => Disposition::Unneeded("no section inherits it, or each overrides it"),
            Some(Disposition::Unhandled) => known::disposition(statement),
            Some(disposition) => disposition.clone(),
        }
    }
}

/// Records the best handling of a line of `defaults` by the sections that inherit it.
fn inherit(inherited: &mut HashMap<usize, Disposition>, line: usize, disposition: Disposition) {
    let known = inherited.entry(line).or_insert(Disposition::Unhandled);
    if *known == Disposition::Unhandled || disposition == Disposition::Converted {
        *known = disposition;
    }
}

fn note(statement: &Statement, disposition: Disposition, notes: &mut Table) {
    match disposition {
        Disposition::Converted => {}
        Disposition::Unsupported(why) => notes.unsupported(statement.line, &statement.text, why),
        Disposition::Unneeded(why) => notes.unneeded(statement.line, &statement.text, why),
        Disposition::Unhandled => notes.unsupported(statement.line, &statement.text, NONE),
    }
}

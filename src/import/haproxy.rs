//! Owns: an haproxy.cfg: its sections, what they inherit, and what becomes of each line.
//! Invariant: each line is kept by a section, or noted; what is inherited is noted once.
//! Must not know: how the output is written.

mod acl;
mod back;
mod check;
mod front;
mod global;
mod known;
mod resolvers;
mod rules;
mod server;
mod sticky;
mod syntax;
mod tls;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use self::back::Back;
use self::front::Front;
use self::global::Globals;
use self::resolvers::Resolvers;
use self::syntax::{Section, Statement};
use super::Broken;
use super::output::Output;
use super::pool::Pool;
use super::toml::Table;
use super::units;

/// What became of a line.
#[derive(Debug, Clone, PartialEq)]
enum Fate {
    /// It is in the output, or was noted beside what it belongs to.
    Kept,
    /// It has no equivalent, for this reason.
    Lost(String),
    /// It needs no equivalent, for this reason.
    Needless(&'static str),
    /// It says nothing to this side of a proxy.
    Elsewhere,
}

/// A frontend, backend or listen section, and what it inherits.
struct Proxy<'s> {
    header: &'s Statement,
    own: &'s [Statement],
    inherited: Vec<&'s Statement>,
    /// Lines that a later one of the section says anew.
    overruled: HashSet<usize>,
}

/// Reads an haproxy.cfg into `out`.
pub(super) fn read(text: &str, out: &mut Output) -> Result<(), Broken> {
    let sections = syntax::sections(text)?;
    let mut globals = Globals::default();
    let resolvers = Resolvers::read(&sections);
    let proxies = proxies(&sections);
    let (http, other): (Vec<_>, Vec<_>) = proxies.into_iter().partition(|proxy| proxy.refusal().is_none());
    for section in sections.iter().filter(|section| section.header.word(0) == "global") {
        globals.read(section, out);
    }
    let mut reader =
        Reader { pools: HashMap::new(), inherited: HashMap::new(), globals: &globals, resolvers: &resolvers };
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
        whole(proxy.header, proxy.own, proxy.refusal().unwrap_or_default(), &mut out.rest);
    }
    for section in &sections {
        match section.header.word(0) {
            "global" | "frontend" | "backend" | "listen" => {}
            "defaults" => reader.defaults(&section.statements, &mut out.top),
            "" => section.statements.iter().for_each(|line| {
                out.rest.lost(line.line, &line.text, "it stands in no section");
            }),
            "resolvers" => resolvers.note(section, &mut out.rest),
            kind => whole(&section.header, &section.statements, known::section(kind), &mut out.rest),
        }
    }
    Ok(())
}

/// Notes a section that has no equivalent as a whole.
fn whole(header: &Statement, statements: &[Statement], why: &str, notes: &mut Table) {
    notes.lost(header.line, &header.text, why);
    for statement in statements {
        notes.lost(statement.line, &statement.text, format!("belongs to line {}", header.line));
    }
}

/// The frontends, backends and listens, each with what its defaults give it.
fn proxies(sections: &[Section]) -> Vec<Proxy<'_>> {
    let mut last: Vec<&Statement> = Vec::new();
    let mut named: HashMap<&str, Vec<&Statement>> = HashMap::new();
    let mut proxies = Vec::new();
    for section in sections {
        let header = &section.header;
        let from = header.words.iter().position(|word| word == "from").and_then(|at| named.get(header.word(at + 1)));
        match header.word(0) {
            "defaults" => {
                let above = from.cloned().unwrap_or_default();
                last = over(&section.statements, &above);
                let overruled = overruled(&section.statements);
                last.extend(section.statements.iter().filter(|statement| !overruled.contains(&statement.line)));
                if !matches!(header.word(1), "" | "from") {
                    named.insert(header.word(1), last.clone());
                }
            }
            "frontend" | "backend" | "listen" => {
                let inherited = over(&section.statements, from.unwrap_or(&last));
                let overruled = overruled(&section.statements);
                proxies.push(Proxy { header, own: &section.statements, inherited, overruled });
            }
            _ => {}
        }
    }
    proxies
}

/// What is inherited of `above`: what is not said anew.
fn over<'s>(own: &[Statement], above: &[&'s Statement]) -> Vec<&'s Statement> {
    let anew: HashSet<_> = own.iter().map(subject).collect();
    above
        .iter()
        .filter(|statement| !anew.contains(&subject(statement)) || statement.word(0) == "default-server")
        .copied()
        .collect()
}

/// The lines that a later one says anew: of such the last counts.
fn overruled(own: &[Statement]) -> HashSet<usize> {
    let is_single = |statement: &&Statement| {
        let (word, _) = subject(statement);
        matches!(
            word,
            "timeout" | "retries" | "retry-on" | "balance" | "mode" | "hash-type" | "maxconn" | "default_backend"
        )
    };
    let mut seen = HashSet::new();
    let later = own.iter().rev().filter(is_single).filter(|statement| !seen.insert(subject(statement)));
    later.map(|statement| statement.line).collect()
}

/// In which order lines are read: addresses and what pins first, as what else is said depends on them. What
/// answers by itself comes before what leads to a backend.
fn rank(statement: &Statement) -> u8 {
    match statement.word(0) {
        "bind" | "cookie" | "appsession" => 0,
        "stick" => 1,
        "stick-table" => 2,
        "use_backend" | "default_backend" => 4,
        _ => 3,
    }
}

/// What a line is about: two lines about the same don't add up.
fn subject(statement: &Statement) -> (&str, &str) {
    match statement.word(0) {
        "no" => (statement.word(1), statement.word(2)),
        word @ ("timeout" | "option" | "http-check") => (word, statement.word(1)),
        "clitimeout" => ("timeout", "client"),
        "srvtimeout" => ("timeout", "server"),
        "contimeout" => ("timeout", "connect"),
        word => (word, ""),
    }
}

impl<'s> Proxy<'s> {
    fn all(&self) -> impl Iterator<Item = (&'s Statement, bool)> {
        let own = self.own.iter().filter(|statement| !self.overruled.contains(&statement.line));
        let own = own.map(|statement| (statement, false));
        own.chain(self.inherited.iter().map(|statement| (*statement, true)))
    }

    /// The statements that begin with a word, its own before those it inherits.
    fn each<'p>(&'p self, word: &'p str) -> impl Iterator<Item = &'s Statement> + use<'p, 's> {
        self.all().map(|(statement, _)| statement).filter(move |statement| statement.word(0) == word)
    }

    fn is_front(&self) -> bool {
        self.header.word(0) != "backend"
    }

    fn is_back(&self) -> bool {
        self.header.word(0) != "frontend"
    }

    fn has_pool(&self) -> bool {
        self.is_back() && (self.header.word(0) == "backend" || self.has_servers())
    }

    fn has_servers(&self) -> bool {
        self.own.iter().any(|statement| matches!(statement.word(0), "server" | "server-template"))
    }

    /// Why the section has no equivalent as a whole.
    fn refusal(&self) -> Option<&'static str> {
        let leads = |statement: &Statement| {
            matches!(statement.word(0), "use_backend" | "default_backend") || rules::redirect(statement).is_some()
        };
        match self.each("mode").next().map_or("http", |statement| statement.word(1)) {
            _ if self.own.iter().any(|statement| statement.word(0) == "disabled") => Some("it is disabled"),
            "http" if self.has_servers() || self.header.word(0) == "backend" => None,
            "http" if self.is_front() && self.all().any(|(statement, _)| leads(statement)) => None,
            "http" if self.own.iter().any(|statement| matches!(statement.word(0), "stats" | "monitor-uri")) => {
                Some("status, metrics and a dashboard are at the address of [admin]")
            }
            "http" => Some("it sends nothing to a backend"),
            _ => Some("Linchpin speaks HTTP alone"),
        }
    }
}

struct Reader<'r> {
    globals: &'r Globals,
    resolvers: &'r Resolvers,
    /// Section names and the names of their pools.
    pools: HashMap<String, String>,
    /// What became of the lines of defaults, by their numbers.
    inherited: HashMap<usize, Fate>,
}

impl Reader<'_> {
    fn proxy(&mut self, proxy: &Proxy<'_>, pool: Option<&str>, out: &mut Output) {
        let acls = acl::Acls::read(proxy.each("acl"));
        let mut back = pool.map(|name| Back::new(Pool::new(name), proxy, &acls, self.globals, self.resolvers));
        let mut front = proxy.is_front().then(|| Front::new(proxy, &acls, &self.pools, self.globals, out));
        if let Some(front) = &mut front {
            front.header(out);
        }
        let mut statements: Vec<_> = proxy.all().collect();
        statements.sort_by_key(|(statement, _)| rank(statement));
        for (statement, is_inherited) in statements {
            let mut fate = front.as_mut().map_or(Fate::Elsewhere, |front| front.read(statement, out));
            if fate == Fate::Elsewhere
                && let Some(back) = &mut back
            {
                fate = back.read(statement);
            }
            if fate == Fate::Elsewhere && statement.word(0) == "acl" {
                continue;
            }
            if is_inherited {
                inherit(&mut self.inherited, statement.line, fate);
                continue;
            }
            if fate == Fate::Elsewhere {
                fate = known::fate(statement);
            }
            let table = match &mut back {
                Some(back) => back.table(statement),
                None => &mut out.unrouted,
            };
            note(statement, fate, table);
        }
        for statement in proxy.own.iter().filter(|statement| proxy.overruled.contains(&statement.line)) {
            let table = match &mut back {
                Some(back) => back.table(statement),
                None => &mut out.unrouted,
            };
            note(statement, Fate::Needless("a later line of the section says it anew"), table);
        }
        if let Some(front) = front {
            front.finish(pool, out);
        }
        let unused: Vec<_> = proxy.each("acl").filter(|statement| !acls.is_used(statement.word(1))).cloned().collect();
        let mut pool = back.map(|back| back.finish(out));
        let notes = pool.as_mut().map_or(&mut out.unrouted, |pool| &mut pool.main);
        for statement in unused {
            notes.lost(statement.line, &statement.text, acls.why_not(&statement));
        }
        out.pools.extend(pool);
    }

    /// Notes what nobody who inherits it kept.
    fn defaults(&self, statements: &[Statement], notes: &mut Table) {
        let overruled = overruled(statements);
        for statement in statements {
            let fate = match overruled.contains(&statement.line) {
                true => Fate::Needless("a later line of the section says it anew"),
                false => self.of_defaults(statement),
            };
            note(statement, fate, notes);
        }
    }

    /// What became of a line of defaults.
    fn of_defaults(&self, statement: &Statement) -> Fate {
        match self.inherited.get(&statement.line) {
            None => Fate::Needless("no section inherits it: there is none, or each says it anew"),
            Some(Fate::Elsewhere) => known::fate(statement),
            Some(fate) => fate.clone(),
        }
    }
}

/// Remembers the best that became of a line of defaults.
fn inherit(inherited: &mut HashMap<usize, Fate>, line: usize, fate: Fate) {
    let known = inherited.entry(line).or_insert(Fate::Elsewhere);
    if *known == Fate::Elsewhere || fate == Fate::Kept {
        *known = fate;
    }
}

fn note(statement: &Statement, fate: Fate, notes: &mut Table) {
    match fate {
        Fate::Kept => {}
        Fate::Lost(why) => notes.lost(statement.line, &statement.text, why),
        Fate::Needless(why) => notes.needless(statement.line, &statement.text, why),
        Fate::Elsewhere => notes.lost(statement.line, &statement.text, known::NONE),
    }
}

/// A duration, which counts in milliseconds if it has no unit.
fn duration(text: &str) -> Option<Duration> {
    units::duration(text, Duration::from_millis(1))
}

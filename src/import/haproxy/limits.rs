//! Owns: the limits per client that stick-tables and rules on them amount to.
//! Invariant: only a rule whose whole condition is one count of the client's address is a limit.
//! Must not know: routes.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::super::client_limits::{Given, PartLimits, Rate};
use super::super::units;
use super::acl::Acls;
use super::rules;
use super::section::ProxySection;
use super::syntax::{Section, Statement};

/// The stick-table of each section, by the section's name.
pub(super) type Tables<'s> = HashMap<&'s str, &'s Statement>;

/// The limits of a frontend, and the lines that make them up.
#[derive(Default)]
pub(super) struct FrontendLimits {
    pub(super) limits: PartLimits,
    lines: HashSet<usize>,
}

/// Returns the stick-tables of all sections.
pub(super) fn tables(sections: &[Section]) -> Tables<'_> {
    let table = |section: &'_ Section| section.statements.iter().position(|line| line.word(0) == "stick-table");
    sections.iter().filter_map(|section| Some((section.header.word(1), &section.statements[table(section)?]))).collect()
}

impl FrontendLimits {
    pub(super) fn read(proxy: &ProxySection<'_>, acls: &Acls, tables: &Tables<'_>) -> FrontendLimits {
        let mut found = FrontendLimits::default();
        let rules: Vec<_> = proxy.each("http-request").chain(proxy.each("tcp-request")).collect();
        for rule in &rules {
            found.rule(rule, proxy, acls, tables);
        }
        found
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Returns whether a line is part of a limit.
    pub(super) fn has(&self, statement: &Statement) -> bool {
        self.lines.contains(&statement.line)
    }

    fn rule(&mut self, rule: &Statement, proxy: &ProxySection<'_>, acls: &Acls, tables: &Tables<'_>) -> Option<()> {
        let (action, when) = rules::split(rule.from(1));
        let is_refusal =
            action.iter().any(|word| matches!(word.as_str(), "deny" | "reject" | "tarpit" | "silent-drop"));
        let test = acls.only_test(when.words).filter(|_| is_refusal && !when.is_unless)?;
        let [fetch, operator, number] = &test[..] else { return None };
        let number: u64 = number.parse().ok().filter(|_| matches!(operator.as_str(), "gt" | "ge"))?;
        let (name, argument) = fetch.split_once('(').unwrap_or((fetch, ""));
        let argument = argument.trim_end_matches(')');
        let (counter, what) = counter_of(name, argument)?;
        // The table that is named, that of the tracking rule, or the frontend's own.
        let track = counter.and_then(|counter| tracking(proxy, &counter));
        let named = argument.split(',').next_back().filter(|name| tables.contains_key(name));
        let named =
            named.or_else(|| track?.from(2).iter().skip_while(|word| *word != "table").nth(1).map(String::as_str));
        let table = tables.get(named.unwrap_or_else(|| proxy.header.word(1)))?;
        if counter_of(name, argument)?.0.is_some() && track.is_none() {
            return None;
        }
        let stored = table.from(1).iter().skip_while(|word| *word != "store").nth(1)?.split(',');
        let mut stored = stored.map(str::to_owned);
        let (line, text) = (rule.line, rule.text.clone());
        match what {
            Count::Requests => {
                let period = stored
                    .find_map(|what| what.strip_prefix("http_req_rate(")?.strip_suffix(')').map(str::to_owned))?;
                let period = units::milliseconds(&period).filter(|period| *period >= Duration::from_millis(1))?;
                let value = Rate { requests: number.max(1), period, burst: Some(number.max(1)) };
                self.limits.rate = Some(Given { value, line, text });
            }
            Count::Connections => {
                stored.find(|what| what == "conn_cur")?;
                let value = if operator == "gt" { number } else { number.saturating_sub(1) };
                self.limits.connections = Some(Given { value: value.max(1), line, text });
            }
        }
        acls.mark_used(when.words);
        self.lines.extend([Some(line), track.map(|track| track.line)].into_iter().flatten());
        self.lines.extend(proxy.each("stick-table").map(|line| line.line));
        Some(())
    }
}

/// What a rule counts.
#[derive(Clone, Copy)]
enum Count {
    Requests,
    Connections,
}

/// Returns the counter that a fetch reads, as `sc0`, or `None` for the client's address itself; and what it counts.
fn counter_of(name: &str, argument: &str) -> Option<(Option<String>, Count)> {
    let counts = [("_http_req_rate", Count::Requests), ("_conn_cur", Count::Connections)];
    let (begin, what) = counts.iter().find_map(|(end, what)| Some((name.strip_suffix(end)?, *what)))?;
    match begin {
        "src" => Some((None, what)),
        "sc" => Some((Some(format!("sc{}", argument.split(',').next().unwrap_or_default())), what)),
        "sc0" | "sc1" | "sc2" => Some((Some(begin.to_owned()), what)),
        _ => None,
    }
}

/// Returns the rule by which a counter tracks the address of each client.
fn tracking<'p>(proxy: &'p ProxySection<'_>, counter: &str) -> Option<&'p Statement> {
    let verb = format!("track-{counter}");
    let is_it = |rule: &&Statement| {
        let (action, when) = rules::split(rule.from(1));
        let at = action.iter().position(|word| *word == verb);
        when.words.is_empty() && at.is_some_and(|at| action.get(at + 1).is_some_and(|word| word == "src"))
    };
    proxy.each("http-request").chain(proxy.each("tcp-request")).find(is_it)
}

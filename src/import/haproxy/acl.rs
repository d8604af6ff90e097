//! Owns: ACLs on host and path, and the conditions that are made of them.
//! Invariant: a condition is read as a whole or not at all.
//! Must not know: what follows from a condition.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use super::super::rule::Condition;
use super::syntax::Statement;

/// Why a condition can't be said by routes.
const ONLY: &str = "routes tell requests apart by host and by the beginning of the path alone";

/// The ACLs of one section.
pub(super) struct Acls {
    named: HashMap<String, Result<Condition, &'static str>>,
    used: RefCell<HashSet<String>>,
}

impl Acls {
    pub(super) fn read<'s>(statements: impl Iterator<Item = &'s Statement>) -> Acls {
        let mut named: HashMap<String, Result<Condition, &'static str>> = HashMap::new();
        for statement in statements {
            let read = test(statement.from(2));
            let known = named.remove(statement.word(1));
            // Lines of one name are alternatives.
            let both = match (known, read) {
                (None, read) => read,
                (Some(Ok(one)), Ok(other)) => one.or(other).ok_or(ONLY),
                (Some(Err(why)), _) | (_, Err(why)) => Err(why),
            };
            named.insert(statement.word(1).into(), both);
        }
        Acls { named, used: RefCell::default() }
    }

    /// The condition behind `if`.
    pub(super) fn condition(&self, words: &[String]) -> Result<Condition, &'static str> {
        let mut whole: Option<Condition> = None;
        let mut names = Vec::new();
        for alternative in words.split(|word| word == "or" || word == "||") {
            let condition = self.all_of(alternative, &mut names)?;
            whole = match whole {
                Some(whole) => Some(whole.or(condition).ok_or("it has too many alternatives")?),
                None => Some(condition),
            };
        }
        self.used.borrow_mut().extend(names);
        whole.ok_or(ONLY)
    }

    /// Whether something was made of an ACL.
    pub(super) fn is_used(&self, name: &str) -> bool {
        self.used.borrow().contains(name)
    }

    /// Why nothing was made of an ACL.
    pub(super) fn why_not(&self, statement: &Statement) -> &'static str {
        match self.named.get(statement.word(1)) {
            Some(Err(why)) => why,
            _ => "nothing that was taken over uses it",
        }
    }

    fn all_of(&self, mut words: &[String], names: &mut Vec<String>) -> Result<Condition, &'static str> {
        let mut whole = Condition::always();
        if words.is_empty() {
            return Err(ONLY);
        }
        while let Some((first, rest)) = words.split_first() {
            words = rest;
            let condition = if first == "{" {
                let end = words.iter().position(|word| word == "}").ok_or(ONLY)?;
                let (inside, behind) = words.split_at(end);
                words = behind.get(1..).unwrap_or_default();
                test(inside)?
            } else if first.starts_with('!') {
                return Err("routes can't say what a request is not");
            } else {
                names.push(first.clone());
                self.named.get(first).cloned().unwrap_or(Err(ONLY))?
            };
            whole = whole.and(&condition).ok_or("no request is like that, or it has too many alternatives")?;
        }
        Ok(whole)
    }
}

/// How a value is compared.
#[derive(Clone, Copy, PartialEq)]
enum Match {
    Whole,
    Beginning,
    End,
    Domain,
}

/// A test: what is fetched, flags, values.
fn test(words: &[String]) -> Result<Condition, &'static str> {
    let (fetch, rest) = words.split_first().ok_or(ONLY)?;
    let fetch = fetch.to_ascii_lowercase();
    let (is_host, mut by) = match fetch.as_str() {
        "path_beg" | "url_beg" => (false, Match::Beginning),
        "path" => (false, Match::Whole),
        fetch => host_fetch(fetch).map(|by| (true, by)).ok_or(ONLY)?,
    };
    let mut values = Vec::new();
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "-i" | "--" => {}
            "-m" => {
                by = match rest.next().map(String::as_str) {
                    Some("str") => Match::Whole,
                    Some("beg") => Match::Beginning,
                    Some("end") => Match::End,
                    Some("dom") => Match::Domain,
                    _ => return Err(ONLY),
                };
            }
            "-f" | "-M" => return Err("its values are in another file: write them into `hosts` or `path_prefix`"),
            flag if flag.starts_with('-') => return Err(ONLY),
            value => values.push(value),
        }
    }
    let conditions = values.into_iter().map(|value| compared(is_host, by, value));
    let mut whole: Option<Condition> = None;
    for condition in conditions {
        let condition = condition?;
        whole = match whole {
            Some(whole) => Some(whole.or(condition).ok_or("it has too many alternatives")?),
            None => Some(condition),
        };
    }
    whole.ok_or(ONLY)
}

/// How a fetch of the Host field compares; `None` if it is another.
fn host_fetch(fetch: &str) -> Option<Match> {
    let (name, rest) = fetch.split_once('(')?;
    let (argument, converters) = rest.split_once(')')?;
    let is_plain = converters.split(',').all(|each| matches!(each, "" | "lower" | "host_only" | "field(1" | ":)"));
    if argument.split(',').next() != Some("host") || !is_plain {
        return None;
    }
    match name {
        "hdr" | "req.hdr" | "req.fhdr" | "hdr_str" => Some(Match::Whole),
        "hdr_end" => Some(Match::End),
        "hdr_dom" => Some(Match::Domain),
        "hdr_beg" => Some(Match::Beginning),
        _ => None,
    }
}

fn compared(is_host: bool, by: Match, value: &str) -> Result<Condition, &'static str> {
    const WHOLE_PATH: &str = "routes take the beginnings of paths: one with path_prefix takes what lies below, too";
    const LABELS: &str = "routes take whole host names, or \"*.\" and the end of names";
    match (is_host, by) {
        (false, Match::Beginning) => Condition::prefix(value).ok_or(ONLY),
        (false, _) => Err(WHOLE_PATH),
        (true, Match::Whole) => Condition::host(value).ok_or(LABELS),
        (true, Match::End) if value.starts_with('.') => Condition::host(&format!("*{value}")).ok_or(LABELS),
        (true, Match::Domain) => {
            let below = Condition::host(&format!("*.{value}")).ok_or(LABELS)?;
            Condition::host(value).and_then(|whole| whole.or(below)).ok_or(LABELS)
        }
        (true, _) => Err(LABELS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn acls(lines: &[&str]) -> Acls {
        let statements: Vec<_> =
            lines.iter().map(|line| Statement { line: 1, words: words(line), text: (*line).into() }).collect();
        Acls::read(statements.iter())
    }

    fn routes(acls: &Acls, condition: &str) -> Vec<(Vec<String>, String)> {
        acls.condition(&words(condition)).unwrap_or_else(|why| panic!("{condition}: {why}")).routes()
    }

    #[test]
    fn hosts_and_paths_are_routes() {
        let acls = acls(&[
            "acl api path_beg /api /v2",
            "acl site hdr(host) -i example.com",
            "acl site hdr(host) -i www.example.com",
            "acl below hdr_end(host) .example.org",
        ]);
        assert_eq!(routes(&acls, "api"), [(vec![], "/api".into()), (vec![], "/v2".into())]);
        assert_eq!(
            routes(&acls, "site { path -m beg /x/ }"),
            [(vec!["example.com".into(), "www.example.com".into()], "/x".into())]
        );
        assert_eq!(
            routes(&acls, "below or { req.hdr(host),field(1,:) -i a.example }")[0].0,
            ["*.example.org", "a.example"]
        );
        assert!(acls.is_used("site") && acls.is_used("below"));
    }

    #[test]
    fn what_routes_cannot_say_is_refused() {
        let acls = acls(&["acl api path_beg /api", "acl get method GET", "acl list hdr(host) -f /etc/hosts.lst"]);
        for condition in [
            "get",
            "!api",
            "! api",
            "api get",
            "unknown",
            "list",
            "",
            "{ path /x }",
            "{ ssl_fc }",
            "{ path_beg",
            "api or",
        ] {
            assert!(acls.condition(&words(condition)).is_err(), "{condition}");
        }
        assert!(!acls.is_used("get") && !acls.is_used("api"));
    }
}

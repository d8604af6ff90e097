//! Owns: ACLs, and the conditions on host, path and TLS that they amount to.
//! Invariant: a condition is converted as a whole or not at all.
//! Must not know: what a condition is used for.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

use super::super::rule::Condition;
use super::super::units;
use super::syntax::Statement;

/// The reason why routes can't express a condition.
const ONLY: &str = "routes match only the host and the beginning of the path";

/// The ACLs of one section.
pub(super) struct Acls {
    /// The tests of each name, which are alternatives.
    tests: HashMap<String, Vec<Vec<String>>>,
    named: HashMap<String, Result<Condition, &'static str>>,
    used: RefCell<HashSet<String>>,
}

impl Acls {
    pub(super) fn read<'s>(statements: impl Iterator<Item = &'s Statement>) -> Acls {
        let mut named: HashMap<String, Result<Condition, &'static str>> = HashMap::new();
        let mut tests: HashMap<String, Vec<Vec<String>>> = HashMap::new();
        for statement in statements {
            tests.entry(statement.word(1).into()).or_default().push(statement.from(2).to_vec());
            let read = test(statement.from(2));
            let known = named.remove(statement.word(1));
            // Several lines of one name are alternatives.
            let both = match (known, read) {
                (None, read) => read,
                (Some(Ok(one)), Ok(other)) => one.or(other).ok_or(ONLY),
                (Some(Err(why)), _) | (_, Err(why)) => Err(why),
            };
            named.insert(statement.word(1).into(), both);
        }
        Acls { tests, named, used: RefCell::default() }
    }

    /// Converts the condition after `if`.
    pub(super) fn condition(&self, words: &[String]) -> Result<Condition, &'static str> {
        let mut whole: Option<Condition> = None;
        let mut names = Vec::new();
        for alternative in words.split(|word| word == "or" || word == "||") {
            let condition = self.all_of(alternative, &mut names)?;
            whole = match whole {
                Some(whole) => Some(whole.or(condition).ok_or("the condition has too many alternatives")?),
                None => Some(condition),
            };
        }
        self.used.borrow_mut().extend(names);
        whole.ok_or(ONLY)
    }

    /// Returns a condition that holds whenever this one does: a part that can't be converted counts as true.
    pub(super) fn over(&self, words: &[String]) -> Condition {
        let mut whole: Option<Condition> = None;
        for alternative in words.split(|word| word == "or" || word == "||") {
            let one = self.superset_of_all(alternative);
            whole = match whole {
                None => Some(one),
                Some(whole) => whole.or(one),
            };
            if whole.is_none() {
                break;
            }
        }
        whole.unwrap_or_else(Condition::always)
    }

    fn superset_of_all(&self, mut words: &[String]) -> Condition {
        let mut whole = Condition::always();
        while let Some((first, rest)) = words.split_first() {
            words = rest;
            let one = if first.ends_with('{') {
                let end = words.iter().position(|word| word == "}").unwrap_or(words.len());
                let (inside, behind) = words.split_at(end);
                words = behind.get(1..).unwrap_or_default();
                if first == "{" { superset_of_test(inside) } else { Condition::always() }
            } else {
                let alternatives = self.tests.get(first).map(Vec::as_slice).unwrap_or_default();
                let all = alternatives.iter().map(|test| Some(superset_of_test(test)));
                all.reduce(|one, other| one?.or(other?)).flatten().unwrap_or_else(Condition::always)
            };
            // If both never hold at once, either is a valid superset.
            whole = whole.and(&one).unwrap_or(whole);
        }
        whole
    }

    /// Splits a condition into what it requires of the request, whether the address must be in a list or must not, and the
    /// list. `None` if it is anything else.
    pub(super) fn addresses(&self, words: &[String], is_unless: bool) -> Option<(Condition, bool, Vec<IpNet>)> {
        if words.iter().any(|word| word == "or" || word == "||") {
            return self
                .any_address(words)
                .filter(|_| is_unless)
                .map(|networks| (Condition::always(), false, networks));
        }
        let (mut rest, mut found, mut names) = (Condition::always(), None, Vec::new());
        let mut words = words;
        let mut is_not = false;
        let mut terms = 0;
        while let Some((first, behind)) = words.split_first() {
            words = behind;
            let name = first.trim_start_matches('!');
            is_not ^= (first.len() - name.len()) % 2 == 1;
            if name.is_empty() {
                continue;
            }
            let tests: Vec<&[String]> = if name == "{" {
                let end = words.iter().position(|word| word == "}")?;
                let (inside, after) = words.split_at(end);
                words = after.get(1..).unwrap_or_default();
                vec![inside]
            } else {
                names.push(name.to_owned());
                self.tests.get(name)?.iter().map(Vec::as_slice).collect()
            };
            terms += 1;
            if tests.iter().all(|test| test.first().is_some_and(|word| word == "src")) {
                let networks: Option<Vec<Vec<IpNet>>> = tests.iter().map(|test| networks(test)).collect();
                let networks = networks?.concat();
                found = match found {
                    None => Some((!is_not, networks)),
                    // Who is in neither list is in none of both together.
                    Some((false, known)) if is_not => Some((false, [known, networks].concat())),
                    Some(_) => return None,
                };
            } else {
                let mut all = tests.iter().map(|one| test(one).ok());
                let first = all.next()??;
                let condition = all.try_fold(first, |one, other| one.or(other?))?;
                rest = rest.and(&condition).filter(|_| !is_not)?;
            }
            is_not = false;
        }
        let (is_in, networks) = found?;
        if is_unless && terms > 1 {
            return None;
        }
        self.used.borrow_mut().extend(names);
        Some((rest, is_in != is_unless, networks))
    }

    /// Splits the condition of a login into what it requires of the request, the list of users, and the groups of it that may
    /// enter; empty for all. `None` if it is anything else.
    pub(super) fn logins(&self, words: &[String], is_unless: bool) -> Option<(Condition, String, Vec<String>)> {
        let terms = self.terms(words)?;
        let is_login = |term: &&Term| {
            let fetch = |test: &Vec<String>| test.first().is_some_and(|word| word.starts_with("http_auth"));
            !term.tests.is_empty() && term.tests.iter().all(fetch)
        };
        let (logins, others): (Vec<_>, Vec<_>) = terms.iter().partition(is_login);
        let [Term { is_not, tests, .. }] = logins[..] else { return None };
        let [test] = &tests[..] else { return None };
        // A login is wanted of whom is not logged in.
        if *is_not == is_unless || (is_unless && !others.is_empty()) {
            return None;
        }
        let (fetch, list) = test.first()?.split_once('(')?;
        let groups = test.get(1..)?.to_vec();
        let is_known = match fetch {
            "http_auth" => groups.is_empty(),
            "http_auth_group" => !groups.is_empty() && groups.iter().all(|group| !group.starts_with('-')),
            _ => false,
        };
        let mut rest = Condition::always();
        for term in others {
            let mut all = term.tests.iter().map(|one| self::test(one).ok());
            let first = all.next()??;
            let condition = all.try_fold(first, |one, other| one.or(other?))?;
            rest = rest.and(&condition).filter(|_| !term.is_not)?;
        }
        self.used.borrow_mut().extend(terms.iter().filter_map(|term| term.name.clone()));
        is_known.then(|| (rest, list.trim_end_matches(')').to_owned(), groups))
    }

    /// Splits a condition into its terms, all of which must hold; `None` if it has alternatives or an unknown name.
    fn terms(&self, mut words: &[String]) -> Option<Vec<Term>> {
        let (mut terms, mut is_not) = (Vec::new(), false);
        while let Some((first, behind)) = words.split_first() {
            words = behind;
            let name = first.trim_start_matches('!');
            is_not ^= (first.len() - name.len()) % 2 == 1;
            let (name, tests) = match name {
                "" => continue,
                "or" | "||" => return None,
                "{" => {
                    let end = words.iter().position(|word| word == "}")?;
                    let (inside, after) = words.split_at(end);
                    words = after.get(1..).unwrap_or_default();
                    (None, vec![inside.to_vec()])
                }
                name => (Some(name.to_owned()), self.tests.get(name)?.clone()),
            };
            terms.push(Term { is_not: std::mem::take(&mut is_not), name, tests });
        }
        Some(terms)
    }

    /// Returns whether a condition tests paths in a way that matches more than whole segments in one case.
    pub(super) fn has_wider_paths(&self, words: &[String]) -> bool {
        let is_wider = |test: &[String]| {
            let fetch = test.first().map_or("", String::as_str).to_ascii_lowercase();
            let mut values = test.iter().skip(1).filter(|word| !word.starts_with('-'));
            let ignores_case = test.iter().any(|word| word == "-i");
            matches!(fetch.as_str(), "path_beg" | "url_beg" | "path")
                && (ignores_case || values.any(|value| !value.ends_with('/')))
        };
        let inline = words.split(|word| word.ends_with('{') || word == "}").any(is_wider);
        let named = words.iter().filter_map(|word| self.tests.get(word.trim_start_matches('!')));
        inline || named.flatten().any(|test| is_wider(test))
    }

    /// Returns the networks of a condition that is alternatives of addresses alone.
    fn any_address(&self, words: &[String]) -> Option<Vec<IpNet>> {
        let mut all = Vec::new();
        for alternative in words.split(|word| word == "or" || word == "||") {
            let (rest, is_in, networks) = self.addresses(alternative, false)?;
            if rest != Condition::always() || !is_in {
                return None;
            }
            all.extend(networks);
        }
        Some(all)
    }

    /// Returns the words of the test that a condition consists of; `None` if it is more.
    pub(super) fn only_test(&self, words: &[String]) -> Option<Vec<String>> {
        match words {
            [open, test @ .., close] if open == "{" && close == "}" && !test.iter().any(|word| word == "}") => {
                Some(test.to_vec())
            }
            [name] => self.tests.get(name).filter(|tests| tests.len() == 1)?.first().cloned(),
            _ => None,
        }
    }

    /// Marks the ACLs of a condition as used by a converted line.
    pub(super) fn mark_used(&self, words: &[String]) {
        self.used.borrow_mut().extend(words.iter().filter(|word| self.tests.contains_key(*word)).cloned());
    }

    /// Returns whether a condition tests a rate or a counter of a client.
    pub(super) fn counts(&self, words: &[String]) -> bool {
        let is_count = |word: &String| {
            let word = word.to_ascii_lowercase();
            ["_rate", "conn_cur", "_gpc", "_cnt"].iter().any(|part| word.contains(part))
                && (word.starts_with("sc")
                    || word.starts_with("src_")
                    || word.starts_with("be_")
                    || word.starts_with("fe_"))
        };
        let named = words.iter().filter_map(|word| self.tests.get(word.trim_start_matches('!')));
        words.iter().any(is_count) || named.flatten().flatten().any(is_count)
    }

    /// Splits a condition into what it requires, and the path prefixes that it excludes.
    pub(super) fn without_exempt(&self, words: &[String], is_unless: bool) -> Option<(Condition, Vec<String>)> {
        let mut rest = Condition::always();
        let mut exempt = Vec::new();
        let mut names = Vec::new();
        let separator = |word: &String| word == "or" || word == "||";
        if !is_unless && words.iter().any(separator) {
            return None;
        }
        let mut words = words.iter().filter(|word| !separator(word)).cloned().collect::<Vec<_>>();
        while !words.is_empty() {
            let first = words.remove(0);
            let mut is_not = is_unless;
            let mut word = first.as_str();
            while let Some(behind) = word.strip_prefix('!') {
                (word, is_not) = (behind, !is_not);
            }
            if word.is_empty() {
                let next = words.first_mut()?;
                *next = format!("{}{next}", if is_not == is_unless { "" } else { "!" });
                continue;
            }
            let condition = if word == "{" {
                let end = words.iter().position(|word| word == "}")?;
                let inside: Vec<_> = words.drain(..=end).collect();
                test(inside.get(..end)?).ok()?
            } else {
                names.push(word.to_owned());
                self.named.get(word)?.clone().ok()?
            };
            match (is_not, condition.negated(), condition.prefixes()) {
                (false, ..) => rest = rest.and(&condition)?,
                (true, Some(negated), _) => rest = rest.and(&negated)?,
                (true, None, Some(prefixes)) => exempt.extend(prefixes.into_iter().map(str::to_owned)),
                (true, None, None) => return None,
            }
        }
        self.used.borrow_mut().extend(names);
        Some((rest, exempt))
    }

    /// Returns whether a converted line used an ACL.
    pub(super) fn is_used(&self, name: &str) -> bool {
        self.used.borrow().contains(name)
    }

    /// Returns why no converted line used an ACL.
    pub(super) fn why_not(&self, statement: &Statement) -> &'static str {
        match self.named.get(statement.word(1)) {
            Some(Err(why)) => why,
            _ => "nothing that was imported uses it",
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
            } else if let Some(name) = first.strip_prefix('!') {
                const NOT: &str = "routes can't match what a request is not";
                let positive = if name == "{" {
                    let end = words.iter().position(|word| word == "}").ok_or(ONLY)?;
                    let (inside, behind) = words.split_at(end);
                    words = behind.get(1..).unwrap_or_default();
                    test(inside)
                } else {
                    names.push(name.to_owned());
                    self.named.get(name).cloned().unwrap_or(Err(ONLY))
                };
                positive.ok().and_then(|positive| positive.negated()).ok_or(NOT)?
            } else {
                names.push(first.clone());
                self.named.get(first).cloned().unwrap_or(Err(ONLY))?
            };
            whole = whole.and(&condition).ok_or("no request can match, or the condition has too many alternatives")?;
        }
        Ok(whole)
    }
}

/// A part of a condition: one of its tests must hold, or none.
struct Term {
    is_not: bool,
    /// The name of the ACL, if it is one.
    name: Option<String>,
    tests: Vec<Vec<String>>,
}

/// Returns a condition that holds whenever a test does.
fn superset_of_test(words: &[String]) -> Condition {
    let fetch = words.first().map(|word| word.to_ascii_lowercase()).unwrap_or_default();
    let ignores_case = words.iter().any(|word| word == "-i");
    let values = || words.iter().skip(1).filter(|word| !word.starts_with('-'));
    let is_path = fetch.starts_with("path") || fetch.starts_with("url");
    // A path prefix ends at a segment only if it ends in a slash.
    if is_path && (ignores_case || !(fetch == "path" || values().all(|value| value.ends_with('/')))) {
        return Condition::always();
    }
    if fetch == "path" && !words.iter().any(|word| word == "-m") {
        let all = values().map(|value| Condition::prefix(value));
        return all.reduce(|one, other| one?.or(other?)).flatten().unwrap_or_else(Condition::always);
    }
    test(words).unwrap_or_else(|_| Condition::always())
}

/// How a test compares a value.
#[derive(Clone, Copy, PartialEq)]
enum Match {
    Whole,
    Beginning,
    End,
    Domain,
}

/// Converts a test: a fetch method, flags and values.
fn test(words: &[String]) -> Result<Condition, &'static str> {
    let (fetch, rest) = words.split_first().ok_or(ONLY)?;
    let fetch = fetch.to_ascii_lowercase();
    if matches!(fetch.as_str(), "ssl_fc" | "fc_ssl") && rest.is_empty() {
        return Ok(Condition::secure(true));
    }
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
            "-f" | "-M" => return Err("its values are in another file: list them in `hosts` or `path_prefix`"),
            flag if flag.starts_with('-') => return Err(ONLY),
            value => values.push(value),
        }
    }
    let conditions = values.into_iter().map(|value| compared(is_host, by, value));
    let mut whole: Option<Condition> = None;
    for condition in conditions {
        let condition = condition?;
        whole = match whole {
            Some(whole) => Some(whole.or(condition).ok_or("the condition has too many alternatives")?),
            None => Some(condition),
        };
    }
    whole.ok_or(ONLY)
}

/// Returns how a fetch of the Host field compares; `None` for other fetches.
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
    const WHOLE_PATH: &str = "routes match the beginning of a path: path_prefix also matches everything below it";
    const LABELS: &str = "routes match whole host names, or \"*.\" followed by the end of a name";
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

/// Returns the networks of a test `src NETWORK …`; `None` if they are in a file, or are none.
fn networks(test: &[String]) -> Option<Vec<IpNet>> {
    let words = test.get(1..).filter(|words| !words.is_empty())?;
    words.iter().map(|word| units::network(word)).collect()
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
        acls.condition(&words(condition))
            .unwrap_or_else(|why| panic!("{condition}: {why}"))
            .routes()
            .into_iter()
            .map(|request| (request.hosts, request.prefix))
            .collect()
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
            "{ ssl_fc x }",
            "{ path_beg",
            "api or",
        ] {
            assert!(acls.condition(&words(condition)).is_err(), "{condition}");
        }
        assert!(!acls.is_used("get") && !acls.is_used("api"));
    }

    #[test]
    fn what_may_hold_is_wider_than_what_does() {
        let acls = acls(&["acl admin path_beg /admin/", "acl loose path_beg /admin", "acl exact path /metrics"]);
        let over = |condition: &str| {
            acls.over(&words(condition)).routes().into_iter().map(|each| each.prefix).collect::<Vec<_>>()
        };
        assert_eq!(over("admin !office"), ["/admin"]);
        assert_eq!(over("exact or { path_beg /x/ }"), ["/metrics", "/x"]);
        for condition in ["loose", "!admin", "office", "", "!{ path_beg /x/ }", "{ path_end .php }"] {
            assert_eq!(over(condition), ["/"], "{condition}");
        }
    }

    #[test]
    fn what_a_redirect_leaves_out_is_known() {
        let acls = acls(&["acl acme path_beg /.well-known/acme-challenge/"]);
        for (condition, is_unless) in
            [("!{ ssl_fc } !acme", false), ("{ ssl_fc } or acme", true), ("! acme ! { ssl_fc }", false)]
        {
            let (rest, exempt) = acls.without_exempt(&words(condition), is_unless).unwrap();
            assert_eq!(
                (rest, exempt),
                (Condition::secure(false), vec!["/.well-known/acme-challenge".to_owned()]),
                "{condition}"
            );
        }
    }
}

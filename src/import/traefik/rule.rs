//! Owns: the parser of router rules: Host, PathPrefix, `&&`, `||`, parentheses.
//! Invariant: a rule is converted as a whole or not at all; the nesting of parentheses is bounded.
//! Must not know: routers.

use super::super::rule::Condition;
use super::super::source::DEEPEST;

const ONLY: &str = "routes match only Host and PathPrefix";

/// Parses a rule.
pub(super) fn read(rule: &str) -> Result<Condition, &'static str> {
    let mut reader = Reader { rest: rule.trim(), depth: 0 };
    let condition = reader.any_of()?;
    if reader.rest.is_empty() { Ok(condition) } else { Err(ONLY) }
}

/// Returns the hosts that a rule can match; empty if it can match any.
pub(super) fn hosts(rule: &str) -> Vec<String> {
    if rule.contains("||") || rule.contains('!') || rule.contains("HostRegexp") {
        return Vec::new();
    }
    let mut hosts = Vec::new();
    for part in rule.split("Host(").skip(1) {
        let arguments = part.split(')').next().unwrap_or_default().split(',');
        hosts.extend(
            arguments.filter_map(|text| super::super::grammar::host(text.trim().trim_matches(['`', '"', '\'']))),
        );
    }
    hosts
}

/// Returns the hosts that a rule names, except for those that it excludes.
pub(super) fn host_texts(rule: &str) -> Vec<&str> {
    let parts: Vec<&str> = rule.split("Host(").collect();
    let named = parts.windows(2).filter_map(|pair| match pair {
        [before, part] if !before.trim_end().ends_with('!') => part.split(')').next(),
        _ => None,
    });
    named.flat_map(|part| part.split(',')).map(|text| text.trim().trim_matches(['`', '"', '\''])).collect()
}

/// Returns whether a rule matches paths that begin with a prefix, also in the middle of a segment.
pub(super) fn has_names(rule: &str) -> bool {
    let prefixes = rule.split("PathPrefix(").skip(1).filter_map(|part| part.split(')').next());
    prefixes.flat_map(|part| part.split(',')).any(|text| !text.trim().trim_matches(['`', '"', '\'']).ends_with('/'))
}

struct Reader<'r> {
    rest: &'r str,
    depth: usize,
}

impl<'r> Reader<'r> {
    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn any_of(&mut self) -> Result<Condition, &'static str> {
        let mut whole = self.all_of()?;
        while self.eat("||") {
            whole = whole.or(self.all_of()?).ok_or("the condition has too many alternatives")?;
        }
        Ok(whole)
    }

    fn all_of(&mut self) -> Result<Condition, &'static str> {
        let mut whole = self.one()?;
        while self.eat("&&") {
            whole =
                whole.and(&self.one()?).ok_or("no request can match, or the condition has too many alternatives")?;
        }
        Ok(whole)
    }

    fn one(&mut self) -> Result<Condition, &'static str> {
        if self.eat("!") {
            return Err("routes can't match what a request is not");
        }
        if self.eat("(") {
            self.depth += 1;
            if self.depth > DEEPEST {
                return Err(ONLY);
            }
            let inside = self.any_of()?;
            self.depth -= 1;
            return if self.eat(")") { Ok(inside) } else { Err(ONLY) };
        }
        let name = self.name();
        if !self.eat("(") {
            return Err(ONLY);
        }
        let mut whole: Option<Condition> = None;
        loop {
            let condition = matched(name, self.argument()?)?;
            whole = match whole {
                Some(whole) => Some(whole.or(condition).ok_or("the condition has too many alternatives")?),
                None => Some(condition),
            };
            if self.eat(")") {
                return whole.ok_or(ONLY);
            }
            if !self.eat(",") {
                return Err(ONLY);
            }
        }
    }

    fn name(&mut self) -> &'r str {
        let end = self.rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        name
    }

    /// Parses a text in backticks or quotes.
    fn argument(&mut self) -> Result<&'r str, &'static str> {
        let quote = self.rest.chars().next().filter(|c| matches!(c, '`' | '"' | '\'')).ok_or(ONLY)?;
        let (argument, rest) = self.rest.get(1..).and_then(|rest| rest.split_once(quote)).ok_or(ONLY)?;
        self.rest = rest.trim_start();
        Ok(argument)
    }
}

fn matched(name: &str, argument: &str) -> Result<Condition, &'static str> {
    match name {
        "Host" | "HostHeader" => Condition::host(argument).ok_or("not a host name"),
        "PathPrefix" => Condition::prefix(argument).ok_or("not a path"),
        "Path" => Err("routes match the beginning of a path: PathPrefix also matches everything below it"),
        "HostRegexp" => match below(argument) {
            Some(below) => Condition::host(&format!("*.{below}")).ok_or("not a host name"),
            None => Err("routes match whole host names, or \"*.\" followed by the end of a name"),
        },
        _ => Err(ONLY),
    }
}

/// Returns the end of names that `{subdomain:[a-z]+}.example.com` or `^.+\.example\.com$` requires.
fn below(pattern: &str) -> Option<String> {
    if let Some((_, rest)) = pattern.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        return rest.strip_prefix('.').filter(|rest| !rest.contains('{')).map(str::to_owned);
    }
    let rest = pattern.strip_prefix('^')?.strip_suffix('$')?;
    let any = ["[a-zA-Z0-9-]+", "[a-z0-9-]+", "[a-z]+", ".+", ".*", "[^.]+"];
    let rest = any.iter().find_map(|any| rest.strip_prefix(any))?.strip_prefix("\\.")?;
    let plain = rest.replace("\\.", ".");
    plain.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c)).then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(rule: &str) -> Vec<(Vec<String>, String)> {
        let requests = read(rule).unwrap_or_else(|why| panic!("{rule}: {why}")).routes();
        requests.into_iter().map(|request| (request.hosts, request.prefix)).collect()
    }

    #[test]
    fn rules_are_routes() {
        assert_eq!(routes("Host(`a.example`)"), [(vec!["a.example".into()], "/".into())]);
        let both: Vec<String> = vec!["a.example".into(), "b.example".into()];
        assert_eq!(routes("Host(`a.example`, `b.example`) && PathPrefix(`/x`)"), [(both.clone(), "/x".into())]);
        assert_eq!(routes("(Host(\"a.example\") || Host(`b.example`)) && (PathPrefix(`/x`))"), [(both, "/x".into())]);
        assert_eq!(routes("HostRegexp(`{sub:[a-z]+}.a.example`)")[0].0, ["*.a.example"]);
        assert_eq!(routes("HostRegexp(`^.+\\.a\\.example$`)")[0].0, ["*.a.example"]);
        assert_eq!(routes("PathPrefix(`/a`) || PathPrefix(`/b`)").len(), 2);
    }

    #[test]
    fn hosts_are_known_of_what_is_refused() {
        assert_eq!(hosts("Host(`a.example`) && Path(`/x`)"), ["a.example"]);
        for rule in ["Path(`/x`)", "Host(`a`) || Path(`/x`)", "!Host(`a`)"] {
            assert!(hosts(rule).is_empty(), "{rule}");
        }
    }

    #[test]
    fn what_routes_cannot_say_is_refused() {
        for rule in [
            "",
            "Host(`a`",
            "Host()",
            "Host(a)",
            "Host(`a`) &&",
            "Host(`a`) Host(`b`)",
            "!Host(`a`)",
            "Method(`GET`)",
            "Path(`/x`)",
            "Host(`a`) && Host(`b`)",
            "Host(`a`) || Header(`X`, `y`)",
            "HostRegexp(`.+`)",
            "é",
            &"(".repeat(100_000),
        ] {
            assert!(read(rule).is_err(), "{rule:.40}");
        }
    }
}

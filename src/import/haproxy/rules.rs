//! Owns: the conversion of rules: `http-request`, `redirect`, `tcp-request` and the like.
//! Invariant: an access restriction is recognized as one.
//! Must not know: frontends and backends.

use super::super::access::Access;
use super::super::address_lists::AddressLists;
use super::super::reasons::{FILTER, PASSWORDS, RATES};
use super::super::route::Redirect;
use super::super::rule::Condition;
use super::super::users::basic_auth;
use super::acl::Acls;
use super::syntax::Statement;
use super::userlist::UserLists;

/// The condition of a line, after `if` or `unless`.
pub(super) struct RuleCondition<'s> {
    pub(super) words: &'s [String],
    pub(super) is_unless: bool,
}

/// Splits words where their condition begins.
pub(super) fn split(words: &[String]) -> (&[String], RuleCondition<'_>) {
    let at = words.iter().position(|word| matches!(word.as_str(), "if" | "unless"));
    let (action, condition) = words.split_at(at.unwrap_or(words.len()));
    let is_unless = condition.first().is_some_and(|word| word == "unless");
    (action, RuleCondition { words: condition.get(1..).unwrap_or_default(), is_unless })
}

/// Returns why an access restriction has no equivalent; `None` for other lines.
pub(super) fn guard(statement: &Statement, acls: &Acls) -> Option<&'static str> {
    let verb = match statement.word(0) {
        "tcp-request" => statement.word(2),
        "block" | "reqdeny" | "reqideny" | "reqtarpit" | "reqitarpit" => "deny",
        "http-request" | "http-response" => statement.word(1),
        _ => return None,
    };
    let (action, when) = split(statement.from(1));
    match verb {
        "deny" | "tarpit" | "reject" | "silent-drop" if acls.counts(when.words) => None,
        "deny" | "tarpit" | "reject" | "silent-drop" => Some(FILTER),
        "auth" => Some(PASSWORDS),
        "return" => {
            let status = action.iter().position(|word| word == "status").and_then(|at| action.get(at + 1));
            status.is_some_and(|status| status.starts_with('4')).then_some(FILTER)
        }
        _ => None,
    }
}

/// Returns what of Linchpin's own a restriction amounts to, and the requests that it is for.
pub(super) fn access(statement: &Statement, acls: &Acls, users: &UserLists<'_>) -> Option<(Condition, Access)> {
    if statement.word(1) != "auth" {
        return addresses(statement, acls).map(|(area, lists)| (area, Access::Lists(lists)));
    }
    let (action, when) = split(statement.from(1));
    let (area, list, groups) = acls.logins(when.words, when.is_unless)?;
    let realm = action.iter().skip_while(|word| *word != "realm").nth(1).map(String::as_str);
    let file = users.file(&list, &groups)?;
    // HAProxy forwards the password.
    Some((area, Access::Passwords(basic_auth(&file, realm.or(Some(&list)), true))))
}

/// Returns the lists of addresses that a line amounts to, and the requests that they are for. A refusal of all clients is a
/// list of all addresses.
fn addresses(statement: &Statement, acls: &Acls) -> Option<(Condition, AddressLists)> {
    let verb = match statement.word(0) {
        "tcp-request" => statement.word(2),
        "http-request" => statement.word(1),
        "block" => "deny",
        _ => return None,
    };
    if !matches!(verb, "deny" | "tarpit" | "reject" | "silent-drop" | "return") {
        return None;
    }
    let (_, when) = split(statement.from(1));
    let Some((rest, is_refused, networks)) = acls.addresses(when.words, when.is_unless) else {
        let area = match (when.words.is_empty(), when.is_unless) {
            (true, _) => Condition::always(),
            (false, false) => acls.condition(when.words).ok()?,
            (false, true) => acls.condition(when.words).ok()?.negated()?,
        };
        return Some((area, AddressLists::nobody()));
    };
    let networks = networks.iter().map(ToString::to_string).collect();
    let lists = match is_refused {
        true => AddressLists { deny: networks, ..AddressLists::default() },
        false => AddressLists { allow: networks, ..AddressLists::default() },
    };
    Some((rest, lists))
}

/// Returns how to note a line that limits the rate or number of a client's requests; `None` for other lines.
pub(super) fn limit(statement: &Statement, acls: &Acls) -> Option<&'static str> {
    let (_, when) = split(statement.from(1));
    let is_rule = matches!(statement.word(0), "http-request" | "tcp-request");
    (is_rule && acls.counts(when.words)).then_some(RATES)
}

/// Returns the words of a redirect from its kind on; `None` for other lines.
pub(super) fn redirect(statement: &Statement) -> Option<&[String]> {
    match (statement.word(0), statement.word(1)) {
        ("redirect", _) => Some(statement.from(1)),
        ("http-request", "redirect") => Some(statement.from(2)),
        _ => None,
    }
}

/// Converts a redirect to https of requests without TLS, and nothing else.
pub(super) fn to_tls(statement: &Statement, acls: &Acls) -> Option<Redirect> {
    let (action, when) = split(redirect(statement)?);
    let (redirect, lost) = target(action)?;
    let is_plain = redirect.scheme == Some("https") && redirect.host.is_none() && redirect.path.is_none();
    let is_clear = when.words.is_empty()
        || acls.condition(when.words).is_ok_and(|condition| condition == Condition::secure(when.is_unless));
    (is_plain && lost.is_empty() && is_clear).then_some(redirect)
}

/// Converts `scheme https code 301`, `prefix URL` and `location URL`; also returns the options without an equivalent.
pub(super) fn target(action: &[String]) -> Option<(Redirect, Vec<String>)> {
    const HOST: [&str; 4] = ["%[hdr(host)]", "%[req.hdr(host)]", "%[req.hdr(Host)]", "%[hdr(Host)]"];
    const REST: [&str; 6] = ["%[capture.req.uri]", "%[url]", "%[pathq]", "%[path]", "%HU", "%rest"];
    let [kind, to, options @ ..] = action else { return None };
    let mut status = 302;
    let mut lost = Vec::new();
    let mut options = options.iter().map(String::as_str);
    while let Some(option) = options.next() {
        match option {
            "code" => status = options.next()?.parse().ok()?,
            "set-cookie" | "clear-cookie" => lost.push(format!("{option} {}", options.next().unwrap_or_default())),
            other => lost.push(other.to_owned()),
        }
    }
    let redirect = match (kind.as_str(), to.as_str()) {
        ("scheme", "https") if matches!(status, 301 | 302 | 303 | 307 | 308) => {
            Some(Redirect::to_scheme("https", status))
        }
        ("prefix", url) => Redirect::read(&format!("{}%rest", url.trim_end_matches('/')), &HOST, &REST, status),
        ("location", url) => Redirect::read(url, &HOST, &REST, status),
        _ => None,
    };
    Some((redirect?, lost))
}

/// Returns the path prefix that `replace-path` or `set-path` removes.
pub(super) fn stripped(statement: &Statement) -> Option<String> {
    let prefix = match (statement.word(0), statement.word(1)) {
        ("http-request", "replace-path" | "replace-pathq" | "replace-uri") => {
            let pattern = statement.word(2).trim_start_matches('^').trim_end_matches('$');
            let ends =
                [("(/)?(.*)", "/\\2"), ("(/.*)", "\\1"), ("/(.*)", "/\\1"), ("/?(.*)", "/\\1"), ("(/|$)(.*)", "/\\2")];
            ends.iter().find_map(|(end, put)| pattern.strip_suffix(end).filter(|_| statement.word(3) == *put))?
        }
        ("http-request", "set-path") => {
            let inside = statement.word(2).strip_prefix("%[path,regsub(^")?.strip_suffix(")]")?;
            ["/,/", "/?,/"].iter().find_map(|end| inside.strip_suffix(end))?
        }
        _ => return None,
    };
    let is_plain = prefix.len() > 1 && prefix.chars().all(|c| c.is_ascii_alphanumeric() || "/-_".contains(c));
    super::super::grammar::prefix(prefix).filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(text: &str) -> Statement {
        Statement { line: 1, words: text.split_whitespace().map(str::to_owned).collect(), text: text.into() }
    }

    #[test]
    fn what_keeps_requests_out_is_known() {
        let acls = Acls::read([statement("acl fast sc_http_req_rate(0) gt 10")].iter());
        for text in [
            "http-request deny",
            "http-request deny if !office",
            "http-request auth realm x unless ok",
            "http-request return status 403 if x",
            "tcp-request connection reject if { src 10.0.0.1 }",
            "tcp-request content reject",
            "block if x",
        ] {
            assert!(guard(&statement(text), &acls).is_some(), "{text}");
        }
        for text in
            ["http-request deny if fast", "http-request return status 200", "tcp-request inspect-delay 5s", "option x"]
        {
            assert_eq!(guard(&statement(text), &acls), None, "{text}");
        }
    }

    #[test]
    fn a_stripped_prefix_is_read_or_refused() {
        for (text, read) in [
            ("http-request replace-path /app(/)?(.*) /\\2", Some("/app")),
            ("http-request replace-path ^/app/(.*)$ /\\1", Some("/app")),
            ("http-request replace-path ^/app(/.*) \\1 if x", Some("/app")),
            ("http-request set-path %[path,regsub(^/app/,/)]", Some("/app")),
            ("http-request replace-path /a.b/(.*) /\\1", None),
            ("http-request replace-path (.*) /x\\1", None),
        ] {
            assert_eq!(stripped(&statement(text)).as_deref(), read, "{text}");
        }
    }
}

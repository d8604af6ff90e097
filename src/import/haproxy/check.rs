//! Owns: the conversion of `option httpchk` and `http-check`.
//! Invariant: a probe sends the same request, but always with GET, and expects the same statuses.
//! Must not know: the interval of probes, and servers.

use super::super::reasons::NONE;
use super::super::toml::{Table, Value};
use super::disposition::Disposition;
use super::syntax::Statement;

const GET: &str = "probes use GET";

/// Converts `option httpchk [METHOD] [URI [VERSION]]`; with `is_sent`, `http-check send` defines the request.
pub(super) fn httpchk(statement: &Statement, is_sent: bool, health: &mut Table) -> Disposition {
    let words = statement.from(2);
    let (method, uri, version) = match words {
        [] => ("OPTIONS", "/", ""),
        [uri] => ("OPTIONS", uri.as_str(), ""),
        [method, uri, rest @ ..] => (method.as_str(), uri.as_str(), rest.first().map_or("", String::as_str)),
    };
    health.set("type", Value::text("http"));
    // `http-check send` overrides the path, wherever it is.
    if is_sent || health.get("path").is_some() {
        return Disposition::Converted;
    }
    path(uri, statement, health);
    if method != "GET" {
        health.unneeded(statement.line, &statement.text, GET);
    }
    for field in version.split("\r\n").skip(1).filter(|field| !field.is_empty()) {
        match field.split_once(':') {
            Some((name, value)) => self::field(name, value, statement, health),
            None => health.unsupported(statement.line, field, NONE),
        }
    }
    Disposition::Converted
}

/// Converts `http-check send …` and `http-check expect …`.
pub(super) fn http_check(statement: &Statement, health: &mut Table) -> Disposition {
    match statement.word(1) {
        "send" => send(statement, health),
        "expect" => expect(statement, health),
        "disable-on-404" => {
            return Disposition::Unsupported(
                "to drain a backend, set state = \"drain\" in its [[pools.backends]]".into(),
            );
        }
        "send-state" => return Disposition::Unsupported(NONE.into()),
        _ => return Disposition::Unsupported("a probe is one request, and expects a status".into()),
    }
    Disposition::Converted
}

fn send(statement: &Statement, health: &mut Table) {
    health.set("type", Value::text("http"));
    let mut words = statement.from(2).iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "meth" if words.next() != Some("GET") => health.unneeded(statement.line, &statement.text, GET),
            "meth" => {}
            "uri" => path(words.next().unwrap_or_default(), statement, health),
            "ver" => {
                words.next();
            }
            "hdr" => {
                let (name, value) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                field(name, value, statement, health);
            }
            other => {
                let text = format!("{other} {}", words.next().unwrap_or_default());
                health.unsupported(statement.line, text.trim(), NONE);
            }
        }
    }
}

fn path(uri: &str, statement: &Statement, health: &mut Table) {
    if uri.starts_with('/') && uri.chars().all(|c| c.is_ascii_graphic() && c != '#') {
        health.set("path", Value::text(uri));
    } else {
        health.unsupported(statement.line, &statement.text, "not a path");
    }
}

fn field(name: &str, value: &str, statement: &Statement, health: &mut Table) {
    let host = super::super::grammar::host(value.trim()).filter(|host| !host.starts_with('*'));
    match host {
        Some(host) if name.trim().eq_ignore_ascii_case("host") => health.set("host", Value::text(&host)),
        _ => health.unsupported(
            statement.line,
            &format!("{name}: {}", value.trim()),
            "a probe can set only the field Host",
        ),
    }
}

fn expect(statement: &Statement, health: &mut Table) {
    let (line, text) = (statement.line, statement.text.as_str());
    let words = statement.from(2);
    let at = words.iter().position(|word| matches!(word.as_str(), "status" | "rstatus" | "string" | "rstring" | "!"));
    let tested = words.get(at.unwrap_or(words.len())..).unwrap_or_default();
    let codes = match tested {
        [kind, codes] if kind == "status" => codes.split(',').map(codes_of).collect(),
        [kind, pattern] if kind == "rstatus" => class_of(pattern).map(|class| vec![class]),
        _ => None,
    };
    match codes {
        Some(codes) => health.set("expect", Value::list(codes.iter().map(String::as_str))),
        None => health.unsupported(line, text, "a probe can expect only statuses: expect = [\"200-399\"]"),
    }
}

/// Parses `200` or `200-399`.
fn codes_of(text: &str) -> Option<String> {
    let code = |text: &str| text.parse::<u16>().ok().filter(|code| (100..=599).contains(code));
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    (code(low)? <= code(high)?).then(|| text.to_owned())
}

/// Parses a pattern for a class of statuses: `^2`, `2[0-9][0-9]`, `^2..`.
fn class_of(pattern: &str) -> Option<String> {
    let pattern = pattern.trim_start_matches('^').trim_end_matches('$');
    let (class, rest) = pattern.split_at_checked(1)?;
    let is_rest = ["", "..", "[0-9][0-9]", "[0-9]{2}", "\\d\\d", "\\d{2}", "[0-9]*", ".*"].contains(&rest);
    (is_rest && ["1", "2", "3", "4", "5"].contains(&class)).then(|| format!("{class}xx"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        assert_eq!(codes_of("200-399").as_deref(), Some("200-399"));
        assert_eq!(codes_of("204").as_deref(), Some("204"));
        for bad in ["", "20", "399-200", "200-", "abc", "200-700"] {
            assert_eq!(codes_of(bad), None, "{bad}");
        }
        assert_eq!(class_of("^2[0-9][0-9]").as_deref(), Some("2xx"));
        for bad in ["", "^[23]", "200|204", "ü"] {
            assert_eq!(class_of(bad), None, "{bad}");
        }
    }
}

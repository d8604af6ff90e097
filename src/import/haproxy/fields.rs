//! Owns: the conversion of lines that set, add and remove header fields.
//! Invariant: a value that depends on the request is never written as a text.
//! Must not know: frontends and backends.

use super::super::field_edits::{Change, FieldEdit, Message};
use super::rules::split;
use super::syntax::Statement;

const VARIES: &str = "the value of a field is the same for all requests of a route";
const FORWARDING: &str = "Linchpin always sets the forwarding fields";
const BEFORE: &str = "Linchpin sets X-Forwarded-Proto by the connection: if something before it ends TLS, list that in `trusted_proxies` of the listener";

/// How a line about header fields is handled.
pub(super) enum Field {
    /// It is this change.
    Edit(FieldEdit),
    /// It needs no equivalent, for this reason.
    Unneeded(&'static str),
    /// It has no equivalent, for this reason.
    Lost(&'static str),
}

/// A change to a field, and the words of its condition.
pub(super) struct FieldRule<'s> {
    pub(super) field: Field,
    /// The condition is `if` these words; empty for none.
    pub(super) condition: &'s [String],
}

/// Converts `http-request set-header NAME VALUE`, `http-response del-header NAME` and the like; `None` for other lines.
pub(super) fn read(statement: &Statement) -> Option<FieldRule<'_>> {
    let message = match statement.word(0) {
        "http-request" => Message::Request,
        "http-response" | "http-after-response" => Message::Response,
        _ => return old(statement),
    };
    let (action, when) = split(statement.from(1));
    let [verb, name, rest @ ..] = action else { return None };
    let field = match (verb.as_str(), rest) {
        ("set-header" | "add-header", [value]) => {
            let is_forwarding = message == Message::Request && is_forwarding(name);
            let is_static = text_of(value).is_some();
            match (is_forwarding, text_of(value)) {
                (true, _) if !is_static || !when.words.is_empty() => Field::Unneeded(FORWARDING),
                (true, _) if name.eq_ignore_ascii_case("x-forwarded-proto") => Field::Lost(BEFORE),
                (true, _) => Field::Lost(FORWARDING),
                (false, None) if name.eq_ignore_ascii_case("x-real-ip") => {
                    Field::Lost("Linchpin sends the client's address in X-Forwarded-For and Forwarded")
                }
                (false, None) => Field::Lost(VARIES),
                (false, Some(value)) => {
                    let change = if verb == "set-header" { Change::Set(value) } else { Change::Add(value) };
                    edit(message, name, change)
                }
            }
        }
        ("del-header", []) if message == Message::Request && is_forwarding(name) => Field::Unneeded(FORWARDING),
        ("del-header", []) => edit(message, name, Change::Remove),
        ("del-header", [flag, method]) if flag == "-m" && method == "str" => edit(message, name, Change::Remove),
        ("set-header" | "add-header" | "del-header", _) => Field::Lost("routes change fields by their whole name"),
        _ => return None,
    };
    let field = if when.is_unless { Field::Lost("routes can't match what a request is not") } else { field };
    Some(FieldRule { field, condition: when.words })
}

/// Converts the lines of HAProxy before 2.1: `reqadd NAME:\ VALUE`, `rspdel ^NAME:.*`.
fn old(statement: &Statement) -> Option<FieldRule<'_>> {
    let (action, when) = split(statement.from(1));
    let message = if statement.word(0).starts_with("req") { Message::Request } else { Message::Response };
    let [text] = action else { return None };
    let field = match statement.word(0) {
        "reqadd" | "rspadd" => match text.split_once(':') {
            Some((name, _)) if message == Message::Request && is_forwarding(name) => Field::Unneeded(FORWARDING),
            Some((name, value)) => edit(message, name.trim(), Change::Add(value.trim().into())),
            None => Field::Lost("not a field with a value"),
        },
        "reqdel" | "reqidel" | "rspdel" | "rspidel" => {
            let name = text.trim_start_matches('^').trim_end_matches(['*', '.', '$']).trim_end_matches("\\ ");
            edit(message, name.trim_end_matches([':', '\\']), Change::Remove)
        }
        _ => return None,
    };
    let field = if when.is_unless { Field::Lost("routes can't match what a request is not") } else { field };
    Some(FieldRule { field, condition: when.words })
}

fn edit(message: Message, name: &str, change: Change) -> Field {
    FieldEdit::new(message, name, change).map_or_else(Field::Lost, Field::Edit)
}

fn is_forwarding(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "forwarded" || name.starts_with("x-forwarded-")
}

/// Returns the text of a log format without variables.
fn text_of(format: &str) -> Option<String> {
    let text = format.replace("%%", "\0");
    (!text.contains('%')).then(|| text.replace('\0', "%"))
}

#[cfg(test)]
mod tests {
    use super::super::syntax::sections;
    use super::*;

    fn shown(line: &str) -> Option<String> {
        let sections = sections(&format!("frontend f\n {line}\n")).unwrap();
        Some(match read(&sections[0].statements[0])?.field {
            Field::Edit(edit) => format!("{edit:?}"),
            Field::Unneeded(why) => format!("unneeded: {why}"),
            Field::Lost(why) => format!("lost: {why}"),
        })
    }

    #[test]
    fn a_value_is_taken_as_it_is_or_not_at_all() {
        for (line, part) in [
            ("http-response set-header X-Frame-Options DENY", "Set(\"DENY\")"),
            ("http-response set-header X-Load \"100%% sure\"", "Set(\"100% sure\")"),
            ("http-request add-header X-Via edge if { path_beg /a }", "Add(\"edge\")"),
            ("http-response del-header Server", "Remove"),
            ("rspidel ^Server:.*", "name: \"Server\", change: Remove"),
            ("rspadd X-A:\\ b", "Add(\"b\")"),
            ("http-request set-header X-Host %[req.hdr(host)]", "lost: the value"),
            ("http-request set-header X-Forwarded-Proto https if { ssl_fc }", "unneeded: "),
            ("http-request set-header X-Forwarded-Proto https", "lost: Linchpin sets X-Forwarded-Proto"),
            ("http-request set-header X-A b unless { path_beg /a }", "lost: routes can't match"),
            ("http-request del-header x- -m beg", "lost: routes change fields"),
        ] {
            assert!(shown(line).unwrap().contains(part), "{line}: {:?}", shown(line));
        }
        assert_eq!(shown("http-request deny"), None);
        assert_eq!(shown("option forwardfor"), None);
    }
}

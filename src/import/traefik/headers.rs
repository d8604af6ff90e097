//! Owns: the conversion of a `headers` middleware.
//! Invariant: a field that can't be changed stays in the tree, and is noted there.
//! Must not know: routers.

use super::super::field_edits::{Change, FieldEdit, Message};
use super::super::node::{Map, Node, peek};
use super::super::reasons::NONE;

/// Keys that stand for a field of responses with their own value.
const WITH_VALUE: [(&str, &str); 4] = [
    ("customFrameOptionsValue", "X-Frame-Options"),
    ("referrerPolicy", "Referrer-Policy"),
    ("contentSecurityPolicy", "Content-Security-Policy"),
    ("permissionsPolicy", "Permissions-Policy"),
];

/// Keys that stand for a field of responses with this value, where they are true.
const FLAGS: [(&str, &str, &str); 3] = [
    ("frameDeny", "X-Frame-Options", "DENY"),
    ("contentTypeNosniff", "X-Content-Type-Options", "nosniff"),
    ("browserXssFilter", "X-XSS-Protection", "1; mode=block"),
];

/// Takes what routes can change; returns the changes, each with its line and text. `path` is that of the middleware.
pub(super) fn edits(map: &Map, path: &str) -> Vec<(usize, String, FieldEdit)> {
    let mut edits = Vec::new();
    for (key, message) in [("customRequestHeaders", Message::Request), ("customResponseHeaders", Message::Response)] {
        let Some(fields) = peek(map, key).and_then(Node::map) else { continue };
        let names: Vec<String> = fields.all().map(|(name, ..)| name.to_owned()).collect();
        for name in names {
            let Some((line, value)) = text(fields, &name) else { continue };
            let change = if value.is_empty() { Change::Remove } else { Change::Set(value.into()) };
            if let Ok(edit) = FieldEdit::new(message, &name, change) {
                fields.take_text(&name);
                edits.push((line, format!("{path}.{key}.{name}: {value}"), edit));
            }
        }
        if fields.left().next().is_none() {
            map.take(key);
        }
    }
    let mut set = |key: &str, line: usize, name: &str, value: &str| {
        if let Ok(edit) = FieldEdit::new(Message::Response, name, Change::Set(value.into())) {
            map.take_text(key);
            edits.push((line, format!("{path}.{key}: {value}"), edit));
        }
    };
    for (key, name, value) in FLAGS {
        match text(map, key) {
            Some((line, "true")) => set(key, line, name, value),
            Some((_, "false")) => drop(map.take_text(key)),
            _ => {}
        }
    }
    // A value of its own replaces that of a flag.
    for (key, name) in WITH_VALUE {
        if let Some((line, value)) = text(map, key).filter(|(_, value)| !value.is_empty()) {
            set(key, line, name, value);
        }
    }
    if let Some((line, seconds)) =
        text(map, "stsSeconds").and_then(|(line, text)| Some((line, text.parse::<u64>().ok()?)))
    {
        let flags = [("stsIncludeSubdomains", "; includeSubDomains"), ("stsPreload", "; preload")];
        let is_set = |key: &str| map.take_text(key) == Some("true");
        let more: String = flags.iter().filter(|(key, _)| is_set(key)).map(|(_, more)| *more).collect();
        if seconds > 0 {
            set("stsSeconds", line, "Strict-Transport-Security", &format!("max-age={seconds}{more}"));
        } else {
            map.take_text("stsSeconds");
        }
        map.take_text("forceSTSHeader");
    }
    edits
}

/// Returns why a key has no equivalent.
pub(super) fn why(key: &str) -> &'static str {
    match key.to_ascii_lowercase().as_str() {
        "sslredirect" | "ssltemporaryredirect" | "sslhost" | "sslforcehost" => "write a route with `redirect`",
        "hostsproxyheaders" | "sslproxyheaders" => "`trusted_proxies` of the listener says whom Linchpin believes",
        "customrequestheaders" | "customresponseheaders" => {
            "routes don't change fields that frame the message or say who the client is"
        }
        key if key.starts_with("accesscontrol") || key == "addvaryheader" => {
            "Linchpin answers no CORS preflights: leave that to the application, or set fields in [routes.response_headers]"
        }
        key if key.starts_with("sts") || key == "forcestsheader" => "it belongs to stsSeconds",
        _ => NONE,
    }
}

/// Returns the line and text of a key, without taking it.
fn text<'n>(map: &'n Map, key: &str) -> Option<(usize, &'n str)> {
    let (_, line, node) = map.all().find(|(other, ..)| other.eq_ignore_ascii_case(key))?;
    Some((line, node.text()?))
}

//! Owns: the header fields that routes set, add and remove.
//! Invariant: a configuration accepts each change, and no field is changed twice in one message.
//! Must not know: the formats of sources; which requests a route matches.

use super::grammar;
use super::toml::{Table, Value};

/// Which message a change applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    Request,
    Response,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Replaces the values that there are.
    Set(String),
    /// Keeps the values that there are.
    Add(String),
    Remove,
}

/// A change to one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FieldEdit {
    message: Message,
    name: String,
    change: Change,
}

/// The changes of one route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldEdits(Vec<FieldEdit>);

pub(super) const TWICE: &str = "a route changes each field once, and an earlier line already changes this one";
const FORWARDING: &str = "Linchpin sets the fields that say who the client is, and forwards its Host";

impl FieldEdit {
    /// Returns a change to a field.
    ///
    /// # Errors
    /// The reason why routes can't make it.
    pub(super) fn new(message: Message, name: &str, change: Change) -> Result<FieldEdit, &'static str> {
        let field = grammar::token(name).ok_or("not the name of a header field")?.to_ascii_lowercase();
        let is_removed = change == Change::Remove;
        let is_request = message == Message::Request;
        let of_client = field == "forwarded" || field == "x-real-ip" || field.starts_with("x-forwarded");
        match field.as_str() {
            "connection" | "content-length" | "expect" | "http2-settings" | "keep-alive" | "proxy-connection"
            | "te" | "trailer" | "transfer-encoding" | "upgrade" | "date" => {
                return Err("it belongs to the connection or the message framing, which Linchpin manages");
            }
            "alt-svc" if !is_request && !is_removed => {
                return Err("Linchpin speaks no HTTP/3, to which this leads clients");
            }
            _ if field.starts_with("linchpin-") => return Err("Linchpin reserves this prefix for itself"),
            "host" if !is_request || !matches!(&change, Change::Set(host) if is_authority(host)) => {
                return Err("every request has one Host: `set` of [routes.request_headers] writes another host");
            }
            _ if is_request && of_client && !is_removed => return Err(FORWARDING),
            "cookie" if is_request && !is_removed => return Err("cookies belong to the client"),
            "set-cookie" if !is_request => return Err("Set-Cookie belongs to the application"),
            _ => {}
        }
        if let Change::Set(value) | Change::Add(value) = &change {
            let is_plain = value.chars().all(|c| c == ' ' || c.is_ascii_graphic());
            if value.trim() != value || value.len() > 4096 || !is_plain {
                return Err("the value of a field is visible ASCII");
            }
        }
        Ok(FieldEdit { message, name: name.into(), change })
    }

    pub(super) fn message(&self) -> Message {
        self.message
    }

    /// Returns whether it changes this field of this message.
    pub(super) fn is_of(&self, message: Message, name: &str) -> bool {
        self.message == message && self.name.eq_ignore_ascii_case(name)
    }
}

fn is_authority(text: &str) -> bool {
    grammar::host(text).is_some_and(|host| !host.starts_with('*'))
}

impl FieldEdits {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a change; returns whether it could. One that sets or removes a field replaces an earlier one.
    pub(super) fn push(&mut self, edit: &FieldEdit) -> bool {
        match self.0.iter_mut().find(|other| other.is_of(edit.message, &edit.name)) {
            Some(other) if other == edit => true,
            Some(_) if matches!(edit.change, Change::Add(_)) => false,
            Some(other) => {
                *other = edit.clone();
                true
            }
            None => {
                self.0.push(edit.clone());
                true
            }
        }
    }

    /// Writes the sections of a route.
    pub(super) fn write(&self, is_off: bool, text: &mut String) {
        for (message, header) in
            [(Message::Request, "[routes.request_headers]"), (Message::Response, "[routes.response_headers]")]
        {
            let mut table = Table::default();
            let all = || self.0.iter().filter(|edit| edit.message == message);
            let quoted = |name: &str| Value::text(name).as_str().to_owned();
            let pairs = |value_of: fn(&Change) -> Option<&String>| -> Vec<(String, Value)> {
                all().filter_map(|edit| Some((quoted(&edit.name), Value::text(value_of(&edit.change)?)))).collect()
            };
            let set = pairs(|change| if let Change::Set(value) = change { Some(value) } else { None });
            let add = pairs(|change| if let Change::Add(value) = change { Some(value) } else { None });
            for (key, pairs) in [("set", set), ("add", add)] {
                if !pairs.is_empty() {
                    table.set(key, Value::inline(pairs.iter().map(|(name, value)| (name.as_str(), value.clone()))));
                }
            }
            let removed: Vec<_> = all().filter(|edit| edit.change == Change::Remove).collect();
            if !removed.is_empty() {
                table.set("remove", Value::list(removed.iter().map(|edit| edit.name.as_str())));
            }
            table.write(header, is_off, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> Result<FieldEdit, &'static str> {
        FieldEdit::new(Message::Request, name, Change::Set(value.into()))
    }

    #[test]
    fn a_field_is_changed_once() {
        let mut edits = FieldEdits::default();
        assert!(edits.push(&set("X-A", "1").unwrap()) && edits.push(&set("x-a", "2").unwrap()));
        let add = FieldEdit::new(Message::Request, "X-A", Change::Add("3".into())).unwrap();
        assert!(!edits.push(&add));
        assert!(edits.push(&FieldEdit::new(Message::Response, "X-A", Change::Remove).unwrap()));
        let mut text = String::new();
        edits.write(false, &mut text);
        let expected =
            "[routes.request_headers]\nset = { \"x-a\" = \"2\" }\n\n[routes.response_headers]\nremove = [\"X-A\"]\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_routes_cannot_change_is_refused() {
        for (name, value) in [
            ("Connection", "close"),
            ("X-Forwarded-Proto", "https"),
            ("Cookie", "a=b"),
            ("Linchpin-User", "a"),
            ("Host", "*.example"),
            ("X A", "1"),
            ("X-A", "ü"),
            ("X-A", "a\nb"),
        ] {
            assert!(set(name, value).is_err(), "{name}: {value}");
        }
        assert!(set("Host", "app.internal:8080").is_ok());
        assert!(FieldEdit::new(Message::Response, "Set-Cookie", Change::Remove).is_err());
        assert!(FieldEdit::new(Message::Request, "X-Forwarded-For", Change::Remove).is_ok());
    }
}

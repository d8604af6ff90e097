//! Owns: the directives that change header fields, and which of them apply in a block.
//! Invariant: as in nginx, a block with directives of a kind inherits none of that kind.
//! Must not know: routes.

use super::super::field_edits::{Change, FieldEdit, Message};
use super::super::source::SyntaxError;
use super::syntax::{self, Directive};

/// The directives that change header fields; each of them is inherited apart from the others.
const KINDS: [&str; 7] = [
    "add_header",
    "proxy_set_header",
    "grpc_set_header",
    "proxy_hide_header",
    "more_set_headers",
    "more_clear_headers",
    "more_set_input_headers",
];

/// The changes to header fields that apply in a block.
#[derive(Clone, Default)]
pub(super) struct Fields<'d>(Vec<&'d Directive>);

impl<'d> Fields<'d> {
    /// Returns the changes that apply in a nested block.
    pub(super) fn inside(&self, block: &'d [Directive]) -> Fields<'d> {
        let own = |kind: &str| block.iter().any(|each| each.word(0) == kind);
        let inherited = self.0.iter().copied().filter(|each| !own(each.word(0)));
        let new = block.iter().filter(|each| KINDS.contains(&each.word(0)));
        Fields(inherited.chain(new).collect())
    }

    /// Returns whether a directive sets Host.
    pub(super) fn sets_host(&self) -> bool {
        self.0.iter().any(|each| each.word(0) == "proxy_set_header" && each.word(1).eq_ignore_ascii_case("host"))
    }

    /// Returns each change, and its directive.
    pub(super) fn edits(&self) -> impl Iterator<Item = (&'d Directive, Vec<FieldEdit>)> {
        self.0.iter().filter_map(|each| Some((*each, edits(each)?)))
    }
}

/// Returns the changes that a directive makes; `None` if it makes none, or routes can't make one of them.
pub(super) fn edits(directive: &Directive) -> Option<Vec<FieldEdit>> {
    let is_static = |text: &&str| !text.contains('$');
    let value = || Some(directive.word(2)).filter(is_static).map(str::to_owned);
    let name = directive.word(1);
    let one = |message, change| FieldEdit::new(message, name, change).ok().map(|edit| vec![edit]);
    let all = |message, change: fn(&str) -> Option<(String, Change)>| {
        let fields = directive.from(1).iter().map(|text| Some(text.as_str()).filter(is_static).and_then(change));
        fields.map(|field| field.and_then(|(name, change)| FieldEdit::new(message, &name, change).ok())).collect()
    };
    match (directive.word(0), directive.words.len()) {
        ("add_header", 3) | ("add_header", 4) => one(Message::Response, Change::Add(value()?)),
        ("proxy_set_header" | "grpc_set_header", 3) => match value()? {
            value if value.is_empty() => one(Message::Request, Change::Remove),
            value => one(Message::Request, Change::Set(value)),
        },
        ("proxy_hide_header", 2) => one(Message::Response, Change::Remove),
        ("more_set_headers", _) => all(Message::Response, set),
        ("more_set_input_headers", _) => all(Message::Request, set),
        ("more_clear_headers", _) => all(Message::Response, |name| {
            Some(name).filter(|name| !name.contains('*')).map(|name| (name.to_owned(), Change::Remove))
        }),
        _ => None,
    }
}

/// Reads `NAME: VALUE`; without a value, it removes the field. An option is neither.
fn set(text: &str) -> Option<(String, Change)> {
    let (name, value) = text.split_once(':')?;
    let value = value.trim();
    let change = if value.is_empty() { Change::Remove } else { Change::Set(value.into()) };
    Some((name.trim().to_owned(), change))
}

/// Returns the changes of a snippet; `None` if it does anything else.
pub(in crate::import) fn of_snippet(text: &str) -> Option<Vec<FieldEdit>> {
    let directives: Result<_, SyntaxError> = syntax::directives(text);
    let all: Option<Vec<_>> = directives.ok()?.iter().map(edits).collect();
    all.map(|all| all.concat()).filter(|all| !all.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::syntax::directives;
    use super::*;

    fn shown(text: &str) -> Option<String> {
        edits(&directives(text).unwrap()[0]).map(|edits| format!("{edits:?}"))
    }

    #[test]
    fn a_value_with_a_variable_is_no_change() {
        for (text, part) in [
            ("add_header X-Frame-Options \"SAMEORIGIN\" always;", "Add(\"SAMEORIGIN\")"),
            ("proxy_set_header Accept-Encoding \"\";", "Remove"),
            ("proxy_set_header Host app.internal;", "Set(\"app.internal\")"),
            ("more_set_headers \"X-A: b\" 'X-B: c';", "Set(\"c\")"),
            ("more_clear_headers Server;", "Remove"),
        ] {
            assert!(shown(text).unwrap().contains(part), "{text}: {:?}", shown(text));
        }
        for text in [
            "add_header X-Cache $upstream_cache_status;",
            "proxy_set_header X-Real-IP $remote_addr;",
            "proxy_set_header Connection \"\";",
            "more_clear_headers 'X-*';",
            "more_set_headers -s 404 'X-A: b';",
            "return 403;",
        ] {
            assert_eq!(shown(text), None, "{text}");
        }
        assert_eq!(of_snippet("more_set_headers \"X-A: b\"; deny all;"), None);
        assert_eq!(of_snippet("more_set_headers \"X-A: b\"; add_header X-C d;").map(|edits| edits.len()), Some(2));
    }

    #[test]
    fn a_block_inherits_what_it_has_none_of() {
        let outer = directives("add_header A a; proxy_hide_header B;").unwrap();
        let inner = directives("add_header C c;").unwrap();
        let outer = Fields::default().inside(&outer);
        let words: Vec<_> = outer.inside(&inner).0.iter().map(|each| each.word(1).to_owned()).collect();
        assert_eq!(words, ["B", "C"]);
    }
}

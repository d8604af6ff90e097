//! Owns: a pool's own pages, which its clients get instead of Linchpin's.
//! Invariant: a page is parsed once, and what is filled in needs no escape in HTML.
//! Must not know: which error gets which page; files.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;

/// `[pools.pages]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// For every error that Linchpin responds with.
    pub error: Option<Arc<Template>>,
    /// Instead of `error` while all backends, or the session's own, are in maintenance.
    pub maintenance: Option<Arc<Template>>,
}

/// A page with places that are filled in.
#[derive(Debug, PartialEq, Eq)]
pub struct Template {
    parts: Box<[Part]>,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    /// The status code, such as 503.
    Status,
    /// The words for the status, such as Service Unavailable.
    Reason,
    /// What happened and what to do, in a sentence or two.
    Detail,
    /// The request's id, as in the access log.
    RequestId,
}

/// The places, and how a page writes them.
const PLACES: [(&str, Part); 4] = [
    ("{{status}}", Part::Status),
    ("{{reason}}", Part::Reason),
    ("{{detail}}", Part::Detail),
    ("{{request_id}}", Part::RequestId),
];

impl Template {
    /// Finds the places in `text`. All other text stays as it is.
    pub fn parse(text: &str) -> Template {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((at, length, part)) = next_place(rest) {
            let (before, after) = rest.split_at(at);
            parts.push(Part::Text(before.into()));
            parts.push(part);
            rest = after.get(length..).unwrap_or_default();
        }
        parts.push(Part::Text(rest.into()));
        Template { parts: parts.into() }
    }

    /// Whether the page names the request.
    pub fn names_request(&self) -> bool {
        self.parts.contains(&Part::RequestId)
    }

    /// Fills the page in.
    pub(super) fn fill_in(&self, status: StatusCode, detail: &str, id: &str) -> Bytes {
        let mut page = String::new();
        for part in &self.parts {
            page.push_str(match part {
                Part::Text(text) => text,
                Part::Status => status.as_str(),
                Part::Reason => status.canonical_reason().unwrap_or_default(),
                Part::Detail => detail,
                Part::RequestId => id,
            });
        }
        page.into()
    }
}

/// Returns where the next place in `text` begins, its length and what it is for.
fn next_place(text: &str) -> Option<(usize, usize, Part)> {
    let places = PLACES.into_iter().filter_map(|(written, part)| Some((text.find(written)?, written.len(), part)));
    places.min_by_key(|(at, ..)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_places_are_filled_in() {
        let template = Template::parse("a{{status}} {{reason}}: {{detail}} ({{request_id}}/{{request_id}}) {{x}} {{");
        assert!(template.names_request());
        let page = template.fill_in(StatusCode::BAD_GATEWAY, "Wait.", "00ab");
        assert_eq!(page, "a502 Bad Gateway: Wait. (00ab/00ab) {{x}} {{");
        assert!(!Template::parse("ä").names_request());
        assert_eq!(Template::parse("ä").fill_in(StatusCode::OK, "", ""), "ä");
    }

    proptest::proptest! {
        #[test]
        fn any_text_without_places_stays_the_same(text in "[a-z{}ä]{0,40}") {
            proptest::prop_assume!(!text.contains("{{"));
            proptest::prop_assert_eq!(Template::parse(&text).fill_in(StatusCode::OK, "", ""), text);
        }
    }
}

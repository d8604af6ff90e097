//! Owns: the dashboard's page and its Content-Security-Policy.
//! Invariant: a browser runs the page's own script and style, which the policy names by hash, and nothing else.
//! Must not know: what the page shows; it reads that from the API.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The page, in one file: the browser fetches no other.
pub(super) const PAGE: &str = include_str!("dashboard.html");

/// Returns the page's Content-Security-Policy.
pub(super) fn policy() -> String {
    let (script, style) = (hash("script"), hash("style"));
    format!(
        "default-src 'none'; script-src {script}; style-src {style}; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )
}

/// Returns the source expression for the page's one `element`; without one, an expression that matches nothing.
fn hash(element: &str) -> String {
    let text = inline(element).unwrap_or_default();
    format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, text.as_bytes())))
}

fn inline(element: &str) -> Option<&'static str> {
    let (_, rest) = PAGE.split_once(&format!("<{element}>"))?;
    Some(rest.split_once(&format!("</{element}>"))?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_script_and_one_style_and_nothing_that_its_policy_forbids() {
        for element in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1, "{element}");
            assert!(!inline(element).unwrap().trim().is_empty(), "{element}");
            assert!(policy().contains(&hash(element)));
        }
        for forbidden in [" style=\"", " onclick=", " onload=", " onsubmit=", "http://", "https://"] {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn whatever_comes_from_the_api_is_shown_as_text() {
        for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn the_policy_allows_nothing_inline() {
        assert!(policy().starts_with("default-src 'none';"));
        assert!(!policy().contains("unsafe"));
    }
}

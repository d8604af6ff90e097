//! Owns: the files of the dashboard and their Content-Security-Policy.
//! Invariant: a browser runs and loads these files and nothing else, and shows what the API says as text.
//! Must not know: what the page shows; it reads that from the API.

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue};

/// The path of the files of the page.
pub(super) const FILES_PATH: &str = "/dashboard/{file}";

/// Where those paths begin.
pub(super) const FILES_PREFIX: &str = "/dashboard/";

/// The page. It loads the files below, and they load one another; nothing has to be built.
const PAGE: &str = include_str!("dashboard/page.html");

/// Sources are this server alone. Of what it serves, only these files have a type that a browser runs, and no other type
/// is guessed. Images are the icons that the page draws itself.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
);

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const SCRIPT: HeaderValue = HeaderValue::from_static("text/javascript; charset=utf-8");
const STYLE: HeaderValue = HeaderValue::from_static("text/css; charset=utf-8");

macro_rules! files {
    ($($name:literal)*) => { &[$(($name, include_str!(concat!("dashboard/", $name)))),*] };
}

/// The files of the page by name.
const FILES: &[(&str, &str)] = files![
    "actions.js" "api.js" "charts.js" "dom.js" "favicon.js" "format.js" "layout.css" "main.js" "panels.js" "pools.css"
    "pools.js" "reasons.js" "rows.js" "spread.js" "theme.css" "trends.js"
];

/// Responds with the page.
pub(super) async fn page() -> Response {
    (headers(HTML), PAGE).into_response()
}

/// Responds with one of its files.
pub(super) async fn file(Path(name): Path<String>) -> Response {
    let Some((_, text)) = FILES.iter().find(|(known, _)| *known == name) else {
        return (StatusCode::NOT_FOUND, "The dashboard has no file of this name.\n").into_response();
    };
    let kind = if name.ends_with(".css") { STYLE } else { SCRIPT };
    (headers(kind), *text).into_response()
}

fn headers(kind: HeaderValue) -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, kind), (CONTENT_SECURITY_POLICY, POLICY)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
        FILES.iter().copied().chain([("page.html", PAGE)])
    }

    #[test]
    fn every_file_of_the_folder_is_served_and_every_file_that_is_loaded_exists() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/dashboard");
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let mut known: Vec<_> = all().map(|(name, _)| name.to_owned()).collect();
        known.sort();
        assert_eq!(names, known);
        for (name, text) in all() {
            for line in text.lines().filter(|line| line.starts_with("import ")) {
                let (_, file) = line.split_once("from \"./").unwrap();
                assert!(known.iter().any(|known| file == format!("{known}\";")), "{name}: {line}");
            }
            for part in text.split("=\"dashboard/").skip(1) {
                assert!(known.iter().any(|known| part.starts_with(&format!("{known}\""))), "{name}: {part}");
            }
        }
    }

    #[test]
    fn no_file_has_what_the_policy_forbids_or_an_address_elsewhere() {
        // The name of the namespace of SVG is no address.
        let without_names = |text: &str| text.replace("\"http://www.w3.org/2000/svg\"", "");
        for (name, text) in all().map(|(name, text)| (name, without_names(text))) {
            for forbidden in [
                " style=\"",
                " onclick=",
                " onload=",
                " onsubmit=",
                "<script>",
                "<style",
                "http://",
                "https://",
                "@import",
                "url(",
            ] {
                assert!(!text.contains(forbidden), "{name}: {forbidden}");
            }
        }
    }

    #[test]
    fn whatever_comes_from_the_api_is_shown_as_text() {
        for (name, text) in all() {
            for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("] {
                assert!(!text.contains(forbidden), "{name}: {forbidden}");
            }
        }
    }

    #[test]
    fn the_policy_allows_nothing_inline() {
        let policy = POLICY;
        let policy = policy.to_str().unwrap();
        assert!(policy.starts_with("default-src 'none';"));
        assert!(!policy.contains("unsafe"));
    }
}

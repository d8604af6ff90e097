//! Owns: the pages that a source shows for errors, and the one of them that a pool has.
//! Invariant: a page for one status never replaces those of other statuses unless it is for a server that can't respond.
//! Must not know: the formats of sources.

use super::super::toml::{Table, Value};

/// A page in a file, for errors with these statuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::import) struct ErrorPage {
    pub(in crate::import) statuses: Vec<u16>,
    pub(in crate::import) file: String,
    pub(in crate::import) line: usize,
    pub(in crate::import) text: String,
}

/// The statuses whose page a pool has, the preferred one first: no server could respond, or one failed.
const SHOWN: [u16; 4] = [503, 502, 504, 500];

/// Returns `[pools.pages]` for these pages.
pub(super) fn pages(given: &[ErrorPage]) -> Table {
    let mut table = Table::default();
    let of = |status: &u16| given.iter().rfind(|page| page.statuses.contains(status)).map(|page| (*status, page));
    let chosen = SHOWN.iter().find_map(of);
    if let Some((_, page)) = chosen {
        table.set("error", Value::text(&page.file));
        table.comment("for every error that Linchpin itself responds with; write {{status}}, {{detail}} and {{request_id}} where it should show them");
    }
    for page in given {
        let why = match chosen {
            Some((_, chosen)) if chosen.file == page.file => continue,
            Some((status, _)) => format!("a pool has one page for all errors, and it is the one for {status}"),
            None => {
                "a pool has one page for all errors of Linchpin itself, and this one is not for 500, 502, 503 or 504"
                    .to_owned()
            }
        };
        table.unsupported(page.line, &page.text, why);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(statuses: &[u16], file: &str) -> ErrorPage {
        ErrorPage { statuses: statuses.into(), file: file.into(), line: 1, text: format!("page {file}") }
    }

    fn shown(given: &[ErrorPage]) -> (Option<String>, usize) {
        let table = pages(given);
        (table.get("error").map(|value| value.as_str().to_owned()), table.unsupported_lines().count())
    }

    #[test]
    fn the_page_for_no_server_is_the_page_of_a_pool() {
        let quoted = |file: &str| Some(format!("\"{file}\""));
        assert_eq!(shown(&[page(&[500, 502, 503, 504], "50x")]), (quoted("50x"), 0));
        assert_eq!(shown(&[page(&[502], "502"), page(&[503], "503"), page(&[504], "503")]), (quoted("503"), 1));
        assert_eq!(shown(&[page(&[404], "404"), page(&[403], "403")]), (None, 2));
        assert_eq!(shown(&[page(&[404], "all"), page(&[500], "all")]), (quoted("all"), 0));
        assert_eq!(shown(&[]), (None, 0));
    }
}

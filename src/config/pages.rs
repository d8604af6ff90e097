//! Owns: `[pools.pages]`, and findings about its files.
//! Invariant: a page is text of bounded length.
//! Must not know: when a page is shown.

use std::sync::Arc;

use super::reader::Table;
use super::values::{plain_text, shown};
use crate::files;
use crate::proxy::pages::{Settings, Template};

/// The longest page, in bytes: it stays in memory, and each response with it takes as much.
const MAX_BYTES: u64 = 256 * 1024;

pub(super) fn pages(table: &Table<'_>) -> Settings {
    Settings { error: page(table, "error"), maintenance: page(table, "maintenance") }
}

/// Reads the page in the file that a key names.
fn page(table: &Table<'_>, key: &'static str) -> Option<Arc<Template>> {
    let file = table.spot(key, plain_text)?;
    let path = table.notes().resolve_input(&file.value);
    let name = shown(&path.to_string_lossy());
    match files::read_text(&path, MAX_BYTES) {
        Ok(text) => {
            let template = Template::parse(&text);
            if !template.names_request() {
                let problem =
                    format!("the page {name} does not name the request: who sees it can't tell you which one failed");
                table.notes().warn(&file.span, problem, "write {{request_id}} where the page should show it");
            }
            Some(Arc::new(template))
        }
        Err(error) => {
            let problem = format!("cannot read the page {name}: {error}");
            table.notes().error(&file.span, problem, "write the path of an HTML file of at most 256 KiB");
            None
        }
    }
}

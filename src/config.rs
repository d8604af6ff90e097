//! Owns: how a configuration file becomes a plan, or a list of everything that is wrong with it.
//! Invariant: nothing starts on an error; every error says where, what, and what to write instead.
//! Must not know: running state.

mod access;
mod addresses;
mod capacity;
mod check;
mod discovery;
mod file;
mod listeners;
mod names;
mod persistence;
mod plan;
mod pools;
mod reach;
mod reader;
mod report;
mod routes;
mod secrets;
mod synonyms;
mod syntax;
#[cfg(test)]
mod tests;
mod tls;
mod values;

use std::path::Path;

use toml::de::DeTable;

pub use self::plan::{Plan, PoolPlan};
pub use self::report::{Finding, Position, Report, Severity};
use crate::files;
use crate::runtime::descriptors;

/// The longest configuration: 50,000 backends with all that can be said of each take half of it.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Reads a configuration file. The report of a plan holds warnings at most.
///
/// # Errors
/// Everything that is wrong with the file, warnings included.
pub fn load(path: &Path) -> Result<(Plan, Report), Report> {
    let text = files::read_text(path, MAX_BYTES).map_err(|error| Report::unreadable(path, &error))?;
    parse(&text, path)
}

/// Reads the text of the configuration file `origin`: findings name it, and relative paths in it
/// start at its folder. The disk is read for nothing but the files of keys,
/// tokens and certificates that it names, for what else than a regular file those of logs and discovery are, for
/// whether logs and sockets can be made where they should be, and for the authorities that the system believes.
///
/// # Errors
/// Everything that is wrong with the text, warnings included.
pub fn parse(text: &str, origin: &Path) -> Result<(Plan, Report), Report> {
    let notes = report::Notes::new(text, origin);
    let readable = syntax::readable(text, &notes);
    // What isn't TOML was said above.
    let (tree, _) = DeTable::parse_recoverable(&readable);
    let draft = reader::read(tree.get_ref(), &notes, file::Draft::read);
    check::check(&draft, &notes);
    let max_connections = draft.max_connections.clone();
    let plan = if notes.has_errors() { None } else { draft.plan(&notes) };
    if let Some(plan) = &plan {
        capacity::check(plan, max_connections, descriptors::most(), &notes);
    }
    let report = notes.report();
    match plan {
        Some(plan) => Ok((plan, report)),
        None => Err(report),
    }
}

//! Owns: turning a configuration file into a plan, or into a list of all its errors.
//! Invariant: no plan comes from a file with errors; each finding says where, what and what to write instead.
//! Must not know: running state.

mod access;
mod access_log;
mod acme;
mod addresses;
mod admin;
mod capacity;
mod check;
mod copies;
mod diff;
mod discovery;
mod document;
mod file;
mod listeners;
mod names;
mod pages;
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
mod tracing;
mod users;
mod values;

use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub use self::diff::{KeyChange, key_path};
pub use self::plan::{Origin, Plan, PoolPlan, RANDOM_KEY};
pub use self::report::{Finding, Position, Report, Severity};
pub use self::tracing::TracingPlan;
use crate::files;
use crate::runtime::descriptors;

/// The longest configuration: 50,000 backends with all their keys take half of it.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Reads a configuration file. The report beside a plan contains warnings only.
///
/// # Errors
/// All errors and warnings of the file.
pub fn load(path: &Path) -> Result<(Plan, Report), Report> {
    let text = files::read_text(path, MAX_BYTES).map_err(|error| Report::unreadable(path, &error))?;
    parse(&text, path)
}

/// Reads only `[admin]` of a configuration file, whatever is wrong with the rest: `None` if there is none, or its address
/// can't be used. The commands that ask a running process find it by this. The report is about `[admin]` alone.
///
/// # Errors
/// The file can't be read.
pub fn admin(path: &Path) -> Result<(Option<crate::admin::Settings>, Report), Report> {
    let text = files::read_text(path, MAX_BYTES).map_err(|error| Report::unreadable(path, &error))?;
    let notes = report::Notes::new(&text, path);
    let (tree, _) = DeTable::parse_recoverable(&text);
    let is_admin = |(name, _): &(&toml::Spanned<_>, &toml::Spanned<_>)| *name.get_ref() == "admin";
    let only = tree.get_ref().iter().filter(is_admin).map(|(name, value)| (name.clone(), value.clone())).collect();
    let settings = reader::read(&only, &notes, |root| root.section("admin", admin::admin));
    Ok((settings.map(|settings| settings.value), notes.report()))
}

/// Lists the files that a configuration file names and whose content is part of the configuration, whatever is wrong with
/// it. Lists of backends are not among them: their sources follow them.
pub fn input_files(path: &Path) -> Vec<PathBuf> {
    let Ok(text) = files::read_text(path, MAX_BYTES) else { return Vec::new() };
    let notes = report::Notes::new(&text, path);
    let readable = syntax::readable(&text, &notes);
    let (tree, _) = DeTable::parse_recoverable(&readable);
    drop(reader::read(tree.get_ref(), &notes, file::Draft::read));
    notes.input_files()
}

/// Reads `text`, the content of the file `origin`: findings name that file, and relative paths start at its folder.
/// Reads from disk only the key, token and certificate files that the text names and the system's certificate
/// authorities. Checks the types of log and discovery files, and whether logs and sockets can be created.
///
/// # Errors
/// All errors and warnings of the text.
pub fn parse(text: &str, origin: &Path) -> Result<(Plan, Report), Report> {
    let notes = report::Notes::new(text, origin);
    let readable = syntax::readable(text, &notes);
    // `syntax` has noted what isn't TOML.
    let (tree, _) = DeTable::parse_recoverable(&readable);
    let draft = reader::read(tree.get_ref(), &notes, file::Draft::read);
    check::check(&draft, &notes);
    let max_connections = draft.max_connections.clone();
    let plan = if notes.has_errors() { None } else { draft.plan(text, &notes) };
    if let Some(plan) = &plan {
        capacity::check(plan, max_connections, descriptors::hard_limit(), &notes);
    }
    let report = notes.report();
    match plan {
        Some(plan) => Ok((plan, report)),
        None => Err(report),
    }
}

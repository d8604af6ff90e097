//! Owns: `linchpin check`, and finding the configuration file if none is named.
//! Invariant: the exit code is 0 exactly if `linchpin run` accepts the file.
//! Must not know: the content of a configuration.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{self, Report};
use crate::files::{self, shell_word};
use crate::import::{Format, LONGEST};

/// The default configuration files, in order.
pub const PLACES: [&str; 2] = ["linchpin.toml", "/etc/linchpin/linchpin.toml"];

/// No file was named, and no default file exists.
#[derive(Debug)]
pub struct NoFile;

impl std::error::Error for NoFile {}

impl std::fmt::Display for NoFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let places = PLACES.join(" nor ");
        write!(f, "there is neither {places}; name a configuration file, or try: linchpin demo")
    }
}

/// Returns the named configuration file, or the first of [`PLACES`] that exists.
///
/// # Errors
/// If no file is named, and none of these exists.
pub fn find(path: Option<&Path>) -> Result<PathBuf, NoFile> {
    let default = || PLACES.iter().map(PathBuf::from).find(|place| place.exists());
    path.map(Path::to_path_buf).or_else(default).ok_or(NoFile)
}

/// Returns the findings of a file that cannot run. For a configuration of another product, which would have a finding
/// in every line, says that instead.
pub(super) fn refusal(path: &Path, report: &Report) -> String {
    let is_toml = !report.findings().iter().any(|finding| finding.problem.starts_with("not TOML: "));
    let text = if is_toml { None } else { files::read_text(path, LONGEST as u64).ok() };
    // Recognize the product by the content only: any file may have this name.
    match text.and_then(|text| Format::guess("", &text)) {
        None => report.to_string(),
        Some(format) => {
            let (shown, product, file) = (path.display(), format.product(), shell_word(path));
            format!(
                "{shown}: error: this is no TOML, and looks like a configuration of {product}; translate it with: \
                     linchpin import {file} -o linchpin.toml\n"
            )
        }
    }
}

/// Prints all errors and warnings of the file, and a summary as the last line.
pub fn run(path: Option<&Path>) -> ExitCode {
    let (text, is_good) = match find(path) {
        Ok(path) => verdict(&path),
        Err(error) => (format!("{error}\n"), false),
    };
    // If standard output is closed, the exit code is all that is left.
    let _ = io::stdout().write_all(text.as_bytes());
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn verdict(path: &Path) -> (String, bool) {
    let (report, findings, is_good) = match config::load(path) {
        Ok((_, report)) => (report.clone(), report.to_string(), true),
        Err(report) => (report.clone(), refusal(path, &report), false),
    };
    let count = |count: usize, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        _ => Some(format!("{count} {what}s")),
    };
    let verdict = is_good.then(|| "OK".to_owned());
    let counts = [verdict, count(report.errors(), "error"), count(report.warnings(), "warning")];
    let sum = counts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    (format!("{findings}{}: {sum}\n", path.display()), is_good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_sums_up() {
        let minimal = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/config/minimal.toml"));
        let (text, is_good) = verdict(minimal);
        assert!(is_good && text.ends_with("minimal.toml: OK, 2 warnings\n"), "{text}");
        let (text, is_good) = verdict(Path::new("/nowhere/linchpin.toml"));
        assert!(!is_good && text.ends_with("/nowhere/linchpin.toml: 1 error\n"), "{text}");
    }

    #[test]
    fn a_named_file_is_taken_even_if_it_is_not_there() {
        let named = Path::new("/nowhere/linchpin.toml");
        assert_eq!(find(Some(named)).unwrap(), named);
        assert!(NoFile.to_string().contains("/etc/linchpin/linchpin.toml"));
    }
}

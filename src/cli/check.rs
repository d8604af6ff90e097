//! Owns: `linchpin check`.
//! Invariant: the exit code is 0 exactly if `linchpin run` accepts the file.
//! Must not know: the content of a configuration.

use std::path::Path;
use std::process::ExitCode;

use super::config_file::find;
use super::output::print;
use crate::config::{self, Report};
use crate::files::{self, shell_word};
use crate::import::{Format, LONGEST};

/// Returns the findings of a file that cannot run.
pub(super) fn render_errors(path: &Path, report: &Report) -> String {
    other_product(path, report).unwrap_or_else(|| report.to_string())
}

/// Returns the one finding of another product's configuration, which otherwise would have one in every line.
fn other_product(path: &Path, report: &Report) -> Option<String> {
    let is_toml = !report.findings().iter().any(|finding| finding.problem.starts_with("not TOML: "));
    let text = if is_toml { None } else { files::read_text(path, LONGEST as u64).ok() };
    // Recognize the product by the content only: any file may have this name.
    let product = Format::guess("", &text?)?.product();
    let (shown, file) = (path.display(), shell_word(path));
    Some(format!(
        "{shown}: error: this is not TOML, but looks like a configuration of {product}; translate it with: \
         linchpin import {file} -o linchpin.toml\n"
    ))
}

/// Prints all errors and warnings of the file, and a summary as the last line.
pub fn run(path: Option<&Path>) -> ExitCode {
    let (text, is_good) = match find(path) {
        Ok(path) => check_file(&path),
        Err(error) => (format!("{error}, or try: linchpin demo\n"), false),
    };
    print(&text);
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check_file(path: &Path) -> (String, bool) {
    let (report, is_good) = match config::load(path) {
        Ok((_, report)) => (report, true),
        Err(report) => (report, false),
    };
    if let Some(finding) = other_product(path, &report) {
        return (format!("{finding}{}: 1 error\n", path.display()), false);
    }
    let count = |count: usize, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        _ => Some(format!("{count} {what}s")),
    };
    let ok = is_good.then(|| "OK".to_owned());
    let counts = [ok, count(report.errors(), "error"), count(report.warnings(), "warning")];
    let sum = counts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    (format!("{report}{}: {sum}\n", path.display()), is_good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_sums_up() {
        let minimal = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/config/minimal.toml"));
        let (text, is_good) = check_file(minimal);
        assert!(is_good && text.ends_with("minimal.toml: OK, 2 warnings\n"), "{text}");
        let (text, is_good) = check_file(Path::new("/nowhere/linchpin.toml"));
        assert!(!is_good && text.ends_with("/nowhere/linchpin.toml: 1 error\n"), "{text}");
    }
}

//! Properties of any configuration text: a plan or errors, and every finding at its line.

use std::path::Path;

use linchpin::config::{self, Report, Severity};

pub fn holds(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Key and token files are read where the configuration says, which must not be a file without an end.
    if text.contains("/dev") {
        return;
    }
    let origin = Path::new("/nowhere/linchpin.toml");
    match config::parse(text, origin) {
        Ok((plan, report)) => {
            assert_eq!(report.errors(), 0, "a plan in spite of errors: {report}");
            assert!(!plan.listeners.is_empty() && !plan.pools.is_empty() && !plan.routes.is_empty());
            assert!(plan.pools.iter().all(|pool| !pool.pool.backends.is_empty()));
            is_in_place(text, &report);
        }
        Err(report) => {
            assert!(report.errors() > 0, "neither a plan nor an error");
            is_in_place(text, &report);
        }
    }
}

fn is_in_place(text: &str, report: &Report) {
    assert_eq!(report.findings().len(), report.errors() + report.warnings());
    let lines = text.split('\n').count();
    let mut last = 0;
    for finding in report.findings() {
        assert!(!finding.problem.is_empty() && !finding.remedy.is_empty());
        let position = finding.position.as_ref().expect("a text that was read has places");
        assert!((1..=lines).contains(&position.line) && position.column >= 1, "{position:?} of {lines} lines");
        assert!(position.line >= last, "findings are in the order of the file: {report}");
        last = position.line;
        assert!(matches!(finding.severity, Severity::Error | Severity::Warning));
    }
    assert!(report.findings().is_empty() || !report.to_string().is_empty());
}

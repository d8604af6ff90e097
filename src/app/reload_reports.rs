//! Owns: which reloads are worth a line of the log and an event.
//! Invariant: a reload that changes something always is; of a watched file, that it is broken, and that it no longer is.
//! Must not know: how a reload is reported.

use std::time::Duration;

use crate::admin::{Actor, ReloadError, ReloadReport, ReloadResult};
use crate::clock::LogLimiter;

/// The most reports within [`WINDOW`] of reloads that change nothing. Without a token, every local user can ask for them.
const MAX_REPORTS: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// What was reported before.
#[derive(Debug, Default)]
pub(super) struct ReloadReports {
    limiter: LogLimiter,
    /// The errors of the last reload; empty if it was not refused.
    errors: Vec<ReloadError>,
}

impl ReloadReports {
    /// Decides whether to report a reload at `now`, since the Unix epoch. Returns how many reloads were not reported since
    /// the last report; `None` for no report.
    pub(super) fn take(&mut self, report: &ReloadReport, actor: &Actor, now: Duration) -> Option<u64> {
        let before = std::mem::replace(&mut self.errors, report.errors.clone());
        match report.result {
            ReloadResult::Applied => Some(0),
            // Files change without effect, such as certificates that are in use by then. One that was broken is good again.
            ReloadResult::Unchanged if *actor == Actor::Watch && before.is_empty() => None,
            ReloadResult::Refused if *actor == Actor::Watch && before == report.errors => None,
            ReloadResult::Unchanged | ReloadResult::Refused => self.limiter.take(now, WINDOW, MAX_REPORTS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000);

    fn report(result: ReloadResult, problem: &str) -> ReloadReport {
        let error = |problem: &str| ReloadError {
            file: "linchpin.toml".into(),
            line: Some(1),
            column: None,
            problem: problem.into(),
            remedy: "write another".into(),
        };
        let errors = if problem.is_empty() { Vec::new() } else { vec![error(problem)] };
        ReloadReport { result, generation: 1, changes: Vec::new(), left_out: 0, errors }
    }

    #[test]
    fn a_watched_file_is_reported_once_when_it_is_broken_and_once_when_it_no_longer_is() {
        let mut reports = ReloadReports::default();
        let mut take = |result, problem: &str, actor| reports.take(&report(result, problem), actor, NOW).is_some();
        let (watch, api) = (&Actor::Watch, &Actor::Program);
        assert!(take(ReloadResult::Refused, "unknown key", watch));
        assert!(!take(ReloadResult::Refused, "unknown key", watch));
        assert!(take(ReloadResult::Refused, "unknown key", api), "somebody asks");
        assert!(!take(ReloadResult::Refused, "unknown key", watch), "and has been told");
        assert!(take(ReloadResult::Refused, "another one", watch));
        assert!(take(ReloadResult::Unchanged, "", watch), "it is good again");
        assert!(!take(ReloadResult::Unchanged, "", watch));
        assert!(take(ReloadResult::Refused, "another one", watch), "it was good meanwhile");
    }

    #[test]
    fn reloads_that_change_nothing_are_limited_and_those_that_do_are_not() {
        let mut reports = ReloadReports::default();
        let mut take =
            |result, second| reports.take(&report(result, ""), &Actor::Program, NOW + Duration::from_secs(second));
        let taken: Vec<_> = (0..15).map(|_| take(ReloadResult::Unchanged, 0).is_some()).collect();
        assert_eq!(taken.iter().filter(|is_taken| **is_taken).count(), MAX_REPORTS as usize);
        assert_eq!(take(ReloadResult::Applied, 0), Some(0));
        assert_eq!(take(ReloadResult::Unchanged, 11), Some(5));
    }
}

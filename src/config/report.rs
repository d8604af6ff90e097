//! Owns: findings: what is wrong, where, and what to write instead.
//! Invariant: every finding has a remedy; a line that is not TOML has no other finding.
//! Must not know: the keys and their meaning.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::files;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file cannot run.
    Error,
    /// The file runs, but probably not as intended.
    Warning,
}

/// One thing that is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file, as named on the command line.
    pub file: PathBuf,
    /// The position in the file; `None` if the file could not be read.
    pub position: Option<Position>,
    /// What is wrong.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

/// A position in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// The number of characters that the finding is about.
    pub width: usize,
    /// The line itself; empty if it is too long to show, or the finding is about the whole file.
    pub source: String,
}

/// All findings of a file, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    findings: Vec<Finding>,
}

/// Longer lines are not shown with a finding.
const SHOWN: usize = 160;

impl Report {
    /// Returns the report of a file that could not be read.
    pub(super) fn unreadable(file: &Path, error: &files::Error) -> Report {
        let finding = Finding {
            severity: Severity::Error,
            file: file.into(),
            position: None,
            problem: format!("cannot read the file: {error}"),
            remedy: match error {
                files::Error::NotRegular(_) => "copy its content to a regular file, and name that file".into(),
                files::Error::TooLarge(_) => "find backends with [[pools.discover]], or split the file by pools".into(),
                files::Error::Io(_) | files::Error::NotText => "name a readable TOML file".into(),
            },
        };
        Report { findings: vec![finding] }
    }

    /// Returns all findings, in the order of the file.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Returns the number of errors.
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// Returns the number of warnings.
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

impl std::error::Error for Report {}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(position) = &self.position {
            write!(f, "{}:{}:", position.line, position.column)?;
        }
        write!(f, " {}: {}; {}", self.severity, self.problem, self.remedy)?;
        match &self.position {
            Some(position) if !position.source.trim().is_empty() => write!(f, "\n{position}"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

/// Shows the line, and marks the characters below it.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |c: char| if c.is_control() && c != '\t' { ' ' } else { c };
        let line: String = self.source.chars().map(shown).collect();
        // Repeat tabs, so that the mark is below its characters.
        let indent: String =
            self.source.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        writeln!(f, "{:>6} | {line}", self.line)?;
        write!(f, "{:>6} | {indent}{}", "", "^".repeat(self.width.max(1)))
    }
}

/// Collects the findings of one file.
pub(super) struct Notes<'a> {
    origin: &'a Path,
    text: &'a str,
    line_starts: Vec<usize>,
    notes: RefCell<Vec<Note>>,
    /// The first line of each piece that is not TOML, and the line after its last.
    broken: RefCell<BTreeMap<usize, usize>>,
    /// The files that the file names and whose content is part of the configuration.
    input_files: RefCell<BTreeSet<PathBuf>>,
}

struct Note {
    at: usize,
    is_syntax: bool,
    finding: Finding,
}

impl<'a> Notes<'a> {
    pub(super) fn new(text: &'a str, origin: &'a Path) -> Notes<'a> {
        let after_newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Notes {
            origin,
            text,
            line_starts: std::iter::once(0).chain(after_newlines).collect(),
            notes: RefCell::default(),
            broken: RefCell::default(),
            input_files: RefCell::default(),
        }
    }

    /// Returns a path that the file names: relative ones start at its folder.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.origin.parent().unwrap_or(Path::new("")).join(path)
    }

    /// Like [`Notes::resolve`], for the path of a file whose content is part of the configuration.
    pub(super) fn resolve_input(&self, path: &str) -> PathBuf {
        let path = self.resolve(path);
        self.input_files.borrow_mut().insert(path.clone());
        path
    }

    /// Returns the files that the file names and whose content is part of the configuration.
    pub(super) fn input_files(&self) -> Vec<PathBuf> {
        self.input_files.borrow().iter().cloned().collect()
    }

    /// The path of the file.
    pub(super) fn origin(&self) -> &'a Path {
        self.origin
    }

    pub(super) fn error(&self, span: &Range<usize>, problem: impl Into<String>, remedy: impl Into<String>) {
        self.note(Severity::Error, false, span, problem.into(), remedy.into());
    }

    pub(super) fn warn(&self, span: &Range<usize>, problem: impl Into<String>, remedy: impl Into<String>) {
        self.note(Severity::Warning, false, span, problem.into(), remedy.into());
    }

    /// Like [`Notes::error`], about something that is missing. Notes nothing if part of the file is unreadable, since
    /// it may be there.
    pub(super) fn missing(&self, span: &Range<usize>, problem: impl Into<String>, remedy: impl Into<String>) {
        if self.is_whole() {
            self.error(span, problem, remedy);
        }
    }

    /// Whether all of the file is readable.
    pub(super) fn is_whole(&self) -> bool {
        self.broken.borrow().is_empty()
    }

    /// Notes what is wrong with TOML, and drops all other findings of `lines`, counted from 0. Only the first such note
    /// of a line counts.
    pub(super) fn broken(&self, lines: Range<usize>, span: &Range<usize>, problem: String, remedy: String) {
        if self.broken.borrow().contains_key(&lines.start) {
            return;
        }
        self.note(Severity::Error, true, span, problem, remedy);
        self.broken.borrow_mut().insert(lines.start, lines.end);
    }

    /// Whether an error was noted.
    pub(super) fn has_errors(&self) -> bool {
        self.notes.borrow().iter().any(|note| note.finding.severity == Severity::Error)
    }

    /// The position of findings about the whole file: its start.
    pub(super) fn whole_file(&self) -> Range<usize> {
        0..0
    }

    /// Returns the line of a byte, counted from 0.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset).saturating_sub(1)
    }

    /// Returns the bytes of a line, with its line break.
    pub(super) fn line(&self, line: usize) -> Range<usize> {
        let end = self.text.len();
        let start = |line| self.line_starts.get(line).copied().unwrap_or(end);
        start(line)..start(line + 1)
    }

    /// Returns the findings in the order of the file, without those of unreadable lines.
    pub(super) fn report(self) -> Report {
        // The furthest end of all pieces that start no later: a line before it is in one of them.
        let mut reach = 0;
        let reaches = self.broken.into_inner().into_iter().map(|(start, end)| {
            reach = reach.max(end);
            (start, reach)
        });
        let reaches: BTreeMap<usize, usize> = reaches.collect();
        let is_broken = |line: usize| reaches.range(..=line).next_back().is_some_and(|(_, reach)| line < *reach);
        let mut notes = self.notes.into_inner();
        notes.sort_by_key(|note| note.at);
        notes.retain(|note| {
            let line = note.finding.position.as_ref().map_or(0, |position| position.line - 1);
            note.is_syntax || !is_broken(line)
        });
        Report { findings: notes.into_iter().map(|note| note.finding).collect() }
    }

    fn note(&self, severity: Severity, is_syntax: bool, span: &Range<usize>, problem: String, remedy: String) {
        let position = Some(self.position(span));
        let finding = Finding { severity, file: self.origin.into(), position, problem, remedy };
        self.notes.borrow_mut().push(Note { at: span.start, is_syntax, finding });
    }

    fn position(&self, span: &Range<usize>) -> Position {
        let line = self.line_of(span.start);
        let Range { start, end } = self.line(line);
        let source = self.text.get(start..end).unwrap_or_default().trim_end_matches(['\n', '\r']);
        let chars = |range: Range<usize>| self.text.get(range).unwrap_or_default().chars().count();
        let source_end = start + source.len();
        Position {
            line: line + 1,
            column: chars(start..span.start.clamp(start, end)) + 1,
            width: chars(span.start.min(source_end)..span.end.clamp(span.start.min(source_end), source_end)),
            source: if source.len() <= SHOWN && span.end > 0 { source.into() } else { String::new() },
        }
    }
}

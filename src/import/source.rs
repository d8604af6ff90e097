//! Owns: whose configuration a source is, and the result of its import.
//! Invariant: an error names a line and what to do next.
//! Must not know: how a source is read.

use std::fmt;

/// The longest source that is read.
pub const LONGEST: usize = 4 << 20;

/// How deep blocks may lie in each other.
pub(super) const DEEPEST: usize = 64;

/// Whose configuration it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `haproxy.cfg`.
    Haproxy,
    /// `nginx.conf`.
    Nginx,
    /// A dynamic file of Traefik, in YAML or TOML.
    Traefik,
}

/// A configuration for Linchpin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The configuration.
    pub text: String,
    /// How many lines of the source have no equivalent. Each stands in `text` as a comment.
    pub lost: usize,
    /// Those of them that kept requests out, such as passwords and addresses that were refused.
    pub guards: Vec<usize>,
    /// Some request gets an answer: a listener is open, from which a route leads to a backend, or elsewhere.
    pub answers: bool,
}

/// Why a source is not read at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It is longer than [`LONGEST`].
    TooLong,
    /// It can't be told whose it is.
    Unknown,
    /// It isn't what it should be; the line is counted from 1.
    Syntax {
        /// Whose configuration it should be.
        format: Format,
        /// Where reading ended.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
}

impl Format {
    /// Its name, as people know it.
    pub fn product(self) -> &'static str {
        match self {
            Format::Haproxy => "HAProxy",
            Format::Nginx => "nginx",
            Format::Traefik => "Traefik",
        }
    }

    /// Whose configuration this is, by its name and then by what stands in it.
    pub fn guess(name: &str, text: &str) -> Option<Format> {
        let name = name.to_ascii_lowercase();
        let by_name = [("haproxy", Format::Haproxy), ("nginx", Format::Nginx), ("traefik", Format::Traefik)];
        if let Some((_, format)) = by_name.iter().find(|(product, _)| name.contains(product)) {
            return Some(*format);
        }
        match name.rsplit_once('.').map(|(_, end)| end) {
            Some("yml" | "yaml" | "toml") => return Some(Format::Traefik),
            Some("cfg") => return Some(Format::Haproxy),
            _ => {}
        }
        let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let opens = |words: &'static [&str]| {
            lines().any(|line| line.split_whitespace().next().is_some_and(|word| words.contains(&word)))
        };
        if lines().any(|line| line.starts_with("http:") || line.starts_with("[http")) {
            Some(Format::Traefik)
        } else if lines().any(|line| line.ends_with(['{', ';']) || (line.ends_with('}') && line.contains(';'))) {
            Some(Format::Nginx)
        } else if opens(&["global", "defaults", "frontend", "backend", "listen"]) {
            Some(Format::Haproxy)
        } else {
            None
        }
    }
}

/// Where and why a source can't be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) line: usize,
    pub(super) problem: String,
}

impl Broken {
    pub(super) fn new(line: usize, problem: impl Into<String>) -> Broken {
        Broken { line, problem: problem.into() }
    }

    pub(super) fn too_deep(line: usize) -> Broken {
        Broken::new(line, format!("more than {DEEPEST} blocks lie in each other"))
    }
}

impl std::error::Error for Refused {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::TooLong => write!(f, "the file is longer than {} MiB: import its parts one by one", LONGEST >> 20),
            Refused::Unknown => f.write_str(
                "neither name nor content tell whose configuration it is: say --from haproxy, nginx or traefik",
            ),
            Refused::Syntax { format, line, problem } => {
                let check = match format {
                    Format::Haproxy => "haproxy -c -f FILE shows what HAProxy says of it",
                    Format::Nginx => "nginx -t -c FILE shows what nginx says of it",
                    Format::Traefik => "it must be one YAML document or TOML",
                };
                write!(f, "line {line}: {problem}; not a configuration of {}: {check}", format.product())
            }
        }
    }
}

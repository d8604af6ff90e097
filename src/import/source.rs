//! Owns: the formats of sources, and the result of an import.
//! Invariant: an error names a line and what to do next.
//! Must not know: the syntax of a format.

use std::fmt;

/// The longest source, in bytes.
pub const LONGEST: usize = 4 << 20;

/// The deepest nesting of blocks.
pub(super) const DEEPEST: usize = 64;

/// The format of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `haproxy.cfg`.
    Haproxy,
    /// Ingresses for ingress-nginx, and the Services that they lead to, in YAML.
    IngressNginx,
    /// `nginx.conf`.
    Nginx,
    /// A dynamic Traefik file, in YAML or TOML.
    Traefik,
}

/// The result of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The Linchpin configuration, in TOML.
    pub text: String,
    /// The number of source lines without an equivalent. Each is a comment in `text`.
    pub unsupported: usize,
    /// Those of them that restricted or limited requests, such as passwords and address lists.
    pub guards: Vec<usize>,
    /// Whether any of these restricted access. The output disables what it can of the routes behind it.
    pub lost_access_control: bool,
    /// Some request would reach a backend or be redirected elsewhere, by an enabled listener and route.
    pub may_serve: bool,
}

/// Why a source can't be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportError {
    /// It is longer than [`LONGEST`].
    TooLong,
    /// Its format is unknown.
    Unknown,
    /// It has a syntax error.
    Syntax {
        /// The expected format.
        format: Format,
        /// The line of the error, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
}

impl Format {
    /// Returns the name of the product.
    pub fn product(self) -> &'static str {
        match self {
            Format::Haproxy => "HAProxy",
            Format::IngressNginx => "ingress-nginx",
            Format::Nginx => "nginx",
            Format::Traefik => "Traefik",
        }
    }

    /// Guesses the format from a file's name, then from its content.
    pub fn guess(name: &str, text: &str) -> Option<Format> {
        let is_kind = |line: &str| {
            let line = line.trim().trim_start_matches("- ").trim_end_matches(',').replace('"', "");
            line == "kind: Ingress" || line.starts_with("nginx.ingress.kubernetes.io/")
        };
        // The name of such a file often has nginx in it.
        if text.lines().any(is_kind) {
            return Some(Format::IngressNginx);
        }
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

/// A syntax error of a source.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) line: usize,
    pub(super) problem: String,
}

impl SyntaxError {
    pub(super) fn new(line: usize, problem: impl Into<String>) -> SyntaxError {
        SyntaxError { line, problem: problem.into() }
    }

    pub(super) fn too_deep(line: usize) -> SyntaxError {
        SyntaxError::new(line, format!("blocks are nested more than {DEEPEST} deep"))
    }
}

impl std::error::Error for ImportError {}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImportError::TooLong => write!(f, "the file is larger than {} MiB: import it in parts", LONGEST >> 20),
            ImportError::Unknown => {
                f.write_str("neither its name nor its content shows the format: add --from haproxy, nginx, ingress-nginx or traefik")
            }
            ImportError::Syntax { format, line, problem } => {
                let check = match format {
                    Format::Haproxy => "run haproxy -c -f FILE for HAProxy's own diagnosis",
                    Format::IngressNginx => "it must be YAML, as kubectl get ingress,service -o yaml prints it",
                    Format::Nginx => "run nginx -t -c FILE for nginx's own diagnosis",
                    Format::Traefik => "it must be TOML or a single YAML document",
                };
                write!(f, "line {line}: {problem}; this is not a valid configuration of {}: {check}", format.product())
            }
        }
    }
}

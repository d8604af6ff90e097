//! Owns: the ways in which a line of an haproxy.cfg is handled.
//! Invariant: a line that has no equivalent has a reason.
//! Must not know: which line it is.

/// How a line was handled.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Disposition {
    /// The output has its setting, or already has a note of it.
    Converted,
    /// It has no equivalent, for this reason.
    Unsupported(String),
    /// It needs no equivalent, for this reason.
    Unneeded(&'static str),
    /// It does not concern this side of a proxy section.
    Unhandled,
}

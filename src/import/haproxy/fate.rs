//! Owns: what becomes of a line of an haproxy.cfg.
//! Invariant: a line that has no equivalent has a reason.
//! Must not know: which line it is.

/// What became of a line.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fate {
    /// It is in the output, or was noted beside what it belongs to.
    Kept,
    /// It has no equivalent, for this reason.
    Lost(String),
    /// It needs no equivalent, for this reason.
    Needless(&'static str),
    /// It says nothing to this side of a proxy.
    Elsewhere,
}

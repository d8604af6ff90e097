//! Owns: a change to a header field that belongs to routes which are made later.
//! Invariant: it has the line and text of the source, to note it if it is lost.
//! Must not know: the formats of sources; how routes are written.

use super::field_edits::FieldEdit;
use super::guard::GuardScope;

/// A change to a field for all routes that a scope will have.
pub(super) struct ScopedEdit {
    pub(super) scope: GuardScope,
    pub(super) edit: FieldEdit,
    pub(super) line: usize,
    pub(super) text: String,
}

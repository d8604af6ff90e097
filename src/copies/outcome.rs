//! Owns: what became of a session's copy for one request, and the words for it.
//! Invariant: the access log uses these words.
//! Must not know: requests.

/// What became of the copy for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CopyOutcome {
    /// There was none.
    #[default]
    None,
    /// The backend was known to have the state.
    Held,
    /// The backend was given the copy.
    Given,
    /// A copy could not be given, or a state not stored.
    Refused,
}

impl CopyOutcome {
    /// The word for the access log.
    pub fn as_str(self) -> &'static str {
        match self {
            CopyOutcome::None => "none",
            CopyOutcome::Held => "held",
            CopyOutcome::Given => "given",
            CopyOutcome::Refused => "refused",
        }
    }
}

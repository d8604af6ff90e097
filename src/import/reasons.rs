//! Owns: the reasons that more than one source has for what has no equivalent.
//! Invariant: a reason is one text, whichever source gives it.
//! Must not know: what it is the reason for.

/// The reason where there is no better one.
pub(super) const NONE: &str = "has no equivalent";
/// Why what kept requests out has no equivalent.
pub(super) const FILTER: &str = "Linchpin does not filter requests";
pub(super) const PASSWORDS: &str = "Linchpin does not ask for passwords";
pub(super) const RATES: &str =
    "limits of clients are not taken over: write `requests_per_client` or `connections_per_client`";

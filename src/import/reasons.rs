//! Owns: the reasons for missing equivalents that several sources share.
//! Invariant: each reason has the same text for all sources.
//! Must not know: which lines have a reason.

/// The reason if there is none in particular.
pub(super) const NONE: &str = "Linchpin has no equivalent";
/// The reason if a path is missing, or no path.
pub(super) const NO_FILE: &str = "not the path of a file";
/// The reasons for access restrictions and limits; such lines are listed at the top of the output.
pub(super) const FILTER: &str = "this restriction is not imported ([[routes]] have `allow` and `deny`)";
/// The reason if routes match fewer paths than a restriction did.
pub(super) const NAMES: &str = "it was also for paths that only begin with the same letters, such as /adminx for /admin; another route serves them";
pub(super) const PASSWORDS: &str = "passwords are not imported ([[routes]] have `basic_auth`)";
pub(super) const RATES: &str =
    "limits per client are not imported: set `requests_per_client` or `connections_per_client`";

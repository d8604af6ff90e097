//! Owns: what kept requests out in a source, and has no equivalent.
//! Invariant: it names the requests that it kept out.
//! Must not know: what becomes of these requests.

use super::route::Request;

/// Something that kept requests out, and has no equivalent.
pub(super) struct Guard {
    pub(super) place: Place,
    pub(super) line: usize,
    pub(super) text: String,
    pub(super) why: String,
}

/// Whose requests it kept out.
#[derive(Clone)]
pub(super) enum Place {
    /// What matches one of these, from these fronts.
    Fronts(Vec<usize>, Vec<Request>),
    /// All that go to a pool.
    Pool(String),
    /// All of these routes.
    Routes(Vec<usize>),
}

impl Guard {
    /// Follows routes to where they stand now.
    pub(super) fn moved(&mut self, places: &[usize]) {
        if let Place::Routes(ids) = &mut self.place {
            *ids = ids.iter().filter_map(|id| places.get(*id).copied()).collect();
            ids.dedup();
        }
    }
}

//! Owns: access restrictions of a source: those that Linchpin has too, and those that it has no equivalent of.
//! Invariant: a restriction names the requests that it applied to.
//! Must not know: how the output protects these requests.

use super::access::Access;
use super::route::Request;

/// An access restriction.
pub(super) struct Guard {
    pub(super) place: GuardScope,
    pub(super) line: usize,
    pub(super) text: String,
    pub(super) why: String,
    pub(super) kind: Restriction,
}

/// What a restriction is to Linchpin.
pub(super) enum Restriction {
    /// It has no equivalent.
    Lost,
    /// It is this, and nothing else.
    Access(Access),
    /// It was for paths that begin with a prefix, also in the middle of a segment, and routes match whole segments.
    Names,
}

/// The requests that a restriction applied to.
#[derive(Clone)]
pub(super) enum GuardScope {
    /// Requests that match one of these, at these listener groups.
    Groups(Vec<usize>, Vec<Request>),
    /// All requests to a pool.
    Pool(String),
    /// Requests to a pool that match one of these.
    PoolPart(String, Vec<Request>),
    /// All requests of these routes.
    Routes(Vec<usize>),
}

impl Guard {
    /// Restricts the same requests at `new`, if it restricts some at `group`.
    pub(super) fn extend_to_group(&mut self, group: usize, new: usize) {
        if let GuardScope::Groups(groups, _) = &mut self.place
            && groups.contains(&group)
        {
            groups.push(new);
        }
    }

    /// Restricts the route `new`, if it restricts the route `id`.
    pub(super) fn extend_to_route(&mut self, id: usize, new: usize) {
        if let GuardScope::Routes(ids) = &mut self.place
            && ids.contains(&id)
        {
            ids.push(new);
        }
    }

    /// Updates the indices of routes after a merge.
    pub(super) fn moved(&mut self, places: &[usize]) {
        if let GuardScope::Routes(ids) = &mut self.place {
            *ids = ids.iter().filter_map(|id| places.get(*id).copied()).collect();
            ids.dedup();
        }
    }
}

//! Owns: what one data-path thread keeps for all of its requests.
//! Invariant: no other thread touches it, but for the list of failed sessions, which all share.
//! Must not know: any single request.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use rand::RngExt;
use rand::distr::{Distribution, StandardUniform};
use rand::rngs::SmallRng;

use super::body::RequestBody;
use super::copy_request::CopyFields;
use super::replay;
use super::request_id::RequestId;
use super::snapshot::{Snapshot, ThreadSnapshot};
use crate::affinity::avoid_list::AvoidList;
use crate::clock::Deadlines;
use crate::pool::hash;
use crate::telemetry::{Limit, ThreadLog};
use crate::upstream::ConnectionPool;

/// The state of one data-path thread.
pub(super) struct ThreadState {
    /// The thread's number, from 0.
    pub(super) index: usize,
    pub(super) view: RefCell<Rc<ThreadSnapshot>>,
    pub(super) connections: ConnectionPool<RequestBody>,
    pub(super) deadlines: Deadlines,
    pub(super) log: ThreadLog,
    pub(super) avoid_list: Arc<AvoidList>,
    pub(super) replay_memory: Rc<replay::ReplayMemory>,
    pub(super) copy_fields: CopyFields,
    /// Each session's end at a server that it has left has a clone, for as long as it takes.
    departures: Rc<()>,
    random: RefCell<SmallRng>,
    next_id: Cell<u64>,
}

impl ThreadState {
    pub(super) fn new(
        index: usize,
        snapshot: Arc<Snapshot>,
        deadlines: Deadlines,
        log: ThreadLog,
        avoid_list: Arc<AvoidList>,
        replay_memory: Rc<replay::ReplayMemory>,
    ) -> ThreadState {
        let mut random: SmallRng = rand::make_rng();
        let view = RefCell::new(Rc::new(ThreadSnapshot::new(snapshot, None, &mut random)));
        let next_id = Cell::new(random.random());
        let (connections, random) = (ConnectionPool::default(), RefCell::new(random));
        ThreadState {
            index,
            view,
            connections,
            deadlines,
            log,
            avoid_list,
            replay_memory,
            copy_fields: CopyFields::default(),
            departures: Rc::default(),
            random,
            next_id,
        }
    }

    /// Replaces the snapshot of the following requests.
    pub(super) fn install(&self, snapshot: Arc<Snapshot>) {
        let backends = snapshot.services.iter().flat_map(|service| service.pool.backends());
        let current: HashSet<_> = backends.map(|backend| backend.live().id()).collect();
        let view = ThreadSnapshot::new(snapshot, Some(&self.view.borrow()), &mut self.random.borrow_mut());
        self.view.replace(Rc::new(view));
        // A removed backend's idle connections would stay open for up to a day.
        self.connections.retain(|id| current.contains(&id));
    }

    /// Counts by its clones the sessions that are being ended at servers that they have left.
    pub(super) fn departures(&self) -> &Rc<()> {
        &self.departures
    }

    pub(super) fn random<T>(&self) -> T
    where
        StandardUniform: Distribution<T>,
    {
        self.random.borrow_mut().random()
    }

    /// An id for a request that has none.
    pub(super) fn new_id(&self) -> RequestId {
        self.next_id.set(self.next_id.get().wrapping_add(1));
        RequestId::generated(hash::mix(self.next_id.get()))
    }

    /// Counts a request or a connection that met a limit.
    pub(super) fn limited(&self, limit: Limit) {
        self.view.borrow().snapshot().limited.count(self.index, limit);
    }
}

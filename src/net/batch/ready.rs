//! Owns: the sockets that are registered for batched reads, and which of them are ready.
//! Invariant: sockets are read in the order in which they became ready, so none starves under load.
//! Must not know: the event loop; who wakes whom.

use std::collections::VecDeque;
use std::rc::Rc;

use super::batched_socket::BatchedSocket;

/// Registered sockets by index, and the indices of those that are ready.
pub(super) struct ReadyQueue {
    sockets: Vec<Option<Rc<dyn BatchedSocket>>>,
    /// Indices without a socket.
    free: Vec<usize>,
    ready: VecDeque<usize>,
}

impl ReadyQueue {
    pub(super) const fn new() -> ReadyQueue {
        ReadyQueue { sockets: Vec::new(), free: Vec::new(), ready: VecDeque::new() }
    }

    /// Registers a socket and returns its index.
    pub(super) fn register(&mut self, socket: Rc<dyn BatchedSocket>) -> usize {
        let index = self.free.pop().unwrap_or(self.sockets.len());
        match self.sockets.get_mut(index) {
            Some(slot) => *slot = Some(socket),
            None => self.sockets.push(Some(socket)),
        }
        index
    }

    pub(super) fn deregister(&mut self, index: usize) {
        if let Some(slot) = self.sockets.get_mut(index) {
            *slot = None;
            self.free.push(index);
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<Rc<dyn BatchedSocket>> {
        self.sockets.get(index).cloned().flatten()
    }

    /// Whether no socket is ready.
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// Adds the socket at `index` to those that are ready.
    pub(super) fn push(&mut self, index: usize) {
        self.ready.push_back(index);
    }

    /// Takes out the next socket that is ready and still registered.
    pub(super) fn pop(&mut self) -> Option<Rc<dyn BatchedSocket>> {
        std::iter::from_fn(|| self.ready.pop_front()).find_map(|index| self.sockets.get(index)?.clone())
    }

    /// Returns all registered sockets. None of them counts as ready from now on.
    pub(super) fn registered(&mut self) -> Vec<Rc<dyn BatchedSocket>> {
        self.ready.clear();
        self.sockets.iter().flatten().cloned().collect()
    }

    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.sockets.len()
    }
}

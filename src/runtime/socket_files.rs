//! Owns: the files of the Unix sockets that clients connect to.
//! Invariant: a file is removed when its listener closes, or when the process begins to stop.
//! Must not know: sockets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::net::unix::SocketFile;

/// Identifies a listener as long as it is open. No later one has the same.
pub type ListenerId = usize;

/// The files of all open listeners.
#[derive(Debug, Clone, Default)]
pub struct SocketFiles(Arc<Mutex<HashMap<ListenerId, SocketFile>>>);

impl SocketFiles {
    pub(super) fn add(&self, id: ListenerId, file: SocketFile) {
        self.lock().insert(id, file);
    }

    pub(super) fn remove(&self, id: ListenerId) {
        self.lock().remove(&id);
    }

    /// Leaves all files to another process, which accepts connections there.
    pub(super) fn release(&self) {
        self.lock().drain().for_each(|(_, file)| file.handle().release());
    }

    /// Removes all files: clients no longer find them, and a successor may use their paths.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ListenerId, SocketFile>> {
        // Each update is one call: a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

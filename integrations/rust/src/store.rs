//! Owns: the session store that tower-sessions reads and writes.
//! Invariant: a request that another server has overtaken changes nothing.
//! Must not know: HTTP; the layer tells it through the task which request runs.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use time::OffsetDateTime;
use tower_sessions_core::SessionStore;
use tower_sessions_core::session::{Id, Record};
use tower_sessions_core::session_store::{Error, Result};

use crate::Shared;
use crate::memory::{Overtaken, RunningRequest};

tokio::task_local! {
    /// The request that this task serves, if Linchpin sent it.
    pub(crate) static REQUEST: Arc<Mutex<RunningRequest>>;
}

/// A session store in this process's memory, of which Linchpin has copies. See [`SessionCopies`](crate::SessionCopies).
#[derive(Clone, Debug)]
pub struct CopiedStore(pub(crate) Arc<Shared>);

/// Calls `act` with the request that this task serves. A task that the application has spawned serves none: what it
/// changes is saved with the session's next response.
fn with_request<T>(act: impl FnOnce(Option<&mut RunningRequest>) -> T) -> T {
    match REQUEST.try_with(Arc::clone) {
        Ok(request) => act(Some(&mut request.lock().unwrap_or_else(PoisonError::into_inner))),
        Err(_) => act(None),
    }
}

impl From<Overtaken> for Error {
    fn from(_: Overtaken) -> Self {
        Self::Backend("another server has gone on with this session; nothing was changed here".to_owned())
    }
}

#[async_trait]
impl SessionStore for CopiedStore {
    async fn create(&self, record: &mut Record) -> Result<()> {
        let now = OffsetDateTime::now_utc();
        Ok(with_request(|request| self.0.memory().create(request, record, now))?)
    }

    async fn save(&self, record: &Record) -> Result<()> {
        Ok(with_request(|request| self.0.memory().save(request, record))?)
    }

    async fn load(&self, id: &Id) -> Result<Option<Record>> {
        let now = OffsetDateTime::now_utc();
        let record = with_request(|request| self.0.memory().load(request, *id, now));
        Ok(record.map(|record| Record::clone(&record)))
    }

    async fn delete(&self, id: &Id) -> Result<()> {
        Ok(with_request(|request| self.0.memory().delete(request, *id))?)
    }
}

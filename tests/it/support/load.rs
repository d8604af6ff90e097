//! Clients that go on with their requests until they are told to end.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{soon, until};

/// Clients, each of which ends with a `T`.
pub struct Load<T> {
    clients: Vec<JoinHandle<T>>,
    ends: watch::Sender<bool>,
    served: Arc<AtomicUsize>,
}

/// What a client is told, and what it tells.
pub struct Told {
    ending: watch::Receiver<bool>,
    served: Arc<AtomicUsize>,
}

impl Told {
    /// Whether the client shall end.
    pub fn is_over(&self) -> bool {
        *self.ending.borrow()
    }

    /// Counts a request that was served.
    pub fn served(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }
}

impl<T: Send + 'static> Load<T> {
    /// Begins with so many clients, each of which has its number.
    pub fn begin<F: Future<Output = T> + Send + 'static>(clients: usize, client: impl Fn(usize, Told) -> F) -> Load<T> {
        let (ends, served) = (watch::Sender::new(false), Arc::default());
        let told = || Told { ending: ends.subscribe(), served: Arc::clone(&served) };
        let clients = (0..clients).map(|number| tokio::spawn(client(number, told()))).collect();
        Load { clients, ends, served }
    }

    /// Waits until so many more requests were served.
    pub async fn more(&self, requests: usize) {
        let before = self.served.load(Ordering::Relaxed);
        let enough = || self.served.load(Ordering::Relaxed) >= before + requests;
        until("more requests", async || enough() || self.clients.iter().any(|client| client.is_finished())).await;
        assert!(enough(), "a client has failed");
    }

    /// Ends, and returns what each client says.
    pub async fn end(self) -> Vec<T> {
        self.ends.send_replace(true);
        let mut said = Vec::new();
        for client in self.clients {
            said.push(soon("the end of a client", client).await.unwrap());
        }
        said
    }
}

//! Owns: the thread that obtains certificates, for the listeners of the current configuration.
//! Invariant: at most one runs; a reload that changes nothing of it leaves it alone.
//! Must not know: when certificates are due; handshakes.

use crate::acme::{Challenges, Renewer, Settings, Statuses};
use crate::events::Events;

/// What runs to obtain certificates.
#[derive(Default)]
pub(super) struct Certificates {
    /// Of each listener that has an ACME server.
    listeners: Vec<Settings>,
    pub(super) challenges: Challenges,
    pub(super) statuses: Statuses,
    renewer: Option<Renewer>,
}

impl Certificates {
    /// Obtains the certificates of these listeners from now on, and no others.
    pub(super) async fn update(&mut self, listeners: &[Settings], events: &Events) {
        if self.listeners == listeners && self.renewer.is_some() != listeners.is_empty() {
            return;
        }
        self.end().await;
        self.begin(listeners, events);
    }

    /// Begins to obtain the certificates of these listeners.
    pub(super) fn begin(&mut self, listeners: &[Settings], events: &Events) {
        self.listeners = listeners.to_vec();
        if listeners.is_empty() {
            return;
        }
        match Renewer::start(self.listeners.clone(), &self.challenges, &self.statuses, events) {
            Ok(renewer) => self.renewer = Some(renewer),
            Err(error) => {
                tracing::error!(%error, "cannot start the thread that renews certificates; raise the limit on threads, and reload");
            }
        }
    }

    /// Leaves it to another process.
    pub(super) async fn end(&mut self) {
        if let Some(renewer) = self.renewer.take() {
            renewer.end().await;
        }
    }
}

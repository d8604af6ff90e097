//! Owns: the task that changes the running configuration: by what sources find, and by reloads.
//! Invariant: it makes one change after another, and publishes updates that arrive together at once.
//! Must not know: how backends are found; what a reload changes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, sleep_until};

use super::demands::Demand;
use super::reload;
use super::reload_changes::Commit;
use super::running::Running;
use crate::admin::{Phase, ReloadRequest};
use crate::events::{Event, ProcessPhase};

/// How long the process stays not ready, at most, while sources have not answered yet.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes in what sources find and answers requests for reloads, until `ended`. Returns what runs then.
pub(super) async fn run(
    mut running: Running,
    mut requests: mpsc::Receiver<ReloadRequest>,
    phase: Arc<watch::Sender<Phase>>,
    commit: Commit,
    mut demands: mpsc::Receiver<Demand>,
    mut ended: oneshot::Receiver<()>,
) -> Running {
    let mut patience = std::pin::pin!(sleep(READY_TIMEOUT));
    loop {
        let silent = running.sources.silent();
        if silent == 0 {
            running.composer.mark_started();
        }
        if silent == 0 && phase.send_if_modified(|phase| phase.mark_ready()) {
            running.facts.events.publish(Event::Process { phase: ProcessPhase::Ready });
        }
        let next_end = running.sources.next_end();
        let end = async {
            match next_end {
                Some(end) => sleep_until(end.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // An error means that the sender was dropped: that ends the thread as well.
            _ = &mut ended => return running,
            () = end => {}
            () = &mut patience, if silent > 0 => {
                tracing::warn!(
                    sources = silent,
                    "some discovery sources have not answered yet; serving without their backends; check the sources"
                );
                running.sources.stop_waiting();
            }
            () = running.sources.update() => {}
            Some(demand) = demands.recv() => running.carry_out(demand).await,
            Some(request) = requests.recv() => {
                // A reload must not keep the thread from ending.
                tokio::select! {
                    _ = &mut ended => return running,
                    () = reload::answer(&mut running, request, &commit) => {}
                }
            }
        }
        running.publish_members();
    }
}

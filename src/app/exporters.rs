//! Owns: the tasks that export spans: one for the collector that the configuration names, and those of former ones.
//! Invariant: the end of the process waits for the last spans, and no longer than a second.
//! Must not know: how spans are exported.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::otlp;
use crate::telemetry::{SpanCounters, SpanReceiver};

/// How long the end of the process waits for the last spans.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// The running exporters.
#[derive(Debug, Default)]
pub(super) struct Exporters {
    tasks: JoinSet<()>,
    /// Tells them that the process ends.
    ending: watch::Sender<()>,
}

impl Exporters {
    /// Starts another exporter. Those before it end by themselves, once no request has their queue.
    pub(super) fn start(&mut self, settings: otlp::Settings, spans: SpanReceiver, counters: Arc<SpanCounters>) {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(otlp::export(settings, spans, counters, self.ending.subscribe()));
    }

    /// Sends what is queued. Call it once all requests have ended.
    pub(super) async fn end(mut self) {
        if self.tasks.is_empty() {
            return;
        }
        self.ending.send_replace(());
        if timeout(END_TIMEOUT, async { while self.tasks.join_next().await.is_some() {} }).await.is_err() {
            tracing::warn!("the collector of traces does not respond, so the last spans are lost; check the collector");
        }
    }
}

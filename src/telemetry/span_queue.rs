//! Owns: the bounded queue that takes the spans of requests to their exporter, and what became of spans.
//! Invariant: no request waits for the queue; spans that find it full are dropped and counted.
//! Must not know: how spans are sampled, encoded or sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::spans::RequestSpans;

/// The most requests whose spans wait for the exporter. One takes about 1 KiB, and a few at most.
const CAPACITY: usize = 4096;

/// Counts spans.
#[derive(Debug, Default)]
pub struct SpanCounters {
    /// Those that a collector took.
    pub exported: AtomicU64,
    /// Those that found the queue full, or that no collector took.
    pub dropped: AtomicU64,
}

/// What traces requests.
#[derive(Debug, Clone)]
pub struct Tracer {
    /// Of a million requests whose sampling is Linchpin's to decide, how many are sampled.
    pub per_million: u32,
    /// Where the spans go.
    pub queue: SpanQueue,
}

/// The exporter's side of the queue.
pub type SpanReceiver = mpsc::Receiver<RequestSpans>;

/// The side of the queue that requests have.
#[derive(Debug, Clone)]
pub struct SpanQueue {
    queue: mpsc::Sender<RequestSpans>,
    counters: Arc<SpanCounters>,
}

impl SpanQueue {
    /// Makes a queue, and the side that the exporter receives from.
    pub fn new(counters: Arc<SpanCounters>) -> (SpanQueue, SpanReceiver) {
        let (queue, spans) = mpsc::channel(CAPACITY);
        (SpanQueue { queue, counters }, spans)
    }

    /// Queues the spans of a request, or drops them.
    pub fn send(&self, spans: RequestSpans) {
        let count = spans.count();
        if self.queue.try_send(spans).is_err() {
            self.counters.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::spans::SpanPlace;
    use super::super::trace_ids::{SpanId, TraceId};
    use super::*;

    #[test]
    fn a_full_queue_drops_spans_and_counts_them() {
        let place = SpanPlace { trace: TraceId([1; 16]), span: SpanId([1; 8]), parent: None, state: None };
        let spans = RequestSpans {
            place,
            begun: Duration::ZERO,
            took: Duration::ZERO,
            method: "GET".into(),
            path: "/".into(),
            is_secure: false,
            host: "a".into(),
            client: None,
            protocol: None,
            status: None,
            listener: "l".into(),
            id: "1".into(),
            pool: None,
            backend: None,
            verdict: "none",
            cause: None,
            pinned: None,
            session: None,
            error: None,
            attempts: Vec::new(),
        };
        let counters = Arc::<SpanCounters>::default();
        let (queue, mut receiver) = SpanQueue::new(Arc::clone(&counters));
        for _ in 0..CAPACITY + 3 {
            queue.send(spans.clone());
        }
        assert_eq!(counters.dropped.load(Ordering::Relaxed), 3);
        assert_eq!(receiver.try_recv().as_ref(), Ok(&spans));
        queue.send(spans.clone());
        assert_eq!(counters.dropped.load(Ordering::Relaxed), 3);
        drop(receiver);
        queue.send(spans);
        assert_eq!(counters.dropped.load(Ordering::Relaxed), 4);
    }
}

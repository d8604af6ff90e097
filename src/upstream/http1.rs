//! Owns: one HTTP/1.1 connection to a backend and the request on it.
//! Invariant: the task that waits for the response drives the connection: no second task, no wake-up between tasks.
//! Must not know: other connections; when to give up, which its caller's `watch` decides.

mod body;
pub mod connection;
mod encode;
mod head;
mod read;
mod write;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use tokio::task::coop::has_budget_remaining;

use super::backend_stream::{BackendIo, BytesReceived};
use super::failure::{Fact, Failure, SendError};
use super::settings::MAX_RESPONSE_HEAD;
use super::upload_pacing::{PacedBody, UploadPacing};
use super::wake_filter::{FilteredIo, WakeFilter};
use crate::net::{Stream, WriteProgress};
use crate::reason::Reason;

/// An HTTP/1.1 connection to a backend. hyper provides a handle that sends requests and a future that moves the bytes.
/// This type holds both, and the request's own task polls them. A separate task for the future would cost each request
/// two more wake-ups.
pub struct Http1Connection<B: Body + 'static> {
    sender: http1::SendRequest<PacedBody<B>>,
    driver: Driver<B>,
    transport: Transport,
    requests: u64,
    /// The backend was offered HTTP/2 and chose HTTP/1.1.
    alpn_fell_back_to_h1: bool,
}

/// hyper's connection future, and what is needed to poll it.
struct Driver<B: Body + 'static> {
    /// `None` once it has ended. hyper returns a queued request that it never began only when this future is dropped:
    /// if a finished future were kept, the sender of that request would wait forever.
    connection: Option<http1::Connection<FilteredIo<BackendIo>, PacedBody<B>>>,
    /// The stream, and the bytes already read from it, after a response that switches protocols.
    upgraded: Option<(Stream, Bytes)>,
    wake_filter: WakeFilter,
    /// Whether a request body is being sent. Then the body wakes the connection too: when the client sends more, and
    /// when the client's time limit ends.
    is_sending_body: bool,
}

/// What is known about a connection below hyper.
pub(super) struct Transport {
    /// The write progress of the backend's socket: the only evidence that nothing was sent.
    pub(super) sent: Rc<WriteProgress>,
    pub(super) pacing: Rc<UploadPacing>,
    pub(super) received: Rc<BytesReceived>,
    /// How long connecting took.
    pub(super) connect_time: Duration,
}

impl<B> Http1Connection<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Begins HTTP/1.1 on a stream, and accepts responses of at most `header_count` fields.
    pub(super) async fn handshake(
        io: BackendIo,
        header_count: usize,
        transport: Transport,
        alpn_fell_back_to_h1: bool,
    ) -> Result<Http1Connection<B>, hyper::Error> {
        let wake_filter = WakeFilter::new();
        let (sender, connection) = builder(header_count).handshake(wake_filter.wrap(io)).await?;
        let driver = Driver { connection: Some(connection), upgraded: None, wake_filter, is_sending_body: false };
        Ok(Http1Connection { sender, driver, transport, requests: 0, alpn_fell_back_to_h1 })
    }

    /// Whether the backend was offered HTTP/2 and chose HTTP/1.1.
    pub(super) fn alpn_fell_back_to_h1(&self) -> bool {
        self.alpn_fell_back_to_h1
    }

    /// Returns how many bytes of those written to the socket the kernel has taken.
    pub(super) fn sent(&self) -> Rc<WriteProgress> {
        Rc::clone(&self.transport.sent)
    }

    /// Returns how long connecting took.
    pub(super) fn connect_time(&self) -> Duration {
        self.transport.connect_time
    }

    /// Whether it has carried a request before. The backend may have closed it since, which is not an error.
    pub fn is_used(&self) -> bool {
        self.requests > 0
    }

    /// Sends a request and waits for the header section of the response. It polls `watch` meanwhile, which can end the
    /// attempt with a fact. After a failure the connection cannot be used again.
    ///
    /// `request` builds the request here. Passed by value, it would have three slots in the future (argument, variable
    /// and hyper's own), and the future stays in memory for as long as the backend takes to respond.
    ///
    /// # Errors
    /// Why there is no response, with the request itself if hyper never began to send it.
    #[expect(clippy::result_large_err, reason = "it returns the request, which has been in this frame all along")]
    pub async fn send_request(
        &mut self,
        request: impl FnOnce() -> Request<B>,
        mut watch: impl FnMut(&mut Context<'_>) -> Poll<Fact>,
    ) -> Result<Response<Incoming>, SendError<B>> {
        let Transport { sent, received, .. } = &self.transport;
        let (sent_before, received_before) = (sent.bytes(), received.bytes());
        // If the request is abandoned in the event-loop iteration that wrote it, its bytes are taken back: it may be
        // sent to another backend.
        sent.discard_on_drop(true);
        self.requests += 1;
        let mut response = std::pin::pin!({
            let request = request();
            self.driver.is_sending_body = !request.body().is_end_stream();
            self.sender.try_send_request(request.map(|body| PacedBody::new(body, &self.transport.pacing)))
        });
        // Reads the byte counts as soon as the attempt has ended, not when its failure is handled.
        let result = std::future::poll_fn(|cx| {
            self.driver.drive(cx);
            // Only the connection can deliver the response, and it was just polled with the task's own waker. A waker
            // here would wake the task that is already running.
            match response.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
                Poll::Ready(Err(mut error)) => {
                    let request = error.take_message().map(|request| request.map(PacedBody::into_inner));
                    Poll::Ready(Err((Fact::of(error.error()), Some(Reason::of(error.error())), request)))
                }
                Poll::Pending => {
                    // If the task has used up tokio's budget for this iteration, the response may be ready already.
                    if !has_budget_remaining() {
                        cx.waker().wake_by_ref();
                    }
                    watch(cx).map(|fact| Err((fact, None, None)))
                }
            }
        })
        .await;
        sent.discard_on_drop(result.is_err());
        result.map_err(|(fact, detail, request)| SendError {
            failure: Failure::new(fact, sent.bytes() != sent_before).with_detail(detail),
            has_received: received.bytes() != received_before,
            request,
        })
    }

    /// Reads and writes as much as the socket allows.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        self.driver.drive(cx);
    }

    /// Returns the stream, and the bytes already read from it, after a response that switches protocols.
    pub(super) fn into_upgraded(mut self, cx: &mut Context<'_>) -> Option<(Stream, Bytes)> {
        self.driver.drive(cx);
        self.driver.upgraded
    }

    /// Whether the next request can be sent: the last request and response have ended cleanly.
    pub fn is_ready(&mut self, cx: &mut Context<'_>) -> bool {
        self.driver.drive(cx);
        self.driver.connection.is_some() && self.sender.is_ready()
    }
}

impl<B> Driver<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Reads and writes as much as the socket allows.
    fn drive(&mut self, cx: &mut Context<'_>) {
        let Some(connection) = &mut self.connection else { return };
        let mut connection = Pin::new(connection);
        let ended = if self.is_sending_body {
            self.wake_filter.set_task(cx);
            connection.as_mut().poll(cx)
        } else {
            self.wake_filter.poll(cx, |cx| connection.as_mut().poll(cx))
        };
        // hyper reports how it ended to the task that waits for the response or its body.
        if let Poll::Ready(result) = ended
            && let (Some(ended), Ok(())) = (self.connection.take(), result)
        {
            let parts = ended.into_parts();
            self.upgraded = Some((parts.io.into_inner().into_inner().into_stream(), parts.read_buf));
        }
    }
}

/// Configures hyper to accept responses of at most `header_count` fields.
fn builder(header_count: usize) -> http1::Builder {
    let mut http = http1::Builder::new();
    // RFC 9112 §5.1: a proxy must remove the whitespace between a field's name and the colon from a response. A folded
    // line stays malformed, which §5.2 allows.
    http.max_header_size(MAX_RESPONSE_HEAD).allow_spaces_after_header_name_in_responses(true);
    // hyper keeps its default number of fields on the stack, and allocates for any number that it is given.
    if header_count != 100 {
        http.max_headers(header_count);
    }
    http
}

#[cfg(test)]
mod tests {
    use super::super::connect::{NewConnection, connect};
    use super::super::settings::{Access, Settings};
    use super::*;
    use crate::net::Address;
    use http_body_util::Empty;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::coop::consume_budget;

    /// Sends a request on a new connection, in a task that does `spent` other things in each iteration.
    async fn send_in_busy_task(spent: usize) -> Result<Response<Incoming>, SendError<Empty<Bytes>>> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        });
        let access = Access { settings: Settings::default(), tls: None };
        let new = connect(&address, &access, Some([127, 0, 0, 1].into()), false, |_| Poll::Pending).await;
        let Ok(NewConnection::Http1(mut connection)) = new else { panic!("no connection of HTTP/1.1") };
        let request = || Request::builder().uri("/").header("host", "a").body(Empty::new()).unwrap();
        let mut response = std::pin::pin!(connection.send_request(request, |_| Poll::Pending));
        std::future::poll_fn(|cx| {
            for _ in 0..spent {
                let _ = std::pin::pin!(consume_budget()).poll(&mut Context::from_waker(Waker::noop()));
            }
            response.as_mut().poll(cx)
        })
        .await
    }

    #[tokio::test]
    async fn a_response_is_seen_however_much_its_task_has_done_in_this_iteration() {
        // tokio's budget is 128 operations per task and iteration.
        for spent in 115..128 {
            let answered = tokio::select! {
                biased;
                // This comes first: the sleep wakes the task, which would then find the response after all.
                () = tokio::time::sleep(Duration::from_secs(5)) => false,
                response = send_in_busy_task(spent) => response.is_ok(),
            };
            assert!(answered, "{spent}");
        }
    }

    #[test]
    fn a_request_that_is_abandoned_in_the_iteration_that_wrote_it_is_never_sent() {
        use tokio::runtime::{Builder, LocalOptions};
        use tokio::task::{spawn_local, yield_now};
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            spawn_local(crate::net::run_batcher());
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = Address::Tcp(listener.local_addr().unwrap());
            let backend = spawn_local(async move {
                let mut all = Vec::new();
                listener.accept().await.unwrap().0.read_to_end(&mut all).await.unwrap();
                all
            });
            let access = Access { settings: Settings::default(), tls: None };
            let new = connect(&address, &access, Some([127, 0, 0, 1].into()), false, |_| Poll::Pending).await;
            let Ok(NewConnection::Http1(mut connection)) = new else { panic!("no connection of HTTP/1.1") };
            let request = || Request::post("/pay").header("host", "a").body(Empty::<Bytes>::new()).unwrap();
            let abandoned = connection.send_request(request, |_| Poll::Ready(Fact::Closed)).await.err().unwrap();
            assert!(!abandoned.failure.sent);
            drop(connection);
            yield_now().await;
            assert_eq!(backend.await.unwrap(), b"");
        });
    }
}

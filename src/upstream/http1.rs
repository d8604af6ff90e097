//! Owns: one HTTP/1.1 connection to a backend, as requests and the pool see it: what was sent on it, and its failures.
//! Invariant: a failure says whether the kernel took a byte of the request.
//! Must not know: other connections; when to give up, which its caller's `watch` decides.

mod body;
pub mod connection;
mod encode;
mod head;
mod read;
pub mod spare_fields;
mod write;

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::backend_stream::BackendStream;
use super::failure::{Fact, Failure, SendError};
use super::outgoing::{OutgoingRequest, RequestHead};
use crate::net::{Stream, WriteProgress};
use connection::{Connection, ConnectionError, FieldRules};

/// An HTTP/1.1 connection to a backend.
pub struct Http1Connection<B: Body + 'static> {
    connection: Connection<BackendStream, B>,
    /// The write progress of the backend's socket: the only evidence that nothing was sent.
    sent: Rc<WriteProgress>,
    /// How long connecting took.
    connect_time: Duration,
    requests: u64,
    /// The backend was offered HTTP/2 and chose HTTP/1.1.
    alpn_fell_back_to_h1: bool,
}

impl<B: Body<Data = Bytes> + Unpin + 'static> Http1Connection<B> {
    /// Begins HTTP/1.1 on a stream, where it reads the fields of responses by these rules.
    pub(super) fn new(
        stream: BackendStream,
        sent: Rc<WriteProgress>,
        rules: FieldRules,
        connect_time: Duration,
        alpn_fell_back_to_h1: bool,
    ) -> Http1Connection<B> {
        let connection = Connection::new(stream, rules);
        Http1Connection { connection, sent, connect_time, requests: 0, alpn_fell_back_to_h1 }
    }

    /// Whether the backend was offered HTTP/2 and chose HTTP/1.1.
    pub(super) fn alpn_fell_back_to_h1(&self) -> bool {
        self.alpn_fell_back_to_h1
    }

    /// Returns how many bytes of those written to the socket the kernel has taken.
    pub(super) fn sent(&self) -> Rc<WriteProgress> {
        Rc::clone(&self.sent)
    }

    /// Learns whether the backend has closed the connection, also if the event loop has not reported that yet.
    pub(super) fn notice_close(&self) {
        self.connection.stream().stream().socket().prefetch_now();
    }

    /// Returns how long connecting took.
    pub(super) fn connect_time(&self) -> Duration {
        self.connect_time
    }

    /// Whether it has carried a request before. The backend may have closed it since, which is not an error.
    pub fn is_used(&self) -> bool {
        self.requests > 0
    }

    /// Sends a request and waits for the header section of the response; interim responses go to `on_interim`. It polls
    /// `watch` meanwhile, which can end the attempt with a fact. After a failure the connection cannot be used again.
    ///
    /// `request` builds the request here, and only if the connection is still usable. Passed by value, the request would
    /// stay in the future, and so in memory, for as long as the backend takes to respond.
    ///
    /// # Errors
    /// Why there is no response.
    pub async fn send_request<'r>(
        &mut self,
        request: impl FnOnce() -> OutgoingRequest<'r, B>,
        mut on_interim: impl FnMut(StatusCode, HeaderMap),
        mut watch: impl FnMut(&mut Context<'_>) -> Poll<Fact>,
    ) -> Result<Response<()>, SendError> {
        let Http1Connection { connection, sent, .. } = self;
        let (sent_before, received_before) = (sent.bytes(), connection.received());
        // If the request is abandoned in the event-loop iteration that wrote it, its bytes are taken back: it may be
        // sent to another backend.
        sent.discard_on_drop(true);
        self.requests += 1;
        let mut request = Some(request);
        // Reads the byte counts as soon as the attempt has ended, not when its failure is handled.
        let result = std::future::poll_fn(|cx| {
            if let Some(request) = request.take() {
                if let Err(error) = connection.check_ready(cx) {
                    return Poll::Ready(Err((error.fact, Some(error.reason))));
                }
                let OutgoingRequest { method, target, fields, added, body, .. } = request();
                let added = added.as_ref().map(|(name, value)| (*name, &**value));
                connection.begin(&RequestHead { method, target, fields: &fields, added }, body);
            }
            match connection.poll_response(cx, &mut on_interim) {
                Poll::Ready(result) => Poll::Ready(result.map_err(|error| (error.fact, Some(error.reason)))),
                Poll::Pending => watch(cx).map(|fact| Err((fact, None))),
            }
        })
        .await;
        sent.discard_on_drop(result.is_err());
        result.map_err(|(fact, detail)| SendError {
            failure: Failure::new(fact, sent.bytes() != sent_before).with_detail(detail),
            has_received: connection.received() != received_before,
        })
    }

    /// Polls for the next frame of the response's body, and sends what is left of the request.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ConnectionError>>> {
        self.connection.poll_frame(cx)
    }

    /// Returns the value of the response's field that is kept apart, once.
    pub(super) fn take_kept_apart(&mut self) -> Option<Bytes> {
        self.connection.take_kept_apart()
    }

    /// Whether the body of the response has been read to its end.
    pub(super) fn is_end(&self) -> bool {
        self.connection.is_end()
    }

    /// Returns how much of the response's body is left.
    pub(super) fn size_hint(&self) -> SizeHint {
        self.connection.size_hint()
    }

    /// Returns the stream, and the bytes already read from it, after a response that switches protocols.
    pub(super) fn into_upgraded(self) -> Option<(Stream, Bytes)> {
        self.connection.into_upgraded().map(|(stream, read)| (stream.into_stream(), read))
    }

    /// Whether the next request can be sent: the last request and response have ended cleanly.
    pub fn is_ready(&mut self, cx: &mut Context<'_>) -> bool {
        self.connection.check_ready(cx).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::connect::{NewConnection, connect};
    use super::super::settings::{Access, Settings};
    use super::*;
    use crate::net::Address;
    use http::uri::Scheme;
    use http::{Method, Uri};
    use http_body_util::Empty;
    use std::cell::RefCell;
    use std::future::Future;
    use std::task::Waker;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::coop::consume_budget;

    fn request(method: Method, target: &'static str) -> (Method, Uri, RefCell<HeaderMap>) {
        let host = (http::header::HOST, http::HeaderValue::from_static("a"));
        (method, Uri::from_static(target), RefCell::new(HeaderMap::from_iter([host])))
    }

    fn outgoing((method, target, fields): &(Method, Uri, RefCell<HeaderMap>)) -> OutgoingRequest<'_, Empty<Bytes>> {
        let (fields, scheme) = (fields.borrow(), Scheme::HTTP);
        OutgoingRequest { method, target, fields, added: None, scheme, body: Empty::new() }
    }

    /// Sends a request on a new connection, in a task that does `spent` other things in each iteration.
    async fn send_in_busy_task(spent: usize) -> Result<Response<()>, SendError> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        });
        let access = Access { settings: Settings::default(), tls: None, kept_apart: None, probes: None };
        let new = connect(&address, &access, Some([127, 0, 0, 1].into()), false, |_| Poll::Pending).await;
        let Ok(NewConnection::Http1(mut connection)) = new else { panic!("no connection of HTTP/1.1") };
        let request = request(Method::GET, "/");
        let request = || outgoing(&request);
        let mut response = std::pin::pin!(connection.send_request(request, |_, _| {}, |_| Poll::Pending));
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
    fn a_close_is_noticed_before_the_event_loop_reports_it() {
        use std::io::{Read, Write};
        use tokio::runtime::{Builder, LocalOptions};
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            tokio::task::spawn_local(crate::net::run_batcher());
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = Address::Tcp(listener.local_addr().unwrap());
            let access = Access { settings: Settings::default(), tls: None, kept_apart: None, probes: None };
            let new = connect(&address, &access, Some([127, 0, 0, 1].into()), false, |_| Poll::Pending).await;
            let Ok(NewConnection::Http1(mut connection)) = new else { panic!("no connection of HTTP/1.1") };
            let (mut backend, _) = listener.accept().unwrap();
            backend.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            // From the third response on, the batcher reads for the connection.
            for _ in 0..4 {
                let request = request(Method::GET, "/");
                let request = || outgoing(&request);
                let mut response = std::pin::pin!(connection.send_request(request, |_, _| {}, |_| Poll::Pending));
                std::future::poll_fn(|cx| Poll::Ready(response.as_mut().poll(cx).is_pending())).await;
                tokio::task::yield_now().await;
                let _ = backend.read(&mut [0; 1024]).unwrap();
                backend.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
                assert!(response.await.is_ok());
            }
            let cx = &mut Context::from_waker(Waker::noop());
            connection.notice_close();
            assert!(connection.is_ready(cx), "it is open");
            drop(backend);
            // No task runs from here on, and the event loop reports nothing.
            assert!(connection.is_ready(cx));
            let begun = std::time::Instant::now();
            while connection.is_ready(cx) && begun.elapsed() < Duration::from_secs(10) {
                connection.notice_close();
            }
            assert!(!connection.is_ready(cx));
        });
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
            let access = Access { settings: Settings::default(), tls: None, kept_apart: None, probes: None };
            let new = connect(&address, &access, Some([127, 0, 0, 1].into()), false, |_| Poll::Pending).await;
            let Ok(NewConnection::Http1(mut connection)) = new else { panic!("no connection of HTTP/1.1") };
            let request = request(Method::POST, "/pay");
            let request = || outgoing(&request);
            let abandoned =
                connection.send_request(request, |_, _| {}, |_| Poll::Ready(Fact::Closed)).await.err().unwrap();
            assert!(!abandoned.failure.sent);
            drop(connection);
            yield_now().await;
            assert_eq!(backend.await.unwrap(), b"");
        });
    }
}

//! Owns: the response to an abandoned request: its handler panicked, its client seems gone, or the process stops.
//! Invariant: no connection closes without a response after a request was given to the handler.
//! Must not know: what such a response says.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use super::activity::Activity;
use super::shutdown::Shutdown;
use crate::handler::{Abandoned, Reply};

pin_project! {
    /// A request with its handler. When a reused connection closes without a byte, clients resend the request, and
    /// browsers resend even a POST: so an abandoned request gets a response, too.
    pub(super) struct EnsureResponse<F, G> {
        #[pin]
        handling: Option<F>,
        activity: Rc<Activity>,
        shutdown: Rc<Shutdown>,
        abandon: G,
    }
}

impl<F, G> EnsureResponse<F, G> {
    /// Wraps `handling`; `abandon` makes the response if `handling` is abandoned, and is called before that is dropped.
    pub(super) fn new(
        handling: F,
        activity: &Rc<Activity>,
        shutdown: &Rc<Shutdown>,
        abandon: G,
    ) -> EnsureResponse<F, G> {
        let (activity, shutdown) = (Rc::clone(activity), Rc::clone(shutdown));
        EnsureResponse { handling: Some(handling), activity, shutdown, abandon }
    }
}

impl<F, G, B> Future for EnsureResponse<F, G>
where
    F: Future<Output = Reply<B>>,
    G: FnMut(Abandoned) -> Response<B>,
{
    type Output = Reply<B>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply<B>> {
        let mut this = self.project();
        let why = match (this.shutdown.is_grace_over(), this.activity.has_client_left()) {
            (true, _) => Abandoned::Stopping,
            (false, true) => Abandoned::ClientClosed,
            (false, false) => {
                let Some(handling) = this.handling.as_mut().as_pin_mut() else { return Poll::Pending };
                // The future is dropped after a panic, so no broken state is seen.
                match catch_unwind(AssertUnwindSafe(|| handling.poll(cx))) {
                    Ok(poll) => return Poll::Ready(ready!(poll)),
                    Err(_) => Abandoned::Panicked,
                }
            }
        };
        let response = (this.abandon)(why);
        this.handling.set(None);
        Poll::Ready(Reply { response, tunnel: None, is_stream: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, poll_fn, ready};

    fn reply(word: &'static str) -> Reply<&'static str> {
        Reply { response: Response::new(word), tunnel: None, is_stream: false }
    }

    fn word(why: Abandoned) -> Response<&'static str> {
        Response::new(match why {
            Abandoned::Panicked => "panicked",
            Abandoned::ClientClosed => "client closed",
            Abandoned::Stopping => "stopping",
        })
    }

    #[tokio::test]
    async fn a_request_gets_the_response_of_its_handler_or_one_that_says_why_it_was_abandoned() {
        let (activity, shutdown) = (Activity::http1(&Rc::default(), None), Rc::<Shutdown>::default());
        let handled = EnsureResponse::new(ready(reply("handled")), &activity, &shutdown, word).await;
        assert_eq!(*handled.response.body(), "handled");
        let panics = poll_fn(|_| {
            assert!(std::hint::black_box(false), "a panic");
            Poll::Ready(reply("never"))
        });
        assert_eq!(*EnsureResponse::new(panics, &activity, &shutdown, word).await.response.body(), "panicked");
        activity.client_left();
        let waits = || EnsureResponse::new(pending(), &activity, &shutdown, word);
        assert_eq!(*waits().await.response.body(), "client closed");
        shutdown.end_grace();
        assert_eq!(*waits().await.response.body(), "stopping");
    }
}

//! Owns: the proxy as the runtime's handler: what one contract calls each thing that the other has.
//! Invariant: it translates, and decides nothing.
//! Must not know: how a request is served, or how a connection is.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::FORWARDED;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;

use crate::net::interim::InterimQueue;
use crate::proxy::client::{Client, Door};
use crate::proxy::error::ProxyError;
use crate::proxy::forwarded::Field;
use crate::proxy::redirect::Redirect;
use crate::proxy::relay::ResponseBody;
use crate::proxy::{self, Proxy};
use crate::runtime::{self, Fault, GivenUp, Handler, ListenerSettings, Peer, Reply};
use crate::telemetry;

/// The proxy as the runtime's handler.
pub(super) struct ProxyHandler {
    pub(super) proxy: Rc<Proxy>,
    pub(super) doors: Arc<[Arc<Door>]>,
}

impl Handler for ProxyHandler {
    type Body = ResponseBody;
    type Client = Client;

    fn client(&self, listener: usize, peer: Peer) -> Client {
        Client::new(&self.doors[listener], peer.address, peer.subject)
    }

    // With `map` and not in an `async fn`, which would have the request's future in it twice.
    fn handle(
        self: Rc<Self>,
        client: Rc<Client>,
        request: Request<Incoming>,
        interim: Option<Arc<InterimQueue>>,
    ) -> impl Future<Output = Reply<ResponseBody>> + 'static {
        self.proxy.handle(&client, request, interim).map(|reply| {
            let tunnel = reply.tunnel.map(|tunnel| Box::new(TunnelAdapter(tunnel)) as Box<dyn runtime::Tunnel>);
            Reply { response: reply.response, tunnel, is_stream: reply.is_stream }
        })
    }

    fn given_up(self: &Rc<Self>, client: &Rc<Client>, why: GivenUp) -> Response<ResponseBody> {
        // A client that closed its side is recorded as one that went.
        self.proxy.give_up(client, why == GivenUp::Stopping)
    }

    fn unread(self: &Rc<Self>, client: &Rc<Client>, fault: Fault) -> bytes::Bytes {
        let error = match fault {
            Fault::HeadTimeout => ProxyError::HeadTimeout,
            Fault::Malformed => ProxyError::Malformed("The request is not valid HTTP."),
            Fault::TooLarge => ProxyError::TooManyFields,
            Fault::Fragment => ProxyError::Malformed("The request target has a fragment."),
        };
        self.proxy.refuse_unread(client, error)
    }

    fn limited(&self, limit: telemetry::Limit) {
        self.proxy.limited(limit);
    }
}

impl runtime::Content for ResponseBody {
    fn lost(&mut self, bytes: u64) {
        ResponseBody::lost(self, bytes);
    }

    fn has_read_request(&self) -> bool {
        ResponseBody::has_read_request(self)
    }
}

/// The proxy's tunnel as the runtime's.
struct TunnelAdapter(proxy::tunnel::Tunnel);

impl runtime::Tunnel for TunnelAdapter {
    fn run(self: Box<Self>, client: Box<dyn runtime::Duplex>, read: Bytes) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(self.0.run(client, read))
    }
}

/// What requests are to know of a listener.
pub(super) fn door(position: usize, listener: &ListenerSettings) -> Door {
    let hsts = listener.hsts.map(|time| HeaderValue::try_from(format!("max-age={}", time.as_secs())));
    Door {
        position,
        name: listener.name.as_str().into(),
        is_secure: listener.tls.is_some(),
        trusted: listener.trusted_proxies.clone(),
        forwarded: if listener.forwarded == FORWARDED { Field::Forwarded } else { Field::XForwardedFor },
        // A number after an equals sign is a valid value.
        hsts: hsts.and_then(Result::ok),
        https: listener.redirect_https.map(Redirect::to_https),
    }
}

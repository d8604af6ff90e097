//! Owns: the way of one request through the house; `Proxy::handle` is its table of contents.
//! Invariant: a request is never executed twice unless that is safe, and every wait on its way has a limit.
//! Must not know: TLS, listeners, configuration files.

mod attempt;
mod bind;
pub mod body;
pub mod client;
mod edits;
pub mod error;
pub mod exchange;
pub mod fields;
pub mod forwarded;
pub mod headers;
pub mod host;
mod interim;
pub mod key;
mod order;
pub mod rate;
pub mod redirect;
pub mod relay;
pub mod replay;
mod request_id;
pub mod respond;
pub mod retry;
mod rewrite;
pub mod route;
pub mod snapshot;
mod stale;
mod streams;
mod target;
mod timeouts;
mod trailers;
pub mod tunnel;
mod unread;
mod upgrade;
mod upload;
pub mod via;
mod wait;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::affinity::rules::Effect;
use crate::affinity::{Decision, Taken, decide, lost::Lost};
use crate::clock::{self, Limits};
use crate::net::interim::InterimQueue;
use crate::telemetry::{Limit, Lines};
use crate::upstream::Idle;
use attempt::Outgoing;
use body::RequestBody;
use client::Client;
use error::ProxyError;
use exchange::Exchange;
use order::{Order, Rules, Step};
use relay::{Answer, ResponseBody};
use request_id::RequestId;
use route::Goal;
use snapshot::{Snapshot, View};
pub use timeouts::Timeouts;
use tunnel::Tunnel;

/// What a request gets.
pub struct Reply {
    /// The response.
    pub response: Response<ResponseBody>,
    /// What takes over once the response has gone out.
    pub tunnel: Option<Tunnel>,
    /// The response goes on for as long as its client is there: one that says no more has gone.
    pub is_stream: bool,
}

/// What comes after the head of a backend's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Http,
    Tunnel,
}

/// What a request came to.
enum Served {
    /// A backend's answer.
    Answer(Answer, After),
    /// A redirect: no backend was asked.
    Redirect(Response<()>),
}

/// One thread's proxy.
pub struct Proxy {
    thread: usize,
    view: RefCell<Rc<View>>,
    idle: Idle<RequestBody>,
    limits: Limits,
    lines: Lines,
    lost: Arc<Lost>,
    replay_memory: Rc<replay::Memory>,
    random: RefCell<SmallRng>,
    next_id: Cell<u64>,
}

impl Proxy {
    /// For the data-path thread number `thread`, whose time limits run in `limits`, and whose requests keep
    /// their bodies for another attempt in `replay_memory`.
    pub fn new(
        thread: usize,
        snapshot: Arc<Snapshot>,
        limits: Limits,
        lines: Lines,
        lost: Arc<Lost>,
        replay_memory: Rc<replay::Memory>,
    ) -> Proxy {
        let mut random: SmallRng = rand::make_rng();
        let view = RefCell::new(Rc::new(View::new(snapshot, None, &mut random)));
        let next_id = Cell::new(random.random());
        let (idle, random) = (Idle::default(), RefCell::new(random));
        Proxy { thread, view, idle, limits, lines, lost, replay_memory, random, next_id }
    }

    /// One request's way, from its head to the head of the response. The body of the response
    /// carries on from there, and the access record is written when it ends. What comes before that head goes
    /// into `interim`, if there is one.
    ///
    /// The future is in memory for as long as a backend is at work, one for each request under way: what
    /// is handed on in it by reference has one place there, what is handed on by value two or three.
    pub fn handle(
        self: &Rc<Self>,
        client: &Rc<Client>,
        request: Request<Incoming>,
        interim: Option<Arc<InterimQueue>>,
    ) -> impl Future<Output = Reply> + use<> {
        let (mut head, body) = request.into_parts();
        let mut exchange = Exchange::begin(self, client, &head, interim);
        let proxy = Rc::clone(self);
        async move {
            match proxy.serve(&mut exchange, &mut head, body).await {
                Ok(Served::Answer(answer, After::Http)) => exchange.relay(answer).await,
                Ok(Served::Answer(answer, After::Tunnel)) => exchange.switch(answer).await,
                Ok(Served::Redirect(response)) => exchange.redirect(response),
                Err(error) => exchange.refuse(error),
            }
        }
    }

    async fn serve(
        &self,
        exchange: &mut Exchange,
        head: &mut http::request::Parts,
        body: Incoming,
    ) -> Result<Served, ProxyError> {
        let view = exchange.view();
        exchange.admit(&view)?;
        let has_body = !body.is_end_stream();
        let asked = upgrade::asked(head, has_body, || self.random.borrow_mut().random());
        let host = headers::normalize(head, &view.snapshot().limits)?;
        if has_body {
            headers::check_coding(&head.headers)?;
        }
        let client = exchange.client();
        if let Some(redirect) = client.leads_to_tls(exchange.origin()) {
            return exchange.send_away(redirect, "/", host.as_ref(), head).map(Served::Redirect);
        }
        let way = exchange.route(&view, host.as_ref(), head).ok_or(ProxyError::NoRoute)?;
        let service = match &way.goal {
            Goal::Pool(pool) => view.service(*pool).ok_or(ProxyError::NoRoute)?,
            Goal::Redirect(redirect) => {
                return exchange.send_away(redirect, &way.prefix, host.as_ref(), head).map(Served::Redirect);
            }
        };
        let asked = upgrade::permitted(asked, &way.upgrades)?;

        let (origin, now, via) = (exchange.origin(), clock::unix(), view.via(exchange.pool()));
        if let Some(via) = via.filter(|via| via.has_been_here(&head.headers)) {
            via.tell(service.pool.name(), client.listener(), exchange.id().as_str(), clock::now());
            return Err(ProxyError::Loop);
        }
        let effect = service.affinity.rule(head, origin.client(), &service.pool).or(way.effect);
        let mut taken =
            service.affinity.take(&mut head.headers, head.uri.path(), &service.pool, &mut client.memory.borrow_mut());
        view.snapshot().pins.strip(&mut head.headers);
        if effect.is_none() {
            self.ask(exchange, service, &mut taken, now.as_secs()).await;
        }
        let request = bind::Request::of(head, origin, taken.key());
        let draw = service.hash.as_ref().and_then(|hash| hash.of(head, origin.address));
        let expects = headers::to_backend(&mut head.headers, host.as_ref(), &client, origin, exchange.id());
        if let Some(via) = via {
            via.add(&mut head.headers, head.version);
        }
        exchange.edit_request(way, head)?;

        let decision = self.decide(exchange, service, effect, taken, now.as_secs());
        exchange.asks(service, decision.issued_session());
        let (balancer, budget) = (view.balancer(exchange.pool()), view.budget(exchange.pool()));
        budget.deposit();
        let mut order = Order::new(Rules::of(service, balancer, budget), decision);
        order.avoid(&self.lost, now.as_secs());
        if service.affinity.converge().is_some() && !request.is_aside() {
            order.meet(key::client(head, origin.address), now, draw.unwrap_or_else(|| self.random()));
        }

        let mut outgoing = Outgoing::new(head, body, expects, asked, service, way, self)?;
        exchange.body_from(&outgoing);
        let served = self.attempts(exchange, service, &mut order, &mut outgoing, draw).await;
        exchange.decided(order.decision());
        let (mut answer, index) = served?;

        let protocol = outgoing.protocol(&answer)?;
        let version = std::mem::replace(answer.version_mut(), Version::HTTP_11);
        // First, or a backend could take our own cookie out by naming it in Connection.
        headers::to_client(answer.headers_mut());
        if let Some(via) = via {
            via.add(answer.headers_mut(), version);
        }
        if let Some(clash) = view.snapshot().pins.set_apart(answer.headers_mut()) {
            service.affinity.tell(clash, &service.pool, index);
        }
        exchange.edit_response(answer.headers_mut());
        bind::bind(service, &request, order.decision(), index, answer.status(), answer.headers_mut(), self.thread);
        let (answer, after) = outgoing.confirm(answer, protocol);
        Ok(Served::Answer(answer, after))
    }

    /// What persistence says of the request.
    fn decide(
        &self,
        exchange: &mut Exchange,
        service: &snapshot::Service,
        effect: Option<Effect>,
        taken: Taken,
        now: u64,
    ) -> Decision {
        let fresh = self.random();
        if let Some(effect) = effect {
            exchange.ruled(effect);
        }
        match effect {
            Some(Effect::Force(index)) => Decision::forced(index, fresh),
            Some(Effect::Exempt) => Decision::unpinned(fresh),
            None if !service.affinity.is_on() => Decision::unpinned(fresh),
            None => decide::decide(taken.reading, &service.pool, service.affinity.terms(), now, fresh),
        }
    }

    /// Asks the other Linchpins for a session that this one doesn't know, where they share a store.
    async fn ask(&self, exchange: &Exchange, service: &snapshot::Service, taken: &mut Taken, now: u64) {
        if let Some(answer) = service.affinity.ask(taken, now)
            && let Some(found) = wait::for_answer(exchange, answer).await
        {
            service.affinity.answered(taken, &found);
        }
    }

    fn random(&self) -> u64 {
        self.random.borrow_mut().random()
    }

    /// Does what the order says, one step after the other, until a backend answers.
    async fn attempts(
        &self,
        exchange: &mut Exchange,
        service: &snapshot::Service,
        order: &mut Order<'_>,
        outgoing: &mut Outgoing,
        draw: Option<u64>,
    ) -> Result<(Answer, usize), ProxyError> {
        loop {
            let step = order.next(clock::now(), exchange.deadline(), || draw.unwrap_or_else(|| self.random()));
            let index = match step {
                Step::Try(index) => index,
                Step::Wait(wait) => {
                    let is_back = exchange.wait(service, wait).await;
                    order.waited(is_back);
                    continue;
                }
                Step::End(error) => return Err(error),
            };
            exchange.attempt(index, order.has_waited());
            let (begun, is_first) = (clock::now(), order.is_first());
            let facts = |lost: bool| outgoing.facts(0, exchange.deadline(), lost);
            let spare = |failure| order.may_spare(failure, facts(is_lost(service, index)));
            let failure = match self.attempt(exchange, service, order, outgoing, index, &spare).await {
                Ok(answer) => {
                    exchange.reached(service, index);
                    order.served(index);
                    return Ok((answer, index));
                }
                Err(failure) => {
                    let had = clock::now().saturating_duration_since(begun);
                    exchange.timeouts(service).judge(failure, had, is_first)
                }
            };
            exchange.failed(index, failure, order.has_waited());
            if let Some(error) = outgoing.body_error() {
                return Err(error);
            }
            let facts = outgoing.facts(0, exchange.deadline(), is_lost(service, index));
            if order.failed(index, failure, facts) {
                let live = service.pool.backend(index).live();
                self.lost.note(order.decision().session, live, clock::unix().as_secs());
            }
        }
    }

    /// Records a request of which no head was understood.
    pub fn refuse_unread(self: &Rc<Self>, client: &Rc<Client>, error: ProxyError) -> bytes::Bytes {
        unread::refuse(self, client, error)
    }

    /// The answer to a request that is given up while it is handled, by `client`'s connection or with all
    /// others; `is_ours` if that is recorded as our doing, and for all that is still to come on the connection. A
    /// panic has had its record by then.
    pub fn give_up(&self, client: &Client, is_ours: bool) -> Response<ResponseBody> {
        if is_ours {
            client.is_given_up.set(true);
        }
        respond::respond(ProxyError::GivenUp, self.new_id().as_str(), false).map(ResponseBody::page)
    }

    /// A limit of the connection's was reached.
    pub fn limited(&self, limit: Limit) {
        self.view.borrow().snapshot().limited.count(self.thread, limit);
    }

    /// Work that serves no request: hands log lines over, and closes idle connections whose time
    /// is over. Call it about once a second.
    pub fn sweep(&self, now: Instant) {
        self.lines.flush();
        self.idle.sweep(now);
    }

    /// Replaces what the following requests see. Requests on their way keep what they have.
    pub fn install(&self, snapshot: Arc<Snapshot>) {
        let view = View::new(snapshot, Some(&self.view.borrow()), &mut self.random.borrow_mut());
        self.view.replace(Rc::new(view));
    }

    fn new_id(&self) -> RequestId {
        self.next_id.set(self.next_id.get().wrapping_add(1));
        RequestId::own(crate::pool::backend::mix(self.next_id.get()))
    }
}

/// Whether the backend at `index` is out, or as good as that.
fn is_lost(service: &snapshot::Service, index: usize) -> bool {
    let live = service.pool.backend(index).live();
    live.health() != crate::pool::Health::Up || live.is_suspect()
}

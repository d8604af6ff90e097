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
mod target;
mod trailers;
pub mod tunnel;
mod upgrade;
mod wait;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::affinity::rules::Effect;
use crate::affinity::{Decision, Next, Taken, decide, lost::Lost};
use crate::clock::{self, Limits};
use crate::telemetry::{Limit, Lines};
use crate::upstream::{Fact, Idle};
use attempt::Outgoing;
use body::RequestBody;
use client::Client;
use error::ProxyError;
use exchange::Exchange;
use order::Order;
use relay::{Answer, ResponseBody};
use request_id::RequestId;
use route::Goal;
use snapshot::{Snapshot, View};
use tunnel::Tunnel;

/// `[pools.timeouts]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// To a connected socket, per attempt.
    pub connect: Duration,
    /// From the request sent to the head of the response, per attempt.
    pub response: Duration,
    /// While a body is under way, in either direction, or one side of a tunnel has ended: without a byte moved.
    pub idle: Duration,
    /// From the head of the request to the head of the response, over all attempts.
    pub total: Duration,
    /// Silence on what goes on for as long as both want: a WebSocket, an event stream, gRPC.
    pub stream_idle: Duration,
    /// The life of a WebSocket or another tunnel; `None` for no limit.
    pub tunnel_lifetime: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(2),
            response: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(120),
            stream_idle: Duration::from_secs(3600),
            tunnel_lifetime: None,
        }
    }
}

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
    /// carries on from there, and the access record is written when it ends.
    ///
    /// The future is in memory for as long as a backend is at work, one for each request under way: what
    /// is handed on in it by reference has one place there, what is handed on by value two or three.
    pub fn handle(
        self: &Rc<Self>,
        client: &Rc<Client>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Reply> + use<> {
        let (mut head, body) = request.into_parts();
        let mut exchange = Exchange::begin(self, client, &head);
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
        let asked = upgrade::asked(head, !body.is_end_stream(), || self.random.borrow_mut().random());
        let host = headers::normalize(head, &view.snapshot().limits)?;
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

        let (origin, now) = (exchange.origin(), clock::unix());
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
        exchange.edit_request(way, head)?;

        let decision = self.decide(exchange, service, effect, taken, now.as_secs());
        exchange.asks(service, decision.issued_session());
        let mut order = Order::new(service, view.balancer(exchange.pool()), decision);
        order.avoid(&self.lost, now.as_secs());
        if service.affinity.converge().is_some() && !request.is_aside() {
            order.meet(key::client(head, origin.address), now, draw.unwrap_or_else(|| self.random()));
        }

        let mut outgoing = Outgoing::new(head, body, expects, asked, service, way, self)?;
        exchange.body_from(&outgoing);
        let served = self.attempts(exchange, service, &mut order, &mut outgoing, draw).await;
        exchange.decided(order.decision());
        let (mut answer, index) = served?;

        order.served(index);
        let protocol = outgoing.protocol(&answer)?;
        // First, or a backend could take our own cookie out by naming it in Connection.
        headers::to_client(answer.headers_mut());
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

    /// Refuses the request, or holds it, if that is what comes next. `until` is when a request that
    /// waits, however often, has waited long enough.
    async fn hold(
        &self,
        exchange: &mut Exchange,
        service: &snapshot::Service,
        order: &mut Order<'_>,
        until: &mut Option<Instant>,
    ) -> Result<(), ProxyError> {
        let decision = order.decision();
        let wait = match decision.next {
            Next::Serve => return Ok(()),
            Next::Refuse(refusal) => return Err(ProxyError::PinLost(refusal)),
            Next::Wait(wait) => wait,
        };
        let since = clock::now();
        let end = *until.get_or_insert_with(|| (since + wait.time).min(exchange.deadline()));
        let is_back = match decision.pinned {
            Some(index) => {
                let backend = service.pool.backend(index);
                wait::for_backend(exchange, backend, decision.cause, wait, end).await
            }
            None => false,
        };
        exchange.waited(clock::now().saturating_duration_since(since));
        if is_back {
            order.is_back()
        } else {
            order.is_not_back()
        }
        Ok(())
    }

    fn random(&self) -> u64 {
        self.random.borrow_mut().random()
    }

    /// Tries one candidate after the other, while the rules allow another.
    async fn attempts(
        &self,
        exchange: &mut Exchange,
        service: &snapshot::Service,
        order: &mut Order<'_>,
        outgoing: &mut Outgoing,
        draw: Option<u64>,
    ) -> Result<(Answer, usize), ProxyError> {
        let view = exchange.view();
        let budget = view.budget(exchange.pool());
        budget.deposit();
        let may_retry = |failure, facts, order: &Order<'_>| match retry::may_retry(failure, facts, &service.retry) {
            retry::Answer::Yes => true,
            // Nothing is paid for a retry that has nowhere to go.
            retry::Answer::IfBudget => !order.has_next() || budget.withdraw(),
            retry::Answer::No => false,
        };
        let mut reached = None;
        let mut sent = 0;
        let mut until = None;
        loop {
            self.hold(exchange, service, order, &mut until).await?;
            let Some(index) = order.next(draw.unwrap_or_else(|| self.random())) else {
                // What reached a backend may have been carried out, and the client has to know.
                return Err(reached.map_or(ProxyError::NoBackend, ProxyError::Backend));
            };
            exchange.attempt(index);
            let spare = |failure| {
                let facts = outgoing.facts(sent + 1, exchange.deadline(), pool_lost(service, index));
                order.has_next() && may_retry(failure, facts, order)
            };
            let failure = match self.attempt(exchange, service, order, outgoing, index, &spare).await {
                Ok(answer) => return Ok((answer, index)),
                Err(failure) => failure,
            };
            exchange.failed(index, failure);
            if let Some(error) = outgoing.body_error() {
                return Err(error);
            }
            sent += u32::from(failure.sent);
            order.failed(index, failure);
            let facts = outgoing.facts(sent, exchange.deadline(), pool_lost(service, index));
            // An answer is thrown away only for another attempt, which is paid for by then.
            let again = matches!(failure.fact, Fact::Status(_)) || may_retry(failure, facts, order);
            if !again {
                order.give_up(index, failure, &self.lost);
                return Err(ProxyError::Backend(failure));
            }
            // Where only this one would do, nothing else is to be said.
            let only = order.decision().is_only();
            reached = Some(failure).filter(|failure| failure.sent || only).or(reached);
        }
    }

    /// Records a request of which no head was understood.
    pub fn refuse_unread(self: &Rc<Self>, client: &Rc<Client>, error: ProxyError) -> bytes::Bytes {
        exchange::record_unread(self, client, error)
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

fn pool_lost(service: &snapshot::Service, index: usize) -> bool {
    let live = service.pool.backend(index).live();
    live.health() != crate::pool::Health::Up || live.is_suspect()
}

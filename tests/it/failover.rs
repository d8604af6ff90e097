//! Failover: requests and sessions whose backend fails.

use std::time::{Duration, Instant};

use linchpin::pool::Health;
use tokio::task::JoinHandle;

use super::support::backend::Seen;
use super::support::keys::pin;
use super::support::proxy::Builder;
use super::support::{Backend, Keys, Proxy, Reply, Response, soon, until};

/// A proxy in front of two backends: a scripted `a`, and `b`, which responds with its name.
struct Pair {
    keys: Keys,
    a: Backend,
    b: Backend,
    builder: Builder,
}

impl Pair {
    async fn new(a: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Pair {
        let keys = Keys::new(&[1]);
        let (a, b) = (Backend::start("a", a).await, Backend::named("b").await);
        let builder = Proxy::builder().top(&keys.tables()).backend(&a, "").backend(&b, "");
        Pair { keys, a, b, builder }
    }

    /// Starts the proxy with more tables. Returns it and a routing cookie for `a`.
    fn start(&mut self, tables: &[(&str, &str)]) -> (Proxy, String) {
        let builder = std::mem::take(&mut self.builder);
        let builder = tables.iter().fold(builder, |builder, (name, lines)| builder.table(name, lines));
        let proxy = builder.start();
        let cookie = self.keys.cookie(&pin(&proxy, "a", 7));
        (proxy, cookie)
    }
}

/// Sends a request with a pin on its own connection, in a task of its own.
async fn send(proxy: &Proxy, method: &'static str, pin: &str, body: &[u8]) -> JoinHandle<Response> {
    let (mut client, body) = (proxy.client_with(pin).await, body.to_vec());
    tokio::spawn(async move { client.request(method, "/", "", &body).await })
}

/// Hangs on every path but one.
fn hang_unless(path: &'static str, reply: Reply) -> impl Fn(&Seen) -> Reply + Send + Sync + 'static {
    move |seen| if seen.path() == path { reply.clone() } else { Reply::Hang }
}

#[tokio::test]
async fn the_clients_of_a_dead_backend_move_once_without_an_error_and_all_others_stay() {
    let [a, b, c] = Backend::three().await;
    let proxy = Proxy::before(&[&a, &b, &c]);
    let mut clients = Vec::new();
    for _ in 0..12 {
        let mut client = proxy.client().await;
        let home = client.get("/").await.text();
        clients.push((client, home));
    }
    a.kill().await;
    for (client, home) in &mut clients {
        let after = client.get("/").await;
        let is_moved = home == "a";
        assert_eq!((after.status, after.pin().is_some()), (200, is_moved));
        assert_eq!(after.text() == *home, !is_moved);
        for next in [client.get("/").await, proxy.get(client.pin.as_deref()).await] {
            assert_eq!((next.text(), next.pin()), (after.text(), None));
        }
    }
}

#[tokio::test]
async fn a_client_that_moved_stays_on_its_new_backend_when_the_old_one_recovers() {
    let mut pair = Pair::new(|_| Reply::ok("a")).await;
    let (proxy, cookie) = pair.start(&[]);
    let address = pair.a.kill().await;
    let moved = proxy.get(Some(&cookie)).await;
    let _a = Backend::start_at("a", address, |_| Reply::ok("a")).await;
    let next = proxy.get(moved.pin().as_deref()).await;
    assert_eq!((moved.text(), next.text(), next.pin()), ("b".into(), "b".into(), None));
}

#[tokio::test]
async fn another_backend_serves_the_safe_requests_in_flight_on_a_killed_one() {
    let mut pair = Pair::new(|_| Reply::Hang).await;
    let (proxy, cookie) = pair.start(&[]);
    let mut waiting = Vec::new();
    // More requests than the reserve of the retry budget.
    for method in ["PUT", "DELETE", "OPTIONS"].into_iter().chain(["GET"; 40]) {
        let body = if method == "PUT" { "what is put" } else { "" };
        waiting.push(send(&proxy, method, &cookie, body.as_bytes()).await);
    }
    pair.a.has(43).await;
    pair.a.kill().await;
    for request in waiting {
        let response = request.await.unwrap();
        assert_eq!((response.text(), response.pin().is_some()), ("b".into(), true));
    }
    let seen = pair.b.seen();
    let put = seen.iter().find(|seen| seen.line().starts_with("PUT")).unwrap();
    assert_eq!(put.body, b"what is put");
}

#[tokio::test]
async fn an_unsafe_request_in_flight_on_a_killed_backend_is_502_and_not_executed_twice() {
    let mut pair = Pair::new(|_| Reply::Hang).await;
    let (proxy, cookie) = pair.start(&[]);
    let mut waiting = Vec::new();
    for method in ["POST", "PATCH", "UNHEARDOF"] {
        waiting.push(send(&proxy, method, &cookie, b"x").await);
    }
    pair.a.has(3).await;
    pair.a.kill().await;
    for request in waiting {
        let response = request.await.unwrap();
        assert_eq!((response.status, response.pin()), (502, None));
    }
    assert_eq!(pair.b.count(), 0);
}

#[tokio::test]
async fn after_a_502_the_next_request_of_the_client_goes_elsewhere_although_its_backend_lives() {
    for same_connection in [true, false] {
        let mut pair = Pair::new(|_| Reply::Close).await;
        let (proxy, cookie) = pair.start(&[]);
        let mut client = proxy.client_with(&cookie).await;
        assert_eq!(client.request("POST", "/", "", b"x").await.status, 502);
        if !same_connection {
            client = proxy.client_with(&cookie).await;
        }
        let next = client.request("POST", "/", "", b"y").await;
        assert_eq!((next.text(), pair.a.count()), ("b".into(), 1));
        assert_eq!(pair.keys.issued(&next).unwrap().session, 7);
        assert_eq!(client.get("/").await.pin(), None);
    }
}

#[tokio::test]
async fn an_unsafe_request_to_a_backend_that_refuses_connections_goes_elsewhere_whole() {
    let mut pair = Pair::new(|_| Reply::ok("a")).await;
    let (proxy, cookie) = pair.start(&[]);
    pair.a.kill().await;
    let body = vec![b'x'; 300 * 1024];
    let response = send(&proxy, "POST", &cookie, &body).await.await.unwrap();
    assert_eq!((response.text(), pair.b.seen()[0].body.len()), ("b".into(), body.len()));
}

#[tokio::test]
async fn requests_on_a_hung_backend_are_retried_when_probes_declare_it_down() {
    let mut pair = Pair::new(|_| Reply::Hang).await;
    let probes = ("health", "path = \"/health\"\ninterval = \"20ms\"\ntimeout = \"2s\"\nfall = 2");
    // One failed probe is enough, and the first one hangs as well: the requests must be there before it times out.
    let (proxy, cookie) = pair.start(&[probes]);
    let begun = Instant::now();
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(send(&proxy, "GET", &cookie, b"").await);
    }
    waiting.push(send(&proxy, "PUT", &cookie, b"what is put").await);
    let post = send(&proxy, "POST", &cookie, b"x").await;
    until("all to wait", async || pair.a.seen().iter().filter(|seen| seen.path() == "/").count() == 7).await;
    proxy.health("a", Health::Down).await;
    for request in waiting {
        let response = soon("the retry", request).await.unwrap();
        assert_eq!((response.text(), response.pin().is_some()), ("b".into(), true));
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "the response timeout is 60 s");
    assert!(!post.is_finished(), "it may still be carried out");
    pair.a.kill().await;
    assert_eq!(post.await.unwrap().status, 502);
    let methods: Vec<_> = pair.b.seen().iter().map(|seen| seen.line().to_owned()).collect();
    assert!(!methods.iter().any(|line| line.starts_with("POST")), "{methods:?}");
}

#[tokio::test]
async fn requests_on_a_backend_are_retried_when_it_is_ejected() {
    let mut pair = Pair::new(hang_unless("/fail", Reply::Close)).await;
    let (proxy, cookie) = pair.start(&[("ejection", "consecutive_failures = 1")]);
    let waiting = send(&proxy, "GET", &cookie, b"").await;
    pair.a.has(1).await;
    for session in 8..=10 {
        let cookie = pair.keys.cookie(&pin(&proxy, "a", session));
        assert_eq!(proxy.client_with(&cookie).await.get("/fail").await.text(), "b");
    }
    assert_eq!(soon("the retry", waiting).await.unwrap().text(), "b");
}

#[tokio::test]
async fn an_idle_connection_that_the_backend_closed_is_no_error() {
    let mut pair = Pair::new(|_| Reply::Last(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na".into())).await;
    let (proxy, cookie) = pair.start(&[("ejection", "consecutive_failures = 1")]);
    let mut client = proxy.client_with(&cookie).await;
    for round in 1..=20 {
        for method in ["GET", "POST"] {
            let response = client.request(method, "/", "", b"x").await;
            assert_eq!((response.text(), response.pin()), ("a".into(), None), "{method} {round}");
            until("the server to close", async || pair.a.open() == 0).await;
        }
    }
    assert_eq!((pair.a.count(), proxy.pool().backend(0).live().health()), (40, Health::Up));
}

#[tokio::test]
async fn a_get_on_a_connection_that_just_closes_is_no_error_either() {
    let mut pair = Pair::new(|_| Reply::Last(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na".into())).await;
    let (proxy, cookie) = pair.start(&[("ejection", "consecutive_failures = 1")]);
    let mut client = proxy.client_with(&cookie).await;
    for _ in 0..200 {
        assert_eq!(client.get("/").await.text(), "a");
    }
    assert_eq!(pair.b.count(), 0);
}

#[tokio::test]
async fn a_body_up_to_the_replay_limit_is_replayed_and_a_longer_one_is_not() {
    for (length, status, served) in [(1024, 200, 1), (1025, 502, 0)] {
        let mut pair = Pair::new(|_| Reply::Close).await;
        let (proxy, cookie) = pair.start(&[("retry", "replay_limit = \"1KiB\"")]);
        let body = vec![b'x'; length];
        let response = send(&proxy, "PUT", &cookie, &body).await.await.unwrap();
        assert_eq!((response.status, pair.a.count(), pair.b.count()), (status, 1, served), "{length}");
        assert!(pair.b.seen().iter().all(|seen| seen.body == body));
    }
}

#[tokio::test]
async fn a_chunked_body_is_replayed_whole() {
    let mut pair = Pair::new(|_| Reply::Close).await;
    let (proxy, cookie) = pair.start(&[]);
    let mut client = proxy.client_with(&cookie).await;
    let head = format!("PUT / HTTP/1.1\r\nhost: x\r\ncookie: {cookie}\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send(head.as_bytes()).await;
    client.send(b"4\r\nwhat\r\n").await;
    client.send(b"7\r\n is put\r\n0\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "b");
    assert_eq!(pair.b.seen()[0].body, b"what is put");
}

#[tokio::test]
async fn retry_on_decides_what_is_retried() {
    let unavailable = || Reply::new(503, "", "of a");
    let (closed, slow) = (|| Reply::Close, || Reply::Hang);
    type Row = (&'static str, &'static str, fn() -> Reply, u16, usize);
    let rows: [Row; 11] = [
        ("[]", "GET", closed, 502, 0),
        ("[\"reset\"]", "GET", closed, 200, 1),
        ("[\"reset\"]", "POST", closed, 502, 0),
        ("[\"reset\", \"non_idempotent\"]", "POST", closed, 200, 1),
        ("[\"reset\"]", "GET", slow, 504, 0),
        ("[\"timeout\"]", "GET", slow, 200, 1),
        ("[\"timeout\"]", "POST", slow, 504, 0),
        ("[\"reset\"]", "GET", unavailable, 503, 0),
        ("[\"503\"]", "GET", unavailable, 200, 1),
        ("[503]", "POST", unavailable, 503, 0),
        ("[\"503\", \"non_idempotent\"]", "POST", unavailable, 200, 1),
    ];
    for (retry_on, method, reply, status, elsewhere) in rows {
        let mut pair = Pair::new(move |_| reply()).await;
        let (retry, timeouts) = (format!("retry_on = {retry_on}"), "response = \"50ms\"");
        let (proxy, cookie) = pair.start(&[("retry", &retry), ("timeouts", timeouts)]);
        let response = send(&proxy, method, &cookie, b"x").await.await.unwrap();
        assert_eq!((response.status, pair.a.count(), pair.b.count()), (status, 1, elsewhere), "{retry_on} {method}");
    }
}

#[tokio::test]
async fn a_status_in_retry_on_is_forwarded_if_no_other_attempt_is_allowed() {
    let ill = |name| Backend::start(name, move |_| Reply::new(503, "x: of-a-server\r\n", name));
    let (a, b, c) = (ill("a").await, ill("b").await, ill("c").await);
    for (retry, attempts) in [("", 3), ("attempts = 2", 2), ("attempts = 1", 1)] {
        let before = a.count() + b.count() + c.count();
        let builder = Proxy::builder().backend(&a, "").backend(&b, "").backend(&c, "");
        let retry = format!("retry_on = [503]\n{retry}");
        let response = builder.table("retry", &retry).start().get(None).await;
        assert_eq!((response.status, response.field("x"), response.pin()), (503, Some("of-a-server"), None));
        assert_eq!(a.count() + b.count() + c.count() - before, attempts);
    }
}

#[tokio::test]
async fn after_a_504_the_next_request_of_the_client_goes_elsewhere() {
    let mut pair = Pair::new(|_| Reply::Hang).await;
    let (proxy, cookie) = pair.start(&[("timeouts", "response = \"50ms\"")]);
    let mut client = proxy.client_with(&cookie).await;
    assert_eq!(client.request("POST", "/", "", b"x").await.status, 504);
    assert_eq!(client.request("POST", "/", "", b"x").await.text(), "b");
    assert_eq!(pair.a.count(), 1);
}

#[tokio::test]
async fn a_response_head_that_is_too_large_moves_no_session() {
    let large = format!("x: {}\r\n", "y".repeat(300 * 1024));
    let program = move |seen: &Seen| Reply::new(200, if seen.path() == "/" { "" } else { &large }, "a");
    let mut pair = Pair::new(program).await;
    let (proxy, cookie) = pair.start(&[("ejection", "consecutive_failures = 1")]);
    let mut client = proxy.client_with(&cookie).await;
    assert_eq!(client.get("/large").await.status, 502);
    let next = client.get("/").await;
    assert_eq!((next.text(), next.pin(), pair.b.count()), ("a".into(), None, 0));
}

#[tokio::test]
async fn a_backend_that_accepts_no_connection_is_skipped_in_time() {
    // Its backlog of connections is full, and the backend accepts none.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let deaf = socket.listen(1).unwrap();
    let address = deaf.local_addr().unwrap();
    let mut queue = Vec::new();
    let connect = || tokio::time::timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(address));
    while let Ok(connection) = connect().await {
        queue.push(connection.unwrap());
    }
    let (b, keys) = (Backend::named("b").await, Keys::new(&[1]));
    let builder = Proxy::builder().top(&keys.tables()).table("timeouts", "connect = \"50ms\"");
    let proxy = builder.backend_at("a", address, "").backend(&b, "").start();
    let response = send(&proxy, "POST", &keys.cookie(&pin(&proxy, "a", 7)), b"x").await.await.unwrap();
    assert_eq!((response.text(), response.pin().is_some()), ("b".into(), true));
}

#[tokio::test]
async fn a_kill_under_load_fails_no_safe_request_and_moves_each_client_once() {
    let [a, b, c] = Backend::three().await;
    let proxy = Proxy::builder().server("threads = 2").backend(&a, "").backend(&b, "").backend(&c, "").start();
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut client = proxy.client().await;
        clients.push(tokio::spawn(async move {
            let mut servers = Vec::new();
            for _ in 0..60 {
                let response = client.get("/").await;
                assert_eq!(response.status, 200);
                servers.push(response.text());
            }
            servers.dedup();
            servers
        }));
    }
    a.has(100).await;
    a.kill().await;
    for client in clients {
        let servers = client.await.unwrap();
        let moves = usize::from(servers[0] == "a");
        assert_eq!(servers.len(), 1 + moves, "{servers:?}");
    }
}

#[tokio::test]
async fn the_total_time_of_all_attempts_is_bounded() {
    let mut pair = Pair::new(|_| Reply::Hang).await;
    let (proxy, cookie) = pair.start(&[("timeouts", "total = \"50ms\"")]);
    let response = send(&proxy, "GET", &cookie, b"").await.await.unwrap();
    assert_eq!((response.status, pair.b.count()), (504, 0));
}

#[tokio::test]
async fn attempts_that_reach_a_backend_are_bounded() {
    let mut backends = Vec::new();
    for name in ["a", "b", "c", "d"] {
        backends.push(Backend::start(name, |_| Reply::Close).await);
    }
    let builder = backends.iter().fold(Proxy::builder(), |builder, backend| builder.backend(backend, ""));
    let proxy = builder.table("retry", "attempts = 2").table("ejection", "consecutive_failures = 0").start();
    assert_eq!(proxy.get(None).await.status, 502);
    assert_eq!(backends.iter().map(Backend::count).sum::<usize>(), 2);
}

#[tokio::test]
async fn the_budget_keeps_a_dying_pool_from_being_hammered() {
    let (a, b) = (Backend::start("a", |_| Reply::Close).await, Backend::start("b", |_| Reply::Close).await);
    let builder = Proxy::builder().backend(&a, "").backend(&b, "");
    let proxy = builder.table("retry", "budget = \"10%\"").table("ejection", "consecutive_failures = 0").start();
    for _ in 0..100 {
        assert_eq!(proxy.get(None).await.status, 502);
    }
    // A reserve of ten, and ten percent of a hundred.
    assert_eq!(a.count() + b.count(), 100 + 10 + 10);
}

#[tokio::test]
async fn a_request_that_may_have_been_executed_is_502_even_if_no_other_backend_is_reachable() {
    let mut pair = Pair::new(|_| Reply::Close).await;
    let (proxy, cookie) = pair.start(&[]);
    pair.b.kill().await;
    let response = send(&proxy, "PUT", &cookie, b"x").await.await.unwrap();
    assert_eq!((response.status, pair.a.count()), (502, 1));
}

#[tokio::test]
async fn sessions_follow_the_failover_list_while_its_backends_can_serve() {
    let [a, b, c] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let builder = Proxy::builder().top(&keys.tables());
    let proxy = builder.backend(&a, "failover = [\"c\", \"b\"]").backend(&b, "").backend(&c, "").start();
    a.kill().await;
    let mut c = Some(c);
    for expected in ["c", "b"] {
        for session in 0..8 {
            let response = proxy.get(Some(&keys.cookie(&pin(&proxy, "a", session << 60)))).await;
            assert_eq!(response.text(), expected);
        }
        if let Some(c) = c.take() {
            c.kill().await;
        }
    }
}

#[tokio::test]
async fn the_sessions_of_a_dead_backend_spread_and_every_proxy_moves_each_to_the_same_backend() {
    let [a, b, c] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let of = |backends: [&Backend; 3]| {
        let builder = Proxy::builder().top(&keys.tables()).table("ejection", "consecutive_failures = 0");
        backends.iter().fold(builder, |builder, backend| builder.backend(backend, "")).start()
    };
    let (one, other) = (of([&a, &b, &c]), of([&c, &b, &a]));
    a.kill().await;
    for session in 1..=20u64 {
        let cookie = keys.cookie(&pin(&one, "a", session.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let (moved, also) = (one.get(Some(&cookie)).await, other.get(Some(&cookie)).await);
        assert_eq!(
            (moved.text(), keys.issued(&moved).unwrap().session),
            (also.text(), keys.issued(&also).unwrap().session)
        );
    }
    assert!(b.count() > 5 && c.count() > 5, "{} and {}", b.count(), c.count());
}

#[tokio::test]
async fn without_a_backend_a_request_is_503_at_once_with_retry_after_and_keeps_its_pin() {
    let [a, b, _] = Backend::three().await;
    let proxy = Proxy::before(&[&a, &b]);
    let pin = proxy.get(None).await.pin();
    let (a, _) = (a.kill().await, b.kill().await);
    for pin in [None, pin.as_deref()] {
        let begun = Instant::now();
        let response = proxy.get(pin).await;
        assert_eq!((response.status, response.fields("set-cookie").len()), (503, 0));
        assert!(response.field("retry-after").unwrap().parse::<u32>().unwrap() > 0);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    let _a = Backend::start_at("a", a, |_| Reply::ok("a")).await;
    until("the server to be seen again", async || proxy.get(None).await.status == 200).await;
}

#[tokio::test]
async fn the_only_backend_of_a_pool_is_tried_once_a_request_and_never_given_up() {
    let a = Backend::start("a", |seen| if seen.path() == "/" { Reply::ok("a") } else { Reply::Close }).await;
    let proxy = Proxy::builder().backend(&a, "").table("ejection", "consecutive_failures = 1").start();
    let mut client = proxy.client().await;
    assert_eq!(client.get("/").await.status, 200);
    for method in ["GET", "POST", "GET", "POST"] {
        let before = a.count();
        assert_eq!(client.request(method, "/fail", "", b"x").await.status, 502);
        let tries = if method == "POST" { 1..=1 } else { 1..=2 };
        assert!(tries.contains(&(a.count() - before)), "{method}");
    }
    let back = client.get("/").await;
    assert_eq!((back.text(), back.pin()), ("a".into(), None), "its sessions stay");
}

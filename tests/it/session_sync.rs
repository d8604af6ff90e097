//! Learned sessions that several Linchpins share through a real Redis.

use super::support::process::Redis;
use super::support::{Backend, Proxy, Reply, Response, until};

/// Three backends that issue an id of their own to each request without one.
async fn applications() -> [Backend; 3] {
    let start = |name: &'static str| {
        let count = std::sync::atomic::AtomicUsize::new(0);
        Backend::start(name, move |seen| match seen.field("cookie") {
            Some(_) if seen.path() == "/logout" => Reply::new(200, "set-cookie: SID=; Max-Age=0\r\n", name),
            Some(_) => Reply::ok(name),
            None => {
                let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                Reply::new(200, &format!("set-cookie: SID={name}{n}\r\n"), name)
            }
        })
    };
    [start("a").await, start("b").await, start("c").await]
}

fn proxy(redis: &Redis, backends: &[Backend]) -> Proxy {
    let store = redis.address();
    let persistence = format!(
        "type = \"learned\"\nlearned = {{ cookie = \"SID\", store = {store:?} }}\nidle_timeout = \"10m\"\nverdict_header = \"X-Verdict\""
    );
    let builder = Proxy::builder().table("persistence", &persistence);
    backends.iter().fold(builder, |builder, backend| builder.backend(backend, "")).start()
}

async fn get(proxy: &Proxy, path: &str, cookie: &str) -> Response {
    proxy.client().await.request("GET", path, &format!("cookie: {cookie}\r\n"), b"").await
}

/// Begins a session. Returns its cookie and its backend.
async fn login(proxy: &Proxy) -> (String, String) {
    let response = proxy.client().await.get("/").await;
    (response.field("set-cookie").unwrap().to_owned(), response.text())
}

fn is_hit(response: &Response, backend_name: &str) -> bool {
    response.status == 200 && response.field("x-verdict") == Some("hit") && response.text() == backend_name
}

/// Waits until a proxy knows the backend of a session.
async fn knows(proxy: &Proxy, cookie: &str, backend_name: &str) {
    until("the other Linchpin knows the session", async || is_hit(&get(proxy, "/", cookie).await, backend_name)).await;
}

#[tokio::test]
async fn linchpins_learn_and_remove_each_others_sessions() {
    let redis = Redis::start().await;
    let backends = applications().await;
    let (one, other) = (proxy(&redis, &backends), proxy(&redis, &backends));
    for _ in 0..6 {
        let (cookie, backend_name) = login(&one).await;
        knows(&other, &cookie, &backend_name).await;
    }
    let (cookie, backend_name) = login(&other).await;
    knows(&one, &cookie, &backend_name).await;
    assert!(redis.keys().await.iter().all(|key| key.starts_with("linchpin:app:") && !key.contains(&cookie)), "hashed");
    get(&one, "/logout", &cookie).await;
    until("the session is removed", async || {
        let verdict = |response: Response| response.field("x-verdict") == Some("moved; cause=unknown");
        verdict(get(&one, "/", &cookie).await) && verdict(get(&other, "/", &cookie).await)
    })
    .await;
}

#[tokio::test]
async fn a_linchpin_that_starts_later_queries_the_store() {
    let redis = Redis::start().await;
    let backends = applications().await;
    let one = proxy(&redis, &backends);
    let (cookie, backend_name) = login(&one).await;
    until("the session is stored", async || redis.keys().await.len() == 1).await;
    knows(&proxy(&redis, &backends), &cookie, &backend_name).await;
}

#[tokio::test]
async fn a_key_that_is_no_session_costs_no_other_session_its_store() {
    let redis = Redis::start().await;
    let backends = applications().await;
    let one = proxy(&redis, &backends);
    let (broken, _) = login(&one).await;
    until("the session is stored", async || redis.keys().await.len() == 1).await;
    let key = redis.keys().await.remove(0);
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(login(&one).await);
    }
    until("all sessions are stored", async || redis.keys().await.len() == 7).await;
    let other = proxy(&redis, &backends);
    let (cookie, backend_name) = sessions.remove(0);
    knows(&other, &cookie, &backend_name).await;
    redis.ask(&["del", &key]).await;
    redis.ask(&["rpush", &key, "x"]).await;
    for (cookie, backend_name) in sessions {
        assert_eq!(get(&other, "/", &broken).await.status, 200);
        assert!(is_hit(&get(&other, "/", &cookie).await, &backend_name));
    }
}

#[tokio::test]
async fn a_move_reaches_both_linchpins() {
    let redis = Redis::start().await;
    let [a, b, c] = applications().await;
    let mut backends = vec![a, b, c];
    let (one, other) = (proxy(&redis, &backends), proxy(&redis, &backends));
    let (cookie, backend_name) = login(&one).await;
    knows(&other, &cookie, &backend_name).await;
    let at = backends.iter().position(|backend| backend.name() == backend_name).unwrap();
    let address = backends.remove(at).kill().await;
    let moved = get(&one, "/", &cookie).await;
    assert!(moved.status == 200 && moved.text() != backend_name);
    // The other Linchpin sees the old backend healthy again, but its request must follow the move.
    let _back = Backend::start_at("back", address, |_| Reply::ok("back")).await;
    knows(&other, &cookie, &moved.text()).await;
}

#[tokio::test]
async fn without_the_store_clients_notice_nothing_and_a_store_that_returns_gets_what_was_learned() {
    let mut redis = Redis::start().await;
    let backends = applications().await;
    let (one, other) = (proxy(&redis, &backends), proxy(&redis, &backends));
    let (before, old_backend) = login(&one).await;
    knows(&other, &before, &old_backend).await;
    redis.kill().await;
    let (cookie, backend_name) = login(&one).await;
    for _ in 0..5 {
        assert!(is_hit(&get(&one, "/", &cookie).await, &backend_name));
        assert!(is_hit(&get(&other, "/", &before).await, &old_backend));
    }
    redis.restart().await;
    knows(&other, &cookie, &backend_name).await;
    until("all sessions are stored again", async || redis.keys().await.len() == 2).await;
}

#[tokio::test]
async fn a_store_that_hangs_delays_requests_only_briefly() {
    let redis = Redis::start().await;
    let backends = applications().await;
    let (one, other) = (proxy(&redis, &backends), proxy(&redis, &backends));
    let (cookie, backend_name) = login(&one).await;
    knows(&other, &cookie, &backend_name).await;
    redis.signal("STOP").await;
    let begun = std::time::Instant::now();
    for n in 0..20 {
        assert_eq!(get(&one, "/", &format!("SID=nobody-knows-{n}")).await.status, 200);
    }
    let took = begun.elapsed();
    assert!(took < std::time::Duration::from_secs(5), "{took:?} for twenty unknown sessions");
    let (learned, there) = login(&one).await;
    assert!(is_hit(&get(&one, "/", &learned).await, &there));
    redis.signal("CONT").await;
    knows(&other, &learned, &there).await;
}

#[tokio::test]
async fn a_linchpin_works_without_a_store_that_never_existed() {
    let mut redis = Redis::start().await;
    redis.kill().await;
    let backends = applications().await;
    let one = proxy(&redis, &backends);
    let (cookie, backend_name) = login(&one).await;
    for _ in 0..3 {
        assert!(is_hit(&get(&one, "/", &cookie).await, &backend_name));
    }
}

#[tokio::test]
async fn a_session_seen_while_the_store_was_down_is_kept_as_long_as_any_other() {
    let redis = Redis::start().await;
    let backends = applications().await;
    let one = proxy(&redis, &backends);
    login(&one).await;
    until("the session is stored", async || redis.keys().await.len() == 1).await;
    let key = redis.keys().await.remove(0);
    redis.ask(&["expire", &key, "30"]).await;
    redis.ask(&["client", "kill", "type", "normal"]).await;
    until("it is kept again", async || redis.ask(&["ttl", &key]).await.trim().parse::<u32>().unwrap() > 500).await;
}

#[tokio::test]
async fn reconnects_back_off_from_a_store_that_accepts_connections_but_refuses_commands() {
    let redis = Redis::start().await;
    let backends = applications().await;
    let connections = async || {
        let info = redis.ask(&["info", "stats"]).await;
        let count = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        count.unwrap().trim().parse::<u32>().unwrap()
    };
    redis.ask(&["config", "set", "maxmemory", "1"]).await;
    let one = proxy(&redis, &backends);
    let (cookie, backend_name) = login(&one).await;
    let (begun, before) = (std::time::Instant::now(), connections().await);
    until("two seconds", async || begun.elapsed() >= std::time::Duration::from_secs(2)).await;
    let during = connections().await - before;
    assert!(during <= 14, "{during} connections in two seconds");
    assert!(is_hit(&get(&one, "/", &cookie).await, &backend_name));
}

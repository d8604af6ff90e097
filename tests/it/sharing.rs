//! Learned sessions that several Linchpins share, by way of a real Redis.

use super::support::process::Redis;
use super::support::{Backend, Proxy, Reply, Response, until};

/// Three backends that give out ids of their own to whoever comes without one.
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

/// A new session: its cookie, and its server.
async fn login(proxy: &Proxy) -> (String, String) {
    let response = proxy.client().await.get("/").await;
    (response.field("set-cookie").unwrap().to_owned(), response.text())
}

fn is_hit(response: &Response, home: &str) -> bool {
    response.status == 200 && response.field("x-verdict") == Some("hit") && response.text() == home
}

/// Waits until a proxy knows where a session is.
async fn knows(proxy: &Proxy, cookie: &str, home: &str) {
    until("the other one knows", async || is_hit(&get(proxy, "/", cookie).await, home)).await;
}

#[tokio::test]
async fn what_one_has_learned_the_other_honours_and_what_one_forgets_the_other_forgets() {
    let redis = Redis::start().await;
    let backends = applications().await;
    let (one, other) = (proxy(&redis, &backends), proxy(&redis, &backends));
    for _ in 0..6 {
        let (cookie, home) = login(&one).await;
        knows(&other, &cookie, &home).await;
    }
    let (cookie, home) = login(&other).await;
    knows(&one, &cookie, &home).await;
    assert!(redis.keys().await.iter().all(|key| key.starts_with("linchpin:app:") && !key.contains(&cookie)), "hashed");
    get(&one, "/logout", &cookie).await;
    until("it is forgotten", async || {
        let verdict = |response: Response| response.field("x-verdict") == Some("moved; cause=unknown");
        verdict(get(&one, "/", &cookie).await) && verdict(get(&other, "/", &cookie).await)
    })
    .await;
}

#[tokio::test]
async fn a_third_that_comes_later_asks() {
    let redis = Redis::start().await;
    let backends = applications().await;
    let one = proxy(&redis, &backends);
    let (cookie, home) = login(&one).await;
    until("it is stored", async || redis.keys().await.len() == 1).await;
    knows(&proxy(&redis, &backends), &cookie, &home).await;
}

#[tokio::test]
async fn a_move_is_seen_by_both() {
    let redis = Redis::start().await;
    let [a, b, c] = applications().await;
    let mut backends = vec![a, b, c];
    let (one, other) = (proxy(&redis, &backends), proxy(&redis, &backends));
    let (cookie, home) = login(&one).await;
    knows(&other, &cookie, &home).await;
    let at = backends.iter().position(|backend| backend.name() == home).unwrap();
    let address = backends.remove(at).kill().await;
    let moved = get(&one, "/", &cookie).await;
    assert!(moved.status == 200 && moved.text() != home);
    // Whoever came by the other one now would find the old server alive again, and must not stay there.
    let _back = Backend::start_at("back", address, |_| Reply::ok("back")).await;
    knows(&other, &cookie, &moved.text()).await;
}

#[tokio::test]
async fn without_the_store_nobody_notices_and_what_was_learned_meanwhile_is_there_when_it_is_back() {
    let mut redis = Redis::start().await;
    let backends = applications().await;
    let (one, other) = (proxy(&redis, &backends), proxy(&redis, &backends));
    let (before, at_home) = login(&one).await;
    knows(&other, &before, &at_home).await;
    redis.kill().await;
    let (cookie, home) = login(&one).await;
    for _ in 0..5 {
        assert!(is_hit(&get(&one, "/", &cookie).await, &home));
        assert!(is_hit(&get(&other, "/", &before).await, &at_home));
    }
    redis.restart().await;
    knows(&other, &cookie, &home).await;
    until("all is stored again", async || redis.keys().await.len() == 2).await;
}

#[tokio::test]
async fn a_store_that_hangs_costs_nobody_more_than_a_moment() {
    let redis = Redis::start().await;
    let backends = applications().await;
    let (one, other) = (proxy(&redis, &backends), proxy(&redis, &backends));
    let (cookie, home) = login(&one).await;
    knows(&other, &cookie, &home).await;
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
async fn a_store_that_was_never_there_is_done_without() {
    let mut redis = Redis::start().await;
    redis.kill().await;
    let backends = applications().await;
    let one = proxy(&redis, &backends);
    let (cookie, home) = login(&one).await;
    for _ in 0..3 {
        assert!(is_hit(&get(&one, "/", &cookie).await, &home));
    }
}

#[tokio::test]
async fn a_session_whose_store_was_away_while_it_was_seen_is_kept_as_long_as_any() {
    let redis = Redis::start().await;
    let backends = applications().await;
    let one = proxy(&redis, &backends);
    login(&one).await;
    until("it is stored", async || redis.keys().await.len() == 1).await;
    let key = redis.keys().await.remove(0);
    redis.ask(&["expire", &key, "30"]).await;
    redis.ask(&["client", "kill", "type", "normal"]).await;
    until("it is kept again", async || redis.ask(&["ttl", &key]).await.trim().parse::<u32>().unwrap() > 500).await;
}

#[tokio::test]
async fn a_store_that_takes_connections_and_no_session_is_left_alone_for_longer_and_longer() {
    let redis = Redis::start().await;
    let backends = applications().await;
    let connections = async || {
        let info = redis.ask(&["info", "stats"]).await;
        let count = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        count.unwrap().trim().parse::<u32>().unwrap()
    };
    redis.ask(&["config", "set", "maxmemory", "1"]).await;
    let one = proxy(&redis, &backends);
    let (cookie, home) = login(&one).await;
    let (begun, before) = (std::time::Instant::now(), connections().await);
    until("two seconds", async || begun.elapsed() >= std::time::Duration::from_secs(2)).await;
    let during = connections().await - before;
    assert!(during <= 14, "{during} connections in two seconds");
    assert!(is_hit(&get(&one, "/", &cookie).await, &home));
}

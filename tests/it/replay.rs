//! The part of a request's body that is kept for another attempt: bounded per request and over all requests.

use super::support::{Backend, Client, Proxy, Reply, until};

/// Starts a proxy in front of a backend that reads requests and closes, and of another one that serves them.
async fn before(server: &str) -> (Proxy, [Backend; 2]) {
    let backends = [Backend::start("a", |_| Reply::Close).await, Backend::named("b").await];
    let builder = Proxy::builder().server(server).table("retry", "replay_limit = \"64KiB\"");
    let builder = builder.table("persistence", "type = \"none\"").table("ejection", "consecutive_failures = 1000");
    let builder = builder.backend(&backends[0], "");
    (builder.backend(&backends[1], "backup = true").start(), backends)
}

async fn put(proxy: &Proxy, length: usize) -> u16 {
    proxy.client().await.request("PUT", "/", "", &vec![b'x'; length]).await.status
}

#[tokio::test]
async fn a_body_that_was_kept_completely_is_sent_again_completely() {
    let (proxy, [_a, b]) = before("").await;
    for length in [1, 20_000, 64 * 1024] {
        assert_eq!(put(&proxy, length).await, 200);
        assert!(b.seen().pop().unwrap().body == vec![b'x'; length]);
    }
    assert_eq!(put(&proxy, 64 * 1024 + 1).await, 502);
    let mut client = proxy.client().await;
    let head = "PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n";
    let chunks: String = (0..5000).map(|_| "1\r\ny\r\n").collect();
    client.send(format!("{head}{chunks}0\r\nx-sum: 7\r\n\r\n").as_bytes()).await;
    assert_eq!(client.response().await.status, 200);
    let seen = b.seen().pop().unwrap();
    assert!(seen.body == vec![b'y'; 5000] && seen.field("x-sum") == Some("7"), "{}", seen.head);
}

#[tokio::test]
async fn a_body_beyond_replay_memory_is_forwarded_and_not_kept() {
    let (proxy, [a, b]) = before("replay_memory = \"100KiB\"").await;
    // An upload in progress uses half of the memory.
    let mut slow = proxy.client().await;
    slow.send(format!("PUT /slow HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", 51 * 1024).as_bytes()).await;
    slow.send(&vec![b'x'; 50 * 1024]).await;
    until("the slow one under way", async || proxy.live("a").active() == 1).await;
    until("all of it to be kept", async || put(&proxy, 60 * 1024).await == 502).await;
    assert_eq!(put(&proxy, 10_000).await, 200, "a smaller one finds room");
    slow.send(&[b'x'; 1024]).await;
    assert_eq!(slow.response().await.status, 200);
    assert_eq!(put(&proxy, 60 * 1024).await, 200, "its memory was given back");
    assert!(a.count() > 3 && b.count() == 3, "{} {}", a.count(), b.count());
}

#[tokio::test]
async fn a_body_is_kept_only_until_its_response_begins() {
    let a = Backend::start("a", |seen| match seen.path() {
        "/long" => Reply::Bytes(b"HTTP/1.1 200 X\r\ncontent-length: 5\r\n\r\n".to_vec()),
        _ => Reply::Close,
    })
    .await;
    let b = Backend::named("b").await;
    let builder = Proxy::builder().server("replay_memory = \"64KiB\"").table("persistence", "type = \"none\"");
    let proxy = builder.backend(&a, "").backend(&b, "backup = true").start();
    let mut client = proxy.client().await;
    let head = format!("PUT /long HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", 60_000);
    client.send(&[head.as_bytes(), &vec![b'x'; 60_000]].concat()).await;
    a.has(1).await;
    let (mut stream, _) = Client::into_parts(client);
    use tokio::io::AsyncReadExt;
    super::support::soon("the head", stream.read_exact(&mut [0; 12])).await.unwrap();
    assert_eq!(put(&proxy, 60_000).await, 200);
}

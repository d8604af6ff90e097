//! Limits per client and per connection: each is enforced, has its response, and is counted.

use super::support::{Backend, Client, Proxy, until};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

/// A listener, the first, whose clients are trusted proxies.
const TRUSTING: &str =
    "[[listeners]]\nname = \"behind\"\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n";

async fn counted(proxy: &Proxy, limit: &str) -> u64 {
    let metrics = proxy.ask("GET", "/metrics", "").await.text();
    let name = format!("linchpin_limited_total{{limit=\"{limit}\"}} ");
    let count = metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_else(|| panic!("{metrics}"));
    count.parse().unwrap()
}

#[tokio::test]
async fn a_client_over_its_request_rate_gets_429_with_retry_after_and_harms_no_other() {
    let a = Backend::named("a").await;
    let limits = "[server.limits]\nrequests_per_client = \"2/h\"\nrequest_burst = 3";
    let proxy = Proxy::builder().server(limits).top(&format!("{ADMIN}{TRUSTING}")).backend(&a, "").start();
    let mut client = Client::connect(proxy.listener(0)).await;
    let of = |address: &str| format!("x-forwarded-for: {address}\r\n");
    for status in [200, 200, 200, 429, 429] {
        let response = client.request("GET", "/", &of("1.1.1.1"), b"").await;
        assert_eq!(response.status, status, "{}", response.head);
        if status == 429 {
            let seconds: u64 = response.field("retry-after").unwrap().parse().unwrap();
            assert!((1700..=1800).contains(&seconds) && response.pin().is_none(), "{}", response.head);
        }
    }
    assert_eq!(client.request("GET", "/", &of("1.1.1.2"), b"").await.status, 200);
    // An IPv6 network counts as one client.
    for (address, status) in [("2001:db8::1", 200), ("2001:db8::2", 200), ("2001:db8::3", 200), ("2001:db8::4", 429)] {
        assert_eq!(client.request("GET", "/", &of(address), b"").await.status, status, "{address}");
    }
    assert_eq!((a.count(), counted(&proxy, "requests_per_client").await), (7, 3));
}

#[tokio::test]
async fn all_threads_share_the_request_rate_of_a_client() {
    let a = Backend::named("a").await;
    let limits = "threads = 2\n[server.limits]\nrequests_per_client = \"1/h\"\nrequest_burst = 10";
    let proxy = Proxy::builder().server(limits).backend(&a, "").start();
    let mut served = 0;
    for _ in 0..30 {
        served += usize::from(proxy.get(None).await.status == 200);
    }
    assert_eq!((served, a.count()), (10, 10));
}

#[tokio::test]
async fn connections_over_the_limit_of_a_client_are_closed_at_once() {
    let a = Backend::named("a").await;
    let limits = "threads = 2\n[server.limits]\nconnections_per_client = 2";
    let proxy = Proxy::builder().server(limits).top(ADMIN).backend(&a, "").start();
    let (mut one, mut other) = (proxy.client().await, proxy.client().await);
    assert_eq!((one.get("/").await.status, other.get("/").await.status), (200, 200));
    assert!(proxy.client().await.is_closed().await);
    assert_eq!(counted(&proxy, "connections_per_client").await, 1);
    assert_eq!(other.get("/").await.status, 200);
    drop(one);
    until("a free connection", async || {
        let mut client = proxy.client().await;
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        client.try_response("GET").await.is_some_and(|response| response.status == 200)
    })
    .await;
}

#[tokio::test]
async fn connections_of_a_trusted_proxy_count_for_the_clients_that_it_names() {
    let a = Backend::named("a").await;
    let limits = "[server.limits]\nconnections_per_client = 1";
    let listener = format!("{TRUSTING}proxy_protocol = true");
    let proxy = Proxy::builder().server(limits).top(&listener).backend(&a, "").start();
    let connect = async |address: &str| {
        let mut client = Client::connect(proxy.listener(0)).await;
        let header = format!("PROXY TCP4 {address} 127.0.0.1 1000 80\r\n");
        client.send(format!("{header}GET / HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await;
        let status = client.try_response("GET").await.map(|response| response.status);
        (client, status)
    };
    let (_one, status) = connect("1.1.1.1").await;
    let (_two, other) = connect("1.1.1.2").await;
    let (_three, refused) = connect("1.1.1.1").await;
    assert_eq!((status, other, refused), (Some(200), Some(200), None));
}

#[tokio::test]
async fn a_connection_closes_after_requests_per_connection() {
    let a = Backend::named("a").await;
    let limits = "[server.limits]\nrequests_per_connection = 3";
    let proxy = Proxy::builder().server(limits).top(ADMIN).backend(&a, "").start();
    let mut client = proxy.client().await;
    assert_eq!(client.get("/").await.field("connection"), None);
    // The count survives parking in between.
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(4).as_bytes()).await;
    assert_eq!(client.response().await.field("connection"), None);
    assert_eq!(client.response().await.fields("connection"), ["close"]);
    assert!(client.is_closed().await);
    assert_eq!((a.count(), counted(&proxy, "requests_per_connection").await), (3, 1));
    assert_eq!(proxy.client().await.get("/").await.status, 200);
}

#[tokio::test]
async fn an_http_2_connection_gets_goaway_after_requests_per_connection() {
    let a = Backend::named("a").await;
    let limits = "[server.limits]\nrequests_per_connection = 3";
    let http2 = "[[listeners]]\nname = \"h2\"\naddress = \"127.0.0.1:0\"\nhttp2 = true";
    let proxy = Proxy::builder().server(limits).top(http2).backend(&a, "").start();
    let stream = tokio::net::TcpStream::connect(proxy.listener(0)).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut served = 0;
    until("the end of the connection", async || {
        let request = http::Request::get(format!("http://{}/", proxy.listener(0))).body(String::new()).unwrap();
        if let Ok(response) = sender.send_request(request).await {
            assert_eq!((response.status().as_u16(), response.headers().get("connection")), (200, None));
            served += 1;
        }
        connection.is_finished()
    })
    .await;
    // Requests that arrive before the client reads GOAWAY are served.
    assert!((3..10).contains(&served) && a.count() == served, "{served}");
}

#[tokio::test]
async fn every_limit_that_a_client_reaches_is_counted() {
    let a = Backend::named("a").await;
    let limits = "max_connections = 2\n[server.limits]\nheader_count = 5\ntarget_bytes = \"64B\"\nbody_bytes = \"1B\"\n\
                  header_read_timeout = \"100ms\"";
    let proxy = Proxy::builder().server(limits).top(ADMIN).backend(&a, "").start();
    for (limit, request, status) in [
        ("header", "GET / HTTP/1.1\r\nhost: a\r\na: 1\r\nb: 1\r\nc: 1\r\nd: 1\r\ne: 1\r\n\r\n".into(), 431),
        ("target_bytes", format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(64)), 414),
        ("body_bytes", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab".into(), 413),
        ("header_read_timeout", "GET / HTT".into(), 408),
    ] {
        let before = counted(&proxy, limit).await;
        let mut client = proxy.client().await;
        client.send(request.as_bytes()).await;
        assert_eq!((client.response().await.status, before), (status, 0), "{limit}");
        assert_eq!(counted(&proxy, limit).await, 1, "{limit}");
    }
    let (_one, _two) = (proxy.client().await, proxy.client().await);
    until("the limit of connections", async || counted(&proxy, "connections").await > 0).await;
}

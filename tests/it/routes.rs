//! What a route does with its requests: its pool or redirect, and its effect on path, fields, pin, timeouts and body.

use super::support::keys::pin;
use super::support::repository::read;
use super::support::tool::Folder;
use super::support::{Backend, Client, Keys, Proxy, Reply};

#[tokio::test]
async fn paths_are_rewritten_as_the_page_says() {
    let a = echo("a").await;
    let page = read("docs/routes.md");
    let routes = page.split("```toml\n").nth(2).and_then(|part| part.split("```").next()).unwrap();
    let proxy = Proxy::builder().top(routes).backend(&a, "").start();
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `/")).collect();
    let words = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    for row in &rows {
        let (targets, results) = row[1..].split_once('|').unwrap();
        for target in words(targets) {
            let response = proxy.client().await.get(&target).await;
            let found = response.field("location").map_or(response.text(), str::to_owned);
            assert_eq!(vec![found], words(results), "{target}");
        }
    }
    assert_eq!(rows.len(), 5);
}

/// Starts a backend that responds with the request target.
async fn echo(name: &str) -> Backend {
    Backend::start(name, |seen| Reply::new(200, "cache-control: public\r\nserver: x\r\nvary: a\r\n", seen.path())).await
}

#[tokio::test]
async fn prefixes_are_stripped_and_added_and_the_rest_stays_byte_for_byte() {
    let a = echo("a").await;
    let routes = "[[routes]]\npool = \"app\"\n\
                  [[routes]]\npool = \"app\"\npath_prefix = \"/app\"\nstrip_prefix = \"/app\"\n\
                  [[routes]]\npool = \"app\"\npath_prefix = \"/app/api\"\nstrip_prefix = \"/app\"\nadd_prefix = \"/v1\"";
    let proxy = Proxy::builder().top(routes).backend(&a, "").start();
    let mut client = proxy.client().await;
    for (target, seen) in [
        ("/app/x%2Fy/../z;a=1?q=/app", "/x%2Fy/../z;a=1?q=/app"),
        ("/app", "/"),
        ("/app?q", "/?q"),
        ("/apple", "/apple"),
        ("/app/api/x", "/v1/api/x"),
        ("/", "/"),
    ] {
        assert_eq!(client.request("GET", target, "x-forwarded-prefix: /evil\r\n", b"").await.text(), seen, "{target}");
    }
    let prefixes: Vec<_> = a.seen().iter().map(|seen| seen.fields("x-forwarded-prefix").join(",")).collect();
    assert_eq!(prefixes, ["/app", "/app", "/app", "", "/app", ""]);
}

#[tokio::test]
async fn a_session_id_in_the_path_pins_although_the_prefix_before_it_is_stripped() {
    let (a, b) = (echo("a").await, echo("b").await);
    let route = "[[routes]]\npool = \"app\"\npath_prefix = \"/app\"\nstrip_prefix = \"/app\"";
    let persistence = "type = \"route\"\nroute = { cookie = \"JSESSIONID\" }";
    let builder = Proxy::builder().top(route).table("persistence", persistence);
    let proxy = builder.backend(&a, "").backend(&b, "").start();
    let mut client = proxy.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/app;jsessionid=1.b").await.text(), "/;jsessionid=1.b");
        assert_eq!(client.get("/app/x;jsessionid=1.b?y").await.text(), "/x;jsessionid=1.b?y");
    }
    assert_eq!((a.count(), b.count()), (0, 6));
}

#[tokio::test]
async fn fields_of_requests_are_set_added_and_removed() {
    let a = echo("a").await;
    let route = "[[routes]]\npool = \"app\"\n[routes.request_headers]\n\
                 set = { Host = \"inner.example\", \"X-Set\" = \"new\" }\nadd = { Accept = \"b\" }\n\
                 remove = [\"X-Debug\", \"X-Forwarded-Proto\"]";
    let proxy = Proxy::builder().top(route).backend(&a, "").start();
    let sent = "x-set: 1\r\nx-set: 2\r\naccept: a\r\nx-debug: 1\r\nconnection: x-set, host\r\n";
    proxy.client().await.request("GET", "/", sent, b"").await;
    let seen = a.seen().remove(0);
    for (name, values) in [
        ("host", &["inner.example"][..]),
        ("x-set", &["new"]),
        ("accept", &["a", "b"]),
        ("x-debug", &[]),
        ("x-forwarded-proto", &[]),
        ("x-forwarded-host", &["test"]),
    ] {
        assert_eq!(seen.fields(name), values, "{name}");
    }
}

#[tokio::test]
async fn response_fields_are_edited_but_a_pin_and_an_error_page_stay_uncacheable() {
    let a = echo("a").await;
    let edits = "[routes.response_headers]\nset = { \"Cache-Control\" = \"public, max-age=60\", \"X-Set\" = \"1\" }\n\
                 add = { Vary = \"b\" }\nremove = [\"Server\"]\n";
    let routes = format!(
        "[[routes]]\npool = \"app\"\n{edits}\
         [[routes]]\npath_prefix = \"/small\"\nbody_bytes = \"1B\"\npool = \"app\"\n{edits}\
         [[routes]]\npath_prefix = \"/moved\"\nredirect = {{ path = \"/\" }}\n{edits}"
    );
    let proxy = Proxy::builder().top(&routes).backend(&a, "").start();
    let mut client = proxy.client().await;

    let first = client.get("/").await;
    assert_eq!((first.fields("vary"), first.field("x-set"), first.field("server")), (vec!["a", "b"], Some("1"), None));
    assert!(first.pin().is_some() && first.field("cache-control").unwrap().contains("private"), "{}", first.head);
    assert_eq!(client.get("/").await.fields("cache-control"), ["public, max-age=60"]);

    let moved = client.get("/moved").await;
    assert_eq!((moved.field("x-set"), moved.field("location")), (Some("1"), Some("/")));

    let refused = client.request("POST", "/small", "", b"too large").await;
    assert_eq!((refused.status, refused.field("x-set")), (413, Some("1")));
    assert_eq!(refused.fields("cache-control"), ["no-store"]);
}

#[tokio::test]
async fn redirects_need_no_backend_and_are_in_the_access_log() {
    let a = echo("a").await;
    let folder = Folder::new();
    let file = folder.file("access.log");
    let routes = format!(
        "[log]\nformat = \"json\"\naccess = {file:?}\n[[routes]]\npool = \"app\"\n\
         [[routes]]\npath_prefix = \"/old\"\nredirect = {{ prefix = \"/new\", status = 308 }}\n\
         [[routes]]\npath_prefix = \"/root\"\nredirect = {{ prefix = \"/\", status = 301 }}\n\
         [[routes]]\npath_prefix = \"/out\"\nredirect = {{ scheme = \"https\", host = \"b.example\", path = \"/in\" }}"
    );
    let proxy = Proxy::builder().top(&routes).backend(&a, "").start();
    let mut client = proxy.client().await;
    for (target, status, location) in [
        ("/old/a%20b?c=d", 308, "/new/a%20b?c=d"),
        ("/root//evil.example/", 301, "/evil.example/"),
        ("/root/\\evil.example/", 301, "/evil.example/"),
        ("/out/x?y", 302, "https://b.example/in?y"),
    ] {
        let response = client.get(target).await;
        assert_eq!((response.status, response.field("location")), (status, Some(location)), "{target}");
        assert_eq!((response.text(), response.pin()), (String::new(), None));
    }
    assert_eq!(client.request("POST", "/old", "", b"body").await.status, 308);
    let served = proxy.client().await.get("/").await;
    assert_eq!((served.status, a.count()), (200, 1));

    proxy.stop().await;
    let log = std::fs::read_to_string(&file).unwrap();
    let line: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!((line["path"].as_str(), line["status"].as_u64()), (Some("/old/a%20b"), Some(308)), "{log}");
    assert_eq!((line["backend"].as_str(), line["verdict"].as_str()), (Some("-"), Some("none")), "{log}");
    assert_eq!((log.lines().count(), line.get("error")), (6, None));
}

#[tokio::test]
async fn requests_without_tls_are_redirected_to_https_and_those_with_tls_are_served() {
    let a = echo("a").await;
    let top = "[[listeners]]\nname = \"behind\"\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
               [[routes]]\npool = \"app\"\n[[routes]]\nscheme = \"http\"\nredirect = { scheme = \"https\", status = 308 }";
    let proxy = Proxy::builder().top(top).backend(&a, "").start();
    let mut client = Client::connect(proxy.listener(0)).await;
    let plain = client.request("GET", "/x?y", "x-forwarded-for: 1.1.1.1\r\n", b"").await;
    assert_eq!((plain.status, plain.field("location")), (308, Some("https://test/x?y")));
    let secure = "x-forwarded-for: 1.1.1.1\r\nx-forwarded-proto: https\r\n";
    assert_eq!(client.request("GET", "/x", secure, b"").await.text(), "/x");
    // An untrusted client can't claim to use TLS.
    assert_eq!(Client::connect(proxy.listener(1)).await.request("GET", "/x", secure, b"").await.status, 308);
}

#[tokio::test]
async fn a_route_without_persistence_sets_and_follows_no_pin_and_forwards_no_pin_cookie() {
    let (a, b) = (echo("a").await, echo("b").await);
    let keys = Keys::new(&[1]);
    let routes =
        "[[routes]]\npool = \"app\"\n[[routes]]\npath_prefix = \"/static\"\npersistence = false\npool = \"app\"";
    let builder = Proxy::builder().top(&format!("{}{routes}", keys.tables()));
    let proxy = builder.backend(&a, "").backend(&b, "").start();
    let cookie = keys.cookie(&pin(&proxy, "a", 7));
    let mut client = proxy.client_with(&cookie).await;
    for _ in 0..4 {
        assert_eq!(client.get("/static/x").await.pin(), None);
    }
    assert_eq!((a.count(), b.count()), (2, 2));
    assert_eq!(proxy.client().await.get("/static/x").await.pin(), None);
    let before = a.count();
    for _ in 0..3 {
        client.get("/").await;
    }
    assert_eq!(a.count(), before + 3, "the pin holds on other routes");
    assert!(a.seen().iter().chain(&b.seen()).all(|seen| seen.field("cookie").is_none()));
}

#[tokio::test]
async fn a_route_has_its_own_timeouts_and_body_limit() {
    let a = Backend::start("a", |seen| if seen.path() == "/hangs" { Reply::Hang } else { Reply::ok("a") }).await;
    let routes = "[[routes]]\npool = \"app\"\n\
                  [[routes]]\npath_prefix = \"/hangs\"\npool = \"app\"\ntimeouts = { response = \"100ms\" }\n\
                  [[routes]]\npath_prefix = \"/upload\"\npool = \"app\"\nbody_bytes = \"unlimited\"\n\
                  [[routes]]\npath_prefix = \"/tiny\"\npool = \"app\"\nbody_bytes = \"2B\"";
    let limits = "[server.limits]\nbody_bytes = \"10B\"";
    let builder = Proxy::builder().server(limits).top(routes).table("retry", "retry_on = []");
    let proxy = builder.backend(&a, "").start();
    assert_eq!(proxy.client().await.get("/hangs").await.status, 504);
    assert_eq!(a.count(), 1);
    for (path, length, status) in [("/", 10, 200), ("/", 11, 413), ("/upload", 1000, 200), ("/tiny", 3, 413)] {
        let body = vec![b'x'; length];
        assert_eq!(proxy.client().await.request("POST", path, "", &body).await.status, status, "{path} {length}");
        // If Content-Length exceeds the limit, none of the body is read.
        if status == 413 {
            let mut client = proxy.client().await;
            let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
            client.send(head.as_bytes()).await;
            assert_eq!(client.response().await.status, 413);
        }
        let chunked = format!("{length:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(length));
        let mut client = proxy.client().await;
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
        client.send(format!("{head}{chunked}").as_bytes()).await;
        assert_eq!(client.response().await.status, status, "{path} {length} in chunks");
    }
}

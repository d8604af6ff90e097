//! A real browser as a client: its cookie jar, its several connections, its scripts.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::broken_responses::beginning;
use super::support::backend::{Reply, Seen};
use super::support::node::NodeBackend;
use super::support::tool::{DemoBackend, Folder, run};
use super::support::{Backend, Proxy};

/// Opens a page in headless Chromium, and returns its content once its scripts are done. Each call starts a browser
/// with an empty cookie jar that connects only to the page's server.
pub async fn open(url: &str) -> String {
    // Virtual time stands still while a request is under way, so slow machines see the same page.
    open_with(url, &["--virtual-time-budget=10000"]).await
}

/// Works like `open` with the caller's flags; without virtual time it returns the page as soon as it is loaded.
pub async fn open_with(url: &str, flags: &[&str]) -> String {
    let folder = Folder::new();
    let data = format!("--user-data-dir={}", folder.file("data"));
    let quiet = [
        "--headless",
        // The tests may run as root, for which Chromium has no sandbox, and with little shared memory.
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-proxy-server",
        &data,
        "--dump-dom",
        url,
    ];
    // Some distributions have another name for it; `tests/run` finds it.
    let browser = std::env::var("CHROMIUM").unwrap_or_else(|_| "chromium".into());
    run(&browser, &[flags, &quiet].concat()).await.out
}

/// Shows which server responded to each of many requests, some at once and some in sequence, and all cookies that
/// scripts can see.
const PAGE: &str = r#"<!doctype html><title>who</title><link rel="icon" href="data:,">
<p id="page">NAME</p><p id="who"></p><p id="cookies"></p><p id="done"></p>
<script>
const who = async () => (await fetch("/who", { cache: "no-store" })).text();
(async () => {
    const answers = await Promise.all(Array.from({ length: 8 }, who));
    for (let turn = 0; turn < 8; turn++) answers.push(await who());
    document.getElementById("who").textContent = answers.join(" ");
    document.getElementById("cookies").textContent = document.cookie;
    document.getElementById("done").textContent = "yes";
})();
</script>"#;

async fn server(name: &str) -> Backend {
    let own = name.to_owned();
    // The first response waits for a second request, so that the browser needs several connections.
    let (release, held) = tokio::sync::watch::channel(false);
    let count = AtomicUsize::new(0);
    Backend::start(name, move |request: &Seen| match request.path() {
        "/who" => match count.fetch_add(1, Ordering::SeqCst) {
            0 => {
                let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{own}", own.len());
                Reply::Held(held.clone(), response.into())
            }
            _ => {
                release.send_replace(true);
                Reply::ok(&own)
            }
        },
        _ => {
            let fields = "content-type: text/html\r\nset-cookie: theme=dark\r\n";
            Reply::new(200, fields, &PAGE.replace("NAME", &own))
        }
    })
    .await
}

/// Posts to each of the paths after `#` in the address, each on a reused connection, and shows
/// how many of them failed.
const POSTS: &str = r#"<!doctype html><title>posts</title><link rel="icon" href="data:,"><p id="broken"></p>
<script>
(async () => {
    let broken = 0;
    for (const framing of ["content-length", "chunked"]) {
        for (const size of [0, 50, 1000, 20000, 1048576]) {
            for (let turn = 0; turn < 4; turn++) {
                await (await fetch("/kept", { cache: "no-store" })).text();
                try {
                    await (await fetch(`/post/${framing}/${size}/${turn}`, { method: "POST", body: "pay" })).text();
                } catch {
                    broken++;
                }
            }
        }
    }
    document.getElementById("broken").textContent = broken;
})();
</script>"#;

#[tokio::test]
async fn a_post_whose_response_breaks_off_is_carried_out_once() {
    let a = Backend::start("a", |request: &Seen| {
        let path: Vec<_> = request.path().split('/').collect();
        match path[..] {
            ["", "post", framing, size, _] => Reply::Last(beginning(framing, size.parse().unwrap())),
            ["", "kept"] => Reply::ok("kept"),
            _ => Reply::new(200, "content-type: text/html\r\n", POSTS),
        }
    })
    .await;
    let proxy = Proxy::before(&[&a]);
    let page = open(&format!("http://{}/", proxy.address())).await;
    assert_eq!(text(&page, "broken"), "40", "{page}");
    let mut posts: Vec<_> = a.seen().iter().map(|seen| seen.line().to_owned()).collect();
    posts.retain(|line| line.starts_with("POST"));
    posts.sort();
    let all = posts.len();
    posts.dedup();
    assert_eq!((all, posts.len()), (40, 40));
}

/// Returns the text of the element with this id.
fn text<'a>(page: &'a str, id: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("id=\"{id}\">")).unwrap_or_else(|| panic!("no #{id} in {page}"));
    rest.split('<').next().unwrap_or_default()
}

#[tokio::test]
async fn a_page_and_all_its_requests_are_served_by_one_server() {
    let (a, b, c) = (server("a").await, server("b").await, server("c").await);
    let proxy = Proxy::before(&[&a, &b, &c]);
    let page = open(&format!("http://{}/", proxy.address())).await;
    assert_eq!(text(&page, "done"), "yes", "{page}");
    let server = text(&page, "page");
    let answers: Vec<_> = text(&page, "who").split(' ').collect();
    assert_eq!(answers, vec![server; 16], "served by {server} first");
    assert_eq!(text(&page, "cookies"), "theme=dark", "the routing cookie is out of the reach of scripts");

    let all = [&a, &b, &c].map(|backend| backend.seen());
    let requests: Vec<_> = all.iter().flatten().filter(|request| request.path() == "/who").collect();
    assert_eq!(requests.len(), 16);
    for request in requests {
        assert_eq!(request.fields("cookie"), ["theme=dark"], "and it reaches no server");
    }
    assert!([&a, &b, &c].iter().map(|backend| backend.connections()).sum::<usize>() > 1, "several at once");
}

#[tokio::test]
async fn the_page_of_the_demo_backend_is_displayed() {
    let backend = DemoBackend::start("blue-7").await;
    let proxy = Proxy::builder().backend_at(&backend.name, backend.address, "").start();
    let page = open(&format!("http://{}/", proxy.address())).await;
    assert!(page.contains("<h1>Server blue-7 answered</h1>"), "{page}");
    assert!(page.contains("Log in"), "{page}");
}

#[tokio::test]
async fn a_websocket_of_a_browser_reaches_the_server_of_its_page() {
    let backends = [NodeBackend::start("websocket", "a").await, NodeBackend::start("websocket", "b").await];
    let proxy = backends
        .iter()
        .fold(Proxy::builder(), |builder, each| builder.backend_at(&each.name, each.address, ""))
        .start();
    // The page is loaded once its image is there, which the server sends when the WebSocket is closed.
    let page = open_with(&format!("http://{}/page", proxy.address()), &["--no-pings"]).await;
    let reports = ["a", "b"].map(|name| format!("{name}|{name} 100000|200000 closed:4000"));
    assert!(reports.iter().any(|report| page.contains(report)), "{page}");
}

//! The header fields that Linchpin sets in requests and responses, and their documentation.

use std::collections::BTreeSet;

use super::support::repository::read;
use super::support::tool::Folder;
use super::support::{Backend, Client, Proxy, Reply};

/// Two listeners: the first trusts its clients, the second doesn't.
fn listeners(folder: &Folder) -> String {
    let log = folder.file("access.log");
    format!(
        "[log]\naccess = {log:?}\nformat = \"json\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         trusted_proxies = [\"127.0.0.1\"]\n[[listeners]]\naddress = \"127.0.0.1:0\"\n"
    )
}

#[tokio::test]
async fn the_access_log_the_error_page_and_the_backend_have_the_same_request_id() {
    let (a, folder) = (Backend::named("a").await, Folder::new());
    let proxy = Proxy::builder().top(&listeners(&folder)).backend(&a, "").start();
    let mut ids = Vec::new();
    for (listener, field, is_kept) in [
        (0, "x-request-id: Root=1-67891233\r\n", true),
        (0, "x-request-id: <script>\r\n", false),
        (0, "x-request-id: one\r\nx-request-id: two\r\n", false),
        (0, "", false),
        (1, "x-request-id: mine\r\nx_request_id: mine\r\n", false),
    ] {
        let mut client = Client::connect(proxy.listener(listener)).await;
        client.request("GET", "/", field, b"").await;
        let seen = a.seen().pop().unwrap();
        let [id] = seen.fields("x-request-id")[..] else { panic!("{}", seen.head) };
        assert_eq!(id == "Root=1-67891233", is_kept, "{field}");
        let is_generated = id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(is_kept || is_generated, "{field}: {id}");
        assert_eq!(seen.fields("x_request_id"), [""; 0]);
        ids.push(id.to_owned());
    }
    a.kill().await;
    let mut client = Client::connect(proxy.listener(0)).await;
    let page = client.request("GET", "/", "x-request-id: of-the-page\r\naccept: application/json\r\n", b"").await;
    assert_eq!(page.status, 503);
    assert!(page.text().contains("\"request\":\"of-the-page\""), "{}", page.text());
    ids.push("of-the-page".into());
    proxy.stop().await;
    let log = std::fs::read_to_string(folder.file("access.log")).unwrap();
    let logged = log.lines().map(|line| line.split("\"request\":\"").nth(1).unwrap().split('"').next().unwrap());
    assert_eq!(logged.collect::<Vec<_>>(), ids);
}

/// The fields that docs/fields.md lists below a heading, in lower case: those that are always set, and all.
fn documented(heading: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let document = read("docs/fields.md");
    let part = document.split("\n## ").find(|part| part.starts_with(heading)).unwrap();
    let (mut always, mut all) = (BTreeSet::new(), BTreeSet::new());
    for row in part.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = row.split('|').map(str::trim).skip(1);
        let (fields, when) = (cells.next().unwrap(), cells.next().unwrap());
        for field in fields.split(", ").map(|field| field.trim_matches('`').to_ascii_lowercase()) {
            if when == "always" {
                always.insert(field.clone());
            }
            all.insert(field);
        }
    }
    (always, all)
}

fn names(head: &str) -> BTreeSet<String> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.map(|(name, _)| name.to_ascii_lowercase()).collect()
}

#[tokio::test]
async fn every_field_that_is_set_is_documented() {
    let a = Backend::start("a", |seen| match seen.path() {
        "/chunked" => Reply::Bytes(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_vec()),
        _ => Reply::Bytes(b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n".to_vec()),
    })
    .await;
    let folder = Folder::new();
    let top = listeners(&folder)
        + "[[routes]]\npool = \"app\"\n[[routes]]\npath_prefix = \"/s\"\nstrip_prefix = \"/s\"\npool = \"app\"\n";
    let persistence = "verdict_header = \"X-Verdict\"";
    let proxy = Proxy::builder().top(&top).table("persistence", persistence).backend(&a, "").start();
    let (always, to_backends) = documented("To backends");
    let (_, mut to_clients) = documented("To clients");
    to_clients.insert("x-verdict".into());
    assert!(always.len() >= 7 && to_clients.len() >= 7, "{always:?} {to_clients:?}");
    for listener in [0, 1] {
        for (method, path, fields) in [
            ("GET", "/", ""),
            ("GET", "/s/x", "x-forwarded-for: 1.1.1.1\r\nforwarded: for=1.1.1.1\r\nx-real-ip: 1.1.1.1\r\n"),
            ("GET", "/chunked", "te: trailers\r\nconnection: te\r\n"),
            ("POST", "/", "transfer-encoding: chunked\r\n\r\n0\r\n"),
        ] {
            let mut client = Client::connect(proxy.listener(listener)).await;
            let response = client.request(method, path, fields, b"").await;
            let seen = names(&a.seen().pop().unwrap().head);
            assert!(always.is_subset(&seen), "{path}: {seen:?}");
            assert!(seen.is_subset(&to_backends), "{path}: {seen:?} beyond {to_backends:?}");
            let received = names(&response.head);
            let own: BTreeSet<String> = BTreeSet::from(["content-length".into()]);
            assert!(
                received.difference(&own).all(|name| to_clients.contains(name)),
                "{path}: {received:?} beyond {to_clients:?}"
            );
        }
    }
}

//! The fields that Linchpin sets in requests and answers.

use super::support::tool::Folder;
use super::support::{Backend, Client, Proxy};

/// Two listeners: the first trusts its clients, the second doesn't.
fn listeners(folder: &Folder) -> String {
    let log = folder.file("access.log");
    format!(
        "[log]\naccess = {log:?}\nformat = \"json\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         trusted_proxies = [\"127.0.0.1\"]\n[[listeners]]\naddress = \"127.0.0.1:0\"\n"
    )
}

#[tokio::test]
async fn log_page_and_backend_call_a_request_the_same() {
    let (a, folder) = (Backend::named("a").await, Folder::new());
    let proxy = Proxy::builder().top(&listeners(&folder)).backend(&a, "").start();
    let mut names = Vec::new();
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
        let [name] = seen.fields("x-request-id")[..] else { panic!("{}", seen.head) };
        assert_eq!(name == "Root=1-67891233", is_kept, "{field}");
        let is_own = name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(is_kept || is_own, "{field}: {name}");
        assert_eq!(seen.fields("x_request_id"), [""; 0]);
        names.push(name.to_owned());
    }
    a.kill().await;
    let mut client = Client::connect(proxy.listener(0)).await;
    let page = client.request("GET", "/", "x-request-id: of-the-page\r\naccept: application/json\r\n", b"").await;
    assert_eq!(page.status, 503);
    assert!(page.text().contains("\"request\":\"of-the-page\""), "{}", page.text());
    names.push("of-the-page".into());
    proxy.stop().await;
    let log = std::fs::read_to_string(folder.file("access.log")).unwrap();
    let logged = log.lines().map(|line| line.split("\"request\":\"").nth(1).unwrap().split('"').next().unwrap());
    assert_eq!(logged.collect::<Vec<_>>(), names);
}

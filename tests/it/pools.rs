//! Several pools of one site: pins and cookies of one never reach the servers of another.

use super::support::{Backend, Client, Proxy};

/// Returns a pool and the route to it, whose path is its name.
fn pool(name: &str, backend: &Backend, lines: &str) -> String {
    let address = backend.address();
    format!(
        "[[routes]]\npath_prefix = \"/{name}\"\npool = \"{name}\"\n[[pools]]\nname = \"{name}\"\n{lines}\n\
         [[pools.backends]]\nname = \"a\"\naddress = \"{address}\"\n"
    )
}

#[tokio::test]
async fn no_pin_reaches_a_server_of_any_pool() {
    let kinds = [
        ("cookie", ""),
        ("named", "persistence.cookie.name = \"SID\""),
        ("header", "persistence = { type = \"header\", header = { name = \"X-Pin\" } }"),
        ("learned", "persistence = { type = \"learned\", learned = { cookie = \"PHPSESSID\" } }"),
        ("route", "persistence = { type = \"route\", route = { cookie = \"JSESSIONID\" } }"),
        ("none", "persistence.type = \"none\""),
    ];
    let a = Backend::named("a").await;
    let pools: String = kinds.iter().map(|(name, lines)| pool(name, &a, lines)).collect();
    let routes =
        "[[routes]]\npool = \"app\"\n[[routes]]\npath_prefix = \"/static\"\npersistence = false\npool = \"app\"\n";
    let proxy = Proxy::builder().top(&format!("{routes}{pools}")).backend(&a, "").start();

    let mut client = Client::connect(proxy.address()).await;
    let (mut cookies, mut fields) = (Vec::new(), String::new());
    for path in ["/", "/cookie", "/named", "/header"] {
        let answer = client.request("GET", path, "", b"").await;
        cookies.extend(answer.fields("set-cookie").iter().map(|cookie| cookie.split(';').next().unwrap().to_owned()));
        fields += &answer.field("x-pin").map_or(String::new(), |pin| format!("x-pin: {pin}\r\n"));
    }
    client.pin = None;
    assert_eq!((cookies.len(), fields.is_empty()), (3, false), "{cookies:?}");
    let own = "PHPSESSID=1; JSESSIONID=1.a; theirs=\"x; \"";
    fields += &format!("cookie: {}; {own}\r\n", cookies.join("; "));
    for path in ["/", "/static", "/cookie", "/named", "/header", "/learned", "/route", "/none"] {
        client.request("GET", path, &fields, b"").await;
        let seen = a.seen().pop().unwrap();
        assert_eq!(seen.fields("cookie"), [own], "{path}");
        assert_eq!(seen.field("x-pin"), None, "{path}");
        client.pin = None;
    }
}

#[tokio::test]
async fn an_application_cookie_with_the_name_of_another_pools_pin_reaches_its_backend() {
    let a = Backend::named("a").await;
    let named = pool("named", &a, "persistence.cookie.name = \"SID\"");
    let learned = pool("learned", &a, "persistence = { type = \"learned\", learned = { cookie = \"SID\" } }");
    let routes = "[[routes]]\npool = \"app\"\n";
    let proxy = Proxy::builder().top(&format!("{routes}{named}{learned}")).backend(&a, "").start();
    for path in ["/", "/learned"] {
        let mut client = Client::connect(proxy.address()).await;
        client.request("GET", path, "cookie: SID=the application's own\r\n", b"").await;
        assert_eq!(a.seen().pop().unwrap().fields("cookie"), ["SID=the application's own"], "{path}");
    }
}

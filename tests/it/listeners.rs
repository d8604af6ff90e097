//! Routes that serve only some listeners.

use super::support::{Backend, Client, Proxy};

const LISTENERS: &str = "[[listeners]]\nname = \"internal\"\naddress = \"127.0.0.1:0\"\n\
                         [[listeners]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n";

fn pool(name: &str, backend: &Backend) -> String {
    let address = backend.address();
    format!("[[pools]]\nname = \"{name}\"\n[[pools.backends]]\nname = \"{name}\"\naddress = \"{address}\"\n")
}

#[tokio::test]
async fn a_route_with_listeners_serves_those_and_no_others() {
    let [app, admin, own] = [Backend::named("app").await, Backend::named("admin").await, Backend::named("own").await];
    let routes = "[[routes]]\npool = \"app\"\n\
                  [[routes]]\nlisteners = [\"internal\"]\npath_prefix = \"/admin\"\npool = \"admin\"\n\
                  [[routes]]\nlisteners = [\"internal\", \"public\"]\nhosts = [\"own.example\"]\npool = \"own\"\n\
                  [[routes]]\nhosts = [\"own.example\"]\npath_prefix = \"/admin\"\npool = \"app\"\n";
    let top = format!("{LISTENERS}{routes}{}{}", pool("admin", &admin), pool("own", &own));
    let proxy = Proxy::builder().top(&top).backend(&app, "").start();
    for (listener, host, path, served) in [
        (0, "test", "/admin/x", "admin"),
        (1, "test", "/admin/x", "app"),
        (2, "test", "/admin/x", "app"),
        (0, "own.example", "/", "own"),
        (1, "own.example", "/", "own"),
        (2, "own.example", "/", "app"),
        // A route with listeners comes first, even if another is more specific.
        (1, "own.example", "/admin", "own"),
        (2, "own.example", "/admin", "app"),
    ] {
        let mut client = Client::connect(proxy.listener(listener)).await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await;
        assert_eq!(client.response().await.text(), served, "{listener} {host} {path}");
    }
    assert_eq!(admin.count(), 1);
}

#[tokio::test]
async fn a_listener_without_a_route_serves_nothing() {
    let app = Backend::named("app").await;
    let routes = "[[routes]]\nlisteners = [\"internal\"]\npool = \"app\"\n";
    let proxy = Proxy::builder().top(&format!("{LISTENERS}{routes}")).backend(&app, "").start();
    let statuses = [proxy.listener(0), proxy.listener(1)]
        .map(async |listener| Client::connect(listener).await.get("/").await.status);
    let [internal, public] = statuses;
    assert_eq!((internal.await, public.await, app.count()), (200, 404, 1));
}

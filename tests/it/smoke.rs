//! A smoke test: one client, one session, through the whole proxy.

use super::support::{Backend, Proxy};

#[tokio::test]
async fn a_client_stays_with_the_server_that_served_it_first() {
    let (a, b, c) = (Backend::named("a").await, Backend::named("b").await, Backend::named("c").await);
    let proxy = Proxy::before(&[&a, &b, &c]);
    let mut client = proxy.client().await;
    let first = client.get("/").await;
    assert_eq!(first.status, 200);
    assert!(first.pin().is_some());
    for _ in 0..10 {
        let next = client.get("/").await;
        assert_eq!((next.text(), next.pin()), (first.text(), None));
    }
    let mut again = proxy.client().await;
    again.pin = client.pin.clone();
    assert_eq!(again.get("/").await.text(), first.text());
}

//! Pins: when one is issued, renewed and accepted, and who sees it.

use linchpin::affinity::Pin;

use super::support::keys::{now, pin};
use super::support::proxy::Builder;
use super::support::{Backend, Keys, Proxy, Reply};

/// Builds a proxy with keys that the test has as well.
fn keyed(keys: &Keys, backends: &[&Backend]) -> Builder {
    backends.iter().fold(Proxy::builder().top(&keys.tables()), |builder, backend| builder.backend(backend, ""))
}

#[tokio::test]
async fn a_pin_is_issued_once_and_holds_on_every_connection() {
    let [a, b, c] = Backend::three().await;
    let proxy = Proxy::before(&[&a, &b, &c]);
    let first = proxy.get(None).await;
    let pin = first.pin().expect("a pin");
    let mut client = proxy.client_with(&pin).await;
    for _ in 0..5 {
        let (kept, fresh) = (client.get("/").await, proxy.get(Some(&pin)).await);
        assert_eq!((kept.text(), kept.pin()), (first.text(), None));
        assert_eq!((fresh.text(), fresh.pin()), (first.text(), None));
    }
    assert_eq!(client.request("POST", "/", "", b"x").await.text(), first.text());
}

#[tokio::test]
async fn clients_that_alternate_on_one_connection_each_keep_their_backend() {
    let [a, b, c] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let proxy = keyed(&keys, &[&a, &b, &c]).start();
    let mut client = proxy.client().await;
    for name in ["a", "b", "a", "c", "b"] {
        client.pin = Some(keys.cookie(&pin(&proxy, name, 7)));
        for _ in 0..2 {
            let response = client.get("/").await;
            assert_eq!((response.text(), response.pin()), (name.into(), None));
        }
    }
}

#[tokio::test]
async fn a_pin_is_renewed_when_a_quarter_of_the_idle_timeout_has_passed() {
    let [a, b, c] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let proxy = keyed(&keys, &[&a, &b, &c]).table("persistence", "idle_timeout = \"400s\"").start();
    let seen = |ago| Pin { issued: now() - 1000, last_seen: now() - ago, ..pin(&proxy, "b", 7) };
    let early = proxy.get(Some(&keys.cookie(&seen(90)))).await;
    assert_eq!((early.text(), early.pin()), ("b".into(), None));

    let old = seen(110);
    let due = proxy.get(Some(&keys.cookie(&old))).await;
    let renewed = keys.issued(&due).expect("a renewed pin");
    assert!(now() - renewed.last_seen < 60);
    assert_eq!((due.text(), Pin { last_seen: old.last_seen, ..renewed }), ("b".into(), old));
    assert_eq!(proxy.get(due.pin().as_deref()).await.pin(), None, "renewed once");
}

#[tokio::test]
async fn a_pin_of_a_former_key_is_sealed_with_the_first_one_once_and_holds() {
    let [a, b, c] = Backend::three().await;
    let (former, both, first) = (Keys::new(&[1]), Keys::new(&[2, 1]), Keys::new(&[2]));
    let proxy = keyed(&both, &[&a, &b, &c]).start();
    let old = Pin { last_seen: now() - 1000, ..pin(&proxy, "b", 7) };
    let mut client = proxy.client().await;
    for _ in 0..2 {
        // Also a client that goes on with its old one on the same connection.
        client.pin = Some(former.cookie(&old));
        let response = client.get("/").await;
        let sealed = first.issued(&response).expect("a pin of the first key");
        assert_eq!((response.text(), Pin { last_seen: old.last_seen, ..sealed }), ("b".into(), old.clone()));
        client.pin = response.pin();
        let next = client.get("/").await;
        assert_eq!((next.text(), next.pin()), ("b".into(), None), "once");
    }
}

#[tokio::test]
async fn a_session_ends_when_idle_or_too_old_and_a_new_one_begins() {
    let [a, b, c] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let lines = "idle_timeout = \"400s\"\nabsolute_timeout = \"1000s\"";
    let proxy = keyed(&keys, &[&a, &b, &c]).table("persistence", lines).start();
    for (age, silence, ends) in [(950, 350, false), (950, 400, true), (1000, 10, true), (1000, 400, true)] {
        let old = Pin { issued: now() - age, last_seen: now() - silence, ..pin(&proxy, "b", 7) };
        let response = proxy.get(Some(&keys.cookie(&old))).await;
        let issued = keys.issued(&response).expect("renewed or new");
        assert_eq!((response.status, issued.session != 7, now() - issued.issued < 60), (200, ends, ends), "{age}");
    }
}

#[tokio::test]
async fn a_session_cookie_has_no_expiry_and_the_default_attributes() {
    let a = Backend::named("a").await;
    let proxy = Proxy::before(&[&a]);
    let response = proxy.get(None).await;
    let [cookie] = response.fields("set-cookie")[..] else { panic!("{}", response.head) };
    let (_, attributes) = cookie.split_once(';').unwrap();
    assert_eq!(attributes, " Path=/; HttpOnly; SameSite=Lax");
}

#[tokio::test]
async fn a_permanent_cookie_has_the_remaining_max_age_and_the_configured_attributes() {
    let a = Backend::named("a").await;
    let keys = Keys::new(&[1]);
    let cookie = "path = \"/app\"\ndomain = \"example.com\"\nsecure = true\nhttp_only = false\n\
                  same_site = \"None\"\npartitioned = true\nlifetime_type = \"permanent\"";
    let persistence = "idle_timeout = \"400s\"\nabsolute_timeout = \"1000s\"";
    let proxy = keyed(&keys, &[&a]).table("persistence", persistence).table("persistence.cookie", cookie).start();
    let old = Pin { issued: now() - 300, last_seen: now() - 300, ..pin(&proxy, "a", 7) };
    for (pin, most) in [(None, 1000), (Some(keys.cookie(&old)), 700)] {
        let response = proxy.get(pin.as_deref()).await;
        let (attributes, left) = response.field("set-cookie").unwrap().rsplit_once("; Max-Age=").unwrap();
        assert!(attributes.ends_with("; Path=/app; Domain=example.com; Secure; SameSite=None; Partitioned"));
        assert!((most - 60..=most).contains(&left.parse::<u64>().unwrap()), "{left} of {most}");
    }
}

#[tokio::test]
async fn a_response_that_issues_a_pin_is_private_and_any_other_is_unchanged() {
    let fields = "cache-control: public, max-age=60\r\nset-cookie: x=1\r\nset-cookie: y=2; Path=/\r\n";
    let a = Backend::start("a", move |_| Reply::new(200, fields, "a")).await;
    let proxy = Proxy::before(&[&a]);
    let first = proxy.get(None).await;
    assert_eq!(first.fields("cache-control"), ["private, max-age=60"]);
    assert_eq!(first.fields("set-cookie")[..2], ["x=1", "y=2; Path=/"]);
    let next = proxy.get(first.pin().as_deref()).await;
    assert_eq!(next.fields("cache-control"), ["public, max-age=60"]);
    assert_eq!(next.fields("set-cookie"), ["x=1", "y=2; Path=/"]);
}

#[tokio::test]
async fn a_cors_preflight_gets_no_pin() {
    let a = Backend::named("a").await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    let asks = "origin: http://x\r\naccess-control-request-method: PUT\r\n";
    assert_eq!(client.request("OPTIONS", "/", asks, b"").await.pin(), None);
    assert!(client.request("OPTIONS", "/", "", b"").await.pin().is_some(), "an OPTIONS that is no preflight");
}

#[tokio::test]
async fn a_backend_that_responds_502_503_or_504_gets_no_session() {
    let a = Backend::start("a", |seen| Reply::new(seen.path()[1..].parse().unwrap(), "", "a")).await;
    let dead = Backend::named("dead").await.kill().await;
    let keys = Keys::new(&[1]);
    let proxy = keyed(&keys, &[&a]).backend_at("dead", dead, "").start();
    let moved = keys.cookie(&pin(&proxy, "dead", 7));
    for (status, pins) in [(502, false), (503, false), (504, false), (200, true), (404, true), (500, true)] {
        for pin in [None, Some(moved.clone())] {
            let mut client = proxy.client().await;
            client.pin = pin;
            let response = client.get(&format!("/{status}")).await;
            assert_eq!((response.status, response.pin().is_some()), (status, pins));
        }
    }
}

#[tokio::test]
async fn no_error_response_of_the_proxy_issues_a_pin() {
    let a = Backend::start("a", |seen| if seen.path() == "/hang" { Reply::Hang } else { Reply::Close }).await;
    let routes = "[[routes]]\npath_prefix = \"/app\"\npool = \"app\"";
    let of =
        |top: &str| Proxy::builder().top(top).table("timeouts", "response = \"1s\"").table("retry", "retry_on = []");
    let (all, some) = (of("").backend(&a, "").start(), of(routes).backend(&a, "").start());
    let none = of("").backend(&a, "state = \"maintenance\"").start();
    for (proxy, target, status) in
        [(&all, "/", 502), (&all, "/hang", 504), (&none, "/", 503), (&some, "/", 404), (&all, "no-path", 400)]
    {
        let response = proxy.client().await.get(target).await;
        assert_eq!((response.status, response.fields("set-cookie").len()), (status, 0), "{}", response.head);
    }
}

#[tokio::test]
async fn an_unreadable_pin_is_no_pin_and_a_new_one_is_issued() {
    let a = Backend::named("a").await;
    let keys = Keys::new(&[1]);
    let proxy = keyed(&keys, &[&a]).start();
    let good = keys.cookie(&pin(&proxy, "a", 7));
    let last = if good.ends_with('A') { "B" } else { "A" };
    let middle = good.len() / 2;
    let turned = if &good[middle..=middle] == "x" { "y" } else { "x" };
    for bad in [
        "linchpin-app=".into(),
        "linchpin-app".into(),
        "linchpin-app=garbage".into(),
        "linchpin-app=\"garbage".into(),
        "linchpin-app=%%%\\=;linchpin-app==;=".into(),
        format!("linchpin-app={}", "A".repeat(4096)),
        format!("{}{last}", &good[..good.len() - 4]),
        format!("{}{turned}{}", &good[..middle], &good[middle + 1..]),
        format!("{good}="),
        Keys::new(&[2]).cookie(&pin(&proxy, "a", 7)),
        keys.foreign_cookie("other", "linchpin-app", &pin(&proxy, "a", 7)),
        keys.foreign_cookie("app", "linchpin-other", &pin(&proxy, "a", 7)),
        format!("{}{good}", "linchpin-app=x; ".repeat(50)),
    ] {
        let response = proxy.get(Some(&bad)).await;
        let issued = keys.issued(&response).unwrap_or_else(|| panic!("no pin after {bad}"));
        assert_eq!((response.status, &*issued.backend, issued.session != 7), (200, "a", true), "{bad}");
        assert!(!a.seen().last().unwrap().head.contains("linchpin-app="), "{bad}");
    }
}

#[tokio::test]
async fn a_pin_holds_in_quotes_after_a_bad_one_and_in_a_second_cookie_field() {
    let [a, b, c] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let proxy = keyed(&keys, &[&a, &b, &c]).start();
    let to = |name| keys.cookie(&pin(&proxy, name, 7));
    for cookies in [
        to("b").replace('=', "=\"") + "\"",
        format!("linchpin-app=bad; {}", to("b")),
        format!("{}; {}", to("b"), to("c")),
        format!("x=1\r\ncookie: {}\r\ncookie: linchpin-app=bad", to("b")),
    ] {
        let response = proxy.get(Some(&cookies)).await;
        assert_eq!((response.text(), response.pin()), ("b".into(), None), "{cookies}");
    }
}

#[tokio::test]
async fn a_backend_sees_every_cookie_byte_for_byte_but_never_the_routing_cookie() {
    let a = Backend::named("a").await;
    let keys = Keys::new(&[1]);
    let proxy = keyed(&keys, &[&a]).start();
    let own = keys.cookie(&pin(&proxy, "a", 7));
    for (sent, arrives) in [
        (vec![&*own], vec![]),
        (vec!["a=1;b=\" 2 \"", &*own, "c; =;;d=\\\"", "linchpin-app=bad"], vec!["a=1;b=\" 2 \"", "c; =;;d=\\\""]),
        (vec!["x=1; linchpin-app=bad;  y=2; linchpin-app=worse"], vec!["x=1;  y=2"]),
        (
            vec!["Linchpin-App=1; linchpin-app2=2; x=linchpin-app=3"],
            vec!["Linchpin-App=1; linchpin-app2=2; x=linchpin-app=3"],
        ),
    ] {
        let fields: String = sent.iter().map(|cookie| format!("cookie: {cookie}\r\n")).collect();
        assert_eq!(proxy.client().await.request("GET", "/", &fields, b"").await.status, 200);
        assert_eq!(a.seen().last().unwrap().fields("cookie"), arrives);
    }
}

#[tokio::test]
async fn a_pin_to_a_removed_backend_moves() {
    let a = Backend::named("a").await;
    let keys = Keys::new(&[1]);
    let proxy = keyed(&keys, &[&a]).start();
    let response = proxy.get(Some(&keys.cookie(&pin(&proxy, "gone", 7)))).await;
    let issued = keys.issued(&response).expect("a new pin");
    assert_eq!((response.text(), &*issued.backend, issued.session), ("a".into(), "a", 7));
}

#[tokio::test]
async fn a_pin_does_not_follow_a_name_to_another_address() {
    let (old, new) = (Backend::named("a").await, Backend::named("a").await);
    let keys = Keys::new(&[1]);
    let (before, after) = (keyed(&keys, &[&old]).start(), keyed(&keys, &[&new]).start());
    let pinned = before.get(None).await.pin();
    let response = after.get(pinned.as_deref()).await;
    assert_ne!(response.pin(), None, "moved to the new life of the name, knowingly");
    assert_ne!(before.get(response.pin().as_deref()).await.pin(), None, "and back");
}

#[tokio::test]
async fn weight_0_and_drain_keep_their_sessions_and_get_no_new_one() {
    for closed in ["weight = 0", "state = \"drain\""] {
        let [a, b, _] = Backend::three().await;
        let keys = Keys::new(&[1]);
        let proxy = keyed(&keys, &[&a]).backend(&b, closed).start();
        let held = keys.cookie(&pin(&proxy, "b", 7));
        for _ in 0..5 {
            assert_eq!(proxy.get(None).await.text(), "a", "{closed}");
            let response = proxy.get(Some(&held)).await;
            assert_eq!((response.text(), response.pin()), ("b".into(), None), "{closed}");
        }
    }
}

#[tokio::test]
async fn maintenance_moves_sessions_once_and_gets_no_request() {
    let [a, b, _] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let proxy = keyed(&keys, &[&a]).backend(&b, "state = \"maintenance\"").start();
    let mut client = proxy.client_with(&keys.cookie(&pin(&proxy, "b", 7))).await;
    let moved = client.get("/").await;
    assert_eq!((moved.text(), keys.issued(&moved).map(|pin| pin.session)), ("a".into(), Some(7)));
    assert_eq!((client.get("/").await.pin(), proxy.get(None).await.text(), b.count()), (None, "a".into(), 0));
}

#[tokio::test]
async fn proxies_with_one_key_agree_whatever_the_order_of_their_backends() {
    let [a, b, c] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let (one, other) = (keyed(&keys, &[&a, &b, &c]).start(), keyed(&keys, &[&c, &a, &b]).start());
    for _ in 0..6 {
        let first = one.get(None).await;
        let next = other.get(first.pin().as_deref()).await;
        assert_eq!((next.text(), next.pin()), (first.text(), None));
    }
}

#[tokio::test]
async fn keys_rotate_one_proxy_after_the_other_without_losing_a_session() {
    let [a, b, c] = Backend::three().await;
    let all = Keys::new(&[1, 2]);
    let steps: Vec<_> =
        [&[1][..], &[1, 2], &[2, 1], &[2]].map(|ids| keyed(&Keys::new(ids), &[&a, &b, &c]).start()).into();
    for (issuer, reader, holds) in
        [(0, 1, true), (1, 0, true), (1, 2, true), (2, 1, true), (2, 3, true), (3, 2, true), (0, 3, false)]
    {
        let first = steps[issuer].get(None).await;
        let next = steps[reader].get(first.pin().as_deref()).await;
        // A pin that holds is not issued again, or sealed with the reader's first key.
        let session = |response| all.issued(response).map(|pin| pin.session);
        let is_held = session(&next).is_none_or(|session_of_next| Some(session_of_next) == session(&first));
        assert_eq!(is_held, holds, "issued at step {issuer}, read at step {reader}");
        assert!(!holds || next.text() == first.text());
    }
}

#[tokio::test]
async fn a_pool_without_persistence_pins_no_client() {
    let [a, b, _] = Backend::three().await;
    let proxy = Proxy::builder().table("persistence", "type = \"none\"").backend(&a, "").backend(&b, "").start();
    let mut client = proxy.client().await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.fields("set-cookie").len(), 0);
    }
    assert_eq!((a.count(), b.count()), (2, 2));
}

//! Session copies: what a client was told survives the death, the restart and the hanging of its server.

use std::time::{Duration, Instant};

use super::support::browser::{self, server};
use super::support::session_app::{SessionApp, Takes, WrongReply};
use super::support::{Client, Proxy, Response, until};

fn proxy(apps: &[&SessionApp], copies: &str, more: &str) -> Proxy {
    let (persistence, more) = more.split_once("persistence.").map_or(("", more), |(_, persistence)| (persistence, ""));
    let builder = Proxy::builder()
        .table("persistence", &format!("verdict_header = \"X-Verdict\"\n{persistence}"))
        .table("copies", copies)
        .pool(more);
    apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, "")).start()
}

/// A browser that uses one Linchpin.
struct Browser<'p> {
    proxy: &'p Proxy,
    browser: browser::Browser,
}

impl<'p> Browser<'p> {
    fn new(proxy: &'p Proxy) -> Browser<'p> {
        Browser { proxy, browser: browser::Browser::default() }
    }

    /// The same browser, with another Linchpin.
    fn with<'o>(&self, proxy: &'o Proxy) -> Browser<'o> {
        Browser { proxy, browser: self.browser.clone() }
    }

    async fn client(&self) -> Client {
        self.browser.client(self.proxy).await
    }

    async fn send(&mut self, method: &str, path: &str, body: &[u8]) -> Response {
        self.browser.send_body(self.proxy, method, path, body).await
    }

    async fn add(&mut self) -> String {
        self.browser.add(self.proxy).await
    }

    async fn count(&mut self) -> String {
        self.browser.count(self.proxy).await
    }
}

#[tokio::test]
async fn a_session_survives_one_server_after_the_other() {
    let mut apps: Vec<_> = SessionApp::three().await.into();
    let proxy = proxy(&apps.iter().collect::<Vec<_>>(), "", "");
    let mut browser = Browser::new(&proxy);
    let first = browser.send("POST", "/add", b"").await;
    assert_eq!(first.text(), "1");
    assert_eq!(browser.add().await, "2");
    let mut at = server(&apps, &first);
    assert_eq!(apps[at].told(), ["term=1", "term=1;seq=1"], "the first request has the field, too");
    for expected in ["3", "4"] {
        apps.remove(at).backend.kill().await;
        let next = browser.send("POST", "/add", b"").await;
        assert_eq!((next.status, next.text().as_str()), (200, expected));
        at = server(&apps, &next);
        assert_eq!(apps[at].given().len(), 1);
        let [put, request, ..] = &apps[at].backend.seen()[..] else { panic!("{:?}", apps[at].backend.seen()) };
        assert_eq!(put.field("linchpin-session-role"), Some("primary"));
        assert_eq!(put.field("host"), request.field("host"), "as in the session's request");
    }
    assert!(apps[0].told()[0].ends_with(";seq=3"), "{:?}", apps[0].told());
    assert_eq!(browser.count().await, "4");
}

#[tokio::test]
async fn a_server_that_restarts_faster_than_any_probe_wants_the_copy_and_nothing_runs_twice() {
    let mut app = SessionApp::start("a").await;
    let builder = Proxy::builder().table("copies", "").table("health", "interval = \"60s\"\npath = \"/health\"");
    let proxy = builder.backend(&app.backend, "").start();
    app.backend.has(1).await;
    let mut browser = Browser::new(&proxy);
    browser.add().await;
    for count in 2..6 {
        app = app.restart().await;
        assert_eq!(browser.send("POST", "/add", &[b'x'; 1000]).await.text(), count.to_string());
        assert_eq!((app.ran(), app.given().len()), (1, 1));
    }
}

#[tokio::test]
async fn a_body_that_was_not_kept_is_a_503_and_the_next_request_finds_the_session() {
    let app = SessionApp::start("a").await;
    let proxy = proxy(&[&app], "", "retry.replay_limit = \"1KiB\"");
    let mut browser = Browser::new(&proxy);
    browser.add().await;
    let app = app.restart().await;
    let long = vec![b'x'; 100_000];
    assert_eq!(browser.send("POST", "/add", &long).await.status, 503);
    assert_eq!(app.ran(), 0);
    assert_eq!(browser.send("POST", "/add", &long).await.text(), "2");
}

#[tokio::test]
async fn a_server_that_wants_twice_is_a_502() {
    let app = SessionApp::start("a").await;
    let proxy = proxy(&[&app], "", "");
    let mut browser = Browser::new(&proxy);
    browser.add().await;
    app.change(|memory| memory.always_wants = true);
    assert_eq!(browser.send("GET", "/", b"").await.status, 502);
    app.change(|memory| memory.always_wants = false);
    assert_eq!(browser.count().await, "1");
}

#[tokio::test]
async fn a_restart_of_linchpin_gets_new_copies_with_the_next_response() {
    let apps = [SessionApp::start("a").await, SessionApp::start("b").await];
    let keys = super::support::Keys::new(&[1]);
    let start = || {
        let builder = Proxy::builder().top(&keys.tables()).table("copies", "");
        apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, "")).start()
    };
    let one = start();
    let mut browser = Browser::new(&one);
    let at = server(&apps, &browser.send("POST", "/add", b"").await);
    let other = start();
    let mut browser = browser.with(&other);
    assert_eq!(browser.count().await, "1");
    assert_eq!(apps[at].told().last().unwrap(), "term=1");
    let [a, b] = apps;
    let (dead, alive) = if at == 0 { (a, b) } else { (b, a) };
    dead.backend.kill().await;
    assert_eq!(browser.count().await, "1");
    assert_eq!(alive.given().len(), 1);
}

#[tokio::test]
async fn of_two_saves_that_come_in_the_wrong_order_the_newer_is_restored() {
    let mut apps = vec![SessionApp::start("a").await, SessionApp::start("b").await];
    let proxy = proxy(&apps.iter().collect::<Vec<_>>(), "", "");
    let mut browser = Browser::new(&proxy);
    let at = server(&apps, &browser.send("POST", "/add", b"").await);
    let (release, held) = tokio::sync::watch::channel(false);
    apps[at].change(|memory| memory.held = Some(held));
    let mut slow = browser.client().await;
    slow.send(b"POST /add HTTP/1.1\r\nhost: test\r\n").await;
    slow.send(format!("cookie: {}\r\n\r\n", slow.pin.clone().unwrap()).as_bytes()).await;
    apps[at].backend.has(2).await;
    assert_eq!(browser.send("POST", "/add?now", b"").await.text(), "3");
    release.send(true).unwrap();
    assert_eq!(slow.response().await.text(), "2");
    apps.remove(at).backend.kill().await;
    assert_eq!(browser.count().await, "3");
}

#[tokio::test]
async fn a_server_that_hung_and_comes_back_is_fenced_and_sees_what_the_other_has_written() {
    let mut apps = vec![SessionApp::start("a").await, SessionApp::start("b").await];
    let proxy = proxy(&apps.iter().collect::<Vec<_>>(), "", "timeouts.response = \"300ms\"");
    let mut browser = Browser::new(&proxy);
    let first = server(&apps, &browser.send("POST", "/add", b"").await);
    // It hangs: its answer to the increment comes after another server has taken over.
    let (release, held) = tokio::sync::watch::channel(false);
    apps[first].change(|memory| memory.held = Some(held));
    let mut late = browser.client().await;
    let head = format!("POST /add HTTP/1.1\r\nhost: test\r\ncookie: {}\r\n\r\n", late.pin.clone().unwrap());
    late.send(head.as_bytes()).await;
    apps[first].backend.has(2).await;
    proxy.live(apps[first].backend.name()).set_state(linchpin::pool::AdminState::Maintenance);
    let moved = browser.send("POST", "/add", b"").await;
    assert_eq!(moved.text(), "2");
    let second = server(&apps, &moved);
    assert_ne!(first, second);
    assert!(matches!(late.response().await.status, 502 | 504), "its save is refused");
    release.send(true).unwrap();
    proxy.live(apps[first].backend.name()).set_state(linchpin::pool::AdminState::Ready);
    apps.remove(second).backend.kill().await;
    assert_eq!(browser.count().await, "2", "it has the other server's state");
    assert_eq!(browser.add().await, "3");
}

#[tokio::test]
async fn a_late_save_of_a_former_term_does_not_reach_the_client() {
    let apps = [SessionApp::start("a").await, SessionApp::start("b").await];
    let proxy = proxy(&[&apps[0], &apps[1]], "handover = \"50ms\"", "");
    let mut browser = Browser::new(&proxy);
    let first = server(&apps, &browser.send("POST", "/add", b"").await);
    let (release, held) = tokio::sync::watch::channel(false);
    apps[first].change(|memory| memory.held = Some(held));
    let mut late = browser.client().await;
    let head = format!("POST /add HTTP/1.1\r\nhost: test\r\ncookie: {}\r\n\r\n", late.pin.clone().unwrap());
    late.send(head.as_bytes()).await;
    apps[first].backend.has(2).await;
    proxy.live(apps[first].backend.name()).set_state(linchpin::pool::AdminState::Maintenance);
    assert_eq!(browser.add().await, "2", "it has waited for no longer than `handover`");
    release.send(true).unwrap();
    let response = late.response().await;
    assert_eq!((response.status, response.field("set-cookie")), (502, None));
    assert_eq!(browser.count().await, "2");
}

#[tokio::test]
async fn a_logout_stays_a_logout_whatever_comes_late_and_whoever_dies() {
    let mut apps: Vec<_> = SessionApp::three().await.into();
    let proxy = proxy(&apps.iter().collect::<Vec<_>>(), "", "");
    let mut browser = Browser::new(&proxy);
    let at = server(&apps, &browser.send("POST", "/add", b"").await);
    let (release, held) = tokio::sync::watch::channel(false);
    apps[at].change(|memory| memory.held = Some(held));
    let mut slow = browser.client().await;
    let head = format!("POST /add HTTP/1.1\r\nhost: test\r\ncookie: {}\r\n\r\n", slow.pin.clone().unwrap());
    slow.send(head.as_bytes()).await;
    apps[at].backend.has(2).await;
    assert_eq!(browser.send("POST", "/logout?now", b"").await.text(), "none");
    release.send(true).unwrap();
    assert_eq!(slow.response().await.status, 200);
    apps.remove(at).backend.kill().await;
    let next = browser.send("GET", "/", b"").await;
    assert_eq!(next.text(), "none");
    let at = server(&apps, &next);
    assert!(apps[at].told()[0].ends_with(";dropped"), "{:?}", apps[at].told());
    assert!(apps[at].given().is_empty());
    // A new login counts on, and survives.
    assert_eq!(browser.add().await, "1");
    apps.remove(at).backend.kill().await;
    assert_eq!(browser.count().await, "1");
}

#[tokio::test]
async fn an_id_that_was_renewed_is_worth_nothing_on_any_server() {
    let mut apps = vec![SessionApp::start("a").await, SessionApp::start("b").await];
    let proxy = proxy(&apps.iter().collect::<Vec<_>>(), "", "");
    let mut browser = Browser::new(&proxy);
    let at = server(&apps, &browser.send("POST", "/add", b"").await);
    let mut thief = browser.with(&proxy);
    assert_eq!(browser.send("POST", "/renew", b"").await.text(), "1");
    assert_eq!(thief.count().await, "none");
    apps.remove(at).backend.kill().await;
    assert_eq!(thief.count().await, "none");
    assert_eq!(browser.count().await, "1");
}

#[tokio::test]
async fn a_session_that_leaves_a_draining_server_waits_for_its_requests_there() {
    let apps = [SessionApp::start("a").await, SessionApp::start("b").await];
    let proxy = proxy(&[&apps[0], &apps[1]], "", "persistence.on.draining = \"move\"");
    let mut browser = Browser::new(&proxy);
    let first = server(&apps, &browser.send("POST", "/add", b"").await);
    let (release, held) = tokio::sync::watch::channel(false);
    apps[first].change(|memory| memory.held = Some(held));
    let mut slow = browser.client().await;
    let head = format!("POST /add HTTP/1.1\r\nhost: test\r\ncookie: {}\r\n\r\n", slow.pin.clone().unwrap());
    slow.send(head.as_bytes()).await;
    apps[first].backend.has(2).await;
    proxy.live(apps[first].backend.name()).set_state(linchpin::pool::AdminState::Drain);
    let mut next = browser.client().await;
    next.send(head.as_bytes()).await;
    let other = &apps[1 - first];
    // It waits: nothing reaches the other server. There is no event to wait for.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(other.backend.count(), 0);
    release.send(true).unwrap();
    assert_eq!(slow.response().await.text(), "2");
    assert_eq!(next.response().await.text(), "3");
    assert_eq!(other.given().len(), 1);
}

#[tokio::test]
async fn all_requests_of_a_session_wait_for_one_hand_over_until_the_server_has_confirmed_it() {
    let mut apps = vec![SessionApp::start("a").await, SessionApp::start("b").await];
    let builder = Proxy::builder().server("threads = 1").table("copies", "").table("health", "type = \"none\"");
    let proxy = apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, "")).start();
    let mut browser = Browser::new(&proxy);
    let at = server(&apps, &browser.send("POST", "/add", b"").await);
    let dead = apps.remove(at);
    proxy.live(dead.backend.name()).set_state(linchpin::pool::AdminState::Maintenance);
    dead.backend.kill().await;
    let next = &apps[0];
    // Another client, whose requests overtake those that wait.
    let mut other = Browser::new(&proxy);
    other.add().await;
    let (release, held) = tokio::sync::watch::channel(false);
    next.change(|memory| memory.held_takes = Some(held));
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = browser.client().await;
        let head = format!("POST /add HTTP/1.1\r\nhost: test\r\ncookie: {}\r\n\r\n", client.pin.clone().unwrap());
        client.send(head.as_bytes()).await;
        clients.push(client);
    }
    until("the copy is given", async || next.given().len() == 1).await;
    for count in 2..12 {
        assert_eq!(other.add().await, count.to_string());
    }
    assert_eq!((next.given().len(), next.ran()), (1, 11), "none has been sent yet");
    release.send(true).unwrap();
    let mut counts = Vec::new();
    for client in &mut clients {
        counts.push(client.response().await.text());
    }
    counts.sort();
    assert_eq!((counts, next.given().len()), (vec!["2".into(), "3".into(), "4".into()], 1));
    let told = next.told();
    assert!(told[told.len() - 3..].iter().all(|told| told.starts_with("term=2;seq=")), "{told:?}");
}

#[tokio::test]
async fn a_living_server_that_a_session_has_left_forgets_it() {
    let apps = [SessionApp::start("a").await, SessionApp::start("b").await];
    let proxy = proxy(&[&apps[0], &apps[1]], "", "persistence.on.draining = \"move\"");
    let mut browser = Browser::new(&proxy);
    let first = server(&apps, &browser.send("POST", "/add", b"").await);
    proxy.live(apps[first].backend.name()).set_state(linchpin::pool::AdminState::Drain);
    assert_eq!(browser.add().await, "2");
    let ended = |app: &SessionApp| {
        let seen = app.backend.seen();
        let ends = seen.iter().filter(|seen| seen.line().starts_with("DELETE /.well-known/linchpin/session "));
        ends.map(|seen| seen.field("linchpin-session").unwrap().split_once(';').unwrap().1.to_owned())
            .collect::<Vec<_>>()
    };
    until("it was told to forget the session", async || !ended(&apps[first]).is_empty()).await;
    let versions: Vec<String> = ended(&apps[first]);
    assert_eq!(versions, ["term=2;seq=1"], "an old cookie of the application finds nothing there");
    assert_eq!(ended(&apps[1 - first]), Vec::<String>::new());
    // It comes back, and has the newest state again.
    proxy.live(apps[first].backend.name()).set_state(linchpin::pool::AdminState::Ready);
    proxy.live(apps[1 - first].backend.name()).set_state(linchpin::pool::AdminState::Drain);
    assert_eq!(browser.add().await, "3");
}

#[tokio::test]
async fn a_server_that_hangs_when_a_session_leaves_it_delays_none_of_the_sessions_other_requests() {
    let apps = [SessionApp::start("a").await, SessionApp::start("b").await];
    let proxy = proxy(&[&apps[0], &apps[1]], "handover = \"20s\"", "persistence.on.draining = \"move\"");
    let mut browser = Browser::new(&proxy);
    let first = server(&apps, &browser.send("POST", "/add", b"").await);
    let (left, next) = (&apps[first], &apps[1 - first]);
    left.change(|memory| memory.takes = Takes::Wrongly(WrongReply::Never));
    proxy.live(left.backend.name()).set_state(linchpin::pool::AdminState::Drain);
    let mut mover = browser.client().await;
    let head = format!("POST /add HTTP/1.1\r\nhost: test\r\ncookie: {}\r\n\r\n", mover.pin.clone().unwrap());
    mover.send(head.as_bytes()).await;
    // The request to end the session there is under way, and gets no response.
    left.backend.has(2).await;
    let begun = Instant::now();
    assert_eq!(mover.response().await.text(), "2");
    // Nor does it matter that the client of that request leaves.
    drop(mover);
    let response = browser.send("POST", "/add", b"").await;
    assert_eq!((response.status, response.text().as_str()), (200, "3"));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(browser.add().await, "4");
    assert_eq!(next.given().len(), 1);
}

#[tokio::test]
async fn many_drains_under_concurrent_increments_lose_none() {
    let apps = [SessionApp::start("a").await, SessionApp::start("b").await];
    let proxy = proxy(&[&apps[0], &apps[1]], "handover = \"20s\"", "persistence.on.draining = \"move\"");
    let mut browser = Browser::new(&proxy);
    browser.add().await;
    let stop = std::cell::Cell::new(false);
    let drain = async {
        for round in 0..100 {
            let name = ["a", "b"][round % 2];
            proxy.live(name).set_state(linchpin::pool::AdminState::Drain);
            tokio::time::sleep(Duration::from_millis(10)).await;
            proxy.live(name).set_state(linchpin::pool::AdminState::Ready);
        }
        stop.set(true);
    };
    let clicks = async {
        let (mut told, mut longest) = (vec![1], Duration::ZERO);
        while !stop.get() {
            let mut clients = Vec::new();
            for _ in 0..3 {
                clients.push(browser.client().await);
            }
            let begun = Instant::now();
            let requests = clients.iter_mut().map(|client| client.request("POST", "/add", "", b""));
            let responses = futures_util::future::join_all(requests).await;
            longest = longest.max(begun.elapsed());
            for response in responses {
                assert_eq!(response.status, 200, "{}", response.head);
                browser.browser.keep(&response);
                told.push(response.text().parse().unwrap());
            }
        }
        (told, longest)
    };
    let ((), (mut told, longest)) = futures_util::join!(drain, clicks);
    told.sort_unstable();
    assert_eq!(told, (1..=told.len()).collect::<Vec<_>>(), "each increment was told once");
    assert!(longest < Duration::from_secs(10), "{longest:?}");
    let moves = apps.iter().map(|app| app.given().len()).sum::<usize>();
    assert!(moves > 10, "{moves}");
}

#[tokio::test]
async fn a_client_that_forges_fields_or_asks_for_the_path_has_no_effect() {
    let app = SessionApp::start("a").await;
    let proxy = proxy(&[&app], "", "");
    let mut browser = Browser::new(&proxy);
    browser.add().await;
    let mut client = browser.client().await;
    let forged = "Linchpin-Session: ref=\"x\";term=9;seq=99\r\nlinchpin_session: x\r\nLinchpin-Session-Save: :eA==:;term=1;seq=9\r\n\
                  Linchpin-Session-Role: primary\r\nLinchpin-Session-Drop: ?1;term=1;seq=9\r\nLinchpin-Session-Want: ?1\r\n";
    assert_eq!(client.request("GET", "/", forged, b"").await.text(), "1");
    let last = app.backend.seen().pop().unwrap();
    assert_eq!(last.fields("linchpin-session").len(), 1);
    assert!(!last.head.to_lowercase().contains("linchpin_session") && !last.head.contains("seq=9"), "{}", last.head);
    for path in ["/.well-known/linchpin/session", "/x/../.well-known/%6cinchpin/session", "//.well-known/linchpin"] {
        for method in ["PUT", "DELETE", "GET"] {
            let fields = "Linchpin-Session: ref=\"x\";term=9;seq=99\r\n";
            assert_eq!(
                browser.client().await.request(method, path, fields, b"sealed:evil:9").await.status,
                404,
                "{path}"
            );
        }
    }
    assert!(app.given().is_empty());
    assert_eq!(browser.count().await, "1");
}

#[tokio::test]
async fn whatever_a_server_says_to_a_copy_the_request_is_served_as_without_one() {
    let reply = |text: &str| WrongReply::Bytes(text.into());
    for (takes, status) in [
        (reply("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n"), 200),
        (reply("HTTP/1.1 404 X\r\ncontent-length: 3\r\n\r\nabc"), 200),
        (reply("HTTP/1.1 405 X\r\ncontent-length: 0\r\n\r\n"), 200),
        (reply("HTTP/1.1 501 X\r\ncontent-length: 0\r\n\r\n"), 200),
        (reply("HTTP/1.1 422 X\r\ncontent-length: 0\r\n\r\n"), 200),
        (reply("HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nok"), 200),
        (reply("HTTP/1.1 409 X\r\ncontent-length: 0\r\n\r\n"), 200),
        (reply("HTTP/1.1 409 X\r\nlinchpin-session: ref=\"x\";term=7;seq=9\r\ncontent-length: 0\r\n\r\n"), 200),
        (reply("HTTP/1.1 409 X\r\nlinchpin-session: garbage\r\ncontent-length: 0\r\n\r\n"), 200),
        (reply("no http at all\r\n\r\n"), 200),
        (WrongReply::Never, 200),
        (WrongReply::Close, 503),
    ] {
        let mut apps = vec![SessionApp::start("a").await, SessionApp::start("b").await];
        let proxy = proxy(&apps.iter().collect::<Vec<_>>(), "handover = \"100ms\"", "");
        let mut browser = Browser::new(&proxy);
        let at = server(&apps, &browser.send("POST", "/add", b"").await);
        apps.remove(at).backend.kill().await;
        apps[0].change(|memory| memory.takes = Takes::Wrongly(takes.clone()));
        let response = browser.send("GET", "/", b"").await;
        assert_eq!(response.status, status, "{takes:?}");
        if status == 200 {
            assert_eq!(response.text(), "none", "{takes:?}");
            assert!(!apps[0].told()[0].contains("seq"), "{:?}", apps[0].told());
        }
        // A new login works, and is copied again.
        until("the server takes logins", async || browser.send("POST", "/add", b"").await.status == 200).await;
        assert!(browser.count().await != "none", "{takes:?}");
    }
}

#[tokio::test]
async fn a_save_that_cannot_be_stored_drops_the_older_copy_and_the_response_passes_unless_copies_are_required() {
    let long = format!("linchpin-session-save: :{}:;term=1;seq=2\r\n", "A".repeat(4000));
    for (field, required) in [
        (long.as_str(), false),
        (long.as_str(), true),
        ("linchpin-session-save: garbage\r\n", false),
        ("linchpin-session-save: :eA==:;term=1\r\n", false),
        ("linchpin-session-save: :eA==:;term=1;seq=2\r\nlinchpin-session-save: :eA==:;term=1;seq=2\r\n", false),
        ("linchpin-session-drop: garbage\r\n", true),
    ] {
        let mut apps = vec![SessionApp::start("a").await, SessionApp::start("b").await];
        let proxy = proxy(&apps.iter().collect::<Vec<_>>(), &format!("max = \"1KiB\"\nrequired = {required}"), "");
        let mut browser = Browser::new(&proxy);
        let at = server(&apps, &browser.send("POST", "/add", b"").await);
        apps[at].change(|memory| memory.instead_of_save = Some(field.into()));
        let response = browser.send("POST", "/add", b"").await;
        assert_eq!(response.status, if required { 503 } else { 200 }, "{field}");
        apps[at].change(|memory| memory.instead_of_save = None);
        apps.remove(at).backend.kill().await;
        let next = browser.send("GET", "/", b"").await;
        assert_eq!((next.status, next.text().as_str()), (200, "none"), "a stale state is worse than none: {field}");
        assert!(apps[0].given().is_empty());
    }
}

#[tokio::test]
async fn sessions_of_all_carriers_survive() {
    for persistence in
        ["type = \"header\"\nheader = { name = \"X-Pin\" }", "type = \"learned\"\nlearned = { cookie = \"SID\" }"]
    {
        let mut apps: Vec<_> = SessionApp::three().await.into();
        let builder = Proxy::builder().table("persistence", persistence).table("copies", "");
        let proxy = apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, "")).start();
        let (mut pin, mut sid): (String, String) = Default::default();
        let mut count = 0;
        while apps.len() > 1 {
            let mut at = 0;
            for _ in 0..3 {
                let fields = format!("x-pin: {pin}\r\ncookie: SID={sid}\r\n");
                let response = proxy.client().await.request("POST", "/add", &fields, b"").await;
                count += 1;
                assert_eq!((response.status, response.text()), (200, count.to_string()), "{persistence}");
                pin = response.field("x-pin").map_or(pin, str::to_owned);
                let set = response.field("set-cookie").and_then(|cookie| cookie.strip_prefix("SID="));
                sid = set.map_or(sid, |set| set.split(';').next().unwrap().to_owned());
                at = server(&apps, &response);
            }
            apps.remove(at).backend.kill().await;
        }
    }
}

#[tokio::test]
async fn an_application_s_id_that_was_renewed_is_worth_nothing_on_any_server() {
    let mut apps: Vec<_> = SessionApp::three().await.into();
    let proxy =
        proxy(&apps.iter().collect::<Vec<_>>(), "", "persistence.type = \"learned\"\nlearned = { cookie = \"SID\" }");
    let mut browser = Browser::new(&proxy);
    browser.add().await;
    assert_eq!(browser.add().await, "2");
    let mut thief =
        Browser { proxy: &proxy, browser: browser::Browser { pin: None, sid: browser.browser.sid.clone() } };
    let renewed = browser.send("POST", "/renew", b"").await;
    assert_eq!(renewed.text(), "2");
    assert_ne!(thief.browser.sid, browser.browser.sid);
    let at = server(&apps, &renewed);
    apps.remove(at).backend.kill().await;
    assert_eq!(thief.count().await, "none");
    assert_eq!(browser.count().await, "2");
}

#[tokio::test]
async fn a_name_at_another_address_is_told_that_the_session_comes_from_elsewhere() {
    let app = SessionApp::start("a").await;
    let keys = super::support::Keys::new(&[1]);
    let start =
        |app: &SessionApp| Proxy::builder().top(&keys.tables()).table("copies", "").backend(&app.backend, "").start();
    let one = start(&app);
    let mut browser = Browser::new(&one);
    browser.add().await;
    let elsewhere = SessionApp::start("a").await;
    let other = start(&elsewhere);
    let mut browser = browser.with(&other);
    assert_eq!(browser.count().await, "none");
    assert_eq!(elsewhere.told(), ["term=2"], "a save of the former server would be refused");
}

#[tokio::test]
async fn another_linchpin_goes_on_from_the_term_of_the_pin() {
    let mut apps = vec![SessionApp::start("a").await, SessionApp::start("b").await];
    let keys = super::support::Keys::new(&[1]);
    let start = |apps: &[SessionApp]| {
        let builder = Proxy::builder().top(&keys.tables()).table("copies", "");
        apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, "")).start()
    };
    let one = start(&apps);
    let mut browser = Browser::new(&one);
    let at = server(&apps, &browser.send("POST", "/add", b"").await);
    apps.remove(at).backend.kill().await;
    assert_eq!(browser.add().await, "2");
    let other = start(&apps);
    let mut browser = browser.with(&other);
    assert_eq!(browser.add().await, "3");
    assert_eq!(apps[0].told(), ["term=2;seq=1", "term=2"]);
}

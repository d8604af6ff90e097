//! Reloads: each kind of thing changes while the proxy runs, what keeps its name and address stays, and a file that
//! can't be used changes nothing.

use std::net::TcpListener;
use std::process::Stdio;

use linchpin::admin::{ReloadReport, ReloadResult};
use linchpin::pool::AdminState;
use serde_json::{Value, json};

use super::support::process::{BINARY, Running, command, printed};
use super::support::reloads::Reloadable;
use super::support::tool::{Folder, run};
use super::support::{Backend, Client, Reply, soon, until};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

/// A configuration with one listener, and with one pool of these backends and lines of `[[pools.backends]]`.
fn pool(backends: &[(&Backend, &str)]) -> String {
    let backends = backends.iter().map(|(backend, lines)| {
        let (name, address) = (backend.name(), backend.address());
        format!("[[pools.backends]]\nname = \"{name}\"\naddress = \"{address}\"\n{lines}\n")
    });
    format!("[[pools]]\nname = \"app\"\n{}", backends.collect::<String>())
}

fn file(top: &str, pools: &str) -> String {
    let log = if top.contains("[log]") { "" } else { "[log]\naccess = \"off\"\n" };
    let server = if top.contains("[server]") { "" } else { "[server]\nthreads = 2\n" };
    let listener =
        if top.contains("[[listeners]]") { "" } else { "[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n" };
    format!("{server}{log}{top}\n{listener}{pools}")
}

#[track_caller]
fn applied(report: &ReloadReport) -> Vec<&str> {
    assert_eq!(report.result, ReloadResult::Applied, "{report:?}");
    assert!(report.errors.is_empty());
    report.changes.iter().map(|change| change.path.as_str()).collect()
}

#[track_caller]
fn refused(report: &ReloadReport) -> (Option<usize>, String) {
    assert_eq!(report.result, ReloadResult::Refused, "{report:?}");
    assert!(report.changes.is_empty());
    (report.errors[0].line, format!("{}; {}", report.errors[0].problem, report.errors[0].remedy))
}

#[tokio::test]
async fn backends_come_and_go_and_a_client_stays_with_the_one_that_stays() {
    let [a, b, c] = Backend::three().await;
    let linchpin = Reloadable::start(&file("", &pool(&[(&a, ""), (&b, "weight = 0")])));
    let mut client = linchpin.proxy.client().await;
    client.pin = client.get("/").await.pin();
    let health = linchpin.proxy.live("a");
    let report = linchpin.reload(&file("", &pool(&[(&c, "weight = 100"), (&a, "")]))).await;
    assert_eq!(applied(&report), ["pools.app.backends.b", "pools.app.backends.c"]);
    assert_eq!(report.generation, 2);
    assert_eq!(client.get("/").await.text(), "a", "the connection and its pin hold");
    assert!(std::sync::Arc::ptr_eq(&health, &linchpin.proxy.live("a")));
    until("new clients reach the new backend", async || linchpin.proxy.get(None).await.text() == "c").await;
}

#[tokio::test]
async fn what_the_operator_has_set_holds_until_the_file_changes_that_key() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let with = |lines: &str, more: &str| file(&format!("{ADMIN}{more}"), &pool(&[(&a, ""), (&b, lines)]));
    let linchpin = Reloadable::start(&with("weight = 1", ""));
    let live = linchpin.proxy.live("b");
    live.set_weight(5);
    live.set_state(AdminState::Drain);
    let drift = async || {
        let status: Value =
            serde_json::from_str(&linchpin.proxy.ask("GET", "/api/v1/status", "").await.text()).unwrap();
        status["pools"][0]["backends"][1]["drift"].clone()
    };
    let because = "it was set at runtime, and the file has not changed it since";
    let both = json!([
        { "key": "weight", "file": 1, "runtime": 5, "because": because },
        { "key": "state", "file": "ready", "runtime": "drain", "because": because },
    ]);
    assert_eq!(drift().await, both);
    applied(&linchpin.reload(&with("weight = 1\nbackup = true", "")).await);
    assert_eq!((live.weight(), live.state(), drift().await), (5, AdminState::Drain, both), "another key has changed");
    assert!(linchpin.proxy.ask("GET", "/metrics", "").await.text().contains("linchpin_config_drift 2\n"));

    linchpin.write(&with("weight = 3\nbackup = true", ""));
    let answer = linchpin.proxy.ask("POST", "/api/v1/reload?dry_run=true", "").await;
    let dry: Value = serde_json::from_str(&answer.text()).unwrap();
    let change = json!({
        "path": "pools.app.backends.b.weight", "file": 3, "was": 1, "runtime": 5, "now": 3,
        "because": "the file changed it, which overrides what was set at runtime",
    });
    let expected = json!({ "result": "applied", "generation": 2, "changes": [change], "errors": [] });
    assert_eq!(dry, expected);
    assert_eq!(live.weight(), 5, "a dry run changes nothing");
    let answer = linchpin.proxy.ask("POST", "/api/v1/reload", "").await;
    assert_eq!(answer.status, 200);
    let done: Value = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!((&done["generation"], &done["changes"]), (&json!(3), &dry["changes"]));
    assert_eq!((live.weight(), live.state()), (3, AdminState::Drain));
    let again: Value = serde_json::from_str(&linchpin.proxy.ask("POST", "/api/v1/reload", "").await.text()).unwrap();
    assert_eq!(again, json!({ "result": "unchanged", "generation": 3, "changes": [], "errors": [] }));
    let metrics = linchpin.proxy.ask("GET", "/metrics", "").await.text();
    for line in [
        "linchpin_config_last_reload_successful 1",
        "linchpin_config_reloads_total{result=\"applied\"} 2",
        "linchpin_config_reloads_total{result=\"unchanged\"} 1",
        "linchpin_config_drift 1",
    ] {
        assert!(metrics.lines().any(|each| each == line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_answered_with_fact_line_and_remedy() {
    let a = Backend::named("a").await;
    let good = file(ADMIN, &pool(&[(&a, "")]));
    let linchpin = Reloadable::start(&good);
    linchpin.write(&good.replace("name = \"app\"", "name = \"app\"\nbalanse = \"hash\""));
    let answer = linchpin.proxy.ask("POST", "/api/v1/reload", "").await;
    assert_eq!(answer.status, 422, "so that `curl -f` fails");
    let report: ReloadReport = serde_json::from_str(&answer.text()).unwrap();
    let line = good.lines().position(|line| line == "name = \"app\"").unwrap() + 2;
    let (at, text) = refused(&report);
    assert_eq!(at, Some(line));
    assert_eq!(text, "unknown key `balanse` in [[pools]]; did you mean `balance`?");
    assert_eq!((report.generation, linchpin.proxy.get(None).await.status), (1, 200));
    let metrics = linchpin.proxy.ask("GET", "/metrics", "").await.text();
    assert!(metrics.contains("linchpin_config_last_reload_successful 0\n"), "{metrics}");
    // Several errors are listed at once, and the next good file is applied.
    let (_, _) = refused(&linchpin.reload("nonsense").await);
    assert_eq!(linchpin.reload(&good).await.result, ReloadResult::Unchanged);
}

#[tokio::test]
async fn threads_can_not_change_and_then_nothing_does() {
    let a = Backend::named("a").await;
    let linchpin = Reloadable::start(&file("[server]\nthreads = 1\n", &pool(&[(&a, "")])));
    let next = file("[server]\nthreads = 2\n", &pool(&[(&a, "weight = 9")]));
    let (line, text) = refused(&linchpin.reload(&next).await);
    assert_eq!(line, next.lines().position(|line| line == "threads = 2").map(|line| line + 1));
    assert!(text.starts_with("`threads` can't change from 1 to 2 while Linchpin runs: "), "{text}");
    assert!(text.ends_with("; start the new process with `linchpin run --upgrade`, which loses no connection, or write the former number"), "{text}");
    assert_eq!(linchpin.proxy.live("a").weight(), 1);
}

#[tokio::test]
async fn listeners_are_added_changed_in_place_and_removed() {
    let a = Backend::start("a", |seen| Reply::ok(seen.field("x-forwarded-for").unwrap_or("none"))).await;
    let socket = Folder::new();
    let unix = socket.file("web.sock");
    let web = "[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n";
    let more = format!(
        "[[listeners]]\nname = \"more\"\naddress = \"127.0.0.1:0\"\n[[listeners]]\naddress = \"unix:{unix}\"\n"
    );
    let pools = pool(&[(&a, "")]);
    let linchpin = Reloadable::start(&file(web, &pools));
    let first = linchpin.proxy.address();
    let mut kept = Client::connect(first).await;
    assert_eq!(kept.get("/").await.text(), "127.0.0.1");

    let report = linchpin.reload(&file(&format!("{web}{more}"), &pools)).await;
    assert_eq!(applied(&report).len(), 2);
    assert_eq!(linchpin.proxy.address(), first, "its port stays");
    let second = linchpin.proxy.listener(1);
    let mut other = Client::connect(second).await;
    assert_eq!(other.get("/").await.status, 200);
    assert!(tokio::net::UnixStream::connect(&unix).await.is_ok());

    // In place: whom it trusts.
    let trusting = web.to_owned() + "trusted_proxies = [\"127.0.0.1\"]\n";
    applied(&linchpin.reload(&file(&format!("{trusting}{more}"), &pools)).await);
    let mut proxied = Client::connect(first).await;
    let answer = proxied.request("GET", "/", "x-forwarded-for: 192.0.2.7\r\n", b"").await;
    assert!(answer.text().starts_with("192.0.2.7"), "{}", answer.text());

    // Removed: its kept connection gets one more answer, which says that it is the last.
    let report = linchpin.reload(&file(&trusting, &pools)).await;
    assert_eq!(applied(&report).len(), 2);
    let last = other.get("/").await;
    assert_eq!((last.status, last.field("connection")), (200, Some("close")));
    until("it accepts no more", async || tokio::net::TcpStream::connect(second).await.is_err()).await;
    assert!(!std::fs::exists(&unix).unwrap());
    assert_eq!(kept.get("/").await.field("connection"), None, "the other listener's connections stay");
    assert_eq!(linchpin.proxy.get(None).await.status, 200);
}

#[tokio::test]
async fn a_listener_whose_port_is_taken_refuses_the_whole_reload() {
    let a = Backend::named("a").await;
    // An address of its own: once it is free, no other test gets its port.
    let taken = TcpListener::bind("127.77.0.1:0").unwrap();
    let web = "[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n";
    let linchpin = Reloadable::start(&file(web, &pool(&[(&a, "")])));
    let next = format!("{web}[[listeners]]\naddress = \"{}\"\n", taken.local_addr().unwrap());
    let next = file(&next, &pool(&[(&a, "weight = 9")]));
    for is_dry_run in [true, false] {
        linchpin.write(&next);
        let report = linchpin.proxy.reload(is_dry_run).await;
        let (line, text) = refused(&report);
        let expected =
            next.lines().position(|line| line.contains(&taken.local_addr().unwrap().to_string())).unwrap() + 1;
        assert!(text.contains("another program uses this port"), "{text}");
        assert_eq!(line, Some(expected));
    }
    assert_eq!(linchpin.proxy.live("a").weight(), 1);
    drop(taken);
    applied(&linchpin.reload(&next).await);
    assert_eq!(linchpin.proxy.live("a").weight(), 9);
}

#[tokio::test]
async fn an_address_may_widen_to_all_interfaces_and_narrow_again() {
    let a = Backend::named("a").await;
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let at = |address: &str| file(&format!("[[listeners]]\naddress = \"{address}:{port}\"\n"), &pool(&[(&a, "")]));
    let linchpin = Reloadable::start(&at("127.0.0.1"));
    for address in ["0.0.0.0", "127.0.0.1", "0.0.0.0"] {
        let path = format!("listeners.\"{address}:{port}\"");
        let report = linchpin.reload(&at(address)).await;
        assert!(applied(&report).contains(&path.as_str()), "{report:?}");
        assert_eq!(linchpin.proxy.get(None).await.status, 200);
    }
}

#[tokio::test]
async fn routes_pools_and_limits_change_at_once() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let other =
        format!("[[pools]]\nname = \"other\"\n[[pools.backends]]\nname = \"b\"\naddress = \"{}\"\n", b.address());
    let routes = "[[routes]]\npool = \"app\"\n[[routes]]\npath_prefix = \"/b\"\npool = \"other\"\n";
    let linchpin = Reloadable::start(&file("", &pool(&[(&a, "")])));
    let mut client = linchpin.proxy.client().await;
    assert_eq!(client.get("/b").await.text(), "a");
    let limited = "[server]\nthreads = 2\n[server.limits]\nbody_bytes = \"4B\"\n";
    applied(&linchpin.reload(&file(&format!("{limited}{routes}"), &format!("{}{other}", pool(&[(&a, "")])))).await);
    assert_eq!(client.get("/b").await.text(), "b", "on the same connection");
    assert_eq!(client.request("POST", "/", "", b"12345").await.status, 413);
    applied(&linchpin.reload(&file("", &pool(&[(&a, "")]))).await);
    assert_eq!(linchpin.proxy.client().await.get("/b").await.text(), "a");
    assert_eq!(linchpin.proxy.pools().len(), 1);
}

#[tokio::test]
async fn limits_of_connections_change_for_those_that_begin() {
    let a = Backend::named("a").await;
    let with = |lines: &str| file(&format!("[server]\nthreads = 1\n[server.limits]\n{lines}\n"), &pool(&[(&a, "")]));
    let linchpin = Reloadable::start(&with(""));
    let mut old = linchpin.proxy.client().await;
    // Only a connection that has sent something is accepted.
    old.get("/").await;
    applied(&linchpin.reload(&with("requests_per_connection = 1")).await);
    let mut new = linchpin.proxy.client().await;
    assert_eq!(new.get("/").await.field("connection"), Some("close"));
    for _ in 0..3 {
        assert_eq!(old.get("/").await.field("connection"), None);
    }
}

#[tokio::test]
async fn the_number_of_connections_changes_for_all_and_for_one_client() {
    let a = Backend::named("a").await;
    let with = |lines: &str| file(&format!("[server]\nthreads = 1\n{lines}\n"), &pool(&[(&a, "")]));
    let per_client = |most: u32| with(&format!("limits.connections_per_client = {most}"));
    let linchpin = Reloadable::start(&per_client(1));
    let mut one = linchpin.proxy.client().await;
    assert_eq!(one.get("/").await.status, 200);
    assert!(linchpin.proxy.client().await.is_closed().await);
    applied(&linchpin.reload(&per_client(2)).await);
    let mut two = linchpin.proxy.client().await;
    assert_eq!((two.get("/").await.status, one.get("/").await.status), (200, 200));
    assert!(linchpin.proxy.client().await.is_closed().await);

    let linchpin = Reloadable::start(&with("max_connections = 1"));
    let mut inside = linchpin.proxy.client().await;
    assert_eq!(inside.get("/").await.status, 200);
    let mut waiting = linchpin.proxy.client().await;
    waiting.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    applied(&linchpin.reload(&with("max_connections = 2")).await);
    assert_eq!((waiting.response().await.status, inside.get("/").await.status), (200, 200));
}

#[tokio::test]
async fn keys_rotate_without_losing_a_session() {
    let [a, b, c] = Backend::three().await;
    let folder = Folder::new();
    for name in ["one", "two"] {
        let path = folder.file(name);
        assert!(command(BINARY, &["keygen", "-o", &path]).await.status.success());
    }
    let key = |name: &str| format!("[[keys]]\nid = \"{name}\"\nfile = \"{}\"\n", folder.file(name));
    let with = |keys: &str| file(keys, &pool(&[(&a, ""), (&b, ""), (&c, "")]));
    // It starts without any key, and makes one.
    let linchpin = Reloadable::start(&with(""));
    let first = linchpin.proxy.get(None).await;
    let (mut pin, server) = (first.pin(), first.text());
    for keys in [key("one"), key("one") + &key("two"), key("two") + &key("one")] {
        applied(&linchpin.reload(&with(&keys)).await);
        let answer = linchpin.proxy.get(pin.as_deref()).await;
        assert_eq!(answer.text(), server, "{keys}");
        pin = answer.pin().or(pin);
    }
    // The content of a key's file counts as a change.
    std::fs::remove_file(folder.file("one")).unwrap();
    assert!(command(BINARY, &["keygen", "-o", &folder.file("one")]).await.status.success());
    assert_eq!(applied(&linchpin.proxy.reload(false).await), ["keys"]);
}

#[tokio::test]
async fn learned_sessions_survive_and_a_changed_persistence_applies() {
    let names = ["a", "b", "c"];
    let mut backends = Vec::new();
    for name in names {
        backends.push(
            Backend::start(name, move |seen| {
                let cookie = if seen.path() == "/login" { "set-cookie: SID=s1\r\n" } else { "" };
                Reply::new(200, cookie, name)
            })
            .await,
        );
    }
    let persistence = |lines: &str| {
        let all: Vec<_> = backends.iter().map(|backend| (backend, "")).collect();
        file(
            "",
            &pool(&all).replacen("name = \"app\"\n", &format!("name = \"app\"\n[pools.persistence]\n{lines}\n"), 1),
        )
    };
    let learned = "type = \"learned\"\nlearned = { cookie = \"SID\" }";
    let linchpin = Reloadable::start(&persistence(learned));
    let server = linchpin.proxy.client().await.get("/login").await.text();
    let ask = async || linchpin.proxy.client().await.request("GET", "/", "cookie: SID=s1\r\n", b"").await.text();
    for lines in ["idle_timeout = \"1h\"", "idle_timeout = \"2h\"", "idle_timeout = \"2h\"\nconverge = \"1s\""] {
        applied(&linchpin.reload(&persistence(&format!("{learned}\n{lines}"))).await);
        for _ in 0..4 {
            assert_eq!(ask().await, server);
        }
    }
    applied(&linchpin.reload(&persistence("type = \"none\"")).await);
    assert_eq!(linchpin.proxy.get(None).await.pin(), None);
}

#[tokio::test]
async fn health_checks_change_and_a_backend_that_was_down_by_them_is_tried_without_them() {
    let a = Backend::start("a", |seen| Reply::new(if seen.path() == "/dead" { 500 } else { 200 }, "", "a")).await;
    let with = |health: &str| file("", &(pool(&[(&a, "")]) + health));
    let health =
        |path: &str| format!("[pools.health]\npath = \"{path}\"\ninterval = \"50ms\"\ntimeout = \"10s\"\nfall = 1\n");
    let linchpin = Reloadable::start(&with(""));
    applied(&linchpin.reload(&with(&health("/dead"))).await);
    linchpin.proxy.health("a", linchpin::pool::Health::Down).await;
    let live = linchpin.proxy.live("a");
    applied(&linchpin.reload(&with("")).await);
    linchpin.proxy.health("a", linchpin::pool::Health::Up).await;
    applied(&linchpin.reload(&with(&health("/dead"))).await);
    linchpin.proxy.health("a", linchpin::pool::Health::Down).await;
    applied(&linchpin.reload(&with(&health("/live"))).await);
    linchpin.proxy.health("a", linchpin::pool::Health::Up).await;
    assert!(std::sync::Arc::ptr_eq(&live, &linchpin.proxy.live("a")));
}

#[tokio::test]
async fn the_access_log_moves_to_another_file_and_format() {
    let a = Backend::named("a").await;
    let folder = Folder::new();
    let (one, two) = (folder.file("one.log"), folder.file("two.log"));
    let with = |lines: &str| file(&format!("[log]\n{lines}\n"), &pool(&[(&a, "")]));
    let linchpin = Reloadable::start(&with(&format!("access = \"{one}\"")));
    let mut client = linchpin.proxy.client().await;
    client.get("/before").await;
    applied(&linchpin.reload(&with(&format!("access = \"{two}\"\nformat = \"json\""))).await);
    client.get("/after").await;
    let has = |path: &str, words: &str| std::fs::read_to_string(path).is_ok_and(|text| text.contains(words));
    until("both are written", async || has(&one, "path=/before") && has(&two, "\"path\":\"/after\"")).await;
    assert!(!has(&one, "/after"));
    // A log that can't be opened refuses the reload.
    refused(&linchpin.reload(&with("access = \"/nowhere/at/all.log\"")).await);
    client.get("/still").await;
    until("the log is the same", async || has(&two, "/still")).await;
}

#[tokio::test]
async fn the_admin_listener_moves_changes_its_token_and_goes() {
    let a = Backend::named("a").await;
    let folder = Folder::new();
    let socket = folder.file("admin.sock");
    let with = |admin: &str| file(admin, &pool(&[(&a, "")]));
    let linchpin = Reloadable::start(&with(ADMIN));
    let old = linchpin.proxy.admin();
    folder.write("token", b"one");
    let secured = format!("{ADMIN}token_file = \"{}\"\n", folder.file("token"));
    run("chmod", &["600", &folder.file("token")]).await;
    let status = async |token: &str| {
        let mut admin = Client::connect(linchpin.proxy.admin()).await;
        admin.request("GET", "/api/v1/status", &format!("authorization: Bearer {token}\r\n"), b"").await.status
    };
    applied(&linchpin.reload(&with(&secured)).await);
    assert_eq!((linchpin.proxy.admin(), status("one").await, status("two").await), (old, 200, 401));
    std::fs::write(folder.file("token"), "two").unwrap();
    assert_eq!(applied(&linchpin.proxy.reload(false).await), ["admin.token_file"]);
    assert_eq!((status("one").await, status("two").await), (401, 200));
    applied(&linchpin.reload(&with(&format!("[admin]\naddress = \"unix:{socket}\"\n"))).await);
    assert!(tokio::net::UnixStream::connect(&socket).await.is_ok());
    until("the former is closed", async || tokio::net::TcpStream::connect(old).await.is_err()).await;
    applied(&linchpin.reload(&with("")).await);
    until("it is gone", async || tokio::net::UnixStream::connect(&socket).await.is_err()).await;
    applied(&linchpin.reload(&with(ADMIN)).await);
    assert_eq!(linchpin.proxy.ask("GET", "/readyz", "").await.status, 200);
}

#[tokio::test]
async fn two_reloads_at_once_are_carried_out_one_after_the_other() {
    let a = Backend::named("a").await;
    let with = |weight: u32| file("", &pool(&[(&a, &format!("weight = {weight}"))]));
    let linchpin = Reloadable::start(&with(1));
    linchpin.write(&with(2));
    let all = futures_util::future::join_all((0..8).map(|_| linchpin.proxy.reload(false))).await;
    let count = |result| all.iter().filter(|report| report.result == result).count();
    assert_eq!((count(ReloadResult::Applied), count(ReloadResult::Unchanged)), (1, 7));
    assert!(all.iter().all(|report| report.generation == 2));
}

#[tokio::test]
async fn a_process_that_stops_refuses_a_reload() {
    let a = Backend::start("a", |seen| if seen.path() == "/hang" { Reply::Hang } else { Reply::ok("a") }).await;
    let text = file(&format!("{ADMIN}[server]\nthreads = 1\nshutdown_grace = \"2s\"\n"), &pool(&[(&a, "")]));
    let linchpin = Reloadable::start(&text);
    let mut client = linchpin.proxy.client().await;
    client.send(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await;
    a.has(1).await;
    let mut admin = Client::connect(linchpin.proxy.admin()).await;
    linchpin.write(&text.replace("name = \"app\"", "name = \"app\"\nbalance = \"hash\""));
    let stopping = tokio::spawn(linchpin.proxy.stop());
    until("it stops", async || {
        admin.send(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        admin.response().await.status == 503
    })
    .await;
    admin.send(b"POST /api/v1/reload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n").await;
    let report: ReloadReport = serde_json::from_str(&admin.response().await.text()).unwrap();
    assert!(refused(&report).1.starts_with("the process is stopping"), "{report:?}");
    soon("the end", stopping).await.unwrap();
}

#[tokio::test]
async fn sighup_and_the_command_reload_a_process() {
    let a = Backend::named("a").await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let admin = format!("[admin]\naddress = \"127.0.0.1:{port}\"\n");
    let folder = Folder::new();
    let path = folder.file("linchpin.toml");
    let with = |lines: &str| file(&admin, &pool(&[(&a, lines)]));
    let mut running = Running::start_with(&path, &with(""), Stdio::null()).await;
    std::fs::write(&path, with("weight = 2")).unwrap();
    running.signal("HUP").await;
    let line = running.line("reloaded the configuration").await;
    assert!(line.contains("pools.app.backends.a.weight") && line.contains("SIGHUP"), "{line}");

    std::fs::write(&path, with("weight = 3")).unwrap();
    let dry = command(BINARY, &["reload", "-c", &path, "--dry-run"]).await;
    assert_eq!((dry.status.code(), printed(&dry).lines().next().unwrap()), (Some(0), "would be applied: 1 change"));
    let done = command(BINARY, &["reload", "-c", &path]).await;
    let expected = "applied as generation 3: 1 change\n  pools.app.backends.a.weight  2 -> 3  the file changed it\n";
    assert_eq!((done.status.code(), printed(&done).as_str()), (Some(0), expected));
    let json = command(BINARY, &["reload", "-c", &path, "--json"]).await;
    assert!(printed(&json).starts_with(r#"{"result":"unchanged","generation":3,"#), "{}", printed(&json));

    std::fs::write(&path, with("wait = 3")).unwrap();
    let broken = command(BINARY, &["reload", "-c", &path]).await;
    assert_eq!(broken.status.code(), Some(1));
    let said = printed(&broken);
    assert!(said.contains("refused, nothing has changed") && said.contains("unknown key `wait`"), "{said}");
    running.signal("HUP").await;
    running.line("reload refused, nothing has changed").await;

    std::fs::write(&path, with("")).unwrap();
    soon("the end", running.process.kill()).await.unwrap();
    let alone = command(BINARY, &["reload", "-c", &path]).await;
    assert_eq!(alone.status.code(), Some(1));
    let said = printed(&alone);
    assert!(
        said.starts_with(&format!("linchpin: nothing answers at 127.0.0.1:{port}, the address of [admin]")),
        "{said}"
    );
    std::fs::write(&path, file("", &pool(&[(&a, "")]))).unwrap();
    let none = printed(&command(BINARY, &["reload", "-c", &path]).await);
    assert!(none.contains("has no [admin]") && none.contains("HUP"), "{none}");
}

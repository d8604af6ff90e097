//! Discovered backends that appear and disappear: behind a name of a real DNS server, and in a file.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use linchpin::pool::AdminState;

use super::support::dns::Dns;
use super::support::proxy::Builder;
use super::support::tool::Folder;
use super::support::{Backend, Proxy, Response, until};

const NAME: &str = "app.internal";
const FAST: &str = "min_interval = \"100ms\"\nmax_interval = \"200ms\"";

/// Starts backends at 127.0.0.2 and so on, all at one port; each responds with the name that discovery gives it.
async fn backends(count: u8) -> (u16, Vec<Backend>) {
    let port = (0..100).find_map(|_| {
        let port = TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap().port();
        let all: Result<Vec<_>, _> =
            (0..count).map(|n| TcpListener::bind(SocketAddr::from(([127, 0, 0, 2 + n], port)))).collect();
        all.ok().map(|_| port)
    });
    let port = port.unwrap();
    let mut all = Vec::new();
    for n in 0..count {
        all.push(backend(n, port).await);
    }
    (port, all)
}

async fn backend(n: u8, port: u16) -> Backend {
    let name = format!("app-127.0.0.{}-{port}", 2 + n);
    let body = name.clone();
    Backend::start_at(&name, ([127, 0, 0, 2 + n], port).into(), move |_| super::support::Reply::ok(&body)).await
}

fn builder() -> Builder {
    Proxy::builder().top("[admin]\naddress = \"127.0.0.1:0\"").table("persistence", "verdict_header = \"verdict\"")
}

/// Starts a proxy in front of the backends of `app.internal`.
fn proxy(dns: &Dns, port: u16, lines: &str) -> Proxy {
    let resolver = dns.resolver();
    builder().discover(&format!("dns = \"{NAME}\"\nport = {port}\n{resolver}\n{FAST}\n{lines}")).start()
}

/// Waits until these are the members of the pool and serve requests; `-` behind the name
/// marks one that drains.
async fn members(proxy: &Proxy, expected: &[&str]) {
    let mut expected: Vec<_> = expected.iter().map(|name| (*name).to_owned()).collect();
    expected.sort();
    until(&format!("the members {expected:?}"), async || {
        let pool = proxy.pool();
        let found = pool
            .backends()
            .iter()
            .map(|backend| format!("{}{}", backend.name(), if backend.live().is_leaving() { " -" } else { "" }));
        let mut found: Vec<_> = found.collect();
        found.sort();
        found == expected
    })
    .await;
    // The snapshot is on its way to the data-path thread, which installs it before it accepts
    // new connections: before the second of two requests, if not before the first.
    proxy.get(None).await;
    proxy.get(None).await;
}

fn verdict(response: &Response) -> &str {
    response.field("verdict").unwrap()
}

/// Returns the pin of a client whose session begins on the backend of this name.
async fn pin_on(proxy: &Proxy, name: &str) -> String {
    let mut pin = None;
    until(&format!("a new session on {name}"), async || {
        let response = proxy.get(None).await;
        pin = response.pin().filter(|_| response.text() == name);
        pin.is_some()
    })
    .await;
    pin.unwrap()
}

async fn is_hit(proxy: &Proxy, pin: &str, name: &str) {
    let response = proxy.get(Some(pin)).await;
    assert_eq!((response.text().as_str(), verdict(&response)), (name, "hit"));
}

/// Returns the backends that serve so many new clients.
async fn news(proxy: &Proxy, count: usize) -> Vec<String> {
    let mut served = Vec::new();
    for _ in 0..count {
        let response = proxy.get(None).await;
        assert_eq!(response.status, 200);
        served.push(response.text());
    }
    served.sort();
    served.dedup();
    served
}

async fn source(proxy: &Proxy) -> serde_json::Value {
    let status: serde_json::Value = serde_json::from_str(&proxy.ask("GET", "/api/v1/status", "").await.text()).unwrap();
    status["pools"][0]["discover"][0].clone()
}

async fn metric(proxy: &Proxy, name: &str) -> u64 {
    let line = format!("{name}{{pool=\"app\",source=\"{NAME}\"}} ");
    let text = proxy.ask("GET", "/metrics", "").await.text();
    text.lines().find_map(|each| each.strip_prefix(&line)).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_discovered_backend_gets_new_clients_and_moves_no_session() {
    let (port, all) = backends(3).await;
    let names: Vec<_> = all.iter().map(Backend::name).collect();
    let dns = Dns::start(&[(NAME, "127.0.0.2"), (NAME, "127.0.0.3")], &[]).await;
    let proxy = proxy(&dns, port, "");
    members(&proxy, &names[..2]).await;
    let (one, two) = (pin_on(&proxy, names[0]).await, pin_on(&proxy, names[1]).await);
    let mut client = proxy.client_with(&one).await;
    assert_eq!(client.get("/").await.text(), names[0]);
    // The operator's admin state stays.
    proxy.live(names[1]).set_state(AdminState::Drain);
    proxy.live(names[0]).set_weight(3);

    dns.knows(&[(NAME, "127.0.0.4"), (NAME, "127.0.0.3"), (NAME, "127.0.0.2")]).await;
    members(&proxy, &names).await;
    pin_on(&proxy, names[2]).await;
    is_hit(&proxy, &one, names[0]).await;
    is_hit(&proxy, &two, names[1]).await;
    assert_eq!(client.get("/").await.text(), names[0], "on a connection that was there before");
    assert_eq!(news(&proxy, 12).await, [names[0], names[2]]);
    assert_eq!((proxy.live(names[0]).weight(), proxy.live(names[1]).state()), (3, AdminState::Drain));
    assert_eq!((source(&proxy).await["found"].as_u64(), metric(&proxy, "linchpin_discovery_up").await), (Some(3), 1));
}

#[tokio::test]
async fn a_removed_backend_keeps_its_sessions_while_it_drains_and_is_another_server_after_that() {
    let (port, all) = backends(2).await;
    let names: Vec<_> = all.iter().map(Backend::name).collect();
    let both = [(NAME, "127.0.0.2"), (NAME, "127.0.0.3")];
    let dns = Dns::start(&both, &[]).await;
    // One proxy with a short drain, and one with a long one.
    let (hasty, patient) = (proxy(&dns, port, "drain = \"2s\""), proxy(&dns, port, "drain = \"1h\""));
    members(&hasty, &names).await;
    members(&patient, &names).await;
    let (pin, kept) = (pin_on(&hasty, names[1]).await, pin_on(&patient, names[1]).await);

    dns.knows(&both[..1]).await;
    members(&patient, &[names[0], &format!("{} -", names[1])]).await;
    is_hit(&patient, &kept, names[1]).await;
    assert_eq!(news(&patient, 6).await, [names[0]]);

    members(&hasty, &names[..1]).await;
    let response = hasty.get(Some(&pin)).await;
    assert_eq!((response.text().as_str(), verdict(&response)), (names[0], "moved; cause=unknown"));

    // A backend that returns during its drain is the same one.
    dns.knows(&both).await;
    members(&patient, &names).await;
    is_hit(&patient, &kept, names[1]).await;
    assert_eq!(news(&patient, 6).await, names);

    // After the drain, another server may have its address: old pins don't hold on it.
    members(&hasty, &names).await;
    assert_eq!(verdict(&hasty.get(Some(&pin)).await), "moved; cause=replaced");
    let fresh = pin_on(&hasty, names[1]).await;
    is_hit(&hasty, &fresh, names[1]).await;
}

#[tokio::test]
async fn a_killed_dns_server_removes_no_backend_and_is_queried_again_after_its_restart() {
    let (port, all) = backends(2).await;
    let names: Vec<_> = all.iter().map(Backend::name).collect();
    let mut dns = Dns::start(&[(NAME, "127.0.0.2")], &[]).await;
    let proxy = proxy(&dns, port, "");
    members(&proxy, &names[..1]).await;
    let pin = pin_on(&proxy, names[0]).await;

    dns.kill().await;
    until("the failure to be counted", async || metric(&proxy, "linchpin_discovery_failures_total").await > 0).await;
    assert_eq!(metric(&proxy, "linchpin_discovery_up").await, 0);
    assert!(source(&proxy).await["error"].is_string());
    members(&proxy, &names[..1]).await;
    is_hit(&proxy, &pin, names[0]).await;
    assert_eq!(news(&proxy, 3).await, [names[0]]);

    // Earlier: a child process that serves a TCP client keeps the DNS server from noticing the change.
    dns.knows(&[(NAME, "127.0.0.2"), (NAME, "127.0.0.3")]).await;
    dns.restart().await;
    members(&proxy, &names).await;
    assert_eq!(metric(&proxy, "linchpin_discovery_up").await, 1);
    is_hit(&proxy, &pin, names[0]).await;
}

#[tokio::test]
async fn a_name_that_no_longer_exists_and_an_answer_without_records_are_not_believed() {
    let (port, all) = backends(1).await;
    let name = all[0].name();
    for (records, error) in
        [(&[][..], "the name does not exist"), (&["--txt-record=app.internal,x"][..], "not believed yet")]
    {
        let dns = Dns::start(&[(NAME, "127.0.0.2")], records).await;
        let proxy = proxy(&dns, port, "drain = \"0s\"");
        members(&proxy, &[name]).await;
        let pin = pin_on(&proxy, name).await;
        dns.knows(&[]).await;
        // For some queries.
        let mut looks = 0;
        until("the failure to be reported", async || {
            let source = source(&proxy).await;
            looks += u32::from(source["ok"] == false && source["error"].as_str().unwrap().contains(error));
            looks > 20
        })
        .await;
        is_hit(&proxy, &pin, name).await;
        assert_eq!(news(&proxy, 2).await, [name]);
    }
}

#[tokio::test]
async fn an_answer_holds_for_its_time_to_live() {
    let dns = Dns::start(&[(NAME, "127.0.0.2")], &[]).await;
    let resolver = dns.resolver();
    let begun = Instant::now();
    // The server's time to live is one second.
    let lines = format!("dns = \"{NAME}\"\nport = 80\n{resolver}\nmin_interval = \"100ms\"");
    let proxy = builder().discover(&lines).start();
    until("four answers", async || metric(&proxy, "linchpin_discovery_answers_total").await >= 4).await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(2900), "{took:?}");
    assert_eq!(metric(&proxy, "linchpin_discovery_failures_total").await, 0);
}

#[tokio::test]
async fn an_answer_too_long_for_udp_arrives_over_tcp_and_is_used_up_to_max_backends() {
    let ips: Vec<_> = (1..=150).map(|n| format!("127.0.1.{n}")).collect();
    let hosts: Vec<_> = ips.iter().map(|ip| (NAME, ip.as_str())).collect();
    let dns = Dns::start(&hosts, &[]).await;
    for (lines, count) in [("", 150), ("max_backends = 100", 100)] {
        let proxy = proxy(&dns, 80, lines);
        until("all are found", async || proxy.pool().backends().len() == count).await;
        assert_eq!(source(&proxy).await["found"].as_u64(), Some(count as u64));
        // No TCP connection is kept, on which the server would still answer with its old data.
        dns.knows(&hosts[..140]).await;
        let rest = count.min(140);
        until("the new number of backends", async || source(&proxy).await["found"].as_u64() == Some(rest as u64)).await;
        dns.knows(&hosts).await;
    }
}

#[tokio::test]
async fn addresses_of_both_kinds_are_found() {
    let dns = Dns::start(&[(NAME, "127.0.0.2"), (NAME, "::1")], &[]).await;
    for (kind, expected) in [
        ("a", &["app-127.0.0.2-80"][..]),
        ("aaaa", &["app---1-80"][..]),
        ("a+aaaa", &["app-127.0.0.2-80", "app---1-80"][..]),
    ] {
        let proxy = proxy(&dns, 80, &format!("type = \"{kind}\""));
        members(&proxy, expected).await;
    }
    let proxy = proxy(&dns, 80, "prefix = \"web\"");
    members(&proxy, &["web-127.0.0.2-80"]).await;
}

#[tokio::test]
async fn an_srv_target_keeps_its_name_at_a_new_address_and_is_another_server() {
    let (port, all) = backends(3).await;
    let at: Vec<_> = all.iter().map(Backend::name).collect();
    let record = |target: &str, priority, weight| {
        format!("--srv-host=_app._tcp.internal,{target}.internal,{port},{priority},{weight}")
    };
    let records = [record("web-0", 1, 3), record("web-1", 1, 1), record("spare", 2, 1)];
    let records: Vec<_> = records.iter().map(String::as_str).collect();
    let hosts = [("web-0.internal", "127.0.0.2"), ("web-1.internal", "127.0.0.3"), ("spare.internal", "127.0.0.9")];
    let dns = Dns::start(&hosts, &records).await;
    let lines = format!("dns = \"_app._tcp.internal\"\ntype = \"srv\"\n{}\n{FAST}", dns.resolver());
    let proxy = builder().discover(&lines).start();
    let name = |host: &str| format!("{host}.internal-{port}");
    let (first, second, spare) = (name("web-0"), name("web-1"), name("spare"));
    members(&proxy, &[&first, &second, &spare]).await;
    assert_eq!((proxy.live(&first).weight(), proxy.live(&second).weight()), (3, 1));
    let pool = proxy.pool();
    let is_backup = |name: &str| pool.backend(pool.position(name).unwrap()).is_backup();
    assert!(!is_backup(&first) && !is_backup(&second) && is_backup(&spare));
    let (one, two) = (pin_on(&proxy, at[0]).await, pin_on(&proxy, at[1]).await);

    // web-0 restarts at another address: it is another server under the old name.
    dns.knows(&[("web-0.internal", "127.0.0.4"), hosts[1], hosts[2]]).await;
    let address = format!("127.0.0.4:{port}");
    until("the new address", async || {
        let pool = proxy.pool();
        pool.backend(pool.position(&first).unwrap()).address().to_string() == address
    })
    .await;
    members(&proxy, &[&first, &second, &spare]).await;
    assert_eq!(verdict(&proxy.get(Some(&one)).await), "moved; cause=replaced");
    is_hit(&proxy, &two, at[1]).await;
    let fresh = pin_on(&proxy, at[2]).await;
    is_hit(&proxy, &fresh, at[2]).await;
}

#[tokio::test]
async fn until_the_first_answer_it_is_not_ready_and_sends_retry_after() {
    let (port, all) = backends(1).await;
    let mut dns = Dns::new(&[]);
    let proxy = proxy(&dns, port, "");
    let response = proxy.get(None).await;
    assert_eq!((response.status, response.field("retry-after")), (503, Some("5")));
    let response = proxy.ask("GET", "/readyz", "").await;
    assert_eq!((response.status, response.text().as_str()), (503, "starting"));
    dns.knows(&[(NAME, "127.0.0.2")]).await;
    dns.restart().await;
    until("it is ready", async || proxy.ask("GET", "/readyz", "").await.status == 200).await;
    members(&proxy, &[all[0].name()]).await;
    assert_eq!(proxy.get(None).await.text(), all[0].name());
}

#[tokio::test]
async fn without_an_answer_it_is_ready_after_a_while_with_its_configured_backends() {
    let backend = Backend::named("a").await;
    let dns = Dns::new(&[]);
    let lines = format!("dns = \"{NAME}\"\nport = 80\n{}\n{FAST}", dns.resolver());
    let proxy = builder().backend(&backend, "").discover(&lines).start();
    assert_eq!(proxy.get(None).await.text(), "a");
    assert_eq!(proxy.ask("GET", "/readyz", "").await.status, 503);
    until("it is ready", async || proxy.ask("GET", "/readyz", "").await.status == 200).await;
}

#[tokio::test]
async fn probes_begin_and_end_with_their_backends() {
    let (port, mut all) = backends(2).await;
    let names = [all[0].name().to_owned(), all[1].name().to_owned()];
    let dns = Dns::start(&[(NAME, "127.0.0.2")], &[]).await;
    let probes = "path = \"/probe\"\ninterval = \"20ms\"\ntimeout = \"10s\"\nrise = 1\nfall = 1";
    let lines = format!("dns = \"{NAME}\"\nport = {port}\n{}\n{FAST}\ndrain = \"0s\"", dns.resolver());
    let proxy = builder().table("health", probes).discover(&lines).start();
    until("the first is probed", async || all[0].count() > 2).await;
    assert_eq!(all[1].count(), 0);
    dns.knows(&[(NAME, "127.0.0.2"), (NAME, "127.0.0.3")]).await;
    until("the second is probed", async || all[1].count() > 2).await;
    drop(all.remove(0));
    proxy.health(&names[0], linchpin::pool::Health::Down).await;
    assert_eq!(news(&proxy, 4).await, [names[1].as_str()]);

    dns.knows(&[(NAME, "127.0.0.3")]).await;
    members(&proxy, &[&names[1]]).await;
    let removed = backend(0, port).await;
    let before = all[0].count();
    until("more probes of the other backend", async || all[0].count() > before + 5).await;
    assert_eq!(removed.count(), 0, "a removed backend gets no probes");
}

/// Starts backends that a file names; each responds with its name.
async fn of_file(folder: &Folder, text: &str) -> Proxy {
    let path = folder.write("backends.txt", text.as_bytes());
    builder().discover(&format!("file = \"{path}\"\ndrain = \"0s\"")).start()
}

#[tokio::test]
async fn changes_of_a_file_apply_whichever_way_it_is_written() {
    let three = Backend::three().await;
    let line = |n: usize| format!("{} {}\n", three[n].name(), three[n].address());
    let folder = Folder::new();
    let proxy = of_file(&folder, &line(0)).await;
    members(&proxy, &["a"]).await;
    let pin = pin_on(&proxy, "a").await;

    // Written in place.
    folder.write("backends.txt", format!("{}{}", line(0), line(1)).as_bytes());
    members(&proxy, &["a", "b"]).await;
    // Replaced by another file of the same name.
    let next = folder.write("next", format!("{}{}", line(0), line(2)).as_bytes());
    std::fs::rename(next, folder.file("backends.txt")).unwrap();
    members(&proxy, &["a", "c"]).await;
    // By a symbolic link to another file, as in a mounted ConfigMap.
    let elsewhere = folder.write("elsewhere", format!("{}{}# and no c", line(0), line(1)).as_bytes());
    std::os::unix::fs::symlink(elsewhere, folder.file("link")).unwrap();
    std::fs::rename(folder.file("link"), folder.file("backends.txt")).unwrap();
    members(&proxy, &["a", "b"]).await;
    is_hit(&proxy, &pin, "a").await;
}

#[tokio::test]
async fn a_broken_or_missing_file_changes_nothing() {
    let three = Backend::three().await;
    let line = |n: usize| format!("{} {}\n", three[n].name(), three[n].address());
    let folder = Folder::new();
    let proxy = of_file(&folder, &line(0)).await;
    members(&proxy, &["a"]).await;
    let error = async |part: &str| {
        until(part, async || source(&proxy).await["error"].as_str().is_some_and(|error| error.contains(part))).await;
        members(&proxy, &["a"]).await;
        assert_eq!(proxy.get(None).await.text(), "a");
    };
    folder.write("backends.txt", format!("{}b nowhere\n", line(1)).as_bytes());
    error("line 2: ").await;
    std::fs::remove_file(folder.file("backends.txt")).unwrap();
    error("can't be read").await;
    folder.write("backends.txt", b"# nobody\n");
    error("not believed yet").await;
    folder.write("backends.txt", line(2).as_bytes());
    members(&proxy, &["c"]).await;
    assert_eq!(source(&proxy).await["error"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_discovered_backend_never_replaces_a_configured_one() {
    let [a, b, c] = Backend::three().await;
    let folder = Folder::new();
    let found = format!("a {}\nx {}\nc {}\n", c.address(), a.address(), b.address());
    let path = folder.write("backends.txt", found.as_bytes());
    let proxy = builder().backend(&a, "").discover(&format!("file = \"{path}\"")).start();
    members(&proxy, &["a", "c"]).await;
    assert_eq!(news(&proxy, 4).await, ["a", "b"], "`c` is where b listens");
    assert_eq!(c.count(), 0);
}

#[tokio::test]
async fn learned_sessions_stay_when_backends_come_and_go() {
    let answer = |name: &'static str| {
        move |_: &super::support::backend::Seen| {
            super::support::Reply::new(200, &format!("set-cookie: SID={name}\r\n"), name)
        }
    };
    let one = Backend::start("one", answer("one")).await;
    let two = Backend::start("two", answer("two")).await;
    let folder = Folder::new();
    let path = folder.write("backends.txt", format!("one {}\n", one.address()).as_bytes());
    let learned = "type = \"learned\"\nlearned = { cookie = \"SID\" }\nverdict_header = \"verdict\"";
    let proxy = Proxy::builder().table("persistence", learned).discover(&format!("file = \"{path}\"")).start();
    members(&proxy, &["one"]).await;
    assert_eq!(proxy.get(None).await.text(), "one");
    folder.write("backends.txt", format!("one {}\ntwo {}\n", one.address(), two.address()).as_bytes());
    members(&proxy, &["one", "two"]).await;
    for _ in 0..4 {
        let response = proxy.client().await.request("GET", "/", "cookie: SID=one\r\n", b"").await;
        assert_eq!((response.text().as_str(), verdict(&response)), ("one", "hit"));
    }
}

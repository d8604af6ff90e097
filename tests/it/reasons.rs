//! Why a backend is not to be had: in the log, the status, the metrics and the access record, in the same words.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use linchpin::pool::{AdminState, Health};
use serde_json::Value;

use super::support::authority::Authority;
use super::support::keys::pin;
use super::support::process::Running;
use super::support::tool::Folder;
use super::support::{Backend, Client, Keys, Proxy, Reply, until};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"";
/// Probes without a pause, and patient with a slow machine.
const PROBES: &str = "interval = \"10ms\"\ntimeout = \"10s\"";

async fn status(proxy: &Proxy) -> Value {
    serde_json::from_str(&proxy.ask("GET", "/api/v1/status", "").await.text()).unwrap()
}

/// What the status says of the backend at this place of the first pool.
async fn told(proxy: &Proxy, backend: usize) -> Value {
    status(proxy).await["pools"][0]["backends"][backend].clone()
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    Backend::named("gone").await.kill().await
}

async fn metrics(proxy: &Proxy) -> String {
    proxy.ask("GET", "/metrics", "").await.text()
}

/// A log of requests in a file, and what it says once the proxy has ended.
struct Records(Folder);

impl Records {
    fn new() -> Records {
        Records(Folder::new())
    }

    fn table(&self, format: &str) -> String {
        format!("[log]\nformat = \"{format}\"\naccess = {:?}\n{ADMIN}", self.0.file("access.log"))
    }

    async fn read(&self, proxy: Proxy) -> Vec<Value> {
        proxy.stop().await;
        let log = std::fs::read_to_string(self.0.file("access.log")).unwrap();
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// What backends that fail do, and the words for it.
async fn failing() -> [(Backend, &'static str); 4] {
    [
        (Backend::start("a", |_| Reply::new(404, "", "")).await, "unexpected status 404"),
        (Backend::start("a", |_| Reply::Hang).await, "timed out after 2s"),
        (Backend::start("a", |_| Reply::Close).await, "connection closed before the response"),
        (Backend::start("a", |_| Reply::Last(b"what?\r\n\r\n"[..].into())).await, "malformed response head"),
    ]
}

#[tokio::test]
async fn status_says_why_a_backend_is_down_and_since_when() {
    let b = Backend::named("b").await;
    let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for (a, why) in failing().await {
        let health = "interval = \"20ms\"\ntimeout = \"2s\"";
        let proxy = Proxy::builder().top(ADMIN).backend(&a, "").backend(&b, "").table("health", health).start();
        proxy.health("a", Health::Down).await;
        let down = told(&proxy, 0).await;
        assert_eq!((down["health"].as_str(), down["reason"].as_str()), (Some("down"), Some(why)), "{down}");
        let check = &down["last_check"];
        assert_eq!((check["ok"].as_bool(), check["error"].as_str()), (Some(false), Some(why)), "{down}");
        assert!(check["duration_ms"].as_f64().is_some_and(|millis| millis >= 0.0), "{down}");
        assert_eq!(
            (down["last_failure"]["error"].as_str(), down["last_failure"]["by"].as_str()),
            (Some(why), Some("probe"))
        );
        for time in [&down["since"], &check["time"], &down["last_failure"]["time"]] {
            assert!(time.as_u64().is_some_and(|time| time >= started), "{down}");
        }
        until("b was checked", async || told(&proxy, 1).await["last_check"]["ok"] == true).await;
        let up = told(&proxy, 1).await;
        assert_eq!((&up["reason"], &up["last_failure"]), (&Value::Null, &Value::Null), "{up}");
        assert_eq!(
            (up["last_check"]["status"].as_u64(), &up["last_check"]["error"]),
            (Some(200), &Value::Null),
            "{up}"
        );
        assert_eq!(status(&proxy).await["pools"][0]["available"], 1);
    }
}

/// A process of Linchpin, and all lines of its log so far.
struct Logged {
    running: Running,
    lines: Vec<String>,
}

impl Logged {
    fn begin(text: &str) -> Logged {
        Logged { running: Running::begin(text, Stdio::null(), &[]), lines: Vec::new() }
    }

    async fn next(&mut self) -> Option<&str> {
        let line = self.running.next_line().await?;
        self.lines.push(line);
        self.lines.last().map(String::as_str)
    }

    /// Reads up to the next line that contains these words.
    async fn line(&mut self, words: &str) -> String {
        loop {
            let line = self.next().await.unwrap_or_else(|| panic!("no line says {words:?}"));
            if line.contains(words) {
                return line.to_owned();
            }
        }
    }

    async fn address(&mut self) -> SocketAddr {
        self.line("listening address=").await.rsplit('=').next().unwrap().parse().unwrap()
    }

    /// Ends the process, and returns the lines that contain these words.
    async fn all(mut self, words: &str) -> Vec<String> {
        self.running.signal("TERM").await;
        while self.next().await.is_some() {}
        self.lines.retain(|line| line.contains(words));
        self.lines
    }
}

#[tokio::test]
async fn the_log_says_once_why_a_backend_goes_and_comes_and_how_many_remain() {
    let refused = nobody().await;
    let b = Backend::named("b").await;
    let text = Proxy::builder().backend_at("a", refused, "").backend(&b, "").table("health", PROBES).text();
    let mut log = Logged::begin(&text);
    let line = log.line("was never up").await;
    for words in
        ["WARN", "backend=\"a\"", "reason=\"connection refused\"", "remaining=1 of=2", "by=\"probes\"", "since=20"]
    {
        assert!(line.contains(words), "{words}: {line}");
    }
    let a = Backend::start_at("a", refused, |_| Reply::ok("a")).await;
    let line = log.line("backend is up").await;
    for words in ["backend=\"a\"", "was=\"down\"", "lasted=", "remaining=2 of=2"] {
        assert!(line.contains(words), "{words}: {line}");
    }
    a.kill().await;
    let line = log.line("backend is down").await;
    assert!(line.contains("reason=\"connection re") && line.contains("remaining=1 of=2"), "{line}");
    b.kill().await;
    let line = log.line("no backend is left").await;
    assert!(line.contains("ERROR") && line.contains("backend=\"b\"") && line.contains("remaining=0 of=2"), "{line}");
    let all = log.all("pool=\"app\"").await;
    assert_eq!(all.len(), 4, "each change once: {all:#?}");
}

#[tokio::test]
async fn of_many_backends_that_fail_at_once_the_log_names_a_hundred() {
    let refused = nobody().await;
    let builder = (0..250).fold(Proxy::builder().top(ADMIN), |builder, number| {
        builder.backend_at(&format!("b{number}"), ([127, 0, 1, number], refused.port()).into(), "")
    });
    let mut log = Logged::begin(&builder.table("health", "interval = \"1s\"\ntimeout = \"10s\"").text());
    let admin = log.line("admin address=").await.rsplit('=').next().unwrap().parse().unwrap();
    until("all are down", async || {
        let mut client = Client::connect(admin).await;
        client.send(b"GET /api/v1/status HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        let status: Value = serde_json::from_str(&client.response().await.text()).unwrap();
        status["pools"][0]["available"] == 0
    })
    .await;
    let named = log.all("backend was never up").await;
    // A slow machine may need a second span of ten seconds.
    assert!((100..=200).contains(&named.len()), "{}", named.len());
}

#[tokio::test]
async fn a_backend_that_is_up_again_has_no_reason_and_its_last_failure_stays() {
    let refused = nobody().await;
    let proxy = Proxy::builder().top(ADMIN).backend_at("a", refused, "").table("health", PROBES).start();
    proxy.health("a", Health::Down).await;
    let down = told(&proxy, 0).await;
    let _a = Backend::start_at("a", refused, |_| Reply::ok("a")).await;
    proxy.health("a", Health::Up).await;
    let up = told(&proxy, 0).await;
    assert_eq!((&down["reason"], &up["reason"]), (&"connection refused".into(), &Value::Null), "{up}");
    assert_eq!((&up["last_failure"]["error"], &up["last_check"]["ok"]), (&"connection refused".into(), &true.into()));
    assert!(up["since"].as_u64() >= down["since"].as_u64(), "{up}");
}

/// A proxy that shows a certificate for `name`, in front of a backend, and the authority that vouches for it.
async fn behind_tls(folder: &Folder, name: &str, more: &str) -> (Proxy, Backend) {
    let authority = Authority::new("root");
    std::fs::write(folder.file("ca.pem"), authority.pem()).unwrap();
    std::fs::write(folder.file("other.pem"), Authority::new("other").pem()).unwrap();
    authority.issue(&[name]).write(Path::new(&folder.file("")), "server");
    authority
        .issue_with(&[name], |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1))
        .write(Path::new(&folder.file("")), "expired");
    let which = if more == "expired" { "expired" } else { "server" };
    let (cert, key) = (folder.file(&format!("{which}.pem")), folder.file(&format!("{which}.key")));
    let asks = if more == "asks" { format!("client_ca = {:?}\n", folder.file("ca.pem")) } else { String::new() };
    let a = Backend::named("a").await;
    let listener =
        format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n[listeners.tls]\ncert = {cert:?}\nkey = {key:?}\n{asks}");
    let proxy = Proxy::builder().top(&listener).backend(&a, "").start();
    (proxy, a)
}

#[tokio::test]
async fn tls_that_comes_to_nothing_has_its_name_in_status_and_record() {
    for (name, more, ca, why) in [
        ("127.0.0.1", "", "other.pem", "certificate: unknown issuer"),
        ("127.0.0.2", "", "ca.pem", "certificate: not valid for name"),
        ("127.0.0.1", "expired", "ca.pem", "certificate: expired"),
        ("127.0.0.1", "asks", "ca.pem", "TLS: alert received: certificate required"),
    ] {
        let folder = Folder::new();
        let (server, _a) = behind_tls(&folder, name, more).await;
        let (records, tls) = (Records::new(), format!("ca = {:?}", folder.file(ca)));
        let builder = || Proxy::builder().table("upstream.tls", &tls).backend_at("a", server.listener(0), "");
        // Found out by a request, by way of a probe, and by a request after that.
        let proxy = builder().top(&records.table("json")).start();
        assert!(proxy.get(None).await.status >= 502, "{why}");
        let told_of = told(&proxy, 0).await;
        assert_eq!(told_of["last_failure"]["error"], why, "{told_of}");
        assert_eq!(records.read(proxy).await[0]["error"], why);

        let records = Records::new();
        let proxy = builder().top(&records.table("json")).table("health", PROBES).start();
        proxy.health("a", Health::Down).await;
        assert_eq!(told(&proxy, 0).await["reason"], why);
        assert_eq!(proxy.get(None).await.status, 503);
        assert_eq!(records.read(proxy).await[0]["error"], format!("no backend is up: {why}"));
    }
}

#[tokio::test]
async fn a_backend_that_speaks_no_tls_is_said_not_to() {
    let a = Backend::named("a").await;
    let (server, records) = (Proxy::before(&[&a]), Records::new());
    let builder = Proxy::builder().table("upstream.tls", "verify = false").backend_at("a", server.address(), "");
    let proxy = builder.top(&records.table("json")).start();
    assert_eq!(proxy.get(None).await.status, 503);
    assert_eq!(records.read(proxy).await[0]["error"], "TLS: not spoken");
}

#[tokio::test]
async fn the_record_says_what_the_last_attempt_failed_with() {
    let records = Records::new();
    let program = |seen: &super::support::backend::Seen| match seen.path() {
        "/slow" => Reply::Hang,
        "/close" => Reply::Close,
        "/what" => Reply::Last(b"what?\r\n\r\n"[..].into()),
        _ => Reply::ok("a"),
    };
    let a = Backend::start("a", program).await;
    let proxy =
        Proxy::builder().top(&records.table("json")).table("timeouts", "response = \"2s\"").backend(&a, "").start();
    for path in ["/slow", "/close", "/what", "/"] {
        proxy.client().await.get(path).await;
    }
    a.kill().await;
    proxy.get(None).await;
    let errors: Vec<_> = records.read(proxy).await.iter().map(|record| record["error"].clone()).collect();
    let close = "connection closed before the response";
    assert_eq!(
        errors[..4],
        [Value::from("response timed out after 2s"), close.into(), "malformed response head".into(), Value::Null]
    );
    assert!(errors[4].as_str().unwrap().starts_with("connection re"), "{errors:?}");
}

#[tokio::test]
async fn in_a_line_of_text_the_words_are_quoted() {
    let records = Records::new();
    let proxy = Proxy::builder().top(&records.table("text")).backend_at("a", nobody().await, "").start();
    assert_eq!(proxy.get(None).await.status, 503);
    proxy.stop().await;
    let log = std::fs::read_to_string(records.0.file("access.log")).unwrap();
    assert!(log.contains(" error=\"connection refused\" protocol="), "{log}");
}

#[tokio::test]
async fn the_record_of_a_moved_request_says_from_where() {
    let (b, keys, records) = (Backend::named("b").await, Keys::new(&[1]), Records::new());
    let top = format!("{}\n{}", keys.tables(), records.table("json"));
    let builder = Proxy::builder().top(&top).backend_at("a", nobody().await, "").backend(&b, "");
    let proxy = builder.start();
    let cookie = keys.cookie(&pin(&proxy, "a", 7));
    let mut client = proxy.client_with(&cookie).await;
    assert_eq!(client.get("/").await.text(), "b");
    client.get("/").await;
    let records = records.read(proxy).await;
    assert_eq!(
        (&records[0]["verdict"], &records[0]["moved_from"], &records[0]["backend"]),
        (&"moved".into(), &"a".into(), &"b".into())
    );
    assert_eq!((&records[1]["verdict"], &records[1]["moved_from"]), (&"hit".into(), &Value::Null));
}

#[tokio::test]
async fn requests_for_which_no_backend_is_asked_are_counted_by_reason() {
    let a = Backend::named("a").await;
    let maintenance = "state = \"maintenance\"";
    for (lines, health, reason, error) in [
        (maintenance, "", "maintenance", "no backend is out of maintenance"),
        ("weight = 0", "", "draining", "no backend takes new sessions"),
        (
            "",
            "path = \"/\"\nexpect = [500]\ninterval = \"10ms\"\ntimeout = \"10s\"",
            "all_down",
            "no backend is up: unexpected status 200",
        ),
    ] {
        let records = Records::new();
        let mut builder = Proxy::builder().top(&records.table("json")).backend(&a, lines);
        if !health.is_empty() {
            builder = builder.table("health", health);
        }
        let proxy = builder.start();
        if reason == "all_down" {
            proxy.health("a", Health::Down).await;
        }
        assert_eq!((proxy.get(None).await.status, proxy.get(None).await.status), (503, 503), "{reason}");
        let pool = status(&proxy).await["pools"][0].clone();
        assert_eq!(pool["refused"][reason], 2, "{pool}");
        assert_eq!(pool["available"], usize::from(reason == "draining"), "{pool}");
        let line = format!("linchpin_refused_total{{pool=\"app\",reason=\"{reason}\"}} 2");
        assert!(metrics(&proxy).await.contains(&line), "{line}");
        assert_eq!(records.read(proxy).await[1]["error"], error);
    }
}

#[tokio::test]
async fn a_pool_without_servers_says_so_and_counts_who_came() {
    let (folder, records) = (Folder::new(), Records::new());
    let file = folder.write("backends", b"# none yet\n");
    let proxy = Proxy::builder().top(&records.table("json")).discover(&format!("file = {file:?}")).start();
    assert_eq!(proxy.get(None).await.status, 503);
    let pool = status(&proxy).await["pools"][0].clone();
    assert_eq!((&pool["available"], &pool["refused"]["no_servers"]), (&0.into(), &1.into()), "{pool}");
    assert!(metrics(&proxy).await.contains("linchpin_available_backends{pool=\"app\"} 0"));
    assert_eq!(records.read(proxy).await[0]["error"], "no backend: the pool has none");
}

#[tokio::test]
async fn maintenance_is_not_up() {
    let [a, b, _] = Backend::three().await;
    let builder = || Proxy::builder().top(ADMIN).backend(&a, "state = \"maintenance\"").backend(&b, "");
    let proxy = builder().start();
    let pool = status(&proxy).await["pools"][0].clone();
    let maintained = &pool["backends"][0];
    assert_eq!((&maintained["state"], &maintained["health"]), (&"maintenance".into(), &"unknown".into()), "{pool}");
    assert_eq!(pool["available"], 1, "{pool}");
    let metrics = metrics(&proxy).await;
    for line in [
        "linchpin_backend_up{pool=\"app\",backend=\"a\"} 0",
        "linchpin_backend_up{pool=\"app\",backend=\"b\"} 1",
        "linchpin_backend_state{pool=\"app\",backend=\"a\",state=\"maintenance\"} 1",
        "linchpin_backend_state{pool=\"app\",backend=\"a\",state=\"ready\"} 0",
        "linchpin_backend_state{pool=\"app\",backend=\"b\",state=\"ready\"} 1",
        "linchpin_available_backends{pool=\"app\"} 1",
    ] {
        assert!(metrics.lines().any(|each| each == line), "{line}\n{metrics}");
    }
    let mut running = Running::begin(&builder().text(), Stdio::null(), &[]);
    let line = running.line("backend is in maintenance").await;
    assert!(line.contains("backend=\"a\"") && line.contains("remaining=1 of=2"), "{line}");
}

#[tokio::test]
async fn an_ejection_says_which_failures_of_how_many_clients_it_is_for() {
    let ill = Arc::new(AtomicBool::new(true));
    let is_ill = Arc::clone(&ill);
    let program = move |_: &_| if is_ill.load(Ordering::Relaxed) { Reply::Close } else { Reply::ok("a") };
    let (a, b, keys) = (Backend::start("a", program).await, Backend::named("b").await, Keys::new(&[1]));
    let builder =
        Proxy::builder().top(&format!("{}\n{ADMIN}", keys.tables())).table("ejection", "consecutive_failures = 3");
    let proxy = builder.table("retry", "budget = \"1000%\"").backend(&a, "").backend(&b, "").start();
    for session in 7..=9 {
        let cookie = keys.cookie(&pin(&proxy, "a", session));
        assert_eq!(proxy.get(Some(&cookie)).await.text(), "b");
    }
    let ejected = told(&proxy, 0).await;
    let why = "3 requests in a row failed, of 3 clients: connection closed before the response";
    assert_eq!((&ejected["health"], &ejected["reason"]), (&"ejected".into(), &why.into()), "{ejected}");
    assert_eq!(ejected["last_failure"]["by"], "request");
}

#[tokio::test]
async fn an_only_backend_that_fails_its_requests_is_said_to_fail_and_to_answer_again() {
    let gone = nobody().await;
    let top = format!("[log]\naccess = \"off\"\n{ADMIN}");
    let text =
        Proxy::builder().top(&top).table("ejection", "consecutive_failures = 3").backend_at("a", gone, "").text();
    let mut running = Running::start(&text, Stdio::null()).await;
    for _ in 0..5 {
        assert_eq!(running.client().await.get("/").await.status, 503);
    }
    let line = running.line("backend fails, and is kept").await;
    assert!(line.contains("reason=\"3 requests in a row failed: connection refused\""), "{line}");
    let _a = Backend::start_at("a", gone, |_| Reply::ok("a")).await;
    assert_eq!(running.client().await.get("/").await.status, 200);
    running.line("backend serves again").await;

    let proxy = Proxy::builder()
        .top(ADMIN)
        .table("ejection", "consecutive_failures = 3")
        .backend_at("a", nobody().await, "")
        .start();
    for _ in 0..3 {
        proxy.get(None).await;
    }
    let kept = told(&proxy, 0).await;
    assert_eq!((&kept["health"], &kept["failing"]), (&"up".into(), &true.into()), "{kept}");
    assert_eq!(kept["reason"], "3 requests in a row failed: connection refused");
}

#[tokio::test]
async fn what_is_known_of_a_backend_outlives_its_maintenance() {
    let a = Backend::start("a", |_| Reply::new(500, "", "")).await;
    let proxy = Proxy::builder().top(ADMIN).backend(&a, "").table("health", PROBES).start();
    proxy.health("a", Health::Down).await;
    proxy.live("a").set_state(AdminState::Maintenance);
    let out = told(&proxy, 0).await;
    assert_eq!((&out["health"], &out["reason"]), (&"unknown".into(), &Value::Null), "{out}");
    proxy.live("a").set_state(AdminState::Ready);
    let back = told(&proxy, 0).await;
    assert_eq!((&back["health"], &back["reason"]), (&"down".into(), &"unexpected status 500".into()), "{back}");
}

/// A client with this cookie asks twice.
async fn comes_with(address: SocketAddr, cookie: &str) {
    let mut client = Client::connect(address).await;
    for _ in 0..2 {
        let response = client.request("GET", "/", &format!("cookie: {cookie}\r\n"), b"").await;
        assert_eq!(response.status, 200);
    }
}

#[tokio::test]
async fn pins_of_unknown_keys_and_routes_of_unknown_servers_are_said_once() {
    let (a, ours, theirs) = (Backend::named("a").await, Keys::new(&[1]), Keys::new(&[2]));
    let proxy = Proxy::builder().top(&theirs.tables()).backend(&a, "").start();
    let cookie = theirs.cookie(&pin(&proxy, "a", 7));
    let mut log = Logged::begin(&Proxy::builder().top(&ours.tables()).backend(&a, "").text());
    let address = log.address().await;
    comes_with(address, &cookie).await;
    comes_with(address, &cookie).await;
    let said = log.all("of a key that is not among [[keys]]").await;
    let [line] = &said[..] else { panic!("{said:#?}") };
    assert!(line.contains("WARN") && line.contains("pool=\"app\"") && !line.contains("linchpin-app"), "{line}");

    let route = "type = \"route\"\nroute = { cookie = \"JSESSIONID\" }";
    let mut log = Logged::begin(&Proxy::builder().table("persistence", route).backend(&a, "route = \"node1\"").text());
    let address = log.address().await;
    for route in ["node1", "node9", "node9"] {
        comes_with(address, &format!("JSESSIONID=5A0F.{route}")).await;
    }
    let said = log.all("name a server that is the `route` of no backend").await;
    let [line] = &said[..] else { panic!("{said:#?}") };
    assert!(line.contains("route=\"node9\"") && !line.contains("5A0F"), "{line}");
}

#[test]
fn learned_sessions_without_a_store_are_said_to_be_forgotten() {
    let learned = "type = \"learned\"\nlearned = { cookie = \"PHPSESSID\" }";
    let address = "127.0.0.1:9001".parse().unwrap();
    let text = Proxy::builder().table("persistence", learned).backend_at("a", address, "").text();
    let (_, report) = linchpin::config::parse(&text, Path::new("x.toml")).unwrap_or_else(|report| panic!("{report}"));
    let said = |words: &str| report.findings().iter().any(|finding| finding.problem.contains(words));
    assert!(said("they are lost when it ends"), "{report}");
}

#[tokio::test]
async fn the_dashboard_says_why_and_is_red_where_a_pool_has_no_server() {
    let (a, refused) = (Backend::named("a").await, nobody().await);
    let text = |builder: super::support::proxy::Builder| builder.top(ADMIN).table("health", PROBES);
    let proxy = text(Proxy::builder().backend_at("x", refused, "").backend(&a, "state = \"maintenance\"")).start();
    proxy.health("x", Health::Down).await;
    let page = super::browser::open(&format!("http://{}/", proxy.admin())).await;
    // Behind the pools are the events, and templates.
    let (head, rest) = page.split_once("<div id=\"pools\"").unwrap();
    let (pools, _) = rest.split_once("<aside").unwrap();
    for words in [
        "class=\"panel pool alarm\"",
        "connection refused",
        "✕ down",
        " · since ",
        "– not probed",
        "✕ no backend is up",
        "refuses every request",
    ] {
        assert!(pools.contains(words), "{words} in {pools}");
    }
    assert!(head.contains("✕ no backend: app") && !head.contains("● live"), "{head}");
}

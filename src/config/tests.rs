//! Owns: the messages of `check` word for word, and that every file in `config/` can run.
//! Invariant: a case is a file and all its findings, so that messages are reviewed as text.
//! Must not know: how a file is read.

use std::path::{Path, PathBuf};

use super::*;
use crate::net::Address;
use crate::{affinity, balance, health, pool, proxy, telemetry};

mod findings;
mod garbage;
mod tls;

/// A valid file for tests to break.
const GOOD: &str = r#"
[[listeners]]
address = "127.0.0.1:8080"
[[pools]]
name = "app"
[pools.persistence]
type = "none"
[[pools.backends]]
name = "a"
address = "127.0.0.1:9001"
"#;

const MINIMAL: &str = include_str!("../../config/minimal.toml");
const FULL: &str = include_str!("../../config/full.toml");

fn origin() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/test.toml")
}

fn plan(text: &str) -> Plan {
    parse(text, &origin()).unwrap_or_else(|report| panic!("{report}")).0
}

/// Creates a folder for one test.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("linchpin-config-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn every_file_in_config_can_be_run() {
    let mut count = 0;
    for entry in std::fs::read_dir(origin().parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        load(&path).unwrap_or_else(|report| panic!("{report}"));
        count += 1;
    }
    assert!(count >= 2);
}

#[test]
fn a_good_file_has_no_findings_but_what_it_lacks() {
    assert_eq!(parse(GOOD, &origin()).unwrap().1.to_string(), "");
    let report = parse(MINIMAL, &origin()).unwrap().1;
    assert_eq!((report.errors(), report.warnings()), (0, 2), "{report}");
}

#[test]
fn the_full_file_shows_every_key_with_its_default() {
    let listener = "[[listeners]]\naddress = \"127.0.0.1:8080\"\n";
    let pool = MINIMAL.split_once("[[pools]]").unwrap().1;
    let (pool, backends) = pool.split_once("[[pools.backends]]").unwrap();
    let omitted = format!(
        "{listener}[admin]\naddress = \"127.0.0.1:9090\"\n[[pools]]{pool}[pools.health]\n[[pools.backends]]{backends}"
    );
    assert_eq!(format!("{:#?}", plan(FULL)), format!("{:#?}", plan(&omitted)));
}

/// Returns the full file with the keys after `#` without a space switched on.
fn switched_on() -> String {
    let line = |line: &str| line.strip_prefix('#').filter(|key| !key.starts_with(' ')).unwrap_or(line).to_owned();
    FULL.lines().map(|each| line(each) + "\n").collect()
}

#[test]
fn the_full_file_has_every_key_there_is() {
    let known = || reader::tests::KNOWN.with_borrow_mut(std::mem::take);
    known();
    let report = parse(&switched_on(), &origin()).unwrap_err();
    let mut known = known();
    // The files that it names do not exist, and not every machine has its group.
    let is_of_socket = |problem: &&str| problem.starts_with("`mode`") || problem.starts_with("`group`");
    let problems = report.findings().iter().map(|finding| finding.problem.as_str());
    let problems: Vec<_> = problems.filter(|problem| !is_of_socket(problem)).collect();
    let (tls, problems): (Vec<&str>, Vec<_>) = problems.iter().partition(|problem| {
        problem.ends_with("(os error 2)") && (problem.contains("certificate file") || problem.contains("CA file"))
    });
    assert!(
        tls.len() == 7
            && report.errors() >= 11
            && problems[0].starts_with("cannot read the file")
            && problems[1..3].iter().all(|it| it.starts_with("cannot read the token file")),
        "{report}"
    );
    assert!(problems[3].starts_with("cannot read the key file"), "{report}");
    assert!(problems[4].ends_with("\"LINCHPIN_KEY\" is not set"), "{report}");
    known.sort();
    known.dedup_by(|later, earlier| {
        later.0 == earlier.0 && {
            earlier.1 |= later.1;
            true
        }
    });
    let missing: Vec<_> = known.iter().filter(|(_, is_there)| !is_there).collect();
    assert!(missing.is_empty() && known.len() > 60, "{missing:?}");
    let rows = synonyms::rows();
    let known: std::collections::BTreeSet<_> = known.into_iter().map(|(key, _)| key).collect();
    assert_eq!(
        (known.difference(&rows).collect::<Vec<_>>(), rows.difference(&known).collect::<Vec<_>>()),
        (Vec::new(), Vec::new()),
        "keys without a row in synonyms/table.rs, and rows without a key"
    );
}

#[test]
fn values_arrive_where_they_belong() {
    let text = r#"
        [server]
        threads = 2
        limits = { header_bytes = "16kib", body_bytes = "10MB", requests_per_client = "90/m", connections_per_client = 9 }
        [log]
        level = "warn,linchpin::health=debug"
        format = "json"
        access = "../src/access.log"
        [admin]
        address = "unix:admin.sock"
        [[listeners]]
        name = "web"
        address = "localhost:0"
        [[listeners]]
        address = "[::1]:8443"
        [[routes]]
        hosts = ["Shop.Example.com", "*.example.org"]
        path_prefix = "/shop/"
        pool = "app"
        persistence = false
        timeouts = { response = "5m" }
        body_bytes = "unlimited"
        strip_prefix = "/shop/"
        request_headers = { set = { "X-A" = "1" }, remove = ["x-b"] }
        [[routes]]
        scheme = "http"
        redirect = { scheme = "https", prefix = "/x/", status = 301 }
        [[pools]]
        name = "app"
        balance = "random_two"
        health = { type = "tcp", interval = "1s", fall = 1 }
        retry = { retry_on = ["timeout", 502, "503", "503"], budget = "30%", replay_limit = "0B" }
        [pools.persistence]
        idle_timeout = "30m"
        absolute_timeout = "1h 30m"
        [pools.persistence.cookie]
        name = "__Host-pin"
        secure = true
        same_site = "none"
        partitioned = true
        lifetime_type = "permanent"
        [pools.ejection]
        max_ejected = 10
        [[pools.backends]]
        name = "a"
        address = "[::1]:9001"
        weight = 0
        state = "drain"
        failover = ["b"]
        [[pools.backends]]
        name = "b"
        address = "127.0.0.1:9001"
        backup = true
    "#;
    let seconds = std::time::Duration::from_secs;
    let plan = plan(text);
    let here = origin().parent().unwrap().to_path_buf();
    assert_eq!(plan.server.threads, 2);
    assert_eq!((plan.server.limits.header_bytes, plan.server.limits.body_bytes), (16 * 1024, 10_000_000));
    assert_eq!(plan.log.access, telemetry::AccessTarget::File(here.join("../src/access.log")));
    assert_eq!(plan.admin.as_ref().unwrap().address, Address::Unix(here.join("admin.sock")));
    assert_eq!(plan.listeners[0].address.to_string(), "127.0.0.1:0");
    assert_eq!(plan.listeners[1].name, "[::1]:8443");
    assert_eq!(plan.routes[0].hosts, ["shop.example.com", "*.example.org"]);
    assert_eq!(plan.routes[0].path_prefix, "/shop");
    values_of_routes_arrive(&plan);
    let pool = &plan.pools[0];
    assert_eq!(pool.balance, balance::BalancerKind::RandomTwo);
    assert_eq!(pool.persistence.absolute_timeout, Some(seconds(5400)));
    let affinity::Carrier::Cookie(cookie) = &pool.persistence.carrier else { panic!() };
    assert_eq!((cookie.name.as_str(), cookie.same_site), ("__Host-pin", affinity::cookie::SameSite::None));
    assert_eq!((&pool.health.probe, pool.health.timeout), (&health::Probe::Tcp, seconds(1)));
    assert_eq!((pool.pool.health_state.fall, pool.pool.health_state.max_ejected), (1, 10));
    let retry = proxy::retry::Settings::default();
    let on = proxy::retry::RetryOn { reset: false, timeout: true, status: vec![502, 503], ..retry.retry_on };
    assert_eq!((&pool.retry.retry_on, pool.retry.budget, pool.retry.replay_limit), (&on, 30, 0));
    let first = &pool.pool.backends[0];
    assert_eq!((first.weight, first.state, first.failover[0].as_str()), (0, pool::AdminState::Drain, "b"));
    assert!(pool.pool.backends[1].backup);
}

fn values_of_routes_arrive(plan: &Plan) {
    use proxy::redirect::{Redirect, RedirectPath};
    let seconds = std::time::Duration::from_secs;
    let rate = proxy::rate::Settings { requests: 90, per: seconds(60), burst: 2 };
    assert_eq!((plan.rate, plan.server.limits.connections_per_client), (Some(rate), Some(9)));
    let [shop, redirect] = plan.routes.as_slice() else { panic!() };
    assert_eq!(
        (shop.persistence, shop.timeouts.response, shop.body_bytes),
        (false, Some(seconds(300)), Some(u64::MAX))
    );
    assert_eq!((shop.strip_prefix.as_deref(), shop.add_prefix.as_deref()), (Some("/shop"), None));
    assert_eq!((shop.request_headers.set[0].0.as_str(), shop.request_headers.remove[0].as_str()), ("x-a", "x-b"));
    let (scheme, path) = (Some("https"), RedirectPath::ReplacePrefix("/x".into()));
    let expected = Redirect { scheme, host: None, port: None, path, status: http::StatusCode::MOVED_PERMANENTLY };
    assert_eq!(redirect.action, proxy::route::RouteAction::Redirect(expected));
    assert_eq!((shop.is_secure, redirect.is_secure), (None, Some(false)));
}

#[test]
fn keys_are_read_and_their_files_guarded() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder("keys");
    let write = |name: &str, text: &str, mode: u32| {
        std::fs::write(folder.join(name), text).unwrap();
        std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let key = "A".repeat(43) + "=\n";
    write("good", &key, 0o600);
    write("open", &key, 0o644);
    write("short", "AAAA\n", 0o600);
    write("empty", "\n", 0o600);
    write("token", "secret\n", 0o600);
    let parse = |keys: &str| parse(&format!("{keys}\n{GOOD}"), &folder.join("linchpin.toml"));
    let good = parse("[[keys]]\nid = \"k\"\nfile = \"good\"").unwrap();
    assert_eq!((good.0.keys.first().id(), good.1.to_string().as_str()), ("k", ""));
    let token = parse("[admin]\naddress = \"0.0.0.0:9090\"\ntoken_file = \"token\"").unwrap();
    assert_eq!(token.0.admin.unwrap().token.as_deref(), Some("secret"));

    let shown = |path: &str| folder.join(path).display().to_string();
    let lost = "restore its content from a backup; if there is none, name a new file, created with: linchpin keygen -o";
    for (text, line, severity, problem, remedy) in [
        (
            "[[keys]]\nid = \"k\"\nfile = \"open\"",
            3,
            Severity::Warning,
            format!("other users than the owner have access to \"{}\" (mode 644)", shown("open")),
            format!("run: chmod 600 {}", shown("open")),
        ),
        (
            "[[keys]]\nid = \"k\"\nfile = \"short\"",
            3,
            Severity::Error,
            format!("the key file \"{}\" does not contain 32 bytes in base64", shown("short")),
            format!("{lost} {}.new", shown("short")),
        ),
        (
            "[[keys]]\nid = \"k\"\nfile = \"gone\"",
            3,
            Severity::Error,
            format!("cannot read the key file \"{}\": No such file or directory (os error 2)", shown("gone")),
            format!(
                "copy the file from another Linchpin, or create the first one with: linchpin keygen -o {}",
                shown("gone")
            ),
        ),
        (
            "[admin]\naddress = \"127.0.0.1:9090\"\ntoken_file = \"empty\"",
            3,
            Severity::Error,
            format!("the token file \"{}\" is empty", shown("empty")),
            format!("{lost} {}.new", shown("empty")),
        ),
    ] {
        let report = parse(text).map_or_else(|report| report, |(_, report)| report);
        let [finding] = report.findings() else { panic!("{report}") };
        assert_eq!((finding.severity, &finding.problem, &finding.remedy), (severity, &problem, &remedy));
        assert_eq!(finding.position.as_ref().unwrap().line, line);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_finding_shows_its_line() {
    let report = parse(&GOOD.replace("address = \"127.0.0.1:9001\"", "\tadress = 1"), Path::new("x.toml")).unwrap_err();
    let text = "x.toml:10:2: error: unknown key `adress` in [[pools.backends]]; did you mean `address`?\n\
                \x20   10 | \tadress = 1\n       | \t^^^^^^\n";
    assert!(report.to_string().contains(text), "{report}");
}

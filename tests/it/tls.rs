//! TLS for operators: every configuration of `docs/tls.md` can be run, and certificates are watched.

use std::path::{Path, PathBuf};
use std::time::Duration;

use linchpin::app::App;
use linchpin::config;

use super::support::authority::Authority;
use super::support::reloads::Reloadable;
use super::support::repository::read;
use super::support::tool::Folder;
use super::support::{Proxy, until};

/// Completes a part of a configuration, so that it can be run.
const LISTENER: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\n";
const POOL: &str = "[[pools]]\nname = \"app\"\n[[pools.backends]]\nname = \"a\"\naddress = \"127.0.0.1:9001\"\n";

#[tokio::test]
async fn every_configuration_on_the_page_can_be_run() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let here = Path::new(&folder.file("")).to_owned();
    for name in ["example.com", "example.org", "shops", "linchpin"] {
        authority.issue(&[name]).write(&here, name);
    }
    for name in ["clients.pem", "backends.pem", "ca.pem"] {
        std::fs::write(folder.file(name), authority.pem()).unwrap();
    }
    let page = read("docs/tls.md");
    let blocks = page.split("\n```").skip(1).step_by(2).map(|block| block.strip_prefix("toml\n").unwrap());
    let mut count = 0;
    for text in blocks {
        let rest = if text.contains("[[pools]]") { LISTENER } else { POOL };
        let port_0 = |text: String, port: &str| text.replace(&format!("0.0.0.0:{port}\""), "127.0.0.1:0\"");
        let text = here_only(text, &folder.file("acme"));
        let whole = port_0(port_0(format!("[log]\naccess = \"off\"\n{text}\n{rest}"), "443"), "80");
        let (plan, report) = config::parse(&whole, &here.join("page.toml")).unwrap_or_else(|report| panic!("{report}"));
        let problems = report.findings().iter().map(|finding| finding.problem.as_str());
        let unusual: Vec<_> = problems
            .filter(|problem| !problem.starts_with("no [[keys]]") && !problem.starts_with("clients are pinned, but"))
            .collect();
        assert!(unusual.is_empty(), "{unusual:?}\n{whole}");
        App::start(plan).unwrap_or_else(|error| panic!("{error}\n{whole}")).stop().await;
        count += 1;
    }
    assert!(count >= 6);
}

/// Returns a configuration that asks no ACME server beyond this machine, and stores nothing elsewhere.
fn here_only(text: &str, storage: &str) -> String {
    let directory = if text.contains("directory = ") { "" } else { "directory = \"https://127.0.0.1:1/directory\"\n" };
    let more = format!("agree_to_terms = true\nstorage = {storage:?}\n{directory}");
    text.replace("agree_to_terms = true\n", &more).replace("https://ca.internal/", "https://127.0.0.1:1/")
}

/// Issues a certificate for `app.example` that expires after so many days, in place of the one before.
fn issue_for(days: u64, authority: &Authority, folder: &Folder) -> (PathBuf, PathBuf) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let end = now + Duration::from_secs(days * 24 * 60 * 60 + 600);
    let issued = authority.issue_with(&["app.example"], |params| {
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + end;
    });
    issued.write(Path::new(&folder.file("")), "app")
}

#[tokio::test]
async fn a_reload_reads_the_certificates_in_use_again_at_once() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let (certificate, key) = issue_for(40, &authority, &folder);
    let text = format!(
        "[admin]\naddress = \"127.0.0.1:0\"\n[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
         [listeners.tls]\ncert = {certificate:?}\nkey = {key:?}\n{POOL}"
    );
    let linchpin = Reloadable::start(&text);
    // A process also looks at the files every two seconds; five times in a row, it is not faster.
    for days in 41..46 {
        issue_for(days, &authority, &folder);
        assert!(linchpin.reload(&text).await.errors.is_empty());
        let metrics = linchpin.proxy.ask("GET", "/metrics", "").await.text();
        assert!(tells_days(&metrics, "listener=\"web\"", days), "{days}: {metrics}");
    }
}

/// Whether the metrics tell that the certificate expires in so many days.
fn tells_days(metrics: &str, whose: &str, days: u64) -> bool {
    let start = format!("linchpin_certificate_not_after_timestamp_seconds{{{whose},certificate=\"app.example\"}} ");
    let end = metrics.lines().find_map(|line| line.strip_prefix(&start)).and_then(|value| value.parse::<u64>().ok());
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    end.is_some_and(|end| (end - now) / 86_400 == days)
}

#[tokio::test]
async fn the_remaining_days_of_a_certificate_are_exposed_and_follow_the_files() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let issue = |days: u64| issue_for(days, &authority, &folder);
    let (certificate, key) = issue(40);
    let ca = folder.file("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let listener = format!(
        "[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n[listeners.tls]\ncert = {certificate:?}\nkey = {key:?}\n"
    );
    let pool = format!("upstream = {{ tls = {{ ca = {ca:?}, cert = {certificate:?}, key = {key:?} }} }}");
    let proxy = Proxy::builder()
        .top(&format!("[admin]\naddress = \"127.0.0.1:0\"\n{listener}"))
        .pool(&pool)
        .backend_at("a", ([127, 0, 0, 1], 9).into(), "")
        .start();
    let tells = async |days: u64| {
        let metrics = proxy.ask("GET", "/metrics", "").await.text();
        ["listener=\"web\"", "pool=\"app\""].iter().all(|whose| tells_days(&metrics, whose, days))
    };
    assert!(tells(40).await);
    // The second time the files are read because they have changed, not because the process has started.
    for days in [80, 120] {
        issue(days);
        until("the new certificate to be exposed", async || tells(days).await).await;
    }
}

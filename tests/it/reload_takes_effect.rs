//! What a reload changes takes effect everywhere: in the log that a signal reopens, in the metrics, on all threads. A dry
//! run does nothing that anybody could notice.

use std::path::Path;

use linchpin::admin::ReloadResult;

use super::support::authority::Authority;
use super::support::reloads::Reloadable;
use super::support::tool::Folder;
use super::support::{Backend, Client};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";
const WEB: &str = "[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n";

fn file(top: &str, backend: &Backend) -> String {
    let log = if top.contains("[log]") { "" } else { "[log]\naccess = \"off\"\n" };
    format!(
        "[server]\nthreads = 4\n{log}{top}\n[[pools]]\nname = \"app\"\n[[pools.backends]]\nname = \"a\"\naddress = \"{}\"\n",
        backend.address()
    )
}

async fn apply(linchpin: &Reloadable, text: &str) {
    let report = linchpin.reload(text).await;
    assert_eq!(report.result, ReloadResult::Applied, "{report:?}");
}

#[tokio::test]
async fn the_log_that_is_reopened_is_the_one_in_use() {
    let a = Backend::named("a").await;
    let folder = Folder::new();
    let with = |log: &str| file(&format!("[log]\naccess = \"{log}\"\n{WEB}"), &a);
    let linchpin = Reloadable::start(&with("off"));
    assert!(!linchpin.proxy.reopen_log());
    apply(&linchpin, &with(&folder.file("access.log"))).await;
    assert!(linchpin.proxy.reopen_log(), "SIGUSR1 reaches the new log");
    apply(&linchpin, &with("off")).await;
    assert!(!linchpin.proxy.reopen_log());
}

#[tokio::test]
async fn metrics_show_the_certificates_in_use_and_no_former_ones() {
    let a = Backend::named("a").await;
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    for name in ["one.example", "two.example"] {
        authority.issue(&[name]).write(Path::new(&folder.file("")), name);
    }
    let with = |name: &str| {
        let pair = format!(
            "[listeners.tls]\ncert = \"{}\"\nkey = \"{}\"\n",
            folder.file(&format!("{name}.pem")),
            folder.file(&format!("{name}.key"))
        );
        file(&format!("{ADMIN}{WEB}{pair}"), &a)
    };
    let linchpin = Reloadable::start(&with("one.example"));
    let certificates = async || {
        let metrics = linchpin.proxy.ask("GET", "/metrics", "").await.text();
        let names = ["one.example", "two.example"];
        names.map(|name| metrics.contains(&format!("{{listener=\"web\",certificate=\"{name}\"}}")))
    };
    assert_eq!(certificates().await, [true, false]);
    apply(&linchpin, &with("two.example")).await;
    assert_eq!(certificates().await, [false, true]);
    apply(&linchpin, &file(&format!("{ADMIN}{WEB}"), &a)).await;
    assert_eq!(certificates().await, [false, false]);
}

/// Returns how many sockets listen on this port of this machine's IPv4 addresses.
fn listening(port: u16) -> usize {
    const LISTEN: &str = "0A";
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1].ends_with(&format!(":{port:04X}")) && row[3] == LISTEN).count()
}

#[tokio::test]
async fn a_new_listener_is_served_by_all_threads() {
    let a = Backend::named("a").await;
    let linchpin = Reloadable::start(&file(WEB, &a));
    let more = "[[listeners]]\nname = \"more\"\naddress = \"127.0.0.1:0\"\n";
    apply(&linchpin, &file(&format!("{WEB}{more}"), &a)).await;
    let address = linchpin.proxy.listener(1);
    assert_eq!(listening(address.port()), 4, "one socket for each thread");
    // The kernel divides connections among the sockets: one that no thread serves would leave some without a response.
    for _ in 0..64 {
        assert_eq!(Client::connect(address).await.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn a_dry_run_opens_no_admin_listener_and_finds_that_its_address_is_taken() {
    let a = Backend::named("a").await;
    // An address of its own: no other test gets its port.
    let taken = std::net::TcpListener::bind("127.77.1.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = Folder::new();
    let linchpin = Reloadable::start(&file(&format!("{ADMIN}{WEB}"), &a));
    let admin = |address: &str| file(&format!("[admin]\naddress = \"{address}\"\n{WEB}"), &a);
    linchpin.write(&admin(&address.to_string()));
    let refused = linchpin.proxy.reload(true).await;
    assert_eq!(refused.result, ReloadResult::Refused);
    assert!(
        refused.errors[0].problem.starts_with(&format!("the admin listener cannot bind {address}: ")),
        "{refused:?}"
    );
    drop(taken);

    // Another process can bind the address at any moment of a dry run. A listener that is bound would be in its way.
    let binding = std::thread::spawn(move || (0..2000).all(|_| std::net::TcpListener::bind(address).is_ok()));
    while !binding.is_finished() {
        let dry = linchpin.proxy.reload(true).await;
        let is_taken = dry.result == ReloadResult::Refused && dry.errors[0].problem.contains("in use");
        assert!(dry.result == ReloadResult::Applied || is_taken, "{dry:?}");
    }
    assert!(binding.join().unwrap());

    let socket = folder.file("admin.sock");
    linchpin.write(&admin(&format!("unix:{socket}")));
    assert_eq!(linchpin.proxy.reload(true).await.result, ReloadResult::Applied);
    assert!(!std::fs::exists(&socket).unwrap());
    assert_eq!(linchpin.proxy.ask("GET", "/readyz", "").await.status, 200, "the former one still listens");
}

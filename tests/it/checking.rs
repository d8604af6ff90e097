//! `linchpin check` on a machine at work: it looks at what a start would need, touches nothing, and knows other
//! products' configurations when it sees them.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::SystemTime;

use super::support::Backend;
use super::support::process::{self, BINARY, Running, printed};
use super::support::tool::Folder;

fn configuration(listener: &str, more: &str) -> String {
    format!(
        "{more}\n[[listeners]]\naddress = \"{listener}\"\n[[pools]]\nname = \"app\"\npersistence.type = \"none\"\n\
         [[pools.backends]]\nname = \"a\"\naddress = \"127.0.0.1:9\"\n"
    )
}

/// Names, lengths and times of all that is in a folder.
fn listing(folder: &str) -> BTreeMap<String, (u64, SystemTime)> {
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        (entry.path().display().to_string(), (metadata.len(), metadata.modified().unwrap()))
    };
    std::fs::read_dir(folder).unwrap().map(entry).collect()
}

#[tokio::test]
async fn a_check_beside_a_running_linchpin_touches_neither_it_nor_its_files() {
    let a = Backend::named("a").await;
    let folder = Folder::new();
    let socket = folder.file("web.sock");
    let log = folder.file("access.log");
    let before = |listener: &str| {
        configuration(listener, &format!("[log]\naccess = \"{log}\"")).replace("127.0.0.1:9", &a.address().to_string())
    };
    let running = Running::start(&before("127.0.0.1:0"), Stdio::null()).await;
    let _holder = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let files = [
        folder.write("tcp.toml", before(&running.address).as_bytes()),
        folder.write("unix.toml", before(&format!("unix:{socket}")).as_bytes()),
        folder.write("new.toml", before("unix:new.sock").replace("access.log", "new.log").as_bytes()),
    ];
    let at_first = listing(&folder.file(""));
    for file in &files {
        let done = process::command(BINARY, &["check", file]).await;
        assert_eq!(done.status.code(), Some(0), "{}", printed(&done));
    }
    assert_eq!(listing(&folder.file("")), at_first);
    assert_eq!(running.client().await.get("/").await.status, 200);
}

#[tokio::test]
async fn a_log_or_a_socket_that_this_user_cannot_make_is_an_error_for_check_as_for_run() {
    let folder = Folder::new();
    let closed = folder.file("closed");
    std::fs::create_dir(&closed).unwrap();
    let old = folder.write("closed/old.log", b"");
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o444)).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o555)).unwrap();
    let log = |name: &str| configuration("127.0.0.1:0", &format!("[log]\naccess = \"{closed}/{name}\""));
    // Nobody refuses anything to root.
    let somebody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let user = if rustix::process::geteuid().is_root() { &somebody[..] } else { &[] };
    for (text, words) in [
        (log("new.log"), format!("this user cannot create files in {closed}")),
        (log("old.log"), "this user cannot write to it".into()),
        (configuration(&format!("unix:{closed}/web.sock"), ""), format!("this user cannot create files in {closed}")),
    ] {
        let file = folder.write("linchpin.toml", text.as_bytes());
        for command in ["check", "run"] {
            let line = [user, &[BINARY, command, &file]].concat();
            let done = process::command(line[0], &line[1..]).await;
            assert_eq!(done.status.code(), Some(1), "{}", printed(&done));
            assert!(printed(&done).contains(&words), "{words}: {}", printed(&done));
        }
    }
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A port that nobody has, for a moment.
fn free_port() -> u16 {
    std::net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn listeners_that_have_each_others_addresses_are_refused_before_they_would_fail_to_start() {
    let folder = Folder::new();
    for (first, second) in [("0.0.0.0", "127.0.0.1"), ("[::]", "127.0.0.1"), ("[::ffff:127.0.0.1]", "127.0.0.1")] {
        let port = free_port();
        let listener = format!("[[listeners]]\naddress = \"{first}:{port}\"\n");
        let text = configuration(&format!("{second}:{port}"), &listener);
        let done = process::command(BINARY, &["check", &folder.write("linchpin.toml", text.as_bytes())]).await;
        let words = format!(
            "this address overlaps with that of the listener in line 2, \"{first}:{port}\": only one of the two"
        );
        assert_eq!(done.status.code(), Some(1));
        assert!(printed(&done).contains(&words), "{words}: {}", printed(&done));
    }
}

#[tokio::test]
async fn all_addresses_of_both_families_can_be_two_listeners_in_either_order() {
    let a = Backend::named("a").await;
    for (first, second) in [("0.0.0.0", "[::]"), ("[::]", "0.0.0.0")] {
        let port = free_port();
        let listener = format!("[[listeners]]\naddress = \"{first}:{port}\"\n");
        let text = configuration(&format!("{second}:{port}"), &listener);
        let text = text.replace("127.0.0.1:9", &a.address().to_string());
        let mut running = Running::begin(&text, Stdio::null(), &[]);
        for _ in 0..2 {
            running.line("listening address=").await;
        }
        for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
            let mut client = super::support::Client::connect(address.parse().unwrap()).await;
            assert_eq!(client.get("/").await.status, 200, "{address}");
        }
    }
}

#[tokio::test]
async fn a_configuration_of_another_product_is_told_by_its_name_and_the_command_that_is_named_works() {
    let folder = Folder::new();
    let haproxy = "defaults\n  timeout connect 5s\nbackend app\n  balance leastconn\n  server a 127.0.0.1:9001 \
                   check\n";
    let nginx = "upstream app {\n  server 127.0.0.1:9001;\n}\nserver {\n  listen 127.0.0.1:8080;\n  location / {\n  \
                   \
                 proxy_pass http://app;\n  }\n}\n";
    let traefik = "http:\n  services:\n    app:\n      loadBalancer:\n        servers:\n          - url: \
         http://127.0.0.1:9001\n";
    for (name, text, product) in
        [("my proxy.cfg", haproxy, "HAProxy"), ("site", nginx, "nginx"), ("dynamic.yaml", traefik, "Traefik")]
    {
        let file = folder.write(name, text.as_bytes());
        for command in ["check", "run"] {
            let done = process::command(BINARY, &[command, &file]).await;
            let words = printed(&done);
            assert_eq!(done.status.code(), Some(1), "{words}");
            assert!(words.contains(&format!("looks like a configuration of {product}")), "{words}");
            assert!(!words.contains("not TOML:"), "{words}");
            if command == "check" {
                assert!(words.ends_with(": 1 error\n"), "{words}");
                let (_, import) = words.split_once("translate it with: ").unwrap();
                let import = import.lines().next().unwrap().replace("linchpin import", &format!("{BINARY} import"));
                let out = folder.file(&format!("{product}.toml"));
                let done = process::command("sh", &["-c", &import.replace("linchpin.toml", &out)]).await;
                assert_eq!(done.status.code(), Some(0), "{import}: {}", printed(&done));
            }
        }
    }
    // A broken file of our own is not taken for one.
    let own = folder.write("own.toml", b"[[listeners]]\naddress = 127.0.0.1:8080\n[[pools]\nname = \"app\"\n");
    let words = printed(&process::command(BINARY, &["check", &own]).await);
    assert!(words.contains("own.toml:2:11: error: not TOML: `127.0.0.1:8080` needs quotes"), "{words}");
}

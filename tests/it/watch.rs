//! `watch = true`: what is written to the configuration file, or to a file that it names, takes effect without anybody
//! asking for it.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::authority::Authority;
use super::support::events::{Event, EventStream};
use super::support::process::{BINARY, Running, command};
use super::support::reloads::Reloadable;
use super::support::tool::Folder;
use super::support::{Backend, until};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

fn file(server: &str, top: &str, backend: &Backend, weight: u32) -> String {
    format!(
        "[server]\nthreads = 1\n{server}\n[log]\naccess = \"off\"\n{top}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         [[pools]]\nname = \"app\"\n[[pools.backends]]\nname = \"a\"\naddress = \"{}\"\nweight = {weight}\n",
        backend.address()
    )
}

/// Waits for the next reload that changed or refused something.
async fn next(events: &mut EventStream) -> Event {
    loop {
        let event = events.next("reload").await;
        assert_eq!(event.data["by"], "watch", "{event:?}");
        if event.data["result"] != "unchanged" {
            return event;
        }
    }
}

#[tokio::test]
async fn a_file_is_followed_however_it_is_replaced() {
    let a = Backend::named("a").await;
    let folder = Folder::new();
    let path = |name: &str| folder.file(name);
    // As Kubernetes mounts a ConfigMap: the file is a link into ..data, which is a link to a folder.
    let mount = |version: &str, weight| {
        std::fs::create_dir(path(version)).unwrap();
        let text = file("watch = true", ADMIN, &a, weight);
        std::fs::write(Path::new(&path(version)).join("linchpin.toml"), text).unwrap();
        symlink(version, path("..new")).unwrap();
        std::fs::rename(path("..new"), path("..data")).unwrap();
    };
    mount("v1", 1);
    symlink("..data/linchpin.toml", path("linchpin.toml")).unwrap();
    let linchpin = Reloadable::follow(&path("linchpin.toml"));
    let mut events = EventStream::open(linchpin.proxy.admin(), "?last=9", "").await;
    let applied = async |events: &mut EventStream, weight| {
        let event = next(events).await;
        assert_eq!(
            (&event.data["result"], &event.data["keys"]),
            (&json!("applied"), &json!(["pools.app.backends.a.weight"]))
        );
        assert_eq!(linchpin.proxy.live("a").weight(), weight);
    };
    mount("v2", 2);
    applied(&mut events, 2).await;
    // Written in place, in two pieces.
    let text = file("watch = true", ADMIN, &a, 3);
    let (first, second) = text.split_at(text.len() / 2);
    std::fs::write(path("v2/linchpin.toml"), first).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    std::fs::write(path("v2/linchpin.toml"), first.to_owned() + second).unwrap();
    applied(&mut events, 3).await;
    // Renamed into place, as editors do, with the time of an older file.
    std::fs::write(path("v2/linchpin.tmp"), file("watch = true", ADMIN, &a, 4)).unwrap();
    let old = std::fs::File::options().write(true).open(path("v2/linchpin.tmp")).unwrap();
    old.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    std::fs::rename(path("v2/linchpin.tmp"), path("v2/linchpin.toml")).unwrap();
    applied(&mut events, 4).await;
}

#[tokio::test]
async fn files_that_the_file_names_are_followed_also_those_that_are_missing_at_first() {
    let a = Backend::named("a").await;
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let keygen = async |name: &str| {
        let path = folder.file(name);
        let _ = std::fs::remove_file(&path);
        assert!(command(BINARY, &["keygen", "-o", &path]).await.status.success());
    };
    keygen("key").await;
    let keys = format!("{ADMIN}[[keys]]\nid = \"1\"\nfile = \"{}\"\n", folder.file("key"));
    let linchpin = Reloadable::start_in(Folder::new(), &file("watch = true", &keys, &a, 1));
    let mut events = EventStream::open(linchpin.proxy.admin(), "?last=9", "").await;
    keygen("key").await;
    assert_eq!(next(&mut events).await.data["keys"], json!(["keys"]));

    // The file names a certificate that is issued a moment later.
    let tls = format!(
        "{keys}[[listeners]]\nname = \"tls\"\naddress = \"127.0.0.1:0\"\n[listeners.tls]\ncert = \"{}\"\nkey = \"{}\"\n",
        folder.file("app.pem"),
        folder.file("app.key")
    );
    linchpin.write(&file("watch = true", &tls, &a, 1));
    let refused = next(&mut events).await;
    assert_eq!(refused.data["result"], "refused");
    assert!(refused.data["reason"].as_str().unwrap().contains("app.pem"), "{refused:?}");
    authority.issue(&["app.example"]).write(Path::new(&folder.file("")), "app");
    let applied = next(&mut events).await;
    assert_eq!((&applied.data["result"], &applied.data["keys"]), (&json!("applied"), &json!(["listeners.tls"])));
}

#[tokio::test]
async fn a_broken_file_is_reported_once_and_changes_nothing_until_it_is_mended() {
    let a = Backend::named("a").await;
    let folder = Folder::new();
    let path = folder.file("linchpin.toml");
    let good = |weight| file("watch = true", "", &a, weight);
    let mut running = Running::start_with(&path, &good(1), Stdio::null()).await;
    let broken = good(2).replace("weight", "wait");
    std::fs::write(&path, &broken).unwrap();
    running.line("reload refused, nothing has changed").await;
    // Touched, which is a change of the file, but not of what is wrong with it.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        std::fs::write(&path, &broken).unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    assert_eq!(running.client().await.get("/").await.status, 200);
    let mut lines = Vec::new();
    for (weight, words) in [(1, "the configuration is unchanged"), (3, "reloaded the configuration")] {
        std::fs::write(&path, good(weight)).unwrap();
        loop {
            let line = running.next_line().await.unwrap();
            lines.push(line.clone());
            if line.contains(words) {
                break;
            }
        }
    }
    let last = lines.last().unwrap();
    assert!(last.contains("watch") && last.contains("pools.app.backends.a.weight"), "{last}");
    assert!(!lines.iter().any(|line| line.contains("refused")), "{lines:#?}");
}

#[tokio::test]
async fn following_begins_and_ends_with_a_reload() {
    let a = Backend::named("a").await;
    let linchpin = Reloadable::start(&file("", "", &a, 1));
    linchpin.write(&file("watch = true", "", &a, 2));
    // Longer than two looks.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(linchpin.proxy.live("a").weight(), 1, "nobody follows it");
    linchpin.proxy.reload(false).await;
    linchpin.write(&file("watch = true", "", &a, 3));
    until("it is followed", async || linchpin.proxy.live("a").weight() == 3).await;
    linchpin.write(&file("watch = false", "", &a, 4));
    until("its last change is applied", async || linchpin.proxy.live("a").weight() == 4).await;
    linchpin.write(&file("watch = false", "", &a, 5));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(linchpin.proxy.live("a").weight(), 4, "nobody follows it any more");
}

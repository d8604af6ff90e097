//! Who may do what through the admin listener: tokens that only read, sockets of a group, and changes under a condition.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use linchpin::admin::ReloadResult;
use linchpin::config;
use serde_json::Value;

use super::support::process::{linchpin, printed};
use super::support::reloads::Reloadable;
use super::support::tool::{Folder, run};
use super::support::{Backend, Client, Response};

fn file(admin: &str, backend: &Backend) -> String {
    format!(
        "[server]\nthreads = 1\n[log]\naccess = \"off\"\n[admin]\n{admin}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         [[pools]]\nname = \"app\"\n[pools.health]\ntype = \"tcp\"\n[[pools.backends]]\nname = \"a\"\naddress = \"{}\"\n",
        backend.address()
    )
}

async fn tokens() -> (Folder, String) {
    let folder = Folder::new();
    for (name, token) in [("token", "writer"), ("read", "reader")] {
        let path = folder.write(name, token.as_bytes());
        run("chmod", &["600", &path]).await;
    }
    let keys = format!(
        "address = \"127.0.0.1:0\"\ntoken_file = \"{}\"\nread_token_file = \"{}\"",
        folder.file("token"),
        folder.file("read")
    );
    (folder, keys)
}

async fn ask(linchpin: &Reloadable, method: &str, path: &str, fields: &str, body: &str) -> Response {
    let mut admin = Client::connect(linchpin.proxy.admin()).await;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{fields}");
    admin.send(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes()).await;
    admin.response().await
}

#[tokio::test]
async fn a_token_that_only_reads_reads_and_changes_nothing() {
    let a = Backend::named("a").await;
    let (folder, keys) = tokens().await;
    let linchpin = Reloadable::start(&file(&keys, &a));
    let status = async |token: &str, method: &str, path: &str, body: &str| {
        ask(&linchpin, method, path, &format!("authorization: Bearer {token}\r\n"), body).await.status
    };
    for path in ["/api/v1/status", "/metrics", "/api/v1/pools/app/backends/a"] {
        assert_eq!(
            (status("reader", "GET", path, "").await, status("other", "GET", path, "").await),
            (200, 401),
            "{path}"
        );
    }
    let weight = "/api/v1/pools/app/backends/a/weight";
    for (path, body) in [(weight, "{\"weight\":3}"), ("/api/v1/reload", ""), ("/api/v1/explain", "{\"token\":\"x\"}")] {
        assert_eq!(status("reader", "POST", path, body).await, 403, "{path}");
    }
    assert_eq!(linchpin.proxy.live("a").weight(), 1);
    assert_eq!(status("writer", "POST", weight, "{\"weight\":3}").await, 200);
    // Another token in the file applies with a reload.
    std::fs::write(folder.file("read"), "another").unwrap();
    let report = linchpin.proxy.reload(false).await;
    assert_eq!((report.result, report.changes[0].path.as_str()), (ReloadResult::Applied, "admin.read_token_file"));
    assert_eq!(status("another", "GET", "/metrics", "").await, 200);
    assert_eq!(status("reader", "GET", "/metrics", "").await, 401);
}

#[tokio::test]
async fn commands_of_a_user_who_has_only_the_token_for_reading_show_and_change_nothing() {
    let a = Backend::named("a").await;
    let (folder, keys) = tokens().await;
    let process = Reloadable::start(&file(&keys, &a));
    let own =
        format!("[admin]\naddress = \"{}\"\nread_token_file = \"{}\"\n", process.proxy.admin(), folder.file("read"));
    // Of a whole file, the token for changes may be one that this user can't read.
    let whole = own.clone() + &format!("token_file = \"{}\"\n", folder.file("not-there"));
    for (name, text) in [("own.toml", own), ("whole.toml", whole)] {
        let file = folder.write(name, text.as_bytes());
        let status = linchpin(&["status", "-c", &file]).await;
        assert!(status.status.success() && printed(&status).contains("app"), "{}", printed(&status));
        let weight = linchpin(&["weight", "app/a", "3", "-c", &file]).await;
        let said = printed(&weight);
        assert!(weight.status.code() == Some(1) && said.contains("only"), "{said}");
    }
    assert_eq!(process.proxy.live("a").weight(), 1);
}

#[tokio::test]
async fn a_unix_socket_has_the_mode_and_group_of_the_file_also_after_a_reload() {
    let a = Backend::named("a").await;
    let folder = Folder::new();
    let socket = folder.file("admin.sock");
    let with = |keys: &str| file(&format!("address = \"unix:{socket}\"\n{keys}"), &a);
    let linchpin = Reloadable::start(&with(""));
    let access = || {
        let metadata = std::fs::metadata(&socket).unwrap();
        (metadata.permissions().mode() & 0o777, metadata.gid())
    };
    // Every user is in its own group.
    let own = rustix::process::getegid().as_raw();
    assert_eq!(access(), (0o600, own));
    linchpin.reload(&with(&format!("mode = \"0660\"\ngroup = \"{own}\""))).await;
    assert_eq!(access(), (0o660, own));
    linchpin.reload(&with("")).await;
    assert_eq!(access(), (0o600, own));
    if rustix::process::geteuid().is_root() {
        linchpin.reload(&with("mode = \"0660\"\ngroup = \"4\"")).await;
        assert_eq!(access(), (0o660, 4));
        drop(linchpin);
        let _again = Reloadable::start(&with("mode = \"0640\"\ngroup = \"4\""));
        assert_eq!(access(), (0o640, 4));
    }
}

/// Returns what is wrong with this `[admin]`.
fn findings(keys: &str) -> String {
    let text = format!(
        "[admin]\n{keys}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n[[pools]]\nname = \"app\"\n[pools.persistence]\n\
         type = \"none\"\n[pools.health]\ntype = \"tcp\"\n[[pools.backends]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\n"
    );
    match config::parse(&text, Path::new("linchpin.toml")) {
        Ok((_, report)) | Err(report) => report.to_string(),
    }
}

#[tokio::test]
async fn what_does_not_protect_is_found_by_the_check() {
    let (folder, keys) = tokens().await;
    assert_eq!(findings(&keys), "");
    let (token, read) = (folder.file("token"), folder.file("read"));
    for (keys, expected) in [
        (
            "address = \"unix:/tmp/x.sock\"\nmode = \"0666\"".into(),
            "warning: every user of this machine can change what runs",
        ),
        ("address = \"unix:/tmp/x.sock\"\nmode = \"660 \"".into(), "error: `mode` must be a file mode in octal digits"),
        ("address = \"unix:/tmp/x.sock\"\nmode = \"0466\"".into(), "error: `mode` must be a file mode in octal digits"),
        (
            "address = \"unix:/tmp/x.sock\"\ngroup = \"no-such-group\"".into(),
            "there is no such group; create it with: groupadd",
        ),
        ("address = \"127.0.0.1:1\"\nmode = \"0660\"".into(), "warning: `mode` has no effect: it is for a Unix socket"),
        (
            format!("address = \"0.0.0.0:1\"\ntoken_file = \"{token}\""),
            "warning: other machines can reach [admin], and it has no TLS",
        ),
        (
            format!("address = \"127.0.0.1:1\"\nread_token_file = \"{read}\""),
            "error: `read_token_file` without `token_file`",
        ),
        (
            format!("address = \"127.0.0.1:1\"\ntoken_file = \"{token}\"\nread_token_file = \"{token}\""),
            "error: `read_token_file` has the same token as `token_file`",
        ),
    ] {
        let found = findings(&keys);
        assert!(found.contains(expected), "{keys}\n{found}");
    }
}

#[tokio::test]
async fn a_change_under_a_condition_is_made_only_if_nobody_was_faster() {
    let a = Backend::named("a").await;
    let linchpin = Reloadable::start(&file("address = \"127.0.0.1:0\"", &a));
    let path = "/api/v1/pools/app/backends/a";
    let seen = ask(&linchpin, "GET", path, "", "").await;
    let tag = seen.field("etag").unwrap().to_owned();
    let status: Value = serde_json::from_str(&seen.text()).unwrap();
    assert_eq!((seen.status, &status["name"]), (200, &"a".into()));
    // Requests change counts, and no tag.
    linchpin.proxy.get(None).await;
    assert_eq!(ask(&linchpin, "GET", path, "", "").await.field("etag"), Some(tag.as_str()));

    let condition = |tag: &str| format!("if-match: {tag}\r\n");
    let set = async |fields: &str, weight: u32| {
        ask(&linchpin, "POST", &format!("{path}/weight"), fields, &format!("{{\"weight\":{weight}}}")).await
    };
    let first = set(&condition(&tag), 3).await;
    let next = first.field("etag").unwrap().to_owned();
    assert_eq!((first.status, next == tag), (200, false));
    let late = set(&condition(&tag), 5).await;
    assert_eq!((late.status, late.field("etag")), (412, Some(next.as_str())));
    assert!(late.text().starts_with("Somebody has changed app/a since you looked"), "{}", late.text());
    assert_eq!(linchpin.proxy.live("a").weight(), 3);
    assert_eq!(set(&condition(&format!("\"other\", {next}")), 5).await.status, 200);
    assert_eq!(set(&condition("*"), 6).await.status, 200);
    assert_eq!(set("", 7).await.status, 200);
    assert_eq!(set(&condition("\"x\""), 8).await.status, 412);
    let unknown = ask(&linchpin, "GET", "/api/v1/pools/app/backends/b", &condition("\"x\""), "").await;
    assert_eq!((unknown.status, unknown.field("etag")), (404, None));
}

//! FIFOs, devices, folders and sockets in place of a regular file: each is refused at once with a message.

use std::os::unix::net::UnixListener;

use super::support::process::{linchpin, printed};
use super::support::tool::{Folder, run};
use super::support::{Backend, Proxy, soon, until};

/// Makes a folder of paths that are no regular files; returns each with the words for its kind.
async fn no_files(folder: &Folder) -> Vec<(String, &'static str)> {
    let [fifo, socket, directory] = ["fifo", "socket", "directory"].map(|name| folder.file(name));
    run("mkfifo", &[&fifo]).await;
    drop(UnixListener::bind(&socket).unwrap());
    std::fs::create_dir(&directory).unwrap();
    vec![(fifo, "a FIFO or pipe"), (socket, "a socket"), (directory, "a folder"), ("/dev/zero".into(), "a device")]
}

const REST: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\n[[pools]]\nname = \"app\"\n[[pools.backends]]\nname = \"a\"\n\
                    address = \"127.0.0.1:9\"\n";

#[tokio::test]
async fn a_configuration_that_is_no_regular_file_is_refused_at_once() {
    let folder = Folder::new();
    for (path, what) in no_files(&folder).await {
        for command in ["check", "run"] {
            let done = linchpin(&[command, "-c", &path]).await;
            let words = format!("it is {what}, not a regular file; copy its content to a regular file");
            assert_eq!(done.status.code(), Some(1), "{command} {path}");
            assert!(printed(&done).contains(&words), "{command} {path}: {}", printed(&done));
        }
    }
    let comment = "# a line of a comment that is repeated until nobody wants to read it any more ----------\n";
    let large = folder.write("large.toml", (comment.repeat(200_000) + REST).as_bytes());
    let done = linchpin(&["check", "-c", &large]).await;
    assert_eq!(done.status.code(), Some(1));
    assert!(printed(&done).contains("it has more than 16777216 bytes"), "{}", printed(&done));
}

#[tokio::test]
async fn every_file_that_a_configuration_names_must_be_a_regular_file() {
    let folder = Folder::new();
    for (path, what) in no_files(&folder).await {
        for (text, finding) in [
            (format!("[[keys]]\nid = \"1\"\nfile = \"{path}\"\n{REST}"), ":3:8: error: cannot read the key file"),
            (
                format!("[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"{path}\"\n{REST}"),
                ":3:14: error: cannot read the token file",
            ),
            (format!("[log]\naccess = \"{path}\"\n{REST}"), ":2:10: error: `access` must be"),
            (
                format!("{REST}[[pools]]\nname = \"found\"\n[[pools.discover]]\nfile = \"{path}\"\n"),
                "error: `file` must be the path of a regular file",
            ),
            (
                REST.replace("0\"\n[[pools]]", &format!("0\"\ntls = {{ cert = \"{path}\" }}\n[[pools]]")),
                "error: cannot read the certificate file",
            ),
            (
                REST.replace("\n[[pools.b", &format!("\n[pools.upstream]\ntls = {{ ca = \"{path}\" }}\n[[pools.b")),
                "error: cannot read the CA file",
            ),
        ] {
            let file = folder.write("linchpin.toml", text.as_bytes());
            let done = linchpin(&["check", "-c", &file]).await;
            assert_eq!(done.status.code(), Some(1), "{text}");
            let output = printed(&done);
            assert!(output.contains(finding), "{text}\n{output}");
            assert!(output.contains(what) || output.contains("not a regular file"), "{text}\n{output}");
        }
    }
    let file = folder.write("linchpin.toml", format!("[log]\naccess = \"/dev/stdout\"\n{REST}").as_bytes());
    let done = linchpin(&["check", "-c", &file]).await;
    assert!(printed(&done).contains("write \"stdout\""), "{}", printed(&done));
}

#[tokio::test]
async fn a_file_of_backends_replaced_by_a_fifo_is_read_again_once_it_is_a_file() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let folder = Folder::new();
    let file = folder.write("backends.txt", format!("a {}\n", a.address()).as_bytes());
    let admin = "[admin]\naddress = \"127.0.0.1:0\"";
    let proxy = Proxy::builder().top(admin).discover(&format!("file = \"{file}\"")).start();
    until("it is found", async || proxy.pool().backends().len() == 1).await;
    std::fs::remove_file(&file).unwrap();
    run("mkfifo", &[&file]).await;
    let is_told = async |what: &str| proxy.ask("GET", "/api/v1/status", "").await.text().contains(what);
    until("the error of the file to be reported", async || is_told("it is a FIFO or pipe, not a regular file").await)
        .await;
    let next = folder.write("next.txt", format!("a {}\nb {}\n", a.address(), b.address()).as_bytes());
    std::fs::rename(&next, &file).unwrap();
    until("it is read", async || proxy.pool().backends().len() == 2).await;
    soon("the end", proxy.stop()).await;
}

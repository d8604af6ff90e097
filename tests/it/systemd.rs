//! Linchpin under systemd, which a script plays here: it passes sockets, and receives what a service says.

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::support::process::BINARY;
use super::support::thread_faults::ThreadFaults;
use super::support::tool::{Folder, run};
use super::support::{Backend, Client, soon, until};

/// Opens the sockets of the arguments before `--` at descriptors from 3 on, as systemd does: names and addresses.
/// Prints the addresses. Then becomes the program behind `--`, with the same process id.
const ACTIVATE: &str = r#"
import os, socket, sys
words = sys.argv[1:]
at = words.index('--')
names, sockets = [], []
for name, address in zip(words[0:at:2], words[1:at:2]):
    if address.startswith('/'):
        one = socket.socket(socket.AF_UNIX)
        one.bind(address)
    else:
        host, port = address.split(':')
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((host, int(port)))
    one.listen(64)
    names.append(name)
    sockets.append(one)
    if one.family == socket.AF_INET:
        print('%s:%d' % one.getsockname(), file=sys.stderr, flush=True)
high = [os.dup2(one.fileno(), 100 + i) for i, one in enumerate(sockets)]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i)
    os.set_inheritable(3 + i, True)
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(sockets)), LISTEN_FDNAMES=':'.join(names))
os.execv(words[at + 1], words[at + 1:])
"#;

/// What a service says.
struct Notifications(UnixDatagram);

impl Notifications {
    fn new(folder: &Folder) -> Notifications {
        let socket = UnixDatagram::bind(folder.file("notify.sock")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Notifications(socket)
    }

    /// Waits for a message with this line, and returns the message.
    async fn line(&self, line: &str) -> String {
        let mut found = String::new();
        until(line, async || {
            let mut buffer = [0; 4096];
            while let Ok(length) = self.0.recv(&mut buffer) {
                found = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if found.lines().any(|each| each == line) {
                    return true;
                }
            }
            false
        })
        .await;
        found
    }
}

fn configuration(folder: &Folder, listeners: &str, backend: &Backend) -> String {
    let file = format!(
        "[server]\nthreads = 2\nhandover = \"{}\"\n[log]\naccess = \"off\"\n{listeners}[[pools]]\nname = \"app\"\n\
         [[pools.backends]]\nname = \"a\"\naddress = \"{}\"\n",
        folder.file("handover.sock"),
        backend.address()
    );
    folder.write("linchpin.toml", file.as_bytes())
}

fn command(words: &[&str], folder: &Folder) -> Child {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env("NOTIFY_SOCKET", folder.file("notify.sock"));
    command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
}

async fn signal(process: &Child, name: &str) {
    run("kill", &[&format!("-{name}"), &process.id().unwrap().to_string()]).await;
}

#[tokio::test]
async fn sockets_of_systemd_are_used_by_name_or_address_and_outlive_the_process() {
    let (a, folder) = (Backend::named("a").await, Folder::new());
    let unix = folder.file("web.sock");
    // The second one by its address; the first by its name, whatever the file says of its address.
    let listeners = format!(
        "[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:80\"\n[[listeners]]\naddress = \"unix:{unix}\"\n"
    );
    let file = configuration(&folder, &listeners, &a);
    let _notifications = Notifications::new(&folder);
    let words = ["python3", "-c", ACTIVATE, "web", "127.0.0.1:0", "other", &unix, "--", BINARY, "run", "-c", &file];
    let mut process = command(&words, &folder);
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let address = soon("an address", lines.next_line()).await.unwrap().unwrap();
    let mut client = Client::connect(address.parse().unwrap()).await;
    assert_eq!(client.get("/").await.status, 200);
    let mut stream = soon("a connection", tokio::net::UnixStream::connect(&unix)).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut response = String::new();
    soon("a response", tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut response)).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    signal(&process, "TERM").await;
    assert_eq!(soon("the end", process.wait()).await.unwrap().code(), Some(0));
    assert!(std::fs::exists(&unix).unwrap(), "the file is systemd's");
}

#[tokio::test]
async fn systemd_learns_of_readiness_reloads_a_takeover_and_the_stop() {
    let (a, folder) = (Backend::named("a").await, Folder::new());
    let file = configuration(&folder, "[[listeners]]\naddress = \"127.0.0.1:0\"\n", &a);
    let notifications = Notifications::new(&folder);
    let mut process = command(&[BINARY, "run", "-c", &file], &folder);
    let _messages = process.stderr.take();
    let ready = notifications.line("READY=1").await;
    assert!(!ready.contains("MAINPID"), "{ready}");
    signal(&process, "HUP").await;
    let reloading = notifications.line("RELOADING=1").await;
    let micros = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(micros.parse::<u64>().unwrap() > 0);
    notifications.line("READY=1").await;
    signal(&process, "USR2").await;
    notifications.line("RELOADING=1").await;
    let taken_over = notifications.line("READY=1").await;
    let pid = taken_over.lines().find_map(|line| line.strip_prefix("MAINPID=")).unwrap().to_owned();
    assert_ne!(pid, process.id().map_or(String::new(), |pid| pid.to_string()));
    assert_eq!(soon("the end of the old process", process.wait()).await.unwrap().code(), Some(0));
    run("kill", &["-TERM", &pid]).await;
    notifications.line("STOPPING=1").await;
}

#[tokio::test]
async fn the_watchdog_is_kept_quiet_while_all_threads_run() {
    let (a, folder) = (Backend::named("a").await, Folder::new());
    let file = configuration(&folder, "[[listeners]]\naddress = \"127.0.0.1:0\"\n", &a);
    let notifications = Notifications::new(&folder);
    let words = ["sh", "-c", "WATCHDOG_USEC=600000 WATCHDOG_PID=$$ exec \"$0\" \"$@\"", BINARY, "run", "-c", &file];
    let mut process = command(&words, &folder);
    let _messages = process.stderr.take();
    for _ in 0..3 {
        notifications.line("WATCHDOG=1").await;
    }
    // A process that hangs says nothing more.
    signal(&process, "STOP").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    while notifications.0.recv(&mut [0; 4096]).is_ok() {}
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(notifications.0.recv(&mut [0; 4096]).is_err());
    signal(&process, "CONT").await;
    notifications.line("WATCHDOG=1").await;
}

#[tokio::test]
async fn the_watchdog_hears_nothing_more_once_a_worker_thread_has_failed() {
    let (a, folder, faults) = (Backend::named("a").await, Folder::new(), ThreadFaults::new().await);
    let file = configuration(&folder, "[[listeners]]\naddress = \"127.0.0.1:0\"\n", &a);
    let notifications = Notifications::new(&folder);
    let by = faults.words();
    let words = ["WATCHDOG_USEC=60000", BINARY, "run", "-c", &file];
    let mut process = command(&[&by.each_ref().map(String::as_str), &words[..]].concat(), &folder);
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    notifications.line("WATCHDOG=1").await;
    faults.fail(1);
    soon("a line of the watchdog", async {
        while !lines.next_line().await.unwrap().unwrap().contains("leaving it to systemd's watchdog") {}
    })
    .await;
    while notifications.0.recv(&mut [0; 4096]).is_ok() {}
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(notifications.0.recv(&mut [0; 4096]).is_err());
}

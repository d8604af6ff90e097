//! The commands of an operator: they find the running process by its file, do what they say, and their exit codes fit
//! scripts.

use std::process::Stdio;

use linchpin::cli;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::support::process::{BINARY, Running, command, printed};
use super::support::tool::{Folder, run};
use super::support::{Backend, Reply, soon, until};

/// A running Linchpin with a token, and the file by which commands find it.
struct Operated {
    running: Running,
    folder: Folder,
    file: String,
    address: String,
}

impl Operated {
    async fn start(backends: &[&Backend], server: &str) -> Operated {
        let folder = Folder::new();
        let token = folder.write("token", b"s3cret-token");
        run("chmod", &["600", &token]).await;
        let address = std::net::TcpListener::bind("127.77.3.1:0").unwrap().local_addr().unwrap().to_string();
        let backends: String = backends
            .iter()
            .map(|each| format!("[[pools.backends]]\nname = \"{}\"\naddress = \"{}\"\n", each.name(), each.address()))
            .collect();
        let text = format!(
            "[server]\nthreads = 1\n{server}\n[log]\naccess = \"off\"\n[admin]\naddress = \"{address}\"\n\
             token_file = \"{token}\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n[[pools]]\nname = \"app\"\n{backends}"
        );
        let file = folder.file("linchpin.toml");
        let running = Running::start_with(&file, &text, Stdio::null()).await;
        Operated { running, folder, file, address }
    }

    /// Runs a command with this file; returns its exit code and what it printed.
    async fn ask(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = command(BINARY, &[arguments, &["-c", &self.file]].concat()).await;
        (output.status.code(), printed(&output))
    }
}

#[tokio::test]
async fn the_status_is_a_table_or_json_and_can_be_watched() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let operated = Operated::start(&[&a, &b], "").await;
    let (code, text) = operated.ask(&["status"]).await;
    assert_eq!(code, Some(0), "{text}");
    let mut lines = text.lines();
    assert!(
        lines.next().unwrap().starts_with(concat!("linchpin ", env!("CARGO_PKG_VERSION"), "  ready  up ")),
        "{text}"
    );
    assert!(text.contains("app  2 of 2 available  balance round_robin  persistence cookie\n"), "{text}");
    assert!(text.contains("BACKEND  ADDRESS") && text.contains(&a.address().to_string()), "{text}");
    assert!(!text.contains('\x1b'), "a pipe gets no colours: {text:?}");

    let (code, text) = operated.ask(&["status", "--json"]).await;
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &status["pools"][0]["name"]), (Some(0), &json!("app")));
    assert_eq!(operated.ask(&["status", "app"]).await.0, Some(0));
    let (code, text) = operated.ask(&["status", "apq"]).await;
    assert_eq!(
        (code, text.as_str()),
        (Some(1), "linchpin: there is no pool \"apq\"; `linchpin status` lists all pools\n")
    );

    let mut watching = Command::new(BINARY);
    watching.args(["status", "--watch=1", "-c", &operated.file]).stdout(Stdio::piped()).kill_on_drop(true);
    let mut watching = watching.spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        soon("the status again", async {
            while !lines.next_line().await.unwrap().unwrap().starts_with("linchpin ") {}
        })
        .await;
    }
}

#[tokio::test]
async fn states_and_weights_are_set_and_what_can_not_be_is_said_with_a_remedy() {
    let a = Backend::named("a").await;
    let operated = Operated::start(&[&a], "").await;
    let said = "app/a: state maintenance, health unknown, weight 1, sessions 0, active requests 0\n";
    assert_eq!(operated.ask(&["maintenance", "app/a"]).await, (Some(0), said.into()));
    assert_eq!(operated.running.client().await.get("/").await.status, 503);
    let (code, text) = operated.ask(&["ready", "app/a", "--json"]).await;
    assert_eq!((code, &serde_json::from_str::<Value>(&text).unwrap()["state"]), (Some(0), &json!("ready")));
    assert_eq!(operated.running.client().await.get("/").await.status, 200);
    let (code, text) = operated.ask(&["weight", "app/a", "7"]).await;
    assert!(code == Some(0) && text.contains("weight 7,"), "{text}");
    let (_, status) = operated.ask(&["status"]).await;
    assert!(status.contains("a: weight is 7 since it was set at runtime; the file says 1\n"), "{status}");

    let (code, text) = operated.ask(&["ready", "app/aa"]).await;
    assert_eq!(
        (code, text.as_str()),
        (Some(1), "linchpin: There is no backend \"aa\" in pool \"app\"; did you mean \"a\"?\n")
    );
    for (usage, why) in [
        (&["ready", "app"][..], "write POOL/BACKEND, such as app/a"),
        (&["weight", "app/a", "1001"], "write a whole number from 0 to 1000"),
        (&["weight", "app/a", "-1"], "write a whole number from 0 to 1000"),
        (&["weight", "app/a"], "<WEIGHT>"),
        (&["status", "--watch=0"], "write a whole number from 1 to 3600"),
        (&["healthcheck", "--timeout", "long"], "write a whole number from 1 to 600"),
    ] {
        let (code, text) = operated.ask(usage).await;
        assert!(code == Some(2) && text.contains(why), "{usage:?}: {text}");
    }
    // Without a file there is no token.
    let output = command(BINARY, &["status", "--admin", &operated.address, "-c", "/nowhere/linchpin.toml"]).await;
    let text = printed(&output);
    assert!(output.status.code() == Some(1) && text.contains("requires a token") && text.contains("-c FILE"), "{text}");
    // Another token: the file has changed since.
    std::fs::write(operated.folder.file("token"), "another").unwrap();
    let (code, text) = operated.ask(&["weight", "app/a", "1"]).await;
    assert!(code == Some(1) && text.contains("has another token than `token_file`"), "{text}");
}

#[tokio::test]
async fn without_a_file_the_message_names_each_way_to_go_on() {
    let folder = Folder::new();
    if std::path::Path::new("/etc/linchpin/linchpin.toml").exists() {
        return;
    }
    for (command, rest) in [
        ("status", "name a configuration file with -c FILE, or the admin listener with --admin ADDR\n"),
        ("run", "name a configuration file with -c FILE, or try: linchpin demo\n"),
        ("check", "name a configuration file with -c FILE, or try: linchpin demo\n"),
    ] {
        let mut process = Command::new(BINARY);
        process.arg(command).current_dir(folder.file("")).stdin(Stdio::null()).kill_on_drop(true);
        let output = soon("the end of the command", process.output()).await.unwrap();
        let text = printed(&output);
        assert!(output.status.code() == Some(1) && text.ends_with(rest), "{text}");
    }
}

#[tokio::test]
async fn a_health_check_needs_no_token_and_fails_while_the_process_stops() {
    let a = Backend::start("a", |seen| if seen.path() == "/hang" { Reply::Hang } else { Reply::ok("a") }).await;
    let operated = Operated::start(&[&a], "shutdown_grace = \"10s\"").await;
    std::fs::remove_file(operated.folder.file("token")).unwrap();
    assert_eq!(operated.ask(&["healthcheck"]).await, (Some(0), "ready\n".into()));
    let (code, text) = operated.ask(&["status"]).await;
    assert!(code == Some(1) && text.contains("cannot read the token file"), "{text}");

    // The address can be given. Without any file, there is no token.
    let admin = ["healthcheck", "--admin", &operated.address];
    assert_eq!(command(BINARY, &admin).await.status.code(), Some(0));
    let mut hanging = operated.running.client().await;
    hanging.send(b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n").await;
    a.has(1).await;
    operated.running.signal("TERM").await;
    until("it fails", async || operated.ask(&["healthcheck"]).await.0 == Some(1)).await;
    drop(hanging);
    until("nothing answers", async || {
        let (code, text) = operated.ask(&["healthcheck"]).await;
        code == Some(1)
            && text.starts_with(&format!("linchpin: nothing answers at {}, the address of", operated.address))
    })
    .await;
    let (code, text) = operated.ask(&["healthcheck", "--admin", "unix:/nowhere/admin.sock"]).await;
    assert!(code == Some(1) && text.starts_with("linchpin: nothing answers at unix:/nowhere/admin.sock: "), "{text}");
}

#[tokio::test]
async fn events_are_lines_also_after_a_restart() {
    let a = Backend::named("a").await;
    let operated = Operated::start(&[&a], "").await;
    let mut following = Command::new(BINARY);
    following.args(["events", "--last", "9", "-c", &operated.file]).stdout(Stdio::piped()).kill_on_drop(true);
    let mut following = following.spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut line = async |words: &str| {
        soon(words, async {
            loop {
                let line = lines.next_line().await.unwrap().expect("a line");
                if line.contains(words) {
                    return line;
                }
            }
        })
        .await
    };
    assert!(line("process").await.ends_with(" process     phase=ready"));
    assert_eq!(operated.ask(&["weight", "app/a", "3"]).await.0, Some(0));
    assert!(line("weight").await.ends_with(" weight      app/a 1 -> 3 by=api"));

    let Operated { mut running, file, folder: _folder, .. } = operated;
    running.signal("TERM").await;
    assert_eq!(running.exit_code().await, Some(0));
    let text = std::fs::read_to_string(&file).unwrap();
    let _running = Running::start_with(&file, &text, Stdio::null()).await;
    // The new process can't know what the one before has published last.
    assert!(line("lost").await.contains(" lost        events=unknown"), "after a restart");
    assert!(line("process").await.ends_with("phase=ready"));
    let code = command(BINARY, &["events", "--admin", "127.77.3.1:1"]).await.status.code();
    assert_eq!(code, Some(1), "nothing answers there");
}

#[tokio::test]
async fn a_unix_socket_is_found_by_the_file_as_well() {
    let a = Backend::named("a").await;
    let folder = Folder::new();
    let (socket, file) = (folder.file("admin.sock"), folder.file("linchpin.toml"));
    let text = format!(
        "[server]\nthreads = 1\n[log]\naccess = \"off\"\n[admin]\naddress = \"unix:{socket}\"\n[[listeners]]\n\
         address = \"127.0.0.1:0\"\n[[pools]]\nname = \"app\"\n[[pools.backends]]\nname = \"a\"\naddress = \"{}\"\n",
        a.address()
    );
    let running = Running::start_with(&file, &text, Stdio::null()).await;
    for arguments in [&["healthcheck"][..], &["status"], &["weight", "app/a", "2"]] {
        let output = command(BINARY, &[arguments, &["-c", &file]].concat()).await;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", printed(&output));
    }
    let by_address = command(BINARY, &["status", "--admin", &format!("unix:{socket}")]).await;
    assert!(printed(&by_address).contains("weight is 2"), "{}", printed(&by_address));
    drop(running);
}

#[tokio::test]
async fn completions_and_manual_pages_have_every_command_and_option() {
    let folder = Folder::new();
    let definition = cli::definition();
    for shell in ["bash", "zsh", "fish"] {
        let output = command(BINARY, &["completions", shell]).await;
        assert_eq!(output.status.code(), Some(0));
        let script = printed(&output);
        for each in definition.get_subcommands() {
            assert!(script.contains(each.get_name()), "{shell}: {}", each.get_name());
            let hidden = |argument: &&clap::Arg| !argument.is_hide_set();
            for long in each.get_arguments().filter(hidden).filter_map(clap::Arg::get_long) {
                assert!(script.contains(long), "{shell}: {} --{long}", each.get_name());
            }
        }
    }
    let script = folder.write("bash", &command(BINARY, &["completions", "bash"]).await.stdout);
    run("bash", &["-n", &script]).await;

    let pages = folder.file("man");
    assert_eq!(command(BINARY, &["man", "-o", &pages]).await.status.code(), Some(0));
    for each in definition.get_subcommands() {
        let page = std::fs::read_to_string(format!("{pages}/linchpin-{}.1", each.get_name())).unwrap();
        let about = each.get_about().unwrap().to_string();
        assert!(page.contains(about.split(['`', '-', '\'']).next().unwrap().trim()), "{}: {page}", each.get_name());
    }
    let page = printed(&command(BINARY, &["man"]).await);
    assert!(page.starts_with(".ie") && page.contains("linchpin\\-healthcheck(1)"), "{page}");
    let help = printed(&command(BINARY, &["run", "--help"]).await);
    assert!(help.contains("SIGHUP reloads") && help.contains("SIGUSR1 reopens"), "{help}");
}

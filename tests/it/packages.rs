//! The packages: what they contain, and the life of one on a machine, from its installation to its end.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use linchpin::cli;
use linchpin::config;
use tokio::process::{Child, Command};

use super::support::application::suite;
use super::support::load::Load;
use super::support::process::BINARY;
use super::support::repository::{path, read};
use super::support::tool::{Folder, run, try_run};
use super::support::{Backend, Client, soon, until};

/// The binary that is packaged: `$LINCHPIN_BINARY`, or that of these tests. Without what only a debugger reads, it is a
/// fifth as large.
async fn binary(folder: &Folder) -> String {
    let (binary, stripped) = (std::env::var("LINCHPIN_BINARY").unwrap_or(BINARY.into()), folder.file("linchpin"));
    if !std::fs::exists(&stripped).unwrap() {
        run("strip", &["-o", &stripped, &binary]).await;
    }
    stripped
}

/// What the packages have for the licences of what is linked in.
const LICENCES: &[u8] = b"hyper 1.0: MIT\n";

/// Builds a package of this kind and revision, and returns where it is.
async fn build(folder: &Folder, kind: &str, revision: &str) -> String {
    let script = path("packaging/build");
    let script = script.to_str().unwrap();
    let environment = format!("LINCHPIN={}", binary(folder).await);
    // `licences.rs` has the list that belongs there.
    let licences = format!("LICENCES={}", folder.write("licences", LICENCES));
    let words = [
        &environment,
        &licences,
        script,
        kind,
        "--quick",
        "--revision",
        revision,
        "--output",
        &folder.file("packages"),
    ];
    // To compress a package takes a busy machine longer than anything else here.
    let built = suite("env", &words).await;
    assert!(built.status.success(), "{built:?}");
    String::from_utf8(built.stdout).unwrap().trim().to_owned()
}

/// The commands that the command line shows.
fn commands() -> Vec<String> {
    let definition = cli::definition();
    let shown = definition.get_subcommands().filter(|command| !command.is_hide_set());
    shown.map(|command| command.get_name().to_owned()).collect()
}

#[tokio::test]
async fn the_score_of_the_units_sandbox_is_held() {
    let unit = path("packaging/linchpin.service");
    let words = ["security", "--offline=true", "--no-pager", unit.to_str().unwrap()];
    let report = match try_run("systemd-analyze", &words).await {
        Ok(output) => output.out + &output.err,
        // So it ends for a score that it calls bad: the report says which one.
        Err(report) => report,
    };
    let level = report.lines().find_map(|line| line.split_once("Overall exposure level for linchpin.service: "));
    let (_, level) = level.unwrap_or_else(|| panic!("{report}"));
    let score: f64 = level.split_whitespace().next().unwrap().parse().unwrap();
    assert!(score <= 2.0, "{report}");
}

#[test]
fn the_unit_waits_longer_for_the_end_than_the_configuration_lets_it_take() {
    let unit = read("packaging/linchpin.service");
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap();
    // Its folders are those that the unit makes.
    let (folder, text) = (Folder::new(), read("packaging/linchpin.toml"));
    let here = text.replace("/run/linchpin", &folder.file("")).replace("/var/log/linchpin", &folder.file(""));
    let (plan, _) = config::parse(&here, Path::new("linchpin.toml")).unwrap_or_else(|report| panic!("{report}"));
    let stop: u64 = value("TimeoutStopSec").parse().unwrap();
    assert!(stop > (plan.server.shutdown_delay + plan.server.shutdown_grace).as_secs());
    assert!(text.contains("handover = \"/run/linchpin/handover.sock\"") && plan.server.handover.is_some());
    assert_eq!((value("RuntimeDirectory"), value("LogsDirectory")), ("linchpin", "linchpin"));
    assert_eq!((value("Type"), value("ReloadSignal")), ("notify-reload", "SIGUSR2"));
    let words: Vec<_> = value("ExecStart").split(' ').collect();
    assert!(cli::definition().try_get_matches_from(words).is_ok());
}

#[tokio::test]
async fn the_packages_contain_the_manual_and_the_completions_of_the_command_line() {
    let folder = Folder::new();
    let (deb, rpm) = (build(&folder, "deb", "1").await, build(&folder, "rpm", "1").await);
    let root = folder.file("files");
    run("dpkg-deb", &["--extract", &deb, &root]).await;
    let files = listed(Path::new(&root));
    for command in commands() {
        let page = format!("usr/share/man/man1/linchpin-{command}.1.gz");
        assert!(files.contains(&page), "{page}");
    }
    let page = run("gunzip", &["--stdout", &format!("{root}/usr/share/man/man1/linchpin.1.gz")]).await.out;
    assert!(commands().iter().all(|command| page.contains(&command.replace('-', "\\-"))), "{page}");
    for (shell, file) in [
        ("bash", "usr/share/bash-completion/completions/linchpin"),
        ("zsh", "usr/share/zsh/vendor-completions/_linchpin"),
        ("fish", "usr/share/fish/vendor_completions.d/linchpin.fish"),
    ] {
        let script = std::fs::read_to_string(format!("{root}/{file}")).unwrap();
        assert_eq!(script, run(BINARY, &["completions", shell]).await.out, "{shell}");
        assert!(commands().iter().all(|command| script.contains(command.as_str())), "{shell}");
    }
    assert_eq!(std::fs::read(format!("{root}/usr/share/doc/linchpin/THIRD-PARTY-LICENCES")).unwrap(), LICENCES);
    // What the pages refer to is there, but for what is of use only with the sources.
    for page in files.iter().filter(|file| file.starts_with("usr/share/doc/linchpin/") && file.ends_with(".md")) {
        let text = std::fs::read_to_string(format!("{root}/{page}")).unwrap();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        let links = links.chain(text.split("src=\"").skip(1).filter_map(|rest| rest.split('"').next()));
        for link in links.filter(|link| !link.is_empty() && !link.contains("://")) {
            let of_sources =
                ["bench/", "fuzz/", "integrations/", "packaging/", "LICENSE", "ARCHITECTURE.md", "CONTRIBUTING.md"];
            if of_sources.iter().any(|start| link.trim_start_matches("../").starts_with(start)) {
                continue;
            }
            let target = Path::new(&root).join(page).parent().unwrap().join(link);
            assert!(target.exists(), "{page}: {link}");
        }
    }
    // The other package has the same, each where its system looks for it.
    let others = run("rpm", &["--query", "--list", "--package", &rpm]).await.out;
    let others: BTreeSet<_> = others.lines().map(|line| line.trim_start_matches('/').to_owned()).collect();
    for file in &files {
        let there = match file.as_str() {
            "usr/share/doc/linchpin/copyright" => "usr/share/doc/linchpin/LICENSE".to_owned(),
            file => file.replace("zsh/vendor-completions", "zsh/site-functions"),
        };
        assert!(others.contains(&there), "{there} is not in the .rpm");
    }
    let configured = run("rpm", &["--query", "--configfiles", "--package", &rpm]).await.out;
    assert_eq!(configured.lines().collect::<Vec<_>>(), ["/etc/linchpin/linchpin.toml", "/etc/logrotate.d/linchpin"]);
}

/// The key that the configuration suggests to make belongs to root; the service reads it by its group.
#[tokio::test]
async fn the_key_that_the_configuration_suggests_is_readable_for_the_service() {
    let folder = Folder::new();
    let text = read("packaging/linchpin.toml");
    let commands: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("#   sudo ")).collect();
    let commands: Vec<_> = commands.into_iter().filter(|command| command.contains("pins.key")).collect();
    let own = run("id", &["-gn"]).await.out;
    for command in &commands {
        let here = command
            .replace("/etc/linchpin/", &folder.file(""))
            .replace("chgrp linchpin", &format!("chgrp {}", own.trim()));
        run("sh", &["-c", &here.replace("linchpin keygen", &format!("{BINARY} keygen"))]).await;
    }
    let mode = std::fs::metadata(folder.file("pins.key")).unwrap().permissions().mode();
    assert_eq!((mode & 0o777, commands.len()), (0o640, 3), "{commands:?}");
}

#[tokio::test]
async fn the_rotation_of_logs_is_accepted_by_logrotate() {
    let folder = Folder::new();
    // Its users and folders are those of the package.
    let text = read("packaging/logrotate.conf").replace("/var/log/linchpin", &folder.file("log"));
    let own = run("id", &["-un"]).await.out;
    let text = text.replace("linchpin linchpin", &format!("{0} {0}", own.trim()));
    let file = folder.write("logrotate.conf", text.as_bytes());
    std::fs::create_dir(folder.file("log")).unwrap();
    folder.write("log/access.log", b"a line\n");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let state = folder.file("state");
    let logrotate = "PATH=$PATH:/usr/sbin:/sbin logrotate --force --state \"$0\" \"$1\"";
    run("sh", &["-c", logrotate, &state, &file]).await;
    assert!(std::fs::exists(folder.file("log/access.log.1")).unwrap());
}

/// Lists the files below a folder, and the symbolic links.
fn listed(root: &Path) -> BTreeSet<String> {
    let (mut all, mut folders) = (BTreeSet::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else {
                all.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    all
}

/// A machine with dpkg and systemd: a folder in which packages are installed, and a `systemctl` that does to the process
/// what systemd would.
struct Machine {
    folder: Folder,
    root: PathBuf,
    process: Option<Child>,
}

impl Machine {
    fn new() -> Machine {
        let folder = Folder::new();
        let root = PathBuf::from(folder.file("root"));
        for path in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "run/systemd/system", "etc"]
        {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in ["var/lib/dpkg/status", "var/lib/dpkg/available"] {
            std::fs::write(root.join(path), "").unwrap();
        }
        let (calls, pid) = (folder.file("calls"), folder.file("pid"));
        let systemctl = format!(
            "#!/bin/sh\necho \"$@\" >>{calls}\ncase \"$*\" in\n    reload*) kill -USR2 $(cat {pid}) ;;\n    \
             stop*) kill -TERM $(cat {pid}) || : ;;\nesac\n"
        );
        std::fs::create_dir(folder.file("bin")).unwrap();
        let systemctl = folder.write("bin/systemctl", systemctl.as_bytes());
        std::fs::set_permissions(systemctl, std::fs::Permissions::from_mode(0o755)).unwrap();
        Machine { folder, root, process: None }
    }

    /// Runs dpkg on this machine. Its database knows no other packages, and its scripts run outside, as for a machine
    /// that can't run anything yet; so they have the root in `$DPKG_ROOT`.
    async fn dpkg(&self, words: &[&str]) -> String {
        let path = format!("PATH={}:{}:/usr/sbin:/sbin", self.folder.file("bin"), std::env::var("PATH").unwrap());
        let root = format!("--root={}", self.root.display());
        let dpkg = ["dpkg", "--force-script-chrootless", "--force-depends", "--force-not-root", "--force-confold"];
        let words = [&["-u", "DPKG_ROOT", &path], &dpkg[..], &[root.as_str()], words].concat();
        let output = run("env", &words).await;
        output.out + &output.err
    }

    fn file(&self, name: &str) -> String {
        self.root.join(name).to_str().unwrap().to_owned()
    }

    /// What `systemctl` was called with since the last time.
    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.file("calls")).unwrap_or_default();
        self.folder.write("calls", b"");
        text.lines().map(str::to_owned).collect()
    }

    /// Starts the service by the command of its unit.
    async fn start(&mut self) {
        let unit = std::fs::read_to_string(self.file("usr/lib/systemd/system/linchpin.service")).unwrap();
        let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let words = command.split(' ').map(|word| match word.strip_prefix('/') {
            Some(path) => self.file(path),
            None => word.to_owned(),
        });
        let words: Vec<_> = words.collect();
        let mut process = Command::new(&words[0]);
        process.args(&words[1..]).kill_on_drop(true).stdout(std::process::Stdio::null());
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.file("journal")).unwrap();
        let process = process.stderr(log).spawn().unwrap();
        self.folder.write("pid", process.id().unwrap().to_string().as_bytes());
        self.process = Some(process);
        let address = self.line("listening address=").await;
        self.folder.write("address", address.rsplit('=').next().unwrap().as_bytes());
    }

    /// Waits for the last line of the service's messages with these words.
    async fn line(&self, words: &str) -> String {
        let journal = self.folder.file("journal");
        let find = || {
            std::fs::read_to_string(&journal)
                .unwrap()
                .lines()
                .rev()
                .find(|line| line.contains(words))
                .map(str::to_owned)
        };
        until(words, async || find().is_some()).await;
        find().unwrap()
    }

    fn address(&self) -> std::net::SocketAddr {
        std::fs::read_to_string(self.folder.file("address")).unwrap().trim().parse().unwrap()
    }

    /// The mode of a file, and the names of its owner and group on this machine.
    fn access(&self, name: &str) -> String {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(self.file(name)).unwrap();
        let named = |file: &str, id: u32| {
            let text = std::fs::read_to_string(self.file(file)).unwrap();
            let found =
                text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[2] == id.to_string());
            found
                .map_or_else(|| if id == 0 { "root".to_owned() } else { id.to_string() }, |fields| fields[0].to_owned())
        };
        let (owner, group) = (named("etc/passwd", metadata.uid()), named("etc/group", metadata.gid()));
        format!("{:04o} {owner}:{group}", metadata.mode() & 0o7777)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The process that has taken over is no child of this one.
        let pid = std::fs::read_to_string(self.folder.file("pid")).unwrap_or_default();
        if self.process.is_none() && !pid.is_empty() {
            let _ = std::process::Command::new("kill")
                .args(["-9", pid.trim()])
                .stderr(std::process::Stdio::null())
                .status();
        }
    }
}

/// Eight clients that send requests, half of them on a new connection each time.
fn load(address: std::net::SocketAddr) -> Load<()> {
    Load::begin(8, move |number, told| async move {
        let mut kept = Client::connect(address).await;
        while !told.is_over() {
            if number.is_multiple_of(2) {
                kept = Client::connect(address).await;
            }
            let response = kept.get("/").await;
            assert_eq!(response.status, 200, "{response:?}");
            if response.field("connection") == Some("close") {
                kept = Client::connect(address).await;
            }
            told.served();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
}

#[tokio::test]
async fn an_installed_package_serves_reloads_is_upgraded_under_load_and_leaves_nothing() {
    let mut machine = Machine::new();
    let before = listed(&machine.root);
    let (first, second) = (build(&machine.folder, "deb", "1").await, build(&machine.folder, "deb", "2").await);
    machine.dpkg(&["--install", &first]).await;
    assert_eq!(
        machine.calls(),
        ["daemon-reload", "enable --quiet linchpin.service", "start linchpin.service"],
        "what is new is started"
    );
    assert_eq!(machine.access("usr/bin/linchpin"), "0755 root:root");
    assert_eq!(machine.access("etc/linchpin"), "0750 root:linchpin");
    assert_eq!(machine.access("etc/linchpin/linchpin.toml"), "0640 root:linchpin");
    assert_eq!(machine.access("var/log/linchpin"), "0750 linchpin:linchpin");

    // The operator changes the configuration, as far as this machine differs from others.
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let packaged = std::fs::read_to_string(machine.file("etc/linchpin/linchpin.toml")).unwrap();
    std::fs::create_dir_all(machine.file("run/linchpin")).unwrap();
    let configuration = |backend: &Backend| {
        let text = packaged.replace("\"/run/", &format!("\"{}/", machine.file("run")));
        let text = text.replace("unix:/run/", &format!("unix:{}/", machine.file("run")));
        let text = text.replace("\"/var/", &format!("\"{}/", machine.file("var")));
        let text = text.replace("127.0.0.1:8080", "127.0.0.1:0").replace("shutdown_delay = \"5s\"", "");
        text.replace("127.0.0.1:9001", &backend.address().to_string())
    };
    let file = machine.file("etc/linchpin/linchpin.toml");
    std::fs::write(&file, configuration(&a)).unwrap();
    let changed = configuration(&b);
    machine.start().await;
    let address = machine.address();
    assert_eq!(Client::connect(address).await.get("/").await.text(), "a");
    let program = machine.file("usr/bin/linchpin");
    run(&program, &["healthcheck", "-c", &file]).await;

    // A reload.
    std::fs::write(&file, &changed).unwrap();
    let report = run(&program, &["reload", "-c", &file]).await.out;
    assert!(report.contains("address"), "{report}");
    until("the other backend", async || Client::connect(address).await.get("/").await.text() == "b").await;

    // An upgrade of the package. What the operator has changed stays.
    let load = load(address);
    load.more(50).await;
    machine.dpkg(&["--install", &second]).await;
    let calls = machine.calls();
    assert_eq!(calls, ["daemon-reload", "is-active --quiet linchpin.service", "reload linchpin.service"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), changed);
    machine.line("taken over from the process before this one").await;
    load.more(100).await;
    let taking_over = machine.line("started a process that takes over").await;
    let pid = taking_over.split("pid=").nth(1).unwrap().split_whitespace().next().unwrap();
    let pid: String = pid.chars().filter(char::is_ascii_digit).collect();
    load.end().await;
    let mut old = machine.process.take().unwrap();
    assert!(soon("the end of the old process", old.wait()).await.unwrap().success());
    machine.folder.write("pid", pid.as_bytes());
    assert_eq!(Client::connect(address).await.get("/").await.text(), "b");

    // Removed, it has stopped, and what belongs to the operator is still there.
    machine.dpkg(&["--remove", "linchpin"]).await;
    let stopped = [
        "is-enabled --quiet linchpin.service",
        "stop linchpin.service",
        "disable --quiet linchpin.service",
        "daemon-reload",
    ];
    assert_eq!(machine.calls(), stopped);
    until("the end of the service", async || tokio::net::TcpStream::connect(address).await.is_err()).await;
    assert!(std::fs::exists(&file).unwrap() && !std::fs::exists(program).unwrap());
    // Installed again, it starts as it did the first time, with what the operator has written.
    machine.dpkg(&["--install", &second]).await;
    assert_eq!(machine.calls(), ["daemon-reload", "enable --quiet linchpin.service", "start linchpin.service"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), changed);
    machine.dpkg(&["--remove", "linchpin"]).await;
    assert_eq!(machine.calls(), stopped);
    machine.dpkg(&["--purge", "linchpin"]).await;
    let left: Vec<_> = listed(&machine.root).difference(&before).cloned().collect();
    // dpkg's own files, and the user.
    let is_expected = |file: &&String| file.starts_with("var/lib/dpkg/") || file.starts_with("etc/");
    let users = ["etc/group", "etc/passwd", "etc/gshadow", "etc/shadow", "etc/.pwd.lock"];
    let (known, unknown): (Vec<_>, Vec<_>) = left.iter().partition(is_expected);
    assert!(unknown.is_empty(), "{unknown:?}");
    let of_linchpin = |file: &&&String| {
        file.contains("linchpin") || !(file.starts_with("var/") || users.contains(&file.trim_end_matches('-')))
    };
    assert_eq!(known.iter().filter(of_linchpin).count(), 0, "{known:?}");
}

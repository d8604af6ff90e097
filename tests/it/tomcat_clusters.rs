//! `demo/tomcat.sh`: real Tomcats behind the real binary, as clusters and with session copies. The script checks what it shows,
//! and these tests run it.

use std::process::Stdio;

use tokio::process::Command;
use tokio::sync::Mutex;

use super::support::repository::path;

/// One at a time: each runs three Java virtual machines.
static TOMCATS: Mutex<()> = Mutex::const_new(());

/// Runs the script, and returns what it printed. Panics if the script finds a difference.
async fn tomcat(mode: &str) -> String {
    let _others = TOMCATS.lock().await;
    // The script bounds each of its waits, and takes some ten seconds on an idle machine.
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "240"]).arg(path("demo/tomcat.sh")).arg(mode);
    command.env("LINCHPIN", env!("CARGO_BIN_EXE_linchpin")).stdin(Stdio::null());
    let output = command.output().await.unwrap();
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`tests/run` installs Tomcat\n{printed}");
    printed.into_owned()
}

/// How often a text says this.
fn count(text: &str, words: &str) -> usize {
    text.matches(words).count()
}

#[tokio::test]
async fn sessions_of_an_all_to_all_cluster_survive_two_kills() {
    let printed = tomcat("all-to-all").await;
    assert!(printed.contains("messages a save:"), "{printed}");
    assert_eq!(count(&printed, "still have login, cart and session id"), 2, "{printed}");
}

#[tokio::test]
async fn sessions_of_a_primary_secondary_cluster_survive_one_kill_after_another() {
    let printed = tomcat("primary-secondary").await;
    assert!(printed.contains("messages a save:"), "{printed}");
    assert_eq!(count(&printed, "still have login, cart and session id"), 2, "{printed}");
    assert_eq!(count(&printed, "each session is on 2 servers again"), 1, "{printed}");
}

#[tokio::test]
async fn sessions_with_copies_survive_the_death_of_each_server() {
    let printed = tomcat("copies").await;
    assert!(printed.contains("messages a save:"), "{printed}");
    assert_eq!(count(&printed, "still have login, cart and session id"), 2, "{printed}");
    assert_eq!(count(&printed, "sessions that had ended is back, nor an old id"), 2, "{printed}");
}

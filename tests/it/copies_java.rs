//! Session copies of a servlet application, by the filter of `integrations/java`, in real Tomcats.

use std::process::{Output, Stdio};

use tokio::process::Command;

use super::support::application::{Application, SECRET, check};
use super::support::process::printed;
use super::support::repository::path;
use super::support::tool::Folder;

/// Runs the filter's script, which takes some ten seconds on an idle machine.
async fn script(arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "240"]).arg(path("integrations/java/test.sh")).args(arguments);
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    assert!(output.status.success(), "`tests/run` installs a JDK and Tomcat\n{}", printed(&output));
    output
}

#[tokio::test]
async fn the_servlet_filter_passes_its_own_tests() {
    let output = script(&[]).await;
    assert_eq!(printed(&output).matches(" passed, 0 failed").count(), 2, "{}", printed(&output));
}

#[tokio::test]
async fn a_servlet_application_keeps_the_rules_of_the_protocol() {
    let folder = Folder::new();
    let built = script(&["build", &folder.file("classes")]).await;
    let path = String::from_utf8(built.stdout).unwrap();
    let words = ["java", "-XX:TieredStopAtLevel=1", "-cp", path.trim(), "dev.linchpin.session.TestServer"];
    let secret = [("LINCHPIN_SESSION_SECRET", SECRET)];
    let output =
        check(&Application::start(&words, &secret).await, &Application::start(&words, &secret).await, &[]).await;
    assert!(output.status.success(), "{}", printed(&output));
    assert!(printed(&output).contains(" 0 are broken, 0 were skipped"), "{}", printed(&output));
}

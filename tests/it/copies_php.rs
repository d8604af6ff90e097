//! Session copies of a PHP application, by the session handler of `integrations/php`.

use super::support::application::{Application, check};
use super::support::process::printed;
use super::support::tool::{Folder, try_run};

const SHOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/integrations/php/example/index.php");

/// Starts a server that keeps its sessions in a folder, and serves four requests at once.
async fn shop(folder: &Folder, name: &str) -> Application {
    let path = format!("session.save_path={}", folder.file(name));
    let words = ["php", "-d", &path, "-S", "127.0.0.1:0", SHOP];
    Application::start(&words, &[("PHP_CLI_SERVER_WORKERS", "4")]).await
}

#[tokio::test]
async fn the_php_session_handler_passes_its_own_tests() {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/integrations/php/test/run.php");
    try_run("php", &[tests]).await.unwrap_or_else(|output| panic!("{output}"));
}

#[tokio::test]
async fn a_php_application_keeps_the_rules_of_the_protocol() {
    let folder = Folder::new();
    let output = check(&shop(&folder, "a").await, &shop(&folder, "b").await, &[]).await;
    assert!(output.status.success(), "{}", printed(&output));
    assert!(printed(&output).contains(" 0 are broken, 0 were skipped"), "{}", printed(&output));
}

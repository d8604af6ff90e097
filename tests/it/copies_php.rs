//! Session copies of a PHP application, by the session handler of `integrations/php`.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::support::application::{Application, check, suite};
use super::support::process::printed;
use super::support::survival::{self, Launch, Shop};
use super::support::tool::Folder;

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
    let output = suite("php", &[tests]).await;
    assert!(output.status.success(), "{}", printed(&output));
}

#[tokio::test]
async fn a_php_application_keeps_the_rules_of_the_protocol() {
    let folder = Folder::new();
    let output = check(&shop(&folder, "a").await, &shop(&folder, "b").await, &[]).await;
    assert!(output.status.success(), "{}", printed(&output));
    assert!(printed(&output).contains(" 0 are broken, 0 were skipped"), "{}", printed(&output));
}

/// Three servers behind a Linchpin. With each restart, the files of a server are gone, as with its machine.
async fn three(folder: &Folder) -> Shop<impl Fn(&str, u16) -> Launch> {
    let lives = AtomicUsize::new(0);
    Shop::open(move |name, port| {
        let path = folder.file(&format!("{name}{}", lives.fetch_add(1, Ordering::Relaxed)));
        let words = ["php", "-d", &format!("session.save_path={path}"), "-S", &format!("127.0.0.1:{port}"), SHOP];
        Launch { words: words.map(str::to_owned).to_vec(), environment: vec![("PHP_CLI_SERVER_WORKERS", "4".into())] }
    })
    .await
}

#[tokio::test]
async fn a_php_application_keeps_its_sessions_through_kills_and_restarts() {
    let folder = Folder::new();
    survival::survives_kills_between_requests(three(&folder).await).await;
}

#[tokio::test]
async fn a_php_application_keeps_its_sessions_when_servers_die_in_the_middle_of_requests() {
    let folder = Folder::new();
    survival::survives_kills_under_load(three(&folder).await).await;
}

#[tokio::test]
async fn no_old_cookie_of_a_php_application_is_worth_anything_after_kills() {
    let folder = Folder::new();
    survival::old_cookies_are_worth_nothing_after_kills(three(&folder).await).await;
}

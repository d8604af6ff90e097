//! Session copies of an Express application, by the store of `integrations/express`.

use super::support::application::{Application, check, suite};
use super::support::process::{command, printed};
use super::support::repository::{files, path, read};
use super::support::survival::{self, Launch, Shop};
use super::support::tool::Folder;

const SHOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/integrations/express/example/app.js");

async fn shop(environment: &[(&str, &str)]) -> Application {
    Application::start(&["node", SHOP], environment).await
}

#[tokio::test]
async fn the_express_store_passes_its_own_tests() {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/integrations/express/test");
    let output = suite("node", &["--test", tests]).await;
    assert!(output.status.success(), "{}", printed(&output));
}

#[tokio::test]
async fn an_express_application_keeps_the_rules_of_the_protocol() {
    let output = check(&shop(&[]).await, &shop(&[]).await, &[]).await;
    assert!(output.status.success(), "{}", printed(&output));
    assert!(printed(&output).contains(" 0 are broken, 0 were skipped"), "{}", printed(&output));
}

#[tokio::test]
async fn the_check_of_middlewares_finds_a_server_that_never_wants_a_copy() {
    let never_wants = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/never_wants.cjs");
    let shop = async || Application::start(&["node", "--require", never_wants, SHOP], &[]).await;
    let output = check(&shop().await, &shop().await, &["--only", "want"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    assert!(printed(&output).contains("BROKEN  A server without the session wants it"), "{}", printed(&output));
}

/// From a copy of the repository in which nothing was ever installed.
#[tokio::test]
async fn the_express_store_installs_as_its_page_says() {
    let folder = Folder::new();
    let sources = files("integrations/express");
    for file in sources.iter().filter(|file| !file.contains("/node_modules/")) {
        let copy = folder.file(file);
        std::fs::create_dir_all(std::path::Path::new(&copy).parent().unwrap()).unwrap();
        std::fs::copy(path(file), copy).unwrap();
    }
    let page = read("integrations/express/README.md");
    let install = page.lines().find_map(|line| line.split(" #").next()?.strip_prefix("npm install ")).unwrap();
    let install = install.trim().replace("/path/to/linchpin/", &folder.file(""));
    // An application that has express-session already; without a registry, npm can't look for more.
    let modules = path("tests/node/node_modules");
    let script = format!(
        "cd {0} && echo '{{}}' >package.json && npm install --offline --legacy-peer-deps --no-audit --no-fund {install} && \
         ln -s {1}/express-session node_modules && node -e \"require('linchpin-session-store').LinchpinStore.name\"",
        folder.file(""),
        modules.display()
    );
    let output = command("sh", &["-c", &script]).await;
    assert!(output.status.success(), "{}", printed(&output));
}

/// Three servers behind a Linchpin.
async fn three() -> Shop<impl Fn(&str, u16) -> Launch> {
    Shop::open(|_, port| Launch {
        words: vec!["node".into(), SHOP.into()],
        environment: vec![("PORT", port.to_string())],
    })
    .await
}

#[tokio::test]
async fn an_express_application_keeps_its_sessions_through_kills_and_restarts() {
    survival::survives_kills_between_requests(three().await).await;
}

#[tokio::test]
async fn an_express_application_keeps_its_sessions_when_servers_die_in_the_middle_of_requests() {
    survival::survives_kills_under_load(three().await).await;
}

#[tokio::test]
async fn no_old_cookie_of_an_express_application_is_worth_anything_after_kills() {
    survival::old_cookies_are_worth_nothing_after_kills(three().await).await;
}

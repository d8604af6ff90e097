//! Session copies of an Express application, by the store of `integrations/express`.

use super::support::application::{Application, check, suite};
use super::support::process::printed;
use super::support::survival::{self, Launch, Shop};

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

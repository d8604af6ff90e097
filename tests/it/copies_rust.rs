//! Session copies of an axum application, by the store and layer of `integrations/rust`.

use std::path::Path;

use super::support::application::{Application, check};
use super::support::process::{BINARY, printed};

/// Starts the example of the crate, which `tests/run` builds.
async fn counter() -> Application {
    let counter = Path::new(BINARY).with_file_name("examples").join("counter");
    let command = format!("exec setpriv --pdeathsig KILL {} 127.0.0.1:0", counter.display());
    Application::start(&["sh", "-c", &command], &[]).await
}

#[tokio::test]
async fn an_axum_application_keeps_the_rules_of_the_protocol() {
    let output = check(&counter().await, &counter().await, &[]).await;
    assert!(output.status.success(), "{}", printed(&output));
    assert!(printed(&output).contains(" 0 are broken, 0 were skipped"), "{}", printed(&output));
}

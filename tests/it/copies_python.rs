//! Session copies of a Flask application, by `integrations/python`.

use super::support::application::{Application, check};
use super::support::process::printed;
use super::support::tool::{Folder, try_run};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Where Python finds the middleware and what it needs.
fn python_path() -> String {
    format!("{ROOT}/integrations/python:{ROOT}/tests/python/packages")
}

/// Starts the example in one process.
async fn single() -> Application {
    let command = format!("exec setpriv --pdeathsig KILL python3 {ROOT}/integrations/python/example.py");
    Application::start(&["sh", "-c", &command], &[("PYTHONPATH", &python_path())]).await
}

/// Starts the example in several processes that share a folder.
async fn several(folder: &str) -> Application {
    let settings = format!("{ROOT}/tests/python/gunicorn_settings.py");
    let command = format!("exec setpriv --pdeathsig KILL python3 -m gunicorn --config {settings} example:app");
    let environment = [("PYTHONPATH", &*python_path()), ("SESSION_FOLDER", folder)];
    Application::start(&["sh", "-c", &command], &environment).await
}

async fn keeps_all_rules(a: &Application, b: &Application) {
    let output = check(a, b, &[]).await;
    assert!(output.status.success(), "{}", printed(&output));
    assert!(printed(&output).contains(" 0 are broken, 0 were skipped"), "{}", printed(&output));
}

#[tokio::test]
async fn the_flask_middleware_passes_its_own_tests() {
    let path = format!("PYTHONPATH={}", python_path());
    let tests = format!("{ROOT}/integrations/python/tests");
    let run = try_run("env", &[&path, "python3", "-m", "unittest", "discover", "-s", &tests]).await;
    run.unwrap_or_else(|output| panic!("{output}"));
}

#[tokio::test]
async fn a_flask_application_keeps_the_rules_of_the_protocol() {
    keeps_all_rules(&single().await, &single().await).await;
}

#[tokio::test]
async fn a_flask_application_of_several_processes_keeps_them_with_a_folder() {
    let folder = Folder::new();
    keeps_all_rules(&several(&folder.file("a")).await, &several(&folder.file("b")).await).await;
}

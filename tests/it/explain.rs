//! `linchpin explain` beside a running Linchpin: what that holds of a token's session, and what is said if none runs.

use super::support::process::{linchpin, printed};
use super::support::proxy::Builder;
use super::support::session_app::SessionApp;
use super::support::tool::Folder;
use super::support::{Client, Keys, Proxy, Response};

/// A Linchpin, and the file that it runs with.
struct Running {
    proxy: Proxy,
    folder: Folder,
    file: String,
    _keys: Keys,
}

impl Running {
    fn start(apps: &[SessionApp], persistence: &str, copies: &str) -> Running {
        let folder = Folder::new();
        let token = folder.write("token", b"a-token-of-the-operators-of-this-machine");
        let admin = format!("[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = {token:?}");
        let keys = Keys::new(&[1]);
        let builder = || -> Builder {
            let builder = Proxy::builder().top(&keys.tables()).top(&admin).table("persistence", persistence);
            let builder = builder.table("copies", copies);
            apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, ""))
        };
        let proxy = builder().start();
        let begin = "[admin]\naddress = ";
        let real = format!("{begin}\"{}\"", proxy.admin());
        let file = folder
            .write("linchpin.toml", builder().text().replace(&format!("{begin}\"127.0.0.1:0\""), &real).as_bytes());
        Running { proxy, folder, file, _keys: keys }
    }

    async fn send(&self, method: &str, path: &str, cookies: &str) -> Response {
        let mut client: Client = self.proxy.client().await;
        client.request(method, path, &format!("cookie: {cookies}\r\n"), b"").await
    }
}

async fn explain(file: &str, token: &str) -> String {
    explain_with(&["-c", file, token]).await
}

async fn explain_with(arguments: &[&str]) -> String {
    let done = linchpin(&[&["explain"], arguments].concat()).await;
    assert_eq!(done.status.code(), Some(0), "{}", printed(&done));
    let printed = printed(&done);
    // The copy begins so, in plain text or as its field has it.
    assert!(!printed.contains("sealed:") && !printed.contains("c2VhbGVk"), "no byte of a copy: {printed}");
    printed
}

/// The row about the copy.
fn row(printed: &str) -> &str {
    let row = printed.lines().find_map(|line| line.strip_prefix("copy       "));
    row.unwrap_or_else(|| panic!("no row about the copy: {printed}"))
}

fn sid(response: &Response) -> String {
    let set = response.fields("set-cookie");
    let sid = set.iter().find(|cookie| cookie.starts_with("SID=")).expect("a session cookie");
    sid.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn it_asks_the_running_process_which_copy_it_holds_of_the_session() {
    let mut apps: Vec<_> = SessionApp::three().await.into();
    let running = Running::start(&apps, "", "");
    let first = running.send("POST", "/add", "").await;
    let (pin, cookies) = (first.pin().unwrap(), format!("{}; {}", first.pin().unwrap(), sid(&first)));
    let name = first.field("x-server").unwrap().to_owned();
    let said = explain(&running.file, &pin).await;
    let held = row(&said);
    assert!(held.starts_with("term 1, seq 1, ") && held.ends_with(&format!(" ago; {name} has the session")), "{said}");
    assert!(held.contains(" bytes, saved "), "{said}");

    let at = apps.iter().position(|app| app.backend.name() == name).unwrap();
    apps.remove(at).backend.kill().await;
    let moved = running.send("POST", "/add", &cookies).await;
    let next = moved.field("x-server").unwrap();
    let said = explain(&running.file, &pin).await;
    assert!(row(&said).starts_with("term 2, seq 2, "), "{said}");
    assert!(row(&said).ends_with(&format!("; {next} has the session")), "{said}");

    let cookies = format!("{}; {}", moved.pin().unwrap(), sid(&moved));
    assert_eq!(running.send("POST", "/logout", &cookies).await.text(), "none");
    let said = explain(&running.file, &pin).await;
    assert_eq!(row(&said), "none: the session has ended at term 2, seq 3", "{said}");
}

#[tokio::test]
async fn it_names_the_servers_that_keep_the_copy() {
    let apps: Vec<_> = SessionApp::three().await.into();
    let running = Running::start(&apps, "", "hold = \"secondary\"");
    let first = running.send("POST", "/add", "").await;
    let holder = first.field("x-server").unwrap();
    let secondary = apps.iter().find(|app| !app.given().is_empty()).unwrap().backend.name();
    let said = explain(&running.file, &first.pin().unwrap()).await;
    assert_eq!(row(&said), format!("term 1, seq 1, on {secondary}; {holder} has the session"));
}

#[tokio::test]
async fn it_says_so_if_nothing_answers_or_there_is_nothing_to_ask() {
    let apps: Vec<_> = SessionApp::three().await.into();
    let running = Running::start(&apps, "", "");
    let pin = running.send("POST", "/add", "").await.pin().unwrap();
    // Another Linchpin, which knows the keys and not the session.
    let other = Running::start(&apps, "", "");
    let said = explain(&other.file, &pin).await;
    assert_eq!(row(&said), "none: the running process knows nothing of this session's state", "{said}");

    let text = std::fs::read_to_string(&running.file).unwrap();
    let token = running.folder.write("other-token", b"another-token-of-the-operators");
    let other_token = text.replace(&running.folder.file("token"), &token);
    let said = explain(&running.folder.write("other-token.toml", other_token.as_bytes()), &pin).await;
    assert!(row(&said).starts_with("unknown: the running process has another token than `token_file`"), "{said}");

    let begin = text.find("[admin]").unwrap();
    let end = text[begin..].find("\n[").map_or(text.len(), |end| begin + end);
    let without = running.folder.write("without.toml", (text[..begin].to_owned() + &text[end..]).as_bytes());
    let said = explain(&without, &pin).await;
    assert!(row(&said).starts_with("unknown: ") && row(&said).contains("has no [admin]"), "{said}");

    let (admin, file) = (running.proxy.admin(), running.file.clone());
    running.proxy.stop().await;
    let said = explain(&file, &pin).await;
    assert!(row(&said).starts_with(&format!("unknown: nothing answers at {admin}")), "{said}");
    assert!(said.contains("verdict    hit"), "{said}");
}

#[tokio::test]
async fn it_asks_the_process_at_the_address_that_it_is_given() {
    let apps: Vec<_> = SessionApp::three().await.into();
    let running = Running::start(&apps, "", "");
    let pin = running.send("POST", "/add", "").await.pin().unwrap();
    let admin = running.proxy.admin().to_string();
    let elsewhere = std::fs::read_to_string(&running.file).unwrap().replace(&admin, "127.0.0.1:1");
    let file = running.folder.write("elsewhere.toml", elsewhere.as_bytes());
    assert!(row(&explain(&file, &pin).await).starts_with("unknown: nothing answers at 127.0.0.1:1"));
    let said = explain_with(&["-c", &file, "--admin", &admin, &pin]).await;
    assert!(row(&said).starts_with("term 1, seq 1, "), "{said}");
}

#[tokio::test]
async fn it_asks_about_session_ids_that_were_learned() {
    let apps: Vec<_> = SessionApp::three().await.into();
    let running = Running::start(&apps, "type = \"learned\"\nlearned = { cookie = \"SID\" }", "");
    let first = running.send("POST", "/add", "").await;
    let holder = first.field("x-server").unwrap().to_owned();
    let said = explain(&running.file, &sid(&first)).await;
    assert!(said.contains(&format!("backend    {holder} at ")) && said.contains("verdict    hit"), "{said}");
    assert!(row(&said).starts_with("term 1, seq 1, "), "{said}");
    let refused = linchpin(&["explain", "-c", &running.file, "SID=unheard-of"]).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = printed(&refused);
    assert!(said.contains("the running process cannot read it, either"), "{said}");
    let file = running.file.clone();
    running.proxy.stop().await;
    let refused = linchpin(&["explain", "-c", &file, &sid(&first)]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(printed(&refused).contains("only the running Linchpin knows learned sessions, and nothing answers at"));
}

#[tokio::test]
async fn it_asks_the_running_process_about_pins_of_its_random_key() {
    let apps: Vec<_> = SessionApp::three().await.into();
    let running = Running::start(&apps, "", "");
    let text = std::fs::read_to_string(&running.file).unwrap();
    let table = text.find("[[keys]]").unwrap();
    let end = text[table..].find("\n[").map_or(text.len(), |end| table + end);
    let without_keys = running.folder.write("without-keys.toml", (text[..table].to_owned() + &text[end..]).as_bytes());
    let first = running.send("POST", "/add", "").await;
    let said = explain(&without_keys, &first.pin().unwrap()).await;
    assert!(said.contains(&format!("backend    {} at ", first.field("x-server").unwrap())), "{said}");
    assert!(said.contains("verdict    hit"), "{said}");

    let refused = linchpin(&["explain", "-c", &without_keys, "AaRBsV9FjUNbEBCj7WtvhP"]).await;
    let said = printed(&refused);
    assert!(
        said.starts_with("linchpin: the running Linchpin cannot open this token: a process that has ended"),
        "{said}"
    );
    running.proxy.stop().await;
    let refused = linchpin(&["explain", "-c", &without_keys, &first.pin().unwrap()]).await;
    let said = printed(&refused);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains("only the running Linchpin can open its pins, and nothing answers at"), "{said}");
}

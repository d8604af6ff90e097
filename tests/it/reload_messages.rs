//! Reloads of level and format of the messages, while connections are open.

use std::process::Stdio;

use bytes::Bytes;
use h2::client::SendRequest;
use serde_json::Value;

use super::support::Backend;
use super::support::process::Running;
use super::support::tool::Folder;

async fn ask(sender: &mut SendRequest<Bytes>) -> u16 {
    let request = http::Request::get("http://a.example/").body(()).unwrap();
    let mut ready = sender.clone().ready().await.unwrap();
    let (response, _) = ready.send_request(request, true).unwrap();
    response.await.unwrap().status().as_u16()
}

#[tokio::test]
async fn the_format_of_messages_changes_under_an_open_connection_of_http_2() {
    let backend = Backend::named("a").await;
    let folder = Folder::new();
    let path = folder.file("linchpin.toml");
    let with = |log: &str| {
        format!(
            "[server]\nthreads = 1\n[log]\naccess = \"off\"\n{log}\n[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true\n\
             [[pools]]\nname = \"app\"\n[[pools.backends]]\nname = \"a\"\naddress = \"{}\"\n",
            backend.address()
        )
    };
    let text = "level = \"debug\"\nformat = \"text\"";
    let mut running = Running::start_with(&path, &with(text), Stdio::null()).await;
    let stream = tokio::net::TcpStream::connect(&running.address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let driving = tokio::spawn(connection);
    // HTTP/2 logs within a span that begins with the connection.
    assert_eq!(ask(&mut sender).await, 200);

    std::fs::write(&path, with("level = \"debug\"\nformat = \"json\"")).unwrap();
    running.signal("HUP").await;
    let line = running.line("reloaded the configuration").await;
    let json: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!((&json["level"], &json["fields"]["changes"]), (&"INFO".into(), &"log.format".into()));
    assert_eq!(ask(&mut sender).await, 200);
    running.line("h2::").await;

    std::fs::write(&path, with("level = \"info\"")).unwrap();
    running.signal("HUP").await;
    let line = running.line("reloaded the configuration").await;
    assert!(line.contains(" INFO ") && line.contains("log.format log.level"), "{line}");
    assert_eq!(ask(&mut sender).await, 200, "on the same connection");
    assert!(!driving.is_finished());

    std::fs::write(&path, with("level = \"warn\"")).unwrap();
    running.signal("HUP").await;
    std::fs::write(&path, with("level = \"info\"\n[server.limits]\nheader_count = 99")).unwrap();
    running.signal("HUP").await;
    running.line("server.limits").await;
    running.signal("TERM").await;
    drop(sender);
    assert_eq!(running.exit_code().await, Some(0));
}

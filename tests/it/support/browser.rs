//! A browser: it keeps its routing cookie and the application's session cookie, uses a new connection for each request,
//! and may use another Linchpin each time.

use std::net::SocketAddr;

use super::session_app::SessionApp;
use super::{Client, Proxy, Response};

#[derive(Debug, Default, Clone)]
pub struct Browser {
    pub pin: Option<String>,
    pub sid: Option<String>,
}

impl Browser {
    /// Connects, with its cookies.
    pub async fn client(&self, proxy: &Proxy) -> Client {
        self.client_of(proxy.address()).await
    }

    async fn client_of(&self, address: SocketAddr) -> Client {
        let mut client = Client::connect(address).await;
        let sid = self.sid.as_ref().map(|sid| format!("SID={sid}"));
        let cookies: Vec<String> = self.pin.iter().cloned().chain(sid).collect();
        client.pin = (!cookies.is_empty()).then(|| cookies.join("; "));
        client
    }

    /// Begins a request and leaves it under way.
    pub async fn begin(&self, proxy: &Proxy, method: &str, path: &str) -> Client {
        let mut client = self.client(proxy).await;
        let cookies = client.pin.take().unwrap_or_default();
        client.send(format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncookie: {cookies}\r\n\r\n").as_bytes()).await;
        client
    }

    /// Keeps the cookies of a response.
    pub fn keep(&mut self, response: &Response) {
        for name in ["linchpin-session", "linchpin-session-save", "linchpin-session-drop", "linchpin-session-want"] {
            assert_eq!(response.field(name), None, "no field of session copies reaches a client");
        }
        self.pin = response.pin().or(self.pin.take());
        let set = response.fields("set-cookie");
        let sid = set.iter().find_map(|cookie| cookie.strip_prefix("SID="));
        self.sid = sid.map(|sid| sid.split(';').next().unwrap().to_owned()).or(self.sid.take());
    }

    pub async fn send_body(&mut self, proxy: &Proxy, method: &str, path: &str, body: &[u8]) -> Response {
        let response = self.client(proxy).await.request(method, path, "", body).await;
        self.keep(&response);
        response
    }

    pub async fn send(&mut self, proxy: &Proxy, method: &str, path: &str) -> Response {
        self.send_body(proxy, method, path, b"").await
    }

    /// Sends a request to a Linchpin that is a process of its own.
    pub async fn send_to(&mut self, address: SocketAddr, method: &str, path: &str) -> Response {
        let response = self.client_of(address).await.request(method, path, "", b"").await;
        self.keep(&response);
        response
    }

    /// Adds one to the count of its session.
    pub async fn add(&mut self, proxy: &Proxy) -> String {
        self.send(proxy, "POST", "/add").await.text()
    }

    /// The count of its session, or `none`.
    pub async fn count(&mut self, proxy: &Proxy) -> String {
        self.send(proxy, "GET", "/").await.text()
    }
}

/// Returns the position of the server that sent a response.
pub fn server(apps: &[SessionApp], response: &Response) -> usize {
    let name = response.field("x-server").unwrap_or_else(|| panic!("no server sent {}", response.head));
    apps.iter().position(|app| app.backend.name() == name).unwrap()
}

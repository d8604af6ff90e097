//! A headless Chromium, driven over pipes by the DevTools protocol.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::tool::Folder;
use super::{soon, until};

/// A browser; killed when dropped.
pub struct Chromium {
    _process: Child,
    commands: ChildStdin,
    events: BufReader<ChildStdout>,
    last: u64,
    /// The addresses of all requests since [`Chromium::record_requests`].
    requests: Vec<String>,
    _folder: Folder,
}

/// A window with a cookie jar of its own.
pub struct Window {
    session: String,
}

impl Chromium {
    pub async fn start() -> Chromium {
        let folder = Folder::new();
        // Its name differs between distributions; `tests/run` sets the variable.
        let browser = std::env::var("CHROMIUM").unwrap_or_else(|_| "chromium".into());
        let mut command = Command::new("sh");
        // Chromium reads commands from descriptor 3, and writes results to 4.
        command.args(["-c", "exec \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null", "sh", &browser, "--headless"]);
        // The tests may run as root, which has no sandbox, and with little shared memory.
        command.args(["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        command.args(["--no-proxy-server", "--remote-debugging-pipe"]);
        command.arg(format!("--user-data-dir={}", folder.file("data")));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let (commands, events) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Chromium { _process: process, commands, events, last: 0, requests: Vec::new(), _folder: folder }
    }

    /// Opens a window of that many pixels.
    pub async fn window(&mut self, width: u32, height: u32) -> Window {
        let jar = self.call(None, "Target.createBrowserContext", json!({})).await.unwrap();
        let page = json!({ "url": "about:blank", "browserContextId": jar["browserContextId"] });
        let page = self.call(None, "Target.createTarget", page).await.unwrap();
        let page = json!({ "targetId": page["targetId"], "flatten": true });
        let session = self.call(None, "Target.attachToTarget", page).await.unwrap();
        let window = Window { session: session["sessionId"].as_str().unwrap().to_owned() };
        self.resize(&window, width, height).await;
        window
    }

    pub async fn resize(&mut self, window: &Window, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call(Some(window), "Emulation.setDeviceMetricsOverride", size).await.unwrap();
    }

    /// Sets the preferred colour scheme: `dark` or `light`.
    pub async fn prefer(&mut self, window: &Window, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call(Some(window), "Emulation.setEmulatedMedia", features).await.unwrap();
    }

    pub async fn open(&mut self, window: &Window, url: &str) {
        self.call(Some(window), "Page.navigate", json!({ "url": url })).await.unwrap();
        self.until(window, "document.readyState === 'complete'").await;
    }

    /// Evaluates an expression in the window; null during a navigation.
    pub async fn value(&mut self, window: &Window, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call(Some(window), "Runtime.evaluate", parameters).await;
        result.map_or(Value::Null, |result| result["result"]["value"].clone())
    }

    /// Waits until an expression is true in the window, across navigations.
    pub async fn until(&mut self, window: &Window, expression: &str) {
        until(expression, async || self.value(window, expression).await == json!(true)).await;
    }

    /// Records the addresses of the window's requests from now on.
    pub async fn record_requests(&mut self, window: &Window) {
        self.call(Some(window), "Network.enable", json!({})).await.unwrap();
    }

    /// Returns the addresses of all requests that were recorded.
    pub fn requests(&self) -> &[String] {
        &self.requests
    }

    /// Clicks with the mouse on the middle of the element that an expression returns, once it can be seen.
    pub async fn click(&mut self, window: &Window, element: &str) {
        let place = format!(
            "(e => {{ if (!e || e.disabled) return null; e.scrollIntoView({{ block: 'center', behavior: 'instant' }}); \
             const b = e.getBoundingClientRect(), x = b.x + b.width / 2, y = b.y + b.height / 2; \
             return e.contains(document.elementFromPoint(x, y)) ? [x, y] : null; }})({element})"
        );
        self.until(window, &format!("{place} !== null")).await;
        let place = self.value(window, &place).await;
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
            self.call(Some(window), "Input.dispatchMouseEvent", event).await;
        }
    }

    /// Presses a key: `Tab`, `Enter`, `Escape`, or a character.
    pub async fn press(&mut self, window: &Window, key: &str) {
        let text = if key == "Enter" { "\r" } else { key };
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            _ => 0,
        };
        let mut stroke = json!({ "type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code });
        if !["Tab", "Escape"].contains(&key) {
            stroke["text"] = json!(text);
        }
        self.call(Some(window), "Input.dispatchKeyEvent", stroke.clone()).await;
        stroke["type"] = json!("keyUp");
        // The key may have started a navigation.
        self.call(Some(window), "Input.dispatchKeyEvent", stroke).await;
    }

    /// Sends a command and returns its result; `None` if it failed.
    async fn call(&mut self, window: Option<&Window>, method: &str, parameters: Value) -> Option<Value> {
        self.last += 1;
        let mut command = json!({ "id": self.last, "method": method, "params": parameters });
        if let Some(window) = window {
            command["sessionId"] = json!(window.session);
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        soon(method, self.commands.write_all(&bytes))
            .await
            .expect("chromium; `tests/run` installs what the tests need");
        loop {
            let mut message = Vec::new();
            soon(method, self.events.read_until(0, &mut message)).await.unwrap();
            assert_eq!(message.pop(), Some(0), "the browser has ended; `tests/run` installs what the tests need");
            let message: Value = serde_json::from_slice(&message).unwrap();
            if message["method"] == json!("Network.requestWillBeSent") {
                self.requests.push(message["params"]["request"]["url"].as_str().unwrap_or_default().to_owned());
            }
            if message["id"] == json!(self.last) {
                return message.get("result").cloned();
            }
        }
    }
}

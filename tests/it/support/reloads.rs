//! Proxies whose configuration is a file that tests change.

use std::path::Path;

use linchpin::admin::ReloadReport;
use linchpin::app::App;
use linchpin::config;

use super::Proxy;
use super::tool::Folder;

/// A running proxy and its file.
pub struct Reloadable {
    pub proxy: Proxy,
    _folder: Folder,
    file: String,
}

impl Reloadable {
    /// Starts one with this configuration.
    pub fn start(text: &str) -> Reloadable {
        let folder = Folder::new();
        Reloadable::start_in(folder, text)
    }

    /// Starts one whose file is in this folder.
    pub fn start_in(folder: Folder, text: &str) -> Reloadable {
        let file = folder.write("linchpin.toml", text.as_bytes());
        let (plan, _) = config::load(Path::new(&file)).unwrap_or_else(|report| panic!("{report}\n{text}"));
        let proxy = Proxy::of(App::start(plan).expect("a proxy that starts"));
        Reloadable { proxy, _folder: folder, file }
    }

    /// Starts one whose file a test writes by itself.
    pub fn follow(file: &str) -> Reloadable {
        let (plan, _) = config::load(Path::new(file)).unwrap_or_else(|report| panic!("{report}"));
        let proxy = Proxy::of(App::start(plan).expect("a proxy that starts"));
        Reloadable { proxy, _folder: Folder::new(), file: file.into() }
    }

    /// Writes the file.
    pub fn write(&self, text: &str) {
        std::fs::write(&self.file, text).unwrap();
    }

    /// Writes the file and reloads it.
    pub async fn reload(&self, text: &str) -> ReloadReport {
        self.write(text);
        self.proxy.reload(false).await
    }
}

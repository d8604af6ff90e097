//! What `linchpin import` says can be run: it is run, and answers. What lost its guard, or spoke TLS, is not open.

use std::path::Path;
use std::process::{Command, Output};

use linchpin::app::App;
use linchpin::config;
use linchpin::import::{Format, Imported, import};

use super::passwords::users;
use super::support::authority::Authority;
use super::support::repository::{files, read};
use super::support::tool::Folder;
use super::support::{Backend, Client};

/// Certificates and authorities, for whatever a configuration names.
struct Files {
    folder: Folder,
    certificate: String,
    key: String,
    authority: String,
    account: String,
    page: String,
}

impl Files {
    fn new() -> Files {
        let (folder, authority) = (Folder::new(), Authority::new("root"));
        let here = Path::new(&folder.file("")).to_owned();
        authority.issue(&["shop.example"]).write(&here, "site");
        let pair = [folder.file("site.pem"), folder.file("site.key")].map(|file| std::fs::read(file).unwrap()).concat();
        // Where there is no `key`, it stands in the same file.
        let certificate = folder.write("both.pem", &pair);
        let key = folder.file("site.key");
        let authority = folder.write("authority.pem", authority.pem().as_bytes());
        let account = folder.write("eab.key", b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8");
        let page = folder.write("error.html", b"<p>{{status}} {{request_id}}");
        Files { folder, certificate, key, authority, account, page }
    }

    /// A configuration with the files that there are in the place of those that it names.
    fn in_place(&self, text: &str) -> String {
        let line = |line: &str| {
            let key = line.split(" = ").next().unwrap_or_default();
            let file = match key {
                "cert" => &self.certificate,
                "key" => &self.key,
                "ca" | "client_ca" => &self.authority,
                // Of an account that an ACME server knows, and a page for errors.
                "file" => &self.account,
                "error" => &self.page,
                "basic_auth" => return self.with_users(line),
                "tls" => return self.with_authority(line),
                _ => return format!("{line}\n"),
            };
            format!("{key} = {file:?}\n")
        };
        text.lines().map(line).collect()
    }

    /// A line with the authority that there is.
    fn with_authority(&self, line: &str) -> String {
        let Some((begin, rest)) = line.split_once("ca = \"") else { return format!("{line}\n") };
        let (_, end) = rest.split_once('"').unwrap();
        format!("{begin}ca = {:?}{end}\n", self.authority)
    }

    /// A line with the file of users that there is.
    fn with_users(&self, line: &str) -> String {
        let (begin, rest) = line.split_once("file = \"").unwrap();
        let (_, end) = rest.split_once('"').unwrap();
        let users = self.folder.write("users", users(&[("ana", "sesame")]).as_bytes());
        format!("{begin}file = {users:?}{end}\n")
    }

    fn errors(&self, text: &str) -> Vec<String> {
        let report = match config::parse(&self.in_place(text), Path::new(&self.folder.file("imported.toml"))) {
            Ok((_, report)) | Err(report) => report,
        };
        let errors = report.findings().iter().filter(|finding| finding.severity == config::Severity::Error);
        errors.map(ToString::to_string).collect()
    }

    /// Runs it, each listener on a port of its own.
    fn run(&self, imported: &Imported) -> App {
        assert!(imported.may_serve, "{}", imported.text);
        let text = self.in_place(&imported.text);
        let mut in_listener = false;
        let lines = text.lines().map(|line| {
            in_listener = line == "[[listeners]]" || (in_listener && !line.starts_with('['));
            match in_listener && line.starts_with("address = ") {
                true => "address = \"127.0.0.1:0\"",
                false => line,
            }
        });
        let text = lines.collect::<Vec<_>>().join("\n") + "\n[log]\naccess = \"off\"\n";
        let plan = config::parse(&text, Path::new(&self.folder.file("imported.toml")));
        let (plan, _) = plan.unwrap_or_else(|report| panic!("{report}\n{text}"));
        App::start(plan).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }
}

/// The sources in tests/it/import/.
fn sources() -> Vec<(String, String)> {
    let is_source = |file: &String| !file.contains("/expected/");
    let all: Vec<_> =
        files("tests/it/import").into_iter().filter(is_source).map(|file| (file.clone(), read(&file))).collect();
    assert!(all.len() >= 30, "{all:?}");
    all
}

fn imported(name: &str, text: &str) -> Imported {
    let name = name.rsplit('/').next().unwrap();
    import(text, name, Format::guess(name, text).unwrap()).unwrap()
}

async fn get(app: &App, listener: usize, host: &str, path: &str) -> Option<(u16, String)> {
    let mut client = Client::connect(app.listeners()[listener].tcp().unwrap()).await;
    client.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes()).await;
    let response = client.try_response("GET").await?;
    Some((response.status, response.field("location").unwrap_or_default().to_owned() + &response.text()))
}

#[test]
fn what_is_made_passes_the_check_or_is_said_not_to_answer() {
    let files = Files::new();
    for (name, text) in sources() {
        let imported = imported(&name, &text);
        let errors = files.errors(&imported.text);
        assert!(!imported.may_serve || errors.is_empty(), "{name}:\n{}\n{}", errors.join("\n"), imported.text);
    }
}

#[test]
fn no_secret_of_a_source_is_in_what_is_made_of_it() {
    for (name, text) in sources() {
        let made = imported(&name, &text).text;
        assert!(!made.contains("hunter2"), "{name}:\n{made}");
    }
}

/// Which of the tables that can be taken up have a line.
fn live<'t>(text: &'t str, header: &str) -> Vec<&'t str> {
    text.split("\n\n").filter(|table| table.starts_with(header)).collect()
}

#[test]
fn what_spoke_tls_is_never_open_without() {
    for (name, text) in sources() {
        let made = imported(&name, &text).text;
        let opened = live(&made, "[[listeners]]");
        for port in ["443\"", "8443\""] {
            for listener in opened.iter().filter(|listener| listener.contains(port)) {
                let at = made.find(*listener).unwrap() + listener.len();
                assert!(made[at..].trim_start().starts_with("[listeners.tls"), "{name}:\n{made}");
            }
        }
    }
    let acme = imported("traefik-acme.yaml", &read("tests/it/import/traefik-acme.yaml"));
    assert!(live(&acme.text, "[[listeners]]").is_empty() && !acme.may_serve, "{}", acme.text);
}

#[tokio::test]
async fn haproxy_with_two_frontends_runs_and_sends_clients_to_tls() {
    let (files, backend) = (Files::new(), Backend::named("a").await);
    let source = format!(
        "defaults\n mode http\nfrontend http\n bind :80\n http-request redirect scheme https code 301\n\
         frontend https\n bind :443 ssl crt site.pem\n default_backend app\n\
         frontend internal\n bind 127.0.0.1:8080\n default_backend app\n\
         backend app\n server a {} check\n",
        backend.address()
    );
    let app = files.run(&imported("haproxy.cfg", &source));
    assert_eq!(get(&app, 0, "shop.example", "/x?y").await, Some((301, "https://shop.example/x?y".into())));
    assert_eq!(get(&app, 1, "shop.example", "/").await.filter(|(status, _)| *status == 200), None);
    assert_eq!(get(&app, 2, "shop.example", "/").await.unwrap().0, 200);
    app.stop().await;
}

#[tokio::test]
async fn nginx_runs_and_what_is_guarded_is_not_reached() {
    let (files, open, kept) = (Files::new(), Backend::named("open").await, Backend::named("kept").await);
    let source = format!(
        "upstream open {{ server {}; }} upstream kept {{ server {}; }}\n\
         server {{ listen 80; server_name a.example; location / {{ proxy_pass http://open/base/; }}\n\
         location /admin {{ auth_basic x; proxy_pass http://kept; }} }}\n\
         server {{ listen 80; server_name b.example; location / {{ proxy_pass http://kept; }} location /x {{ deny all; proxy_pass http://kept; }} }}\n",
        open.address(),
        kept.address()
    );
    let app = files.run(&imported("nginx.conf", &source));
    assert_eq!(get(&app, 0, "a.example", "/x").await.unwrap().0, 200);
    assert_eq!(open.seen()[0].path(), "/base/x");
    for (host, path) in [("a.example", "/admin"), ("b.example", "/x"), ("b.example", "/%78")] {
        let _ = get(&app, 0, host, path).await;
    }
    assert_eq!(kept.count(), 0);
    app.stop().await;
}

#[tokio::test]
async fn traefik_runs_and_the_made_up_listener_is_no_backend() {
    let (files, backend) = (Files::new(), Backend::named("a").await);
    let source = format!(
        "http:\n  routers:\n    a:\n      rule: Host(`a.example`) && PathPrefix(`/app`)\n      middlewares: [no-app]\n      service: a\n\
         \x20   b:\n      rule: Host(`b.example`)\n      middlewares: [office]\n      service: a\n\
         \x20 middlewares:\n    no-app: {{stripPrefix: {{prefixes: [/app]}}}}\n    office: {{ipAllowList: {{sourceRange: [10.0.0.0/8]}}}}\n\
         \x20 services:\n    a:\n      loadBalancer:\n        servers:\n          - url: http://{}\n    other:\n      loadBalancer:\n        servers:\n          - url: http://127.0.0.1:8080\n",
        backend.address()
    );
    let imported = imported("traefik.yaml", &source);
    assert!(imported.text.contains("[[listeners]]\naddress = \"127.0.0.1:8081\""), "{}", imported.text);
    let app = files.run(&imported);
    assert_eq!(get(&app, 0, "a.example", "/app/x").await.unwrap().0, 200);
    assert_eq!(backend.seen()[0].path(), "/x");
    assert_eq!(get(&app, 0, "b.example", "/").await.unwrap().0, 403);
    app.stop().await;
}

fn linchpin(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_linchpin")).args(arguments).output().unwrap()
}

#[test]
fn what_answers_nothing_is_not_said_to_run() {
    let folder = Folder::new();
    let said = |name: &str, source: &str| {
        let file = folder.write(name, source.as_bytes());
        let output = linchpin(&["import", &file]);
        assert!(output.status.code() <= Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for (name, source) in [
        (
            "haproxy.cfg",
            "frontend f\n bind :443 ssl crt-list x\n default_backend b\nbackend b\n server a 127.0.0.1:9001\n",
        ),
        ("haproxy.cfg", "frontend f\n bind :80\n http-request redirect scheme https\n"),
        ("haproxy.cfg", "backend b\n http-request deny\n server a 127.0.0.1:9001\n"),
        ("haproxy.cfg", "frontend f\n bind :80\n default_backend b\nbackend b\n server a 127.0.0.1:9001 disabled\n"),
        ("nginx.conf", "server { location / { deny all; proxy_pass http://127.0.0.1:9001; } }"),
        ("nginx.conf", "http { gzip on; }"),
    ] {
        let said = said(name, source);
        assert!(said.contains("it can't be run as it is"), "{source}: {said}");
    }
    let good = said("nginx.conf", "server { location / { proxy_pass http://127.0.0.1:9001; } }");
    assert!(good.contains("it can be run"), "{good}");
}

#[tokio::test]
async fn lists_and_passwords_of_a_source_hold_in_what_is_made_of_it() {
    let (files, backend) = (Files::new(), Backend::named("a").await);
    let address = backend.address();
    let sources = [
        (
            "nginx.conf",
            format!(
                "server {{ listen 80; location / {{ proxy_pass http://{address}; }} location /in/ {{ allow 127.0.0.0/8; deny all; \
                 proxy_pass http://{address}; }} location /out/ {{ deny 127.0.0.1; proxy_pass http://{address}; }} location /who/ {{ \
                 auth_basic \"Staff\"; auth_basic_user_file users; proxy_pass http://{address}; }} }}"
            ),
        ),
        (
            "haproxy.cfg",
            format!(
                "frontend f\n mode http\n bind :80\n acl out path_beg /out/\n acl home src 127.0.0.0/8\n http-request deny if out home\n \
                 use_backend b if out\n default_backend b\nbackend b\n server a {address}\n"
            ),
        ),
        (
            "traefik.yaml",
            format!(
                "http:\n  routers:\n    all: {{rule: PathPrefix(`/`), service: a}}\n    out: {{rule: PathPrefix(`/out/`), service: a, \
                 middlewares: [far]}}\n    who: {{rule: PathPrefix(`/who/`), service: a, middlewares: [users]}}\n  middlewares:\n    far: \
                 {{ipAllowList: {{sourceRange: [192.0.2.0/24]}}}}\n    users: {{basicAuth: {{usersFile: /users}}}}\n  services:\n    a: \
                 {{loadBalancer: {{servers: [{{url: \"http://{address}\"}}]}}}}\n"
            ),
        ),
    ];
    for (name, source) in sources {
        let imported = imported(name, &source);
        assert!(!imported.lost_access_control, "{}", imported.text);
        let app = files.run(&imported);
        let status = async |path: &str| get(&app, 0, "a.example", path).await.unwrap().0;
        assert_eq!(
            (status("/").await, status("/out").await, status("/%6fut").await),
            (200, 403, 403),
            "{}",
            imported.text
        );
        if imported.text.contains("basic_auth") {
            assert_eq!(status("/who").await, 401, "{}", imported.text);
        }
        if imported.text.contains("/in\"") {
            assert_eq!(status("/in").await, 200, "{}", imported.text);
        }
        app.stop().await;
    }
}

#[tokio::test]
async fn fields_that_a_source_changes_are_changed_in_what_is_made_of_it() {
    let (files, backend) = (Files::new(), Backend::named("a").await);
    let address = backend.address();
    let sources = [
        (
            "nginx.conf",
            format!(
                "add_header X-Frame-Options DENY; server {{ listen 80; proxy_set_header X-Edge eu-1; proxy_set_header X-Debug \"\"; \
                 location / {{ proxy_pass http://{address}; }} }}"
            ),
        ),
        (
            "haproxy.cfg",
            format!(
                "frontend f\n mode http\n bind :80\n http-response set-header X-Frame-Options DENY\n default_backend b\nbackend b\n \
                 http-request set-header X-Edge eu-1\n http-request del-header X-Debug\n server a {address}\n"
            ),
        ),
        (
            "traefik.yaml",
            format!(
                "http:\n  routers:\n    all: {{rule: PathPrefix(`/`), service: a, middlewares: [f]}}\n  middlewares:\n    f: {{headers: \
                 {{frameDeny: true, customRequestHeaders: {{X-Edge: eu-1, X-Debug: \"\"}}}}}}\n  services:\n    a: {{loadBalancer: \
                 {{servers: [{{url: \"http://{address}\"}}]}}}}\n"
            ),
        ),
    ];
    for (index, (name, source)) in sources.into_iter().enumerate() {
        let imported = imported(name, &source);
        let app = files.run(&imported);
        let mut client = Client::connect(app.listeners()[0].tcp().unwrap()).await;
        client.send(b"GET / HTTP/1.1\r\nhost: a.example\r\nx-debug: 1\r\nconnection: close\r\n\r\n").await;
        let response = client.try_response("GET").await.unwrap();
        assert_eq!(response.field("x-frame-options"), Some("DENY"), "{}", imported.text);
        let seen = &backend.seen()[index];
        assert_eq!((seen.field("x-edge"), seen.field("x-debug")), (Some("eu-1"), None), "{}", imported.text);
        app.stop().await;
    }
}

/// A refusal of part of what a route serves divides the route: the rest of the application stays open.
#[tokio::test]
async fn what_a_source_refuses_below_a_path_is_refused_and_the_rest_is_served() {
    let (files, backend) = (Files::new(), Backend::named("a").await);
    let address = backend.address();
    let sources = [
        (
            "haproxy.cfg",
            format!(
                "frontend f\n mode http\n bind :80\n http-request deny if {{ path_beg /secret/ }}\n acl office src 192.0.2.0/24\n \
                 http-request deny if {{ path_beg /admin/ }} !office\n use_backend b if {{ hdr(host) a.example }}\n \
                 default_backend b\nbackend b\n http-request deny if {{ path_beg /inner/ }}\n server a {address}\n"
            ),
        ),
        (
            "nginx.conf",
            format!(
                "server {{ listen 80; location / {{ proxy_pass http://{address}; }} location /secret/ {{ return 403; }} location \
                 /admin/ {{ allow 192.0.2.0/24; deny all; }} location /inner/ {{ internal; }} }}"
            ),
        ),
    ];
    for (name, source) in sources {
        let imported = imported(name, &source);
        assert!(!imported.lost_access_control, "{}", imported.text);
        let app = files.run(&imported);
        for (path, status) in [
            ("/", 200),
            ("/secret/x", 403),
            ("/%73ecret/x", 403),
            ("/admin/x", 403),
            ("/x/../admin/", 403),
            ("/x", 200),
        ] {
            assert_eq!(get(&app, 0, "a.example", path).await.unwrap().0, status, "{path}\n{}", imported.text);
        }
        app.stop().await;
    }
}

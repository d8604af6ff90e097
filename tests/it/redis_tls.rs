//! A store that is reached over TLS, with a user and a password: `rediss://`.

use std::path::Path;
use std::process::Stdio;

use super::support::authority::Authority;
use super::support::dns::free_port;
use super::support::process::{Redis, Running};
use super::support::tool::Folder;
use super::support::{Backend, Reply, until};

/// Starts a Linchpin that trusts the authorities in the file `trusted`.
fn linchpin(store: &str, trusted: &str, backends: &[Backend]) -> Running {
    let backends: String = backends
        .iter()
        .map(|backend| {
            format!("[[pools.backends]]\nname = {:?}\naddress = \"{}\"\n", backend.name(), backend.address())
        })
        .collect();
    let text = format!(
        "[[listeners]]\naddress = \"127.0.0.1:0\"\n[[pools]]\nname = \"app\"\n[pools.persistence]\ntype = \"learned\"\n\
         learned = {{ cookie = \"SID\", store = {store:?} }}\nverdict_header = \"X-Verdict\"\n{backends}"
    );
    Running::begin(&text, Stdio::null(), &["env", &format!("SSL_CERT_FILE={trusted}")])
}

async fn listening(mut linchpin: Running) -> Running {
    let line = linchpin.line("listening address=").await;
    linchpin.address = line.rsplit('=').next().unwrap().to_owned();
    linchpin
}

#[tokio::test]
async fn linchpins_share_sessions_over_tls_with_a_user_and_a_password_and_verify_the_certificate() {
    let (folder, authority, other) = (Folder::new(), Authority::new("root"), Authority::new("other"));
    let (certificate, key) = authority.issue(&["127.0.0.1"]).write(Path::new(&folder.file("")), "redis");
    let trusted = folder.write("ca.pem", authority.pem().as_bytes());
    let stranger = folder.write("other.pem", other.pem().as_bytes());
    let port = free_port();
    let (tls_port, user) = (port.to_string(), ["--user", "linchpin", "on", ">secret", "~linchpin:*", "&*", "+@all"]);
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let tls = ["--tls-port", &tls_port, "--tls-cert-file", certificate, "--tls-key-file", key];
    let clients = ["--tls-ca-cert-file", &*trusted, "--tls-auth-clients", "no"];
    let _redis = Redis::start_with(&[&tls[..], &clients, &user].concat()).await;

    let backends: [Backend; 3] = {
        let start = |name: &'static str| {
            Backend::start(name, move |seen| match seen.field("cookie") {
                Some(_) => Reply::ok(name),
                None => Reply::new(200, &format!("set-cookie: SID={name}1\r\n"), name),
            })
        };
        [start("a").await, start("b").await, start("c").await]
    };
    let store = |user: &str| format!("rediss://{user}@127.0.0.1:{port}");
    let (one, two) = (
        linchpin(&store("linchpin:secret"), &trusted, &backends),
        linchpin(&store("linchpin:secret"), &trusted, &backends),
    );
    let (one, two) = (listening(one).await, listening(two).await);
    let first = one.client().await.get("/").await;
    let cookie = format!("cookie: {}\r\n", first.field("set-cookie").unwrap());
    until("the other Linchpin knows the session", async || {
        let response = two.client().await.request("GET", "/", &cookie, b"").await;
        response.field("x-verdict") == Some("hit") && response.text() == first.text()
    })
    .await;

    for (user, trusted, reason) in
        [("linchpin:secret", &stranger, "certificate"), ("linchpin:wrong", &trusted, "uthentication")]
    {
        let mut refused = linchpin(&store(user), trusted, &backends);
        let line = refused.line("cannot connect to the store").await;
        assert!(line.contains(reason) && !line.contains("secret") && !line.contains("wrong"), "{line}");
    }
}

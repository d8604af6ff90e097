//! Owns: the findings about certificates and keys.
//! Invariant: the files are real, and each case has one fault.
//! Must not know: how a handshake works.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rcgen::date_time_ymd;

use super::*;
use crate::tls::server::{ClientVerification, Version};
use crate::tls::tests::Folder;
use crate::tls::tests::authority::{Authority, Issued};
use crate::tls::{self, CertificateFiles};
use crate::{clock, runtime};

/// Issues a certificate for app.example, valid from and to so many days from now, plus a minute.
fn lasting(authority: &Authority, from: i64, to: i64) -> Issued {
    let day = |days: i64| {
        let time = i64::try_from(clock::unix().as_secs()).unwrap() + days * 24 * 60 * 60 + 60;
        date_time_ymd(1970, 1, 1) + Duration::from_secs(time.try_into().unwrap())
    };
    authority.issue_with(&["app.example"], |params| {
        params.not_before = day(from);
        params.not_after = day(to);
    })
}

/// Returns the severity, line and problem of each finding of a file that starts with `tls`.
fn findings(folder: &Folder, tls: &str) -> Vec<(Severity, usize, String)> {
    let text = format!("{tls}{GOOD}");
    let report = parse(&text, &folder.0.join("linchpin.toml")).map_or_else(|report| report, |(_, report)| report);
    let findings = report.findings().iter();
    findings
        .map(|finding| (finding.severity, finding.position.as_ref().unwrap().line, finding.problem.clone()))
        .collect()
}

const LISTENER: &str = "[[listeners]]\naddress = \"127.0.0.1:8443\"\n[listeners.tls]\n";

#[test]
fn tls_arrives_where_it_belongs() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let pair = |name: &str| folder.pair(name, &authority.issue(&[&format!("{name}.example")]));
    let (first, second, own) = (pair("first"), pair("second"), pair("own"));
    let ca = folder.write("ca.pem", &authority.pem());
    let both = format!(
        "{}{}",
        std::fs::read_to_string(&first.certificate).unwrap(),
        std::fs::read_to_string(&first.key).unwrap()
    );
    let both = folder.write("both.pem", &both);
    std::fs::set_permissions(&both, std::fs::Permissions::from_mode(0o640)).unwrap();
    let text = format!(
        r#"
        [[listeners]]
        address = "127.0.0.1:80"
        redirect_https = true
        [[listeners]]
        address = "127.0.0.1:81"
        redirect_https = 8443
        [[listeners]]
        address = "127.0.0.1:443"
        tls = {{ cert = "both.pem", hsts = "365d" }}
        [[listeners]]
        address = "127.0.0.1:8443"
        [listeners.tls]
        certificates = [{{ cert = "second.pem", key = "second.key" }}]
        cert = "{first}"
        key = "first.key"
        client_ca = "ca.pem"
        client_certificate = "optional"
        min_version = "1.3"
        http2 = false
        [[pools]]
        name = "app"
        [pools.persistence]
        type = "none"
        [pools.upstream.tls]
        ca = "ca.pem"
        cert = "own.pem"
        key = "own.key"
        server_name = "app.internal"
        [[pools.backends]]
        name = "a"
        address = "127.0.0.1:9001"
        "#,
        first = first.certificate.display()
    );
    let (plan, report) = parse(&text, &folder.0.join("linchpin.toml")).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(report.to_string(), "");
    let [plain, other, simple, full] = plan.listeners.as_slice() else { panic!("{plan:?}") };
    assert_eq!((plain.redirect_https, other.redirect_https, full.redirect_https), (Some(443), Some(8443), None));
    assert!(plain.tls.is_none());
    let tls = |listener: &runtime::ListenerSettings| listener.tls.as_deref().unwrap().clone();
    let expected = tls::server::Settings {
        certificates: vec![CertificateFiles { certificate: both.clone(), key: both }],
        issued: Vec::new(),
        min_version: Version::Tls12,
        http2: true,
        clients: None,
    };
    assert_eq!((tls(simple), simple.hsts), (expected, Some(Duration::from_secs(365 * 24 * 60 * 60))));
    let expected = tls::server::Settings {
        certificates: vec![first, second],
        issued: Vec::new(),
        min_version: Version::Tls13,
        http2: false,
        clients: Some(ClientVerification { authorities: ca.clone(), is_required: false }),
    };
    assert_eq!((tls(full), full.hsts), (expected, None));
    let expected = tls::client::Settings {
        authorities: Some(ca),
        server_name: Some("app.internal".into()),
        certificate: Some(own),
        verify: true,
    };
    assert_eq!(plan.pools[0].upstream.tls.as_deref(), Some(&expected));
}

#[test]
fn what_is_odd_about_a_certificate_is_a_warning_and_what_cannot_be_used_an_error() {
    use Severity::{Error, Warning};
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let chained = |first: &Issued, then: &str| Issued {
        certificate: format!("{}{then}", first.certificate),
        key: first.key.clone(),
    };
    let good = lasting(&authority, -1, 90);
    let mismatch = Issued { key: authority.issue(&["x"]).key, ..lasting(&authority, -1, 90) };
    let unnamed = authority.issue_with(&["app.example"], |params| params.subject_alt_names.clear());
    type Expected = Option<(Severity, usize, &'static str)>;
    let cases: [(Issued, Expected); 12] = [
        (lasting(&authority, -1, 30), None),
        (chained(&good, &authority.pem()), None),
        (lasting(&authority, -1, 29), None),
        (lasting(&authority, -200, 29), Some((Warning, 4, "the certificate for \"app.example\" expires in 29 days"))),
        (lasting(&authority, -9, 1), Some((Warning, 4, "the certificate for \"app.example\" expires in 1 day"))),
        (lasting(&authority, -9, 0), Some((Warning, 4, "the certificate for \"app.example\" expires within a day"))),
        (
            lasting(&authority, -9, -1),
            Some((Warning, 4, "the certificate for \"app.example\" EXPIRED today: clients and backends reject it")),
        ),
        (
            lasting(&authority, -9, -3),
            Some((
                Warning,
                4,
                "the certificate for \"app.example\" EXPIRED 2 days ago: clients and backends reject it",
            )),
        ),
        (
            lasting(&authority, 2, 9),
            Some((Warning, 4, "the certificate for \"app.example\" is NOT VALID yet: it becomes valid within 3 days")),
        ),
        (
            chained(&good, &Authority::new("stranger").pem()),
            Some((
                Warning,
                4,
                "the next certificate after the one for \"app.example\" did not sign it: many clients reject such a chain",
            )),
        ),
        (unnamed, Some((Warning, 4, "the certificate of \"CN=app.example\" contains no host name: clients reject it"))),
        (mismatch, Some((Error, 5, "the key in KEY does not belong to the certificate in CERT"))),
    ];
    let tls = format!("{LISTENER}cert = \"app.pem\"\nkey = \"app.key\"\n");
    for (issued, expected) in cases {
        let CertificateFiles { certificate, key } = folder.pair("app", &issued);
        let fill = |text: &str| text.replace("KEY", &format!("{key:?}")).replace("CERT", &format!("{certificate:?}"));
        let expected: Vec<_> = expected.into_iter().map(|(how, line, problem)| (how, line, fill(problem))).collect();
        assert_eq!(findings(&folder, &tls), expected);
    }

    // Linchpin's own certificate for backends is checked, too, except for names.
    folder.write("ca.pem", &authority.pem());
    folder.pair("app", &lasting(&authority, -9, -3));
    let upstream = "[pools.upstream.tls]\nca = \"ca.pem\"\ncert = \"app.pem\"\nkey = \"app.key\"\n";
    let text = GOOD.replace("[[pools.backends]]", &format!("{upstream}[[pools.backends]]"));
    let (_, report) = parse(&text, &folder.0.join("linchpin.toml")).unwrap();
    assert!(report.warnings() == 1 && report.to_string().contains("EXPIRED 2 days ago"), "{report}");
}

#[test]
fn a_key_that_everyone_may_read_and_a_name_that_is_taken_are_warnings() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let one = folder.pair("one", &authority.issue(&["app.example", "www.example"]));
    folder.pair("two", &authority.issue(&["two.example", "www.example"]));
    // Another key type, for clients that do not know the first.
    folder.pair("three", &authority.issue_by(&rcgen::PKCS_ED25519, &["app.example"], |_| {}));
    let list = "certificates = [\n{ cert = \"two.pem\", key = \"two.key\" },\n{ cert = \"three.pem\", key = \"three.key\" }]\n";
    let tls = format!("{LISTENER}cert = \"one.pem\"\nkey = \"one.key\"\n{list}");
    let problem = "line 4 already has a certificate for \"www.example\", and clients get that one";
    assert_eq!(findings(&folder, &tls), [(Severity::Warning, 7, problem.to_owned())]);

    for (mode, is_noted) in [(0o600, false), (0o640, false), (0o644, true), (0o604, true)] {
        std::fs::set_permissions(&one.key, std::fs::Permissions::from_mode(mode)).unwrap();
        let tls = format!("{LISTENER}cert = \"one.pem\"\nkey = \"one.key\"\n");
        let problem = format!("everyone on this machine can read {:?} (mode {mode:03o})", one.key);
        let expected = if is_noted { vec![(Severity::Warning, 5, problem)] } else { Vec::new() };
        assert_eq!(findings(&folder, &tls), expected);
    }
}

#[test]
fn a_unix_socket_needs_a_name_for_tls() {
    let folder = Folder::new();
    folder.write("ca.pem", &Authority::new("root").pem());
    let text = |tls: &str| {
        GOOD.replace("127.0.0.1:9001", "unix:/run/app.sock")
            .replace(
                "[[pools.backends]]",
                &format!("upstream = {{ tls = {{ ca = \"ca.pem\"{tls} }} }}\n[[pools.backends]]"),
            )
            .replace("[pools.persistence]\ntype = \"none\"\n", "persistence = { type = \"none\" }\n")
    };
    let parse = |tls: &str| parse(&text(tls), &folder.0.join("linchpin.toml"));
    let report = parse("").unwrap_err();
    assert_eq!(report.findings()[0].problem, "a Unix socket has no host name to verify in a certificate");
    assert_eq!(parse(", server_name = \"app.internal\"").unwrap().1.to_string(), "");
}

#[test]
fn a_route_that_is_open_with_and_without_a_certificate_is_a_warning() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    folder.pair("a", &authority.issue(&["a.example"]));
    folder.write("ca.pem", &authority.pem());
    folder.write("other.pem", &Authority::new("other").pem());
    let listener = |name: &str, port: u16, clients: &str| {
        let tls = format!("tls = {{ cert = \"a.pem\", key = \"a.key\"{clients} }}");
        format!("[[listeners]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\n{tls}\n")
    };
    let strict = listener("strict", 1, ", client_ca = \"ca.pem\"");
    let lax = listener("lax", 2, ", client_ca = \"ca.pem\", client_certificate = \"optional\"");
    let (open, foreign) = (listener("open", 3, ""), listener("foreign", 4, ", client_ca = \"other.pem\""));
    let plain = "[[listeners]]\nname = \"plain\"\naddress = \"127.0.0.1:5\"\n";
    let sent_away = "[[listeners]]\nname = \"away\"\naddress = \"127.0.0.1:6\"\nredirect_https = true\n";
    let route = |keys: &str| format!("[[routes]]\npool = \"app\"\n{keys}\n");
    let all = &route("");
    let pool = "[[pools]]\nname = \"app\"\npersistence.type = \"none\"\n[[pools.backends]]\nname = \"a\"\naddress = \"127.0.0.1:9001\"\n";
    let strict_at = "this serves the listener \"strict\", which requires a client certificate, and the listener ";
    for (listeners, routes, expected) in [
        ([&strict[..], &open], all, Some(format!("{strict_at}\"open\", which requires none"))),
        ([plain, &strict], all, Some(format!("{strict_at}\"plain\", which requires none"))),
        ([&lax, &strict], all, Some(format!("{strict_at}\"lax\", which also accepts clients without one"))),
        ([&strict, &foreign], all, Some(format!("{strict_at}\"foreign\", which requires one of another authority"))),
        ([&strict, &open], &String::new(), Some(format!("{strict_at}\"open\", which requires none"))),
        ([&strict, sent_away], all, None),
        ([&open, plain], all, None),
        ([&lax, plain], all, None),
        ([&strict, &open], &route("listeners = [\"strict\", \"open\"]"), None),
        ([&strict, &open], &(route("listeners = [\"strict\"]") + &route("listeners = [\"open\"]")), None),
    ] {
        let text = format!("{}{routes}{pool}", listeners.concat());
        let report = parse(&text, &folder.0.join("linchpin.toml")).map_or_else(|report| report, |(_, report)| report);
        let problems: Vec<_> = report.findings().iter().map(|finding| finding.problem.clone()).collect();
        assert_eq!(problems, Vec::from_iter(expected), "{text}");
    }
}

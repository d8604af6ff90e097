//! Owns: tests of renewals against an ACME server in memory, with faults.
//! Invariant: no sockets and no real waits; files are real.
//! Must not know: how requests are signed.

mod server;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::HttpClient;
use tokio::time::timeout;

use super::account::Connect;
use super::challenges::Challenges;
use super::plan::History;
use super::renewer::Renewals;
use super::settings::{ChallengeKind, Settings, certificate_file};
use super::status::{CertificateStatus, Statuses};
use super::storage::{Storage, StoredChallenge};
use crate::clock;
use crate::events::Events;
use crate::tls::tests::Folder;
use server::{Fault, Server, URL};

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;
const NAME: &str = "app.test";

/// A Linchpin that obtains certificates.
struct Linchpin {
    renewals: Renewals,
    storage: Storage,
}

fn settings(folder: &Folder, names: &[&str]) -> Settings {
    Settings {
        listener: "web".into(),
        names: names.iter().map(|name| (*name).into()).collect(),
        directory: URL.into(),
        authorities: None,
        contacts: vec!["mailto:ops@app.test".into()],
        storage: folder.0.join("acme"),
        profile: None,
        challenges: vec![ChallengeKind::Http01],
        external_account: None,
    }
}

impl Linchpin {
    fn new(server: &Server, settings: Settings) -> Linchpin {
        let client = server.clone();
        let connect: Arc<Connect> = Arc::new(move |_: &Settings| Ok(Arc::new(client.clone()) as Arc<dyn HttpClient>));
        let (storage, challenges) = (Storage::new(&settings), Challenges::default());
        server.0.lock().unwrap().answers.push(challenges.clone());
        let (statuses, events) = (Statuses::default(), Events::default());
        let renewals = Renewals::new(settings, challenges, statuses, events, connect);
        Linchpin { renewals, storage }
    }

    fn alone(server: &Server, folder: &Folder) -> Linchpin {
        Linchpin::new(server, settings(folder, &[NAME]))
    }

    /// Does what is due, and returns in how many seconds there is something to do.
    async fn round(&self) -> u64 {
        self.renewals.round().await.unwrap().saturating_sub(now())
    }

    fn status(&self) -> CertificateStatus {
        self.renewals.statuses().certificates().remove(0)
    }

    fn history(&self) -> History {
        self.storage.history(NAME)
    }

    /// Lets the wait after a failure, or a success, pass.
    fn wait(&self) {
        let history = History { retry_at: now(), obtained_at: None, ..self.history() };
        self.storage.save_history(&self.storage.lock().unwrap().unwrap(), NAME, &history).unwrap();
    }

    fn certificate(&self) -> Vec<u8> {
        std::fs::read(self.file()).unwrap()
    }

    fn file(&self) -> PathBuf {
        let settings = self.renewals.settings();
        certificate_file(&settings.storage, &settings.directory, NAME)
    }

    fn has_certificate(&self) -> bool {
        self.storage.certificate(NAME).is_some()
    }
}

fn now() -> u64 {
    clock::unix().as_secs()
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_ordered_once_and_renewed_when_it_is_due() {
    let (folder, server) = (Folder::new(), Server::new());
    let linchpin = Linchpin::alone(&server, &folder);
    // A nonce may expire at any time (RFC 8555 §6.5).
    server.fails("/account", Fault::Problem("badNonce", None));
    server.fails("/order", Fault::Problem("badNonce", None));
    assert_eq!(linchpin.round().await, 0);
    assert!(linchpin.has_certificate() && linchpin.status().error.is_none());
    let next = linchpin.round().await;
    // A server without renewal information is asked for its directory again once a day.
    assert!(next > DAY - 100 && next <= DAY, "{next}");
    assert_eq!(linchpin.status().next_order, linchpin.status().not_after.unwrap() - 30 * DAY);
    let first = linchpin.certificate();
    linchpin.round().await;
    assert_eq!((server.count("/order"), linchpin.certificate()), (server.count("/order"), first.clone()));
    assert_eq!(server.count("/finalize"), 1);

    server.0.lock().unwrap().validity = (70, 20);
    std::fs::remove_file(linchpin.file()).unwrap();
    linchpin.round().await;
    // That one is past two thirds of its lifetime already. Nevertheless, orders are an hour apart.
    linchpin.round().await;
    assert_eq!(server.count("/finalize"), 2);
    linchpin.wait();
    server.0.lock().unwrap().validity = (0, 90);
    linchpin.round().await;
    assert_eq!((server.count("/finalize"), server.count("/account")), (3, 2));
    assert_ne!(linchpin.certificate(), first);
    assert!(linchpin.round().await > HOUR && linchpin.status().not_after.unwrap() > now() + 80 * DAY);
    for file in [linchpin.file(), folder.0.join("acme/acme.test-directory/account.json")] {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_linchpins_with_one_storage_one_orders_and_both_answer_challenges() {
    let (folder, server) = (Folder::new(), Server::new());
    let (one, other) = (Linchpin::alone(&server, &folder), Linchpin::alone(&server, &folder));
    // While one of them writes to the storage, the other one asks the server for nothing.
    one.storage.prepare().unwrap();
    let lock = one.storage.lock().unwrap().unwrap();
    assert!((1..=5).contains(&other.round().await) && server.count("/") == 0);
    drop(lock);
    // The other one looks for challenges as the thread does.
    let looks = async {
        super::renewer::look_for_challenges(&folder.0.join("acme"), other.renewals.challenges()).await;
    };
    tokio::select! {
        () = looks => {}
        _ = async { tokio::join!(one.round(), other.round()) } => {}
    }
    other.round().await;
    one.round().await;
    assert_eq!((server.count("/finalize"), server.count("/account")), (1, 1));
    assert_eq!(one.status(), other.status());
    assert!(one.status().not_after.is_some());
    assert!(Storage::challenges(&folder.0.join("acme"), now()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_later_even_after_a_restart_and_the_old_certificate_stays() {
    let (folder, server) = (Folder::new(), Server::new());
    let linchpin = Linchpin::alone(&server, &folder);
    server.0.lock().unwrap().validity = (70, 20);
    linchpin.round().await;
    let old = linchpin.certificate();
    linchpin.wait();
    server.0.lock().unwrap().validity = (0, 90);
    for (failures, (path, fault, says)) in [
        ("/directory", Fault::Away, "cannot be reached: connection refused"),
        ("/directory", Fault::Hang, "cannot be reached: no response within 30s"),
        ("/directory", Fault::Garbage, "malformed"),
        ("/order", Fault::Problem("serverInternal", None), "serverInternal: as the test wants"),
        ("/order", Fault::Problem("rejectedIdentifier", None), "rejectedIdentifier"),
        ("/order", Fault::Garbage, "malformed"),
        ("/authorization", Fault::Problem("malformed", None), "malformed: as the test wants"),
        ("/finalize", Fault::OtherKey, "does not belong to the certificate"),
        ("/finalize", Fault::OtherName, "the certificate is not for app.test"),
    ]
    .into_iter()
    .enumerate()
    {
        server.fails(path, fault.clone());
        linchpin.round().await;
        let status = linchpin.status();
        assert!(status.error.as_deref().is_some_and(|error| error.contains(says)), "{fault:?}: {status:?}");
        assert_eq!((status.failures as usize, linchpin.certificate()), (failures + 1, old.clone()));
        // Another process waits as well. Meanwhile it asked once whether there is renewal information.
        linchpin.round().await;
        let (requests, restarted) = (server.count("/"), Linchpin::alone(&server, &folder));
        assert!(restarted.round().await >= 50);
        assert_eq!((server.count("/"), restarted.status().error), (requests, status.error));
        server.0.lock().unwrap().answers.pop();
        linchpin.wait();
    }
    linchpin.round().await;
    assert_ne!(linchpin.certificate(), old);
    assert_eq!((linchpin.status().failures, linchpin.status().error), (0, None));
    assert_eq!(linchpin.renewals.statuses().attempts()[0].1.failed, 9);
}

#[tokio::test(start_paused = true)]
async fn retry_after_and_why_a_name_was_not_validated_are_kept() {
    let (folder, server) = (Folder::new(), Server::new());
    let linchpin = Linchpin::alone(&server, &folder);
    server.fails("/order", Fault::Problem("rateLimited", Some(3 * HOUR)));
    let next = linchpin.round().await;
    assert!((3 * HOUR - 60..=3 * HOUR).contains(&next), "{next}");
    linchpin.wait();
    // Nobody answers.
    server.0.lock().unwrap().answers = vec![Challenges::default()];
    linchpin.round().await;
    let error = linchpin.status().error.unwrap();
    assert_eq!(error, "http-01 failed: the ACME server says connection: Fetching failed");
    assert!(!linchpin.has_certificate() && linchpin.storage.order(NAME).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_order_whose_process_or_connection_was_lost_at_any_step_is_completed_and_not_made_again() {
    for (path, orders) in [
        ("/authorization", 1),
        ("/challenge", 1),
        ("/order/", 1),
        ("/finalize", 1),
        ("/certificate", 1),
        ("/account", 1),
    ] {
        let (folder, server) = (Folder::new(), Server::new());
        let linchpin = Linchpin::alone(&server, &folder);
        server.fails(path, Fault::Lost);
        linchpin.round().await;
        assert!(!linchpin.has_certificate(), "{path}");
        // A nonce of the lost response is lost, too; the next process begins with its own.
        let next = Linchpin::alone(&server, &folder);
        server.0.lock().unwrap().answers.remove(0);
        next.wait();
        next.round().await;
        assert!(next.has_certificate(), "{path}: {:?}", next.status());
        let made = server.0.lock().unwrap().seen.iter().filter(|seen| *seen == "/order").count();
        assert_eq!((made, server.count("/finalize")), (orders, 1), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_that_another_process_takes_over_at_any_time_is_completed_there_and_the_old_certificate_stays_until_then()
 {
    for at in 0.. {
        let (folder, server) = (Folder::new(), Server::new());
        server.0.lock().unwrap().validity = (70, 20);
        let before = Linchpin::alone(&server, &folder);
        before.round().await;
        let old = before.certificate();
        before.wait();
        server.0.lock().unwrap().validity = (0, 90);
        // Its thread ends there, and forgets its challenges.
        let is_over = timeout(Duration::from_millis(250 * at), before.renewals.round()).await.is_ok();
        server.0.lock().unwrap().answers.clear();
        assert_eq!(before.certificate() == old, !is_over, "{at}");
        let next = Linchpin::alone(&server, &folder);
        next.round().await;
        assert!(next.certificate() != old && next.status().error.is_none(), "{at}: {:?}", next.status());
        let made = server.0.lock().unwrap().seen.iter().filter(|seen| *seen == "/order").count();
        assert_eq!((made, server.count("/finalize"), server.count("/account")), (2, 2, 1), "{at}");
        assert!(next.storage.order(NAME).is_none() && Storage::challenges(&folder.0.join("acme"), now()).is_empty());
        if is_over {
            assert!(at > 8, "it has taken so long");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn damaged_files_cost_a_new_order_and_nothing_else() {
    let (folder, server) = (Folder::new(), Server::new());
    let linchpin = Linchpin::alone(&server, &folder);
    linchpin.round().await;
    let of_server = folder.0.join("acme/acme.test-directory");
    for file in ["account.json", "history/app.test.json", "certificates/app.test.pem", "orders/app.test.json"] {
        for content in ["", "{", "\0\u{1}binary", "[]"] {
            std::fs::write(of_server.join(file), content).unwrap();
            linchpin.round().await;
            assert!(linchpin.has_certificate(), "{file}");
        }
    }
    std::fs::write(folder.0.join("acme/challenges/x.json"), "{").unwrap();
    assert!(Storage::challenges(&folder.0.join("acme"), now()).is_empty());
    // A server that has forgotten the account gets a new one.
    server.forget();
    std::fs::remove_file(linchpin.file()).unwrap();
    linchpin.round().await;
    assert!(linchpin.status().error.unwrap().contains("accountDoesNotExist"));
    linchpin.wait();
    linchpin.round().await;
    assert!(linchpin.has_certificate());
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_cannot_be_written_costs_no_request() {
    let (folder, server) = (Folder::new(), Server::new());
    let linchpin = Linchpin::alone(&server, &folder);
    // Also where root may write to every folder.
    linchpin.storage.prepare().unwrap();
    let history = folder.0.join("acme/acme.test-directory/history");
    std::fs::remove_dir(&history).unwrap();
    std::fs::write(&history, "").unwrap();
    assert!(linchpin.renewals.round().await.is_err());
    assert_eq!(server.count("/"), 0);
}

#[tokio::test(start_paused = true)]
async fn renewal_information_decides_and_the_order_names_the_certificate_that_it_replaces() {
    let (folder, server) = (Folder::new(), Server::new());
    server.0.lock().unwrap().window = Some(("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z"));
    let linchpin = Linchpin::alone(&server, &folder);
    linchpin.round().await;
    let first = linchpin.storage.certificate(NAME).unwrap();
    // A window in the past: the authority will revoke it.
    linchpin.round().await;
    linchpin.round().await;
    assert_eq!((server.count("/renewal"), server.count("/finalize")), (1, 1));
    linchpin.wait();
    server.0.lock().unwrap().window = Some(("2099-01-01T00:00:00Z", "2099-01-02T00:00:00Z"));
    linchpin.round().await;
    assert_eq!((server.count("/renewal"), server.count("/finalize")), (1, 2));
    assert_eq!(server.0.lock().unwrap().replaced, [first.id.unwrap()]);
    // And one far in the future does not let it expire.
    linchpin.round().await;
    let status = linchpin.status();
    assert_eq!(status.next_order, status.not_after.unwrap() - 15 * DAY);
    assert_eq!(server.count("/finalize"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_gets_a_request_for_one_name_only_and_one_bad_name_costs_no_other() {
    let (folder, server) = (Folder::new(), Server::new());
    let names = ["a.test", "b.test", "c.test"];
    let linchpin = Linchpin::new(&server, settings(&folder, &names));
    server.fails("/directory", Fault::Away);
    linchpin.round().await;
    assert_eq!(server.count("/"), 1);
    assert!(linchpin.renewals.statuses().certificates().iter().all(|status| status.failures == 1));
    for name in names {
        let lock = linchpin.storage.lock().unwrap().unwrap();
        linchpin.storage.save_history(&lock, name, &History::default()).unwrap();
    }
    server.fails("/order", Fault::Problem("rejectedIdentifier", None));
    linchpin.round().await;
    let good: Vec<_> = names.iter().map(|name| linchpin.storage.certificate(name).is_some()).collect();
    assert_eq!(good, [false, true, true]);
}

#[tokio::test(start_paused = true)]
async fn whatever_retry_after_the_server_sends_orders_and_renewal_information_go_on() {
    for value in ["18446744073709551615", "99999999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT", "-1", ""] {
        let (folder, server) = (Folder::new(), Server::new());
        server.0.lock().unwrap().retry_after = Some(value);
        server.0.lock().unwrap().window = Some(("2099-01-01T00:00:00Z", "2099-01-02T00:00:00Z"));
        let linchpin = Linchpin::alone(&server, &folder);
        server.fails("/order", Fault::Problem("rateLimited", None));
        linchpin.round().await;
        linchpin.wait();
        linchpin.round().await;
        assert!(linchpin.has_certificate(), "{value}: {:?}", linchpin.status());
        let next = linchpin.round().await;
        assert!(server.count("/renewal") == 1 && (1..=DAY).contains(&next), "{value}: {next}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_not_valid_is_a_failure_and_replaces_none() {
    let (folder, server) = (Folder::new(), Server::new());
    let linchpin = Linchpin::alone(&server, &folder);
    server.0.lock().unwrap().validity = (70, 20);
    linchpin.round().await;
    let good = linchpin.certificate();
    for (failures, (validity, why)) in
        [((90, -1), "it has expired already"), ((-30, 60), "it is not valid yet"), ((80, 10), "no later than")]
            .into_iter()
            .enumerate()
    {
        server.0.lock().unwrap().validity = validity;
        linchpin.wait();
        linchpin.round().await;
        let status = linchpin.status();
        assert!(status.error.as_deref().is_some_and(|error| error.contains(why)), "{status:?}");
        assert_eq!((status.failures as usize, linchpin.certificate()), (failures + 1, good.clone()));
        // It is not ordered again at once.
        let orders = server.count("/finalize");
        linchpin.round().await;
        assert!(linchpin.status().next_order > now() + 50 && server.count("/finalize") == orders);
    }
}

#[tokio::test(start_paused = true)]
async fn the_challenges_of_an_order_that_is_given_up_are_answered_no_longer() {
    let (folder, server) = (Folder::new(), Server::new());
    let linchpin = Linchpin::alone(&server, &folder);
    server.fails("/challenge", Fault::Stuck);
    linchpin.round().await;
    assert!(linchpin.status().error.unwrap().contains("in time"));
    assert_eq!(Storage::challenges(&folder.0.join("acme"), now()), []);
    assert!(linchpin.renewals.challenges().http().response("/.well-known/acme-challenge/token0").is_none());
}

#[test]
fn files_that_are_no_challenges_do_not_crowd_out_those_that_are() {
    let (folder, server) = (Folder::new(), Server::new());
    let linchpin = Linchpin::alone(&server, &folder);
    linchpin.storage.prepare().unwrap();
    let lock = linchpin.storage.lock().unwrap().unwrap();
    let save = |number: u32| {
        let challenge = StoredChallenge {
            kind: ChallengeKind::Http01,
            name: NAME.into(),
            token: format!("token{number}"),
            key_authorization: String::new(),
            until: u64::MAX,
        };
        linchpin.storage.save_challenge(&lock, &challenge).unwrap();
    };
    // A folder may list them in any order.
    (0..10).for_each(save);
    for number in 0..1500 {
        std::fs::write(folder.0.join(format!("acme/challenges/{number}.json")), "{").unwrap();
    }
    (10..20).for_each(save);
    assert_eq!(Storage::challenges(&folder.0.join("acme"), now()).len(), 20);
}

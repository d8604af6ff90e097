//! Two Linchpins in front of the same backends, as real processes.

use super::support::process::Linchpin;
use super::support::{Backend, Keys, Response};

fn text(keys: &Keys, persistence: &str, backends: &[&Backend]) -> String {
    let entry = |backend: &&Backend| {
        format!("[[pools.backends]]\nname = \"{}\"\naddress = \"{}\"\n", backend.name(), backend.address())
    };
    let backends: String = backends.iter().map(entry).collect();
    format!(
        "[server]\nthreads = 1\n[log]\naccess = \"off\"\n{}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n[[pools]]\nname = \"app\"\n\
         [pools.persistence]\nverdict_header = \"X-Verdict\"\n{persistence}\n{backends}",
        keys.tables()
    )
}

async fn get(linchpin: &Linchpin, pin: &Option<String>) -> Response {
    let mut client = linchpin.client().await;
    client.pin.clone_from(pin);
    client.get("/").await
}

#[tokio::test]
async fn two_processes_with_one_key_give_every_client_the_same_verdict_while_backends_live_and_die() {
    let [a, b, c] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let one = Linchpin::start(&text(&keys, "", &[&a, &b, &c]), None).await;
    let other = Linchpin::start(&text(&keys, "", &[&c, &a, &b]), None).await;
    let mut clients = Vec::new();
    for _ in 0..12 {
        let first = get(&one, &None).await;
        let next = get(&other, &first.pin()).await;
        assert_eq!((next.text(), next.pin(), next.field("x-verdict")), (first.text(), None, Some("hit")));
        clients.push((first.pin(), first.text()));
    }
    b.kill().await;
    for (pin, home) in clients {
        let (here, there) = (get(&one, &pin).await, get(&other, &pin).await);
        assert_eq!((here.status, here.text(), here.field("x-verdict")), (200, there.text(), there.field("x-verdict")));
        assert!(if home == "b" { here.text() != "b" } else { here.text() == home });
    }
}

#[tokio::test]
async fn a_client_of_a_killed_linchpin_continues_at_the_other() {
    let [a, b, c] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let text = text(&keys, "", &[&a, &b, &c]);
    let (one, other) = (Linchpin::start(&text, None).await, Linchpin::start(&text, None).await);
    let first = get(&one, &None).await;
    one.kill().await;
    let next = get(&other, &first.pin()).await;
    assert_eq!((next.text(), next.field("x-verdict")), (first.text(), Some("hit")));
}

#[tokio::test]
async fn keys_rotate_in_three_steps_over_two_processes_without_losing_a_session() {
    let [a, b, c] = Backend::three().await;
    let start = async |ids: &[u8]| Linchpin::start(&text(&Keys::new(ids), "", &[&a, &b, &c]), None).await;
    // Each step restarts one process after the other, so that a client meets every combination of configurations.
    let steps: [(&[u8], &[u8]); 6] =
        [(&[1], &[1]), (&[1, 2], &[1]), (&[1, 2], &[1, 2]), (&[2, 1], &[1, 2]), (&[2, 1], &[2, 1]), (&[2], &[2, 1])];
    let mut held: Option<(Option<String>, String)> = None;
    for (one, other) in steps {
        let (one, other) = (start(one).await, start(other).await);
        for (issues, reads) in [(&one, &other), (&other, &one)] {
            let first = get(issues, &None).await;
            let next = get(reads, &first.pin()).await;
            assert_eq!((next.text(), next.field("x-verdict")), (first.text(), Some("hit")));
            if let Some((pin, home)) = &held {
                let kept = get(reads, pin).await;
                assert_eq!((&kept.text(), kept.field("x-verdict")), (home, Some("hit")));
            }
        }
        // Sealed with the first key of this step; the pin must hold in the next step.
        let fresh = get(&one, &None).await;
        held = Some((fresh.pin(), fresh.text()));
    }
}

#[tokio::test]
async fn clocks_that_differ_by_a_minute_do_no_harm() {
    let [a, b, c] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let text = text(&keys, "idle_timeout = \"3m\"\nabsolute_timeout = \"1h\"", &[&a, &b, &c]);
    let (early, late) = (Linchpin::start(&text, Some("-30s")).await, Linchpin::start(&text, Some("+25s")).await);
    for _ in 0..4 {
        for (issues, reads) in [(&early, &late), (&late, &early)] {
            let first = get(issues, &None).await;
            let mut pin = first.pin();
            for _ in 0..3 {
                let next = get(reads, &pin).await;
                assert_eq!((next.text(), next.field("x-verdict")), (first.text(), Some("hit")));
                pin = next.pin().or(pin);
                assert_eq!(get(issues, &pin).await.field("x-verdict"), Some("hit"));
            }
        }
    }
}

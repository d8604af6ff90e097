//! The dashboard before a real Linchpin: what one sees when a server dies, and what one does by click and by keyboard.

use std::time::Instant;

use serde_json::{Value, json};

use super::demo_page::CONTRAST;
use super::support::chromium::{Chromium, Window};
use super::support::reloads::Reloadable;
use super::support::tool::Folder;
use super::support::{Backend, Proxy, until};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";
const PROBES: &str = "path = \"/\"\ninterval = \"100ms\"\ntimeout = \"10s\"\nfall = 1\nrise = 1";

/// Returns the row of a backend, or something in it.
fn row(backend: &str, inside: &str) -> String {
    let name = format!("e.querySelector('[data-field=name]').textContent === '{backend}'");
    format!("[...document.querySelectorAll('tr.backend')].find(e => {name})?.querySelector('{inside}')")
}

fn text_of(element: &str) -> String {
    format!("(({element})?.textContent ?? '')")
}

const LIVE: &str =
    "document.getElementById('contact').textContent.includes('live') && !!document.querySelector('tr.backend')";

async fn open(browser: &mut Chromium, window: &Window, proxy: &Proxy) {
    browser.open(window, &format!("http://{}/", proxy.admin())).await;
    browser.until(window, LIVE).await;
}

async fn backend(proxy: &Proxy, name: &str) -> Value {
    serde_json::from_str(&proxy.ask("GET", &format!("/api/v1/pools/app/backends/{name}"), "").await.text()).unwrap()
}

#[tokio::test]
async fn a_killed_server_is_red_within_two_seconds_and_the_page_asks_nobody_else() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let proxy = Proxy::builder().top(ADMIN).backend(&a, "").backend(&b, "").table("health", PROBES).start();
    let mut browser = Chromium::start().await;
    let window = browser.window(1280, 900).await;
    browser.record_requests(&window).await;
    open(&mut browser, &window, &proxy).await;
    browser.until(&window, &format!("{} === '● up'", text_of(&row("b", ".health .tag")))).await;
    assert_eq!(browser.value(&window, "document.getElementById('icon').dataset.kind").await, json!("good"));

    b.kill().await;
    until("b is down", async || backend(&proxy, "b").await["health"] == "down").await;
    let since = Instant::now();
    let red = format!(
        "{}?.className === 'tag bad' && {} === '✕ down'",
        row("b", ".health .tag"),
        text_of(&row("b", ".health .tag"))
    );
    browser.until(&window, &red).await;
    // The machine may be busy with other tests; alone it takes a few hundred milliseconds.
    assert!(since.elapsed().as_secs_f32() < 2.0, "{:?}", since.elapsed());
    let why = text_of("document.querySelector('tr.why.bad')");
    browser.until(&window, &format!("{why}.includes('connection refused') && {why}.includes('since ')")).await;
    browser
        .until(&window, "document.getElementById('icon').dataset.kind === 'bad' && document.title.startsWith('✕')")
        .await;
    browser.until(&window, "document.getElementById('problem-list').textContent.includes('b has been down')").await;
    browser.until(&window, "document.getElementById('events').textContent.includes('app/b is down, was up')").await;

    let own = format!("http://{}/", proxy.admin());
    assert!(browser.requests().len() > 15, "{:?}", browser.requests());
    for address in browser.requests() {
        assert!(address.starts_with(&own) || address.starts_with("data:"), "{address}");
    }
}

#[tokio::test]
async fn a_server_is_drained_by_click_its_progress_is_seen_and_all_can_be_undone() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let proxy = Proxy::builder().top(ADMIN).backend(&a, "").backend(&b, "weight = 2").start();
    for _ in 0..8 {
        proxy.get(None).await;
    }
    let mut browser = Chromium::start().await;
    let window = browser.window(1280, 900).await;
    open(&mut browser, &window, &proxy).await;
    browser.click(&window, &row("b", "[data-to=drain]")).await;
    browser.until(&window, "document.getElementById('dialog').open").await;
    // Nothing has changed before it is confirmed.
    assert_eq!(backend(&proxy, "b").await["state"], "ready");
    browser
        .value(
            &window,
            "document.getElementById('deadline').value = '5m'; document.getElementById('then').value = 'maintenance'",
        )
        .await;
    browser.click(&window, "document.getElementById('dialog-do')").await;
    until("b drains", async || backend(&proxy, "b").await["state"] == "drain").await;
    let drain = backend(&proxy, "b").await["drain"].clone();
    assert_eq!((&drain["phase"], &drain["then"]), (&json!("draining"), &json!("maintenance")));
    assert!((drain["deadline"].as_f64().unwrap() - drain["begun"].as_f64().unwrap() - 300.0).abs() < 1.0, "{drain}");
    let progress =
        "[...document.querySelectorAll('tr.why')].map(e => e.textContent).find(t => t.startsWith('Draining: '))";
    browser.until(&window, &format!("({progress} ?? '').includes('then maintenance')")).await;
    browser.until(&window, &format!("{}.getAttribute('aria-pressed') === 'true'", row("b", "[data-to=drain]"))).await;

    let undo = "[...document.querySelectorAll('#toast button')].find(e => e.textContent === 'Undo')";
    browser.click(&window, undo).await;
    until("b is ready again", async || backend(&proxy, "b").await["state"] == "ready").await;

    // The weight, with its own undo.
    browser.click(&window, &row("b", "[data-field=weight]")).await;
    browser.until(&window, "document.getElementById('dialog').open").await;
    browser.value(&window, "document.getElementById('weight').value = '7'").await;
    browser.click(&window, "document.getElementById('dialog-do')").await;
    until("its weight is 7", async || backend(&proxy, "b").await["weight"] == 7).await;
    browser.until(&window, &format!("{} === '7'", text_of(&row("b", "[data-field=weight]")))).await;
    browser.click(&window, undo).await;
    until("its weight is 2", async || backend(&proxy, "b").await["weight"] == 2).await;

    // Cancel changes nothing.
    browser.click(&window, &row("a", "[data-to=maintenance]")).await;
    browser.until(&window, "document.getElementById('dialog').open").await;
    browser.click(&window, "document.getElementById('dialog-cancel')").await;
    browser.until(&window, "!document.getElementById('dialog').open").await;
    assert_eq!(backend(&proxy, "a").await["state"], "ready");
}

#[tokio::test]
async fn what_somebody_else_has_changed_meanwhile_is_not_overwritten() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let proxy = Proxy::builder().top(ADMIN).backend(&a, "").backend(&b, "").start();
    let mut browser = Chromium::start().await;
    let window = browser.window(1280, 900).await;
    open(&mut browser, &window, &proxy).await;
    browser.click(&window, &row("b", "[data-to=maintenance]")).await;
    // The dialog can be confirmed once it has read the ETag.
    browser
        .until(&window, "document.getElementById('dialog').open && !document.getElementById('dialog-do').disabled")
        .await;
    proxy.ask("POST", "/api/v1/pools/app/backends/b/weight", r#"{"weight":9}"#).await;
    browser.click(&window, "document.getElementById('dialog-do')").await;
    browser
        .until(&window, "document.getElementById('dialog-error').textContent.includes('Somebody has changed')")
        .await;
    assert_eq!(backend(&proxy, "b").await["state"], "ready");
}

#[tokio::test]
async fn with_the_keyboard_alone_a_server_is_drained_and_the_drain_cancelled() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let proxy = Proxy::builder().top(ADMIN).backend(&a, "").backend(&b, "").start();
    // Without sessions, the drain would end before it can be cancelled.
    for _ in 0..8 {
        proxy.get(None).await;
    }
    let mut browser = Chromium::start().await;
    let window = browser.window(1280, 900).await;
    open(&mut browser, &window, &proxy).await;
    let reach = async |browser: &mut Chromium, what: &str| {
        for _ in 0..80 {
            browser.press(&window, "Tab").await;
            if browser.value(&window, &format!("document.activeElement === ({what})")).await == json!(true) {
                let ring = "getComputedStyle(document.activeElement).outlineStyle !== 'none'";
                assert_eq!(browser.value(&window, ring).await, json!(true), "one sees that {what} is next");
                return;
            }
        }
        panic!("no way to {what} by keyboard");
    };
    reach(&mut browser, &row("a", "[data-to=drain]")).await;
    browser.press(&window, "Enter").await;
    browser.until(&window, "document.getElementById('dialog').open && document.activeElement.id === 'deadline'").await;
    // Escape leaves it, and the focus is where it was.
    browser.press(&window, "Escape").await;
    browser
        .until(
            &window,
            &format!(
                "!document.getElementById('dialog').open && document.activeElement === ({})",
                row("a", "[data-to=drain]")
            ),
        )
        .await;
    browser.press(&window, "Enter").await;
    browser.until(&window, "document.getElementById('dialog').open").await;
    reach(&mut browser, "document.getElementById('dialog-do')").await;
    browser.press(&window, "Enter").await;
    until("a drains", async || backend(&proxy, "a").await["state"] == "drain").await;
    let cancel = "[...document.querySelectorAll('tr.why:not([hidden]) [data-field=drain]:not([hidden]) button')][0]";
    browser.until(&window, &format!("!!({cancel})")).await;
    reach(&mut browser, cancel).await;
    browser.press(&window, "Enter").await;
    browser.until(&window, "document.getElementById('dialog').open && document.activeElement.id === 'dialog-do'").await;
    browser.press(&window, "Enter").await;
    until("a is ready", async || backend(&proxy, "a").await["state"] == "ready").await;
}

/// Lists what a screen reader can't name: buttons, fields and pictures without a name, and ids that are there twice.
const UNNAMED: &str = "[...document.querySelectorAll('button, input, select, svg[role=img], [role=group], table, section')] \
    .filter(e => e.checkVisibility() && e.tagName !== 'TABLE' && !e.textContent.trim() && !e.ariaLabel && !e.getAttribute('aria-label') && !(e.labels?.length)) \
    .map(e => e.outerHTML.slice(0, 200)).concat([...document.querySelectorAll('[id]')].map(e => e.id).filter((id, at, all) => all.indexOf(id) !== at)).join('\\n')";

#[tokio::test]
async fn it_fits_every_screen_and_can_be_read_in_light_and_dark() {
    let long = "w".repeat(60);
    let (a, b) = (Backend::named("a").await, Backend::named(&long).await);
    let proxy = Proxy::builder().top(ADMIN).backend(&a, "").backend(&b, "").table("health", PROBES).start();
    for _ in 0..4 {
        proxy.get(None).await;
    }
    b.kill().await;
    proxy.ask("POST", "/api/v1/pools/app/backends/a/drain", r#"{"deadline":"10m","then":"maintenance"}"#).await;
    let mut browser = Chromium::start().await;
    let window = browser.window(1280, 900).await;
    browser.open(&window, &format!("http://{}/", proxy.admin())).await;
    browser.until(&window, "document.querySelectorAll('tr.why.bad').length === 1").await;
    browser.value(&window, "[...document.querySelectorAll('tr.backend .name')].forEach(e => e.click())").await;
    browser.until(&window, "document.querySelectorAll('tr.facts').length === 2").await;
    assert_eq!(browser.value(&window, UNNAMED).await, json!(""));
    for width in [390, 768, 1000, 1280, 1920] {
        browser.resize(&window, width, 900).await;
        let fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth";
        assert_eq!(browser.value(&window, fits).await, json!(true), "{width} px");
        for scheme in ["light", "dark"] {
            browser.prefer(&window, scheme).await;
            let faint = browser.value(&window, CONTRAST).await;
            assert_eq!(faint, json!(""), "{width} px, {scheme}");
        }
    }
}

#[tokio::test]
async fn with_the_token_for_reading_one_looks_and_does_nothing() {
    let (folder, a) = (Folder::new(), Backend::named("a").await);
    let [writer, reader] = ["writer", "reader"].map(|token| folder.write(token, token.repeat(4).as_bytes()));
    for file in [&writer, &reader] {
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    let admin = format!("{ADMIN}token_file = {writer:?}\nread_token_file = {reader:?}\n");
    let proxy = Proxy::builder().top(&admin).backend(&a, "").start();
    let mut browser = Chromium::start().await;
    let window = browser.window(1280, 900).await;
    browser.open(&window, &format!("http://{}/", proxy.admin())).await;
    browser.until(&window, "!document.getElementById('login').hidden").await;
    for (token, may_change) in [("wrong", None), ("reader", Some(false)), ("writer", Some(true))] {
        browser.value(&window, "sessionStorage.clear()").await;
        browser.open(&window, &format!("http://{}/", proxy.admin())).await;
        browser.until(&window, "!document.getElementById('login').hidden").await;
        let enter = format!(
            "document.getElementById('token').value = '{}'; document.querySelector('#login-form button').click()",
            token.repeat(4)
        );
        browser.value(&window, &enter).await;
        let Some(may_change) = may_change else {
            browser.until(&window, "document.getElementById('wrong').textContent.includes('wrong')").await;
            continue;
        };
        browser.until(&window, LIVE).await;
        let able = "[...document.querySelectorAll('main [data-act]')].every(e => e.disabled)";
        browser.until(&window, &format!("{able} === {}", !may_change)).await;
        assert_eq!(browser.value(&window, "document.getElementById('read-only').hidden").await, json!(may_change));
    }
}

#[tokio::test]
async fn a_token_is_explained_and_a_reload_that_is_refused_is_told() {
    let a = Backend::named("a").await;
    let text = Proxy::builder().top(ADMIN).backend(&a, "").text();
    let linchpin = Reloadable::start(&text);
    let proxy = &linchpin.proxy;
    let pin = proxy.get(None).await.pin().unwrap();
    let mut browser = Chromium::start().await;
    let window = browser.window(1280, 900).await;
    open(&mut browser, &window, proxy).await;
    browser.value(&window, &format!("document.getElementById('explain-token').value = '{pin}'")).await;
    browser.click(&window, "document.querySelector('#explain-form button')").await;
    browser.until(&window, "document.getElementById('explained').textContent.includes('hit')").await;

    let said = async |browser: &mut Chromium, words: &str| {
        browser.until(&window, &format!("document.getElementById('reload').textContent.includes('{words}')")).await;
    };
    linchpin.reload(&format!("{text}weight = 3\n")).await;
    said(&mut browser, "pools.app.backends.a.weight: 1 → 3").await;
    linchpin.reload("nonsense = true").await;
    said(&mut browser, "refused").await;
    browser
        .until(&window, "document.getElementById('problem-list').textContent.includes('The last reload was refused')")
        .await;
}

//! The demo as a first-time user sees it: in a browser, on a phone, by keyboard, after a kill.

use serde_json::json;

use super::support::chromium::{Chromium, Window};
use super::support::proxy::Builder;
use super::support::tool::DemoBackend;
use super::support::{Client, Proxy};

/// Three demo backends and the proxy in front of them.
struct Shop {
    backends: [DemoBackend; 3],
    proxy: Proxy,
}

impl Shop {
    async fn start() -> Shop {
        Shop::with(Proxy::builder(), ["a", "b", "c"]).await
    }

    /// Starts one whose proxy keeps copies of sessions.
    async fn with_copies(names: [&str; 3]) -> Shop {
        Shop::with(Proxy::builder().table("copies", ""), names).await
    }

    async fn with(builder: Builder, [a, b, c]: [&str; 3]) -> Shop {
        let backends = [DemoBackend::start(a).await, DemoBackend::start(b).await, DemoBackend::start(c).await];
        let builder = backends.iter().fold(builder, |builder, b| builder.backend_at(&b.name, b.address, ""));
        Shop { proxy: builder.start(), backends }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.proxy.address())
    }
}

const SERVER: &str = "document.querySelector('.name').textContent";
const LOGGED_IN: &str = "!!document.querySelector('form[action=\"/logout\"]')";

/// The text of the boxes with messages.
const NEWS: &str =
    "[...document.querySelectorAll('[role=status] p, [role=status]:not(:has(p))')].map(e => e.textContent).join('|')";

async fn text(browser: &mut Chromium, window: &Window, expression: &str) -> String {
    browser.value(window, expression).await.as_str().unwrap_or_else(|| panic!("no text: {expression}")).to_owned()
}

async fn log_in(browser: &mut Chromium, window: &Window) {
    browser.value(window, "document.querySelector('form[action=\"/login\"] button').click()").await;
    browser.until(window, LOGGED_IN).await;
}

async fn put(browser: &mut Chromium, window: &Window, item: &str) {
    let shown = format!("[...document.querySelectorAll('li span')].some(e => e.textContent === '{item}')");
    let form = "document.querySelector('form.row[action=\"/cart\"]')";
    let press = format!("{form}.item.value = '{item}'; {form}.querySelector('button').click()");
    browser.value(window, &press).await;
    browser.until(window, &shown).await;
}

/// Opens a window with its own cookie jar, logged in at another server than `server`.
async fn stranger(browser: &mut Chromium, shop: &Shop, server: &str) -> Window {
    for _ in 0..50 {
        let window = browser.window(1280, 900).await;
        browser.open(&window, &shop.url()).await;
        if text(browser, &window, SERVER).await != server {
            log_in(browser, &window).await;
            return window;
        }
    }
    panic!("every client is with {server}");
}

#[tokio::test]
async fn after_a_kill_this_client_reads_what_happened_to_it_and_others_read_nothing() {
    let shop = Shop::start().await;
    let mut browser = Chromium::start().await;
    let mine = browser.window(390, 844).await;
    browser.open(&mine, &shop.url()).await;
    log_in(&mut browser, &mine).await;
    put(&mut browser, &mine, "axle").await;
    put(&mut browser, &mine, "wheel").await;
    let dead = text(&mut browser, &mine, SERVER).await;
    let other = stranger(&mut browser, &shop, &dead).await;
    let elsewhere = text(&mut browser, &other, SERVER).await;

    browser.value(&mine, "document.querySelector('button.kill').click()").await;
    browser.until(&mine, &format!("{SERVER} !== '{dead}'")).await;
    let now = text(&mut browser, &mine, SERVER).await;
    let sentence = format!(
        "You killed server {dead}, so server {now} answers you now; your login and the 2 items in your cart were in {dead}'s memory and are lost."
    );
    assert_eq!(text(&mut browser, &mine, NEWS).await, sentence);
    // Until this client has logged in again, each load of the page shows it.
    browser.open(&mine, &shop.url()).await;
    assert_eq!(text(&mut browser, &mine, NEWS).await, sentence);
    log_in(&mut browser, &mine).await;
    assert_eq!(text(&mut browser, &mine, NEWS).await, "");

    // The other client sees nothing, neither on its own page nor by a link that it is given.
    for path in ["", "?notice=killed"] {
        browser.open(&other, &format!("{}{path}", shop.url())).await;
        assert_eq!(text(&mut browser, &other, SERVER).await, elsewhere);
        assert_eq!(text(&mut browser, &other, NEWS).await, "", "{path}");
        assert_eq!(browser.value(&other, LOGGED_IN).await, json!(true));
    }
}

/// Kills the server of this window's page by its button, and returns its name and that of the next server.
async fn kill(browser: &mut Chromium, window: &Window) -> [String; 2] {
    let dead = text(browser, window, SERVER).await;
    browser.value(window, "document.querySelector('button.kill').click()").await;
    browser.until(window, &format!("{SERVER} !== '{dead}'")).await;
    [dead, text(browser, window, SERVER).await]
}

#[tokio::test]
async fn with_copies_login_and_cart_outlive_a_kill_and_the_page_says_where_they_come_from() {
    let shop = Shop::with_copies(["a", "b", "c"]).await;
    let mut browser = Chromium::start().await;
    let window = browser.window(390, 844).await;
    browser.open(&window, &shop.url()).await;
    log_in(&mut browser, &window).await;
    let empty = "document.body.textContent.includes('and Linchpin keeps a copy')";
    assert_eq!(browser.value(&window, empty).await, json!(true));
    put(&mut browser, &window, "axle").await;
    put(&mut browser, &window, "wheel").await;
    let [dead, now] = kill(&mut browser, &window).await;
    let sentence = text(&mut browser, &window, NEWS).await;
    let start = format!(
        "You killed server {dead}, so server {now} answers you now; your login and the 2 items in your cart are kept: \
         Linchpin gave server {now} the copy of your session that server {dead} had saved "
    );
    assert!(sentence.starts_with(&start) && sentence.ends_with(" before."), "{sentence}");
    assert_eq!(browser.value(&window, LOGGED_IN).await, json!(true));
    let items = "[...document.querySelectorAll('li span')].map(e => e.textContent).join()";
    assert_eq!(text(&mut browser, &window, items).await, "axle,wheel");
    for scheme in ["light", "dark"] {
        browser.prefer(&window, scheme).await;
        assert_eq!(browser.value(&window, CONTRAST).await, json!(""), "{scheme}");
    }
    // Nothing is lost, so the next page has nothing to say.
    put(&mut browser, &window, "pin").await;
    assert_eq!(text(&mut browser, &window, NEWS).await, "");

    // The next kill, too: this server saved the cart last.
    let [dead, now] = kill(&mut browser, &window).await;
    let sentence = text(&mut browser, &window, NEWS).await;
    assert!(sentence.contains("the 3 items in your cart are kept"), "{sentence}");
    assert!(
        sentence.contains(&format!("gave server {now} the copy of your session that server {dead} had saved")),
        "{sentence}"
    );
}

#[tokio::test]
async fn what_the_page_says_of_a_copy_is_no_wider_than_the_screen() {
    let names = ["v", "w", "x"].map(|letter| letter.repeat(64));
    let shop = Shop::with_copies([&names[0], &names[1], &names[2]]).await;
    let mut browser = Chromium::start().await;
    let window = browser.window(390, 844).await;
    browser.open(&window, &shop.url()).await;
    log_in(&mut browser, &window).await;
    kill(&mut browser, &window).await;
    assert_eq!(browser.value(&window, "!!document.querySelector('.kept')").await, json!(true));
    for width in [320, 390] {
        browser.resize(&window, width, 844).await;
        assert_eq!(browser.value(&window, FITS).await, json!(true), "{width} px");
        assert_eq!(browser.value(&window, WIDE_BOXES).await, json!(""), "{width} px");
    }
}

#[tokio::test]
async fn a_client_that_did_not_kill_the_server_reads_only_that_it_no_longer_responds() {
    let shop = Shop::start().await;
    let mut browser = Chromium::start().await;
    // The first has a login, the second has none, and the third is new.
    let [member, guest, new] =
        [browser.window(390, 844).await, browser.window(390, 844).await, browser.window(390, 844).await];
    browser.open(&member, &shop.url()).await;
    log_in(&mut browser, &member).await;
    browser.open(&guest, &shop.url()).await;
    let servers = [text(&mut browser, &member, SERVER).await, text(&mut browser, &guest, SERVER).await];
    for backend in shop.backends.iter().filter(|backend| servers.contains(&backend.name)) {
        backend.signal("KILL").await;
    }
    for (window, server, lost) in [
        (&member, &servers[0], format!("your login was in {}'s memory and is lost.", servers[0])),
        (&guest, &servers[1], "you were not logged in, so you have lost nothing.".to_owned()),
    ] {
        browser.open(window, &shop.url()).await;
        let now = text(&mut browser, window, SERVER).await;
        let sentence = format!("Server {server} no longer answers you, so server {now} does; {lost}");
        assert_eq!(text(&mut browser, window, NEWS).await, sentence);
    }
    browser.open(&new, &shop.url()).await;
    assert_eq!(text(&mut browser, &new, NEWS).await, "");
}

/// Whether the page scrolls sideways.
const FITS: &str = "document.documentElement.scrollWidth <= document.documentElement.clientWidth";

/// Lists the boxes inside the page that scroll sideways.
const WIDE_BOXES: &str = "[...document.querySelectorAll('main *')].filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'hidden' && getComputedStyle(e).display !== 'inline').map(e => e.outerHTML).join('\\n')";

#[tokio::test]
async fn nothing_on_the_page_is_wider_than_the_screen() {
    let long = "w".repeat(64);
    let backend = DemoBackend::start(&long).await;
    let proxy = Proxy::builder().backend_at(&backend.name, backend.address, "").start();
    let mut browser = Chromium::start().await;
    let window = browser.window(390, 844).await;
    let url = format!("http://{}/", proxy.address());
    for state in ["guest", "wrong login", "logged in", "cart", "dying"] {
        match state {
            "guest" => browser.open(&window, &url).await,
            "wrong login" => browser.open(&window, &format!("{url}?notice=wrong-login")).await,
            "logged in" => {
                browser.value(&window, &format!("document.querySelector('input[name=user]').value = '{long}'")).await;
                log_in(&mut browser, &window).await;
            }
            "cart" => put(&mut browser, &window, &long).await,
            _ => {
                browser.value(&window, "document.querySelector('button.kill').click()").await;
                browser.until(&window, "document.title.startsWith('about to die')").await;
            }
        }
        for width in [320, 390, 1280, 1920] {
            browser.resize(&window, width, 844).await;
            assert_eq!(browser.value(&window, FITS).await, json!(true), "{state} at {width} px");
            assert_eq!(browser.value(&window, WIDE_BOXES).await, json!(""), "{state} at {width} px");
        }
    }
}

/// Lists the elements whose text has too little contrast with its background.
pub const CONTRAST: &str = r#"(() => {
    const canvas = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d', { willReadFrequently: true });
    const over = (color, below) => {
        canvas.fillStyle = `rgb(${below})`; canvas.fillRect(0, 0, 1, 1);
        canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const ground = e => e ? over(getComputedStyle(e).backgroundColor, ground(e.parentElement)) : [255, 255, 255];
    const light = c => c.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const contrast = e => {
        const below = ground(e), [a, b] = [light(over(getComputedStyle(e).color, below)), light(below)];
        return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    };
    const texts = [...document.querySelectorAll('main *')].filter(e => e.tagName === 'INPUT' && e.type !== 'hidden'
        || [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()));
    return texts.map(e => [contrast(e), e.outerHTML]).filter(([c]) => c < 4.5).map(c => c.join(' ')).join('\n');
})()"#;

#[tokio::test]
async fn it_can_be_read_in_light_and_dark_and_used_by_keyboard_alone() {
    let shop = Shop::start().await;
    let mut browser = Chromium::start().await;
    let window = browser.window(1280, 900).await;
    browser.open(&window, &shop.url()).await;
    // Headings in order, a name for each field, a language.
    let plain = "document.querySelectorAll('h1').length === 1 && !!document.documentElement.lang && \
        [...document.querySelectorAll('input:not([type=hidden])')].every(e => e.labels.length === 1)";
    assert_eq!(browser.value(&window, plain).await, json!(true), "guest");

    async fn reach(browser: &mut Chromium, window: &Window, button: &str) {
        for _ in 0..20 {
            browser.press(window, "Tab").await;
            if browser.value(window, &format!("document.activeElement.textContent.startsWith('{button}')")).await
                == json!(true)
            {
                let ring = "getComputedStyle(document.activeElement).outlineStyle !== 'none'";
                assert_eq!(browser.value(window, ring).await, json!(true), "one sees that {button} is next");
                return;
            }
        }
        panic!("no way to {button} by keyboard");
    }
    let readable = async |browser: &mut Chromium, what: &str| {
        for scheme in ["light", "dark"] {
            browser.prefer(&window, scheme).await;
            assert_eq!(browser.value(&window, CONTRAST).await, json!(""), "{what}, {scheme}");
        }
    };
    readable(&mut browser, "guest").await;
    reach(&mut browser, &window, "Log in").await;
    browser.press(&window, "Enter").await;
    browser.until(&window, LOGGED_IN).await;
    // The field for the next item has the focus.
    browser.until(&window, "document.activeElement.name === 'item'").await;
    browser.press(&window, "x").await;
    browser.press(&window, "Enter").await;
    browser.until(&window, "document.querySelector('li span')?.textContent === 'x'").await;
    readable(&mut browser, "cart").await;
    assert_eq!(browser.value(&window, plain).await, json!(true), "cart");
    let server = text(&mut browser, &window, SERVER).await;
    reach(&mut browser, &window, "Kill server").await;
    browser.press(&window, "Enter").await;
    browser.until(&window, &format!("{SERVER} !== '{server}'")).await;
    readable(&mut browser, "moved").await;
}

#[tokio::test]
async fn another_site_s_page_kills_no_server() {
    let backend = DemoBackend::start("a").await;
    let mut client = Client::connect(backend.address).await;
    for fields in ["sec-fetch-site: cross-site\r\n", "origin: http://evil.example\r\n", "origin: null\r\n"] {
        let response = client.request("POST", "/kill", fields, b"").await;
        assert_eq!(response.status, 403, "{fields}");
    }
    assert_eq!(client.get("/whoami").await.status, 200);
}

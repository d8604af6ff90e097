//! Owns: the tests of routes and listeners, for any source.
//! Invariant: the output opens nothing that the source did not.
//! Must not know: the formats of sources.

use super::super::access::Access;
use super::super::address_lists::AddressLists;
use super::super::guard::{GuardScope, Restriction};
use super::super::pool::Pool;
use super::*;

fn hosts(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn route(output: &mut Output, group: usize, names: &[&str], prefix: &str, pool: &str, line: usize) -> Vec<usize> {
    output.route(&[group], &Request::to(hosts(names), prefix), &Destination::pool(pool), line, "")
}

#[test]
fn a_host_and_path_has_one_route() {
    let mut output = Output::new("x", Format::Nginx);
    let group = output.listener_group(1, "x", "x");
    route(&mut output, group, &["a", "b"], "/", "one", 1);
    route(&mut output, group, &["b", "c"], "/", "two", 2);
    route(&mut output, group, &["c"], "/", "three", 3);
    route(&mut output, group, &[], "/", "four", 4);
    assert_eq!(route(&mut output, group, &[], "/", "four", 5), [2]);
    route(&mut output, group, &[], "/x", "five", 6);
    let shape = |route: &Route| route.request.hosts.join(" ") + &route.request.prefix;
    assert_eq!(output.routes.iter().map(shape).collect::<Vec<_>>(), ["a b/", "c/", "/", "/x"]);
    assert_eq!(output.unrouted.unsupported_lines().collect::<Vec<_>>(), [2, 3]);
}

/// A port, whether it is off, and hosts with their pools.
type Given<'g> = (u16, bool, &'g [(&'g str, &'g str)]);

/// Returns whether each route is disabled, and its listeners.
fn apart(groups: &[Given<'_>]) -> Vec<(bool, String)> {
    let mut output = Output::new("x", Format::Nginx);
    for (port, is_off, routes) in groups {
        let number = output.listener_group(usize::from(*port), "front", "web");
        let listener = output.listener(number, &format!("0.0.0.0:{port}"), usize::from(*port), "");
        if *is_off {
            listener.switch_off(1, "", "");
        }
        for (host, pool) in *routes {
            route(&mut output, number, &[host], "/", pool, 1);
        }
    }
    output.merge();
    output.open();
    let listeners = |route: &Route| route.table.get("listeners").map_or("", |value| value.as_str()).to_owned();
    output.routes.iter().map(|route| (route.is_off, listeners(route))).collect()
}

#[test]
fn what_leads_elsewhere_at_an_address_of_its_own_is_tied_to_it() {
    let routes =
        apart(&[(80, false, &[("a", "web")]), (81, false, &[("a", "web")]), (9000, false, &[("a", "intern")])]);
    assert_eq!(routes, [(false, "[\"web\", \"web-2\"]".into()), (false, "[\"web-3\"]".into())]);
    // A host is not added to an address, although its pool is there.
    let routes = apart(&[(80, false, &[("a", "web")]), (81, false, &[("a", "web"), ("b", "web")])]);
    assert_eq!(routes, [(false, "[\"web\", \"web-2\"]".into()), (false, "[\"web-2\"]".into())]);
    // A route that is the same everywhere names no listeners.
    assert_eq!(apart(&[(80, false, &[("a", "web")]), (81, false, &[("a", "web")])]), [(false, String::new())]);
}

/// The listeners of a public listener group.
const PUBLIC: &[&str] = &["0.0.0.0:80", "10.0.0.4:81"];

/// The pool of a route, whether it is disabled, and its listeners.
type Written = (String, bool, String);

/// Returns the listeners of a public and a private listener group at these addresses, and of each route
/// whether it is disabled; `guarded` is the group whose requests below /admin are restricted.
fn overlapping(public_at: &[&str], private: &[&str], guarded: Option<usize>) -> (Vec<(String, bool)>, Vec<Written>) {
    let mut output = Output::new("x", Format::Haproxy);
    let public = output.listener_group(1, "public", "public");
    let intern = output.listener_group(2, "intern", "intern");
    for address in public_at {
        output.listener(public, address, 1, "");
    }
    for address in private {
        output.listener(intern, address, 2, "");
    }
    route(&mut output, public, &[], "/", "web", 1);
    route(&mut output, public, &["a"], "/", "app", 1);
    route(&mut output, intern, &[], "/", "other", 2);
    route(&mut output, intern, &[], "/admin", "admin", 2);
    route(&mut output, intern, &["a", "b"], "/", "shop", 2);
    if let Some(group) = guarded {
        let place = GuardScope::Groups(vec![group], vec![Request::to(Vec::new(), "/admin")]);
        output.guard(Guard { place, line: 7, text: String::new(), why: String::new(), kind: Restriction::Lost });
    }
    output.join_overlapping();
    output.merge();
    output.disable_guarded();
    output.open();
    let value = |table: &Table, key: &str| table.get(key).map_or("", |value| value.as_str()).replace('"', "");
    let listeners = output.listeners.iter().map(|each| (value(&each.table, "address"), each.is_off()));
    let routes =
        output.routes.iter().map(|each| (value(&each.table, "pool"), each.is_off, value(&each.table, "listeners")));
    (listeners.collect(), routes.collect())
}

#[test]
fn a_listener_that_a_wildcard_covers_is_part_of_it() {
    let (listeners, routes) = overlapping(PUBLIC, &["10.0.0.4:80"], None);
    let on = |address: &str| (address.to_owned(), false);
    assert_eq!(listeners, [on("0.0.0.0:80"), on("10.0.0.4:81")]);
    let route = |pool: &str, is_off, listeners: &str| (pool.to_owned(), is_off, listeners.to_owned());
    // The other address of the public group does not serve what is not its own.
    let (web, app) = (route("web", false, "[public-2, public]"), route("app", false, "[public-2, public]"));
    let (admin, shop) = (route("admin", false, "[public]"), route("shop", false, "[public]"));
    let lost = [route("other", true, ""), route("shop", true, "")];
    let [other, rest] = lost;
    assert_eq!(routes, [web.clone(), app.clone(), other, admin, rest, shop]);
    // An address of its own stays.
    let (listeners, routes) = overlapping(PUBLIC, &["10.0.0.4:80", "10.0.0.4:82"], None);
    assert_eq!(listeners, [on("0.0.0.0:80"), on("10.0.0.4:81"), on("10.0.0.4:82")]);
    let [admin, shop] = ["admin", "shop"].map(|pool| route(pool, false, "[intern, public]"));
    assert_eq!(routes, [web, app, route("other", false, "[intern]"), admin, route("shop", false, "[intern]"), shop]);
}

#[test]
fn what_was_restricted_stays_so_when_its_listener_is_part_of_another() {
    for public in [PUBLIC, &PUBLIC[..1]] {
        for guarded in [0, 1] {
            let (_, routes) = overlapping(public, &["10.0.0.4:80"], Some(guarded));
            let is_off = |pool: &str| routes.iter().any(|(name, is_off, _)| name == pool && *is_off);
            assert!(is_off("admin"), "{guarded}: {routes:?}");
            // The restriction of the private group is none of the public one, which has no route below /admin.
            assert_eq!((is_off("web"), is_off("app")), (guarded == 0, guarded == 0), "{routes:?}");
        }
    }
}

#[test]
fn a_route_that_is_split_keeps_its_settings() {
    let mut output = Output::new("x", Format::Nginx);
    let (public, intern) = (output.listener_group(1, "public", "public"), output.listener_group(2, "intern", "intern"));
    output.listener(public, "0.0.0.0:80", 1, "");
    output.listener(intern, "10.0.0.4:80", 2, "");
    route(&mut output, public, &["a"], "/", "web", 1);
    let ids = route(&mut output, intern, &["a", "b"], "/", "shop", 2);
    output.set_on(&ids, "allow", &Value::list(["10.0.0.0/8"]));
    output.join_overlapping();
    let shop: Vec<_> = output.routes.iter().filter(|route| route.pool() == Some("shop")).collect();
    assert_eq!(shop.iter().map(|route| route.request.hosts.concat()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(shop.iter().all(|route| route.table.get("allow").is_some()));
}

#[test]
fn a_loopback_listener_opens_to_nobody_else() {
    let (listeners, routes) = overlapping(PUBLIC, &["127.0.0.1:80"], None);
    assert_eq!(listeners.iter().map(|(_, is_off)| *is_off).collect::<Vec<_>>(), [false, false, true]);
    let off: Vec<_> = routes.iter().filter(|(_, is_off, _)| *is_off).map(|(pool, ..)| pool.as_str()).collect();
    assert_eq!(off, ["other", "admin", "shop"]);
}

#[test]
fn what_listens_nowhere_is_switched_off() {
    let routes = apart(&[(80, false, &[("a", "web")]), (443, true, &[("a", "web"), ("b", "web")])]);
    assert_eq!(routes, [(false, "[\"web\"]".into()), (true, "[\"web-2\"]".into())]);
}

#[test]
fn frontends_without_an_address_get_a_listener_each() {
    let mut output = Output::new("x", Format::Haproxy);
    for name in ["one", "two"] {
        let group = output.listener_group(1, name, name);
        route(&mut output, group, &[], "/", name, 1);
        output.pools.push(Pool::new(name));
    }
    let text = output.render().text;
    for name in ["one", "two"] {
        assert!(text.contains(&format!("pool = \"{name}\"\nlisteners = [\"{name}\"]")), "{text}");
    }
    assert!(text.contains("\"127.0.0.1:8080\"") && text.contains("\"127.0.0.1:8081\""), "{text}");
}

/// Returns the routes that stay enabled when those at `guarded` have a restriction without an equivalent.
fn kept(routes: &[(&str, &[&str], &str)], guarded: &[usize]) -> Vec<usize> {
    let mut output = Output::new("x", Format::Nginx);
    let group = output.listener_group(1, "x", "x");
    for (pool, names, prefix) in routes {
        route(&mut output, group, names, prefix, pool, 1);
    }
    let guard = |place| Guard {
        place,
        line: 7,
        text: "deny all".into(),
        why: "nobody filters".into(),
        kind: Restriction::Lost,
    };
    output.guard(guard(GuardScope::Routes(guarded.to_vec())));
    output.disable_guarded();
    output.routes.iter().enumerate().filter(|(_, route)| !route.is_off).map(|(id, _)| id).collect()
}

#[test]
fn a_route_that_lost_its_guard_is_off_and_so_is_what_leads_around_it() {
    let routes: &[(&str, &[&str], &str)] = &[
        ("app", &["a"], "/"),
        ("app", &["a"], "/admin"),
        ("other", &["a"], "/x"),
        ("app", &["b"], "/"),
        ("app", &[], "/y"),
    ];
    assert_eq!(kept(routes, &[1]), [2, 3]);
    assert_eq!(kept(routes, &[2]), [0, 1, 3, 4]);
}

#[test]
fn the_only_pool_is_not_open_because_its_route_is_off() {
    let mut output = Output::new("x", Format::Nginx);
    let group = output.listener_group(1, "x", "x");
    output.listener(group, "0.0.0.0:80", 1, "");
    let ids = route(&mut output, group, &[], "/", "app", 1);
    output.pools.push(Pool::new("app"));
    output.guard(Guard {
        place: GuardScope::Routes(ids),
        line: 7,
        text: "deny all".into(),
        why: "nobody filters".into(),
        kind: Restriction::Lost,
    });
    let imported = output.render();
    assert!(!imported.text.contains("\n[[pools]]") && !imported.may_serve, "{}", imported.text);
    assert_eq!(imported.guards, [7]);
}

/// Returns the routes that a list of addresses for /admin of these hosts is written into.
fn listed(of: &[&str], routes: &[(&str, &[&str], &str)]) -> Vec<String> {
    let mut output = Output::new("x", Format::Haproxy);
    let group = output.listener_group(1, "x", "x");
    for (pool, names, prefix) in routes {
        route(&mut output, group, names, prefix, pool, 1);
    }
    let place = GuardScope::Groups(vec![group], vec![Request::to(hosts(of), "/admin")]);
    let lists = AddressLists { allow: vec!["10.0.0.0/8".into()], ..AddressLists::default() };
    let kind = Restriction::Access(Access::Lists(lists));
    output.guard(Guard { place, line: 7, text: String::new(), why: String::new(), kind });
    output.disable_guarded();
    let listed = output.routes.iter().filter(|route| route.table.get("allow").is_some());
    listed.map(|route| route.request.hosts.concat() + &route.request.prefix + " " + route.pool().unwrap()).collect()
}

#[test]
fn a_restricted_path_is_restricted_for_each_host_that_has_a_route() {
    // Hosts go before paths: the route for /admin has no request of the host a.
    let routes: &[(&str, &[&str], &str)] = &[("app", &["a"], "/"), ("admin", &[], "/admin"), ("app", &[], "/")];
    assert_eq!(listed(&[], routes), ["/admin admin", "a/admin app"]);
    let routes: &[(&str, &[&str], &str)] =
        &[("app", &["a", "b"], "/"), ("one", &["a"], "/admin"), ("two", &["b"], "/admin")];
    assert_eq!(listed(&[], routes), ["a/admin one", "b/admin two"]);
    assert_eq!(listed(&[], &[("app", &[], "/"), ("app", &[], "/admin/x")]), ["/admin/x app", "/admin app"]);
}

#[test]
fn a_restricted_path_of_one_host_becomes_one_route() {
    let routes: &[(&str, &[&str], &str)] = &[("shop", &["a"], "/"), ("app", &[], "/")];
    assert_eq!(listed(&["a"], routes), ["a/admin shop"]);
    let routes: &[(&str, &[&str], &str)] = &[("app", &[], "/"), ("app", &["b"], "/")];
    assert_eq!(listed(&["a"], routes), ["a/admin app"]);
}

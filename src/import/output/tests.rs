//! Owns: the tests of routes and listeners, for any source.
//! Invariant: the output opens nothing that the source did not.
//! Must not know: the formats of sources.

use super::super::guard::GuardScope;
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
        let listener = output.listener(number, &format!("0.0.0.0:{port}"));
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
    let guard = |place| Guard { place, line: 7, text: "deny all".into(), why: "nobody filters".into() };
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
    output.listener(group, "0.0.0.0:80");
    let ids = route(&mut output, group, &[], "/", "app", 1);
    output.pools.push(Pool::new("app"));
    output.guard(Guard {
        place: GuardScope::Routes(ids),
        line: 7,
        text: "deny all".into(),
        why: "nobody filters".into(),
    });
    let imported = output.render();
    assert!(!imported.text.contains("\n[[pools]]") && !imported.may_serve, "{}", imported.text);
    assert_eq!(imported.guards, [7]);
}

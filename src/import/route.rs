//! Owns: a route of the output: which requests it matches, and where they go.
//! Invariant: two destinations are equal only if all their parts are.
//! Must not know: the formats of sources; listeners.

use super::access::Access;
use super::address_lists::AddressLists;
use super::field_edits::FieldEdits;
use super::grammar::is_below;
use super::toml::{Table, Value};

/// The requests that a route matches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Request {
    /// With TLS or without; `None` for both.
    pub(super) secure: Option<bool>,
    /// Empty for all hosts.
    pub(super) hosts: Vec<String>,
    /// The path prefix; `/` for all paths.
    pub(super) prefix: String,
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    Pool {
        name: String,
        /// The path prefix to remove.
        strip: Option<String>,
        /// The path prefix to add.
        add: Option<String>,
    },
    Redirect(Redirect),
}

/// A redirect; `None` keeps that part of the request's URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Redirect {
    pub(super) scheme: Option<&'static str>,
    pub(super) host: Option<String>,
    pub(super) path: Option<String>,
    pub(super) status: u16,
}

/// A route, with its table.
pub(super) struct Route {
    pub(super) request: Request,
    pub(super) destination: Destination,
    /// The listener groups at which it is served.
    pub(super) groups: Vec<usize>,
    pub(super) table: Table,
    /// Who may use it, where several lines of the source say so.
    pub(super) lists: AddressLists,
    pub(super) edits: FieldEdits,
    pub(super) is_off: bool,
}

impl Request {
    /// Returns requests for these hosts (empty for all) below a path.
    pub(super) fn to(hosts: Vec<String>, prefix: &str) -> Request {
        Request { secure: None, hosts, prefix: prefix.into() }
    }

    pub(super) fn is_everything(&self) -> bool {
        self.secure.is_none() && self.hosts.is_empty() && self.prefix == "/"
    }

    /// Returns the requests that are in both; `None` if there is none, or if no route can be for them alone.
    pub(super) fn and(&self, other: &Request) -> Option<Request> {
        let secure = match (self.secure, other.secure) {
            (Some(one), Some(other)) if one != other => return None,
            (one, other) => one.or(other),
        };
        let prefix = match (is_below(&self.prefix, &other.prefix), is_below(&other.prefix, &self.prefix)) {
            (true, _) => &self.prefix,
            (_, true) => &other.prefix,
            _ => return None,
        };
        let hosts = match (&self.hosts[..], &other.hosts[..]) {
            (hosts, []) | ([], hosts) => hosts.to_vec(),
            (one, two) => {
                let both: Vec<_> = one.iter().filter(|host| two.contains(host)).cloned().collect();
                let is_exact =
                    |host: &String| both.contains(host) || !Request::to(vec![host.clone()], "/").shares_a_host(two);
                if both.is_empty() || !one.iter().all(is_exact) {
                    return None;
                }
                both
            }
        };
        Some(Request { secure, hosts, prefix: prefix.clone() })
    }

    /// Returns whether some host is in both.
    pub(super) fn shares_a_host(&self, other: &[String]) -> bool {
        let covers = |pattern: &str, host: &str| pattern.strip_prefix('*').is_some_and(|end| host.ends_with(end));
        let either = |one: &String| other.iter().any(|two| one == two || covers(one, two) || covers(two, one));
        self.hosts.is_empty() || other.is_empty() || self.hosts.iter().any(either)
    }
}

impl Destination {
    pub(super) fn pool(name: &str) -> Destination {
        Destination::Pool { name: name.into(), strip: None, add: None }
    }

    pub(super) fn pool_name(&self) -> Option<&str> {
        match self {
            Destination::Pool { name, .. } => Some(name),
            Destination::Redirect(_) => None,
        }
    }

    /// Returns its name in messages.
    pub(super) fn shown(&self) -> String {
        match self {
            Destination::Pool { name, .. } => format!("the pool {name}"),
            Destination::Redirect(_) => "a redirect".into(),
        }
    }
}

impl Redirect {
    /// Returns a redirect to the same URL with another scheme.
    pub(super) fn to_scheme(scheme: &'static str, status: u16) -> Redirect {
        Redirect { scheme: Some(scheme), host: None, path: None, status }
    }

    /// Parses `https://host/path` or `/path`; `same` are variables for the request's host, and `rest` for its
    /// path. `None` if a redirect can't lead there.
    pub(super) fn read(url: &str, same: &[&str], rest: &[&str], status: u16) -> Option<Redirect> {
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let (scheme, behind) = match url.split_once("://") {
            Some(("http", behind)) => (Some("http"), behind),
            Some(("https", behind)) => (Some("https"), behind),
            Some(("$scheme", behind)) => (None, behind),
            Some(_) => return None,
            None if url.starts_with('/') && !url.starts_with("//") => (None, ""),
            None => return None,
        };
        let at = if behind.is_empty() { 0 } else { behind.find(['/', '$', '\\', '%']).unwrap_or(behind.len()) };
        // A variable may replace the host.
        let variable = same.iter().find(|name| behind.starts_with(**name));
        let (host, path) = match variable {
            Some(name) => (None, behind.get(name.len()..)?),
            None if behind.is_empty() => (None, url),
            None => {
                let (host, path) = behind.split_at_checked(at)?;
                (Some(authority(host)?), path)
            }
        };
        let is_rest = path.is_empty() || rest.contains(&path);
        let path = match is_rest {
            true => None,
            false => Some(path).filter(|path| is_path(path)).map(str::to_owned).map(Some)?,
        };
        let redirect = Redirect { scheme, host, path, status };
        (redirect.scheme.is_some() || redirect.host.is_some() || redirect.path.is_some()).then_some(redirect)
    }

    fn value(&self) -> Value {
        let texts = [("scheme", self.scheme), ("host", self.host.as_deref()), ("path", self.path.as_deref())];
        let pairs = texts.into_iter().filter_map(|(key, text)| Some((key, Value::text(text?))));
        Value::inline(pairs.chain([("status", Value::number(self.status.into()))]))
    }
}

/// Returns whether a path has no variables.
fn is_path(path: &str) -> bool {
    path.starts_with('/')
        && !path.starts_with("//")
        && path.chars().all(|c| c.is_ascii_alphanumeric() || "/-._~".contains(c))
}

/// Parses a host with an optional port.
fn authority(text: &str) -> Option<String> {
    let name = super::grammar::host(text).filter(|host| !host.starts_with('*'))?;
    let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    Some(port.map_or(name.clone(), |port| format!("{name}:{port}")))
}

impl Route {
    pub(super) fn new(request: Request, destination: Destination, groups: Vec<usize>) -> Route {
        let mut table = Table::default();
        match request.secure {
            Some(true) => table.set("scheme", Value::text("https")),
            Some(false) => table.set("scheme", Value::text("http")),
            None => {}
        }
        if !request.hosts.is_empty() {
            table.set("hosts", Value::list(request.hosts.iter().map(String::as_str)));
        }
        if request.prefix != "/" {
            table.set("path_prefix", Value::text(&request.prefix));
        }
        match &destination {
            Destination::Pool { name, strip, add } => {
                table.set("pool", Value::text(name));
                for (key, path) in [("strip_prefix", strip), ("add_prefix", add)] {
                    if let Some(path) = path {
                        table.set(key, Value::text(path));
                    }
                }
            }
            Destination::Redirect(redirect) => table.set("redirect", redirect.value()),
        }
        let (lists, edits) = (AddressLists::default(), FieldEdits::default());
        Route { request, destination, groups, table, lists, edits, is_off: false }
    }

    /// Takes these hosts out; returns a route for them with the same settings.
    pub(super) fn split(&mut self, hosts: &[String], others: Vec<String>) -> Route {
        let route = self.narrowed(Request { hosts: hosts.to_vec(), ..self.request.clone() }, self.groups.clone());
        self.table.set("hosts", Value::list(others.iter().map(String::as_str)));
        self.request.hosts = others;
        route
    }

    /// Returns a route with the same settings for some of its requests, at some of its listener groups.
    pub(super) fn narrowed(&self, request: Request, groups: Vec<usize>) -> Route {
        let mut route = Route::new(request, self.destination.clone(), groups);
        route.table.append(self.table.settings());
        Route { lists: self.lists.clone(), edits: self.edits.clone(), is_off: self.is_off, ..route }
    }

    /// Returns whether another route differs in nothing but its listeners and comments.
    pub(super) fn is_like(&self, other: &Route) -> bool {
        self.request == other.request
            && self.destination == other.destination
            && self.edits == other.edits
            && self.table.has_same_settings(&other.table)
    }

    /// Returns whether it does no more than forward to a pool.
    pub(super) fn is_plain(&self) -> bool {
        let is_unchanged = matches!(&self.destination, Destination::Pool { strip: None, add: None, .. });
        is_unchanged && self.edits.is_empty() && self.table.has_only("pool")
    }

    /// Writes the route with its sections.
    pub(super) fn write(&self, text: &mut String) {
        self.table.write("[[routes]]", self.is_off, text);
        self.edits.write(self.is_off, text);
    }

    /// Returns whether it is for some of the requests of another one, by the same path and a host of both.
    pub(super) fn is_for_some_of(&self, request: &Request) -> bool {
        let (own, other) = (&self.request.hosts, &request.hosts);
        let has_a_host = own.iter().any(|host| other.contains(host)) || own.is_empty() && other.is_empty();
        self.request.prefix == request.prefix && self.request.secure == request.secure && has_a_host
    }

    /// Returns whether the same clients may use another route.
    pub(super) fn has_same_access(&self, other: &Route) -> bool {
        ["allow", "deny", "basic_auth"].iter().all(|key| self.table.get(key) == other.table.get(key))
    }

    /// Whether a restriction can be added: not if it has another list of those that may use it, or another file of users,
    /// since only those in both may.
    pub(super) fn takes(&self, access: &Access) -> bool {
        match access {
            Access::Lists(lists) => {
                lists.allow.is_empty() || self.lists.allow.is_empty() || self.lists.allow == lists.allow
            }
            Access::Passwords(value) => self.table.get("basic_auth").is_none_or(|known| known == value),
        }
    }

    /// Adds a restriction that it takes.
    pub(super) fn restrict(&mut self, access: &Access) {
        let lists = match access {
            Access::Lists(lists) => lists,
            Access::Passwords(value) => return self.table.set("basic_auth", value.clone()),
        };
        let new = |known: &[String], list: &[String]| -> Vec<String> {
            list.iter().filter(|network| !known.contains(network)).cloned().collect()
        };
        let (allow, deny) = (new(&self.lists.allow, &lists.allow), new(&self.lists.deny, &lists.deny));
        self.lists.allow.extend(allow);
        self.lists.deny.extend(deny);
        for (key, list) in [("allow", &self.lists.allow), ("deny", &self.lists.deny)] {
            if !list.is_empty() {
                self.table.set(key, Value::list(list.iter().map(String::as_str)));
            }
        }
    }

    /// Returns the pool that it leads to.
    pub(super) fn pool(&self) -> Option<&str> {
        self.destination.pool_name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Option<(Option<&'static str>, Option<String>, Option<String>)> {
        let redirect = Redirect::read(url, &["$host"], &["$request_uri"], 301)?;
        Some((redirect.scheme, redirect.host, redirect.path))
    }

    #[test]
    fn where_a_redirect_leads_is_read_or_refused() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(read("https://$host$request_uri"), Some((Some("https"), None, None)));
        assert_eq!(read("https://b.example$request_uri"), Some((Some("https"), text("b.example"), None)));
        assert_eq!(read("https://b.example:8443/new"), Some((Some("https"), text("b.example:8443"), text("/new"))));
        assert_eq!(read("$scheme://b.example$request_uri"), Some((None, text("b.example"), None)));
        assert_eq!(read("/new"), Some((None, None, text("/new"))));
        for bad in
            ["", "new", "//b.example", "ftp://a/b", "https://$other/x", "https://b.example/$1", "/a?b", "https:///"]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}

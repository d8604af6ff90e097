//! Owns: the conversion of a backend, or of the server side of a listen section, into a pool.
//! Invariant: a pool has one value of each setting; each server becomes a backend, if only a disabled one.
//! Must not know: listeners and routes.

use std::time::Duration;

use super::super::field_edits::FieldEdit;
use super::super::grammar;
use super::super::guard::{Guard, GuardScope, Restriction};
use super::super::output::Output;
use super::super::pool::{Balance, ErrorPage, INTERVAL, Pinning, Pool, WAIT};
use super::super::route::Redirect;
use super::super::rule::Condition;
use super::super::toml::{Table, Value};
use super::super::units::{self, Address};
use super::acl::Acls;
use super::disposition::Disposition;
use super::fields::{self, Field, FieldRule};
use super::global::Globals;
use super::resolvers::Resolvers;
use super::section::ProxySection;
use super::server::Parameters;
use super::syntax::Statement;
use super::userlist::UserLists;
use super::{check, known, rules, sticky};

/// HAProxy's default interval of health checks.
const EVERY: Duration = Duration::from_secs(2);

/// Linchpin's default of the time in a queue.
const QUEUE: Duration = Duration::from_secs(10);

/// A backend being read.
pub(super) struct BackendReader<'p> {
    pool: Pool,
    acls: &'p Acls,
    users: &'p UserLists<'p>,
    defaults: Parameters,
    is_checked: bool,
    /// Some server has a `maxconn`.
    is_limited: bool,
    queue_timeout: Option<Duration>,
    /// HAProxy verifies a server's certificate, but not the name in it.
    has_unchecked_names: bool,
    timeout_check: Option<(Option<Duration>, &'p Statement)>,
    interval: Option<Duration>,
    is_hashed_by_stick: bool,
    /// `http-check send` defines the request of a health check.
    is_sent: bool,
    globals: &'p Globals,
    resolvers: &'p Resolvers,
    /// Access restrictions of the pool, and why each has no equivalent.
    guards: Vec<(&'p Statement, &'static str)>,
    /// The path prefix that is removed before a request is forwarded.
    stripped: Option<(String, &'p Statement)>,
    /// The redirects of requests without TLS.
    redirects: Vec<(Redirect, &'p Statement)>,
    /// The changes to header fields.
    edits: Vec<(FieldEdit, &'p Statement)>,
}

impl<'p> BackendReader<'p> {
    pub(super) fn new(
        mut pool: Pool,
        proxy: &'p ProxySection<'p>,
        (acls, users): (&'p Acls, &'p UserLists<'p>),
        globals: &'p Globals,
        resolvers: &'p Resolvers,
    ) -> BackendReader<'p> {
        let mut defaults = Parameters::default();
        // The section's own lines come first, and override inherited ones.
        let lines: Vec<_> = proxy.each("default-server").collect();
        lines.iter().rev().for_each(|statement| defaults.read(statement.from(1)));
        let defaults = defaults.inherited();
        let (mut is_checked, mut is_limited) = (false, false);
        for statement in proxy.each("server").chain(proxy.each("server-template")) {
            let mut parameters = defaults.clone();
            parameters.read(statement.from(if statement.word(0) == "server" { 3 } else { 4 }));
            is_checked |= parameters.is_checked;
            is_limited |= parameters.maxconn.is_some_and(|maxconn| maxconn > 0);
        }
        if is_checked {
            pool.health.set("type", Value::text("tcp"));
        }
        let backend = BackendReader {
            pool,
            acls,
            users,
            defaults,
            is_checked,
            is_limited,
            queue_timeout: None,
            has_unchecked_names: false,
            timeout_check: None,
            interval: None,
            is_hashed_by_stick: false,
            is_sent: proxy.each("http-check").any(|statement| statement.word(1) == "send"),
            globals,
            resolvers,
            guards: Vec::new(),
            stripped: None,
            redirects: Vec::new(),
            edits: Vec::new(),
        };
        backend.with_header(proxy)
    }

    /// Notes the section's name if the pool has another one.
    fn with_header(mut self, proxy: &ProxySection<'_>) -> BackendReader<'p> {
        if proxy.header.word(1) != self.pool.name() {
            self.pool.main.unneeded(
                proxy.header.line,
                &proxy.header.text,
                "names are unique and made of letters, digits, `.`, `_` and `-`",
            );
        }
        self
    }

    /// Returns the table in which a line is noted.
    pub(super) fn table(&mut self, statement: &Statement) -> &mut Table {
        match (statement.word(0), statement.word(1)) {
            (
                "cookie" | "appsession" | "stick" | "stick-table" | "ignore-persist" | "force-persist"
                | "dynamic-cookie-key",
                _,
            )
            | ("option", "persist") => &mut self.pool.persistence,
            ("http-check" | "tcp-check", _) | ("option", "httpchk" | "tcp-check") | ("timeout", "check") => {
                &mut self.pool.health
            }
            ("http-error" | "errorfile" | "errorfiles", _) => &mut self.pool.pages,
            ("timeout", "queue" | "connect" | "server" | "tunnel") => &mut self.pool.timeouts,
            ("retries" | "retry-on", _) => &mut self.pool.retry,
            _ => &mut self.pool.main,
        }
    }

    pub(super) fn read(&mut self, statement: &'p Statement) -> Disposition {
        if let Some(why) = rules::guard(statement, self.acls) {
            self.guards.push((statement, why));
            return Disposition::Converted;
        }
        if let Some(rule) = fields::read(statement) {
            return self.field(rule, statement);
        }
        if let Some(redirect) = rules::to_tls(statement, self.acls) {
            self.redirects.push((redirect, statement));
            return Disposition::Converted;
        }
        if let (Some(prefix), true) = (rules::stripped(statement), self.stripped.is_none()) {
            self.stripped = Some((prefix, statement));
            return Disposition::Converted;
        }
        match (statement.word(0), statement.word(1)) {
            ("mode", "http") => Disposition::Converted,
            ("cookie", _) => sticky::cookie(statement, &mut self.pool),
            ("appsession", _) => sticky::appsession(statement, &mut self.pool),
            ("stick", _) => {
                let disposition = sticky::stick(statement, &mut self.pool);
                self.is_hashed_by_stick = self.pool.pinning == Some(Pinning::None);
                disposition
            }
            ("stick-table", _) => sticky::table(statement, &mut self.pool),
            ("dynamic-cookie-key", _) => Disposition::Unneeded("[[keys]] seals the pins"),
            ("ignore-persist", "if") => self.ignore_persist(statement),
            ("balance", _) => self.balance(statement),
            ("hash-type", _) => Disposition::Unneeded(
                "hashes are consistent: when backends change, only clients of those backends move",
            ),
            ("option", "persist") => {
                self.pool.on.push(("down", "refuse"));
                Disposition::Converted
            }
            ("option", "httpchk") | ("http-check", _) if !self.is_checked => {
                Disposition::Unsupported("no server here has health checks".into())
            }
            ("option", "httpchk") => check::httpchk(statement, self.is_sent, &mut self.pool.health),
            ("http-check", _) => check::http_check(statement, &mut self.pool.health),
            ("retries", count) => self.retries(count),
            ("retry-on", _) => self.retry_on(statement),
            ("timeout", "connect") => self.connect(2, statement),
            ("contimeout", _) => self.connect(1, statement),
            ("timeout", "server") => self.response(2, statement),
            ("srvtimeout", _) => self.response(1, statement),
            ("timeout", "check") => {
                self.timeout_check = Some((units::milliseconds(statement.word(2)), statement));
                Disposition::Converted
            }
            ("timeout", "tunnel") => {
                let (time, line, text) =
                    (units::milliseconds(statement.word(2)), statement.line, statement.text.as_str());
                self.pool.timeouts.share_time("stream_idle", time, WAIT, line, text);
                Disposition::Converted
            }
            ("timeout", "queue") if self.is_limited => match units::milliseconds(statement.word(2)) {
                Some(time) => {
                    self.queue_timeout = Some(time);
                    Disposition::Converted
                }
                None => Disposition::Unsupported("not a duration".into()),
            },
            ("timeout", "queue") => Disposition::Unneeded("no request waits, as no server has a `maxconn`"),
            ("http-error", _) => self.error_page(statement),
            ("default-server", _) => default_server(statement),
            ("server", _) => {
                self.server(statement, 2);
                Disposition::Converted
            }
            ("server-template", _) => {
                self.server(statement, 3);
                Disposition::Converted
            }
            _ => Disposition::Unhandled,
        }
    }

    pub(super) fn finish(mut self, out: &mut Output) -> Pool {
        for (statement, why) in std::mem::take(&mut self.guards) {
            self.guard(statement, why, out);
        }
        if self.is_limited {
            // Without `timeout queue`, HAProxy takes `timeout connect`.
            self.pool.wait_in_queue(self.queue_timeout.or(self.pool.connect()).unwrap_or(QUEUE));
        }
        if let Some((prefix, statement)) = self.stripped.take() {
            out.strip(self.pool.name(), &prefix, statement.line, &statement.text);
        }
        for (redirect, statement) in self.redirects.drain(..) {
            out.redirect_pool(self.pool.name(), redirect, statement.line, &statement.text);
        }
        for (edit, statement) in self.edits.drain(..) {
            let scope = GuardScope::Pool(self.pool.name().to_owned());
            out.edit(scope, edit, statement.line, &statement.text);
        }
        if self.has_unchecked_names {
            self.pool.tls.comment(
                "HAProxy accepts a certificate for any name here. Linchpin requires one for the address that it connects to. If the certificates are for a name, set `server_name` in [pools.upstream.tls]",
            );
        }
        if let Some((time, statement)) = self.timeout_check.filter(|_| self.is_checked) {
            let interval = self.interval.unwrap_or(EVERY);
            if time.is_some_and(|time| time > interval) {
                self.pool.health.unneeded(
                    statement.line,
                    &statement.text,
                    "a probe must end before the next one begins",
                );
            }
            let limits = *WAIT.start()..=interval.max(*WAIT.start());
            self.pool.health.share_time("timeout", time, limits, statement.line, &statement.text);
        }
        self.pool
    }

    /// Adds an access restriction of the requests to this pool.
    fn guard(&self, statement: &Statement, why: &'static str, out: &mut Output) {
        let (line, name) = (statement.line, self.pool.name().to_owned());
        let guard = |place, kind| Guard { place, line, text: statement.text.clone(), why: why.into(), kind };
        match rules::access(statement, self.acls, self.users) {
            Some((area, access)) if area == Condition::always() => {
                out.guard(guard(GuardScope::Pool(name), Restriction::Access(access)));
            }
            Some((area, access)) => {
                let place = GuardScope::PoolPart(name, area.routes());
                out.guard(guard(place.clone(), Restriction::Access(access)));
                if self.acls.has_wider_paths(rules::split(statement.from(1)).1.words) {
                    out.guard(guard(place, Restriction::Names));
                }
            }
            None => out.guard(guard(GuardScope::Pool(name), Restriction::Lost)),
        }
    }

    /// Keeps a change to a field for all routes to this pool.
    fn field(&mut self, rule: FieldRule<'_>, statement: &'p Statement) -> Disposition {
        match rule.field {
            Field::Edit(edit) if rule.condition.is_empty() => {
                self.edits.push((edit, statement));
                Disposition::Converted
            }
            Field::Edit(_) => Disposition::Unsupported(known::FIELD_WHEN.into()),
            Field::Unneeded(why) => Disposition::Unneeded(why),
            Field::Lost(why) => Disposition::Unsupported(why.into()),
        }
    }

    /// Converts `http-error status 503 content-type text/html file PATH`.
    fn error_page(&mut self, statement: &Statement) -> Disposition {
        let value = |key: &str| statement.from(1).iter().skip_while(|word| *word != key).nth(1);
        let is_html = value("content-type").is_none_or(|kind| kind.starts_with("text/html"));
        let file = value("file").and_then(|file| grammar::file(file)).filter(|_| is_html);
        match (value("status").and_then(|status| status.parse().ok()), file) {
            (Some(status), Some(file)) => {
                let (line, text) = (statement.line, statement.text.clone());
                self.pool.error_page(ErrorPage { statuses: vec![status], file, line, text });
                Disposition::Converted
            }
            _ => Disposition::Unhandled,
        }
    }

    fn connect(&mut self, at: usize, statement: &Statement) -> Disposition {
        self.pool.connect_timeout(units::milliseconds(statement.word(at)), statement.line, &statement.text);
        Disposition::Converted
    }

    fn response(&mut self, at: usize, statement: &Statement) -> Disposition {
        self.pool.response_timeout(units::milliseconds(statement.word(at)), statement.line, &statement.text);
        Disposition::Converted
    }

    fn balance(&mut self, statement: &Statement) -> Disposition {
        match sticky::balance(statement) {
            Ok(_) if self.is_hashed_by_stick => Disposition::Unneeded("what clients stick on is hashed"),
            Ok(balance) => {
                self.pool.balance(&balance);
                if self.pool.pins() && matches!(balance, Balance::Hash(_)) {
                    self.pool.main.comment("for a client's first request; then its pin chooses");
                }
                Disposition::Converted
            }
            Err(why) => Disposition::Unsupported(why.into()),
        }
    }

    fn ignore_persist(&mut self, statement: &Statement) -> Disposition {
        let condition = match self.acls.condition(statement.from(2)) {
            Ok(condition) => condition,
            Err(why) => return Disposition::Unsupported(why.into()),
        };
        match condition.prefixes() {
            Some(prefixes) if self.pool.pins() => {
                for prefix in prefixes {
                    let below = format!("{}/*", prefix.trim_end_matches('/'));
                    self.pool.exempt.extend([prefix.to_owned(), below].into_iter().filter(|path| path != "/"));
                }
                Disposition::Converted
            }
            Some(_) => Disposition::Unsupported("the pool has no pins".into()),
            None => Disposition::Unsupported(
                "[[pools.persistence.rules]] exempts only paths, methods and user agents".into(),
            ),
        }
    }

    fn retries(&mut self, count: &str) -> Disposition {
        match count.parse::<u64>() {
            Ok(retries) => {
                self.pool.retry.set("attempts", Value::number(retries.saturating_add(1).min(16)));
                Disposition::Converted
            }
            Err(_) => Disposition::Unsupported("not a number".into()),
        }
    }

    fn retry_on(&mut self, statement: &Statement) -> Disposition {
        let mut on: Vec<&str> = Vec::new();
        let mut lost = Vec::new();
        for word in statement.from(1) {
            match word.as_str() {
                // Linchpin always retries these.
                "conn-failure" | "none" => {}
                "empty-response" | "junk-response" => on.push("reset"),
                "response-timeout" => on.push("timeout"),
                "all-retryable-errors" => on.extend(["reset", "timeout", "500", "502", "503", "504"]),
                code if code.parse::<u16>().is_ok_and(|code| (400..=599).contains(&code)) => on.push(code),
                other => lost.push(other),
            }
        }
        let mut seen = std::collections::HashSet::new();
        on.retain(|word| seen.insert(*word));
        self.pool.retry.set("retry_on", Value::list(on));
        if lost.is_empty() {
            Disposition::Converted
        } else {
            Disposition::Unsupported(format!("Linchpin has no equivalent of {}", lost.join(" ")))
        }
    }

    /// Adds a server or a server template; `at` is the index of its address.
    fn server(&mut self, statement: &Statement, at: usize) {
        let (line, text) = (statement.line, statement.text.as_str());
        let mut parameters = self.defaults.clone();
        parameters.read(statement.from(at + 1));
        if parameters.is_checked {
            self.probes(&parameters, line, text);
        }
        if let Some(failures) = parameters.failures() {
            self.pool.ejection.share("consecutive_failures", Value::number(failures.min(1_000_000)), line, text);
        }
        let protocol = parameters.protocol(self.globals);
        self.has_unchecked_names |= protocol.tls.as_ref().is_some_and(|tls| tls.verify && tls.server_name.is_none());
        let address = address(statement.word(at));
        // A server without a usable address does not decide the pool's protocol.
        let fits = address == Address::Other || self.pool.uses_protocol(&protocol);
        let resolvers = parameters.resolvers.as_deref().map_or(&[][..], |name| self.resolvers.of(name));
        if parameters.slow_start.is_some() {
            self.pool.slow_start(parameters.slow_start, line, text);
        }
        let is_checked = self.is_checked;
        let backend = self.pool.backend(statement.word(1), &address, line, text);
        backend.resolvers(resolvers);
        if at > 2 {
            let count = statement.word(2).rsplit('-').next().and_then(|count| count.parse().ok());
            backend.at_most(count.unwrap_or(1));
        }
        if let Some(weight) = parameters.weight {
            backend.weight(weight, line, text);
        }
        if parameters.is_backup {
            backend.backup(line, text);
        }
        if parameters.is_disabled {
            backend.out(line, text);
        }
        if let Some(maxconn) = parameters.maxconn.filter(|maxconn| *maxconn > 0) {
            backend.max_requests(maxconn);
        }
        for (what, why) in parameters.unsupported {
            backend.table.unsupported(line, &what, why);
        }
        for (what, why) in parameters.unneeded {
            backend.table.unneeded(line, &what, why);
        }
        if is_checked && !parameters.is_checked {
            backend.table.unsupported(
                line,
                text,
                "this server had no health checks; Linchpin checks all backends of a pool",
            );
        }
        if !fits {
            let why = "all backends of a pool use the same protocol and TLS settings, and this one differs from the first: give it a pool of its own";
            backend.switch_off(line, text, why);
        }
    }

    fn probes(&mut self, parameters: &Parameters, line: usize, text: &str) {
        let (health, globals) = (&mut self.pool.health, self.globals);
        if let Some(port) = parameters.probe_port.filter(|port| (1..=65535).contains(port)) {
            health.share("port", Value::number(port), line, text);
        }
        if let Some(tls) = parameters.probe_tls(globals) {
            health.share("tls", tls, line, text);
        }
        let interval = parameters.inter.unwrap_or(EVERY).clamp(*INTERVAL.start(), *INTERVAL.end());
        match self.interval {
            None if interval != EVERY => health.set("interval", Value::duration(interval)),
            Some(other) if other != interval => {
                let why = format!(
                    "a pool has one `interval`, that of its first server: {}",
                    humantime::format_duration(other)
                );
                health.unsupported(line, text, why);
            }
            _ => {}
        }
        self.interval = self.interval.or(Some(interval));
        for (key, number) in [("rise", parameters.rise), ("fall", parameters.fall)] {
            if let Some(number) = number {
                health.share(key, Value::number(number.clamp(1, 100)), line, text);
            }
        }
    }
}

/// Converts the address of a server.
fn address(text: &str) -> Address {
    let path = text.strip_prefix("unix@").or_else(|| text.starts_with('/').then_some(text));
    if let Some(path) = path {
        return units::unix(path);
    }
    let plain = text.strip_prefix("ipv4@").or_else(|| text.strip_prefix("ipv6@")).unwrap_or(text);
    // SRV records have the ports.
    match units::address(plain, plain.starts_with('_').then_some(1)) {
        Address::Name(host, _) if host.starts_with('_') => Address::Service(host),
        other => other,
    }
}

/// Notes the parameters of `default-server` without an equivalent; the others are applied to each server.
fn default_server(statement: &Statement) -> Disposition {
    let mut parameters = Parameters::default();
    parameters.read(statement.from(1));
    let lost: Vec<_> = parameters.unsupported.iter().map(|(what, why)| format!("{what}: {why}")).collect();
    match parameters.unneeded.first() {
        _ if !lost.is_empty() => Disposition::Unsupported(lost.join("; ")),
        Some((_, why)) => Disposition::Unneeded(why),
        None => Disposition::Converted,
    }
}

//! Owns: the policies for pins that do not hold, and the rules for requests without persistence.
//! Invariant: a policy without a meaning for its cause is an error; `force` always has `from`.
//! Must not know: how requests carry a pin.

use http::Method;
use toml::de::DeValue;

use super::super::names::{field_name, network, parameter};
use super::super::reader::Table;
use super::super::values::{MILLISECOND, SECOND, Value, YEAR, duration, must_be, plain_text, shown, text, whole, word};
use crate::affinity::policy::{RefusePolicy, WaitPolicy};
use crate::affinity::rules::{BackendNameIn, ExemptRule, ForceRule, Pattern, Rule};
use crate::affinity::{Cause, Policies, Policy};

/// Reads `on`, `refuse` and `wait`.
pub(super) fn policies(table: &Table<'_>) -> Policies {
    let refusal = table.section("refuse", |table| RefusePolicy {
        status: table.get("status", whole(400..=599)).unwrap_or(RefusePolicy::default().status),
        retry_after: table
            .get("retry_after", duration(SECOND..=YEAR))
            .and_then(|time| u32::try_from(time.as_secs()).ok())
            .unwrap_or(RefusePolicy::default().retry_after),
    });
    let wait = table.section("wait", |table| WaitPolicy {
        max_time: table.get("time", duration(MILLISECOND..=SECOND * 600)).unwrap_or(WaitPolicy::default().max_time),
        max_waiting: table.get("most", whole(1..=1_000_000)).unwrap_or(WaitPolicy::default().max_waiting),
    });
    table.section("on", |table| {
        let mut policies = Policies::default();
        for cause in Cause::ALL {
            if let Some(why) = ends(cause) {
                let problem = format!("`{}` takes no policy: {why}", cause.as_str());
                table.refuse(cause.as_str(), problem, "remove it");
                continue;
            }
            let words = [
                ("move", Policy::Move),
                ("borrow", Policy::Borrow),
                ("refuse", Policy::Refuse(refusal)),
                ("wait", Policy::Wait(wait)),
            ];
            let Some(policy) = table.get(cause.as_str(), word(words)) else { continue };
            if policy.suits(cause) {
                policies.set(cause, policy);
            } else {
                let word = policy.as_str();
                let problem = format!("cannot be \"{word}\": the backend is not coming back");
                let remedy = "write \"move\", \"borrow\" or \"refuse\"";
                table.notes().error(&table.at(cause.as_str()), format!("`{}` {problem}", cause.as_str()), remedy);
            }
        }
        policies
    })
}

/// Returns why a cause takes no policy, if it takes none.
fn ends(cause: Cause) -> Option<&'static str> {
    match cause {
        Cause::IdleExpired | Cause::AbsoluteExpired => Some("the session has ended, and a new one begins"),
        Cause::Unreadable => Some("an unreadable pin names no backend, and a new session begins"),
        Cause::Rebalanced => Some("[pools.rebalance] moves the session"),
        _ => None,
    }
}

/// Reads one of `rules`.
pub(super) fn rule(table: &Table<'_>) -> Option<Rule> {
    let exempt = table.section("exempt", exempt);
    let force = table.section("force", force);
    let problem = match (table.has("exempt"), table.has("force")) {
        (true, true) => "this rule has both `exempt` and `force`",
        (false, false) => "this rule has neither `exempt` nor `force`",
        _ => return exempt.map(Rule::Exempt).or(force.map(Rule::Force)),
    };
    let remedy = "write one of them, such as exempt = { paths = [\"/static/*\"] }, or write two rules";
    table.notes().missing(table.span(), problem, remedy);
    None
}

fn exempt(table: &Table<'_>) -> Option<ExemptRule> {
    let exempt = ExemptRule {
        paths: patterns(table, "paths", path_pattern),
        methods: spots(table.filled_list("methods", method)),
        user_agents: patterns(table, "user_agents", plain_text),
    };
    let is_empty = ["paths", "methods", "user_agents"].iter().all(|key| !table.has(key));
    if table.is_present() && is_empty {
        let problem = "`exempt` matches no request";
        let remedy = "write `paths`, `methods` or `user_agents`; to exempt every request, write type = \"none\"";
        table.notes().missing(table.span(), problem, remedy);
    }
    (table.is_present() && !is_empty).then_some(exempt)
}

fn patterns(table: &Table<'_>, key: &'static str, convert: impl Fn(&DeValue<'_>) -> Value<String>) -> Vec<Pattern> {
    spots(table.filled_list(key, convert)).iter().map(|text| Pattern::new(text)).collect()
}

fn spots<T>(list: Option<Vec<super::super::reader::Spanned<T>>>) -> Vec<T> {
    list.into_iter().flatten().map(|spot| spot.value).collect()
}

fn path_pattern(value: &DeValue<'_>) -> Value<String> {
    let text = plain_text(value)?;
    if text.starts_with(['/', '*']) {
        return Ok(text);
    }
    Err(must_be("a path, in which * matches anything", shown(&text), format!("write {}", shown(&format!("/{text}")))))
}

fn method(value: &DeValue<'_>) -> Value<Method> {
    let text = text(value)?;
    let is_name = text.chars().all(|c| c.is_ascii_uppercase() || c == '-') && !text.is_empty();
    let method = Method::from_bytes(text.as_bytes()).ok().filter(|_| is_name);
    method.ok_or_else(|| must_be("a method in capital letters", shown(text), "write for example \"OPTIONS\""))
}

fn force(table: &Table<'_>) -> Option<ForceRule> {
    let header = table.get("header", field_name).map(BackendNameIn::Header);
    let query = table.get("query", parameter).map(BackendNameIn::Query);
    let from = table.filled_list("from", network);
    if !table.is_present() {
        return None;
    }
    if table.has("header") == table.has("query") {
        let problem = "`force` needs either `header` or `query`, in which a request names its backend";
        table.notes().missing(table.span(), problem, "write for example header = \"X-Backend\"");
    }
    if !table.has("from") {
        let problem = "`force` has no `from`: every client could choose its backend";
        let remedy = "write from = [\"127.0.0.1\", \"10.0.0.0/8\"] with the addresses of your testers";
        table.notes().missing(table.span(), problem, remedy);
    }
    Some(ForceRule { by: header.or(query)?, from: spots(from) })
}

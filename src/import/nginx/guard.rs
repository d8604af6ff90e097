//! Owns: which access restrictions (`allow`, `deny`, `auth_…`) apply in a block.
//! Invariant: as in nginx, a block's own directives replace inherited ones of the same kind.
//! Must not know: routes.

use ipnet::IpNet;

use super::super::address_lists::AddressLists;
use super::super::grammar;
use super::super::reasons::{FILTER, PASSWORDS};
use super::super::toml::Value;
use super::super::units;
use super::super::users;
use super::redirect;
use super::syntax::Directive;

/// The access restrictions that apply in a block.
#[derive(Clone, Default)]
pub(super) struct Guards<'d> {
    access: Vec<&'d Directive>,
    /// Passwords, subrequests, tokens.
    auth: Vec<&'d Directive>,
    /// Directives that are not inherited.
    own: Vec<&'d Directive>,
    /// The file of users.
    users: Option<&'d Directive>,
}

/// What Linchpin has, too, and the directives that it stands for.
#[derive(Default)]
pub(super) struct Translated<'d> {
    pub(super) lists: Option<AddressLists>,
    pub(super) passwords: Option<Value>,
    pub(super) directives: Vec<&'d Directive>,
}

const AUTH: [&str; 5] = ["auth_basic", "auth_request", "auth_jwt", "auth_digest", "auth_oidc"];

/// Returns whether a directive restricts access.
pub(super) fn belongs(word: &str) -> bool {
    matches!(word, "allow" | "deny" | "internal" | "limit_except" | "auth_basic_user_file") || AUTH.contains(&word)
}

impl<'d> Guards<'d> {
    /// Returns the restrictions of a nested block.
    pub(super) fn inside(&self, block: &'d Directive) -> Guards<'d> {
        let mut guards = self.clone();
        guards.read(block.inside());
        guards
    }

    /// Reads the directives of one block.
    pub(super) fn read(&mut self, directives: &'d [Directive]) {
        let all = || directives.iter();
        let guards = self;
        let access: Vec<_> = all().filter(|each| matches!(each.word(0), "allow" | "deny")).collect();
        if !access.is_empty() {
            let denies = access.iter().any(|each| each.word(0) == "deny");
            guards.access = if denies { access } else { Vec::new() };
        }
        for kind in AUTH {
            if let Some(own) = all().rfind(|each| each.word(0) == kind) {
                guards.auth.retain(|other| other.word(0) != kind);
                guards.auth.extend(Some(own).filter(|own| own.word(1) != "off"));
            }
        }
        guards.users = all().rfind(|each| each.word(0) == "auth_basic_user_file").or(guards.users);
        guards.own.retain(|each| each.word(0) == "if");
        guards.own.extend(all().filter(|each| {
            matches!(each.word(0), "internal" | "limit_except")
                || redirect::refuses(each)
                || (each.word(0) == "if" && each.inside().iter().any(redirect::refuses))
        }));
    }

    /// Returns each restriction, with the reason why it has no equivalent.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'d Directive, &'static str)> {
        let others = self.access.iter().chain(&self.own).map(|each| (*each, FILTER));
        others.chain(self.auth.iter().map(|each| (*each, PASSWORDS)))
    }

    /// Returns what Linchpin has, too: lists of addresses, and passwords in a file.
    pub(super) fn translated(&self) -> Translated<'d> {
        let mut translated = Translated { lists: lists(&self.access), ..Translated::default() };
        if translated.lists.is_some() {
            translated.directives.extend(&self.access);
        }
        let basic = self.auth.iter().find(|each| each.word(0) == "auth_basic");
        let file = self.users.and_then(|users| grammar::file(users.word(1))).filter(|file| !file.contains('$'));
        if let (Some(basic), Some(users), Some(file)) = (basic, self.users, file) {
            // nginx forwards the password.
            translated.passwords = Some(users::basic_auth(&file, Some(basic.word(1)), true));
            translated.directives.extend([*basic, users]);
        }
        translated
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }
}

/// Returns the lists that these directives amount to; `None` if they are more than lists. Of nginx's rules the first one that
/// matches counts; with Linchpin's lists `deny` always does.
fn lists(access: &[&Directive]) -> Option<AddressLists> {
    let (last, rules) = access.split_last()?;
    let (rules, is_open) = match (last.word(0), last.word(1)) {
        (verb, "all") => (rules, verb == "allow"),
        _ => (access, true),
    };
    let (mut allowed, mut denied): (Vec<IpNet>, Vec<IpNet>) = (Vec::new(), Vec::new());
    for rule in rules {
        let network = units::network(rule.word(1))?;
        let overlaps = |other: &IpNet| other.contains(&network) || network.contains(other);
        match rule.word(0) {
            "deny" if allowed.iter().any(overlaps) => return None,
            "deny" => denied.push(network),
            _ => allowed.push(network),
        }
    }
    let texts = |networks: Vec<IpNet>| networks.iter().map(ToString::to_string).collect();
    // Without a final `deny all`, clients that are not denied may enter.
    let allow = if is_open { Vec::new() } else { texts(allowed) };
    let lists = match !is_open && allow.is_empty() {
        true => AddressLists::nobody(),
        false => AddressLists { allow, deny: texts(denied) },
    };
    (lists != AddressLists::default()).then_some(lists)
}

//! Owns: `allow`, `deny`, `auth_…` and their kin: what keeps requests out at a place of the file.
//! Invariant: as in nginx, what a place says takes the place of what is said around it, each kind by itself.
//! Must not know: routes.

use super::super::reasons::{FILTER, PASSWORDS};
use super::redirect;
use super::syntax::Directive;

/// What keeps requests out at a place.
#[derive(Clone, Default)]
pub(super) struct Guards<'d> {
    access: Vec<&'d Directive>,
    /// Passwords, requests that ask first, tokens.
    auth: Vec<&'d Directive>,
    /// What is said at each place anew.
    own: Vec<&'d Directive>,
}

const AUTH: [&str; 5] = ["auth_basic", "auth_request", "auth_jwt", "auth_digest", "auth_oidc"];

/// Words that belong to a guard, and are noted beside it.
pub(super) fn belongs(word: &str) -> bool {
    matches!(word, "allow" | "deny" | "internal" | "limit_except") || AUTH.contains(&word)
}

impl<'d> Guards<'d> {
    /// What holds in a block that lies here.
    pub(super) fn inside(&self, block: &'d Directive) -> Guards<'d> {
        let mut guards = self.clone();
        guards.read(block.inside());
        guards
    }

    /// Adds what directives say that stand beside each other.
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
        guards.own.retain(|each| each.word(0) == "if");
        guards.own.extend(all().filter(|each| {
            matches!(each.word(0), "internal" | "limit_except")
                || redirect::refuses(each)
                || (each.word(0) == "if" && each.inside().iter().any(redirect::refuses))
        }));
    }

    /// Each that holds, and why it does no more.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'d Directive, &'static str)> {
        let others = self.access.iter().chain(&self.own).map(|each| (*each, FILTER));
        others.chain(self.auth.iter().map(|each| (*each, PASSWORDS)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }
}

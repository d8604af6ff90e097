//! Owns: which access restrictions (`allow`, `deny`, `auth_…`) apply in a block.
//! Invariant: as in nginx, a block's own directives replace inherited ones of the same kind.
//! Must not know: routes.

use super::super::reasons::{FILTER, PASSWORDS};
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
}

const AUTH: [&str; 5] = ["auth_basic", "auth_request", "auth_jwt", "auth_digest", "auth_oidc"];

/// Returns whether a directive restricts access.
pub(super) fn belongs(word: &str) -> bool {
    matches!(word, "allow" | "deny" | "internal" | "limit_except") || AUTH.contains(&word)
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

    pub(super) fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }
}

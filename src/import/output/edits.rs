//! Owns: changes to header fields that belong to routes which are made later.
//! Invariant: each change is on all routes of its scope, or is noted.
//! Must not know: the formats of sources.

use super::super::field_edits::{FieldEdit, Message, TWICE};
use super::super::guard::GuardScope;
use super::super::pool::Pinning;
use super::super::scoped_edit::ScopedEdit;
use super::super::secret;
use super::Output;

impl Output {
    /// Changes a field on all routes that a scope will have.
    pub(in crate::import) fn edit(&mut self, scope: GuardScope, edit: FieldEdit, line: usize, text: &str) {
        match secret::is_in(text) {
            // The output may be readable for others than the source was.
            true => {
                self.unrouted.unsupported(line, text, "its value may be a secret: write it into the route yourself")
            }
            false => self.edits.push(ScopedEdit { scope, edit, line, text: text.into() }),
        }
    }

    /// Writes the changes to fields into the routes, in the order of the source.
    pub(super) fn apply_edits(&mut self) {
        for ScopedEdit { scope, edit, line, text } in std::mem::take(&mut self.edits) {
            let is_response = edit.message() == Message::Response;
            let mut is_applied = false;
            let mut lost = None;
            for (id, route) in self.routes.iter_mut().enumerate() {
                let is_in = match &scope {
                    GuardScope::Routes(ids) => ids.contains(&id),
                    GuardScope::Pool(name) => route.pool() == Some(name),
                    GuardScope::Groups(groups, _) => route.groups.iter().any(|group| groups.contains(group)),
                };
                if !is_in || (route.pool().is_none() && !is_response) {
                    continue;
                }
                let pool = self.pools.iter().find(|pool| Some(pool.name()) == route.pool());
                is_applied = true;
                match pool.and_then(|pool| pool.pinning.as_ref()) {
                    Some(Pinning::LearnedHeader(name)) if edit.is_of(Message::Response, name) => {
                        lost = Some("the pool learns its sessions from this field");
                    }
                    _ if !route.edits.push(&edit) => lost = Some(TWICE),
                    _ => {}
                }
            }
            if let Some(why) = lost.or((!is_applied).then_some("no imported route is concerned")) {
                self.unrouted.unsupported(line, &text, why);
            }
        }
    }
}

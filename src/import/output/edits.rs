//! Owns: changes to header fields that belong to routes which are made later.
//! Invariant: each change is on all routes of its scope, or is noted.
//! Must not know: the formats of sources.

use std::collections::HashMap;

use super::super::field_edits::{FieldEdit, Message, TWICE};
use super::super::guard::GuardScope;
use super::super::pool::{Pinning, Pool};
use super::super::route::Route;
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
        let learned = |pool: &Pool| match &pool.pinning {
            Some(Pinning::LearnedHeader(name)) => Some((pool.name().to_owned(), name.clone())),
            _ => None,
        };
        let learned: HashMap<String, String> = self.pools.iter().filter_map(learned).collect();
        for ScopedEdit { scope, edit, line, text } in std::mem::take(&mut self.edits) {
            let all = self.routes.iter().enumerate();
            let ids: Vec<usize> = match &scope {
                GuardScope::Routes(ids) => ids.clone(),
                GuardScope::Pool(name) | GuardScope::PoolPart(name, _) => {
                    all.filter(|(_, route)| route.pool() == Some(name)).map(|(id, _)| id).collect()
                }
                GuardScope::Groups(groups, _) => {
                    let is_at = |route: &Route| route.groups.iter().any(|group| groups.contains(group));
                    all.filter(|(_, route)| is_at(route)).map(|(id, _)| id).collect()
                }
            };
            let (mut is_applied, mut lost) = (false, None);
            for id in ids {
                let Some(route) = self.routes.get_mut(id) else { continue };
                // A redirect sends no request on.
                if route.pool().is_none() && edit.message() == Message::Request {
                    continue;
                }
                is_applied = true;
                let field = route.pool().and_then(|pool| learned.get(pool));
                if field.is_some_and(|field| edit.is_of(Message::Response, field)) {
                    lost = Some("the pool learns its sessions from this field");
                } else if !route.edits.push(&edit) {
                    lost = Some(TWICE);
                }
            }
            if let Some(why) = lost.or((!is_applied).then_some("no imported route is concerned")) {
                self.unrouted.unsupported(line, &text, why);
            }
        }
    }
}

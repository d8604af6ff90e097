//! Owns: how the connections of a plan fit into the process's limit on open descriptors.
//! Invariant: descriptors for backends are reserved before clients can take them.
//! Must not know: who connects.

use crate::config::Plan;
use crate::net::descriptor_reserve;
use crate::runtime;
use crate::runtime::descriptors;

/// Returns `[server]` with as many client connections as the limit on open descriptors allows, and the number of
/// connections for the admin listener. Reserves descriptors for backends from now on.
pub(super) fn fit_to_descriptor_limit(plan: &Plan) -> (runtime::Settings, usize) {
    let limit = descriptors::soft_limit();
    let budget = descriptors::budget(limit, plan.descriptors());
    descriptor_reserve::reserve_from(budget.ceiling);
    let max_connections = plan.server.max_connections.min(budget.clients);
    (runtime::Settings { max_connections, ..plan.server.clone() }, budget.admin)
}

/// Reports that `fitted` allows fewer client connections than the plan.
pub(super) fn report_descriptor_limit(fitted: &runtime::Settings, plan: &Plan) {
    if fitted.max_connections < plan.server.max_connections {
        tracing::info!(
            max_connections = fitted.max_connections,
            limit = descriptors::soft_limit(),
            "limiting client connections to what the limit on open descriptors allows; raise LimitNOFILE for more"
        );
    }
}
